"""The log of a job: sent to CloudWatch Logs, searched for metrics, its end kept for the failure reason."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections import deque
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from fraud.localaws.wire import Context

logger = logging.getLogger(__name__)

GROUP = "/aws/sagemaker/TrainingJobs"
PROCESSING = "/aws/sagemaker/ProcessingJobs"
_LONGEST_LINE = 64 * 1024
_LONGEST_MATCHED = 4096
_BATCH = 1000
_EVERY_SECONDS = 0.5


class JobLog:
    """What the container of one job writes.

    Parameters
    ----------
    context : Context
        Whose CloudWatch Logs.
    stream : str
        Log stream, ``<job>/algo-1-<time>``.
    metrics : list of dict
        ``MetricDefinitions`` of the job.
    group : str
        Log group.
    """

    def __init__(self, context: Context, stream: str, metrics: list[dict[str, str]], group: str = GROUP) -> None:
        self.context = context
        self.group = group
        self.stream = stream
        self.tail: deque[str] = deque(maxlen=30)
        self.values: dict[str, dict[str, Any]] = {}
        self._patterns = []
        for metric in metrics:
            try:
                self._patterns.append((metric["Name"], re.compile(metric["Regex"])))
            except re.error:
                logger.warning("the regular expression of metric %s cannot be read", metric["Name"])
        self._waiting: list[dict[str, Any]] = []
        self._rest = b""

    async def open(self) -> None:
        """Make the log stream."""
        logs = self.context.client("logs")
        for action, arguments in (
            (logs.create_log_group, {"logGroupName": self.group}),
            (logs.create_log_stream, {"logGroupName": self.group, "logStreamName": self.stream}),
        ):
            try:
                await self.context.call(action, **arguments)
            except ClientError as error:
                if error.response["Error"]["Code"] != "ResourceAlreadyExistsException":
                    logger.warning("log stream %s: %s", self.stream, error)
            except BotoCoreError as error:
                logger.warning("log stream %s: %s", self.stream, error)

    async def follow(self, reader: asyncio.StreamReader) -> None:
        """Take everything a process writes, until it closes its end."""
        sender = asyncio.create_task(self._send_regularly())
        try:
            while chunk := await reader.read(65536):
                self._take(chunk)
                if len(self._waiting) > 20 * _BATCH:  # a flood: let the sender catch up
                    await self.flush()
            if self._rest:
                self.line(self._rest.decode(errors="replace"))
                self._rest = b""
        finally:
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
            await self.flush()

    def _take(self, chunk: bytes) -> None:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > _LONGEST_LINE:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            self.line(line.decode(errors="replace"))

    def line(self, text: str) -> None:
        """Take one line."""
        text = text.rstrip("\r\n")
        now = time.time()
        if text.strip():
            self.tail.append(text[:2000])
        for name, pattern in self._patterns:
            if found := pattern.search(text[:_LONGEST_MATCHED]):
                try:
                    value = float(found[1] if pattern.groups else found[0])
                except (ValueError, TypeError):
                    continue
                if not math.isfinite(value):
                    continue
                self.values[name] = {"MetricName": name, "Value": value, "Timestamp": round(now, 3)}
        # CloudWatch Logs refuses an empty message
        self._waiting.append({"timestamp": int(now * 1000), "message": text[:_LONGEST_LINE] or " "})

    async def _send_regularly(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Send what waits; a log that cannot be sent never fails the job."""
        while self._waiting:
            size = count = 0
            while count < min(_BATCH, len(self._waiting)):
                size += len(self._waiting[count]["message"].encode()) + 26
                if size > 1_000_000 and count:
                    break
                count += 1
            batch, self._waiting = self._waiting[:count], self._waiting[count:]
            try:
                await self.context.call(
                    self.context.client("logs").put_log_events,
                    logGroupName=self.group,
                    logStreamName=self.stream,
                    logEvents=batch,
                )
            except (ClientError, BotoCoreError) as error:
                logger.warning("lost %d lines of %s: %s", count, self.stream, error)
