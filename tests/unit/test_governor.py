"""What starts a retraining and what does not: each reason, all at once, and what people and programs read of it."""

import itertools
import json
import re
from pathlib import Path

import pytest
from governor_kit import HOUR, POLICY, verdict
from hypothesis import given
from hypothesis import strategies as st

from fraud import decision
from fraud.decision import EXPIRES, Decision, Outcome, allowed_from, decide, in_words, recent_starts, record, record_key
from fraud.errors import DataError
from fraud.governor import checked, token_for
from fraud.moment import iso, seconds
from fraud.verdict import VERDICTS

CODES = {value for name, value in vars(decision).items() if name == value and name != "DRIFT"}
STARTED = {"status": "started", "token": "t", "window_end": iso(HOUR), "last_start": iso(HOUR)}
CLAIMED = STARTED | {"status": "claimed", "window_end": iso(2 * HOUR), "claimed_at": iso(2 * HOUR)}
OVER = 2 * HOUR + EXPIRES  # the moment from which that claim decides nothing
FOUR = [{"at": iso(hour * HOUR), "execution_id": f"e{hour}"} for hour in (1, 8, 15, 22)]


@pytest.mark.parametrize(
    ("given", "state", "now", "in_flight", "reasons"),
    [
        (verdict(), None, HOUR, False, "START"),
        (verdict(), {"paused": False}, HOUR, False, "START"),
        (verdict(), {"paused": True}, HOUR, False, "PAUSED"),
        (verdict(kind="OK"), {"paused": True}, HOUR, False, "PAUSED NOT_DRIFT"),
        (verdict(kind="OK"), None, HOUR, False, "NOT_DRIFT"),
        (verdict(kind="INSUFFICIENT_DATA"), None, HOUR, False, "NOT_DRIFT"),
        (verdict(kind="MISSING_CAPTURE"), None, HOUR, False, "NOT_DRIFT"),
        (verdict(kind="SCHEMA_CHANGED"), None, HOUR, False, "NOT_DRIFT"),
        (verdict(n=99), None, HOUR, False, "MIN_RECORDS"),
        (verdict(n=100), None, HOUR, False, "START"),
        (verdict(), None, HOUR, True, "IN_FLIGHT"),
        (verdict(), STARTED, 20 * HOUR, False, "DUPLICATE"),
        (verdict(), STARTED, HOUR + 1, True, "DUPLICATE"),
        (verdict(0), STARTED, 20 * HOUR, False, "DUPLICATE"),
        (verdict(2), STARTED, 2 * HOUR, False, "COOL_DOWN"),
        (verdict(2), STARTED, 2 * HOUR, True, "IN_FLIGHT COOL_DOWN"),
        (verdict(2, n=5), STARTED | {"paused": True}, 2 * HOUR, True, "PAUSED MIN_RECORDS IN_FLIGHT COOL_DOWN"),
        (verdict(7), STARTED, 7 * HOUR - 1, False, "COOL_DOWN"),
        (verdict(7), STARTED, 7 * HOUR, False, "START"),
        (verdict(7), STARTED, 7 * HOUR, True, "IN_FLIGHT"),
        (verdict(2), CLAIMED, 2 * HOUR, True, "RECOVERED"),
        (verdict(), CLAIMED, HOUR, False, "RECOVERED"),
        (verdict(3), CLAIMED, OVER - 1, False, "RECOVERED"),
        (verdict(3), CLAIMED, OVER, False, "COOL_DOWN"),
        (verdict(3), CLAIMED | {"last_start": None}, OVER, False, "START"),
        (verdict(2), CLAIMED | {"last_start": None}, OVER, False, "START"),  # it has had no retraining
        (verdict(2), CLAIMED | {"last_start": None}, OVER, True, "IN_FLIGHT"),
        (verdict(1), CLAIMED | {"last_start": None}, OVER, False, "DUPLICATE"),
        (verdict(2), CLAIMED | {"paused": True}, 2 * HOUR, False, "PAUSED"),
        (verdict(2, n=99), CLAIMED, 2 * HOUR, False, "MIN_RECORDS"),
        (verdict(2, "OK"), CLAIMED, 2 * HOUR, False, "NOT_DRIFT"),
    ],
)
def test_reasons(given, state, now, in_flight, reasons):
    found = decide(given, state, now, POLICY, in_flight)
    assert found == Decision(reasons in ("START", "RECOVERED"), tuple(reasons.split()))


