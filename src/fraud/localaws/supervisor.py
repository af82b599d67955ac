"""Starting, finding and stopping the local AWS of one state folder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from fraud.errors import PlatformError
from fraud.localaws.children import MARK, Children, alive, end_session, started
from fraud.localaws.clean_environment import clean
from fraud.localaws.store import write_atomic
from fraud.pipeline.private_folder import private_folder

REGION = "eu-west-1"
ACCOUNT = "000000000000"
PREFERRED_PORTS = {"ministack": 4566, "server": 4570}
_OURS = ("SAGEMAKER", "SAGEMAKER_RUNTIME", "SAGEMAKER_FEATURESTORE_RUNTIME", "CODEPIPELINE", "SESV2")
_HEALTH = {"ministack": "/_ministack/health", "server": "/_local/health"}
_TITLE = {"ministack": "MiniStack", "server": "the SageMaker, CodePipeline and SESv2 server"}
_MINISTACK = "fraud.localaws.ministack"
_SDK_DEFAULTS = "sagemaker.yaml"
_START_SECONDS = 60.0
_STOP_SECONDS = 15.0


def state_folder(state: Path | str | None = None) -> Path:
    """Return the argument, else ``FRAUD_LOCAL_STATE``, else ``.fraud/local`` of the repository or cwd."""
    if state is not None:
        return Path(state).resolve()
    if named := os.environ.get("FRAUD_LOCAL_STATE"):
        return Path(named).resolve()
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / "pyproject.toml").is_file()), here)
    return root / ".fraud" / "local"


def aws_variables(ministack_port: int, server_port: int, region: str = REGION) -> dict[str, str]:
    """Return the variables with which botocore finds the local AWS."""
    ours = f"http://127.0.0.1:{server_port}"
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ministack_port}",
        **{f"AWS_ENDPOINT_URL_{service}": ours for service in _OURS},
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_EC2_METADATA_DISABLED": "true",
        # ~/.aws may name other endpoints, ways of addressing and credentials
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


def variables(folder: Path, ministack_port: int, server_port: int, region: str = REGION) -> dict[str, str]:
    """Return `aws_variables` and what SageMaker's SDK takes for its defaults.

    Left to itself, it asks the real STS for the account in the name of its default bucket, whatever the variables say.
    """
    return aws_variables(ministack_port, server_port, region) | {
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(folder / _SDK_DEFAULTS)
    }


def environment(state: Path | str | None = None) -> dict[str, str]:
    """Return the variables of the running local AWS.

    Raises
    ------
    PlatformError
        It is not running.
    """
    folder = state_folder(state)
    kept = _read(folder)
    if not all(_alive(kept, name) for name in PREFERRED_PORTS):
        raise PlatformError(f"The local AWS of {folder} is not running; start it with: fraud local up")
    return variables(folder, kept["ministack"]["port"], kept["server"]["port"], kept.get("region", REGION))


def status(state: Path | str | None = None) -> dict[str, Any]:
    """Return what runs: ``{"state", "running", "ministack": {...}, "server": {...}, "services": {...}}``."""
    folder = state_folder(state)
    kept = _read(folder)
    found: dict[str, Any] = {"state": str(folder), "running": False, "services": {}}
    for name in PREFERRED_PORTS:
        entry = dict(kept.get(name) or {})
        entry["running"] = _alive(kept, name)
        entry["healthy"] = _healthy(kept, name)
        found[name] = entry
    found["running"] = all(found[name]["healthy"] for name in PREFERRED_PORTS)
    if found["server"]["healthy"]:
        found["services"] = (_get(found["server"]["port"], "/_local/status") or {}).get("services", {})
    return found


def up(
    state: Path | str | None = None,
    *,
    port: int | None = None,
    server_port: int | None = None,
    echo: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Start what does not run yet and wait until it answers.

    Parameters
    ----------
    state : Path or str, optional
        State folder, see `state_folder`.
    port, server_port : int, optional
        Insist on these ports: of MiniStack, of our server. By default those of the last time, else 4566 and
        4570, else any free ones.
    echo : callable
        Gets a line of text at each step.

    Returns
    -------
    dict
        What ``state.json`` says, ``{"ministack": {"pid", "started", "port"}, "server": {...}, "region"}``, and
        ``ports_changed``: true when a port differs from the last time, so that addresses deployed then are stale.

    Raises
    ------
    PlatformError
        A port is taken, the folder cannot be written, or a process does not come up; says what to do.
    """
    folder = state_folder(state)
    try:
        private_folder(folder)
        for name in ("logs", "tmp", "ministack", "ministack/state", "ministack/s3", "store", "mail", "children"):
            private_folder(folder / name)
        write_atomic(folder / _SDK_DEFAULTS, _sdk_defaults().encode())
        with _locked(folder):
            return _up(folder, {"ministack": port, "server": server_port}, echo)
    except OSError as error:
        raise PlatformError(f"The local AWS cannot write its state folder {folder}: {error.strerror}") from None


