"""Read the files of a model archive without ever unpacking it.

``tarfile.extractall`` writes wherever an archive says; a bomb fills the disk, a duplicate member replaces the one that
was checked. So members are read into memory: those that are named, each up to a limit, or all, up to one in sum.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath

from fraud.errors import DataError

MEMBERS = {
    "model.txt": 512 << 20,
    "schema.json": 16 << 20,
    "baseline.json": 32 << 20,
    "metrics.json": 16 << 20,
    "golden.json": 16 << 20,
    "calibration.json": 16 << 20,
}
OPTIONAL = {"calibration.json"}  # models of earlier versions have none
MOST_FILES, MOST_BYTES = 5_000, 1 << 30


def read_members(
    archive: bytes, limits: Mapping[str, int] = MEMBERS, *, name: str = "model.tar.gz"
) -> dict[str, bytes]:
    """Read the allow-listed regular files of a ``tar.gz``.

    Parameters
    ----------
    archive : bytes
        The archive.
    limits : mapping of str to int
        Member name to the most bytes it may have; all of them but `OPTIONAL` must be there.
    name : str
        What to call the archive in an error.

    Returns
    -------
    dict of str to bytes

    Raises
    ------
    DataError
        When the archive is damaged, a member is missing, repeated, too large, or not a regular file.
    """
    found: dict[str, bytes] = {}
    with _opened(archive, name) as tar:
        for member in tar:
            path = member.name.removeprefix("./")
            if path in limits:
                _claim(found, path, member, limits[path], name)
                found[path] = _content(tar, member)
    missing = sorted(set(limits) - set(found) - OPTIONAL)
    if missing:
        raise DataError(f"{name} lacks {', '.join(missing)}.")
    return found


def read_all(archive: bytes, *, name: str = "model.tar.gz") -> dict[str, bytes]:
    """Read every file of a ``tar.gz``.

    Parameters
    ----------
    archive : bytes
        The archive.
    name : str
        What to call the archive in an error.

    Returns
    -------
    dict of str to bytes
        By paths that stay below wherever they are joined.

    Raises
    ------
    DataError
        When the archive is damaged or too large, or a member is repeated, leads out, or is neither file nor folder.
    """
    found: dict[str, bytes] = {}
    left = MOST_BYTES
    with _opened(archive, name) as tar:
        for count, member in enumerate(tar):
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts or "\\" in member.name:
                raise DataError(f"{name}: {member.name[:80]!r} leads out of its folder.")
            if count >= MOST_FILES:
                raise DataError(f"{name} holds more than {MOST_FILES:,} files.")
            if not member.isdir():
                _claim(found, str(path), member, left, name)
                found[str(path)] = _content(tar, member)
                left -= member.size
    return found


@contextmanager
def _opened(archive: bytes, name: str) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            yield tar
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        raise DataError(f"{name} is damaged: {type(error).__name__}.") from error


def _claim(found: Mapping[str, bytes], path: str, member: tarfile.TarInfo, limit: int, name: str) -> None:
    """Refuse a member that must not be read."""
    if path in found:
        raise DataError(f"{name} holds {path} twice.")
    if not member.isreg():
        raise DataError(f"{name}: {path} is not a regular file.")
    if member.size > limit:
        raise DataError(f"{name}: {path} has {member.size:,} bytes, more than the {limit:,} allowed.")


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    assert stream is not None  # a regular file has one
    return stream.read()
