"""The input channels of a training job: which objects of S3 they mean, and where those go."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from fraud.localaws.archives import ArchiveError, safe_path
from fraud.localaws.wire import Context

_AT_ONCE = 8
_LARGEST_MANIFEST = 64 * 1024 * 1024


class DownloadError(Exception):
    """The data cannot be downloaded; the message is what AWS puts after ``ClientError: ``."""


def split(uri: str) -> tuple[str, str]:
    """Return bucket and key of an S3 URI."""
    parts = urlsplit(uri, allow_fragments=False)
    return parts.netloc, parts.path.lstrip("/")


async def download(
    context: Context, channel: dict[str, Any], role: str, folder: Path, host: tuple[int, int] = (0, 1)
) -> int:
    """Download a channel of a training job into `folder`; return how many objects.

    Parameters
    ----------
    context : Context
    channel : dict
        Of the request.
    role : str
        ARN of the job's role.
    folder : Path
        Where to.
    host : tuple of int
        Place of the host among how many; each gets its share when the channel is ``ShardedByS3Key``.

    Raises
    ------
    DownloadError
        With AWS's sentence.
    """
    source = (channel.get("DataSource") or {}).get("S3DataSource")
    if source is None:
        raise DownloadError(f"Data download failed:channel {channel['ChannelName']} has no S3DataSource")
    objects = await find(context, source["S3Uri"], source["S3DataType"], role)
    if source.get("S3DataDistributionType") == "ShardedByS3Key":
        objects = shard(objects, *host)
    await fetch(context, objects, folder)
    return len(objects)


def shard(objects: list[tuple[str, str, str]], at: int, count: int) -> list[tuple[str, str, str]]:
    """Share of one host: keys in order, dealt out in turn.

    Which host gets which is not promised by AWS, that each object goes to one of them is.
    """
    return sorted(objects)[at::count]


async def find(context: Context, uri: str, kind: str, role: str) -> list[tuple[str, str, str]]:
    """List what an input means, as ``(bucket, key, relative path)``.

    Raises
    ------
    DownloadError
        With AWS's sentence.
    """
    bucket, _ = split(uri)
    with _told(uri, context.region, role):
        if kind == "S3Prefix":
            objects = await context.call(_prefix, context.client("s3"), uri)
        elif kind == "ManifestFile":
            objects = await context.call(_manifest, context.client("s3"), uri)
        else:
            raise DownloadError(f"Data download failed:S3DataType {kind} is not in the local AWS")
    if not objects:
        raise DownloadError(_nothing(uri, bucket, context.region, role))
    return list(objects)


async def fetch(context: Context, objects: list[tuple[str, str, str]], folder: Path) -> None:
    """Download what `find` listed into `folder`.

    Raises
    ------
    DownloadError
        With AWS's sentence.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _told("", context.region, ""):
        await _all(context, objects, folder)


@contextlib.contextmanager
def _told(uri: str, region: str, role: str) -> Iterator[None]:
    """Say as AWS does why a download failed."""
    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        if code == "NoSuchBucket":
            raise DownloadError(_nothing(uri, split(uri)[0], region, role)) from None
        text = error.response["Error"].get("Message", "")
        raise DownloadError(f"Data download failed:{code} ({status}): {text}") from None
    except (ArchiveError, BotoCoreError, OSError) as error:
        raise DownloadError(f"Data download failed:{error}") from None


def _nothing(uri: str, bucket: str, region: str, role: str) -> str:
    return (
        f'Data download failed:No S3 objects found under S3 URL "{uri}" given in input data source. Please ensure that '
        f"the bucket exists in the selected region ({region}), that objects exist under that S3 prefix, and that the "
        f'role "{role}" has "s3:ListBucket" permissions on bucket "{bucket}".'
    )


async def _all(context: Context, objects: list[tuple[str, str, str]], folder: Path) -> None:
    """Download ``(bucket, key, relative path)``, a few at a time."""
    s3 = context.client("s3")
    turn = asyncio.Semaphore(_AT_ONCE)

    async def one(bucket: str, key: str, relative: str) -> None:
        target = folder / safe_path(relative)
        async with turn:
            target.parent.mkdir(parents=True, exist_ok=True)
            await context.call(s3.download_file, bucket, key, str(target))

    tasks = [asyncio.create_task(one(*item)) for item in objects]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _prefix(s3: Any, uri: str) -> list[tuple[str, str, str]]:
    """Return all objects whose key starts with the prefix, named as SageMaker names their files."""
    bucket, prefix = split(uri)
    found = []
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            key = item["Key"]
            if not key.endswith("/"):  # a folder's marker of the console
                found.append((bucket, key, relative(key, prefix)))
    return found


def relative(key: str, prefix: str) -> str:
    """Return the path below the channel's folder of an object that was found by a prefix."""
    if prefix.endswith("/"):
        return key[len(prefix) :]
    if key.startswith(prefix + "/"):
        return key[len(prefix) + 1 :]
    return key[prefix.rfind("/") + 1 :]


def _manifest(s3: Any, uri: str) -> list[tuple[str, str, str]]:
    bucket, key = split(uri)
    answer = s3.get_object(Bucket=bucket, Key=key)
    if answer["ContentLength"] > _LARGEST_MANIFEST:
        raise DownloadError(f"Data download failed:the manifest {uri} is too large")
    try:
        return list(manifest_objects(json.loads(answer["Body"].read())))
    except (ValueError, RecursionError):
        raise DownloadError(
            f"Data download failed:Unable to parse manifest {uri}: it must be a JSON array of a prefix and keys"
        ) from None


def manifest_objects(manifest: Any) -> Iterator[tuple[str, str, str]]:
    """Yield ``(bucket, key, relative path)`` of a SageMaker manifest, ``[{"prefix": "s3://…/"}, "a", "b/c", …]``.

    Raises
    ------
    ValueError
        It is not such an array.
    """
    if not isinstance(manifest, list) or not manifest or not isinstance(manifest[0], dict):
        raise ValueError("not an array that starts with a prefix")
    prefix = manifest[0].get("prefix")
    if not isinstance(prefix, str) or not prefix.startswith("s3://"):
        raise ValueError("no prefix")
    bucket, start = split(prefix)
    for name in manifest[1:]:
        if not isinstance(name, str) or not name:
            raise ValueError("a key is not text")
        yield bucket, start + name, name
