"""SageMaker's processing jobs. They really run, a process for each of their machines: see `processing_run`."""

from __future__ import annotations

import asyncio
import time
from pathlib import PurePosixPath
from typing import Any

from fraud.localaws import roles
from fraud.localaws.paging import page
from fraud.localaws.processing_run import JobFailedError, Run
from fraud.localaws.store import AlreadyExistsError
from fraud.localaws.tags import Tags
from fraud.localaws.wire import AwsError, Context, Operations

__all__ = ["ProcessingJobs"]

KIND = "processing-job"
STOP_GRACE = 120.0  # seconds between SIGTERM and SIGKILL
MACHINES = 8  # processes on this machine; a quota on AWS
PLACE = "/opt/ml/processing"
_ACTIVE = ("InProgress", "Stopping")
_INTERRUPTED = "InternalServerError: the local AWS was stopped while the job ran. Please run it again."


class ProcessingJobs(Operations):
    """CreateProcessingJob, DescribeProcessingJob, ListProcessingJobs, StopProcessingJob."""

    service = "sagemaker"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._runs: dict[str, Run] = {}
        self._tasks: dict[str, asyncio.Task[Any]] = {}

    async def start(self) -> None:
        """Let the jobs fail that ran when the daemon was killed: their processes are gone."""
        for doc in self.context.store.list(KIND):
            if doc["ProcessingJobStatus"] in _ACTIVE:
                self._finish(doc, "Failed", reason=_INTERRUPTED)

    async def stop(self) -> None:
        """End the processes of running jobs; they are Failed."""
        for run in self._runs.values():
            run.kill()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def status(self) -> dict[str, Any]:
        """Return the number of jobs, and the running ones."""
        return {"processing_jobs": len(self.context.store.list(KIND)), "processing_jobs_running": sorted(self._runs)}

    # ---- operations ------------------------------------------------------------------------------------------------

    async def create_processing_job(self, params: dict[str, Any]) -> dict[str, Any]:
        """Start a job."""
        name = params["ProcessingJobName"]
        arn = self.context.arn("sagemaker", f"processing-job/{name}")
        _check(params)
        await roles.check(self.context, params["RoleArn"])
        now = round(time.time(), 3)
        doc = {key: value for key, value in params.items() if key != "Tags"}
        doc |= {
            "ProcessingJobArn": arn,
            "ProcessingJobStatus": "InProgress",
            "CreationTime": now,
            "LastModifiedTime": now,
        }
        try:
            self.context.store.put(KIND, name, doc, create=True)
        except AlreadyExistsError:
            raise AwsError(
                "ResourceInUse",
                "Job name must be unique within an AWS account and region, and a job with this name already exists "
                f"({arn})",
            ) from None
        Tags.keep(self.context, arn, params.get("Tags") or [])
        run = Run(self.context, doc, lambda: self._started(doc), STOP_GRACE)
        self._runs[name] = run
        self._tasks[name] = self.context.background(self._run(run))
        return {"ProcessingJobArn": arn}

    async def describe_processing_job(self, params: dict[str, Any]) -> dict[str, Any]:
        """Tell everything about a job."""
        return self._get(params["ProcessingJobName"])

    async def list_processing_jobs(self, params: dict[str, Any]) -> dict[str, Any]:
        """List jobs, by creation time unless asked otherwise."""
        jobs, token = page(
            self.context.store.list(KIND), params, name="ProcessingJobName", status="ProcessingJobStatus"
        )
        return {"ProcessingJobSummaries": jobs, "NextToken": token}

    async def stop_processing_job(self, params: dict[str, Any]) -> None:
        """Ask a job to stop; it is Stopped some time later."""
        doc = self._get(params["ProcessingJobName"])
        status, run = doc["ProcessingJobStatus"], self._runs.get(doc["ProcessingJobName"])
        if status == "Stopping":
            return
        if status != "InProgress" or run is None:
            raise AwsError(
                "ValidationException", f"The request was rejected because the processing job is in status {status}."
            )
        run.doc |= {"ProcessingJobStatus": "Stopping", "LastModifiedTime": round(time.time(), 3)}
        self.context.store.put(KIND, run.name, run.doc)
        run.stop("Stopped")

    # ---- the life of a job -----------------------------------------------------------------------------------------

    async def _run(self, run: Run) -> None:
        doc = run.doc
        try:
            await run.execute()
        except JobFailedError as error:
            self._finish(doc, "Failed", reason=str(error), message=error.exit_message)
        except asyncio.CancelledError:
            self._finish(doc, "Failed", reason=_INTERRUPTED)
            raise
        except Exception as error:
            self._finish(doc, "Failed", reason=f"InternalServerError: {type(error).__name__}")
            raise
        else:
            late = run.stopped_by == "MaxRuntimeExceeded"
            reason = "ClientError: The processing job exceeded MaxRuntimeInSeconds." if late else ""
            self._finish(doc, "Stopped" if run.stopped_by else "Completed", reason=reason)
        finally:
            self._runs.pop(run.name, None)
            self._tasks.pop(run.name, None)

    def _started(self, doc: dict[str, Any]) -> None:
        doc["ProcessingStartTime"] = doc["LastModifiedTime"] = round(time.time(), 3)
        self.context.store.put(KIND, doc["ProcessingJobName"], doc)

    def _finish(self, doc: dict[str, Any], status: str, *, reason: str = "", message: str = "") -> None:
        now = round(time.time(), 3)
        doc |= {"ProcessingJobStatus": status, "LastModifiedTime": now, "ProcessingEndTime": now}
        doc |= {name: text for name, text in (("FailureReason", reason), ("ExitMessage", message)) if text}
        self.context.store.put(KIND, doc["ProcessingJobName"], doc)

    def _get(self, name: str) -> dict[str, Any]:
        doc = self.context.store.get(KIND, name)
        if doc is None:
            raise AwsError("ValidationException", f"Could not find requested job with name: {name}")
        return doc


