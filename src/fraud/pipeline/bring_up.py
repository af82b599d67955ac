"""From nothing to a deployed product on this machine; and the schedule's tick by hand.

The local AWS is another program: it is started as one, and spoken to as AWS from then on.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import boto3

from fraud.errors import PlatformError
from fraud.pipeline import claims
from fraud.pipeline import where as places

ENVIRONMENT, ENDPOINT = "local", "fraud"
SENDER = "fraud-loop@example.com"


def local_aws(*arguments: str, module: str = "fraud.localaws", shown: bool = False) -> str:
    """Run a command of the local AWS and return what it prints; with `shown`, show what it says besides.

    Raises
    ------
    PlatformError
        With the command's own sentence when it fails.
    """
    command = [sys.executable, "-X", "utf8", "-m", module, *arguments]  # paths and signs beyond ASCII in any locale
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise PlatformError((said[-1] if said else "The local AWS failed.").removeprefix("Error: "))
    if shown:
        sys.stderr.write(done.stderr)
    return done.stdout


def point_here(changes: Mapping[str, str | None]) -> None:
    """Point this process at the local AWS: its variables, without those that lead elsewhere, and clients made anew."""
    for name, value in changes.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    boto3.setup_default_session()  # the one before may hold a profile
    for cached in (places.client, places.client_once, places.where):
        cached.cache_clear()


def bring_up(*, port: int = 0, bare: bool = False, echo: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Start the local AWS and deploy ``infra/app.yml`` to it; quick when all is there.

    Parameters
    ----------
    port : int
        Port of the AWS services; 0 finds a free one.
    bare : bool
        Start the services only.
    echo : callable
        Gets one line of progress at a time.

    Returns
    -------
    dict
        What runs where, and the stack's outputs.

    Raises
    ------
    HeldError
        `make run` is going on; another `fraud local up` is waited for.
    """
    folder = Path(json.loads(local_aws("status", "--json"))["state"])
    with claims.hold(folder, "fraud local up", echo=echo):
        echo("Starting the local AWS …")
        state: dict[str, Any] = json.loads(local_aws("up", *(["--port", str(port)] if port else [])))
        if aside := state.pop("set_aside"):
            echo(f"Set aside, since it leads away from the local AWS: {', '.join(aside)}")
        point_here(json.loads(local_aws("env", "--json")))
        if bare:
            return state
        from fraud.pipeline.infra import deploy_app

        echo("Deploying infra/app.yml …")
        settings = {"EndpointName": ENDPOINT, "ReportFrom": SENDER, "ReportTo": "fraud-team@example.com"}
        outputs = deploy_app(ENVIRONMENT, settings, echo=echo)
        pipeline = ["--bucket", outputs["BucketName"], "--endpoint", ENDPOINT, "--env", ENVIRONMENT]
        local_aws(*pipeline, module="fraud.localaws.default_pipeline")
        mail = places.client("sesv2")
        with contextlib.suppress(mail.exceptions.AlreadyExistsException):
            mail.create_email_identity(EmailIdentity=SENDER)
        return state | {"outputs": outputs}


def tick(schedule: str = "") -> dict[str, Any]:
    """Do now what the schedule does: invoke its target with its own input.

    Parameters
    ----------
    schedule : str
        Name of the schedule; empty takes the one that calls the drift check.

    Returns
    -------
    dict
        The drift check's answer: verdict, sentence, decision.

    Raises
    ------
    PlatformError
        When there is no schedule, or the function failed.
    """
    scheduler = places.client("scheduler")
    pages = scheduler.get_paginator("list_schedules").paginate()
    found = [item for page in pages for item in page["Schedules"]]
    names = [
        item["Name"] for item in found if (item["Name"] == schedule if schedule else "drift" in item["Name"].lower())
    ]
    if not names:
        raise PlatformError("There is no schedule for the drift check: deploy infra/app.yml (`fraud local up`).")
    target = scheduler.get_schedule(Name=names[0])["Target"]
    answer = places.client("lambda").invoke(FunctionName=target["Arn"], Payload=target.get("Input", "{}").encode())
    body = answer["Payload"].read()
    if answer.get("FunctionError"):
        raise PlatformError(f"The drift check failed: {body.decode(errors='replace')[:500]}")
    return dict(json.loads(body))
