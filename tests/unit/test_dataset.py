"""The merge: labels, manifest, determinism, and what it tells."""

from __future__ import annotations

import datetime as dt
import io
import json

import polars as pl
import pytest
from botocore.exceptions import ConnectionClosedError

from fraud import capture, labels
from fraud.errors import DataError
from fraud.pipeline import dataset, partitions
from fraud.pipeline.labelling import Policy
from fraud.pipeline.storage import Storage

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0) - dt.timedelta(hours=1)
AS_OF = NOW.strftime("%Y-%m-%dT%H:%M:%SZ")
HOW = {
    "target": "isFraud", "id_column": "TransactionID", "time_column": "TransactionDT",
    "amount_column": "TransactionAmt", "endpoint_name": "fraud", "lookback_days": 10, "as_of": AS_OF,
}  # fmt: skip


@pytest.fixture
def storage(storage):
    """The bucket with a history in it."""
    cards = ("amex", "visa", "visa")
    cells = [(3_000 + i, int(i % 10 == 0), 60 * i, 10.5 + i % 7, cards[i % 3]) for i in range(100)]
    head = "TransactionID,isFraud,TransactionDT,TransactionAmt,card4"
    storage.put("raw/h.csv", "\n".join([head, *(",".join(map(str, row)) for row in cells), ""]).encode())
    return storage


def send(storage, *rows, name="a1"):
    """Capture transactions given as (id, age in days, score)."""
    for at, (identity, age, score) in enumerate(rows):
        moment = NOW - dt.timedelta(days=age)
        body = capture.encode_line(
            [{"TransactionAmt": 7.5, "card4": "visa"}], [score], event_id=f"e{at}", time=moment.timestamp(),
            model_version="m", inference_ids=[identity],
        )  # fmt: skip
        storage.put(f"data-capture/fraud/AllTraffic/{moment:%Y/%m/%d/%H}/00-00-{at:03d}-{name}.jsonl", body)


def tell(storage, *truths, name="t1"):
    """Deliver truth given as (id, label, age in days of the label)."""
    for at, (identity, label, age) in enumerate(truths):
        moment = NOW - dt.timedelta(days=age)
        text = labels.render_label_line(labels.GroundTruth(identity, label, moment.timestamp()))
        storage.put(f"labels/{moment:%Y/%m/%d/%H}/{name}{at}.jsonl", text.encode() + b"\n")


def labelled(storage, run="r1"):
    return pl.read_parquet(io.BytesIO(storage.get(f"runs/{run}/data/labels.parquet")))


def build(storage, run="r1", *, policy=None, review_rows=0, columns=None, **change):
    how = dataset.Labels(Policy(maturity_days=5, **policy or {}), columns or labels.LabelColumns(), review_rows)
    return dataset.build(storage, run, **HOW | {"label_settings": how} | change)


def test_each_row_carries_where_its_label_comes_from(storage):
    send(storage, ("truth", 3, 0.1), ("mature", 6, 0.9), ("young", 2, 0.8), ("corrected", 4, 0.2), ("ahead", 1, 0.3))
    tell(storage, ("truth", 1, 1), ("corrected", 1, 3), ("corrected", 0, 2), ("nobody", 1, 1), ("ahead", 1, -1))
    found = build(storage)
    kept = {row["inference_id"]: row for row in labelled(storage).to_dicts()}
    assert {name: (row["label"], row["label_source"], row["weight"]) for name, row in kept.items()} == {
        "truth": (1, "truth", 1.0), "mature": (0, "mature", 1.0), "corrected": (0, "truth", 1.0),
    }  # fmt: skip
    assert kept["truth"]["label_time"] == (NOW - dt.timedelta(days=1)).timestamp()
    assert found.label_sources == {"history": 100, "truth": 2, "mature": 1, "pseudo": 0, "unknown": 2}
    assert found.counts["labels_of_unknown_ids"] == 1 and found.counts["labels_corrected"] == 1
    assert found.counts["labels_from_the_future"] == 1 and found.rows == {"history": 100, "live": 5}
    assert labelled(storage).schema == {
        "inference_id": pl.String, "label": pl.Int8, "label_source": pl.String, "label_time": pl.Float64,
        "weight": pl.Float32,
    }  # fmt: skip


