"""CodePipeline: what is refused, queues, tokens, variables, approvals, stops, crashes; and that builds really run."""

import asyncio
import copy
import json
import os
import sys
import time
from pathlib import Path

import pytest
from build_kit import processes
from pipeline_kit import World

from fraud.localaws import checkout
from fraud.localaws.pipeline_shape import resolve
from fraud.localaws.store import Store
from fraud.localaws.wire import AwsError

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "0" * 32


@pytest.fixture
def source(tmp_path, monkeypatch):
    folder = tmp_path / "source"
    folder.mkdir()
    monkeypatch.setenv(checkout.SOURCE, str(folder))

    def write(commands, *more):
        lines = json.dumps({"version": "0.2", "phases": {"build": {"commands": commands}}} | dict(more))
        (folder / "buildspec.yml").write_text(lines.replace('"0.2"', "0.2"))

    write(["true"])
    return write


@pytest.fixture
def world(tmp_path):
    return World(tmp_path / "state")


def action(category, provider, name=None, **more):
    kind = {"category": category, "owner": "AWS", "provider": provider, "version": "1"}
    return {"name": name or category, "actionTypeId": kind} | more


def pipeline(*stages, **more):
    checkout_action = action(
        "Source",
        "CodeStarSourceConnection",
        namespace="SourceVariables",
        configuration={"ConnectionArn": "arn:c", "FullRepositoryId": "o/r", "BranchName": "main"},
        outputArtifacts=[{"name": "Source"}],
    )
    declared = {
        "name": "p",
        "roleArn": "arn:aws:iam::000000000000:role/p",
        "artifactStore": {"type": "S3", "location": "b"},
        "stages": [{"name": "Source", "actions": [checkout_action]}, *stages],
        "pipelineType": "V2",
        "executionMode": "QUEUED",
    }
    return declared | more


def build(name="Run", **more):
    base = action("Build", "CodeBuild", name, configuration={"ProjectName": "run"}, inputArtifacts=[{"name": "Source"}])
    return base | more


def stage(name, *actions):
    return {"name": name, "actions": list(actions)}


SIMPLE = pipeline(stage("Build", build()))


async def ended(service, execution_id, *, status=None, seconds=60.0):
    """Wait until an execution is in a status, by default in a final one; return it."""
    end = time.monotonic() + seconds
    while True:
        doc = service.runs.get(execution_id)
        if doc["status"] == status if status else doc["status"] not in ("InProgress", "Stopping"):
            return copy.deepcopy(doc)
        assert time.monotonic() < end, doc
        await asyncio.sleep(0.02)


async def until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.02)


async def begin(service, **params):
    return (await service.start_pipeline_execution({"name": "p"} | params))["pipelineExecutionId"]


def run(world, scenario):
    """Run a scenario with an open service; nothing outlives it."""

    async def all_of_it():
        service = world.open()
        await service.start()
        try:
            return await scenario(service)
        finally:
            await service.stop()
            for task in world.tasks:
                task.cancel()
            await asyncio.gather(*world.tasks, return_exceptions=True)
            world.tasks.clear()

    return asyncio.run(all_of_it())


def refused(code, call):
    with pytest.raises(AwsError) as caught:
        asyncio.run(call)
    assert caught.value.code == code, caught.value
    return caught.value.message


# ---- declarations --------------------------------------------------------------------------------------------------


def test_a_pipeline_is_made_read_changed_and_deleted(world):
    async def scenario(service):
        made = await service.create_pipeline({"pipeline": SIMPLE})
        assert made["pipeline"]["version"] == 1
        with pytest.raises(AwsError, match="PipelineNameInUse"):
            await service.create_pipeline({"pipeline": SIMPLE})
        changed = await service.update_pipeline({"pipeline": SIMPLE | {"executionMode": "SUPERSEDED"}})
        assert changed["pipeline"]["version"] == 2
        got = await service.get_pipeline({"name": "p"})
        assert got["pipeline"] == changed["pipeline"]
        assert got["metadata"]["pipelineArn"] == "arn:aws:codepipeline:eu-west-1:000000000000:p"
        listed = (await service.list_pipelines({}))["pipelines"]
        assert [(item["name"], item["executionMode"]) for item in listed] == [("p", "SUPERSEDED")]
        assert not service.runs.of("p"), "making it starts nothing"
        await service.delete_pipeline({"name": "p"})
        with pytest.raises(AwsError, match="PipelineNotFound"):
            await service.get_pipeline({"name": "p"})

    run(world, scenario)


