"""Starting or adopting a training job; SageMaker itself is a fake that keeps jobs by name, as the real one does."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from fraud.errors import DataError, PlatformError
from fraud.pipeline import logs, parameters, resources, source_archive, training
from fraud.pipeline.runs import Run

NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
DEFAULTS = {name: item.default for name, item in parameters.declared("02_train").items()}
WHERE = SimpleNamespace(region="eu-west-1", image_uri="image", train_role_arn="role", kms_key_arn="")


def parameters_of(**change: Any) -> SimpleNamespace:
    return SimpleNamespace(
        **DEFAULTS | {"endpoint_name": "fraud", "num_boost_round": 50, "learning_rate": 0.1} | change
    )


class Bucket:
    """What a run reads of its bucket, and keeps there."""

    def __init__(self, name: str, kept: dict[str, bytes]) -> None:
        self.name, self.kept = name, kept

    def uri(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    def get(self, key: str) -> bytes:
        return self.kept[key]

    def read_json(self, key: str, default: Any = None) -> Any:
        return json.loads(self.kept[key]) if key in self.kept else default

    def put_once(self, key: str, body: bytes, content_type: str = "") -> bool:
        return self.kept.setdefault(key, body) == body


def run(run_id: str = "nov", bucket: str = "loop", rows: str = "rows", release: dict[str, Any] | None = None) -> Any:
    """A run whose 01 has recorded."""
    kept = {
        f"runs/{run_id}/data/train.manifest": b"[]",
        f"runs/{run_id}/data/dataset.json": json.dumps({"content_sha256": rows}).encode(),
        f"runs/{run_id}/01_merge_data.json": b"{}",
    }
    for endpoint, found in (release or {}).items():
        kept[f"releases/{endpoint}/current.json"] = json.dumps(found).encode()
    made = Run.__new__(Run)
    made.bucket, made.run_id, made.storage = bucket, run_id, Bucket(bucket, kept)
    return made


class SageMaker:
    """Jobs by name; a second one of a name is refused, as by the real service, and a list is not to be asked for."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}

    def create(self, job: str, wanted: dict[str, Any]) -> None:
        if job in self.jobs:
            error = {"Code": "ResourceInUse", "Message": "Training job names must be unique"}
            raise ClientError({"Error": error}, "CreateTrainingJob")
        # what a service adds of its own
        told = json.loads(json.dumps(wanted)) | {"TrainingJobStatus": "InProgress", "EnableNetworkIsolation": False}
        told["AlgorithmSpecification"]["EnableSageMakerMetricsTimeSeries"] = False
        self.jobs[job] = told

    def describe_training_job(self, TrainingJobName: str) -> dict[str, Any]:
        return self.jobs[TrainingJobName]


@pytest.fixture
def sagemaker(monkeypatch: pytest.MonkeyPatch) -> SageMaker:
    made = SageMaker()
    monkeypatch.setattr(training, "client", lambda service: made)
    monkeypatch.setattr(training, "_create", made.create)
    monkeypatch.setattr(training, "where", lambda: WHERE)
    return made


@pytest.mark.parametrize("status", ["InProgress", "Completed"])
def test_a_run_that_is_repeated_adopts_its_job(sagemaker: SageMaker, status: str) -> None:
    first = training.start(run(), parameters_of())
    sagemaker.jobs[first]["TrainingJobStatus"] = status
    assert training.start(run(), parameters_of()) == first and list(sagemaker.jobs) == [first]
    assert NAME.fullmatch(first) and first.startswith("fraud-nov-")


@pytest.mark.parametrize("status", ["Failed", "Stopped", "Stopping"])
def test_a_job_that_came_to_nothing_is_started_again_under_the_next_number(sagemaker: SageMaker, status: str) -> None:
    first = training.start(run(), parameters_of())
    sagemaker.jobs[first]["TrainingJobStatus"] = status
    assert training.start(run(), parameters_of()) == f"{first}-2" == training.start(run(), parameters_of())
    assert len(sagemaker.jobs) == 2


