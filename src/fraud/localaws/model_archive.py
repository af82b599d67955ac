"""A model's files: fetched from S3 once a fleet, unpacked for each instance, and never trusted."""

from __future__ import annotations

import gzip
import re
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from fraud.localaws import archives
from fraud.localaws.wire import Context

_CHUNK = 1 << 20


class HostingError(Exception):
    """A model cannot be hosted; the text is a ``FailureReason``."""


class ModelDataError(HostingError):
    """The model's archive cannot be had or cannot be unpacked."""


@dataclass(frozen=True)
class S3Uri:
    """``s3://bucket/key``."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, text: str) -> S3Uri:
        """Read a URI; raises ``ValueError`` when it is not one of S3 (also the ``https`` form is taken)."""
        found = re.fullmatch(r"s3://([^/]+)/?(.*)", text)
        if found is None:
            found = re.fullmatch(r"https://s3[.-][^/]*/([^/]+)/?(.*)", text)
        if found is None:
            raise ValueError(f"{text!r} is not an S3 URI")
        return cls(*found.groups())


async def download(context: Context, url: str, path: Path) -> None:
    """Fetch the object at `url` to `path`; a whole file or none.

    Raises
    ------
    ModelDataError
        There is no such object, or S3 cannot be reached.
    """
    uri = S3Uri.parse(url)
    beside = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)

    def fetch() -> None:
        # One plain GET: a multipart download could mix two versions of an object that is replaced meanwhile.
        body = context.client("s3").get_object(Bucket=uri.bucket, Key=uri.key)["Body"]
        with beside.open("wb") as file:
            while chunk := body.read(_CHUNK):
                file.write(chunk)
        beside.replace(path)

    try:
        await context.call(fetch)
    except (BotoCoreError, ClientError) as error:
        raise ModelDataError(
            f"Failed to download model data for container container_1 from URL: {url}. Please ensure that there is an "
            f"object located at the URL. ({error})"
        ) from error


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a model's ``tar.gz`` into `folder`; nothing is kept of an archive that is refused.

    Raises
    ------
    ModelDataError
        The archive is broken, too large, holds links or devices, or leaves the folder.
    """
    folder.mkdir(parents=True)
    try:
        _check_whole(archive)
        archives.unpack(archive, folder)
    except (archives.ArchiveError, OSError, EOFError, zlib.error) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ModelDataError(
            "Failed to extract model data archive for container container_1. Please ensure that the object located at "
            f"the URL is a valid tar.gz archive: {error}."
        ) from error


def _check_whole(archive: Path) -> None:
    """Read the archive to its checksum: ``tarfile`` stops before, and takes one that was cut near its end."""
    total = 0
    with gzip.open(archive) as file:
        while chunk := file.read(_CHUNK):
            total += len(chunk)
            if total > 2 * archives.LARGEST_TOTAL:
                raise archives.ArchiveError("it is too large")
