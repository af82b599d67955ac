"""CodePipeline: declarations of pipelines, and their executions, which really build (see `pipeline_runs`).

Other than on AWS, making or changing a pipeline starts no execution: there may be nothing to build on yet.
"""

from __future__ import annotations

import time
from typing import Any, NoReturn

from fraud.localaws import pipeline_shape
from fraud.localaws.pipeline_runs import Runs
from fraud.localaws.pipeline_shape import ACTIVE, EXECUTIONS
from fraud.localaws.store import AlreadyExistsError
from fraud.localaws.wire import AwsError, Context, Operations

_PIPELINES = "codepipeline-pipelines"


class CodePipeline(Operations):
    """The operations of CodePipeline that are here."""

    service = "codepipeline"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.runs = Runs(context)

    async def start(self) -> None:
        """Account for what was running, and let queues go on."""
        await self.runs.resume()

    async def stop(self) -> None:
        """End all builds."""
        await self.runs.wind_up()

    def status(self) -> dict[str, Any]:
        """Return each pipeline with its newest execution."""
        pipelines = {}
        for doc in self.context.store.list(_PIPELINES):
            name = doc["pipeline"]["name"]
            newest = next(iter(self.runs.of(name)), None)
            pipelines[name] = {"execution": newest["id"], "status": newest["status"]} if newest else {}
        return {"pipelines": pipelines}

    # ---- pipelines -------------------------------------------------------------------------------------------------

    async def create_pipeline(self, params: dict[str, Any]) -> dict[str, Any]:
        """Make a pipeline; it starts nothing."""
        pipeline = params["pipeline"] | {"version": 1}
        pipeline_shape.check(pipeline)
        now = time.time()
        try:
            doc = {"pipeline": pipeline, "created": now, "updated": now, "tags": params.get("tags", [])}
            self.context.store.put(_PIPELINES, pipeline["name"], doc, create=True)
        except AlreadyExistsError:
            name = pipeline["name"]
            raise AwsError("PipelineNameInUseException", f"A pipeline with the name {name} already exists") from None
        return {"pipeline": pipeline, "tags": params.get("tags")}

    async def get_pipeline(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return a declaration."""
        doc = self._pipeline(params["name"])
        pipeline = doc["pipeline"]
        if params.get("version", pipeline["version"]) != pipeline["version"]:
            message = f"Pipeline {params['name']} has no version {params['version']} here, only {pipeline['version']}"
            raise AwsError("PipelineVersionNotFoundException", message)
        metadata = {
            "pipelineArn": self.context.arn("codepipeline", pipeline["name"]),
            "created": doc["created"],
            "updated": doc["updated"],
        }
        return {"pipeline": pipeline, "metadata": metadata}

    async def update_pipeline(self, params: dict[str, Any]) -> dict[str, Any]:
        """Replace a declaration; executions that run keep the one they began with."""
        name = params["pipeline"]["name"]
        doc = self._pipeline(name)
        pipeline = params["pipeline"] | {"version": doc["pipeline"]["version"] + 1}
        pipeline_shape.check(pipeline)
        self.context.store.put(_PIPELINES, name, doc | {"pipeline": pipeline, "updated": time.time()})
        return {"pipeline": pipeline}

    async def delete_pipeline(self, params: dict[str, Any]) -> dict[str, Any]:
        """Forget a pipeline and its executions; what runs is stopped."""
        name = params["name"]
        self.context.store.delete(_PIPELINES, name)
        for doc in self.runs.of(name):
            if doc["status"] in ACTIVE:
                await self.runs.discard(doc)
            self.context.store.delete(EXECUTIONS, doc["id"])
        return {}

    async def list_pipelines(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return what pipelines there are."""
        found = []
        for doc in self.context.store.list(_PIPELINES):
            pipeline = doc["pipeline"]
            entry = {
                key: pipeline[key] for key in ("name", "version", "pipelineType", "executionMode") if key in pipeline
            }
            found.append(entry | {"created": doc["created"], "updated": doc["updated"]})
        return _page("pipelines", found, params)

    # ---- executions ------------------------------------------------------------------------------------------------

    async def start_pipeline_execution(self, params: dict[str, Any]) -> dict[str, Any]:
        """Queue an execution; a ``clientRequestToken`` that was seen before returns that execution."""
        pipeline = self._pipeline(params["name"])["pipeline"]
        values = pipeline_shape.variables(pipeline, params.get("variables", []))
        return {"pipelineExecutionId": self.runs.start(pipeline, values, params.get("clientRequestToken", ""))}

    async def stop_pipeline_execution(self, params: dict[str, Any]) -> dict[str, Any]:
        """Stop an execution: after its running actions, or at once with all their processes (``abandon``)."""
        doc = self._execution(params)
        await self.runs.stop(doc, abandon=params.get("abandon", False), reason=params.get("reason", ""))
        return {"pipelineExecutionId": doc["id"]}

    async def get_pipeline_execution(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return an execution."""
        doc = self._execution(params)
        revisions = [
            {"name": item["artifact"], "revisionId": item["id"], "revisionSummary": item["summary"]}
            for item in doc["revisions"]
        ]
        execution = {
            "pipelineName": doc["pipeline"],
            "pipelineVersion": doc["version"],
            "pipelineExecutionId": doc["id"],
            "status": doc["status"],
            "statusSummary": doc["statusSummary"] or None,
            "artifactRevisions": revisions,
            "variables": doc["variables"],
            "trigger": doc["trigger"],
            "executionMode": doc["mode"],
            "executionType": "STANDARD",
        }
        return {"pipelineExecution": execution}

    async def list_pipeline_executions(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return the executions of a pipeline, the newest first."""
        self._pipeline(params["pipelineName"])
        stage = params.get("filter", {}).get("succeededInStage", {}).get("stageName")
        found = []
        for doc in self.runs.of(params["pipelineName"]):
            if stage and _stage_status(doc, stage) != "Succeeded":
                continue
            summary = {
                "pipelineExecutionId": doc["id"],
                "status": doc["status"],
                "statusSummary": doc["statusSummary"] or None,
                "startTime": doc["created"],
                "lastUpdateTime": doc["updated"],
                "sourceRevisions": [
                    {"actionName": item["actionName"], "revisionId": item["id"], "revisionSummary": item["summary"]}
                    for item in doc["revisions"]
                ],
                "trigger": doc["trigger"],
                "executionMode": doc["mode"],
                "executionType": "STANDARD",
            }
            if doc["stop"]:
                summary["stopTrigger"] = {"reason": doc["stop"]["reason"]}
            found.append(summary)
        return _page("pipelineExecutionSummaries", found, params)

    async def list_action_executions(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return what the actions of a pipeline did, the newest first."""
        name = params["pipelineName"]
        self._pipeline(name)
        only = params.get("filter", {}).get("pipelineExecutionId")
        only = only or params.get("filter", {}).get("latestInPipelineExecution", {}).get("pipelineExecutionId")
        found = []
        for doc in self.runs.of(name):
            if only and doc["id"] != only:
                continue
            for entry in reversed(doc["actions"]):
                found.append(_action_detail(doc, entry))
        return _page("actionExecutionDetails", found, params)

    async def get_pipeline_state(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return each stage with the newest execution that came through it."""
        kept = self._pipeline(params["name"])
        pipeline = kept["pipeline"]
        executions = self.runs.of(params["name"])
        waiting = [doc for doc in executions if doc["status"] in ACTIVE and not doc["started"]]
        stages = []
        for position, stage in enumerate(pipeline["stages"]):
            state: dict[str, Any] = {"stageName": stage["name"], "inboundTransitionState": {"enabled": True}}
            if position == 0 and waiting:
                inbound = [{"pipelineExecutionId": doc["id"], "status": "InProgress"} for doc in reversed(waiting)]
                state |= {"inboundExecution": inbound[0], "inboundExecutions": inbound}
            newest = next((doc for doc in executions if _entries(doc, stage["name"])), None)
            entries = {entry["action"]: entry for entry in _entries(newest, stage["name"])} if newest else {}
            if newest:
                status = _stage_status(newest, stage["name"])
                state["latestExecution"] = {"pipelineExecutionId": newest["id"], "status": status}
            state["actionStates"] = [_action_state(action["name"], entries) for action in stage["actions"]]
            stages.append(state)
        return {
            "pipelineName": pipeline["name"],
            "pipelineVersion": pipeline["version"],
            "stageStates": stages,
            "created": kept["created"],
            "updated": kept["updated"],
        }

    async def put_approval_result(self, params: dict[str, Any]) -> dict[str, Any]:
        """Approve or reject what an approval action waits for."""
        pipeline = self._pipeline(params["pipelineName"])["pipeline"]
        stage = next((item for item in pipeline["stages"] if item["name"] == params["stageName"]), None)
        if stage is None:
            raise AwsError("StageNotFoundException", f"Pipeline has no stage {params['stageName']}")
        if params["actionName"] not in [action["name"] for action in stage["actions"]]:
            raise AwsError("ActionNotFoundException", f"Stage has no action {params['actionName']}")
        entries = [
            entry
            for doc in self.runs.of(params["pipelineName"])
            for entry in _entries(doc, params["stageName"])
            if entry["action"] == params["actionName"]
        ]
        chosen = next((entry for entry in entries if entry.get("token") == params["token"]), None)
        if chosen is None and not entries:
            raise AwsError("InvalidApprovalTokenException", "No approval waits there")
        return {"approvedAt": self.runs.actions.approve(chosen or entries[0], params["token"], params["result"])}

    # ---- finding ---------------------------------------------------------------------------------------------------

    def _pipeline(self, name: str) -> dict[str, Any]:
        doc = self.context.store.get(_PIPELINES, name)
        if doc is None:
            message = f"Account '{self.context.account}' does not have a pipeline with name '{name}'"
            raise AwsError("PipelineNotFoundException", message)
        return doc

    def _execution(self, params: dict[str, Any]) -> dict[str, Any]:
        name, execution_id = params["pipelineName"], params["pipelineExecutionId"]
        self._pipeline(name)
        doc = self.runs.get(execution_id)
        if doc is None or doc["pipeline"] != name:
            message = f"Pipeline {name} does not have an execution with id {execution_id}"
            raise AwsError("PipelineExecutionNotFoundException", message)
        return doc


def _entries(doc: dict[str, Any], stage: str) -> list[dict[str, Any]]:
    return [entry for entry in doc["actions"] if entry["stage"] == stage]


def _stage_status(doc: dict[str, Any], stage: str) -> str:
    statuses = [entry["status"] for entry in _entries(doc, stage)]
    declared: list[Any] = next((item["actions"] for item in doc["declaration"]["stages"] if item["name"] == stage), [])
    if not statuses:
        return "Cancelled"
    if "InProgress" in statuses:
        return "Stopping" if doc["status"] == "Stopping" else "InProgress"
    if "Failed" in statuses:
        return "Failed"
    if "Abandoned" in statuses:
        return "Stopped" if doc["stop"] else "Failed"
    if len(statuses) < len(declared):
        return "InProgress" if doc["status"] == "InProgress" else "Stopped"
    return "Succeeded"


def _action_state(name: str, entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    entry = entries.get(name)
    if entry is None:
        return {"actionName": name}
    latest = {
        "actionExecutionId": entry["id"],
        "status": entry["status"],
        "summary": entry["summary"] or None,
        "lastStatusChange": entry["updated"],
        "token": entry.get("token"),
        "externalExecutionId": entry.get("external"),
        "errorDetails": entry.get("error"),
        "logStreamARN": entry.get("log"),
    }
    state: dict[str, Any] = {"actionName": name, "latestExecution": latest}
    if entry["type"]["category"] == "Source" and entry.get("external"):
        revision = {"revisionId": entry["external"], "revisionChangeId": entry["external"], "created": entry["updated"]}
        state["currentRevision"] = revision
    return state


def _action_detail(doc: dict[str, Any], entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "pipelineExecutionId": doc["id"],
        "actionExecutionId": entry["id"],
        "pipelineVersion": doc["version"],
        "stageName": entry["stage"],
        "actionName": entry["action"],
        "startTime": entry["started"],
        "lastUpdateTime": entry["updated"],
        "status": entry["status"],
        "input": {
            "actionTypeId": entry["type"],
            "configuration": entry["configuration"],
            "resolvedConfiguration": entry.get("resolved"),
        },
        "output": {
            "executionResult": {
                "externalExecutionId": entry.get("external"),
                "externalExecutionSummary": entry["summary"] or None,
                "errorDetails": entry.get("error"),
                "logStreamARN": entry.get("log"),
            },
            "outputVariables": entry["outputs"],
        },
    }


def _page(name: str, items: list[dict[str, Any]], params: dict[str, Any]) -> dict[str, Any]:
    def refuse() -> NoReturn:
        raise AwsError("InvalidNextTokenException", "The next token is not one that this service gave")

    token = params.get("nextToken", "0")
    first = int(token) if token.isascii() and token.isdigit() and len(token) < 10 else refuse()
    size = params.get("maxResults") or 100
    page = {name: items[first : first + size]}
    return page | {"nextToken": str(first + size)} if first + size < len(items) else page
