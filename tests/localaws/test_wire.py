"""Requests as real clients write them; refusals in AWS's words."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError
from localaws_kit import InProcess

from fraud.localaws.wire import AwsError, Operations, Service

GOOD = {
    "TrainingJobName": "a-job",
    "RoleArn": "arn:aws:iam::000000000000:role/train",
    "AlgorithmSpecification": {"TrainingImage": "image", "TrainingInputMode": "File"},
    "OutputDataConfig": {"S3OutputPath": "s3://bucket/out"},
    "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 5},
}


class Jobs(Operations):
    service = "sagemaker"
    seen: dict[str, Any] = {}

    async def create_training_job(self, params: dict[str, Any]) -> dict[str, Any]:
        type(self).seen = params
        return {"TrainingJobArn": "arn:aws:sagemaker:eu-west-1:000000000000:training-job/a-job", "Secret": 1}

    async def describe_training_job(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["TrainingJobName"] == "broken":
            raise RuntimeError("a fault of ours")
        if params["TrainingJobName"] == "full":
            raise OSError(28, "No space left on device")
        raise AwsError("ValidationException", "Requested resource not found.")

    async def list_training_jobs(self, params: dict[str, Any]) -> dict[str, Any]:
        type(self).seen = params
        return {"TrainingJobSummaries": [{"TrainingJobName": "a", "CreationTime": 12.3456, "TrainingEndTime": None}]}

    async def stop_training_job(self, params: dict[str, Any]) -> None:
        return None


class Runtime(Operations):
    service = "sagemaker-runtime"

    async def invoke_endpoint(self, params: dict[str, Any]) -> dict[str, Any]:
        if params["Body"] == b"fail":
            raise AwsError("ModelError", "It failed", fields={"OriginalStatusCode": 500, "OriginalMessage": "why"})
        told = {key: value for key, value in params.items() if key != "Body"}
        return {
            "Body": json.dumps(told).encode() + params["Body"],
            "ContentType": "a/b",
            "InvokedProductionVariant": "v",
        }


def refusal(operation: str, params: dict[str, Any], service: str = "sagemaker") -> AwsError:
    with pytest.raises(AwsError) as caught:
        Service(service).parse(operation, json.dumps(params).encode())
    return caught.value


def test_a_good_request_is_read_whole() -> None:
    params = Service("sagemaker").parse("CreateTrainingJob", json.dumps(GOOD | {"Tags": None}).encode())
    assert params == GOOD


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"TrainingJobName": "bad_name"},
            "1 validation error detected: Value 'bad_name' at 'trainingJobName' failed to satisfy constraint: Member "
            "must satisfy regular expression pattern: [a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}",
        ),
        (
            {"RoleArn": None},
            "1 validation error detected: Value null at 'roleArn' failed to satisfy constraint: Member must "
            "not be null",
        ),
        (
            {"AlgorithmSpecification": {"TrainingImage": "i", "TrainingInputMode": "Floppy"}},
            "1 validation error detected: Value 'Floppy' at 'algorithmSpecification.trainingInputMode' failed to "
            "satisfy constraint: Member must satisfy enum value set: [Pipe, File, FastFile]",
        ),
        (
            {"ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": -1, "VolumeSizeInGB": 5}},
            "1 validation error detected: Value '-1' at 'resourceConfig.instanceCount' failed to satisfy constraint: "
            "Member must have value greater than or equal to 0",
        ),
        (
            {"Tags": [{"Key": "a", "Value": "b"}, {"Key": "", "Value": "x" * 257}]},
            "2 validation errors detected: Value '' at 'tags.2.member.key' failed to satisfy constraint: Member must "
            "have length greater than or equal to 1; Value '"
            + "x"
            * 257
            + "' at 'tags.2.member.value' failed to satisfy "
            "constraint: Member must have length less than or equal to 256",
        ),
        (
            {"HyperParameters": {"a": "x" * 2501}},
            "1 validation error detected: Value '{a=" + "x" * 997 + "…' at 'hyperParameters' failed to satisfy "
            "constraint: Map value must satisfy constraint: [Member must have length less than or equal to 2500, "
            "Member must have length greater than or equal to 0, Member must satisfy regular expression pattern: .*]",
        ),
    ],
)
def test_what_breaks_the_model_is_refused_in_aws_words(change: dict[str, Any], message: str) -> None:
    error = refusal("CreateTrainingJob", GOOD | change)
    assert (error.code, error.message, error.status) == ("ValidationException", message, 400)


def test_a_secret_value_is_not_repeated() -> None:
    with pytest.raises(AwsError) as caught:
        Service("sagemaker-runtime").parse(
            "InvokeEndpoint", b"", {"X-Amzn-SageMaker-Custom-Attributes": "secret" * 1000}, {}, {"EndpointName": "a"}
        )
    assert "'customAttributes' failed to satisfy constraint: Member must have length" in caught.value.message
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "SerializationException"),
        (b"[1]", "SerializationException"),
        (b'{"TrainingJobName": NaN}', "SerializationException"),
        (b"[" * 100_000, "SerializationException"),
        (b"\xff", "SerializationException"),
        (json.dumps(GOOD | {"TrainingJobName": 7}).encode(), "SerializationException"),
        (json.dumps(GOOD | {"TrainingJobNam": "x"}).encode(), "ValidationException"),
    ],
)
def test_what_cannot_be_read_is_refused(body: bytes, code: str) -> None:
    with pytest.raises(AwsError) as caught:
        Service("sagemaker").parse("CreateTrainingJob", body)
    assert caught.value.code == code


@pytest.mark.parametrize("name", ["sagemaker", "sagemaker-runtime", "codepipeline", "sesv2"])
def test_every_pattern_of_the_service_models_is_understood(name: str) -> None:
    from fraud.localaws.constraints import _pattern

    model = Service(name).model
    patterns = {model.shape_for(shape).metadata.get("pattern") for shape in model.shape_names} - {None}
    assert [pattern for pattern in patterns if _pattern(pattern) is None] == []


@pytest.mark.parametrize(
    ("text", "fits"), [("Abc-1_./=+@:é ü", True), ("", True), ("tab\t", False), ("semi;colon", False)]
)
def test_letters_of_any_language_fit_a_tag(text: str, fits: bool) -> None:
    params = {"ResourceArn": "arn:aws:sagemaker:eu-west-1:000000000000:model/x", "Tags": [{"Key": "k", "Value": text}]}
    if fits:
        Service("sagemaker").parse("AddTags", json.dumps(params).encode())
    else:
        assert "regular expression" in refusal("AddTags", params).message


def test_boto3_speaks_to_it(serve: Callable[..., InProcess]) -> None:
    sagemaker = serve(Jobs).client("sagemaker")
    answer = sagemaker.create_training_job(**GOOD)
    assert Jobs.seen == GOOD
    assert "Secret" not in answer
    listed = sagemaker.list_training_jobs(CreationTimeAfter=datetime(2026, 1, 1, tzinfo=UTC))
    assert Jobs.seen == {"CreationTimeAfter": 1767225600.0}
    assert listed["TrainingJobSummaries"][0]["CreationTime"].timestamp() == 12.346
    assert "TrainingEndTime" not in listed["TrainingJobSummaries"][0]
    assert sagemaker.stop_training_job(TrainingJobName="x")["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_an_error_reaches_the_client(serve: Callable[..., InProcess]) -> None:
    sagemaker = serve(Jobs).client("sagemaker")
    with pytest.raises(ClientError, match=r"\(ValidationException\).*Requested resource not found\."):
        sagemaker.describe_training_job(TrainingJobName="x")
    with pytest.raises(ClientError, match=r"\(InternalFailure\).*its log has request") as caught:
        sagemaker.describe_training_job(TrainingJobName="broken")
    assert "a fault of ours" not in str(caught.value)
    with pytest.raises(ClientError, match=r"\(InternalFailure\).*cannot write to .*No space left on device"):
        sagemaker.describe_training_job(TrainingJobName="full")
    with pytest.raises(ClientError, match=r"\(UnknownOperationException\).*sagemaker:CreateCluster"):
        sagemaker.create_cluster(ClusterName="c")


def test_rest_json_path_headers_and_body(serve: Callable[..., InProcess]) -> None:
    runtime = serve(Jobs, Runtime).client("sagemaker-runtime")
    answer = runtime.invoke_endpoint(
        EndpointName="a-b", Body=b"\x00\xff", ContentType="application/json", InferenceId="id 1", TargetVariant="v"
    )
    told, rest = answer["Body"].read().split(b"}")
    assert json.loads(told + b"}") == {
        "EndpointName": "a-b",
        "ContentType": "application/json",
        "InferenceId": "id 1",
        "TargetVariant": "v",
    }
    assert rest == b"\x00\xff"
    assert (answer["ContentType"], answer["InvokedProductionVariant"]) == ("a/b", "v")
    with pytest.raises(runtime.exceptions.ModelError) as caught:
        runtime.invoke_endpoint(EndpointName="a", Body=b"fail")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 424
    assert caught.value.response["OriginalStatusCode"] == 500
    with pytest.raises(runtime.exceptions.ValidationError, match="endpointName"):
        runtime.invoke_endpoint(EndpointName="a_b", Body=b"")


def test_a_web_page_cannot_use_it(serve: Callable[..., InProcess]) -> None:
    server = serve(Jobs, Runtime)
    url = f"http://127.0.0.1:{server.port}/endpoints/a/invocations"

    def status(**headers: str) -> int:
        request = urllib.request.Request(url, data=b"x", headers=headers)
        try:
            with urllib.request.urlopen(request) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    assert status() == 200  # neither signature nor SDK: the path is enough
    assert status(Origin="http://evil.example") == 403
    assert status(Host="evil.example") == 403


def test_health_and_status(serve: Callable[..., InProcess]) -> None:
    server = serve(Jobs, Runtime)
    for path, expected in (
        ("health", {"status": "ok"}),
        ("status", {"services": {"sagemaker": {}, "sagemaker-runtime": {}}}),
    ):
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/_local/{path}") as answer:
            assert expected.items() <= json.load(answer).items()
