"""Counting with NumPy and orjson gives what the standard library gives, to the last bit."""

import base64
import json
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lambdas_kit import load_module

from fraud.capture import encode_line, parse_file
from fraud.drift import build_baseline
from fraud.hours import Hour
from fraud.payload import BASE64, CSV, JSON
from fraud.schema import Feature, Schema
from fraud.sketch import Sketch
from fraud.tally import RARE, Numbers, exact_sum

counting = load_module("drift_check", "counting")

KEY = "data-capture/fraud/blue/2026/01/02/10/00-00-000-6f0e.jsonl"
NOON = 1_767_355_200.0
SCHEMA = Schema(
    (
        Feature("amount", "number", True),
        Feature("count", "number"),
        Feature("card", "category", False, ("visa", "150", "true")),
        Feature("fresh", "boolean"),
    ),
    roles={"id": "id"},
)
BASELINE = build_baseline(
    {
        "amount": [float(k % 97) for k in range(500)],
        "count": [k % 3 for k in range(500)],
        "card": ["visa", "150", None, "true"] * 125,
        "fresh": [True, False] * 250,
    },
    SCHEMA,
    [k / 500 for k in range(500)],
    "run-1",
    threshold=0.5,
)
ENCODINGS = [(JSON, JSON), (BASE64, BASE64), (CSV, CSV), (JSON, CSV), (CSV, JSON)]


def both(body):
    """The document of each way, from one captured object; problems must be the same, too."""
    plain, fast = Sketch(BASELINE, SCHEMA), counting.FastSketch(BASELINE, SCHEMA)
    records, problems = parse_file(body, KEY, SCHEMA)
    read, refused = counting.Reader(SCHEMA).read(body, "blue")
    assert refused == problems
    told = [(r.inference_id, r.event_id, r.time, r.model_version, r.variant, r.source, r.caller) for r in records]
    assert [(r.inference_id, r.event_id, r.time, r.model_version, r.variant, r.source, r.caller) for r in read] == told
    for record in records:
        plain.add(record)
    for record in read:
        fast.add(record)
    assert fast.n == plain.n
    assert fast.to_json() == plain.to_json()
    return plain


numbers = st.one_of(
    st.floats(allow_nan=False),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0.0, -0.0, 0, 1.5, 1e300, -1e301, 1e308, 5e-324, 2**63, 2**63 - 1, -(2**63), 2**64, 1e22]),
)
values = st.one_of(
    numbers, st.none(), st.booleans(), st.text(max_size=3), st.just([1]), st.sampled_from(["visa", "150", 150, 150.0])
)
rows = st.dictionaries(
    st.sampled_from(["amount", "count", "card", "fresh", "id", "new", "features", "source"]), values, max_size=8
)


@settings(max_examples=80)
@given(
    st.lists(st.lists(rows, min_size=1, max_size=4), max_size=12),
    st.booleans(),
    st.sampled_from([None, "source=canary", "model_version=run-1;caller=ab_1", "x"]),
    st.randoms(use_true_random=False),
)
def test_whatever_is_captured_is_counted_the_same(requests, encoded, attributes, rng):
    body = b""
    for k, transactions in enumerate(requests):
        given = {"source": "test"} if rng.random() < 0.2 else {}
        way = rng.choice(["list", "alone", "junk"])
        request = {"transactions": transactions, "inference_ids": ["a", ""]} if way == "list" else transactions[0]
        text = json.dumps(request | given) if way != "junk" else json.dumps(transactions[0])[:-1]
        answer = {"predictions": [{"fraud_probability": rng.random()} for _ in transactions], "model_version": "run-1"}
        if way != "list":
            answer["predictions"] = answer["predictions"][:1]
        sides = [{"data": t, "encoding": "JSON"} for t in (text, json.dumps(answer))]
        if encoded:
            sides = [{"data": base64.b64encode(s["data"].encode()).decode(), "encoding": "BASE64"} for s in sides]
        meta = {"eventId": f"e{k}", "inferenceTime": "2026-01-02T12:00:00Z"}
        meta |= {"customAttributes": [attributes]} if attributes else {}
        line = {"captureData": {"endpointInput": sides[0], "endpointOutput": sides[1]}, "eventMetadata": meta}
        body += json.dumps(line | {"eventVersion": "0"}).encode() + b"\n"
    both(body)


