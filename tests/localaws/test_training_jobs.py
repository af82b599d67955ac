"""Training jobs that really run, asked for by boto3 as a notebook does."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import signal
import tarfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError
from localaws_kit import LocalAws, archive

from fraud import localaws

pytestmark = pytest.mark.localaws

TRAIN = """
import argparse, os, pathlib, sys
parser = argparse.ArgumentParser()
parser.add_argument("--rounds", type=int, default=3)
rounds = parser.parse_args().rounds
data = pathlib.Path(os.environ["SM_CHANNEL_TRAIN"])
for path in sorted(data.rglob("*")):
    if path.is_file():
        print("file", path.relative_to(data), path.read_text())
for step in range(rounds):
    print(f"[{step}] valid auc={0.5 + step / 10}")
print("to stderr", file=sys.stderr)
pathlib.Path(os.environ["SM_MODEL_DIR"], "model.txt").write_text(f"rounds={rounds}")
pathlib.Path(os.environ["SM_OUTPUT_DATA_DIR"], "notes.txt").write_text("n")
"""
SLEEP = """
import os, pathlib, subprocess, sys, time
pathlib.Path(os.environ["SM_MODEL_DIR"], "model.txt").write_text("half")
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("asleep", os.getpid(), flush=True)
time.sleep(600)
"""


ON_HOSTS = """
import json, os, pathlib, time
config = json.loads(pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"], "input/config/resourceconfig.json").read_text())
mine = os.environ["SM_CURRENT_HOST"]
assert config["current_host"] == mine and config["hosts"] == json.loads(os.environ["SM_HOSTS"])
assert config["network_interface_name"] == os.environ["SM_NETWORK_INTERFACE_NAME"] == "lo"
for name in ("ALL", "SHARE"):
    print(name, sorted(path.name for path in pathlib.Path(os.environ["SM_CHANNEL_" + name]).iterdir()))
for folder in ("SM_MODEL_DIR", "SM_OUTPUT_DATA_DIR"):
    pathlib.Path(os.environ[folder], mine).write_text(mine)
print("auc=0." + mine[-1])
"""
ONE_FAILS = """
import os, pathlib, sys, time
if os.environ["SM_CURRENT_HOST"] == "algo-2":
    pathlib.Path(os.environ["SM_OUTPUT_DIR"], "failure").write_text("the second one failed")
    sys.exit(3)
time.sleep(600)
"""


class Jobs:
    """What the tests ask of SageMaker."""

    def __init__(self, aws: LocalAws) -> None:
        self.aws = aws
        self.s3, self.sagemaker, self.logs = aws.client("s3"), aws.client("sagemaker"), aws.client("logs")

    def put(self, key: str, body: bytes | str) -> str:
        self.s3.put_object(Bucket=self.aws.bucket, Key=key, Body=body)
        return f"s3://{self.aws.bucket}/{key}"

    def request(self, script: str, **change: Any) -> dict[str, Any]:
        name = f"job-{uuid.uuid4().hex[:8]}"
        source = self.put(f"{name}/sourcedir.tar.gz", archive(train__py=script))
        return {
            "TrainingJobName": name,
            "RoleArn": self.aws.role,
            "AlgorithmSpecification": {"TrainingImage": "image", "TrainingInputMode": "File"},
            "OutputDataConfig": {"S3OutputPath": f"s3://{self.aws.bucket}/out/"},
            "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 5},
            "StoppingCondition": {"MaxRuntimeInSeconds": 60},
            "HyperParameters": {"sagemaker_program": "train.py", "sagemaker_submit_directory": json.dumps(source)},
            **change,
        }

    def start(self, script: str, **change: Any) -> str:
        request = self.request(script, **change)
        self.sagemaker.create_training_job(**request)
        return request["TrainingJobName"]

    def wait(self, name: str, *until: str, seconds: float = 30) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = self.sagemaker.describe_training_job(TrainingJobName=name)
            if job["TrainingJobStatus"] in (until or ("Completed", "Failed", "Stopped")):
                return job
            time.sleep(0.1)
        raise AssertionError(f"{name} is still {job['TrainingJobStatus']}: {job['SecondaryStatus']}")

    def lines(self, name: str, host: str = "algo-1") -> list[str]:
        group, prefix = "/aws/sagemaker/TrainingJobs", f"{name}/{host}-"
        streams = self.logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=prefix)["logStreams"]
        assert len(streams) == 1
        events = self.logs.get_log_events(
            logGroupName=group, logStreamName=streams[0]["logStreamName"], startFromHead=True
        )
        return [event["message"] for event in events["events"]]

    def asleep(self, name: str) -> int:
        """Wait for the sleeping script; return its process id."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            for process in psutil.process_iter():
                try:
                    if process.environ().get("TRAINING_JOB_NAME") == name and "train.py" in process.cmdline():
                        if any("sleep(600)" in " ".join(child.cmdline()) for child in process.children()):
                            return process.pid
                except (psutil.Error, OSError):
                    continue
            time.sleep(0.1)
        raise AssertionError(f"{name} does not run")

    def archive(self, uri: str) -> dict[str, str]:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        data = self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            return {m.name: tar.extractfile(m).read().decode() for m in tar if m.isreg()}  # type: ignore[union-attr]


def channel(name: str, uri: str, kind: str = "S3Prefix") -> dict[str, Any]:
    source = {"S3DataType": kind, "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}}


@pytest.fixture(scope="module")
def jobs(aws: LocalAws) -> Jobs:
    return Jobs(aws)


def test_a_job_trains_for_real(jobs: Jobs) -> None:
    jobs.put("data/parts/a.csv", "1")
    jobs.put("data/parts/deep/b.csv", "2")
    manifest = jobs.put(
        "data/train.manifest",
        json.dumps([{"prefix": f"s3://{jobs.aws.bucket}/data/"}, "parts/a.csv", "parts/deep/b.csv"]),
    )
    request = jobs.request(TRAIN, InputDataConfig=[channel("train", manifest, "ManifestFile")])
    request["HyperParameters"]["rounds"] = "4"
    request["AlgorithmSpecification"]["MetricDefinitions"] = [{"Name": "auc", "Regex": "valid auc=([0-9.]+)"}]
    name = request["TrainingJobName"]
    arn = jobs.sagemaker.create_training_job(**request, Tags=[{"Key": "run", "Value": "r1"}])["TrainingJobArn"]
    job = jobs.wait(name)
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Completed", "Completed"), job.get("FailureReason")
    assert arn == job["TrainingJobArn"] == f"arn:aws:sagemaker:eu-west-1:000000000000:training-job/{name}"
    assert [step["Status"] for step in job["SecondaryStatusTransitions"]] == [
        "Starting", "Downloading", "Training", "Uploading", "Completed"
    ]  # fmt: skip
    assert job["FinalMetricDataList"][0]["Value"] == pytest.approx(0.8)
    assert job["ModelArtifacts"]["S3ModelArtifacts"] == f"s3://{jobs.aws.bucket}/out/{name}/output/model.tar.gz"
    assert jobs.archive(job["ModelArtifacts"]["S3ModelArtifacts"]) == {"model.txt": "rounds=4"}
    assert jobs.archive(f"s3://{jobs.aws.bucket}/out/{name}/output/output.tar.gz") == {"notes.txt": "n"}
    lines = jobs.lines(name)
    assert lines[:3] == ["file parts/a.csv 1", "file parts/deep/b.csv 2", "[0] valid auc=0.5"]
    assert "to stderr" in lines
    assert jobs.sagemaker.list_tags(ResourceArn=arn)["Tags"] == [{"Key": "run", "Value": "r1"}]
    assert not (jobs.aws.state / "jobs" / name).exists()
    with pytest.raises(ClientError, match=r"\(ResourceInUse\).*must be unique"):
        jobs.sagemaker.create_training_job(**request)


def test_a_failing_script_tells_why(jobs: Jobs) -> None:
    job = jobs.wait(jobs.start("raise ValueError('the fraud rate is 0')"))
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("AlgorithmError: ExecuteUserScriptError:\nExitCode 1\nErrorMessage")
    assert "ValueError: the fraud rate is 0" in job["FailureReason"]
    assert job["FailureReason"].endswith("exit code: 1")
    assert "ModelArtifacts" not in job or "S3ModelArtifacts" not in job["ModelArtifacts"]


def test_the_failure_file_comes_first(jobs: Jobs) -> None:
    script = "import os; open(os.environ['SM_OUTPUT_DIR'] + '/failure', 'w').write('x' * 3000); raise SystemExit(7)"
    reason = jobs.wait(jobs.start(script))["FailureReason"]
    assert reason.startswith("AlgorithmError: xxxx") and reason.endswith(", exit code: 7") and len(reason) == 1024


@pytest.mark.parametrize(
    ("uri", "kind", "reason"),
    [
        ("s3://{bucket}/nothing/here", "S3Prefix", 'No S3 objects found under S3 URL "s3://{bucket}/nothing/here"'),
        ("s3://no-such-bucket-at-all/x", "S3Prefix", 'No S3 objects found under S3 URL "s3://no-such-bucket-at-all/x"'),
        ("s3://{bucket}/no.manifest", "ManifestFile", "NoSuchKey (404)"),
        ("s3://{bucket}/bad.manifest", "ManifestFile", "Unable to parse manifest"),
        ("s3://{bucket}/up.manifest", "ManifestFile", "leads out of its folder"),
    ],
)
def test_missing_data_fails_as_on_aws(jobs: Jobs, uri: str, kind: str, reason: str) -> None:
    bucket = jobs.aws.bucket
    jobs.put("bad.manifest", "{")
    jobs.put("up.manifest", json.dumps([{"prefix": f"s3://{bucket}/"}, "../../up"]))
    job = jobs.wait(jobs.start(TRAIN, InputDataConfig=[channel("train", uri.format(bucket=bucket), kind)]))
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("ClientError: Data download failed:")
    assert reason.format(bucket=bucket) in job["FailureReason"]


def test_stop_ends_the_process_and_keeps_the_model(jobs: Jobs) -> None:
    name = jobs.start(SLEEP)
    pid = jobs.asleep(name)
    jobs.sagemaker.stop_training_job(TrainingJobName=name)
    job = jobs.wait(name)
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "Stopped")
    assert jobs.archive(job["ModelArtifacts"]["S3ModelArtifacts"]) == {"model.txt": "half"}
    assert not psutil.pid_exists(pid)
    assert not [p for p in psutil.process_iter() if _job(p) == name]
    with pytest.raises(ClientError, match=r"\(ValidationException\).*the training job is in status Stopped"):
        jobs.sagemaker.stop_training_job(TrainingJobName=name)


def test_what_a_script_leaves_running_ends_with_it(jobs: Jobs) -> None:
    script = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    name = jobs.start(script)
    assert jobs.wait(name)["TrainingJobStatus"] == "Completed"
    assert not [p for p in psutil.process_iter() if _job(p) == name]


def _job(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("TRAINING_JOB_NAME")
    except (psutil.Error, OSError):
        return None


def test_the_time_limit_holds(jobs: Jobs) -> None:
    job = jobs.wait(jobs.start(SLEEP, StoppingCondition={"MaxRuntimeInSeconds": 1}))
    assert (job["TrainingJobStatus"], job["SecondaryStatus"]) == ("Stopped", "MaxRuntimeExceeded")


def machines(count: int) -> dict[str, Any]:
    return {"InstanceType": "ml.m5.large", "InstanceCount": count, "VolumeSizeInGB": 5}


def test_a_job_on_three_machines(jobs: Jobs) -> None:
    for name in "abcd":
        uri = jobs.put(f"shared/{name}.txt", name).removesuffix("a.txt")
    uri = uri.removesuffix("d.txt")
    share = channel("share", uri)
    share["DataSource"]["S3DataSource"]["S3DataDistributionType"] = "ShardedByS3Key"
    request = jobs.request(ON_HOSTS, ResourceConfig=machines(3), InputDataConfig=[channel("all", uri), share])
    request["AlgorithmSpecification"]["MetricDefinitions"] = [{"Name": "auc", "Regex": "auc=([0-9.]+)"}]
    jobs.sagemaker.create_training_job(**request)
    name = request["TrainingJobName"]
    job = jobs.wait(name)
    assert job["TrainingJobStatus"] == "Completed", job.get("FailureReason")
    hosts = ["algo-1", "algo-2", "algo-3"]
    assert jobs.archive(job["ModelArtifacts"]["S3ModelArtifacts"]) == {host: host for host in hosts}
    assert jobs.archive(f"s3://{jobs.aws.bucket}/out/{name}/output/output.tar.gz") == {host: host for host in hosts}
    shares = []
    for host in hosts:
        everything, mine, _ = jobs.lines(name, host)
        assert everything == "ALL ['a.txt', 'b.txt', 'c.txt', 'd.txt']"
        shares += ast.literal_eval(mine.removeprefix("SHARE "))
    assert sorted(shares) == ["a.txt", "b.txt", "c.txt", "d.txt"]
    assert [metric["Value"] for metric in job["FinalMetricDataList"]] == [pytest.approx(0.1)]


def test_a_machine_that_fails_ends_the_others(jobs: Jobs) -> None:
    name = jobs.start(ONE_FAILS, ResourceConfig=machines(2))
    job = jobs.wait(name)
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"] == "AlgorithmError: the second one failed, exit code: 3"
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            assert process.environ().get("TRAINING_JOB_NAME") != name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RoleArn": "arn:aws:iam::000000000000:role/nobody-here"}, r"\(ValidationException\).*Could not assume role"),
        ({"RoleArn": "arn:aws:iam::111111111111:role/train"}, r"\(AccessDeniedException\).*Cross-account pass role"),
        (
            {"AlgorithmSpecification": {"TrainingInputMode": "File"}},
            r"\(ValidationException\).*exactly one of TrainingImage",
        ),
        (
            {"ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 5, "VolumeSizeInGB": 5}},
            r"\(ResourceLimitExceeded\).*training job usage",
        ),
        (
            {"TrainingJobName": "under_score"},
            r"\(ValidationException\).*'trainingJobName' failed to satisfy constraint",
        ),
        ({"OutputDataConfig": {"S3OutputPath": "https://b/x"}}, r"\(ValidationException\).*S3OutputPath"),
        (
            {"InputDataConfig": [channel("a", "s3://b/x"), channel("a", "s3://b/x")]},
            r"\(ValidationException\).*Duplicate",
        ),
    ],
)
def test_what_aws_refuses_is_refused(jobs: Jobs, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ClientError, match=message):
        jobs.sagemaker.create_training_job(**jobs.request(TRAIN, **change))


def test_unknown_jobs(jobs: Jobs) -> None:
    for operation in (jobs.sagemaker.describe_training_job, jobs.sagemaker.stop_training_job):
        with pytest.raises(ClientError, match=r"\(ValidationException\).*Requested resource not found\."):
            operation(TrainingJobName="nobody")


def test_list_filters_sorts_and_pages(jobs: Jobs) -> None:
    mark = uuid.uuid4().hex[:8]
    for number in range(3):
        request = jobs.request("print(1)")
        jobs.sagemaker.create_training_job(**request | {"TrainingJobName": f"list-{mark}-{number}"})
    names = [f"list-{mark}-{number}" for number in range(3)]
    for name in names:
        jobs.wait(name)
    query = {"NameContains": f"LIST-{mark}", "SortBy": "Name", "SortOrder": "Descending"}
    first = jobs.sagemaker.list_training_jobs(**query, MaxResults=2)
    assert [job["TrainingJobName"] for job in first["TrainingJobSummaries"]] == names[:0:-1]
    rest = jobs.sagemaker.list_training_jobs(**query, MaxResults=2, NextToken=first["NextToken"])
    assert [job["TrainingJobName"] for job in rest["TrainingJobSummaries"]] == names[:1]
    assert "NextToken" not in rest
    assert jobs.sagemaker.list_training_jobs(**query, StatusEquals="Failed")["TrainingJobSummaries"] == []
    with pytest.raises(ClientError, match="NextToken"):
        jobs.sagemaker.list_training_jobs(NextToken="nonsense")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[LocalAws]:
    """A local AWS that a test may kill."""
    state = tmp_path / "own"
    localaws.up(state)
    made = LocalAws(state, localaws.environment(state), "kept-bucket", "arn:aws:iam::000000000000:role/train")
    made.client("s3").create_bucket(Bucket="kept-bucket", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    trust = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
    made.client("iam").create_role(RoleName="train", AssumeRolePolicyDocument=json.dumps({"Statement": [trust]}))
    yield made
    localaws.down(state)


def test_a_job_whose_daemon_was_killed_is_failed_and_leaves_no_process(own: LocalAws) -> None:
    jobs = Jobs(own)
    name = jobs.start(SLEEP)
    pid = jobs.asleep(name)
    os.kill(localaws.status(own.state)["server"]["pid"], signal.SIGKILL)
    psutil.Process(pid).wait(10) if psutil.pid_exists(pid) else None  # told by the kernel, on Linux
    localaws.up(own.state)
    job = jobs.wait(name)
    assert job["TrainingJobStatus"] == "Failed"
    assert job["FailureReason"].startswith("InternalServerError: ")
    assert not [p for p in psutil.process_iter() if _job(p) == name]
    again = jobs.wait(jobs.start("print(1)"))
    assert again["TrainingJobStatus"] == "Completed"


def test_down_ends_running_jobs(own: LocalAws) -> None:
    jobs = Jobs(own)
    name = jobs.start(SLEEP)
    jobs.asleep(name)
    started = time.monotonic()
    localaws.down(own.state)
    assert time.monotonic() - started < 10
    assert not [p for p in psutil.process_iter() if _job(p) == name]
