"""The contract between SageMaker and a training container, kept by a process on this machine.

``/opt/ml`` becomes the job's folder. Two protocols are known: script mode (hyperparameters ``sagemaker_program`` and
``sagemaker_submit_directory``; what the framework containers do) and a container entry point (what ``ModelTrainer`` of
``sagemaker`` v3 sends: channels ``code`` and ``sm_drivers`` and a shell script with ``/opt/ml`` written into it).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from fraud.localaws.clean_environment import kept

OPT_ML = "/opt/ml"
_SUBMIT = ("sagemaker_program", "sagemaker_submit_directory")
_TOOLKIT = frozenset(
    {
        *_SUBMIT,
        "sagemaker_enable_cloudwatch_metrics",
        "sagemaker_region",
        "sagemaker_container_log_level",
        "sagemaker_job_name",
        "default_user_module_name",
        "_tuning_objective_metric",
        "sagemaker_s3_output",
    }
)
_SAFE_PROGRAM = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9._+/-]*")


class ContainerError(Exception):
    """The container cannot start the job; the message is what it would write to ``output/failure``."""


@dataclass(frozen=True)
class Command:
    """One process of a job."""

    arguments: list[str]
    folder: Path
    environment: dict[str, str]


@dataclass
class Container:
    """The folder that stands for ``/opt/ml`` and what runs in it.

    Attributes
    ----------
    root : Path
        The job's ``/opt/ml``.
    job : dict
        The job, as `CreateTrainingJob` took it.
    arn : str
        Its ARN.
    aws : dict of str to str
        Variables with which its AWS clients find the local AWS.
    site : Path
        Where requirements go that this interpreter does not have; shared by jobs with equal requirements.
    hosts : sequence of str
        Names of the job's machines; each has a container of its own.
    host : str
        Which of them this one is.
    """

    root: Path
    job: dict[str, Any]
    arn: str
    aws: dict[str, str]
    site: Path
    hosts: Sequence[str] = ("algo-1",)
    host: str = "algo-1"

    # ---- layout ----------------------------------------------------------------------------------------------------

    @property
    def data(self) -> Path:
        """Where channels are."""
        return self.root / "input" / "data"

    @property
    def model(self) -> Path:
        """What becomes ``model.tar.gz``."""
        return self.root / "model"

    @property
    def output(self) -> Path:
        """Where ``failure`` and ``data`` are."""
        return self.root / "output"

    @property
    def code(self) -> Path:
        """Where script mode unpacks the source code."""
        return self.root / "code"

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """The hyperparameters, each read as JSON where it is JSON."""
        return {name: _loads(value) for name, value in (self.job.get("HyperParameters") or {}).items()}

    @property
    def arguments(self) -> dict[str, Any]:
        """The hyperparameters that are the script's own."""
        return {name: value for name, value in self.hyperparameters.items() if name not in _TOOLKIT}

    @property
    def entry_point(self) -> list[str]:
        """The command of the request, empty in script mode."""
        algorithm = self.job["AlgorithmSpecification"]
        return (algorithm.get("ContainerEntrypoint") or []) + (algorithm.get("ContainerArguments") or [])

    @property
    def submit_directory(self) -> str:
        """Where the source code comes from in script mode."""
        return str(self._setting("sagemaker_submit_directory") or "")

    @property
    def program(self) -> str:
        """The script of script mode.

        Raises
        ------
        ContainerError
            There is none, or it leads out of the source code.
        """
        name = str(self._setting("sagemaker_program") or "")
        if not name:
            raise ContainerError(
                "ClientError: The training entry point name is empty. Set the 'sagemaker_program' hyperparameter "
                "(or ContainerEntrypoint) to the name of the script to run, relative to your source directory"
            )
        if not _SAFE_PROGRAM.fullmatch(name) or {".", ".."} & set(name.split("/")):
            raise ContainerError(f"ClientError: The training entry point {name!r} cannot be used")
        return name

    def _setting(self, name: str) -> Any:
        return self.hyperparameters.get(name) or (self.job.get("Environment") or {}).get(name.upper())

    def prepare(self) -> None:
        """Make the folders and ``input/config``."""
        for folder in (self.data, self.model, self.output / "data", self.code, self.root / "input" / "config"):
            folder.mkdir(parents=True, exist_ok=True)
        channels = {}
        for channel in self.job.get("InputDataConfig") or []:
            source = channel["DataSource"].get("S3DataSource") or {}
            channels[channel["ChannelName"]] = {
                "TrainingInputMode": "File",
                "S3DistributionType": source.get("S3DataDistributionType", "FullyReplicated"),
                "RecordWrapperType": channel.get("RecordWrapperType", "None"),
                **({"ContentType": channel["ContentType"]} if channel.get("ContentType") else {}),
            }
        config = self.root / "input" / "config"
        (config / "hyperparameters.json").write_text(json.dumps(self.job.get("HyperParameters") or {}))
        (config / "inputdataconfig.json").write_text(json.dumps(channels))
        (config / "resourceconfig.json").write_text(json.dumps(self.resources))

    @property
    def resources(self) -> dict[str, Any]:
        """``resourceconfig.json``."""
        kind = self.job["ResourceConfig"].get("InstanceType", "ml.m5.large")
        return {
            "current_host": self.host,
            "current_instance_type": kind,
            "current_group_name": "homogeneousCluster",
            "hosts": list(self.hosts),
            "instance_groups": [
                {"instance_group_name": "homogeneousCluster", "instance_type": kind, "hosts": list(self.hosts)}
            ],
            "network_interface_name": "lo",
        }

    # ---- commands --------------------------------------------------------------------------------------------------

    def commands(self) -> list[Command]:
        """Return what runs, one after the other: ``pip`` when something is missing, then the job.

        Raises
        ------
        ContainerError
            The source code or its script is not there.
        """
        write_interpreters(self._plain_root())
        if self.entry_point:
            return [self._entry_point_command()]
        program = self.program
        if not (self.code / program).is_file():
            raise ContainerError(f"ClientError: The source code has no {program}")
        environment = self.base_environment() | self.script_variables(program)
        commands = []
        missing = unsatisfied(self.code / "requirements.txt")
        if missing:
            target = self._site(self.code / "requirements.txt")
            environment["PYTHONPATH"] = f"{self.code}{os.pathsep}{target}"
            pip = [sys.executable, "-m", "pip", "install", "--target", str(target), "-r", "requirements.txt"]
            commands.append(Command(pip, self.code, environment))
        values = [part for name in sorted(self.arguments) for part in _argument(name, self.arguments[name])]
        if program.endswith(".py"):
            script = [sys.executable, program, *values]
        else:
            script = ["/bin/sh", "-c", shlex.join([f"./{program}", *values])]
            (self.code / program).chmod(0o755)
        commands.append(Command(script, self.code, environment))
        return commands

    def _entry_point_command(self) -> Command:
        drivers = self.data / "sm_drivers"
        root = self._plain_root()
        environment = self.base_environment()
        name = _read_json(drivers / "sourcecode.json").get("requirements")
        if isinstance(name, str) and name != "auto" and (self.data / "code" / name).is_file():
            requirements = self.data / "code" / name
            if unsatisfied(requirements):
                target = self._site(requirements)
                environment |= {"PIP_TARGET": str(target), "PYTHONPATH": str(target)}
            else:
                (drivers / "scripts" / "install_requirements.py").write_text("# all of it is there already\n")
        for path in sorted(drivers.rglob("*")):
            if (
                path.is_file()
                and path.suffix in (".py", ".sh")
                and OPT_ML in (text := path.read_text(errors="replace"))
            ):
                path.write_text(text.replace(OPT_ML, str(root)))
        arguments = [part.replace(OPT_ML, str(root)) for part in self.entry_point]
        return Command(arguments, self.root, environment)

    def base_environment(self) -> dict[str, str]:
        """Return what every container has; nothing of the daemon's own Python settings gets in."""
        return {
            **host_environment(self.aws, self._interpreters),
            "TRAINING_JOB_NAME": self.job["TrainingJobName"],
            "TRAINING_JOB_ARN": self.arn,
            "SAGEMAKER_REGION": self.aws.get("AWS_REGION", ""),
            "CURRENT_HOST": self.host,
            **(self.job.get("Environment") or {}),
        }

    def script_variables(self, program: str) -> dict[str, str]:
        """Return the ``SM_*`` variables of script mode, as AWS's training toolkit sets them."""
        config, arguments = self.root / "input" / "config", self.arguments
        channels = {channel["ChannelName"]: str(self.data / channel["ChannelName"]) for channel in self._channels}
        cpus = os.cpu_count() or 1
        values: dict[str, Any] = {
            "hosts": list(self.hosts),
            "network_interface_name": "lo",
            "hps": arguments,
            "user_entry_point": program,
            "framework_params": {key: self.hyperparameters[key] for key in _TOOLKIT & set(self.hyperparameters)},
            "resource_config": self.resources,
            "input_data_config": _read_json(config / "inputdataconfig.json"),
            "output_data_dir": str(self.output / "data"),
            "channels": sorted(channels),
            "current_host": self.host,
            "current_instance_type": self.resources["current_instance_type"],
            "current_instance_group": "homogeneousCluster",
            "current_instance_group_hosts": list(self.hosts),
            "is_hetero": False,
            "module_name": program.removesuffix(".py"),
            "log_level": 20,
            "framework_module": "sagemaker_sklearn_container.training:main",
            "input_dir": str(self.root / "input"),
            "input_config_dir": str(config),
            "output_dir": str(self.output),
            "num_cpus": cpus,
            "num_gpus": 0,
            "num_neurons": 0,
            "model_dir": str(self.model),
            "module_dir": self.submit_directory,
            "output_intermediate_dir": str(self.output / "intermediate"),
            "user_args": [part for name in sorted(arguments) for part in _argument(name, arguments[name])],
        }
        values["training_env"] = {
            "channel_input_dirs": channels,
            "hyperparameters": arguments,
            "job_name": self.job["TrainingJobName"],
            **{key: values[key] for key in ("hosts", "current_host", "model_dir", "output_data_dir", "num_cpus")},
        }
        variables = {f"SM_{key.upper()}": _variable(value) for key, value in values.items()}
        variables |= {f"SM_CHANNEL_{name.upper()}": path for name, path in channels.items()}
        variables |= {f"SM_HP_{name.upper()}": _variable(value) for name, value in arguments.items()}
        return variables | {"PYTHONPATH": str(self.code), "SAGEMAKER_BASE_DIR": str(self.root)}

    @property
    def _channels(self) -> list[dict[str, Any]]:
        return self.job.get("InputDataConfig") or []

    @property
    def _interpreters(self) -> Path:
        return self._plain_root() / ".bin"

    def _plain_root(self) -> Path:
        """Return the root, by a link when its name has characters that AWS's own unquoted shell script would split."""
        if re.fullmatch(r"[\w./+@:,-]+", str(self.root)):
            return self.root
        if self._link is None:
            self._link = Path(tempfile.mkdtemp(prefix="fraud-ml-")) / "ml"
            self._link.symlink_to(self.root)
        return self._link

    _link: Path | None = None

    def _site(self, requirements: Path) -> Path:
        mark = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:16]
        # Several hosts would install into one folder at the same time.
        return self.site / (mark if len(self.hosts) == 1 else f"{mark}-{self.host}")

    def close(self) -> None:
        """Remove what lies outside the job's folder."""
        if self._link is not None:
            with contextlib.suppress(OSError):
                self._link.unlink()
                self._link.parent.rmdir()


