"""Two commands that would take the local AWS away from each other: the second is refused, or waits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from localaws_kit import LocalAws

from fraud import localaws
from fraud.pipeline import claims

STORY = ["-m", "fraud.demo.story"]
CLI = ["-m", "fraud.pipeline.cli"]
HOLD = """\
import sys, time
from pathlib import Path
from fraud.pipeline import claims
with claims.{kind}, {what!r}):
    print("holds", flush=True)
    time.sleep(60)
"""


class Holder:
    """A process that holds the lock of a state folder, or is registered there."""

    def __init__(self, state: Path, what: str, *, run: bool = False) -> None:
        kind = f"registered(Path({str(claims.runs_of(state))!r})" if run else f"hold(Path({str(state)!r})"
        code = HOLD.format(kind=kind, what=what)
        self.process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None and self.process.stdout.readline() == "holds\n"

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / ".fraud" / "local"


@pytest.fixture
def story(state: Path) -> Iterator[Holder]:
    holder = Holder(state, "make run")
    yield holder
    holder.kill()


def call(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "FRAUD_LOCAL_STATE": str(state)}
    environment.pop(claims.PARENT, None)
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "command",
    [STORY, [*STORY, "--history", "absent.csv"], [*STORY, "--keep"], [*CLI, "local", "up"], [*CLI, "local", "down"]],
    ids=lambda command: " ".join(command[1:]),
)
def test_what_would_disturb_a_story_is_refused(command: list[str], state: Path, story: Holder) -> None:
    done = call(state, *command)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line == (
        f"Error: `make run` (process {story.pid}) is using the local AWS of {state}; wait for its end, or stop it with "
        f"Ctrl-C where it runs or with: kill {story.pid}"
    )
    assert not state.exists()


def test_make_clean_removes_nothing_under_a_story(state: Path, story: Holder) -> None:
    root = Path(__file__).resolve().parents[2]
    (state / "raw").mkdir(parents=True)
    environment = {**os.environ, "FRAUD_LOCAL_STATE": str(state)}
    make = ["make", "-f", str(root / "Makefile"), f"VENV={Path(sys.executable).parents[1]}", "clean"]
    done = subprocess.run(make, cwd=state.parents[1], env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and f"process {story.pid}" in done.stderr
    assert (state / "raw").is_dir()


def test_a_killed_story_holds_nothing_whoever_has_its_number_now(state: Path, story: Holder) -> None:
    story.kill()
    claims.lock_of(state).write_text(json.dumps({"what": "make run", "pid": os.getpid()}))
    done = call(state, *CLI, "local", "down")
    assert (done.returncode, done.stderr.strip()) == (0, "The local AWS was not running.")


def test_a_damaged_lock_holds_nothing(state: Path) -> None:
    state.parent.mkdir()
    claims.lock_of(state).write_bytes(b"\xff[")
    with claims.hold(state, "make run"):
        assert json.loads(claims.lock_of(state).read_text()) == {"what": "make run", "pid": os.getpid()}


def test_what_a_story_starts_is_done_for_it(state: Path) -> None:
    environment = {**os.environ, "FRAUD_LOCAL_STATE": str(state)}
    with claims.hold(state, "make run"):
        environment[claims.PARENT] = os.environ[claims.PARENT]
        command = [sys.executable, "-m", "fraud.localaws", "down"]
        assert subprocess.run(command, env=environment, capture_output=True).returncode == 0
        with claims.hold(state, "fraud local up"):
            pass
    assert claims.PARENT not in os.environ


def test_stories_of_two_local_aws_do_not_meet(state: Path, story: Holder) -> None:
    with claims.hold(state.with_name("other"), "make run"):
        pass


def test_a_lock_that_was_removed_and_made_anew_is_held_once(state: Path, story: Holder) -> None:
    claims.lock_of(state).rename(claims.lock_of(state).with_suffix(".away"))
    with claims.hold(state, "make run"), pytest.raises(claims.HeldError):
        os.environ.pop(claims.PARENT)
        try:
            with claims.hold(state, "make run"):
                pass
        finally:
            os.environ[claims.PARENT] = str(os.getpid())


def test_a_lock_is_no_link_that_somebody_else_laid(state: Path, tmp_path: Path) -> None:
    state.parent.mkdir()
    (tmp_path / "precious").write_text("kept")
    claims.lock_of(state).symlink_to(tmp_path / "precious")
    done = call(state, *CLI, "local", "down")
    assert done.returncode == 2 and "cannot be written" in done.stderr
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_run_by_hand_keeps_the_local_aws_until_it_ends(state: Path) -> None:
    run = Holder(state, "fraud run", run=True)
    try:
        for command in ([*CLI, "local", "down"], STORY):
            done = call(state, *command)
            assert done.returncode == 2
            assert f"`fraud run` (process {run.pid}) is using the local AWS of {state}" in done.stderr
    finally:
        run.kill()
    assert call(state, *CLI, "local", "down").returncode == 0
    assert not list(claims.runs_of(state).iterdir())


def test_the_end_of_a_short_command_is_waited_for(state: Path) -> None:
    other = Holder(state, "fraud local up")
    environment = {**os.environ, "FRAUD_LOCAL_STATE": str(state)}
    command = [sys.executable, "-m", "fraud.localaws", "down"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == f"Waiting for `fraud local up` (process {other.pid}) …\n"
        assert waiting.poll() is None
        other.kill()
        assert waiting.wait(20) == 0


def test_kill_ends_a_story_as_ctrl_c_does(state: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "FRAUD_LOCAL_STATE": str(state)}
    with subprocess.Popen(
        [sys.executable, *STORY], env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as told:
        try:
            assert told.stderr is not None
            assert "[1/8]" in told.stderr.readline()
            os.kill(told.pid, signal.SIGTERM)
            rest = told.stderr.read()
            assert told.wait(60) == 130 and "Interrupted." in rest
        finally:
            told.kill()
            call(state, "-m", "fraud.localaws", "down")
    with claims.hold(state, "make run"):
        pass


@pytest.mark.localaws
def test_a_shell_says_where_its_runs_register(aws: LocalAws) -> None:
    done = call(aws.state, "-m", "fraud.localaws", "env")
    assert f"export FRAUD_RUNS={claims.runs_of(aws.state)}\n" in done.stdout


@pytest.mark.localaws
def test_of_two_that_bring_it_up_at_once_both_succeed(state: Path) -> None:
    environment = {**os.environ, "FRAUD_LOCAL_STATE": str(state)}
    both = [
        subprocess.Popen(
            [sys.executable, *CLI, "local", "up"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        said = [process.communicate(timeout=200) for process in both]
        assert [process.returncode for process in both] == [0, 0], said
        first, second = (json.loads(out)["server"]["pid"] for out, _ in said)
        assert first == second
        assert sum("Waiting for `fraud local up`" in err for _, err in said) == 1
    finally:
        time.sleep(0.1)
        localaws.down(state)
