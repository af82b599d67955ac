"""The AWS that the drift check sees: a bucket, the governor's state in it, and the pipeline that retrains."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import boto3
from botocore.config import Config

from fraud import conditional
from fraud.errors import ConflictError, DataError
from fraud.governor import checked
from fraud.moment import seconds

PATIENCE = Config(connect_timeout=2, read_timeout=20, retries={"total_max_attempts": 5, "mode": "standard"})
RUNNING = {"InProgress", "Stopping"}
CALL = "StartPipelineExecution"  # by which the governor starts, and a person by hand
PIECE = 8 << 20  # bytes of a large object read at once


@dataclass(frozen=True)
class Settings:
    """What the environment says."""

    endpoint: str
    bucket: str
    pipeline: str
    topic: str

    @classmethod
    def from_environ(cls) -> Settings:
        """Read ``ENDPOINT_NAME``, ``BUCKET``, ``PIPELINE_NAME`` and ``TOPIC_ARN``; without a topic nobody is told."""
        given = os.environ
        return cls(given["ENDPOINT_NAME"], given["BUCKET"], given["PIPELINE_NAME"], given.get("TOPIC_ARN", ""))


@functools.cache
def client(service: str) -> Any:
    """The one client of a service in this process."""
    return boto3.client(service, config=PATIENCE)


class Item(NamedTuple):
    """An object as it is listed."""

    key: str
    etag: str
    size: int
    modified: float  # seconds since 1970, UTC


class Bucket:
    """The objects this Lambda reads and writes."""

    def __init__(self, name: str) -> None:
        self.name, self.s3 = name, client("s3")

    def find(self, key: str) -> tuple[bytes, str] | None:
        """Body and entity tag; None when there is no such object."""
        try:
            answer = self.s3.get_object(Bucket=self.name, Key=key)
            return answer["Body"].read(), answer["ETag"]
        except self.s3.exceptions.NoSuchKey:
            return None

    def read(self, key: str) -> bytes:
        """Body of an object; `FileNotFoundError` when there is none: that is no empty window."""
        if (found := self.find(key)) is None:
            raise FileNotFoundError(key)
        return found[0]

    def pieces(self, key: str) -> tuple[str, Iterator[bytes]]:
        """Entity tag of an object, and its body in pieces of whole lines; the last one ends where the object does."""
        try:
            answer = self.s3.get_object(Bucket=self.name, Key=key)
        except self.s3.exceptions.NoSuchKey as error:
            raise FileNotFoundError(key) from error
        return answer["ETag"], _whole_lines(answer["Body"])

    def items(self, prefix: str, after: str = "") -> Iterator[Item]:
        """Objects under a prefix, in the order of their keys; those after a key only."""
        given = {"StartAfter": after} if after else {}
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix, **given):
            for item in page.get("Contents", ()):
                yield Item(item["Key"], item["ETag"], item["Size"], seconds(item["LastModified"]))

    def keys(self, prefix: str, after: str = "") -> Iterator[str]:
        """Keys under a prefix, in order; those after a key only."""
        return (item.key for item in self.items(prefix, after))

    def folders(self, prefix: str) -> list[str]:
        """Names right under a prefix that ends with a slash."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix, Delimiter="/")
        return [item["Prefix"].split("/")[-2] for page in pages for item in page.get("CommonPrefixes", ())]

    def put(self, key: str, body: bytes) -> None:
        """Write over what is there."""
        self.s3.put_object(Bucket=self.name, Key=key, Body=body)

    def put_once(self, key: str, document: dict[str, Any]) -> bool:
        """Write JSON unless there is an object already; whether the key now holds the document."""
        try:
            self.put_if(key, document, None)
        except ConflictError:
            return False
        return True

    def put_if(self, key: str, document: dict[str, Any] | str, etag: str | None) -> str:
        """Write JSON if the tag still holds, or without one if there is no object; else `ConflictError`.

        A write whose answer was lost has come through where the object is the document.
        """
        condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        text = document if isinstance(document, str) else json.dumps(document, allow_nan=False, ensure_ascii=False)
        body, kind = text.encode(), "application/json"

        def put() -> str:
            answer = self.s3.put_object(Bucket=self.name, Key=key, Body=body, ContentType=kind, **condition)
            return str(answer["ETag"])

        def stored_tag() -> str | None:
            found = self.find(key)
            return found[1] if found and found[0] == body else None

        if (tag := conditional.write(put, stored_tag, replaces=bool(etag))) is None:
            raise ConflictError(key)
        return tag


def _whole_lines(body: Any) -> Iterator[bytes]:
    rest = b""
    while piece := body.read(PIECE):
        head, end, tail = piece.rpartition(b"\n")
        if end:
            yield rest + head + end
            rest = tail
        else:
            rest += piece
    yield rest


@dataclass(frozen=True)
class State:
    """The governor's state: `fraud.governor.Store` over one object."""

    bucket: Bucket
    key: str

    def get(self) -> tuple[dict[str, Any] | None, str | None]:
        """Document and tag; an error names a document that cannot be used."""
        if (found := self.bucket.find(self.key)) is None:
            return None, None
        name = f"s3://{self.bucket.name}/{self.key}"
        try:
            document = json.loads(found[0])
        except ValueError as error:
            raise DataError(f"{name} is no JSON: restore an earlier version, or delete it.") from error
        return checked(document, name), found[1]

    def put_if(self, document: dict[str, Any], etag: str | None) -> str:
        """Write if the tag still holds."""
        return self.bucket.put_if(self.key, document, etag)


@dataclass(frozen=True)
class Pipeline:
    """CodePipeline as `fraud.governor.Pipeline`."""

    name: str

    def _executions(self) -> Iterator[dict[str, Any]]:
        """All that CodePipeline still knows, the newest first; a page may be short or empty and not the last."""
        pages = client("codepipeline").get_paginator("list_pipeline_executions").paginate(pipelineName=self.name)
        return (item for page in pages for item in page["pipelineExecutionSummaries"])

    def in_flight(self) -> bool:
        """Whether an execution is under way, whoever started it; one that waits may be older than many."""
        return any(item["status"] in RUNNING for item in self._executions())

    def runs_since(self, moment: float) -> list[tuple[str, float]]:
        """Executions that a call has started since then; clocks may differ by a few seconds."""
        calls = [item for item in self._executions() if item.get("trigger", {}).get("triggerType", CALL) == CALL]
        runs = [(str(item["pipelineExecutionId"]), seconds(item["startTime"])) for item in calls]
        return sorted((run for run in runs if run[1] >= moment - 5), key=lambda run: run[1])

    def start(self, token: str) -> str:
        """Start an execution; the same token starts it once."""
        answer = client("codepipeline").start_pipeline_execution(name=self.name, clientRequestToken=token)
        return str(answer["pipelineExecutionId"])
