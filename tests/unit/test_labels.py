"""Ground truth on the wire: SageMaker's records, the bank's CSV, and which statement counts."""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud.errors import CaptureFormatError
from fraud.labels import (
    GroundTruth,
    LabelColumns,
    hour_folder,
    in_hour_folder,
    keys_aside,
    parse_label_csv,
    parse_label_file,
    parse_label_line,
    render_label_line,
    resolve,
)

SAMPLES = Path(__file__).parents[3] / "shared" / "data" / "capture_samples"
KEY = "labels/1970/01/02/03/0f.jsonl"
DAY = 86_400.0


def line(data="1", encoding="CSV", event="tx-1", moment="1970-01-01T00:01:00Z", version="0"):
    meta = {"eventId": event} | ({"labelTime": moment} if moment is not None else {})
    return json.dumps(
        {"groundTruthData": {"data": data, "encoding": encoding}, "eventMetadata": meta, "eventVersion": version}
    )


@pytest.mark.parametrize(
    ("data", "encoding", "label"),
    [("1", "CSV", 1), ("0\n", "CSV", 0), ("1.0", "CSV", 1), ("0", "JSON", 0), (1, "JSON", 1)]
    + [(base64.b64encode(b"1").decode(), "BASE64", 1)],
)
def test_labels_are_read_in_every_encoding(data, encoding, label):
    assert parse_label_line(line(data, encoding), KEY) == GroundTruth("tx-1", label, 60.0, KEY)


def test_without_a_time_the_hour_of_the_key_counts():
    assert parse_label_line(line(moment=None), KEY).time == DAY + 3 * 3600
    with pytest.raises(CaptureFormatError, match="no labelTime"):
        parse_label_line(line(moment=None), "labels/loose.jsonl")


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("", "no JSON"),
        (b"\xff", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "no ground-truth record"),
        ("{}", "no ground-truth record"),
        ('"text"', "no ground-truth record"),
        (line(data="2"), "neither 0 nor 1"),
        (line(data="fraud"), "neither 0 nor 1"),
        (line(data="NaN"), "neither 0 nor 1"),
        (line(data=True), "not CSV, JSON or BASE64"),
        (line(data=None), "not CSV, JSON or BASE64"),
        (line(encoding="XML"), "not CSV, JSON or BASE64"),
        (line(data="!", encoding="BASE64"), "no BASE64"),
        (line(event=""), "no eventId"),
        (line(event=5), "no eventId"),
        (line(moment="soon"), "labelTime is no"),
        (line(moment=12), "labelTime is no"),
        (line(version="1"), "eventVersion"),
    ],
)
def test_what_cannot_be_read_has_a_reason(broken, reason):
    with pytest.raises(CaptureFormatError, match=reason):
        parse_label_line(broken, KEY)


def test_labels_from_the_future_are_refused_beyond_the_tolerance():
    assert parse_label_line(line(), KEY, now=0, tolerance=60).time == 60
    with pytest.raises(CaptureFormatError, match="future"):
        parse_label_line(line(), KEY, now=0, tolerance=59)


def test_a_bad_line_costs_nothing_but_itself():
    body = f"{line()}\n\noops\n{line(data='0', event='tx-2')}".encode()
    labels, problems = parse_label_file(body, KEY)
    assert [(truth.inference_id, truth.label) for truth in labels] == [("tx-1", 1), ("tx-2", 0)]
    assert problems == [(3, "the line is no JSON")]


TRUTHS = st.builds(
    GroundTruth,
    st.sampled_from("abc"),
    st.integers(0, 1),
    st.integers(0, 5).map(float),
    st.sampled_from(["k1", "k2"]),
)


@given(TRUTHS)
def test_reading_is_the_inverse_of_writing(truth):
    assert parse_label_line(render_label_line(truth), truth.source_key) == truth


@given(st.lists(TRUTHS), st.randoms())
def test_the_newest_truth_wins_in_any_order(truths, random):
    shuffled = random.sample(truths, len(truths))
    found = resolve(truths)
    assert found == resolve(shuffled)
    assert set(found) == {truth.inference_id for truth in truths}
    for truth in truths:
        kept = found[truth.inference_id]
        assert (kept.time, kept.source_key, kept.label) >= (truth.time, truth.source_key, truth.label)


def test_later_truth_is_not_known_before():
    truths = [GroundTruth("a", 0, 10.0), GroundTruth("a", 1, 20.0)]
    assert resolve(truths)["a"].label == 1
    assert resolve(truths, as_of=19.0)["a"].label == 0
    assert resolve(truths, as_of=9.0) == {}


