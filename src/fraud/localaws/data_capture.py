"""Data capture: what went in and out of an endpoint, as SageMaker writes it to S3.

Each line is on disk (a spool file) before its request is answered, so what was acknowledged survives kill -9; a spool
file becomes one S3 object when it is old or large enough, when its fleet retires, or at the next start.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from botocore.exceptions import BotoCoreError, ClientError

from fraud.localaws.model_archive import S3Uri
from fraud.localaws.wire import Context

logger = logging.getLogger(__name__)

MAX_BYTES = 1 << 20
_LONGEST_PAUSE = 15.0
_MODES = {"Input": {"Input"}, "Output": {"Output"}, "InputAndOutput": {"Input", "Output"}}


def seconds() -> float:
    """Return how long lines are buffered (AWS: up to a couple of minutes)."""
    return float(os.environ.get("FRAUD_LOCAL_CAPTURE_SECONDS", "5"))


def object_key(prefix: str, endpoint: str, variant: str, opened: datetime) -> str:
    """Return the key of a capture object, named by when its buffer was opened (UTC)."""
    folder = f"{prefix.strip('/')}/{endpoint}/{variant}".lstrip("/")
    milliseconds = opened.microsecond // 1000
    return f"{folder}/{opened:%Y/%m/%d/%H}/{opened:%M-%S}-{milliseconds:03d}-{uuid.uuid4()}.jsonl"


class Capture:
    """What one variant of one fleet captures.

    Parameters
    ----------
    context : Context
        For S3, threads and background tasks.
    config : dict
        ``DataCaptureConfig`` of the endpoint config.
    endpoint, variant : str
        Parts of the object keys.
    """

    def __init__(self, context: Context, config: dict[str, Any], endpoint: str, variant: str) -> None:
        self.context = context
        self.endpoint = endpoint
        self.variant = variant
        self.percentage = config["InitialSamplingPercentage"] if config.get("EnableCapture", True) else 0
        self.destination = S3Uri.parse(config["DestinationS3Uri"])
        self.kms_key = config.get("KmsKeyId") or ""
        self.modes = {mode for option in config["CaptureOptions"] for mode in _MODES[option["CaptureMode"]]}
        kinds = config.get("CaptureContentTypeHeader") or {}
        self.encodings = {kind.lower(): "CSV" for kind in kinds.get("CsvContentTypes", [])}
        self.encodings |= {kind.lower(): "JSON" for kind in kinds.get("JsonContentTypes", [])}
        self.lost = 0
        self._file: BinaryIO | None = None
        self._path = Path()
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._uploads: set[asyncio.Task[Any]] = set()

    def record(
        self,
        body: bytes,
        content_type: str,
        answer: bytes,
        answer_type: str,
        inference_id: str | None = None,
        custom_attributes: str | None = None,
    ) -> None:
        """Capture one answered request, if it is sampled; never raises."""
        if self.percentage < 100 and random.random() * 100 >= self.percentage:
            return
        line = self.line(body, content_type, answer, answer_type, inference_id, datetime.now(UTC), custom_attributes)
        try:
            if self._file is None:
                line = self._open() + line
            assert self._file is not None
            self._file.write(line)  # unbuffered: in the kernel's hands, safe from our own death
        except OSError as error:  # as on AWS, a full disk stops capture, not the endpoint
            self.lost += 1
            logger.error("%s/%s: capture lost record %d: %s", self.endpoint, self.variant, self.lost, error)
            return
        self._size += len(line)
        if self._size >= MAX_BYTES:
            self.flush()

    def line(
        self,
        body: bytes,
        content_type: str,
        answer: bytes,
        answer_type: str,
        inference_id: str | None,
        now: datetime,
        custom_attributes: str | None = None,
    ) -> bytes:
        """Return the JSON line of a request."""
        data = {}
        if "Input" in self.modes:
            data["endpointInput"] = self._side("INPUT", body, content_type)
        if "Output" in self.modes:
            data["endpointOutput"] = self._side("OUTPUT", answer, answer_type)
        event: dict[str, Any] = {"eventId": str(uuid.uuid4())}
        if custom_attributes:
            event["customAttributes"] = [custom_attributes]
        if inference_id:
            event["inferenceId"] = inference_id
        event["inferenceTime"] = f"{now:%Y-%m-%dT%H:%M:%SZ}"
        record = {"captureData": data, "eventMetadata": event, "eventVersion": "0"}
        return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"

    def _side(self, mode: str, data: bytes, content_type: str) -> dict[str, str]:
        encoding = self.encodings.get(content_type.partition(";")[0].strip().lower(), "BASE64")
        text = ""
        if encoding != "BASE64":
            try:
                text = data.decode()
            except UnicodeDecodeError:
                encoding = "BASE64"
        if encoding == "BASE64":
            text = base64.b64encode(data).decode()
        return {"observedContentType": content_type, "mode": mode, "data": text, "encoding": encoding}

    def _open(self) -> bytes:
        """Open a spool file and return its first line: where the rest belongs."""
        opened = datetime.now(UTC)
        key = object_key(self.destination.key, self.endpoint, self.variant, opened)
        folder = spool(self.context)
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{Path(key).stem}.jsonl"
        self._file = self._path.open("ab", buffering=0)
        self._timer = asyncio.get_running_loop().call_later(seconds(), self.flush)
        target = {"bucket": self.destination.bucket, "key": key, "kms": self.kms_key}
        return json.dumps(target).encode() + b"\n"

    def flush(self) -> None:
        """Close the buffer and upload it in the background."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._file is None:
            return
        self._file.close()
        self._file, self._size = None, 0
        task = self.context.background(_upload_until_done(self.context, self._path))
        self._uploads.add(task)
        task.add_done_callback(self._uploads.discard)

    async def close(self, patience: float = 5.0) -> None:
        """Flush and wait for the uploads; what is not up after `patience` seconds stays in the spool."""
        self.flush()
        if self._uploads:
            await asyncio.wait(set(self._uploads), timeout=patience)


def spool(context: Context) -> Path:
    """Return the folder of lines that are not in S3 yet."""
    return context.state / "capture-spool"


def left_behind(context: Context) -> Iterator[Path]:
    """Yield the spool files of a former daemon."""
    yield from sorted(spool(context).glob("*.jsonl"))


async def recover(context: Context) -> None:
    """Upload what a former daemon did not get to."""
    for path in list(left_behind(context)):
        await _upload_until_done(context, path)


async def _upload_until_done(context: Context, path: Path) -> None:
    pause = 0.5
    while True:
        try:
            await context.call(upload, context, path)
            return
        except (BotoCoreError, ClientError, OSError) as error:
            if pause < _LONGEST_PAUSE:  # said a few times, not for ever
                logger.warning("capture file %s is not uploaded yet: %s", path.name, error)
            if not path.exists():
                return
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


def upload(context: Context, path: Path) -> None:
    """Put one spool file to its place in S3, then remove it. Doing it twice gives the same object."""
    head, _, lines = path.read_bytes().partition(b"\n")
    lines = lines[: lines.rfind(b"\n") + 1]  # a line without its end was never acknowledged
    try:
        target = json.loads(head)
        place = {"Bucket": target["bucket"], "Key": target["key"]}
    except (ValueError, KeyError, TypeError):
        logger.error("%s is not a capture file; put aside", path)
        path.replace(path.with_suffix(".unreadable"))
        return
    if lines:
        encryption = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": target["kms"]} if target.get("kms") else {}
        context.client("s3").put_object(**place, Body=lines, ContentType="application/jsonlines", **encryption)
    path.unlink(missing_ok=True)
