"""infra/app.yml deployed for real: API, Lambdas, schedule, alarms, roles; update, refusal, deletion.

It lives in a region of its own, so that no other deployment on the same local AWS is in its way; its Lambdas are two
small ones that say what they see.
"""

import json
import os
import time
import urllib.error
import urllib.request

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

from fraud.errors import ParameterError, PlatformError
from fraud.pipeline import infra, stacks, strategies, teardown, templates
from fraud.pipeline import where as places

pytestmark = pytest.mark.localaws
REGION = "eu-central-1"
STACK = "fraud-loop-local"
ENDPOINT = "fraud-test"
BUNDLE = '''
import argparse, hashlib, json, pathlib, zipfile
parser = argparse.ArgumentParser()
parser.add_argument("--env")
parser.add_argument("--out", type=pathlib.Path)
parser.add_argument("--this-python", action="store_true")
chosen = parser.parse_args()
app = """
import json, os
def handler(event, context):
    names = [n for n in os.environ if n in ("BUCKET", "ENDPOINT_NAME") or n.startswith("AWS_ENDPOINT_URL")]
    seen = {"release": "RELEASE", "body": event.get("body"), "env": {n: os.environ[n] for n in names}}
    return {"statusCode": 200, "headers": {"Content-Type": "application/json"}, "body": json.dumps(seen)}
"""
built = {}
for name in ("inference", "drift_check"):
    path = chosen.out / f"{name}-{hashlib.sha256(app.encode()).hexdigest()[:16]}.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("app.py", app)
    built[name] = str(path)
print(json.dumps(built))
'''


class Deployed:
    """The stack under test and what is needed to change it."""

    def __init__(self, folder):
        self.script = folder / "bundle.py"
        self.said = []
        self.release("one")
        self.outputs = self.deploy()

    def release(self, name):
        self.script.write_text(BUNDLE.replace("RELEASE", name))

    def deploy(self, env="local", **parameters):
        self.said.clear()
        return infra.deploy_app(env, {"EndpointName": ENDPOINT, **parameters}, echo=self.said.append)

    def call(self, method, path, body=None, *, signed=True):
        """Status and body of a request, as curl --aws-sigv4 sends it."""
        request = AWSRequest(method, infra.api_url(self.outputs) + path, data=body)
        if signed:
            SigV4Auth(boto3.Session().get_credentials(), "execute-api", REGION).add_auth(request)
        plain = urllib.request.Request(request.url, body, dict(request.headers), method=method)
        try:
            with urllib.request.urlopen(plain, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)


def forget_clients():
    for cached in (places.client, places.client_once, places.where):
        cached.cache_clear()


@pytest.fixture(scope="module")
def stack(aws, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (aws.environment | {"AWS_REGION": REGION, "AWS_DEFAULT_REGION": REGION}).items():
            patch.setenv(name, value)
        for name in [name for name in os.environ if name.startswith("FRAUD_") and name != "FRAUD_LOCAL_STATE"]:
            patch.delenv(name)
        folder = tmp_path_factory.mktemp("stack")
        patch.setattr(infra, "BUNDLE", folder / "bundle.py")
        forget_clients()
        deployed = Deployed(folder)
        yield deployed
        teardown.destroy("local", echo=print)
        forget_clients()


def test_the_template_that_was_uploaded_is_the_one_that_is_linted(stack):
    s3, owner = places.client("s3"), infra.code_bucket()
    keys = [item["Key"] for item in s3.list_objects_v2(Prefix="templates/", **owner)["Contents"]]
    bodies = [s3.get_object(Key=key, **owner)["Body"].read().decode() for key in keys]
    assert bodies == [templates.app()]  # tests/unit/test_sent_templates.py lints it
    assert keys[0].endswith(".json")


def test_the_api_answers_signed_requests_only(stack):
    assert stack.call("GET", "/health", signed=False)[0] == 403
    status, seen = stack.call("POST", "/predict", b'{"amount": 1}')
    assert (status, seen["body"]) == (200, '{"amount": 1}')
    assert stack.call("POST", "/labels", b"{}")[0] == 200
    assert stack.call("GET", "/health")[0] == 200
    assert stack.call("GET", "/predict")[0] == 403


def test_the_lambda_talks_to_the_aws_that_it_was_deployed_from(stack):
    expected = {
        "BUCKET": stack.outputs["BucketName"],
        "ENDPOINT_NAME": ENDPOINT,
        "REVIEW_RATE_LIMIT": "0.2",
        "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"],
        "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": os.environ["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"],
    }
    found = variables(stack, "InferenceFunctionName")
    assert len(found.pop("CALLER_KEY")) == 64
    assert found == expected
    seen = {name: value for name, value in expected.items() if name != "REVIEW_RATE_LIMIT"}
    assert seen.items() <= stack.call("GET", "/health")[1]["env"].items()
    assert variables(stack, "DriftFunctionName") == {
        "BUCKET": stack.outputs["BucketName"],
        "ENDPOINT_NAME": ENDPOINT,
        "PIPELINE_NAME": stack.outputs["PipelineName"],
        "TOPIC_ARN": stack.outputs["AlarmTopicArn"],
        "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"],
        "AWS_ENDPOINT_URL_CODEPIPELINE": os.environ["AWS_ENDPOINT_URL_CODEPIPELINE"],
    }


