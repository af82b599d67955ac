"""Processing jobs that really run, on one machine or several, asked for by boto3 as a notebook does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from botocore.exceptions import ClientError
from localaws_kit import InProcess, LocalAws

from fraud import localaws
from fraud.localaws import training_run
from fraud.localaws.processing_jobs import KIND, ProcessingJobs
from fraud.localaws.processing_run import JobFailedError, Run

pytestmark = pytest.mark.localaws

COPY = """
import json, os, pathlib
base = pathlib.Path(os.environ["SAGEMAKER_PROCESSING_BASE_DIR"])
host = json.loads((base.parent / "config" / "resourceconfig.json").read_text())["current_host"]
for path in sorted((base / "input" / "data").rglob("*")):
    if path.is_file():
        print(host, "got", path.name)
        (base / "output" / path.name).write_text(host + ":" + path.read_text())
"""
FAIL = """
import json, os, pathlib, sys, time
base = pathlib.Path(os.environ["SAGEMAKER_PROCESSING_BASE_DIR"])
host = json.loads((base.parent / "config" / "resourceconfig.json").read_text())["current_host"]
if host == "algo-2":
    (base.parent / "output" / "message").write_text("the second one cannot go on")
    sys.exit(3)
time.sleep(600)
"""
SLEEP = "import time; print('asleep', flush=True); time.sleep(600)"


class Jobs:
    """What the tests ask of SageMaker."""

    def __init__(self, aws: LocalAws) -> None:
        self.aws, self.prefix = aws, f"processing-{uuid.uuid4().hex[:8]}"
        self.s3, self.sagemaker = aws.client("s3"), aws.client("sagemaker")

    def put(self, name: str, body: str) -> str:
        self.s3.put_object(Bucket=self.aws.bucket, Key=f"{self.prefix}/{name}", Body=body.encode())
        return f"s3://{self.aws.bucket}/{self.prefix}/{name}"

    def outputs(self) -> dict[str, str]:
        listed = self.s3.list_objects_v2(Bucket=self.aws.bucket, Prefix=f"{self.prefix}/out/").get("Contents", [])
        return {
            item["Key"].rsplit("/", 1)[-1]: self.s3.get_object(Bucket=self.aws.bucket, Key=item["Key"])["Body"]
            .read()
            .decode()
            for item in listed
        }

    def request(self, script: str, machines: int = 1, data: str = "", **source: str) -> dict[str, Any]:
        given = [{"InputName": "code", "S3Input": _input(self.put("code/run.py", script), "code")}]
        if data:
            given.append({"InputName": "data", "S3Input": _input(data, "data") | source})
        output = {"S3Uri": f"s3://{self.aws.bucket}/{self.prefix}/out", "S3UploadMode": "EndOfJob"}
        output["LocalPath"] = "/opt/ml/processing/output"
        return {
            "ProcessingJobName": f"job-{uuid.uuid4().hex[:8]}",
            "RoleArn": self.aws.role,
            "AppSpecification": {
                "ImageUri": "image",
                "ContainerEntrypoint": ["python3", "/opt/ml/processing/input/code/run.py"],
            },
            "ProcessingResources": {
                "ClusterConfig": {"InstanceCount": machines, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 5}
            },
            "ProcessingInputs": given,
            "ProcessingOutputConfig": {"Outputs": [{"OutputName": "out", "S3Output": output}]},
            "StoppingCondition": {"MaxRuntimeInSeconds": 60},
        }

    def start(self, request: dict[str, Any]) -> str:
        self.sagemaker.create_processing_job(**request)
        return str(request["ProcessingJobName"])

    def wait(self, name: str, seconds: float = 30) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = self.sagemaker.describe_processing_job(ProcessingJobName=name)
            if job["ProcessingJobStatus"] in ("Completed", "Failed", "Stopped"):
                return dict(job)
            time.sleep(0.1)
        raise AssertionError(f"{name} is still {job['ProcessingJobStatus']}")

    def asleep(self, name: str) -> None:
        """Wait until a process of the job runs its script."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            if any("run.py" in " ".join(process.cmdline()) for process in processes(name)):
                return
            time.sleep(0.1)
        raise AssertionError(f"{name} does not run")


