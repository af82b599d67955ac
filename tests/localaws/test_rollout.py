"""Updates: traffic moves as asked, no request fails, and what is bad is undone."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError
from hosting_kit import (
    CAPTURE,
    ENVIRONMENT,
    FAILING,
    IMAGE,
    Load,
    World,
    archive,
    asynchronous,
    deployment,
    variant,
)

from fraud.localaws.rollout import Plan


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUD_LOCAL_CAPTURE_SECONDS", "0.2")
    monkeypatch.setenv("FRAUD_LOCAL_METRIC_SECONDS", "0.2")


async def stage(world: World, status: str, share: float | None = None) -> dict:
    """Wait for a stage of the update and return DescribeEndpoint's answer."""
    async with asyncio.timeout(30):
        while True:
            found = await world.describe()
            pending = found.get("PendingDeploymentSummary")
            assert found["EndpointStatus"] != "InService", f"{status} never came: {found.get('FailureReason')}"
            if pending:
                (item,) = pending["ProductionVariants"]
                if [one["Status"] for one in item["VariantStatus"]] == [status] and share in (
                    None,
                    item["CurrentWeight"],
                ):
                    return found
            await asyncio.sleep(0.01)


def routing(kind: str, **size: object) -> dict:
    return {
        "BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": {"Type": kind, "WaitIntervalInSeconds": 7, **size}}
    }


@pytest.mark.parametrize(
    ("config", "shares"),
    [
        (None, (1.0,)),
        (routing("ALL_AT_ONCE"), (1.0,)),
        (routing("CANARY", CanarySize={"Type": "CAPACITY_PERCENT", "Value": 30}), (0.3, 1.0)),
        (routing("CANARY", CanarySize={"Type": "INSTANCE_COUNT", "Value": 1}), (0.25, 1.0)),
        (routing("LINEAR", LinearStepSize={"Type": "CAPACITY_PERCENT", "Value": 30}), (0.3, 0.6, 0.9, 1.0)),
        (routing("LINEAR", LinearStepSize={"Type": "INSTANCE_COUNT", "Value": 2}), (0.5, 1.0)),
        (
            routing("LINEAR", LinearStepSize={"Type": "CAPACITY_PERCENT", "Value": 10}),
            tuple(n / 10 for n in range(1, 11)),
        ),
    ],
)
def test_steps(config: dict | None, shares: tuple[float, ...]) -> None:
    assert Plan.of(config, 4).shares == shares


