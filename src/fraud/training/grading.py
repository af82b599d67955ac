"""Everything that ``metrics.json`` says of a model: figures with intervals, decision, segments, champion, folds."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fraud.errors import DataError
from fraud.training import attributes, bootstrap, hosts, metrics, segments
from fraud.training.data import Ledger, Rows
from fraud.training.features import Learnt
from fraud.training.fitting import Fitted, fit
from fraud.training.metrics import Graded
from fraud.training.splits import Fold, random_split

SHAP_ROWS = 2_000
FEW_VALUES = (2, 12)  # of a category that makes segments by itself

logger = logging.getLogger("fraud.train")


def graded_rows(ledger: Ledger, rows: Rows, fold: Fold, card: np.ndarray | None) -> Graded:
    """What grading needs to know of a fold's rows."""
    mask = fold.grading
    amount = attributes.numbers(ledger, ledger.dataset["roles"].get("amount") or "", mask)
    return Graded(rows.label[mask], rows.time[mask], amount, None if card is None else card[mask])


def decide(p: Namespace, ledger: Ledger, rows: Rows, fold: Fold, fitted: Fitted, card: np.ndarray | None) -> float:
    """Threshold from which a transaction goes to review.

    By cost it is the cheapest one on the stopping rows, whose labels are known and which do not grade. By review rate
    it needs no labels, and takes the newest scores there are: those of the rows that grade.
    """
    if p.decision_threshold is not None:
        return float(p.decision_threshold)
    if p.decision == "cost":
        before = graded_rows(ledger, rows, replace(fold, grading=fold.stopping), card)
        return metrics.cheapest(metrics.cost_curve(before, fitted.stopping_score, p))
    return metrics.threshold_for(fitted.score, p.review_rate)


def grade(
    p: Namespace,
    ledger: Ledger,
    graded: Graded,
    fitted: Fitted,
    threshold: float,
    champion: np.ndarray | None,
    places: tuple[np.ndarray, np.ndarray | None],
) -> dict[str, Any]:
    """Measure a model, and the champion beside it, on the rows of one fold.

    Parameters
    ----------
    p : Namespace
    ledger : Ledger
    graded : Graded
    fitted : Fitted
    threshold : float
    champion : ndarray of shape (n_grading,) or None
        Scores of the model in service.
    places : tuple
        Mask of the rows over the whole ledger; and, among them, those whose card training had seen, or None.

    Returns
    -------
    dict
    """
    label, score = graded.label, fitted.score
    found: dict[str, Any] = metrics.evaluate(label, score)
    found["intervals"] = bootstrap.intervals(graded, score, p.n_bootstrap, p.seed)
    found["at_threshold"] = metrics.at_threshold(graded, score, threshold, p)
    found["budget"] = budget(p, graded, score)
    found["cost_curve"] = metrics.cost_curve(graded, score, p)
    found["reliability"] = metrics.reliability(label, score)
    found["scores"] = metrics.histogram(label, score)
    found["calibration"] = {
        "method": fitted.calibration["method"],
        "trials": fitted.trials,
        "brier_before": metrics.evaluate(label, fitted.bare_score)["brier"],
    }
    if champion is not None:
        found |= {f"champion_{name}": value for name, value in metrics.evaluate(label, champion).items()}
        found["champion_cost_curve"] = metrics.cost_curve(graded, champion, p)
        found["champion_budget"] = budget(p, graded, champion)
        found["champion_reliability"] = metrics.reliability(label, champion)
        found["comparison"] = bootstrap.differences(graded, score, champion, p.n_bootstrap, p.seed)
        found["identical"] = bool(np.array_equal(score, champion))
    mask, seen_card = places
    columns = {name: attributes.texts(ledger, name, mask) for name in _segment_columns(p, fitted)}
    parts = segments.masks(graded, {k: v for k, v in columns.items() if v is not None}, seen_card)
    found["segments"] = segments.table(graded, score, champion, parts, threshold, p.n_bootstrap, p.seed)
    return found