def test_pseudo_labels_only_when_asked_for(storage):
    send(storage, ("low", 2, 0.59), ("high", 2, 0.6), ("old", 6, 0.9))
    found = build(storage, policy={"pseudo_labels": "threshold", "threshold": 0.6})
    kept = {row["inference_id"]: row for row in labelled(storage).to_dicts()}
    assert (kept["low"]["label"], kept["high"]["label"], kept["old"]["label"]) == (0, 1, 0)
    assert found.label_sources["pseudo"] == 2 and kept["high"]["weight"] < 1
    assert build(storage, "r2").label_sources["pseudo"] == 0


def test_the_manifest_names_all_and_is_the_training_jobs(storage):
    send(storage, ("a", 6, 0.9), ("b", 1, 0.1))
    found = build(storage)
    prefix, *keys = json.loads(storage.get("runs/r1/data/train.manifest"))
    assert prefix == {"prefix": "s3://loop/"} and found.manifest_uri == "s3://loop/runs/r1/data/train.manifest"
    assert all(storage.exists(key) for key in keys) and len(keys) == len(set(keys)) == 1 + 2 + 2
    document = storage.read_json("runs/r1/data/dataset.json")
    assert keys == [*(part["key"] for part in document["parts"]), *keys[-2:]]
    assert keys[-2:] == ["runs/r1/data/labels.parquet", "runs/r1/data/dataset.json"]
    assert document["roles"] == {
        "target": "isFraud", "id": "TransactionID", "time": "TransactionDT", "amount": "TransactionAmt",
        "card": "",
    }  # fmt: skip
    assert document["as_of"] == AS_OF and document["rows"] == {"history": 100, "live": 2}
    assert document["content_sha256"] == found.content_sha256 and document["schema_version"] == 1
    for part in document["parts"]:
        body = storage.get(part["key"])
        assert dataset.hashlib.sha256(body).hexdigest() == part["sha256"]
        assert pl.read_parquet(io.BytesIO(body)).height == part["rows"]


def test_the_same_moment_gives_the_same_bytes(storage):
    send(storage, *((f"id{i}", i % 9 + 0.5, i / 40) for i in range(40)))
    tell(storage, *((f"id{i}", i % 2, 0.5) for i in range(10)))
    first = build(storage, "r1")
    names = ("labels.parquet", "labels_aside.parquet", "dataset.json")
    one = [storage.get(f"runs/r1/data/{name}") for name in names]
    again = build(storage, "r2")
    assert [storage.get(f"runs/r2/data/{name}") for name in names] == one
    assert again.content_sha256 == first.content_sha256
    tell(storage, ("id11", 1, 0.1), name="late")
    assert build(storage, "r3").content_sha256 != first.content_sha256
    kept = storage.get("runs/r1/data/train.manifest")
    repeated = build(storage, "r1")  # the run has its data, late truth does not change them
    assert repeated.frozen and repeated.content_sha256 == first.content_sha256
    assert [storage.get(f"runs/r1/data/{name}") for name in names] == one
    assert storage.get("runs/r1/data/train.manifest") == kept


def test_killed_after_any_write_and_repeated_gives_the_same_run(storage, monkeypatch):
    send(storage, *((f"id{i}", i % 9 + 0.5, i / 10) for i in range(10)))
    put, wanted = storage.client.put_object, None
    inputs = set(storage.list_keys(""))
    for writes in range(40):
        for key in set(storage.list_keys("")) - inputs:
            storage.delete(key)
        left = [writes]

        def killed(left=left, **given):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return put(**given)

        monkeypatch.setattr(storage.client, "put_object", killed)
        whole = False
        try:
            build(storage)
            whole = True
        except KeyboardInterrupt:
            assert not storage.exists("runs/r1/data/train.manifest")
        monkeypatch.setattr(storage.client, "put_object", put)
        build(storage)
        found = {key: storage.get(key) for key in storage.list_keys("")}
        wanted = wanted or found
        assert found == wanted
        if whole:
            break
    assert whole and writes > 10


