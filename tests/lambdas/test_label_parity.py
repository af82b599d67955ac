"""Training, reports and the drift check give the same answer about the same labels."""

from __future__ import annotations

import datetime as dt
import hashlib
import json

import numpy as np
import pytest
from botocore.exceptions import ClientError
from hypothesis import given, settings
from hypothesis import strategies as st
from test_drift_truth import BASELINE, ENDPOINT, POLICY, STATE, Item, moment, truth

from fraud.cohort import DAY, id_hash
from fraud.labels import LabelColumns
from fraud.pipeline import scored
from fraud.pipeline import truth as merged
from fraud.pipeline.storage import Storage

NO_TIME = LabelColumns(time="")
PAYMENTS = [f"tx-{k}" for k in range(4)]
SCORED = moment(1, 60)


class Client:
    """S3 in memory, as far as `Storage` needs it, with deliveries at the moments that a test says."""

    def __init__(self):
        self.objects, self.now = {}, moment(0)

    def put_object(self, *, Key, Body, **condition):
        if condition.get("IfNoneMatch") and Key in self.objects:
            raise ClientError({"Error": {"Code": "PreconditionFailed"}}, "PutObject")
        self.objects[Key] = (Body, self.now)
        return {"ETag": f'"{hashlib.md5(Body).hexdigest()}"'}

    def get_object(self, *, Key, **_):
        if Key not in self.objects:
            raise ClientError({"Error": {"Code": "NoSuchKey"}}, "GetObject")
        return {"Body": _Body(self.objects[Key][0]), "ETag": f'"{hashlib.md5(self.objects[Key][0]).hexdigest()}"'}

    def list_objects_v2(self, *, Prefix, StartAfter="", **_):
        found = sorted(key for key in self.objects if key.startswith(Prefix) and key > StartAfter)
        return {
            "Contents": [
                {
                    "Key": key,
                    "Size": len(self.objects[key][0]),
                    "ETag": f'"{hashlib.md5(self.objects[key][0]).hexdigest()}"',
                    "LastModified": dt.datetime.fromtimestamp(self.objects[key][1], dt.UTC),
                }
                for key in found
            ]
        }


class _Body:
    def __init__(self, body):
        self.body = body

    def read(self):
        return self.body

    def iter_chunks(self, size):
        return iter([self.body])


class Deployment:
    """A bucket in which payments were scored, and everyone who reads labels in it."""

    def __init__(self):
        self.client = Client()
        self.storage = Storage("loop", self.client, owner="", wait=0)
        truth.append_scores(self._put, ENDPOINT, "run-1", PAYMENTS, [0.5] * len(PAYMENTS), [SCORED] * len(PAYMENTS))

    def _put(self, key, body):
        self.client.put_object(Key=key, Body=body)

    def _items(self, prefix, after=""):
        return (Item(one.key, one.etag, one.last_modified.timestamp()) for one in self.storage.list(prefix, after))

    def _read(self, key):
        if key not in self.client.objects:
            raise FileNotFoundError(key)
        return self.client.objects[key][0]

    def deliver(self, key, body, at):
        self.client.now = at
        self._put(f"labels/{key}", body.encode())

    def check(self, now, columns):
        """Labels of the payments as the drift check counts them, and how many lines it could not read."""
        self.client.now = now
        found = truth.performance_of(self._items, self._read, ENDPOINT, BASELINE, now, POLICY, self._put, columns)
        state = json.loads(self._read(STATE))
        assert bool(state["unreadable"]) == any("cannot be read" in note for note in found["summary"]["notes"])
        files = truth.Files(self._items, self._read, None)
        names = {id_hash(name): name for name in PAYMENTS}
        rows = [files.reports(day["reports"]) for day in state["days"].values()]
        told = np.concatenate([row[["id", "time", "label"]] for row in rows]).tolist() if rows else []
        return {names[own]: (label, time) for own, time, label in told}, state["unreadable"]

    def merge(self, now, columns):
        """As 01 has them."""
        found = merged.read(self.storage, dt.datetime.fromtimestamp(now, dt.UTC), columns)
        return self._known(found.newest.iter_rows()), len(found.statements.bad)

    def report(self, columns):
        """As 03, 04 and A/B tests have them."""
        return self._known(scored.truth(self.storage, columns).values())

    def _known(self, rows):
        return {own: (label, time) for own, label, time, _ in rows if own in PAYMENTS}

    def agree(self, now, columns=NO_TIME):
        """What all say."""
        checked, unreadable = self.check(now, columns)
        known, bad = self.merge(now, columns)
        assert checked == known == self.report(columns)
        assert unreadable == bad
        return known


def day(n, hour=12.0):
    return moment(n, hour * 3600)


