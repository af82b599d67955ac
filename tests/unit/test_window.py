"""Every captured record lies in exactly one window, and only what the model in service answered is counted."""

import datetime as dt
import uuid

import pytest

from fraud.capture import encode_line
from fraud.drift import build_baseline
from fraud.schema import Feature, Schema
from fraud.window import read_window

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
