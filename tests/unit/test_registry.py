"""Registering and approving models; SageMaker is a fake that keeps packages as the registry does."""

from __future__ import annotations

import datetime as dt
import re
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError

from fraud.errors import ApprovalError, ParameterError
from fraud.pipeline import registry

P = SimpleNamespace(endpoint_name="fraud", approval="manual", instance_type="ml.m5.large")
JOB = {"TrainingJobArn": "arn:job", "ModelArtifacts": {"S3ModelArtifacts": "s3://b/model.tar.gz"}}
TRAINED = {
    "metrics": {"auc": 0.91, "average_precision": 0.5, "decision_threshold": 0.1, "trees_sha256": "t" * 64},
    "baseline": {"rows": 1},
    "archive_sha256": "a" * 64,
    "model_sha256": "m" * 64,
}


class Storage:
    def __init__(self):
        self.kept = {}

    def put_once(self, key, body):
        return self.kept.setdefault(key, body) is body

    def read_json(self, key, default=None):
        return self.kept.get(key, {"content_sha256": "d" * 64} if key.endswith("dataset.json") else default)


class Run:
    def __init__(self, run_id, bucket="b"):
        self.run_id, self.bucket, self.storage = run_id, bucket, Storage()

    def key(self, name):
        return f"runs/{self.run_id}/{name}"

    def uri(self, name):
        return f"s3://{self.bucket}/{self.key(name)}"


class FakeSageMaker:
    """Groups by name, packages by ARN; a client token makes one package."""

    def __init__(self):
        self.groups, self.packages = set(), {}

    def describe_model_package_group(self, ModelPackageGroupName):
        if ModelPackageGroupName not in self.groups:
            raise ClientError({"Error": {"Message": f"ModelPackageGroup {ModelPackageGroupName} does not exist."}}, "x")

    def create_model_package_group(self, ModelPackageGroupName, **_):
        self.groups.add(ModelPackageGroupName)

    def create_model_package(self, **request):
        for arn, made in self.packages.items():
            if made["ClientToken"] == request["ClientToken"]:
                return {"ModelPackageArn": arn}
        arn = f"arn:{request['ModelPackageGroupName']}/{len(self.packages) + 1}"
        now = dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC)
        more = {"ModelPackageVersion": len(self.packages) + 1, "ModelPackageArn": arn, "CreationTime": now}
        self.packages[arn] = request | more
        return {"ModelPackageArn": arn}

    def describe_model_package(self, ModelPackageName):
        return self.packages[ModelPackageName]

    def update_model_package(self, ModelPackageArn, **changed):
        self.packages[ModelPackageArn] |= changed

    def get_paginator(self, name):
        def paginate(ModelPackageGroupName, **_):
            self.describe_model_package_group(ModelPackageGroupName)
            yield {"ModelPackageSummaryList": [], "NextToken": "an empty page need not be the last"}
            for package in self.packages.values():
                yield {"ModelPackageSummaryList": [package]}

        return SimpleNamespace(paginate=paginate)

    def get_caller_identity(self):
        return {"Arn": "arn:aws:iam::0:user/ada"}


@pytest.fixture
def sagemaker(monkeypatch):
    fake = FakeSageMaker()
    monkeypatch.setattr(registry, "client", lambda service: fake)
    monkeypatch.setattr(registry, "where", lambda: SimpleNamespace(image_uri="image"))
    return fake


def registered(run_id="r1", approval="manual", bucket="b", **changed):
    p = SimpleNamespace(**vars(P) | {"approval": approval})
    return registry.register(Run(run_id, bucket), p, TRAINED | changed, JOB, "It is better.")


