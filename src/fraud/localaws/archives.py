"""The two archives of a training job: source code that comes in, model and output that go out."""

from __future__ import annotations

import gzip
import shutil
import tarfile
from pathlib import Path, PurePosixPath

MOST_FILES = 20_000
LARGEST_TOTAL = 2 * 1024**3


class ArchiveError(Exception):
    """An archive that must not be unpacked; the message says why."""


def pack(folder: Path, archive: Path) -> None:
    """Write ``archive`` (tar.gz) from the regular files of `folder`; equal files give equal bytes."""
    with (
        archive.open("wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                continue  # a link could carry a file of this machine away
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            if path.is_dir():
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(member)
            else:
                member.size, member.mode = path.stat().st_size, 0o644
                with path.open("rb") as file:
                    tar.addfile(member, file)


def unpack(archive: Path, folder: Path) -> None:
    """Read the regular files and folders of a tar(.gz) into `folder`.

    Raises
    ------
    ArchiveError
        It is no archive, is too large, leaves the folder, or holds links or devices; nothing of that member is written.
    """
    count = total = 0
    try:
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                target = folder / safe_path(member.name)
                count, total = count + 1, total + member.size
                if count > MOST_FILES or total > LARGEST_TOTAL:
                    raise ArchiveError(f"it holds more than {MOST_FILES} files or {LARGEST_TOTAL >> 30} GiB")
                if member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                elif member.isreg() and (source := tar.extractfile(member)) is not None:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with source, target.open("wb") as file:
                        shutil.copyfileobj(source, file)
                    target.chmod(0o755 if member.mode & 0o100 else 0o644)
                else:
                    raise ArchiveError(f"{member.name!r} is neither a file nor a folder")
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, OSError) as error:
        raise ArchiveError(f"it cannot be read ({error})") from None


def safe_path(name: str) -> PurePosixPath:
    """Return `name` as a path that stays below where it is joined.

    Raises
    ------
    ArchiveError
        It is absolute, has ``..``, a backslash or a NUL.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise ArchiveError(f"{name!r} leads out of its folder")
    return path
