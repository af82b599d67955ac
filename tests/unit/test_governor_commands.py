"""``fraud drift``: what people type to stop retraining, to let it go on, and to see what the governor did."""

import datetime as dt
import json
import re

import pytest
from governor_kit import POLICY, Pipeline, verdict

from fraud.decision import decide, record, record_key
from fraud.errors import ConflictError, DataError, ParameterError
from fraud.governor import Outcome, start_once
from fraud.moment import iso
from fraud.pipeline import cli, governing
from fraud.pipeline import where as wheres

LOCK = "locks/drift/fraud.json"
NOW = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)
WHO = "arn:aws:sts::123456789012:user/moto"


@pytest.fixture
def bucket(storage, monkeypatch):
    """A deployment with one release, as the command line finds it."""
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("FRAUD_BUCKET", "loop")
    monkeypatch.setenv("FRAUD_ENDPOINT_NAME", "fraud")
    storage.put("releases/fraud/current.json", b"{}")
    for cached in (wheres.where, wheres.client):
        cached.cache_clear()
    yield storage
    for cached in (wheres.where, wheres.client):
        cached.cache_clear()


def fraud(capsys, *arguments, code=0):
    with pytest.raises(SystemExit) as ended:
        cli.main(["drift", *arguments])
    said = capsys.readouterr()
    assert ended.value.code == code, said.err
    return said.out + said.err


def keep(storage, hour, kind="DRIFT", *, state=None, execution=None, **given):
    moment = NOW.timestamp() + 3600 * hour
    outcome = Outcome(decide(verdict(999_999, kind), state, moment, POLICY | given), execution, state)
    made = record(verdict(kind=kind), outcome, moment, POLICY | given)
    storage.write_json(record_key(made), made)
    return made


def test_pause_status_resume(bucket, capsys):
    assert "is on.\nNo retraining was started yet." in fraud(capsys, "status")
    said = fraud(capsys, "pause", "--reason", "labels are\n late ")
    assert said == "Retraining at fraud is paused. Checks and reports go on; `fraud drift resume` ends it.\n"
    state = bucket.read_json(LOCK)
    assert state["pause"] == {"by": WHO, "reason": "labels are late", "at": state["pause"]["at"]}
    again = fraud(capsys, "pause", "--reason", "me too")
    assert again == f"Retraining at fraud is paused already by {WHO} since {state['pause']['at']}: labels are late.\n"
    assert f"is paused by {WHO} since" in fraud(capsys, "status")
    store, pipeline = governing.state_of(bucket, "fraud"), Pipeline()
    assert start_once(verdict(), store, pipeline, POLICY, "a", NOW.timestamp).decision.reasons == ("PAUSED",)
    assert "goes on; it was paused by" in fraud(capsys, "resume")
    assert fraud(capsys, "resume") == "Retraining at fraud is not paused.\n"
    assert start_once(verdict(), store, pipeline, POLICY, "a", NOW.timestamp).execution_id == "execution-0"
    assert "Last start: 2026-01-02T12:00:00Z (execution-0), " in fraud(capsys, "status")
    assert bucket.read_json(LOCK)["pause"]["resumed_by"] == WHO


USERS_TO_MEND = [
    (["pause"], "Missing option '--reason'"),
    (["pause", "--reason", " \n"], "--reason has 0 characters, but must say why in 1 to 300."),
    (["pause", "--reason", "x" * 301], "--reason has 301 characters"),
    (
        ["pause", "--reason", "x", "--endpoint", "fruad"],
        "The endpoint 'fruad' is not this deployment's, which is 'fraud'",
    ),
    (["pause", "--reason", "x", "--endpoint", "../x"], "The endpoint '../x' is not this deployment's"),
    (["resume", "--endpoint", "x"], "The endpoint 'x' is not this deployment's"),
    (["history", "--endpoint", "x"], "The endpoint 'x' is not this deployment's"),
    (["history", "--last", "0"], "Invalid value for '--last'"),
]


@pytest.mark.parametrize("name", ["fruad", "../x", ""])
def test_an_endpoint_without_a_release_has_no_governor(bucket, name):
    with pytest.raises(ParameterError, match=f"no release at an endpoint '{name}'; there are fraud."):
        governing.state_of(bucket, name)


def test_what_the_user_can_mend_is_2_and_one_sentence(bucket, capsys):
    for arguments, sentence in USERS_TO_MEND:
        said = fraud(capsys, *arguments, code=2)
        assert sentence in said
        assert said.startswith("Error: ")
        assert "Traceback" not in said
    assert not bucket.exists(LOCK)


def test_before_the_first_release(storage):
    with pytest.raises(ParameterError, match="nothing is deployed yet"):
        governing.state_of(storage, "fraud")


def test_a_state_that_cannot_be_used_is_said_and_kept(bucket, capsys):
    no_state = "is no state of the governor ({}): restore an earlier version, or delete it"
    no_state += " and pause again if retraining was paused."
    for junk, wrong in (
        (b"{", "is no JSON: restore an earlier version, or delete it."),
        (b"\xff", "is no JSON: restore an earlier version, or delete it."),
        (b"[]", no_state.format("it is no JSON object")),
        (b'{"starts": [1]}', no_state.format("an item of starts has no moment")),
    ):
        bucket.put(LOCK, junk)
        said = fraud(capsys, "pause", "--reason", "x", code=2)
        assert said == f"Error: s3://loop/locks/drift/fraud.json {wrong}\n"
        assert bucket.get(LOCK) == junk
    with pytest.raises(DataError):
        governing.status(bucket, "fraud", NOW)


