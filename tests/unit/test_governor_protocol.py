"""One retraining a window, however often, from wherever and through whatever faults it is asked for."""

import itertools
import random
import threading

import pytest
from governor_kit import HOUR, POLICY, Lost, Pipeline, Store, run, verdict
from hypothesis import given
from hypothesis import strategies as st

from fraud.decision import Decision
from fraud.errors import ConflictError
from fraud.governor import start_once, token_for
from fraud.moment import iso, seconds

NONE = (False, False, False)


def test_a_start_is_claimed_then_marked():
    store, pipeline = Store(), Pipeline()
    outcome = run(store, pipeline)
    assert outcome.decision == Decision(True, ("START",))
    assert outcome.execution_id == "execution-0"
    assert (outcome.before, store.writes) == (None, 2)
    expected = {"status": "started", "owner": "a", "execution_id": "execution-0", "last_start": iso(HOUR)}
    assert store.document == store.document | expected | {"schema_version": 1, "window_end": iso(HOUR)}
    again = run(store, pipeline, owner="b")
    assert (again.decision, again.before) == (Decision(False, ("DUPLICATE",)), store.document)
    assert run(store, pipeline, verdict(2), now=2 * HOUR).decision == Decision(False, ("COOL_DOWN",))
    assert pipeline.calls == 1


def test_the_state_keeps_the_starts_of_a_day():
    store, pipeline = Store(), Pipeline()
    for hour in (1, 7, 13, 30):
        pipeline.clock = lambda hour=hour: hour * HOUR
        assert run(store, pipeline, verdict(hour), now=hour * HOUR).decision.start
    expected = [(iso(7 * HOUR), "execution-1"), (iso(13 * HOUR), "execution-2"), (iso(30 * HOUR), "execution-3")]
    assert [(item["at"], item["execution_id"]) for item in store.document["starts"]] == expected
    held = run(store, pipeline, verdict(36), now=36 * HOUR, policy=POLICY | {"daily_cap": 3})
    assert held.decision == Decision(True, ("START",))  # hour 7 is 29 hours ago: two remained


def test_a_state_of_before_keeps_its_last_start_through_the_next_one():
    store, pipeline = Store(), Pipeline(lambda: 8 * HOUR)
    store.document = {
        "status": "started",
        "token": "t",
        "window_end": iso(0),
        "last_start": iso(1),
        "execution_id": "e",
    }
    run(store, pipeline, verdict(8), now=8 * HOUR)
    assert [item["execution_id"] for item in store.document["starts"]] == ["e", "execution-0"]


def test_nothing_is_written_without_a_start():
    store, pipeline = Store(), Pipeline()
    for calm in (verdict(kind="OK"), verdict(n=1)):
        run(store, pipeline, calm)
    pipeline.running = True
    assert run(store, pipeline).decision.reasons == ("IN_FLIGHT",)
    pipeline.running = False
    policy = POLICY | {"min_new_labels": 1}
    assert run(store, pipeline, policy=policy, new_labels=lambda: 0).decision.reasons == ("NOTHING_NEW_TO_LEARN",)
    assert store.document is None
    assert pipeline.calls == 0


class Asked(Pipeline):
    """Counts what is asked."""

    def __init__(self):
        super().__init__()
        self.asked, self.labels = [], 5

    def in_flight(self):
        self.asked.append("pipeline")
        return super().in_flight()

    def new_labels(self):
        self.asked.append("labels")
        return self.labels


def test_what_costs_a_call_is_asked_last():
    store, pipeline, policy = Store(), Asked(), POLICY | {"min_new_labels": 3}

    def ask(given, **more):
        pipeline.asked.clear()
        return run(store, pipeline, given, policy=policy, new_labels=pipeline.new_labels, **more), pipeline.asked

    assert ask(verdict(kind="OK"))[1] == []
    assert ask(verdict(n=1))[1] == []
    pipeline.running = True
    assert ask(verdict())[1] == ["pipeline"]
    pipeline.running = False
    outcome, asked = ask(verdict())
    assert (outcome.decision, outcome.new_labels) == (Decision(True, ("START",)), 5)
    assert asked == ["pipeline", "labels"]
    assert ask(verdict())[1] == []  # a duplicate
    assert ask(verdict(2), now=2 * HOUR)[1] == []  # cools down


