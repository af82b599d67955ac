"""The dashboard as one HTML page with pictures: for whoever has no CloudWatch console, as on the local AWS.

It reads the same alarms and metrics (`fraud.pipeline.dashboards`) by DescribeAlarms and GetMetricData.
"""

from __future__ import annotations

import base64
import datetime as dt
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.dates as mdates
import matplotlib.pyplot as plt
from botocore.exceptions import BotoCoreError, ClientError
from matplotlib.axes import Axes

from fraud.errors import PlatformError
from fraud.pipeline.alarms import SUMS, alarms, comparable, limits, watching
from fraud.pipeline.dashboards import RED, SECTIONS, Metric, Panel, Section
from fraud.pipeline.plots import plain, prepared, say_nothing
from fraud.pipeline.render import TEMPLATES
from fraud.pipeline.where import client, region

POINTS = 300  # of one line at most
PERIODS = (60, 300, 900, 3600, 6 * 3600, 86_400)
YLABELS = {"count": "count", "ms": "ms", "us": "ms", "s": "seconds", "share": "share", "": ""}

Series = tuple[str, str, list[dt.datetime], list[float]]  # label, colour, when, what


def period_for(hours: float) -> int:
    """Seconds that one point stands for, so that a line has at most ``POINTS``."""
    return next((period for period in PERIODS if hours * 3600 / period <= POINTS), PERIODS[-1])


def _period(start: dt.datetime, end: dt.datetime) -> int:
    return period_for((end - start).total_seconds() / 3600)


def _span(seconds: int) -> str:
    return f"{seconds // 60} min" if seconds < 3600 else f"{seconds // 3600} h"


def filled(metric: Metric, names: dict[str, str]) -> list[Metric]:
    """The metrics that one of the description stands for here: one, or one for each value of a dimension."""
    named = {name: value.format(**names) for name, value in metric.dimensions.items()}
    if not metric.each:
        return [Metric(metric.namespace, metric.name, named, metric.stat, metric.label, metric.color)]
    asked = [{"Name": name, "Value": value} for name, value in named.items()] + [{"Name": metric.each}]
    pages = client("cloudwatch").get_paginator("list_metrics")
    found = pages.paginate(Namespace=metric.namespace, MetricName=metric.name, Dimensions=asked)
    sets = [{one["Name"]: one["Value"] for one in item["Dimensions"]} for page in found for item in page["Metrics"]]
    known = sorted({one[metric.each] for one in sets if one.keys() == named.keys() | {metric.each}})
    label = "" if metric.each == "ModelVersion" else f"{metric.label}, "
    return [
        Metric(metric.namespace, metric.name, named | {metric.each: value}, metric.stat, f"{label}{plain(value, 18)}")
        for value in known
    ]


def read(section: Section, names: dict[str, str], start: dt.datetime, end: dt.datetime) -> list[list[Series]]:
    """What CloudWatch holds for each panel of a section.

    Parameters
    ----------
    section : Section
        Whose metrics are asked for, in one query.
    names : dict of str to str
        ``endpoint``, ``pipeline`` and ``queue``.
    start, end : datetime
        The time that is shown; at most ``POINTS`` points of each line.

    Returns
    -------
    list of list of Series
        In the order of the panels; lines without any point are left out.
    """
    period = _period(start, end)
    metrics = [[one for metric in panel.metrics for one in filled(metric, names)] for panel in section.panels]
    queries, known = [], {}
    for p, lines in enumerate(metrics):
        for k, one in enumerate(lines):
            named = [{"Name": name, "Value": value} for name, value in one.dimensions.items()]
            metric = {"Namespace": one.namespace, "MetricName": one.name, "Dimensions": named}
            queries.append({"Id": f"p{p}_{k}", "MetricStat": {"Metric": metric, "Period": period, "Stat": one.stat}})
            known[f"p{p}_{k}"] = (p, one)
    found: dict[str, list[tuple[dt.datetime, float]]] = {name: [] for name in known}
    pages = client("cloudwatch").get_paginator("get_metric_data")
    for page in pages.paginate(MetricDataQueries=queries, StartTime=start, EndTime=end):
        for item in page["MetricDataResults"]:
            found[item["Id"]] += zip(item["Timestamps"], item["Values"], strict=True)
    result: list[list[Series]] = [[] for _ in section.panels]
    for name, points in found.items():
        p, one = known[name]
        if points:
            when, what = zip(*sorted(points), strict=True)
            result[p].append((one.label, one.color, list(when), [float(value) for value in what]))
    return result


