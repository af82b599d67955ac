"""A claim that nobody finished: how long it holds, and what becomes of it then."""

import pytest
from governor_kit import HOUR, POLICY, Lost, Pipeline, Store, no_faults, run, verdict

from fraud.decision import Decision
from fraud.governor import token_for
from fraud.moment import iso


def begun(at="before the start"):
    """A claim of hour 1 whose delivery died; the clock is the list's only item."""
    now, faults = [HOUR], [(at == "before the start", at == "after the start", False)]
    store = Store()
    pipeline = Pipeline(lambda: now[0], lambda: faults.pop() if faults else no_faults(), remembers=False)
    with pytest.raises(Lost):
        run(store, pipeline)
    return store, pipeline, now


@pytest.mark.parametrize("hour", [2, 5, 79])
def test_a_claim_that_is_over_does_not_take_a_persons_run_for_its_own(hour):
    store, pipeline, now = begun()
    now[0] = hour * HOUR
    person = pipeline.start("by hand")
    now[0] = 80 * HOUR
    outcome = run(store, pipeline, verdict(80), now=80 * HOUR, owner="b")
    assert outcome.decision == Decision(True, ("START",))
    token = token_for("fraud", "run-1", verdict(80)["window"])
    assert pipeline.started[-1] == (token, outcome.execution_id, 80 * HOUR) and outcome.execution_id != person
    assert (store.document["token"], store.document["last_start"]) == (token, iso(80 * HOUR))
    assert [item["execution_id"] for item in store.document["starts"]] == [outcome.execution_id]


def test_the_limits_hold_for_what_a_claim_that_is_over_asked_for():
    store, pipeline, now = begun()
    pipeline.running = True
    assert run(store, pipeline, verdict(2), now=2 * HOUR, owner="b").decision.reasons == ("IN_FLIGHT",)
    pipeline.running = False
    policy = POLICY | {"min_new_labels": 3}
    held = run(store, pipeline, verdict(2), now=2 * HOUR, owner="b", policy=policy, new_labels=lambda: 2)
    assert held.decision.reasons == ("NOTHING_NEW_TO_LEARN",)
    assert not pipeline.started


@pytest.mark.parametrize(("window", "reasons"), [(1, ("RECOVERED",)), (3, ("RECOVERED", "COOL_DOWN"))])
def test_a_claim_that_is_over_counts_when_its_run_is_there(window, reasons):
    """From when it began: a run that is found late must not hold up the next one longer."""
    store, pipeline, now = begun("after the start")
    now[0] = 2.5 * HOUR
    pipeline.start("by hand")
    pipeline.running = True
    outcome = run(store, pipeline, verdict(window), now=3 * HOUR, owner="b")
    assert (outcome.decision, outcome.execution_id) == (Decision(True, reasons), "execution-0")
    assert (store.document["status"], store.document["last_start"]) == ("started", iso(HOUR))
    assert store.document["starts"] == [{"at": iso(HOUR), "execution_id": "execution-0"}]
    pipeline.running = False
    assert run(store, pipeline, verdict(7), now=7 * HOUR).decision == Decision(True, ("START",))


def test_a_run_that_is_found_after_days_is_told_beside_the_one_that_starts():
    store, pipeline, now = begun("after the start")
    now[0] = 80 * HOUR
    outcome = run(store, pipeline, verdict(80), now=80 * HOUR, owner="b")
    assert (outcome.decision, outcome.execution_id) == (Decision(True, ("RECOVERED", "START")), "execution-1")


@pytest.mark.parametrize("owner", ["a", "b"])
def test_the_window_of_a_claim_that_is_over_may_start_after_all(owner):
    store, pipeline, now = begun()
    now[0] = 2 * HOUR
    assert run(store, pipeline, now=2 * HOUR, owner=owner).decision == Decision(True, ("START",))
    assert [item[0] for item in pipeline.started] == [token_for("fraud", "run-1", verdict()["window"])]


def test_nobody_starts_for_a_claim_that_is_about_to_be_over():
    """Who finds it over a moment later would start beside that."""
    store, pipeline, now = begun()
    late = HOUR + 51 * 60
    outcome = run(store, pipeline, verdict(1.5), now=late, owner="b")
    assert (outcome.decision, outcome.execution_id) == (Decision(False, ("CONTENDED",)), None)
    assert (store.document["status"], pipeline.started) == ("claimed", [])
    pipeline.start("its own, after all")
    assert run(store, pipeline, verdict(1.5), now=late, owner="b").execution_id == "execution-0"
    assert len(pipeline.started) == 1
