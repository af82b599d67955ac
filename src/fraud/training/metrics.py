"""How good a model is on rows it has not seen: the numbers and curves of ``metrics.json``."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    log_loss,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)

CURVE_POINTS = 200
SCORE_EDGES = [round(0.05 * k, 2) for k in range(21)]
LOW_FPR = 0.01
CALIBRATION_BINS = 10
DAY = 86_400.0


@dataclass(frozen=True)
class Graded:
    """The rows that grade, and what is known of them beside the features.

    Attributes
    ----------
    label : ndarray of shape (n_rows,)
        1 fraud, 0 legitimate; both occur.
    time : ndarray of shape (n_rows,)
        Seconds since 1970, UTC.
    amount : ndarray of shape (n_rows,) or None
        Money; NaN where it is missing.
    card : ndarray of int, of shape (n_rows,) or None
        Code of the card; -1 where it is missing.
    """

    label: np.ndarray
    time: np.ndarray
    amount: np.ndarray | None = None
    card: np.ndarray | None = None

    @property
    def day(self) -> np.ndarray:
        """Whole days since 1970, UTC."""
        return np.floor(self.time / DAY).astype(np.int64)

    def take(self, mask: np.ndarray) -> Graded:
        """Some of the rows."""
        return Graded(
            self.label[mask],
            self.time[mask],
            None if self.amount is None else self.amount[mask],
            None if self.card is None else self.card[mask],
        )


def evaluate(label: np.ndarray, score: np.ndarray) -> dict[str, Any]:
    """Measure ranking and probability, with curves thin enough to store.

    Parameters
    ----------
    label : ndarray of shape (n_rows,)
        1 fraud, 0 legitimate; both occur.
    score : ndarray of shape (n_rows,)
        Probability of fraud.

    Returns
    -------
    dict
        ``auc``, ``average_precision``, ``recall_at_1_percent_fpr``, ``log_loss``, ``brier``,
        ``calibration_error``, ``mean_score``, ``roc``, ``pr``.
    """
    fpr, tpr, _ = roc_curve(label, score)
    precision, recall, _ = precision_recall_curve(label, score)
    low = float(tpr[fpr <= LOW_FPR].max())
    fpr, tpr = _thin(fpr, tpr)
    recall, precision = _thin(recall[::-1], precision[::-1])
    return {
        "auc": float(roc_auc_score(label, score)),
        "average_precision": float(average_precision_score(label, score)),
        "recall_at_1_percent_fpr": low,
        "log_loss": float(log_loss(label, score, labels=[0, 1])),
        "brier": float(brier_score_loss(label, score)),
        "calibration_error": calibration_error(reliability(label, score)),
        "mean_score": float(score.mean()),
        "roc": {"fpr": fpr, "tpr": tpr},
        "pr": {"precision": precision, "recall": recall},
    }


def reliability(label: np.ndarray, score: np.ndarray) -> dict[str, list[Any]]:
    """Compare promised and found share of fraud, in tenths of the rows by score.

    Bins of equal width would put nearly every row of a rare-fraud set into the first one.

    Returns
    -------
    dict
        ``score`` (mean), ``fraud_rate``, ``rows``; one entry a bin.
    """
    order = np.argsort(score, kind="stable")
    pieces = [piece for piece in np.array_split(order, CALIBRATION_BINS) if len(piece)]
    return {
        "score": [float(score[piece].mean()) for piece in pieces],
        "fraud_rate": [float(label[piece].mean()) for piece in pieces],
        "rows": [len(piece) for piece in pieces],
    }


def calibration_error(found: dict[str, list[Any]]) -> float:
    """Expected calibration error (Naeini et al., AAAI 2015), over bins of equally many rows."""
    rows = np.array(found["rows"], float)
    gap = np.abs(np.array(found["score"]) - np.array(found["fraud_rate"]))
    return float((rows * gap).sum() / rows.sum())


def within_budget(day: np.ndarray, score: np.ndarray, k: int) -> np.ndarray:
    """Rows among the ``k`` highest scores of their day; a day with fewer rows has all of them.

    Parameters
    ----------
    day : ndarray of int, of shape (n_rows,)
    score : ndarray of shape (n_rows,)
    k : int

    Returns
    -------
    ndarray of bool
    """
    order = np.lexsort((-score, day))
    begins = np.flatnonzero(np.r_[True, np.diff(day[order]) != 0])
    rank = np.arange(len(order)) - np.repeat(begins, np.diff(np.r_[begins, len(order)]))
    seen = np.zeros(len(order), bool)
    seen[order[rank < k]] = True
    return seen


def card_precision(
    day: np.ndarray, card: np.ndarray, label: np.ndarray, score: np.ndarray, k: int, *, found_leave: bool = True
) -> np.ndarray:
    """Card precision top-k: of the ``k`` cards with the highest scores of a day, the share with a fraud that day.

    As the Fraud Detection Handbook (Le Borgne et al., chapter 4.4) defines it: a card's score is the highest of its
    payments, and a card that was found compromised is not looked at again.

    Parameters
    ----------
    day, card : ndarray of int
    label, score : ndarray of shape (n_rows,)
    k : int
        Cards looked at on a day.
    found_leave : bool
        Whether cards found on one day leave the days after.

    Returns
    -------
    ndarray of shape (n_days,)
        Hits of each day divided by ``k``; the figure is their mean.
    """
    found: set[int] = set()
    shares = []
    for today in np.unique(day):
        rows = np.flatnonzero((day == today) & (card >= 0))
        if found_leave and found:
            rows = rows[~np.isin(card[rows], list(found))]
        names, place = np.unique(card[rows], return_inverse=True)
        best, bad = np.full(len(names), -np.inf), np.zeros(len(names))
        np.maximum.at(best, place, score[rows])
        np.maximum.at(bad, place, label[rows])
        # Of equal scores any may come first, but not those that came first in time: busy cards are no fair sample.
        looked_at = np.lexsort(((names * 2_654_435_761) % 2**32, -best))[:k]
        hits = looked_at[bad[looked_at] == 1]
        shares.append(len(hits) / k)
        found.update(names[hits].tolist())
    return np.array(shares)


def threshold_for(score: np.ndarray, review_rate: float) -> float:
    """Find the score from which a transaction goes to review so that at most ``review_rate`` of them do.

    Parameters
    ----------
    score : ndarray of shape (n_rows,)
    review_rate : float
        Share of transactions that people can review.

    Returns
    -------
    float
        Review means ``score >= threshold``. Rows that score the same go together, so it may be fewer.
    """
    falling = np.sort(score)[::-1]
    n = int(review_rate * len(falling))
    if n >= len(falling):
        return float(falling[-1])
    return float(falling[n - 1]) if n and falling[n - 1] > falling[n] else float(np.nextafter(falling[n], 2.0))


def at_threshold(graded: Graded, score: np.ndarray, threshold: float, p: Namespace) -> dict[str, float]:
    """Measure the decision ``score >= threshold``: share reviewed, precision, recall, money.

    Returns
    -------
    dict
        ``review_rate``, ``precision``, ``recall``, ``caught`` and ``lost`` (what the frauds found and missed are
        worth), ``cost`` (lost, and what the reviews cost).
    """
    review = score >= threshold
    fraud = graded.label == 1
    worth = losses(graded, p.fraud_cost)
    hits = int((review & fraud).sum())
    lost = float(worth[fraud & ~review].sum())
    return {
        "review_rate": float(review.mean()),
        "precision": hits / int(review.sum()) if review.any() else 0.0,
        "recall": hits / int(fraud.sum()),
        "caught": float(worth[fraud & review].sum()),
        "lost": lost,
        "cost": lost + p.review_cost * int(review.sum()),
    }


def losses(graded: Graded, fraud_cost: float) -> np.ndarray:
    """What each transaction costs if it is a fraud that nobody finds: its amount and ``fraud_cost``."""
    amount = np.zeros(len(graded.label)) if graded.amount is None else np.nan_to_num(np.abs(graded.amount))
    return amount + fraud_cost


def cost_curve(graded: Graded, score: np.ndarray, p: Namespace) -> dict[str, list[float]]:
    """Cost of every threshold: reviews, and frauds that are missed.

    Returns
    -------
    dict
        ``threshold`` (falling), ``cost``, ``review_rate``; the first entry reviews nothing.
    """
    order = np.argsort(-score, kind="stable")
    worth = np.where(graded.label == 1, losses(graded, p.fraud_cost), 0.0)[order]
    ends = np.flatnonzero(np.r_[np.diff(score[order]) != 0, True])  # equal scores are reviewed together
    n = np.r_[0, ends + 1]
    lost = worth.sum() - np.r_[0.0, np.cumsum(worth)[ends]]
    threshold = np.r_[np.nextafter(score.max(), 2.0), score[order][ends]]
    cost = lost + p.review_cost * n
    picked = np.arange(len(n))
    if len(n) > CURVE_POINTS:
        # Evenly by the number of reviews in logarithm, for what matters lies among the highest scores.
        wanted = np.geomspace(1, n[-1], CURVE_POINTS - 1)
        picked = np.unique(np.r_[0, np.searchsorted(n, wanted), int(np.argmin(cost)), len(n) - 1])
    return {
        "threshold": threshold[picked].tolist(),
        "cost": cost[picked].tolist(),
        "review_rate": (n[picked] / len(score)).tolist(),
    }


def cheapest(curve: dict[str, list[float]]) -> float:
    """Threshold of the least cost; of several the one with the fewest reviews."""
    return curve["threshold"][int(np.argmin(curve["cost"]))]


def histogram(label: np.ndarray, score: np.ndarray) -> dict[str, list[Any]]:
    """Count scores of both classes in twentieths."""
    counts = {
        name: np.histogram(score[label == k], SCORE_EDGES)[0].tolist() for k, name in ((0, "legit"), (1, "fraud"))
    }
    return {"edges": SCORE_EDGES, **counts}


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[list[float], list[float]]:
    """Keep at most ``CURVE_POINTS`` points, evenly spread along the curve, both ends among them."""
    if len(x) > CURVE_POINTS:
        way = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
        picked = np.unique(np.searchsorted(way, np.linspace(0, way[-1], CURVE_POINTS - 1)))
        picked = np.union1d(picked[picked < len(x)], [len(x) - 1])
        x, y = x[picked], y[picked]
    return x.tolist(), y.tolist()
