"""`fraud infra pipeline`: one set of values for both templates, a history first, and words that are true."""

import json

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.validate import validate_parameters
from moto import mock_aws

from fraud.errors import ParameterError, PlatformError
from fraud.pipeline import infra, stacks, templates
from fraud.pipeline import where as places

ROLE = "arn:aws:iam::123456789012:role/"
CONNECTION = "arn:aws:codeconnections:eu-west-1:123456789012:connection/00000000-0000-0000-0000-000000000000"
OUTPUTS = {
    "BucketName": "loop",
    "EndpointName": "fraud-prod",
    "PipelineName": "fraud-retrain",
    "TrainRoleArn": f"{ROLE}train",
    "ProcessingRoleArn": f"{ROLE}processing",
    "ServeRoleArn": f"{ROLE}serve",
}
CFN = "cloudformation"
GIVEN = {"ConnectionArn": CONNECTION, "Repository": "you/fraud-loop"}


class CloudFormation:
    """Keeps stacks in memory: parameters as given or by the template's default, outputs as `OUTPUTS` says."""

    def __init__(self, s3):
        self.s3, self.stacks = s3, {}
        self.shapes = boto3.client(CFN).meta.service_model

    def _checked(self, operation, request):
        validate_parameters(request, self.shapes.operation_model(operation).input_shape)

    def describe_stacks(self, StackName):
        if StackName not in self.stacks:
            raise ClientError({"Error": {"Code": "ValidationError", "Message": "It does not exist"}}, "DescribeStacks")
        return {"Stacks": [self.stacks[StackName]]}

    def create_stack(self, **request):
        self._checked("CreateStack", request)
        self._put(request, {})

    def update_stack(self, **request):
        self._checked("UpdateStack", request)
        before = self.stacks[request["StackName"]]["Parameters"]
        self._put(request, {item["ParameterKey"]: item["ParameterValue"] for item in before})

    def _put(self, request, before):
        bucket, key = request["TemplateURL"].split("/", 3)[-1].split("/", 1)
        template = json.loads(self.s3.get_object(Bucket=bucket, Key=key)["Body"].read())
        values = {name: item["Default"] for name, item in template["Parameters"].items() if "Default" in item}
        for item in request["Parameters"]:
            previous = item.get("UsePreviousValue", False)
            values[item["ParameterKey"]] = before[item["ParameterKey"]] if previous else item["ParameterValue"]
        assert set(values) == set(template["Parameters"]), "CloudFormation refuses what is missing or unknown"
        self.add(request["StackName"], values, {"PipelineName": values["PipelineName"]})

    def add(self, name, parameters, outputs):
        self.stacks[name] = {
            "StackName": name,
            "StackId": name,
            "StackStatus": "CREATE_COMPLETE",
            "Parameters": [{"ParameterKey": key, "ParameterValue": str(value)} for key, value in parameters.items()],
            "Outputs": [{"OutputKey": key, "OutputValue": value} for key, value in outputs.items()],
        }


class Account:
    """An AWS account in memory; `deploy_app` makes what `fraud infra deploy --env prod` leaves there."""

    def __init__(self, cloudformation, s3):
        self.said, self.cloudformation, self.s3 = [], cloudformation, s3
        self.s3.create_bucket(Bucket="loop", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})

    def deploy_app(self, **parameters):
        where = {"bucket": "loop", "environment": "prod", "endpoint_name": "fraud-prod"}
        boto3.client("ssm").put_parameter(Name=places.PARAMETER, Value=json.dumps(where), Type="String")
        self.cloudformation.add("fraud-loop-prod", parameters, OUTPUTS)

    def put_history(self):
        self.s3.put_object(Bucket="loop", Key="raw/table.parquet", Body=b"x")

    def deploy_pipeline(self, **parameters):
        self.said.clear()
        return infra.deploy_pipeline("prod", GIVEN | parameters, echo=self.said.append)

    def parameters(self):
        (stack,) = self.cloudformation.describe_stacks("fraud-loop-prod-cicd")["Stacks"]
        return {item["ParameterKey"]: item["ParameterValue"] for item in stack["Parameters"]}


