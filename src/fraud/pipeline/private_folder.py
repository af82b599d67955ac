"""Folders that nobody else on this machine may look into: raw payments, models, mail and logs lie in them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from fraud.errors import PlatformError

HIDDEN = ".fraud"


def private_folder(path: Path) -> Path:
    """Make a folder that its owner alone may enter, whatever the umask; take the others' rights from one that is there.

    So is the folder ``.fraud`` that it lies in, if it does.

    Raises
    ------
    PlatformError
        It belongs to somebody else, or others have to be able to use it.
    OSError
        It cannot be made.
    """
    within = [folder for folder in path.parents if folder.name == HIDDEN][:1]
    for folder in (*within, path):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.stat()
        if found.st_uid != os.geteuid() or found.st_mode & stat.S_ISVTX:
            raise PlatformError(
                f"{folder} is not a folder of your own alone: name another one, or make a new one in it"
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            folder.chmod(stat.S_IMODE(found.st_mode) & ~0o077)
    return path
