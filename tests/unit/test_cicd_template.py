"""infra/cicd.yml without a server: it lints, its roles may do no more than they need, it holds no secret."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from samtranslator.yaml_helper import yaml_parse

from fraud.localaws.buildspec import parse

ROOT = Path(__file__).resolve().parents[2]
PATH = ROOT / "infra" / "cicd.yml"
TEXT = PATH.read_text(encoding="utf-8")
MAY = {
    "PipelineRole": "s3:GetObject s3:GetObjectVersion s3:PutObject s3:PutObjectAcl s3:GetBucketVersioning"
    " s3:GetBucketAcl s3:GetBucketLocation codebuild:StartBuild codebuild:BatchGetBuilds"
    " codeconnections:UseConnection codestar-connections:UseConnection kms:Decrypt kms:GenerateDataKey",
    "BuildRole": "logs:CreateLogStream logs:PutLogEvents logs:DescribeLogStreams logs:GetLogEvents"
    " codebuild:CreateReportGroup codebuild:CreateReport codebuild:UpdateReport codebuild:BatchPutTestCases"
    " ssm:GetParameter s3:ListBucket s3:GetObject s3:GetObjectVersion s3:PutObject kms:Decrypt kms:GenerateDataKey"
    " sagemaker:CreateProcessingJob sagemaker:DescribeProcessingJob sagemaker:StopProcessingJob"
    " sagemaker:CreateModelPackageGroup sagemaker:DescribeModelPackageGroup"
    " sagemaker:ListModelPackages sagemaker:CreateModelPackage sagemaker:DescribeModelPackage"
    " sagemaker:CreateTrainingJob sagemaker:DescribeTrainingJob sagemaker:StopTrainingJob"
    " sagemaker:AddTags sagemaker:CreateModel sagemaker:DescribeModel sagemaker:CreateEndpointConfig"
    " sagemaker:DescribeEndpointConfig sagemaker:CreateEndpoint sagemaker:UpdateEndpoint sagemaker:DescribeEndpoint"
    " sagemaker:InvokeEndpoint cloudwatch:DescribeAlarms iam:PassRole ses:SendEmail ses:SendRawEmail"
    " kms:CreateGrant",
}
ROLES = sorted(MAY)


@pytest.fixture(scope="module")
def template():
    return yaml_parse(TEXT)


def listed(value):
    return value if isinstance(value, list) else [value]


def statements(template, role):
    """The statements of a role's policies, also those behind a condition."""
    for policy in template["Resources"][role]["Properties"]["Policies"]:
        for statement in policy["PolicyDocument"]["Statement"]:
            yield statement["Fn::If"][1] if "Fn::If" in statement else statement


def text(value):
    """An ARN as far as the template says it."""
    if isinstance(value, dict):
        ((kind, argument),) = value.items()
        return argument if kind == "Fn::Sub" else f"<{argument if isinstance(argument, str) else '.'.join(argument)}>"
    return value


def of_type(template, kind):
    return [item["Properties"] for item in template["Resources"].values() if item["Type"] == kind]


