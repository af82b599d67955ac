"""The pointer to what is live: written once per deployment, kept by tests, and moved back by a rollback."""

from __future__ import annotations

import datetime as dt
import json
from types import SimpleNamespace
from typing import Any

import pytest

from fraud.errors import DeploymentError
from fraud.pipeline import deployment, probing, releases, rollback

SERVED = {"scores": [0.1, 0.2], "sha256": "s-m2"}


def p(strategy: str = "canary", **change: Any) -> SimpleNamespace:
    given = {
        "capture_percentage": 100,
        "endpoint_name": "fraud",
        "strategy": strategy,
        "traffic_percent": 10,
        "sticky_column": "",
    }
    return SimpleNamespace(**given | change)


def model(run_id: str) -> dict[str, Any]:
    return {
        "model_sha256": f"s-{run_id}",
        "archive_sha256": f"a-{run_id}",
        "metrics": {"decision_threshold": 0.3},
        "schema": {},
        "baseline": {},
        "golden": {"transactions": [{}, {}], "scores": [0.1, 0.2]},
    }


class Endpoint:
    """What SageMaker would say of the endpoint; moved by `go_back` alone."""

    def __init__(self) -> None:
        self.config, self.variants = "fraud-m1", 1

    def describe(self, endpoint_name: str) -> dict[str, Any] | None:
        if endpoint_name != "fraud":
            return None
        return {"EndpointConfigName": self.config, "ProductionVariants": [{}] * self.variants}

    def go_back(self, endpoint_name: str, config: str) -> None:
        self.config, self.variants = config, 1


