"""What the model may learn from: columns, types, labels."""

from __future__ import annotations

import decimal
import json

import numpy as np
import pyarrow as pa
import pytest
import training_kit as kit

from fraud.schema import Schema
from fraud.training import data as training_data
from fraud.training import features as training_features
from fraud.training import splits


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    channel = kit.put(tmp_path_factory.mktemp("channel"), kit.history(kit.table()))
    with pytest.MonkeyPatch.context() as patch:
        return kit.run(patch, tmp_path_factory.mktemp("job"), channel)


def columns_of(channel):
    """Ledger, rows, masks and what was learnt, as ``train`` goes through them."""
    ledger = training_data.open_ledger(channel)
    rows = training_data.read_rows(ledger)
    fold = splits.prequential(rows, kit.settings())[-1]
    masks = (fold.train, fold.grading)
    return ledger, rows, masks, training_features.learn(ledger, rows, *masks, 256)


# -- what it may look at


def test_columns_left_out_have_a_reason(job):
    excluded, schema = job.read("metrics.json")["excluded"], job.read("schema.json")
    assert excluded == {
        "__id": "reserved",
        "__time": "reserved",
        "__label": "reserved",
        "note": "free text: 1,200 values in 1,200 rows",
        "same": "constant",
        "nothing": "empty",
        "when": "a date or time",
        "counter": "runs with time: later values lie outside all that was learnt",
        "secret": "excluded by parameter",
    }
    assert set(schema["ignored"]) == set(excluded) - {"__id", "__time", "__label"} | {"tx_id", "tx_time"}


def test_types_categories_and_required_are_learnt(job):
    features = {feature["name"]: feature for feature in job.read("schema.json")["features"]}
    assert features["card"]["categories"] == ["visa", "master", "amex", "diners"]
    types = {name: feature["type"] for name, feature in features.items()}
    assert types == {
        "amount": "number",
        "v1": "number",
        "v 2, {odd}": "number",
        "count": "number",
        "card": "category",
        "known": "boolean",
        "first_time": "boolean",
    }
    assert {name for name, feature in features.items() if feature["required"]} == {"amount", "v1", "first_time"}


def test_rare_categories_beyond_the_limit_are_unseen_and_ties_go_by_text(tmp_path):
    rows = kit.table(400)
    place = rows.schema.get_field_index("card")
    rows = rows.set_column(place, "card", pa.array((["d", "b", "c", "a"] * 80 + ["b"] * 80)[:400]))
    channel = kit.put(tmp_path, kit.history(rows))
    ledger = training_data.open_ledger(channel)
    everything = training_data.read_rows(ledger)
    fold = splits.prequential(everything, kit.settings())[-1]
    learnt = training_features.learn(ledger, everything, fold.train, fold.grading, max_categories=3)
    card = next(feature for feature in learnt.schema.features if feature.name == "card")
    assert card.categories == ("a", "b", "c")
    assert card.required


def test_a_column_of_two_types_is_left_out_unless_text_can_hold_both(tmp_path):
    rows = kit.table(600)
    place = rows.schema.get_field_index("count")
    first, second = (part for part in kit.history(rows).values())
    flags = second.set_column(place, "count", pa.array([True, False] * 150))
    texts = second.set_column(place, "count", second["count"].cast(pa.string()))
    for part, expected in ((flags, None), (texts, "category")):
        channel = kit.put(tmp_path / str(expected), {"a.parquet": first, "b.parquet": part})
        _, _, _, learnt = columns_of(channel)
        found = {feature.name: feature.type for feature in learnt.schema.features}.get("count")
        assert found == expected
    assert "number" in columns_of(tmp_path / "None")[3].excluded["count"]