def plot_panel(panel: Panel, lines: Sequence[Series], start: dt.datetime, end: dt.datetime, ax: Axes) -> Axes:
    """Draw one panel; a threshold is drawn where it is in sight of the data and can be compared with it.

    Parameters
    ----------
    panel : Panel
        What it is.
    lines : sequence of Series
        As `read` gives them.
    start, end : datetime
        Limits of the time axis.
    ax : Axes
        Where to draw.

    Returns
    -------
    Axes
    """
    prepared(ax)
    ax.set_title(panel.title, loc="left", fontsize=10)
    ax.set_xlim(start, end)
    ax.xaxis.set_major_locator(mdates.AutoDateLocator(minticks=2, maxticks=5))
    ax.xaxis.set_major_formatter(mdates.ConciseDateFormatter(ax.xaxis.get_major_locator()))
    period = _period(start, end)
    summed = any(metric.stat in SUMS for metric in panel.metrics)  # a sum means nothing without its time
    ax.set_ylabel(f"{YLABELS[panel.unit]} in {_span(period)}" if summed else YLABELS[panel.unit])
    if not lines:
        ax.set_yticks([])
        say_nothing(ax, "no data")
        return ax
    if panel.kind == "states":
        return _plot_states(lines, end, ax)
    scale = 1e-3 if panel.unit == "us" else 1.0
    for k, (label, color, when, what) in enumerate(lines):
        values = [scale * value for value in what]
        if panel.kind == "bars":  # the next one is thinner, so that it hides none
            ax.vlines(when, 0, values, color=color or None, lw=max(2, 8 - 3 * k), label=plain(label))
        else:
            ax.plot(when, values, ".-", ms=4, lw=1.2, color=color or None, label=plain(label))
    top = max(scale * max(what) for *_, what in lines)
    for value in sorted({scale * value for _, value, _ in limits(panel, period)}):
        if value <= 4 * top or panel.unit in ("", "share"):
            ax.axhline(value, color=RED, lw=1, ls="--", label="threshold")
            top = max(top, value)
    for alarm in watching(panel):
        if not comparable(alarm, period):
            ax.plot([], [], " ", label=f"alarm: {alarm.threshold:g} in {_span(alarm.period)}, not drawn")
    ax.set_ylim(0, 1.3 * top if top else 1)
    narrow = {"ncols": 3 if panel.width >= 8 else 2, "handlelength": 1.2, "columnspacing": 1.0}
    _legend(ax, fontsize=7, loc="upper left", **narrow)
    return ax


def _plot_states(lines: Sequence[Series], end: dt.datetime, ax: Axes) -> Axes:
    """Colour the time after each check by what it said, until the next one; a check that is missing leaves a gap."""
    worst: dict[dt.datetime, tuple[str, str]] = {}
    for label, color, when, what in lines:  # from the mildest on, so that a worse one takes its place
        worst |= {at: (label, color) for at, value in zip(when, what, strict=True) if value}
    said = sorted((at, *one) for at, one in worst.items())
    gaps = sorted(after[0] - before[0] for before, after in zip(said, said[1:], strict=False))
    usual = gaps[len(gaps) // 2] if gaps else dt.timedelta(hours=1)
    for k, (at, label, color) in enumerate(said):
        until = said[k + 1][0] if k + 1 < len(said) else end
        width = until - at if until - at < 1.5 * usual else usual
        ax.broken_barh([(mdates.date2num(at), width / dt.timedelta(days=1))], (0, 1), color=color, label=label)
    _legend(ax, fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.97), ncols=len(lines))
    ax.set_ylim(0, 1)
    ax.set_yticks([])
    return ax


