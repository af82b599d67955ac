"""Every captured record lies in exactly one window, and only what the model in service answered is counted."""

import datetime as dt
import uuid
from dataclasses import replace
from unittest.mock import ANY

import pytest
import refusals

from fraud.capture import encode_line, parse_file
from fraud.drift import build_baseline
from fraud.errors import DataError
from fraud.hours import Hour, hour_key, hours_of
from fraud.schema import Feature, Schema
from fraud.window import read_window, stored_window

SCHEMA = Schema((Feature("amount", "number", True), Feature("card", "category", False, ("visa",))))
BASELINE = build_baseline({"amount": [1.0, 2.0, 3.0], "card": ["visa"] * 3}, SCHEMA, [0.1] * 3, "run-1")
MIDNIGHT = dt.datetime(2026, 1, 2, tzinfo=dt.UTC).timestamp()


class Bucket:
    """Captured objects by key; counts what is read."""

    def __init__(self):
        self.objects, self.read, self.listed = {}, [], []

    def capture(self, opened, times, *, variant="AllTraffic", junk=b"", model="run-1", **given):
        lines = b"".join(
            encode_line([{"amount": 1.5}], [0.2], event_id=uuid.uuid4().hex, time=t, model_version=model, **given)
            for t in times
        )
        hour = dt.datetime.fromtimestamp(opened, dt.UTC)
        key = f"data-capture/fraud/{variant}/{hour:%Y/%m/%d/%H/%M-%S}-000-{uuid.uuid4()}.jsonl"
        self.objects[key] = lines + junk
        return key

    def list_keys(self, prefix):
        self.listed.append(prefix)
        return [key for key in self.objects if key.startswith(prefix)]

    def read_bytes(self, key):
        self.read.append(key)
        return self.objects[key]

    def window(self, start, end, **given):
        given = {"baseline": BASELINE, "schema": SCHEMA, "variants": ["AllTraffic"]} | given
        return read_window(self.list_keys, self.read_bytes, "fraud", start, end, **given)


def test_each_record_lies_in_exactly_one_window():
    bucket = Bucket()
    times = [MIDNIGHT + shift for shift in (-3600, -0.001, 0, 0.001, 1800, 3599.999, 3600, 7200)]
    for moment in times:
        bucket.capture(moment - 600, [moment])  # files are named after the moment they were opened
    bucket.capture(MIDNIGHT - 3600, times)
    hours = [bucket.window(MIDNIGHT + k * 3600, MIDNIGHT + (k + 1) * 3600).sketch.n for k in range(-2, 4)]
    assert sum(hours) == 14  # the last file was opened more than an hour before two of its records
    assert hours[2] == 8


def test_a_file_that_was_opened_the_hour_before_is_read_and_others_are_not():
    bucket = Bucket()
    near = bucket.capture(MIDNIGHT - 60, [MIDNIGHT + 5])
    bucket.capture(MIDNIGHT - 7200, [MIDNIGHT - 7000])
    bucket.capture(MIDNIGHT + 3600, [MIDNIGHT + 3601])
    for variants in (["AllTraffic"], None):
        bucket.read.clear()
        found = bucket.window(MIDNIGHT, MIDNIGHT + 3600, variants=variants)
        assert (found.sketch.n, found.files, bucket.read) == (1, 1, [near])


def test_other_models_and_tests_are_counted_apart():
    bucket = Bucket()
    times = [MIDNIGHT + 1, MIDNIGHT + 2]
    bucket.capture(MIDNIGHT, times)
    bucket.capture(MIDNIGHT, times, model="run-0")
    bucket.capture(MIDNIGHT, times, model="")
    bucket.capture(MIDNIGHT, times, source="canary")
    bucket.capture(MIDNIGHT, [*times, MIDNIGHT + 7200], source="test")
    found = bucket.window(MIDNIGHT, MIDNIGHT + 3600)
    assert (found.sketch.n, found.other_model, found.tagged) == (4, 2, {"canary": 2, "test": 2})
    assert found.skipped == 6


