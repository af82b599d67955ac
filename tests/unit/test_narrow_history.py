"""A history kept in another width, from the delivered Parquet through a training job to the verdict on live traffic."""

import json
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import training_kit as kit

from fraud.drift import Sketch, judge
from fraud.schema import Schema, category_text
from fraud.serving import model_file
from fraud.training import data

N = 3_000
PRICES = [7.99, 12.3, 49.95, 101.1]


def payments():
    """What really happened: a third of the payments have one of four prices; an id that is a number; counts; zeros."""
    rng = np.random.default_rng(5)
    plain = kit.table(N, seed=5)
    amount = np.where(rng.random(N) < 0.35, rng.choice(PRICES, N), plain["amount"].to_numpy())
    ratio = np.where(rng.random(N) < 0.5, rng.choice([0.0, 0.1, 1 / 3], N), rng.random(N).round(3))
    columns = {
        "amount": amount.round(2), "v1": plain["v1"].to_numpy(), "ratio": ratio,
        "merchant": rng.integers(1_000, 1_060, N).astype(float), "count": rng.integers(0, 5, N).astype(float),
    }  # fmt: skip
    return plain, columns


WIDTHS = {
    "float64": lambda name, values: pa.array(values),
    "float32": lambda name, values: pa.array(values.astype(np.float32)),
    "float16": lambda name, values: pa.array(values.astype(np.float16)),
    "decimals": lambda name, values: pa.array([Decimal(f"{v:.6f}") for v in values], pa.decimal128(18, 6)),
    "integers": lambda name, values: pa.array(
        values.astype(np.int32) if (values == values.astype(int)).all() else values.astype(np.float32)
    ),
}


@pytest.mark.parametrize("width", WIDTHS)
def test_the_same_payments_as_json_are_no_drift(width, tmp_path, monkeypatch):
    plain, columns = payments()
    rows = {name: plain[name] for name in ("__id", "__time", "__label")}
    rows |= {name: WIDTHS[width](name, values) for name, values in columns.items()}
    channel = kit.put(tmp_path / "in", kit.history(pa.table(rows)), exclude=[])
    job = kit.run(monkeypatch, tmp_path, channel)
    assert job.exit_code == 0, job.reason

    baseline, schema = job.read("baseline.json"), Schema.from_json(json.dumps(job.read("schema.json")))
    entries = baseline["features"]
    assert {entry["width"] for entry in entries.values()} == ({16} if width == "float16" else {16, 32})
    booster = model_file.load(job.model_dir)
    numbers = {name: values.tolist() for name, values in columns.items()}
    whole = ("merchant", "count")  # callers send 12, the history holds 12.0
    transactions = [
        {name: int(values[k]) if name in whole and k % 2 else values[k] for name, values in numbers.items()}
        for k in range(baseline["rows"])
    ]
    matrix = np.asfortranarray([schema.encode(row) for row in json.loads(json.dumps(transactions))])
    scores = booster.probabilities(matrix)
    sketch = Sketch(baseline, schema)
    for row, score in zip(transactions, scores, strict=True):
        sketch.add(SimpleNamespace(transaction=row, fraud_probability=score))
    for name, entry in entries.items():
        assert sketch.features[name].counts == entry["counts"], name
        assert (sketch.features[name].below, sketch.features[name].above) == (0, 0)
    verdict = judge(baseline, sketch, {"min_records": 1, "persistence": [1, 1]}, (0, 86_400), "fraud", 90_000)
    assert [(r["rule"], r["feature"]) for r in verdict["rules"] if r["fired"] and r["feature"] in entries] == []

    delivered = np.column_stack([rows[name].cast(pa.float64()).to_numpy(zero_copy_only=False) for name in schema.names])
    learnt = booster.probabilities(np.asfortranarray(delivered[: baseline["rows"]]))
    assert np.mean(np.array(learnt) != np.array(scores)) <= 0.002, "thresholds of the trees lie between values, too"


CODES = [0.1, 2.5, 12.0, 16_777_216.0]


@pytest.mark.parametrize(
    "delivered",
    [
        lambda codes: pa.array(codes, pa.float64()),
        lambda codes: pa.array(codes, pa.float32()),
        lambda codes: pa.array([Decimal(str(code)) for code in codes], pa.decimal128(12, 2)),
        lambda codes: pa.array(codes, pa.float32()).dictionary_encode(),
    ],
    ids=["float64", "float32", "decimals", "dictionary"],
)
def test_a_code_that_is_a_number_in_one_file_and_text_in_another_is_one_category(delivered, tmp_path, monkeypatch):
    """Callers send 0.1 and 12: neither is unseen, and the model takes them as it learnt them."""
    rng = np.random.default_rng(2)
    plain = kit.table(N, seed=2)
    codes = rng.choice(CODES, N)
    rows = {name: plain[name].combine_chunks() for name in ("__id", "__time", "__label", "amount", "v1")}
    first, second = (pa.table(rows).slice(start, N // 2) for start in (0, N // 2))
    some = codes[: N // 2]
    text = [category_text(code) for code in codes[N // 2 :].tolist()]
    parts = {
        "ledger/history/abc/part-00000.parquet": first.append_column("code", delivered(some)),
        "ledger/history/abc/part-00001.parquet": second.append_column("code", pa.array(text)),
    }
    job = kit.run(monkeypatch, tmp_path, kit.put(tmp_path / "in", parts, exclude=[]))
    assert job.exit_code == 0, job.reason
    schema = Schema.from_json(json.dumps(job.read("schema.json")))
    (code,) = [feature for feature in schema.features if feature.name == "code"]
    assert sorted(code.categories) == ["0.1", "12", "16777216", "2.5"]
    sent = [json.loads(json.dumps({"amount": 1.0, "v1": 0.0, "code": value})) for value in (*CODES, 12, 16_777_216)]
    assert not any(schema.unseen(transaction) for transaction in sent)
    assert job.read("baseline.json")["features"]["code"]["unseen"] == 0


def test_a_golden_row_of_a_narrow_file_has_the_code_that_was_learnt(tmp_path):
    """The rows that a loaded model is tried on come from the newest file, here the one of numbers."""
    plain = kit.table(200, seed=2).select(["__id", "__time", "__label"])
    codes = pa.array([0.1, 2.5] * 50, pa.float32())
    parts = {
        "ledger/history/abc/part-00000.parquet": plain.slice(0, 100).append_column("code", pa.array(["0.1"] * 100)),
        "ledger/history/abc/part-00001.parquet": plain.slice(100)
        .append_column("code", codes)
        .append_column("x", codes),
    }
    ledger = data.open_ledger(kit.put(tmp_path, parts))
    found = data.raw_rows(ledger, [0, 100, 101], ["code", "x"])
    assert [row["code"] for row in found] == ["0.1", "0.1", "2.5"]
    assert [row["x"] for row in found] == [None, float(np.float32(0.1)), 2.5], "a number stays what was learnt from"
