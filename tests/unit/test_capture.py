"""SageMaker's captured lines: every encoding, every cut, real samples of other people's endpoints."""

import base64
import datetime as dt
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraud.capture import (
    Record,
    encode_line,
    hour_of_key,
    hour_prefixes,
    only_live,
    parse_file,
    parse_line,
    variant_of_key,
)
from fraud.errors import CaptureFormatError
from fraud.schema import Feature, Schema

ANY_SPEED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SAMPLES = Path(__file__).parents[3] / "shared" / "data" / "capture_samples"
HOUR = "data-capture/fraud/AllTraffic/2026/01/02/03"
KEY = f"{HOUR}/04-05-678-6f0e2c1a-0000-4000-8000-000000000000.jsonl"
NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC).timestamp()


def line(request, answer=None, **meta):
    """A captured line around two payloads, with JSON encoding unless they are ready-made sides."""
    capture = {"endpointInput": _side(request)}
    if answer is not None:
        capture["endpointOutput"] = _side(answer)
    known = {"eventId": "e-1", "inferenceTime": "2026-01-02T12:00:00Z"} | meta
    return json.dumps({"captureData": capture, "eventMetadata": known, "eventVersion": "0"}).encode()


def _side(payload):
    if isinstance(payload, dict) and "encoding" in payload:
        return payload
    return {"observedContentType": "application/json", "data": json.dumps(payload), "encoding": "JSON"}


def answer(*scores, version="run-1"):
    return {"predictions": [{"fraud_probability": score} for score in scores], "model_version": version}


def test_a_batch_becomes_one_record_for_each_transaction():
    request = {"transactions": [{"a": 1}, {"a": None}], "inference_ids": ["x", "y"]}
    assert parse_line(line(request, answer(0.25, 1)), "blue") == [
        Record("x", "e-1", NOON, {"a": 1}, 0.25, "run-1", "blue"),
        Record("y", "e-1", NOON, {"a": None}, 1.0, "run-1", "blue"),
    ]


@pytest.mark.parametrize(
    ("request_ids", "rows", "meta", "expected"),
    [
        (["x"], 1, {"inferenceId": "m"}, ["x"]),
        ([], 1, {"inferenceId": "m"}, ["m"]),
        ([], 1, {}, ["e-1/0"]),
        ([], 2, {"inferenceId": "m"}, ["e-1/0", "e-1/1"]),
        (["x", ""], 3, {}, ["x", "e-1/1", "e-1/2"]),
        (["x", None], 2, {}, ["x", "e-1/1"]),
        ("xy", 2, {}, ["e-1/0", "e-1/1"]),
    ],
)
def test_inference_ids(request_ids, rows, meta, expected):
    request = {"transactions": [{}] * rows, "inference_ids": request_ids}
    found = parse_line(line(request, answer(*[0.5] * rows), **meta), "v")
    assert [record.inference_id for record in found] == expected


def test_an_answer_that_was_not_captured_leaves_score_and_model_open():
    (record,) = parse_line(line({"transactions": [{"a": 1}]}), "v")
    assert (record.fraud_probability, record.model_version) == (None, "")


@pytest.mark.parametrize(
    ("meta", "body_source", "source"),
    [
        ({}, None, "live"),
        ({}, "canary", "canary"),
        ({}, "Test", "test"),
        ({}, "web", "live"),
        ({}, 7, "live"),
        ({"customAttributes": "source=replay"}, None, "replay"),
        ({"customAttributes": ["team=x;source=canary"]}, None, "canary"),
        ({"customAttributes": "sources=canary"}, None, "live"),
    ],
)
def test_traffic_tags(meta, body_source, source):
    request = {"transactions": [{}]} | ({"source": body_source} if body_source is not None else {})
    records = parse_line(line(request, answer(0.5), **meta), "v")
    assert [record.source for record in records] == [source]
    live, dropped = only_live(records)
    assert (len(live), dict(dropped)) == ((1, {}) if source == "live" else (0, {source: 1}))


SCHEMA = Schema((Feature("amount", "number"), Feature("card", "category", False, ("visa",))))


def test_csv_needs_the_schema_and_follows_it():
    csv = {"observedContentType": "text/csv", "data": '12.5,visa\n,"a,b"\n', "encoding": "CSV"}
    scores = {"observedContentType": "text/csv; charset=utf-8", "data": "0.25\n0.5", "encoding": "CSV"}
    found = parse_line(line(csv, scores), "v", SCHEMA)
    assert [(r.transaction, r.fraud_probability, r.model_version) for r in found] == [
        ({"amount": 12.5, "card": "visa"}, 0.25, ""),
        ({"card": "a,b"}, 0.5, ""),
    ]
    with pytest.raises(CaptureFormatError, match="needs the schema"):
        parse_line(line(csv, scores), "v")
    with pytest.raises(CaptureFormatError, match="does not fit the schema"):
        parse_line(line(csv | {"data": "twelve,visa"}, scores), "v", SCHEMA)