def test_variants_are_read_as_asked():
    bucket = Bucket()
    bucket.capture(MIDNIGHT, [MIDNIGHT], variant="AllTraffic")
    bucket.capture(MIDNIGHT, [MIDNIGHT], variant="challenger")
    assert bucket.window(MIDNIGHT, MIDNIGHT + 60).sketch.n == 1
    assert bucket.window(MIDNIGHT, MIDNIGHT + 60, variants=["AllTraffic", "challenger"]).sketch.n == 2
    assert bucket.window(MIDNIGHT, MIDNIGHT + 60, variants=[]).sketch.n == 0
    assert bucket.window(MIDNIGHT, MIDNIGHT + 60, variants=None).sketch.n == 2


def test_what_cannot_be_read_is_counted_with_its_place():
    bucket = Bucket()
    key = bucket.capture(MIDNIGHT, [MIDNIGHT], junk=b"garbage\n" * 25 + b'{"captureData"')
    bucket.objects["data-capture/fraud/AllTraffic/2026/01/02/00/note.txt"] = b"x"
    found = bucket.window(MIDNIGHT, MIDNIGHT + 60)
    assert (found.sketch.n, found.unreadable, len(found.problems)) == (1, 27, 20)
    assert found.problems[0] == (key, 2, "the line is no JSON")
    assert bucket.read == [key]


def test_a_failed_read_is_no_empty_window():
    bucket = Bucket()
    bucket.capture(MIDNIGHT, [MIDNIGHT])

    def fail(key):
        raise ConnectionError(key)

    with pytest.raises(ConnectionError):
        read_window(bucket.list_keys, fail, "fraud", MIDNIGHT, MIDNIGHT + 60, baseline=BASELINE)


def test_an_empty_window_reads_nothing():
    bucket = Bucket()
    bucket.capture(MIDNIGHT, [MIDNIGHT])
    assert bucket.window(MIDNIGHT, MIDNIGHT).sketch.n == 0
    assert bucket.listed == []


# ------------------------------------------------------------------------------------------------ counted hours


def counted(bucket, hour, keys, *, model="run-1", share=1.0):
    """Count objects into an hour, as the drift check does, and keep it in the bucket."""
    one = Hour(BASELINE, SCHEMA, hour)
    one.heavy_share = share
    for key in keys:
        one.take(key, "", *parse_file(bucket.objects[key], key, SCHEMA))
    bucket.objects[hour_key("fraud", model, hour)] = one.to_json().encode()


def stored(bucket, start, end, **given):
    return stored_window(bucket.list_keys, bucket.read_bytes, "fraud", "run-1", start, end, BASELINE, SCHEMA, **given)


def test_what_is_counted_is_not_read_again():
    bucket = Bucket()
    before = bucket.capture(MIDNIGHT - 60, [MIDNIGHT + 5])
    keys = [bucket.capture(MIDNIGHT + k, [MIDNIGHT + k, MIDNIGHT + 7200]) for k in range(3)]
    later = bucket.capture(MIDNIGHT + 3700, [MIDNIGHT + 3701], junk=b"x\n")
    counted(bucket, MIDNIGHT, keys[:2])
    found = stored(bucket, MIDNIGHT + 900, MIDNIGHT + 3601)  # whole hours
    read = [key for key in bucket.read if key.startswith("data-capture/")]
    assert read == [keys[2], later]
    assert (found.sketch.n, found.files, found.unreadable, found.problems) == (
        7,
        4,
        1,
        [(later, 2, "the line is no JSON")],
    )
    assert before not in bucket.read


def test_an_hour_is_the_same_counted_or_read():
    bucket = Bucket()
    keys = [bucket.capture(MIDNIGHT + k, [MIDNIGHT + k] * 5, junk=b"?\n") for k in range(4)]
    anew = stored(bucket, MIDNIGHT, MIDNIGHT + 3600)
    for part in (keys[:1], keys[:3], keys):
        counted(bucket, MIDNIGHT, part)
        assert stored(bucket, MIDNIGHT, MIDNIGHT + 3600) == replace(anew, sketch=ANY)
        assert stored(bucket, MIDNIGHT, MIDNIGHT + 3600).sketch.to_json() == anew.sketch.to_json()
    whole = bucket.window(MIDNIGHT, MIDNIGHT + 3600)
    assert whole.sketch.to_json() == anew.sketch.to_json()


