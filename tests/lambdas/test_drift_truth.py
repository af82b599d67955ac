"""Reports joined with captured scores in the drift check: each read once, given to its payment, counted by day."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

import lambdas_kit
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud.capture import Record
from fraud.cohort import DAY, Cohort, id_hash
from fraud.hours import Hour
from fraud.labels import GroundTruth, render_label_line
from fraud.performance import reference

truth = lambdas_kit.load_module("drift_check", "truth")

ENDPOINT, VERSION, THRESHOLD = "fraud", "run-1", 0.3
FIRST = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp()) // DAY
SCORES = f"drift/{ENDPOINT}/scores/{VERSION}/"
STATE = f"drift/{ENDPOINT}/truth/{VERSION}/state.json"
rng = np.random.default_rng(0)
GRADED = (rng.random(20_000) < 0.03).astype(int)
KNOWN = reference(GRADED.tolist(), np.where(GRADED, 0.6, 0.01).tolist(), THRESHOLD)
BASELINE = {"model_version": VERSION, "performance": KNOWN}
POLICY = {"truth_delay_days": 7, "min_truth": 100}


class Item(NamedTuple):
    key: str
    etag: str
    modified: float


class Bucket:
    """Objects in memory, and what was done with them."""

    def __init__(self, objects=(), came=()):
        self.objects = dict(objects)
        self.came = dict(came)  # when each object did; what was put since the last check came just before the next
        self.reads, self.writes = [], []
        self.now = moment(0)

    def items(self, prefix, after=""):
        for key in sorted(key for key in self.objects if key.startswith(prefix) and key > after):
            etag = hashlib.md5(self.objects[key]).hexdigest()
            yield Item(key, etag, self.came.setdefault((key, etag), self.now - 60))

    def read(self, key):
        self.reads.append(key)
        if key not in self.objects:
            raise FileNotFoundError(key)
        return self.objects[key]

    def put(self, key, body):
        assert isinstance(body, bytes)
        self.writes.append(key)
        self.objects[key] = body

    def check(self, day, baseline=BASELINE, policy=POLICY, dry=False):
        """What is found at noon of a day, counted from the first."""
        self.reads.clear()
        self.writes.clear()
        now = (FIRST + day + 0.5) * DAY
        put = None if dry else self.put
        self.now = now
        return truth.performance_of(self.items, self.read, ENDPOINT, baseline, now, policy, put)

    def days(self):
        return {day: Cohort.from_dict(one["counts"]) for day, one in json.loads(self.objects[STATE])["days"].items()}

    def score(self, ids, scores, times):
        return truth.append_scores(self.put, ENDPOINT, VERSION, ids, scores, times)

    def report(self, key, *told):
        lines = [render_label_line(GroundTruth(name, label, time)) for name, label, time in told]
        self.objects[f"labels/{key}"] = "\n".join(lines).encode()


def moment(day, second=0.0):
    return (FIRST + day) * DAY + second


def hour(day, h=5):
    return f"{datetime.fromtimestamp(moment(day, h * 3600), UTC):%Y/%m/%d/%H}"


def served(days=15, per_day=40, seed=1):
    """A bucket with scored traffic, and what is known about it: id to score, time, label."""
    random_ = random.Random(seed)
    bucket, payments = Bucket(), {}
    for day in range(days):
        for k in range(per_day):
            bad = random_.random() < 0.1
            score = float(np.float32(random_.random() if bad else random_.random() / 4))
            payments[f"tx-{day}-{k}"] = (score, moment(day, random_.randrange(DAY)), int(bad))
    for day in range(days):
        mine = [(name, *one) for name, one in payments.items() if int(one[1] // DAY) == FIRST + day]
        bucket.score([name for name, *_ in mine], [s for _, s, _, _ in mine], [t for _, _, t, _ in mine])
    return bucket, payments


def expected(payments, told):
    """Counts by day, payment by payment."""
    found = {}
    for name, (score, time, _) in payments.items():
        day = int(time // DAY)
        one = found.setdefault(str(day), Cohort(float(day * DAY), float((day + 1) * DAY)))
        label, known = told.get(name, (None, None))
        one.add(score, label, THRESHOLD, None if known is None else (known - time) / DAY)
    return found


# -- scores


def test_scores_become_parts_by_day_and_the_same_again_change_nothing():
    bucket = Bucket()
    given_ = (["a", "b", "c", "d"], [0.5, 0.25, None, float("nan")], [moment(0, 5), moment(1, 6), moment(1), moment(1)])
    keys = bucket.score(*given_)
    assert [key.rsplit("/", 1)[0] for key in keys] == [f"{SCORES}2026/03/01", f"{SCORES}2026/03/02"]
    rows = np.frombuffer(bucket.objects[keys[1]], truth.SCORE)
    assert rows.tolist() == [(id_hash("b"), 0.25, 6)] and rows.itemsize == 16
    assert bucket.score(*given_) == keys and len(bucket.objects) == 2
    assert bucket.score([], [], []) == []


def test_hashes_may_be_handed_over_instead_of_ids():
    ids = [f"tx-{k}" for k in range(50)]
    one, other = Bucket(), Bucket()
    one.score(ids, [0.5] * 50, [moment(0)] * 50)
    other.score(np.array([id_hash(name) for name in ids], np.uint64), [0.5] * 50, [moment(0)] * 50)
    assert one.objects == other.objects


def test_ids_are_hashed_as_the_counted_hours_do():
    record = Record("tx-ä", "event", 0.0, {}, 0.5, VERSION, "AllTraffic")
    ((digest, _),) = Hour(lambdas_kit.BASELINE, lambdas_kit.SCHEMA, 0.0).take("key", "tag", [record])
    one, other = Bucket(), Bucket()
    one.score(["tx-ä"], [0.5], [0.0])
    other.score(np.frombuffer(digest, ">u8").astype(np.uint64), [0.5], [0.0])
    assert one.objects == other.objects


# -- the join


def test_nothing_to_say():
    assert Bucket().check(0, {"model_version": VERSION}) is None
    assert Bucket().check(0) is None
    bucket, _ = served(3)
    assert bucket.check(3, {"model_version": "another", "performance": KNOWN}) is None
    assert bucket.check(3)["summary"]["judged"] is None  # too young


def test_counts_are_those_of_a_payment_by_payment_count():
    bucket, payments = served(15, 150)
    told = {name: (bad, time + 3 * DAY) for name, (_, time, bad) in payments.items() if bad or "7" in name}
    for day in range(18):
        mine = [(name, label, at) for name, (label, at) in told.items() if int(at // DAY) == FIRST + day]
        if mine:
            bucket.report(f"{hour(day, 1)}/a.jsonl", *mine)
    found = bucket.check(18)
    assert bucket.days() == expected(payments, told)
    week = found["summary"]["judged"]
    assert week["start"] == "2026-03-05T00:00:00Z" and week["end"] == "2026-03-12T00:00:00Z"
    mine = [one for one in payments.items() if moment(4) <= one[1][1] < moment(11)]
    frauds = [score for _, (score, _, bad) in mine if bad]
    assert (week["n"], week["frauds"]) == (7 * 150, len(frauds))
    assert week["recall"] == sum(score >= THRESHOLD for score in frauds) / len(frauds)
    assert found["summary"]["reported_after"] == {"median_days": 3.0, "p90_days": 3.0}
    assert found["rules"][0]["fired"] and found["rules"][0]["rule"] == "fraud_rate"  # a tenth instead of 3 %
    json.dumps(found, allow_nan=False)


def test_scores_on_the_threshold_and_on_an_edge_of_a_bin_are_counted_alike():
    bucket = Bucket()
    values = {"a": 0.3, "b": 0.5, "c": 0.0, "d": 1.0, "e": float(np.nextafter(np.float32(0.3), np.float32(0)))}
    payments = {name: (float(np.float32(score)), moment(0, 7), 0) for name, score in values.items()}
    bucket.score(list(values), list(values.values()), [moment(0, 7)] * len(values))
    bucket.check(1)
    assert bucket.days() == expected(payments, {})
    assert bucket.days()[str(FIRST)].flagged == 3


def test_of_two_reports_at_one_moment_in_one_file_fraud_counts():
    bucket, _ = served(2)
    for key, (first, second) in {"a": (0, 1), "b": (1, 0)}.items():
        name = f"tx-0-{ord(key) - 97}"
        bucket.report(f"{hour(2)}/{key}.jsonl", (name, first, moment(1)), (name, second, moment(1)))
    bucket.check(2)
    assert bucket.days()[str(FIRST)].frauds == 2


@given(st.randoms())
@settings(max_examples=15)
def test_neither_the_order_nor_the_grouping_of_reports_and_checks_matters(shuffle):
    bucket, payments = served(8, 10)
    told = [(name, bad, time + DAY) for name, (_, time, bad) in payments.items() if shuffle.random() < 0.5]
    told += [(name, 1 - label, at + 60) for name, label, at in told if shuffle.random() < 0.2]  # corrected later
    newest = {}
    for name, label, at in told:
        newest[name] = max(newest.get(name, (-1.0, 0)), (at, label))
    shuffle.shuffle(told)
    late = sorted(key for key in bucket.objects if shuffle.random() < 0.3)  # scores that come after their reports
    waiting = {key: bucket.objects.pop(key) for key in late}
    for k, day in enumerate((8, 8, 9, 9)):
        bucket.report(f"{hour(8, k)}/{shuffle.random()}.jsonl", *told[k::4])
        if k == 2:
            bucket.objects |= waiting
        bucket.check(day, dry=shuffle.random() < 0.3)
    bucket.check(9)
    assert bucket.days() == expected(payments, {name: (label, at) for name, (at, label) in newest.items()})


def test_each_object_is_read_once():
    bucket, payments = served()
    for k, name in enumerate(payments):
        bucket.report(f"{hour(15, k % 3)}/{k}.jsonl", (name, payments[name][2], moment(15)))
        if k > 30:
            break
    bucket.check(15)
    assert sum(key.startswith("labels/") for key in bucket.reads) == 32
    assert sum(key.startswith(SCORES) for key in bucket.reads) == 15
    first = bucket.days()
    bucket.check(15)
    assert bucket.reads == [STATE] and bucket.writes == []
    bucket.check(16)
    assert bucket.reads == [STATE] and bucket.days() == first
    late = bucket.score(["late"], [0.5], [moment(3)])
    for times in (1, 0):
        bucket.check(16)
        assert [key for key in bucket.reads if key.startswith(SCORES)] == late * times
    bucket.report(f"{hour(16, 3)}/new.jsonl", ("tx-14-0", 1, moment(16)))
    bucket.check(16)
    assert [key for key in bucket.reads if key.startswith(("labels/", SCORES))] == [f"labels/{hour(16, 3)}/new.jsonl"]


def test_a_report_about_one_day_opens_that_day_and_the_younger_ones_only():
    bucket, _ = served()
    bucket.check(15)
    bucket.report(f"{hour(15)}/new.jsonl", ("tx-12-0", 1, moment(15)))
    bucket.check(15)
    assert [key for key in bucket.reads if key.endswith(".bin")].__len__() == 3  # days 14, 13, 12
    assert bucket.days()[str(FIRST + 12)].frauds == 1


def test_a_report_that_found_no_payment_opens_new_days_only():
    bucket, _ = served()
    bucket.report(f"{hour(15)}/new.jsonl", ("tx-15-0", 1, moment(15)), ("nobody", 1, moment(15)))
    bucket.score(["tx-15-0"], [0.5], [moment(15, 3600)])  # today, which is not put together before it is over
    bucket.check(15)
    bucket.check(15)
    assert not any(key.endswith("-scores.bin") or key.startswith(SCORES) for key in bucket.reads)
    assert bucket.writes == []
    bucket.check(16)
    assert sum("-scores" in key or key.startswith(SCORES) for key in bucket.reads) == 1
    assert bucket.days()[str(FIRST + 15)].frauds == 1


def test_a_mountain_of_scores_is_put_together_in_turns(monkeypatch):
    monkeypatch.setattr(truth, "ROWS", 200)
    monkeypatch.setattr(truth, "EAGER_BYTES", -1)
    bucket, payments = served()
    told = {name: (1, moment(15)) for name in ("tx-14-1", "tx-7-1", "tx-0-1")}
    bucket.report(f"{hour(15)}/a.jsonl", *((name, *one) for name, one in told.items()))
    for n in (6, 12, 15):
        bucket.check(15)
        assert len(bucket.days()) == n
    assert bucket.days() == expected(payments, told)
    bucket.check(15)
    assert not any(key.startswith(SCORES) for key in bucket.reads)


def test_where_traffic_is_large_reports_meet_their_days_once_a_day(monkeypatch):
    monkeypatch.setattr(truth, "EAGER_BYTES", -1)
    bucket, payments = served()
    bucket.check(15)
    for k in range(3):
        bucket.report(f"{hour(15, 13 + k)}/{k}.jsonl", (f"tx-1-{k}", 1, moment(15)))
        bucket.check(15)
        assert sum(one.frauds for one in bucket.days().values()) == 0
        assert not any("-scores" in key or key.startswith(SCORES) for key in bucket.reads)
    bucket.check(16)
    assert sum(one.frauds for one in bucket.days().values()) == 3
    assert bucket.days() == expected(payments, {f"tx-1-{k}": (1, moment(15)) for k in range(3)})


def test_label_files_may_come_late_and_as_csv():
    bucket, _ = served()
    bucket.check(15)
    bucket.report(f"{hour(14)}/late.jsonl", ("tx-1-1", 1, moment(14)))  # into an hour that is over
    rows = "inference_id,label,label_time\ntx-1-2,1,2026-03-15T00:00:00Z\ntx-1-3,,\ntx-1-4,0,\n"
    bucket.objects["labels/chargebacks/march.csv"] = rows.encode()
    bucket.objects["labels/2026-03.csv"] = rows.replace("tx-1-", "tx-2-").encode()
    bucket.objects["labels/readme.txt"] = b"no labels"
    for _ in range(2):
        bucket.check(15)
        days = bucket.days()
        assert (days[str(FIRST + 1)].frauds, days[str(FIRST + 1)].told) == (2, 3)
        assert (days[str(FIRST + 2)].frauds, days[str(FIRST + 2)].told) == (1, 2)
    assert not any(key.startswith("labels/") for key in bucket.reads)
    for day in range(16, 40, 5):
        bucket.check(day)
        assert not any(key.startswith("labels/") for key in bucket.reads)


def test_a_banks_own_columns_are_read_as_the_release_says():
    bucket, _ = served()
    bucket.objects[f"labels/{hour(14)}/bank.csv"] = b"payment,booked\ntx-1-2,2026-03-15\ntx-1-3,2026-03-15\n"
    blind = Bucket(bucket.objects)
    assert blind.check(15)["summary"]["notes"][-1].startswith("2 lines of label files cannot be read")
    now = (FIRST + 15.5) * DAY
    for columns in (["payment", "", "booked"], ("payment", "", "")):
        mine = Bucket(bucket.objects, bucket.came)
        mine.now = now
        truth.performance_of(mine.items, mine.read, ENDPOINT, BASELINE, now, POLICY, mine.put, columns)
        assert mine.days()[str(FIRST + 1)].frauds == 2


def test_what_cannot_be_read_is_counted_and_said():
    bucket, _ = served()
    bucket.objects[f"labels/{hour(15)}/a.jsonl"] = b'{"x": 1}\nnot json\n'
    found = bucket.check(15)
    assert "2 lines of label files cannot be read" in " ".join(found["summary"]["notes"])
    bucket.check(15)
    assert json.loads(bucket.objects[STATE])["unreadable"] == 2


def test_reports_about_unknown_payments_are_kept_for_a_while_only():
    bucket, _ = served(3)
    bucket.report(f"{hour(3)}/a.jsonl", ("nobody", 1, moment(3)))
    for day in (3, 4, 5):
        bucket.check(day)
        assert json.loads(bucket.objects[STATE])["waiting"]
    bucket.check(6)
    state = json.loads(bucket.objects[STATE])
    assert state["waiting"] == "" and state["unknown"] == 1


def test_a_flood_of_label_files_is_read_in_turns_and_nothing_fires_until_then(monkeypatch):
    monkeypatch.setattr(truth, "FILES", 10)
    bucket, payments = served()
    names = list(payments)[:35]
    for k, name in enumerate(names):
        bucket.report(f"{hour(1 + k // 4, k % 4)}/{k:02}.jsonl", (name, 1, moment(1)))
    for turn, left in enumerate((25, 15, 5, 0)):
        found = bucket.check(15 if turn < 2 else 25)
        said = any("wait to be read" in note for note in found["summary"]["notes"])
        assert said == bool(left), turn
        assert not left or not any(rule["fired"] for rule in found["rules"])
        assert sum(one.frauds for one in bucket.days().values()) == 35 - left
    assert any(rule["fired"] for rule in bucket.check(15)["rules"])


# -- accidents


def test_a_dry_run_writes_nothing_and_finds_the_same():
    bucket, _ = served()
    bucket.report(f"{hour(15)}/a.jsonl", ("tx-1-1", 1, moment(15)))
    before = dict(bucket.objects)
    dry = bucket.check(15, dry=True)
    assert bucket.writes == [] and bucket.objects == before
    assert dry == bucket.check(15)


def test_of_two_checks_at_once_one_wins_and_nothing_is_lost():
    bucket, payments = served()
    bucket.report(f"{hour(15)}/a.jsonl", ("tx-1-1", 1, moment(15)))
    bucket.check(15)
    slow = Bucket(bucket.objects, bucket.came)  # reads now, and is overtaken
    bucket.report(f"{hour(15)}/b.jsonl", ("tx-1-2", 1, moment(15)))
    bucket.check(15)
    slow.report(f"{hour(15)}/c.jsonl", ("tx-1-3", 1, moment(15)))
    slow.check(15)
    for key in slow.writes:  # all its writes land last
        bucket.objects[key] = slow.objects[key]
    bucket.objects[f"labels/{hour(15)}/c.jsonl"] = slow.objects[f"labels/{hour(15)}/c.jsonl"]
    bucket.check(15)
    assert bucket.days() == expected(payments, {f"tx-1-{k}": (1, moment(15)) for k in (1, 2, 3)})


@pytest.mark.parametrize("died", range(6))
def test_a_check_that_dies_is_made_good_by_the_next(died):
    bucket, payments = served(6)
    bucket.report(f"{hour(6)}/a.jsonl", *((name, bad, moment(6)) for name, (_, _, bad) in payments.items()))
    count = 0

    def put(key, body):
        nonlocal count
        if (count := count + 1) > died:
            raise OSError("gone")
        bucket.put(key, body)

    bucket.now = moment(6, 1)
    with pytest.raises(OSError, match="gone"):
        truth.performance_of(bucket.items, bucket.read, ENDPOINT, BASELINE, moment(6, 1), POLICY, put)
    bucket.check(6)
    assert bucket.days() == expected(payments, {name: (bad, moment(6)) for name, (_, _, bad) in payments.items()})


def test_counts_on_other_bins_are_made_anew(monkeypatch):
    bucket, payments = served(5)
    bucket.check(5)
    state = json.loads(bucket.objects[STATE])
    for one in state["days"].values():
        one["counts"]["scored"].append(0)
    bucket.objects[STATE] = json.dumps(state).encode()
    bucket.check(5)
    assert bucket.days() == expected(payments, {})


def test_a_failed_read_is_no_silence():
    bucket, _ = served(5)
    bucket.report(f"{hour(5)}/a.jsonl", ("tx-1-1", 1, moment(5)))

    def read(key):
        if key.startswith("labels/"):
            raise ConnectionError(key)
        return bucket.read(key)

    bucket.now = moment(5)
    with pytest.raises(ConnectionError):
        truth.performance_of(bucket.items, read, ENDPOINT, BASELINE, moment(5), POLICY, bucket.put)
    bucket.check(5)
    assert sum(one.frauds for one in bucket.days().values()) == 1


def test_a_label_file_that_vanished_does_not_stop_the_check():
    bucket, _ = served(5)

    def items(prefix, after=""):
        yield from bucket.items(prefix, after)
        if prefix == "labels/" and not after.endswith(("2026", "2027")):
            yield Item("labels/zz.csv", "", moment(4))

    now = moment(5)
    assert truth.performance_of(items, bucket.read, ENDPOINT, BASELINE, now, POLICY, bucket.put)["rules"] == []


def test_days_that_are_no_longer_shown_are_forgotten():
    bucket, _ = served(5)
    bucket.check(5)
    assert len(bucket.days()) == 5
    bucket.check(67)
    assert set(bucket.days()) == {str(FIRST + day) for day in (3, 4)}


def test_where_truth_takes_no_time_today_is_judged():
    bucket, payments = served(2, 300)
    bucket.report(f"{hour(1)}/a.jsonl", *((name, bad, time) for name, (_, time, bad) in payments.items()))
    found = bucket.check(1, policy=POLICY | {"truth_delay_days": 0})
    assert found["summary"]["judged"]["n"] == 600 and found["rules"][0]["fired"]


def test_the_first_of_several_payments_with_one_id_counts():
    bucket = Bucket()
    bucket.score(["a", "a"], [0.9, 0.1], [moment(0, 50), moment(0, 20)])
    bucket.score(["a"], [0.7], [moment(0, 30)])
    bucket.check(1)
    (one,) = bucket.days().values()
    assert one.n == 1 and one == replace(one, flagged=0)


def test_a_day_of_half_a_million_payments_is_counted_soon():
    n = 500_000
    rows = np.empty(n, truth.SCORE)
    rows["id"], rows["score"], rows["second"] = np.sort(rng.integers(0, 2**63, n)), rng.random(n), 0
    reports = np.zeros(2_500, truth.report_type(60))
    reports["id"], reports["label"] = rows["id"][::200], 1
    found = truth.count(rows, reports, FIRST, THRESHOLD)
    assert (found.n, found.frauds, found.told) == (n, 2_500, 2_500)
    assert found.expected / 2**32 == pytest.approx(rows["score"].sum(dtype=float), rel=1e-6)
