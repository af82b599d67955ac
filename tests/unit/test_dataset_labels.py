"""Label files in 01: what cannot be read is named everywhere, or stops the run, and never counts as one bad line."""

from __future__ import annotations

import gzip
import json

import pytest
from test_dataset import NOW, build, labelled, send, storage  # noqa: F401

from fraud.errors import DataError
from fraud.labels import GroundTruth, LabelColumns, render_label_line

GOOD, FRAUDS = 1_110, 60
FRAUD_IDS = [f"L{k}" for k in range(FRAUDS)]
TIME = NOW.timestamp() - 3600


@pytest.fixture
def bank(storage):  # noqa: F811
    """A bucket with many good labels; gives a function that delivers a file about the frauds."""
    lines = [render_label_line(GroundTruth(f"good{k}", 0, TIME)) for k in range(GOOD)]
    storage.put(f"labels/{NOW:%Y/%m/%d/%H}/good.jsonl", "\n".join(lines).encode())
    send(storage, ("L0", 3, 0.1), ("L1", 3, 0.2))
    return lambda name, body: storage.put(f"labels/{name}", body if isinstance(body, bytes) else body.encode())


def quarantined(storage, run="r1"):  # noqa: F811
    body = storage.get(f"runs/{run}/data/quarantine.jsonl", default=b"")
    return [json.loads(line) for line in body.splitlines()]


def of_labels(found):
    return [row for row in found.findings["column", "finding"].rows() if row[1].startswith("unreadable")]


def table(separator=",", head=("inference_id", "label", "label_time"), label="1"):
    rows = [separator.join(head), *(separator.join([own, label, "2026-01-01T00:00:00Z"]) for own in FRAUD_IDS)]
    return "\r\n".join([*rows, ""])


def printed(join="\n"):
    return join.join(str({"inference_id": own, "label": 1}) for own in FRAUD_IDS)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("bank_semicolon.csv", table(";")),
        ("bank.CSV", table("\t")),
        ("bank.csv.gz", gzip.compress(table("|").encode())),
        ("bank_utf16.csv", table(";").encode("utf-16")),
        ("bank_latin1.csv", table().replace("Z", "Z,Café").replace("_time", "_time,shop").encode("latin-1")),
        ("bank_head.csv", table(head=(" Inference ID", "LABEL", '"label_time"'), label="True")),
        ("bank.txt", table()),
        ("bank", table()),
        ("bank.json", json.dumps([{"inference_id": own, "label": True, "time": TIME} for own in FRAUD_IDS])),
        ("bom.jsonl", "\ufeff" + "".join(render_label_line(GroundTruth(own, 1, TIME)) for own in FRAUD_IDS)),
    ],
)
def test_what_means_one_thing_only_is_read(storage, bank, name, body):  # noqa: F811
    bank(name, body)
    found = build(storage)
    assert found.counts["label_lines"] == GOOD + FRAUDS and found.counts["bad_label_lines"] == 0
    assert {row["inference_id"]: row["label"] for row in labelled(storage).to_dicts()} == {"L0": 1, "L1": 1}
    assert found.label_files == [] and not quarantined(storage)


@pytest.mark.parametrize(
    ("name", "body", "lines"),
    [
        ("bank.csv", table(head=("case", "outcome", "booked")), FRAUDS),
        ("bank.csv", table("#"), FRAUDS),
        ("bank.csv", table(label="fraud"), FRAUDS),
        ("bank.jsonl", printed(), FRAUDS),
        ("bank.jsonl", printed(""), FRAUDS),
        ("bank", printed(", "), FRAUDS),
        ("bank.csv", "id;x\n" + "\n".join(FRAUD_IDS).replace("\n", "\0"), 1),
        ("bank.csv.gz", gzip.compress(table().encode())[:-9], 1),
    ],
)
def test_a_file_of_which_nothing_can_be_read_stops_the_run_and_names_itself(storage, bank, name, body, lines):  # noqa: F811
    bank(name, body)
    for share in (0.01, 0.99):
        with pytest.raises(DataError, match=rf"labels/{name}") as refused:
            build(storage, max_bad_share=share)
        assert str(refused.value).count(". ") == 0 and not storage.exists("runs/r1/data/train.manifest")
        bad = quarantined(storage)
        assert (
            len(bad) == lines and {one["file"] for one in bad} == {f"labels/{name}"} and all(o["reason"] for o in bad)
        )
    found = build(storage, max_bad_share=1.0)  # a person said so
    assert found.counts["bad_label_lines"] == lines
    ((file, share),) = found.findings.filter(found.findings["finding"] == "unreadable labels")["column", "share"].rows()
    assert (file, share) == (f"labels/{name}", 1.0)
    assert f"labels/{name}" in found.warnings[0] and "nothing of it" in found.record()["warnings"][0]
    assert f"labels/{name}" in found.labels_sentence() and f"{lines:,} of" in found.labels_sentence()


@pytest.mark.parametrize("name", ["bank.xlsx", "read me.txt", "_SUCCESS", "bank.parquet", "notes.md"])
def test_what_is_no_label_file_by_its_name_is_named_and_stops_nothing(storage, bank, name):  # noqa: F811
    bank(name, b"PK\3\4" + bytes(9) if name.endswith("xlsx") else b"some words\nmore words\n" * 30)
    found = build(storage)
    assert [one["file"] for one in found.label_files] == [f"labels/{name}"]
    assert name in found.warnings[0] and {one["file"] for one in quarantined(storage)} == {f"labels/{name}"}
    assert "unreadable labels" in found.check_quality("warn")
    with pytest.raises(DataError, match="unreadable labels"):
        found.check_quality("fail")


def test_some_bad_lines_are_named_with_their_file_and_the_run_goes_on(storage, bank):  # noqa: F811
    bank("bank.csv", table().replace("L7,1", "L7,x").replace("L8,1", ",1"))
    found = build(storage)
    assert [(one["line"], one["reason"]) for one in quarantined(storage)] == [
        (9, "the label is neither 0 nor 1"), (10, "there is no id"),
    ]  # fmt: skip
    assert found.warnings == [
        "labels/bank.csv: not all of it could be read (2 of 60 lines; line 9: the label is neither 0 nor 1)."
    ]
    assert of_labels(found) == [("labels/bank.csv", "unreadable lines")] and "notes" in found.check_quality("fail")


def test_a_mended_file_in_the_place_of_the_bad_one_ends_the_complaint(storage, bank):  # noqa: F811
    bank("bank.csv", table("#"))
    with pytest.raises(DataError):
        build(storage)
    bank("bank.csv", table(";"))
    found = build(storage, "r2")
    assert found.counts["bad_label_lines"] == 0 and not quarantined(storage, "r2")
    bank("more.csv", table("#"))
    with pytest.raises(DataError):
        build(storage, "r3")
    storage.delete("labels/more.csv")
    assert build(storage, "r4").label_files == []


def test_a_flood_of_bad_files_is_counted_and_not_all_of_it_told(storage, bank):  # noqa: F811
    for k in range(30):
        bank(f"{k:02}.txt", "no label")
    found = build(storage)
    assert len(found.warnings) == 6 and "25 more" in found.warnings[-1]
    assert len(of_labels(found)) == 21 and len(found.label_files) == 30


def test_a_banks_own_names_of_columns_read_its_records_too(storage, bank):  # noqa: F811
    bank("bank.json", json.dumps([{"case": own, "outcome": "1", "booked": "2026-01-01"} for own in FRAUD_IDS]))
    found = build(storage, columns=LabelColumns("case", "outcome", "booked"))
    assert found.counts["bad_label_lines"] == 0 and found.label_sources["truth"] == 2
