"""SageMaker's captured lines: every encoding, every cut, real samples of other people's endpoints."""

import base64
import datetime as dt
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud.capture import (
    Record,
    encode_line,
    first_of_each,
    hour_of_key,
    hour_prefixes,
    only_live,
    parse_file,
    parse_line,
    read_attributes,
    read_caller,
    variant_of_key,
)
from fraud.errors import CaptureFormatError
from fraud.schema import Feature, Schema

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
        (line({"instances": [{"features": [1]}]}), "features without names, which needs the schema"),
        (line({"instances": [{"a": 1}]}), 'the captured request is not of the form {"transactions"'),
        (line({"features": [1]}), "features without names, which needs the schema"),
        (line({}), 'the captured request is not of the form {"transactions"'),
        (line({"transactions": [{"a": "\ud800"}]}), "the captured request is no JSON"),
        (
            line({"data": "{}\n[]", "encoding": "JSON", "observedContentType": "application/jsonlines"}),
            "is not of the form",
        ),
        (
            line({"data": '{"a":1}\n[]', "encoding": "JSON", "observedContentType": "application/jsonlines"}),
            "a line of",
        ),
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


def test_one_transaction_needs_no_wrapping():
    sent = {"a": 1, "inference_id": "x", "source": "canary", "reasons": True}
    assert parse_line(line(sent, {"fraud_probability": 0.5, "model_version": "m"}), "v") == [
        Record("x", "e-1", NOON, {"a": 1}, 0.5, "m", "v", "canary")
    ]
    known = Schema((Feature("source", "category"), Feature("reasons", "boolean")), ignored=("inference_id",))
    (record,) = parse_line(line(sent, answer(0.5)), "v", known)
    assert (record.transaction, record.source, record.inference_id) == (sent, "live", "e-1/0")


def jsonlines(*items):
    text = "".join(json.dumps(item) + "\n" for item in items)
    return {"observedContentType": "application/jsonlines; charset=utf-8", "data": text, "encoding": "JSON"}


def test_json_lines_and_features_without_names():
    request = jsonlines({"a": 1}, {"a": 2, "inference_id": "x"})
    found = parse_line(line(request, jsonlines({"score": 0.25}, {"fraud_probability": 1})), "v")
    assert [(r.inference_id, r.transaction, r.fraud_probability) for r in found] == [
        ("e-1/0", {"a": 1}, 0.25), ("x", {"a": 2}, 1.0)
    ]  # fmt: skip
    (one,) = parse_line(line(jsonlines({"transactions": [{"a": 1}], "inference_ids": ["y"]})), "v")
    assert (one.inference_id, one.transaction) == ("y", {"a": 1})
    rows = [{"features": [1, "visa"]}, {"features": [None, "x"]}]
    for sent in ({"instances": rows}, jsonlines(*rows)):
        found = parse_line(line(sent, answer(0.5, 0.5)), "v", SCHEMA)
        assert [record.transaction for record in found] == [{"amount": 1, "card": "visa"}, {"card": "x"}]
    with pytest.raises(CaptureFormatError, match="has 3 features where the schema has 2"):
        parse_line(line({"instances": [{"features": [1, 2, 3]}]}), "v", SCHEMA)


@pytest.mark.parametrize("kind", ["text/csv;header=present", 'Text/CSV; charset=utf-8; header="present"'])
def test_a_csv_header_names_the_cells(kind):
    csv = {"observedContentType": kind, "data": "card,amount\r\nvisa,1\r\n", "encoding": "CSV"}
    (record,) = parse_line(line(csv), "v", SCHEMA)
    assert record.transaction == {"amount": 1.0, "card": "visa"}
    (record,) = parse_line(line(csv | {"data": "card\nvisa"}), "v", SCHEMA)
    assert record.transaction == {"card": "visa"}
    for data, reason in (("card,size\nvisa,1", "names other fields"), ("card,card\n1,1", "names other fields"),
                         ("card,amount\nvisa", "more or fewer cells")):  # fmt: skip
        with pytest.raises(CaptureFormatError, match=reason):
            parse_line(line(csv | {"data": data}), "v", SCHEMA)
    absent = csv | {"observedContentType": "text/csv;header=absent", "data": "1,visa"}
    assert parse_line(line(absent), "v", SCHEMA)[0].transaction == {"amount": 1.0, "card": "visa"}


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "APPLICATION/JSON", "", None, 5])
def test_content_type_parameters_do_not_matter_to_json(kind):
    sent = {"observedContentType": kind, "data": json.dumps({"transactions": [{"a": 1}]}), "encoding": "JSON"}
    assert parse_line(line(sent), "v")[0].transaction == {"a": 1}