def test_live_rows_that_were_delivered_as_history_are_not_learnt_twice(storage):
    send(storage, ("3005", 6, 0.2), ("9005", 6, 0.2), ("x", 6, 0.2))
    found = build(storage)
    assert labelled(storage)["inference_id"].to_list() == ["9005", "x"]
    assert found.counts["already_in_history"] == 1 and found.rows["live"] == 2


def test_figures_add_up(storage):
    send(storage, ("a", 6, 0.97), ("b", 6, 0.02), ("c", 1, 0.02), ("d", 1, 1.0))
    tell(storage, ("a", 1, 5))
    found = build(storage)
    assert found.captured["rows"].sum() == 4 and found.captured.columns == ["hour", "variant", "rows"]
    assert found.coverage.to_dicts() == [
        {"age_days": 1, "source": "unknown", "rows": 2, "fraud": 0},
        {"age_days": 6, "source": "mature", "rows": 1, "fraud": 0},
        {"age_days": 6, "source": "truth", "rows": 1, "fraud": 1},
    ]
    assert found.scores["rows"].to_list() == [2, *[0] * 18, 2]
    assert found.fraud_rate.to_dicts()[:3] == [
        {"source": "history", "rows": 100, "fraud": 10, "fraud_rate": 0.1},
        {"source": "truth", "rows": 1, "fraud": 1, "fraud_rate": 1.0},
        {"source": "mature", "rows": 1, "fraud": 0, "fraud_rate": 0.0},
    ]
    assert found.fraud_rate["fraud_rate"][3] is None
    assert found.record()["label_columns"] == ["inference_id", "label", "label_time"]
    assert json.loads(json.dumps(found.record())) == found.record()


def test_findings_name_what_changed_against_the_released_model(storage):
    send(storage, ("a", 6, 0.5), ("b", 1, 0.4))
    moment = NOW - dt.timedelta(days=2)
    sent = [{"TransactionAmt": "8", "card4": "jcb", "extra": 1}]
    body = capture.encode_line(sent, [0.5], event_id="e", time=moment.timestamp(), inference_ids=["c"])
    storage.put(f"data-capture/fraud/AllTraffic/{moment:%Y/%m/%d/%H}/01-00-000-z9.jsonl", body)
    feature = {"required": False}
    schema = {"schema_version": 1, "roles": {}, "ignored": [], "features": [
        {"name": "TransactionAmt", "type": "number"} | feature,
        {"name": "card4", "type": "category", "categories": ["visa", "amex"]} | feature,
        {"name": "gone", "type": "number"} | feature,
    ]}  # fmt: skip
    storage.write_json("releases/fraud/r0/schema.json", schema)
    storage.write_json("releases/fraud/current.json", {"schema_key": "releases/fraud/r0/schema.json"})
    found = {(row["column"], row["finding"]): row["share"] for row in build(storage).findings.to_dicts()}
    third = pytest.approx(1 / 3)
    assert found == {
        ("gone", "missing"): 1.0, ("extra", "new"): third, ("extra", "constant"): third,
        ("TransactionAmt", "retyped"): third, ("card4", "new categories"): third,
    }  # fmt: skip


def test_bad_labels_are_counted_or_refused_with_file_and_line(storage):
    send(storage, ("a", 6, 0.5))
    tell(storage, ("a", 1, 1))
    key = f"labels/{NOW:%Y/%m/%d/%H}/bad.jsonl"
    storage.put(key, b'{"groundTruthData": {"data": "2", "encoding": "CSV"}}\n')
    found = build(storage, max_bad_share=0.5)
    assert found.counts["bad_label_lines"] == 1 and found.bad_lines[0]["file"] == key
    with pytest.raises(DataError, match=rf"1 of 2 label lines .* {key}, line 1: "):
        build(storage, "r2", max_bad_share=0.4)
    assert not storage.exists("runs/r2/data/train.manifest")


