"""Endpoints: created, called, refused, broken, killed and brought back; each instance is a real process."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import socket
import statistics
import tarfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from hosting_kit import CAPTURE, MODULE, World, archive, asynchronous, refused, variant

from fraud.localaws.connection import Pool


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUD_LOCAL_CAPTURE_SECONDS", "0.2")
    monkeypatch.setenv("FRAUD_LOCAL_METRIC_SECONDS", "0.2")


def instances(world: World, name: str = "AllTraffic") -> list[Any]:
    return world.endpoints.fleets["fraud"].variants[name].healthy


async def until(condition: Any, patience: float = 20) -> None:
    async with asyncio.timeout(patience):
        while not condition():
            await asyncio.sleep(0.02)


# ---- the good life -----------------------------------------------------------------------------------------------


@asynchronous
async def test_created_called_captured_measured_deleted(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.deploy("one", count=2, DataCaptureConfig=CAPTURE)
        found = await world.describe()
        assert found["EndpointStatus"] == "InService"
        assert found["EndpointArn"] == "arn:aws:sagemaker:eu-west-1:000000000000:endpoint/fraud"
        (production,) = found["ProductionVariants"]
        assert (production["CurrentInstanceCount"], production["CurrentWeight"]) == (2, 1.0)
        assert found["DataCaptureConfig"]["CaptureStatus"] == "Started"
        assert len({instance.process.pid for instance in instances(world)}) == 2

        answer = await world.invoke({"a": 1}, InferenceId="tx-1", CustomAttributes="c")
        assert answer["json"] == {"model": "one", "echo": {"a": 1}}
        assert answer["InvokedProductionVariant"] == "AllTraffic"
        assert answer["ContentType"] == "application/json"
        for _ in range(9):
            await world.invoke()
        (await refused(world.invoke({"fail": True}), "ModelError"))
        await until(lambda: len(world.s3.records()) == 10)
        ids = [record["eventMetadata"].get("inferenceId") for record in world.s3.records()]
        assert ids == ["tx-1"] + [None] * 9  # a failed request is not captured
        await until(lambda: world.cloudwatch.total("Invocations") == 11)
        assert world.cloudwatch.total("Invocation5XXErrors") == 1
        latencies = [datum for datum in world.cloudwatch.data if datum["MetricName"] == "ModelLatency"]
        assert sum(sum(datum["Counts"]) for datum in latencies) == 11
        assert all(100 < value < 10_000_000 for datum in latencies for value in datum["Values"])

        await world.endpoints.delete_endpoint({"EndpointName": "fraud"})
        assert "not found" in await refused(world.invoke(), "ValidationError")
        await until(lambda: world.context.store.get("endpoints", "fraud") is None)
        assert not list((tmp_path / "endpoints" / "fraud").glob("*"))


@asynchronous
async def test_quiet_endpoints_report_zeros_so_that_alarms_recover(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.deploy()
        await until(lambda: {"Invocations", "Invocation5XXErrors"} <= {d["MetricName"] for d in world.cloudwatch.data})
        assert {datum["Value"] for datum in world.cloudwatch.data} == {0.0}


@asynchronous
async def test_weights_target_variant_and_new_capacities(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.model("a")
        await world.model("b")
        weights = [variant("a", name="A", InitialVariantWeight=3.0), variant("b", name="B", InitialVariantWeight=1.0)]
        await world.config("ab", *weights)
        await world.endpoints.create_endpoint({"EndpointName": "fraud", "EndpointConfigName": "ab"})
        await world.settled()
        answers = [await world.invoke() for _ in range(400)]
        models = [answer["json"]["model"] for answer in answers]
        assert 240 < models.count("a") < 355
        assert all(answer["InvokedProductionVariant"].lower() == answer["json"]["model"] for answer in answers)
        assert {(await world.invoke(TargetVariant="B"))["json"]["model"] for _ in range(10)} == {"b"}
        assert "Variant C" in await refused(world.invoke(TargetVariant="C"), "ValidationError")

        change = [{"VariantName": "A", "DesiredWeight": 0.0}, {"VariantName": "B", "DesiredInstanceCount": 2}]
        request = {"EndpointName": "fraud", "DesiredWeightsAndCapacities": change}
        await world.endpoints.update_endpoint_weights_and_capacities(request)
        found = await world.settled()
        counts = {
            item["VariantName"]: (item["CurrentWeight"], item["CurrentInstanceCount"])
            for item in found["ProductionVariants"]
        }
        assert counts == {"A": (0.0, 1), "B": (1.0, 2)}
        assert {(await world.invoke())["json"]["model"] for _ in range(20)} == {"b"}
        assert (await world.invoke(TargetVariant="A"))["json"]["model"] == "a"

        request["DesiredWeightsAndCapacities"] = [{"VariantName": "C", "DesiredWeight": 1.0}]
        assert '"C" was not found' in await refused(world.endpoints.update_endpoint_weights_and_capacities(request))


@asynchronous
async def test_a_shadow_sees_the_traffic_and_its_answers_are_only_captured(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.model("live")
        await world.model("dark")
        shadow = [variant("dark", name="Shadow", InitialVariantWeight=1.0)]
        await world.config("both", variant("live"), ShadowProductionVariants=shadow, DataCaptureConfig=CAPTURE)
        await world.endpoints.create_endpoint({"EndpointName": "fraud", "EndpointConfigName": "both"})
        assert len((await world.settled())["ShadowProductionVariants"]) == 1
        for number in range(20):
            assert (await world.invoke({}, InferenceId=f"tx-{number}"))["json"]["model"] == "live"
        await until(lambda: len(world.s3.records()) == 40)
        for folder, model in (("AllTraffic", "live"), ("Shadow", "dark")):
            records = world.s3.records(f"data-capture/fraud/{folder}/")
            assert {record["eventMetadata"]["inferenceId"] for record in records} == {f"tx-{n}" for n in range(20)}
            assert all(model in record["captureData"]["endpointOutput"]["data"] for record in records)


@asynchronous
async def test_the_container_gets_content_type_accept_and_custom_attributes(tmp_path: Path) -> None:
    module = """
