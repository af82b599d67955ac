"""Payments of a period in counts: how many by score, which of them are fraud, and the figures that follow.

Bins are fixed, so that a week, a day and a training set are the same few numbers and can be added up in any order.
They cost AUC less than 0.001 and average precision less than 0.01 where some hundred frauds are counted; recall and
precision at the threshold are exact.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from fraud.errors import DataError
from fraud.intervals import auc, average_precision, logit_interval, wilson

DAY = 86_400
WEEK = 7  # days of a cohort
COHORTS = 8  # weeks that are shown

STEP = 0.0625
EDGES = tuple(1 / (1 + math.exp(-STEP * k)) for k in range(-160, 161))
"""Edges of the score bins ``[edge[i-1], edge[i])``: even steps in log-odds, so finest at 0 and 1, where scores lie."""
MIDDLES = tuple(1 / (1 + math.exp(-STEP * (k - 0.5))) for k in range(-160, 162))
UNIT = 2**32  # expected frauds are summed in whole parts of a payment: exact in any order
DELAYS = 61  # days between payment and report: 0 to 59, and more
_LIMIT = (
    "Estimated from the scores alone. It cannot see a new pattern of fraud, for the model gives that no score, and it "
    "is no better than the calibration."
)


def id_hash(inference_id: str) -> int:
    """64-bit name of a payment: the BLAKE2b digest of its id, eight bytes, as a big-endian number.

    `fraud.hours` keeps the same bytes of the ids that it has counted.
    """
    return int.from_bytes(hashlib.blake2b(inference_id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


@dataclass
class Cohort:
    """Payments of one period, counted. Merging is exact and knows no order.

    Attributes
    ----------
    start, end : float
        The period ``[start, end)`` of scoring (seconds since 1970).
    scored, fraud : list of int of shape (len(EDGES) + 1,)
        All payments, and those known as fraud, by score.
    told : int
        Payments that somebody reported, as fraud or legitimate.
    flagged, caught, flagged_told : int
        Payments from the decision threshold on; the frauds and the reported ones among them.
    expected, expected_flagged : int
        Sum of the scores, of all and from the threshold on, in parts of `UNIT`.
    delays : list of int
        Frauds by whole days between payment and report; 60 and more are one.
    mature : bool
        Whether silence means legitimate.
    """

    start: float = math.inf
    end: float = -math.inf
    scored: list[int] = field(default_factory=lambda: [0] * (len(EDGES) + 1))
    fraud: list[int] = field(default_factory=lambda: [0] * (len(EDGES) + 1))
    told: int = 0
    flagged: int = 0
    caught: int = 0
    flagged_told: int = 0
    expected: int = 0
    expected_flagged: int = 0
    delays: list[int] = field(default_factory=lambda: [0] * DELAYS)
    mature: bool = True

    @property
    def n(self) -> int:
        """Payments."""
        return sum(self.scored)

    @property
    def frauds(self) -> int:
        """Payments known as fraud."""
        return sum(self.fraud)

    @property
    def legitimate(self) -> list[int]:
        """Payments not known as fraud, by score."""
        return [a - f for a, f in zip(self.scored, self.fraud, strict=True)]

    def add(self, score: float, label: int | None, threshold: float, delay_days: float | None = None) -> None:
        """Count one payment; a label of None is silence, a score that is no probability counts as its nearest."""
        score = min(max(score, 0.0), 1.0) if score == score else 0.0
        place = bisect_right(EDGES, score)
        flagged, parts, known, bad = score >= threshold, round(score * UNIT), label is not None, label == 1
        self.scored[place] += 1
        self.fraud[place] += bad
        self.told += known
        self.expected += parts
        if flagged:
            self.flagged += 1
            self.caught += bad
            self.flagged_told += known
            self.expected_flagged += parts
        if bad and delay_days is not None:
            self.delays[min(max(int(delay_days), 0), DELAYS - 1)] += 1

    def merge(self, other: Cohort) -> Cohort:
        """A cohort of both."""
        found: dict[str, Any] = {"start": min(self.start, other.start), "end": max(self.end, other.end)}
        for name in (f.name for f in fields(self) if f.name not in ("start", "end", "mature")):
            a, b = getattr(self, name), getattr(other, name)
            found[name] = a + b if isinstance(a, int) else [x + y for x, y in zip(a, b, strict=True)]
        return Cohort(**found, mature=self.mature and other.mature)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Cohort:
        """Read what `to_dict` wrote.

        Raises
        ------
        DataError
            When the counts are on other bins.
        """
        found = cls(**document)
        if (len(found.scored), len(found.fraud), len(found.delays)) != (len(EDGES) + 1, len(EDGES) + 1, DELAYS):
            raise DataError("The stored counts of a cohort are on other bins than this code's; delete them.")
        return found


def figures(cohort: Cohort, spread: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Fraud rate, recall and precision at the threshold, AUC ROC, average precision; 95 % intervals beside them.

    Parameters
    ----------
    cohort : Cohort
    spread : mapping, optional
        ``dispersion`` of the reference, which widens the intervals.

    Returns
    -------
    dict
        ``n``, ``frauds``, ``flagged``, ``fraud_rate``, ``recall``, ``precision``, ``auc``, ``average_precision`` and
        ``<name>_interval``; null where it cannot be said.
    """
    rate, clusters = (max(1.0, (spread or {}).get(name, 1.0)) for name in ("fraud_rate", "recall"))
    n, frauds, flagged = cohort.n, cohort.frauds, cohort.flagged
    found: dict[str, Any] = {"n": n, "frauds": frauds, "flagged": flagged}
    shares = {
        "fraud_rate": (frauds, n, rate),
        "recall": (cohort.caught, frauds, clusters),
        "precision": (cohort.caught, flagged, clusters),
    }
    for name, (hits, of, wider) in shares.items():
        bounds = wilson(hits / wider, of / wider)
        found |= {name: hits / of if of else None, f"{name}_interval": list(bounds) if bounds else None}
    area = auc(cohort.fraud, cohort.legitimate)
    mean = average_precision(cohort.fraud, cohort.legitimate)
    for name, value, error in (
        ("auc", area and area[0], area and math.sqrt(area[1] * clusters)),
        ("average_precision", mean, mean and math.sqrt(mean * (1 - mean) * clusters / frauds)),
    ):
        interval = None if value is None else list(logit_interval(value, error or 0.0))
        found |= {name: value, f"{name}_interval": interval}
    return found


