"""Captured requests scored by the new model before any caller meets it."""

from __future__ import annotations

import datetime as dt
import uuid
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import refusals

from fraud import capture
from fraud.errors import QualityGateError
from fraud.labels import GroundTruth, render_label_line
from fraud.pipeline import replay, scored
from fraud.pipeline.runs import now
from fraud.schema import CATEGORY, NUMBER, Feature, Schema

ROLES = {"amount": "amount", "id": "tx"}
SCHEMA = Schema((Feature("amount", NUMBER, True), Feature("card", CATEGORY, False, ("visa",))), ROLES)
CHAMPION = {
    "run_id": "m0",
    "model_version": "m0",
    "decision_threshold": 0.5,
    "schema_key": "releases/fraud/m0/schema.json",
}
P = SimpleNamespace(endpoint_name="fraud", replay_hours=24, replay_rows=2_000, max_refused_share=0.0)


class Model:
    """Scores the amount, in hundreds."""

    def __init__(self, schema: Schema = SCHEMA) -> None:
        self.schema = schema

    def probabilities(self, rows: np.ndarray) -> np.ndarray:
        return rows[:, 0] / 100


def model(schema: Schema = SCHEMA, threshold: float = 0.3) -> dict[str, Any]:
    return {"metrics": {"decision_threshold": threshold, "model_version": "m1"}, "loaded": Model(schema)}


@pytest.fixture
def run(storage) -> SimpleNamespace:
    storage.put(CHAMPION["schema_key"], SCHEMA.to_json().encode())
    return SimpleNamespace(storage=storage)


def put(
    run: SimpleNamespace,
    sent: list[tuple[dict, float]],
    *,
    ago: float = 600,
    version: str = "m0",
    source: str = "",
    variant: str = "AllTraffic",
) -> list[str]:
    """Capture one request for each ``(transaction, score)``."""
    at = now().timestamp() - ago
    ids = [uuid.uuid4().hex for _ in sent]
    lines = [
        capture.encode_line(
            [transaction], [score], event_id=name, time=at, model_version=version, inference_ids=[name], source=source
        )
        for (transaction, score), name in zip(sent, ids, strict=True)
    ]
    moment = dt.datetime.fromtimestamp(at, dt.UTC)
    run.storage.put(
        f"data-capture/fraud/{variant}/{moment:%Y/%m/%d/%H/%M-%S}-000-{uuid.uuid4().hex[:6]}.jsonl", b"".join(lines)
    )
    return ids


def test_decisions_that_flip_and_what_they_are_worth(run: SimpleNamespace) -> None:
    ids = put(run, [({"amount": 40.0}, 0.2), ({"amount": 60.0}, 0.9), ({"amount": 10.0}, 0.8), ({"amount": 5.0}, 0.1)])
    truth = [GroundTruth(ids[0], 1, now().timestamp()), GroundTruth(ids[2], 0, now().timestamp())]
    run.storage.put(f"labels/{now():%Y/%m/%d/%H}/a.jsonl", "\n".join(map(render_label_line, truth)).encode())
    done = replay.replay(run, P, CHAMPION, model())
    table = done.table()
    assert (done.n, done.n_flipped, done.n_refused, done.thresholds) == (4, 2, 0, (0.5, 0.3))
    assert table["payments"].tolist() == [1, 1, 1, 1]
    assert table.loc["let through before, reviewed now"].tolist() == [1, 40.0, 1, 1, 40.0]
    assert table.loc["reviewed before, let through now"].tolist() == [1, 10.0, 1, 0, 0.0]
    assert done.sentence() == "Of 4 captured requests **2 are decided otherwise** (50 %), worth 50.00."


def test_only_live_traffic_of_the_champion_is_replayed(run: SimpleNamespace) -> None:
    put(run, [({"amount": 1.0}, 0.1)])
    put(run, [({"amount": 2.0}, 0.1)], source="test")
    put(run, [({"amount": 3.0}, 0.1)], version="another")
    put(run, [({"amount": 4.0}, 0.1)], variant=capture.SHADOW)
    put(run, [({"amount": 5.0}, 0.1)], ago=25 * 3600)
    assert replay.replay(run, P, CHAMPION, model()).rows["amount"].tolist() == [1.0]


def test_the_newest_are_taken(run: SimpleNamespace) -> None:
    for hours in (5, 1, 3):
        put(run, [({"amount": float(hours)}, 0.1)], ago=3600.0 * hours)
    done = replay.replay(run, SimpleNamespace(**vars(P) | {"replay_rows": 2}), CHAMPION, model())
    assert done.rows["amount"].tolist() == [1.0, 3.0]


