"""What the actions of a pipeline do: check out, build, ask for approval."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from fraud.errors import FraudError
from fraud.localaws import checkout
from fraud.localaws.build import Job, write_job
from fraud.localaws.build_shell import end_build
from fraud.localaws.pipeline_shape import ACTIVE, EXECUTIONS, environment_variables, resolve
from fraud.localaws.wire import AwsError, Context

KEPT_BUILDS = 3
_APPROVAL_SECONDS = 7 * 24 * 3600.0
_PROJECT_MINUTES = 60.0
_NUMBERS = "codebuild-numbers"


class ActionFailed(Exception):
    """An action failed; `code` is CodePipeline's ``errorDetails.code``."""

    def __init__(self, message: str, code: str = "JobFailed") -> None:
        super().__init__(message)
        self.code = code


class Actions:
    """Performs actions.

    Parameters
    ----------
    context : Context
    save : callable
        Writes an execution to disk.
    """

    def __init__(self, context: Context, save: Callable[[dict[str, Any]], None]) -> None:
        self.context = context
        self.save = save
        self.builds = context.state / "builds"
        self._approvals: dict[str, asyncio.Future[dict[str, str]]] = {}

    async def perform(self, doc: dict[str, Any], stage: str, action: dict[str, Any], entry: dict[str, Any]) -> None:
        """Perform one action of an execution.

        Raises
        ------
        ActionFailed
            With the reason.
        """
        kind = action["actionTypeId"]
        entry["resolved"] = self._resolve(doc, action)
        try:
            if kind["category"] == "Source":
                await self._source(doc, action, entry)
            elif kind["provider"] == "CodeBuild":
                await self._build(doc, stage, action, entry)
            else:
                await self._approval(doc, action, entry)
        except (FraudError, OSError) as error:
            raise ActionFailed(str(error)) from None

    def _resolve(self, doc: dict[str, Any], action: dict[str, Any]) -> dict[str, str]:
        """Return the configuration with its variables resolved; a value stays a value and never becomes JSON."""
        configuration = dict(action.get("configuration", {}))
        namespaces = doc["namespaces"]
        try:
            resolved = {key: resolve(text, namespaces) for key, text in configuration.items() if text}
            if "EnvironmentVariables" in configuration:
                items = environment_variables(configuration, action["name"])
                for item in items:
                    item["value"] = resolve(item["value"], namespaces)
                resolved["EnvironmentVariables"] = json.dumps(items)
        except KeyError as error:
            message = f"The variable {error.args[0]} in the configuration has no value"
            raise ActionFailed(message, "InvalidActionConfiguration") from None
        return resolved

    # ---- source ----------------------------------------------------------------------------------------------------

    async def _source(self, doc: dict[str, Any], action: dict[str, Any], entry: dict[str, Any]) -> None:
        name = action["outputArtifacts"][0]["name"]
        folder = self.builds / doc["id"] / "artifacts" / name
        call = self.context.call
        running = frozenset(item["id"] for item in self.context.store.list(EXECUTIONS) if item["status"] in ACTIVE)
        await call(checkout.prune, self.builds, KEPT_BUILDS - 1, running)
        revision = await call(lambda: checkout.checkout(checkout.source_root(), folder))
        doc["artifacts"][name] = str(folder)
        summary = revision.message or "files as they are on disk"
        if revision.changed:
            summary = f"{summary} (with changes that are not committed)"
        configuration = entry["resolved"]
        if action["actionTypeId"]["provider"] == "S3":
            entry["outputs"] = {"BucketName": configuration["S3Bucket"], "ObjectKey": configuration["S3ObjectKey"]}
        else:
            entry["outputs"] = {
                "ConnectionArn": configuration["ConnectionArn"],
                "FullRepositoryName": configuration["FullRepositoryId"],
                "BranchName": configuration["BranchName"],
                "CommitId": revision.commit,
                "CommitMessage": revision.message,
            }
        entry["summary"] = summary
        entry["external"] = revision.commit
        doc["revisions"].append(
            {"actionName": action["name"], "artifact": name, "id": revision.commit, "summary": summary}
        )

    # ---- build -----------------------------------------------------------------------------------------------------

    async def _build(self, doc: dict[str, Any], stage: str, action: dict[str, Any], entry: dict[str, Any]) -> None:
        configuration = entry["resolved"]
        project = await self._project(configuration["ProjectName"])
        build_id = f"{project['name']}:{uuid.uuid4()}"
        group = project.get("logsConfig", {}).get("cloudWatchLogs", {}).get("groupName")
        group = group or f"/aws/codebuild/{project['name']}"
        entry["external"] = build_id
        entry["log"] = self.context.arn("logs", f"log-group:{group}:log-stream:{build_id.partition(':')[2]}")
        self.save(doc)  # before the process exists: a build that we do not know of could not be ended
        job = self._job(doc, stage, action, configuration, project, build_id, group)
        path = write_job(job)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        with (Path(job.folder) / "runner.log").open("wb") as output:
            process = await self.context.spawn(
                sys.executable,
                "-P",
                "-m",
                "fraud.localaws.build",
                str(path),
                env=environment | self.context.environment,
                cwd=job.folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
            )
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            await self._kill(process, build_id)
            raise
        self._finish(doc, action, entry, job, code)

    def _job(
        self,
        doc: dict[str, Any],
        stage: str,
        action: dict[str, Any],
        configuration: dict[str, str],
        project: dict[str, Any],
        build_id: str,
        group: str,
    ) -> Job:
        inputs = [item["name"] for item in action["inputArtifacts"]]
        primary = configuration.get("PrimarySource") or inputs[0]
        for name in inputs:
            if name not in doc["artifacts"]:
                raise ActionFailed(f"The input artifact {name} is empty: the build that should make it left no files")
        given = project.get("environment", {}).get("environmentVariables", [])
        folder = self.builds / doc["id"] / f"{stage}-{action['name']}"
        folder.mkdir(parents=True)
        number = (self.context.store.get(_NUMBERS, project["name"]) or {"number": 0})["number"] + 1
        self.context.store.put(_NUMBERS, project["name"], {"number": number})
        artifact = None
        if outputs := [item["name"] for item in action.get("outputArtifacts", [])]:
            store = doc["declaration"].get("artifactStore") or doc["declaration"]["artifactStores"][self.context.region]
            key = f"{doc['pipeline'][:20].rstrip('-')}/{outputs[0][:10]}/{doc['id'][:7]}.zip"
            artifact = {
                "folder": str(self.builds / doc["id"] / "artifacts" / outputs[0]),
                "bucket": store["location"],
                "key": key,
                "kms": store.get("encryptionKey", {}).get("id", ""),
            }
        return Job(
            build_id=build_id,
            folder=str(folder),
            source=doc["artifacts"][primary],
            sources={name: doc["artifacts"][name] for name in inputs if name != primary},
            buildspec=project.get("source", {}).get("buildspec", ""),
            environment=[*given, *json.loads(configuration.get("EnvironmentVariables", "[]"))],
            timeout=project.get("timeoutInMinutes", _PROJECT_MINUTES) * 60.0,
            artifact=artifact,
            log_group=group,
            initiator=f"codepipeline/{doc['pipeline']}",
            resolved_version=doc["revisions"][0]["id"],
            build_number=number,
            region=self.context.region,
            account=self.context.account,
        )

    def _finish(self, doc: dict[str, Any], action: dict[str, Any], entry: dict[str, Any], job: Job, code: int) -> None:
        try:
            result = json.loads((Path(job.folder) / "result.json").read_bytes())
        except (OSError, ValueError):
            raise ActionFailed(
                f"The build's own process ended with {code} and left no result; see {job.folder}/runner.log"
            ) from None
        entry["outputs"] = {item["name"]: item["value"] for item in result["exported"]}
        entry["phases"] = result["phases"]
        entry["reports"] = result["reports"]
        if result["artifact_files"] and job.artifact:
            doc["artifacts"][action["outputArtifacts"][0]["name"]] = job.artifact["folder"]
        if result["status"] != "SUCCEEDED":
            raise ActionFailed(f"Build terminated with state: {result['status']}. {result['error']}")
        entry["summary"] = f"Build succeeded in {result['seconds']:.0f} s"

    async def _project(self, name: str) -> dict[str, Any]:
        """Return the CodeBuild project as it was made with CreateProject (MiniStack keeps it)."""
        try:
            client = self.context.client("codebuild")
            found: dict[str, Any] = await self.context.call(client.batch_get_projects, names=[name])
        except (BotoCoreError, ClientError) as error:
            raise ActionFailed(f"The project {name} could not be looked up: {error}", "ConfigurationError") from None
        if not found["projects"]:
            arn = self.context.arn("codebuild", f"project/{name}")
            raise ActionFailed(f"Error calling startBuild: Project cannot be found: {arn}", "ConfigurationError")
        return dict(found["projects"][0])

    async def _kill(self, process: asyncio.subprocess.Process, build_id: str) -> None:
        if process.returncode is None:
            process.terminate()
        await self.context.call(end_build, build_id)
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()
        await self.context.call(end_build, build_id)  # what it started meanwhile

    async def end_builds(self, doc: dict[str, Any]) -> None:
        """End what the builds of an execution left running when the daemon was killed."""
        for entry in doc["actions"]:
            if entry["status"] == "InProgress" and entry["type"]["provider"] == "CodeBuild" and entry.get("external"):
                await self.context.call(end_build, entry["external"])

    # ---- approval --------------------------------------------------------------------------------------------------

    async def _approval(self, doc: dict[str, Any], action: dict[str, Any], entry: dict[str, Any]) -> None:
        token = str(uuid.uuid4())
        entry["token"] = token
        entry["summary"] = entry["resolved"].get("CustomData", "")
        self.save(doc)
        self._approvals[token] = asyncio.get_running_loop().create_future()
        seconds = action["timeoutInMinutes"] * 60.0 if "timeoutInMinutes" in action else _APPROVAL_SECONDS
        try:
            result = await asyncio.wait_for(self._approvals[token], seconds)
        except TimeoutError:
            raise ActionFailed("The approval was not given in time", "JobFailed") from None
        finally:
            self._approvals.pop(token, None)
            entry.pop("token", None)
        entry["summary"] = result["summary"]
        if result["status"] == "Rejected":
            raise ActionFailed(result["summary"] or "Rejected", "JobFailed")

    def approve(self, entry: dict[str, Any], token: str, result: dict[str, str]) -> float:
        """Give the answer that an approval waits for; return when.

        Raises
        ------
        AwsError
            It was given already, or the token is another one.
        """
        if entry["status"] != "InProgress":
            raise AwsError("ApprovalAlreadyCompletedException", f"Action {entry['action']} is completed already")
        future = self._approvals.get(token)
        if entry.get("token") != token or future is None:
            raise AwsError("InvalidApprovalTokenException", f"The token is not that of {entry['action']}")
        if future.done():
            raise AwsError("ApprovalAlreadyCompletedException", f"Action {entry['action']} is completed already")
        future.set_result(result)
        return time.time()
