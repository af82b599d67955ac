"""Conversion of a history: the same bytes however it is read, bounded memory, ids beside parts, columns that run."""

from __future__ import annotations

import datetime as dt
import gzip
import io
import subprocess
import sys
import threading

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from delivered import ROLES, keys, table

from fraud.errors import DataError
from fraud.pipeline import columns, conversion, history, tables
from fraud.pipeline import ids as ids_module
from fraud.pipeline.roles import Roles


def frame(storage, found):
    return pl.concat([pl.read_parquet(io.BytesIO(storage.get(part["key"]))) for part in found.parts])


def test_finding_ids_reads_none_of_the_features(storage, monkeypatch):
    monkeypatch.setattr(conversion, "PART_CELLS", 6_000)
    storage.put("raw/a.csv", table(3_000).encode())
    ids = {i: f"x{i:04d}" for i in range(1, 3_001)}
    storage.put("raw/b.csv", table(3_000, TransactionID=ids).encode())
    found = history.ingest(storage, ROLES)
    read, get = [], storage.client.get_object
    monkeypatch.setattr(storage.client, "get_object", lambda **given: read.append(given["Key"]) or get(**given))
    wanted = pl.Series(["x2999", "x0001", "none", "5499", "4100.0", "x9999"])
    assert sorted(found.holding(storage, wanted).rows()) == [
        ("5499", "raw/a.csv", 2_500), ("x0001", "raw/b.csv", 1), ("x2999", "raw/b.csv", 2_999),
    ]  # fmt: skip
    beside = [part["ids"]["key"] for part in found.parts]
    assert sorted(read) == sorted([beside[2], beside[3], beside[5]])
    assert not set(read) & {part["key"] for part in found.parts}
    read.clear()
    assert found.holding(storage, pl.Series(["none", "y"])).is_empty() and read == []
    assert found.holding(storage, pl.Series([], dtype=pl.String)).is_empty() and read == []


def test_ids_made_from_rows_are_not_stored_again(storage):
    storage.put("raw/a.csv", table(100).encode())
    found = history.ingest(storage, Roles("isFraud", "", "TransactionDT", "TransactionAmt"))
    assert found.parts[0]["ids"] is None and len([key for key in keys(storage) if "/ids-" in key]) == 0
    assert found.holding(storage, pl.Series(["3000", f"{found.sources[0]['source_id']}:1"])).is_empty()


@pytest.mark.parametrize("way", [lambda ids: ids.str.len_bytes().cast(pl.UInt64), lambda ids: ids.hash() % 7])
def test_equal_hashes_are_not_equal_ids(storage, monkeypatch, way):
    monkeypatch.setattr(conversion, "PART_CELLS", 6_000)
    monkeypatch.setattr(ids_module, "hashes", lambda ids: way(ids).to_numpy())
    storage.put("raw/a.csv", table(3_000).encode())
    storage.put("raw/b.csv", table(1_500, TransactionID={i: str(i + 6_000) for i in range(1, 1_501)}).encode())
    third = table(2_000, TransactionID={i: str(i + 8_000) for i in range(1, 2_000)}).encode()
    for rows in (0, 4_500):  # all three new; the third after the others
        assert not rows or history.ingest(storage, ROLES).rows == rows
        storage.put("raw/c.csv", third)
        with pytest.raises(DataError, match=r"raw/c.csv: .* row 2000: the id is the same as in raw/a.csv, row 2000\."):
            history.ingest(storage, ROLES)
        storage.delete("raw/c.csv")
    storage.put(
        "raw/d.csv", table(2_000, TransactionID={i: str(min(i, 1_990) + 8_000) for i in range(1, 2_001)}).encode()
    )
    with pytest.raises(DataError, match=r'raw/d.csv: column "TransactionID", row 1991: .* as in row 1990\.'):
        history.ingest(storage, ROLES)


def test_parts_do_not_depend_on_how_a_table_was_read(storage, monkeypatch):
    made = []
    for block, packed in ((1_000, False), (33_333, False), (1 << 20, False), (1_000, True)):
        monkeypatch.setattr(tables, "BLOCK", block)
        monkeypatch.setattr(conversion, "PART_CELLS", 12_000)
        monkeypatch.setattr(conversion, "GROUP_CELLS", 6_000)
        name = "raw/a.csv" + ".gz" * packed
        storage.put(name, gzip.compress(table(4_500).encode()) if packed else table(4_500).encode())
        found = history.ingest(storage, ROLES, origin="2020-01-01")
        made.append([(part["rows"], part["sha256"], part["ids"]["sha256"]) for part in found.parts])
        for key in keys(storage):
            storage.delete(key)
    assert made.count(made[0]) == 4 and [rows for rows, *_ in made[0]] == [2_000, 2_000, 500]


