"""What the story shows while it works: rich bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from fraud.errors import FraudError

KEPT = 25  # last lines of a program that are shown when it fails


class ProgramFailed(FraudError):
    """A program that the story started failed; ``lines`` are the last ones it wrote."""

    def __init__(self, what: str, code: int, lines: Sequence[str]) -> None:
        super().__init__(f"{what} ended with exit code {code}.")
        self.exit_code = 2 if code == 2 else 1
        self.lines = list(lines)


class Step:
    """One step of the story while it runs: lines and a count."""

    def __init__(self, screen: Screen, task: TaskID | None) -> None:
        self.screen, self.task = screen, task

    def say(self, line: str) -> None:
        """Show a line under the step's title."""
        self.screen.console.print(f"      {escape(line)}", highlight=False, soft_wrap=True)

    def count(self, done: int, total: int) -> None:
        """Move the bar, if there is one."""
        if self.task is not None and self.screen.progress:
            self.screen.progress.update(self.task, completed=done, total=total)

    def run(self, what: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
        """Run a program of this product and show what it says.

        On a terminal it gets a terminal of its own, so that papermill's bars are seen.

        Returns
        -------
        str
            What it wrote to its standard output.

        Raises
        ------
        ProgramFailed
            With its last lines.
        """
        lines: deque[str] = deque(maxlen=KEPT)
        with self.screen.paused():
            runner = _run_on_terminal if self.screen.live else _run_quietly
            code, output = runner([sys.executable, *arguments], dict(environment or os.environ), lines, self)
        if code:
            raise ProgramFailed(what, code, lines)
        return output


class Screen:
    """Where the story is shown.

    Parameters
    ----------
    steps : int
        How many there are.
    console : Console, optional
        Where to; standard error by default.
    """

    def __init__(self, steps: int, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.live = self.console.is_terminal
        self.steps, self.number = steps, 0
        self.progress: Progress | None = None
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Show a step: its title while it runs, its wall time when it is done."""
        self.number += 1
        name = f"[{self.number}/{self.steps}] {title}"
        began = time.monotonic()
        task = None
        if self.live:
            parts = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(30), TimeElapsedColumn())
            self.progress = Progress(*parts, console=self.console, transient=True)
            self.progress.start()
            task = self.progress.add_task(escape(name), total=None)
        else:
            self.console.print(escape(name), highlight=False, soft_wrap=True)
        done = False
        try:
            yield Step(self, task)
            done = True
        finally:
            if self.progress:
                self.progress.stop()
                self.progress = None
            took = self.seconds[title] = time.monotonic() - began
            if self.live:
                mark = "[green]✓[/]" if done else "[red]✗[/]"
                self.console.print(f"{mark} {escape(name)} [dim]{took:.1f} s[/]", highlight=False)
            else:
                self.console.print(f"      {'done' if done else 'failed'} in {took:.1f} s", highlight=False)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal to another program."""
        if self.progress:
            self.progress.stop()
        try:
            yield
        finally:
            if self.progress:
                self.progress.start()

    def say(self, line: str = "") -> None:
        """Show a line."""
        self.console.print(escape(line), highlight=False, soft_wrap=True)


def _run_quietly(command: list[str], environment: dict[str, str], lines: deque[str], step: Step) -> tuple[int, str]:
    """Show each line as it comes; returns exit code and standard output."""
    import tempfile

    with tempfile.TemporaryFile("w+") as output:
        with subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.PIPE, text=True) as program:
            assert program.stderr is not None
            try:
                for line in program.stderr:
                    lines.append(line.rstrip())
                    step.say(line.rstrip())
            except BaseException:
                _end(program)
                raise
        output.seek(0)
        return program.returncode, output.read()


def _run_on_terminal(command: list[str], environment: dict[str, str], lines: deque[str], step: Step) -> tuple[int, str]:
    """Give the program a terminal of its own for its messages and pass them on byte for byte."""
    import fcntl
    import pty
    import struct
    import tempfile
    import termios

    ours, theirs = pty.openpty()
    text = b""
    size = step.screen.console.size
    # A new terminal measures 0 by 0, where progress bars hide themselves.
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size.height, size.width, 0, 0))
    with tempfile.TemporaryFile("w+") as output:
        environment |= {"COLUMNS": str(size.width), "LINES": str(size.height)}
        with subprocess.Popen(command, env=environment, stdout=output, stderr=theirs) as program:
            os.close(theirs)
            try:
                while data := _read(ours):
                    sys.stderr.buffer.write(data)
                    sys.stderr.buffer.flush()
                    text = (text + data)[-20_000:]
            except BaseException:
                _end(program)
                raise
            finally:
                os.close(ours)
        lines.extend(line.split("\r")[-1] for line in text.decode(errors="replace").replace("\r\n", "\n").split("\n"))
        output.seek(0)
        return program.returncode, output.read()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:  # the other end is closed
        return b""


def _end(program: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """End a program; it was interrupted by the same Ctrl-C, so it gets a moment to tidy up."""
    try:
        program.wait(10)
    except subprocess.TimeoutExpired:
        program.terminate()
        try:
            program.wait(5)
        except subprocess.TimeoutExpired:
            program.kill()
