"""``python -m fraud.localaws``: start, look at and stop the local AWS; ``fraud local`` calls this."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from fraud import localaws
from fraud.errors import FraudError
from fraud.localaws import clean_environment, supervisor
from fraud.pipeline import claims
from fraud.pipeline.private_folder import private_folder


def main() -> int:
    """Run one command; results go to stdout, progress and errors to stderr."""
    given = _parser().parse_args()
    os.umask(0o077)  # whatever is written here is nobody else's business
    try:
        return int(
            {"serve": _serve, "up": _up, "down": _down, "status": _status, "env": _env, "logs": _logs}[given.command](
                given
            )
        )
    except FraudError as error:
        _note(f"Error: {error}")
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fraud.localaws")
    parser.add_argument("--state", type=Path, help="state folder (FRAUD_LOCAL_STATE, else .fraud/local)")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start what does not run; prints its state as JSON")
    up.add_argument("--port", type=int, help="port of S3, Lambda, API Gateway and so on (4566 when free)")
    up.add_argument("--server-port", type=int, help="port of SageMaker, CodePipeline and SESv2 (4570 when free)")
    commands.add_parser("down", help="stop; what it holds stays on disk")
    status = commands.add_parser("status", help="what runs, and what is in it")
    env = commands.add_parser("env", help="lines for a shell: what to export and to unset; --json: null unsets")
    for command in (status, env):
        command.add_argument("--json", action="store_true")
    logs = commands.add_parser("logs", help="the last lines of both logs")
    logs.add_argument("--lines", type=int, default=40)
    serve = commands.add_parser("serve", help="the daemon itself, as `up` starts it")
    serve.add_argument("--port", type=int, required=True)
    serve.add_argument("--ministack-port", type=int, required=True)
    serve.add_argument("--region", default=supervisor.REGION)
    return parser


def _up(given: argparse.Namespace) -> int:
    state = localaws.up(given.state, port=given.port, server_port=given.server_port, echo=_note)
    aside = clean_environment.set_aside(os.environ, localaws.environment(given.state))
    return _say(json.dumps(state | {"set_aside": aside}))


def _down(given: argparse.Namespace) -> int:
    state = localaws.state_folder(given.state)
    if not state.parent.is_dir():
        return _say("The local AWS was not running.")
    with claims.hold(state, "fraud local down", echo=_note):
        claims.refuse_while_runs_go_on(state)
        stopped = localaws.down(state, echo=_note)
    return _say("The local AWS is stopped; what it held is kept." if stopped else "The local AWS was not running.")


def _status(given: argparse.Namespace) -> int:
    found = localaws.status(given.state)
    if given.json:
        return _say(json.dumps(found))
    lines = [f"state      {found['state']}"]
    for name in ("ministack", "server"):
        entry = found[name]
        word = "healthy" if entry["healthy"] else "running but silent" if entry["running"] else "not running"
        where = f"http://127.0.0.1:{entry['port']} (pid {entry['pid']})" if entry["running"] else ""
        lines.append(f"{name:<10} {word} {where}".rstrip())
    for service, content in found["services"].items():
        lines.append(f"{service:<10} {_plain(content)}".rstrip())
    return _say("\n".join(lines))


def _plain(content: dict[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')}: {json.dumps(value) if value else 0}" for key, value in content.items())


def _env(given: argparse.Namespace) -> int:
    variables = localaws.environment(given.state)
    variables |= {"FRAUD_RUNS": str(claims.runs_of(localaws.state_folder(given.state)))}
    changes = clean_environment.changes(os.environ, variables)
    if given.json:
        return _say(json.dumps(changes))
    if aside := clean_environment.set_aside(os.environ, variables):
        _note(f"Set aside, since it leads away from the local AWS: {', '.join(aside)}")
    lines = [f"unset {name}" for name, value in changes.items() if value is None]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in changes.items() if value is not None]
    return _say("\n".join(lines))


def _logs(given: argparse.Namespace) -> int:
    folder = localaws.state_folder(given.state)
    for name in ("ministack", "server"):
        _say(f"==> {name}\n{supervisor.tail(folder, name, given.lines)}")
    return 0


def _serve(given: argparse.Namespace) -> int:
    import asyncio

    from fraud.localaws.server import serve

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    state = localaws.state_folder(given.state)
    private_folder(state)
    os.chdir(state)  # no answer may depend on where somebody typed `fraud local up`
    variables = supervisor.variables(state, given.ministack_port, given.port, given.region)
    environment = clean_environment.clean(os.environ) | variables
    os.environ.clear()
    os.environ.update(environment)
    asyncio.run(serve(state, given.port, variables))
    return 0


def _say(text: str) -> int:
    sys.stdout.write(text + "\n")
    return 0


def _note(text: str) -> None:
    sys.stderr.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
