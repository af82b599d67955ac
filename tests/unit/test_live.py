"""Captured traffic: the quick reader agrees with `fraud.capture`, and each object is converted once."""

from __future__ import annotations

import base64
import datetime as dt
import io
import json

import boto3
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from moto import mock_aws

from fraud import capture
from fraud.errors import CaptureFormatError, DataError
from fraud.pipeline import captured, live
from fraud.pipeline.roles import Roles
from fraud.pipeline.storage import Storage

ROLES = Roles("isFraud", "TransactionID", "TransactionDT", "TransactionAmt")
TYPES = {"TransactionAmt": "float", "card4": "text", "C1": "int", "flag": "bool", "when": "time"}
START = dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC)
END = START + dt.timedelta(hours=2)


def line(n=1, at=0.0, first=0, **change):
    """One captured request of ``n`` transactions, ``at`` seconds into the window."""
    sent = [{"TransactionAmt": 5.0 + k, "card4": "visa", "C1": k, "flag": True} | change for k in range(n)]
    ids = [f"id-{first + k}" for k in range(n)]
    time = START.timestamp() + at
    return capture.encode_line(
        sent, [0.25 + k / 100 for k in range(n)], event_id="e1", time=time, model_version="m", inference_ids=ids
    )


def key(hour=3, minute=0, variant="AllTraffic", name="a1"):
    return f"data-capture/fraud/{variant}/2026/01/02/{hour:02d}/{minute:02d}-00-000-{name}.jsonl"