def _check(params: dict[str, Any]) -> None:
    """Refuse what the model does not tell but AWS does, and what is not in the local AWS."""
    inputs = params.get("ProcessingInputs") or []
    outputs = (params.get("ProcessingOutputConfig") or {}).get("Outputs") or []
    names = [one["InputName"] for one in inputs] + [one["OutputName"] for one in outputs]
    for name in sorted({name for name in names if names.count(name) > 1}):
        raise AwsError("ValidationException", f"Input and output names must be unique; {name} is not.")
    for one in inputs:
        _check_place(f"Input {one['InputName']}", "S3Input", one)
        source = one["S3Input"]
        if source.get("S3InputMode", "File") != "File" or source.get("S3CompressionType", "None") != "None":
            raise AwsError(
                "ValidationException",
                f"Input {one['InputName']}: the local AWS has S3InputMode File, uncompressed, only.",
            )
    for one in outputs:
        _check_place(f"Output {one['OutputName']}", "S3Output", one)
        if one["S3Output"]["S3UploadMode"] != "EndOfJob":
            raise AwsError(
                "ValidationException", f"Output {one['OutputName']}: the local AWS has S3UploadMode EndOfJob only."
            )
    if not params["AppSpecification"].get("ContainerEntrypoint"):
        raise AwsError("ValidationException", "The local AWS has no images: give a ContainerEntrypoint.")
    cluster = params["ProcessingResources"]["ClusterConfig"]
    if cluster["InstanceCount"] > MACHINES:
        raise AwsError(
            "ResourceLimitExceeded",
            f"The account-level service limit '{cluster['InstanceType']} for processing job usage' is {MACHINES} "
            f"Instances, with current utilization of 0 Instances and a request delta of {cluster['InstanceCount']} "
            "Instances.",
        )


def _check_place(what: str, member: str, one: dict[str, Any]) -> None:
    """Refuse an input or output that is not a folder of the container and a place in S3."""
    if member not in one:
        raise AwsError("ValidationException", f"{what} has no {member}.")
    path = PurePosixPath(one[member].get("LocalPath") or "")
    if not path.is_relative_to(PLACE) or ".." in path.parts:
        raise AwsError("ValidationException", f"{what}: LocalPath must be a path below {PLACE}.")
    if not one[member]["S3Uri"].startswith("s3://"):
        raise AwsError("ValidationException", f"{what}: S3Uri must be an S3 URI.")