def test_the_key_of_the_callers_is_drawn_once(stack):
    key = variables(stack, "InferenceFunctionName")["CALLER_KEY"]
    stack.deploy(LogRetentionDays="30")
    assert variables(stack, "InferenceFunctionName")["CALLER_KEY"] == key
    stack.deploy(CallerKey="another")
    assert variables(stack, "InferenceFunctionName")["CALLER_KEY"] == "another"
    stack.deploy(LogRetentionDays="90")
    assert variables(stack, "InferenceFunctionName")["CALLER_KEY"] == "another"


def variables(stack, output):
    """Environment of a function, as Lambda has it on record."""
    name = stack.outputs[output]
    return places.client("lambda").get_function_configuration(FunctionName=name)["Environment"]["Variables"]


def test_where_is_found_as_notebooks_find_it(stack):
    found = places.where()
    assert (found.bucket, found.region) == (stack.outputs["BucketName"], REGION)
    assert (found.train_role_arn, found.serve_role_arn) == (
        stack.outputs["TrainRoleArn"],
        stack.outputs["ServeRoleArn"],
    )
    assert found.image_uri == "492215442770.dkr.ecr.eu-central-1.amazonaws.com/sagemaker-scikit-learn:1.9-0-cpu-py3"
    assert (found.pipeline_name, found.report_to, found.kms_key_arn) == (stack.outputs["PipelineName"], [], "")


def test_the_schedule_calls_the_drift_check(stack):
    schedule = places.client("scheduler").get_schedule(Name=stack.outputs["DriftScheduleName"])
    assert (schedule["State"], schedule["ScheduleExpression"]) == ("ENABLED", "rate(1 hour)")
    assert schedule["Target"]["Arn"].endswith(f":function:{stack.outputs['DriftFunctionName']}")
    assert json.loads(schedule["Target"]["Input"])["source"] == "fraud.schedule"
    answer = places.client("lambda").invoke(
        FunctionName=schedule["Target"]["Arn"], Payload=schedule["Target"]["Input"].encode()
    )
    assert "FunctionError" not in answer
    assert json.loads(json.loads(answer["Payload"].read())["body"])["env"]["ENDPOINT_NAME"] == ENDPOINT


def test_the_alarms_that_guard_a_deployment_go_off_and_calm_down(stack):
    watch = places.client("cloudwatch")
    names = strategies.alarm_names(ENDPOINT)
    dimensions = [{"Name": "EndpointName", "Value": ENDPOINT}, {"Name": "VariantName", "Value": "AllTraffic"}]

    def put(metric, value, unit):
        datum = {"MetricName": metric, "Dimensions": dimensions, "Value": value, "Unit": unit}
        watch.put_metric_data(Namespace="AWS/SageMaker", MetricData=[datum])
        return {a["AlarmName"]: a["StateValue"] for a in watch.describe_alarms(AlarmNames=names)["MetricAlarms"]}

    states = put("Invocation5XXErrors", 0.0, "None")
    assert states[f"fraud-{ENDPOINT}-5xx"] == "OK"
    assert put("ModelLatency", 20_000.0, "Microseconds")[f"fraud-{ENDPOINT}-latency"] == "OK"
    states = put("Invocation5XXErrors", 1.0, "None")
    assert states[f"fraud-{ENDPOINT}-5xx"] == "ALARM" and states[f"fraud-{ENDPOINT}-latency"] == "OK"
    assert len(states) == 3 and states[f"fraud-{ENDPOINT}-review-rate"] != "ALARM"
    for _ in range(5):
        states = put("ModelLatency", 900_000.0, "Microseconds")
    assert states[f"fraud-{ENDPOINT}-latency"] == "ALARM"