CHAMPION = {"run_id": "oct", "model_data": "s3://loop/runs/oct/model/j/output/model.tar.gz", "archive_sha256": "a" * 64}
OTHERS = {
    "a run whose id begins alike": (run("nov-retry"), {}),
    "a run whose id begins with a whole job's name": (run("nov-0123456789ab"), {}),
    "the same id in another bucket": (run(bucket="other"), {}),
    "other rows": (run(rows="without two columns"), {}),
    "another endpoint": (run(), {"endpoint_name": "fraud-eu"}),
    "a champion to beat": (run(release={"fraud": CHAMPION}), {}),
    "another hyperparameter": (run(), {"num_leaves": 7}),
    "a flag": (run(), {"exclude_known_cards": True}),
    "more machines": (run(), {"training_instances": 2}),
    "larger machines": (run(), {"instance_type": "ml.m5.4xlarge"}),
    "more time": (run(), {"max_runtime_seconds": 7200}),
    "another role": (run(), {"role_arn": "another"}),
    "what a tuning job installs": (run(), {"n_trials": 3}),
}


@pytest.mark.parametrize(("other", "change"), OTHERS.values(), ids=OTHERS)
def test_two_that_differ_in_anything_share_no_job(sagemaker: SageMaker, other: Any, change: dict[str, Any]) -> None:
    first = training.start(run(), parameters_of())
    sagemaker.jobs[first]["TrainingJobStatus"] = "Completed"
    second = training.start(other, parameters_of(**change))
    assert second != first and set(sagemaker.jobs) == {first, second}
    assert training.start(run(), parameters_of()) == first


def test_other_code_trains_again(sagemaker: SageMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    first = training.start(run(), parameters_of())
    monkeypatch.setattr(training, "SENT", (*training.SENT, "compact.py"))
    assert training.start(run(), parameters_of()) != first


def test_a_strangers_job_of_the_very_name_is_not_adopted(sagemaker: SageMaker) -> None:
    name = training.start(run(), parameters_of())
    for change in (
        {"OutputDataConfig": {"S3OutputPath": "s3://other/runs/nov/model"}},
        {"HyperParameters": {}},
        {"Environment": {}},
        {"InputDataConfig": []},
        {"RoleArn": "another"},
    ):
        sagemaker.jobs[name] |= change
        assert training.start(run(), parameters_of()) == f"{name}-2"
    sagemaker.jobs[name] = {"TrainingJobStatus": "Completed"}  # of a kind that has none of it
    assert training.start(run(), parameters_of()) == f"{name}-2"


def test_ninety_nine_failures_are_enough(sagemaker: SageMaker) -> None:
    name = training.start(run(), parameters_of())
    failed = sagemaker.jobs[name] | {"TrainingJobStatus": "Failed"}
    sagemaker.jobs |= {name: failed} | {f"{name}-{attempt}": failed for attempt in range(2, 99)}
    assert training.start(run(), parameters_of()) == f"{name}-99"
    sagemaker.jobs[f"{name}-99"]["TrainingJobStatus"] = "Failed"
    with pytest.raises(
        PlatformError, match=r"^The job fraud-nov-[0-9a-f]{12} was tried 99 times; choose another run_id"
    ):
        training.start(run(), parameters_of())
    assert all(NAME.fullmatch(name) for name in sagemaker.jobs)


def test_a_run_in_service_that_is_repeated_meets_the_same_champion(sagemaker: SageMaker) -> None:
    before = run(release={"fraud": CHAMPION})
    first = training.start(before, parameters_of())
    after = run(release={"fraud": {"run_id": "nov", "previous": "oct"}})
    after.storage.kept["releases/fraud/oct/release.json"] = json.dumps(CHAMPION).encode()
    assert training.start(after, parameters_of()) == first
    alone = run(release={"fraud": {"run_id": "nov", "previous": None}})
    assert training.champion(alone, "fraud") is None
    assert training.start(alone, parameters_of()) == training.start(run(), parameters_of())


RUN_IDS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,39}", fullmatch=True)
CONTENTS = st.tuples(RUN_IDS, st.sampled_from(["loop", "loop-2"]), st.sampled_from(["fraud", "fraud-eu"]), st.text())


