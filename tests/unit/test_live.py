"""Captured traffic: each object is converted once, and later runs read indexes only."""

from __future__ import annotations

import datetime as dt
import io
import json

import pyarrow.parquet as pq
import pytest
import refusals

from fraud import capture
from fraud.errors import DataError
from fraud.pipeline import live, partitions
from fraud.pipeline.roles import Roles
from fraud.schema import CATEGORY, NUMBER, Feature, Schema

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


def compact(storage, **change):
    return live.compact(storage, "fraud", START, END, **{"types": TYPES, "roles": ROLES, "run_id": "r1"} | change)


def ledger(storage):
    return {name: storage.get(name) for name in storage.list_keys("ledger/live/")}


def parts(storage):
    return {name: body for name, body in ledger(storage).items() if not name.endswith(partitions.INDEX)}


def test_a_part_has_the_history_columns_and_follows_its_types(storage):
    storage.put(
        key(), line(2) + line(1, first=5, card4=7, C1="12", flag="true", when="2026-01-01T00:00:00Z", fresh=1.5)
    )
    found = compact(storage)
    (name,) = parts(storage)
    table = pq.read_table(io.BytesIO(storage.get(name)))
    assert name.startswith("ledger/live/fraud/AllTraffic/2026/01/02/03/") and len(name.split("/")[-1]) == 33
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


def test_of_two_captures_of_one_id_the_first_counts(storage):
    storage.put(key(name="b2", minute=5), line(1, at=10) + line(1, at=5) + line(1, at=7))
    storage.put(key(name="a1", minute=1), line(1, at=6))
    found = compact(storage)
    assert found.rows["__time"].to_list() == [START.timestamp() + 5] and found.counts["duplicates"] == 3
    assert found.rows["part"][0] == found.parts[0]["key"] and len(found.parts) == 1


def test_the_earliest_counts_across_parts_too(storage):
    storage.put(key(hour=3), line(1, at=7_000))
    storage.put(key(hour=4), line(1, at=3_700))
    found = compact(storage)
    assert found.rows["__time"].to_list() == [START.timestamp() + 3_700] and found.counts["duplicates"] == 1


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


def test_refused_requests_become_no_rows_and_are_no_bad_lines(storage):
    junk = [refusals.line(sent, START.timestamp(), event=f"r{k}") for k, sent in enumerate(({"C1": 1}, "{", "[[]]"))]
    storage.put(key(), line(1) + b"".join(junk))
    found = compact(storage, max_bad_share=0.0)
    assert found.rows.height == 1
    assert [found.counts[name] for name in ("captured", "refused", "tagged", "bad_lines", "lines")] == [1, 3, 0, 0, 4]


def test_several_variants_and_empty_objects(storage):
    storage.put(key(variant="A"), line(1, first=1))
    storage.put(key(variant="B"), line(1, first=2))
    storage.put(key(variant="B", name="e"), b"")
    storage.put(key(hour=4, variant="B", name="f"), b"\n\n")
    found = compact(storage)
    assert sorted(found.rows["__variant"]) == ["A", "B"] and found.counts["objects"] == 3
    assert len(found.parts) == 2  # a part without rows is not trained on


def test_the_objects_of_one_hour_become_one_part_and_later_ones_another(storage):
    for minute in range(5):
        storage.put(key(minute=minute), line(3, at=60 * minute, first=10 * minute))
    first = compact(storage)
    before = ledger(storage)
    assert len(first.parts) == 1 and first.parts[0]["rows"] == 15 and first.counts["converted"] == 5
    storage.put(key(minute=2, name="late"), line(2, at=70, first=90))
    second = compact(storage)
    assert second.counts["converted"] == 1 and [part["rows"] for part in second.parts] in ([15, 2], [2, 15])
    assert second.rows.height == 17 and before.items() < ledger(storage).items()


def test_a_busy_hour_becomes_several_parts(storage, monkeypatch):
    monkeypatch.setattr(partitions, "CHUNK_BYTES", 3_000)
    for minute in range(6):
        storage.put(key(minute=minute), line(3, at=60 * minute, first=10 * minute))
    found = compact(storage)
    assert len(found.parts) > 1 and found.rows.height == 18 and found.counts["objects"] == 6


def test_a_double_slash_in_the_configured_address_hides_nothing(storage):
    body = line(2)
    storage.client.put_object(Bucket="loop", Key=key().replace("data-capture/", "data-capture//"), Body=body)
    storage.put(key(minute=5), line(1, at=300, first=7))
    found = compact(storage)
    assert sorted(found.rows["__id"]) == ["id-0", "id-1", "id-7"] and found.counts["objects"] == 2


def test_two_runs_at_the_same_time_count_each_row_once(storage):
    storage.put(key(minute=1), line(3))
    one = [item for item in storage.list("data-capture/") if item.size]
    storage.put(key(minute=2), line(3, at=60, first=10))
    conversion = live.Conversion(TYPES, ROLES)
    folder = "ledger/live/fraud/AllTraffic/2026/01/02/03"
    whole = tuple(storage.list("data-capture/"))
    assert (
        len(list(conversion.compact(storage, [partitions.Chunk(folder, tuple(one)), partitions.Chunk(folder, whole)])))
        == 2
    )
    found = compact(storage)
    assert found.rows.height == 6 and found.counts["converted"] == 0


def test_rows_of_captured_files_that_expired_stay_in_the_ledger(storage):
    storage.put(key(), line(3))
    first = compact(storage)
    storage.delete(key())
    assert compact(storage).rows.equals(first.rows)


