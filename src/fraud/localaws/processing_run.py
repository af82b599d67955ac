"""One processing job from its first second to its last: on each host download, process, upload.

A host is a folder and a process. ``/opt/ml/processing`` of a host is ``processing`` in its folder; entry point,
arguments and variables that name ``/opt/ml`` are moved there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from fraud.localaws import archives, channels
from fraud.localaws.children import exited
from fraud.localaws.container import OPT_ML, host_environment, write_interpreters
from fraud.localaws.job_log import PROCESSING, JobLog
from fraud.localaws.wire import Context

LONGEST_REASON = 1024


class JobFailedError(Exception):
    """The job ends as Failed; the message is its FailureReason, ``exit_message`` what the container said."""

    def __init__(self, reason: str, exit_message: str = "") -> None:
        super().__init__(reason[:LONGEST_REASON])
        self.exit_message = exit_message[:LONGEST_REASON]


@dataclass
class Host:
    """One of the machines of a job.

    Attributes
    ----------
    name : str
        ``algo-1`` and so on.
    root : Path
        Its ``/opt/ml``.
    log : JobLog
        What its process writes.
    """

    name: str
    root: Path
    log: JobLog
    process: asyncio.subprocess.Process | None = field(default=None, repr=False)

    def local(self, path: str) -> Path:
        """Where a path of the container lies on this machine.

        Raises
        ------
        JobFailedError
            When it is not below ``/opt/ml``.
        """
        place = PurePosixPath(path)
        if not place.is_relative_to(OPT_ML) or ".." in place.parts:
            raise JobFailedError(f"ClientError: LocalPath {path} is not below {OPT_ML}")
        return self.root / place.relative_to(OPT_ML)

    def signal(self, number: signal.Signals) -> None:
        """Signal its process and what that started."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)


