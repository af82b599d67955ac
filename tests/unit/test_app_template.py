"""infra/app.yml without a server: what it lets through, what its roles may do, and who fills its parameters in."""

import dataclasses
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

from fraud import api
from fraud.errors import ParameterError
from fraud.pipeline import infra, mail_addresses, templates
from fraud.pipeline.where import PARAMETER, Where

ROOT = Path(__file__).resolve().parents[2]
PATH = ROOT / "infra" / "app.yml"
TEXT = PATH.read_text(encoding="utf-8")
BUCKET = "arn:${AWS::Partition}:s3:::${BucketName}"
NOT_SET = {"Ref": "AWS::NoValue"}
# What knows no resources; everything else names what it may touch.
EVERYWHERE = {"cloudwatch:PutMetricData", "cloudwatch:GetMetricData", "ecr:GetAuthorizationToken"}
MAY = {
    "TrainRole": "s3:ListBucket s3:GetObject s3:PutObject s3:AbortMultipartUpload logs:CreateLogGroup"
    " logs:CreateLogStream logs:PutLogEvents logs:DescribeLogStreams cloudwatch:PutMetricData ecr:GetAuthorizationToken"
    " ecr:BatchCheckLayerAvailability ecr:GetDownloadUrlForLayer ecr:BatchGetImage kms:Decrypt kms:GenerateDataKey"
    " kms:Encrypt",
    "ProcessingRole": "s3:ListBucket s3:GetObject s3:PutObject s3:AbortMultipartUpload logs:CreateLogGroup"
    " logs:CreateLogStream logs:PutLogEvents logs:DescribeLogStreams ecr:GetAuthorizationToken"
    " ecr:BatchCheckLayerAvailability ecr:GetDownloadUrlForLayer ecr:BatchGetImage kms:Decrypt kms:GenerateDataKey",
    "ServeRole": "s3:GetObject s3:PutObject logs:CreateLogGroup logs:CreateLogStream logs:PutLogEvents"
    " logs:DescribeLogStreams cloudwatch:PutMetricData cloudwatch:DescribeAlarms ecr:GetAuthorizationToken"
    " ecr:BatchCheckLayerAvailability ecr:GetDownloadUrlForLayer ecr:BatchGetImage kms:Decrypt kms:GenerateDataKey",
    "InferenceRole": "logs:CreateLogStream logs:PutLogEvents sagemaker:InvokeEndpoint s3:ListBucket s3:GetObject"
    " s3:PutObject kms:Decrypt kms:GenerateDataKey",
    "DriftRole": "logs:CreateLogStream logs:PutLogEvents s3:ListBucket s3:GetObject s3:PutObject"
    " codepipeline:StartPipelineExecution codepipeline:ListPipelineExecutions sns:Publish cloudwatch:PutMetricData"
    " cloudwatch:GetMetricData sqs:SendMessage kms:Decrypt kms:GenerateDataKey",
    "ScheduleRole": "lambda:InvokeFunction sqs:SendMessage",
}


def listed(value):
    return value if isinstance(value, list) else [value]


@pytest.fixture(scope="module")
def template():
    return yaml_parse(TEXT)


