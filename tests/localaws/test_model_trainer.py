"""The SageMaker SDK (v3) against our SageMaker: its own container protocol, its strict reading of answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from localaws_kit import LocalAws

pytestmark = [pytest.mark.localaws, pytest.mark.slow]

# In a process of its own: the import takes seconds, and warns.
PROGRAM = """
import json, sys
import boto3
from sagemaker.core.helper.session_helper import Session
from sagemaker.core.shapes import MetricDefinition, OutputDataConfig, S3DataSource, StoppingCondition
from sagemaker.train.configs import Compute, InputData, SourceCode
from sagemaker.train.model_trainer import ModelTrainer

bucket, role, source, rounds = sys.argv[1:]
session = Session(boto_session=boto3.Session(), default_bucket=bucket)
manifest = S3DataSource(
    s3_data_type="ManifestFile", s3_uri=f"s3://{bucket}/sdk/train.manifest", s3_data_distribution_type="FullyReplicated"
)
trainer = ModelTrainer(
    sagemaker_session=session,
    role=role,
    base_job_name="sdk",
    training_image="141502667606.dkr.ecr.eu-west-1.amazonaws.com/sagemaker-scikit-learn:1.9-0-cpu-py3",
    source_code=SourceCode(source_dir=source, entry_script="train.py", requirements="requirements.txt"),
    compute=Compute(instance_type="ml.m5.large", instance_count=1, volume_size_in_gb=5),
    stopping_condition=StoppingCondition(max_runtime_in_seconds=60),
    output_data_config=OutputDataConfig(s3_output_path=f"s3://{bucket}/sdk/out"),
    hyperparameters={"rounds": int(rounds)},
    environment={"MODEL_VERSION": "v1"},
).with_metric_definitions([MetricDefinition(name="auc", regex="auc=([0-9.]+)")])
trainer.train(input_data_config=[InputData(channel_name="train", data_source=manifest)], wait=True, logs=True)
job = trainer._latest_training_job
auc = job.final_metric_data_list[0].value
print(json.dumps([job.training_job_status, job.model_artifacts.s3_model_artifacts, auc]))
"""
TRAIN = """
import argparse, os, pathlib
parser = argparse.ArgumentParser()
parser.add_argument("--rounds", type=int)
rounds = parser.parse_args().rounds
data = pathlib.Path(os.environ["SM_CHANNEL_TRAIN"], "a", "b.csv").read_text()
print(f"auc=0.{rounds} {data} {os.environ['MODEL_VERSION']}")
if rounds == 13:
    raise ValueError("thirteen is unlucky")
pathlib.Path(os.environ["SM_MODEL_DIR"], "model.txt").write_text("m")
"""


def run(aws: LocalAws, folder: Path, rounds: int) -> subprocess.CompletedProcess[str]:
    (folder / "source").mkdir()
    (folder / "source" / "train.py").write_text(TRAIN)
    (folder / "source" / "requirements.txt").write_text("boto3>=1\n")
    s3 = aws.client("s3")
    s3.put_object(Bucket=aws.bucket, Key="sdk/a/b.csv", Body=b"row")
    manifest = json.dumps([{"prefix": f"s3://{aws.bucket}/sdk/"}, "a/b.csv"])
    s3.put_object(Bucket=aws.bucket, Key="sdk/train.manifest", Body=manifest.encode())
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, aws.bucket, aws.role, str(folder / "source"), str(rounds)],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=120,
        # The SDK would simulate a dozen ec2 permissions on the role that a job outside a VPC does not need.
        env={**os.environ, **aws.environment, "SAGEMAKER_VALIDATE_ROLE": "false"},
    )


def test_model_trainer_trains(aws: LocalAws, tmp_path: Path) -> None:
    done = run(aws, tmp_path, 7)
    assert done.returncode == 0, done.stderr[-3000:]
    status, model, auc = json.loads(done.stdout.strip().splitlines()[-1])
    assert status == "Completed" and auc == 0.7
    assert model.startswith(f"s3://{aws.bucket}/sdk/out/sdk-") and model.endswith("/output/model.tar.gz")


def test_model_trainer_tells_why_a_job_failed(aws: LocalAws, tmp_path: Path) -> None:
    done = run(aws, tmp_path, 13)
    assert done.returncode == 1
    assert "FailedStatusError" in done.stderr
    assert "ValueError: thirteen is unlucky" in done.stderr.split("Failure Reason:")[1]