def processes(name: str) -> list[psutil.Process]:
    """The living processes of a job."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PROCESSING_JOB_NAME") == name:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def _input(uri: str, name: str) -> dict[str, str]:
    return {
        "S3Uri": uri, "LocalPath": f"/opt/ml/processing/input/{name}", "S3DataType": "S3Prefix", "S3InputMode": "File",
        "S3DataDistributionType": "FullyReplicated",
    }  # fmt: skip


@pytest.fixture
def jobs(aws: LocalAws) -> Iterator[Jobs]:
    yield Jobs(aws)


@pytest.mark.parametrize("machines", [1, 2, 4])
@pytest.mark.parametrize("kind", ["S3Prefix", "ManifestFile"])
def test_machines_share_the_objects_and_none_is_lost_or_doubled(jobs, machines, kind):
    names = [f"{at:02d}.txt" for at in range(7)]
    for name in names:
        jobs.put(f"in/{name}", name)
    uri = f"s3://{jobs.aws.bucket}/{jobs.prefix}/in/"
    if kind == "ManifestFile":
        uri = jobs.put("in.manifest", json.dumps([{"prefix": uri}, *names]))
    request = jobs.request(COPY, machines, uri, S3DataType=kind, S3DataDistributionType="ShardedByS3Key")
    job = jobs.wait(jobs.start(request))
    assert job["ProcessingJobStatus"] == "Completed", job
    assert job["ProcessingEndTime"] >= job["ProcessingStartTime"] and "FailureReason" not in job
    found = jobs.outputs()
    assert {name: text.split(":")[1] for name, text in found.items()} == {name: name for name in names}
    assert {text.split(":")[0] for text in found.values()} == {f"algo-{at}" for at in range(1, machines + 1)}


def test_without_sharding_every_machine_gets_everything(jobs):
    jobs.put("in/a.txt", "a")
    data = f"s3://{jobs.aws.bucket}/{jobs.prefix}/in/"
    name = jobs.start(jobs.request(COPY, 2, data))
    assert jobs.wait(name)["ProcessingJobStatus"] == "Completed"
    logs = jobs.aws.client("logs")
    group = "/aws/sagemaker/ProcessingJobs"
    streams = logs.describe_log_streams(logGroupName=group, logStreamNamePrefix=f"{name}/")["logStreams"]
    lines = [
        event["message"]
        for stream in streams
        for event in logs.get_log_events(logGroupName=group, logStreamName=stream["logStreamName"])["events"]
    ]
    assert sorted(lines) == ["algo-1 got a.txt", "algo-2 got a.txt"]


def test_one_machine_that_fails_ends_the_job_and_the_others(jobs):
    began = time.monotonic()
    job = jobs.wait(jobs.start(jobs.request(FAIL, 2)))
    assert time.monotonic() - began < 25 and job["ProcessingJobStatus"] == "Failed"
    assert job["ExitMessage"] == "the second one cannot go on"
    assert job["FailureReason"] == "AlgorithmError: the second one cannot go on, exit code: 3"
    assert not (jobs.aws.state / "jobs" / f"processing_{job['ProcessingJobName']}").exists()
    assert not processes(job["ProcessingJobName"])


def test_a_machine_that_starts_after_another_one_failed_is_ended_too(serve):
    server: InProcess = serve(ProcessingJobs)
    context = server.daemon.context
    spawn, spawned = context.spawn, []

    async def slowly(*args: Any, **options: Any) -> Any:
        spawned.append(options["cwd"].name)
        if spawned[-1] == "algo-2":
            await asyncio.sleep(4)
        return await spawn(*args, **options)

    context.spawn = slowly
    doc = {
        "ProcessingJobName": "late", "ProcessingJobArn": "arn", "RoleArn": "role",
        "AppSpecification": {
            "ContainerEntrypoint": ["/bin/sh", "-c", "case $PWD in *algo-1) exit 3;; esac; exec sleep 600"]
        },
        "ProcessingResources": {"ClusterConfig": {"InstanceCount": 2}},
    }  # fmt: skip
    with pytest.raises(JobFailedError, match="exit code: 3"):
        server._run(Run(context, doc, lambda: None, 1.0).execute())
    assert sorted(spawned) == ["algo-1", "algo-2"] and not processes("late")


def test_what_a_job_without_a_message_said_last_is_its_reason(jobs):
    job = jobs.wait(jobs.start(jobs.request("raise ValueError('no such luck')")))
    assert job["ProcessingJobStatus"] == "Failed" and "no such luck" in job["FailureReason"]


def test_a_job_can_be_stopped_and_has_its_time(jobs):
    name = jobs.start(jobs.request(SLEEP))
    jobs.asleep(name)
    jobs.sagemaker.stop_processing_job(ProcessingJobName=name)
    assert jobs.wait(name)["ProcessingJobStatus"] == "Stopped"
    assert not processes(name)
    with pytest.raises(ClientError, match="in status Stopped"):
        jobs.sagemaker.stop_processing_job(ProcessingJobName=name)
    short = jobs.request(SLEEP) | {"StoppingCondition": {"MaxRuntimeInSeconds": 1}}
    late = jobs.wait(jobs.start(short))
    assert late["ProcessingJobStatus"] == "Stopped" and "MaxRuntimeInSeconds" in late["FailureReason"]


def test_a_machine_without_objects_gets_an_empty_folder(jobs):
    jobs.put("in/only.txt", "1")
    script = COPY + '\n(base / "output" / f"{host}.seen").write_text(str((base / "input" / "data").is_dir()))'
    data = f"s3://{jobs.aws.bucket}/{jobs.prefix}/in/"
    name = jobs.start(jobs.request(script, 3, data, S3DataDistributionType="ShardedByS3Key"))
    assert jobs.wait(name)["ProcessingJobStatus"] == "Completed"
    seen = {f"algo-{at}.seen": "True" for at in (1, 2, 3)}
    assert jobs.outputs() == {"only.txt": "algo-1:1"} | seen


def test_paths_of_the_container_are_moved_and_variables_reach_the_script(jobs):
    script = """