@pytest.fixture
def world(storage, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    endpoint = Endpoint()
    monkeypatch.setattr(deployment, "describe", endpoint.describe)
    monkeypatch.setattr(deployment, "go_back", endpoint.go_back)
    monkeypatch.setattr(rollback, "read_model", lambda run, uri: model(uri.removeprefix("s3://")))
    served = SimpleNamespace(answer=lambda: SERVED | {"sha256": endpoint.config.replace("fraud-", "s-")[:4]})
    monkeypatch.setattr(probing, "served_scores", lambda *_: served.answer())
    return SimpleNamespace(storage=storage, endpoint=endpoint, served=served)


def run(world: SimpleNamespace, run_id: str) -> SimpleNamespace:
    return SimpleNamespace(run_id=run_id, storage=world.storage)


def release(world: SimpleNamespace, run_id: str, strategy: str = "canary", **change: Any) -> dict[str, Any]:
    trained, config = {"model_uri": f"s3://{run_id}", "auc": 0.9}, change.pop("config", f"fraud-{run_id}")
    if strategy == "canary":
        world.endpoint.config, world.endpoint.variants = config, 1
    elif strategy == "ab_test":
        world.endpoint.config, world.endpoint.variants = f"{config}-ab", 2
    return releases.write_release(
        run(world, run_id), p(strategy, **change), trained, model(run_id), world.endpoint.config
    )


def pointer(world: SimpleNamespace) -> dict[str, Any]:
    return json.loads(world.storage.get("releases/fraud/current.json"))


def test_each_release_knows_the_one_before(world) -> None:
    assert release(world, "m1")["previous"] is None
    assert release(world, "m2")["previous"] == "m1"
    assert release(world, "m2") == pointer(world), "a repetition changes nothing"


def test_a_release_says_how_label_files_are_read(world) -> None:
    assert release(world, "m1")["label_columns"] is None
    world.storage.put("runs/m2/01_merge_data.json", b'{"label_columns": ["payment", "", ""]}')
    assert release(world, "m2")["label_columns"] == ["payment", "", ""]


def test_the_same_release_on_another_configuration(world) -> None:
    release(world, "m1")
    before = release(world, "m2")
    found = release(world, "m2", config="fraud-m2-larger")
    assert found == before | {"endpoint_config": "fraud-m2-larger"} == pointer(world)
    release(world, "m3")
    rollback.rollback(run(world, "x"), "fraud")
    assert world.endpoint.config == "fraud-m2-larger", "the way back is to what was in service last"
    assert (pointer(world)["run_id"], pointer(world)["previous"]) == ("m2", "m1")


@pytest.mark.parametrize("strategy", ["canary", "shadow", "ab_test"])
def test_a_run_has_one_model_at_an_endpoint(world, strategy: str) -> None:
    """A model's version is its run's id: two of one version could not be told apart in what is captured."""
    release(world, "m1")
    releases.check_same_model(run(world, "m2"), "fraud", model("m2"))
    release(world, "m2", strategy)
    releases.check_same_model(run(world, "m2"), "fraud", model("m2"))
    releases.check_same_model(run(world, "m2"), "fraud-eu", model("m3"))
    another = model("m2") | {"archive_sha256": "b", "baseline": {"rows": 2}}
    with pytest.raises(DeploymentError, match=r"^The run m2 has had another model at fraud, .* another run_id\.$"):
        releases.check_same_model(run(world, "m2"), "fraud", another)


def test_a_test_keeps_the_champion(world, monkeypatch) -> None:
    before = release(world, "m1")
    assert release(world, "m2", "shadow") == before == pointer(world)
    found = release(world, "m2", "ab_test", sticky_column="card1")
    test = found.pop("challenger")
    assert found == before and pointer(world)["challenger"] == test
    assert (test["model_version"], test["variant"], test["traffic_percent"], test["sticky_column"]) == (
        "m2",
        "Challenger",
        10,
        "card1",
    )
    later = releases.now() + dt.timedelta(hours=1)
    monkeypatch.setattr(releases, "now", lambda: later)
    assert release(world, "m2", "ab_test", sticky_column="card1")["challenger"]["since"] == test["since"]
    assert release(world, "m2", "ab_test")["challenger"]["since"] != test["since"], "another test begins now"


def test_promoting_either_side_ends_the_test(world) -> None:
    release(world, "m1")
    release(world, "m2", "ab_test")
    assert "challenger" not in release(world, "m1") and pointer(world)["run_id"] == "m1"
    release(world, "m2", "ab_test")
    found = release(world, "m2")
    assert (found["run_id"], found["previous"]) == ("m2", "m1") and "challenger" not in pointer(world)


def test_rollback_returns_step_by_step(world) -> None:
    for name in ("m1", "m2", "m3"):
        release(world, name)
    assert rollback.rollback(run(world, "x"), "fraud").startswith("m2 is back in service at fraud, in place of m3")
    found = pointer(world)
    assert (found["run_id"], found["previous"], found["rolled_back_from"]) == ("m2", "m1", "m3")
    assert world.endpoint.config == "fraud-m2"
    rollback.rollback(run(world, "x"), "fraud")
    assert pointer(world)["run_id"] == "m1"
    with pytest.raises(DeploymentError, match="m1 is the first release of fraud"):
        rollback.rollback(run(world, "x"), "fraud")
    rollback.rollback(run(world, "x"), "fraud", "m3")
    assert pointer(world)["run_id"] == "m3"


def test_rollback_ends_a_test_first(world) -> None:
    release(world, "m1")
    release(world, "m2")
    release(world, "m3", "ab_test")
    assert rollback.rollback(run(world, "x"), "fraud") == "The test is over: m2 alone answers at fraud."
    assert pointer(world)["run_id"] == "m2" and "challenger" not in pointer(world)
    assert world.endpoint.config == "fraud-m2"


def test_a_release_that_serves_something_else_does_not_become_the_pointer(world) -> None:
    release(world, "m1")
    release(world, "m2")
    world.served.answer = lambda: {"scores": [0.1, 0.2], "sha256": "other"}
    with pytest.raises(DeploymentError, match="loaded the model other"):
        rollback.rollback(run(world, "x"), "fraud")
    assert pointer(world)["run_id"] == "m2"
    world.served.answer = lambda: {"scores": [0.1, 0.2000001], "sha256": "s-m1"}
    with pytest.raises(DeploymentError, match="1 of 2 golden rows score differently"):
        rollback.rollback(run(world, "x"), "fraud")


def test_of_two_deployments_at_once_one_is_told(world, monkeypatch) -> None:
    release(world, "m1")
    read = releases.read_pointer

    def somebody_else_was_faster(storage, endpoint_name):
        found = read(storage, endpoint_name)
        storage.put("releases/fraud/current.json", b'{"run_id": "other"}')
        return found

    monkeypatch.setattr(releases, "read_pointer", somebody_else_was_faster)
    with pytest.raises(DeploymentError, match="Another deployment of fraud finished meanwhile"):
        release(world, "m2")
    assert pointer(world) == {"run_id": "other"}


def test_what_cannot_be_rolled_back_is_said(world) -> None:
    with pytest.raises(DeploymentError, match="Nothing is deployed at fraud"):
        rollback.rollback(run(world, "x"), "fraud")
    release(world, "m1")
    with pytest.raises(DeploymentError, match="nobody was never released at fraud"):
        rollback.rollback(run(world, "x"), "fraud", "nobody")
    assert rollback.rollback(run(world, "x"), "fraud", "m1") == "m1 is in service at fraud already."