def test_labels_are_not_asked_for_where_none_are_needed():
    pipeline = Asked()
    run(Store(), pipeline, new_labels=pipeline.new_labels)
    assert pipeline.asked == ["pipeline"]


def test_labels_are_counted_once_however_often_the_write_is_tried():
    class Overtaken(Store):
        def put_if(self, document, etag):
            if self.writes < 3:
                self.document, self.tag, self.writes = {"note": self.writes}, self.tag + 1, self.writes + 1
            return super().put_if(document, etag)

    pipeline = Asked()
    outcome = run(Overtaken(), pipeline, policy=POLICY | {"min_new_labels": 3}, new_labels=pipeline.new_labels)
    assert outcome.decision == Decision(True, ("START",))
    assert pipeline.asked == ["pipeline", "labels", "pipeline", "pipeline", "pipeline"]  # it may have begun meanwhile


@pytest.mark.parametrize("source", [None, lambda: None])
def test_unknown_labels_are_noted_and_hold_nothing_up(source):
    outcome = run(Store(), Pipeline(), policy=POLICY | {"min_new_labels": 3}, new_labels=source)
    assert outcome.decision == Decision(True, ("START",), ("NEW_LABELS_UNKNOWN",))
    assert outcome.new_labels is None


def test_what_nothing_new_rested_on_is_told():
    outcome = run(Store(), Pipeline(), policy=POLICY | {"min_new_labels": 3}, new_labels=lambda: 2)
    assert (outcome.decision.reasons, outcome.new_labels) == (("NOTHING_NEW_TO_LEARN",), 2)


# ------------------------------------------------------------------------------------------------ faults


def test_ones_own_lost_answer_is_recognised():
    answers = iter([NONE, (False, False, True)])
    store, pipeline = Store(lambda: next(answers, NONE)), Pipeline()
    outcome = run(store, pipeline)
    assert outcome.decision == Decision(True, ("START",))
    assert (pipeline.calls, store.document["status"]) == (1, "started")


def test_the_mark_is_not_repeated_when_its_answer_was_lost():
    answers = iter([NONE, NONE, (False, False, True)])
    store = Store(lambda: next(answers, NONE))
    assert run(store, Pipeline()).decision == Decision(True, ("START",))
    assert store.writes == 2


def test_a_delivery_that_started_it_and_could_not_say_so_says_it_when_repeated():
    answers = iter([NONE, NONE, (False, True, False)])
    store, pipeline = Store(lambda: next(answers, NONE)), Pipeline()
    with pytest.raises(Lost):  # the mark is written, its answer is lost
        run(store, pipeline)
    for _ in range(2):
        again = run(store, pipeline, now=2 * HOUR)
        assert (again.decision, again.execution_id) == (Decision(True, ("START",)), "execution-0")
    assert run(store, pipeline, owner="b").decision == Decision(False, ("DUPLICATE",))
    assert run(store, pipeline, verdict(0)).decision == Decision(False, ("DUPLICATE",))
    assert (pipeline.calls, store.writes) == (1, 2)


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize("died", ["before the start", "after the start"])
def test_a_holder_that_died_is_finished_by_the_next_delivery(died, remembers):
    now = [HOUR]
    fault = {"before the start": (True, False, False), "after the start": (False, True, False)}[died]
    faults = [fault]
    store = Store()
    pipeline = Pipeline(lambda: now[0], lambda: faults.pop() if faults else NONE, remembers)
    with pytest.raises(Lost):
        run(store, pipeline)
    assert store.document["status"] == "claimed"
    outcome = start_once(verdict(), store, pipeline, POLICY, "b", lambda: now[0])
    assert outcome.decision == Decision(True, ("RECOVERED",))
    assert store.document["status"] == "started"
    assert len(pipeline.started) == 1
    assert pipeline.started[0][0] == token_for("fraud", "run-1", verdict()["window"])


def test_a_delivery_that_is_repeated_under_its_own_name_looks_first():
    """Lambda repeats an event under the same request id, hours later, when no token is remembered any more."""
    faults = [(False, True, False)]
    store, pipeline = Store(), Pipeline(lambda: HOUR, lambda: faults.pop() if faults else NONE, remembers=False)
    with pytest.raises(Lost):
        run(store, pipeline)
    assert run(store, pipeline, now=3 * HOUR).decision == Decision(True, ("START",))
    assert len(pipeline.started) == 1


