"""The real AWS CLI, a client nobody here wrote, in an environment of its own because it pins its botocore."""

from __future__ import annotations

import io
import json
import os
import subprocess
import time
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from environments import environment_with
from localaws_kit import LocalAws, archive

from fraud import localaws

pytestmark = pytest.mark.localaws

INFERENCE = """
import json, pathlib

def model_fn(folder):
    return pathlib.Path(folder, "model.txt").read_text()

def input_fn(body, content_type):
    return json.loads(body)

def predict_fn(data, model):
    return {"model": model, "got": data}

def output_fn(prediction, accept):
    return json.dumps(prediction), "application/json"
"""
BUILDSPEC = """
version: 0.2
phases:
  build:
    commands:
      - echo "built by the AWS CLI" > built.txt
"""


@pytest.fixture(scope="session")
def cli() -> str:
    """Path of ``aws``."""
    return str(environment_with("awscli==1.46.3") / "aws")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    """A local AWS whose pipelines build a tiny repository."""
    source = tmp_path_factory.mktemp("source")
    (source / "buildspec.yml").write_text(BUILDSPEC)
    state = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRAUD_SOURCE", str(source))
        patch.setenv("FRAUD_LOCAL_CAPTURE_SECONDS", "1")
        localaws.up(state)
    try:
        yield LocalAws(state, localaws.environment(state), f"cli-{uuid.uuid4().hex[:8]}", "")
    finally:
        localaws.down(state)


class Cli:
    """``aws`` in a shell where ``eval "$(fraud local env)"`` was typed, and nothing else is set."""

    def __init__(self, program: str, local: LocalAws, home: Path) -> None:
        self.program, self.local, self.home = program, local, home

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**self.local.environment, "HOME": str(self.home), "PATH": os.defpath, "AWS_PAGER": ""}
        command = [self.program, *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.home, timeout=60)

    def text(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.text(*arguments, "--output", "json") or "null")

    def until(self, wanted: str, read: str, *arguments: str, seconds: float = 60) -> str:
        """Ask until the value at path `read` is `wanted` or is final."""
        deadline = time.monotonic() + seconds
        while True:
            value = self.text(*arguments, "--query", read, "--output", "text").strip()
            if value == wanted or value in ("Failed", "Stopped") or time.monotonic() > deadline:
                return value
            time.sleep(0.3)

    def file(self, name: str, content: bytes) -> str:
        (self.home / name).write_bytes(content)
        return name


