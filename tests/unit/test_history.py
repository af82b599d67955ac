"""Delivered tables: what is refused, how types and time are learnt, and that conversion can be killed and repeated."""

from __future__ import annotations

import datetime as dt
import io
import json
from pathlib import Path

import polars as pl
import pytest
from delivered import HEAD, ROLES, keys, table

from fraud.errors import DataError
from fraud.pipeline import conversion, history, tables
from fraud.pipeline.roles import Roles

SHARED = Path(__file__).parents[3] / "shared" / "data"


def frame(storage, found):
    return pl.concat([pl.read_parquet(io.BytesIO(storage.get(part["key"]))) for part in found.parts])


N = 40
SOUND = {
    "TransactionID": list(range(N)), "isFraud": [i % 2 for i in range(N)], "TransactionDT": list(range(N)),
    "TransactionAmt": [1.5] * N, "C1": list(range(N)),
}  # fmt: skip


def test_parts_hold_reserved_columns_and_natural_types(storage):
    storage.put("raw/h.csv", table(200, C1={5: "", 6: "NaN"}, card4={9: "", 10: "NA"}).encode())
    found = history.ingest(storage, ROLES)
    made = frame(storage, found)
    assert made.schema == {
        "__id": pl.String, "__time": pl.Float64, "__label": pl.Int8,
        "TransactionAmt": pl.Float64, "card4": pl.String, "C1": pl.Int64,
    }  # fmt: skip
    assert made["__id"].to_list()[:2] == ["3000", "3001"] and made["__label"].sum() == 20 == found.frauds
    assert made["C1"].null_count() == 2 and made["card4"].null_count() == 1 and made["card4"][9] == "NA"
    assert found.types == {"TransactionAmt": "float", "card4": "text", "C1": "int"}
    assert found.rows == 200 and found.time_span == (made["__time"].min(), made["__time"].max())
    assert all(len(part["sha256"]) == 64 for part in found.parts)


def test_numeric_time_ends_at_the_delivery_and_later_tables_continue_it(storage):
    storage.put("raw/a.csv", table(100).encode())
    end = storage.head("raw/a.csv").last_modified.timestamp()
    first = history.ingest(storage, ROLES)
    assert first.time_span == (end - 99 * 60, end)
    assert "seconds since" in first.notes[0]
    later = table(140).encode().split(b"\n")
    storage.put("raw/b.csv", b"\n".join([later[0], *later[101:]]))
    both = history.ingest(storage, ROLES)
    assert both.converted == 1 and both.sources[1]["time_span"] == [end + 60, end + 40 * 60]


def test_a_given_origin_moves_time_and_makes_parts_of_its_own(storage):
    storage.put("raw/a.csv", table(100).encode())
    found = history.ingest(storage, ROLES, origin="2020-01-01T00:00:00Z")
    assert found.time_span[0] == dt.datetime(2020, 1, 2, tzinfo=dt.UTC).timestamp()
    assert history.ingest(storage, ROLES).converted == 1
    with pytest.raises(DataError, match=r'raw/a.csv: column "TransactionDT", row 1: the time lies in the future'):
        history.ingest(storage, ROLES, origin="2100-01-01T00:00:00Z")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2020-03-04 05:06:07", "2020-03-04T05:06:07+00:00"),
        ("2020-03-04T05:06:07Z", "2020-03-04T05:06:07+00:00"),
        ("2020-03-04T05:06:07.250", "2020-03-04T05:06:07.250+00:00"),
        ("2020-03-04T05:06:07+02:00", "2020-03-04T03:06:07+00:00"),
        ("2020-03-04 05:06", "2020-03-04T05:06:00+00:00"),
        ("2020-03-04", "2020-03-04T00:00:00+00:00"),
        ("1583298367", "2020-03-04T05:06:07+00:00"),
        ("1583298367000", "2020-03-04T05:06:07+00:00"),
    ],
)
def test_moments_are_read_as_they_are_written(tmp_path, text, wanted):
    path = tmp_path / "t.csv"
    path.write_text(table(100, TransactionDT=dict.fromkeys(range(1, 101), text)))
    moment = dt.datetime.fromisoformat(wanted).timestamp()
    assert history.preview(path, ROLES)["time_span"] == [moment, moment]