def test_a_process_that_was_held_up_after_its_claim_starts_nothing_more():
    pipeline = Pipeline(lambda: HOUR, remembers=False)

    class Held(Store):
        held = True

        def put_if(self, document, etag):
            tag = super().put_if(document, etag)
            if self.held:
                self.held = False
                assert run(self, pipeline, owner="b").decision.reasons == ("RECOVERED",)
            return tag

    store = Held()
    outcome = run(store, pipeline, owner="a")
    assert outcome.decision == Decision(True, ("START",))
    assert (outcome.execution_id, len(pipeline.started)) == ("execution-0", 1)
    assert store.document["status"] == "started"


def test_a_claim_waits_while_a_persons_execution_runs():
    faults = [(True, False, False)]
    store, pipeline = Store(), Pipeline(lambda: HOUR, lambda: faults.pop() if faults else NONE)
    with pytest.raises(Lost):
        run(store, pipeline)
    pipeline.running = True  # pushed by a person: no call started it
    waiting = run(store, pipeline, owner="b")
    assert (waiting.decision, waiting.execution_id) == (Decision(False, ("IN_FLIGHT",)), None)
    assert (store.document["status"], pipeline.started) == ("claimed", [])
    pipeline.running = False
    assert run(store, pipeline, owner="c").decision == Decision(True, ("RECOVERED",))


def test_a_claim_whose_own_execution_runs_is_marked():
    faults = [(False, True, False)]
    store, pipeline = Store(), Pipeline(lambda: HOUR, lambda: faults.pop() if faults else NONE)
    with pytest.raises(Lost):
        run(store, pipeline)
    pipeline.running = True
    outcome = run(store, pipeline, owner="b")
    assert (outcome.decision.reasons, outcome.execution_id) == (("RECOVERED",), "execution-0")
    assert store.document["status"] == "started"


def test_a_claim_that_its_holder_starts_while_another_looks_is_no_persons_execution():
    faults = [(True, False, False)]

    class Slow(Pipeline):
        def runs_since(self, moment):
            found = super().runs_since(moment)
            if not self.started and not faults:  # the holder was late, not dead
                self.start(token_for("fraud", "run-1", verdict()["window"]))
                self.running = True
            return found

    store, pipeline = Store(), Slow(lambda: HOUR, lambda: faults.pop() if faults else NONE)
    with pytest.raises(Lost):
        run(store, pipeline)
    outcome = run(store, pipeline, owner="b")
    assert (outcome.decision.reasons, outcome.execution_id) == (("RECOVERED",), "execution-0")


def test_a_claim_that_is_finished_late_keeps_the_starts_of_a_day_only():
    faults = []
    store, pipeline = Store(), Pipeline(lambda: HOUR, lambda: faults.pop() if faults else NONE)
    run(store, pipeline)
    faults.append((True, False, False))
    with pytest.raises(Lost):
        run(store, pipeline, verdict(20), now=20 * HOUR)
    assert len(store.document["starts"]) == 1
    store.document["claimed_at"] = iso(39.5 * HOUR)  # the window before was claimed then
    assert run(store, pipeline, verdict(40), now=40 * HOUR, owner="b").decision.reasons[0] == "RECOVERED"
    assert [item["at"] for item in store.document["starts"]] == [iso(40 * HOUR)]


def test_a_late_mark_does_not_mark_the_claim_of_a_later_window():
    none, faults = POLICY | {"cool_down_hours": 0}, []
    store = Store()

    class Late(Pipeline):
        late = True

        def start(self, token):
            execution = super().start(token)
            if self.late:  # before its holder hears of it, another marks it, and a later window is claimed
                self.late = False
                assert run(store, self, owner="b").execution_id == execution
                faults.append((True, False, False))
                with pytest.raises(Lost):
                    run(store, self, verdict(2), 2 * HOUR, "c", none)
            return execution

    pipeline = Late(lambda: HOUR, lambda: faults.pop() if faults else NONE)
    assert run(store, pipeline).execution_id == "execution-0"
    assert (store.document["status"], store.document["window_end"]) == ("claimed", iso(2 * HOUR))
    assert run(store, pipeline, verdict(2), 2 * HOUR, "d", none).execution_id == "execution-1"


