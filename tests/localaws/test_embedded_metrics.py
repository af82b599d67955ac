"""Lines that Lambdas log in the embedded metric format become metrics, each once, and alarms ring and calm down."""

from __future__ import annotations

import asyncio
import io
import json
import time
import uuid
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fraud.localaws.embedded_metrics import OVERLAP_MS, EmbeddedMetrics, batches, read_line
from fraud.localaws.store import Store

LAMBDA = """
import json, time

def handler(event, context):
    print("an ordinary line")
    about = {"Namespace": event["namespace"], "Dimensions": [["Service"]], "Metrics": [{"Name": "Excess"}]}
    aws = {"Timestamp": int(1000 * time.time()), "CloudWatchMetrics": [about]}
    line = {"Service": "test", "id": context.aws_request_id, "Excess": event["excess"], "_aws": aws}
    print(json.dumps(line))
    return {}
"""


def line(values: Any, *, at: int = 1_700_000_000_000, **more: Any) -> str:
    metrics = [{"Name": "Review", "Unit": "None"}, {"Name": "Latency", "Unit": "Milliseconds"}]
    directives = [
        {"Namespace": "Fraud/Api", "Dimensions": [["Service"], ["Service", "Model"]], "Metrics": metrics},
    ]
    said = {"Service": "inference", "Latency": 2.5, "Review": values, "route": "/predict"}
    return json.dumps(said | {"_aws": {"Timestamp": at, "CloudWatchMetrics": directives}} | more)


# -- what a line says


def test_a_line_says_its_values_by_each_set_of_dimensions() -> None:
    second = 1_700_000_000
    review = ("Fraud/Api", "Review", "None", (("Service", "inference"),), second)
    latency = ("Fraud/Api", "Latency", "Milliseconds", (("Service", "inference"),), second)
    assert read_line(line([1, 0]), 5) == [(review, 1.0), (review, 0.0), (latency, 2.5)]  # it names no model
    both = [key[3] for key, _ in read_line(line(1, Model="m"), 5)]
    assert both == [(("Service", "inference"),)] * 2 + [(("Service", "inference"), ("Model", "m"))] * 2
    assert [value for key, value in read_line(line("many"), 5) if key[1] == "Review"] == []
    assert [value for key, value in read_line(line([True, None, 3, float("nan")]), 5) if key[1] == "Review"] == [3.0]


@pytest.mark.parametrize(
    "text",
    [
        "START RequestId: 1",
        "[]",
        "{}",
        '{"_aws": 1}',
        '{"_aws": {"CloudWatchMetrics": [{}]}}',
        '{"_aws": {"CloudWatchMetrics": [{"Namespace": "n", "Dimensions": [[{}]], "Metrics": []}]}}',
        '{"_aws": {"Timestamp": "soon", "CloudWatchMetrics": []}}',
        "[" * 100_000,
    ],
)
def test_other_lines_say_nothing(text: str) -> None:
    assert read_line(text, 5) == []


def test_equal_values_of_a_second_are_told_once_with_their_count() -> None:
    values = [*read_line(line([1, 0, 1]), 0), *read_line(line([1]), 0), *read_line(line([1], at=1_700_000_001_000), 0)]
    ((namespace, data),) = batches(values)
    told = {(item["MetricName"], item["Timestamp"].timestamp()): (item["Values"], item["Counts"]) for item in data}
    assert namespace == "Fraud/Api"
    assert told["Review", 1_700_000_000] == ([1.0, 0.0], [3.0, 1.0])
    assert told["Review", 1_700_000_001] == ([1.0], [1.0])
    many = [value for k in range(4) for value in read_line(line([100 * k + n for n in range(100)]), 0)]
    sizes = [len(item["Values"]) for _, chunk in batches(many) for item in chunk if item["MetricName"] == "Review"]
    assert sizes == [150, 150, 100], "CloudWatch takes 150 values a datum"


# -- each once


