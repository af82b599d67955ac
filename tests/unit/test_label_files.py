"""Label files as banks, programs and people write them: read where one thing can be meant, else each line named."""

import base64
import gzip
import json
from pathlib import Path

import pytest

from fraud.label_files import is_delivery, read_label_file
from fraud.labels import GroundTruth, LabelColumns

SHARED = Path(__file__).parents[3] / "shared"
KEY = "labels/1970/01/02/03/0f.jsonl"
BANK = "labels/bank.csv"
DAY = 86_400.0
DELIVERED = 5_000.0
USUAL = LabelColumns()
OWN = LabelColumns("case", "outcome", "booked")


def line(data="1", encoding="CSV", event="tx-1", moment="1970-01-01T00:01:00Z", version="0"):
    meta = {"eventId": event} | ({"labelTime": moment} if moment is not None else {})
    return json.dumps(
        {"groundTruthData": {"data": data, "encoding": encoding}, "eventMetadata": meta, "eventVersion": version}
    )


def read(body, key=BANK, columns=USUAL, delivered=DELIVERED):
    return read_label_file(body if isinstance(body, bytes) else body.encode(), key, columns, delivered)


def said(body, **given):
    """Id and label of all statements, of a file without problems."""
    found = read(body, **given)
    assert found.problems == []
    return [(one.inference_id, one.label) for one in found.labels]


def table(*rows, head="case,outcome,booked"):
    return "\n".join([head, *rows, ""])


# -- what a label is, in JSON and in a table alike


ONES = ["1", "1.0", "1.00", "true", "True", "TRUE", " 1 "]
ZEROS = ["0", "0.0", "false", "False"]


@pytest.mark.parametrize(("text", "label"), [(one, 1) for one in ONES] + [(zero, 0) for zero in ZEROS])
def test_a_label_means_the_same_in_every_form(text, label):
    assert said(f"inference_id,label,label_time\ntx-1,{text},60\n") == [("tx-1", label)]
    mime = base64.encodebytes(text.encode() + b" " * 80).decode()
    for data, encoding in ((text, "CSV"), (text, "JSON"), (mime, "BASE64")):
        assert read(line(data, encoding), KEY).labels == [GroundTruth("tx-1", label, 60.0, KEY)]


@pytest.mark.parametrize(("value", "label"), [(1, 1), (1.0, 1), (True, 1), (0, 0), (0.0, 0), (False, 0)])
def test_a_json_label_need_not_be_text(value, label):
    assert said(line(value)) == said(json.dumps({"inference_id": "tx-1", "label": value})) == [("tx-1", label)]


@pytest.mark.parametrize("text", ["2", "fraud", "NaN", "-1", "01", "1e0", "yes"])
def test_what_is_no_label_is_none_in_any_form(text):
    for body in (f"inference_id,label,label_time\ntx-1,{text},60\n", line(text), line(text, "JSON")):
        found = read(body)
        assert found.labels == [] and "neither 0 nor 1" in found.problems[0][1]


def test_times_and_ids_follow_the_same_rules_in_json_and_tables():
    rows = [("a", "1970-01-01T00:01:00Z", 60.0), ("b", 120, 120.0), ("c", 60.5, 60.5), (12, "", DELIVERED)]
    for key, (own, moment, time) in enumerate(rows):
        expected = [GroundTruth(str(own), 1, time, BANK)]
        assert read(f"inference_id,label,label_time\n{own},1,{moment}\n").labels == expected, key
        assert read(line(event=own, moment=moment)).labels == expected, key
        assert read(json.dumps({"inference_id": own, "label": 1, "time": moment})).labels == expected, key


def test_a_label_without_a_time_is_known_when_it_was_delivered():
    assert read(line(moment=None)).labels[0].time == DELIVERED
    assert read(line(moment=None), KEY).labels[0].time == DAY + 3 * 3600  # SageMaker's own: the hour of its folder
    assert "no hour" in read(line(moment=None), "labels/1970/13/02/03/a.jsonl").problems[0][1]


def test_a_label_from_more_than_a_day_after_its_delivery_is_refused_whatever_reads_it():
    for late, refused in ((DELIVERED + DAY, 0), (DELIVERED + DAY + 1, 1)):
        for body in (f"inference_id,label,label_time\na,1,{late}\n", line(moment=late)):
            problems = read(body).problems
            assert len(problems) == refused and all("future" in reason for _, reason in problems)


