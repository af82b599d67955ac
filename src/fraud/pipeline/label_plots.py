"""Figures of labels: where they come from, how old they are, and what the model would have made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fraud.pipeline.plots import LIVE, OVER, TRAINED, prepared


def plot_label_sources(counts: Mapping[str, int], ax: Axes | None = None) -> Axes:
    """Rows by where their label comes from.

    Parameters
    ----------
    counts : mapping of str to int
        Rows per source; ``history`` is drawn as trained on, the rest as live.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
    """
    ax = prepared(ax, height=0.6 + 0.42 * max(len(counts), 1))
    names = list(counts)[::-1]
    values = [counts[name] for name in names]
    bars = ax.barh(names, values, color=[TRAINED if name == "history" else LIVE for name in names])
    ax.bar_label(bars, labels=[f"{value:,}" for value in values], padding=4)
    ax.set_xlabel("rows")
    ax.margins(x=0.15)
    return ax


def plot_label_coverage(coverage: Sequence[Mapping[str, Any]], maturity_days: float) -> Figure:
    """Which labels payments of an age have, and how many of the labelled ones are fraud.

    Parameters
    ----------
    coverage : sequence of mapping
        ``age_days``, ``source`` (truth, mature, pseudo, unknown), ``rows`` and ``fraud`` of each group.
    maturity_days : float
        From this age on silence means legitimate; drawn as a line.

    Returns
    -------
    Figure
        Left the share of payments with a label, stacked by source, what is white is unknown; right the share of fraud
        among the labelled ones, which is what a model would believe of that age.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 2.8), layout="constrained")
    days = sorted({int(row["age_days"]) for row in coverage})
    for ax in (left, right):
        prepared(ax)
        ax.set_xlabel("age of the payment (days)")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        if days and maturity_days <= days[-1] + 1:
            ax.axvline(maturity_days - 0.5, color="black", lw=0.8, ls=":")
    left.set_ylabel("payments with a label")
    right.set_ylabel("fraud among the labelled")
    if not days:
        left.text(0.5, 0.5, "no captured traffic yet", ha="center", transform=left.transAxes, color=TRAINED)
        return figure
    rows = {(row["age_days"], row["source"]): row for row in coverage}
    total = {day: sum(row["rows"] for (age, _), row in rows.items() if age == day) for day in days}
    bottom = np.zeros(len(days))
    labelled, fraud = np.zeros(len(days)), np.zeros(len(days))
    for source, colour in (("truth", LIVE), ("mature", "#9dbfe0"), ("pseudo", OVER)):
        mine = [rows.get((day, source), {"rows": 0, "fraud": 0}) for day in days]
        share = np.array([row["rows"] / total[day] for row, day in zip(mine, days, strict=True)])
        if share.any():
            left.bar(days, share, bottom=bottom, width=0.9, color=colour, label=source)
        bottom += share
        labelled += [row["rows"] for row in mine]
        fraud += [row["fraud"] for row in mine]
    known = labelled > 0
    right.plot(np.array(days)[known], fraud[known] / labelled[known], "o-", ms=3, lw=1, color=LIVE)
    left.set_ylim(0, 1)
    right.set_ylim(bottom=0)
    for ax in (left, right):
        ax.set_xlim(-0.5, days[-1] + 0.5)
        ax.xaxis.get_major_locator().set_params(integer=True)
    if left.get_legend_handles_labels()[0]:
        left.legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def plot_counterfactual(policies: Sequence[Mapping[str, Any]]) -> Figure:
    """What each pseudo-label policy would do, and how wrong it would have been.

    Parameters
    ----------
    policies : sequence of mapping
        ``policy``, ``fraud``, ``legitimate``, ``unlabelled``, ``judged``, ``wrong``, ``frauds``, ``frauds_missed``.

    Returns
    -------
    Figure
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 2.4), layout="constrained", width_ratios=(3, 2))
    names = [row["policy"] for row in policies][::-1]
    for ax in (left, right):
        prepared(ax)
    start = [0.0] * len(names)
    for part, colour in (("legitimate", "#9dbfe0"), ("fraud", OVER), ("unlabelled", "#e3e6ea")):
        sizes = [row[part] for row in policies][::-1]
        left.barh(names, sizes, left=start, color=colour, label=part)
        start = [one + size for one, size in zip(start, sizes, strict=True)]
    left.set_xlabel("payments that nothing is known of")
    left.set_title("what each policy would call them", fontsize=10)
    left.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.28))
    judged = [row["frauds_missed"] / row["frauds"] if row["frauds"] else 0.0 for row in policies][::-1]
    bars = right.barh(names, judged, color=[OVER if share else TRAINED for share in judged])
    texts = [_missed(row) for row in policies][::-1]
    right.bar_label(bars, labels=texts, padding=4, fontsize=8)
    right.set_xlim(0, 1.35)
    right.set_xticks([0, 0.5, 1])
    right.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    right.set_yticklabels([])
    right.set_xlabel("of the frauds it labels")
    right.set_title("frauds called legitimate, truth since known", fontsize=10)
    return figure


def _missed(row: Mapping[str, Any]) -> str:
    if row["judged"]:
        return f"{row['frauds_missed']} of {row['frauds']}"
    return "no truth yet" if row["fraud"] + row["legitimate"] else "labels nothing"


def plot_live_scores(low: Sequence[float], rows: Sequence[int], threshold: float, ax: Axes | None = None) -> Axes:
    """Scores that callers got, on a logarithmic count, with the threshold of pseudo-labels.

    Parameters
    ----------
    low : sequence of float
        Lower end of each bin; the bins have one width.
    rows : sequence of int
        Live rows in it.
    threshold : float
        Drawn dotted.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
    """
    ax = prepared(ax)
    ax.stairs(rows, [*low, 1.0], fill=True, color=LIVE)
    ax.axvline(threshold, color="black", lw=0.8, ls=":", label=f"pseudo-label from {threshold:g}")
    ax.set_yscale("symlog", linthresh=1)
    ax.set_xlim(0, 1)
    ax.set_xlabel("fraud probability served")
    ax.set_ylabel("live rows")
    ax.legend(frameon=False)
    return ax
