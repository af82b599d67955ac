"""How right the model was, as far as truth has arrived: the verdict's own cohorts, else the window's payments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import norm

from fraud.pipeline.ab_test import LEVEL, auc
from fraud.pipeline.blocks import Block, Prose, Table
from fraud.plaintext import count, percent
from fraud.rules import ON_TRUTH

if TYPE_CHECKING:
    from fraud.pipeline.report import Findings


@dataclass(frozen=True)
class Seen:
    """What truth says of the window's own payments.

    Attributes
    ----------
    payments, known, frauds : int
    auc : float or None
        None with fewer than two payments of a class.
    interval : tuple of float or None
        At 95 %, by DeLong's variance.
    """

    payments: int
    known: int
    frauds: int
    auc: float | None = None
    interval: tuple[float, float] | None = None


def window_truth(findings: Findings) -> Seen:
    """Grade the payments of the window whose truth has arrived."""
    traffic = findings.traffic
    known = [
        (findings.truth[name].label, score)
        for name, score in zip(traffic.inference_id, traffic.score, strict=True)
        if name in findings.truth
    ]
    label, score = np.array(known, float).reshape(-1, 2).T
    area, variance = auc(score, label == 1)
    frauds = int((label == 1).sum())
    if np.isnan(area):
        return Seen(len(traffic.score), len(known), frauds)
    margin = float(norm.ppf((1 + LEVEL) / 2)) * float(np.sqrt(variance))
    return Seen(len(traffic.score), len(known), frauds, area, (max(0.0, area - margin), min(1.0, area + margin)))


def on_truth(findings: Findings) -> list[Block]:
    """Say how right the model is, by cohort where the check has cohorts.

    Returns
    -------
    list of Block
        A sentence, and a table where there is one.
    """
    performance = findings.verdict.get("performance")
    if performance and (performance.get("cohorts") or performance.get("judged")):
        return [Prose([str(performance.get("sentence", ""))], strong=1), cohorts(findings), *_notes(performance)]
    seen = window_truth(findings)
    if not seen.known:
        return [Prose([f"Truth has arrived for none of {count(seen.payments, 'payment')} of this window."])]
    said = f"Truth has arrived for {seen.known:,} of {count(seen.payments, 'payment')}, {count(seen.frauds, 'fraud')}"
    if seen.auc is None or seen.interval is None:
        return [Prose([f"{said}: too few to grade the model."])]
    low, high = seen.interval
    return [Prose([f"{said}: AUC ROC {seen.auc:.3f} (95 % interval {low:.3f} to {high:.3f})."])]


def recorded(findings: Findings) -> dict[str, Any]:
    """What the run record keeps: payments of the window with truth, and the AUC ROC on them."""
    seen = window_truth(findings)
    return {"n_truth": seen.known, "auc_on_truth": seen.auc}


def cohorts(findings: Findings) -> Table:
    """One row for the rows that graded the model, one for each week, the newest first, with 95 % intervals.

    Weeks that the verdict speaks of are marked when a rule on truth fired.
    """
    performance = findings.verdict["performance"]
    over = any(rule["fired"] and rule["rule"] in ON_TRUTH for rule in findings.verdict["rules"])
    rows, marked = [], []
    for name, entry in [("at training", performance["reference"]), *((_week(c), c) for c in performance["cohorts"])]:
        truth = f" ({percent(entry['coverage'])})" if entry.get("coverage") is not None else ""
        row = [name, f"{entry['n']:,}{truth}", f"{entry['frauds']:,}"]
        row += [_measure(entry, key, percent) for key in ("fraud_rate", "recall", "precision")]
        rows.append([*row, _measure(entry, "auc", lambda value: "–" if value is None else f"{value:.3f}")])
        marked.append(over and bool(entry.get("judged")))
    columns = ["week of", "payments (reported)", "frauds", "share of fraud", "recall", "precision", "AUC ROC"]
    note = "Beside shares and AUC 95 % intervals. Silence counts as legitimate once it is old enough."
    return Table(columns, rows, marked, note=note)


def _notes(performance: Mapping[str, Any]) -> list[Block]:
    """What else a reader must know: how late truth is, and what the scores alone would say of younger payments."""
    said = [str(note) for note in performance.get("notes") or ()]
    if guess := performance.get("estimate"):
        said.append(
            f"The {count(guess['n'], 'payment')} whose truth is still out would have a share of fraud of "
            f"{percent(guess.get('fraud_rate'))} and a recall of {percent(guess.get('recall'))}. {guess['limit']}"
        )
    return [Prose(said)] if said else []


def _week(cohort: Mapping[str, Any]) -> str:
    return str(cohort["start"])[:10]


def _measure(entry: Mapping[str, Any], name: str, show: Callable[[float | None], str]) -> str:
    low, high = entry.get(f"{name}_interval") or (None, None)
    if low is None or high is None:
        return show(entry.get(name))
    return f"{show(entry.get(name))} ({show(low).removesuffix(' %')}–{show(high)})"