# -- tables


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separator_encoding_and_line_ends_do_not_matter(separator, encoding, end):
    rows = ["inference_id,label,label_time,merchant", "a,1,60,Café", "b,0,1970-01-01,Müller"]
    body = (end.join(rows) + end).replace(",", separator).encode(encoding)
    for packed in (body, gzip.compress(body)):
        assert said(packed) == [("a", 1), ("b", 0)]


@pytest.mark.parametrize(
    "head",
    ["INFERENCE_ID,Label,Label_Time", " inference_id , label , label_time ", '"inference_id","label","label_time"',
     "Inference ID,LABEL,label time", "'inference_id','label','label_time'", "inferenceId,label,labelTime",
     "sep=,\ninference_id,label,label_time"],
)  # fmt: skip
def test_names_of_columns_may_differ_in_case_blanks_and_quotes(head):
    quote = "'" if head.startswith("'") else ""
    assert said(f"{head}\n{quote}a{quote},1,60\n") == [("a", 1)]


def test_a_column_of_that_very_name_comes_before_one_that_is_alike():
    assert said("inference_id,LABEL,label,label_time\na,7,1,\n") == [("a", 1)]
    for head in ("inference_id,Label,LABEL,label_time", "inference_id,label,label,label_time"):
        found = read(f"{head}\na,1,1,\nb,1,1,\n")
        assert found.labels == [] and len(found.problems) == 2 and "column" in found.unread


def test_a_table_is_read_by_its_own_columns():
    body = table("a,1,1970-01-01T00:01:00Z", "b,0,120", " c ,true,", "d,,", 'e,"1.0",60.5', ",,", "f;x,1,,")
    labels, problems, _ = read(body, columns=OWN)
    assert [(one.inference_id, one.label, one.time) for one in labels] == [
        ("a", 1, 60.0), ("b", 0, 120.0), ("c", 1, DELIVERED), ("e", 1, 60.5), ("f;x", 1, DELIVERED),
    ]  # fmt: skip
    assert problems == [] and {one.source_key for one in labels} == {BANK}


def test_a_list_of_chargebacks_needs_neither_label_nor_time():
    assert said(table("a,x", "b,y", head="case,shop"), columns=LabelColumns("case", "", "")) == [("a", 1), ("b", 1)]


@pytest.mark.parametrize(
    ("body", "lines", "reason"),
    [
        (table("a,2,"), [2], "neither 0 nor 1"),
        (table("a,1,", "b,fraud,"), [3], "neither 0 nor 1"),
        (table(",1,"), [2], "no id"),
        (table("a,1,soon"), [2], "neither ISO 8601 nor seconds"),
        (table("a,1,-5"), [2], "no moment"),
        (table("a,1,nan"), [2], "no moment"),
        (table("a,1"), [2], "another number of fields"),
        (table("a,1,2,3"), [2], "another number of fields"),
        (table("a,1,", 'b,"1', "c,1,", "d,1,"), [3, 4, 5], "quoted"),
        (table('b,"1"x,', "a,1,"), [2], "quoted"),
        (table("a,1", "b,1", "", "c,1", head="case,outcome"), [2, 3, 5], "no column booked"),
        (table("a,1,2", "b,1,2", head="x,y,z"), [2, 3], "no column case, outcome, booked"),
        ("x,y,z", [1], "no column case, outcome, booked"),
        (table("a,1,", "ä,1,").encode("cp1252"), [3], "more than one way"),
    ],
)
def test_every_line_of_a_table_that_cannot_be_read_has_its_reason(body, lines, reason):
    labels, problems, _ = read(body, columns=OWN)
    assert [at for at, _ in problems] == lines and all(reason in one for _, one in problems)
    assert all(one.inference_id == "a" for one in labels)


# -- JSON


RECORD = json.loads(line(event="it's"))


@pytest.mark.parametrize(
    "body",
    ["\n".join([json.dumps(RECORD)] * 3), json.dumps(RECORD) * 3, " ".join([json.dumps(RECORD)] * 3),
     json.dumps([RECORD] * 3), json.dumps([RECORD] * 3, indent=2), "\n".join([json.dumps(RECORD, indent=1)] * 3),
     ",\n".join([json.dumps(RECORD)] * 3), json.dumps({"labels": [RECORD] * 3}), "\ufeff" + json.dumps([RECORD] * 3),
     json.dumps({"labels": [{"inference_id": "it's", "label": 1}] * 3, "n": 3})],
)  # fmt: skip
def test_records_are_read_however_they_are_strung_together(body):
    assert said(body, key=KEY) == [("it's", 1)] * 3
    assert said(gzip.compress(body.encode("utf-16")), key="labels/x") == [("it's", 1)] * 3


