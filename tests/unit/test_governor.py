"""One retraining a window, however often, from wherever and through whatever faults it is asked for."""

import itertools
import random
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud.errors import ConflictError
from fraud.governor import Decision, decide, start_once, token_for
from fraud.moment import iso, seconds

HOUR = 3600.0
POLICY = {"min_records": 100, "cool_down_hours": 6.0}


def verdict(window=1, kind="DRIFT", n=500):
    """Verdict of the window that ends at hour ``window``."""
    return {
        "verdict": kind,
        "n": n,
        "endpoint": "fraud",
        "model_version": "run-1",
        "window": {"start": iso(0), "end": iso(window * HOUR)},
    }


class Lost(Exception):
    """An answer that never came."""


class Store:
    """One document with entity tags, as S3 keeps it; ``faults(rng)`` says what goes wrong before and after a call."""

    def __init__(self, faults=lambda: (False, False, False)):
        self.lock, self.document, self.tag, self.faults = threading.Lock(), None, 0, faults
        self.writes = 0

    def get(self):
        if self.faults()[0]:
            raise Lost
        time.sleep(0)  # lets another thread in, here and below
        with self.lock:
            return (dict(self.document), str(self.tag)) if self.document else (None, None)

    def put_if(self, document, etag):
        before, after, repeated = self.faults()
        if before:
            raise Lost
        time.sleep(0)
        with self.lock:
            if etag != (str(self.tag) if self.document else None):
                raise ConflictError("somebody else wrote it")
            self.document, self.tag, self.writes = dict(document), self.tag + 1, self.writes + 1
            tag = str(self.tag)
        if repeated:  # the SDK lost the answer, asked again and was told that the tag no longer holds
            raise ConflictError("one's own write came first")
        if after:
            raise Lost
        return tag


class Pipeline:
    """CodePipeline: the same token starts one execution, as long as the service remembers it."""

    def __init__(self, clock=lambda: 0.0, faults=lambda: (False, False, False), remembers=True):
        self.lock, self.clock, self.faults, self.remembers = threading.Lock(), clock, faults, remembers
        self.started, self.calls, self.running = [], 0, False

    def in_flight(self):
        return self.running

    def started_since(self, moment):
        with self.lock:
            return next((item[1] for item in self.started if item[2] >= moment), None)

    def start(self, token):
        before, after, _ = self.faults()
        if before:
            raise Lost
        with self.lock:
            self.calls += 1
            known = next((item[1] for item in self.started if item[0] == token and self.remembers), None)
            if known is None:
                known = f"execution-{len(self.started)}"
                self.started.append((token, known, self.clock()))
        if after:
            raise Lost
        return known


def run(store, pipeline, given=None, now=HOUR, owner="a", policy=POLICY):
    return start_once(given or verdict(), store, pipeline, policy, owner, lambda: now)


# ------------------------------------------------------------------------------------------------ decisions

STARTED = {"status": "started", "token": "t", "window_end": iso(HOUR), "last_start": iso(HOUR)}


@pytest.mark.parametrize(
    ("given", "state", "now", "in_flight", "reason"),
    [
        (verdict(), None, HOUR, False, "START"),
        (verdict(), {"paused": False}, HOUR, False, "START"),
        (verdict(), {"paused": True}, HOUR, False, "PAUSED"),
        (verdict(kind="OK"), None, HOUR, False, "NOT_DRIFT"),
        (verdict(kind="INSUFFICIENT_DATA"), None, HOUR, False, "NOT_DRIFT"),
        (verdict(kind="MISSING_CAPTURE"), None, HOUR, False, "NOT_DRIFT"),
        (verdict(kind="SCHEMA_CHANGED"), None, HOUR, False, "NOT_DRIFT"),
        (verdict(n=99), None, HOUR, False, "MIN_RECORDS"),
        (verdict(), None, HOUR, True, "IN_FLIGHT"),
        (verdict(), STARTED, 20 * HOUR, False, "DUPLICATE"),
        (verdict(0), STARTED, 20 * HOUR, False, "DUPLICATE"),
        (verdict(2), STARTED, 2 * HOUR, False, "COOL_DOWN"),
        (verdict(7), STARTED, 7 * HOUR - 1, False, "COOL_DOWN"),
        (verdict(7), STARTED, 7 * HOUR, False, "START"),
        (verdict(7), STARTED, 7 * HOUR, True, "IN_FLIGHT"),
        (verdict(2), STARTED | {"status": "claimed"}, 2 * HOUR, True, "RECOVERED"),
        (verdict(2), STARTED | {"status": "claimed", "paused": True}, 2 * HOUR, False, "PAUSED"),
        (verdict(2, "OK"), STARTED | {"status": "claimed"}, 2 * HOUR, False, "NOT_DRIFT"),
    ],
)
def test_reasons(given, state, now, in_flight, reason):
    found = decide(given, state, now, POLICY, in_flight)
    assert found == Decision(reason in ("START", "RECOVERED"), (reason,))


