"""Who works with something that two must not take at once: a lock that its holder's process keeps, and its end frees.

A file's lock (flock) and not a process id in a file: after a kill -9 or a reboot nothing is held, whoever got the id.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from fraud.errors import PlatformError

PARENT = "FRAUD_LOCAL_HELD_BY"
"""Process id of the holder, for the programs that it starts: what they do is done for it."""

SHORT = ("fraud local up", "fraud local down")
_POLL_SECONDS = 0.2


class HeldError(PlatformError):
    """Somebody else works with it.

    Parameters
    ----------
    what : str
        The command that does, as a person types it.
    pid : int
        Its process.
    folder : Path
        What it works with.
    """

    def __init__(self, what: str, pid: int, folder: Path) -> None:
        super().__init__(
            f"`{what}` (process {pid}) is using the local AWS of {folder}; wait for its end, or stop it with Ctrl-C "
            f"where it runs or with: kill {pid}"
        )


def lock_of(folder: Path) -> Path:
    """Return the lock of a folder; it lies beside it, since the folder itself may be moved away."""
    return folder.with_name(f"{folder.name}.lock")


def runs_of(folder: Path) -> Path:
    """Return where those who use what a folder holds register."""
    return folder.with_name(f"{folder.name}.runs")


@contextlib.contextmanager
def hold(folder: Path, what: str, *, echo: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Have a folder to oneself while the block runs; pass when it is held by who started this program.

    Parameters
    ----------
    folder : Path
        Of the local AWS's state; it need not be there.
    what : str
        The command that takes it, as a person types it. The end of those in `SHORT` is waited for.
    echo : callable
        Gets a line when there is something to wait for.

    Raises
    ------
    HeldError
        Another command has it.
    PlatformError
        The lock cannot be written.
    """
    path = lock_of(folder)
    waiting = False
    while (file := _take(path, what)) is None:
        holder, pid = _holder(path)
        if pid and os.environ.get(PARENT) == str(pid):
            yield
            return
        if holder and holder not in SHORT:
            raise HeldError(holder, pid, folder)
        if holder and not waiting:
            waiting = True
            echo(f"Waiting for `{holder}` (process {pid}) …")
        time.sleep(_POLL_SECONDS)
    with file, _named_as_parent():
        yield


@contextlib.contextmanager
def registered(folder: Path | None, what: str) -> Iterator[None]:
    """Be in a folder of `runs_of` while the block runs; None registers nowhere."""
    if folder is None:
        yield
        return
    path = folder / f"{os.getpid()}.lock"
    file = _take(path, what)
    try:
        yield
    finally:
        if file is not None:
            path.unlink(missing_ok=True)
            file.close()


def refuse_while_runs_go_on(folder: Path) -> None:
    """Raise `HeldError` when somebody who has registered in `runs_of` a folder lives; forget who does not."""
    for path in sorted(runs_of(folder).glob("*.lock")):
        file = _take(path, "")
        if file is None:
            raise HeldError(*_holder(path), folder)
        path.unlink(missing_ok=True)
        file.close()


def _take(path: Path, what: str) -> IO[str] | None:
    """Lock a file and write into it who does; None when somebody else has it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        while True:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "r+")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return None
            if _is(file, path):
                break
            file.close()  # it was removed between opening and locking: another file stands there now
    except OSError as error:
        raise PlatformError(f"The lock {path} cannot be written: {error.strerror}") from None
    file.truncate(0)
    file.write(json.dumps({"what": what, "pid": os.getpid()}))
    file.flush()
    return file


def _is(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _holder(path: Path) -> tuple[str, int]:
    """What a lock says of its holder; empty when it says nothing (yet)."""
    try:
        said = json.loads(path.read_text())
        return str(said["what"]), int(said["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", 0


@contextlib.contextmanager
def _named_as_parent() -> Iterator[None]:
    before = os.environ.get(PARENT)
    os.environ[PARENT] = str(os.getpid())
    try:
        yield
    finally:
        os.environ.pop(PARENT)
        if before is not None:
            os.environ[PARENT] = before
