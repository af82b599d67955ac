"""The code that a SageMaker job runs: one archive, kept under the hash of what it holds."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence

from fraud.pipeline import parameters
from fraud.pipeline.storage import Storage

SOURCE = parameters.ROOT / "src"
NAME = "sourcedir.tar.gz"


def pack(patterns: Sequence[str], instead: Mapping[str, bytes] | None = None) -> tuple[bytes, str]:
    """Pack files below ``src``; the same sources give the same bytes.

    Parameters
    ----------
    patterns : sequence of str
        Which files, as `pathlib.Path.glob` takes them.
    instead : mapping of str to bytes, optional
        Files by name that the archive holds in the place of those below ``src``.

    Returns
    -------
    archive : bytes
        A tar.gz.
    digest : str
        SHA-256 of what it holds, whatever compressed it.
    """
    files = {
        path.relative_to(SOURCE).as_posix(): path.read_bytes()
        for pattern in patterns
        for path in SOURCE.glob(pattern)
        if path.is_file()
    } | dict(instead or {})
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            info = tarfile.TarInfo(name)
            info.size = len(files[name])
            archive.addfile(info, io.BytesIO(files[name]))
    return gzip.compress(plain.getvalue(), mtime=0), hashlib.sha256(plain.getvalue()).hexdigest()


def keep(storage: Storage, folder: str, patterns: Sequence[str], instead: Mapping[str, bytes] | None = None) -> str:
    """Write the archive below a folder of the bucket, unless it is there.

    Parameters
    ----------
    storage : Storage
    folder : str
        Key of the folder, without a slash at its end.
    patterns, instead
        As for `pack`.

    Returns
    -------
    str
        Key of the archive, ``<folder>/<hash>/sourcedir.tar.gz``.
    """
    archive, digest = pack(patterns, instead)
    key = f"{folder}/{digest[:16]}/{NAME}"
    storage.put_once(key, archive, "application/gzip")  # what is there holds the same, maybe compressed otherwise
    return key
