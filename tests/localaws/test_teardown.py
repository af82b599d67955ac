"""`fraud infra destroy`: what costs money goes, what is others' does not, what stays is named with its price."""

import os

import pytest
from botocore.exceptions import ClientError
from hosting_kit import CAPTURE, ENVIRONMENT, IMAGE, archive, variant
from localaws_kit import archive as code_archive
from test_stack import BUNDLE, forget_clients

from fraud.errors import ParameterError
from fraud.pipeline import infra, teardown
from fraud.pipeline import where as places

pytestmark = pytest.mark.localaws
REGION = "eu-west-2"
SLEEP = "import time\ntime.sleep(300)\n"


class World:
    """A deployment with an endpoint in service, and beside it somebody else's."""

    def __init__(self, aws):
        self.aws, self.said = aws, []
        self.outputs = infra.deploy_app("staging", {})
        self.bucket, self.endpoint = self.outputs["BucketName"], self.outputs["EndpointName"]
        self.serve(self.bucket, "fraud-r1-abc", self.endpoint)
        self.serve(aws.bucket, "fraud-elsewhere", "fraud-somebody")
        self.train(self.bucket, "fraud-r2-job")
        self.train(aws.bucket, "fraud-r2-jobs-of-somebody")
        sagemaker, group = places.client("sagemaker"), f"fraud-{self.endpoint}"
        sagemaker.create_model_package_group(ModelPackageGroupName=group)
        container = {"Image": IMAGE, "ModelDataUrl": f"s3://{self.bucket}/models/fraud-r1-abc.tar.gz"}
        sagemaker.create_model_package(
            ModelPackageGroupName=group,
            CustomerMetadataProperties={"bucket": self.bucket, "run_id": "r1"},
            InferenceSpecification={
                "Containers": [container],
                "SupportedContentTypes": ["text/csv"],
                "SupportedResponseMIMETypes": ["text/csv"],
            },
        )
        places.client("logs").create_log_group(logGroupName=f"/aws/sagemaker/Endpoints/{self.endpoint}")

    def serve(self, bucket, name, endpoint):
        sagemaker = places.client("sagemaker")
        places.client("s3").put_object(Bucket=bucket, Key=f"models/{name}.tar.gz", Body=archive(name))
        container = {"Image": IMAGE, "ModelDataUrl": f"s3://{bucket}/models/{name}.tar.gz", "Environment": ENVIRONMENT}
        sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=self.aws.role)
        sagemaker.create_endpoint_config(
            EndpointConfigName=name,
            ProductionVariants=[variant(name)],
            DataCaptureConfig={**CAPTURE, "DestinationS3Uri": f"s3://{bucket}/data-capture"},
        )
        sagemaker.create_endpoint(EndpointName=endpoint, EndpointConfigName=name)

    def train(self, bucket, name):
        places.client("s3").put_object(Bucket=bucket, Key=f"{name}.tar.gz", Body=code_archive(train__py=SLEEP))
        places.client("sagemaker").create_training_job(
            TrainingJobName=name,
            RoleArn=self.aws.role,
            AlgorithmSpecification={"TrainingImage": "image", "TrainingInputMode": "File"},
            OutputDataConfig={"S3OutputPath": f"s3://{bucket}/out/"},
            ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 5},
            StoppingCondition={"MaxRuntimeInSeconds": 300},
            HyperParameters={
                "sagemaker_program": "train.py",
                "sagemaker_submit_directory": f"s3://{bucket}/{name}.tar.gz",
            },
        )

    def status(self, job):
        return places.client("sagemaker").describe_training_job(TrainingJobName=job)["TrainingJobStatus"]


@pytest.fixture(scope="module")
def world(aws, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (aws.environment | {"AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION}).items():
            patch.setenv(name, value)
        for name in [name for name in os.environ if name.startswith("FRAUD_") and name != "FRAUD_LOCAL_STATE"]:
            patch.delenv(name)
        script = tmp_path_factory.mktemp("bundle") / "bundle.py"
        script.write_text(BUNDLE)
        patch.setattr(infra, "BUNDLE", script)
        forget_clients()
        yield World(aws)
        places.client("sagemaker").stop_training_job(TrainingJobName="fraud-r2-jobs-of-somebody")
        places.client("sagemaker").delete_endpoint(EndpointName="fraud-somebody")
        forget_clients()


def names(operation, member, name):
    return [item[name] for item in getattr(places.client("sagemaker"), operation)(NameContains="fraud-")[member]]


def test_another_name_than_the_deployments_takes_nothing_away(world):
    with pytest.raises(ParameterError, match="hold the deployment 'staging', not 'stagign'"):
        teardown.destroy("stagign", echo=world.said.append)
    assert infra.code_bucket()["Bucket"] in [item["Name"] for item in places.client("s3").list_buckets()["Buckets"]]


def test_what_costs_is_gone_and_what_stays_is_named(world):
    places.client("s3").put_object(Bucket=world.bucket, Key="raw/table.csv", Body=b"x" * 2_000_000)
    teardown.destroy("staging", echo=world.said.append)
    assert names("list_endpoints", "Endpoints", "EndpointName") == ["fraud-somebody"]
    assert names("list_endpoint_configs", "EndpointConfigs", "EndpointConfigName") == ["fraud-elsewhere"]
    assert names("list_models", "Models", "ModelName") == ["fraud-elsewhere"]
    groups = names("list_model_package_groups", "ModelPackageGroupSummaryList", "ModelPackageGroupName")
    assert f"fraud-{world.endpoint}" not in groups
    assert world.status("fraud-r2-job") in ("Stopping", "Stopped")
    assert world.status("fraud-r2-jobs-of-somebody") == "InProgress"
    group = {"logGroupNamePrefix": "/aws/sagemaker/Endpoints/"}
    assert not places.client("logs").describe_log_groups(**group)["logGroups"]
    buckets = [item["Name"] for item in places.client("s3").list_buckets()["Buckets"]]
    assert world.bucket in buckets and infra.code_bucket()["Bucket"] not in buckets
    with pytest.raises(ClientError, match="does not exist"):
        places.client("cloudformation").describe_stacks(StackName="fraud-loop-staging")
    endpoint, stack = f"Deleting the endpoint {world.endpoint} …", "Deleting the stack fraud-loop-staging …"
    assert world.said.index(endpoint) < world.said.index(stack), "the endpoint works with a role of the stack"
    stays = f"The bucket {world.bucket} stays: 3 objects, 0.002 GB, 0.00 dollars a month."
    assert stays in world.said
    assert world.said[-1].startswith("Nothing else of this deployment costs anything (list prices, us-east-1")


def test_again_there_is_nothing_to_do(world):
    world.said.clear()
    teardown.destroy("staging", echo=world.said.append)
    assert world.said == ["There is no stack fraud-loop-staging."]


def test_a_deployment_without_an_endpoint_goes_too(world):
    world.said.clear()
    infra.deploy_app("staging", {})
    teardown.destroy("staging", echo=world.said.append)
    assert not [line for line in world.said if "endpoint" in line]
    assert any(line.startswith(f"The bucket {world.bucket} stays") for line in world.said)