@pytest.mark.parametrize("join", ["\n", "", " ", ", "])
@pytest.mark.parametrize("n", [1, 50])
def test_each_record_that_python_printed_counts(join, n):
    assert len(read(join.join([str(RECORD)] * n)).problems) == n
    assert len(read(str([RECORD] * n)).problems) == n
    assert len(read(str({"labels": [RECORD] * n})).problems) == n
    mixed = read(join.join([json.dumps(RECORD), str(RECORD), json.dumps(RECORD)] * n))
    assert (len(mixed.labels), len(mixed.problems)) == (2 * n, n)


def test_a_bad_line_costs_nothing_but_itself():
    body = f"{line()}\n\noops\n{line()[:50]}\n{line(data='0', event='tx-2')}\n{line()}{{oops}}{line()}"
    labels, problems, _ = read(body, KEY)
    assert [one.label for one in labels] == [1, 0, 1, 1]
    assert problems == [(at, "the record is no JSON") for at in (3, 4, 6)]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("[" * 100_000, "no JSON"),
        ('{"a":' * 100_000, "no JSON"),
        ('{"a":[\n' * 1_000, "no JSON"),
        ("{}", "no ground-truth record"),
        ('["text"]', "no JSON object"),
        (line(data=None), "not CSV, JSON or BASE64"),
        (line(data=[1]), "a list or an object"),
        (line(encoding="XML"), "not CSV, JSON or BASE64"),
        (line(data="!", encoding="BASE64"), "no BASE64"),
        (line(event=""), "no eventId"),
        (line(event="\ud800"), "half a letter"),
        (line(moment="soon"), "neither ISO 8601"),
        (line(version="1"), "eventVersion"),
    ],
)
def test_what_cannot_be_read_has_a_reason(broken, reason):
    found = read(broken, KEY)
    assert found.labels == [] and found.problems and reason in found.problems[0][1]


# -- files


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"PK\x03\x04" + bytes(50), "Excel"),
        (b"PAR1" + bytes(50), "Parquet"),
        (b"%PDF-1.7", "PDF"),
        (bytes(50), "no text"),
        (gzip.compress(b"inference_id,label,label_time\na,1,\n")[:-9], "gzip"),
    ],
)
def test_a_file_that_is_no_text_is_named(body, reason):
    found = read(body)
    assert [at for at, _ in found.problems] == [1] and reason in found.unread


def test_a_file_says_whether_nothing_of_it_can_be_read():
    assert read(table("a,1,", "b,2,"), columns=OWN).unread == ""
    assert read(table("a,2,"), columns=OWN).unread == ""  # one bad line is one bad line
    assert "neither" in read(table("a,2,", "b,2,"), columns=OWN).unread
    assert "no column" in read(table("a,1"), columns=USUAL).unread
    for body in (b"", b"\n \n", b"[]", b"inference_id,label,label_time\n", b"inference_id,label,label_time\na,,\n"):
        assert read(body) == ([], [], "")


def test_names_that_promise_labels():
    for name in ("a.csv", "a.CSV", "a.csv.gz", "b.json", "b.JSONL", "c.tsv", "2026/part-0"):
        assert is_delivery(f"labels/{name}")
    for name in ("a.txt", "a.xlsx", "README.md", "_SUCCESS", ".DS_Store", "b.parquet"):
        assert not is_delivery(f"labels/{name}")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared capture samples are not on this machine")
def test_the_documented_record_is_read():
    (path,) = (SHARED / "data" / "capture_samples").glob("6_*")
    (truth,), problems, _ = read(path.read_bytes(), KEY, delivered=4e9)
    assert (truth.inference_id, truth.label, problems) == ("aaaa-bbbb-cccc", 1, [])


@pytest.mark.skipif(not SHARED.is_dir(), reason="the banks' files are not on this machine")
@pytest.mark.parametrize("name", ["bank_semicolon.csv", "bank_latin1_merchant.csv", "ground_truth_bom.jsonl"])
def test_files_that_banks_delivered_are_read(name):
    found = read((SHARED / "field" / "labels" / name).read_bytes(), f"labels/{name}", delivered=4e9)
    assert found.labels and found.problems == []