@pytest.fixture
def inbox(stack):
    """A queue subscribed to the alarms; returns what came, as JSON or as text."""
    sqs, sns = places.client("sqs"), places.client("sns")
    url = sqs.create_queue(QueueName="inbox")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    topic = stack.outputs["AlarmTopicArn"]
    subscription = sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, ReturnSubscriptionArn=True)

    def read():
        end, found = time.monotonic() + 10, []
        while time.monotonic() < end and not found:
            found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages", [])
        for message in found:
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return [json.loads(message["Body"])["Message"] for message in found]

    yield read
    sns.unsubscribe(SubscriptionArn=subscription["SubscriptionArn"])
    sqs.delete_queue(QueueUrl=url)


def test_the_drift_alarm_goes_off_and_tells_people_when_it_calms_down(stack, inbox):
    watch, name = places.client("cloudwatch"), f"fraud-{ENDPOINT}-drift"

    def check(drift, age):
        """A drift check's datum; an age near the alarm's day is out of sight a moment later."""
        datum = {"MetricName": "Drift", "Dimensions": [{"Name": "EndpointName", "Value": ENDPOINT}], "Value": drift}
        watch.put_metric_data(Namespace="Fraud/Drift", MetricData=[datum | {"Timestamp": time.time() - age}])
        return watch.describe_alarms(AlarmNames=[name])["MetricAlarms"][0]["StateValue"]

    day = 86_400
    assert check(0.0, day - 40) == "OK"
    inbox()  # that nothing is wrong is told too, as the alarm had no state before
    assert check(1.0, day - 8) == "ALARM"  # the check itself tells that
    assert check(0.0, day - 20) == "ALARM"  # one check that finds nothing is not the end
    time.sleep(8.5)
    assert check(0.0, 0.0) == "OK"
    (told,) = [json.loads(text) for text in inbox()]
    assert (told["AlarmName"], told["NewStateValue"]) == (name, "OK")
    assert told["AlarmDescription"].startswith("Payments no longer look like what the model learnt.")


def test_a_retraining_that_fails_is_told_in_a_sentence(stack, inbox):
    events = places.client("events")
    kind = "CodePipeline Pipeline Execution State Change"
    (rule,) = [rule for rule in events.list_rules()["Rules"] if "PipelineFailed" in rule["Name"]]
    targets = events.list_targets_by_rule(Rule=rule["Name"])["Targets"]

    def matches(state, pipeline):
        event = {"id": "1", "account": "0", "source": "aws.codepipeline", "time": "2026-01-02T03:04:05Z"}
        event |= {"region": REGION, "resources": [], "detail-type": kind}
        event["detail"] = {"pipeline": pipeline, "execution-id": "e-1", "state": state, "version": 3.0}
        return events.test_event_pattern(EventPattern=rule["EventPattern"], Event=json.dumps(event))["Result"]

    ours = stack.outputs["PipelineName"]
    assert matches("FAILED", ours) and not matches("SUCCEEDED", ours) and not matches("FAILED", "another")
    # Nobody but AWS may send events of aws.codepipeline: the same targets under a rule for a source of our own.
    events.put_rule(Name="stand-in", EventPattern=rule["EventPattern"].replace("aws.codepipeline", "test.codepipeline"))
    events.put_targets(Rule="stand-in", Targets=targets)
    detail = json.dumps({"pipeline": ours, "execution-id": "e-1", "state": "FAILED"})
    events.put_events(Entries=[{"Source": "test.codepipeline", "DetailType": kind, "Detail": detail}])
    (told,) = inbox()
    events.remove_targets(Rule="stand-in", Ids=[target["Id"] for target in targets])
    events.delete_rule(Name="stand-in")
    assert "The retraining e-1 of the pipeline fraud-retrain failed at 20" in told
    assert told.strip('"').endswith("The model in service is unchanged.")


def test_the_dashboard_is_filled_in(stack):
    body = places.client("cloudwatch").get_dashboard(DashboardName=stack.outputs["DashboardName"])["DashboardBody"]
    assert "${" not in body
    widgets = json.loads(body)["widgets"]
    alarms = next(widget["properties"]["alarms"] for widget in widgets if widget["type"] == "alarm")
    there = places.client("cloudwatch").describe_alarms(AlarmNamePrefix=f"fraud-{ENDPOINT}-")["MetricAlarms"]
    assert set(alarms) == {alarm["AlarmArn"] for alarm in there}
    charts = {widget["properties"].get("title"): widget["properties"] for widget in widgets}
    assert charts["Sent to review"]["annotations"]["horizontal"][0]["value"] == 0.2
    assert charts["Verdict"]["region"] == REGION and charts["Verdict"]["metrics"][0][3] == ENDPOINT
    (row,) = [row for row in charts["Lost drift checks"]["metrics"] if row[0] == "AWS/SQS"]
    assert stack.outputs["DriftDeadLetterUrl"].endswith(f"/{row[3]}")