STRUCTURE, STAGE, ACTION = (
    f"Invalid{part}Exception" for part in ("Structure", "StageDeclaration", "ActionDeclaration")
)


def with_variables(text):
    return pipeline(stage("Build", build(configuration={"ProjectName": "run", "EnvironmentVariables": text})))


@pytest.mark.parametrize(
    ("declared", "code"),
    [
        (pipeline(), STRUCTURE),
        (SIMPLE | {"pipelineType": "V1"}, STRUCTURE),
        (SIMPLE | {"pipelineType": "V1", "executionMode": "SUPERSEDED", "variables": [{"name": "x"}]}, STRUCTURE),
        (SIMPLE | {"variables": [{"name": "x"}, {"name": "x"}]}, STRUCTURE),
        ({key: value for key, value in SIMPLE.items() if key != "artifactStore"}, STRUCTURE),
        (pipeline(stage("Source", build())), STAGE),
        (pipeline(stage("Build", build(), build())), ACTION),
        (pipeline(stage("Build", build(configuration={}))), ACTION),
        (pipeline(stage("Build", build(inputArtifacts=[]))), ACTION),
        (pipeline(stage("Build", build(inputArtifacts=[{"name": "Other"}]))), ACTION),
        (pipeline(stage("Build", build(outputArtifacts=[{"name": "Source"}]))), ACTION),
        (pipeline(stage("Build", build(namespace="SourceVariables"))), ACTION),
        (pipeline(stage("Build", action("Deploy", "ECS"))), ACTION),
        (pipeline(SIMPLE["stages"][0] | {"name": "Later"}), ACTION),
        (with_variables("{}"), ACTION),
        (with_variables('[{"name":"A;B","value":"x"}]'), ACTION),
        (with_variables('[{"name":"A","value":1}]'), ACTION),
        (with_variables('[{"name":"A","value":"x","type":"OTHER"}]'), ACTION),
    ],
)
def test_declarations_that_aws_refuses_are_refused(world, declared, code):
    assert refused(code, world.open().create_pipeline({"pipeline": declared}))


NO_EXECUTION = {"pipelineName": "p", "pipelineExecutionId": "x"}
NO_APPROVAL = {"pipelineName": "p", "stageName": "Build", "actionName": "no", "token": TOKEN, "result": {}}


@pytest.mark.parametrize(
    ("call", "params", "code"),
    [
        ("start_pipeline_execution", {"name": "none"}, "PipelineNotFoundException"),
        ("get_pipeline_state", {"name": "none"}, "PipelineNotFoundException"),
        ("list_pipeline_executions", {"pipelineName": "none"}, "PipelineNotFoundException"),
        ("get_pipeline_execution", NO_EXECUTION, "PipelineExecutionNotFoundException"),
        ("stop_pipeline_execution", NO_EXECUTION, "PipelineExecutionNotFoundException"),
        ("start_pipeline_execution", {"name": "p", "variables": [{"name": "y", "value": "1"}]}, "ValidationException"),
        ("start_pipeline_execution", {"name": "p"}, "ValidationException"),
        ("list_pipelines", {"nextToken": "²"}, "InvalidNextTokenException"),
        ("put_approval_result", NO_APPROVAL | {"stageName": "no"}, "StageNotFoundException"),
        ("put_approval_result", NO_APPROVAL, "ActionNotFoundException"),
    ],
)
def test_requests_that_aws_refuses_are_refused(world, call, params, code):
    async def scenario(service):
        await service.create_pipeline({"pipeline": SIMPLE | {"variables": [{"name": "x"}]}})
        with pytest.raises(AwsError) as caught:
            await getattr(service, call)(params)
        assert caught.value.code == code

    run(world, scenario)