def test_it_lints():
    done = subprocess.run(
        [sys.executable, "-c", "from cfnlint.runner import main; main()", str(PATH)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_do_what_is_listed_and_no_more(template, role):
    actions = {action for statement in statements(template, role) for action in listed(statement["Action"])}
    assert actions == set(MAY[role].split())
    assert not [action for action in actions if "*" in action]


def test_there_are_no_other_roles_or_policies(template):
    kinds = {name: item["Type"] for name, item in template["Resources"].items() if ":IAM:" in item["Type"]}
    assert kinds == dict.fromkeys(ROLES, "AWS::IAM::Role")
    assert "ManagedPolicyArns" not in TEXT


@pytest.mark.parametrize("role", ROLES)
def test_every_resource_is_named(template, role):
    for statement in statements(template, role):
        assert statement["Effect"] == "Allow" and "NotAction" not in statement and "NotResource" not in statement
        resources = [text(resource) for resource in listed(statement["Resource"])]
        for resource in resources:
            assert resource != "*", statement["Sid"]
            if resource.startswith("arn:"):
                # arn:partition:service:region:account:rest, and no star but at the end of a prefix or of log streams
                *head, rest = resource.replace("${AWS::", "${AWS..").split(":", 5)
                assert "*" not in ":".join(head) and not rest.startswith("*"), resource
                assert len(rest.partition("*")[0]) >= 5, resource


def test_the_bucket_is_open_at_the_prefixes_of_the_layout_only(template):
    layout = "raw labels data-capture ledger runs releases drift locks".split()
    by_sid = {statement["Sid"]: statement for statement in statements(template, "BuildRole")}
    bucket = "arn:${AWS::Partition}:s3:::${BucketName}"
    read = {text(item).removeprefix(f"{bucket}/") for item in listed(by_sid["Read"]["Resource"])}
    write = {text(item).removeprefix(f"{bucket}/") for item in listed(by_sid["Write"]["Resource"])}
    assert read == {f"{name}/*" for name in [*layout, "${PipelineName}"]}
    assert write == {f"{name}/*" for name in ["ledger", "runs", "releases", "drift", "locks", "${PipelineName}"]}
    assert text(by_sid["List"]["Resource"]) == bucket
    assert by_sid["List"]["Condition"]["StringLikeIfExists"]["s3:prefix"] == [f"{name}/*" for name in layout]
    for statement in statements(template, "PipelineRole"):
        if any(action.startswith("s3:") for action in listed(statement["Action"])):
            whole = all(action.startswith("s3:GetBucket") for action in listed(statement["Action"]))
            assert text(statement["Resource"]) == (bucket if whole else f"{bucket}/${{PipelineName}}/*")


def test_what_both_templates_must_agree_on_has_no_default(template):
    """A default here would be the same fact in a second place: `fraud infra pipeline` takes it from the app's stack."""
    shared = {"BucketName", "EndpointName", "PipelineName", "Environment", "TrainRoleArn", "ProcessingRoleArn"}
    without = {name for name, item in template["Parameters"].items() if "Default" not in item}
    assert without == shared | {"ServeRoleArn", "ConnectionArn", "Repository"}


def test_a_grant_on_the_key_can_only_be_made_for_a_service(template):
    (grant,) = [s for s in statements(template, "BuildRole") if "kms:CreateGrant" in listed(s["Action"])]
    assert grant["Resource"] == {"Ref": "KmsKeyArn"}
    assert grant["Condition"] == {"Bool": {"kms:GrantIsForAWSResource": "true"}}


def test_roles_are_passed_to_sagemaker_only(template):
    passes = [s for role in ROLES for s in statements(template, role) if "iam:PassRole" in listed(s["Action"])]
    assert len(passes) == 1
    assert passes[0]["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
    assert passes[0]["Resource"] == [{"Ref": name} for name in ("TrainRoleArn", "ProcessingRoleArn", "ServeRoleArn")]


@pytest.mark.parametrize("role", ROLES)
def test_only_the_service_for_this_resource_may_take_a_role(template, role):
    (statement,) = template["Resources"][role]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    service = {"PipelineRole": "codepipeline", "BuildRole": "codebuild"}[role]
    assert statement["Principal"] == {"Service": f"{service}.amazonaws.com"}
    assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}
    assert text(statement["Condition"]["ArnLike"]["aws:SourceArn"]).endswith(
        {"PipelineRole": ":${PipelineName}", "BuildRole": ":project/${PipelineName}-run"}[role]
    )


def test_training_is_bounded(template):
    (train,) = [s for s in statements(template, "BuildRole") if "sagemaker:CreateTrainingJob" in listed(s["Action"])]
    assert train["Condition"]["NumericLessThanEquals"] == {"sagemaker:MaxRuntimeInSeconds": "7200"}
    assert all(
        name.startswith("ml.") for name in train["Condition"]["ForAllValues:StringLike"]["sagemaker:InstanceTypes"]
    )


def test_the_pipeline_queues_and_takes_the_source_from_the_connection(template):
    (pipeline,) = of_type(template, "AWS::CodePipeline::Pipeline")
    assert (pipeline["PipelineType"], pipeline["ExecutionMode"]) == ("V2", "QUEUED")
    assert [stage["Name"] for stage in pipeline["Stages"]] == ["Source", "Retrain"]
    source = pipeline["Stages"][0]["Actions"][0]
    assert source["ActionTypeId"]["Provider"] == "CodeStarSourceConnection"
    assert source["Configuration"]["DetectChanges"] == "false", "a push, perhaps from a fork, starts nothing"


def test_variables_reach_the_build_through_its_environment(template):
    (pipeline,) = of_type(template, "AWS::CodePipeline::Pipeline")
    configuration = pipeline["Stages"][1]["Actions"][0]["Configuration"]
    given = {item["name"]: item["value"] for item in json.loads(configuration["EnvironmentVariables"])}
    assert given["RUN_ID"] == "#{codepipeline.PipelineExecutionId}"
    declared = {variable["Name"] for variable in pipeline["Variables"]}
    assert {name for value in given.values() for name in re.findall(r"#\{variables\.(\w+)\}", value)} == declared
    commands = [command for phase in parse((ROOT / "buildspec.yml").read_text()).phases for command in phase.commands]
    used = {name for command in commands for name in re.findall(r"\$(\w+)", command)}
    assert used <= given.keys(), "what buildspec.yml uses is given"


def test_the_build_has_no_privileges_and_no_secrets(template):
    (project,) = of_type(template, "AWS::CodeBuild::Project")
    assert project["Environment"]["PrivilegedMode"] is False
    assert "EnvironmentVariables" not in project["Environment"]
    assert project["Source"]["BuildSpec"] == "buildspec.yml"
    assert not re.search(r"AKIA[0-9A-Z]{16}|ghp_|github_pat_|password|secret|OAuthToken|token", TEXT, re.IGNORECASE)
    assert not re.search(r"\b\d{12}\b", TEXT), "no account stands in git"


def test_the_name_is_short_enough_for_the_prefix_of_its_artifacts(template):
    pattern = re.compile(template["Parameters"]["PipelineName"]["AllowedPattern"])
    assert pattern.fullmatch("fraud-retrain") and pattern.fullmatch("x" * 20)
    assert not pattern.fullmatch("x" * 21), "CodePipeline cuts the prefix after 20, and the policy would miss"