def test_sides_may_be_encoded_differently():
    coded = base64.b64encode(b"0.75").decode()
    scores = {"observedContentType": "text/csv", "data": coded, "encoding": "BASE64"}
    (record,) = parse_line(line({"transactions": [{"a": "ü"}]}, scores), "v")
    assert (record.transaction, record.fraud_probability) == ({"a": "ü"}, 0.75)


ONE = {"transactions": [{}]}


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (b"", "the line is no JSON"),
        (b"[" * 100_000, "the line is no JSON"),
        (b"\xff", "the line is no JSON"),
        (b"[]", "the line is no JSON object"),
        (b"{}", "there is no captureData"),
        (line(ONE, eventId=""), "there is no eventId"),
        (line(ONE, inferenceTime="yesterday"), "inferenceTime is no ISO 8601 moment"),
        (line(ONE, inferenceTime=5), "inferenceTime is no ISO 8601 moment"),
        (line(ONE).replace(b'"eventVersion": "0"', b'"eventVersion": "1"'), "eventVersion is not 0"),
        (line({"instances": [{"features": [1]}]}), 'the captured request is not of the form {"transactions"'),
        (line({"transactions": {}}), 'the captured request is not of the form {"transactions"'),
        (line({"transactions": [1]}), 'the captured request is not of the form {"transactions"'),
        (line({"encoding": "JSON"}), "the captured request has no data"),
        (line({"data": "{}", "encoding": "XML"}), "encoding other than"),
        (line({"data": "!", "encoding": "BASE64"}), "no BASE64"),
        (line({"data": "/w==", "encoding": "BASE64"}), "no BASE64 of text"),
        (line({"data": '{"transactions": [{"a": NaN}]}', "encoding": "JSON"}), "the captured request is no JSON"),
        (line(ONE, {"error": "x"}), "the captured answer is not of the form"),
        (line(ONE, answer(0.5, 0.5)), "2 predictions for 1 transactions"),
        (line(ONE, answer()), "0 predictions for 1 transactions"),
        (line(ONE, answer(1.5)), "outside 0 to 1"),
        (line(ONE, answer(True)), "outside 0 to 1"),
        (line(ONE, answer("0.5")), "outside 0 to 1"),
        (line(ONE, answer(None)), "outside 0 to 1"),
        (line(ONE, {"data": "nan", "encoding": "CSV"}), "outside 0 to 1"),
        (line(ONE, {"data": "high", "encoding": "CSV"}), "outside 0 to 1"),
    ],
)
def test_what_cannot_be_read_has_a_reason(broken, reason):
    with pytest.raises(CaptureFormatError) as caught:
        parse_line(broken, "v")
    assert reason in str(caught.value)


JSON_VALUES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(0, 1e9) | st.text(max_size=8)
TRANSACTIONS = st.lists(st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=4), min_size=1, max_size=4)
ENCODINGS = st.tuples(*[st.sampled_from(["JSON", "BASE64"])] * 2)


@ANY_SPEED
@given(TRANSACTIONS, st.floats(0, 1), ENCODINGS, st.integers(0, 4_000_000_000), st.sampled_from(["live", "canary"]))
def test_decoding_is_the_inverse_of_encoding(transactions, score, encodings, time, source):
    ids = [f"id-{k}" for k in range(len(transactions))]
    scores = [score / (k + 1) for k in range(len(transactions))]
    encoded = encode_line(
        transactions,
        scores,
        event_id="e",
        time=time,
        model_version="m",
        inference_ids=ids,
        source=source,
        encodings=encodings,
    )
    assert encoded.endswith(b"\n")
    assert encoded.count(b"\n") == 1
    assert parse_line(encoded, "v") == [
        Record(i, "e", time, t, s, "m", "v", source) for i, t, s in zip(ids, transactions, scores, strict=True)
    ]


@ANY_SPEED
@given(st.binary(max_size=60) | st.text(max_size=60))
def test_no_line_raises_anything_else(text):
    with pytest.raises(CaptureFormatError):
        parse_line(text, "v")


def test_a_file_that_is_cut_loses_the_cut_line_and_says_so():
    lines = [encode_line([{"a": "ü", "k": k}], [0.5], event_id=f"e{k}", time=NOON + k) for k in range(3)]
    whole = b"".join(lines)
    ends = [sum(map(len, lines[: k + 1])) for k in range(3)]
    for size in range(len(whole) + 1):
        records, problems = parse_file(whole[:size], KEY)
        kept = sum(size >= end - 1 for end in ends)  # the line break itself may be missing
        assert [record.event_id for record in records] == [f"e{k}" for k in range(kept)]
        cut = size not in (0, *ends, *(end - 1 for end in ends))
        assert [number for number, _ in problems] == ([kept + 1] if cut else [])
        assert not cut or problems[0][1].startswith("the file ends in the middle of a line")


