"""What each strategy asks of SageMaker: validated by botocore's own model, and by the local AWS's rules."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from fraud.errors import ParameterError
from fraud.localaws import specification
from fraud.pipeline import parameters, resources, strategies

DEFAULTS = {name: item.default for name, item in parameters.declared("03_deploy").items()} | {"endpoint_name": "fraud"}
CHAMPION = {"run_id": "champion"}
STRATEGIES = ("canary", "linear", "all_at_once", "shadow", "ab_test")


def p(**change: Any) -> SimpleNamespace:
    return SimpleNamespace(**DEFAULTS | change)


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    here = SimpleNamespace(kms_key_arn="")
    monkeypatch.setattr(strategies, "where", lambda: here)
    return here


def valid(operation: str, request: dict[str, Any]) -> str:
    model = botocore.session.get_session().get_service_model("sagemaker").operation_model(operation)
    return ParamValidator().validate(request, model.input_shape).generate_report()


def specified(request: dict[str, Any]) -> dict[str, Any]:
    image = "492215442770.dkr.ecr.eu-central-1.amazonaws.com/sagemaker-scikit-learn:1.9-0-cpu-py3"
    model = {"PrimaryContainer": {"Image": image, "ModelDataUrl": "s3://b/m.tar.gz"}}
    return specification.specify(request, {"theirs": model, "ours": model})


def endpoint_config(given: SimpleNamespace, run_id: str = "run-1", ours: str = "ours") -> dict[str, Any]:
    return strategies.endpoint_config(given, "bucket", run_id, ours, "theirs")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_sagemaker_would_take_the_endpoint_config(strategy: str) -> None:
    request = endpoint_config(p(strategy=strategy))
    assert not valid("CreateEndpointConfig", request)
    specification.check_config(request)


@pytest.mark.parametrize("strategy", STRATEGIES[:3])
@pytest.mark.parametrize("waits", [(0, 0), (300, 300), (3600, 3600)])
@pytest.mark.parametrize("percent", [10, 33, 50])
def test_sagemaker_would_take_the_deployment_config(strategy: str, waits: tuple[int, int], percent: int) -> None:
    given = p(strategy=strategy, canary_percent=percent, wait_seconds=waits[0], termination_wait_seconds=waits[1])
    config = strategies.deployment_config(given, ["a", "b"])
    assert not valid("UpdateEndpoint", {"EndpointName": "e", "EndpointConfigName": "c", "DeploymentConfig": config})
    fleet = specified(endpoint_config(given))
    specification.check_deployment(config, fleet, fleet)
    policy = config["BlueGreenUpdatePolicy"]
    longest = (100 // percent if strategy == "linear" else 1) * waits[0] + waits[1]
    assert policy["MaximumExecutionTimeoutInSeconds"] >= min(longest, 28_800)
    assert [alarm["AlarmName"] for alarm in config["AutoRollbackConfiguration"]["Alarms"]] == ["a", "b"]


def test_a_test_gives_the_challenger_its_share() -> None:
    request = endpoint_config(p(strategy="ab_test", traffic_percent=25))
    shares = {v["ModelName"]: (v["VariantName"], v["InitialVariantWeight"]) for v in request["ProductionVariants"]}
    assert shares == {"theirs": ("AllTraffic", 75.0), "ours": ("Challenger", 25.0)}
    request = endpoint_config(p(strategy="shadow", traffic_percent=25))
    (production,), (shadow,) = request["ProductionVariants"], request["ShadowProductionVariants"]
    assert (production["ModelName"], shadow["ModelName"]) == ("theirs", "ours")
    assert shadow["InitialVariantWeight"] / production["InitialVariantWeight"] == 0.25
    assert shadow["VariantName"] == "Shadow"


def test_the_key_encrypts_disks_and_captures(place: SimpleNamespace) -> None:
    place.kms_key_arn = "arn:aws:kms:eu-central-1:000000000000:key/1"
    request = endpoint_config(p())
    assert request["KmsKeyId"] == request["DataCaptureConfig"]["KmsKeyId"] == place.kms_key_arn


def test_a_name_tells_one_deployment_from_another_and_fits() -> None:
    given = [p(strategy=s, traffic_percent=share) for s in STRATEGIES for share in (5, 100)]
    names = [endpoint_config(one, "r" * 40)["EndpointConfigName"] for one in given]
    assert len(set(names)) == 1 + 2 + 2  # promoting ends in the same configuration, however it got there
    names.append(resources.named("fraud-" + "r" * 40, {}))
    assert all(re.fullmatch("[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", name) for name in names)


def test_the_name_follows_the_content_alone(place: SimpleNamespace) -> None:
    def name(**change: Any) -> str:
        return endpoint_config(p(**change))["EndpointConfigName"]

    first = name()
    assert first == name() == name(wait_seconds=1, canary_percent=10, strategy="linear")
    others = [name(instance_count=3), name(instance_type="ml.m5.4xlarge"), name(capture_percentage=1)]
    others.append(endpoint_config(p(), ours="another")["EndpointConfigName"])
    place.kms_key_arn = "arn:aws:kms:eu-central-1:000000000000:key/1"
    assert len({first, name(), *others}) == 6


@pytest.mark.parametrize(
    ("change", "champion", "message"),
    [
        ({"instance_count": 1}, CHAMPION, "strategy is 'canary', but instance_count is 1"),
        ({"strategy": "linear", "canary_percent": 5}, CHAMPION, "canary_percent is 5"),
        ({"strategy": "shadow"}, None, "'shadow', but nothing is in service at fraud"),
        ({"strategy": "ab_test"}, {"run_id": "run-1"}, "'ab_test', but this very model is in service"),
        ({"strategy": "ab_test", "traffic_percent": 95}, CHAMPION, "traffic_percent is 95"),
        ({"sticky_column": "card1"}, CHAMPION, "sticky_column is 'card1', but strategy is 'canary'"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(change: dict, champion: dict | None, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        strategies.check(p(**change), champion, "run-1")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_defaults_can_be_used(strategy: str) -> None:
    strategies.check(p(strategy=strategy), CHAMPION, "run-1")
