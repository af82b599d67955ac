"""How much one caller may count: nobody can buy a retraining with forged payments alone.

Of a window no caller may make up more than a given share, or than is usual of it, as long as enough other traffic is
there. The share is held for the window as a whole, since that is what is judged: in a single hour somebody may
dominate. Which of a caller's payments are too many is known only when all are counted, so they are not picked one by
one: the counts of the caller are made smaller, all in the same proportion, as if an even sample of its payments stayed.
That depends on neither the order nor the grouping of the records.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fraud.schema import Schema
from fraud.sketch import Sketch

SLACK = 1.25  # a caller's share of a day is not always the same
DAYS = 3  # before fewer nothing is usual
WEEK = 7  # days looked back on
_ROUNDING = 1e-9  # payments: a share that is reached exactly is not passed


def limits(names: Iterable[str], share: float, usual: Mapping[str, float]) -> dict[str, float]:
    """Share of a window that each caller may have.

    The one backend that has sent most payments for days is no forger: it may have what is usual of it, and a quarter
    more. Everybody else may have ``share``.

    Examples
    --------
    >>> limits(["backend", "new"], 0.05, {"backend": 0.4})
    {'backend': 0.5, 'new': 0.05}
    """
    return {name: min(1.0, max(share, SLACK * usual.get(name, 0.0))) for name in names}


def usual_shares(days: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What each caller sent at least, on every one of the days before; nothing is usual before `DAYS` days.

    Parameters
    ----------
    days : sequence of mapping of str to float
        Shares of the heavy callers in one window of each day.

    Examples
    --------
    >>> usual_shares([{"a": 0.9, "b": 0.5}, {"a": 0.8}, {"a": 0.85, "b": 0.02}]), usual_shares([{"a": 0.9}])
    ({'a': 0.8}, {})
    """
    if len(days) < DAYS:
        return {}
    return {name: least for name in days[0] if (least := min(day.get(name, 0.0) for day in days))}


def most_each(totals: Mapping[str, int], others: int, shares: Mapping[str, float]) -> dict[str, int]:
    """How many payments the callers above their share may count, so that none has more than that of all that count.

    Parameters
    ----------
    totals : mapping of str to int
        Payments of the heavy callers.
    others : int
        Payments of everybody else, none of whom is held down.
    shares : mapping of str to float
        In (0, 1], by caller.

    Returns
    -------
    dict of str to int
        Of those who are held down. 0 when there is too little other traffic to hold the share at all.

    Examples
    --------
    >>> most_each({"a": 1000, "b": 100}, 300, {"a": 0.25, "b": 0.25})
    {'a': 133}
    >>> most_each({"a": 1000}, 0, {"a": 0.25}), most_each({"a": 20}, 80, {"a": 0.25})
    ({'a': 0}, {})
    """
    order = sorted(totals, key=lambda name: (-totals[name] / shares[name], name))
    rest, taken, whole = others + sum(totals.values()), 0.0, float(others + sum(totals.values()))
    for place, name in enumerate(order):
        if totals[name] <= shares[name] * whole + _ROUNDING:
            return {held: math.floor(shares[held] * whole + _ROUNDING) for held in order[:place]}
        # Shares are reached exactly: each is of all that count, which are the rest and what those shares leave room for
        rest, taken = rest - totals[name], taken + shares[name]
        whole = rest / max(1.0 - taken, 1e-12)
    return {held: math.floor(shares[held] * whole + _ROUNDING) for held in order}


def shrunk(sketch: Sketch, baseline: Mapping[str, Any], schema: Schema | None, n: int) -> Sketch:
    """A sketch as an even sample of its records would give it.

    Parameters
    ----------
    sketch : Sketch
        Left as it is.
    baseline : mapping
        By which it was counted.
    schema : Schema or None
        By which it was counted.
    n : int
        Records to leave.

    Returns
    -------
    Sketch
        Every count in the same proportion, rounded so that those of one feature add up to ``n``; means, least and
        greatest value stay.
    """
    if n >= sketch.n:
        return Sketch(baseline, schema).merge(sketch)
    if n <= 0:
        return Sketch(baseline, schema)
    document = json.loads(sketch.to_json())
    factor = n / document["n"]
    document["n"] = n
    document["reviewed"] = round(document["reviewed"] * factor)
    document["unknown_records"] = round(document["unknown_records"] * factor)
    document["unknown_fields"] = {k: v for k, v in _scaled(document["unknown_fields"], factor).items() if v}
    for part in (document["score"], *document["features"].values()):
        _shrink(part, n, factor)
    return Sketch.from_json(baseline, document, schema)


def _shrink(part: dict[str, Any], n: int, factor: float) -> None:
    """Make the counts of one column smaller, in place."""
    number = "counts" in part
    known = part["counts"] if number else [*part["top"].values(), part["other"], part["unseen"]]
    *kept, part["absent"], missing, part["invalid"] = apportioned(
        [*known, part["absent"], part["missing"] - part["absent"], part["invalid"]], n
    )
    part["missing"] = missing + part["absent"]
    mean = math.fsum(part["sum"]) / part["count"] if number and part["count"] else 0.0
    part["count"] = sum(kept)
    if not number:
        *tops, part["other"], part["unseen"] = kept
        part["top"] = dict(zip(part["top"], tops, strict=True))
        return
    part["counts"] = kept
    part["sum"] = [total] if (total := mean * part["count"]) else []
    part["below"], part["above"] = round(part["below"] * factor), round(part["above"] * factor)
    part["repeats"] = {text: count for text, count in _scaled(part["repeats"], factor).items() if count}
    if not part["count"]:
        part["min"] = part["max"] = None


def _scaled(counts: Mapping[str, int], factor: float) -> dict[str, int]:
    return {name: round(count * factor) for name, count in counts.items()}


def apportioned(counts: Sequence[int], total: int) -> list[int]:
    """Counts in the same proportion that add up to a total, by the largest remainders.

    Examples
    --------
    >>> apportioned([5, 3, 2], 4)
    [2, 1, 1]
    """
    whole = sum(counts)
    if not whole:
        return [0] * len(counts)
    made = [count * total // whole for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda k: (-(counts[k] * total % whole), k))
    for k in by_remainder[: total - sum(made)]:
        made[k] += 1
    return made
