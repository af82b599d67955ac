"""Read named files of a model archive without ever unpacking it.

``tarfile.extractall`` writes wherever an archive says; a bomb fills the disk, a duplicate member replaces the one that
was checked. So members are read by name into memory, each up to a limit.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Mapping

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
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            for member in tar:
                path = member.name.removeprefix("./")
                if path not in limits:
                    continue
                if path in found:
                    raise DataError(f"{name} holds {path} twice.")
                if not member.isreg():
                    raise DataError(f"{name}: {path} is not a regular file.")
                if member.size > limits[path]:
                    raise DataError(
                        f"{name}: {path} has {member.size:,} bytes, more than the {limits[path]:,} allowed."
                    )
                stream = tar.extractfile(member)
                assert stream is not None  # a regular file has one
                found[path] = stream.read()
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        raise DataError(f"{name} is damaged: {type(error).__name__}.") from error
    missing = sorted(set(limits) - set(found) - OPTIONAL)
    if missing:
        raise DataError(f"{name} lacks {', '.join(missing)}.")
    return found