def test_the_execution_of_an_earlier_window_is_not_taken_for_this_ones():
    store, pipeline = Store(), Pipeline(lambda: HOUR)
    run(store, pipeline)
    none = POLICY | {"cool_down_hours": 0}
    outcome = run(store, pipeline, verdict(2), now=HOUR + 3, policy=none)  # within what clocks may differ by
    assert (outcome.execution_id, len(pipeline.started)) == ("execution-1", 2)


def test_a_claim_of_an_earlier_window_is_finished_and_the_later_one_cools_down():
    store, pipeline = Store(), Pipeline(lambda: 1.25 * HOUR, lambda: faults.pop() if faults else NONE)
    faults = [(True, False, False)]
    with pytest.raises(Lost):
        run(store, pipeline)
    outcome = run(store, pipeline, verdict(1.25), now=1.25 * HOUR, owner="b")
    assert outcome.decision == Decision(True, ("RECOVERED", "COOL_DOWN"))
    assert outcome.execution_id == "execution-0"
    assert [item[0] for item in pipeline.started] == [token_for("fraud", "run-1", verdict()["window"])]


def test_endless_contention_ends():
    class Contended(Store):
        def put_if(self, document, etag):
            raise ConflictError("always")

    outcome = run(Contended(), Pipeline())
    assert outcome.decision == Decision(False, ("CONTENDED",))


def deliver(windows, threads, share, seed):
    """Deliver every window to every thread at once, each again until it has an answer; as Lambda does."""
    local = threading.local()

    def faults():
        return tuple(local.rng.random() < share for _ in range(3))

    clock = [0.0]
    store, pipeline = Store(faults), Pipeline(lambda: clock[0], faults)
    barrier = threading.Barrier(threads)
    failures = []

    def work(number):
        local.rng = random.Random(seed * 1000 + number)
        for window in windows:
            if barrier.wait(30) == 0:
                clock[0] = window * HOUR
            barrier.wait(30)
            for attempt in range(200):
                try:
                    owner = f"{number}-{attempt}"
                    run(store, pipeline, verdict(window), clock[0], owner, POLICY | {"cool_down_hours": 0})
                    break
                except Lost:
                    continue
            else:
                failures.append((number, window))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not failures
    return pipeline


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_eight_deliveries_at_once_of_25_windows_start_each_once(share):
    windows = range(1, 26)
    pipeline = deliver(windows, 8, share, seed=int(share * 10))
    expected = [token_for("fraud", "run-1", verdict(window)["window"]) for window in windows]
    assert [token for token, _, _ in pipeline.started] == expected


@given(
    st.lists(st.sampled_from(["OK", "DRIFT", "INSUFFICIENT_DATA"]), max_size=60),
    st.sampled_from([0.0, 1.0, 6.0, 24.0]),
    st.integers(1, 5),
)
def test_starts_keep_their_distance(kinds, cool_down, cap):
    now = [0.0]
    store, pipeline = Store(), Pipeline(lambda: now[0])
    policy = POLICY | {"cool_down_hours": cool_down, "daily_cap": cap}
    for hour, kind in enumerate(kinds, 1):
        now[0] = hour * HOUR
        run(store, pipeline, verdict(hour, kind), now[0], policy=policy)
    starts = [moment for _, _, moment in pipeline.started]
    assert all(later - earlier >= cool_down * HOUR for earlier, later in itertools.pairwise(starts))
    assert all(sum(moment - 24 * HOUR < other <= moment for other in starts) <= cap for moment in starts)
    assert bool(starts) == ("DRIFT" in kinds)
    assert all(kinds[int(moment / HOUR) - 1] == "DRIFT" for moment in starts)


def test_30_days_of_drift_start_no_more_than_the_cool_down_allows():
    now = [0.0]
    store, pipeline = Store(), Pipeline(lambda: now[0])
    for hour in range(1, 30 * 24 + 1):
        now[0] = hour * HOUR
        run(store, pipeline, verdict(hour), now[0], policy=POLICY | {"cool_down_hours": 24.0})
    assert len(pipeline.started) == 30
    assert seconds(store.document["last_start"]) == pipeline.started[-1][2]