def _legend(ax: Axes, **where: Any) -> None:
    """Name each label once."""
    handles, labels = ax.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    ax.legend(list(once.values()), list(once), frameon=False, **where)


def _picture(section: Section, lines: list[list[Series]], start: dt.datetime, end: dt.datetime) -> str:
    """A section as a picture in a ``data:`` address."""
    rows: list[list[int]] = [[]]
    for k, panel in enumerate(section.panels):
        if sum(section.panels[other].width for other in rows[-1]) + panel.width > 24:
            rows.append([])
        rows[-1].append(k)
    heights = [1.3 if section.panels[row[0]].kind == "states" else 2.5 for row in rows]
    figure = plt.figure(figsize=(13, sum(heights)), layout="constrained")
    try:
        parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, row in zip(parts, rows, strict=True):
            widths = [section.panels[k].width for k in row]
            for k, ax in zip(row, part.subplots(1, len(row), width_ratios=widths, squeeze=False)[0], strict=True):
                plot_panel(section.panels[k], lines[k], start, end, ax)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
    finally:
        plt.close(figure)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _alarms(endpoint: str) -> Iterator[dict[str, Any]]:
    """Alarms of an endpoint, those that ring first.

    By the names that ``infra/app.yml`` gives: those of an endpoint ``fraud-eu`` begin like those of ``fraud``.
    """
    names = [f"fraud-{endpoint}-{alarm.name}" for alarm in alarms()]
    pages = client("cloudwatch").get_paginator("describe_alarms").paginate(AlarmNames=names)
    found = [item for page in pages for item in page["MetricAlarms"]]
    order = {"ALARM": 0, "INSUFFICIENT_DATA": 1, "OK": 2}
    words = {"ALARM": "rings", "INSUFFICIENT_DATA": "no data yet", "OK": "quiet"}
    for item in sorted(found, key=lambda one: (order[one["StateValue"]], one["AlarmName"])):
        yield {
            "name": item["AlarmName"],
            "state": item["StateValue"],
            "word": words[item["StateValue"]],
            "since": f"{item['StateUpdatedTimestamp'].astimezone(dt.UTC):%d %b %H:%M}",
            "means": item.get("AlarmDescription", ""),
        }


def write(path: Path, names: dict[str, str], hours: float = 24.0, now: dt.datetime | None = None) -> Path:
    """Write the page.

    Parameters
    ----------
    path : Path
        Where to; folders are made.
    names : dict of str to str
        ``endpoint``, ``pipeline`` and ``queue`` (of the drift checks that were given up).
    hours : float
        How far back it looks.
    now : datetime, optional
        End of what is shown.

    Returns
    -------
    Path
        The page: no script, nothing fetched from elsewhere.

    Raises
    ------
    PlatformError
        When CloudWatch cannot be read.
    """
    end = now or dt.datetime.now(dt.UTC)
    start = end - dt.timedelta(hours=hours)
    try:
        sections = [
            {
                "question": section.question,
                "picture": _picture(section, read(section, names, start, end), start, end),
                "panels": [(panel.title, panel.meaning) for panel in section.panels],
            }
            for section in SECTIONS
        ]
        alarms = list(_alarms(names["endpoint"]))
    except (ClientError, BotoCoreError) as error:
        raise PlatformError(f"CloudWatch in {region()} could not be read: {error}") from error
    page = TEMPLATES.get_template("dashboard.html.j2").render(
        endpoint=names["endpoint"],
        start=f"{start:%d %b %Y %H:%M}",
        end=f"{end:%d %b %Y %H:%M}",
        alarms=alarms,
        sections=sections,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return path
