"""The training job: start it or adopt the one that runs already, wait for it, read what it made, judge it."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from fraud.archive import read_members
from fraud.errors import DataError, TrainingJobError
from fraud.pipeline import source_archive
from fraud.pipeline.logs import JobLog
from fraud.pipeline.releases import read_kept, read_release
from fraud.pipeline.resources import named, start_job
from fraud.pipeline.runs import Run
from fraud.pipeline.source_archive import SOURCE
from fraud.pipeline.storage import parse_uri
from fraud.pipeline.where import client, where

SENT = ("train.py", "inference.py", "requirements.txt", "fraud/*.py", "fraud/training/*.py", "fraud/serving/*.py")
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
        As JSON, which the container reads again: so a text that looks like a number stays a text.
    """
    taken = re.findall(
        r'add_argument\(\s*"--([a-z_]+)"', (SOURCE / "fraud/training/hyperparameters.py").read_text(encoding="utf-8")
    )
    # An empty text cannot be an argument of the command line; it means the default.
    return {name: json.dumps(getattr(p, name)) for name in taken if str(getattr(p, name, ""))}


def start(run: Run, p: SimpleNamespace) -> str:
    """Start the training job of this run, or adopt the one that an earlier attempt started.

    A job is this run's when its name is the one that run, rows, code and parameters give, and when SageMaker says that
    it was started with exactly them. One that failed or was stopped is started again, under the next number.

    Parameters
    ----------
    run : Run
        Its ``data/train.manifest`` names the rows.
    p : SimpleNamespace
        Parameters of 02_train.

    Returns
    -------
    str
        Name of the job, ``fraud-<run_id>-<hash>``; ``…-2`` is the second attempt.

    Raises
    ------
    DataError
        When 01 has not recorded.
    PlatformError
        When SageMaker does not take the job.
    """
    run.results("01_merge_data")  # nothing to learn from before 01 has recorded
    wanted = request(run, p, source_archive.keep(run.storage, run.key("code"), SENT, _requirements(p)))
    return start_job(
        named(f"fraud-{run.run_id}", wanted),
        lambda job: _create(job, wanted),
        lambda job: dict(client("sagemaker").describe_training_job(TrainingJobName=job)),
        lambda job: _inputs(job) == _inputs(wanted) and job["TrainingJobStatus"] in ("InProgress", "Completed"),
    )


def request(run: Run, p: SimpleNamespace, source: str) -> dict[str, Any]:
    """Request of CreateTrainingJob but for the name: all that the model is made of, by address and by content.

    Parameters
    ----------
    run : Run
    p : SimpleNamespace
        Parameters of 02_train.
    source : str
        Key of the archive of the code.

    Returns
    -------
    dict
    """
    here = where()
    content = hashlib.sha256()
    for name in ("data/train.manifest", "data/dataset.json"):  # the second one holds the hashes of what both name
        content.update(hashlib.sha256(run.storage.get(run.key(name))).digest())
    environment = {
        "MODEL_VERSION": run.run_id,
        "FRAUD_ENDPOINT": p.endpoint_name,
        "FRAUD_DATA_SHA256": content.hexdigest(),
    }
    channels = [_channel("train", run.uri("data/train.manifest"), "ManifestFile")]
    if release := champion(run, p.endpoint_name):
        channels.append(_channel("champion", release["model_data"], "S3Prefix"))
        environment["FRAUD_CHAMPION_SHA256"] = release["archive_sha256"]
    script = {
        "sagemaker_program": "train.py",
        "sagemaker_submit_directory": run.storage.uri(source),
        "sagemaker_region": here.region,
    }
    return {
        "RoleArn": p.role_arn or here.train_role_arn,
        "AlgorithmSpecification": {
            "TrainingImage": here.image_uri,
            "TrainingInputMode": "File",
            "MetricDefinitions": [{"Name": name, "Regex": regex} for name, regex in METRICS.items()],
        },
        "HyperParameters": hyperparameters(p) | {name: json.dumps(value) for name, value in script.items()},
        "Environment": environment,
        "InputDataConfig": channels,
        "OutputDataConfig": {"S3OutputPath": run.uri("model")}
        | ({"KmsKeyId": here.kms_key_arn} if here.kms_key_arn else {}),
        "ResourceConfig": {
            "InstanceType": p.instance_type,
            "InstanceCount": p.training_instances,
            "VolumeSizeInGB": p.volume_gb,
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": p.max_runtime_seconds},
    }


def _channel(name: str, uri: str, kind: str) -> dict[str, Any]:
    source = {"S3DataType": kind, "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


def _requirements(p: SimpleNamespace) -> dict[str, bytes]:
    """``requirements.txt`` of a job that tunes: the container installs the file of that name alone."""
    if not p.n_trials:
        return {}
    plain, tuning = ((SOURCE / f"requirements{more}.txt").read_text(encoding="utf-8") for more in ("", "-tuning"))
    more = [line for line in tuning.splitlines() if not line.startswith(("-r", "#"))]
    return {"requirements.txt": (plain + "\n".join(more) + "\n").encode()}


def _inputs(job: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a job's model, in a request as in what SageMaker tells of a job, which adds much of its own."""
    sources = {item["ChannelName"]: item["DataSource"].get("S3DataSource") for item in job.get("InputDataConfig", ())}
    machines = job.get("ResourceConfig", {})
    return {
        "image": job.get("AlgorithmSpecification", {}).get("TrainingImage"),
        "output": job.get("OutputDataConfig", {}).get("S3OutputPath"),
        "sources": {name: source and source["S3Uri"] for name, source in sources.items()},
        "machines": [machines.get(name) for name in ("InstanceType", "InstanceCount", "VolumeSizeInGB")],
    } | {name: job.get(name) for name in ("RoleArn", "HyperParameters", "Environment")}


def _create(job: str, wanted: dict[str, Any]) -> None:
    """Hand the job to SageMaker through its SDK; imported here because that takes seconds."""
    import boto3
    from sagemaker.core.resources import TrainingJob
    from sagemaker.core.utils.code_injection.codec import transform

    given = transform({"TrainingJobName": job} | wanted, "CreateTrainingJobRequest")
    TrainingJob.create(session=boto3.Session(region_name=where().region), **given)


def champion(run: Run, endpoint_name: str) -> dict[str, Any] | None:
    """The release that this run's model has to beat; None when nothing else was in service.

    A run whose own model is in service already is being repeated: it meets the release before it once more, so that
    the repetition is the same.
    """
    release = read_release(run, endpoint_name)
    if release and release["run_id"] == run.run_id:
        return read_kept(run.storage, endpoint_name, release["previous"]) if release["previous"] else None
    return release


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
    seen, log = 0, JobLog(LOG_GROUP, job_name)
    while True:
        job = client("sagemaker").describe_training_job(TrainingJobName=job_name)
        logs = log.read()
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
        When the archive is of another bucket, is damaged, lacks a file, or holds a document that is no JSON.
    """
    bucket, key = parse_uri(model_uri)
    if bucket != run.bucket:
        raise DataError(f"{model_uri} lies in another bucket than the run, which is in {run.bucket}: train it here.")
    archive = run.storage.get(key)
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