def down(state: Path | str | None = None, *, echo: Callable[[str], None] = lambda line: None) -> bool:
    """Stop the local AWS of a state folder; return whether anything ran. MiniStack saves itself."""
    folder = state_folder(state)
    if not (folder / "state.json").exists():
        return False
    with _locked(folder):
        kept = _read(folder)
        ran = False
        for name in ("server", "ministack"):  # what needs the other one first
            ran |= _end(folder, kept, name, echo)
        return ran


def _up(folder: Path, asked: Mapping[str, int | None], echo: Callable[[str], None]) -> dict[str, Any]:
    kept = _read(folder)
    before = {name: (kept.get(name) or {}).get("port") for name in PREFERRED_PORTS}
    running = {name: _healthy(kept, name) for name in PREFERRED_PORTS}
    moved = any(running[name] and asked[name] not in (None, before[name]) for name in PREFERRED_PORTS)
    if moved:
        raise PlatformError(
            f"The local AWS of {folder} already runs on ports {before['ministack']} and {before['server']}; "
            "stop it first with: fraud local down"
        )
    if all(running.values()):
        return kept | {"ports_changed": False}
    for name in ("server", "ministack"):  # both: each was told the other's port
        _end(folder, kept, name, echo)
    for attempt in (1, 2, 3):
        ports = _ports(asked, before)
        try:
            kept = _start(folder, ports, echo)
            break
        except _PortLostError as error:  # somebody else was faster
            if attempt == 3:
                raise PlatformError(str(error)) from None
    changed = any(before[name] not in (None, ports[name]) for name in PREFERRED_PORTS)
    return kept | {"ports_changed": changed}


def _start(folder: Path, ports: Mapping[str, int], echo: Callable[[str], None]) -> dict[str, Any]:
    """Start both processes and wait until they answer; leave nothing behind when that fails."""
    kept: dict[str, Any] = {"region": REGION, **{name: {"port": port} for name, port in ports.items()}}
    try:
        for name in PREFERRED_PORTS:
            echo(f"starting {_TITLE[name]} on 127.0.0.1:{ports[name]}")
            kept[name] |= _spawn(folder, name, ports)
            write_atomic(folder / "state.json", json.dumps(kept, indent=1).encode())
        for name in PREFERRED_PORTS:
            _await(folder, kept, name)
    except BaseException:
        for name in ("server", "ministack"):
            _end(folder, kept, name, echo)
        raise
    return kept


def _spawn(folder: Path, name: str, ports: Mapping[str, int]) -> dict[str, Any]:
    aws = variables(folder, ports["ministack"], ports["server"])
    child = clean(os.environ) | aws | {MARK: str(folder), "PYTHONUNBUFFERED": "1"}
    if name == "ministack":
        arguments = ["-m", _MINISTACK]
        child |= {
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(ports["ministack"]),
            "MINISTACK_HOST": "127.0.0.1",
            "MINISTACK_REGION": REGION,
            "PERSIST_STATE": "1",
            "S3_PERSIST": "1",
            "STATE_DIR": str(folder / "ministack" / "state"),
            "S3_DATA_DIR": str(folder / "ministack" / "s3"),
            "TMPDIR": str(folder / "tmp"),
            "LOG_LEVEL": "WARNING",
            # its MQTT and SFTP servers listen on all interfaces, and nobody asked for them
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
        }
    else:
        arguments = ["-m", "fraud.localaws", "--state", str(folder), "serve", "--region", REGION]
        arguments += ["--port", str(ports["server"]), "--ministack-port", str(ports["ministack"])]
    with open(_log(folder, name), "ab", opener=_private) as log:
        process = subprocess.Popen(
            [sys.executable, "-P", *arguments],  # -P: not from the folder it stands in
            cwd=folder,
            env=child,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
        )
    _OPENED[process.pid] = process
    return {"pid": process.pid, "started": started(process.pid) or time.time()}


