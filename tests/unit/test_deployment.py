"""In which order an endpoint is moved, and what sends it back: on a SageMaker that does at once what it is told."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from fraud.errors import DeploymentError, ParameterError
from fraud.pipeline import deployment, parameters, strategies
from fraud.schema import NUMBER, Feature, Schema

DEFAULTS = {name: item.default for name, item in parameters.declared("03_deploy").items()} | {"endpoint_name": "fraud"}
SCHEMA = Schema((Feature("amount", NUMBER),), {"card": "card1"})


class SageMaker:
    """Endpoint, configurations and alarms; remembers how the endpoint was moved, by names without their hash."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, Any]] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.config, self.moves, self.ringing = "", [], ""
        self.lost: dict[str, Any] = {}  # of what the endpoint captures

    @property
    def at(self) -> str:
        return plain(self.config)

    def create_model(self, **given: Any) -> None:
        once(self.models, given["ModelName"], given)

    def create_endpoint_config(self, **given: Any) -> None:
        for variant in [*given["ProductionVariants"], *given.get("ShadowProductionVariants", [])]:
            assert variant["ModelName"] in self.models
        once(self.configs, given["EndpointConfigName"], given)

    def create_endpoint(self, *, EndpointName: str, EndpointConfigName: str) -> None:
        self.config = EndpointConfigName

    def update_endpoint(self, *, EndpointName: str, EndpointConfigName: str, DeploymentConfig: Any = None) -> None:
        self.moves.append((plain(EndpointConfigName), DeploymentConfig is not None))
        self.config = EndpointConfigName

    def describe_endpoint_config(self, *, EndpointConfigName: str) -> dict[str, Any]:
        return self.configs[EndpointConfigName]

    def describe(self, endpoint_name: str) -> dict[str, Any] | None:
        if not self.config:
            return None
        config = self.configs[self.config]
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


def plain(name: str) -> str:
    """A name without the hash of what it names."""
    return name.rpartition("-")[0]


def once(kept: dict[str, Any], name: str, given: dict[str, Any]) -> None:
    """Make what SageMaker never changes afterwards."""
    if name in kept:
        error = {"Code": "ValidationException", "Message": f"Cannot create already existing {name}"}
        raise ClientError({"Error": error}, "Create")
    kept[name] = given


class Quiet(contextlib.nullcontext):
    """Probes that ask nothing."""

    taken: list[dict[str, Any]] = []


def deploy(run_id: str, champion: dict[str, Any] | None = None, **change: Any) -> deployment.Deployment:
    model = {
        "model_sha256": "s",
        "archive_sha256": "a",
        "baseline": {},
        "golden": {"transactions": [{}]},
        "loaded": SimpleNamespace(schema=SCHEMA),
    }
    p = SimpleNamespace(**DEFAULTS | {"wait_seconds": 0} | change)
    nothing = SimpleNamespace(read_json=lambda key, default: default, get=lambda key, default: default)
    run = SimpleNamespace(run_id=run_id, bucket="loop", storage=nothing)
    return deployment.deploy(run, p, {"model_uri": "s3://loop/m"}, model, champion)


class Live:
    """The first model is in service, and stays the released one."""

    def __init__(self, aws: SageMaker) -> None:
        self.aws = aws
        self.champion = {"run_id": "m1", "endpoint_config": deploy("m1").endpoint_config}
        assert (aws.at, aws.moves) == ("fraud-m1", [])

    def deploy(self, run_id: str, **change: Any) -> deployment.Deployment:
        done = deploy(run_id, self.champion, **change)
        done.check()
        return done


@pytest.fixture
def live(aws: SageMaker) -> Live:
    return Live(aws)


def test_a_promotion_is_one_guarded_move(live: Live) -> None:
    done = live.deploy("m2")
    assert live.aws.moves == [("fraud-m2", True)]
    assert (plain(done.endpoint_config), done.previous_config) == ("fraud-m2", live.champion["endpoint_config"])
    live.deploy("m2")
    assert len(live.aws.moves) == 1, "a repetition moves nothing"


OTHER = {
    "more instances": {"instance_count": 4},
    "larger instances": {"instance_type": "ml.m5.xlarge"},
    "another share of captures": {"capture_percentage": 50},
    "another role": {"role_arn": "another"},
    "another key": {"kms_key_arn": "key"},
    "another image": {"image_uri": "newer"},
}


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER)
def test_the_same_run_with_other_values_gets_them(live: Live, change: dict[str, Any]) -> None:
    first = live.deploy("m2").endpoint_config
    if change.keys() <= vars(live.aws.where).keys():
        vars(live.aws.where).update(change)
        done = live.deploy("m2")
    else:
        done = live.deploy("m2", **change)
    assert done.endpoint_config == live.aws.config != first
    assert live.aws.moves == [("fraud-m2", True)] * 2
    config = live.aws.configs[live.aws.config]
    (variant,) = config["ProductionVariants"]
    model = live.aws.models[variant["ModelName"]]
    assert {
        "instance_count": variant["InitialInstanceCount"],
        "instance_type": variant["InstanceType"],
        "capture_percentage": config["DataCaptureConfig"]["InitialSamplingPercentage"],
        "kms_key_arn": config.get("KmsKeyId", ""),
        "role_arn": model["ExecutionRoleArn"],
        "image_uri": model["PrimaryContainer"]["Image"],
    }.items() >= change.items()


