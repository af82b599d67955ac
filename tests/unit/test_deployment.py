"""In which order an endpoint is moved, and what sends it back: on a SageMaker that does at once what it is told."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from fraud.errors import DeploymentError, ParameterError
from fraud.pipeline import deployment, parameters, strategies
from fraud.schema import NUMBER, Feature, Schema

DEFAULTS = {name: item.default for name, item in parameters.declared("03_deploy").items()}
CHAMPION = {"run_id": "m1", "endpoint_config": "fraud-m1"}
SCHEMA = Schema((Feature("amount", NUMBER),), {"card": "card1"})


class SageMaker:
    """Endpoint, configurations and alarms; remembers how the endpoint was moved."""

    def __init__(self) -> None:
        self.configs: dict[str, dict[str, Any]] = {}
        self.at, self.moves, self.ringing = "", [], ""
        self.lost: dict[str, Any] = {}  # of what the endpoint captures

    def create_model(self, **_: Any) -> None:
        pass

    def create_endpoint_config(self, **given: Any) -> None:
        self.configs.setdefault(given["EndpointConfigName"], given)

    def create_endpoint(self, *, EndpointName: str, EndpointConfigName: str) -> None:
        self.at = EndpointConfigName

    def update_endpoint(self, *, EndpointName: str, EndpointConfigName: str, DeploymentConfig: Any = None) -> None:
        self.moves.append((EndpointConfigName, DeploymentConfig is not None))
        self.at = EndpointConfigName

    def describe_endpoint_config(self, *, EndpointConfigName: str) -> dict[str, Any]:
        return self.configs[EndpointConfigName]

    def describe(self, endpoint_name: str) -> dict[str, Any] | None:
        if not self.at:
            return None
        config = self.configs[self.at]
        capture = config["DataCaptureConfig"]
        return config | {
            "EndpointStatus": "InService",
            "DataCaptureConfig": capture
            | {"CurrentSamplingPercentage": capture["InitialSamplingPercentage"]}
            | self.lost,
        }

    def describe_alarms(self, *, AlarmNames: list[str]) -> dict[str, Any]:
        states = {name: "ALARM" if self.ringing and name.endswith(self.ringing) else "OK" for name in AlarmNames}
        return {"MetricAlarms": [{"AlarmName": name, "StateValue": state} for name, state in states.items()]}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> SageMaker:
    made = SageMaker()
    made.where = SimpleNamespace(kms_key_arn="", image_uri="image", serve_role_arn="role")
    for module in (deployment, strategies):
        monkeypatch.setattr(module, "client", lambda service: made)
        monkeypatch.setattr(module, "where", lambda: made.where)
    monkeypatch.setattr(deployment, "describe", made.describe)
    monkeypatch.setattr(deployment, "Probes", lambda *_: Quiet())
    return made


class Quiet(contextlib.nullcontext):
    """Probes that ask nothing."""

    taken: list[dict[str, Any]] = []


def deploy(run_id: str, champion: dict[str, Any] | None = CHAMPION, **change: Any) -> deployment.Deployment:
    model = {"model_sha256": "s", "golden": {"transactions": [{}]}, "loaded": SimpleNamespace(schema=SCHEMA)}
    p = SimpleNamespace(**DEFAULTS | {"wait_seconds": 0} | change)
    run = SimpleNamespace(run_id=run_id, bucket="loop")
    return deployment.deploy(run, p, {"model_uri": "s3://loop/m"}, model, champion)


@pytest.fixture
def live(aws: SageMaker) -> SageMaker:
    """The first model is in service."""
    deploy("m1", None)
    assert (aws.at, aws.moves) == ("fraud-m1", [])
    return aws


def test_a_promotion_is_one_guarded_move(live: SageMaker) -> None:
    done = deploy("m2")
    assert live.moves == [("fraud-m2", True)] and (done.endpoint_config, done.previous_config) == (
        "fraud-m2",
        "fraud-m1",
    )
    deploy("m2")
    assert len(live.moves) == 1, "a repetition moves nothing"


@pytest.mark.parametrize("test", strategies.TESTS)
def test_a_test_ends_before_the_next_promotion(live: SageMaker, test: str) -> None:
    deploy("m2", strategy=test)
    deploy("m2")
    assert live.moves == [(f"fraud-m2-{test.removesuffix('_test')}10", False), ("fraud-m1", False), ("fraud-m2", True)]


def test_deploying_the_champion_ends_a_test(live: SageMaker) -> None:
    deploy("m2", strategy="shadow")
    deploy("m1")
    assert live.moves[1:] == [("fraud-m1", False)]


def test_an_endpoint_that_is_not_where_the_release_says_is_moved_all_the_same(live: SageMaker) -> None:
    deploy("m2")  # and its release was never written, or a rollback ended half way
    deploy("m1")
    assert live.at == "fraud-m1" and live.moves[-1] == ("fraud-m1", True)


@pytest.mark.parametrize("alarm", ["5xx", "latency", "review-rate"])
def test_an_alarm_during_a_test_sends_it_back(live: SageMaker, alarm: str) -> None:
    live.ringing = alarm
    with pytest.raises(
        DeploymentError, match=f"fraud-fraud-{alarm} rang during the ab test; fraud is back on fraud-m1"
    ):
        deploy("m2", strategy="ab_test", wait_seconds=1)
    assert live.at == "fraud-m1"


@pytest.mark.parametrize("lost", [{"EnableCapture": False}, {"CurrentSamplingPercentage": 50}])
def test_a_deployment_that_lost_its_capture_is_none(live: SageMaker, lost: dict[str, Any]) -> None:
    live.lost = lost
    with pytest.raises(DeploymentError, match="does not capture 100 % of its traffic"):
        deploy("m2")


def test_a_deployment_that_lost_its_key_is_none(live: SageMaker) -> None:
    live.where.kms_key_arn = "key"
    deploy("m2")
    live.lost = {"KmsKeyId": "another"}
    with pytest.raises(DeploymentError, match="does not encrypt its disks and captures with key"):
        deploy("m3")
    live.lost, live.configs["fraud-m3"]["KmsKeyId"] = {}, "another"
    with pytest.raises(DeploymentError, match="does not encrypt"):
        deploy("m3")


def test_a_column_that_nobody_sends_deals_out_nothing(live: SageMaker) -> None:
    with pytest.raises(ParameterError, match="sticky_column is 'crad1', which is no field"):
        deploy("m2", strategy="ab_test", sticky_column="crad1")
    deploy("m2", strategy="ab_test", sticky_column="card1")
    assert live.at == "fraud-m2-ab10"
