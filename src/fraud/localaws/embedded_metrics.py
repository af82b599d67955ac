"""Metrics that Lambdas write into their log lines, and alarms that nobody feeds any more.

CloudWatch Logs makes metrics of lines in the embedded metric format, and CloudWatch applies ``TreatMissingData`` to an
alarm whose metric falls silent. MiniStack, which runs the Lambdas here, does neither; so both are done for it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from fraud.localaws.wire import Context

logger = logging.getLogger(__name__)

GROUPS = "/aws/lambda/"
READ = "log-metrics"
"""Kind of the documents that say how far a log group has been read."""
OVERLAP_MS = 10_000  # a line that was stamped first may be kept last
MARK = '"CloudWatchMetrics"'
_MAX_VALUES, _MAX_LINE_VALUES, _MAX_DATA = 150, 100, 500
_SILENT = {"notBreaching": "OK", "missing": "INSUFFICIENT_DATA"}  # `ignore` and `breaching` leave an alarm ringing

Key = tuple[str, str, str, tuple[tuple[str, str], ...], int]


class EmbeddedMetrics:
    """Reads what Lambdas logged and tells CloudWatch, each line once.

    Parameters
    ----------
    context : Context
        For CloudWatch and its logs; its store remembers how far a log group was read.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self._began = int(1000 * time.time())
        self._busy = asyncio.Lock()

    async def collect(self) -> None:
        """Make metrics of the lines that came since the last time; what cannot be read waits for the next."""
        async with self._busy:
            try:
                await self.context.call(self._collect)
            except (BotoCoreError, ClientError) as error:
                logger.debug("metrics of log lines were not delivered: %s", error)

    async def calm(self) -> None:
        """Treat missing data of ringing alarms as they say."""
        try:
            await self.context.call(self._calm)
        except (BotoCoreError, ClientError) as error:
            logger.debug("alarms were not looked at: %s", error)

    async def run(self, period: float) -> None:
        """Do both for ever."""
        while True:
            await asyncio.sleep(period)
            await self.collect()
            await self.calm()

    def _collect(self) -> None:
        logs, cloudwatch = self.context.client("logs"), self.context.client("cloudwatch")
        pages = logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=GROUPS)
        names = [group["logGroupName"] for page in pages for group in page["logGroups"]]
        data: list[tuple[Key, float]] = []
        for name in names:
            for event in self._new(logs, name):
                data += read_line(event["message"], event["timestamp"])
        for namespace, chunk in batches(data):
            cloudwatch.put_metric_data(Namespace=namespace, MetricData=chunk)

    def _new(self, logs: Any, group: str) -> list[dict[str, Any]]:
        """Lines of a group that were not read yet. They count as read from here on: rather lost than told twice."""
        kept = self.context.store.get(READ, group)
        earliest = 0 if kept else self._began  # what was logged before anybody read is nobody's business
        until, ids = (int(kept["until"]), set(kept["ids"])) if kept else (self._began, set())
        pages = logs.get_paginator("filter_log_events").paginate(
            logGroupName=group, startTime=max(earliest, until - OVERLAP_MS), filterPattern=MARK
        )
        found = {_id(event): event for page in pages for event in page["events"]}
        new = [event for key, event in found.items() if key not in ids]
        if new:
            until = max(until, *(event["timestamp"] for event in new))
            recent = [key for key, event in found.items() if event["timestamp"] >= until - OVERLAP_MS]
            self.context.store.put(READ, group, {"until": until, "ids": sorted(recent)})
        return new

    def _calm(self) -> None:
        cloudwatch = self.context.client("cloudwatch")
        for alarm in cloudwatch.describe_alarms(StateValue="ALARM")["MetricAlarms"]:
            state = _SILENT.get(alarm.get("TreatMissingData", "missing"))
            if state and alarm.get("MetricName") and not _fed(cloudwatch, alarm):
                reason = f"No datum in {alarm['EvaluationPeriods']} periods: treated as {alarm['TreatMissingData']}."
                cloudwatch.set_alarm_state(AlarmName=alarm["AlarmName"], StateValue=state, StateReason=reason)


def read_line(text: str, timestamp: int) -> list[tuple[Key, float]]:
    """Values in a line of the embedded metric format; none in any other line.

    Parameters
    ----------
    text : str
        The line.
    timestamp : int
        When it was logged (ms since 1970), for lines that do not say.

    Returns
    -------
    list of tuple
        Namespace, name, unit, dimensions and second of each value, and the value; without those that are no numbers,
        and without dimensions that the line does not have.
    """
    try:
        return list(_values(json.loads(text), timestamp))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return []


def _values(line: dict[str, Any], timestamp: int) -> Iterator[tuple[Key, float]]:
    about = line["_aws"]
    second = int(about.get("Timestamp", timestamp)) // 1000
    for directive in about["CloudWatchMetrics"]:
        for names in directive["Dimensions"]:
            if not all(isinstance(line.get(name), str) and line[name] for name in names):
                continue
            dimensions = tuple((name, line[name]) for name in names)
            for metric in directive["Metrics"]:
                values = line.get(metric["Name"])
                key = (directive["Namespace"], metric["Name"], metric.get("Unit", "None"), dimensions, second)
                for value in (values if isinstance(values, list) else [values])[:_MAX_LINE_VALUES]:
                    if type(value) in (int, float) and math.isfinite(value):
                        yield key, float(value)


def batches(data: Iterable[tuple[Key, float]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Requests of PutMetricData: namespace and data, equal values of a second told once with their count."""
    counted: defaultdict[Key, Counter[float]] = defaultdict(Counter)
    for key, value in data:
        counted[key][value] += 1
    told: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for (namespace, name, unit, dimensions, second), counts in counted.items():
        values = list(counts)
        for start in range(0, len(values), _MAX_VALUES):
            part = values[start : start + _MAX_VALUES]
            told[namespace].append(
                {
                    "MetricName": name,
                    "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions],
                    "Timestamp": datetime.fromtimestamp(second, UTC),
                    "Unit": unit,
                    "Values": part,
                    "Counts": [float(counts[value]) for value in part],
                }
            )
    for namespace, chunk in told.items():
        for start in range(0, len(chunk), _MAX_DATA):
            yield namespace, chunk[start : start + _MAX_DATA]


def _fed(cloudwatch: Any, alarm: dict[str, Any]) -> bool:
    """Whether a datum of the alarm's metric is in its window; of whatever dimensions, as MiniStack evaluates it."""
    now = datetime.now(UTC)
    points = cloudwatch.get_metric_statistics(
        Namespace=alarm["Namespace"],
        MetricName=alarm["MetricName"],
        StartTime=now - timedelta(seconds=alarm["Period"] * alarm["EvaluationPeriods"]),
        EndTime=now + timedelta(seconds=60),
        Period=max(60, alarm["Period"]),
        Statistics=["SampleCount"],
    )
    return bool(points["Datapoints"])


def _id(event: dict[str, Any]) -> str:
    """What tells a line from all others of its group."""
    told = f"{event.get('logStreamName')}\n{event['timestamp']}\n{event['message']}"
    return str(event.get("eventId") or hashlib.sha256(told.encode()).hexdigest()[:32])
