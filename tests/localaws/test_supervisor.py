"""Start, find, kill and stop a real local AWS. Each test has its own state folder and any free ports."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from localaws_kit import make_client

from fraud import localaws
from fraud.errors import PlatformError
from fraud.localaws import supervisor
from fraud.localaws.children import MARK, alive, end_session, started

GROUP = {"ModelPackageGroupName": "g"}


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "state"
    yield folder
    localaws.down(folder)


@pytest.mark.localaws
def test_up_is_idempotent_and_down_stops_what_it_started(state: Path) -> None:
    lines: list[str] = []
    first = localaws.up(state, echo=lines.append)
    assert len(lines) == 2
    again = localaws.up(state)
    assert again["server"] == first["server"] and again["ministack"] == first["ministack"]
    found = localaws.status(state)
    assert found["running"] and found["server"]["healthy"] and found["ministack"]["healthy"]
    variables = localaws.environment(state)
    assert variables["AWS_ENDPOINT_URL_SAGEMAKER"] == f"http://127.0.0.1:{first['server']['port']}"
    assert localaws.down(state)
    assert not localaws.down(state)
    assert not localaws.status(state)["running"]
    assert not psutil.pid_exists(first["server"]["pid"]) and not psutil.pid_exists(first["ministack"]["pid"])
    with pytest.raises(PlatformError, match="not running; start it with: fraud local up"):
        localaws.environment(state)


@pytest.mark.localaws
def test_it_comes_back_with_its_memory_after_stop_and_after_kill(state: Path) -> None:
    first = localaws.up(state)
    variables = localaws.environment(state)
    s3, ssm, ses = (make_client(variables, service) for service in ("s3", "ssm", "sesv2"))
    s3.create_bucket(Bucket="kept", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_object(Bucket="kept", Key="a", Body=b"1")
    ssm.put_parameter(Name="/a", Value="1", Type="String")
    ses.create_email_identity(EmailIdentity="a@example.com")
    localaws.down(state)
    second = localaws.up(state)
    assert second["ports_changed"] is False and second["server"]["port"] == first["server"]["port"]
    assert ssm.get_parameter(Name="/a")["Parameter"]["Value"] == "1"
    for name in ("ministack", "server"):
        os.kill(second[name]["pid"], signal.SIGKILL)
    localaws.up(state)
    assert s3.get_object(Bucket="kept", Key="a")["Body"].read() == b"1"
    assert ses.get_email_identity(EmailIdentity="a@example.com")["VerifiedForSendingStatus"]


@pytest.mark.localaws
def test_two_run_side_by_side(state: Path, tmp_path: Path) -> None:
    one, two = localaws.up(state), localaws.up(tmp_path / "other")
    try:
        ports = {one["server"]["port"], one["ministack"]["port"], two["server"]["port"], two["ministack"]["port"]}
        assert len(ports) == 4
        make_client(localaws.environment(state), "sesv2").create_email_identity(EmailIdentity="a@example.com")
        other = make_client(localaws.environment(tmp_path / "other"), "sesv2")
        assert other.list_email_identities()["EmailIdentities"] == []
    finally:
        localaws.down(tmp_path / "other")
    assert localaws.status(state)["running"]


@pytest.mark.localaws
def test_only_loopback_listens(state: Path) -> None:
    kept = localaws.up(state)
    for name in ("ministack", "server"):
        process = psutil.Process(kept[name]["pid"])
        addresses = {link.laddr.ip for link in process.net_connections("inet") if link.status == psutil.CONN_LISTEN}
        assert addresses == {"127.0.0.1"}


def test_a_taken_port_is_one_sentence(state: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(PlatformError, match=r"^Port \d+ on 127\.0\.0\.1 is taken") as caught:
            localaws.up(state, server_port=taken.getsockname()[1])
    assert "\n" not in str(caught.value)


@pytest.mark.localaws
def test_a_port_that_somebody_else_took_meanwhile_is_given_up(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        stolen = taken.getsockname()[1]
        choices = [{"ministack": stolen, "server": supervisor._any_port()}]
        honest = supervisor._ports
        monkeypatch.setattr(supervisor, "_ports", lambda *a: choices.pop() if choices else honest(*a))
        kept = localaws.up(state)
    assert not choices and kept["ministack"]["port"] != stolen
    assert localaws.status(state)["running"]


@pytest.mark.localaws
@pytest.mark.parametrize("umask", ["000", "022"])
def test_nobody_else_looks_into_the_state_folder(umask: str, tmp_path: Path) -> None:
    state = tmp_path / ".fraud" / "local"
    (state / "logs").mkdir(parents=True)
    (state / "logs" / "ministack.log").write_text("")
    for path in (state.parent, state, state / "logs", state / "logs" / "ministack.log"):
        path.chmod(0o777)  # as it was made before
    environment = {**os.environ, "FRAUD_LOCAL_STATE": str(state)}
    command = f"umask {umask}; exec {sys.executable} -m fraud.localaws "
    try:
        subprocess.run(["sh", "-c", command + "up"], env=environment, check=True, capture_output=True)
        s3 = make_client(localaws.environment(state), "s3")
        s3.create_bucket(Bucket="kept", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        s3.put_object(Bucket="kept", Key="raw/a", Body=b"1")
    finally:
        subprocess.run(["sh", "-c", command + "down"], env=environment, check=True, capture_output=True)
    everything = [state.parent, *state.parent.rglob("*")]
    assert state / "ministack" / "s3" in everything and state / "logs" / "server.log" in everything
    assert [path for path in everything if path.lstat().st_mode & 0o077 and not path.is_symlink()] == []


def test_a_folder_that_others_need_is_not_taken_from_them(tmp_path: Path) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    with pytest.raises(PlatformError, match=r"/tmp is not a folder of your own alone: name another one"):
        localaws.up(shared)
    assert shared.stat().st_mode & 0o7777 == 0o1777 and not list(shared.iterdir())


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PlatformError, match=r"cannot write its state folder .*file/state: Not a directory"):
        localaws.up(tmp_path / "file" / "state")


def test_a_full_disk_is_one_sentence(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(supervisor, "write_atomic", full)
    with pytest.raises(PlatformError, match=r"cannot write its state folder .*: No space left on device"):
        localaws.up(state)
    assert not [p for p in psutil.process_iter() if _mark(p) == str(state)]


def _mark(process: psutil.Process) -> str | None:
    try:
        return process.environ().get(MARK)
    except (psutil.Error, OSError):
        return None


def test_a_process_that_does_not_start_shows_its_log(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_MINISTACK", "no_luck_today")
    with pytest.raises(PlatformError, match=r"^MiniStack did not start; .*ministack\.log ends with: .*no_luck_today$"):
        localaws.up(state)


def test_a_stranger_with_the_same_process_id_is_left_alone(state: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True) as stranger:
        try:
            state.mkdir()
            entry = {"pid": stranger.pid, "started": time.time() - 1000, "port": 1}
            (state / "state.json").write_text(json.dumps({"ministack": entry, "server": entry}))
            assert localaws.status(state)["server"]["running"] is False
            assert localaws.down(state) is False
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_damaged_state_file_is_as_none(state: Path) -> None:
    state.mkdir()
    (state / "state.json").write_text("[1")
    assert localaws.status(state)["running"] is False


def test_the_state_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRAUD_LOCAL_STATE", raising=False)
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert localaws.state_folder() == tmp_path / ".fraud" / "local"
    monkeypatch.setenv("FRAUD_LOCAL_STATE", str(tmp_path / "x"))
    assert localaws.state_folder() == tmp_path / "x"
    assert localaws.state_folder("y") == tmp_path / "notebooks" / "y"


def test_the_rest_of_a_session_ends_with_it() -> None:
    script = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    leader = subprocess.Popen(
        [sys.executable, "-c", script], start_new_session=True, env={**os.environ, MARK: "a test"}
    )
    since = started(leader.pid) or time.time()
    leader.wait(10)
    assert end_session(leader.pid, since, "another mark") == 0
    assert end_session(leader.pid, since, "a test") == 1
    assert not alive(leader.pid, since)