def test_a_state_that_others_keep_writing_is_1(bucket, capsys, monkeypatch):
    monkeypatch.setattr(type(bucket), "put_if_match", lambda *_: None)
    assert "try once more." in fraud(capsys, "pause", "--reason", "x", code=1)


def test_the_switch_works_while_nobody_says_who(bucket, capsys, monkeypatch):
    def unreachable(service):
        raise governing.BotoCoreError

    monkeypatch.setattr(governing, "client", unreachable)
    fraud(capsys, "pause", "--reason", "x")
    assert bucket.read_json(LOCK)["pause"]["by"] == "unknown caller"


def test_a_claim_that_waits_is_said(bucket):
    bucket.write_json(LOCK, {"status": "claimed", "token": "t", "window_end": iso(0), "claimed_at": iso(0)})
    found = governing.status(bucket, "fraud", NOW)
    assert any(line.startswith("A start was begun and not finished") for line in governing.in_lines(found, NOW))
    assert "A start that was begun waits, too." in governing.pause(bucket, "fraud", "why", "ana", NOW)


def test_the_conditional_write_is_one(bucket):
    store = governing.state_of(bucket, "fraud")
    assert store.get() == (None, None)
    tag = store.put_if({"n": 1}, None)
    assert store.get() == ({"n": 1}, tag)
    for stale in (None, '"0"'):
        with pytest.raises(ConflictError):
            store.put_if({"n": 2}, stale)
    assert store.put_if({"n": 2}, tag) != tag


def test_history_is_the_newest_first_in_words(bucket, capsys):
    state = {"last_start": iso(NOW.timestamp() - 60), "status": "started", "token": "t"}
    keep(bucket, -24 * 40, execution="execution-7")
    keep(bucket, 0, "OK")
    keep(bucket, 1, state=state, daily_cap=1)
    lines = fraud(capsys, "history").splitlines()
    assert [line[:16] for line in lines[1:]] == ["2026-01-02 13:00", "2026-01-02 12:00", "2025-11-23 12:00"]
    assert re.split(" {2,}", lines[1]) == [
        "2026-01-02 13:00:00",
        "DRIFT",
        "not started",
        "COOL_DOWN DAILY_CAP: The last retraining was started too short a time ago. "
        "As many retrainings as are allowed within 24 hours have been started.",
    ]
    assert "execution-7  START: A retraining has been started." in lines[3]
    told = json.loads(fraud(capsys, "history", "--json", "--last", "2"))
    assert [one["reasons"] for one in told] == [["COOL_DOWN", "DAILY_CAP"], ["NOT_DRIFT"]]


def test_history_lists_only_the_days_it_shows(bucket, monkeypatch):
    for day in range(40):
        keep(bucket, -24 * day, "OK")
        keep(bucket, -24 * day - 1, "OK")
    listed, real = [], type(bucket).list_keys
    monkeypatch.setattr(type(bucket), "list_keys", lambda self, prefix: listed.append(prefix) or real(self, prefix))
    found = governing.history(bucket, "fraud", 5)
    assert [one["moment"][:13] for one in found] == [
        "2026-01-02T12", "2026-01-02T11", "2026-01-01T12", "2026-01-01T11", "2025-12-31T12",
    ]  # fmt: skip
    assert len(listed) == 3
    assert len(governing.history(bucket, "fraud", 1000)) == 80


def test_a_record_that_cannot_be_read_keeps_its_place(bucket, capsys):
    keep(bucket, 0, "OK")
    for junk in (b"{", b"[]", b"\xff\xff"):
        bucket.put("drift/fraud/decisions/2026/01/02/130000-COOL_DOWN.json", junk)
        lines = fraud(capsys, "history").splitlines()
        assert lines[1].startswith("2026-01-02 13:00:00  ?        not started  COOL_DOWN: s3://loop/drift/fraud/decis")
        assert lines[1].endswith("cannot be read.")
        assert len(lines) == 3


def test_status_tells_what_the_limits_of_the_last_decision_allow(bucket, capsys):
    assert fraud(capsys, "history") == "No decision is recorded yet.\n"
    state = {"status": "started", "last_start": iso(NOW.timestamp() - 7200), "execution_id": "e1", "window_end": iso(0)}
    bucket.write_json(LOCK, state)
    for k in range(8):
        keep(bucket, k - 8, state=state)
    found = governing.status(bucket, "fraud", NOW)
    assert (found["starts_in_24_hours"], len(found["decisions"])) == (1, 5)
    assert found["policy"] == POLICY
    assert found["allowed_from"] == "2026-01-02T16:00:00Z"
    lines = governing.in_lines(found, NOW)
    assert "Last start: 2026-01-02T10:00:00Z (e1), 2 hours ago." in lines
    assert "The next one may start from 2026-01-02T16:00:00Z on." in lines
    assert json.loads(fraud(capsys, "status", "--json"))["execution_id"] == "e1"
    later = NOW + dt.timedelta(hours=5)
    assert "Cool-down and daily cap allow one now." in governing.in_lines(
        governing.status(bucket, "fraud", later), later
    )
    keep(bucket, 0, daily_cap=0)
    assert any("daily cap is 0" in line for line in governing.in_lines(governing.status(bucket, "fraud", NOW), NOW))


def test_a_start_in_the_future_is_no_riddle(bucket):
    bucket.write_json(LOCK, {"last_start": iso(NOW.timestamp() + 9999)})
    assert any("look at the clocks" in line for line in governing.in_lines(governing.status(bucket, "fraud", NOW), NOW))
