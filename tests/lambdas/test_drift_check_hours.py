"""Captured objects are counted hour by hour, each once, whatever happens in between."""

import json
import random
import threading
import uuid

import pytest
from drift_check_kit import NOON, aws, hourly
from lambdas_kit import BASELINE, BUCKET, ENDPOINT, SCHEMA, keys, load_module

from fraud.capture import encode_line
from fraud.hours import Hour
from fraud.sketch import Sketch
from fraud.window import stored_window

counting = load_module("drift_check", "counting")
START = NOON - 2 * 3600  # the hours 10 and 11
SKETCHES = f"drift/{ENDPOINT}/sketches/run-1/2026/01/02/"


def put_file(s3, ids, *, hour="10", variant="AllTraffic", root="", name="", body=None, amount=None, **given):
    """One captured file of payments with these ids; returns its key."""
    rng = random.Random(str(ids))
    lines = b""
    for k, inference_id in enumerate(ids):
        transaction = {"TransactionAmt": amount or round(rng.uniform(50, 150), 2), "card4": rng.choice(["visa", None])}
        lines += encode_line(
            [transaction],
            [rng.random()],
            event_id=f"e-{inference_id}",
            time=NOON - 3600 * (12 - int(hour)) + k,
            inference_ids=[inference_id],
            **{"model_version": "run-1"} | given,
        )
    name = name or f"{len(keys(s3, 'data-capture/')):02}-00-000-{uuid.uuid4()}"
    key = f"data-capture/{root}{ENDPOINT}/{variant}/2026/01/02/{hour}/{name}.jsonl"
    s3.put_object(Bucket=BUCKET, Key=key, Body=lines if body is None else body)
    return key


def ids(name, n=40):
    return [f"{name}-{k}" for k in range(n)]


def counter(bucket, left=lambda: 300.0, share=1.0):
    return hourly.Counter(bucket, ENDPOINT, BASELINE, SCHEMA, START, left, share)


def count(bucket, left=lambda: 300.0, share=1.0):
    one = counter(bucket, left, share)
    return one.window(START, NOON, one.variants()).result(share)


def hours(s3):
    """What is stored, by hour."""
    return {
        key.removeprefix(SKETCHES)[:2]: s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        for key in keys(s3, SKETCHES)
    }


@pytest.fixture
def reads(bucket, monkeypatch):
    """Keys of captured objects that were read."""
    found, real = [], bucket.s3.get_object

    def read(**given):
        if given["Key"].startswith("data-capture/"):
            found.append(given["Key"])
        return real(**given)

    monkeypatch.setattr(bucket.s3, "get_object", read)
    return found


def test_each_object_is_read_once(s3, bucket, reads):
    there = [put_file(s3, ids("a")), put_file(s3, ids("b"), hour="11"), put_file(s3, ids("c"), hour="11")]
    before = put_file(s3, ids("d"), hour="09")  # of it something may have come too late for an earlier window
    assert count(bucket).sketch.n == 120
    assert sorted(reads) == sorted([*there, before])
    reads.clear()
    assert count(bucket).sketch.n == 120
    assert reads == []
    late = put_file(s3, ids("e"), name="59-59-999-0a")
    found = count(bucket)
    assert (found.sketch.n, found.files, reads) == (160, 4, [late])


def test_what_is_counted_in_steps_is_what_is_counted_at_once(s3, bucket):
    for name in "abc":
        put_file(s3, ids(name))
        put_file(s3, ids(f"{name}2"), hour="11", root="/")
        count(bucket)
    steps = hours(s3)
    for key in keys(s3, SKETCHES):
        s3.delete_object(Bucket=BUCKET, Key=key)
    count(bucket)

    def without_rare(documents):  # of values that repeat, fraud.tally keeps the frequent ones
        found = {hour: json.loads(text) for hour, text in documents.items()}
        for document in found.values():
            parts = [document["sketch"]["score"], *document["sketch"]["features"].values()]
            assert len([part.pop("repeats") for part in parts if "repeats" in part]) == 2
        return found

    assert without_rare(hours(s3)) == without_rare(steps)
    assert set(steps) == {"10", "11"}


def test_the_report_reads_the_same_window_with_the_standard_library(s3, bucket):
    put_file(s3, ids("a"))
    put_file(s3, ids("b"), hour="11")
    count(bucket)
    put_file(s3, ids("c") + ids("a", 3), hour="11", variant="challenger")
    put_file(s3, ids("d"), hour="11")
    before = hours(s3)
    given = (bucket.keys, bucket.read, ENDPOINT, "run-1", START, NOON, BASELINE, SCHEMA)
    report = stored_window(*given, variants=["AllTraffic", "challenger"])
    assert hours(s3) == before
    lambdas = count(bucket)
    assert report.sketch.to_json() == lambdas.sketch.to_json()
    assert (report.repeated, report.files) == (lambdas.repeated, lambdas.files) == (3, 4)
    assert stored_window(*given).sketch.to_json() == lambdas.sketch.to_json()  # all is stored now