@pytest.fixture(scope="module")
def aws_cli(cli: str, local: LocalAws, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    made = Cli(cli, local, tmp_path_factory.mktemp("home"))
    made.text("s3", "mb", f"s3://{local.bucket}")
    for service in ("sagemaker", "codepipeline", "codebuild"):
        trust = {"Effect": "Allow", "Principal": {"Service": f"{service}.amazonaws.com"}, "Action": "sts:AssumeRole"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        made.text("iam", "create-role", "--role-name", service, "--assume-role-policy-document", policy)
    return made


def role(service: str) -> str:
    return f"arn:aws:iam::000000000000:role/{service}"


def training_job(bucket: str, **change: Any) -> str:
    request = {
        "TrainingJobName": f"cli-{uuid.uuid4().hex[:8]}",
        "RoleArn": role("sagemaker"),
        "AlgorithmSpecification": {"TrainingImage": "image", "TrainingInputMode": "File"},
        "OutputDataConfig": {"S3OutputPath": f"s3://{bucket}/out"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 5},
        "StoppingCondition": {"MaxRuntimeInSeconds": 60},
        "HyperParameters": {
            "sagemaker_program": "train.py",
            "sagemaker_submit_directory": f"s3://{bucket}/sourcedir.tar.gz",
        },
    }
    return json.dumps(request | change)


def test_s3_ls(aws_cli: Cli) -> None:
    name = aws_cli.file("a.txt", b"hello")
    aws_cli.text("s3", "cp", name, f"s3://{aws_cli.local.bucket}/folder/a.txt")
    assert "a.txt" in aws_cli.text("s3", "ls", f"s3://{aws_cli.local.bucket}/folder/")
    assert aws_cli.local.bucket in aws_cli.text("s3", "ls")


def test_a_bad_training_job_is_refused_as_aws_refuses_it(aws_cli: Cli) -> None:
    request = training_job(aws_cli.local.bucket, TrainingJobName="under_score", RoleArn="nobody-with-a-long-name")
    done = aws_cli.run("sagemaker", "create-training-job", "--cli-input-json", request)
    assert done.returncode != 0
    assert (
        "An error occurred (ValidationException) when calling the CreateTrainingJob operation: 2 validation errors "
        "detected: Value 'under_score' at 'trainingJobName' failed to satisfy constraint: Member must satisfy regular "
        "expression pattern: [a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}; Value 'nobody-with-a-long-name' at 'roleArn' failed to"
    ) in done.stderr
    request = training_job(aws_cli.local.bucket, RoleArn=role("nobody"))
    done = aws_cli.run("sagemaker", "create-training-job", "--cli-input-json", request)
    assert "Could not assume role arn:aws:iam::000000000000:role/nobody" in done.stderr
    assert aws_cli.json("sagemaker", "list-training-jobs", "--name-contains", "under")["TrainingJobSummaries"] == []


def test_a_training_job_runs(aws_cli: Cli) -> None:
    bucket = aws_cli.local.bucket
    aws_cli.file("sourcedir.tar.gz", archive(train__py="print('trained')"))
    aws_cli.text("s3", "cp", "sourcedir.tar.gz", f"s3://{bucket}/sourcedir.tar.gz")
    request = training_job(bucket)
    name = json.loads(request)["TrainingJobName"]
    assert name in aws_cli.text("sagemaker", "create-training-job", "--cli-input-json", request)
    which = ("--training-job-name", name)
    assert aws_cli.until("Completed", "TrainingJobStatus", "sagemaker", "describe-training-job", *which) == "Completed"
    aws_cli.text("sagemaker", "wait", "training-job-completed-or-stopped", *which)  # alone it asks each two minutes
    jobs = aws_cli.json("sagemaker", "list-training-jobs", "--status-equals", "Completed")["TrainingJobSummaries"]
    assert [job["TrainingJobName"] for job in jobs] == [name]
    assert "model.tar.gz" in aws_cli.text("s3", "ls", f"s3://{bucket}/out/{name}/output/")
    assert "trained" in aws_cli.text("logs", "filter-log-events", "--log-group-name", "/aws/sagemaker/TrainingJobs")


def test_an_endpoint_answers(aws_cli: Cli) -> None:
    bucket = aws_cli.local.bucket
    files = {"model__txt": "the model", "code/inference__py": INFERENCE}
    aws_cli.file("model.tar.gz", archive(**files))
    aws_cli.text("s3", "cp", "model.tar.gz", f"s3://{bucket}/model.tar.gz")
    image = "141502667606.dkr.ecr.eu-west-1.amazonaws.com/sagemaker-scikit-learn:1.9-0-cpu-py3"
    container = {
        "Image": image,
        "ModelDataUrl": f"s3://{bucket}/model.tar.gz",
        "Environment": {
            "SAGEMAKER_PROGRAM": "inference.py",
            "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
        },
    }
    sagemaker = ("sagemaker",)
    aws_cli.text(
        *sagemaker, "create-model", "--model-name", "cli", "--execution-role-arn", role("sagemaker"),
        "--primary-container", json.dumps(container),
    )  # fmt: skip
    variant = "VariantName=AllTraffic,ModelName=cli,InstanceType=ml.m5.large,InitialInstanceCount=1"
    aws_cli.text(
        *sagemaker, "create-endpoint-config", "--endpoint-config-name", "cli", "--production-variants", variant
    )
    aws_cli.text(*sagemaker, "create-endpoint", "--endpoint-name", "cli", "--endpoint-config-name", "cli")
    describe = (*sagemaker, "describe-endpoint", "--endpoint-name", "cli")
    assert aws_cli.until("InService", "EndpointStatus", *describe) == "InService"
    found = aws_cli.json(*describe)
    assert found["EndpointConfigName"] == "cli" and found["ProductionVariants"][0]["VariantName"] == "AllTraffic"
    answered = aws_cli.json(
        "sagemaker-runtime", "invoke-endpoint", "--endpoint-name", "cli", "--content-type", "application/json",
        "--body", "fileb://" + aws_cli.file("body.json", b'{"a": 1}'), "answer.json",
    )  # fmt: skip
    assert answered["InvokedProductionVariant"] == "AllTraffic"
    assert json.loads((aws_cli.home / "answer.json").read_text()) == {"model": "the model", "got": {"a": 1}}
    nobody = aws_cli.run(
        "sagemaker-runtime", "invoke-endpoint", "--endpoint-name", "nobody", "--body", "fileb://body.json", "x.json"
    )
    assert "An error occurred (ValidationError) when calling the InvokeEndpoint operation" in nobody.stderr


def test_a_pipeline_execution_builds(aws_cli: Cli) -> None:
    bucket = aws_cli.local.bucket
    source = io.BytesIO()
    with zipfile.ZipFile(source, "w") as zipped:
        zipped.writestr("buildspec.yml", BUILDSPEC)
    aws_cli.file("source.zip", source.getvalue())
    aws_cli.text("s3", "cp", "source.zip", f"s3://{bucket}/source.zip")
    aws_cli.text(
        "codebuild", "create-project", "--name", "cli", "--service-role", role("codebuild"),
        "--source", "type=CODEPIPELINE", "--artifacts", "type=CODEPIPELINE",
        "--environment", "type=LINUX_CONTAINER,image=aws/codebuild/standard:7.0,computeType=BUILD_GENERAL1_SMALL",
    )  # fmt: skip

    def action(name: str, category: str, provider: str, configuration: dict[str, str], **more: Any) -> dict[str, Any]:
        kind = {"category": category, "owner": "AWS", "provider": provider, "version": "1"}
        return {"name": name, "actionTypeId": kind, "configuration": configuration, **more}

    artifacts = [{"name": "Source"}]
    where = {"S3Bucket": bucket, "S3ObjectKey": "source.zip"}
    pipeline = {
        "name": "cli",
        "roleArn": role("codepipeline"),
        "artifactStore": {"type": "S3", "location": bucket},
        "stages": [
            {"name": "Source", "actions": [action("Source", "Source", "S3", where, outputArtifacts=artifacts)]},
            {
                "name": "Build",
                "actions": [action("Build", "Build", "CodeBuild", {"ProjectName": "cli"}, inputArtifacts=artifacts)],
            },
        ],
    }
    aws_cli.text("codepipeline", "create-pipeline", "--pipeline", json.dumps(pipeline))
    started = aws_cli.json("codepipeline", "start-pipeline-execution", "--name", "cli")
    execution = started["pipelineExecutionId"]
    assert "Succeeded" == aws_cli.until(
        "Succeeded", "pipelineExecution.status", "codepipeline", "get-pipeline-execution",
        "--pipeline-name", "cli", "--pipeline-execution-id", execution,
    )  # fmt: skip
    done = aws_cli.run("codepipeline", "start-pipeline-execution", "--name", "nobody")
    assert "(PipelineNotFoundException)" in done.stderr


def test_mail_is_kept(aws_cli: Cli) -> None:
    content = json.dumps({"Simple": {"Subject": {"Data": "hello"}, "Body": {"Text": {"Data": "text"}}}})
    send = ("sesv2", "send-email", "--destination", "ToAddresses=b@example.org", "--content", content)
    refused = aws_cli.run(*send, "--from-email-address", "a@example.com")
    assert "(MessageRejected)" in refused.stderr and "Email address is not verified" in refused.stderr
    aws_cli.text("sesv2", "create-email-identity", "--email-identity", "example.com")
    assert aws_cli.json(*send, "--from-email-address", "a@example.com")["MessageId"]
    (path,) = (aws_cli.local.state / "mail").glob("*.eml")
    assert "Subject: hello" in path.read_text()