def test_training_sees_the_doubles_that_serving_sees(tmp_path):
    rows = kit.table(800)
    n = len(rows)
    odd = {
        "big": pa.array([(-1) ** k * (2**53 + 1 + 2 * k) for k in range(n - 2)] + [None, -(2**62) - 1]),
        "small": pa.array(np.random.default_rng(1).normal(size=n).astype(np.float32)),
        "money": pa.array([decimal.Decimal(k * 37 % 1000) / 100 for k in range(n)], pa.decimal128(10, 2)),
        "coded": pa.array(["x", "y", None, "z"] * (n // 4)).dictionary_encode(),
        "large": pa.array(["ü", "", " a", None] * (n // 4), pa.large_string()),
        "nan": pa.array([float("nan"), -0.0, 5e-324, 1e308] * (n // 4)),
    }
    for name, column in odd.items():
        rows = rows.append_column(name, column)
    channel = kit.put(tmp_path, kit.history(rows, 3))
    ledger, _, masks, learnt = columns_of(channel)
    assert set(odd) <= set(learnt.schema.names)
    schema = Schema.from_json(learnt.schema.to_json())
    for mask, matrix in zip(masks, (learnt.train, learnt.validation), strict=True):
        raw = training_data.raw_rows(ledger, np.flatnonzero(mask), learnt.schema.names)
        sent = [json.loads(json.dumps(row, allow_nan=False)) for row in raw]
        assert np.array([schema.encode(row) for row in sent]).tobytes() == np.ascontiguousarray(matrix).tobytes()


# -- time and labels


def test_live_rows_get_their_labels_by_id(tmp_path):
    live = kit.table(6, 1, 1.8e9, "live", labelled=False)
    live = pa.concat_tables([live, live.slice(2, 1)])  # delivered twice
    labels = [
        ("live0", 1, "truth", 1.0),
        ("live2", 0, "mature", 0.5),
        ("live3", 1, "pseudo", 0.25),
        ("else", 1, "truth", 1.0),
    ]
    parts = {**kit.history(kit.table(100)), kit.LIVE: live, kit.LIVE.replace("ab", "cd"): live.slice(3, 1)}
    rows = training_data.read_rows(training_data.open_ledger(kit.put(tmp_path, parts, labels)))
    assert rows.label[:100].min() >= 0
    assert rows.label[100:].tolist() == [1, -1, 0, 1, -1, -1, -1, -1]
    assert [training_data.SOURCES[k] if k >= 0 else None for k in rows.source[100:]] == [
        "truth", None, "mature", "pseudo", None, None, None, None,
    ]  # fmt: skip
    assert rows.weight[100:].tolist() == [1.0, 1.0, 0.5, 0.25, 1.0, 1.0, 1.0, 1.0]


def test_truth_corrects_what_the_history_says(tmp_path):
    rows = kit.table(50)
    was = rows["__label"].to_pylist()
    labels = [("t3", 1 - was[3], "truth", 1.0)]
    found = training_data.read_rows(training_data.open_ledger(kit.put(tmp_path, kit.history(rows), labels)))
    assert [k for k in range(50) if found.label[k] != was[k]] == [3]
    assert training_data.SOURCES[found.source[3]] == "truth" and training_data.SOURCES[found.source[4]] == "history"


def test_pseudo_labels_teach_but_never_grade(tmp_path, monkeypatch):
    live = kit.table(400, 1, 1.7e9 + 50_000, "live", labelled=False)
    labels = [(f"live{k}", k % 2, "pseudo", 0.1) for k in range(400)]
    channel = kit.put(tmp_path / "in", {**kit.history(kit.table(1000)), kit.LIVE: live}, labels)
    job = kit.run(monkeypatch, tmp_path, channel, "--validation_fraction", "0.3")
    metrics = job.read("metrics.json")
    assert metrics["n_validation"] == 300  # of the history alone
    assert metrics["n_train"] == 1100  # the youngest opinions too
    assert metrics["label_sources"] == {"history": 1000, "truth": 0, "mature": 0, "pseudo": 400, "unlabelled": 0}
