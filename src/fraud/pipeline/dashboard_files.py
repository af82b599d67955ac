"""``infra/dashboards/``: CloudWatch's and Grafana's dashboard, made of `fraud.pipeline.dashboards`.

``fraud dashboard render`` writes both; a test holds the files to what is rendered. CloudWatch's is a template: its
``${EndpointName}`` and the like are filled in by CloudFormation, into whose template `fraud.pipeline.infra` puts it.
Grafana's asks for data source, region, endpoint, pipeline and queue by variables, so it holds no account's names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fraud.pipeline.alarms import alarms, limits
from fraud.pipeline.dashboards import RED, SECTIONS, Metric, Panel
from fraud.pipeline.parameters import ROOT

FOLDER = ROOT / "infra" / "dashboards"
IN_CLOUDFORMATION = {
    "endpoint": "${EndpointName}",
    "pipeline": "${PipelineName}",
    "queue": "${DriftDeadLetters.QueueName}",
}
IN_GRAFANA = {"endpoint": "${endpoint}", "pipeline": "${pipeline}", "queue": "${queue}"}
AXES = {"count": "", "ms": "ms", "us": "µs", "s": "s", "share": "share", "": ""}
UNITS = {"count": "short", "ms": "ms", "us": "µs", "s": "s", "share": "percentunit", "": "short"}  # Grafana's ids
HEIGHT = 6


def files() -> dict[str, str]:
    """Contents of ``infra/dashboards/`` by file name."""
    made = {"cloudwatch.json": cloudwatch(), "grafana.json": grafana()}
    return {name: json.dumps(body, indent=1, ensure_ascii=False) + "\n" for name, body in made.items()}


def render(folder: Path = FOLDER) -> list[Path]:
    """Write the files; returns where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in files()]


def in_cloudformation() -> str:
    """CloudWatch's dashboard on one line, for ``!Sub``: a limit that is a parameter is a number there."""
    text = json.dumps(json.loads((FOLDER / "cloudwatch.json").read_text(encoding="utf-8")), separators=(",", ":"))
    for parameter in {name for section in SECTIONS for panel in section.panels for *_, name in limits(panel) if name}:
        text = text.replace(f'"${{{parameter}}}"', f"${{{parameter}}}")
    return text


# ------------------------------------------------------------------------------------------------ CloudWatch


def cloudwatch() -> dict[str, Any]:
    """Body of the CloudWatch dashboard (``DashboardBody``)."""
    arns = [f"${{{alarm.logical}.Arn}}" for alarm in alarms()]
    widgets = [_widget("alarm", 0, 0, 24, 4, {"title": "Alarms", "alarms": arns})]
    y = 4
    for section in SECTIONS:
        widgets.append(
            _widget("text", 0, y, 24, 1, {"markdown": f"## {section.question}", "background": "transparent"})
        )
        x, y = 0, y + 1
        for panel in section.panels:
            if x + panel.width > 24:
                x, y = 0, y + HEIGHT
            widgets.append(_widget("metric", x, y, panel.width, HEIGHT, _chart(panel)))
            x += panel.width
        y += HEIGHT
    # Without "inherit" the console makes periods longer with the time shown, and sums outgrow their thresholds.
    return {"start": "-P7D", "periodOverride": "inherit", "widgets": widgets}


def _widget(kind: str, x: int, y: int, width: int, height: int, properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "x": x, "y": y, "width": width, "height": height, "properties": properties}


def _chart(panel: Panel) -> dict[str, Any]:
    drawn = [
        {"label": label, "value": f"${{{parameter}}}" if parameter else value, "color": RED}
        for label, value, parameter in limits(panel)
    ]
    axis = {"min": 0, "showUnits": False} | ({"label": AXES[panel.unit]} if AXES[panel.unit] else {})
    rows = _rows(panel)
    chart: dict[str, Any] = {"title": panel.title, "region": "${AWS::Region}", "period": panel.period, "metrics": rows}
    if panel.kind == "states":
        chart |= {"stacked": True, "metrics": _only_the_worst(rows)}
        axis["max"] = 1
    return chart | {"yAxis": {"left": axis}} | ({"annotations": {"horizontal": drawn}} if drawn else {})


