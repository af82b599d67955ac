"""The training job: start it or adopt the one that runs already, wait for it, read what it made, judge it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from fraud.archive import read_members
from fraud.errors import DataError, TrainingJobError
from fraud.pipeline import parameters
from fraud.pipeline.releases import read_release
from fraud.pipeline.runs import Run
from fraud.pipeline.where import client, where

SOURCE = parameters.ROOT / "src"
LOG_GROUP = "/aws/sagemaker/TrainingJobs"
METRICS = {
    "stopping:auc": r"stopping auc=([0-9.]+)",
    "validation:auc": r"validation auc=([0-9.]+)",
    "validation:average_precision": r"validation auc=[0-9.]+ average_precision=([0-9.]+)",
}
FINAL = ("Completed", "Failed", "Stopped")


def hyperparameters(p: SimpleNamespace) -> dict[str, str]:
    """The notebook's parameters that ``train.py`` takes, by name.

    Parameters
    ----------
    p : SimpleNamespace
        Parameters of 02_train.

    Returns
    -------
    dict of str to str
    """
    taken = re.findall(
        r'add_argument\(\s*"--([a-z_]+)"', (SOURCE / "fraud/training/hyperparameters.py").read_text(encoding="utf-8")
    )
    # An empty text cannot be an argument of the command line; it means the default.
    return {name: str(getattr(p, name)) for name in taken if str(getattr(p, name, ""))}


def start(run: Run, p: SimpleNamespace) -> str:
    """Start the training job of this run, or adopt the one an earlier attempt started.

    Parameters
    ----------
    run : Run
        Its ``data/train.manifest`` names the rows.
    p : SimpleNamespace
        Parameters of 02_train.

    Returns
    -------
    str
        Name of the job, ``fraud-<run_id>-<time>``.
    """
    base = f"fraud-{run.run_id}"
    jobs = client("sagemaker").list_training_jobs(NameContains=base, SortBy="CreationTime", SortOrder="Descending")
    for job in jobs["TrainingJobSummaries"]:
        name = str(job["TrainingJobName"])
        if name.startswith(f"{base}-") and job["TrainingJobStatus"] in ("InProgress", "Completed"):
            started = client("sagemaker").describe_training_job(TrainingJobName=name)
            same = started["ResourceConfig"]["InstanceCount"] == p.training_instances
            if same and started["HyperParameters"] == hyperparameters(p):  # else a person tries other parameters
                return name
    run.results("01_merge_data")  # nothing to learn from before 01 has recorded
    return _submit(run, p, base)


def _submit(run: Run, p: SimpleNamespace, base: str) -> str:
    """Hand the job to SageMaker through its SDK; imported here because that takes seconds."""
    # The SDK would refuse a least-privilege role: it wants permissions for a VPC that the job does not use.
    os.environ.setdefault("SAGEMAKER_VALIDATE_ROLE", "false")
    import boto3
    from sagemaker.core.helper.session_helper import Session
    from sagemaker.core.shapes import MetricDefinition, OutputDataConfig, S3DataSource, StoppingCondition
    from sagemaker.train.configs import Compute, InputData, SourceCode
    from sagemaker.train.model_trainer import ModelTrainer

    here = where()
    session = Session(boto_session=boto3.Session(region_name=here.region), default_bucket=run.bucket)
    channels = [
        InputData(
            channel_name="train",
            data_source=S3DataSource(
                s3_data_type="ManifestFile",
                s3_uri=run.uri("data/train.manifest"),
                s3_data_distribution_type="FullyReplicated",
            ),
        )
    ]
    if champion := champion_archive(run, p.endpoint_name):
        channels.append(InputData(channel_name="champion", data_source=champion))
    trainer = ModelTrainer(
        sagemaker_session=session,
        role=p.role_arn or here.train_role_arn,
        base_job_name=base,
        input_s3_key_prefix=run.key("code"),
        training_image=here.image_uri,
        source_code=SourceCode(
            source_dir=str(SOURCE),
            entry_script="train.py",
            requirements="requirements-tuning.txt" if p.n_trials else "requirements.txt",
            ignore_patterns=["pipeline", "localaws", "demo", "*.egg-info", "__pycache__", "*.pyc"],
        ),
        compute=Compute(
            instance_type=p.instance_type, instance_count=p.training_instances, volume_size_in_gb=p.volume_gb
        ),
        stopping_condition=StoppingCondition(max_runtime_in_seconds=p.max_runtime_seconds),
        output_data_config=OutputDataConfig(s3_output_path=run.uri("model"), kms_key_id=here.kms_key_arn or None),
        environment={"MODEL_VERSION": run.run_id},
        hyperparameters=hyperparameters(p),
    ).with_metric_definitions([MetricDefinition(name=name, regex=regex) for name, regex in METRICS.items()])
    trainer.train(input_data_config=channels, wait=False, logs=False)
    return str(trainer._latest_training_job.training_job_name)


def champion_archive(run: Run, endpoint_name: str) -> str:
    """Address of the model archive in service; empty when nothing is deployed, or only this very run."""
    release = read_release(run, endpoint_name)
    return str(release["model_data"]) if release and release["run_id"] != run.run_id else ""


def wait(job_name: str, *, poll_seconds: float = 2.0, echo: Callable[[str], None] = print) -> dict[str, Any]:
    """Wait for a training job, passing on its log lines as they come.

    Parameters
    ----------
    job_name : str
        The job.
    poll_seconds : float
        Pause between looks (seconds).
    echo : callable
        Gets each line of the job's log that reports progress.

    Returns
    -------
    dict
        ``DescribeTrainingJob``'s answer.

    Raises
    ------
    TrainingJobError
        When the job failed or was stopped; with its reason and the last lines of its log.
    """
    seen = 0
    while True:
        job = client("sagemaker").describe_training_job(TrainingJobName=job_name)
        logs = log_lines(job_name)
        lines = logs.get(min(logs, default=""), [])  # all hosts say the same of their trees
        for line in lines[seen:]:
            if " auc=" in line or line.startswith("trial "):
                echo(line)
        seen = len(lines)
        if job["TrainingJobStatus"] in FINAL:
            break
        time.sleep(poll_seconds)
    if job["TrainingJobStatus"] != "Completed":
        tail = "\n".join("\n".join(lines[-15:]) for lines in logs.values())
        reason = job.get("FailureReason", "it was stopped")
        raise TrainingJobError(f"The training job {job_name} failed: {reason}\nLast lines of its log:\n{tail}")
    return dict(job)


def log_lines(job_name: str) -> dict[str, list[str]]:
    """The log of each host so far, from CloudWatch Logs; empty while there is none."""
    logs = client("logs")
    try:
        streams = logs.describe_log_streams(logGroupName=LOG_GROUP, logStreamNamePrefix=f"{job_name}/")["logStreams"]
    except logs.exceptions.ResourceNotFoundException:
        return {}
    lines: dict[str, list[str]] = {}
    for stream in streams:
        name = stream["logStreamName"]
        events = logs.get_log_events(logGroupName=LOG_GROUP, logStreamName=name, startFromHead=True)
        lines[name] = [event["message"].rstrip() for event in events["events"]]
    return lines


def read_model(run: Run, model_uri: str) -> dict[str, Any]:
    """Read the archive a training job made.

    Parameters
    ----------
    run : Run
        For its storage.
    model_uri : str
        ``s3://`` address of ``model.tar.gz``.

    Returns
    -------
    dict
        ``archive`` (bytes), ``archive_sha256``, ``model_sha256``, and ``schema``, ``baseline``, ``metrics``,
        ``golden`` parsed.

    Raises
    ------
    DataError
        When the archive is damaged, lacks a file, or holds a document that is no JSON.
    """
    archive = run.storage.get(model_uri.removeprefix(f"s3://{run.bucket}/"))
    members = read_members(archive, name=model_uri)
    documents = {name: body for name, body in members.items() if name.endswith(".json")}
    try:
        parsed = {name.removesuffix(".json"): json.loads(body) for name, body in documents.items()}
    except ValueError as error:
        raise DataError(f"{model_uri} holds a document that is no JSON.") from error
    return parsed | {
        "archive": archive,
        "archive_sha256": hashlib.sha256(archive).hexdigest(),
        "model_sha256": hashlib.sha256(members["model.txt"]).hexdigest(),
        "model_text": members["model.txt"],
    }