def test_the_content_type_decides_what_base64_holds():
    sent = {"data": base64.b64encode(b"1,visa").decode(), "encoding": "BASE64"}
    for kind in ("text/csv", "Text/CSV ; charset=utf-8", "TEXT/CSV"):
        assert parse_line(line(sent | {"observedContentType": kind}), "v", SCHEMA)[0].transaction["card"] == "visa"
    with pytest.raises(CaptureFormatError, match="no JSON"):
        parse_line(line(sent | {"observedContentType": "application/json"}), "v", SCHEMA)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, ("live", "")),
        (5, ("live", "")),
        (["a=b", 5, " Source = Test ;model_version= run%201"], ("test", "run 1")),
        ("model_version=a,source=live", ("live", "a")),
        ("canary", ("canary", "")),
        ("team=canary;model_version", ("live", "")),
    ],
)
def test_custom_attributes(value, found):
    assert read_attributes(value) == found


JSON_VALUES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(0, 1e9) | st.text(max_size=8)
TRANSACTIONS = st.lists(st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=4), min_size=1, max_size=4)
CELLS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
PLACED = Schema((
    Feature("amount", "number"), Feature("Karte, \"ü\"", "category"), Feature("new", "boolean"), Feature("n", "number"),
))  # fmt: skip
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
ROWS = st.lists(
    st.fixed_dictionaries({}, optional={"amount": NUMBERS, 'Karte, "ü"': CELLS, "new": st.booleans(), "n": NUMBERS}),
    min_size=1,
    max_size=4,
)
ENCODINGS = st.tuples(*[st.sampled_from(["JSON", "CSV", "BASE64"])] * 2)
KINDS = st.sampled_from(["application/json; charset=utf-8", "text/csv", "application/jsonlines"])


@given(
    st.data(),
    ENCODINGS,
    st.none() | st.tuples(KINDS, KINDS),
    st.none() | st.floats(0, 1),
    st.integers(0, 4_000_000_000),
    st.sampled_from(["live", "canary", "test", "replay"]),
    st.text(max_size=8).filter(lambda text: text == text.strip()),
)
def test_decoding_is_the_inverse_of_encoding(data, encodings, kinds, score, time, source, version):
    """All encodings of both sides, and all content types that they can have."""
    kind = kinds[0] if kinds else {"CSV": "text/csv"}.get(encodings[0], "application/json")
    is_csv = encodings[0] == "CSV" or kind == "text/csv"
    is_lines = not is_csv and kind == "application/jsonlines"
    transactions = data.draw(ROWS if is_csv else ROWS.filter(all) if is_lines else TRANSACTIONS)
    rows = len(transactions)
    ids = [f"ü-{k}" for k in range(rows)] if rows == 1 or not (is_csv or is_lines) else []
    scores = None if score is None else [score / (k + 1) for k in range(rows)]
    encoded = encode_line(
        transactions,
        scores,
        event_id="e",
        time=time,
        model_version=version,
        inference_ids=ids,
        source=source,
        encodings=encodings,
        content_types=kinds,
        schema=PLACED,
    )
    assert encoded.endswith(b"\n")
    assert encoded.count(b"\n") == 1
    assert parse_line(encoded, "v", PLACED) == [
        Record(i, "e", time, t, s, version, "v", source)
        for i, t, s in zip(ids or [f"e/{k}" for k in range(rows)], transactions, scores or [None] * rows, strict=True)
    ]


