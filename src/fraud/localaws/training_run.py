"""One training job from its first second to its last: on each host download and train, then upload.

A host is a folder and its processes; all of them are on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from fraud.localaws import archives, channels
from fraud.localaws.children import exited
from fraud.localaws.container import Command, Container, ContainerError
from fraud.localaws.job_log import JobLog
from fraud.localaws.wire import Context

logger = logging.getLogger(__name__)

_LONGEST_REASON = 1024


class JobFailedError(Exception):
    """The job ends as Failed; the message is its FailureReason."""


@dataclass
class Host:
    """One of the machines of a job: what runs in it, and what that writes."""

    container: Container
    log: JobLog
    process: asyncio.subprocess.Process | None = field(default=None, repr=False)

    def signal(self, number: signal.Signals) -> None:
        """Signal its process and what that started."""
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, number)


class Run:
    """A running training job.

    Parameters
    ----------
    context : Context
        What it runs in.
    doc : dict
        The job's document.
    step : callable
        ``step(status, message)``: told at each step of the job's life.
    grace : float
        Seconds between SIGTERM and SIGKILL; 120 on AWS.

    Attributes
    ----------
    hosts : list of Host
        ``algo-1`` and so on.
    stopped_by : str
        ``"Stopped"`` or ``"MaxRuntimeExceeded"`` once it was told to stop.
    artifacts : str
        Where the model is.
    """

    def __init__(self, context: Context, doc: dict[str, Any], step: Callable[[str, str], None], grace: float) -> None:
        self.context = context
        self.doc = doc
        self.step = step
        self.grace = grace
        self.name = doc["TrainingJobName"]
        self.folder = context.state / "jobs" / self.name
        names = [f"algo-{at}" for at in range(1, doc["ResourceConfig"]["InstanceCount"] + 1)]
        metrics = doc["AlgorithmSpecification"].get("MetricDefinitions") or []
        site, arn = context.state / "site", doc["TrainingJobArn"]
        self.hosts = [
            Host(
                Container(self.folder / name / "ml", doc, arn, context.environment, site, names, name),
                JobLog(context, f"{self.name}/{name}-{int(time.time())}", metrics),
            )
            for name in names
        ]
        self.stopped_by = ""
        self.artifacts = ""
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
            self._check_stopped()
            self.step("Downloading", "Downloading input data")
            for host in self.hosts:
                await self._download(host.container)
            self._check_stopped()
            self.step("Training", "Training image download completed. Training in progress.")
            await self._train()
            self.step("Uploading", "Uploading generated training model")
            await self._upload()
        except _StoppedError:
            pass
        except OSError as error:
            raise JobFailedError(f"InternalServerError: the local AWS cannot write {self.folder}: {error}") from None
        finally:
            for host in self.hosts:
                host.container.close()
            await self.context.call(self._tidy)

    def stop(self, why: str) -> None:
        """Ask the job to end: SIGTERM now, SIGKILL after the grace."""
        if not self.stopped_by:
            self.stopped_by = why
            self._ending = self.context.background(self._end())

    def kill(self) -> None:
        """End it at once."""
        for host in self.hosts:
            host.signal(signal.SIGKILL)

    # ---- download --------------------------------------------------------------------------------------------------

    async def _download(self, container: Container) -> None:
        container.prepare()
        try:
            for channel in self.doc.get("InputDataConfig") or []:
                folder = container.data / archives.safe_path(channel["ChannelName"])
                at = container.hosts.index(container.host), len(container.hosts)
                await channels.download(self.context, channel, self.doc["RoleArn"], folder, at)
                self._check_stopped()
            if not container.entry_point:
                await self._fetch_code(container)
        except (channels.DownloadError, archives.ArchiveError) as error:
            raise JobFailedError(f"ClientError: {error}"[:_LONGEST_REASON]) from None

    async def _fetch_code(self, container: Container) -> None:
        """Get script mode's source code: an archive in S3, or a folder of a channel."""
        source = container.submit_directory
        if source.startswith("s3://"):
            bucket, key = channels.split(source)
            archive = container.root / "sourcedir.tar.gz"
            try:
                await self.context.call(self.context.client("s3").download_file, bucket, key, str(archive))
                await self.context.call(archives.unpack, archive, container.code)
            except (ClientError, BotoCoreError) as error:
                raise JobFailedError(f"AlgorithmError: framework error: cannot download {source}: {error}") from None
            except archives.ArchiveError as error:
                raise JobFailedError(f"AlgorithmError: framework error: cannot unpack {source}: {error}") from None
        elif source.startswith("/opt/ml/"):
            folder = container.root / archives.safe_path(source.removeprefix("/opt/ml/"))
            if not folder.is_dir():
                raise JobFailedError(f"AlgorithmError: framework error: there is no {source}")
            await self.context.call(shutil.copytree, folder, container.code, dirs_exist_ok=True, symlinks=True)

    # ---- train -----------------------------------------------------------------------------------------------------

    async def _train(self) -> None:
        seconds = (self.doc.get("StoppingCondition") or {}).get("MaxRuntimeInSeconds", 86400)
        watch = self.context.background(self._watch(seconds))
        tasks = [asyncio.create_task(self._train_on(host)) for host in self.hosts]
        try:
            await asyncio.gather(*tasks)
        except ContainerError as error:
            raise JobFailedError(f"AlgorithmError: {error}"[:_LONGEST_REASON]) from None
        finally:
            watch.cancel()
            self._over = True
            self.kill()  # one that failed ends the others
            await asyncio.gather(*tasks, return_exceptions=True)
        self._check_stopped(after_training=True)

    async def _train_on(self, host: Host) -> None:
        await host.log.open()
        for command in await self.context.call(host.container.commands):
            await self._execute(host, command)
            if self.stopped_by:
                break

    async def _watch(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.stop("MaxRuntimeExceeded")

    async def _execute(self, host: Host, command: Command) -> None:
        try:
            process = await self.context.spawn(
                *command.arguments,
                cwd=command.folder,
                env=command.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        except OSError as error:
            raise JobFailedError(f"ClientError: {command.arguments[0]} cannot be started: {error.strerror}") from None
        host.process = process
        if self.stopped_by:  # asked between two processes
            host.signal(signal.SIGTERM)
        if self._over:  # another host failed while it started, too early for its SIGKILL
            host.signal(signal.SIGKILL)
        assert process.stdout is not None
        try:
            following = asyncio.create_task(host.log.follow(process.stdout))
            code = await exited(process)
            # What the script left in the background may keep the pipe open; it is ended with the container.
            _, late = await asyncio.wait({following}, timeout=5.0)
            for task in late:
                task.cancel()
            await asyncio.gather(following, return_exceptions=True)
        except asyncio.CancelledError:
            host.signal(signal.SIGKILL)
            raise
        finally:
            host.process = None
        if code != 0 and not self.stopped_by:
            raise JobFailedError(self._reason(host, code, command))

    async def _end(self) -> None:
        for host in self.hosts:
            host.signal(signal.SIGTERM)
        await asyncio.sleep(self.grace)
        self.kill()

    def _reason(self, host: Host, code: int, command: Command) -> str:
        """Return the failure as AWS tells it: what the container wrote to ``output/failure``, or the end of its log."""
        code = 128 - code if code < 0 else code
        failure = host.container.output / "failure"
        text = ""
        if failure.is_file():
            with failure.open(encoding="utf-8", errors="replace") as file:
                text = file.read(_LONGEST_REASON)
        tail = "\n".join(_own_lines(list(host.log.tail)))[-600:]
        if host.container.entry_point:
            text = f"{tail}\n{text.strip()}"  # the SDK's script writes only that something failed
        elif not text:
            shown = " ".join(command.arguments[:2])
            text = f'ExecuteUserScriptError:\nExitCode {code}\nErrorMessage "{tail}"\nCommand "{shown}"'
        end = f", exit code: {code}"
        return f"AlgorithmError: {text.strip()}"[: _LONGEST_REASON - len(end)] + end

    # ---- upload ----------------------------------------------------------------------------------------------------

    async def _upload(self) -> None:
        output = self.doc["OutputDataConfig"]
        bucket, prefix = channels.split(output["S3OutputPath"])
        start = "/".join(part for part in (prefix.rstrip("/"), self.name, "output") if part)
        extra = {}
        if output.get("KmsKeyId"):
            extra = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": output["KmsKeyId"]}
        s3 = self.context.client("s3")
        container = await self.context.call(self._gathered)

        async def put(path: Path, key: str) -> None:
            await self.context.call(s3.upload_file, str(path), bucket, key, ExtraArgs=extra)

        try:
            if output.get("CompressionType") == "NONE":
                for path in sorted(container.model.rglob("*")):
                    if path.is_file() and not path.is_symlink():
                        await put(path, f"{start}/model/{path.relative_to(container.model).as_posix()}")
                self.artifacts = f"s3://{bucket}/{start}/model/"
            else:
                await put(await self._packed(container.model), f"{start}/model.tar.gz")
                self.artifacts = f"s3://{bucket}/{start}/model.tar.gz"
            if any((container.output / "data").iterdir()):
                await put(await self._packed(container.output / "data"), f"{start}/output.tar.gz")
        except Exception as error:
            if not isinstance(error, ClientError | BotoCoreError) and type(error).__module__ != "boto3.exceptions":
                raise
            raise JobFailedError(f"ClientError: Artifact upload failed:{error}"[:_LONGEST_REASON]) from None

    def _gathered(self) -> Container:
        """Put what all hosts made into the first one's folders: one archive holds it."""
        first, *others = (host.container for host in self.hosts)
        for other in others:
            for source, target in ((other.model, first.model), (other.output / "data", first.output / "data")):
                shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        return first

    async def _packed(self, folder: Path) -> Path:
        with tempfile.NamedTemporaryFile(dir=self.folder, suffix=".tar.gz", delete=False) as file:
            archive = Path(file.name)
        await self.context.call(archives.pack, folder, archive)
        return archive

    # ---- both ------------------------------------------------------------------------------------------------------

    def _check_stopped(self, after_training: bool = False) -> None:
        """Leave when the job was told to stop; a model that is there already is uploaded all the same, as on AWS."""
        made = after_training and any(any(host.container.model.iterdir()) for host in self.hosts)
        if self.stopped_by and not made:
            raise _StoppedError

    def _tidy(self) -> None:
        """Give back the disk space: data can be downloaded again, the model is in S3."""
        if self._ending is not None:
            self._ending.cancel()
        shutil.rmtree(self.folder, ignore_errors=True)


class _StoppedError(Exception):
    pass


def _own_lines(lines: list[str]) -> list[str]:
    """Leave out what the SDK's own shell script and driver say around the script's lines."""
    ends = next((at for at, line in enumerate(lines) if line.startswith("Command failed with exit code")), len(lines))
    return [line for line in lines[:ends] if not line.startswith("+")]
