"""The bucket. The only module that talks to S3.

Keys never hold a double slash; every call names the bucket's owner where it is known, and is retried until it has an
answer. Objects that must not change are written with a condition; an answer that was lost on the way back is told from
a writer who came first by comparing what is stored.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    IncompleteReadError,
    NoCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from fraud import conditional
from fraud.conditional import ABSENT, CHANGED, CONFLICT
from fraud.conditional import code_of as _code
from fraud.errors import DataError, PlatformError

CHUNK = 4 << 20  # bytes a read
PASSING = CONFLICT | {  # S3 answers that a later attempt may not give
    "500", "502", "503", "504", "InternalError", "RequestTimeout", "RequestTimeTooSkewed", "ServiceUnavailable",
    "SlowDown", "Throttling", "ThrottlingException",
}  # fmt: skip
BROKEN = (ConnectionClosedError, ConnectTimeoutError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError)
_RAISE: Any = object()


def join(*parts: str) -> str:
    """Join the parts of a key with single slashes; a slash at the very end stays.

    Examples
    --------
    >>> join("data-capture/", "/fraud", "AllTraffic/")
    'data-capture/fraud/AllTraffic/'
    """
    return re.sub("/+", "/", "/".join(part for part in parts if part)).lstrip("/")


def parse_uri(uri: str) -> tuple[str, str]:
    """Split ``s3://bucket/key`` into bucket and key, without double slashes.

    Raises
    ------
    DataError
        When it is no such address.
    """
    found = re.fullmatch(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?", uri, re.DOTALL)
    if not found:
        raise DataError(f"{uri!r} is no address of the form s3://bucket/key.")
    return found[1], join(found[2] or "")


def _passing(error: BaseException) -> bool:
    return isinstance(error, BROKEN) or _code(error) in PASSING


@dataclass(frozen=True)
class Item:
    """One object as a listing shows it.

    Attributes
    ----------
    key, etag : str
        Its key, and the entity tag without quotes.
    size : int
        Bytes.
    last_modified : datetime
        UTC.
    """

    key: str
    size: int
    etag: str
    last_modified: dt.datetime


class Storage:
    """Objects of one bucket.

    Parameters
    ----------
    bucket : str
        Its name.
    client : optional
        A boto3 S3 client; by default the process's own.
    owner : str, optional
        Account that must own the bucket; S3 refuses every call when another does. By default the account of
        ``FRAUD_TRAIN_ROLE_ARN``, if that is set.
    attempts : int, default=8
        How often a call is made before it counts as failed.
    wait : float, default=0.1
        Scale of the random pause between attempts (seconds).
    """

    def __init__(
        self, bucket: str, client: Any = None, owner: str | None = None, attempts: int = 8, wait: float = 0.1
    ) -> None:
        if client is None:
            from fraud.pipeline.where import client as make

            client = make("s3")
        if owner is None:
            owner = (os.environ.get("FRAUD_TRAIN_ROLE_ARN", "").split(":") + [""] * 5)[4]
        self.bucket, self.client, self.owner = bucket, client, owner
        self._attempts, self._wait = attempts, wait

    def __repr__(self) -> str:
        return f"Storage(s3://{self.bucket})"

    def uri(self, key: str) -> str:
        """``s3://`` address of a key."""
        return f"s3://{self.bucket}/{join(key)}"

    def _call(
        self,
        operation: str,
        key: str | Item,
        then: Callable[[Any], Any] = lambda answer: answer,
        source: Path | None = None,
        **given: Any,
    ) -> Any:
        """Make one call, again while it fails for a passing reason.

        ``then`` reads the answer and ``source`` is opened inside the attempt, so that each attempt is whole.
        """
        # A listed object is asked for under the very key that was listed, even when that has a double slash.
        key = key.key if isinstance(key, Item) else join(key)
        given |= {"Bucket": self.bucket} | ({"Key": key} if key else {})
        given |= {"ExpectedBucketOwner": self.owner} if self.owner else {}
        tries = Retrying(
            retry=retry_if_exception(_passing),
            stop=stop_after_attempt(self._attempts),
            wait=wait_random_exponential(multiplier=self._wait, max=8),
            reraise=True,
        )

        def attempt() -> Any:
            with source.open("rb") if source else contextlib.nullcontext() as file:
                body = {"Body": file} if source else {}
                return then(getattr(self.client, operation)(**given, **body))

        try:
            return tries(attempt)
        except (ClientError, BotoCoreError) as error:
            if _code(error) in ABSENT | CHANGED:
                raise
            raise PlatformError(self._sentence(operation, key, error)) from error

    def _sentence(self, operation: str, key: str, error: Exception) -> str:
        where, code = self.uri(key), _code(error)
        if code == "NoSuchBucket":
            return f"There is no bucket {self.bucket}: deploy infra/app.yml, or name the right bucket."
        if code in ("AccessDenied", "403", "InvalidAccessKeyId", "ExpiredToken", "SignatureDoesNotMatch"):
            owned = f" (it must belong to account {self.owner})" if self.owner else ""
            return f"S3 does not allow {operation} on {where}{owned}: check credentials, role and bucket policy."
        if isinstance(error, NoCredentialsError):
            return f"No AWS credentials to reach {where}: log in to AWS, or start the local AWS with `fraud local up`."
        if isinstance(error, EndpointConnectionError):
            return f"Nothing answers for {where}: start the local AWS with `fraud local up`, or check the network."
        return f"{operation} on {where} failed {self._attempts} times, last with {code or type(error).__name__}."

    # reading

    def get(self, key: str | Item, default: Any = _RAISE) -> Any:
        """Read a whole object, named by its key or as it was listed, as bytes.

        Raises
        ------
        DataError
            When there is none and no ``default`` is given.
        """
        found = self.get_tagged(key)
        if found is not None:
            return found[0]
        if default is _RAISE:
            raise DataError(f"{self.uri(key.key if isinstance(key, Item) else key)} does not exist.")
        return default

    def get_tagged(self, key: str | Item) -> tuple[bytes, str] | None:
        """Read a whole object and its entity tag; None when there is none."""
        try:
            return self._call("get_object", key, then=lambda answer: (answer["Body"].read(), _tag(answer)))
        except ClientError as error:
            if _code(error) in CHANGED:
                raise
            return None

    def head(self, key: str) -> Item | None:
        """Size, entity tag and time of an object; None when there is none."""
        try:
            found = self._call("head_object", key)
        except ClientError:
            return None
        return Item(join(key), found["ContentLength"], _tag(found), found["LastModified"])

    def exists(self, key: str) -> bool:
        """Whether there is such an object."""
        return self.head(key) is not None

    def list(self, prefix: str, after: str = "", exact: bool = False) -> Iterator[Item]:
        """List objects under a prefix in the order of their keys, those after ``after`` only.

        With ``exact`` a double slash in the prefix is one: SageMaker captures under ``data-capture//…`` when the
        configured address ends with a slash.
        """
        token: dict[str, str] = {"StartAfter": after} if after else {}
        while True:
            page = self._call("list_objects_v2", "", Prefix=prefix if exact else join(prefix), **token)
            for found in page.get("Contents", []):
                yield Item(found["Key"], found["Size"], found["ETag"].strip('"'), found["LastModified"])
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def list_keys(self, prefix: str, after: str = "") -> Iterator[str]:
        """List keys under a prefix in order, those after ``after`` only."""
        return (item.key for item in self.list(prefix, after))

    def folders(self, prefix: str, exact: bool = False) -> list[str]:
        """Names one level below a prefix, without slashes; ``exact`` as for `list`."""
        found, token, prefix = [], {}, prefix if exact else join(prefix, "/")
        while True:
            page = self._call("list_objects_v2", "", Prefix=prefix, Delimiter="/", **token)
            found += [entry["Prefix"][len(prefix) :].strip("/") for entry in page.get("CommonPrefixes", [])]
            if not page.get("IsTruncated"):
                return [name for name in found if name]
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def download(self, item: Item, path: Path) -> None:
        """Stream one listed object to a local file.

        Raises
        ------
        DataError
            When the object was replaced since it was listed.
        """

        def write(answer: Any) -> None:
            with path.open("wb") as file:
                for chunk in answer["Body"].iter_chunks(CHUNK):
                    file.write(chunk)
                if file.tell() != item.size:
                    raise IncompleteReadError(actual_bytes=file.tell(), expected_bytes=item.size)

        try:
            self._call("get_object", item, then=write, IfMatch=item.etag)
        except ClientError as error:
            raise DataError(f"{self.uri(item.key)} was replaced while it was read; run again.") from error

    def read_json(self, key: str, default: Any = _RAISE) -> Any:
        """Read an object as JSON.

        Raises
        ------
        DataError
            When it is no JSON, or does not exist and no ``default`` is given.
        """
        body = self.get(key, default=None if default is not _RAISE else _RAISE)
        if body is None:
            return default
        try:
            return json.loads(body)
        except ValueError as error:
            raise DataError(f"{self.uri(key)} is not JSON: {type(error).__name__}.") from error

    # writing

    def put(self, key: str, body: bytes | Path, content_type: str = "", **condition: str) -> str:
        """Write an object, replacing what is there; returns its entity tag."""
        kind = {"ContentType": content_type} if content_type else {}
        what: dict[str, Any] = {"source": body} if isinstance(body, Path) else {"Body": body}
        return str(self._call("put_object", key, then=_tag, **what, **kind, **condition))

    def put_once(self, key: str, body: bytes | Path, content_type: str = "") -> bool:
        """Write an object unless there is one.

        Returns
        -------
        bool
            Whether the key now holds exactly ``body``: written now, or before by the same work. False means that
            somebody else's content was there first.
        """
        return self.put_if_match(key, body, "", content_type) is not None

    def put_if_match(self, key: str, body: bytes | Path, etag: str, content_type: str = "") -> str | None:
        """Replace an object if its entity tag is still ``etag`` (empty: if there is none).

        Returns
        -------
        str or None
            The new entity tag; None when somebody else changed the object before.
        """
        condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        return conditional.write(
            lambda: self.put(key, body, content_type, **condition),
            lambda: self._holds(key, body),
            replaces=bool(etag),
            attempts=1,  # `_call` makes them
        )

    def _holds(self, key: str, body: bytes | Path) -> str | None:
        """Entity tag if the object is exactly ``body``: then the refused write is our own, whose answer was lost."""

        def compare(answer: Any) -> str | None:
            with body.open("rb") if isinstance(body, Path) else io.BytesIO(body) as mine:
                same = all(chunk == mine.read(len(chunk)) for chunk in answer["Body"].iter_chunks(CHUNK))
                return _tag(answer) if same and not mine.read(1) else None

        try:
            found: str | None = self._call("get_object", key, then=compare)
        except ClientError:
            return None
        return found

    def write_json(self, key: str, value: Any, once: bool = False) -> bool:
        """Write a value as sorted JSON; with ``once`` as `put_once` does."""
        body = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False).encode()
        if once:
            return self.put_once(key, body, "application/json")
        self.put(key, body, "application/json")
        return True

    def delete(self, key: str) -> None:
        """Delete an object; nothing happens when there is none."""
        with contextlib.suppress(ClientError):
            self._call("delete_object", key)


def _tag(answer: dict[str, Any]) -> str:
    return str(answer["ETag"]).strip('"')