def _rows(panel: Panel) -> list[list[Any]]:
    rows: list[list[Any]] = []
    before: list[str] = []
    for metric in panel.metrics:
        if metric.each:
            rows.append([{"expression": _search(metric, panel.period), "id": f"each{len(rows)}"}])
            before = []
            continue
        named = [part.format(**IN_CLOUDFORMATION) for pair in metric.dimensions.items() for part in pair]
        row = [metric.namespace, metric.name, *named]
        same = [part == old for part, old in zip(row, before, strict=False)]
        short = ["." if k < len(same) and same[k] else part for k, part in enumerate(row)]
        options = {"stat": metric.stat, "label": metric.label} | ({"color": metric.color} if metric.color else {})
        rows.append([*short, options])
        before = row
    return rows


def _only_the_worst(rows: list[list[Any]]) -> list[list[Any]]:
    """States, each where no worse one holds: two of one hour would be stacked, and the axis ends at the milder one."""
    hidden, shown = [], []
    for k, (*row, options) in enumerate(rows):
        none_worse = [f"(1 - m{worse})" for worse in range(k + 1, len(rows))]
        hidden.append([*row, {"id": f"m{k}", "stat": options["stat"], "visible": False}])
        one = {"expression": " * ".join([f"m{k}", *none_worse]), "id": f"worst{k}"}
        shown.append([one | {"label": options["label"], "color": options["color"]}])
    return hidden + shown


def _search(metric: Metric, period: int) -> str:
    named = " ".join(f'{name}="{value.format(**IN_CLOUDFORMATION)}"' for name, value in metric.dimensions.items())
    schema = ",".join([metric.namespace, *metric.dimensions, metric.each])
    return f"SEARCH('{{{schema}}} MetricName=\"{metric.name}\" {named}', '{metric.stat}', {period})"


# ------------------------------------------------------------------------------------------------ Grafana

SOURCE = {"type": "cloudwatch", "uid": "${datasource}"}


