"""The pipeline of infra/cicd.yml on this machine, in process and over the wire."""

import asyncio
import json
import os
import subprocess
import sys
import time
import uuid

import pytest
from botocore.exceptions import ClientError
from pipeline_kit import World

from fraud.localaws.default_pipeline import ensure_default_pipeline
from fraud.localaws.wire import AwsError


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "state")


class FakePipelines:
    """Answers both services from memory."""

    def __init__(self, service, codebuild):
        self.service = service
        self.codebuild = codebuild

    def __call__(self, name):
        return self

    def get_pipeline(self, name):
        return self._run(self.service.get_pipeline({"name": name}))

    def create_pipeline(self, pipeline):
        return self._run(self.service.create_pipeline({"pipeline": pipeline}))

    def update_pipeline(self, pipeline):
        return self._run(self.service.update_pipeline({"pipeline": pipeline}))

    def batch_get_projects(self, names):
        return self.codebuild.batch_get_projects(names)

    def create_project(self, **project):
        self.codebuild.projects[project["name"]] = project

    update_project = create_project

    def _run(self, coroutine):
        try:
            return asyncio.run(coroutine)
        except AwsError as error:
            raise ClientError({"Error": {"Code": error.code, "Message": error.message}}, "x") from None


def test_the_default_pipeline_is_that_of_the_template(world):
    service = world.open()
    client = FakePipelines(service, world.codebuild)
    made = ensure_default_pipeline(client, "fraud-retrain", "local", bucket="the-bucket")
    assert made == {"pipeline": "fraud-retrain", "project": "fraud-retrain-run", "change": "created"}
    assert ensure_default_pipeline(client, "fraud-retrain", "local", bucket="the-bucket")["change"] == "none"
    kept = client.get_pipeline("fraud-retrain")["pipeline"]
    assert (kept["pipelineType"], kept["executionMode"]) == ("V2", "QUEUED")
    assert kept["artifactStore"] == {"type": "S3", "location": "the-bucket"}
    assert {item["name"]: item["defaultValue"] for item in kept["variables"]} == {
        "FRAUD_ENV": "local",
        "REASON": "by hand",
    }
    actions = [action["actionTypeId"]["provider"] for stage in kept["stages"] for action in stage["actions"]]
    assert actions == ["CodeStarSourceConnection", "CodeBuild"]
    configuration = kept["stages"][1]["actions"][0]["configuration"]
    assert configuration["ProjectName"] == "fraud-retrain-run"
    given = {item["name"]: item["value"] for item in json.loads(configuration["EnvironmentVariables"])}
    assert given["RUN_ID"] == "#{codepipeline.PipelineExecutionId}" and given["FRAUD_ENV"] == "#{variables.FRAUD_ENV}"
    project = world.codebuild.projects["fraud-retrain-run"]
    assert project["environment"]["privilegedMode"] is False and project["source"]["buildspec"] == "buildspec.yml"
    assert project["timeoutInMinutes"] == 150
    assert project["logsConfig"]["cloudWatchLogs"]["groupName"] == "/aws/codebuild/fraud-retrain-run"
    changed = ensure_default_pipeline(client, "fraud-retrain", "staging", bucket="the-bucket")
    assert changed["change"] == "updated"
    assert client.get_pipeline("fraud-retrain")["pipeline"]["version"] == 2
    world.codebuild.projects.clear()  # a MiniStack that was killed forgets
    assert ensure_default_pipeline(client, "fraud-retrain", "staging", bucket="the-bucket")["change"] == "updated"


@pytest.mark.localaws
def test_boto3_starts_a_build_whose_log_and_artifact_are_in_aws(aws):
    """The whole way: the real daemon and MiniStack, this repository's files, a buildspec of the project's own."""
    made = ensure_default_pipeline(aws.client, "fraud-retrain", "local", bucket=aws.bucket)
    assert made["change"] == "created"
    command = [sys.executable, "-m", "fraud.localaws.default_pipeline", "--bucket", aws.bucket]
    again = subprocess.run(command, env=os.environ | aws.environment, capture_output=True, check=True)
    assert json.loads(again.stdout) == made | {"change": "none"}
    spec = """\
version: 0.2
phases:
  build:
    commands:
      - mkdir out && echo "$FRAUD_ENV $RUN_ID" | tee out/said
      - test -f pyproject.toml && test ! -e .git
artifacts: {files: ['**/*'], base-directory: out}
"""
    project = aws.client("codebuild").batch_get_projects(names=[made["project"]])["projects"][0]
    aws.client("codebuild").update_project(name=project["name"], source={"type": "CODEPIPELINE", "buildspec": spec})
    pipelines = aws.client("codepipeline")
    token = uuid.uuid4().hex
    execution_id = pipelines.start_pipeline_execution(name="fraud-retrain", clientRequestToken=token)[
        "pipelineExecutionId"
    ]
    assert (
        pipelines.start_pipeline_execution(name="fraud-retrain", clientRequestToken=token)["pipelineExecutionId"]
        == execution_id
    )
    with pytest.raises(ClientError, match="ValidationException"):
        pipelines.start_pipeline_execution(name="fraud-retrain", variables=[{"name": "OTHER", "value": "x"}])
    end = time.monotonic() + 60
    while True:
        execution = pipelines.get_pipeline_execution(pipelineName="fraud-retrain", pipelineExecutionId=execution_id)
        if execution["pipelineExecution"]["status"] != "InProgress":
            break
        assert time.monotonic() < end
        time.sleep(0.2)
    state = pipelines.get_pipeline_state(name="fraud-retrain")
    latest = state["stageStates"][1]["actionStates"][0]["latestExecution"]
    assert execution["pipelineExecution"]["status"] == "Succeeded", latest
    stream = latest["externalExecutionId"].partition(":")[2]
    events = aws.client("logs").get_log_events(logGroupName="/aws/codebuild/fraud-retrain-run", logStreamName=stream)
    assert f"local {execution_id}" in [event["message"] for event in events["events"]]
    key = f"fraud-retrain/Reports/{execution_id[:7]}.zip"
    assert aws.client("s3").head_object(Bucket=aws.bucket, Key=key)["ContentLength"] > 0
    actions = pipelines.list_action_executions(pipelineName="fraud-retrain")["actionExecutionDetails"]
    assert {item["status"] for item in actions} == {"Succeeded"}
    summaries = pipelines.list_pipeline_executions(pipelineName="fraud-retrain")["pipelineExecutionSummaries"]
    assert [item["pipelineExecutionId"] for item in summaries] == [execution_id]
