"""How good a model is on rows it has not seen: the numbers and curves of ``metrics.json``."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, log_loss, precision_recall_curve, roc_auc_score, roc_curve

CURVE_POINTS = 200
SCORE_EDGES = [round(0.05 * k, 2) for k in range(21)]


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
        ``auc``, ``average_precision``, ``log_loss``, ``mean_score``, ``roc``, ``pr``.
    """
    fpr, tpr, _ = roc_curve(label, score)
    precision, recall, _ = precision_recall_curve(label, score)
    fpr, tpr = _thin(fpr, tpr)
    recall, precision = _thin(recall[::-1], precision[::-1])
    return {
        "auc": float(roc_auc_score(label, score)),
        "average_precision": float(average_precision_score(label, score)),
        "log_loss": float(log_loss(label, score, labels=[0, 1])),
        "mean_score": float(score.mean()),
        "roc": {"fpr": fpr, "tpr": tpr},
        "pr": {"precision": precision, "recall": recall},
    }


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


def at_threshold(label: np.ndarray, score: np.ndarray, threshold: float) -> dict[str, float]:
    """Measure the decision ``score >= threshold``: share reviewed, precision, recall."""
    review = score >= threshold
    hits = int((review & (label == 1)).sum())
    return {
        "review_rate": float(review.mean()),
        "precision": hits / int(review.sum()) if review.any() else 0.0,
        "recall": hits / int((label == 1).sum()),
    }


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