def grafana() -> dict[str, Any]:
    """A Grafana dashboard to import (Dashboards, New, Import); its data source is CloudWatch."""
    panels: list[dict[str, Any]] = []
    y = 0
    for section in SECTIONS:
        panels.append(
            {"type": "row", "title": section.question, "collapsed": False, "panels": [], "gridPos": _place(0, y, 24, 1)}
        )
        x, y = 0, y + 1
        for panel in section.panels:
            height = 4 if panel.kind == "states" else 8
            if x + panel.width > 24:
                x, y = 0, y + 8
            panels.append(_panel(panel) | {"gridPos": _place(x, y, panel.width, height)})
            x, y = (0, y + height) if x + panel.width == 24 else (x + panel.width, y)
    for number, item in enumerate(panels, 1):
        item["id"] = number
    return {
        "id": None,
        "title": "Fraud Loop",
        "description": "One fraud endpoint: is it answering, what does it say, has the world moved, is it right.",
        "tags": ["fraud-loop"],
        "schemaVersion": 41,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "5m",
        "timezone": "utc",
        "time": {"from": "now-7d", "to": "now"},
        "annotations": {"list": [_alarm_changes()]},
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _target(metric: Metric, letter: int, period: int) -> dict[str, Any]:
    named: dict[str, str | list[str]] = {name: value.format(**IN_GRAFANA) for name, value in metric.dimensions.items()}
    if metric.each:
        named[metric.each] = ["*"]
    return {
        "refId": chr(ord("A") + letter),
        "id": f"m{letter}",
        "datasource": SOURCE,
        "queryMode": "Metrics",
        "metricQueryType": 0,
        "metricEditorMode": 0,
        "region": "$region",
        "namespace": metric.namespace,
        "metricName": metric.name,
        "dimensions": named,
        "matchExact": True,
        "statistic": metric.stat,
        "period": str(period),
        "label": f"${{PROP('Dim.{metric.each}')}}" if metric.each else metric.label,
        "expression": "",
    }


def _panel(panel: Panel) -> dict[str, Any]:
    targets = [_target(metric, k, panel.period) for k, metric in enumerate(panel.metrics)]
    made = {"title": panel.title, "description": panel.meaning, "datasource": SOURCE, "targets": targets}
    if panel.kind == "states":
        return made | _states(panel, targets)
    steps: list[dict[str, Any]] = [{"color": "transparent", "value": None}]
    steps += [{"color": RED, "value": value} for value in sorted({value for _, value, _ in limits(panel)})]
    custom: dict[str, Any] = {
        "drawStyle": "bars" if panel.kind == "bars" else "line",
        "lineWidth": 2,
        "fillOpacity": 10,
    }
    custom |= {"showPoints": "auto", "thresholdsStyle": {"mode": "line" if len(steps) > 1 else "off"}}
    colors = [
        {
            "matcher": {"id": "byName", "options": metric.label},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": metric.color}}],
        }
        for metric in panel.metrics
        if metric.color
    ]
    defaults = {"unit": UNITS[panel.unit], "min": 0, "custom": custom}
    return made | {
        "type": "timeseries",
        "fieldConfig": {
            "defaults": defaults | {"thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": colors,
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "none"},
        },
    }


def _states(panel: Panel, targets: list[dict[str, Any]]) -> dict[str, Any]:
    """One row that changes colour: metric math makes one number of the states, that of the worst one that is 1."""
    for target in targets:
        target["hide"] = True
    codes = ", ".join(f"{k} * {target['id']}" for k, target in enumerate(targets, 1))
    one = targets[0] | {
        "refId": chr(ord("A") + len(targets)),
        "id": "state",
        "hide": False,
        "label": panel.title.lower(),
        "metricEditorMode": 1,
        "expression": f"MAX([{codes}])",
        "namespace": "",
        "metricName": "",
        "dimensions": {},
    }
    named = {str(k): {"index": k, "text": m.label, "color": m.color} for k, m in enumerate(panel.metrics, 1)}
    return {
        "type": "state-timeline",
        "targets": [*targets, one],
        "fieldConfig": {
            "defaults": {
                "mappings": [{"type": "value", "options": named}],
                "color": {"mode": "thresholds"},
                "thresholds": {"mode": "absolute", "steps": [{"color": "transparent", "value": None}]},
                "custom": {"fillOpacity": 90, "lineWidth": 0},
            },
            "overrides": [],
        },
        "options": {
            "mergeValues": True,
            "rowHeight": 0.8,
            "showValue": "auto",
            "alignValue": "left",
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "single", "sort": "none"},
        },
    }


def _alarm_changes() -> dict[str, Any]:
    """Marks on every panel: when an alarm of this endpoint changed its state."""
    return {
        "name": "Alarms",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": RED,
        "target": {
            "refId": "alarms",
            "queryMode": "Annotations",
            "region": "$region",
            "prefixMatching": True,
            "alarmNamePrefix": "fraud-${endpoint}-",
            "actionPrefix": "",
            "namespace": "",
            "metricName": "",
            "dimensions": {},
            "statistic": "Average",
            "period": "300",
        },
    }


def _variables() -> list[dict[str, Any]]:
    def asked(name: str, label: str, query: dict[str, Any], regex: str = "") -> dict[str, Any]:
        full = {"refId": "CloudWatchVariableQueryEditor-VariableQuery"} | query
        one = {"name": name, "label": label, "type": "query", "datasource": SOURCE, "query": full, "regex": regex}
        return one | {"refresh": 1, "sort": 1, "multi": False, "includeAll": False, "hide": 0}

    def values(namespace: str, metric: str, dimension: str) -> dict[str, Any]:
        named = {"namespace": namespace, "metricName": metric, "dimensionKey": dimension, "dimensionFilters": {}}
        return {"queryType": "dimensionValues", "region": "$region"} | named

    queue = ("AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName")
    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "cloudwatch", "hide": 0},
        asked("region", "Region", {"queryType": "regions"}),
        asked("endpoint", "Endpoint", values("Fraud/Drift", "Drift", "EndpointName")),
        {"name": "pipeline", "label": "Pipeline", "type": "textbox", "query": "fraud-retrain", "hide": 0},
        asked("queue", "Queue of lost checks", values(*queue), "/DriftDeadLetters/"),
    ]