class Run:
    """A running processing job.

    Parameters
    ----------
    context : Context
        What it runs in.
    doc : dict
        The job's document.
    started : callable
        Told when the processes start.
    grace : float
        Seconds between SIGTERM and SIGKILL.

    Attributes
    ----------
    stopped_by : str
        ``"Stopped"`` or ``"MaxRuntimeExceeded"`` once it was told to stop.
    """

    def __init__(self, context: Context, doc: dict[str, Any], started: Callable[[], None], grace: float) -> None:
        self.context, self.doc, self.started, self.grace = context, doc, started, grace
        self.name = doc["ProcessingJobName"]
        self.folder = context.state / "jobs" / f"processing_{self.name}"  # no job has an underscore in its name
        self.stopped_by = ""
        count = doc["ProcessingResources"]["ClusterConfig"]["InstanceCount"]
        self.hosts = [
            Host(name, self.folder / name, JobLog(context, f"{self.name}/{name}-{int(time.time())}", [], PROCESSING))
            for name in (f"algo-{at}" for at in range(1, count + 1))
        ]
        self._over = False
        self._ending: asyncio.Task[None] | None = None

    async def execute(self) -> None:
        """Run it all.

        Raises
        ------
        JobFailedError
            With the reason.
        """
        try:
            await self._download()
            if not self.stopped_by:
                self.started()
                await self._process()
            if not self.stopped_by:
                for host in self.hosts:
                    await self._upload(host)
        except (channels.DownloadError, archives.ArchiveError) as error:
            raise JobFailedError(f"ClientError: {error}") from None
        except OSError as error:
            raise JobFailedError(f"InternalServerError: the local AWS cannot write {self.folder}: {error}") from None
        finally:
            self.kill()
            if self._ending is not None:
                self._ending.cancel()
            await self.context.call(shutil.rmtree, self.folder, ignore_errors=True)

    def stop(self, why: str) -> None:
        """Ask the job to end: SIGTERM now, SIGKILL after the grace."""
        if not self.stopped_by:
            self.stopped_by = why
            self._ending = self.context.background(self._end())

    def kill(self) -> None:
        """End it at once."""
        for host in self.hosts:
            host.signal(signal.SIGKILL)

    async def _end(self) -> None:
        for host in self.hosts:
            host.signal(signal.SIGTERM)
        await asyncio.sleep(self.grace)
        self.kill()

    # ---- download --------------------------------------------------------------------------------------------------

    async def _download(self) -> None:
        for host in self.hosts:
            for name in ("config", "output", "processing"):
                (host.root / name).mkdir(parents=True, exist_ok=True)
            resources = {"current_host": host.name, "hosts": [other.name for other in self.hosts]}
            (host.root / "config" / "resourceconfig.json").write_text(json.dumps(resources))
            (host.root / "config" / "processingjobconfig.json").write_text(json.dumps(self.doc, default=str))
            for output in self._outputs():
                host.local(output["LocalPath"]).mkdir(parents=True, exist_ok=True)
        for given in self.doc.get("ProcessingInputs") or []:
            source = given["S3Input"]
            objects = await channels.find(self.context, source["S3Uri"], source["S3DataType"], self.doc["RoleArn"])
            sharded = source.get("S3DataDistributionType") == "ShardedByS3Key"
            for at, host in enumerate(self.hosts):
                mine = channels.shard(objects, at, len(self.hosts)) if sharded else objects
                await channels.fetch(self.context, mine, host.local(source["LocalPath"]))
                if self.stopped_by:
                    return

    # ---- process ---------------------------------------------------------------------------------------------------

    async def _process(self) -> None:
        seconds = (self.doc.get("StoppingCondition") or {}).get("MaxRuntimeInSeconds", 86_400)
        watch = self.context.background(self._watch(seconds))
        tasks = [asyncio.create_task(self._run(host)) for host in self.hosts]
        try:
            await asyncio.gather(*tasks)
        finally:
            watch.cancel()
            self._over = True
            self.kill()  # one that failed ends the others
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.stop("MaxRuntimeExceeded")

    async def _run(self, host: Host) -> None:
        app = self.doc["AppSpecification"]
        command = [*(app.get("ContainerEntrypoint") or []), *(app.get("ContainerArguments") or [])]
        moved = [part.replace(OPT_ML, str(host.root)) for part in command]
        await host.log.open()
        try:
            host.process = await self.context.spawn(
                *moved,
                cwd=host.root,
                env=self._environment(host),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        except OSError as error:
            raise JobFailedError(f"ClientError: {command[0]} cannot be started: {error.strerror}") from None
        if self.stopped_by:  # asked while it started
            host.signal(signal.SIGTERM)
        if self._over:  # another one failed while it started, too early for its SIGKILL
            host.signal(signal.SIGKILL)
        assert host.process.stdout is not None
        following = asyncio.create_task(host.log.follow(host.process.stdout))
        try:
            code = await exited(host.process)
            # What the process left in the background may keep the pipe open; it is ended with the job.
            await asyncio.wait({following}, timeout=5.0)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        if code != 0 and not self.stopped_by:
            message = _read(host.root / "output" / "message")
            code = 128 - code if code < 0 else code
            shown = message or "\n".join(list(host.log.tail)[-10:])
            raise JobFailedError(f"AlgorithmError: {shown}, exit code: {code}", message)

    def _environment(self, host: Host) -> dict[str, str]:
        own = {
            name: value.replace(OPT_ML, str(host.root)) for name, value in (self.doc.get("Environment") or {}).items()
        }
        return host_environment(self.context.environment, write_interpreters(host.root)) | {
            "PROCESSING_JOB_NAME": self.name,
            "PROCESSING_JOB_ARN": self.doc["ProcessingJobArn"],
            "SAGEMAKER_PROCESSING_BASE_DIR": str(host.root / "processing"),
            **own,
        }

    # ---- upload ----------------------------------------------------------------------------------------------------

    def _outputs(self) -> list[dict[str, Any]]:
        return [one["S3Output"] for one in (self.doc.get("ProcessingOutputConfig") or {}).get("Outputs") or []]

    async def _upload(self, host: Host) -> None:
        s3 = self.context.client("s3")
        for output in self._outputs():
            bucket, prefix = channels.split(output["S3Uri"])
            folder = host.local(output["LocalPath"])
            for path in sorted(folder.rglob("*")):
                if path.is_file() and not path.is_symlink():
                    key = f"{prefix.rstrip('/')}/{path.relative_to(folder).as_posix()}".lstrip("/")
                    try:
                        await self.context.call(s3.upload_file, str(path), bucket, key)
                    except Exception as error:
                        mine = isinstance(error, ClientError | BotoCoreError)
                        if not mine and type(error).__module__ != "boto3.exceptions":
                            raise
                        raise JobFailedError(f"ClientError: Artifact upload failed:{error}") from None


def _read(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(LONGEST_REASON).strip()
