"""A challenger as shadow, in an A/B test, promoted by canary, and the way back: on the local AWS, with callers."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from typing import Any

import boto3
import pytest

from fraud.archive import read_members

pytestmark = [pytest.mark.localaws, pytest.mark.slow]
EASY = ["-p", "min_auc=0.5", "-p", "max_auc_drop=0.5", "-p", "max_segment_drop=1"]


class Callers:
    """Live requests to the endpoint from threads of their own, without a pause."""

    def __init__(self, house: Any, transactions: list[dict[str, Any]]) -> None:
        self.house, self.transactions = house, transactions
        self.answers: Counter[str] = Counter()
        self.failed: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(k,)) for k in range(4)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _call(self, k: int) -> None:
        runtime = client(self.house, "sagemaker-runtime")
        n = 0
        while not self._over.is_set():
            body = {
                "transactions": [self.transactions[n % len(self.transactions)]],
                "inference_ids": [f"{id(self)}-{k}-{n}"],
            }
            try:
                answer = runtime.invoke_endpoint(
                    EndpointName="fraud", ContentType="application/json", Body=json.dumps(body).encode()
                )
                self.answers[json.loads(answer["Body"].read())["model_version"]] += 1
            except Exception as error:
                self.failed.append(f"{type(error).__name__}: {error}")
            n += 1


def client(house: Any, service: str) -> Any:
    from botocore.config import Config

    address = house.environment.get(f"AWS_ENDPOINT_URL_{service.upper().replace('-', '_')}")
    return boto3.client(
        service,
        endpoint_url=address or house.environment["AWS_ENDPOINT_URL"],
        region_name=house.environment["AWS_REGION"],
        aws_access_key_id=house.environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=house.environment["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}),
    )


def release(house: Any) -> dict[str, Any]:
    return json.loads(house.read("releases/fraud/current.json"))


def endpoint(house: Any) -> dict[str, Any]:
    return client(house, "sagemaker").describe_endpoint(EndpointName="fraud")


def record(house: Any, run_id: str, step: str) -> dict[str, Any]:
    return json.loads(house.read(f"runs/{run_id}/{step}.json"))


@pytest.fixture(scope="module")
def callers(house):
    """Two trained models, the first of them in service; makes callers."""
    house.fraud("run", "--run-id", "strat1", "-p", "num_boost_round=40", "-p", "wait_seconds=1", *EASY)
    house.fraud("run", "--run-id", "strat2", "--only", "01")
    house.fraud("run", "--run-id", "strat2", "--only", "02", "-p", "num_boost_round=45", *EASY)
    (archive,) = (key for key in house.keys("runs/strat1/model/") if key.endswith("model.tar.gz"))
    golden = json.loads(read_members(house.read(archive))["golden.json"])
    return lambda: Callers(house, golden["transactions"])


def deploy(house: Any, strategy: str, *arguments: str) -> None:
    house.fraud("run", "--run-id", "strat2", "--only", "03", "-p", f"strategy={strategy}", *arguments)


def test_a_challenger_is_shadowed_tested_promoted_and_rolled_back_without_a_failed_request(house, callers) -> None:
    with callers() as heard:
        deploy(house, "shadow", "-p", "traffic_percent=100", "-p", "wait_seconds=3")
        time.sleep(3)
    assert not heard.failed and set(heard.answers) == {"strat1"}
    assert endpoint(house)["ShadowProductionVariants"][0]["VariantName"] == "Shadow"
    assert release(house)["run_id"] == "strat1" and "challenger" not in release(house)
    assert house.keys("data-capture/fraud/Shadow/"), "the shadow was never asked"

    with callers() as heard:
        deploy(house, "ab_test", "-p", "traffic_percent=50", "-p", "wait_seconds=3")
        time.sleep(3)
    assert not heard.failed and set(heard.answers) == {"strat1", "strat2"}
    found = release(house)
    assert (found["run_id"], found["challenger"]["run_id"]) == ("strat1", "strat2")
    shares = {v["VariantName"]: v["CurrentWeight"] for v in endpoint(house)["ProductionVariants"]}
    assert shares == {"AllTraffic": 50.0, "Challenger": 50.0}
    assert record(house, "strat2", "03_deploy")["n_replayed"] > 100
    house.fraud("run", "--run-id", "strat3", "--only", "04")
    page = house.read("runs/strat3/04_drift_report.html").decode()
    assert "too few to compare them yet" in page and "challenger strat2" in page

    with callers() as heard:
        said = house.fraud("rollback").stderr
    assert "The test is over: strat1 alone answers" in said and not heard.failed
    assert len(endpoint(house)["ProductionVariants"]) == 1 and "challenger" not in release(house)

    with callers() as heard:
        deploy(house, "canary", "-p", "wait_seconds=1", "-p", "termination_wait_seconds=0")
    assert not heard.failed and heard.answers["strat2"] and release(house)["run_id"] == "strat2"

    for expected in ("strat1", "strat2"):
        with callers() as heard:
            said = house.fraud("rollback", *(["--to", "strat2"] if expected == "strat2" else [])).stderr
            time.sleep(1)
        assert f"{expected} is back in service" in said and not heard.failed, heard.failed[:3]
        assert set(heard.answers) == {"strat1", "strat2"}
        found = release(house)
        assert found["run_id"] == expected and endpoint(house)["EndpointConfigName"] == found["endpoint_config"]
        assert found["endpoint_config"].startswith(f"fraud-{expected}-")


def test_what_cannot_be_rolled_back_to_is_one_sentence(house, callers) -> None:
    said = house.fraud("rollback", "--to", "nobody", code=1).stderr
    assert "nobody was never released at fraud" in said and "Traceback" not in said
    assert "already" in house.fraud("rollback", "--to", release(house)["run_id"]).stderr
    assert "Nothing is deployed at elsewhere" in house.fraud("rollback", "--endpoint", "elsewhere", code=1).stderr


def test_a_test_needs_a_champion(house, callers) -> None:
    run_id = release(house)["run_id"]
    said = house.fraud(
        "run", "--run-id", "strat4", "--only", "03", "-p", f"model_run={run_id}", "-p", "strategy=ab_test", code=2
    )
    assert "this very model is in service" in said.stderr