def test_a_file_without_times_is_dated_by_its_delivery_and_a_later_correction_wins():
    one = Deployment()
    one.deliver("bank.csv", "inference_id,label\ntx-0,1\n", day(3))
    one.deliver("2026/03/04/12/a.jsonl", json.dumps({"inference_id": "tx-0", "label": 0, "time": day(3) + 1.5}), day(4))
    assert one.agree(day(5)) == {"tx-0": (0, day(3) + 1.5)}
    one.deliver("bank.csv", "inference_id,label\ntx-0,1\n", day(6))  # once more, after the correction
    assert one.agree(day(7)) == {"tx-0": (1, day(6))}


@pytest.mark.parametrize("turns", [(0, 1), (1, 0)])
def test_of_two_files_from_one_moment_the_later_key_counts_whichever_is_read_first(turns):
    one = Deployment()
    files = {"a.csv": "inference_id,label\ntx-0,1\n", "b.csv": "inference_id,label\ntx-0,0\ntx-1,0\ntx-1,1\n"}
    for n, turn in enumerate(turns):
        key = sorted(files)[turn]
        one.deliver(key, files[key], day(3))
        one.check(day(4) + n, NO_TIME)
    assert one.agree(day(5)) == {"tx-0": (0, day(3)), "tx-1": (1, day(3))}


@pytest.mark.parametrize("key", ["2026/02/01/05/late.jsonl", "2025/01/01/00/x.csv", "2020/12/31/23/y.CSV", "old/z.txt"])
@pytest.mark.parametrize("many", [False, True])
def test_a_file_in_an_old_folder_is_read_by_all(monkeypatch, key, many):
    if many:
        monkeypatch.setattr(truth, "EARLY", -1)
    one = Deployment()
    for n in range(10, 20):
        one.check(day(n), NO_TIME)
    one.deliver(key, "inference_id,label\ntx-0,1\n", day(20))
    assert one.agree(day(21)) == {"tx-0": (1, day(20))}


def table(rows, head, row):
    return "\n".join([head, *(row.format(own=own, label=label, at=at or "") for own, label, at in rows), ""])


def records(rows, kind=int):
    return [{"inference_id": own, "label": kind(label), "time": at} for own, label, at in rows]


FORMS = {
    "csv": lambda rows: table(rows, "inference_id,label,label_time", "{own},{label},{at}"),
    "CSV": lambda rows: table(rows, "Label Time;LABEL;Inference ID", "{at};{label}.0;{own}"),
    "json": lambda rows: json.dumps(records(rows, bool)),
    "jsonl": lambda rows: "\n".join(map(json.dumps, records(rows, float))),
    "": lambda rows: "".join(map(str, records(rows))),  # Python's own way to print them
    "xlsx": lambda rows: "PK\3\4",
}
ROWS = st.lists(
    st.tuples(st.sampled_from(PAYMENTS), st.integers(0, 1), st.sampled_from([None, day(2), day(2.5), day(3)])),
    min_size=1,
    max_size=4,
)
FOLDERS = ["", "2026/03/04/05/", "2025/01/01/01/", "zz/"]
DELIVERIES = st.lists(
    st.tuples(st.sampled_from(FOLDERS), st.sampled_from(sorted(FORMS)), ROWS, st.sampled_from([3, 3.5, 4, 9])),
    max_size=6,
)


@given(DELIVERIES, st.randoms())
@settings(max_examples=60)
def test_all_readers_agree_whatever_is_delivered_and_whenever_they_look(deliveries, random):
    one = Deployment()
    for n, (folder, ending, rows, at) in enumerate(sorted(deliveries, key=lambda delivery: delivery[3])):
        one.deliver(f"{folder}{n}.{ending}".rstrip("."), FORMS[ending](rows), day(at))
        if random.random() < 0.4:
            one.check(day(at) + 60, LabelColumns())
        if random.random() < 0.3:
            one.merge(day(at) + 60, LabelColumns())
    one.agree(day(10), LabelColumns())


def test_a_mended_or_withdrawn_file_is_no_longer_called_unreadable():
    one = Deployment()
    for name in ("a.csv", "b.csv"):
        one.deliver(name, "id,label\ntx-0,1\ntx-1,1\n", day(3))
    assert one.agree(day(4)) == {} and one.check(day(4), NO_TIME)[1] == 4
    one.deliver("a.csv", "inference_id,label\ntx-0,1\ntx-1,1\n", day(5))
    del one.client.objects["labels/b.csv"]
    assert one.agree(day(6)) == {"tx-0": (1, day(5)), "tx-1": (1, day(5))}
    assert one.check(day(6), NO_TIME)[1] == one.merge(day(6), NO_TIME)[1] == 0


def test_labels_that_were_posted_days_after_they_were_known_are_judged():
    from fraud import api

    one = Deployment()
    for n in range(2, 9):
        one.check(day(n), NO_TIME)
    body = json.dumps({"labels": [{"inference_id": "tx-0", "label": 1, "time": "2026-03-04T00:00:00Z"}]}).encode()
    key, content = api.label_object(api.read_labels(body, day(8)), body, day(8))
    one.deliver(key.removeprefix("labels/"), content.decode(), day(8))
    assert one.agree(day(9)) == {"tx-0": (1, moment(3))}
    assert DAY * 5 < day(8) - moment(3) < DAY * 6
