"""Every figure of the notebooks: data in, Axes out.

Grey is what the model was trained on, blue is live, red is over a threshold; thresholds are drawn, units stand on axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

TRAINED, LIVE, OVER, CHAMPION = "#8a94a0", "#2f6fb5", "#c0392b", "#b7bec6"


def prepared(ax: Axes | None, width: float = 7.2, height: float = 3.0) -> Axes:
    """Use the given Axes or make one in this product's proportions."""
    if ax is None:
        ax = plt.subplots(figsize=(width, height), layout="constrained")[1]
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(length=3)
    return ax


def plain(text: object, width: int = 28) -> str:
    """Data as a label: shortened, and never read as mathematics."""
    shown = str(text)
    shown = shown if len(shown) <= width else shown[: width - 1] + "…"
    return shown.replace("$", r"\$")


def say_nothing(ax: Axes, text: str) -> None:
    """Say in the middle of a figure why it is empty."""
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, color=TRAINED)


def plot_captured(hours: Sequence[Any], counts: Sequence[int], ax: Axes | None = None) -> Axes:
    """Captured transactions per hour.

    Parameters
    ----------
    hours : sequence of datetime
        Beginning of each hour, UTC.
    counts : sequence of int
        Transactions in it.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
    """
    ax = prepared(ax)
    if len(hours) == 0:
        say_nothing(ax, "no captured traffic yet")
        ax.set_xticks([])
    else:
        ax.bar(np.arange(len(hours)), counts, color=LIVE, width=0.9)
        step = max(1, -(-len(hours) // 6))
        ax.set_xticks(np.arange(0, len(hours), step), [f"{hour:%d %b %H}h" for hour in hours[::step]])
    ax.set_ylabel("transactions per hour")
    ax.set_xlabel("hour (UTC)")
    return ax


def plot_availability(probes: Sequence[Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """Latency of every probe through the whole update; failures red; the shift between models visible by colour.

    Parameters
    ----------
    probes : sequence of mapping
        ``at`` (seconds since the start), ``ms``, ``ok`` and ``model_version``.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
    """
    ax = prepared(ax)
    versions = list(dict.fromkeys(probe["model_version"] for probe in probes if probe["ok"]))
    for version in versions:
        mine = [probe for probe in probes if probe["ok"] and probe["model_version"] == version]
        colour = LIVE if version == versions[-1] else TRAINED
        label = f"{plain(version)} ({len(mine):,})"
        ax.plot([probe["at"] for probe in mine], [probe["ms"] for probe in mine], ".", ms=4, color=colour, label=label)
    failed = [probe for probe in probes if not probe["ok"]]
    ax.plot([p["at"] for p in failed], [p["ms"] for p in failed], "x", color=OVER, label=f"failed ({len(failed)})")
    ax.set_xlabel("seconds since the update began")
    ax.set_ylabel("latency (ms)")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, title="answered by", fontsize=8)
    return ax


def plot_served_against_offline(offline: Sequence[float], served: Sequence[float], ax: Axes | None = None) -> Axes:
    """Scores that the endpoint gave against the scores of training, on the line where they are equal.

    Parameters
    ----------
    offline, served : sequence of float
        Scores of the same transactions, in the same order.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
    """
    ax = prepared(ax, width=3.6, height=3.2)
    ax.plot([0, 1], [0, 1], color=TRAINED, lw=0.8)
    if len(served):
        ax.plot(offline, served, "o", ms=4, color=LIVE)
    else:  # a shadow, which nobody hears
        say_nothing(ax, "nothing was served")
    ax.set_xlabel("score at training")
    ax.set_ylabel("score served")
    return ax


def plot_rules(rules: Sequence[Mapping[str, Any]], top: int = 15, ax: Axes | None = None) -> Axes:
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
    share = [(abs(rule["score"]) / rule["threshold"], rule) for rule in rules if rule["score"] is not None]
    shown = sorted(share, key=lambda item: (item[0], item[1]["feature"]), reverse=True)[:top][::-1]
    ax = prepared(ax, height=0.9 + 0.24 * max(len(shown), 1))
    if not shown:
        say_nothing(ax, "nothing to compare yet")
        ax.set_yticks([])
        ax.set_xlim(0, 5)
    names = [f"{plain(rule['feature'])} · {rule['rule'].replace('_', ' ')}" for _, rule in shown]
    ax.barh(names, [min(value, 5) for value, _ in shown], color=[OVER if r["fired"] else LIVE for _, r in shown])
    ax.axvline(1, color="black", lw=0.9, ls="--")
    ax.set_xlabel("drift score as a multiple of its threshold (cut at 5)")
    return ax


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
    figure, axes = plt.subplots(lines, columns, figsize=(8.4, 2.1 * lines + 0.5), layout="constrained", squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    for ax, panel in zip(axes.flat, panels, strict=False):
        prepared(ax)
        place = np.arange(len(panel["labels"]))
        ax.bar(
            place,
            [100 * value for value in panel["reference"]],
            width=0.9,
            color=TRAINED,
            alpha=0.7,
            label="trained on",
        )
        ax.step(place, [100 * value for value in panel["current"]], where="mid", color=LIVE, lw=1.6, label="live")
        ax.set_title(plain(panel["feature"]), fontsize=9)
        step = max(1, len(place) // 4)
        ax.set_xticks(place[::step], [plain(label, 9) for label in panel["labels"][::step]], fontsize=7, rotation=20)
        ax.set_ylabel("rows (%)", fontsize=8)
    if panels:
        axes.flat[0].legend(frameon=False, fontsize=8)
    return figure


def plot_alert_rate(
    hours: Sequence[Any], rates: Sequence[float], reference: float | None, ax: Axes | None = None
) -> Axes:
    """Share of live transactions sent to review, by hour, against the share on training rows.

    Parameters
    ----------
    hours : sequence of datetime
        Beginning of each hour, UTC.
    rates : sequence of float
        Share at or above the decision threshold.
    reference : float or None
        The same share on training rows.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
    """
    ax = prepared(ax)
    ax.plot(np.arange(len(hours)), [100 * rate for rate in rates], "o-", ms=4, color=LIVE, label="live")
    if reference is not None:
        ax.axhline(100 * reference, color=TRAINED, lw=1, label="on training rows")
    step = max(1, -(-len(hours) // 6))
    ax.set_xticks(np.arange(0, len(hours), step), [f"{hour:%d %b %H}h" for hour in hours[::step]])
    ax.set_ylim(bottom=0)
    ax.set_xlabel("hour (UTC)")
    ax.set_ylabel("sent to review (%)")
    ax.legend(frameon=False)
    return ax


def plot_replay(rows: Any, thresholds: tuple[float, float], ax: Axes | None = None) -> Axes:
    """Scores of captured requests under both models; decisions that flip in red.

    Parameters
    ----------
    rows : DataFrame
        ``champion``, ``challenger``, ``before``, ``after``.
    thresholds : tuple of float
        Of champion and challenger.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes
    """
    ax = prepared(ax, width=4.4, height=3.6)
    if not len(rows):
        say_nothing(ax, "no captured traffic to replay")
    low = 1e-4  # what is less is drawn there
    flips = rows["before"] != rows["after"]
    for chosen, colour, label in ((~flips, LIVE, "as before"), (flips, OVER, "flips")):
        shown = rows[chosen]
        x, y = (shown[name].clip(lower=low) for name in ("champion", "challenger"))
        ax.plot(x, y, ".", ms=3, color=colour, label=f"{label} ({len(shown):,})")
    for line, threshold in ((ax.axvline, thresholds[0]), (ax.axhline, thresholds[1])):
        line(max(threshold, low), color="black", lw=0.9, ls="--")
    ax.set(xscale="log", yscale="log", xlim=(low, 1.1), ylim=(low, 1.1))
    ax.set_xlabel("score of the model in service")
    ax.set_ylabel("score of the new model")
    ax.legend(frameon=False, fontsize=8)
    return ax


def plot_differences(differences: Any, ax: Axes | None = None) -> Axes | None:
    """Challenger less champion, measure by measure, with intervals; those that hold zero in grey.

    Parameters
    ----------
    differences : DataFrame
        By measure ``difference``, ``low``, ``high``.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes or None
        None when there is nothing to compare: most reports are of one model.
    """
    shown = differences.dropna(subset=["low", "high"])[::-1]
    if not len(shown):
        return None
    ax = prepared(ax, height=0.9 + 0.34 * len(shown))
    for place, (_, row) in enumerate(shown.iterrows()):
        colour = TRAINED if row["low"] <= 0 <= row["high"] else LIVE if row["low"] > 0 else OVER
        ax.plot([row["low"], row["high"]], [place, place], color=colour, lw=2)
        ax.plot(row["difference"], place, "o", color=colour)
    ax.set_yticks(range(len(shown)), [str(name) for name in shown.index])
    ax.axvline(0, color="black", lw=0.9, ls="--")
    ax.set_xlabel("challenger less champion (95 % interval)")
    return ax