def test_a_package_tells_where_the_model_comes_from(sagemaker):
    run = Run("r1")
    found = registry.register(run, P, TRAINED, JOB, "It is better: +0.01 (0.00 to 0.02).")
    package = sagemaker.packages[found["model_package_arn"]]
    about = package["CustomerMetadataProperties"]
    assert (
        about["run_id"] == "r1"
        and about["dataset_sha256"] == "d" * 64
        and about["gate"] == "It is better: +0.01  0.00 to 0.02 ."
    )
    assert about["notebook"] == "s3://b/runs/r1/02_train.ipynb" and float(about["auc"]) == 0.91
    assert package["MetadataProperties"]["GeneratedBy"] == "arn:job"
    assert len(package["MetadataProperties"]["CommitId"]) == 40
    quality = package["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"]
    assert quality == "s3://b/runs/r1/metrics.json" and "runs/r1/metrics.json" in run.storage.kept
    # as botocore's model of CreateModelPackage has it
    assert all(re.fullmatch(r"[\w .:/=+\-@]{1,256}", value) for value in about.values())


def test_the_same_run_again_finds_its_package_and_another_model_makes_one(sagemaker):
    first = registered()
    assert registered() == first and len(sagemaker.packages) == 1
    assert registered(archive_sha256="b" * 64) != first and registered("r2") != first
    assert len(sagemaker.packages) == 3


def test_what_waits_is_not_deployed_until_somebody_approves(sagemaker):
    waiting = registered()
    assert waiting["approval"] == registry.PENDING
    with pytest.raises(
        ApprovalError, match=r"\(AUC ROC 0\.9100\) waits for approval: `fraud approve r1`, then `fraud run"
    ):
        registry.check_approved(waiting["model_package_arn"])
    said = registry.approve(Run("r1"), "fraud", note="looked at the segments")
    assert "Version 1, the model of r1, is approved" in said and "--run-id r1 --from 03" in said
    registry.check_approved(waiting["model_package_arn"])
    package = sagemaker.packages[waiting["model_package_arn"]]
    assert package["ApprovalDescription"] == "arn:aws:iam::0:user/ada: looked at the segments"
    assert "approved already" in registry.approve(Run("r1"), "fraud")
    assert registered()["approval"] == registry.APPROVED  # a repeated run does not take it back


def test_auto_is_approved_at_once_and_can_be_rejected(sagemaker):
    found = registered(approval="auto")
    registry.check_approved(found["model_package_arn"])
    registry.approve(Run("r1"), "fraud", reject=True, note="leak")
    with pytest.raises(ApprovalError, match=r"rejected \(.*leak\): the champion stays"):
        registry.check_approved(found["model_package_arn"])


def test_an_unknown_run_names_those_that_wait(sagemaker):
    with pytest.raises(ParameterError, match="no model of the run 'r9' in fraud-fraud; none waits"):
        registry.approve(Run("r9"), "fraud")
    registered()
    registered("r2", approval="auto")
    with pytest.raises(ParameterError, match="waiting are r1"):
        registry.approve(Run("r9"), "fraud")
    assert [p["ModelPackageVersion"] for p in registry.packages("fraud", "b")] == [2, 1]


def test_a_run_of_the_same_id_in_another_bucket_has_a_package_of_its_own(sagemaker):
    ours, theirs = registered(), registered(bucket="other")
    assert ours["model_package_arn"] != theirs["model_package_arn"]
    registry.approve(Run("r1"), "fraud")
    registry.check_approved(ours["model_package_arn"])
    with pytest.raises(ApprovalError, match="waits for approval"):
        registry.check_approved(theirs["model_package_arn"])
    assert [p["ModelPackageArn"] for p in registry.packages("fraud", "other")] == [theirs["model_package_arn"]]
    with pytest.raises(ParameterError, match="no model of the run 'r2' in fraud-fraud; waiting are r1"):
        registry.approve(Run("r2", "other"), "fraud")


def test_of_two_models_of_a_run_the_recorded_one_is_approved(sagemaker):
    run, first, second = Run("r1"), registered(), registered(archive_sha256="b" * 64)
    run.storage.kept["runs/r1/02_train.json"] = {"model_package_arn": first["model_package_arn"]}
    assert registry.approve(run, "fraud").startswith("Version 1, the model of r1, is approved")
    registry.check_approved(first["model_package_arn"])
    with pytest.raises(ApprovalError):
        registry.check_approved(second["model_package_arn"])
