"""The Model Registry, asked by boto3 as a notebook does."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError
from localaws_kit import LocalAws

pytestmark = pytest.mark.localaws


@pytest.fixture
def group(aws: LocalAws) -> Iterator[str]:
    name = f"fraud-{uuid.uuid4().hex[:8]}"
    aws.client("sagemaker").create_model_package_group(ModelPackageGroupName=name, Tags=[{"Key": "team", "Value": "f"}])
    yield name


def package(aws: LocalAws, group: str, **more: Any) -> dict[str, Any]:
    aws.client("s3").put_object(Bucket=aws.bucket, Key="registry/model.tar.gz", Body=b"x")
    container = {"Image": "image", "ModelDataUrl": f"s3://{aws.bucket}/registry/model.tar.gz"}
    served = {"Containers": [container], "SupportedContentTypes": ["text/csv"]}
    served["SupportedResponseMIMETypes"] = ["text/csv"]
    return {"ModelPackageGroupName": group, "InferenceSpecification": served} | more


def refused(call: Any, **params: Any) -> tuple[str, str]:
    with pytest.raises(ClientError) as error:
        call(**params)
    return error.value.response["Error"]["Code"], error.value.response["Error"]["Message"]


def test_a_version_waits_is_approved_and_keeps_what_it_was_given(aws: LocalAws, group: str) -> None:
    sagemaker = aws.client("sagemaker")
    about = {"run_id": "r1", "auc": "0.9"}
    arn = sagemaker.create_model_package(**package(aws, group, CustomerMetadataProperties=about))["ModelPackageArn"]
    assert arn.endswith(f":model-package/{group}/1")
    found = sagemaker.describe_model_package(ModelPackageName=arn)
    assert (found["ModelApprovalStatus"], found["ModelPackageStatus"]) == ("PendingManualApproval", "Completed")
    assert found["CustomerMetadataProperties"] == about and found["ModelPackageVersion"] == 1
    sagemaker.update_model_package(
        ModelPackageArn=arn,
        ModelApprovalStatus="Approved",
        ApprovalDescription="seen",
        CustomerMetadataProperties={"by": "me"},
        CustomerMetadataPropertiesToRemove=["auc"],
    )
    after = sagemaker.describe_model_package(ModelPackageName=arn)
    assert (after["ModelApprovalStatus"], after["ApprovalDescription"]) == ("Approved", "seen")
    assert after["CustomerMetadataProperties"] == {"run_id": "r1", "by": "me"}
    assert after["CreationTime"] == found["CreationTime"] and after["LastModifiedTime"] >= found["LastModifiedTime"]
    assert after["InferenceSpecification"] == found["InferenceSpecification"]


def test_numbers_are_never_given_twice_and_a_token_makes_one_version(aws: LocalAws, group: str) -> None:
    sagemaker = aws.client("sagemaker")
    first, second = (sagemaker.create_model_package(**package(aws, group))["ModelPackageArn"] for _ in "12")
    sagemaker.delete_model_package(ModelPackageName=second)
    token = uuid.uuid4().hex
    request = package(aws, group, ClientToken=token)
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: aws.client("sagemaker").create_model_package(**request), range(8)))
    assert {one["ModelPackageArn"].rsplit("/", 1)[-1] for one in made} == {"3"}
    listed = sagemaker.list_model_packages(ModelPackageGroupName=group, SortOrder="Descending")
    assert [one["ModelPackageVersion"] for one in listed["ModelPackageSummaryList"]] == [3, 1]
    assert first.endswith("/1")


def test_lists_by_status_and_page_by_page(aws: LocalAws, group: str) -> None:
    sagemaker = aws.client("sagemaker")
    for k in range(5):
        status = "Approved" if k % 2 else "Rejected"
        sagemaker.create_model_package(**package(aws, group, ModelApprovalStatus=status))
    asked = {"ModelPackageGroupName": group, "ModelApprovalStatus": "Rejected"}
    pages = list(sagemaker.get_paginator("list_model_packages").paginate(**asked, PaginationConfig={"PageSize": 2}))
    assert [[one["ModelPackageVersion"] for one in p["ModelPackageSummaryList"]] for p in pages] == [[1, 3], [5]]
    groups = sagemaker.list_model_package_groups(NameContains=group)["ModelPackageGroupSummaryList"]
    assert [one["ModelPackageGroupName"] for one in groups] == [group]


def test_what_sagemaker_refuses_is_refused(aws: LocalAws, group: str) -> None:
    sagemaker = aws.client("sagemaker")
    code, said = refused(sagemaker.create_model_package_group, ModelPackageGroupName=group)
    assert code == "ValidationException" and "already exists" in said
    _, said = refused(sagemaker.create_model_package, **package(aws, f"no-{group}"))
    assert "does not exist" in said
    absent = package(aws, group)
    absent["InferenceSpecification"]["Containers"][0]["ModelDataUrl"] = f"s3://{aws.bucket}/registry/none.tar.gz"
    assert "Could not find model data" in refused(sagemaker.create_model_package, **absent)[1]
    arn = sagemaker.create_model_package(**package(aws, group))["ModelPackageArn"]
    assert refused(sagemaker.delete_model_package_group, ModelPackageGroupName=group)[0] == "ConflictException"
    sagemaker.delete_model_package(ModelPackageName=arn)
    assert "does not exist" in refused(sagemaker.describe_model_package, ModelPackageName=arn)[1]
    sagemaker.delete_model_package_group(ModelPackageGroupName=group)
    assert "does not exist" in refused(sagemaker.describe_model_package_group, ModelPackageGroupName=group)[1]
