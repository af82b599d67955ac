"""What SageMaker refuses, in its words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hosting_kit import CAPTURE, ENVIRONMENT, IMAGE, World, asynchronous, deployment, refused, variant

from fraud.localaws.specification import check_deployment, specify
from fraud.localaws.wire import AwsError

ARN = "arn:aws:sagemaker:eu-west-1:000000000000"


@asynchronous
async def test_unknown_and_duplicate_names(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.deploy("one")
        endpoint = {"EndpointName": "fraud", "EndpointConfigName": "one"}
        for work, message in [
            (world.catalog.describe_model({"ModelName": "x"}), f'Could not find model "{ARN}:model/x".'),
            (world.config("c", variant("x")), f'Could not find model "{ARN}:model/x".'),
            (world.update("x"), f'Could not find endpoint configuration "{ARN}:endpoint-config/x".'),
            (world.describe("x"), f'Could not find endpoint "{ARN}:endpoint/x".'),
            (world.endpoints.delete_endpoint({"EndpointName": "x"}), f'Could not find endpoint "{ARN}:endpoint/x".'),
            (world.model("one"), f'Cannot create already existing model "{ARN}:model/one".'),
            (
                world.config("one", variant("one")),
                f'Cannot create already existing endpoint configuration "{ARN}:endpoint-config/one".',
            ),
            (
                world.endpoints.create_endpoint(endpoint),
                f'Cannot create already existing endpoint "{ARN}:endpoint/fraud".',
            ),
        ]:
            assert await refused(work) == message
        in_use = await refused(world.catalog.delete_endpoint_config({"EndpointConfigName": "one"}))
        assert "in use by endpoint" in in_use
        await world.catalog.delete_model({"ModelName": "one"})  # AWS allows it: the endpoint goes on
        assert (await world.invoke())["json"]["model"] == "one"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Image": "python:3.12"}, "sagemaker-scikit-learn"),
        ({"ModelDataUrl": "s3://bucket/models/none.tar.gz"}, "Could not find model data at s3://bucket/models/none"),
        ({"ModelDataUrl": "ftp://x/y"}, "Invalid ModelDataUrl"),
        ({"ModelDataUrl": ""}, "needs ModelDataUrl"),
    ],
)
@asynchronous
async def test_models_that_cannot_be_served(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    world = World(tmp_path)
    world.s3.objects["bucket", "m.tar.gz"] = b""
    container = {"Image": IMAGE, "ModelDataUrl": "s3://bucket/m.tar.gz", "Environment": ENVIRONMENT, **changes}
    assert message in await refused(world.catalog.create_model({"ModelName": "m", "PrimaryContainer": container}))


@pytest.mark.parametrize(
    ("variants", "more", "message"),
    [
        ([variant("m"), variant("m")], {}, "Duplicate"),
        ([{"VariantName": "A", "ModelName": "m", "ServerlessConfig": {"MemorySizeInMB": 1024}}], {}, "serverless"),
        ([{"VariantName": "A", "ModelName": "m", "InstanceType": "ml.m5.large"}], {}, "InitialInstanceCount"),
        ([variant("m", InitialVariantWeight=0.0)], {}, "InitialVariantWeight"),
        ([variant("m")], {"ShadowProductionVariants": [variant("m", name="S"), variant("m", name="T")]}, "shadow"),
        ([variant("m"), variant("m", name="B")], {"ShadowProductionVariants": [variant("m", name="S")]}, "shadow"),
        ([variant("m")], {"DataCaptureConfig": {**CAPTURE, "DestinationS3Uri": "https://x/y"}}, "DestinationS3Uri"),
        ([variant("m")], {"DataCaptureConfig": {**CAPTURE, "CaptureOptions": [{"CaptureMode": "Input"}] * 2}}, "twice"),
        ([variant("m")], {"AsyncInferenceConfig": {"OutputConfig": {}}}, "Asynchronous"),
    ],
)
@asynchronous
async def test_endpoint_configs_that_are_refused(tmp_path: Path, variants: Any, more: Any, message: str) -> None:
    world = World(tmp_path)
    await world.model("m")
    assert message in await refused(world.config("c", *variants, **more))


@asynchronous
async def test_an_endpoint_that_is_busy_is_left_alone(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.deploy("one")
        await world.deploy("two")
        await world.update("two")
        busy = f'Cannot update in-progress endpoint "{ARN}:endpoint/fraud".'
        assert await refused(world.update("one")) == busy
        assert await refused(world.endpoints.delete_endpoint({"EndpointName": "fraud"})) == busy
        weights = [{"VariantName": "AllTraffic", "DesiredWeight": 1.0}]
        request = {"EndpointName": "fraud", "DesiredWeightsAndCapacities": weights}
        assert await refused(world.endpoints.update_endpoint_weights_and_capacities(request)) == busy
        for name in ("one", "two"):  # also the config that is still on its way in
            assert "in use" in await refused(world.catalog.delete_endpoint_config({"EndpointConfigName": name}))
        assert (await world.settled())["EndpointConfigName"] == "two"


@asynchronous
async def test_updates_that_are_refused(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.cloudwatch.alarms["fine"] = "OK"
        await world.deploy("one")
        await world.config("two", variant("one"))
        await world.config("four", variant("one", 4))
        await world.config("renamed", variant("one", 2, name="Other"))
        await world.config("shadow", variant("one"), ShadowProductionVariants=[variant("one", name="S")])
        for config, more, message in [
            ("two", {"DeploymentConfig": deployment("CANARY")}, "at least 2"),
            ("two", {"DeploymentConfig": deployment("LINEAR")}, "at least 2"),
            ("two", {"DeploymentConfig": deployment("ALL_AT_ONCE", alarms=["none"])}, "do not exist: none"),
            ("four", {"DeploymentConfig": deployment(alarms=["fine", "none"])}, "do not exist: none"),
            ("renamed", {"DeploymentConfig": deployment()}, "variant names"),
            ("shadow", {"DeploymentConfig": deployment("ALL_AT_ONCE")}, "shadow"),
            ("four", {"ExcludeRetainedVariantProperties": [{"VariantPropertyType": "DesiredWeight"}]}, "Retain"),
            ("four", {"DeploymentConfig": deployment(), "RetainDeploymentConfig": True}, "not both"),
        ]:
            assert message in await refused(world.update(config, **more))
            assert (await world.describe())["EndpointStatus"] == "InService"


@pytest.mark.parametrize(
    ("kind", "name", "size", "fits"),
    [
        ("CANARY", "CanarySize", ("CAPACITY_PERCENT", 50), True),
        ("CANARY", "CanarySize", ("CAPACITY_PERCENT", 51), False),
        ("CANARY", "CanarySize", ("INSTANCE_COUNT", 2), True),
        ("CANARY", "CanarySize", ("INSTANCE_COUNT", 3), False),
        ("LINEAR", "LinearStepSize", ("CAPACITY_PERCENT", 9), False),
        ("LINEAR", "LinearStepSize", ("CAPACITY_PERCENT", 10), True),
        ("LINEAR", "CanarySize", ("CAPACITY_PERCENT", 10), False),
        ("ALL_AT_ONCE", "CanarySize", ("CAPACITY_PERCENT", 10), False),
    ],
)
@asynchronous
async def test_sizes_of_steps(tmp_path: Path, kind: str, name: str, size: tuple[str, int], fits: bool) -> None:
    world = World(tmp_path)
    await world.model("m")
    await world.config("c", variant("m", 4))
    spec = specify(world.catalog.find("endpoint-config", "c"), {"m": world.catalog.find("model", "m")})
    routing = {"Type": kind, "WaitIntervalInSeconds": 1, name: {"Type": size[0], "Value": size[1]}}
    wanted = {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}}
    if fits:
        check_deployment(wanted, spec, spec)
    else:
        with pytest.raises(AwsError, match=name):
            check_deployment(wanted, spec, spec)
