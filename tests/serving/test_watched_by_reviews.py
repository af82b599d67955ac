"""The whole way of the alarm on reviews, on the local AWS: API, Lambda, its log line, metric, alarm, rollback."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

import pytest
from serving_kit import Background, at_home, in_service, live_rows, say

from fraud.demo.traffic import Api

pytestmark = [pytest.mark.localaws, pytest.mark.slow, pytest.mark.timeout(900)]
EASY = ["-p", "min_auc=0.5", "-p", "max_auc_drop=0.5", "-p", "max_segment_drop=1"]
BATCH = 20


class ApiCallers(Background):
    """Batches to the API, one after another."""

    def __init__(self, url: str) -> None:
        self.url, self.rows = url, live_rows(400)
        self.answers: Counter[str] = Counter()
        self.decisions: Counter[tuple[str, str]] = Counter()
        super().__init__()

    def _run(self) -> None:
        with Api(self.url, concurrency=1) as api:
            for number in range(1_000_000):
                if self._over.wait(0.1):
                    return
                first = number * BATCH % len(self.rows)
                body = json.dumps({"transactions": self.rows[first : first + BATCH]}).encode()
                status, answer = api.request("POST", "/predict", body)
                self.answers[str(status)] += 1
                if status == 200:
                    found: dict[str, Any] = json.loads(answer)
                    for item in found["predictions"]:
                        self.decisions[found["model_version"], item["decision"]] += 1


def known(house: Any, name: str) -> None:
    """Wait until the API has noticed which model is released."""
    with Api(house.outputs["ApiUrl"], concurrency=1) as api:
        end = time.monotonic() + 60
        while name not in api.request("GET", "/health", b"")[1].decode():
            assert time.monotonic() < end
            time.sleep(1)


def test_a_model_that_sends_half_to_review_is_sent_back(trained) -> None:
    house = trained
    house.fraud("run", "--run-id", "strict", "--only", "01")
    # As the released model it has half reviewed, also of what a model answers that its threshold was not made for.
    house.fraud("run", "--run-id", "strict", "--only", "02", "-p", "num_boost_round=32", "-p", "review_rate=0.5", *EASY)
    with at_home(house):
        house.fraud("run", "--run-id", "strict", "--only", "03", "-p", "strategy=all_at_once", "-p", "wait_seconds=0")
        known(house, "strict")
        with ApiCallers(house.outputs["ApiUrl"]) as callers:
            said = house.fraud("run", "--run-id", "proof-a", "--only", "03", "-p", "wait_seconds=3000", code=1).stderr
        say(f"\nsent back with callers: {dict(callers.decisions)}")
        assert "alarms were triggered during the update: fraud-fraud-review-rate" in " ".join(said.split()), said
        assert in_service("fraud") == "strict" and set(callers.answers) == {"200"}
        assert callers.decisions["proof-a", "review"] > callers.decisions["proof-a", "approve"]
        assert json.loads(house.read("releases/fraud/current.json"))["run_id"] == "strict"