ALLOWED = [
    ("InferenceRole", "sagemaker:InvokeEndpoint", "arn:aws:sagemaker:{region}:{account}:endpoint/fraud-test"),
    ("InferenceRole", "s3:GetObject", "arn:aws:s3:::{bucket}/releases/fraud-test/current.json"),
    ("InferenceRole", "s3:PutObject", "arn:aws:s3:::{bucket}/labels/2026/01/02/03/x.jsonl"),
    ("DriftRole", "s3:PutObject", "arn:aws:s3:::{bucket}/locks/drift/fraud-test.json"),
    ("DriftRole", "codepipeline:StartPipelineExecution", "arn:aws:codepipeline:{region}:{account}:fraud-retrain"),
    ("TrainRole", "s3:GetObject", "arn:aws:s3:::{bucket}/ledger/history/x/part-00000.parquet"),
    ("TrainRole", "s3:PutObject", "arn:aws:s3:::{bucket}/runs/r/model/job/output/model.tar.gz"),
    ("ServeRole", "s3:PutObject", "arn:aws:s3:::{bucket}/data-capture/fraud-test/AllTraffic/x.jsonl"),
]
REFUSED = [
    ("InferenceRole", "sagemaker:InvokeEndpoint", "arn:aws:sagemaker:{region}:{account}:endpoint/other"),
    ("InferenceRole", "s3:GetObject", "arn:aws:s3:::{bucket}/raw/history.csv"),
    ("InferenceRole", "s3:PutObject", "arn:aws:s3:::{bucket}/releases/fraud-test/current.json"),
    ("DriftRole", "s3:PutObject", "arn:aws:s3:::{bucket}/data-capture/fraud-test/x.jsonl"),
    ("DriftRole", "s3:GetObject", "arn:aws:s3:::{bucket}/raw/history.csv"),
    ("DriftRole", "codepipeline:StartPipelineExecution", "arn:aws:codepipeline:{region}:{account}:other"),
    ("TrainRole", "s3:PutObject", "arn:aws:s3:::{bucket}/runs/r/02_train.json"),
    ("TrainRole", "s3:GetObject", "arn:aws:s3:::{bucket}/raw/history.csv"),
    ("ServeRole", "s3:GetObject", "arn:aws:s3:::{bucket}/data-capture/fraud-test/x.jsonl"),
]


@pytest.mark.parametrize(
    ("role", "action", "resource", "decision"),
    [(*case, "allowed") for case in ALLOWED] + [(*case, "implicitDeny") for case in REFUSED],
)
def test_what_iam_says_of_each_role(stack, role, action, resource, decision):
    resources = places.client("cloudformation").describe_stack_resources(StackName=STACK)["StackResources"]
    name = next(item["PhysicalResourceId"] for item in resources if item["LogicalResourceId"] == role)
    arn = places.client("iam").get_role(RoleName=name)["Role"]["Arn"]
    filled = resource.format(bucket=stack.outputs["BucketName"], region=REGION, account=arn.split(":")[4])
    answer = places.client("iam").simulate_principal_policy(
        PolicySourceArn=arn, ActionNames=[action], ResourceArns=[filled]
    )
    assert [item["EvalDecision"] for item in answer["EvaluationResults"]] == [decision]


def test_the_bucket_is_private(stack):
    s3, bucket = places.client("s3"), stack.outputs["BucketName"]
    assert set(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values()) == {True}
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"


def test_deploying_again_changes_nothing(stack):
    assert stack.deploy() == stack.outputs
    assert stack.said == [f"The stack {STACK} is up to date."]


def test_a_new_release_of_the_code_is_served_at_the_same_address(stack):
    stack.release("two")
    assert stack.deploy()["ApiUrl"] == stack.outputs["ApiUrl"]
    assert stack.call("GET", "/health")[1]["release"] == "two"