def _sdk_defaults() -> str:
    session = {"DefaultS3Bucket": f"sagemaker-{REGION}-{ACCOUNT}"}  # as it would be named, had STS been asked
    return json.dumps({"SchemaVersion": "1.0", "SageMaker": {"PythonSDK": {"Modules": {"Session": session}}}})


def _private(path: str, flags: int) -> int:
    """Open a file that its owner alone may read."""
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)  # it may be there already
    return descriptor


_OPENED: dict[int, subprocess.Popen[bytes]] = {}  # our own children, so that they can be reaped


def _await(folder: Path, kept: dict[str, Any], name: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not _healthy(kept, name):
        late = time.monotonic() > deadline
        if late or not _alive(kept, name):
            title = _TITLE[name][:1].upper() + _TITLE[name][1:]
            what = f"does not answer after {_START_SECONDS:.0f} s" if late else "did not start"
            end = " | ".join(tail(folder, name, 5).splitlines())
            sort = PlatformError if late or _free(kept[name]["port"]) else _PortLostError
            raise sort(f"{title} {what}; {_log(folder, name)} ends with: {end}")
        time.sleep(0.05)


class _PortLostError(Exception):
    """A process found its port taken, which was free when it was chosen."""


def _end(folder: Path, kept: dict[str, Any], name: str, echo: Callable[[str], None]) -> bool:
    """Stop one process if it is ours: SIGTERM, patience, then everything that is left of its session."""
    entry = kept.get(name) or {}
    if "pid" not in entry:
        return False
    ran = _alive(kept, name)
    if ran:
        echo(f"stopping {_TITLE[name]}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(entry["pid"], signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        while _alive(kept, name) and time.monotonic() < deadline:
            time.sleep(0.05)
    end_session(entry["pid"], entry["started"], str(folder))
    if name == "server":
        Children(folder / "children", str(folder)).end_orphans()
    if process := _OPENED.pop(entry["pid"], None):
        process.wait(timeout=5)
    return ran


def _alive(kept: dict[str, Any], name: str) -> bool:
    entry = kept.get(name) or {}
    return "pid" in entry and alive(entry["pid"], entry["started"])


def _healthy(kept: dict[str, Any], name: str) -> bool:
    """Whether the process lives, holds its port (another local AWS may answer there) and answers."""
    if not _alive(kept, name):
        return False
    port = kept[name]["port"]
    try:
        links = psutil.Process(kept[name]["pid"]).net_connections("tcp")
    except psutil.AccessDenied:
        links = None
    except psutil.Error:
        return False
    if links is not None and not any(link.laddr.port == port and link.status == psutil.CONN_LISTEN for link in links):
        return False
    return _get(port, _HEALTH[name]) is not None


def _ports(asked: Mapping[str, int | None], before: Mapping[str, int | None]) -> dict[str, int]:
    chosen: dict[str, int] = {}
    for name, preferred in PREFERRED_PORTS.items():
        if (wanted := asked[name]) is not None:
            if not _free(wanted):
                raise PlatformError(f"Port {wanted} on 127.0.0.1 is taken; stop what uses it or ask for another one")
            chosen[name] = wanted
            continue
        candidates = [before[name], preferred, *range(preferred + 100, preferred + 160, 10)]
        chosen[name] = (
            next((port for port in candidates if port and port not in chosen.values() and _free(port)), 0)
            or _any_port()
        )
    return chosen


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            return False
        return True


def _any_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _get(port: int | None, path: str) -> dict[str, Any] | None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return dict(json.load(answer))
    except (OSError, ValueError):
        return None


def _read(folder: Path) -> dict[str, Any]:
    try:
        kept = json.loads((folder / "state.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}


def _log(folder: Path, name: str) -> Path:
    return folder / "logs" / f"{name}.log"


def tail(folder: Path, name: str, lines: int = 10) -> str:
    """Return the last lines of a process's log."""
    log = _log(folder, name)
    text = log.read_text(errors="replace") if log.is_file() else ""
    return "\n".join(text.splitlines()[-lines:]) or "(nothing)"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one `up` or `down` of a state folder run at a time."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