def test_a_token_belongs_to_one_window_of_one_model_at_one_endpoint():
    windows = [{"start": iso(0), "end": iso(end * HOUR)} for end in range(3)]
    names = list(itertools.product(("fraud", "other"), ("run-1", "run-2"), windows))
    tokens = {token_for(*name) for name in names}
    assert len(tokens) == len(names)
    assert all(token.replace("-", "").isalnum() and len(token) <= 128 for token in tokens)
    assert token_for("fraud", "run-1", {"start": iso(5), "end": iso(HOUR)}) == token_for("fraud", "run-1", windows[1])


# ------------------------------------------------------------------------------------------------ the protocol


def test_a_start_is_claimed_then_marked():
    store, pipeline = Store(), Pipeline()
    outcome = run(store, pipeline)
    assert outcome.decision == Decision(True, ("START",))
    assert outcome.execution_id == "execution-0"
    assert store.writes == 2
    expected = {"status": "started", "owner": "a", "execution_id": "execution-0", "last_start": iso(HOUR)}
    assert store.document == store.document | expected | {"schema_version": 1, "window_end": iso(HOUR)}
    assert run(store, pipeline, owner="b").decision == Decision(False, ("DUPLICATE",))
    assert run(store, pipeline, verdict(2), now=2 * HOUR).decision == Decision(False, ("COOL_DOWN",))
    assert pipeline.calls == 1


def test_nothing_is_written_without_a_start():
    store, pipeline = Store(), Pipeline()
    for calm in (verdict(kind="OK"), verdict(n=1)):
        run(store, pipeline, calm)
    pipeline.running = True
    assert run(store, pipeline).decision.reasons == ("IN_FLIGHT",)
    assert store.document is None
    assert pipeline.calls == 0


def test_ones_own_lost_answer_is_recognised():
    answers = iter([(False, False, False), (False, False, True)])
    store, pipeline = Store(lambda: next(answers, (False, False, False))), Pipeline()
    outcome = run(store, pipeline)
    assert outcome.decision == Decision(True, ("START",))
    assert (pipeline.calls, store.document["status"]) == (1, "started")


@pytest.mark.parametrize("remembers", [True, False])
@pytest.mark.parametrize("died", ["before the start", "after the start"])
def test_a_holder_that_died_is_finished_by_the_next_delivery(died, remembers):
    now = [HOUR]
    fault = {"before the start": (True, False, False), "after the start": (False, True, False)}[died]
    faults = [fault]
    store = Store()
    pipeline = Pipeline(lambda: now[0], lambda: faults.pop() if faults else (False, False, False), remembers)
    with pytest.raises(Lost):
        run(store, pipeline)
    assert store.document["status"] == "claimed"
    outcome = start_once(verdict(), store, pipeline, POLICY, "b", lambda: now[0])
    assert outcome.decision == Decision(True, ("RECOVERED",))
    assert store.document["status"] == "started"
    assert len(pipeline.started) == 1
    assert pipeline.started[0][0] == token_for("fraud", "run-1", verdict()["window"])


def test_a_claim_of_an_earlier_window_is_finished_and_the_later_one_cools_down():
    store, pipeline = Store(), Pipeline(lambda: 2 * HOUR, lambda: faults.pop() if faults else (False, False, False))
    faults = [(True, False, False)]
    with pytest.raises(Lost):
        run(store, pipeline)
    outcome = run(store, pipeline, verdict(2), now=2 * HOUR, owner="b")
    assert outcome.decision == Decision(True, ("RECOVERED", "COOL_DOWN"))
    assert outcome.execution_id == "execution-0"
    assert [item[0] for item in pipeline.started] == [token_for("fraud", "run-1", verdict()["window"])]


def test_a_pause_set_between_claim_and_mark_is_kept():
    store = Store()

    class Pausing(Pipeline):
        def start(self, token):
            store.document, store.tag = store.document | {"paused": True}, store.tag + 1
            return super().start(token)

    assert run(store, Pausing()).execution_id == "execution-0"
    assert (store.document["paused"], store.document["status"]) == (True, "started")


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
                    run(
                        store,
                        pipeline,
                        verdict(window),
                        clock[0],
                        f"{number}-{attempt}",
                        POLICY | {"cool_down_hours": 0},
                    )
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
    st.lists(st.sampled_from(["OK", "DRIFT", "INSUFFICIENT_DATA"]), max_size=60), st.sampled_from([0.0, 1.0, 6.0, 24.0])
)
def test_starts_keep_their_distance(kinds, cool_down):
    now = [0.0]
    store, pipeline = Store(), Pipeline(lambda: now[0])
    for hour, kind in enumerate(kinds, 1):
        now[0] = hour * HOUR
        run(store, pipeline, verdict(hour, kind), now[0], policy=POLICY | {"cool_down_hours": cool_down})
    starts = [moment for _, _, moment in pipeline.started]
    assert all(later - earlier >= cool_down * HOUR for earlier, later in itertools.pairwise(starts))
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