def test_what_csv_cannot_carry_is_not_written():
    with pytest.raises(ValueError, match="ids of several rows"):
        encode_line(
            [{}, {}], None, event_id="e", time=0, inference_ids=["a", "b"], encodings=("CSV", "CSV"), schema=SCHEMA
        )
    for schema in (None, SCHEMA):
        with pytest.raises(ValueError, match="CSV needs a schema"):
            encode_line([{"zip": 1}], None, event_id="e", time=0, encodings=("CSV", "CSV"), schema=schema)


def test_of_one_inference_id_the_earliest_record_stays():
    records = [
        Record(i, "e", t, {"n": n}, None, "", "v") for n, (i, t) in enumerate([("a", 2), ("b", 1), ("a", 1), ("a", 1)])
    ]
    kept, duplicates = first_of_each(records)
    assert ([record.transaction["n"] for record in kept], duplicates) == ([1, 2], 2)


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


@pytest.mark.parametrize(
    "key", [KEY.replace("/fraud", "//fraud"), KEY.replace("/", "//"), "/" + KEY, KEY[len("data-capture/") :]]
)
def test_double_slashes_and_other_prefixes_change_nothing(key):
    assert variant_of_key(key) == "AllTraffic" and hour_of_key(key) == hour_of_key(KEY)


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
    ("name", "width", "rows", "alone"),
    [
        ("1_*", 14, 3, "features without names, which needs the schema"),
        ("2_*", 69, 3, "is CSV, which needs the schema"),
        ("3_*", 14, 3, "features without names, which needs the schema"),
        ("4_*", 69, 1, "is CSV, which needs the schema"),
        ("5_*", 3, 1, "is CSV, which needs the schema"),
        ("6_*", 1, 0, "there is no captureData"),
    ],
)
def test_real_samples_of_other_endpoints(name, width, rows, alone):
    """With a schema of their width they are read; without one, or with another, the reason is told."""
    (path,) = SAMPLES.glob(name)
    schema = Schema(tuple(Feature(f"f{k}", "number") for k in range(width)))
    lines = [text for text in path.read_bytes().split(b"\n") if text.strip()]
    assert lines
    found = []
    for text in lines:
        with pytest.raises(CaptureFormatError, match=alone):
            parse_line(text, "AllTraffic")
        with pytest.raises(CaptureFormatError):
            parse_line(text, "AllTraffic", Schema((*schema.features, Feature("more", "number"))))
        found += parse_line(text, "AllTraffic", schema) if rows else []
    assert len(found) == rows
    assert all(0 < record.fraud_probability < 1 and len(record.transaction) == width for record in found)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the shared capture samples are not on this machine")
def test_real_keys_name_the_variant():
    keys = [key for _, key in json.loads((SAMPLES / "keys.json").read_text())]
    captured = [key for key in keys if "/AllTraffic/" in key and "/part-" not in key]
    assert captured
    assert {variant_of_key(key) for key in captured} == {"AllTraffic"}
    for key in set(keys) - set(captured):
        with pytest.raises(CaptureFormatError):
            variant_of_key(key)


@pytest.mark.parametrize(
    ("value", "caller"),
    [
        ("caller=9f86d081", "9f86d081"),
        ("source=canary; caller = ab-1_2 ;x", "ab-1_2"),
        (["model_version=m", "a=b,caller=c"], "c"),
        ("caller=one;caller=two", "one"),
        ("caller=", ""),
        ("caller=a b", ""),
        ("caller=<script>", ""),
        (f"caller={'x' * 65}", ""),
        ("mycaller=x", ""),
        ([5, None], ""),
        (None, ""),
    ],
)
def test_a_caller_is_a_token_and_nothing_else(value, caller):
    assert read_caller(value) == caller
    line = json.loads(encode_line([{"a": 1}, {"a": 2}], [0.1, 0.2], event_id="e", time=NOON))
    line["eventMetadata"]["customAttributes"] = value
    assert [record.caller for record in parse_line(json.dumps(line), "v")] == [caller] * 2
