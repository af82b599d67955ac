"""SageMaker's training jobs. They really run: see `training_run`."""

from __future__ import annotations

import asyncio
import shutil
import time
from typing import Any

from fraud.localaws import roles
from fraud.localaws.paging import page
from fraud.localaws.store import AlreadyExistsError
from fraud.localaws.tags import Tags
from fraud.localaws.training_run import JobFailedError, Run
from fraud.localaws.wire import AwsError, Context, Operations

__all__ = ["Tags", "TrainingJobs"]

KIND = "training-job"
MOST_HOSTS = 4
STOP_GRACE = 120.0  # seconds between SIGTERM and SIGKILL, as on AWS
_ACTIVE = ("InProgress", "Stopping")
_INTERRUPTED = "InternalServerError: the local AWS was stopped while the job ran. Please run it again."


class TrainingJobs(Operations):
    """CreateTrainingJob, DescribeTrainingJob, ListTrainingJobs, StopTrainingJob."""

    service = "sagemaker"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._runs: dict[str, Run] = {}
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    async def start(self) -> None:
        """Let the jobs fail that ran when the daemon was killed: their processes are gone."""
        for doc in self.context.store.list(KIND):
            if doc["TrainingJobStatus"] in _ACTIVE:
                self._finish(doc, "Failed", "Failed", reason=_INTERRUPTED)
        await self.context.call(shutil.rmtree, self.context.state / "jobs", ignore_errors=True)

    async def stop(self) -> None:
        """End the processes of running jobs; they are Failed."""
        for run in self._runs.values():
            run.kill()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def status(self) -> dict[str, Any]:
        """Return the number of jobs, and the running ones."""
        return {"training_jobs": len(self.context.store.list(KIND)), "training_jobs_running": sorted(self._runs)}

    # ---- operations ------------------------------------------------------------------------------------------------

    async def create_training_job(self, params: dict[str, Any]) -> dict[str, Any]:
        """Start a job."""
        name = params["TrainingJobName"]
        arn = self.context.arn("sagemaker", f"training-job/{name}")
        self._check(params)
        await roles.check(self.context, params["RoleArn"])
        now = round(time.time(), 3)
        doc = {key: value for key, value in params.items() if key != "Tags"}
        doc |= {
            "TrainingJobArn": arn,
            "TrainingJobStatus": "InProgress",
            "SecondaryStatus": "Starting",
            "SecondaryStatusTransitions": [],
            "CreationTime": now,
            "LastModifiedTime": now,
            "EnableNetworkIsolation": params.get("EnableNetworkIsolation", False),
            "EnableInterContainerTrafficEncryption": params.get("EnableInterContainerTrafficEncryption", False),
            "EnableManagedSpotTraining": params.get("EnableManagedSpotTraining", False),
            "ProfilingStatus": "Disabled",
        }
        _transition(doc, "Starting", "Preparing the instances for training")
        try:
            self.context.store.put(KIND, name, doc, create=True)
        except AlreadyExistsError:
            raise AwsError(
                "ResourceInUse",
                "Training job names must be unique within an AWS account and region, and a training job with this name "
                f"already exists ({arn})",
            ) from None
        Tags.keep(self.context, arn, params.get("Tags") or [])
        run = Run(self.context, doc, lambda status, message: self._step(doc, status, message), STOP_GRACE)
        self._runs[name] = run
        self._tasks[name] = self.context.background(self._run(run))
        return {"TrainingJobArn": arn}

    async def describe_training_job(self, params: dict[str, Any]) -> dict[str, Any]:
        """Tell everything about a job."""
        return self._get(params["TrainingJobName"])

    async def stop_training_job(self, params: dict[str, Any]) -> None:
        """Ask a job to stop; it is Stopped some time later."""
        doc = self._get(params["TrainingJobName"])
        status = doc["TrainingJobStatus"]
        if status == "Stopping":
            return
        run = self._runs.get(doc["TrainingJobName"])
        if status != "InProgress" or run is None:
            raise AwsError(
                "ValidationException", f"The request was rejected because the training job is in status {status}."
            )
        run.doc["TrainingJobStatus"] = "Stopping"
        self._step(run.doc, "Stopping", "Stopping the training job")
        run.stop("Stopped")

    async def list_training_jobs(self, params: dict[str, Any]) -> dict[str, Any]:
        """List jobs, by creation time unless asked otherwise."""
        jobs, token = page(
            self.context.store.list(KIND),
            params,
            name="TrainingJobName",
            status="TrainingJobStatus",
        )
        return {"TrainingJobSummaries": jobs, "NextToken": token}

    # ---- the life of a job -----------------------------------------------------------------------------------------

    async def _run(self, run: Run) -> None:
        doc = run.doc
        try:
            await run.execute()
        except JobFailedError as error:
            self._finish(doc, "Failed", "Failed", run, reason=str(error))
        except asyncio.CancelledError:
            self._finish(doc, "Failed", "Failed", run, reason=_INTERRUPTED)
            raise
        except Exception as error:
            self._finish(doc, "Failed", "Failed", run, reason=f"InternalServerError: {type(error).__name__}")
            raise
        else:
            if run.stopped_by:
                self._finish(doc, "Stopped", run.stopped_by, run)
            else:
                self._finish(doc, "Completed", "Completed", run)
        finally:
            self._runs.pop(run.name, None)
            self._tasks.pop(run.name, None)

    def _step(self, doc: dict[str, Any], status: str, message: str) -> None:
        if doc["TrainingJobStatus"] == "Stopping" and status != "Stopping":
            return  # on AWS too a job that stops only shows that it does
        _transition(doc, status, message)
        if status == "Training":
            doc["TrainingStartTime"] = doc["LastModifiedTime"]
        self.context.store.put(KIND, doc["TrainingJobName"], doc)

    def _finish(
        self, doc: dict[str, Any], status: str, secondary: str, run: Run | None = None, reason: str = ""
    ) -> None:
        messages = {
            "Completed": "Training job completed",
            "Stopped": "Training job stopped",
            "MaxRuntimeExceeded": "Training job runtime exceeded MaxRuntimeInSeconds",
        }
        doc["TrainingJobStatus"] = status
        _transition(doc, secondary, messages.get(secondary, reason), ends=True)
        doc["TrainingEndTime"] = doc["LastModifiedTime"]
        doc["TrainingTimeInSeconds"] = int(
            doc["TrainingEndTime"] - doc.get("TrainingStartTime", doc["TrainingEndTime"])
        )
        doc["BillableTimeInSeconds"] = doc["TrainingTimeInSeconds"]
        if reason:
            doc["FailureReason"] = reason
        if run is not None:
            doc["FinalMetricDataList"] = list(run.hosts[0].log.values.values())
            if run.artifacts:
                doc["ModelArtifacts"] = {"S3ModelArtifacts": run.artifacts}
        self.context.store.put(KIND, doc["TrainingJobName"], doc)

    # ---- checks ----------------------------------------------------------------------------------------------------

    def _get(self, name: str) -> dict[str, Any]:
        doc = self.context.store.get(KIND, name)
        if doc is None:
            raise AwsError("ValidationException", "Requested resource not found.")
        return doc

    def _check(self, params: dict[str, Any]) -> None:
        """Refuse what the model does not tell but AWS does."""
        algorithm = params["AlgorithmSpecification"]
        if bool(algorithm.get("TrainingImage")) == bool(algorithm.get("AlgorithmName")):
            raise AwsError(
                "ValidationException",
                "You must specify exactly one of TrainingImage and AlgorithmName in AlgorithmSpecification.",
            )
        if algorithm.get("AlgorithmName"):
            raise AwsError("ValidationException", f"Algorithm {algorithm['AlgorithmName']} does not exist.")
        resources = params["ResourceConfig"]
        if not resources.get("InstanceType") or not resources.get("InstanceCount"):
            raise AwsError("ValidationException", "InstanceType and InstanceCount are required in ResourceConfig.")
        if resources["InstanceCount"] > MOST_HOSTS:
            kind, count = resources["InstanceType"], resources["InstanceCount"]
            raise AwsError(
                "ResourceLimitExceeded",
                f"The account-level service limit '{kind} for training job usage' is {MOST_HOSTS} Instances, with "
                f"current utilization of 0 Instances and a request delta of {count} Instances. "
                "The local AWS runs them all on this machine.",
            )
        names = [channel["ChannelName"] for channel in params.get("InputDataConfig") or []]
        for name in sorted({name for name in names if names.count(name) > 1}):
            raise AwsError("ValidationException", f"Duplicate channel name {name} in InputDataConfig.")
        if not params["OutputDataConfig"]["S3OutputPath"].startswith("s3://"):
            raise AwsError("ValidationException", "S3OutputPath must be an S3 URI.")


def _transition(doc: dict[str, Any], status: str, message: str, ends: bool = False) -> None:
    now = round(time.time(), 3)
    if doc["SecondaryStatusTransitions"]:
        doc["SecondaryStatusTransitions"][-1].setdefault("EndTime", now)
    entry = {"Status": status, "StartTime": now, "StatusMessage": message}
    doc["SecondaryStatusTransitions"].append(entry | ({"EndTime": now} if ends else {}))
    doc["SecondaryStatus"] = status
    doc["LastModifiedTime"] = now
