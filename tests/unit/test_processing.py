"""Starting or adopting the job that compacts captured traffic; SageMaker keeps jobs by name, as the real one does."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from fraud.errors import ProcessingJobError
from fraud.pipeline import processing
from fraud.pipeline.live import Conversion
from fraud.pipeline.partitions import Chunk
from fraud.pipeline.roles import Roles
from fraud.pipeline.runs import Run
from fraud.pipeline.storage import Storage

NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
ROLES = Roles(target="label", id="id", time="time")
WHERE = SimpleNamespace(image_uri="image", processing_role_arn="role")


class SageMaker:
    """Jobs by name; each ends as it is told to, at once, or goes on."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.ends, self.code = "Completed", "ResourceInUse"

    def create_processing_job(self, **request: Any) -> None:
        name = request["ProcessingJobName"]
        if name in self.jobs or self.code != "ResourceInUse":
            raise ClientError({"Error": {"Code": self.code, "Message": "no"}}, "CreateProcessingJob")
        self.jobs[name] = json.loads(json.dumps(request)) | {"ProcessingJobStatus": self.ends}

    def describe_processing_job(self, ProcessingJobName: str) -> dict[str, Any]:
        return self.jobs[ProcessingJobName]


@pytest.fixture
def sagemaker(monkeypatch: pytest.MonkeyPatch) -> SageMaker:
    made = SageMaker()
    monkeypatch.setattr(processing, "client", lambda service: made)
    monkeypatch.setattr(processing, "where", lambda: WHERE)

    def goes_on(seconds: float) -> None:  # whoever waits for a job sees it done
        for job in made.jobs.values():
            job["ProcessingJobStatus"] = "Completed"

    monkeypatch.setattr(processing.time, "sleep", goes_on)
    return made


@pytest.fixture
def compact(storage: Storage, sagemaker: SageMaker):
    """Compacts, and returns the names of the jobs that were begun for it."""
    made = {"loop"}

    def call(run_id: str = "nov", bucket: str = "loop", hours: int = 2, **change: Any) -> list[str]:
        if bucket not in made:
            place = {"LocationConstraint": "eu-west-1"}
            storage.client.create_bucket(Bucket=bucket, CreateBucketConfiguration=place)
            made.add(bucket)
        run = Run.__new__(Run)
        run.bucket, run.run_id, run.storage = bucket, run_id, Storage(bucket, storage.client, wait=0)
        how = {"compact_instance_count": 2, "compact_instance_type": "ml.m5.large", "compact_role_arn": ""} | change
        before = set(sagemaker.jobs)
        chunks = [Chunk(f"ledger/live/fraud/AllTraffic/2026/01/02/{hour:02d}", ()) for hour in range(hours)]
        types = {"amount": "number"}
        processing.compactor(run, SimpleNamespace(**how), echo=lambda line: None, poll=0)(
            Conversion(types, ROLES), chunks
        )
        return sorted(set(sagemaker.jobs) - before)

    return call


def test_a_job_that_runs_is_adopted_and_one_that_ended_is_not(sagemaker: SageMaker, compact) -> None:
    sagemaker.ends = "InProgress"
    (first,) = compact()
    sagemaker.jobs[first]["ProcessingJobStatus"] = "InProgress"
    assert compact() == []
    assert compact() == [f"{first}-2"], "it left out hours that are asked for now"
    assert NAME.fullmatch(first) and first.startswith("fraud-nov-compact-")


OTHERS = {
    "another bucket": {"bucket": "other"},
    "a run whose id begins alike": {"run_id": "nov-retry"},
    "other hours": {"hours": 3},
    "more machines": {"compact_instance_count": 3},
    "another role": {"compact_role_arn": "another"},
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
def test_two_that_differ_in_anything_share_no_job(sagemaker: SageMaker, compact, change: dict[str, Any]) -> None:
    sagemaker.ends = "InProgress"
    (first,) = compact()
    sagemaker.jobs[first]["ProcessingJobStatus"] = "InProgress"
    (second,) = compact(**change)
    inputs = [item["S3Input"]["S3Uri"] for item in sagemaker.jobs[second]["ProcessingInputs"]]
    assert all(uri.startswith(f"s3://{change.get('bucket', 'loop')}/runs/") for uri in inputs)


def test_other_code_is_another_job_and_stays_beside_the_first(sagemaker, compact, storage, monkeypatch) -> None:
    (first,) = compact()
    monkeypatch.setattr(processing, "SENT", processing.SENT[:2])
    (second,) = compact()
    assert not second.startswith(first)
    assert len([key for key in storage.list_keys("runs/nov/data/compact/code/")]) == 2


def test_a_long_id_leaves_room_for_hash_and_number(sagemaker: SageMaker, compact) -> None:
    names = [*compact("n" * 40), *compact("n" * 39), *compact("n" * 40), *compact("n" * 39 + "-")]
    assert len({name[:-2] if name.endswith("-2") else name for name in names}) == 3 < len(names)
    assert all(NAME.fullmatch(name) for name in names)


def test_a_job_that_cannot_be_started_says_why(sagemaker: SageMaker, compact) -> None:
    sagemaker.code = "ResourceLimitExceeded"
    with pytest.raises(ProcessingJobError, match=r"^The processing job fraud-nov-compact-\w+ could not be started: "):
        compact()