def test_rows_scored_at_another_hour_than_their_file_says_are_counted(storage):
    storage.put(key(hour=4), line(1, at=60) + line(1, at=3_700, first=1))
    storage.put(key(hour=2), line(1, at=7_100, first=2) + line(1, at=10, first=3))
    assert compact(storage).counts["impossible_times"] == 2


def test_a_second_run_reads_indexes_only_and_finds_the_same(storage):
    for minute in range(5):
        storage.put(key(minute=minute), line(3, at=60 * minute, first=10 * minute) + b"{cut")
    first = compact(storage, max_bad_share=0.6)
    before, notes = ledger(storage), storage.get("runs/r1/data/quarantine.jsonl")
    calls = []
    note = lambda model, params, **_: calls.append((model.name, params["url_path"]))  # noqa: E731
    storage.client.meta.events.register("before-call.s3", note)
    again = compact(storage, max_bad_share=0.6)
    done = list(calls)
    assert ledger(storage) == before and storage.get("runs/r1/data/quarantine.jsonl") == notes
    assert again.rows.equals(first.rows) and again.bad == first.bad and again.profile == first.profile
    assert first.counts | {"converted": 0} == again.counts and first.counts["converted"] == 5
    read = [path for name, path in done if name == "GetObject"]
    assert read and all(path.endswith(partitions.INDEX) for path in read)
    assert [name for name, _ in done].count("ListObjectsV2") == 5  # variants, their captures, variants kept, indexes


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


def test_killed_after_any_write_and_repeated_gives_the_same_ledger(storage, monkeypatch):
    for minute in range(2):
        for hour in (3, 4):
            storage.put(
                key(hour=hour, minute=minute), line(3, at=3600 * (hour - 3) + minute, first=100 * hour + minute)
            )
    monkeypatch.setattr(partitions, "WORKERS", 1)
    put, wanted = storage.client.put_object, None
    for writes in range(5):
        for name in ledger(storage):
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
        wanted = wanted or ledger(storage)
        assert ledger(storage) == wanted and len(wanted) == 4 and found.rows.height == 8


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_any_number_of_shards_gives_the_same_ledger(storage, shards):
    for hour in (2, 3, 4):
        for minute in range(3):
            body = line(3, at=3600 * (hour - 3) + minute, first=100 * hour + 10 * minute)
            storage.put(key(hour=hour, minute=minute), body)
    compact(storage)
    here = ledger(storage)
    for name in here:
        storage.delete(name)

    def elsewhere(conversion, chunks):
        copy = live.Conversion.from_json(conversion.to_json())
        for shard in range(shards):
            mine = [partitions.Chunk.from_json(chunk.to_json()) for chunk in reversed(chunks[shard::shards])]
            assert len(list(copy.compact(storage, mine))) == len(mine)

    compact(storage, elsewhere=elsewhere)
    assert ledger(storage) == here and len(here) == 6


def test_csv_that_came_before_there_was_a_schema_is_read_once_there_is_one(storage):
    schema = Schema([Feature("TransactionAmt", NUMBER), Feature("card4", CATEGORY)])
    sent = [{"TransactionAmt": 5.0, "card4": "visa"}]
    body = capture.encode_line(
        sent, [0.5], event_id="e", time=START.timestamp(), encodings=("CSV", "CSV"), schema=schema
    )
    storage.put(key(), body)
    assert compact(storage, max_bad_share=1).counts["bad_lines"] == 1
    found = compact(storage, schema=schema)
    assert found.counts["bad_lines"] == 0 and found.rows.height == 1


def test_work_that_was_not_done_elsewhere_is_not_passed_over(storage):
    storage.put(key(), line(3))
    with pytest.raises(DataError, match="1 of 1 hour partitions were not compacted"):
        compact(storage, elsewhere=lambda conversion, chunks: None)


def test_other_types_of_the_history_make_other_parts(storage):
    storage.put(key(), line(1))
    compact(storage)
    compact(storage, types=TYPES | {"C1": "text"})
    assert len(parts(storage)) == 2


def test_a_column_that_some_objects_lack_is_missing_in_their_rows(storage):
    storage.put(key(minute=1), line(2))
    storage.put(key(minute=2), line(3, first=5, fresh=1.0))
    storage.put(key(minute=3), line(4, first=9))
    compact(storage)  # the three objects lie in one part, and then in three
    for name in ledger(storage):
        storage.delete(name)
    for item in storage.list("data-capture/"):
        folder = "ledger/live/fraud/AllTraffic/2026/01/02/03"
        list(live.Conversion(TYPES, ROLES).compact(storage, [partitions.Chunk(folder, (item,))]))
    profile = compact(storage).profile
    assert len(parts(storage)) == 3 and profile["rows"] == 9 and profile["columns"]["fresh"]["nulls"] == 6


def test_no_endpoint_is_no_traffic(storage):
    found = live.compact(storage, "", START, END, types=TYPES, roles=ROLES)
    assert found.rows.height == 0 and found.parts == [] and found.counts["lines"] == 0


def test_a_shadow_is_no_traffic(storage):
    storage.put(key(variant="Challenger"), line(2))
    storage.put(key(variant=capture.SHADOW), line(2, first=10))
    found = compact(storage)
    assert sorted(found.rows["__id"]) == ["id-0", "id-1"] and found.counts["objects"] == 1