def test_an_hour_of_another_version_is_read_again():
    bucket = Bucket()
    keys = [bucket.capture(MIDNIGHT, [MIDNIGHT])]
    counted(bucket, MIDNIGHT, keys)
    for document in (b"", b"{}", b"\xff", b'{"schema_version": 9}'):
        bucket.objects[hour_key("fraud", "run-1", MIDNIGHT)] = document
        assert stored(bucket, MIDNIGHT, MIDNIGHT + 60).sketch.n == 1


def test_the_hour_before_says_what_was_counted():
    bucket = Bucket()
    first = bucket.capture(MIDNIGHT - 3600, [MIDNIGHT - 3600])
    key = bucket.capture(MIDNIGHT, [MIDNIGHT])
    bucket.objects[key] = bucket.objects[first] + bucket.objects[key]  # the same payment once more
    counted(bucket, MIDNIGHT - 3600, [first])
    found = stored(bucket, MIDNIGHT, MIDNIGHT + 60)
    assert (found.sketch.n, found.repeated) == (1, 1)


def test_variants_are_those_of_the_counted_hours_or_as_asked():
    bucket = Bucket()
    key = bucket.capture(MIDNIGHT, [MIDNIGHT], variant="challenger")
    bucket.capture(MIDNIGHT, [MIDNIGHT], variant="challenger")
    bucket.capture(MIDNIGHT, [MIDNIGHT], variant="Shadow")
    bucket.capture(MIDNIGHT, [MIDNIGHT])
    assert stored(bucket, MIDNIGHT, MIDNIGHT + 60).sketch.n == 1
    assert stored(bucket, MIDNIGHT, MIDNIGHT + 60, variants=["challenger", "Shadow"]).sketch.n == 2
    counted(bucket, MIDNIGHT, [key])
    assert stored(bucket, MIDNIGHT, MIDNIGHT + 60).sketch.n == 3


def test_a_baseline_of_another_model_is_refused():
    bucket = Bucket()
    with pytest.raises(DataError, match=r"The baseline belongs to run-1, not to run-2\."):
        stored_window(bucket.list_keys, bucket.read_bytes, "fraud", "run-2", 0, 60, BASELINE)


def test_a_failed_read_of_a_counted_hour_is_no_empty_hour():
    bucket = Bucket()
    counted(bucket, MIDNIGHT, [])

    def fail(key):
        raise ConnectionError(key)

    with pytest.raises(ConnectionError):
        stored_window(bucket.list_keys, fail, "fraud", "run-1", MIDNIGHT, MIDNIGHT + 60, BASELINE)


def test_repeated_ids_count_once():
    bucket = Bucket()
    key = bucket.capture(MIDNIGHT, [MIDNIGHT + 1, MIDNIGHT + 2])
    bucket.objects[key.replace("000-", "001-")] = bucket.objects[key]
    found = bucket.window(MIDNIGHT, MIDNIGHT + 60)
    assert (found.sketch.n, found.repeated) == (2, 2)


def test_refused_requests_are_counted_beside_the_payments():
    bucket = Bucket()
    junk = b"".join(refusals.line(sent, MIDNIGHT + 5, event=f"r{k}") for k, sent in enumerate(({}, "no JSON", "[]")))
    bucket.capture(MIDNIGHT, [MIDNIGHT + 1, MIDNIGHT + 2], junk=junk)
    found = bucket.window(MIDNIGHT, MIDNIGHT + 60)
    assert (found.sketch.n, found.refused, found.unreadable, found.skipped) == (2, 3, 0, 0)
    assert sum(found.requests.values()) == 2  # the metrics that they are held against leave errors out
    assert found.notes == ["3 captured requests were refused: nothing to compare."]


def test_hours_that_overlap_a_window():
    assert hours_of(MIDNIGHT, MIDNIGHT) == []
    assert hours_of(MIDNIGHT, MIDNIGHT + 0.001) == [MIDNIGHT]
    assert hours_of(MIDNIGHT + 3599, MIDNIGHT + 3601) == [MIDNIGHT, MIDNIGHT + 3600]
    assert len(hours_of(MIDNIGHT, MIDNIGHT + 86_400)) == 24
    assert len(hours_of(MIDNIGHT + 1, MIDNIGHT + 86_401)) == 25
