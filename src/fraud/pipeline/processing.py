"""Compact captured traffic on several machines: a SageMaker processing job that runs ``src/compact.py``.

Each hour partition is a work item, a small JSON that lists its objects; SageMaker deals the items out to the machines.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError

from fraud.errors import ProcessingJobError
from fraud.pipeline import parameters
from fraud.pipeline.live import Conversion, Elsewhere
from fraud.pipeline.partitions import Chunk
from fraud.pipeline.runs import Run
from fraud.pipeline.where import client, where

SOURCE = parameters.ROOT / "src"
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
        items = [chunk.to_json().encode() for chunk in chunks]
        mark = hashlib.sha256(b"".join([conversion.to_json().encode(), *items])).hexdigest()[:8]
        folder = run.key(f"data/compact/{mark}")
        _send(run, folder, conversion, items)
        name = f"fraud-{run.run_id}-compact-{mark}"[:60]
        status = _start(name, run, p, folder)
        echo(f"{len(chunks)} hour partitions are compacted by {p.compact_instance_count} machines, job {status} …")
        wait(status, poll)

    return compact


def _send(run: Run, folder: str, conversion: Conversion, items: Sequence[bytes]) -> None:
    """Write code, conversion and work items to the run, the manifest last."""
    storage = run.storage
    given = {"bucket": run.bucket, "owner": storage.owner, "conversion": json.loads(conversion.to_json())}
    storage.write_json(f"{folder}/conversion/conversion.json", given)
    storage.put(f"{folder}/code/sourcedir.tar.gz", source_archive())
    names = [f"{at:05d}.json" for at in range(len(items))]
    for name, body in zip(names, items, strict=True):
        storage.put(f"{folder}/hours/{name}", body, "application/json")
    storage.write_json(f"{folder}/hours.manifest", [{"prefix": storage.uri(f"{folder}/hours/")}, *names])


def source_archive() -> bytes:
    """Pack what the job runs; the same sources give the same bytes."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as archive:
        for path in sorted(path for pattern in SENT for path in SOURCE.glob(pattern)):
            info = tarfile.TarInfo(Path(path).relative_to(SOURCE).as_posix())
            info.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(info, file)
    return buffer.getvalue()


def _start(name: str, run: Run, p: SimpleNamespace, folder: str) -> str:
    """Start the job, or adopt the one that an earlier attempt started; its name tells what it does."""
    for attempt in range(1, 100):
        job = name if attempt == 1 else f"{name}-{attempt}"
        try:
            client("sagemaker").create_processing_job(**_request(job, run, p, folder))
            return job
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceInUse":
                raise ProcessingJobError(f"The processing job {job} could not be started: {error}") from error
        if client("sagemaker").describe_processing_job(ProcessingJobName=job)["ProcessingJobStatus"] == "InProgress":
            return job
    raise ProcessingJobError(f"The processing job {name} was tried 99 times; choose another run_id.")


def _request(job: str, run: Run, p: SimpleNamespace, folder: str) -> dict[str, Any]:
    here = where()

    def given(name: str, uri: str, **more: str) -> dict[str, Any]:
        source = {"S3Uri": uri, "LocalPath": f"{INPUT}/{name}", "S3InputMode": "File"}
        kind = {"S3DataType": "S3Prefix", "S3DataDistributionType": "FullyReplicated"}
        return {"InputName": name, "S3Input": source | kind | more}

    prefix = f"s3://{run.bucket}/{folder}"
    cluster = {
        "InstanceCount": p.compact_instance_count,
        "InstanceType": p.compact_instance_type,
        "VolumeSizeInGB": VOLUME_GB,
    }
    return {
        "ProcessingJobName": job,
        "RoleArn": p.compact_role_arn or here.processing_role_arn,
        "AppSpecification": {"ImageUri": here.image_uri, "ContainerEntrypoint": ["/bin/bash", "-c", START]},
        "ProcessingResources": {"ClusterConfig": cluster},
        "ProcessingInputs": [
            given("code", f"{prefix}/code/"),
            given("conversion", f"{prefix}/conversion/"),
            given(
                "hours", f"{prefix}/hours.manifest", S3DataType="ManifestFile", S3DataDistributionType="ShardedByS3Key"
            ),
        ],
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
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
