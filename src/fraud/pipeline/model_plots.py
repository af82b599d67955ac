"""Figures of one model and its champion: learning curve, ranking, calibration, cost, importance, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fraud.pipeline.plots import CHAMPION, LIVE, OVER, TRAINED, plain, prepared


def plot_learning_curve(curve: Mapping[str, Sequence[float]], best: int, ax: Axes | None = None) -> Axes:
    """AUC by boosting round, on rows that fit and on later ones that told when to stop.

    Parameters
    ----------
    curve : mapping
        ``iteration``, ``train_auc`` and ``valid_auc``, equally long.
    best : int
        Round kept.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
    """
    ax = prepared(ax)
    ax.plot(curve["iteration"], curve["train_auc"], color=TRAINED, label="training rows")
    ax.plot(curve["iteration"], curve["valid_auc"], color=LIVE, label="stopping rows (later)")
    ax.axvline(best, color="black", lw=0.8, ls=":", label=f"kept: round {best}")
    ax.set_xlabel("boosting round")
    ax.set_ylabel("AUC ROC")
    ax.legend(frameon=False)
    return ax


def plot_roc_and_pr(metrics: Mapping[str, Any]) -> Figure:
    """ROC and precision–recall side by side; challenger solid, champion dashed, areas in the legend.

    Parameters
    ----------
    metrics : mapping
        ``metrics.json`` of the training job.

    Returns
    -------
    Figure
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.4), layout="constrained")
    for prefix, style, colour, name in (
        ("champion_", "--", CHAMPION, "champion"),
        ("", "-", LIVE, "challenger"),
    ):
        if metrics.get(f"{prefix}roc"):
            roc, pr = metrics[f"{prefix}roc"], metrics[f"{prefix}pr"]
            left.plot(roc["fpr"], roc["tpr"], style, color=colour, label=f"{name} {metrics[f'{prefix}auc']:.3f}")
            area = metrics[f"{prefix}average_precision"]
            right.plot(pr["recall"], pr["precision"], style, color=colour, label=f"{name} {area:.3f}")
    left.plot([0, 1], [0, 1], color=TRAINED, lw=0.7, ls=":")
    left.set_xlabel("false positive rate")
    left.set_ylabel("recall (frauds found)")
    left.set_title("ROC (area)", fontsize=10)
    rate = metrics.get("fraud_rate_validation")
    if rate is not None:
        right.axhline(rate, color=TRAINED, lw=0.7, ls=":")
    right.set_xlabel("recall (frauds found)")
    right.set_ylabel("precision (alerts that are fraud)")
    right.set_title("Precision–recall (average precision)", fontsize=10)
    for ax in (left, right):
        prepared(ax)
        ax.legend(frameon=False)
        ax.set_ylim(0, 1.02)
    return figure


def plot_importance(importance: Sequence[Mapping[str, Any]], top: int = 20) -> Figure:
    """Features by their share of the total gain, and by what they move a score by.

    Parameters
    ----------
    importance : sequence of mapping
        ``feature``, ``gain`` and ``shap``, sorted by gain.
    top : int
        How many to draw.

    Returns
    -------
    Figure
    """
    shown = list(importance[:top])[::-1]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8.4, 0.7 + 0.22 * max(len(shown), 1)), layout="constrained", sharey=True
    )
    total = sum(item["gain"] for item in importance) or 1.0
    names = [plain(item["feature"]) for item in shown]
    left.barh(names, [100 * item["gain"] / total for item in shown], color=TRAINED)
    left.set_xlabel("share of total gain (%)")
    right.barh(names, [item["shap"] for item in shown], color=LIVE)
    right.set_xlabel("mean |SHAP| (log-odds)")
    for ax in (left, right):
        prepared(ax)
    return figure


def plot_class_scores(scores: Mapping[str, Sequence[float]], threshold: float, ax: Axes | None = None) -> Axes:
    """Scores of legitimate and fraudulent validation rows on a logarithmic count, with the decision threshold.

    Parameters
    ----------
    scores : mapping
        ``edges`` (n + 1) and the counts ``legit`` and ``fraud`` (n each).
    threshold : float
        Score at or above which a transaction is reviewed.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
    """
    ax = prepared(ax)
    edges = np.asarray(scores["edges"], dtype=float)
    ax.stairs(scores["legit"], edges, fill=True, color=TRAINED, alpha=0.6, label="legitimate")
    ax.stairs(scores["fraud"], edges, color=OVER, lw=1.6, label="fraud")
    ax.axvline(threshold, color="black", lw=0.8, ls=":", label=f"review from {threshold:.3g}")
    ax.set_yscale("symlog", linthresh=1)
    ax.set_xlabel("fraud probability")
    ax.set_ylabel("validation rows")
    ax.legend(frameon=False)
    return ax


def plot_calibration(metrics: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Promised against found share of fraud, tenths of the rows by score, on logarithmic axes.

    Parameters
    ----------
    metrics : mapping
        ``metrics.json``: ``reliability`` and, with a champion, ``champion_reliability``.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
    """
    ax = prepared(ax, width=4.4, height=3.6)
    lowest = 1.0
    for prefix, style, colour, name in (
        ("champion_", "s--", CHAMPION, "champion"),
        ("", "o-", LIVE, "challenger"),
    ):
        found = metrics.get(f"{prefix}reliability")
        if found:
            seen = np.array(found["fraud_rate"]) > 0  # a tenth without fraud has no place on a logarithmic axis
            score, rate = np.array(found["score"])[seen], np.array(found["fraud_rate"])[seen]
            error = metrics.get(f"{prefix}calibration_error")
            ax.plot(score, rate, style, ms=4, color=colour, label=f"{name}, error {error:.4f}")
            lowest = min([lowest, *score, *rate])
    ax.plot([lowest, 1], [lowest, 1], color=TRAINED, lw=0.7, ls=":")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("mean fraud probability of a tenth")
    ax.set_ylabel("share of fraud in it")
    ax.legend(frameon=False)
    return ax


def plot_cost(metrics: Mapping[str, Any], ax: Axes | None = None) -> Axes:
    """Cost of reviews and missed frauds by the share that is reviewed; the decision is marked.

    Parameters
    ----------
    metrics : mapping
        ``metrics.json``: ``cost_curve``, ``at_threshold``, with a champion ``champion_cost_curve``.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
    """
    ax = prepared(ax)
    for prefix, style, colour, name in (
        ("champion_", "--", CHAMPION, "champion"),
        ("", "-", LIVE, "challenger"),
    ):
        curve = metrics.get(f"{prefix}cost_curve")
        if curve:
            share = 100 * np.maximum(curve["review_rate"], 1e-5)
            ax.plot(share, curve["cost"], style, color=colour, label=name)
    at = metrics["at_threshold"]
    label = f"score from {metrics['decision_threshold']:.3g}: {at['cost']:,.0f}"
    ax.plot([max(100 * at["review_rate"], 1e-3)], [at["cost"]], "o", color=OVER, label=label)
    ax.set_xscale("log")
    ax.set_ylim(bottom=0)
    ax.set_xlabel("transactions sent to review (%)")
    ax.set_ylabel("cost (money)")
    ax.legend(frameon=False)
    return ax
