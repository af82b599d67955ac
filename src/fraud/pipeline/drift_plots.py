"""The drift report's figures, each with a function that says in words what it shows: data in, Axes or text out.

Grey is what the model was trained on, blue is live, red is past a limit; limits are drawn, units stand on axes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fraud.pipeline.plots import LIVE, OVER, TRAINED, plain, prepared, say_nothing
from fraud.pipeline.verdict_view import CUT, level, rule_name
from fraud.plaintext import count, figure, listed, percent, shown

if TYPE_CHECKING:
    from fraud.pipeline.report import Findings

WIDTHS = (5, 15, 60, 300, 900, 3600, 6 * 3600, 86_400)  # seconds of a slice of time
SLICES = 48  # at most


def plot_rules(rules: Sequence[Mapping[str, Any]], top: int = 10, ax: Axes | None = None) -> Axes:
    """How far each drift rule is from its threshold; red past it.

    Parameters
    ----------
    rules : sequence of mapping
        ``rules`` of a verdict.
    top : int
        How many to draw, the largest share of their threshold first.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
    """
    far = _farthest(rules, top)[::-1]
    ax = prepared(ax, height=0.9 + 0.24 * max(len(far), 1))
    if not far:
        say_nothing(ax, "nothing to compare yet")
        ax.set_yticks([])
        ax.set_xlim(0, CUT)
    names = [rule_name(rule).replace("$", r"\$") for _, rule in far]
    ax.barh(range(len(far)), [min(x, CUT) for x, _ in far], color=[OVER if r["fired"] else LIVE for _, r in far])
    if far:
        ax.set_yticks(range(len(far)), names)
    ax.axvline(1, color="black", lw=0.9, ls="--")
    ax.set_xlabel(f"drift score as a multiple of its limit (cut at {CUT:g})")
    return ax


def rules_in_words(rules: Sequence[Mapping[str, Any]], top: int = 10) -> str:
    """Say what `plot_rules` shows."""
    far = _farthest(rules, top)
    if not far:
        return "Bar chart without bars: nothing could be compared yet."
    over = sum(bool(rule["fired"]) for rule in rules)
    said = [f"{rule_name(rule)} {value:.2f}" for value, rule in far[:5]]
    return (
        f"Bar chart of drift scores as multiples of their limits: {over:,} of {count(len(rules), 'rule')} fired. "
        f"Farthest: {', '.join(said)}."
    )


def _farthest(rules: Sequence[Mapping[str, Any]], top: int) -> list[tuple[float, Mapping[str, Any]]]:
    found = [(value, rule) for rule in rules if (value := level(rule)) is not None]
    return sorted(found, key=lambda item: (-item[0], str(item[1]["feature"])))[:top]


def plot_distributions(panels: Sequence[Mapping[str, Any]]) -> Figure:
    """Small multiples: share of rows per bin, training grey, live blue.

    Parameters
    ----------
    panels : sequence of mapping
        ``feature``, ``labels``, ``reference`` and ``current`` (shares that sum to 1).

    Returns
    -------
    Figure
    """
    columns = 3
    lines = max(1, -(-len(panels) // columns))
    drawn, axes = plt.subplots(lines, columns, figsize=(8.4, 2.1 * lines + 0.5), layout="constrained", squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    for ax, panel in zip(axes.flat, panels, strict=False):
        prepared(ax)
        place = np.arange(len(panel["labels"]))
        trained, live = ([100 * value for value in panel[name]] for name in ("reference", "current"))
        ax.bar(place, trained, width=0.9, color=TRAINED, alpha=0.7, label="trained on")
        if any(live):
            ax.step(place, live, where="mid", color=LIVE, lw=1.6, label="live")
        ax.set_title(plain(panel["feature"]) + ("" if any(live) else ": no payments"), fontsize=9)
        named = _named(len(place))
        small, turned = (6, 45) if len(named) > 6 else (7, 20)
        ax.set_xticks(named, [plain(panel["labels"][k], 9) for k in named], fontsize=small, rotation=turned)
        ax.set_ylabel("rows (%)", fontsize=8)
    if panels:
        axes.flat[0].legend(frameon=False, fontsize=8)
    return drawn


def _named(bins: int, most: int = 11) -> list[int]:
    """The bins that get their name below the axis: all of a few, else some, and always the last."""
    if bins <= most:
        return list(range(bins))
    step = bins // 4
    return [*(k for k in range(0, bins, step) if bins - 1 - k >= step // 2), bins - 1]


def distributions_in_words(panels: Sequence[Mapping[str, Any]]) -> str:
    """Say what `plot_distributions` shows: of each panel the bin that changed most."""
    said = []
    if panels and not any(any(panel["current"]) for panel in panels):
        return "Shares of payments by bin at training; there are no payments to compare with."
    for panel in panels:
        bins = zip(panel["labels"], panel["reference"], panel["current"], strict=True)
        label, before, after = max(bins, key=lambda item: abs(item[2] - item[1]), default=("", 0.0, 0.0))
        said.append(f"{shown(panel['feature'], 30)}, most in {shown(label, 20)}: {percent(before)} → {percent(after)}")
    if not said:
        return "No distribution to show."
    return f"Shares of payments by bin, trained on → live. {'; '.join(said)}."


@dataclass(frozen=True)
class Course:
    """Scores of the window, slice by slice.

    Attributes
    ----------
    moments : list of datetime
        Beginning of each slice that has payments, UTC.
    scores, rates : list of float
        Mean score, and share sent to review.
    width : int
        Length of a slice (seconds).
    trained : tuple of float or None
        Mean score and share sent to review at training.
    """

    moments: list[dt.datetime]
    scores: list[float]
    rates: list[float]
    width: int
    trained: tuple[float | None, float]


def course(findings: Findings, trained_rate: float) -> Course:
    """Cut the window into at most 48 slices and average each.

    Parameters
    ----------
    findings : Findings
    trained_rate : float
        Share sent to review at training.

    Returns
    -------
    Course
    """
    time, score = np.array(findings.traffic.time), np.array(findings.traffic.score)
    length = float(np.ptp(time)) if len(time) else 0.0
    width = next((width for width in WIDTHS if length / width <= SLICES), WIDTHS[-1])
    trained = (findings.baseline["score"]["mean"], trained_rate)
    if not len(time):
        return Course([], [], [], width, trained)
    slices, where = np.unique(time // width, return_inverse=True)
    n = np.bincount(where)
    means = np.bincount(where, weights=score) / n
    rates = np.bincount(where, weights=score >= findings.threshold) / n
    moments = [dt.datetime.fromtimestamp(float(one) * width, dt.UTC) for one in slices]
    return Course(moments, means.tolist(), rates.tolist(), width, trained)


def plot_course(seen: Course) -> Figure:
    """Mean score and share sent to review over time, against what they were at training.

    Parameters
    ----------
    seen : Course

    Returns
    -------
    Figure
    """
    drawn, axes = plt.subplots(1, 2, figsize=(8.4, 2.6), layout="constrained")
    place = np.arange(len(seen.moments))
    form = "%H:%M:%S" if seen.width < 60 else "%H:%M" if seen.width < 3600 else "%d %b %Hh"
    step = max(1, -(-len(place) // 4))
    parts = (("mean score", seen.scores, seen.trained[0], 1), ("sent to review (%)", seen.rates, seen.trained[1], 100))
    for ax, (label, values, before, unit) in zip(axes, parts, strict=True):
        prepared(ax)
        if not len(place):
            say_nothing(ax, "no payments")
        ax.plot(place, [unit * value for value in values], "o-", ms=3.5, lw=1.4, color=LIVE, label="live")
        if before is not None:
            ax.axhline(unit * before, color=TRAINED, lw=1.4, label="at training")
        ax.set_xticks(place[::step], [f"{moment:{form}}" for moment in seen.moments[::step]], fontsize=8)
        ax.set_ylim(0, 1.15 * unit * max([*values, before or 0.0, 1e-9]))
        ax.set_ylabel(label)
        ax.set_xlabel("time (UTC)")
    drawn.legend(*axes[1].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return drawn


def course_in_words(seen: Course) -> str:
    """Say what `plot_course` shows."""
    if not seen.moments:
        return "Two empty line charts: there are no payments in the window."
    said = [
        f"{name} from {show(min(values))} to {show(max(values))}, last {show(values[-1])}, {show(before)} at training"
        for name, values, before, show in (
            ("mean score", seen.scores, seen.trained[0], figure),
            ("share sent to review", seen.rates, seen.trained[1], percent),
        )
    ]
    first, last = (f"{moment:%Y-%m-%d %H:%M}" for moment in (seen.moments[0], seen.moments[-1]))
    return f"Two line charts over time, {first} to {last} UTC: {'; '.join(said)}."


def plot_cohorts(performance: Mapping[str, Any] | None) -> Figure | None:
    """Share of fraud and recall of each week with truth, with 95 % intervals, against training.

    Parameters
    ----------
    performance : mapping or None
        Of a verdict.

    Returns
    -------
    Figure or None
        None where no week has truth.
    """
    weeks = [] if not performance else list(performance.get("cohorts") or ())[::-1]
    if not performance or not weeks:
        return None
    drawn, axes = plt.subplots(1, 2, figsize=(8.4, 2.6), layout="constrained")
    for ax, (name, label) in zip(
        axes, (("fraud_rate", "share of fraud (%)"), ("recall", "frauds found (%)")), strict=True
    ):
        prepared(ax)
        if (before := performance["reference"].get(name)) is not None:
            ax.axhline(100 * before, color=TRAINED, lw=1.4, label="at training")
        for place, week in enumerate(weeks):
            if (value := week.get(name)) is None:
                continue
            low, high = week.get(f"{name}_interval") or (value, value)
            ax.plot([place, place], [100 * low, 100 * high], color=LIVE, lw=1.4)
            ax.plot(place, 100 * value, "o", ms=4.5, color=LIVE)
        step = max(1, -(-len(weeks) // 4))
        ax.set_xticks(range(0, len(weeks), step), [week["start"][5:10] for week in weeks[::step]], fontsize=8)
        ax.set_xlim(-0.5, len(weeks) - 0.5)
        ax.set_ylim(bottom=0)
        ax.set_ylabel(label)
        ax.set_xlabel("week that begins on (UTC)")
    axes[0].legend(frameon=False, fontsize=8)
    return drawn


def cohorts_in_words(performance: Mapping[str, Any] | None) -> str:
    """Say what `plot_cohorts` shows."""
    weeks = [] if not performance else list(performance.get("cohorts") or ())
    if not performance or not weeks:
        return "No week has truth."
    said = [f"{w['start'][:10]} {percent(w.get('fraud_rate'))} fraud, {percent(w.get('recall'))} found" for w in weeks]
    trained = performance["reference"]
    return (
        f"Two charts of {count(len(weeks), 'week')} with truth, the newest first: {listed(said, 4)}; at training "
        f"{percent(trained.get('fraud_rate'))} fraud, {percent(trained.get('recall'))} found."
    )