def test_pandas_is_not_imported(tmp_path):
    """Arrow imports it to look at any Python value that it is given: 0.2 s and 40 MB for nothing."""
    (tmp_path / "a.csv").write_text(table(3_000, card4={7: "NaN"}, C1={8: "inf"}))
    code = f"""
import sys
from pathlib import Path
from fraud.pipeline import conversion, history, ids
from fraud.pipeline.roles import Roles
sizes = []
conversion.find_leaks = lambda sample, ignore: sizes.append(sample.shape) or []
whole = ids.Ids.close
ids.Ids.close = lambda self, column: (whole(self, column), sizes.append(sum(len(one) for _, one in self.batches())))
history.preview(Path({str(tmp_path / "a.csv")!r}), Roles(*{list(ROLES.to_dict().values())!r}))
assert sizes[0] == 3_000 and sizes[1][0] > 1_000, sizes
assert "pandas" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_refusal_ends_the_thread_that_reads_ahead(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "PART_CELLS", 6_000)
    (tmp_path / "a.csv").write_text(table(9_000, isFraud={1_500: "2"}))
    before = threading.active_count()
    with pytest.raises(DataError, match=r'column "isFraud", row 1500: the target is a number other than 0 and 1'):
        history.preview(tmp_path / "a.csv", ROLES)
    assert threading.active_count() == before


def test_parts_written_with_types_that_do_not_hold_are_forgotten(storage, monkeypatch):
    monkeypatch.setattr(conversion, "PART_CELLS", 12_000)
    monkeypatch.setattr(conversion, "GROUP_CELLS", 6_000)
    monkeypatch.setattr(tables, "BLOCK", 1_000)
    storage.put("raw/a.csv", table(4_500, C1={3_700: "0.5"}).encode())  # a part and a half later
    found = history.ingest(storage, ROLES)
    rows = frame(storage, found)
    assert [part["rows"] for part in found.parts] == [2_000, 2_000, 500] and found.rows == rows.height == 4_500
    assert found.parts[0]["key"].endswith("part-00000.parquet")
    assert rows["C1"].dtype == pl.Float64 and rows["C1"][3_699] == 0.5 and rows["__id"].n_unique() == 4_500


def test_a_column_that_runs_with_time_is_recorded(storage):
    n = 3_000
    at = np.arange(n)
    mixed = np.random.default_rng(0).permutation(n)  # a table need not be in the order of time
    frame = pl.DataFrame({
        "TransactionID": at, "isFraud": (at % 10 == 0).astype(int), "TransactionDT": at * 3_600, "TransactionAmt": 1.5,
        "day": at // 24, "left": 1e6 - at**1.5, "sparse": [i if i % 2 else None for i in range(n)],
        "few": [i if i < 29 else None for i in range(n)],
        "when": [dt.datetime(2020, 1, 1) + dt.timedelta(i) for i in range(n)],
        "hour": at % 24, "noisy": at + np.random.default_rng(1).normal(0, 600, n), "half": (at > n // 2).astype(int),
        "text": at.astype(str), "empty": pl.Series([None] * n, dtype=pl.Float64),
    })[mixed]  # fmt: skip
    body = io.BytesIO()
    frame.write_parquet(body)
    storage.put("raw/a.parquet", body.getvalue())
    about = history.ingest(storage, ROLES).sources[0]["columns"]
    assert [name for name, one in about.items() if one["runs_with_time"]] == ["day", "left", "sparse", "when"]
    storage.delete("raw/a.parquet")
    storage.put("raw/b.csv", table(200).encode())  # without a time column it is the order of the rows
    about = history.ingest(storage, Roles("isFraud")).sources[0]["columns"]
    assert [name for name, one in about.items() if one["runs_with_time"]] == ["TransactionID", "TransactionDT"]


def test_rows_of_parquet_end_at_the_delivery_too(storage):
    body = io.BytesIO()
    pl.DataFrame({"isFraud": [0, 1] * 20, "C1": range(40)}).write_parquet(body)
    storage.put("raw/a.parquet", body.getvalue())
    end = storage.head("raw/a.parquet").last_modified.timestamp()
    assert history.ingest(storage, Roles("isFraud")).time_span == (end - 39, end)


def test_no_column_runs_with_a_time_that_stands_still(tmp_path):
    (tmp_path / "a.csv").write_text(
        table(200, TransactionDT=dict.fromkeys(range(1, 201), "5"), C1={i: str(i) for i in range(1, 201)})
    )
    found = history.preview(tmp_path / "a.csv", ROLES)
    assert not any(one["runs_with_time"] for one in found["columns"].values())


@pytest.mark.parametrize("size", [7, 1_000, 100_000])
def test_the_sample_is_bounded_and_evenly_spread_whatever_the_row_groups(size):
    n = 100_000
    label = np.zeros(n, np.int8)
    label[::50] = 1
    sample = conversion._Sample()
    for start in range(0, n, size):
        rows = slice(start, start + size)
        group = pa.table({"__label": label[rows], "at": np.arange(n)[rows]})
        sample.add(group, pl.Series(label[rows]))
    found = sample.frame()
    for value, least in conversion.SAMPLED.items():
        at = found.filter(pl.col("__label") == value)["at"].to_numpy()
        assert least <= len(at) <= 2 * least
        assert at.tolist() == np.flatnonzero(label == value)[:: sample.step[value]].tolist()


def test_large_numbers_stay_and_infinite_ones_are_missing(storage):
    change = {1: "1e308", 2: "1e308", 3: "inf", 4: "-inf", 5: "NaN", 6: "0.5"}
    storage.put("raw/a.csv", table(100, C1=change).encode())
    made = frame(storage, history.ingest(storage, ROLES))["C1"]
    assert made[:6].to_list() == [1e308, 1e308, None, None, None, 0.5] and made.null_count() == 3


def test_counting_numbers_in_text_forgets_no_count(monkeypatch):
    texts = [*(str(i) for i in range(50)), "NA", "a", "NaN", "b", "a", "", None] * 2
    wanted = columns.Tally()
    columns.count_numbers(pa.table({"x": texts}), {"x": wanted})
    assert (wanted.values, wanted.numbers) == (106, 100)
    monkeypatch.setattr(columns, "KNOWN", 3)
    tally = columns.Tally()
    for start in range(0, len(texts), 5):
        columns.count_numbers(pa.table({"x": pa.array(texts[start : start + 5], pa.string())}), {"x": tally})
    assert (tally.values, tally.numbers) == (106, 100)
    assert len(tally.known) <= 3 + 5 + len(columns.MISSING_NUMBER) + 1