def test_a_bad_line_costs_nothing_but_itself():
    good = encode_line([{"a": 1}], [0.5], event_id="e", time=NOON)
    records, problems = parse_file(good + b"garbage\n\n" + good, KEY)
    assert len(records) == 2
    assert problems == [(2, "the line is no JSON")]
    assert records[0].variant == "AllTraffic"


@pytest.mark.parametrize(
    "key",
    ["", "data-capture/fraud", KEY.replace("/03/", "/3/"), KEY + ".tmp", KEY.replace("-678", ""), "x\n" + KEY[50:]],
)
def test_other_keys_are_no_capture(key):
    with pytest.raises(CaptureFormatError):
        variant_of_key(key)


def test_an_hour_that_does_not_exist_is_no_capture():
    assert hour_of_key(KEY) == dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC).timestamp()
    with pytest.raises(CaptureFormatError):
        hour_of_key(KEY.replace("/01/02/", "/02/30/"))


def at(text):
    return dt.datetime.fromisoformat(text)


@pytest.mark.parametrize(
    ("start", "end", "hours"),
    [
        ("2026-01-01T00:00Z", "2026-01-01T00:00Z", []),
        ("2026-01-01T01:00Z", "2026-01-01T00:00Z", []),
        ("2026-01-01T00:30Z", "2026-01-01T00:40Z", ["2025/12/31/23", "2026/01/01/00"]),
        ("2026-01-01T00:00Z", "2026-01-01T01:00Z", ["2025/12/31/23", "2026/01/01/00"]),
        ("2026-01-01T00:59:59.999Z", "2026-01-01T01:00:00.001Z", ["2025/12/31/23", "2026/01/01/00", "2026/01/01/01"]),
        ("2024-02-29T00:00Z", "2024-02-29T00:01Z", ["2024/02/28/23", "2024/02/29/00"]),
        ("2026-03-29T01:30+01:00", "2026-03-29T03:30+02:00", ["2026/03/28/23", "2026/03/29/00", "2026/03/29/01"]),
        ("2026-01-01T05:00", "2026-01-01T05:01", ["2026/01/01/04", "2026/01/01/05"]),
    ],
)
def test_hours_of_a_window(start, end, hours):
    found = hour_prefixes("fraud", "blue", at(start), at(end))
    assert found == [f"data-capture/fraud/blue/{hour}/" for hour in hours]


def test_all_variants_have_one_prefix():
    assert hour_prefixes("fraud", None, 0, 1) == ["data-capture/fraud/"]
    assert hour_prefixes("fraud", None, 1, 1) == []


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the shared capture samples are not on this machine")
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("1_*", "is not of the form"),  # {"instances": …}
        ("2_*", "needs the schema"),
        ("3_*", "is not of the form|is no JSON"),  # JSON lines
        ("4_*", "needs the schema"),
        ("5_*", "needs the schema"),
    ],
)
def test_samples_of_other_endpoints_are_refused_with_the_reason(name, reason):
    (path,) = SAMPLES.glob(name)
    lines = [text for text in path.read_bytes().split(b"\n") if text.strip()]
    assert lines
    for text in lines:
        with pytest.raises(CaptureFormatError, match=reason) as caught:
            parse_line(text, "AllTraffic")
        assert "eventId" not in str(caught.value)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the shared capture samples are not on this machine")
def test_real_csv_captures_are_read_with_a_schema_of_their_width():
    for name in ("2_*", "4_*"):
        (path,) = SAMPLES.glob(name)
        lines = [text for text in path.read_bytes().split(b"\n") if text.strip()]
        width = json.loads(lines[0])["captureData"]["endpointInput"]["data"].count(",") + 1
        schema = Schema(tuple(Feature(f"f{k}", "number") for k in range(width)))
        for text in lines:
            (record,) = parse_line(text, "AllTraffic", schema)
            assert 0 < record.fraud_probability < 1
            assert len(record.transaction) == width


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the shared capture samples are not on this machine")
def test_real_keys_name_the_variant():
    keys = [key for _, key in json.loads((SAMPLES / "keys.json").read_text())]
    captured = [key for key in keys if "/AllTraffic/" in key and "/part-" not in key]
    assert captured
    assert {variant_of_key(key) for key in captured} == {"AllTraffic"}
    for key in set(keys) - set(captured):
        with pytest.raises(CaptureFormatError):
            variant_of_key(key)
