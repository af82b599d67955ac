"""Label files of any name, and a stored state of any kind: what truth reads, and what it makes anew."""

from __future__ import annotations

import json

import pytest
from test_drift_truth import FIRST, STATE, Cohort, expected, hour, moment, served, truth

# -- label files


@pytest.mark.parametrize(
    "key",
    ["2026-03.csv", "03-2026.csv", "2025-12.csv", "12-2027.csv", "2025/12/bank.csv", "2026/02/28/x.csv", "a/b/c.csv",
     "2026/bank.csv", "2020/bank.jsonl", "2026/01/01/3/x.csv"],
)  # fmt: skip
@pytest.mark.parametrize("many", [False, True])
def test_a_file_is_found_whatever_its_name_and_read_once(monkeypatch, key, many):
    if many:
        monkeypatch.setattr(truth, "EARLY", -1)
    bucket, _ = served()
    bucket.check(15)
    if key.endswith(".csv"):
        bucket.objects[f"labels/{key}"] = b"inference_id,label,label_time\ntx-1-2,1,2026-03-15T00:00:00Z\n"
    else:
        bucket.report(key, ("tx-1-2", 1, moment(15)))
    found = []
    for day in (15, 15, 16, 16, 17, 25, 40):
        bucket.check(day)
        found += [key for key in bucket.reads if key.startswith("labels/")]
        assert len(found) == 1 or (many and day == 15), day
        assert bucket.days()[str(FIRST + 1)].frauds == len(found)


def test_many_old_files_are_listed_once_a_day_and_unread_ones_until_they_are_read(monkeypatch):
    monkeypatch.setattr(truth, "EARLY", 5)
    monkeypatch.setattr(truth, "FILES", 4)
    bucket, _ = served()
    for k in range(10):
        row = f"inference_id,label,label_time\ntx-1-{k},1,2026-03-15T00:00:00Z\n"
        bucket.objects[f"labels/2025/{k:02}.csv"] = row.encode()
    listed, real = [], bucket.items
    bucket.items = lambda prefix, after="": listed.append((prefix, after)) or real(prefix, after)
    for turn, frauds in enumerate((4, 8, 10, 10, 10)):
        listed.clear()
        found = bucket.check(16)
        assert bucket.days()[str(FIRST + 1)].frauds == frauds
        assert (("labels/", "") in listed) == (turn < 3)
        assert any("wait to be read" in note for note in found["summary"]["notes"]) == (turn < 2)
    bucket.check(17)
    assert ("labels/", "") in listed


def test_a_label_from_the_future_is_refused_since_nothing_could_correct_it():
    bucket, _ = served()
    bucket.report(f"{hour(15)}/a.jsonl", ("tx-1-1", 1, moment(70 * 365)), ("tx-1-2", 1, moment(16)))
    rows = "inference_id,label,label_time\ntx-1-3,1,2096-03-15T00:00:00Z\ntx-1-4,1,2026-03-17T00:00:00Z\n"
    bucket.objects["labels/bank.csv"] = rows.encode()
    assert "2 lines of label files cannot be read" in " ".join(bucket.check(15)["summary"]["notes"])
    assert bucket.days()[str(FIRST + 1)].frauds == 2
    told = [(f"tx-1-{k}", 0, moment(17)) for k in range(1, 5)]
    bucket.report(f"{hour(17)}/b.jsonl", *told)
    bucket.check(17)
    assert (bucket.days()[str(FIRST + 1)].frauds, bucket.days()[str(FIRST + 1)].told) == (0, 4)


# -- the state

BROKEN = [
    b"{", b"[]", b"null", b"5", b'"x"', b'{"format": 0}', b'{"format": 2}', b'{"format": 2, "days": {"1": {}}}',
    b'{"format": 2, "days": 5}', b'{"format": 2, "days": {}, "since": 5}', b'{"format": 2, "days": {}, "seen": 5}',
    b'{"format": 2, "days": {}, "seen": [5]}', b'{"format": 2, "days": {}, "waiting": null}',
    b'{"format": 2, "days": {}, "bad": {"labels/a.csv": "x"}}', b'{"format": 2, "days": {}, "bad": [5]}',
]  # fmt: skip


@pytest.mark.parametrize("body", BROKEN)
def test_a_state_that_cannot_be_read_is_made_anew(body):
    bucket, payments = served(5)
    bucket.report(f"{hour(5)}/a.jsonl", ("tx-1-1", 1, moment(5)))
    bucket.objects[STATE] = body
    bucket.check(5)
    assert bucket.days() == expected(payments, {"tx-1-1": (1, moment(5))})


@pytest.mark.parametrize("field", ["parts", "scores", "n", "reports", "counts"])
def test_a_day_of_a_state_that_cannot_be_read_is_made_anew(field):
    bucket, payments = served(5)
    bucket.report(f"{hour(5)}/a.jsonl", ("tx-1-1", 1, moment(5)))
    bucket.check(5)
    for junk in (None, "5", [5], {"scored": 5}):
        state = json.loads(bucket.objects[STATE])
        state["days"][str(FIRST + 1)][field] = junk
        if field == "counts":
            state["days"][str(FIRST + 1)]["counts"] = Cohort().to_dict() | {"scored": ["x"] * 41}
        if type(junk) is not str or field not in ("scores", "reports"):
            bucket.objects[STATE] = json.dumps(state).encode()
        bucket.check(5)
        assert bucket.days() == expected(payments, {"tx-1-1": (1, moment(5))})


@pytest.mark.parametrize("name", ["waiting", "-scores-", "-reports-"])
@pytest.mark.parametrize("body", [None, b"x"])
def test_what_the_state_rests_on_is_made_anew_when_it_is_gone_or_damaged(name, body):
    bucket, payments = served(5)
    bucket.report(f"{hour(5)}/a.jsonl", ("tx-1-1", 1, moment(5)), ("nobody", 1, moment(5)))
    bucket.check(5)
    (key,) = [key for key in bucket.objects if "/truth/" in key and name in key and ("/03/02-" in key or "g-" in key)]
    del bucket.objects[key]
    if body:
        bucket.objects[key] = body
    bucket.report(f"{hour(5)}/b.jsonl", ("tx-1-2", 1, moment(5)))
    bucket.check(5)
    assert bucket.days() == expected(payments, {f"tx-1-{k}": (1, moment(5)) for k in (1, 2)})
    assert key in bucket.objects or name != "-scores-"
    bucket.check(5)
    assert bucket.writes == []
