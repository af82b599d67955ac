"""Before any traffic: what the new model would have said of yesterday's requests.

The requests are the captured ones, the champion's answers too; the challenger scores them here. So people see which
decisions flip, what they are worth, and whether the new model would refuse what callers send today.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from fraud.capture import Record
from fraud.errors import QualityGateError
from fraud.pipeline import scored
from fraud.pipeline.runs import Run, now
from fraud.plaintext import percent
from fraud.schema import Schema

HOUR = 3600.0
BEFORE_AFTER = {
    (False, False): "let through, as before",
    (True, True): "reviewed, as before",
    (True, False): "reviewed before, let through now",
    (False, True): "let through before, reviewed now",
}


@dataclass(frozen=True)
class Replay:
    """Yesterday's requests under both models.

    Attributes
    ----------
    rows : DataFrame
        ``amount``, ``champion`` and ``challenger`` (scores), ``before`` and ``after`` (whether reviewed), ``label``
        (missing where truth has not arrived).
    refused : Counter of str
        How many requests the challenger's schema would refuse, by problem.
    n : int
        Requests looked at.
    thresholds : tuple of float
        Of champion and challenger.
    refused_by_both : int
        Requests beside them that the champion's schema refuses, too: they say nothing about the challenger.
    """

    rows: pd.DataFrame
    refused: Counter[str]
    n: int
    thresholds: tuple[float, float]
    refused_by_both: int = 0

    @property
    def n_refused(self) -> int:
        """Requests that would be refused."""
        return self.n - len(self.rows)

    @property
    def n_flipped(self) -> int:
        """Requests whose decision is another one."""
        return int((self.rows["before"] != self.rows["after"]).sum())

    def table(self) -> pd.DataFrame:
        """Payments and what they are worth, by decision before and after; frauds as far as truth has arrived."""
        found = {}
        for key, words in BEFORE_AFTER.items():
            rows = self.rows[(self.rows["before"] == key[0]) & (self.rows["after"] == key[1])]
            frauds = rows[rows["label"] == 1]
            found[words] = {
                "payments": len(rows),
                "amount": round(float(rows["amount"].sum()), 2),
                "with truth": int(rows["label"].notna().sum()),
                "frauds": len(frauds),
                "amount of frauds": round(float(frauds["amount"].sum()), 2),
            }
        return pd.DataFrame(found).T.astype({"payments": int, "with truth": int, "frauds": int})

    def sentence(self) -> str:
        """What people should know, in one or two sentences."""
        if not self.n:
            return "There is no captured traffic to replay."
        flips = self.rows[self.rows["before"] != self.rows["after"]]
        share = percent(len(flips) / self.n)
        said = f"Of {self.n:,} captured requests **{len(flips):,} are decided otherwise** ({share})"
        said += f", worth {flips['amount'].sum():,.2f}." if flips["amount"].notna().any() else "."
        if self.refused:
            most, count = self.refused.most_common(1)[0]
            said += f" **{self.n_refused:,} would be refused**: {most} ({count:,})."
        if self.refused_by_both:
            said += f" Left out are {self.refused_by_both:,} more, which the model in service refuses, too."
        return said


def replay(run: Run, p: SimpleNamespace, champion: dict[str, Any] | None, model: dict[str, Any]) -> Replay:
    """Score captured requests with the challenger.

    Parameters
    ----------
    run : Run
        For its bucket.
    p : SimpleNamespace
        ``endpoint_name``, ``replay_hours``, ``replay_rows``.
    champion : dict or None
        The release in service.
    model : dict
        As `fraud.pipeline.deployment.verify_model` returned it.

    Returns
    -------
    Replay

    Raises
    ------
    QualityGateError
        When the challenger would refuse more than ``max_refused_share`` of those that the champion takes.
    """
    challenger = model["loaded"]
    found: Iterable[Record] = ()
    schema = None
    ours = float(model["metrics"]["decision_threshold"])
    if champion and p.replay_hours:
        end = now().timestamp()
        schema = Schema.from_json(run.storage.get(champion["schema_key"]))
        found = scored.records(run.storage, p.endpoint_name, end - p.replay_hours * HOUR, end, schema)
    theirs = float(champion["decision_threshold"]) if champion else ours
    refused: Counter[str] = Counter()
    usable: list[Record] = []
    n = refused_by_both = 0
    for record in found:
        if champion and record.model_version not in ("", champion["model_version"]):
            continue
        problems = challenger.schema.validate(record.transaction)
        if problems and schema and schema.validate(record.transaction):
            refused_by_both += 1
            continue
        refused.update(f"{field} {problem}" for field, problem in problems)
        usable += [] if problems else [record]
        if (n := n + 1) == p.replay_rows:
            break
    matrix = np.array([challenger.schema.encode(record.transaction) for record in usable], np.float64)
    scores = challenger.probabilities(matrix) if usable else np.zeros(0)
    known: dict[str, Any] = {}
    if champion and usable:
        known = scored.truth(run.storage, champion.get("label_columns"))
    amount = challenger.schema.roles["amount"]
    rows = pd.DataFrame(
        {
            "amount": pd.Series([_number(record.transaction.get(amount)) for record in usable], dtype=float),
            "champion": pd.Series([record.fraud_probability for record in usable], dtype=float),
            "challenger": pd.Series(scores, dtype=float),
            "label": pd.Series(
                [known[r.inference_id].label if r.inference_id in known else None for r in usable], dtype="Int8"
            ),
        }
    ).assign(before=lambda t: t["champion"] >= theirs, after=lambda t: t["challenger"] >= ours)
    done = Replay(rows, refused, n, (theirs, ours), refused_by_both)
    if done.n_refused > p.max_refused_share * done.n:
        raise QualityGateError(
            f"The model of {model['metrics']['model_version']} would refuse {done.n_refused:,} of the last {done.n:,} "
            f"requests that the model in service takes, more than max_refused_share {p.max_refused_share:g} allows: "
            f"{'; '.join(f'{problem} ({count:,})' for problem, count in refused.most_common(3))}."
        )
    return done


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float("nan")
