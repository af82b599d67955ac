"""Truth, maturity, guess: which label counts, and since when."""

import base64
import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraud.capture import Record
from fraud.errors import CaptureFormatError
from fraud.labels import (
    GroundTruth,
    RowLabel,
    label_row,
    label_rows,
    parse_label_file,
    parse_label_line,
    pseudo_label,
    render_label_line,
    resolve,
)

ANY_SPEED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
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


@ANY_SPEED
@given(TRUTHS)
def test_reading_is_the_inverse_of_writing(truth):
    assert parse_label_line(render_label_line(truth), truth.source_key) == truth


@ANY_SPEED
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


@pytest.mark.parametrize(("score", "label"), [(0.5, 1), (math.nextafter(0.5, 0), 0), (1.0, 1), (0.0, 0)])
def test_pseudo_label_from_the_threshold_on(score, label):
    assert pseudo_label(score) == label


def test_no_label_for_no_number():
    with pytest.raises(ValueError, match="no number"):
        pseudo_label(math.nan)


def row(score=0.9, time=0.0, inference_id="a"):
    return Record(inference_id, "e", time, {}, score, "m", "v")


FRAUD = {"a": GroundTruth("a", 1, 5 * DAY)}
LEGIT = {"a": GroundTruth("a", 0, 5 * DAY)}


@pytest.mark.parametrize(
    ("score", "truth", "as_of_days", "policy", "expected"),
    [
        (0.1, FRAUD, 6, "threshold", RowLabel(1, "truth", 1.0, 5 * DAY)),
        (0.9, LEGIT, 6, "off", RowLabel(0, "truth", 1.0, 5 * DAY)),
        (0.9, FRAUD, 200, "off", RowLabel(1, "truth", 1.0, 5 * DAY)),
        (0.9, FRAUD, 5, "off", RowLabel(1, "truth", 1.0, 5 * DAY)),
        (0.1, FRAUD, 4, "off", RowLabel(None, "unknown", 0.0, None)),
        (0.9, {}, 100, "threshold", RowLabel(0, "mature", 1.0, 100 * DAY)),
        (0.9, {}, 99, "off", RowLabel(None, "unknown", 0.0, None)),
        (0.9, {}, 99, "threshold", RowLabel(1, "pseudo", 0.25, 0.0)),
        (0.5, {}, 99, "threshold", RowLabel(1, "pseudo", 0.25, 0.0)),
        (0.49, {}, 99, "threshold", RowLabel(0, "pseudo", 0.25, 0.0)),
        (None, {}, 99, "threshold", RowLabel(None, "unknown", 0.0, None)),
        (math.nan, {}, 99, "threshold", RowLabel(None, "unknown", 0.0, None)),
    ],
)
def test_where_a_label_comes_from(score, truth, as_of_days, policy, expected):
    found = label_row(row(score), truth, as_of_days * DAY, maturity_days=100, policy=policy, pseudo_weight=0.25)
    assert found == expected


def test_rows_are_labelled_in_their_order():
    rows = [row(inference_id="b"), row(inference_id="a")]
    assert [label.label for label in label_rows(rows, FRAUD, 6 * DAY, maturity_days=100)] == [None, 1]


def test_pseudo_labels_are_off_unless_asked_for_and_the_policy_is_known():
    assert label_row(row(), {}, 0.0, 100).source == "unknown"
    with pytest.raises(ValueError, match="off, threshold"):
        label_row(row(), {}, 0.0, 100, policy="on")


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="the shared capture samples are not on this machine")
def test_the_documented_record_is_read():
    (path,) = SAMPLES.glob("6_*")
    (truth,), problems = parse_label_file(path.read_bytes(), KEY)
    assert (truth.inference_id, truth.label, problems) == ("aaaa-bbbb-cccc", 1, [])
