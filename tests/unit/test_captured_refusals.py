"""A captured request that was refused is no payment: whatever reads captures tells it from those that were answered."""

from __future__ import annotations

import datetime as dt
import json

import pytest
import refusals

from fraud.capture import REFUSED, encode_line, only_live, parse_file, parse_line
from fraud.errors import CaptureFormatError
from fraud.pipeline.captured import build_part
from fraud.pipeline.roles import Roles
from fraud.schema import Feature, Schema

NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC).timestamp()
KEY = "data-capture/fraud/AllTraffic/2026/01/02/12/00-00-000-a1.jsonl"
SCHEMA = Schema((Feature("amount", "number", True), Feature("card", "category", False, ("visa",))))
REPORT = {"error": "UnsupportedFormatError", "error-message": "Content type x is not supported.", "stack-trace": ""}
SENT = [{"amount": 1.0}, {}, {"Amount": 1}, "", "[]", '{"transactions": [{"amount": NaN}]}', "no JSON at all"]


@pytest.mark.parametrize("sent", SENT, ids=str)
@pytest.mark.parametrize("kind", ["application/problem+json", "application/json"])
@pytest.mark.parametrize("answer", [refusals.PROBLEM, refusals.PROBLEM | {"status": 415}, REPORT])
def test_a_refusal_is_one_record_without_transaction_and_score(sent, kind, answer):
    (record,) = parse_line(refusals.line(sent, NOON, kind, answer), "blue", SCHEMA)
    assert (record.source, record.transaction, record.fraud_probability) == (REFUSED, {}, None)
    assert (record.event_id, record.time, record.variant) == ("r1", NOON, "blue")


def test_it_keeps_its_caller_and_a_tests_tag():
    (record,) = parse_line(refusals.line({}, NOON, customAttributes=["caller=9f86d081"]), "blue")
    assert (record.source, record.caller) == (REFUSED, "9f86d081")
    (record,) = parse_line(refusals.line({}, NOON, customAttributes=["source=test"]), "blue")
    assert record.source == "test"


@pytest.mark.parametrize(
    "answer", [{"status": 200}, {"status": "400"}, {"status": 500}, {"error": "x"}, {"predictions": []}, []]
)
def test_another_answer_without_scores_stays_a_bad_line(answer):
    with pytest.raises(CaptureFormatError):
        parse_line(refusals.line({"amount": 1}, NOON, answer=answer), "blue", SCHEMA)


def test_nobody_can_name_a_payment_refused():
    sent = json.loads(encode_line([{"amount": 1.0}], [0.5], event_id="e", time=NOON, source=REFUSED))
    sent["eventMetadata"]["customAttributes"] = ["source=refused"]
    records, problems = parse_file(json.dumps(sent).encode() + b"\n", KEY, SCHEMA)
    live, dropped = only_live(records)
    assert (len(live), dropped, problems) == (1, {}, [])


def test_the_ledger_gets_no_row_of_it():
    good = encode_line([{"amount": 1.0}], [0.5], event_id="e", time=NOON, inference_ids=["p"])
    wrong = b"".join(refusals.line(sent, NOON, event=f"r{k}") for k, sent in enumerate(SENT))
    table, about = build_part([(KEY, wrong + good)], {"amount": "float"}, Roles("y", "", "", "amount"), SCHEMA)
    assert table["__id"].to_pylist() == ["p"]
    assert (about["tagged"], about["bad"], about["foreign"]) == ({REFUSED: len(SENT)}, [], 0)