@pytest.mark.parametrize(
    ("cap", "hour", "reason"),
    [
        (4, 24.99, "DAILY_CAP"),
        (4, 25, "START"),
        (5, 24, "START"),
        (3, 31, "DAILY_CAP"),
        (3, 32, "START"),
        (0, 99, "DAILY_CAP"),
    ],
)
def test_the_daily_cap_counts_the_last_24_hours(cap, hour, reason):
    state = STARTED | {"starts": FOUR}
    policy = POLICY | {"daily_cap": cap, "cool_down_hours": 0}
    assert decide(verdict(99), state, hour * HOUR, policy).reasons == (reason,)


def test_a_state_from_before_starts_were_listed_has_one():
    assert recent_starts(STARTED | {"execution_id": "e"}, 2 * HOUR) == [{"at": iso(HOUR), "execution_id": "e"}]
    assert recent_starts(STARTED, 25 * HOUR) == []
    assert decide(verdict(2), STARTED, 2 * HOUR, POLICY | {"cool_down_hours": 0, "daily_cap": 1}).reasons == (
        "DAILY_CAP",
    )


@pytest.mark.parametrize(
    ("labels", "least", "expected"),
    [
        (0, 1, Decision(False, ("NOTHING_NEW_TO_LEARN",))),
        (49, 50, Decision(False, ("NOTHING_NEW_TO_LEARN",))),
        (50, 50, Decision(True, ("START",))),
        (0, 0, Decision(True, ("START",))),
        (None, 0, Decision(True, ("START",))),
        (None, 50, Decision(True, ("START",), ("NEW_LABELS_UNKNOWN",))),
    ],
)
def test_a_retraining_needs_something_new_to_learn(labels, least, expected):
    assert decide(verdict(), None, HOUR, POLICY | {"min_new_labels": least}, False, labels) == expected


def test_a_policy_that_is_silent_has_defaults():
    assert decide(verdict(n=499), None, HOUR, {}).reasons == ("MIN_RECORDS",)
    assert decide(verdict(), None, HOUR, {}, new_labels=99).reasons == ("NOTHING_NEW_TO_LEARN",)
    assert decide(verdict(24), STARTED, 25 * HOUR - 1, {}, new_labels=100).reasons == ("COOL_DOWN",)
    two = STARTED | {"starts": FOUR[:2]}
    assert decide(verdict(24), two, 25 * HOUR - 1, {"cool_down_hours": 0}).reasons == ("DAILY_CAP",)


moments = st.floats(0, 60 * HOUR, allow_nan=False)
states = st.none() | st.fixed_dictionaries(
    {},
    optional={
        "paused": st.booleans(),
        "status": st.sampled_from(["claimed", "started"]),
        "token": st.just("t"),
        "claimed_at": moments.map(iso),
        "window_end": moments.map(iso),
        "last_start": st.none() | moments.map(iso),
        "starts": st.lists(moments.map(lambda moment: {"at": iso(moment), "execution_id": "e"}), max_size=4),
        "execution_id": st.none() | st.just("e"),
        "somebody else's": st.just(1),
    },
)
verdicts = st.builds(verdict, st.integers(0, 50), st.sampled_from(VERDICTS), st.integers(0, 1000))
policies = st.fixed_dictionaries(
    {},
    optional={
        "min_records": st.integers(1, 1000),
        "cool_down_hours": st.sampled_from([0, 0.5, 6, 24, 100]),
        "daily_cap": st.integers(0, 5),
        "min_new_labels": st.integers(0, 10),
        "psi_threshold": st.just(0.25),
    },
)
labels = st.none() | st.integers(0, 20)


def blocking(verdict, state, now, policy, in_flight, new_labels):
    """The conditions one by one, as the page for people words them."""
    state, policy = state or {}, decision.POLICY | policy
    drift, claimed = verdict["verdict"] == "DRIFT", state.get("status") == "claimed" and "token" in state
    end, last = seconds(verdict["window"]["end"]), seconds(state.get("window_end", iso(0)))
    had = "window_end" in state and (end < last or end == last and not claimed)
    claimed = claimed and not ("claimed_at" in state and now - seconds(state["claimed_at"]) >= 55 * 60)
    last = state.get("last_start")
    starts = [item["at"] for item in state.get("starts", [])] or [last] * bool(last)
    limits = drift and not claimed and not had
    conditions = {
        "PAUSED": state.get("paused", False),
        "NOT_DRIFT": not drift,
        "MIN_RECORDS": drift and verdict["n"] < policy["min_records"],
        "DUPLICATE": drift and not claimed and had,
        "IN_FLIGHT": limits and in_flight,
        "COOL_DOWN": limits and last and now < seconds(last) + 3600 * policy["cool_down_hours"],
        "DAILY_CAP": limits and sum(seconds(at) > now - 86400 for at in starts) >= policy["daily_cap"],
        "NOTHING_NEW_TO_LEARN": limits and new_labels is not None and new_labels < policy["min_new_labels"],
    }
    return tuple(code for code, holds in conditions.items() if holds), claimed


