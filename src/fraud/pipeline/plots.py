"""Every figure of the notebooks: data in, Axes out.

Grey is what the model was trained on, blue is live, red is over a threshold; thresholds are drawn, units stand on axes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from fraud.plaintext import shown

TRAINED, LIVE, OVER, CHAMPION = "#8a94a0", "#2f6fb5", "#c0392b", "#b7bec6"


def prepared(ax: Axes | None, width: float = 7.2, height: float = 3.0) -> Axes:
    """Use the given Axes or make one in this product's proportions."""
    if ax is None:
        ax = plt.subplots(figsize=(width, height), layout="constrained")[1]
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(length=3)
    return ax


def plain(text: object, width: int = 28) -> str:
    """Data as a label: shortened, nothing hidden in it, and never read as mathematics."""
    return shown(text, width).replace("$", r"\$")


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