@given(st.lists(CONTENTS, min_size=2, max_size=4, unique=True))
def test_no_two_runs_buckets_endpoints_or_contents_share_a_name(pairs: list[tuple[str, str, str, str]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "where", lambda: WHERE)
        names = {
            resources.named(
                f"fraud-{run_id}", training.request(run(run_id, bucket, rows), parameters_of(endpoint_name=e), "code")
            )
            for run_id, bucket, e, rows in pairs
        }
    assert len(names) == len(pairs)
    # an attempt's number belongs to no other name either
    every = {f"{name}{number}" for name in names for number in ("", "-2", "-99")}
    assert len(every) == 3 * len(pairs) and all(NAME.fullmatch(name) for name in every)


@given(st.text("ab-", min_size=1, max_size=80), st.text("ab-", min_size=1, max_size=80))
def test_names_that_are_cut_stay_apart(one: str, other: str) -> None:
    first, second = (resources.named(f"fraud-{what}", {}) for what in (one, other))
    assert (first == second) == (one == other)
    assert len(first) <= 60 and NAME.fullmatch(f"{first}-99")


def test_only_what_train_py_takes_is_passed_on() -> None:
    taken = training.hyperparameters(SimpleNamespace(num_boost_round=50, learning_rate=0.1, endpoint_name="fraud"))
    assert taken == {"num_boost_round": "50", "learning_rate": "0.1"}


@pytest.mark.parametrize("text", ["auto", "1.50", "007", "true", "null", "[1]", 'a"b', "é"])
def test_a_text_stays_the_text_it_is(text: str) -> None:
    """The container reads each hyperparameter as JSON where it is JSON."""
    assert json.loads(training.hyperparameters(SimpleNamespace(segment_columns=text))["segment_columns"]) == text


def test_the_archive_of_the_code_is_the_same_each_time_and_small() -> None:
    archive, digest = source_archive.pack(training.SENT)
    assert source_archive.pack(training.SENT) == (archive, digest) and len(archive) < 400_000
    assert source_archive.pack(training.SENT, {"requirements.txt": b"x"})[1] != digest


def test_a_job_that_tunes_installs_what_it_needs() -> None:
    plain, tuning = (training._requirements(parameters_of(n_trials=n)) for n in (0, 5))
    assert plain == {}
    text = tuning["requirements.txt"].decode()
    served, _, training_only = text.partition("# training only")
    assert "lightgbm==" in served and "optuna" not in served and "optuna" in training_only and "-r " not in text


def test_a_model_of_another_bucket_is_refused_in_a_sentence() -> None:
    with pytest.raises(DataError, match=r"^s3://other/runs/nov/model.tar.gz lies in another bucket than the run"):
        training.read_model(run(), "s3://other/runs/nov/model.tar.gz")


class Logs:
    """Streams of lines, two lines a page; the first page of each listing is empty, as AWS's may be."""

    class exceptions:
        class ResourceNotFoundException(Exception):
            pass

    def __init__(self, streams: dict[str, list[str]]) -> None:
        self.streams, self.calls = streams, 0

    def get_paginator(self, operation: str) -> Any:
        assert operation == "describe_log_streams"

        def paginate(logGroupName: str, logStreamNamePrefix: str) -> Any:
            yield {"logStreams": []}
            names = [name for name in sorted(self.streams) if name.startswith(logStreamNamePrefix)]
            yield from ({"logStreams": [{"logStreamName": name}]} for name in names)

        return SimpleNamespace(paginate=paginate)

    def get_log_events(self, logGroupName: str, logStreamName: str, startFromHead: bool, nextToken: str = "") -> Any:
        self.calls += 1
        if not nextToken:
            return {"events": [], "nextForwardToken": "0"}
        at = int(nextToken)
        new = self.streams[logStreamName][at : at + 2]
        return {"events": [{"message": f"{line}\n"} for line in new], "nextForwardToken": str(at + len(new))}


def test_a_jobs_log_is_read_to_its_end_and_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [str(k) for k in range(7)]
    aws = Logs({"j/algo-1-1": lines, "j/algo-2-1": ["other"], "j-2/algo-1-1": ["another job's"]})
    monkeypatch.setattr(logs, "client", lambda service: aws)
    log = logs.JobLog("group", "j")
    assert log.read() == {"j/algo-1-1": lines, "j/algo-2-1": ["other"]}
    before, aws.calls = aws.calls, 0
    lines.append("7")
    assert log.read()["j/algo-1-1"] == [str(k) for k in range(8)] and aws.calls < before
