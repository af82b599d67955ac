"""The alarms of ``infra/app.yml``, as the dashboards need them: what each watches, and from where on."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from fraud.pipeline.dashboards import Metric, Panel
from fraud.pipeline.parameters import ROOT

TEMPLATE = ROOT / "infra" / "app.yml"
SUMS = ("Sum", "SampleCount")  # statistics that grow with the period


@dataclass(frozen=True)
class Alarm:
    """An alarm of ``infra/app.yml``.

    Attributes
    ----------
    logical : str
        Its name in the template.
    name : str
        What follows ``fraud-<endpoint>-`` in its name.
    metric : Metric
        What it watches.
    period : int
        Seconds that one of its points stands for.
    threshold : float
        A parameter's default where the template takes a parameter.
    parameter : str
        That parameter; empty when the template holds a number.
    """

    logical: str
    name: str
    metric: Metric
    period: int
    threshold: float
    parameter: str


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms as what ``Fn::Sub`` would write for them."""


def _short(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return f"${{{node.value}}}" if suffix in ("Ref", "GetAtt") else node.value
    return loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else {}


_Loader.add_multi_constructor("!", _short)


@functools.cache
def alarms() -> tuple[Alarm, ...]:
    """Metric alarms of ``infra/app.yml``, in its order."""
    resources = _template()["Resources"]
    names = {"EndpointName": "{endpoint}", "PipelineName": "{pipeline}", "DriftDeadLetters.QueueName": "{queue}"}
    for logical, item in resources.items():
        if item["Type"] == "AWS::Serverless::Function":
            names[logical] = _filled(item["Properties"]["FunctionName"], names)
    found = []
    for logical, item in resources.items():
        if item["Type"] != "AWS::CloudWatch::Alarm":
            continue
        said = item["Properties"]
        named = {one["Name"]: _filled(one["Value"], names) for one in said["Dimensions"]}
        stat = said.get("ExtendedStatistic") or said["Statistic"]
        metric = Metric(said["Namespace"], said["MetricName"], named, stat, "")
        at = str(said["Threshold"])
        parameter = at[2:-1] if at.startswith("${") else ""
        threshold = default(parameter) if parameter else float(at)
        name = said["AlarmName"].removeprefix("fraud-${EndpointName}-")
        found.append(Alarm(logical, name, metric, int(said["Period"]), threshold, parameter))
    return tuple(found)


@functools.cache
def _template() -> dict[str, Any]:
    return dict(yaml.load(TEMPLATE.read_text(encoding="utf-8"), _Loader))


def default(parameter: str) -> float:
    """Default of a numeric parameter of ``infra/app.yml``."""
    return float(_template()["Parameters"][parameter]["Default"])


def _filled(text: str, names: Mapping[str, str]) -> str:
    for name, value in names.items():
        text = text.replace(f"${{{name}}}", value)
    return text


def watching(panel: Panel) -> list[Alarm]:
    """Alarms on one of a panel's metrics, with its statistic; none on states, which are their own threshold."""
    if panel.kind == "states":
        return []
    shown = [(metric.namespace, metric.name, metric.dimensions, metric.stat) for metric in panel.metrics]
    return [
        alarm
        for alarm in alarms()
        if (alarm.metric.namespace, alarm.metric.name, alarm.metric.dimensions, alarm.metric.stat) in shown
    ]


def comparable(alarm: Alarm, period: int) -> bool:
    """Whether points of so many seconds can be held against an alarm's threshold.

    A sum over five minutes is no sum over one, nor is a fifth of it: the alarm looks at the worst minute, which neither
    shows. Where one event is enough to ring, any period tells it.
    """
    return alarm.metric.stat not in SUMS or alarm.period == period or alarm.threshold == 1


def limits(panel: Panel, period: int = 0) -> list[tuple[str, float, str]]:
    """Thresholds to draw on a panel: label, value, and the template's parameter that decides it (or nothing).

    Parameters
    ----------
    panel : Panel
        What is drawn.
    period : int
        Seconds that one point stands for; 0 is the panel's own period.

    Returns
    -------
    list of tuple of (str, float, str)
        Those of the alarms that watch it and can be compared with it; then its own.
    """
    watched = [
        (f"alarm {alarm.name}", alarm.threshold, alarm.parameter)
        for alarm in watching(panel)
        if comparable(alarm, period or panel.period)
    ]
    own = [
        (label, default(value), value) if isinstance(value, str) else (label, float(value), "")
        for label, value in panel.lines.items()
    ]
    return watched + own
