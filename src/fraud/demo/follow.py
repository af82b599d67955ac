"""The story's eyes on the local AWS: start it, see whether it was used, follow an execution, find what it left."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from fraud.demo.screen import Step
from fraud.errors import FraudError
from fraud.pipeline import bring_up, history_page
from fraud.pipeline.infra import app_stack_name
from fraud.pipeline.logs import read_on
from fraud.pipeline.parameters import ROOT
from fraud.pipeline.runner import REPORTS
from fraud.pipeline.stacks import stack_outputs
from fraud.pipeline.storage import Storage
from fraud.pipeline.where import client

RUNNING = ("InProgress", "Stopping")
SHOWN = ("▸", "✓", "✗", "!", "Error")
LAST_LINES = 20
LONGEST = 1_800.0  # seconds an execution may take


class PipelineFailed(FraudError):
    """The pipeline did not succeed; ``lines`` are the last ones of its build."""

    def __init__(self, execution: str, status: str, lines: list[str]) -> None:
        super().__init__(f"The pipeline execution {execution} ended as {status}.")
        self.lines = lines


def state_folder() -> Path:
    """Where the local AWS keeps what it holds."""
    named = os.environ.get("FRAUD_LOCAL_STATE")
    return Path(named).resolve() if named else ROOT / ".fraud" / "local"


def demo_folder() -> Path:
    """Where the story keeps its tables: each local AWS has its own."""
    state = state_folder()
    return ROOT / ".fraud" / "demo" if state == ROOT / ".fraud" / "local" else state.with_name(f"{state.name}.demo")


def start_aws(step: Step) -> tuple[dict[str, str], bool]:
    """Start the local AWS as a program, point this process at it, and tell whether it holds a history already.

    Returns
    -------
    outputs : dict of str to str
        Of the stack.
    used : bool
    """
    import json

    step.run("fraud local up", ["-m", "fraud.pipeline.cli", "local", "up"])
    bring_up.point_here(json.loads(bring_up.local_aws("env", "--json")) | {"FRAUD_RUNS": None})  # the story has a lock
    outputs = stack_outputs(app_stack_name(bring_up.ENVIRONMENT))
    used = next(iter(Storage(outputs["BucketName"]).list("raw/")), None) is not None
    return outputs, used


def set_aside(step: Step) -> None:
    """Stop the local AWS and move what it holds out of the way; the one before that is removed."""
    folder = state_folder()
    before = folder.with_name(f"{folder.name}.before")
    step.say(f"The local AWS holds an earlier story; it is kept in {before} (--keep would go on with it).")
    bring_up.local_aws("down")
    shutil.rmtree(before, ignore_errors=True)
    folder.rename(before)


def follow(pipeline: str, execution: str, step: Step) -> None:
    """Wait for an execution and show the lines of its build that people read.

    Raises
    ------
    PipelineFailed
        With the last lines, when it does not succeed.
    """
    api = client("codepipeline")
    lines: list[str] = []
    reader = _build_lines(pipeline, execution)
    end = time.monotonic() + LONGEST
    while True:
        status = api.get_pipeline_execution(pipelineName=pipeline, pipelineExecutionId=execution)
        found = status["pipelineExecution"]["status"]
        for line in next(reader):
            lines = [*lines, line][-LAST_LINES:]
            if line.strip().startswith(SHOWN):
                step.say(line.strip())
        if found not in RUNNING or time.monotonic() > end:
            break
        time.sleep(1.0)
    if found != "Succeeded":
        raise PipelineFailed(execution, found, [*lines, *next(reader)][-LAST_LINES:])


def _build_lines(pipeline: str, execution: str) -> Iterator[list[str]]:
    """Give at each turn the lines of the execution's build log that are new; none while there is no log."""
    where: tuple[str, ...] = ()
    token = ""
    while True:
        lines: list[str] = []
        try:
            where = where or _log_stream(pipeline, execution)
            if where:
                messages, token = read_on(*where, token)
                lines = [text for message in messages for text in message.splitlines()]
        except (ClientError, BotoCoreError):  # the log is for reading along only
            where = ()
        yield lines


def _log_stream(pipeline: str, execution: str) -> tuple[str, ...]:
    """Log group and stream of the execution's newest build; empty before it began."""
    pages = client("codepipeline").get_paginator("list_action_executions")
    found = pages.paginate(pipelineName=pipeline, filter={"pipelineExecutionId": execution})
    for item in (item for page in found for item in page["actionExecutionDetails"]):
        build = item.get("output", {}).get("executionResult", {}).get("externalExecutionId", "")
        project, colon, stream = build.partition(":")
        if colon and item.get("input", {}).get("actionTypeId", {}).get("provider", "CodeBuild") == "CodeBuild":
            return f"/aws/codebuild/{project}", stream
    return ()


def collect_pages(bucket: str, run_id: str, endpoint: str) -> list[Path]:
    """Bring the HTML reports of a run to ``reports/<run_id>/``, list them anew, and say where they lie."""
    folder = REPORTS / run_id
    folder.mkdir(parents=True, exist_ok=True)
    storage, found = Storage(bucket), []
    for item in storage.list(f"runs/{run_id}/"):
        name = item.key.rsplit("/", 1)[-1]
        if item.key == f"runs/{run_id}/{name}" and name.endswith(".html"):
            storage.download(item, folder / name)
            found.append(folder / name)
    return [*sorted(found), history_page.write_local(storage, endpoint, REPORTS)]


def mails(since: float = 0.0) -> list[Path]:
    """E-mails that the local AWS has kept since a moment, the newest first."""
    found = [path for path in (state_folder() / "mail").glob("*.eml") if path.stat().st_mtime >= since]
    return sorted(found, reverse=True)