@asynchronous
async def test_a_canary_under_load_loses_nothing(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.cloudwatch.alarms["errors"] = "OK"
        await world.deploy("one", count=2, DataCaptureConfig=CAPTURE)
        await world.deploy("two", count=2, DataCaptureConfig=CAPTURE)
        load = Load(world, {"one", "two"})
        await load.until(500)
        assert load.answers == {"one": load.sent}
        wanted = deployment("CANARY", wait=2, alarms=["errors"], TerminationWaitInSeconds=1)
        await world.update("two", DeploymentConfig=wanted)

        found = await stage(world, "Creating")
        assert found["EndpointStatus"] == "Updating"
        assert found["EndpointConfigName"] == "one"
        found = await stage(world, "Baking", 0.5)
        assert found["PendingDeploymentSummary"]["EndpointConfigName"] == "two"
        assert found["ProductionVariants"][0]["CurrentWeight"] == 0.5
        before = dict(load.answers)
        await load.until(load.sent + 300)
        gained = {model: load.answers.get(model, 0) - before.get(model, 0) for model in ("one", "two")}
        assert 0.3 < gained["two"] / sum(gained.values()) < 0.7

        await stage(world, "Baking", 1.0)
        before = dict(load.answers)
        await load.until(load.sent + 100)
        assert load.answers["one"] <= before["one"] + 4  # what was under way

        found = await world.settled()
        await load.until(max(2000, load.sent + 100))
        await load.stop()
        assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", "two")
        assert found["LastDeploymentConfig"] == wanted
        assert "PendingDeploymentSummary" not in found
        assert found.get("FailureReason") is None
        assert load.failures == []
        await world.endpoints.fleets["fraud"].variants["AllTraffic"].capture.close()
        assert len(world.s3.records()) == load.sent  # both models' records, blue's too


@asynchronous
async def test_an_alarm_brings_all_traffic_back(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.cloudwatch.alarms["errors"] = "OK"
        await world.deploy("one", count=2)
        await world.deploy("bad", archive("bad", FAILING), count=2)
        load = Load(world, {"one"}, workers=2)
        await load.until(100)
        await world.update("bad", DeploymentConfig=deployment(wait=60, alarms=["errors"]))
        found = await world.settled()
        assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", "one")
        assert "alarms were triggered during the update: errors" in found["FailureReason"]
        exposed = len(load.failures)
        await load.until(load.sent + 200)
        await load.stop()
        assert exposed
        assert len(load.failures) <= exposed + 2
        assert not world.endpoints.green
        assert found["ProductionVariants"][0]["CurrentInstanceCount"] == 2


@asynchronous
async def test_an_alarm_in_the_termination_wait_still_brings_it_back(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.cloudwatch.alarms["guard"] = "OK"
        await world.deploy("one")
        await world.deploy("two")
        wanted = deployment("ALL_AT_ONCE", wait=0, alarms=["guard"], TerminationWaitInSeconds=60)
        await world.update("two", DeploymentConfig=wanted)
        await stage(world, "Baking", 1.0)
        assert (await world.invoke())["json"]["model"] == "two"
        world.cloudwatch.alarms["guard"] = "ALARM"
        assert (await world.settled())["EndpointConfigName"] == "one"
        assert (await world.invoke())["json"]["model"] == "one"


@asynchronous
async def test_alarms_that_cannot_be_read_are_no_permission_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fraud.localaws.rollout._POLL_SECONDS", 0.05)
    async with World(tmp_path) as world:
        world.cloudwatch.alarms["guard"] = "OK"
        await world.deploy("one")
        await world.deploy("two")
        await world.update("two", DeploymentConfig=deployment("ALL_AT_ONCE", wait=60, alarms=["guard"]))
        await stage(world, "Baking", 1.0)
        world.cloudwatch.down = True
        found = await world.settled()
        assert found["EndpointConfigName"] == "one"
        assert "could not be read" in found["FailureReason"]


@asynchronous
async def test_linear_steps_under_load_and_time_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUD_LOCAL_TIME_SCALE", "100")
    async with World(tmp_path) as world:
        await world.deploy("one", count=2)
        await world.deploy("two", count=2)
        load = Load(world, {"one", "two"}, workers=2)
        await world.update("two", DeploymentConfig=deployment("LINEAR", wait=60))  # 60 s are 0.6 s here
        await stage(world, "Baking", 0.5)
        found = await world.settled()
        await load.stop()
        assert found["EndpointConfigName"] == "two"
        assert load.failures == []
        assert set(load.answers) == {"one", "two"}


@asynchronous
async def test_a_model_that_does_not_start_changes_nothing(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.deploy("one", count=2)
        await world.deploy("bad", archive("bad", "def model_fn(d): raise RuntimeError('no luck')"), count=2)
        load = Load(world, {"one"}, workers=2)
        await world.update("bad")
        found = await world.settled()
        await load.until(load.sent + 50)
        await load.stop()
        assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", "one")
        assert "did not pass the ping health check" in found["FailureReason"]
        assert "no luck" in found["FailureReason"]
        assert load.failures == []


@asynchronous
async def test_a_request_under_way_is_not_cut_by_the_swap(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.deploy("one")
        await world.deploy("two")
        slow = asyncio.ensure_future(world.invoke({"sleep": 4}))
        await asyncio.sleep(0.2)
        await world.update("two")
        async with asyncio.timeout(20):
            while (await world.invoke())["json"]["model"] != "two":
                await asyncio.sleep(0.02)
        assert not slow.done()
        assert (await slow)["json"]["model"] == "one"
        assert (await world.settled())["EndpointConfigName"] == "two"


@asynchronous
async def test_an_update_takes_no_longer_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUD_LOCAL_TIME_SCALE", "200")
    async with World(tmp_path) as world:
        await world.deploy("one")
        await world.deploy("two")
        limits = {"TerminationWaitInSeconds": 3600, "MaximumExecutionTimeoutInSeconds": 600}
        await world.update("two", DeploymentConfig=deployment("ALL_AT_ONCE", wait=0, **limits))
        found = await world.settled()
        assert found["EndpointConfigName"] == "one"
        assert "MaximumExecutionTimeoutInSeconds" in found["FailureReason"]
        assert (await world.invoke())["json"]["model"] == "one"


@asynchronous
async def test_killed_in_the_middle_of_an_update(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.endpoints.start()
    await world.deploy("one", count=2)
    await world.deploy("two", count=2)
    await world.update("two", DeploymentConfig=deployment(wait=600))
    await stage(world, "Baking", 0.5)
    await world.kill()
    async with World(tmp_path, world.s3) as again:
        found = await again.describe()
        assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", "one")
        assert "interrupted" in found["FailureReason"]
        assert {(await again.invoke())["json"]["model"] for _ in range(10)} == {"one"}
        await again.update("two")
        assert (await again.settled())["EndpointConfigName"] == "two"
        assert len(list((tmp_path / "endpoints" / "fraud").iterdir())) == 1  # nothing left of former fleets


@asynchronous
async def test_updates_in_a_row_under_load(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.deploy("one", count=2)
        await world.deploy("two", count=2)
        load = Load(world, {"one", "two"})
        for number in range(4):
            await world.update(("two", "one")[number % 2])
            assert (await world.settled()).get("FailureReason") is None
        await load.stop()
        assert load.failures == []
        assert load.sent > 500


@asynchronous
async def test_another_variant_name_needs_no_deployment_config(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.deploy("one")
        await world.config("renamed", variant("one", name="Other"))
        await world.update("renamed")
        assert (await world.settled())["EndpointConfigName"] == "renamed"
        assert (await world.invoke())["InvokedProductionVariant"] == "Other"


# ---- against the running local AWS --------------------------------------------------------------------------------


def http_load(url: str, fresh: bool, stop: threading.Event, answers: Counter[str]) -> None:
    """Post until stopped, on one connection or on a fresh one each time; count answers by model or status."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=30)
    while not stop.is_set():
        try:
            headers = {"Content-Type": "application/json", **({"Connection": "close"} if fresh else {})}
            connection.request("POST", "/endpoints/canary/invocations", b"{}", headers)
            response = connection.getresponse()
            body = response.read()
            answers[json.loads(body)["model"] if response.status == 200 else f"status {response.status}"] += 1
        except OSError as error:
            answers[repr(error)] += 1
        if fresh:
            connection.close()
    connection.close()


@pytest.mark.localaws
def test_canaries_by_boto3_with_real_alarms_and_no_failed_request(aws) -> None:
    sagemaker, s3, cloudwatch = aws.client("sagemaker"), aws.client("s3"), aws.client("cloudwatch")
    for name, data in {"good": archive("good"), "better": archive("better"), "bad": archive("bad", FAILING)}.items():
        s3.put_object(Bucket=aws.bucket, Key=f"models/{name}.tar.gz", Body=data)
        url = f"s3://{aws.bucket}/models/{name}.tar.gz"
        container = {"Image": IMAGE, "ModelDataUrl": url, "Environment": ENVIRONMENT}
        sagemaker.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=aws.role)
        capture = {**CAPTURE, "DestinationS3Uri": f"s3://{aws.bucket}/data-capture"}
        sagemaker.create_endpoint_config(
            EndpointConfigName=name, ProductionVariants=[variant(name, 2)], DataCaptureConfig=capture
        )
    sagemaker.create_endpoint(EndpointName="canary", EndpointConfigName="good", Tags=[{"Key": "run", "Value": "1"}])
    waiter = sagemaker.get_waiter("endpoint_in_service")
    patience = {"Delay": 1, "MaxAttempts": 60}
    waiter.wait(EndpointName="canary", WaiterConfig=patience)
    dimensions = [{"Name": "EndpointName", "Value": "canary"}, {"Name": "VariantName", "Value": "AllTraffic"}]
    cloudwatch.put_metric_alarm(
        AlarmName="canary-5xx",
        Namespace="AWS/SageMaker",
        MetricName="Invocation5XXErrors",
        Dimensions=dimensions,
        Statistic="Average",
        Period=60,
        EvaluationPeriods=1,
        Threshold=0.02,
        ComparisonOperator="GreaterThanThreshold",
    )
    stop, answers = threading.Event(), Counter()
    url = aws.environment["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"]
    threads = [
        threading.Thread(target=http_load, args=(url, fresh, stop, answers)) for fresh in (True, True, False, False)
    ]
    for thread in threads:
        thread.start()
    try:
        guarded = deployment(wait=3, alarms=["canary-5xx"])
        sagemaker.update_endpoint(EndpointName="canary", EndpointConfigName="better", DeploymentConfig=guarded)
        with pytest.raises(ClientError, match="Cannot update in-progress endpoint"):
            sagemaker.update_endpoint(EndpointName="canary", EndpointConfigName="good")
        waiter.wait(EndpointName="canary", WaiterConfig=patience)
        assert sagemaker.describe_endpoint(EndpointName="canary")["EndpointConfigName"] == "better"
        assert set(answers) == {"good", "better"}  # not one failed
        sagemaker.update_endpoint(EndpointName="canary", EndpointConfigName="bad", DeploymentConfig=guarded)
        waiter.wait(EndpointName="canary", WaiterConfig=patience)
        found = sagemaker.describe_endpoint(EndpointName="canary")
        assert found["EndpointConfigName"] == "better"
        assert "canary-5xx" in found["FailureReason"]
        exposed = answers["status 424"]
        time.sleep(1)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(answers) == {"good", "better", "status 424"}
    assert answers["status 424"] <= exposed + 2
    runtime = aws.client("sagemaker-runtime")
    answer = runtime.invoke_endpoint(EndpointName="canary", Body=b'{"a": 1}', ContentType="application/json")
    assert json.loads(answer["Body"].read()) == {"model": "better", "echo": {"a": 1}}
    assert answer["InvokedProductionVariant"] == "AllTraffic"
    served = answers["good"] + answers["better"] + 1
    deadline = time.monotonic() + 30
    while (captured := _captured(s3, aws.bucket)) < served and time.monotonic() < deadline:
        time.sleep(0.5)
    assert captured == served
    sagemaker.delete_endpoint(EndpointName="canary")


def _captured(s3, bucket: str) -> int:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="data-capture/canary/AllTraffic/")
    keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
    return sum(s3.get_object(Bucket=bucket, Key=key)["Body"].read().count(b"\n") for key in keys)