@pytest.mark.parametrize("test", strategies.TESTS)
def test_a_test_has_the_very_model_that_is_in_service(live: Live, test: str) -> None:
    live.aws.where.image_uri = "newer"  # the champion goes on with what it was deployed with
    live.deploy("m2", strategy=test)
    champion = live.aws.configs[live.champion["endpoint_config"]]["ProductionVariants"][0]["ModelName"]
    config = live.aws.configs[live.aws.config]
    assert config["ProductionVariants"][0]["ModelName"] == champion
    (challenger,) = [*config["ProductionVariants"][1:], *config.get("ShadowProductionVariants", [])]
    assert live.aws.models[challenger["ModelName"]]["PrimaryContainer"]["Image"] == "newer"


@pytest.mark.parametrize("test", strategies.TESTS)
def test_a_test_ends_before_the_next_promotion(live: Live, test: str) -> None:
    live.deploy("m2", strategy=test)
    live.deploy("m2")
    assert live.aws.moves == [
        (f"fraud-m2-{test.removesuffix('_test')}", False),
        ("fraud-m1", False),
        ("fraud-m2", True),
    ]


def test_deploying_the_champion_ends_a_test(live: Live) -> None:
    live.deploy("m2", strategy="shadow")
    live.deploy("m1")
    assert live.aws.moves[1:] == [("fraud-m1", False)]


def test_an_endpoint_that_is_not_where_the_release_says_is_moved_all_the_same(live: Live) -> None:
    live.deploy("m2")  # and its release was never written, or a rollback ended half way
    live.deploy("m1")
    assert live.aws.at == "fraud-m1" and live.aws.moves[-1] == ("fraud-m1", True)


@pytest.mark.parametrize("alarm", ["5xx", "latency", "review-rate"])
def test_an_alarm_during_a_test_sends_it_back(live: Live, alarm: str) -> None:
    live.aws.ringing = alarm
    with pytest.raises(
        DeploymentError, match=f"fraud-fraud-{alarm} rang during the ab test; fraud is back on fraud-m1-"
    ):
        live.deploy("m2", strategy="ab_test", wait_seconds=1)
    assert live.aws.at == "fraud-m1"


def test_the_probes_of_a_deployment_that_was_sent_back_are_kept(live: Live, monkeypatch) -> None:
    live.aws.ringing = "5xx"
    probe = {"ok": True, "ms": 1.0, "at": 0.0, "model_version": "m2", "error": ""}
    monkeypatch.setattr(Quiet, "taken", [probe])
    done = deploy("m2", live.champion, strategy="ab_test", wait_seconds=1)
    assert done.probes == [probe] and done.n_failed == 0
    assert (live.aws.at, plain(done.endpoint_config)) == ("fraud-m1", "fraud-m2-ab")
    with pytest.raises(DeploymentError, match="5xx rang during the ab test; fraud is back on fraud-m1-"):
        done.check()
    live.aws.ringing = ""
    deploy("m2", live.champion).check()


def test_where_no_probe_was_sent_the_failure_is_told_at_once(aws: SageMaker, monkeypatch) -> None:
    monkeypatch.setattr(aws, "create_endpoint", lambda **_: None)
    monkeypatch.setattr(deployment, "describe", lambda name: aws.config or None)
    with pytest.raises(DeploymentError, match="nothing answers on"):
        deploy("m1")


@pytest.mark.parametrize("lost", [{"EnableCapture": False}, {"CurrentSamplingPercentage": 50}])
def test_a_deployment_that_lost_its_capture_is_none(live: Live, lost: dict[str, Any]) -> None:
    live.aws.lost = lost
    with pytest.raises(DeploymentError, match="does not capture 100 % of its traffic"):
        live.deploy("m2")


def test_a_deployment_that_lost_its_key_is_none(live: Live) -> None:
    live.aws.where.kms_key_arn = "key"
    live.deploy("m2")
    live.aws.lost = {"KmsKeyId": "another"}
    with pytest.raises(DeploymentError, match="does not encrypt its disks and captures with key"):
        live.deploy("m3")
    live.aws.lost, live.aws.configs[live.aws.config]["KmsKeyId"] = {}, "another"
    with pytest.raises(DeploymentError, match="does not encrypt"):
        live.deploy("m3")


def test_a_column_that_nobody_sends_deals_out_nothing(live: Live) -> None:
    with pytest.raises(ParameterError, match="sticky_column is 'crad1', which is no field"):
        live.deploy("m2", strategy="ab_test", sticky_column="crad1")
    live.deploy("m2", strategy="ab_test", sticky_column="card1")
    assert live.aws.at == "fraud-m2-ab"