def test_history_alone_is_enough(storage):
    found = build(storage, endpoint_name="")
    assert found.rows == {"history": 100, "live": 0} and labelled(storage).height == 0
    assert found.scores["rows"].sum() == 0 and found.findings.height == 0


def test_a_refused_history_leaves_no_trace_of_the_run(storage):
    storage.put("raw/h.csv", b"TransactionID,isFraud\n1,7\n")
    before = list(storage.list_keys(""))
    with pytest.raises(DataError, match="TransactionDT"):
        build(storage)
    with pytest.raises(DataError, match="as_of is 'noon'"):
        build(storage, as_of="noon")
    assert list(storage.list_keys("")) == before


def test_lost_answers_lose_and_double_nothing(storage, monkeypatch):
    send(storage, *((f"id{i}", i % 9 + 0.5, i / 10) for i in range(10)))
    build(storage)
    wanted = {key: storage.get(key) for key in storage.list_keys("")}
    for key in wanted:
        if key.startswith(("ledger/", "runs/")):
            storage.delete(key)
    calls, real = [], storage.client

    class Lossy:
        """Every third call is done, and its answer lost; every fifth is not done."""

        def __getattr__(self, operation):
            def call(**given):
                calls.append(operation)
                if len(calls) % 5 == 0:
                    raise ConnectionClosedError(endpoint_url="https://s3")
                answer = getattr(real, operation)(**given)
                if len(calls) % 3 == 0:
                    raise ConnectionClosedError(endpoint_url="https://s3")
                return answer

            return call

    monkeypatch.setattr(partitions, "WORKERS", 1)
    build(Storage("loop", Lossy(), wait=0))
    assert {key: storage.get(key) for key in storage.list_keys("")} == wanted
    assert calls.count("put_object") > 20


def aside(storage, run="r1"):
    return pl.read_parquet(io.BytesIO(storage.get(f"runs/{run}/data/labels_aside.parquet")))


def test_the_ledger_keeps_what_was_replaced_and_why(storage):
    send(storage, ("a", 3, 0.1), ("b", 3, 0.1))
    tell(storage, ("a", 1, 3), ("a", 1, 2), ("b", 1, 2), ("b", 0, 2), ("a", 0, 1), ("nobody", 1, 1), ("b", 1, -1))
    found = build(storage)
    kept = {(row["inference_id"], row["label"], row["why"]) for row in aside(storage).to_dicts()}
    assert kept == {
        ("a", 1, "corrected"), ("b", 1, "contradicted"), ("nobody", 1, "unknown id"), ("b", 1, "not yet known"),
    }  # fmt: skip
    assert aside(storage).height == 5 and found.counts["labels_corrected"] == 2
    assert found.counts["labels_contradicted"] == 1 and found.counts["labels_from_the_future"] == 1


def test_label_files_are_read_once_whatever_comes_later(storage):
    send(storage, ("a", 3, 0.1))
    tell(storage, ("a", 1, 2), ("a", 0, 1))
    assert build(storage).counts["converted_label_files"] == 2
    kept = {key: storage.get(key) for key in storage.list_keys("ledger/labels/")}
    tell(storage, ("a", 1, 0.5), name="late")
    again = build(storage, "r2")
    assert again.counts["converted_label_files"] == 1 and again.counts["label_lines"] == 3
    assert kept.items() < {key: storage.get(key) for key in storage.list_keys("ledger/labels/")}.items()
    assert labelled(storage, "r2")["label"].to_list() == [1]