def test_a_model_that_would_refuse_what_callers_send_stops_here(run: SimpleNamespace) -> None:
    put(run, [({"amount": 1.0}, 0.1), ({"amount": 1.0, "card": "visa"}, 0.1)])
    strict = Schema((Feature("amount", NUMBER, True), Feature("card", CATEGORY, True, ("visa",))), ROLES)
    with pytest.raises(
        QualityGateError, match=r"model of m1 would refuse 1 of the last 2 requests.*card is missing.*\(1\)|card"
    ):
        replay.replay(run, P, CHAMPION, model(strict))
    allowed = replay.replay(run, SimpleNamespace(**vars(P) | {"max_refused_share": 0.5}), CHAMPION, model(strict))
    assert (allowed.n, allowed.n_refused, len(allowed.rows)) == (2, 1, 1)
    assert "**1 would be refused**" in allowed.sentence()


def test_what_the_present_model_refuses_too_is_no_reason(run: SimpleNamespace) -> None:
    wrong = [({"Amount": 5.0}, 0.1), ({}, 0.1), ({"amount": "5"}, 0.1), ({"amount": 1.0, "crad": "visa"}, 0.1)]
    put(run, [({"amount": 40.0}, 0.2), ({"amount": 1.0, "card": "visa"}, 0.1)])
    put(run, wrong, ago=60)  # newer, and as many as are looked at
    done = replay.replay(run, SimpleNamespace(**vars(P) | {"replay_rows": 4}), CHAMPION, model())
    assert (done.n, done.n_refused, done.n_flipped, done.refused_by_both) == (2, 0, 1, 4)
    assert done.sentence().endswith("Left out are 4 more, which the model in service refuses, too.")


def test_what_it_refuses_hides_no_new_refusal(run: SimpleNamespace) -> None:
    put(run, [({}, 0.1)] * 98 + [({"amount": 1.0}, 0.1), ({"amount": 1.0, "card": "visa"}, 0.1)])
    strict = Schema((Feature("amount", NUMBER, True), Feature("card", CATEGORY, True, ("visa",))), ROLES)
    lenient = SimpleNamespace(**vars(P) | {"max_refused_share": 0.4})
    with pytest.raises(QualityGateError, match="would refuse 1 of the last 2 requests that the model in service takes"):
        replay.replay(run, lenient, CHAMPION, model(strict))


def test_what_only_the_present_model_refuses_is_replayed(run: SimpleNamespace) -> None:
    put(run, [({"amount": 1.0, "device": "a"}, 0.1)])
    wider = Schema((*SCHEMA.features, Feature("device", CATEGORY, False, ("a",))), ROLES)
    done = replay.replay(run, P, CHAMPION, model(wider))
    assert (done.n, done.n_refused, done.refused_by_both) == (1, 0, 0)


@pytest.mark.parametrize("kind", ["application/problem+json", "application/json"])
def test_captured_refusals_are_not_replayed(run: SimpleNamespace, kind: str) -> None:
    put(run, [({"amount": 1.0}, 0.1)])
    moment = now() - dt.timedelta(minutes=5)
    key = f"data-capture/fraud/AllTraffic/{moment:%Y/%m/%d/%H/%M-%S}-000-ab.jsonl"
    run.storage.put(key, refusals.line({"amount": 5.0}, moment.timestamp(), kind))
    assert replay.replay(run, P, CHAMPION, model()).n == 1


@pytest.mark.parametrize(("champion", "hours"), [(None, 24), (CHAMPION, 0), (CHAMPION, 24)])
def test_nothing_to_replay_is_no_fault(run: SimpleNamespace, champion: dict | None, hours: int) -> None:
    if not hours or champion is None:
        put(run, [({"amount": 1.0}, 0.1)])
    done = replay.replay(run, SimpleNamespace(**vars(P) | {"replay_hours": hours}), champion, model())
    assert (done.n, done.n_flipped) == (0, 0) and done.table()["payments"].sum() == 0
    assert done.sentence() == "There is no captured traffic to replay."


def test_records_of_both_variants_come_newest_first(run: SimpleNamespace) -> None:
    put(run, [({"amount": 1.0}, 0.1)], ago=7200)
    put(run, [({"amount": 2.0}, 0.1)], ago=3600, variant="Challenger")
    put(run, [({"amount": 3.0}, 0.1)], ago=60)
    end = now().timestamp()
    found = scored.records(run.storage, "fraud", end - 86_400, end, SCHEMA, variants=("AllTraffic", "Challenger"))
    assert [record.transaction["amount"] for record in found] == [3.0, 2.0, 1.0]


def test_truth_comes_from_lines_and_from_a_banks_csv(run: SimpleNamespace) -> None:
    folder = f"labels/{now():%Y/%m/%d/%H}"
    run.storage.put(f"{folder}/bank.csv", b"payment,bad\np-1,1\np-2,\np-3,0\n")
    run.storage.put(f"{folder}/usual.csv", b"inference_id,label,label_time\np-4,1,2026-01-01T00:00:00Z\n")
    found = scored.truth(run.storage, ["payment", "bad", ""])
    assert {name: one.label for name, one in found.items()} == {"p-1": 1, "p-3": 0}
    assert {name: one.label for name, one in scored.truth(run.storage).items()} == {"p-4": 1}
