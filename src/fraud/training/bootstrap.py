"""How sure a metric is: intervals by resampling the rows that graded (Efron and Tibshirani, 1993, chapter 13).

Frauds come in bursts: one stolen card makes many. Where cards are known, whole cards are resampled, for their payments
are no independent witnesses. Figures per day are resampled by days.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fraud.training.metrics import CALIBRATION_BINS, LOW_FPR, Graded

LEVEL = 95  # percent that an interval covers
METRICS = ("auc", "average_precision", "recall_at_1_percent_fpr", "brier", "calibration_error")
HIGHER_IS_BETTER = {name: name not in ("brier", "calibration_error") for name in METRICS}


class Ranked:
    """Scores sorted once, to be measured under many weights.

    Parameters
    ----------
    label, score : ndarray of shape (n_rows,)
    """

    def __init__(self, label: np.ndarray, score: np.ndarray) -> None:
        self.order = np.argsort(-score, kind="stable")
        self.label, self.score = label[self.order].astype(float), score[self.order]
        self.ends = np.flatnonzero(np.r_[np.diff(self.score) != 0, True])  # rows of one score count together
        self.bins = np.unique(np.linspace(0, len(score), CALIBRATION_BINS + 1).astype(int)[:-1])

    def measure(self, weight: np.ndarray) -> list[float]:
        """Values of `METRICS`, in that order; NaN when one of the classes has no weight.

        Parameters
        ----------
        weight : ndarray of shape (n_rows,)
            How often each row counts.
        """
        w = weight[self.order]
        fraud = w * self.label
        found, seen = np.cumsum(fraud)[self.ends], np.cumsum(w)[self.ends]
        alarms = seen - found
        n_fraud, n_legit = found[-1], alarms[-1]
        if not (n_fraud and n_legit):
            return [np.nan] * len(METRICS)
        area = np.trapezoid(np.r_[0, found], np.r_[0, alarms]) / (n_fraud * n_legit)
        with np.errstate(invalid="ignore"):
            precision = np.where(seen > 0, found / seen, 0.0)
        low = np.searchsorted(alarms, LOW_FPR * n_legit, side="right")
        total = w.sum()
        gaps = np.add.reduceat(w * self.score - fraud, self.bins)
        return [
            float(area),
            float((np.diff(found, prepend=0) * precision).sum() / n_fraud),
            float(found[low - 1] / n_fraud) if low else 0.0,
            float((w * (self.score - self.label) ** 2).sum() / total),
            float(np.abs(gaps).sum() / total),
        ]


def weights(graded: Graded, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row counts, for each replicate: cards, or rows where there is no card, drawn with replacement."""
    rng, n = np.random.default_rng(seed), len(graded.label)
    unit = np.arange(n)
    if graded.card is not None:
        alone = graded.card < 0
        unit = np.where(alone, graded.card.max() + 1 + np.arange(n), graded.card)
        unit = np.unique(unit, return_inverse=True)[1]
    n_units = int(unit.max()) + 1
    for _ in range(replicates):
        yield np.bincount(rng.integers(n_units, size=n_units), minlength=n_units)[unit]


def intervals(graded: Graded, score: np.ndarray, replicates: int, seed: int) -> dict[str, list[float]]:
    """Lower and upper end for each of `METRICS`.

    Parameters
    ----------
    graded : Graded
    score : ndarray of shape (n_rows,)
    replicates : int
    seed : int

    Returns
    -------
    dict of str to [low, high]
    """
    ranked = Ranked(graded.label, score)
    return _ends(np.array([ranked.measure(weight) for weight in weights(graded, replicates, seed)]))


def differences(
    graded: Graded, challenger: np.ndarray, champion: np.ndarray, replicates: int, seed: int
) -> dict[str, dict[str, float]]:
    """Challenger less champion on the same resampled rows, which leaves out what is hard for both.

    Parameters
    ----------
    graded : Graded
    challenger, champion : ndarray of shape (n_rows,)
    replicates : int
    seed : int

    Returns
    -------
    dict of str to dict
        For each of `METRICS`: ``difference``, ``low``, ``high``.
    """
    both = [Ranked(graded.label, score) for score in (challenger, champion)]
    everyone = np.ones(len(graded.label))
    ours, theirs = (np.array(one.measure(everyone)) for one in both)
    drawn = [[one.measure(weight) for one in both] for weight in weights(graded, replicates, seed)]
    change = np.array([np.subtract(*pair) for pair in drawn])
    return {
        name: {"difference": float(ours[k] - theirs[k]), "low": low, "high": high}
        for k, (name, (low, high)) in enumerate(_ends(change).items())
    }


def daily(day: np.ndarray, part: np.ndarray, whole: np.ndarray, replicates: int, seed: int) -> list[float] | None:
    """Interval of a ratio of sums whose days are resampled; None for fewer than three days.

    Parameters
    ----------
    day : ndarray of int, of shape (n,)
    part, whole : ndarray of shape (n,)
        The ratio is ``part.sum() / whole.sum()``.
    replicates : int
    seed : int
    """
    days, place = np.unique(day, return_inverse=True)
    if len(days) < 3:
        return None
    rng = np.random.default_rng(seed)
    above, below = np.bincount(place, part), np.bincount(place, whole)
    drawn = rng.integers(len(days), size=(replicates, len(days)))
    total = below[drawn].sum(axis=1)
    ratio = above[drawn].sum(axis=1)[total > 0] / total[total > 0]
    return _ends(ratio[:, None], ("ratio",))["ratio"]


def _ends(values: np.ndarray, names: tuple[str, ...] = METRICS) -> dict[str, list[float]]:
    usable = values[~np.isnan(values).any(axis=1)]
    if not len(usable):
        return {name: [float("-inf"), float("inf")] for name in names}
    low, high = np.percentile(usable, [(100 - LEVEL) / 2, (100 + LEVEL) / 2], axis=0)
    return {name: [float(low[k]), float(high[k])] for k, name in enumerate(names)}


def better(name: str, change: Mapping[str, Any]) -> bool:
    """Whether a metric rose, or fell where less is better, beyond chance."""
    return bool(change["low"] > 0 if HIGHER_IS_BETTER[name] else change["high"] < 0)