def test_a_value_is_not_read_for_variables_again():
    namespaces = {"variables": {"a": "#{variables.b}", "b": "secret"}}
    assert resolve("1 #{variables.a} 2", namespaces) == "1 #{variables.b} 2"
    with pytest.raises(KeyError, match=r"variables\.c"):
        resolve("#{variables.c}", namespaces)


# ---- executions ----------------------------------------------------------------------------------------------------


def test_an_execution_checks_out_builds_and_says_so(world, source, tmp_path):
    hostile = '"},{"name":"PATH","value":"x"}]; $(touch canary) #{codepipeline.PipelineExecutionId}'
    source(
        [
            'printf "%s\\n" "$RUN_ID" "$REASON" "$FIXED" "$AWS_ENDPOINT_URL" "$CODEBUILD_INITIATOR"',
            "export MADE=by-run",
            "mkdir out && touch out/file",
        ],
        ("env", {"exported-variables": ["MADE"]}),
        ("artifacts", {"files": ["**/*"], "base-directory": "out"}),
    )
    world.codebuild.projects["run"]["environment"] = {
        "environmentVariables": [{"name": "FIXED", "value": "of the project"}]
    }
    items = [
        {"name": "RUN_ID", "value": "#{codepipeline.PipelineExecutionId}", "type": "PLAINTEXT"},
        {"name": "REASON", "value": "#{variables.REASON}", "type": "PLAINTEXT"},
    ]
    first = build(
        configuration={"ProjectName": "run", "EnvironmentVariables": json.dumps(items)},
        namespace="Run",
        outputArtifacts=[{"name": "Out"}],
    )
    declared = pipeline(stage("Build", first), variables=[{"name": "REASON", "defaultValue": "by hand"}])

    async def scenario(service):
        await service.create_pipeline({"pipeline": declared})
        execution_id = await begin(service, variables=[{"name": "REASON", "value": hostile}])
        doc = await ended(service, execution_id)
        # There is no S3 at all here, so the artifact cannot be stored; everything before that must have worked.
        assert doc["status"] == "Failed" and "UPLOAD_ARTIFACTS" in doc["statusSummary"], doc
        folder = world.state / "builds" / execution_id / "Build-Run"
        log = (folder / "build.log").read_text()
        lines = [execution_id, hostile, "of the project", "http://127.0.0.1:9", "codepipeline/p"]
        assert "\n".join(lines) in log
        assert not list(tmp_path.rglob("canary"))
        assert doc["actions"][1]["outputs"] == {"MADE": "by-run"}
        assert (world.state / "builds" / execution_id / "artifacts" / "Out" / "file").is_file()
        got = (await service.get_pipeline_execution({"pipelineName": "p", "pipelineExecutionId": execution_id}))[
            "pipelineExecution"
        ]
        assert got["variables"] == [{"name": "REASON", "resolvedValue": hostile}]
        assert got["artifactRevisions"][0]["revisionId"] == doc["revisions"][0]["id"]
        state = await service.get_pipeline_state({"name": "p"})
        assert [item["latestExecution"]["status"] for item in state["stageStates"]] == ["Succeeded", "Failed"]
        latest = state["stageStates"][1]["actionStates"][0]["latestExecution"]
        assert latest["externalExecutionId"].startswith("run:") and latest["errorDetails"]["code"] == "JobFailed"
        details = (await service.list_action_executions({"pipelineName": "p"}))["actionExecutionDetails"]
        assert [item["actionName"] for item in details] == ["Run", "Source"]

    run(world, scenario)


