"""Processes that must not outlive who started them.

Each child leads a session of its own, is told by the kernel (Linux) when its parent dies, carries a mark in its
environment, and is written down with its start time. So after a kill -9 the next start finds what is left, and never
takes a stranger that got the same process id for its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from fraud.localaws.store import write_atomic

logger = logging.getLogger(__name__)

MARK = "FRAUD_LOCAL_CHILD_OF"
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(parent: int) -> Callable[[], None]:
    """Return what a child runs between fork and exec, so that it gets SIGTERM when process `parent` dies (Linux)."""

    def prepare() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != parent:  # it died before we asked
                os._exit(1)

    return prepare


class Children:
    """The processes of one daemon.

    Parameters
    ----------
    folder : Path
        Where they are written down, one file each.
    mark : str
        What their environment says; the same for each daemon of one state folder.
    """

    def __init__(self, folder: Path, mark: str) -> None:
        self.folder = folder
        self.mark = mark
        self._waiting: set[asyncio.Task[None]] = set()

    async def spawn(
        self, *args: str | os.PathLike[str], env: dict[str, str], **options: Any
    ) -> asyncio.subprocess.Process:
        """Start a child; `options` as of `asyncio.create_subprocess_exec`."""
        process = await asyncio.create_subprocess_exec(
            *args,
            env={**env, MARK: self.mark},
            start_new_session=True,
            preexec_fn=die_with_parent(os.getpid()),
            **options,
        )
        since = started(process.pid) or time.time()
        path = self.folder / f"{process.pid}.json"
        write_atomic(path, json.dumps({"pid": process.pid, "started": since}).encode())
        task = asyncio.get_running_loop().create_task(self._forget(process, since, path))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return process

    async def _forget(self, process: asyncio.subprocess.Process, since: float, path: Path) -> None:
        await exited(process)
        # As in a container, what it left running ends with it.
        await asyncio.to_thread(end_session, process.pid, since, self.mark)
        path.unlink(missing_ok=True)

    def end_orphans(self) -> int:
        """End what a former daemon left behind; return how many processes."""
        ended = 0
        for path in sorted(self.folder.glob("*.json")):
            try:
                kept = json.loads(path.read_bytes())
                ended += end_session(int(kept["pid"]), float(kept["started"]), self.mark)
            except (ValueError, KeyError, TypeError):
                logger.warning("cannot read %s", path)
            path.unlink(missing_ok=True)
        return ended


async def exited(process: asyncio.subprocess.Process) -> int:
    """Wait for a process to end and return its exit code.

    ``process.wait()`` also waits for its pipes, which what it left running may hold for ever.
    """
    while process.returncode is None:
        await asyncio.sleep(0.05)
    return process.returncode


def started(pid: int) -> float | None:
    """Return when the process was started (epoch seconds), None when there is none."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def alive(pid: int, since: float) -> bool:
    """Whether the process of that id is the one that was started then."""
    now = started(pid)
    return now is not None and abs(now - since) < 1.0


def session_members(leader: int, since: float, mark: str) -> Iterator[psutil.Process]:
    """Yield the living processes of a session that carry the mark and are not older than its leader."""
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) != leader or process.create_time() < since - 1.0:
                continue
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            try:
                if process.environ().get(MARK) != mark:
                    continue
            except psutil.AccessDenied:
                continue  # not ours to judge, so not ours to end
            yield process
        except (psutil.Error, OSError):
            continue


def end_session(leader: int, since: float, mark: str, patience: float = 3.0) -> int:
    """End all processes of a session: SIGTERM, then SIGKILL after `patience` seconds; return how many there were."""
    processes = list(session_members(leader, since, mark))
    for process in processes:
        with_no_error(process.terminate)
    deadline = time.monotonic() + patience
    _, left = psutil.wait_procs(processes, timeout=max(0.0, deadline - time.monotonic()))
    for process in left:
        with_no_error(process.kill)
    psutil.wait_procs(left, timeout=patience)
    return len(processes)


def with_no_error(action: Callable[[], None]) -> None:
    """Signal a process that may be gone already."""
    try:
        action()
    except psutil.Error:
        pass
