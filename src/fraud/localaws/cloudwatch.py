"""What endpoints tell CloudWatch (metrics, logs) and what rollouts read there (alarms). Never in a request's way."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from fraud.localaws.wire import Context

logger = logging.getLogger(__name__)

NAMESPACE = "AWS/SageMaker"
_MAX_VALUES = 150  # of one datum, by CloudWatch


class Latencies:
    """Microseconds in bins a tenth wide: exact sum and count, percentiles to within 10 %.

    CloudWatch computes percentiles from values and counts, not from a statistic set, and takes 150 values a datum.
    """

    def __init__(self) -> None:
        self._bins: defaultdict[int, list[float]] = defaultdict(lambda: [0.0, 0])

    def add(self, microseconds: float) -> None:
        """Count one."""
        kept = self._bins[round(math.log(max(microseconds, 1.0)) * 10)]
        kept[0] += microseconds
        kept[1] += 1

    def datum(self) -> dict[str, Any]:
        """Return the ``Values`` and ``Counts`` of a datum."""
        bins = [self._bins[key] for key in sorted(self._bins)][:_MAX_VALUES]
        return {"Values": [total / count for total, count in bins], "Counts": [float(count) for _, count in bins]}


@dataclass
class Counters:
    """What one variant did since the last report."""

    invocations: int = 0
    client_errors: int = 0
    server_errors: int = 0
    model: Latencies = field(default_factory=Latencies)
    overhead: Latencies = field(default_factory=Latencies)

    def data(self, endpoint: str, variant: str) -> list[dict[str, Any]]:
        """Return metric data; zeros when nothing happened, so that alarms see a quiet endpoint and not a gap."""
        dimensions = [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": variant}]
        result = []
        for name, total in (
            ("Invocations", self.invocations),
            ("Invocation4XXErrors", self.client_errors),
            ("Invocation5XXErrors", self.server_errors),
        ):
            value: dict[str, Any] = {"Value": 0.0}
            if self.invocations:  # one sample a request, so that Average is the error rate, as on AWS
                low, high = float(total == self.invocations), float(total > 0)
                counts = {"SampleCount": float(self.invocations), "Sum": float(total), "Minimum": low, "Maximum": high}
                value = {"StatisticValues": counts}
            result.append({"MetricName": name, "Dimensions": dimensions, "Unit": "None", **value})
        if self.invocations:
            for name, latencies in (("ModelLatency", self.model), ("OverheadLatency", self.overhead)):
                datum = {"MetricName": name, "Dimensions": dimensions, "Unit": "Microseconds", **latencies.datum()}
                result.append(datum)
        return result


class Metrics:
    """Counts invocations and reports them every few seconds.

    Parameters
    ----------
    context : Context
        For CloudWatch.
    live : callable
        Returns the ``(endpoint, variant)`` pairs that are in service: they report zeros when idle.
    """

    def __init__(self, context: Context, live: Callable[[], Iterable[tuple[str, str]]]) -> None:
        self.context = context
        self.live = live
        self.period = float(os.environ.get("FRAUD_LOCAL_METRIC_SECONDS", "5"))
        self._counters: dict[tuple[str, str], Counters] = {}

    def count(self, endpoint: str, variant: str, status: int, model_seconds: float, overhead_seconds: float) -> None:
        """Count one invocation that the container answered with `status`."""
        counters = self._counters.setdefault((endpoint, variant), Counters())
        counters.invocations += 1
        counters.client_errors += 400 <= status < 500
        counters.server_errors += status >= 500
        counters.model.add(model_seconds * 1e6)
        counters.overhead.add(overhead_seconds * 1e6)

    async def report(self) -> None:
        """Send what was counted since the last time; what cannot be sent is dropped."""
        counted, self._counters = self._counters, {}
        for pair in self.live():
            counted.setdefault(pair, Counters())
        data = [datum for (name, variant), counters in counted.items() for datum in counters.data(name, variant)]
        for start in range(0, len(data), 500):
            try:
                await self.context.call(
                    self.context.client("cloudwatch").put_metric_data,
                    Namespace=NAMESPACE,
                    MetricData=data[start : start + 500],
                )
            except (BotoCoreError, ClientError) as error:
                logger.warning("metrics were not delivered: %s", error)

    async def run(self) -> None:
        """Report for ever."""
        while True:
            await asyncio.sleep(self.period)
            await self.report()


async def alarm_states(context: Context, names: list[str]) -> dict[str, str]:
    """Return the state of each alarm that exists: ``OK``, ``ALARM`` or ``INSUFFICIENT_DATA``."""
    found = await context.call(
        context.client("cloudwatch").describe_alarms,
        AlarmNames=names,
        AlarmTypes=["MetricAlarm", "CompositeAlarm"],
    )
    alarms = [*found.get("MetricAlarms", []), *found.get("CompositeAlarms", [])]
    return {alarm["AlarmName"]: alarm["StateValue"] for alarm in alarms}


@dataclass
class _Tail:
    path: Path
    group: str
    stream: str
    offset: int
    last: bool = False


class LogShipper:
    """Follows log files and sends new lines to CloudWatch Logs, in batches, best effort."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._tails: list[_Tail] = []
        self._made: set[tuple[str, str]] = set()

    def follow(self, path: Path, group: str, stream: str, offset: int) -> None:
        """Send what is appended to `path` from `offset` on; what is followed already goes on from where it is."""
        if any((tail.path, tail.stream, tail.last) == (path, stream, False) for tail in self._tails):
            return
        self._tails.append(_Tail(path, group, stream, offset))

    def leave(self, path: Path, stream: str) -> None:
        """Stop following, after what is there now."""
        for tail in self._tails:
            tail.last = tail.last or (tail.path == path and tail.stream == stream)

    async def ship(self) -> None:
        """Send what is new."""
        for tail in list(self._tails):
            try:
                await self.context.call(self._send, tail)
            except (BotoCoreError, ClientError, OSError) as error:
                logger.debug("log lines of %s were not delivered: %s", tail.stream, error)
            if tail.last and tail in self._tails:
                self._tails.remove(tail)

    async def run(self, period: float = 2.0) -> None:
        """Ship for ever."""
        while True:
            await asyncio.sleep(period)
            await self.ship()

    def _send(self, tail: _Tail) -> None:
        with tail.path.open("rb") as file:
            if tail.offset > tail.path.stat().st_size:  # it was rotated
                tail.offset = 0
            file.seek(tail.offset)
            data = file.read(512 * 1024)
        data = data if tail.last else data[: data.rfind(b"\n") + 1]
        if not data:
            return
        logs, now = self.context.client("logs"), int(time.time() * 1000)
        if (tail.group, tail.stream) not in self._made:
            for create, names in (
                (logs.create_log_group, {"logGroupName": tail.group}),
                (logs.create_log_stream, {"logGroupName": tail.group, "logStreamName": tail.stream}),
            ):
                try:
                    create(**names)
                except logs.exceptions.ResourceAlreadyExistsException:
                    pass
            self._made.add((tail.group, tail.stream))
        lines = [line for line in data.decode("utf-8", "replace").splitlines() if line.strip()]
        events = [{"timestamp": now, "message": line[:8192]} for line in lines]
        for start in range(0, len(events), 1000):
            logs.put_log_events(
                logGroupName=tail.group, logStreamName=tail.stream, logEvents=events[start : start + 1000]
            )
        tail.offset += len(data)