import json, os, pathlib, sys
names = ("PROCESSING_JOB_NAME", "PROCESSING_JOB_ARN", "AWS_REGION", "OWN", "PLACE", "AWS_ENDPOINT_URL_SAGEMAKER")
pathlib.Path(sys.argv[1], "seen.json").write_text(json.dumps({n: os.environ.get(n, "") for n in names}))
base = pathlib.Path(os.environ["SAGEMAKER_PROCESSING_BASE_DIR"])
assert os.environ["PLACE"] == str(base / "x"), os.environ["PLACE"]
config = json.loads((base.parent / "config" / "processingjobconfig.json").read_text())
assert config["ProcessingJobArn"] == os.environ["PROCESSING_JOB_ARN"]
"""
    request = jobs.request(script) | {"Environment": {"OWN": "1", "PLACE": "/opt/ml/processing/x"}}
    request["AppSpecification"]["ContainerArguments"] = ["/opt/ml/processing/output"]
    job = jobs.wait(jobs.start(request))
    assert job["ProcessingJobStatus"] == "Completed", job
    seen = json.loads(jobs.outputs()["seen.json"])
    assert seen["PROCESSING_JOB_NAME"] == job["ProcessingJobName"]
    assert seen["PROCESSING_JOB_ARN"] == job["ProcessingJobArn"]
    assert (seen["OWN"], seen["AWS_REGION"]) == ("1", jobs.aws.environment["AWS_REGION"])
    assert seen["AWS_ENDPOINT_URL_SAGEMAKER"] == jobs.aws.environment["AWS_ENDPOINT_URL_SAGEMAKER"]


def test_absent_data_fails_the_job_in_awss_words(jobs):
    job = jobs.wait(jobs.start(jobs.request(COPY, 1, f"s3://{jobs.aws.bucket}/{jobs.prefix}/nothing/")))
    assert job["ProcessingJobStatus"] == "Failed" and "No S3 objects found under S3 URL" in job["FailureReason"]


def test_what_aws_refuses_is_refused(jobs):
    request = jobs.request(COPY)
    name = jobs.start(request)
    with pytest.raises(ClientError, match="ResourceInUse"):
        jobs.start(request)
    jobs.wait(name)
    with pytest.raises(ClientError, match="Could not find requested job with name: no-such-job"):
        jobs.sagemaker.describe_processing_job(ProcessingJobName="no-such-job")
    many = jobs.request(COPY, 9)
    with pytest.raises(ClientError, match="ResourceLimitExceeded"):
        jobs.start(many)
    twice = jobs.request(COPY)
    twice["ProcessingInputs"] *= 2
    with pytest.raises(ClientError, match="names must be unique; code is not"):
        jobs.start(twice)
    listed = jobs.sagemaker.list_processing_jobs(NameContains=name)["ProcessingJobSummaries"]
    assert [(job["ProcessingJobName"], job["ProcessingJobStatus"]) for job in listed] == [(name, "Completed")]


@pytest.mark.parametrize(
    ("where", "change", "message"),
    [
        ("input", {"S3InputMode": "Pipe"}, "S3InputMode File"),
        ("input", {"S3CompressionType": "Gzip"}, "uncompressed"),
        ("input", {"LocalPath": "/opt/ml/model"}, "LocalPath must be a path below /opt/ml/processing"),
        ("input", {"LocalPath": "/opt/ml/processing/../../../up"}, "LocalPath must be a path below"),
        ("input", {"S3Uri": "https://b/x"}, "S3Uri must be an S3 URI"),
        ("output", {"S3UploadMode": "Continuous"}, "EndOfJob only"),
        ("output", {"LocalPath": "/tmp/x"}, "LocalPath must be a path below /opt/ml/processing"),
        ("request", {"ProcessingJobName": "under_score"}, "'processingJobName' failed to satisfy constraint"),
        ("request", {"RoleArn": "arn:aws:iam::000000000000:role/nobody-here"}, "Could not assume role"),
    ],
)
def test_a_bad_request_is_refused(jobs, where, change, message):
    request = jobs.request(COPY)
    {
        "input": request["ProcessingInputs"][0]["S3Input"],
        "output": request["ProcessingOutputConfig"]["Outputs"][0]["S3Output"],
        "request": request,
    }[where].update(change)
    with pytest.raises(ClientError, match=rf"\(ValidationException\).*{message}"):
        jobs.start(request)


def test_list_sorts_and_pages(serve):
    server: InProcess = serve(ProcessingJobs)
    for at, status in enumerate(("Completed", "Failed", "Completed")):
        name = f"list-{at}"
        doc = {"ProcessingJobName": name, "ProcessingJobArn": f"arn:aws:sagemaker:::{name}", "CreationTime": 9.0 - at}
        server.daemon.context.store.put(KIND, name, doc | {"ProcessingJobStatus": status})
    sagemaker = server.client("sagemaker")

    def names(**query: Any) -> list[str]:
        return [job["ProcessingJobName"] for job in sagemaker.list_processing_jobs(**query)["ProcessingJobSummaries"]]

    assert names() == ["list-2", "list-1", "list-0"]
    assert names(StatusEquals="Failed") == ["list-1"]
    query = {"NameContains": "LIST", "SortBy": "Name", "SortOrder": "Ascending", "MaxResults": 2}
    assert names(**query) == ["list-0", "list-1"]
    assert names(**query, NextToken=sagemaker.list_processing_jobs(**query)["NextToken"]) == ["list-2"]


def test_a_killed_daemon_leaves_a_failed_job_and_no_process(tmp_path):
    state = tmp_path / "own"
    localaws.up(state)
    try:
        own = LocalAws(state, localaws.environment(state), "kept-bucket", "arn:aws:iam::000000000000:role/train")
        own.client("s3").create_bucket(
            Bucket="kept-bucket", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
        )
        trust = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
        own.client("iam").create_role(RoleName="train", AssumeRolePolicyDocument=json.dumps({"Statement": [trust]}))
        jobs = Jobs(own)
        name = jobs.start(jobs.request(SLEEP, 2))
        jobs.asleep(name)
        os.kill(localaws.status(state)["server"]["pid"], signal.SIGKILL)
        localaws.up(state)
        job = jobs.wait(name)
        assert job["ProcessingJobStatus"] == "Failed" and job["FailureReason"].startswith("InternalServerError: ")
        assert not processes(name)
    finally:
        localaws.down(state)


def test_jobs_that_ran_when_the_daemon_was_killed_have_failed(serve, tmp_path):
    server: InProcess = serve(ProcessingJobs)
    now = time.time()
    doc = {
        "ProcessingJobName": "cut", "ProcessingJobArn": "arn:aws:sagemaker:eu-west-1:000000000000:processing-job/cut",
        "ProcessingJobStatus": "InProgress", "CreationTime": now, "LastModifiedTime": now,
    }  # fmt: skip
    server.daemon.context.store.put(KIND, "cut", doc)
    again: InProcess = serve(ProcessingJobs)
    job = again.client("sagemaker").describe_processing_job(ProcessingJobName="cut")
    assert job["ProcessingJobStatus"] == "Failed" and "was stopped while the job ran" in job["FailureReason"]


def test_jobs_of_two_kinds_have_folders_of_their_own_whatever_they_are_called(tmp_path):
    context = SimpleNamespace(state=tmp_path, environment={})
    cluster = {"ClusterConfig": {"InstanceCount": 1}}
    processing = Run(context, {"ProcessingJobName": "x", "ProcessingResources": cluster}, lambda: None, 1.0)
    for name in ("x", "processing-x", "processing"):
        doc = {
            "TrainingJobName": name, "TrainingJobArn": "arn", "ResourceConfig": {"InstanceCount": 1},
            "AlgorithmSpecification": {},
        }  # fmt: skip
        training = training_run.Run(context, doc, lambda status, message: None, 1.0)
        assert training.folder != processing.folder and training.folder not in processing.folder.parents