@given(verdicts, states, st.integers(0, 60).map(lambda hour: hour * HOUR), policies, st.booleans(), labels)
def test_every_condition_that_blocks_is_named_and_nothing_else_blocks(
    verdict, state, now, policy, in_flight, new_labels
):
    found = decide(verdict, state, now, policy, in_flight, new_labels)
    expected, claimed = blocking(verdict, state, now, policy, in_flight, new_labels)
    assert found.reasons == (expected or (("RECOVERED",) if claimed else ("START",)))
    assert found.start is not bool(expected)
    assert set(found.reasons) | set(found.notes) <= CODES
    assert found.notes in ((), ("NEW_LABELS_UNKNOWN",))
    assert not found.notes or (found.reasons == ("START",) and new_labels is None)


@given(verdicts, states, moments, policies)
def test_the_moment_that_is_promised_is_the_first_that_is_allowed(verdict, state, now, policy):
    promised = allowed_from(state, now, policy)
    never = policy.get("daily_cap", 2) == 0
    state = {k: v for k, v in (state or {}).items() if k not in ("paused", "status", "window_end")}
    asked = verdict | {"verdict": "DRIFT", "n": 1000}
    limits = {"COOL_DOWN", "DAILY_CAP"}
    if promised is None:
        assert never or not limits & set(decide(asked, state, now, policy).reasons)
        return
    assert seconds(promised) > now
    later = seconds(promised)
    assert not limits & set(decide(asked, state, later + 1e-3, policy).reasons)
    assert limits & set(decide(asked, state, max(now, later - 1e-3), policy).reasons)


def test_a_token_belongs_to_one_window_of_one_model_at_one_endpoint():
    windows = [{"start": iso(0), "end": iso(end * HOUR)} for end in range(3)]
    names = list(itertools.product(("fraud", "other"), ("run-1", "run-2"), windows))
    tokens = {token_for(*name) for name in names}
    assert len(tokens) == len(names)
    assert all(re.fullmatch(r"[a-zA-Z0-9-]{1,128}", token) for token in tokens)  # what CodePipeline takes
    assert token_for("fraud", "run-1", {"start": iso(5), "end": iso(HOUR)}) == token_for("fraud", "run-1", windows[1])


# ------------------------------------------------------------------------------------------------ for people


def test_each_code_has_its_sentence_and_its_line_on_the_page():
    page = (Path(__file__).parents[2] / "docs" / "governor.md").read_text(encoding="utf-8")
    assert set(decision.SENTENCES) == CODES
    assert len(set(decision.SENTENCES.values())) == len(CODES)
    for code, sentence in decision.SENTENCES.items():
        assert sentence.endswith(".") and code not in sentence
        assert f"`{code}`" in page, code


def test_words_follow_the_codes():
    assert in_words(["IN_FLIGHT", "COOL_DOWN"]) == (
        "The pipeline is running already, and one run at a time is enough. "
        "The last retraining was started too short a time ago."
    )
    assert in_words("PAUSED") == in_words(("PAUSED",)) == "A person has paused retraining."
    assert in_words(["NO_SUCH"]) == "The reason is NO_SUCH."
    assert in_words([]) == ""
    told = {"reasons": ["START"], "notes": ["NEW_LABELS_UNKNOWN"]}
    assert in_words(told) == in_words([*told["reasons"], *told["notes"]])
    assert in_words({"reasons": ["START"]}) == "A retraining has been started."


# ------------------------------------------------------------------------------------------------ records

POLICY_USED = POLICY | {"daily_cap": 1}