def test_a_repeated_id_is_dropped_and_counted(s3, bucket):
    put_file(s3, ["x", "y", "x"])
    put_file(s3, ["y", "z"])
    put_file(s3, ["z", "new"], hour="11")
    found = count(bucket)
    assert (found.sketch.n, found.repeated) == (4, 3)
    put_file(s3, ["late", "new", "x"], name="59-59-000-aa")  # what the next hour has counted is repeated, too
    found = count(bucket)
    assert (found.sketch.n, found.repeated) == (5, 5)


def test_the_hour_before_the_window_is_looked_at_for_repeated_ids(s3, bucket):
    put_file(s3, ids("a"), hour="10")
    count(bucket)
    put_file(s3, ids("a", 10) + ids("b", 5), hour="11")
    one = counter(bucket)
    found = one.window(NOON - 3600, NOON, one.variants()).result()
    assert (found.sketch.n, found.repeated) == (5, 10)


def test_two_checks_at_the_same_moment_end_with_the_counts_of_one(s3, bucket, monkeypatch):
    for k in range(6):
        put_file(s3, ids(f"f{k}"), hour="10" if k % 2 else "11")
    count(bucket)
    alone = hours(s3)
    for key in keys(s3, SKETCHES):
        s3.delete_object(Bucket=BUCKET, Key=key)
    meeting, real, met = threading.Barrier(2, timeout=20), aws.Bucket.put_if, []

    def put_if(self, key, document, etag):
        if etag is None and key.startswith(SKETCHES):
            meeting.wait()  # both have read that there is nothing
            met.append(key)
        return real(self, key, document, etag)  # both have counted the same, so whoever is late finds that it is there

    monkeypatch.setattr(aws.Bucket, "put_if", put_if)
    found = []
    threads = [threading.Thread(target=lambda: found.append(count(bucket).sketch.to_json())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(met) == 4
    assert found[0] == found[1]
    assert hours(s3) == alone


def test_who_loses_counts_what_the_winner_did_not_see(s3, bucket, monkeypatch):
    put_file(s3, ids("a"))
    real, overtaken = aws.Bucket.put_if, []

    def put_if(self, key, document, etag):
        if not overtaken:
            overtaken.append(key)
            put_file(s3, ids("b"))
            count(bucket)  # another check, which sees both files
        return real(self, key, document, etag)

    monkeypatch.setattr(aws.Bucket, "put_if", put_if)
    assert count(bucket).sketch.n == 80
    assert json.loads(hours(s3)["10"])["n"] == 80


def test_a_check_that_is_killed_before_it_writes_changes_nothing(s3, bucket, monkeypatch):
    put_file(s3, ids("a"))
    put_file(s3, ids("b"), hour="11")

    def killed(self, key, *_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(aws.Bucket, "put_if", killed)
        with pytest.raises(KeyboardInterrupt):
            count(bucket)
    assert hours(s3) == {}
    assert count(bucket).sketch.n == 80
    scores = keys(s3, f"drift/{ENDPOINT}/scores/")
    assert len(scores) == 2  # one for each hour; those of the killed check were written over by the same


def test_what_does_not_fit_the_time_is_kept_and_the_next_check_goes_on(s3, bucket):
    for k in range(7):
        put_file(s3, ids(f"f{k}"), hour="10" if k < 5 else "11")
    seconds = iter([60.0, 60.0, 9.0])
    with pytest.raises(
        hourly.UnfinishedError, match=r"after 3 of 5 captured objects of an hour .* the next check goes"
    ):
        count(bucket, lambda: next(seconds))
    assert json.loads(hours(s3)["10"])["n"] == 120
    seconds = iter([60.0, 60.0, 9.0])
    with pytest.raises(hourly.UnfinishedError, match="after 1 of 2"):
        count(bucket, lambda: next(seconds))
    found = count(bucket)
    assert (found.sketch.n, found.files) == (280, 7)


def test_an_hour_whose_object_was_written_over_is_counted_anew(s3, bucket):
    key = put_file(s3, ids("a"))
    put_file(s3, ids("b"))
    count(bucket)
    put_file(s3, ids("a", 10), name=key.split("/")[-1].removesuffix(".jsonl"))
    found = count(bucket)
    assert (found.sketch.n, found.repeated) == (50, 0)
    assert count(bucket).sketch.n == 50


def test_a_failed_read_is_no_empty_window(s3, bucket, monkeypatch):
    put_file(s3, ids("a"))
    gone = put_file(s3, ids("b"))
    real = bucket.s3.get_object

    def read(**given):
        if given["Key"] == gone:
            raise ConnectionResetError
        return real(**given)

    monkeypatch.setattr(bucket.s3, "get_object", read)
    with pytest.raises(ConnectionResetError):
        count(bucket)
    assert hours(s3) == {}


def test_an_object_that_is_gone_since_it_was_listed_is_an_error(s3, bucket, monkeypatch):
    key = put_file(s3, ids("a"))
    one = counter(bucket)
    listed = one._list([START], one.variants())
    s3.delete_object(Bucket=BUCKET, Key=key)
    monkeypatch.setattr(one, "_list", lambda *_: listed)
    for limit in (hourly.WHOLE, 0):
        monkeypatch.setattr(hourly, "WHOLE", limit)
        with pytest.raises(FileNotFoundError):
            one.window(START, START + 60, one.variants())


def test_bad_lines_and_strange_names_are_counted_once(s3, bucket):
    put_file(s3, ids("a"), body=b"{}\n\ngarbage\n{")
    put_file(s3, [], name="note", body=b"hello")
    put_file(s3, [], body=b"")
    for _ in range(2):
        found = count(bucket)
        assert (found.sketch.n, found.unreadable) == (0, 4)
    assert [line for _, line, _ in found.problems] == [1, 3, 4, 0]
    assert found.problems[2][2].startswith("the file ends in the middle of a line")


def test_large_objects_are_read_piece_by_piece(s3, bucket, monkeypatch):
    key = put_file(s3, ids("a", 200))
    body = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read() + b'{"cut'
    put_file(s3, [], name=key.split("/")[-1].removesuffix(".jsonl"), body=body)
    count(bucket)
    whole = hours(s3)
    s3.delete_object(Bucket=BUCKET, Key=f"{SKETCHES}10.json")
    monkeypatch.setattr(hourly, "WHOLE", 100)
    monkeypatch.setattr(aws, "PIECE", 1000)
    found = count(bucket)
    assert hours(s3) == whole
    assert (found.sketch.n, found.unreadable, found.problems[0][1]) == (200, 1, 201)


@pytest.mark.parametrize("document", [b"", b"{}", b'{"schema_version": 0}', b"[1", b"null"])
def test_a_stored_hour_that_cannot_be_used_is_counted_anew(s3, bucket, document):
    put_file(s3, ids("a"))
    s3.put_object(Bucket=BUCKET, Key=f"{SKETCHES}10.json", Body=document)
    assert count(bucket).sketch.n == 40
    assert json.loads(hours(s3)["10"])["n"] == 40


def test_a_stored_hour_of_another_baseline_is_counted_anew(s3, bucket):
    put_file(s3, ids("a"))
    count(bucket)
    text = hours(s3)["10"].replace(b'"counts": [', b'"counts": [7, ')
    s3.put_object(Bucket=BUCKET, Key=f"{SKETCHES}10.json", Body=text)
    assert count(bucket).sketch.n == 40


def test_tests_other_models_and_shadows_are_no_traffic(s3, bucket):
    put_file(s3, ids("a"))
    put_file(s3, ids("b", 5), source="canary")
    put_file(s3, ids("c", 6), model_version="run-0")
    put_file(s3, ids("d", 7), variant="Shadow")
    found = count(bucket)
    assert (found.sketch.n, found.tagged, found.other_model, found.skipped) == (40, {"canary": 5}, 6, 11)
    assert sum(found.requests.values()) == 51


def test_what_is_stored_is_read_again(s3, bucket):
    put_file(s3, ids("a"), amount=None)
    count(bucket)
    text = hours(s3)["10"].decode()
    for kind in (Sketch, counting.FastSketch):
        assert Hour.from_json(text, BASELINE, SCHEMA, kind).to_json() == text
    document = json.loads(text)
    assert document["n"] == document["sketch"]["n"] == 40
    assert len(document["ids"]) == 428  # 40 hashes of 8 bytes, as BASE64
    (etag,) = document["files"].values()
    assert etag == s3.head_object(Bucket=BUCKET, Key=next(iter(document["files"])))["ETag"]


def test_an_empty_window_reads_nothing(s3, bucket, reads):
    put_file(s3, ids("a"))
    one = counter(bucket)
    assert one.window(NOON, NOON, one.variants()).result().sketch.n == 0
    assert reads == []
    assert hours(s3) == {}
