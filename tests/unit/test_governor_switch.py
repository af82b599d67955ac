"""The kill switch: who, why and when are kept, nothing starts meanwhile, and nothing is forgotten."""

import threading

import pytest
from governor_kit import HOUR, POLICY, Lost, Pipeline, Store, run, verdict
from hypothesis import given
from hypothesis import strategies as st

from fraud.decision import Decision
from fraud.errors import ConflictError
from fraud.governor import pause, paused, resume, resumed
from fraud.moment import iso

NONE = (False, False, False)


def at(moment):
    return lambda: moment


def test_a_pause_says_who_why_and_when_and_stops_everything():
    store, pipeline = Store(), Pipeline()
    state, changed = pause(store, "ana", "labels are late", at(HOUR))
    assert changed and state == store.document
    assert state == {
        "schema_version": 1,
        "paused": True,
        "pause": {"by": "ana", "reason": "labels are late", "at": iso(HOUR)},
    }
    assert run(store, pipeline).decision.reasons == ("PAUSED",)
    assert (pipeline.calls, store.writes) == (0, 1)


def test_a_pause_stays_the_first_persons():
    store = Store()
    pause(store, "ana", "labels are late", at(HOUR))
    state, changed = pause(store, "ben", "me too", at(2 * HOUR))
    assert (changed, state["pause"]["by"], store.writes) == (False, "ana", 1)


def test_what_was_paused_goes_on_where_it_stopped():
    store, pipeline = Store(), Pipeline()
    run(store, pipeline)
    before = dict(store.document)
    pause(store, "ana", "why", at(2 * HOUR))
    state, changed = resume(store, "ben", at(3 * HOUR))
    assert changed and state == store.document
    ended = {"by": "ana", "reason": "why", "at": iso(2 * HOUR), "resumed_by": "ben", "resumed_at": iso(3 * HOUR)}
    assert state == before | {"paused": False, "pause": ended}
    assert resume(store, "ben", at(4 * HOUR)) == (state, False)
    assert run(store, pipeline, verdict(8), now=8 * HOUR).decision.start
    assert store.document["pause"] == ended  # also a later claim keeps it
    assert pause(store, "eve", "again", at(9 * HOUR))[0]["pause"] == {
        "by": "eve",
        "reason": "again",
        "at": iso(9 * HOUR),
    }


def test_nothing_to_resume():
    store = Store()
    assert resume(store, "ben", at(0)) == ({}, False)
    assert store.document is None


def test_a_pause_between_claim_and_start_holds_the_claim_until_it_ends():
    faults = [(True, False, False)]
    store, pipeline = Store(), Pipeline(lambda: HOUR, lambda: faults.pop() if faults else NONE)
    with pytest.raises(Lost):
        run(store, pipeline)
    pause(store, "ana", "why", at(HOUR))
    assert run(store, pipeline, owner="b").decision.reasons == ("PAUSED",)
    resume(store, "ana", at(HOUR))
    assert run(store, pipeline, owner="c").decision == Decision(True, ("RECOVERED",))


def test_a_pause_set_between_claim_and_mark_is_kept():
    store = Store()

    class Pausing(Pipeline):
        def start(self, token):
            pause(store, "ana", "why", at(HOUR))
            return super().start(token)

    assert run(store, Pausing()).execution_id == "execution-0"
    assert (store.document["paused"], store.document["status"]) == (True, "started")
    assert store.document["pause"]["by"] == "ana"


def test_a_pause_that_comes_before_the_claim_is_written_stops_it():
    store = Store()

    class Pausing(Pipeline):
        def in_flight(self):
            pause(store, "ana", "why", at(HOUR))
            return False

    pipeline = Pausing()
    assert run(store, pipeline).decision.reasons == ("PAUSED",)
    assert pipeline.calls == 0


def test_the_switch_knows_its_own_lost_answer_and_gives_up_in_one_sentence():
    answers = iter([NONE, (False, False, True)])
    store = Store(lambda: next(answers, NONE))
    assert pause(store, "ana", "why", at(HOUR))[1] is True
    assert store.writes == 1

    class Contended(Store):
        def put_if(self, document, etag):
            raise ConflictError("always")

    with pytest.raises(ConflictError, match=r"try once more\.$"):
        pause(Contended(), "ana", "why", at(HOUR))


@given(st.none() | st.dictionaries(st.text(max_size=5), st.integers()))
def test_the_switch_changes_nothing_else(state):
    on = paused(state, "a", "b", 1.0)
    off = resumed(on, "c", 2.0)
    rest = {name: value for name, value in (state or {}).items() if name not in ("paused", "pause", "schema_version")}
    assert on == on | rest and off == off | rest
    assert set(on) | set(off) <= {*rest, "paused", "pause", "schema_version"}
    assert (on["paused"], off["paused"]) == (True, False)


def test_all_at_once():
    """Deliveries, pauses and resumes from threads: a start only where the switch was off when it was claimed."""
    store, pipeline = Store(), Pipeline()
    policy = POLICY | {"cool_down_hours": 0}
    barrier = threading.Barrier(6)

    def work(number):
        for window in range(1, 40):
            barrier.wait(30)
            if number == 0:
                pause(store, "ana", str(window), at(window))
            elif number == 1:
                resume(store, "ben", at(window))
            else:
                pipeline.clock = at(window * HOUR)
                run(store, pipeline, verdict(window), window * HOUR, f"{number}-{window}", policy)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    tokens = [token for token, _, _ in pipeline.started]
    assert len(tokens) == len(set(tokens)) > 0
