"""Every order in which two deliveries can take turns, a death at every step, and long histories of everything."""

import functools
import itertools

import greenlet
from governor_kit import HOUR, POLICY, Pipeline, Store, verdict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fraud.errors import ConflictError
from fraud.governor import pause, resume, start_once, token_for
from fraud.moment import iso, seconds


class Killed(BaseException):
    """The process is gone; nothing in it may run on."""


class Turn:
    """One delivery that stops before each of its calls to store and pipeline until it is its turn."""

    def __init__(self, dies_at):
        self.dies_at, self.calls, self.outcome = dies_at, 0, None

    def begin(self, work):
        self.main = greenlet.getcurrent()
        self.own = greenlet.greenlet(self.run)
        self.own.switch(work)

    def run(self, work):
        try:
            self.main.switch()
            self.outcome = work()
        except Killed:
            pass

    def call(self, function, *arguments):
        self.main.switch()
        self.calls += 1
        if self.dies_at == (self.calls, "before"):
            raise Killed
        answer = function(*arguments)
        if self.dies_at == (self.calls, "after"):
            raise Killed
        return answer


class Document(Store):
    """One that only greenlets share."""

    def rest(self):
        pass


class Through:
    """Store or pipeline as one delivery reaches it: each of its methods is a step."""

    def __init__(self, turn, target):
        self.turn, self.target = turn, target

    def __getattr__(self, name):
        return functools.partial(self.turn.call, getattr(self.target, name))


def play(choose, deliveries, policy=POLICY):
    """Let deliveries take turns as ``choose(number of those that can)`` says; then deliver once more, undisturbed.

    ``deliveries`` holds ``(window, dies_at)``.
    """
    store, pipeline = Document(), Pipeline(lambda: HOUR)
    turns = [Turn(dies_at) for _, dies_at in deliveries]
    for number, (turn, (window, _)) in enumerate(zip(turns, deliveries, strict=True)):
        document, line, owner = Through(turn, store), Through(turn, pipeline), f"owner-{number}"
        turn.begin(functools.partial(start_once, verdict(window), document, line, policy, owner, lambda: HOUR))
    while waiting := [turn for turn in turns if not turn.own.dead]:
        waiting[choose(len(waiting))].own.switch()
    last = max(window for window, _ in deliveries)
    final = start_once(verdict(last), store, pipeline, policy, "final", lambda: HOUR)
    return store, pipeline, [turn.outcome for turn in turns], final


def check(store, pipeline, outcomes, final, windows):
    tokens = [token for token, _, _ in pipeline.started]
    assert len(tokens) == len(set(tokens)) <= len(windows)
    ids = {token: execution for token, execution, _ in pipeline.started}
    assert len(tokens) == 1  # one window, or the other cools down
    assert store.document["status"] == "started"
    assert store.document["execution_id"] == ids[tokens[0]]
    assert [item["execution_id"] for item in store.document["starts"]] == list(ids.values())
    said = {outcome.execution_id for outcome in [*outcomes, final] if outcome and outcome.decision.start}
    assert said <= set(ids.values())
    assert tokens[0] in {token_for("fraud", "run-1", verdict(window)["window"]) for window in windows}


def every_order(deliveries):
    """Depth first through all choices: repeat with the next branch at the last place where there was one."""
    prefix = []
    while True:
        taken = []

        def choose(options, taken=taken, prefix=prefix):
            choice = prefix[len(taken)] if len(taken) < len(prefix) else 0
            taken.append((choice, options))
            return choice

        yield play(choose, deliveries)
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        if not taken:
            return
        prefix = [choice for choice, _ in taken[:-1]] + [taken[-1][0] + 1]


def test_two_deliveries_of_one_window_in_every_order():
    played = 0
    for result in every_order([(1, None), (1, None)]):
        check(*result, [1])
        assert [bool(outcome.decision.start) for outcome in result[2]].count(True) >= 1
        played += 1
    assert played > 900


deaths = st.none() | st.tuples(st.integers(1, 9), st.sampled_from(["before", "after"]))
choices = st.lists(st.integers(0, 2), max_size=40)


@settings(max_examples=400)
@given(st.lists(st.tuples(st.sampled_from([1, 1, 2]), deaths), min_size=1, max_size=3), choices)
def test_deliveries_of_one_or_two_windows_that_die_anywhere(deliveries, order):
    turns = iter(order)
    result = play(lambda options: next(turns, 0) % options, deliveries)
    check(*result, [window for window, _ in deliveries])


def test_a_death_at_every_step_of_one_delivery():
    for step in itertools.product(range(1, 7), ("before", "after")):
        check(*play(lambda _: 0, [(1, step)]), [1])


# ------------------------------------------------------------------------------------------------ histories


class Service(Pipeline):
    """Executions run until they are ended, also those that a person pushed; tokens are forgotten after ten minutes."""

    def __init__(self, clock, faults):
        super().__init__(clock, faults)
        self.pushed, self.overlaps = False, 0

    def in_flight(self):
        if self.faults()[0]:
            raise Killed
        return self.running or self.pushed

    def start(self, token):
        fault = self.faults()
        if fault[0]:
            raise Killed
        known = [item[1] for item in self.started if item[0] == token and self.clock() - item[2] < 600]
        if known:
            return known[0]
        self.overlaps += self.in_flight_now()
        self.started.append((token, f"execution-{len(self.started)}", self.clock()))
        self.running = True
        if fault[1]:
            raise Killed
        return self.started[-1][1]

    def in_flight_now(self):
        return self.running or self.pushed