def test_a_banks_file_of_chargebacks_counts(storage):
    send(storage, ("a", 3, 0.1), ("b", 3, 0.9), ("c", 3, 0.9))
    booked = (NOW - dt.timedelta(days=1)).timestamp()
    storage.put("labels/bank/may.csv", f"case,outcome,booked\na,1,{booked}\nb,0,\n,1,\n".encode())
    late = (NOW + dt.timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%SZ")  # b has no date: it counts from its delivery
    columns = labels.LabelColumns("case", "outcome", "booked")
    found = build(storage, columns=columns, max_bad_share=0.5, as_of=late)
    kept = {row["inference_id"]: (row["label"], row["label_source"]) for row in labelled(storage).to_dicts()}
    assert kept == {"a": (1, "truth"), "b": (0, "truth")} and found.counts["bad_label_lines"] == 1
    assert {"file": "labels/bank/may.csv", "line": 4, "reason": "there is no id"} in found.bad_lines


def test_truth_corrects_the_history_too(storage):
    send(storage, ("a", 3, 0.1))
    tell(storage, ("3005", 1, 1), ("3010", 0, 1), ("a", 1, 1))
    found = build(storage)
    kept = {row["inference_id"]: row["label"] for row in labelled(storage).to_dicts()}
    assert kept == {"a": 1, "3005": 1, "3010": 0} and found.counts["labels_of_history"] == 2
    assert found.counts["labels_of_unknown_ids"] == 0


def test_payments_to_review_are_drawn_when_asked_for(storage):
    send(storage, *((f"id{i}", 1 + i / 100, 0.5) for i in range(40)))
    found = build(storage, review_rows=5)
    drawn = pl.read_csv(storage.get("runs/r1/data/review.csv"))
    assert drawn.height == 5 and drawn.columns == ["inference_id", "scored_at", "label", "label_time"]
    assert found.review_uri == "s3://loop/runs/r1/data/review.csv" and build(storage, "r2").review_uri == ""


def test_the_one_csv_holds_what_a_model_learns_from(storage):
    send(storage, ("truth", 3, 0.1), ("mature", 6, 0.9), ("young", 2, 0.8))
    tell(storage, ("truth", 1, 1), ("3005", 1, 1))
    found = build(storage, write_combined=True)
    table = pl.read_csv(storage.get("runs/r1/data/combined.csv"), schema_overrides={"TransactionID": pl.String})
    assert table.columns == [
        "TransactionID", "TransactionDT", "isFraud", "TransactionAmt", "card4", "label_source", "weight",
    ]  # fmt: skip
    assert table["label_source"].value_counts().sort("label_source").rows() == [
        ("history", 99), ("mature", 1), ("truth", 2),
    ]  # fmt: skip
    by = {row["TransactionID"]: row for row in table.to_dicts()}
    assert by["truth"]["isFraud"] == by["3005"]["isFraud"] == 1 and by["mature"]["isFraud"] == 0
    assert by["mature"]["TransactionAmt"] == 7.5 and "young" not in by and len(by) == 102
    assert found.combined_uri.endswith("/combined.csv") and build(storage, "r2").combined_uri == ""


def test_the_quality_gate_warns_or_fails(storage):
    sent = [{"transaction_amt": 8.0, "card4": "visa"}]
    moment = NOW - dt.timedelta(days=2)
    body = capture.encode_line(sent, [0.5], event_id="e", time=moment.timestamp(), inference_ids=["c"])
    storage.put(f"data-capture/fraud/AllTraffic/{moment:%Y/%m/%d/%H}/01-00-000-z9.jsonl", body)
    found = build(storage)
    (renamed,) = found.findings.filter(pl.col("finding") == "renamed").to_dicts()
    assert renamed["column"] == "TransactionAmt" and '"transaction_amt"' in renamed["detail"]
    assert "1 serious finding in the data: TransactionAmt (renamed)" in found.check_quality("warn")
    with pytest.raises(DataError, match="TransactionAmt .renamed.; mend the data"):
        found.check_quality("fail")
    assert "Nothing" in build(storage, "r2", endpoint_name="").check_quality("fail")
