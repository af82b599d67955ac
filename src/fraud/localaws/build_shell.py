"""The one shell in which all commands of a build run, and the end of everything that a build started.

As in CodeBuild 0.2 all commands share one shell: working directory, variables and functions last from one command and
one phase to the next. A command that ends the shell (``exit 3``) fails or passes like any other; what follows gets a
new shell with the working directory and the exported variables of the former one.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import psutil

from fraud.errors import PlatformError

BUILD_ID = "CODEBUILD_BUILD_ID"
RUNNER = "FRAUD_LOCAL_BUILDRUNNER"

# Commands arrive as names of files, so that no text of a command or a value is ever part of another text. Descriptor 3
# brings them, 4 takes their exit status; a command sees neither.
_LOOP = """\
exec 3<&0 4>&1 </dev/null 1>&2
__state=$1; readonly __state
__save() { __rc=$?; { printf '%s\\0' "$PWD"; command -p env -0; } >"$__state" 3<&- 4>&-; exit "$__rc"; }
trap __save EXIT
set --
while IFS= read -r __command <&3; do
  . "$__command" 3<&- 4>&-
  printf '%s\\n' "$?" >&4
done
"""
_PRIVATE = frozenset({"_", "SHLVL", "OLDPWD", "PWD"})


class CommandTimeout(Exception):
    """The build's time was over before the command's end."""


class Shell:
    """A shell that outlives its commands.

    Parameters
    ----------
    program : str
        ``bash`` or ``sh``.
    folder : Path
        Where commands and the shell's state are written.
    cwd : Path
        Where it starts.
    environment : mapping of str to str
        All that it sees of the outer world.
    log : file
        Takes what commands print (binary, opened for appending).
    """

    def __init__(self, program: str, folder: Path, cwd: Path, environment: Mapping[str, str], log: IO[bytes]) -> None:
        self.program = program
        self.folder = folder
        self.cwd = cwd
        self.environment = dict(environment)
        self.log = log
        self._state = folder / "shell.state"
        self._loop = folder / "shell.sh"
        self._loop.write_text(_LOOP)
        self._process: subprocess.Popen[bytes] | None = None
        self._commands: IO[bytes]
        self._statuses: IO[bytes]
        self._number = 0

    def set(self, name: str, value: str) -> None:
        """Set and export a variable; both are our own words, never anybody's input."""
        assert name.isidentifier() and value.isalnum()
        if self._process is None:
            self.environment[name] = value
        else:
            self._evaluate(f"export {name}={value}\n", time.monotonic() + 30)

    def run(self, command: str, deadline: float) -> int:
        """Run a command and return its exit status.

        Raises
        ------
        CommandTimeout
            ``time.monotonic()`` passed `deadline`; the shell is gone.
        """
        return self._evaluate(command + "\n", deadline)

    def snapshot(self) -> dict[str, str]:
        """End the shell and return the environment it left."""
        self.close()
        return dict(self.environment)

    def close(self) -> None:
        """End the shell."""
        if self._process is None:
            return
        self._commands.close()  # the loop reads its end, saves and exits
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._collect()

    def _evaluate(self, text: str, deadline: float) -> int:
        if self._process is None:
            self._start()
        self._number += 1
        path = self.folder / f"command-{self._number:03}.sh"
        path.write_text(text)
        with contextlib.suppress(BrokenPipeError):
            self._commands.write(f"{path}\n".encode())
        status = self._status(deadline)
        if status is not None:
            return status
        process = self._process
        assert process is not None
        code = process.wait()
        self._commands.close()
        self._collect()
        return code if code >= 0 else 128 - code  # as a shell says of a command that a signal ended

    def _status(self, deadline: float) -> int | None:
        """Return the exit status of the running command; None when the shell itself ended."""
        assert self._process is not None
        answer = b""
        while not answer.endswith(b"\n"):
            ready, _, _ = select.select([self._statuses], [], [], min(1.0, max(0.0, deadline - time.monotonic())))
            if ready:
                part = self._statuses.read(64)
                if not part:
                    return None
                answer += part
            elif self._process.poll() is not None and not select.select([self._statuses], [], [], 0)[0]:
                return None
            elif time.monotonic() >= deadline:
                raise CommandTimeout
        return int(answer)

    def _start(self) -> None:
        self._state.unlink(missing_ok=True)
        try:
            self._process = subprocess.Popen(
                [self.program, str(self._loop), str(self._state)],
                cwd=self.cwd,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.log,
                bufsize=0,
            )
        except FileNotFoundError:
            raise PlatformError(f"There is no {self.program} on this machine, which the buildspec asks for.") from None
        assert self._process.stdin is not None and self._process.stdout is not None
        self._commands = self._process.stdin
        self._statuses = self._process.stdout

    def _collect(self) -> None:
        self._statuses.close()
        self._process = None
        with contextlib.suppress(OSError):
            cwd, *pairs = self._state.read_bytes().split(b"\0")
            values = dict(os.fsdecode(pair).partition("=")[::2] for pair in pairs if b"=" in pair)
            self.environment = {key: value for key, value in values.items() if key not in _PRIVATE}
            if (place := Path(os.fsdecode(cwd))).is_dir():
                self.cwd = place


def end_build(build_id: str, patience: float = 3.0) -> int:
    """End every process that a build started, in whatever session; return how many there were.

    They are known by what their environment says of the build, and by their descent from this process when it runs the
    build: SIGTERM first, SIGKILL after `patience` seconds, and again until none is left.
    """
    ended: set[int] = set()
    for attempt in range(5):
        found = list(_of_build(build_id))
        if not found:
            break
        ended.update(process.pid for process in found)
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.terminate() if attempt == 0 else process.kill()
        psutil.wait_procs(found, timeout=patience)
    return len(ended)


def _of_build(build_id: str) -> Iterator[psutil.Process]:
    me = psutil.Process()
    mine = os.environ.get(RUNNER) == build_id
    below = {child.pid for child in me.children(recursive=True)} if mine else set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == me.pid or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if process.pid in below or process.environ().get(BUILD_ID) == build_id:
                yield process