@pytest.mark.parametrize("encodings", ENCODINGS)
@pytest.mark.parametrize("batch", [1, 7])
def test_every_encoding_and_many_batches(encodings, batch):
    rng = random.Random(batch)
    body = b""
    for k in range(0, 6000, batch):
        transactions = [
            {
                "amount": round(rng.lognormvariate(4, 2), 2),
                "count": float(rng.randrange(5)) if rng.random() < 0.9 else None,
                "card": rng.choice(["visa", "150", "true", "né,w" if encodings[0] != CSV else "new", None]),
                "fresh": rng.random() < 0.5,
            }
            for _ in range(batch)
        ]
        ids = [f"i{k}-{j}" for j in range(batch)] if encodings[0] != CSV or batch == 1 else []
        body += encode_line(
            transactions,
            [rng.random() for _ in transactions],
            event_id=f"e{k}",
            time=NOON + k,
            model_version="run-1",
            inference_ids=ids,
            encodings=encodings,
            schema=SCHEMA,
        )
    assert both(body).n >= 6000


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([12.3, 0.1, 2051.0, 16_777_217.0, -0.0, 5e-324, 1e-50, 99.99]) | numbers, min_size=1),
    st.sampled_from(["<f2", "<f4", "<f8"]),
)
def test_payments_of_a_narrow_history_are_counted_the_same(values, width):
    """Both counters put a value where training put its neighbour of float32 or float16."""
    live = [float(v) for v in values if abs(v) < 60_000]
    history = np.array(live).astype(width).astype(float)
    baseline = build_baseline({"amount": history}, Schema((SCHEMA.features[0],)), [0.5] * len(live), "run-1")
    plain, fast = Sketch(baseline), counting.FastSketch(baseline)
    for value in live:
        for sketch in (plain, fast):
            sketch.add(SimpleNamespace(transaction={"amount": value}, fraud_probability=0.5))
    assert fast.to_json() == plain.to_json()
    amount = fast.features["amount"]
    assert amount.counts == baseline["features"]["amount"]["counts"] and amount.below == amount.above == 0


CELLS = ["12.5,1,visa,True", "12.5,1,visa,1.0", " 1,1,visa,0", "1e400,1,,", "nan,1,x,", "1_0,2,a,", '1,1,"a,b",', "1,2"]


@pytest.mark.parametrize("cells", [*CELLS, "1,1,a,yes", ",,,", "", "1,1,a,1\r", "1.,+.5,a,0\n-2e3,,b,", "5,1,a\0,"])
def test_csv_that_is_read_is_read_the_same(cells):
    line = json.loads(encode_line([{}], [0.5], event_id="e", time=NOON, encodings=(CSV, CSV), schema=SCHEMA))
    line["captureData"]["endpointInput"]["data"] = cells
    answer = line["captureData"]["endpointOutput"]
    for rows in (1, 2):
        answer["data"] = ",".join(["0.5"] * rows)
        both(json.dumps(line).encode() + b"\n")


def test_a_hostile_line_is_refused_in_the_same_words():
    good = encode_line([{"amount": 1.0}], [0.5], event_id="e", time=NOON, model_version="run-1")
    found = json.loads(good)
    bad = [b"{", b"[]", b"null", b"\xff\xfe", b'"\\ud800"', good[:-2], b"{}"]
    for path, value in [
        (("eventVersion",), 0),
        (("eventMetadata", "eventId"), ""),
        (("eventMetadata", "eventId"), 5),
        (("eventMetadata", "inferenceTime"), "yesterday"),
        (("eventMetadata", "inferenceTime"), None),
        (("eventMetadata", "inferenceTime"), []),
        (("eventMetadata", "customAttributes"), [{}]),
        (("captureData",), []),
        (("captureData", "endpointInput"), None),
        (("captureData", "endpointInput", "data"), 5),
        (("captureData", "endpointInput", "encoding"), []),
        (("captureData", "endpointInput", "observedContentType"), 5),
        (("captureData", "endpointInput", "data"), '{"transactions": [5]}'),
        (("captureData", "endpointInput", "data"), '{"transactions": [{"amount": NaN}]}'),
        (("captureData", "endpointInput", "data"), '{"instances": [{"features": [1, 2, "visa", true]}]}'),
        (("captureData", "endpointOutput", "data"), '{"predictions": [{"fraud_probability": 2}]}'),
        (("captureData", "endpointOutput", "data"), '{"predictions": [{"fraud_probability": true}]}'),
        (("captureData", "endpointOutput", "data"), '{"predictions": []}'),
        (("captureData", "endpointOutput", "data"), '{"fraud_probability": 0.25}'),
        (("captureData", "endpointOutput"), None),
    ]:
        other = json.loads(good)
        part = other
        for name in path[:-1]:
            part = part[name]
        part[path[-1]] = value
        bad.append(json.dumps(other).encode())
    assert found["eventVersion"] == "0"
    both(b"\n".join([*bad, good.strip(), b"", *bad]))


