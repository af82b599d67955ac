"""The log of a build: a file that commands write to themselves, copied to CloudWatch Logs while it grows."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from botocore.exceptions import BotoCoreError, ClientError

logger = logging.getLogger(__name__)

_EVERY = 1.0  # seconds between two deliveries
_LARGEST_EVENT = 200_000  # bytes; the service's limit is 262144 with its own 26 for each event
_LARGEST_BATCH = 800_000  # bytes; the service's limit is 1048576
_MOST_EVENTS = 10_000


class BuildLog:
    """Lines of the build and output of its commands, in one file and one log stream.

    Parameters
    ----------
    path : Path
        The file; commands get it as their standard output.
    connect : callable or None
        Returns a client of CloudWatch Logs; called while the build works already, because making it takes a moment.
        Without it, or when the service cannot be reached, the file is all there is.
    group, stream : str
        Where CloudWatch keeps it.
    """

    def __init__(self, path: Path, connect: Callable[[], Any] | None, group: str, stream: str) -> None:
        self.path = path
        self.file: IO[bytes] = path.open("ab", buffering=0)
        self._connect = connect
        self._client: Any = None
        self._where = {"logGroupName": group, "logStreamName": stream}
        self._offset = path.stat().st_size
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._deliver, daemon=True)
        self._thread.start()

    def say(self, text: str) -> None:
        """Write a line of the build's own, as CodeBuild words it."""
        moment = time.strftime("%Y/%m/%d %H:%M:%S", time.gmtime())
        self.file.write(f"[Container] {moment} {text}\n".encode())

    def close(self) -> None:
        """Deliver the rest."""
        self._closing.set()
        self._thread.join(15)
        self.file.close()

    def _deliver(self) -> None:
        if self._connect is None:
            return
        try:
            self._client = self._connect()
            self._prepare()
            while not self._closing.wait(_EVERY):
                self._send(final=False)
            self._send(final=True)
        except (BotoCoreError, ClientError, OSError) as error:
            logger.warning("the build's log stays in %s: %s", self.path, error)
            with contextlib.suppress(ValueError):  # closed
                self.say(f"CloudWatch Logs does not take this log: {error}")

    def _prepare(self) -> None:
        group = {"logGroupName": self._where["logGroupName"]}
        for create, names in ((self._client.create_log_group, group), (self._client.create_log_stream, self._where)):
            try:
                create(**names)
            except ClientError as error:
                if error.response["Error"]["Code"] != "ResourceAlreadyExistsException":
                    raise

    def _send(self, *, final: bool) -> None:
        with self.path.open("rb") as file:
            file.seek(self._offset)
            fresh = file.read()
        whole = len(fresh) if final else fresh.rfind(b"\n") + 1
        events: list[dict[str, Any]] = []
        size = 0
        now = int(time.time() * 1000)
        for line in fresh[:whole].split(b"\n"):
            text = line[:_LARGEST_EVENT].decode("utf-8", "replace").rstrip("\r")
            if not text.strip():
                continue  # the service refuses an empty message
            if size + len(line) > _LARGEST_BATCH or len(events) == _MOST_EVENTS:
                self._client.put_log_events(**self._where, logEvents=events)
                events, size = [], 0
            events.append({"timestamp": now, "message": text})
            size += min(len(line), _LARGEST_EVENT) + 26
        if events:
            self._client.put_log_events(**self._where, logEvents=events)
        self._offset += whole