def model_fn(model_dir): return model_dir
def transform_fn(model, body, content_type, accept):
    import os
    return f"{content_type}|{accept}|{body}|{os.environ['EXTRA']}|{os.environ['SM_MODEL_DIR'] == model}", "text/plain"
"""
    async with World(tmp_path) as world:
        await world.model("one", archive("one", module), EXTRA="/opt/ml/model/name.txt")
        await world.config("one", variant("one"))
        await world.endpoints.create_endpoint({"EndpointName": "fraud", "EndpointConfigName": "one"})
        await world.settled()
        request = {"EndpointName": "fraud", "Body": b"1,2", "ContentType": "text/csv", "Accept": "text/x"}
        answer = await world.runtime.invoke_endpoint(request)
        content_type, accept, body, extra, same = answer["Body"].decode().split("|")
        assert (content_type, accept, body, same) == ("text/csv", "text/x", "1,2", "True")
        assert Path(extra).name == "name.txt"
        assert Path(extra).is_relative_to(tmp_path)  # /opt/ml/model is the instance's own folder


@asynchronous
async def test_answers_that_are_errors(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.deploy("one")
        message = await refused(world.invoke({"fail": True}), "ModelError")
        assert message.startswith('Received server error (500) from primary with message "Internal Server Error". See ')
        assert "asked to fail" not in message
        assert "asked to fail" in (tmp_path / "logs/endpoints/fraud/AllTraffic-0.log").read_text()
        for name in ("TargetModel", "TargetContainerHostname", "InferenceComponentName"):
            assert name in await refused(world.invoke(**{name: "x"}), "ValidationError")
        await world.hosting.ground.shipper.ship()
        assert any("asked to fail" in line for _, _, line in world.logs.lines)
        assert {group for group, _, _ in world.logs.lines} == {"/aws/sagemaker/Endpoints/fraud"}


# ---- archives that do not serve --------------------------------------------------------------------------------------


def hostile(path: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        member = tarfile.TarInfo(path)
        member.type, member.linkname = kind, link
        tar.addfile(member)
    return raw.getvalue()


BROKEN = {
    "raises at import": (archive("x", "raise RuntimeError('bad import')"), "bad import"),
    "raises in model_fn": (archive("x", "def model_fn(d): raise RuntimeError('bad model')"), "bad model"),
    "no model_fn": (archive("x", "x = 1"), "has no model_fn"),
    "aborts in native code": (archive("x", "import os\ndef model_fn(d): os.abort()"), "ended with code"),
    "syntax error": (archive("x", "def model_fn(d: pass"), "SyntaxError"),
    "no code": (archive("x", None), "no folder code"),
    "truncated": (archive("x")[:-20], "Failed to extract model data"),
    "not an archive": (b"PK\x03\x04", "Failed to extract model data"),
    "climbs out": (hostile("../evil"), "Failed to extract model data"),
    "absolute": (hostile("/tmp/evil"), "Failed to extract model data"),
    "a link": (hostile("model.txt", tarfile.SYMTYPE, "/etc/passwd"), "Failed to extract model data"),
    "a device": (hostile("model.txt", tarfile.CHRTYPE), "Failed to extract model data"),
    "wants what does not exist": (
        archive("x", **{"code/requirements.txt": "no-such-package @ file:///none.whl"}),
        "requirements",
    ),
}


@asynchronous
async def test_broken_models_never_get_traffic(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        names = {how.replace(" ", "-"): how for how in BROKEN}
        for name, how in names.items():
            await world.model(name, BROKEN[how][0])
            await world.config(name, variant(name))
            await world.endpoints.create_endpoint({"EndpointName": name, "EndpointConfigName": name})
        for name, how in names.items():
            found = await world.settled(name)
            assert (how, found["EndpointStatus"]) == (how, "Failed")
            assert BROKEN[how][1] in found["FailureReason"]
            assert "not found" in await refused(world.invoke(EndpointName=name), "ValidationError")
            update = {"EndpointName": name, "EndpointConfigName": name}
            assert "status Failed" in await refused(world.endpoints.update_endpoint(update))
            await world.endpoints.delete_endpoint({"EndpointName": name})
        await until(lambda: not world.context.store.list("endpoints"))
        assert not list((tmp_path / "endpoints").glob("*/*"))


@asynchronous
async def test_a_model_that_hangs_is_given_up(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.model("slow", archive("x", "import time\ndef model_fn(d): time.sleep(600)"))
        await world.config("slow", variant("slow"))
        config = world.context.store.get("endpoint-configs", "slow")
        config["ProductionVariants"][0]["ContainerStartupHealthCheckTimeoutInSeconds"] = 1  # AWS: at least 60
        world.context.store.put("endpoint-configs", "slow", config)
        await world.endpoints.create_endpoint({"EndpointName": "fraud", "EndpointConfigName": "slow"})
        found = await world.settled()
        assert found["EndpointStatus"] == "Failed"
        assert "did not pass the ping health check (no good answer within 1 s)" in found["FailureReason"]


# ---- deaths --------------------------------------------------------------------------------------------------------


@asynchronous
async def test_a_worker_that_dies_comes_back_and_one_request_is_lost_at_most(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.deploy("one")
        assert "closed the connection" in await refused(world.invoke({"die": True}), "ModelError")
        assert (await world.invoke())["json"]["model"] == "one"


@asynchronous
async def test_an_instance_that_is_killed_is_replaced(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.deploy("one", count=2)
        before = {instance.process.pid for instance in instances(world)}
        os.killpg(min(before), signal.SIGKILL)
        await until(lambda: len(instances(world)) == 1)
        for _ in range(20):
            await world.invoke()  # by the other
        await until(lambda: len(instances(world)) == 2)
        assert len(before & {instance.process.pid for instance in instances(world)}) == 1
        for _ in range(20):
            await world.invoke()


@asynchronous
async def test_a_request_goes_to_another_instance_when_one_cannot_be_reached(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.deploy("one", count=2)
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        first = instances(world)[0]
        first.pool.close()
        first.pool = Pool(port)
        for _ in range(20):
            await world.invoke()
        assert first.in_flight == 0


@asynchronous
async def test_deleted_while_it_comes_back(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.endpoints.start()
    await world.deploy("one")
    await world.kill()
    async with World(tmp_path, world.s3) as again:
        await again.endpoints.delete_endpoint({"EndpointName": "fraud"})
        await until(lambda: not again.context.store.list("endpoints"))
        await until(lambda: not list(again.children.folder.glob("*.json")))  # no process is left


@asynchronous
async def test_no_answer_waits_for_a_delayed_ack(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.deploy("one")
        times = []
        for _ in range(41):
            began = time.perf_counter()
            await world.invoke()
            times.append(time.perf_counter() - began)
        assert statistics.median(times) < 0.035  # 44 ms without TCP_NODELAY, below 1 ms with it


@asynchronous
async def test_an_endpoint_comes_back_after_kill_9_without_s3(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.endpoints.start()
    await world.deploy("one", count=2, DataCaptureConfig=CAPTURE)
    before = [psutil.Process(instance.process.pid) for instance in instances(world)]
    await world.kill()
    assert not any(process.is_running() for process in before)
    del world.s3.objects["bucket", "models/one.tar.gz"]
    async with World(tmp_path, world.s3) as again:
        assert (await again.invoke())["json"]["model"] == "one"  # waits until it is back
        assert (await again.describe())["EndpointStatus"] == "InService"


@asynchronous
async def test_a_stop_delivers_what_was_captured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUD_LOCAL_CAPTURE_SECONDS", "3600")
    async with World(tmp_path) as world:
        await world.deploy("one", DataCaptureConfig=CAPTURE)
        for _ in range(7):
            await world.invoke()
        assert not world.s3.records()
    assert len(world.s3.records()) == 7


@asynchronous
async def test_retained_properties(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.deploy("one", count=2, DataCaptureConfig=CAPTURE)
        await world.deploy("two", count=1)
        await world.update("two", RetainAllVariantProperties=True)
        found = await world.settled()
        assert found["ProductionVariants"][0]["CurrentInstanceCount"] == 2
        assert found["DataCaptureConfig"]["DestinationS3Uri"] == CAPTURE["DestinationS3Uri"]
        exclude = [{"VariantPropertyType": "DataCaptureConfig"}, {"VariantPropertyType": "DesiredInstanceCount"}]
        await world.update("two", RetainAllVariantProperties=True, ExcludeRetainedVariantProperties=exclude)
        found = await world.settled()
        assert found["ProductionVariants"][0]["CurrentInstanceCount"] == 1
        assert "DataCaptureConfig" not in found


def test_the_module_of_these_tests_is_what_a_user_writes() -> None:
    compile(MODULE, "inference.py", "exec")