@pytest.fixture(scope="module")
def expanded():
    """The template as CloudFormation gets it, after the SAM transform."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
        return transform(yaml_parse(TEXT), {}, None)["Resources"]


def of_type(resources, kind):
    return {name: item for name, item in resources.items() if item["Type"] == kind}


def statements(role):
    """Statements of a role; one that stands under a condition counts as if it applied."""
    found = []
    for policy in role["Properties"]["Policies"]:
        for item in policy["PolicyDocument"]["Statement"]:
            found.append(item["Fn::If"][1] if "Fn::If" in item else item)
    return found


def test_nothing_in_it_knows_the_local_aws():
    assert not re.search(r"ministack|localstack|localhost|127\.0\.0\.1|local\b(?! AWS)", TEXT, re.IGNORECASE)


def test_every_parameter_says_what_it_is_and_what_is_of_one_deployment_has_no_default(template):
    parameters = template["Parameters"]
    assert list(parameters) == list(templates.parameters(templates.APP))
    assert not [name for name, item in parameters.items() if not item.get("Description")]
    without = {name for name, item in parameters.items() if "Default" not in item}
    assert without == {"Environment", "EndpointName", "BucketName", "CodeBucket", *infra.CODE_KEYS.values()}


def test_the_image_accounts_are_those_of_the_sagemaker_sdk(template):
    package = importlib.util.find_spec("sagemaker").submodule_search_locations[0]
    known = json.loads((Path(package) / "core" / "image_uri_config" / "sklearn.json").read_text())
    tag = re.search(r"sagemaker-scikit-learn:([\d.-]+)-cpu-py3\b", TEXT)[1]
    mapping = {region: item["Account"] for region, item in template["Mappings"]["SkLearnImage"].items()}
    for scope in ("training", "inference"):
        assert mapping == known[scope]["versions"][tag]["registries"]


# ------------------------------------------------------------------------------------------------ who may do what


def test_every_method_wants_a_signature(expanded):
    (gateway,) = of_type(expanded, "AWS::ApiGateway::RestApi").values()
    methods = {
        (path, verb): method
        for path, item in gateway["Properties"]["Body"]["paths"].items()
        for verb, method in item.items()
    }
    assert set(methods) == {(route, verb.lower()) for route, verb in api.ROUTES.items()}
    for method in methods.values():
        assert method["security"] == [{"AWS_IAM": []}]
        assert "credentials" not in method["x-amazon-apigateway-integration"]
    scheme = gateway["Properties"]["Body"]["components"]["securitySchemes"]["AWS_IAM"]
    assert scheme["x-amazon-apigateway-authtype"] == "awsSigv4"


def test_the_api_is_throttled(expanded):
    (stage,) = of_type(expanded, "AWS::ApiGateway::Stage").values()
    (settings,) = stage["Properties"]["MethodSettings"]
    assert (settings["ResourcePath"], settings["HttpMethod"]) == ("/*", "*")
    assert settings["ThrottlingRateLimit"] and settings["ThrottlingBurstLimit"]


def test_only_the_api_may_invoke_the_inference_lambda(expanded):
    for permission in of_type(expanded, "AWS::Lambda::Permission").values():
        assert permission["Properties"]["Principal"] == "apigateway.amazonaws.com"
        source = permission["Properties"]["SourceArn"]["Fn::Sub"][0]
        assert re.search(r"/(POST/predict|POST/labels|GET/health|GET/openapi\.json)$", source), source


def test_there_are_no_roles_but_those_written_here(expanded):
    assert set(of_type(expanded, "AWS::IAM::Role")) == set(MAY)
    assert not [name for name, item in of_type(expanded, "AWS::IAM::Role").items() if "ManagedPolicyArns" in item]


@pytest.mark.parametrize("name", MAY)
def test_a_role_may_do_what_it_must_and_no_more(template, name):
    actions = [action for item in statements(template["Resources"][name]) for action in listed(item["Action"])]
    assert sorted(actions) == sorted(MAY[name].split())


@pytest.mark.parametrize("name", MAY)
def test_a_star_stands_only_where_aws_knows_no_resource(template, name):
    for item in statements(template["Resources"][name]):
        actions = set(listed(item["Action"]))
        assert item["Effect"] == "Allow" and not [action for action in actions if "*" in action]
        if "*" in listed(item["Resource"]):
            assert actions <= EVERYWHERE
            if "cloudwatch:PutMetricData" in actions:
                assert item["Condition"]["StringEquals"]["cloudwatch:namespace"]


def test_where_each_role_may_read_and_write(template):
    def keys(name, action):
        found = [i for i in statements(template["Resources"][name]) if action in listed(i["Action"])]
        return {r["Fn::Sub"].removeprefix(f"{BUCKET}/") for i in found for r in listed(i["Resource"])}

    assert keys("TrainRole", "s3:GetObject") == {"runs/*", "ledger/*"}
    assert keys("TrainRole", "s3:PutObject") == {"runs/*/model/*", "runs/*/output/*"}
    assert keys("ProcessingRole", "s3:GetObject") == {"runs/*/data/compact/*", "ledger/live/*", "data-capture/*"}
    assert keys("ProcessingRole", "s3:PutObject") == {"ledger/live/*"}
    assert keys("ServeRole", "s3:GetObject") == {"runs/*/model/*"}
    assert keys("ServeRole", "s3:PutObject") == {"data-capture/*"}
    assert keys("InferenceRole", "s3:GetObject") == {"releases/${EndpointName}/*"}
    assert keys("InferenceRole", "s3:PutObject") == {"labels/*"}
    assert keys("DriftRole", "s3:PutObject") == {"drift/${EndpointName}/*", "locks/drift/*"}
    capture = {f"data-capture/{slash}${{EndpointName}}/*" for slash in ("", "/")}
    written = {"drift/${EndpointName}/*", "locks/drift/*"}
    assert keys("DriftRole", "s3:GetObject") == capture | written | {"labels/*", "releases/${EndpointName}/*"}


def test_a_listing_is_held_to_prefixes(template):
    for name in MAY:
        for item in statements(template["Resources"][name]):
            if "s3:ListBucket" in listed(item["Action"]):
                assert item["Condition"]["StringLikeIfExists"]["s3:prefix"]


def test_services_assume_roles_for_this_account_only(template):
    for name, service in {
        "TrainRole": "sagemaker",
        "ProcessingRole": "sagemaker",
        "ServeRole": "sagemaker",
        "ScheduleRole": "scheduler",
    }.items():
        (item,) = template["Resources"][name]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
        assert item["Principal"] == {"Service": f"{service}.amazonaws.com"}
        assert item["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}


# ------------------------------------------------------------------------------------------------ data


def test_the_bucket_is_private_versioned_encrypted_and_outlives_the_stack(template):
    bucket = template["Resources"]["Bucket"]
    properties = bucket["Properties"]
    assert set(properties["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(properties["PublicAccessBlockConfiguration"]) == 4
    assert properties["VersioningConfiguration"] == {"Status": "Enabled"}
    (rule,) = properties["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    with_key, without = (item["ServerSideEncryptionByDefault"] for item in rule["Fn::If"][1:])
    assert with_key == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": {"Ref": "KmsKeyArn"}}
    assert without == {"SSEAlgorithm": "AES256"}
    assert (bucket["DeletionPolicy"], bucket["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")


def test_the_bucket_refuses_plain_http_and_blind_overwrites(template):
    policy = template["Resources"]["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    found = {item["Sid"]: item for item in policy}
    assert all(item["Effect"] == "Deny" and item["Principal"] == "*" for item in policy)
    assert found["TlsOnly"]["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    blind = found["NeverOverwriteBlindly"]
    assert blind["Resource"] == [{"Fn::Sub": f"{BUCKET}/releases/*"}, {"Fn::Sub": f"{BUCKET}/locks/*"}]
    assert blind["Condition"] == {
        "Null": {"s3:if-match": "true", "s3:if-none-match": "true"},
        "Bool": {"s3:ObjectCreationOperation": "true"},
    }


def test_nothing_that_a_release_refers_to_expires(template):
    rules = template["Resources"]["Bucket"]["Properties"]["LifecycleConfiguration"]["Rules"]
    expiring = [
        rule for rule in rules if set(rule) & {"ExpirationInDays", "NoncurrentVersionExpiration", "Transitions"}
    ]
    prefixes = [rule["Prefix"]["Fn::Sub"] if isinstance(rule["Prefix"], dict) else rule["Prefix"] for rule in expiring]
    assert prefixes == [
        "data-capture/",
        *(f"drift/${{EndpointName}}/{part}/" for part in ("sketches", "judged", "scores")),
    ]


def test_where_names_exactly_what_the_pipeline_reads(template):
    parameter = template["Resources"]["WhereParameter"]["Properties"]
    assert parameter["Name"] == PARAMETER
    lists = re.sub(r"\[\$\{\w+\}\]", "[]", parameter["Value"]["Fn::Sub"][0])
    text = re.sub(r"\$\{\w+(::\w+|\.\w+)?\}", "x", lists)
    assert set(json.loads(text)) == {field.name for field in dataclasses.fields(Where)}


@pytest.mark.parametrize("name", mail_addresses.SETTINGS.values())
def test_recipients_are_addresses_before_a_stack_takes_them(template, name):
    fits = re.compile(template["Parameters"][name]["AllowedPattern"]).fullmatch
    assert all(fits(one) for one in ("", "a@example.com", "a@example.com,b.c+d@mail.example"))
    for bad in (
        "a",
        "a@example.com,",
        "a@example.com, b@example.com",
        'a@example.com","b',
        "a@example.com\n",
        "a@b@c.de",
    ):
        assert not fits(bad)


# ------------------------------------------------------------------------------------------------ Lambdas and alarms


def test_the_api_hears_from_its_lambda_before_the_gateway_gives_up(template):
    functions = of_type(template["Resources"], "AWS::Serverless::Function")
    for item in functions.values():
        kinds = {event["Type"] for event in item["Properties"]["Events"].values()}
        assert item["Properties"]["Timeout"] < (29 if "Api" in kinds else 900)


def test_an_address_that_is_not_given_is_not_set(expanded):
    found = 0
    for item in of_type(expanded, "AWS::Lambda::Function").values():
        for name, value in item["Properties"]["Environment"]["Variables"].items():
            if name.startswith("AWS_ENDPOINT_URL"):
                found += 1
                assert value["Fn::If"][2] == NOT_SET
    assert found == 4


def test_every_lambda_has_a_log_group_that_forgets(template):
    for item in of_type(template["Resources"], "AWS::Serverless::Function").values():
        group = template["Resources"][item["Properties"]["LoggingConfig"]["LogGroup"]["Ref"]]
        assert group["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}
        assert group["Properties"]["LogGroupName"]["Fn::Sub"] == (
            f"/aws/lambda/{item['Properties']['FunctionName']['Fn::Sub']}"
        )


def test_a_drift_check_that_is_lost_ends_in_the_queue(expanded):
    queue = {"Fn::GetAtt": ["DriftDeadLetters", "Arn"]}
    (schedule,) = of_type(expanded, "AWS::Scheduler::Schedule").values()
    target = schedule["Properties"]["Target"]
    assert target["DeadLetterConfig"] == {"Arn": queue}
    assert target["RetryPolicy"]["MaximumRetryAttempts"] > 0
    assert json.loads(target["Input"])["source"] == "fraud.schedule"
    (asynchronous,) = of_type(expanded, "AWS::Lambda::EventInvokeConfig").values()
    assert asynchronous["Properties"]["DestinationConfig"]["OnFailure"]["Destination"] == queue


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "lambdas" / name / "app.py")
    app = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, name, app)  # dataclasses look their module up
        spec.loader.exec_module(app)
    return app


def test_the_inference_lambda_logs_the_metric_that_guards_a_deployment(template, monkeypatch):
    monkeypatch.setenv("ENDPOINT_NAME", "${EndpointName}")
    app = load("inference")
    seen = dict.fromkeys(app.UNITS, 1) | {"ModelVersion": "m"}
    line = app.metrics(200, 0.0, seen)
    known = [
        [directive["Namespace"], metric["Name"], *(item for name in names for item in (name, line[name]))]
        for directive in line["_aws"]["CloudWatchMetrics"]
        for metric in directive["Metrics"]
        for names in directive["Dimensions"]
    ]
    alarm = template["Resources"]["ReviewRateAlarm"]["Properties"]
    named = [item for one in alarm["Dimensions"] for item in (one["Name"], one["Value"])]
    named = ["${EndpointName}" if item == {"Ref": "EndpointName"} else item for item in named]
    assert [alarm["Namespace"], alarm["MetricName"], *named] in known
    assert alarm["AlarmName"] == {"Fn::Sub": "fraud-${EndpointName}-review-rate"}
    assert (alarm["Statistic"], alarm["Threshold"]) == ("Sum", {"Ref": "ReviewExcess"})
    variables = template["Resources"]["Inference"]["Properties"]["Environment"]["Variables"]
    assert variables["REVIEW_RATE_LIMIT"] == {"Ref": "ReviewRateLimit"}
    assert template["Parameters"]["ReviewRateLimit"]["Default"] == app.Settings("", "").review_rate_limit
    assert alarm["TreatMissingData"] == "notBreaching"


@pytest.mark.parametrize(("suffix", "metric"), [("5xx", "Invocation5XXErrors"), ("latency", "ModelLatency")])
def test_the_alarms_that_roll_a_deployment_back(template, suffix, metric):
    alarms = of_type(template["Resources"], "AWS::CloudWatch::Alarm").values()
    (alarm,) = [i["Properties"] for i in alarms if i["Properties"]["AlarmName"]["Fn::Sub"].endswith(f"}}-{suffix}")]
    assert alarm["AlarmName"]["Fn::Sub"] == f"fraud-${{EndpointName}}-{suffix}"
    assert (alarm["Namespace"], alarm["MetricName"]) == ("AWS/SageMaker", metric)
    assert alarm["Dimensions"] == [
        {"Name": "EndpointName", "Value": {"Ref": "EndpointName"}},
        {"Name": "VariantName", "Value": "AllTraffic"},
    ]


# ------------------------------------------------------------------------------------------------ who fills it in


@pytest.fixture
def no_addresses(monkeypatch):
    for name in ("", "_API_GATEWAY", "_SAGEMAKER_RUNTIME", "_CODEPIPELINE", "_LAMBDA"):
        monkeypatch.delenv(f"AWS_ENDPOINT_URL{name}", raising=False)
    monkeypatch.delenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", raising=False)
    return monkeypatch


def test_on_aws_no_address_is_filled_in(no_addresses):
    assert set(infra.addresses().values()) == {""}


def test_addresses_follow_those_of_whoever_deploys(no_addresses):
    no_addresses.setenv("AWS_ENDPOINT_URL", "http://here:1")
    no_addresses.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", "http://here:2")
    assert infra.addresses() == {
        "AwsEndpointUrl": "http://here:1",
        "SageMakerRuntimeEndpointUrl": "http://here:2",
        "CodePipelineEndpointUrl": "http://here:1",
        "ApiBaseUrl": "http://here:1/_aws/execute-api",
    }
    assert set(infra.addresses()) <= set(templates.parameters(templates.APP))
    no_addresses.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert set(infra.addresses().values()) == {""}


def test_a_parameter_that_does_not_exist_is_refused_before_any_call():
    with pytest.raises(ParameterError, match="no parameter 'AlarmMail'; did you mean AlarmEmail"):
        infra.deploy_app("local", {"AlarmMail": "a@example.com"})


def test_the_address_of_the_api_takes_a_path():
    assert infra.api_url({"ApiUrl": "https://x/live/"}) == "https://x/live"