def test_a_parameter_stays_until_it_is_given_again(stack):
    stack.deploy(ReportTo="a@example.com,b@example.com", ReportFrom="Fraud Loop <c@example.com>")
    stack.deploy(ReportToOnDrift="d@example.com,e@example.com", ReportToOnFailure="f@example.com")
    stack.deploy()
    places.where.cache_clear()
    assert places.where().report_to == ["a@example.com", "b@example.com"]
    assert places.where().report_to_on_drift == ["d@example.com", "e@example.com"]
    assert (places.where().report_to_on_success, places.where().report_to_on_failure) == ([], ["f@example.com"])
    assert places.where().report_from == "Fraud Loop <c@example.com>"


def test_an_address_that_is_empty_does_not_reach_the_lambda(stack):
    stack.deploy(SageMakerRuntimeEndpointUrl="", AwsEndpointUrl="")
    names = {"BUCKET", "ENDPOINT_NAME", "REVIEW_RATE_LIMIT", "CALLER_KEY"}
    assert set(variables(stack, "InferenceFunctionName")) == names
    stack.deploy()


def test_a_deployment_that_fails_says_which_resource_and_why(stack):
    teardown.destroy("local", echo=print)
    somebodys = {"Name": places.PARAMETER, "Value": "{}", "Type": "String"}
    places.client("ssm").put_parameter(**somebodys)
    for _ in range(2):  # what is left of the first try is not in the way of the second
        with pytest.raises(
            PlatformError, match=r"is ROLLBACK_COMPLETE: WhereParameter \(AWS::SSM::Parameter\): .*exist"
        ):
            stack.deploy()
    places.client("ssm").delete_parameter(Name=places.PARAMETER)
    stack.outputs = stack.deploy()
    places.where.cache_clear()
    assert places.where().bucket == stack.outputs["BucketName"]


def test_one_account_and_region_hold_one_deployment_with_one_endpoint(stack):
    with pytest.raises(ParameterError, match="hold the deployment 'local' already, .* deploy 'staging' in another"):
        stack.deploy("staging")
    with pytest.raises(ParameterError, match=f"endpoint is {ENDPOINT}; for fraud-x destroy this one first"):
        stack.deploy(EndpointName="fraud-x")
    assert infra.environment_to_deploy("") == "local"
    places.where.cache_clear()
    assert (places.environment(), places.endpoint()) == ("local", ENDPOINT)
    with pytest.raises(ParameterError, match="The environment 'prod' is not this deployment's, which is 'local'"):
        places.environment("prod")
    with pytest.raises(ParameterError, match=f"The endpoint 'fraud' is not this deployment's, which is '{ENDPOINT}'"):
        places.endpoint("fraud")


def test_a_value_that_aws_refuses_is_one_sentence(stack):
    with pytest.raises(PlatformError, match="KmsKeyArn"):
        stack.deploy(KmsKeyArn="not-an-arn")
    with pytest.raises(PlatformError, match="There is no stack nowhere in eu-central-1"):
        stacks.stack_outputs("nowhere")


def test_a_bucket_with_data_outlives_the_stack_and_the_next_stack_goes_on_with_it(stack):
    s3, said, bucket = places.client("s3"), [], stack.outputs["BucketName"]
    s3.put_object(Bucket=bucket, Key="raw/history.csv", Body=b"x")
    teardown.destroy("local", echo=said.append)
    assert any(line.startswith(f"The bucket {bucket} stays: 1 objects, 0.000 GB, 0.00 dollars") for line in said)
    stack.outputs = stack.deploy()
    assert f"Going on with the bucket {bucket}, which is there already." in stack.said
    assert stack.outputs["BucketName"] == bucket
    assert s3.get_object(Bucket=bucket, Key="raw/history.csv")["Body"].read() == b"x"
    assert stack.deploy() == stack.outputs
    assert stack.said == [f"The stack {STACK} is up to date."]


def test_an_empty_bucket_goes_with_the_stack_that_made_it(stack):
    s3, said = places.client("s3"), []
    teardown.destroy("local", echo=print)
    for version in s3.list_object_versions(Bucket=stack.outputs["BucketName"])["Versions"]:
        s3.delete_object(Bucket=stack.outputs["BucketName"], Key=version["Key"], VersionId=version["VersionId"])
    s3.delete_bucket(Bucket=stack.outputs["BucketName"])
    bucket = stack.deploy()["BucketName"]
    teardown.destroy("local", echo=said.append)
    assert bucket not in [item["Name"] for item in s3.list_buckets()["Buckets"]]
    teardown.destroy("local", echo=said.append)
    assert f"There is no stack {STACK}." in said
