"""One build: CodeBuild's phases over a fresh checkout, without a container.

``python -m fraud.localaws.build job.json`` runs the build that the file describes and writes ``result.json`` beside it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from fraud.errors import FraudError
from fraud.localaws import checkout
from fraud.localaws.build_log import BuildLog
from fraud.localaws.build_results import collect, pack, read_report
from fraud.localaws.build_shell import BUILD_ID, RUNNER, CommandTimeout, Shell, end_build
from fraud.localaws.buildspec import Buildspec, BuildspecError, Phase, parse
from fraud.localaws.children import MARK
from fraud.localaws.store import write_atomic

logger = logging.getLogger(__name__)

Client = Callable[[str], Any]


@dataclass(frozen=True)
class Job:
    """A build to run.

    Attributes
    ----------
    build_id : str
        ``<project>:<uuid>``.
    folder : str
        Where it works; gets ``src``, ``venv``, ``build.log`` and ``result.json``.
    source : str
        Folder with the source; copied, never changed.
    sources : dict of str to str
        Further input artifacts, by name.
    buildspec : str
        Path in the source, or the text itself; empty for ``buildspec.yml``.
    environment : list of dict
        ``{"name", "value", "type"}`` of the project, then of the pipeline; a later one wins, all win over the file.
    timeout : float
        Longest all of it may take (seconds).
    artifact : dict or None
        Where its output goes: ``{"folder", "bucket", "key", "kms"}``.
    log_group, initiator, resolved_version, build_number
        As CodeBuild has them.
    """

    build_id: str
    folder: str
    source: str
    sources: dict[str, str] = field(default_factory=dict)
    buildspec: str = ""
    environment: list[dict[str, str]] = field(default_factory=list)
    timeout: float = 3600.0
    artifact: dict[str, str] | None = None
    log_group: str = ""
    initiator: str = ""
    resolved_version: str = ""
    build_number: int = 1
    region: str = "eu-west-1"
    account: str = "000000000000"

    @property
    def project(self) -> str:
        """Name of the project."""
        return self.build_id.partition(":")[0]


class _Failed(Exception):
    """A phase failed: CodeBuild's code and a message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def run(job: Job, client: Client | None, aws: Mapping[str, str]) -> dict[str, Any]:
    """Run a build to its end.

    Parameters
    ----------
    job : Job
    client : callable or None
        ``client("logs")`` → botocore client. Without it nothing is stored outside the folder.
    aws : mapping of str to str
        AWS variables that the commands get.

    Returns
    -------
    dict
        ``{"build_id", "status", "error", "phases", "exported", "reports", "artifact_files", "seconds", "log"}``;
        `status` as CodeBuild's ``buildStatus``.
    """
    build = _Build(job, client, aws)
    try:
        return build.run()
    finally:
        end_build(job.build_id)