@pytest.fixture
def account(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "eu-west-1")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    caches = (places.client, places.client_once, places.where)
    for cached in caches:
        cached.cache_clear()
    with mock_aws():
        s3, real = boto3.client("s3"), places.client
        cloudformation = CloudFormation(s3)
        for module in (stacks, infra):
            monkeypatch.setattr(module, "client", lambda name: cloudformation if name == CFN else real(name))
        monkeypatch.setattr(cloudformation, "meta", boto3.client(CFN).meta, raising=False)
        yield Account(cloudformation, s3)
    for cached in caches:
        cached.cache_clear()


def test_the_pipeline_gets_the_endpoint_roles_and_bucket_of_the_app(account):
    account.deploy_app()
    account.put_history()
    made = account.deploy_pipeline()
    assert made["PipelineName"] == "fraud-retrain"
    expected = OUTPUTS | GIVEN | {"Environment": "prod", "KmsKeyArn": ""}
    assert expected.items() <= account.parameters().items()
    (sent,) = [
        item["Key"]
        for item in account.s3.list_objects_v2(Bucket="fraud-loop-code-123456789012-eu-west-1")["Contents"]
        if item["Key"].startswith("templates/cicd-")
    ]
    body = account.s3.get_object(Bucket="fraud-loop-code-123456789012-eu-west-1", Key=sent)["Body"].read().decode()
    assert body == templates.cicd()
    assert account.said[-1].startswith("Creating the pipeline fraud-retrain started its first run")


def test_key_and_sender_are_those_of_the_app(account):
    key = "arn:aws:kms:eu-west-1:123456789012:key/1"
    account.deploy_app(KmsKeyArn=key, ReportFrom="Fraud Loop <drift@mail.example.com>")
    account.put_history()
    account.deploy_pipeline()
    found = account.parameters()
    assert found["KmsKeyArn"] == key
    assert (found["ReportFrom"], found["ReportIdentity"]) == ("drift@mail.example.com", "mail.example.com")


def test_a_sender_that_ses_knows_by_address_is_the_identity(account):
    account.deploy_app(ReportFrom="drift@example.com")
    boto3.client("sesv2").create_email_identity(EmailIdentity="drift@example.com")
    account.put_history()
    account.deploy_pipeline()
    assert account.parameters()["ReportIdentity"] == "drift@example.com"


def test_a_second_call_keeps_what_is_not_given_and_starts_nothing(account):
    account.deploy_app()
    account.put_history()
    account.deploy_pipeline(Branch="release")
    infra.deploy_pipeline("prod", {"LogRetentionDays": "30"}, echo=account.said.append)
    found = account.parameters()
    assert (found["Branch"], found["LogRetentionDays"], found["Repository"]) == ("release", "30", "you/fraud-loop")
    assert len([line for line in account.said if "first run" in line]) == 1


def test_creating_it_starts_a_run_so_a_history_comes_first(account):
    account.deploy_app()
    account.s3.put_object(Bucket="loop", Key="raw/_roles.json", Body=b"{}")
    with pytest.raises(ParameterError, match="raw/ in loop holds no history, .* `fraud history put` first"):
        account.deploy_pipeline()


def test_what_is_missing_or_not_its_own_to_say_is_named(account):
    with pytest.raises(PlatformError, match="no stack fraud-loop-prod: .* `fraud infra deploy --env prod`"):
        account.deploy_pipeline()
    account.deploy_app()
    account.put_history()
    with pytest.raises(ParameterError, match="needs ConnectionArn and Repository"):
        infra.deploy_pipeline("prod", {})
    with pytest.raises(ParameterError, match="EndpointName is what the stack fraud-loop-prod says"):
        account.deploy_pipeline(EndpointName="fraud")
    with pytest.raises(ParameterError, match="infra/cicd.yml has no parameter 'Repo'"):
        account.deploy_pipeline(Repo="x")
    with pytest.raises(ParameterError, match="hold the deployment 'prod' already"):
        infra.deploy_pipeline("staging", GIVEN)


def test_the_toy_is_not_deployed_on_aws(account):
    with pytest.raises(ParameterError, match="params/local trains a toy in seconds"):
        infra.deploy_app("local", {})
    with pytest.raises(ParameterError, match="Nothing is deployed here yet: name the environment"):
        infra.environment_to_deploy("")