fault_lists = st.lists(st.sampled_from(["", "", "before", "after", "repeated", "refused"]), max_size=12)


class Histories(RuleBasedStateMachine):
    """Whatever happens in whatever order, the limits hold."""

    policy = POLICY | {"cool_down_hours": 6.0, "daily_cap": 3, "min_new_labels": 10}

    def __init__(self):
        super().__init__()
        self.now, self.plan, self.window, self.labels, self.number = 100 * HOUR, [], 100.0, 0, 0
        self.claims, self.paused_now = [], False

        def faults():
            kind = self.plan.pop(0) if self.plan else ""
            return (kind == "before", kind == "after", kind == "repeated")

        history = self

        class Faulty(Store):
            def get(self):
                if faults()[0]:
                    raise Killed
                return (dict(self.document), str(self.tag)) if self.document else (None, None)

            def put_if(self, document, etag):
                if history.plan and history.plan[0] == "refused":  # 409: another conditional write at that instant
                    history.plan.pop(0)
                    raise ConflictError("at the same instant")
                lost, after, repeated = faults()
                if lost:
                    raise Killed
                if etag != (str(self.tag) if self.document else None):
                    raise ConflictError("somebody else wrote it")
                before = self.document or {}
                made = (before.get("status"), before.get("claimed_at")) != ("claimed", document.get("claimed_at"))
                if document["status"] == "claimed" and made:
                    history.claims.append((history.now, history.labels, history.paused_now))
                self.document, self.tag = dict(document), self.tag + 1
                if repeated:
                    raise ConflictError("one's own write came first")
                if after:
                    raise Killed
                return str(self.tag)

        self.store = Faulty()
        self.service = Service(lambda: self.now, faults)

    def ask(self, given):
        self.number += 1
        try:
            return start_once(
                given, self.store, self.service, self.policy, f"o{self.number}", lambda: self.now, lambda: self.labels
            )
        except Killed:
            return None

    @rule(minutes=st.sampled_from([1, 15, 60, 360, 1440]))
    def time_passes(self, minutes):
        self.now += 60 * minutes

    @rule(plan=fault_lists, kind=st.sampled_from(["DRIFT", "DRIFT", "DRIFT", "OK"]), n=st.sampled_from([500, 500, 50]))
    def a_check(self, plan, kind, n):
        self.window, self.plan = self.now / HOUR, list(plan)
        self.ask(verdict(self.window, kind, n))
        self.plan = []

    @rule(plan=fault_lists, late=st.sampled_from([0.0, 0.0, 0.25, 5.0]))
    def a_delivery_is_repeated(self, plan, late):
        self.plan = list(plan)
        self.ask(verdict(self.window - late))
        self.plan = []

    @precondition(lambda self: self.service.running)
    @rule()
    def the_execution_ends(self):
        self.service.running = False

    @rule()
    def a_person_pushes_or_that_run_ends(self):
        self.service.pushed = not self.service.pushed and not self.service.running

    @rule(count=st.integers(0, 30))
    def labels_arrive(self, count):
        self.labels = count

    @rule()
    def a_person_pauses(self):
        if self.store.document and "status" in self.store.document:
            self.paused_now = pause(self.store, "ana", "why", lambda: self.now)[0]["paused"]

    @rule()
    def a_person_resumes(self):
        if self.paused_now:
            self.paused_now = resume(self.store, "ana", lambda: self.now)[0]["paused"]

    @invariant()
    def each_window_starts_once(self):
        tokens = [token for token, _, _ in self.service.started]
        assert len(tokens) == len(set(tokens))

    @invariant()
    def starts_keep_their_distance_and_the_cap(self):
        moments = [moment for _, _, moment in self.service.started]
        assert all(later - earlier >= 6 * HOUR for earlier, later in itertools.pairwise(moments))
        assert all(sum(moment - 24 * HOUR < other <= moment for other in moments) <= 3 for moment in moments)

    @invariant()
    def one_runs_at_a_time(self):
        assert not self.service.overlaps

    @invariant()
    def claims_were_allowed(self):
        assert all(labels >= 10 and not stopped for _, labels, stopped in self.claims)

    @invariant()
    def the_state_knows_the_last_start(self):
        state = self.store.document or {}
        if state.get("status") == "started":
            assert state["execution_id"] in [item[1] for item in self.service.started]
            assert seconds(state["last_start"]) >= self.service.started[-1][2]

    def teardown(self):
        """Nothing is stuck: when all is well again and time has passed, the next drift starts a retraining."""
        self.service.running = self.service.pushed = False
        resume(self.store, "ana", lambda: self.now)
        self.plan, self.labels = [], 100
        before = len(self.service.started)
        for _ in range(2):  # the first may have to finish a claim
            self.now += 25 * HOUR
            self.service.running = False
            assert self.ask(verdict(self.now / HOUR)).decision.start
        assert len(self.service.started) > before
        assert iso(self.now) == self.store.document["window_end"]


Histories.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestHistories = Histories.TestCase
