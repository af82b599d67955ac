"""Two models that answer callers side by side: which is better, and whether that could be chance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm, rankdata

from fraud.moment import seconds
from fraud.pipeline import scored
from fraud.pipeline.releases import read_release
from fraud.pipeline.runs import Run, now
from fraud.pipeline.strategies import CHALLENGER, VARIANT
from fraud.schema import Schema

LEVEL = 0.95
MEASURES = ("review rate", "precision", "recall", "AUC ROC")


@dataclass(frozen=True)
class Arm:
    """What one model said of its share of the traffic.

    Attributes
    ----------
    name, model : str
        ``champion`` or ``challenger``, and the run that trained it.
    score : ndarray of shape (n,)
    label : ndarray of shape (n,)
        NaN where truth has not arrived.
    threshold : float
        Of its own release.
    """

    name: str
    model: str
    score: np.ndarray
    label: np.ndarray
    threshold: float

    def measures(self) -> dict[str, tuple[float, float]]:
        """Each measure with its variance; NaN where there is too little to tell."""
        reviewed, known = self.score >= self.threshold, ~np.isnan(self.label)
        fraud = self.label == 1
        return {
            "review rate": _share(reviewed),
            "precision": _share(fraud[reviewed & known]),
            "recall": _share(reviewed[fraud]),
            "AUC ROC": auc(self.score[known], fraud[known]),
        }


@dataclass(frozen=True)
class Comparison:
    """Both arms of a test; none when no test runs."""

    arms: tuple[Arm, ...]

    @property
    def table(self) -> pd.DataFrame | None:
        """Payments and measures of both, a dash where there is too little to tell; None when no test runs."""
        if not self.arms:
            return None
        rows: dict[str, dict[str, Any]] = {}
        for arm in self.arms:
            known = ~np.isnan(arm.label)
            counts = {"payments": len(arm.score), "with truth": int(known.sum()), "frauds": int((arm.label == 1).sum())}
            rows[f"{arm.name} {arm.model}"] = counts | {name: value for name, (value, _) in arm.measures().items()}
        table = pd.DataFrame(rows).T
        table = table.astype({name: int for name in ("payments", "with truth", "frauds")}).round(4)
        return table.astype(object).where(table.notna(), "–")

    @cached_property
    def differences(self) -> pd.DataFrame:
        """Challenger less champion: difference, interval and two-sided p value of each measure."""
        rows = {}
        if self.arms:
            champion, challenger = (arm.measures() for arm in self.arms)
            for name in MEASURES:
                rows[name] = difference(challenger[name], champion[name])
        return pd.DataFrame(rows, index=["difference", "low", "high", "p"]).T

    @property
    def sentence(self) -> str:
        """What can be said, computed."""
        if not self.arms:
            return "No A/B test runs: one model answers all callers."
        found = self.differences.loc["AUC ROC"]
        least = min(int((arm.label == 1).sum()) for arm in self.arms)
        if np.isnan(found["p"]):
            early = f"Truth has arrived for {least:,} frauds of one of the models: too few to compare them yet."
            reviews = self.differences.loc["review rate"]
            return early if np.isnan(reviews["p"]) else f"{early} {_told('The share sent to review', reviews)}."
        better = "challenger" if found["difference"] > 0 else "champion"
        said = _told("AUC ROC", found)
        if found["p"] < 1 - LEVEL:
            return f"The **{better} is better**: {said}."
        return f"Neither is better beyond chance: {said}."


def _told(what: str, found: pd.Series) -> str:
    """A difference in words."""
    chance = "p < 0.0001" if found["p"] < 1e-4 else f"p = {found['p']:.2g}"
    between = f"95 % interval {found['low']:+.4f} to {found['high']:+.4f}"
    return f"{what} differs by {found['difference']:+.4f} ({between}), {chance}"


def compare(run: Run, p: SimpleNamespace) -> Comparison:
    """Read what both models of a running A/B test answered since it began.

    Parameters
    ----------
    run : Run
        For its bucket.
    p : SimpleNamespace
        ``endpoint_name``.

    Returns
    -------
    Comparison
    """
    release = read_release(run, p.endpoint_name)
    if not release or not (test := release.get("challenger")):
        return Comparison(())
    since = seconds(test["since"])
    schema = Schema.from_json(run.storage.get(release["schema_key"]))
    truth = scored.truth(run.storage, release.get("label_columns"))
    both = {"champion": release, "challenger": test}
    said: dict[str, list[tuple[float, float]]] = {one["model_version"]: [] for one in both.values()}
    variants = (VARIANT, CHALLENGER)
    for record in scored.records(run.storage, p.endpoint_name, since, now().timestamp(), schema, variants=variants):
        if record.model_version in said:
            known = truth.get(record.inference_id)
            said[record.model_version].append((record.fraud_probability, known.label if known else math.nan))
    arms = []
    for name, one in both.items():
        score, label = np.array(said[one["model_version"]], float).reshape(-1, 2).T
        arms.append(Arm(name, one["model_version"], score, label, float(one["decision_threshold"])))
    return Comparison(tuple(arms))


def difference(one: tuple[float, float], other: tuple[float, float]) -> list[float]:
    """Difference of two independent estimates with normal interval and two-sided p value.

    Parameters
    ----------
    one, other : tuple of float
        Value and variance.

    Returns
    -------
    list of float
        Difference, low, high, p; NaN where one is not known.
    """
    change, error = one[0] - other[0], math.sqrt(one[1] + other[1])
    if not error > 0:
        return [change, math.nan, math.nan, math.nan]
    margin = float(norm.ppf((1 + LEVEL) / 2)) * error
    return [change, change - margin, change + margin, float(2 * norm.sf(abs(change) / error))]


def auc(score: np.ndarray, fraud: np.ndarray) -> tuple[float, float]:
    """Area under the ROC curve and its variance.

    After DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
    characteristic curves" (Biometrics 44, 1988), in the form with ranks of Sun and Xu (IEEE SPL 21, 2014).

    Parameters
    ----------
    score : ndarray of shape (n,)
    fraud : ndarray of bool, of shape (n,)

    Returns
    -------
    area, variance : float
        NaN with fewer than two of a class.
    """
    frauds, others = score[fraud], score[~fraud]
    m, n = len(frauds), len(others)
    if min(m, n) < 2:
        return math.nan, math.nan
    among = rankdata(np.concatenate([frauds, others]))
    above = (among[:m] - rankdata(frauds)) / n  # of each fraud, the share of others that score lower
    below = 1 - (among[m:] - rankdata(others)) / m
    return float(above.mean()), float(above.var(ddof=1) / m + below.var(ddof=1) / n)


def _share(hits: np.ndarray) -> tuple[float, float]:
    """A share and its variance, a success and a failure added to each (Agresti and Caffo, 2000), so never 0."""
    n = len(hits)
    if not n:
        return math.nan, math.nan
    centre = (hits.sum() + 1) / (n + 2)
    return float(hits.mean()), float(centre * (1 - centre) / (n + 2))