def test_the_same_token_is_the_same_execution(world, source):
    async def scenario(service):
        await service.create_pipeline({"pipeline": SIMPLE})
        first = await begin(service, clientRequestToken=TOKEN)
        assert await begin(service, clientRequestToken=TOKEN) == first
        assert (await ended(service, first))["status"] == "Succeeded"
        assert await begin(service, clientRequestToken=TOKEN) == first, "also when it is over"
        other = await begin(service)
        assert other != first
        await ended(service, other)
        summaries = (await service.list_pipeline_executions({"pipelineName": "p"}))["pipelineExecutionSummaries"]
        assert [item["pipelineExecutionId"] for item in summaries] == [other, first]
        page = await service.list_pipeline_executions({"pipelineName": "p", "maxResults": 1})
        assert page["nextToken"] and len(page["pipelineExecutionSummaries"]) == 1
        page = await service.list_pipeline_executions(
            {"pipelineName": "p", "maxResults": 1, "nextToken": page["nextToken"]}
        )
        assert page["pipelineExecutionSummaries"][0]["pipelineExecutionId"] == first and "nextToken" not in page

    run(world, scenario)
    assert run(world, lambda service: begin(service, clientRequestToken=TOKEN)) in {
        doc["id"] for doc in Store(world.state / "store").list("codepipeline-executions")
    }, "and after a restart"


def test_queued_executions_run_one_at_a_time_in_order(world, source, tmp_path):
    journal = tmp_path / "journal"
    source([f"echo in >> {journal}; sleep 0.3; echo out >> {journal}"])

    async def scenario(service):
        await service.create_pipeline({"pipeline": SIMPLE})
        ids = [await begin(service) for _ in range(3)]
        await asyncio.sleep(0.1)
        state = await service.get_pipeline_state({"name": "p"})
        inbound = [item["pipelineExecutionId"] for item in state["stageStates"][0]["inboundExecutions"]]
        assert inbound == ids[1:]
        docs = [await ended(service, execution_id) for execution_id in ids]
        assert [doc["status"] for doc in docs] == ["Succeeded"] * 3
        assert docs[0]["updated"] <= docs[1]["actions"][0]["started"]
        assert docs[1]["updated"] <= docs[2]["actions"][0]["started"]

    run(world, scenario)
    assert journal.read_text().split() == ["in", "out"] * 3


def test_superseded_executions_do_not_run(world, source):
    source(["sleep 0.5"])

    async def scenario(service):
        await service.create_pipeline({"pipeline": SIMPLE | {"executionMode": "SUPERSEDED"}})
        first = await begin(service)
        await until(lambda: service.runs.get(first)["started"])
        second, third = await begin(service), await begin(service)
        statuses = [(await ended(service, execution_id))["status"] for execution_id in (first, second, third)]
        assert statuses == ["Succeeded", "Superseded", "Succeeded"]

    run(world, scenario)


def test_a_failed_build_fails_the_execution_and_the_next_one_runs(world, source):
    source(["false"])

    async def scenario(service):
        await service.create_pipeline({"pipeline": pipeline(stage("Build", build()), stage("After", build("Never")))})
        failed = await ended(service, await begin(service))
        assert failed["status"] == "Failed"
        assert "Error while executing command: false. Reason: exit status 1" in failed["statusSummary"]
        assert [entry["action"] for entry in failed["actions"]] == ["Source", "Run"]
        source(["true"])
        assert (await ended(service, await begin(service)))["status"] == "Succeeded", "a fresh checkout each time"
        world.codebuild.projects.clear()
        lost = await ended(service, await begin(service))
        assert "Project cannot be found" in lost["statusSummary"]

    run(world, scenario)


def test_builds_get_what_earlier_ones_made(world, source, monkeypatch):
    source(["test ! -e made || cat made", "echo made by the first > made"], ("artifacts", {"files": ["**/*"]}))
    first = build("First", outputArtifacts=[{"name": "Made"}], runOrder=1, namespace="First")
    second = build("Second", inputArtifacts=[{"name": "Made"}], runOrder=2)
    monkeypatch.setattr("fraud.localaws.pipeline_actions.write_job", without_store)

    async def scenario(service):
        await service.create_pipeline({"pipeline": pipeline(stage("Build", second, first))})
        doc = await ended(service, await begin(service))
        assert doc["status"] == "Succeeded", doc["statusSummary"]
        assert (
            "\nmade by the first\n" in (world.state / "builds" / doc["id"] / "Build-Second" / "build.log").read_text()
        )

    run(world, scenario)