def budget(p: Namespace, graded: Graded, score: np.ndarray) -> dict[str, Any]:
    """Precision and recall of a day's reviews, and the same of cards; as many a day as ``review_rate`` allows."""
    day, label = graded.day, graded.label
    k = max(1, round(p.review_rate * len(label) / len(np.unique(day))))
    seen = metrics.within_budget(day, score, k)
    hits = (seen & (label == 1)).astype(float)
    found: dict[str, Any] = {
        "reviews_per_day": k,
        "precision": float(hits.sum() / seen.sum()),
        "precision_interval": bootstrap.daily(day, hits, seen.astype(float), p.n_bootstrap, p.seed),
        "recall": float(hits.sum() / label.sum()),
        "recall_interval": bootstrap.daily(day, hits, (label == 1).astype(float), p.n_bootstrap, p.seed),
    }
    if graded.card is not None and (graded.card >= 0).any():
        shares = metrics.card_precision(day, graded.card, label, score, k)
        found["card_precision"] = float(shares.mean())
        found["card_precision_interval"] = bootstrap.daily(
            np.arange(len(shares)), shares, np.ones(len(shares)), p.n_bootstrap, p.seed
        )
    return found


def prequential(
    p: Namespace, ledger: Ledger, rows: Rows, folds: Sequence[Fold], card: np.ndarray | None
) -> list[dict[str, Any]]:
    """Learn and grade in each of the older folds; one that cannot be graded says why."""
    found = []
    for k, fold in enumerate(folds):
        try:
            fitted = fit(p, ledger, rows, fold)
        except DataError as error:
            found.append(period(rows, fold) | {"why_not": str(error)})
            continue
        if not hosts.leads(p):
            continue
        graded = graded_rows(ledger, rows, fold, card)
        found.append(period(rows, fold) | summary(p, graded, fitted))
        logger.info("fold %d of %d: auc=%.5f", k + 1, len(folds) + 1, found[-1]["auc"])
    return found


def period(rows: Rows, fold: Fold) -> dict[str, Any]:
    """First and last moment of the rows that grade (seconds since 1970), and how many rows taught."""
    times = rows.time[fold.grading]
    first, last = float(times.min()), float(times.max())
    return {"validation_start": first, "validation_end": last, "n_train": int(fold.train.sum())}


def summary(p: Namespace, graded: Graded, fitted: Fitted) -> dict[str, Any]:
    """What the table of folds shows."""
    names = ("auc", "average_precision", "recall_at_1_percent_fpr", "brier")
    values = metrics.evaluate(graded.label, fitted.score)
    within = budget(p, graded, fitted.score)
    return {name: values[name] for name in names} | {
        "n_validation": len(graded.label),
        "frauds": int(graded.label.sum()),
        "precision_at_budget": within["precision"],
        "card_precision": within.get("card_precision"),
        "best_iteration": fitted.boosted.rounds,
    }


def flattery(p: Namespace, ledger: Ledger, rows: Rows, fold: Fold) -> dict[str, float]:
    """AUC and average precision of a random split of the same rows, on the first host; it grades nothing."""
    train, grading = random_split(fold.train, fold.grading, p.seed)
    stopping = np.zeros(len(train), bool)
    stopping[np.random.default_rng(p.seed).permutation(np.flatnonzero(train))[: int(fold.stopping.sum())]] = True
    fitted = fit(p, ledger, rows, Fold(train, stopping, grading))
    if not hosts.leads(p):
        return {}
    values = metrics.evaluate(rows.label[grading], fitted.score)
    return {"auc": values["auc"], "average_precision": values["average_precision"]}


def importance(booster: Any, learnt: Learnt, seed: int) -> list[dict[str, Any]]:
    """Total gain by feature, largest first, and the mean of what it moves a score by.

    ``shap`` is the mean absolute contribution (log-odds) over rows that grade, by LightGBM's own TreeSHAP (Lundberg et
    al., 2020).
    """
    n = len(learnt.validation)
    picked = np.sort(np.random.default_rng(seed).permutation(n)[:SHAP_ROWS])
    shares = booster.predict(np.ascontiguousarray(learnt.validation[picked]), pred_contrib=True)[:, :-1]
    moves = np.abs(shares).mean(axis=0).tolist()
    gains = zip(learnt.schema.names, booster.feature_importance("gain").tolist(), moves, strict=True)
    return [
        {"feature": name, "gain": gain, "shap": shap}
        for name, gain, shap in sorted(gains, key=lambda item: (-item[1], item[0]))
    ]


def _segment_columns(p: Namespace, fitted: Fitted) -> list[str]:
    """Columns that were named; ``auto`` is the category of few values that the trees use most."""
    named = [name for name in p.segment_columns if name != "auto"]
    if "auto" in p.segment_columns:
        gains = fitted.booster.feature_importance("gain")
        low, high = FEW_VALUES
        few = [
            (-gains[j], feature.name)
            for j, feature in enumerate(fitted.learnt.schema.features)
            if feature.type == "category" and low <= len(feature.categories) <= high
        ]
        named += [min(few)[1]] if few else []
    return list(dict.fromkeys(named))