@given(st.lists(st.floats(-(2.0**62), 2.0**62), max_size=300))
def test_the_sum_is_exact(numbers):
    import numpy as np

    assert exact_sum(counting.exact_parts(np.array(numbers, dtype=float))) == exact_sum(numbers)
    assert not any(math.isnan(part) for part in counting.exact_parts(np.array(numbers, dtype=float)))


@given(st.integers(0, 450), st.integers(1, 30), st.floats(0, 1), st.randoms(use_true_random=False))
def test_a_column_of_any_length_is_counted_the_same(n, different, missing, rng):
    known = [rng.choice([0.0, -0.0, 1.0, 1, None, rng.uniform(-9, 9)]) for _ in range(different)]
    column = [None if rng.random() < missing / 2 else rng.choice(known) for _ in range(n)]
    column += [2.5] * (n // RARE)
    plain, fast = Numbers([-1.0, 0.0, 2.5], -5.0, 1.0), counting.FastNumbers([-1.0, 0.0, 2.5], -5.0, 1.0)
    for numbers in (plain, fast):
        numbers.take(list(column))
        numbers.take(column[: n // 2])
    assert json.dumps(fast.to_dict()) == json.dumps(plain.to_dict())


@pytest.mark.parametrize("n", [RARE - 1, RARE, RARE + 1, 2 * RARE, 2 * RARE + 1])
def test_a_value_that_just_so_many_have_is_counted_the_same(n):
    for column in ([float(k) for k in range(n)], [float(k // 2) for k in range(n)]):
        plain, fast = Numbers([1.0]), counting.FastNumbers([1.0])
        plain.take(list(column))
        fast.take(column)
        assert fast.to_dict() == plain.to_dict()


def test_what_is_stored_is_read_again_and_goes_on():
    records = [
        parse_file(
            encode_line([{"amount": float(k % 700) / 8, "count": k % 2}], [0.1], event_id=f"e{k}", time=NOON), KEY
        )[0][0]
        for k in range(3000)
    ]
    plain, fast = Sketch(BASELINE, SCHEMA), counting.FastSketch(BASELINE, SCHEMA)
    for part in (records[:1000], records[1000:]):
        for record in part:
            plain.add(record)
            fast.add(record)
        assert fast.to_json() == plain.to_json()
        plain = Sketch.from_json(BASELINE, plain.to_json(), SCHEMA)
        fast = counting.FastSketch.from_json(BASELINE, fast.to_json(), SCHEMA)
    assert fast.merge(fast).to_json() == plain.merge(plain).to_json()
    assert Sketch(BASELINE, SCHEMA).merge(fast).to_json() == plain.to_json()


def test_a_refused_request_is_read_the_same_and_counts_as_no_payment():
    refused = json.loads(encode_line([{"amount": 1.0}], [0.5], event_id="e", time=NOON))
    refused["captureData"]["endpointOutput"]["data"] = '{"title": "Bad request", "status": 400}'
    other = json.loads(json.dumps(refused))
    other["captureData"]["endpointInput"]["data"] = "{"
    lines = "".join(f"{json.dumps(item)}\n" for item in (refused, other)).encode()
    records, problems = counting.Reader(SCHEMA).read(lines, "blue")
    assert ([record.source for record in records], problems) == (["refused"] * 2, [])
    hour = Hour(BASELINE, SCHEMA, NOON, counting.FastSketch)
    assert hour.take("key", "etag", records) == []
    assert (hour.n, hour.unreadable, hour.tagged, hour.requests.total()) == (0, 0, {"refused": 2}, 0)