def without_store(job):
    """Write a job whose artifact stays on disk: there is no S3 here."""
    from dataclasses import replace

    from fraud.localaws.build import write_job

    return write_job(replace(job, artifact=job.artifact and job.artifact | {"bucket": ""}))


def test_actions_of_one_order_run_side_by_side(world, source, tmp_path):
    source(
        [f"cd {tmp_path}; touch $CODEBUILD_LOG_PATH.here; while test $(ls *.here | wc -l) -lt 2; do sleep 0.1; done"]
    )

    async def scenario(service):
        await service.create_pipeline({"pipeline": pipeline(stage("Build", build("A"), build("B")))})
        assert (await ended(service, await begin(service)))["status"] == "Succeeded"

    run(world, scenario)


@pytest.mark.parametrize(("answer", "status"), [("Approved", "Succeeded"), ("Rejected", "Failed")])
def test_an_approval_is_waited_for(world, source, answer, status):
    declared = pipeline(stage("Approve", action("Approval", "Manual", "Look")))
    result = {"summary": "I looked", "status": answer}
    place = {"pipelineName": "p", "stageName": "Approve", "actionName": "Look", "result": result}

    async def scenario(service):
        await service.create_pipeline({"pipeline": declared})
        with pytest.raises(AwsError, match="InvalidApprovalToken"):
            await service.put_approval_result(place | {"token": TOKEN})
        execution_id = await begin(service)

        async def token():
            state = await service.get_pipeline_state({"name": "p"})
            return state["stageStates"][1]["actionStates"][0].get("latestExecution", {}).get("token")

        while not (found := await token()):
            await asyncio.sleep(0.02)
        with pytest.raises(AwsError, match="InvalidApprovalToken"):
            await service.put_approval_result(place | {"token": TOKEN})
        assert (await service.put_approval_result(place | {"token": found}))["approvedAt"]
        doc = await ended(service, execution_id)
        assert doc["status"] == status and doc["actions"][1]["summary"] == "I looked"
        with pytest.raises(AwsError, match="ApprovalAlreadyCompleted"):
            await service.put_approval_result(place | {"token": found})

    run(world, scenario)


def test_an_approval_that_is_not_given_in_time_fails(world, source):
    declared = pipeline(stage("Approve", action("Approval", "Manual", "Look", timeoutInMinutes=0.001)))

    async def scenario(service):
        await service.create_pipeline({"pipeline": declared})
        assert "not given in time" in (await ended(service, await begin(service)))["statusSummary"]

    run(world, scenario)


def test_stop_waits_for_what_runs(world, source):
    source(["sleep 1"])

    async def scenario(service):
        await service.create_pipeline({"pipeline": pipeline(stage("Build", build()), stage("After", build("Never")))})
        execution_id, waiting = await begin(service), await begin(service)
        await until(lambda: len(service.runs.get(execution_id)["actions"]) == 2)
        stop = {"pipelineName": "p", "pipelineExecutionId": execution_id, "reason": "enough"}
        await service.stop_pipeline_execution(stop)
        assert service.runs.get(execution_id)["status"] == "Stopping"
        with pytest.raises(AwsError, match="DuplicatedStopRequest"):
            await service.stop_pipeline_execution(stop)
        await service.stop_pipeline_execution(stop | {"pipelineExecutionId": waiting})
        assert service.runs.get(waiting)["status"] == "Stopped"
        doc = await ended(service, execution_id)
        assert (doc["status"], doc["statusSummary"]) == ("Stopped", "enough")
        assert [entry["status"] for entry in doc["actions"]] == ["Succeeded", "Succeeded"]
        with pytest.raises(AwsError, match="PipelineExecutionNotStoppable"):
            await service.stop_pipeline_execution(stop)

    run(world, scenario)


SLEEPS = ["(setsid sleep 305 &)", f"{sys.executable} -c 'import time; time.sleep(306)'"]


async def sleeping(service, execution_id):
    """Wait until the build of an execution sleeps; return its id."""
    entries = service.runs.get(execution_id)["actions"]
    await until(lambda: len(entries) == 2 and len(processes(entries[1].get("external"))) >= 3)
    return entries[1]["external"]