class _Build:
    def __init__(self, job: Job, client: Client | None, aws: Mapping[str, str]) -> None:
        self.job = job
        self.client = client
        self.aws = dict(aws)
        self.folder = Path(job.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.src = self.folder / "src"
        self.started = time.time()
        self.deadline = time.monotonic() + job.timeout
        self.status = "SUCCEEDED"
        self.error = ""
        self.phases: list[dict[str, Any]] = []
        self.reports: list[dict[str, Any]] = []
        self.artifact_files = 0
        self.exported: list[dict[str, str]] = []
        stream = job.build_id.partition(":")[2] or job.build_id
        group = job.log_group or f"/aws/codebuild/{job.project}"
        connect = (lambda: client("logs")) if client else None
        self.log = BuildLog(self.folder / "build.log", connect, group, stream)

    def run(self) -> dict[str, Any]:
        shell: Shell | None = None
        try:
            with self._phase("DOWNLOAD_SOURCE"):
                spec, shell = self._prepare()
            if shell is not None:
                self._phases(spec, shell)
                left = shell.snapshot() if self.status != "TIMED_OUT" else shell.environment
                self.exported = [{"name": name, "value": left[name]} for name in spec.exported if name in left]
        finally:
            end_build(self.job.build_id)
            if shell is not None:
                shell.close()
            self.log.say(f"Build {self.status}")
            self.log.close()
        return {
            "build_id": self.job.build_id,
            "status": self.status,
            "error": self.error,
            "phases": self.phases,
            "exported": self.exported,
            "reports": self.reports,
            "artifact_files": self.artifact_files,
            "seconds": round(time.time() - self.started, 3),
            "log": str(self.log.path),
        }

    # ---- phases ----------------------------------------------------------------------------------------------------

    def _phases(self, spec: Buildspec, shell: Shell) -> None:
        phases = {phase.name: phase for phase in spec.phases}
        for name in ("install", "pre_build"):
            if not self._commands(phases.get(name, Phase(name)), shell):
                return  # straight to the end, as in CodeBuild
        if not self._commands(phases.get("build", Phase("build")), shell):
            if self.status == "TIMED_OUT" or phases["build"].on_failure == "ABORT":
                return
        self._commands(phases.get("post_build", Phase("post_build")), shell)
        if self.status == "TIMED_OUT":
            return
        with self._phase("UPLOAD_ARTIFACTS"):
            self._outputs(spec)

    def _commands(self, phase: Phase, shell: Shell) -> bool:
        """Run a phase; return whether the next one may follow as if it had succeeded."""
        with self._phase(phase.name.upper()):
            failure = None
            for commands in (phase.commands, phase.finally_commands):
                for command in commands:
                    try:
                        self._command(command, shell)
                    except _Failed as error:
                        failure = failure or error
                        break
            if failure is not None:
                raise failure
        status = self.phases[-1]["phaseStatus"]
        if status == "FAILED":
            shell.set("CODEBUILD_BUILD_SUCCEEDING", "0")
        return status == "SUCCEEDED" or (status == "FAILED" and phase.on_failure == "CONTINUE")

    def _command(self, command: str, shell: Shell) -> None:
        self.log.say(f"Running command {command}")
        try:
            code = shell.run(command, self.deadline)
        except CommandTimeout:
            end_build(self.job.build_id, patience=1.0)
            raise
        if code:
            message = f"Error while executing command: {command}. Reason: exit status {code}"
            self.log.say(f"Command did not exit successfully {command} exit status {code}")
            raise _Failed("COMMAND_EXECUTION_ERROR", message)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self.log.say(f"Entering phase {name}")
        started = time.monotonic()
        code = message = ""
        status = "SUCCEEDED"
        try:
            yield
        except CommandTimeout:
            code, message = "BUILD_TIMED_OUT", f"Build has timed out after {self.job.timeout:.0f} seconds"
            self.status = status = "TIMED_OUT"
        except _Failed as error:
            code, message, status = error.code, str(error), "FAILED"
            self.status = "FAILED"
        except (FraudError, OSError, BotoCoreError, ClientError) as error:
            code, message, status = "CLIENT_ERROR", str(error), "FAILED"
            self.status = "FAILED"
        if message and not self.error:
            self.error = f"Phase: {name}, Code: {code}, Message: {message}"
        self.log.say(f"Phase complete: {name} State: {status}")
        self.log.say(f"Phase context status code: {code} Message: {message}")
        entry: dict[str, Any] = {
            "phaseType": name,
            "phaseStatus": status,
            "durationInSeconds": round(time.monotonic() - started, 3),
        }
        if message:
            entry["contexts"] = [{"statusCode": code, "message": message}]
        self.phases.append(entry)

    # ---- before and after ------------------------------------------------------------------------------------------

    def _prepare(self) -> tuple[Buildspec, Shell]:
        shutil.copytree(self.job.source, self.src, symlinks=True)
        for name, folder in self.job.sources.items():
            shutil.copytree(folder, self.folder / f"src-{name}", symlinks=True)
        try:
            spec = self._buildspec()
        except BuildspecError as error:
            raise _Failed("YAML_FILE_ERROR", str(error)) from None
        binaries = checkout.overlay(self.folder / "venv")
        environment = self._environment(spec, binaries)
        commands = self.folder / "commands"
        commands.mkdir(exist_ok=True)
        self._note(spec)
        return spec, Shell(spec.shell, commands, self.src, environment, self.log.file)

    def _buildspec(self) -> Buildspec:
        named = self.job.buildspec or "buildspec.yml"
        if "\n" in named:
            return parse(named, "the project's buildspec")
        path = (self.src / named).resolve()
        if not path.is_relative_to(self.src.resolve()):
            raise BuildspecError(f"{named} lies outside of the source.")
        try:
            return parse(path.read_bytes(), named)
        except OSError:
            raise BuildspecError(f"{named}: the source has no such file.") from None

    def _environment(self, spec: Buildspec, binaries: Path) -> dict[str, str]:
        job = self.job
        found = checkout.environment(binaries) | self.aws
        if MARK in os.environ:
            found[MARK] = os.environ[MARK]
        found |= spec.variables
        secrets = dict(spec.parameter_store)
        for item in job.environment:
            kind = item.get("type", "PLAINTEXT")
            if kind == "PLAINTEXT":
                found[item["name"]] = item["value"]
                secrets.pop(item["name"], None)
            elif kind == "PARAMETER_STORE":
                secrets[item["name"]] = item["value"]
            else:
                raise _Failed("CLIENT_ERROR", f"{item['name']}: variables of type {kind} cannot be had on this machine")
        found |= self._parameters(secrets)
        found |= {
            BUILD_ID: job.build_id,
            "CODEBUILD_BUILD_ARN": f"arn:aws:codebuild:{job.region}:{job.account}:build/{job.build_id}",
            "CODEBUILD_BUILD_NUMBER": str(job.build_number),
            "CODEBUILD_BUILD_SUCCEEDING": "1",
            "CODEBUILD_CI": "true",
            "CODEBUILD_INITIATOR": job.initiator,
            "CODEBUILD_LOG_PATH": job.build_id.partition(":")[2],
            "CODEBUILD_RESOLVED_SOURCE_VERSION": job.resolved_version,
            "CODEBUILD_SOURCE_VERSION": job.resolved_version,
            "CODEBUILD_SRC_DIR": str(self.src),
            "CODEBUILD_START_TIME": str(int(self.started * 1000)),
        }
        return found | {f"CODEBUILD_SRC_DIR_{name}": str(self.folder / f"src-{name}") for name in job.sources}

    def _parameters(self, wanted: Mapping[str, str]) -> dict[str, str]:
        if not wanted:
            return {}
        if self.client is None:
            raise _Failed("CLIENT_ERROR", "parameter-store needs AWS's Parameter Store, which was not given")
        ssm = self.client("ssm")
        found = {}
        for name, parameter in wanted.items():
            try:
                found[name] = ssm.get_parameter(Name=parameter, WithDecryption=True)["Parameter"]["Value"]
            except ClientError as error:
                reason = error.response["Error"]["Code"]
                raise _Failed("CLIENT_ERROR", f"parameter-store {name}: {parameter} cannot be read: {reason}") from None
        return found

    def _note(self, spec: Buildspec) -> None:
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        for language, version in spec.runtime_versions.items():
            if language != "python":
                self.log.say(f"{language} {version} is asked for; here it is whatever the machine has")
            elif version in (here, "3.x", "latest"):
                self.log.say(f"python {version} is asked for and is here")
            else:
                self.log.say(f"python {version} is asked for; on this machine it is {here}")
        if spec.cache_paths:
            self.log.say(f"Cache paths, which stay where they are on this machine: {', '.join(spec.cache_paths)}")

    def _outputs(self, spec: Buildspec) -> None:
        for report in spec.reports:
            counted = read_report(self.src, report)
            self.reports.append(counted)
            cases = f"{counted['tests']} tests, {counted['failures']} failed, {counted['errors']} errors"
            self.log.say(f"Report {report.group}: {counted['status']}, {cases}, {counted['skipped']} skipped")
            for problem in counted["problems"]:
                self.log.say(f"Report {report.group}: {problem}")
        if spec.artifacts is None or self.job.artifact is None:
            return
        destination = Path(self.job.artifact["folder"])
        try:
            self.artifact_files = collect(self.src, spec.artifacts, destination)
        except FileNotFoundError as error:
            raise _Failed("CLIENT_ERROR", str(error)) from None
        self.log.say(f"Found {self.artifact_files} artifact files")
        if self.client is None or not self.job.artifact.get("bucket"):
            return
        archive = self.folder / "artifact.zip"
        pack(destination, archive)
        extra = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms} if (kms := self.job.artifact.get("kms")) else {}
        where = {"Bucket": self.job.artifact["bucket"], "Key": self.job.artifact["key"]}
        with archive.open("rb") as body:
            self.client("s3").put_object(**where, Body=body, ContentType="application/zip", **extra)


def main(arguments: list[str]) -> int:
    """Run the job of a file; return 0 when the build succeeded."""
    path = Path(arguments[0])
    job = Job(**json.loads(path.read_bytes()))
    os.environ[RUNNER] = job.build_id

    def stop(signum: int, frame: Any) -> None:
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)

    def client(service: str) -> Any:
        import boto3  # in the thread that needs it first: it takes a moment
        from botocore.config import Config

        return boto3.session.Session().client(
            service,
            region_name=job.region,
            config=Config(connect_timeout=5, read_timeout=60, s3={"addressing_style": "path"}),
        )

    aws = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    result = run(job, client, aws)
    write_atomic(path.with_name("result.json"), json.dumps(result).encode())
    return 0 if result["status"] == "SUCCEEDED" else 1


def write_job(job: Job) -> Path:
    """Write ``job.json`` into the job's folder and return its path."""
    path = Path(job.folder) / "job.json"
    write_atomic(path, json.dumps(asdict(job)).encode())
    return path


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    sys.exit(main(sys.argv[1:]))