def test_a_bad_moment_names_its_row(tmp_path):
    path = tmp_path / "t.csv"
    moments = dict.fromkeys(range(1, 101), "2020-03-04 05:06:07") | {41: "2020-02-30 00:00:00"}
    path.write_text(table(100, TransactionDT=moments))
    with pytest.raises(DataError, match=r't.csv: column "TransactionDT", row 41: the time cannot be read'):
        history.preview(path, ROLES)
    path.write_text(table(100, TransactionDT=moments | {41: "2099-02-03"}))
    with pytest.raises(DataError, match="row 41: the time lies in the future"):
        history.preview(path, ROLES)


def test_without_id_and_time_they_are_made_from_the_rows(storage):
    storage.put("raw/a.csv", table(100).encode())
    found = history.ingest(storage, Roles("isFraud"))
    made = frame(storage, found)
    source = found.sources[0]["source_id"]
    assert made["__id"].to_list()[::99] == [f"{source}:1", f"{source}:100"]
    assert made["__time"].diff().drop_nulls().unique().to_list() == [1.0]
    assert made["__time"][-1] == storage.head("raw/a.csv").last_modified.timestamp()
    assert "TransactionID" in made.columns and any("no time column" in note for note in found.notes)


def test_types_are_learnt_from_the_whole_column(storage, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK", 1_000)  # the first block shows 30 rows
    monkeypatch.setattr(conversion, "PART_CELLS", 6_000)
    change = {
        "C1": {2_999: "0.5"},
        "TransactionAmt": {i: "7" for i in range(1, 3_001)},
        "card4": {i: str(i) for i in range(1, 2_001)},
    }
    storage.put("raw/a.csv", table(3_000, **change).encode())
    found = history.ingest(storage, ROLES)
    assert found.types == {"TransactionAmt": "int", "card4": "text", "C1": "float"}
    made = frame(storage, found)
    assert len(found.parts) == 3 and [part["rows"] for part in found.parts] == [1_000] * 3
    assert made["C1"][2_998] == 0.5 and made["card4"][0] == "1" and made["card4"][2_999] == "amex"
    assert found.sources[0]["columns"]["TransactionAmt"] == {
        "type": "int", "nulls": 0, "constant": True, "runs_with_time": False,
    }  # fmt: skip


def test_one_text_far_down_in_numbers_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK", 1_000)
    path = tmp_path / "a.csv"
    path.write_text(table(3_000, C1={2_999: "oops"}))
    with pytest.raises(DataError, match=r'column "C1", row 2999: text of 4 characters, where 99.9% of the values'):
        history.preview(path, ROLES)
    assert history.preview(path, ROLES, exclude=["C1"])["columns"]["C1"]["type"] == "text"
    path.write_text(table(3_000, C1={1: "oops"}))  # in the first block the column looks mixed
    with pytest.raises(DataError, match=r'column "C1", row 1: text of 4 characters'):
        history.preview(path, ROLES)


def test_parquet_types_are_made_ours(storage):
    body = io.BytesIO()
    pl.DataFrame(SOUND).with_columns(
        pl.col("TransactionID").cast(pl.Float64), pl.col("C1").cast(pl.UInt8), flag=pl.col("isFraud") == 1,
        kind=pl.Series(["a", "b"] * (N // 2), dtype=pl.Categorical), when=pl.lit(dt.date(2020, 1, 1)),
        void=pl.lit(None), ratio=pl.lit(float("inf")), isFraud=pl.col("isFraud").cast(pl.Boolean),
    ).write_parquet(body)  # fmt: skip
    storage.put("raw/a.parquet", body.getvalue())
    found = history.ingest(storage, ROLES, exclude=["flag"])
    made = frame(storage, found)
    assert made["__id"][0] == "0" and made["__label"].to_list() == SOUND["isFraud"]
    assert found.types == {
        "TransactionAmt": "float", "C1": "int", "flag": "bool", "kind": "text", "when": "time", "void": "float",
        "ratio": "float",
    }  # fmt: skip
    assert made["ratio"].null_count() == N and made["when"].dtype == pl.Datetime("us") and "flag" in made.columns


def test_ids_may_not_repeat_across_tables(storage):
    storage.put("raw/a.csv", table(100).encode())
    history.ingest(storage, ROLES)
    before = keys(storage)
    storage.put("raw/b.csv", table(100, TransactionID={i: str(9_000 + i) for i in range(1, 101) if i != 8}).encode())
    with pytest.raises(DataError, match=r'raw/b.csv: column "TransactionID", row 8: .* in raw/a.csv, row 8\.'):
        history.ingest(storage, ROLES)
    assert keys(storage) == sorted([*before, "raw/b.csv"])
    storage.delete("raw/b.csv")
    for name in ("raw/c.csv", "raw/d.csv"):  # both new in one call
        storage.put(name, table(50, TransactionID={i: str(7_000 + i) for i in range(1, 51)}).encode())
    with pytest.raises(DataError, match=r"raw/d.csv: .* row 1: .* in raw/c.csv, row 1\."):
        history.ingest(storage, ROLES)


def test_the_row_of_an_id_in_a_later_part_is_counted_from_the_header(storage, monkeypatch):
    monkeypatch.setattr(conversion, "PART_CELLS", 6_000)
    storage.put("raw/a.csv", table(3_000).encode())
    history.ingest(storage, ROLES)
    storage.put("raw/b.csv", table(2, TransactionID={1: "5499", 2: "x"}, isFraud={1: "1"}).encode())
    with pytest.raises(DataError, match=r"raw/b.csv: .* row 1: .* in raw/a.csv, row 2500\."):
        history.ingest(storage, ROLES)


def test_whoever_wrote_the_manifest_first_decides(storage, monkeypatch):
    storage.put("raw/a.csv", table(100).encode())
    put = storage.client.put_object

    def slower(**given):
        if given["Key"].endswith("_manifest.json") and given.get("IfNoneMatch"):
            theirs = json.loads(given["Body"]) | {"notes": ["theirs"]}
            put(Bucket="loop", Key=given["Key"], Body=json.dumps(theirs).encode())
        return put(**given)

    monkeypatch.setattr(storage.client, "put_object", slower)
    assert history.ingest(storage, ROLES).notes == ["theirs"]


def test_a_later_table_follows_the_types_of_the_history(storage):
    storage.put("raw/a.csv", table(100).encode())
    history.ingest(storage, ROLES)
    ids = {i: str(9_000 + i) for i in range(1, 101)}
    storage.put("raw/b.csv", table(100, TransactionID=ids, card4=dict.fromkeys(range(1, 101), "7")).encode())
    assert history.ingest(storage, ROLES).types["card4"] == "text"
    storage.delete("raw/b.csv")
    storage.put("raw/b.csv", table(100, TransactionID=ids, C1={i: "many" for i in range(4, 101)}).encode())
    with pytest.raises(DataError, match=r'raw/b.csv: column "C1", row 4: .*, but the history before it has numbers'):
        history.ingest(storage, ROLES)


def test_a_second_run_reads_one_manifest_per_table(storage):
    for name in "ab":
        ids = {i: f"{name}{i}" for i in range(1, 101)}
        storage.put(f"raw/{name}.csv", table(100, TransactionID=ids).encode())
    first = history.ingest(storage, ROLES)
    calls = []
    note = lambda model, **_: calls.append(model.name)  # noqa: E731
    storage.client.meta.events.register("before-call.s3", note)
    second = history.ingest(storage, ROLES)
    storage.client.meta.events.unregister("before-call.s3", note)
    assert calls == ["ListObjectsV2", "GetObject", "GetObject"]
    assert second.converted == 0 and second.sources == first.sources
    assert list(second.types.items()) == list(first.types.items()) and list(first.types)[0] == "C1"


def test_killed_after_any_write_and_repeated_gives_the_same_objects(storage, monkeypatch):
    monkeypatch.setattr(conversion, "PART_CELLS", 6_000)
    storage.put("raw/a.csv", table(3_000).encode())
    put = storage.client.put_object
    for writes in range(9):
        for key in keys(storage):
            if key.startswith("ledger/"):
                storage.delete(key)
        left = [writes]

        def killed(left=left, **given):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            return put(**given)

        monkeypatch.setattr(storage.client, "put_object", killed)
        if writes < 8:  # the clock, three parts and their ids, the manifest
            with pytest.raises(KeyboardInterrupt):
                history.ingest(storage, ROLES)
            assert not any(key.endswith("_manifest.json") for key in keys(storage))
        monkeypatch.setattr(storage.client, "put_object", put)
        history.ingest(storage, ROLES)
        found = {key: storage.get(key) for key in keys(storage)}
        wanted = found if writes == 0 else wanted  # noqa: F821
        assert found == wanted and len(found) == 9


def test_a_part_left_by_another_version_is_kept_and_not_used(storage):
    storage.put("raw/a.csv", table(100).encode())
    found = history.ingest(storage, ROLES)
    part, manifest = found.parts[0]["key"], f"ledger/history/{found.sources[0]['source_id']}/_manifest.json"
    ids = found.parts[0]["ids"]["key"]
    storage.delete(manifest)
    storage.put(part, b"other bytes")
    storage.put(ids, b"other ids")
    again = history.ingest(storage, ROLES)
    assert storage.get(part) == b"other bytes" and again.parts[0]["key"] != part
    assert storage.get(ids) == b"other ids" and again.holding(storage, pl.Series(["3007"]))["row"].to_list() == [8]
    assert frame(storage, again).height == 100


def test_what_is_no_table_is_told_and_left(storage):
    with pytest.raises(DataError, match=r"s3://loop/raw/ holds no table"):
        history.ingest(storage, ROLES)
    for name in ("a.csv", "read me.txt", "folder/", "_SUCCESS"):
        storage.put(f"raw/{name}", table(100).encode() if name == "a.csv" else b"")
    assert [note for note in history.ingest(storage, ROLES).notes if "ignored" in note] == [
        "raw/read me.txt is ignored: its name does not end in .csv, .csv.gz, .parquet."
    ]


def test_an_excluded_column_that_no_table_has_is_told(storage, tmp_path):
    storage.put("raw/a.csv", table(100).encode())
    said = 'exclude_columns names "C2", which no table has.'
    assert said in history.ingest(storage, ROLES, exclude=["C1", "C2", "isFraud"]).notes
    (tmp_path / "a.csv").write_text(table(100))
    assert said in history.preview(tmp_path / "a.csv", ROLES, exclude=["C2"])["notes"]


def test_put_checks_guesses_and_never_overwrites(storage, tmp_path):
    path, said = tmp_path / "mine.csv", []
    path.write_text(table(300, C1={i: str(int(i % 10 == 1)) for i in range(1, 301)}))
    found = history.put(storage, path, {"target": ""}, echo=said.append)
    assert found["roles"] == ROLES.to_dict() and found["key"] == "raw/mine.csv" and found["rows"] == 300
    assert any('"C1" gives the answer away' in line for line in said)
    assert json.loads(json.dumps(found)) == found
    assert history.put(storage, path, exclude=["C1"])["leaks"] == []
    path.write_text(table(301))
    with pytest.raises(DataError, match="raw/ is never overwritten"):
        history.put(storage, path)
    path.write_text(HEAD)
    with pytest.raises(DataError, match="no rows"):
        history.put(storage, path, name="other.csv")
    assert keys(storage) == ["raw/mine.csv"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data sets are not on this machine")
@pytest.mark.parametrize(
    ("name", "rows", "frauds", "leaks"),
    [("handbook_raw", 1_754_155, 14_681, ["TX_FRAUD_SCENARIO"]), ("ulb_creditcard", 284_807, 492, [])],
)
def test_real_tables(name, rows, frauds, leaks):
    found = history.preview(SHARED / f"{name}.parquet")
    assert (found["rows"], found["frauds"]) == (rows, frauds)
    assert [leak["column"] for leak in found["leaks"]] == leaks