COLUMNS = LabelColumns("case", "outcome", "booked")
DELIVERED = 5_000.0


def csv_file(*rows, head="case,outcome,booked"):
    return "\n".join([head, *rows, ""]).encode()


def test_a_csv_of_labels_is_read_by_its_own_columns():
    body = csv_file(
        "a,1,1970-01-01T00:01:00Z", "b,0,120", " c ,true,", "d,,", 'e,"1.0",60.5', head="case,outcome,booked"
    )
    labels, problems = parse_label_csv(b"\xef\xbb\xbf" + body, "labels/bank.csv", COLUMNS, DELIVERED)
    assert [(one.inference_id, one.label, one.time) for one in labels] == [
        ("a", 1, 60.0), ("b", 0, 120.0), ("c", 1, DELIVERED), ("e", 1, 60.5),
    ]  # fmt: skip
    assert problems == [] and {one.source_key for one in labels} == {"labels/bank.csv"}


def test_a_list_of_chargebacks_needs_neither_label_nor_time():
    labels, problems = parse_label_csv(csv_file("a,x", "b,y", head="case,shop"), "k", LabelColumns("case", "", ""), 7.0)
    assert [(one.inference_id, one.label, one.time) for one in labels] == [
        ("a", 1, 7.0),
        ("b", 1, 7.0),
    ] and not problems


@pytest.mark.parametrize(
    ("body", "line", "reason"),
    [
        (csv_file("a,2,"), 2, "neither 0 nor 1"),
        (csv_file("a,1,", "b,fraud,"), 3, "neither 0 nor 1"),
        (csv_file(",1,"), 2, "no id"),
        (csv_file("a,1,soon"), 2, "neither ISO 8601 nor seconds"),
        (csv_file("a,1,-5"), 2, "no moment"),
        (csv_file("a,1,nan"), 2, "no moment"),
        (csv_file("a,1,1e300"), 2, "no moment"),
        (csv_file("a,1"), 2, "another number of fields"),
        (csv_file("a,1,2,3"), 2, "another number of fields"),
        (csv_file("a,1,", 'b,"1'), 3, "quoted"),
        (csv_file("a,1", head="case,outcome"), 1, "no column booked"),
        (b"\xff\xfe", 1, "no UTF-8"),
        (b"", 1, "no column case, outcome, booked"),
    ],
)
def test_what_a_csv_cannot_say_has_line_and_reason(body, line, reason):
    labels, problems = parse_label_csv(body, "k", COLUMNS, DELIVERED)
    assert [at for at, _ in problems] == [line] and reason in problems[0][1]
    assert all(one.inference_id == "a" for one in labels)


def test_rows_of_a_csv_from_the_future_are_refused_where_that_is_asked_for():
    body = csv_file("a,1,5000", "b,1,5010", "c,1,5011", "d,1,")
    labels, problems = parse_label_csv(body, "k", COLUMNS, DELIVERED, 10.0)
    assert [one.inference_id for one in labels] == ["a", "b", "d"]
    assert problems == [(4, "the label lies in the future")]
    assert len(parse_label_csv(body, "k", COLUMNS, DELIVERED)[0]) == 4


def test_what_a_listing_from_an_hour_on_does_not_show():
    hours = ["labels/2025/12/31/23/a.jsonl", "labels/2026/01/02/11/b.csv", "labels/2026/01/02/12/c.jsonl"]
    aside = ["labels/01-2026.csv", "labels/2025/12/31/x.csv", "labels/2025/12/bank.csv", "labels/2026-01.csv"]
    keys = sorted([*hours, *aside, "labels/2026/01/02/12.csv", "labels/bank.csv"])
    since = hour_folder(1_767_357_296.0)
    assert since == "labels/2026/01/02/12/"
    passed, found = keys_aside(lambda prefix: keys, since)
    assert found == sorted([*aside, "labels/2026/01/02/12.csv"]) and passed == len(found) + 2
    assert [in_hour_folder(key) for key in hours] == [True] * 3


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the shared capture samples are not on this machine")
def test_the_documented_record_is_read():
    (path,) = SAMPLES.glob("6_*")
    (truth,), problems = parse_label_file(path.read_bytes(), KEY)
    assert (truth.inference_id, truth.label, problems) == ("aaaa-bbbb-cccc", 1, [])
