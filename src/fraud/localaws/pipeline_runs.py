"""Executions of pipelines: queued, run stage by stage, stopped, and accounted for after a crash."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Mapping
from typing import Any

from fraud.localaws.pipeline_actions import ActionFailed, Actions
from fraud.localaws.pipeline_shape import ACTIVE, EXECUTIONS
from fraud.localaws.wire import AwsError, Context

logger = logging.getLogger(__name__)

LONGEST_QUEUE = 50


class Runs:
    """The executions of all pipelines.

    Parameters
    ----------
    context : Context

    Notes
    -----
    One execution of a pipeline runs at a time (``QUEUED`` in order of arrival; ``SUPERSEDED`` only the newest of those
    that wait; ``PARALLEL`` all at once). Each change is on disk before anybody is told of it.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.actions = Actions(context, self._save)
        self._live: dict[str, dict[str, Any]] = {}
        self._work: dict[str, asyncio.Task[Any]] = {}
        self._pumps: dict[str, asyncio.Task[Any]] = {}
        self._last = 0.0

    # ---- what there is ---------------------------------------------------------------------------------------------

    def get(self, execution_id: str) -> dict[str, Any] | None:
        """Return an execution, or None."""
        return self._live.get(execution_id) or self.context.store.get(EXECUTIONS, execution_id)

    def of(self, pipeline: str) -> list[dict[str, Any]]:
        """Return the executions of a pipeline, the newest first."""
        found = [
            self._live.get(doc["id"], doc) for doc in self.context.store.list(EXECUTIONS) if doc["pipeline"] == pipeline
        ]
        return sorted(found, key=lambda doc: doc["created"], reverse=True)

    def _save(self, doc: dict[str, Any]) -> None:
        doc["updated"] = time.time()
        self.context.store.put(EXECUTIONS, doc["id"], doc)

    # ---- life ------------------------------------------------------------------------------------------------------

    async def resume(self) -> None:
        """Fail what a killed daemon left half done, then let the queues go on."""
        waiting = set()
        for doc in self.context.store.list(EXECUTIONS):
            if doc["status"] not in ACTIVE:
                continue
            if doc["started"]:
                await self.actions.end_builds(doc)
                self._abandon(doc, "abandoned: the local AWS was stopped while it ran")
            else:
                waiting.add(doc["pipeline"])
        for pipeline in sorted(waiting):
            self._kick(pipeline)

    async def wind_up(self) -> None:
        """End what runs; those that wait go on at the next start."""
        for pump in self._pumps.values():
            pump.cancel()
        for execution_id, doc in list(self._live.items()):
            self._abandon(doc, "abandoned: the local AWS was stopped while it ran")
            if task := self._work.get(execution_id):
                task.cancel()
        await asyncio.gather(*self._work.values(), *self._pumps.values(), return_exceptions=True)

    def _abandon(self, doc: dict[str, Any], summary: str) -> None:
        now = time.time()
        for entry in doc["actions"]:
            if entry["status"] == "InProgress":
                entry.update(status="Abandoned", updated=now, summary=summary)
        doc.update(status="Stopped" if doc["stop"] else "Failed", statusSummary=summary)
        self._save(doc)

    # ---- start and stop --------------------------------------------------------------------------------------------

    def start(
        self,
        pipeline: Mapping[str, Any],
        variables: list[dict[str, str]],
        token: str = "",
        trigger: Mapping[str, str] | None = None,
    ) -> str:
        """Queue an execution and return its id; the same token gives the same execution again."""
        name = pipeline["name"]
        others = self.of(name)
        if token:
            for doc in others:
                if doc["token"] == token:
                    return str(doc["id"])
        if sum(doc["status"] in ACTIVE for doc in others) > LONGEST_QUEUE:
            raise AwsError(
                "ConcurrentPipelineExecutionsLimitExceededException",
                f"Pipeline {name} has {LONGEST_QUEUE} executions that wait already",
            )
        self._last = max(time.time(), self._last + 1e-6)  # the order of arrival, also within one tick of the clock
        doc = {
            "id": str(uuid.uuid4()),
            "pipeline": name,
            "version": pipeline["version"],
            "declaration": dict(pipeline),
            "mode": pipeline.get("executionMode", "SUPERSEDED"),
            "status": "InProgress",
            "statusSummary": "",
            "created": self._last,
            "started": False,
            "token": token,
            "variables": variables,
            "trigger": dict(trigger or {"triggerType": "StartPipelineExecution", "triggerDetail": "local"}),
            "stop": None,
            "actions": [],
            "artifacts": {},
            "revisions": [],
            "namespaces": {},
        }
        self._save(doc)
        self._kick(name)
        return str(doc["id"])

    async def stop(self, doc: dict[str, Any], *, abandon: bool, reason: str) -> None:
        """Stop an execution: now, with all its processes, or after the actions that run."""
        if doc["status"] not in ACTIVE:
            raise AwsError(
                "PipelineExecutionNotStoppableException",
                f"Execution {doc['id']} has status {doc['status']} and cannot be stopped",
            )
        if doc["stop"] and (doc["stop"]["abandon"] or not abandon):
            raise AwsError("DuplicatedStopRequestException", f"Execution {doc['id']} is being stopped already")
        doc["stop"] = {"abandon": abandon, "reason": reason}
        if not doc["started"]:
            doc.update(status="Stopped", statusSummary=reason)
            self._save(doc)
            return
        doc["status"] = "Stopping"
        self._save(doc)
        if abandon and (task := self._work.get(doc["id"])):
            task.cancel()

    async def discard(self, doc: dict[str, Any]) -> None:
        """End an execution of a pipeline that is deleted, and wait until nothing of it is left."""
        task = self._work.get(doc["id"])
        doc["stop"] = {"abandon": True, "reason": "the pipeline was deleted"}
        doc["status"] = "Stopping" if task else "Stopped"
        self._save(doc)
        if task:
            task.cancel()
            await asyncio.wait([task])

    def _kick(self, pipeline: str) -> None:
        pump = self._pumps.get(pipeline)
        if pump is None or pump.done():
            self._pumps[pipeline] = self.context.background(self._pump(pipeline))

    async def _pump(self, pipeline: str) -> None:
        """Run what waits, in order, until nothing does."""
        while True:
            waiting = [doc for doc in reversed(self.of(pipeline)) if doc["status"] == "InProgress"]
            waiting = [doc for doc in waiting if not doc["started"]]
            if not waiting:
                return
            if waiting[-1]["mode"] == "SUPERSEDED":
                for doc in waiting[:-1]:
                    newest = waiting[-1]["id"]
                    doc.update(status="Superseded", statusSummary=f"superseded by the execution {newest}")
                    self._save(doc)
                waiting = waiting[-1:]
            if waiting[0]["mode"] == "PARALLEL":
                for doc in waiting:
                    self._launch(doc)
                return
            task = self._launch(waiting[0])
            await asyncio.wait([task])

    # ---- one execution ---------------------------------------------------------------------------------------------

    def _launch(self, doc: dict[str, Any]) -> asyncio.Task[Any]:
        doc["started"] = True
        self._live[doc["id"]] = doc
        self._save(doc)
        task = self.context.background(self._run(doc))
        self._work[doc["id"]] = task
        return task

    async def _run(self, doc: dict[str, Any]) -> None:
        try:
            await self._stages(doc)
        except asyncio.CancelledError:
            if doc["stop"] and doc["stop"]["abandon"]:
                self._abandon(doc, doc["stop"]["reason"] or "stopped and abandoned")
                return  # it was stopped, not the daemon
            raise
        except Exception as error:
            logger.exception("execution %s failed", doc["id"])
            doc.update(status="Failed", statusSummary=f"the local AWS failed: {type(error).__name__}: {error}")
            with contextlib.suppress(OSError):
                self._save(doc)
        finally:
            self._live.pop(doc["id"], None)
            self._work.pop(doc["id"], None)

    async def _stages(self, doc: dict[str, Any]) -> None:
        doc["namespaces"] = {
            "variables": {item["name"]: item["resolvedValue"] for item in doc["variables"]},
            "codepipeline": {"PipelineExecutionId": doc["id"]},
        }
        for stage in doc["declaration"]["stages"]:
            for order in sorted({action.get("runOrder", 1) for action in stage["actions"]}):
                if doc["stop"]:
                    break
                actions = [action for action in stage["actions"] if action.get("runOrder", 1) == order]
                problems = await self._together(doc, stage["name"], actions)
                if problems:
                    doc.update(status="Stopped" if doc["stop"] else "Failed", statusSummary=problems[0])
                    self._save(doc)
                    return
            if doc["stop"]:
                doc.update(status="Stopped", statusSummary=doc["stop"]["reason"])
                self._save(doc)
                return
        doc["status"] = "Succeeded"
        self._save(doc)

    async def _together(self, doc: dict[str, Any], stage: str, actions: list[dict[str, Any]]) -> list[str]:
        """Run actions of the same order side by side; return what went wrong."""
        tasks = [asyncio.ensure_future(self._action(doc, stage, action)) for action in actions]
        try:
            return [problem for problem in await asyncio.gather(*tasks) if problem]
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # each ends its processes
            raise

    async def _action(self, doc: dict[str, Any], stage: str, action: dict[str, Any]) -> str:
        now = time.time()
        entry: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "stage": stage,
            "action": action["name"],
            "type": action["actionTypeId"],
            "configuration": action.get("configuration", {}),
            "status": "InProgress",
            "started": now,
            "updated": now,
            "summary": "",
            "outputs": {},
        }
        doc["actions"].append(entry)
        self._save(doc)
        problem = ""
        try:
            await self.actions.perform(doc, stage, action, entry)
            entry["status"] = "Succeeded"
            if namespace := action.get("namespace"):
                doc["namespaces"][namespace] = entry["outputs"]
        except ActionFailed as error:
            problem = f"{stage}/{action['name']}: {error}"
            entry.update(status="Failed", summary=str(error), error={"code": error.code, "message": str(error)})
        entry["updated"] = time.time()
        self._save(doc)
        return problem
