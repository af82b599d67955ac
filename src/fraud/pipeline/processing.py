"""Compact captured traffic on several machines: a SageMaker processing job that runs ``src/compact.py``.

Each hour partition is a work item, a small JSON that lists its objects; SageMaker deals the items out to the machines.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError

from fraud.errors import ProcessingJobError
from fraud.pipeline import source_archive
from fraud.pipeline.live import Conversion, Elsewhere
from fraud.pipeline.partitions import Chunk
from fraud.pipeline.resources import named, start_job
from fraud.pipeline.runs import Run
from fraud.pipeline.where import client, where

SENT = ("compact.py", "requirements-compact.txt", "fraud/*.py", "fraud/pipeline/*.py")
INPUT = "/opt/ml/processing/input"
START = (
    f"cd '{INPUT}/code' && tar -xzf sourcedir.tar.gz && "
    "python3 -m pip install --quiet --disable-pip-version-check -r requirements-compact.txt && python3 compact.py"
)
VOLUME_GB = 30
FINAL = ("Completed", "Failed", "Stopped")


def compactor(run: Run, p: SimpleNamespace, *, echo: Callable[[str], None] = print, poll: float = 2.0) -> Elsewhere:
    """Return what compacts the pending partitions of a run on ``p.compact_instance_count`` machines.

    Parameters
    ----------
    run : Run
        Keeps code and work items.
    p : SimpleNamespace
        Parameters of 01_merge_data.
    echo : callable
        Told what goes on.
    poll : float
        Pause between looks (seconds).

    Returns
    -------
    callable
        Raises ProcessingJobError when the job fails.
    """

    def compact(conversion: Conversion, chunks: Sequence[Chunk]) -> None:
        wanted = request(run, p, conversion, chunks)
        job = start_job(
            named(f"fraud-{run.run_id}-compact", wanted),
            lambda job: _create(job, wanted),
            lambda job: dict(client("sagemaker").describe_processing_job(ProcessingJobName=job)),
            # One that is done left hours out that are asked for now, or they were changed since.
            lambda job: _inputs(job) == _inputs(wanted) and job["ProcessingJobStatus"] == "InProgress",
        )
        echo(f"{len(chunks)} hour partitions are compacted by {p.compact_instance_count} machines, job {job} …")
        wait(job, poll)

    return compact


def _send(run: Run, conversion: Conversion, items: Sequence[bytes]) -> str:
    """Write conversion and work items to a folder of the run that is named by them, the manifest last."""
    storage = run.storage
    given = {"bucket": run.bucket, "owner": storage.owner, "conversion": json.loads(conversion.to_json())}
    content = [hashlib.sha256(part).hexdigest() for part in (json.dumps(given, sort_keys=True).encode(), *items)]
    folder = run.key(f"data/compact/{hashlib.sha256(''.join(content).encode()).hexdigest()[:16]}")
    storage.write_json(f"{folder}/conversion/conversion.json", given)
    names = [f"{at:05d}.json" for at in range(len(items))]
    for name, body in zip(names, items, strict=True):
        storage.put(f"{folder}/hours/{name}", body, "application/json")
    storage.write_json(f"{folder}/hours.manifest", [{"prefix": storage.uri(f"{folder}/hours/")}, *names])
    return folder


def request(run: Run, p: SimpleNamespace, conversion: Conversion, chunks: Sequence[Chunk]) -> dict[str, Any]:
    """Send code and work to the run; return the request of CreateProcessingJob but for the name.

    Parameters
    ----------
    run : Run
    p : SimpleNamespace
        Parameters of 01_merge_data.
    conversion : Conversion
        How captured lines become rows.
    chunks : sequence of Chunk
        The hour partitions.

    Returns
    -------
    dict
        Its addresses are named by what lies there.
    """
    here = where()
    code = source_archive.keep(run.storage, run.key("data/compact/code"), SENT).rpartition("/")[0]
    folder = _send(run, conversion, [chunk.to_json().encode() for chunk in chunks])

    def given(name: str, uri: str, **more: str) -> dict[str, Any]:
        source = {"S3Uri": uri, "LocalPath": f"{INPUT}/{name}", "S3InputMode": "File"}
        kind = {"S3DataType": "S3Prefix", "S3DataDistributionType": "FullyReplicated"}
        return {"InputName": name, "S3Input": source | kind | more}

    prefix = run.storage.uri(folder)
    cluster = {
        "InstanceCount": p.compact_instance_count,
        "InstanceType": p.compact_instance_type,
        "VolumeSizeInGB": VOLUME_GB,
    }
    return {
        "RoleArn": p.compact_role_arn or here.processing_role_arn,
        "AppSpecification": {"ImageUri": here.image_uri, "ContainerEntrypoint": ["/bin/bash", "-c", START]},
        "ProcessingResources": {"ClusterConfig": cluster},
        "ProcessingInputs": [
            given("code", run.storage.uri(f"{code}/")),
            given("conversion", f"{prefix}/conversion/"),
            given(
                "hours", f"{prefix}/hours.manifest", S3DataType="ManifestFile", S3DataDistributionType="ShardedByS3Key"
            ),
        ],
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    }


def _create(job: str, wanted: dict[str, Any]) -> None:
    try:
        client("sagemaker").create_processing_job(ProcessingJobName=job, **wanted)
    except ClientError as error:
        if error.response["Error"]["Code"] == "ResourceInUse":
            raise
        raise ProcessingJobError(f"The processing job {job} could not be started: {error}") from error


def _inputs(job: Mapping[str, Any]) -> dict[str, Any]:
    """What decides a job's result, in a request as in what SageMaker tells of a job, which adds much of its own."""
    cluster = job["ProcessingResources"]["ClusterConfig"]
    return {
        "role": job["RoleArn"],
        "image": job["AppSpecification"]["ImageUri"],
        "machines": [cluster.get(name) for name in ("InstanceType", "InstanceCount", "VolumeSizeInGB")],
        "sources": {
            item["InputName"]: item.get("S3Input", {}).get("S3Uri") for item in job.get("ProcessingInputs", ())
        },
    }


def wait(job: str, poll: float = 2.0) -> dict[str, Any]:
    """Wait for a processing job.

    Returns
    -------
    dict
        ``DescribeProcessingJob``'s answer.

    Raises
    ------
    ProcessingJobError
        When it failed or was stopped; with its reason.
    """
    while True:
        found: dict[str, Any] = client("sagemaker").describe_processing_job(ProcessingJobName=job)
        if found["ProcessingJobStatus"] in FINAL:
            break
        time.sleep(poll)
    if found["ProcessingJobStatus"] != "Completed":
        reason = found.get("ExitMessage") or found.get("FailureReason") or "it was stopped"
        raise ProcessingJobError(f"The processing job {job} failed: {reason}")
    return found