def test_abandon_ends_the_whole_tree_of_processes(world, source):
    source(SLEEPS)

    async def scenario(service):
        await service.create_pipeline({"pipeline": SIMPLE})
        execution_id = await begin(service)
        await until(lambda: service.runs.get(execution_id)["started"])
        build_id = await sleeping(service, execution_id)
        began = time.monotonic()
        await service.stop_pipeline_execution(
            {"pipelineName": "p", "pipelineExecutionId": execution_id, "abandon": True}
        )
        doc = await ended(service, execution_id, seconds=20)
        assert doc["status"] == "Stopped" and doc["actions"][1]["status"] == "Abandoned"
        assert time.monotonic() - began < 15
        assert not processes(build_id)
        source(["true"])
        assert (await ended(service, await begin(service)))["status"] == "Succeeded", "the queue goes on"

    run(world, scenario)


def test_deleting_a_pipeline_ends_what_runs(world, source):
    source(SLEEPS)

    async def scenario(service):
        await service.create_pipeline({"pipeline": SIMPLE})
        execution_id = await begin(service)
        await until(lambda: service.runs.get(execution_id)["started"])
        build_id = await sleeping(service, execution_id)
        await service.delete_pipeline({"name": "p"})
        assert not processes(build_id) and service.runs.get(execution_id) is None

    run(world, scenario)


def test_the_daemon_stops_with_all_it_started(world, source):
    source(SLEEPS)
    seen = []

    async def scenario(service):
        await service.create_pipeline({"pipeline": SIMPLE})
        seen.append(await begin(service))
        await until(lambda: service.runs.get(seen[0])["started"])
        seen.append(await sleeping(service, seen[0]))
        seen.append(await begin(service))

    run(world, scenario)
    assert not processes(seen[1])
    source(["true"])

    async def again(service):
        doc = service.runs.get(seen[0])
        assert doc["status"] == "Failed" and doc["statusSummary"].startswith("abandoned")
        assert (await ended(service, seen[2]))["status"] == "Succeeded", "what waited goes on at the next start"

    run(world, again)


def test_after_a_kill_the_execution_is_failed_its_processes_ended_and_the_queue_goes_on(world, source):
    """A daemon in a process of its own gets kill -9 in the middle of a build."""
    source([*SLEEPS])
    pid = os.fork()
    if pid == 0:  # the daemon to be killed
        try:

            async def first():
                service = world.open()
                await service.start()
                await service.create_pipeline({"pipeline": SIMPLE})
                await begin(service, clientRequestToken=TOKEN)
                await begin(service)
                await asyncio.sleep(60)

            asyncio.run(first())
        finally:
            os._exit(0)
    end = time.monotonic() + 30
    docs = []
    while True:
        docs = sorted(Store(world.state / "store").list("codepipeline-executions"), key=lambda doc: doc["created"])
        if docs and len(docs[0]["actions"]) == 2 and len(processes(docs[0]["actions"][1].get("external"))) >= 3:
            break
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    source(["true"])

    async def scenario(service):
        doc = service.runs.get(docs[0]["id"])
        assert doc["status"] == "Failed" and doc["statusSummary"].startswith("abandoned")
        assert doc["actions"][1]["status"] == "Abandoned"
        assert not processes(docs[0]["actions"][1]["external"])
        assert (await ended(service, docs[1]["id"]))["status"] == "Succeeded"
        assert await begin(service, clientRequestToken=TOKEN) == doc["id"], "the token is remembered"

    run(world, scenario)


def test_only_the_newest_builds_are_kept(world, source):
    late = action("Approval", "Manual", "Look", timeoutInMinutes=0.0001)

    async def scenario(service):
        await service.create_pipeline({"pipeline": pipeline(stage("Approve", late))})
        ids = [await begin(service) for _ in range(5)]
        for execution_id in ids:
            await ended(service, execution_id)
        assert {path.name for path in (world.state / "builds").iterdir()} == set(ids[2:])

    run(world, scenario)