@pytest.fixture
def storage(monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        client = boto3.client("s3", region_name="eu-west-1")
        client.create_bucket(Bucket="loop", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        yield Storage("loop", client, wait=0)


def compact(storage, **change):
    return live.compact(storage, "fraud", START, END, **{"types": TYPES, "roles": ROLES, "run_id": "r1"} | change)


def parts(storage):
    return {name: storage.get(name) for name in storage.list_keys("ledger/live/")}


def slow(body, variant):
    """What `fraud.capture` alone says."""
    records, bad = [], []
    for number, text in enumerate(body.split(b"\n"), 1):
        if text.strip():
            try:
                records += capture.parse_line(text, variant)
            except CaptureFormatError:
                bad.append(number)
    return records, bad


def twisted():
    """Lines that differ from the usual one in one respect each."""
    usual = json.loads(line(2))
    request = json.loads(usual["captureData"]["endpointInput"]["data"])
    answer = json.loads(usual["captureData"]["endpointOutput"]["data"])

    def with_(side=None, meta=None, version="0", request=request, answer=answer, outer=None):
        made = json.loads(json.dumps(usual))
        made["captureData"]["endpointInput"] |= {"data": json.dumps(request)} | (side or {})
        made["captureData"]["endpointOutput"]["data"] = json.dumps(answer)
        made["eventMetadata"] |= meta or {}
        made["eventVersion"] = version
        return json.dumps(made | (outer or {})).encode()

    yield line(2)
    yield with_(side={"encoding": "CSV"})
    yield with_(side={"encoding": "BASE64", "data": base64.b64encode(json.dumps(request).encode()).decode()})
    yield with_(side={"observedContentType": "text/csv"})
    yield with_(version="1")
    yield with_(meta={"inferenceTime": "2026-01-02T03:00:00"})
    yield with_(meta={"inferenceTime": "noon"})
    yield with_(meta={"eventId": ""})
    yield with_(meta={"customAttributes": ["source=canary"]})
    yield with_(request=request | {"source": "replay"})
    yield with_(request=request | {"inference_ids": ["a"]})
    yield with_(request=request | {"inference_ids": ["a", ""]})
    yield with_(request=request | {"inference_ids": "ab"})
    yield with_(request={"transactions": request["transactions"]})
    yield with_(request={"transactions": [], "inference_ids": []}, answer=answer | {"predictions": []})
    yield with_(request=request | {"transactions": [1, 2]})
    yield with_(answer=answer | {"predictions": [{"fraud_probability": "0.5"}, {"fraud_probability": 0.5}]})
    yield with_(answer=answer | {"predictions": [{"fraud_probability": True}, {"fraud_probability": 0.5}]})
    yield with_(answer=answer | {"predictions": [{"fraud_probability": 1}, {"fraud_probability": 0}]})
    yield with_(answer=answer | {"predictions": [{"fraud_probability": 1.5}, {"fraud_probability": 0.5}]})
    yield with_(answer=answer | {"predictions": answer["predictions"][:1]})
    yield with_(answer=answer | {"model_version": None})
    yield with_(outer={"captureData": {"endpointInput": usual["captureData"]["endpointInput"]}})
    yield with_(outer={"captureData": [1]})
    yield b"[]"
    yield b"not json"
    yield b"\xff\xfe"


@pytest.mark.parametrize("at", range(27))
def test_the_quick_reader_gives_what_capture_gives(at):
    text = list(twisted())[at]
    records, lines, bad = captured.read_object(text, "AllTraffic")
    wanted, refused = slow(text, "AllTraffic")
    assert records == wanted and lines == 1 and [number for number, _ in bad] == refused


@given(st.integers(1, 3), st.data())
@settings(max_examples=150, deadline=None)
def test_a_file_cut_at_any_byte_loses_that_line_only(n, data):
    whole = b"".join(line(n, at=k, first=10 * k) for k in range(3))
    at = data.draw(st.integers(0, len(whole)))
    records, lines, bad = captured.read_object(whole[:at], "v")
    complete = whole[:at].count(b"\n")
    assert len(records) - n * complete in (0, n)  # a line may miss its line break only
    assert lines - complete == len(bad) or (not bad and len(records) == n * lines)
    assert all("middle of a line" in reason for _, reason in bad)


def test_a_part_has_the_history_columns_and_follows_its_types(storage):
    storage.put(
        key(), line(2) + line(1, first=5, card4=7, C1="12", flag="true", when="2026-01-01T00:00:00Z", fresh=1.5)
    )
    found = compact(storage)
    (name,) = parts(storage)
    table = pq.read_table(io.BytesIO(storage.get(name)))
    assert name.startswith("ledger/live/fraud/AllTraffic/2026/01/02/03/") and len(name.split("/")[-1]) == 24
    reserved = ["__id", "__time", "__label", "__score", "__model", "__variant"]
    assert table.column_names == [*reserved, *TYPES, "fresh"]
    assert [str(item.type) for item in table.schema] == [
        "string", "double", "int8", "double", "string", "string", "double", "string", "int64", "bool",
        "timestamp[us]", "double",
    ]  # fmt: skip
    assert table.to_pylist()[2] == {
        "__id": "id-5", "__time": START.timestamp(), "__label": None, "__score": 0.25, "__model": "m",
        "__variant": "AllTraffic", "TransactionAmt": 5.0, "card4": "7", "C1": 12, "flag": True,
        "when": dt.datetime(2026, 1, 1), "fresh": 1.5,
    }  # fmt: skip
    columns = found.profile["columns"]
    assert found.profile["rows"] == 3 and found.profile["new"] == ["fresh"]
    assert {column: about["retyped"] for column, about in columns.items() if about["retyped"]} == {
        "card4": 1, "C1": 1, "flag": 1,
    }  # fmt: skip
    assert columns["card4"]["texts"] == {"visa": 2, "7": 1} and columns["TransactionAmt"]["most"] == 6.0
    assert columns["when"]["nulls"] == 2 and columns["fresh"]["nulls"] == 2


def test_the_roles_are_not_repeated_and_cannot_be_sent(storage):
    storage.put(key(), line(1, isFraud=1, TransactionID=9, TransactionDT=5, __label=1))
    compact(storage)
    (body,) = parts(storage).values()
    table = pq.read_table(io.BytesIO(body))
    assert not {"isFraud", "TransactionID", "TransactionDT"} & set(table.column_names)
    assert table["__label"].to_pylist() == [None]


def test_what_has_no_place_in_its_column_becomes_missing_and_is_counted():
    records = [capture.Record(f"{k}", "e", 1.0, {"x": value}, 0.5, "m", "v") for k, value in enumerate(
        [1, 2.5, "3", "x", True, None, [1], 10**400])]  # fmt: skip
    for kind, wanted, changed in (
        ("float", [1.0, 2.5, 3.0, None, 1.0, None, None, None], 5),
        ("int", [1.0, 2.5, 3.0, None, 1.0, None, None, None], 5),
        ("bool", [True, None, None, None, True, None, None, None], 6),
        ("text", ["1", "2.5", "3", "x", "true", None, "[1]", str(10**400)], 5),
    ):
        part, about = captured.build_part(records, {"x": kind}, ROLES)
        assert part["x"].to_pylist() == wanted, kind
        assert about["retyped"]["x"] == changed, kind


def test_of_two_captures_of_one_id_the_first_counts(storage):
    storage.put(key(name="b2", minute=5), line(1, at=10) + line(1, at=5) + line(1, at=7))
    storage.put(key(name="a1", minute=1), line(1, at=6))
    found = compact(storage)
    assert found.rows["__time"].to_list() == [START.timestamp() + 5] and found.counts["duplicates"] == 3
    assert found.rows["part"][0] == found.parts[0]["key"] and len(found.parts) == 1


def test_the_window_is_half_open_and_late_files_are_seen(storage):
    storage.put(key(hour=2, minute=59), line(1, at=-1) + line(1, at=0, first=1))  # opened in the hour before
    storage.put(key(hour=4, minute=59), line(1, at=7_199, first=2) + line(1, at=7_200, first=3))
    storage.put(key(hour=1), line(1, at=10, first=4))  # never listed
    storage.put(key(hour=5), line(1, at=10, first=5))
    found = compact(storage)
    assert found.rows["__id"].to_list() == ["id-1", "id-2"]
    assert found.counts["outside_window"] == 2 and found.counts["objects"] == 2 and len(parts(storage)) == 2


def test_tagged_traffic_is_left_out_and_counted(storage):
    sent = [{"C1": 1}]
    tagged = capture.encode_line(sent, [0.5], event_id="e9", time=START.timestamp(), source="canary")
    storage.put(key(), tagged + line(1))
    found = compact(storage)
    assert found.counts["tagged"] == 1 and found.rows.height == 1


def test_several_variants_and_empty_objects(storage):
    storage.put(key(variant="A"), line(1, first=1))
    storage.put(key(variant="B"), line(1, first=2))
    storage.put(key(variant="B", name="e"), b"")
    storage.put(key(variant="B", name="f"), b"\n\n")
    found = compact(storage)
    assert sorted(found.rows["__variant"]) == ["A", "B"] and found.counts["objects"] == 3
    assert len(found.parts) == 2  # a part without rows is not trained on


def test_a_second_run_converts_nothing_and_finds_the_same(storage):
    for minute in range(5):
        storage.put(key(minute=minute), line(3, at=60 * minute, first=10 * minute) + b"{cut")
    first = compact(storage, max_bad_share=0.6)
    before, notes = parts(storage), storage.get("runs/r1/data/quarantine.jsonl")
    calls = []
    note = lambda model, params, **_: calls.append((model.name, params["url_path"]))  # noqa: E731
    storage.client.meta.events.register("before-call.s3", note)
    again = compact(storage, max_bad_share=0.6)
    assert parts(storage) == before and storage.get("runs/r1/data/quarantine.jsonl") == notes
    assert again.rows.equals(first.rows) and again.bad == first.bad and again.profile == first.profile
    assert first.counts | {"converted": 0} == again.counts and first.counts["converted"] == 5
    compacting = calls[: calls.index(next(call for call in calls if call[0] == "PutObject"))]
    assert not any("/data-capture/" in path for name, path in compacting if name == "GetObject")
    assert [name for name, _ in compacting].count("ListObjectsV2") == 3  # variants, captures, parts


def test_bad_lines_are_told_without_their_content(storage):
    storage.put(key(), line(1) + b'{"secret": "4111111111111111"}\n' + line(1, first=1) + b'{"captureData": "4111')
    found = compact(storage, max_bad_share=0.5)
    kept = storage.get("runs/r1/data/quarantine.jsonl").decode()
    assert found.rows.height == 2 and found.counts["bad_lines"] == 2
    assert "4111" not in kept and [json.loads(text) for text in kept.splitlines()] == found.bad
    assert [(entry["file"], entry["line"]) for entry in found.bad] == [(key(), 2), (key(), 4)]
    with pytest.raises(DataError) as caught:
        compact(storage, max_bad_share=0.49)
    assert "2 of 4 captured lines cannot be read" in str(caught.value) and f"{key()}, line 2" in str(caught.value)


def test_killed_after_any_object_and_repeated_gives_the_same_parts(storage, monkeypatch):
    for minute in range(4):
        storage.put(key(minute=minute), line(3, at=60 * minute, first=10 * minute))
    monkeypatch.setattr(live, "WORKERS", 1)
    put, wanted = storage.client.put_object, None
    for writes in range(5):
        for name in parts(storage):
            storage.delete(name)
        left = [writes]

        def killed(left=left, **given):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return put(**given)

        monkeypatch.setattr(storage.client, "put_object", killed)
        if writes < 4:
            with pytest.raises(KeyboardInterrupt):
                compact(storage)
        monkeypatch.setattr(storage.client, "put_object", put)
        found = compact(storage)
        wanted = wanted or parts(storage)
        assert parts(storage) == wanted and len(wanted) == 4 and found.rows.height == 12


def test_other_types_of_the_history_make_other_parts(storage):
    storage.put(key(), line(1))
    compact(storage)
    compact(storage, types=TYPES | {"C1": "text"})
    assert len(parts(storage)) == 2


def test_a_column_that_some_objects_lack_is_missing_in_their_rows(storage):
    storage.put(key(minute=1), line(2))
    storage.put(key(minute=2), line(3, first=5, fresh=1.0))
    storage.put(key(minute=3), line(4, first=9))
    profile = compact(storage).profile
    assert profile["rows"] == 9 and profile["columns"]["fresh"]["nulls"] == 6


def test_no_endpoint_is_no_traffic(storage):
    found = live.compact(storage, "", START, END, types=TYPES, roles=ROLES)
    assert found.rows.height == 0 and found.parts == [] and found.counts["lines"] == 0
