"""What 02_train shows as tables: figures with intervals, decision, segments, folds, gate, model card."""

from __future__ import annotations

import datetime as dt
import html
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pandas as pd

from fraud.pipeline import gate

NAMES = {
    "auc": "AUC ROC",
    "average_precision": "average precision",
    "recall_at_1_percent_fpr": "recall at 1 % false positive rate",
    "brier": "Brier score (less is better)",
    "calibration_error": "expected calibration error (less is better)",
}


def figures(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """Each metric with its 95 % interval, the champion's on the same rows, and the paired difference.

    Parameters
    ----------
    metrics : mapping
        ``metrics.json``.

    Returns
    -------
    DataFrame
    """
    rows = {}
    for name, shown in NAMES.items():
        row = {"challenger": f"{metrics[name]:.4f}", "95 % interval": _interval(metrics["intervals"][name])}
        if "comparison" in metrics:
            change = metrics["comparison"][name]
            row |= {
                "champion": f"{metrics[f'champion_{name}']:.4f}",
                "difference": f"{change['difference']:+.4f}",
                "its interval": f"{change['low']:+.4f} to {change['high']:+.4f}",
            }
        rows[shown] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("metric")


def decision(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """What the threshold and a day's reviews bring.

    Parameters
    ----------
    metrics : mapping
        ``metrics.json``.

    Returns
    -------
    DataFrame
    """
    at, within = metrics["at_threshold"], metrics["budget"]
    rows = {
        f"score from {metrics['decision_threshold']:.4g}": {
            "reviewed": f"{at['review_rate']:.2%}",
            "precision": f"{at['precision']:.3f}",
            "recall": f"{at['recall']:.3f}",
            "caught": f"{at['caught']:,.0f}",
            "lost": f"{at['lost']:,.0f}",
            "cost": f"{at['cost']:,.0f}",
        },
        f"the {within['reviews_per_day']:,} highest of each day": {
            "precision": f"{within['precision']:.3f} {_interval(within['precision_interval'], 3)}",
            "recall": f"{within['recall']:.3f} {_interval(within['recall_interval'], 3)}",
        },
    }
    if "card_precision" in within:
        shown = f"{within['card_precision']:.3f} {_interval(within['card_precision_interval'], 3)}"
        rows[f"the {within['reviews_per_day']:,} highest cards of each day"] = {"precision": shown}
    return pd.DataFrame.from_dict(rows, orient="index").fillna("").rename_axis("people look at")


def segments(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """AUC and recall of each segment, with the paired difference where there is a champion.

    Parameters
    ----------
    metrics : mapping
        ``metrics.json``.

    Returns
    -------
    DataFrame
    """
    found = []
    for row in metrics["segments"]:
        few = row["auc"] is None
        line = {
            "segment": f"{row['by']}: {row['segment']}",
            "rows": f"{row['rows']:,}",
            "frauds": f"{row['frauds']:,}",
            "recall": "" if row["recall"] is None else f"{row['recall']:.3f}",
            "AUC ROC": "too few to tell",
        }
        if not few:
            line["AUC ROC"] = f"{row['auc']:.3f} {_interval([row['auc_low'], row['auc_high']], 3)}"
        if "comparison" in metrics:
            low_high = "" if few else f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
            line["against the champion"] = low_high
        found.append(line)
    return pd.DataFrame(found).set_index("segment")


def folds(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """Each fold's figures, oldest first, and their mean with the spread.

    Parameters
    ----------
    metrics : mapping
        ``metrics.json``.

    Returns
    -------
    DataFrame
    """
    names = {
        "auc": "AUC ROC",
        "average_precision": "average precision",
        "precision_at_budget": "precision at budget",
        "card_precision": "card precision",
    }
    rows = {}
    good = [fold for fold in metrics["folds"] if "auc" in fold]
    for fold in metrics["folds"]:
        period = f"{_day(fold['validation_start'])} to {_day(fold['validation_end'])}"
        if "auc" not in fold:
            rows[period] = {"remark": fold["why_not"]}
            continue
        rows[period] = {"learnt from": f"{fold['n_train']:,}", "graded on": f"{fold['n_validation']:,}"}
        rows[period] |= {shown: f"{fold[name]:.4f}" for name, shown in names.items() if fold[name] is not None}
    if len(good) > 1:
        shown = {}
        for name, title in names.items():
            values = pd.Series([fold[name] for fold in good if fold[name] is not None], dtype=float)
            if len(values):
                shown[title] = f"{values.mean():.4f} ± {values.std():.4f}"
        rows["mean ± standard deviation"] = shown
    return pd.DataFrame.from_dict(rows, orient="index").fillna("").rename_axis("graded on the days")


def gate_table(metrics: Mapping[str, Any], p: SimpleNamespace) -> pd.DataFrame:
    """Every demand of the gate and whether it is met.

    Parameters
    ----------
    metrics : mapping
        ``metrics.json``.
    p : SimpleNamespace
        Parameters of 02_train.

    Returns
    -------
    DataFrame
    """
    found = [
        {"demand": c.name, "found": c.found, "wanted": c.wanted, "met": "yes" if c.passed else "NO"}
        for c in gate.checks(metrics, p)
    ]
    return pd.DataFrame(found).set_index("demand")


def card(metrics: Mapping[str, Any], job_name: str, model_uri: str) -> str:
    """The model card (Mitchell et al., FAT* 2019): what it is, what it learnt from, what it is not for.

    Parameters
    ----------
    metrics : mapping
        ``metrics.json``.
    job_name, model_uri : str

    Returns
    -------
    str
        A table in Markdown; a data frame would cut its sentences.
    """
    left_out = [name for name in metrics["excluded"] if not name.startswith("__")]
    sources = ", ".join(f"{n:,} {name}" for name, n in metrics["label_sources"].items() if n)
    rows: dict[str, str] = {
        "model": f"LightGBM, {metrics['best_iteration']} trees, calibration {metrics['calibration']['method']}",
        "version": metrics["model_version"],
        "made by": job_name,
        "archive": model_uri,
        "purpose": "rank payments by their risk of fraud, for review by people; not to refuse a person by itself",
        "learnt from": f"{metrics['n_train']:,} rows, {_day(metrics['train_start'])} to {_day(metrics['train_end'])}",
        "graded on": f"{metrics['n_validation']:,} later rows, {_day(metrics['validation_start'])} to "
        f"{_day(metrics['validation_end'])}, {metrics['fraud_rate_validation']:.2%} fraud",
        "labels": sources,
        "left out": f"{len(left_out)} columns{': ' if left_out else ''}{', '.join(left_out[:6])}"
        f"{', …' if len(left_out) > 6 else ''}",
        "limits": "patterns of fraud that began after the training period are not in it; unseen categories and missing "
        "values score as missing",
        "trees": metrics["trees_sha256"],
    }
    # Names of columns come from data: they must not become markup.
    lines = [f"| **{name}** | {html.escape(text).replace('|', '&#124;')} |" for name, text in rows.items()]
    return "\n".join(["| | |", "|---|:---|", *lines])


def rows_of(metrics: Mapping[str, Any]) -> str:
    """One sentence about the rows of each period."""
    known = metrics["n_known_cards"]
    left = f" {known:,} rows of cards that were known to be compromised do not grade." if known else ""
    return (
        f"It learnt from **{metrics['n_train']:,}** rows ({metrics['fraud_rate_train']:.2%} fraud), the newest "
        f"**{metrics['n_stopping']:,}** of which told when to stop; **{metrics['n_validation']:,}** later rows "
        f"({metrics['fraud_rate_validation']:.2%} fraud) grade, from {_day(metrics['validation_start'])} to "
        f"{_day(metrics['validation_end'])}.{left}{tuning_sentence(metrics)}"
    )


def tuning_sentence(metrics: Mapping[str, Any]) -> str:
    """One sentence about what tuning found; empty when nothing was tuned."""
    tuned = metrics["tuned"]
    if not tuned:
        return ""
    changed = ", ".join(f"{name} {value:.4g}" for name, value in tuned["changed"].items()) or "nothing"
    return (
        f" Of {tuned['trials']} sets of hyperparameters, {tuned['pruned']} of them cut short, the best took "
        f"{tuned['metric']} on the stopping rows from {tuned['first']:.5f} to {tuned['best']:.5f}; changed: {changed}."
    )


def split_sentence(metrics: Mapping[str, Any]) -> str:
    """What a random split would have said, when somebody asked for it."""
    flattered: Mapping[str, Any] | Sequence[Any] = metrics.get("random_split") or {}
    if not flattered:
        return "The split is by time. (A random one is only shown, never used: `split = random`.)"
    return (
        f"A random split says AUC ROC **{flattered['auc']:.4f}**, the split in time **{metrics['auc']:.4f}**: "
        f"the difference of {flattered['auc'] - metrics['auc']:+.4f} is what a random split lets the model see of the "
        "future. It is shown because it was asked for; the split in time grades."
    )


def _interval(ends: Sequence[float] | None, digits: int = 4) -> str:
    return f"({ends[0]:.{digits}f} to {ends[1]:.{digits}f})" if ends else ""


def _day(seconds: float) -> str:
    return f"{dt.datetime.fromtimestamp(seconds, dt.UTC):%Y-%m-%d}"