def test_a_record_says_what_was_decided_on_what():
    state = STARTED | {"execution_id": "e1", "starts": FOUR[:1], "paused": True, "owner": "o"}
    outcome = Outcome(decide(verdict(2), state, 2 * HOUR, POLICY_USED), None, state, 7)
    made = record(
        verdict(2),
        outcome,
        2 * HOUR,
        POLICY_USED | {"psi_threshold": 1},
        verdict_key="v.json",
        owner="me",
        told=["new"],
    )
    assert made == {
        "schema_version": 1,
        "moment": "1970-01-01T02:00:00Z",
        "endpoint": "fraud",
        "model_version": "run-1",
        "window": verdict(2)["window"],
        "verdict": "DRIFT",
        "verdict_key": "v.json",
        "n": 500,
        "reasons": ["PAUSED", "COOL_DOWN", "DAILY_CAP"],
        "notes": [],
        "in_words": in_words(["PAUSED", "COOL_DOWN", "DAILY_CAP"]),
        "start": False,
        "execution_id": None,
        "allowed_from": "1970-01-02T01:00:00Z",
        "new_labels": 7,
        "state_before": {
            "status": "started",
            "window_end": iso(HOUR),
            "last_start": iso(HOUR),
            "execution_id": "e1",
            "paused": True,
            "starts_in_24_hours": 1,
        },
        "policy": POLICY_USED,
        "owner": "me",
        "told": ["new"],
    }
    assert record_key(made) == "drift/fraud/decisions/1970/01/01/020000-PAUSED.json"


def test_a_record_of_a_start():
    outcome = Outcome(Decision(True, ("RECOVERED", "COOL_DOWN"), ("NEW_LABELS_UNKNOWN",)), "e2", None)
    made = record(verdict(), outcome, HOUR, {})
    assert (made["start"], made["execution_id"], made["allowed_from"]) == (True, "e2", None)
    assert (made["state_before"], made["new_labels"], made["policy"]) == (None, None, decision.POLICY)
    assert made["in_words"] == in_words(["RECOVERED", "COOL_DOWN", "NEW_LABELS_UNKNOWN"])
    assert record_key(made).endswith("/010000-START.json")


def test_a_record_without_a_window():
    made = record({"verdict": "INSUFFICIENT_DATA"}, Outcome(Decision(False, ("NO_RELEASE",))), HOUR, {})
    assert (made["window"], made["n"], made["endpoint"]) == (None, None, None)


@pytest.mark.parametrize(
    ("state", "wrong"),
    [
        ([1], "it is no JSON object"),
        ("x", "it is no JSON object"),
        (5, "it is no JSON object"),
        (True, "it is no JSON object"),
        ({"starts": [{}]}, "an item of starts has no moment"),
        ({"starts": [1]}, "an item of starts has no moment"),
        ({"starts": {"at": iso(0)}}, "an item of starts has no moment"),
        ({"starts": [{"at": iso(0)}, {"at": None}]}, "an item of starts has no moment"),
        ({"last_start": "soon"}, "last_start is no moment"),
        ({"last_start": 5}, "last_start is no moment"),
        ({"window_end": ["x"]}, "window_end is no moment"),
        ({"claimed_at": {}}, "claimed_at is no moment"),
        ({"status": "claimed", "token": "t"}, "a claim has no claimed_at"),
    ],
)
def test_a_state_that_cannot_be_used_is_named(state, wrong):
    with pytest.raises(DataError) as found:
        checked(state, "locks/x.json")
    assert str(found.value).startswith(
        f"locks/x.json is no state of the governor ({wrong}): restore an earlier version"
    )


@given(states)
def test_a_state_that_can_be_used_stays_as_it_is(state):
    claim = {"claimed_at": iso(0)} | state if state else state
    assert checked(claim, "x") is claim


@given(verdicts, states, moments, policies, st.booleans(), labels)
def test_every_record_is_json(verdict, state, now, policy, in_flight, new_labels):
    outcome = Outcome(decide(verdict, state, now, policy, in_flight, new_labels), None, state, new_labels)
    made = record(verdict, outcome, now, policy)
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made["state_before"] is None or made["state_before"]["paused"] in (True, False)
    assert re.fullmatch(r"drift/fraud/decisions/1970/01/0\d/\d{6}-[A-Z_]+\.json", record_key(made))


def test_truth_that_triggers_has_a_minimum_of_its_own():
    found = verdict(n=5) | {"rules": [{"rule": "fraud_rate", "fired": True}, {"rule": "psi", "fired": False}]}
    assert decide(found, None, HOUR, {}).start
    assert not decide(found | {"rules": [{"rule": "psi", "fired": True}]}, None, HOUR, {}).start