class Logs:
    """Log groups in memory; pages of two lines."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def put(self, at: int, *values: int) -> None:
        text = line(list(values), at=at, id=uuid.uuid4().hex)
        self.events.append({"timestamp": at, "message": text, "logStreamName": uuid.uuid4().hex})

    def get_paginator(self, operation: str) -> Any:
        if operation == "describe_log_groups":
            return SimpleNamespace(paginate=lambda **_: [{"logGroups": [{"logGroupName": "/aws/lambda/inference"}]}])
        return SimpleNamespace(paginate=self._filtered)

    def _filtered(self, *, logGroupName: str, startTime: int, filterPattern: str) -> Any:
        assert (logGroupName, filterPattern) == ("/aws/lambda/inference", '"CloudWatchMetrics"')
        time.sleep(0.02)  # so that who does not wait for another reads the same
        found = sorted((e for e in self.events if e["timestamp"] >= startTime), key=lambda e: e["timestamp"])
        return [{"events": found[k : k + 2]} for k in range(0, len(found), 2)]


class CloudWatch:
    def __init__(self) -> None:
        self.told: list[float] = []

    def put_metric_data(self, *, Namespace: str, MetricData: list[dict[str, Any]]) -> None:
        for datum in MetricData:
            if datum["MetricName"] == "Review":
                pairs = zip(datum["Values"], datum["Counts"], strict=True)
                self.told += [value for value, count in pairs for _ in range(int(count))]


class World:
    """A daemon's memory over log groups; `new` is the next daemon."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.logs, self.cloudwatch = folder, Logs(), CloudWatch()
        self.new()

    def new(self) -> None:
        clients = {"logs": self.logs, "cloudwatch": self.cloudwatch}
        context = SimpleNamespace(client=clients.__getitem__, store=Store(self.folder), call=asyncio.to_thread)
        self.metrics = EmbeddedMetrics(context)

    def collect(self, times: int = 1) -> list[float]:
        async def together() -> None:
            await asyncio.gather(*(self.metrics.collect() for _ in range(times)))

        self.cloudwatch.told.clear()
        asyncio.run(together())
        return sorted(self.cloudwatch.told)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_each_line_is_told_once(world: World) -> None:
    now = int(1000 * time.time())
    world.logs.put(now - 60_000, 99)  # before anybody read
    for k in range(5):
        world.logs.put(now + k, k)
    assert world.collect() == [0, 1, 2, 3, 4]
    assert world.collect() == []
    world.logs.put(now + 4, 5)  # in the very millisecond of the last one
    world.logs.put(now + 1, 6)  # stamped before what was read, kept after it
    assert world.collect(times=3) == [5, 6]
    world.new()
    assert world.collect() == [], "another daemon goes on where the former one was"
    world.logs.put(now + 2 * OVERLAP_MS, 7)
    world.new()
    assert world.collect() == [7]
    world.logs.put(now + 2 * OVERLAP_MS + 1, 8)
    assert world.collect() == [8]


def test_a_line_that_cannot_be_told_is_lost_rather_than_told_twice(world: World, monkeypatch) -> None:
    world.logs.put(int(1000 * time.time()), 1)

    def down(**_: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr(world.cloudwatch, "put_metric_data", down)
    with pytest.raises(ConnectionError):  # no error of botocore, so not expected
        world.collect()
    monkeypatch.undo()
    assert world.collect() == []


# -- on the local AWS


@pytest.fixture
def function(aws) -> Any:
    """Invoke a Lambda that logs a line; gives the namespace of its metric."""
    name, client = f"emf-{uuid.uuid4().hex[:8]}", aws.client("lambda")
    code = io.BytesIO()
    with zipfile.ZipFile(code, "w") as archive:
        archive.writestr("app.py", LAMBDA)
    client.create_function(
        FunctionName=name,
        Runtime="python3.12",
        Handler="app.handler",
        Role=aws.role,
        Timeout=25,
        Code={"ZipFile": code.getvalue()},
    )
    yield (
        lambda excess: (
            client.invoke(
                FunctionName=name, Payload=json.dumps({"namespace": f"Test/{name}", "excess": excess}).encode()
            )
            and f"Test/{name}"
        )
    )
    client.delete_function(FunctionName=name)


def until(look: Any, wanted: Any, patience: float = 40) -> None:
    end = time.monotonic() + patience
    while (found := look()) != wanted:
        assert time.monotonic() < end, f"{found}, not {wanted}"
        time.sleep(0.3)


@pytest.mark.localaws
def test_what_a_lambda_logs_becomes_a_metric_that_rings_an_alarm(aws, function) -> None:
    watch = aws.client("cloudwatch")
    namespace = function(2)
    watch.put_metric_alarm(
        AlarmName=namespace,
        Namespace=namespace,
        MetricName="Excess",
        Dimensions=[{"Name": "Service", "Value": "test"}],
        Statistic="Sum",
        Period=10,
        EvaluationPeriods=2,
        Threshold=5,
        ComparisonOperator="GreaterThanOrEqualToThreshold",
        TreatMissingData="notBreaching",
    )

    def seen() -> tuple[float, float]:
        now = datetime.now(UTC)
        points = watch.get_metric_statistics(
            Namespace=namespace,
            MetricName="Excess",
            Dimensions=[{"Name": "Service", "Value": "test"}],
            StartTime=now - timedelta(hours=1),
            EndTime=now + timedelta(minutes=1),
            Period=3600,
            Statistics=["Sum", "SampleCount"],
        )["Datapoints"]
        return sum(point["Sum"] for point in points), sum(point["SampleCount"] for point in points)

    def state() -> str:
        return watch.describe_alarms(AlarmNames=[namespace])["MetricAlarms"][0]["StateValue"]

    until(seen, (2, 1))
    assert state() == "OK"
    function([3, -1, 2])
    until(seen, (6, 4))
    assert state() == "ALARM"
    until(state, "OK")  # nothing more came, which is not breaching
    assert seen() == (6, 4), "each line once"
    watch.delete_alarms(AlarmNames=[namespace])