def write_interpreters(root: Path) -> Path:
    """Let ``python`` and ``pip`` of a container be the daemon's, not links to them: those would lose its packages."""
    folder = root / ".bin"
    folder.mkdir(exist_ok=True)
    for name in ("python", "python3", "pip", "pip3"):
        command = shlex.join([sys.executable, *(["-m", "pip"] if name.startswith("pip") else [])])
        (folder / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


def host_environment(aws: dict[str, str], interpreters: Path) -> dict[str, str]:
    """Return what every container has; nothing of the daemon's own Python settings gets in."""
    return {
        **kept(os.environ),
        **aws,
        "PATH": f"{interpreters}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONIOENCODING": "UTF-8",
    }


def unsatisfied(requirements: Path) -> list[str]:
    """Return the lines of a requirements file that this interpreter's environment does not meet.

    A line that is not a plain requirement (a URL, a path) counts as not met; options are left to ``pip``.
    """
    if not requirements.is_file():
        return []
    missing = []
    for line in requirements.read_text(encoding="utf-8", errors="replace").replace("\\\n", " ").splitlines():
        text = re.sub(r"(^|\s)#.*", "", line)
        text = re.sub(r"\s--hash=\S+", "", text).strip()
        if not text or (text.startswith("-") and not text.startswith(("-r", "--requirement", "-e", "--editable"))):
            continue
        if text.startswith(("-r", "--requirement")):
            missing += unsatisfied(requirements.parent / re.sub(r"^(-r|--requirement)[ =]?", "", text).strip())
            continue
        try:
            wanted = Requirement(text)
            if wanted.marker is not None and not wanted.marker.evaluate():
                continue
            if wanted.url is None and wanted.specifier.contains(
                importlib.metadata.version(wanted.name), prereleases=True
            ):
                continue
        except (InvalidRequirement, importlib.metadata.PackageNotFoundError):
            pass
        missing.append(text)
    return missing


def _argument(name: str, value: Any) -> list[str]:
    flag = f"--{name}" if len(name) > 1 else f"-{name}"
    if isinstance(value, dict):
        return [flag, ",".join(f"{key}={item}" for key, item in sorted(value.items()))]
    return [flag, "" if value is None else str(value)]


def _variable(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))


def _loads(value: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