def estimate(cohort: Cohort) -> dict[str, Any]:
    """What the figures would be if every score were the true probability of fraud: for payments without truth.

    Confidence-based performance estimation (CBPE, NannyML documentation, «How it works: performance estimation»). It
    is shown and never judged.

    Returns
    -------
    dict
        ``n``, ``fraud_rate``, ``recall``, ``precision``, ``auc``, and ``limit``, the sentence that must stand beside.
    """
    frauds = [count * p for count, p in zip(cohort.scored, MIDDLES, strict=True)]
    legitimate = [count - bad for count, bad in zip(cohort.scored, frauds, strict=True)]
    below = pairs = 0.0
    for bad, good in zip(frauds, legitimate, strict=True):
        pairs += bad * (below + good / 2)
        below += good
    both = math.fsum(frauds) * below
    return {
        "n": cohort.n,
        "fraud_rate": cohort.expected / UNIT / cohort.n if cohort.n else None,
        "recall": cohort.expected_flagged / cohort.expected if cohort.expected else None,
        "precision": cohort.expected_flagged / UNIT / cohort.flagged if cohort.flagged else None,
        "auc": min(1.0, pairs / both) if both else None,
        "limit": _LIMIT,
    }


def weeks(days: Mapping[int, Cohort], now: float, delay_days: float) -> list[Cohort]:
    """Put days together to weeks, newest first.

    The mature weeks end with the newest day that is older than truth takes; before them stands one week that is not
    mature, up to now. Where truth takes no time, today is mature.

    Parameters
    ----------
    days : mapping of int to Cohort
        By day number: seconds since 1970 through 86,400, rounded down.
    now : float
        Seconds since 1970.
    delay_days : float
        How long truth takes.

    Returns
    -------
    list of Cohort
        At most nine; a week without payments is left out.
    """
    today = int(now // DAY)
    newest = math.floor(now / DAY - delay_days) - 1 if delay_days > 0 else today
    young = [(today + 1, False)] if newest < today else []
    found = []
    for end, mature in [*young, *((newest + 1 - WEEK * k, True) for k in range(COHORTS))]:
        parts = [days[day] for day in range(end - WEEK, end) if day in days]
        if parts:
            whole = Cohort()
            for part in parts:
                whole = whole.merge(part)
            found.append(replace(whole, end=float(end * DAY), mature=mature))
    return found
