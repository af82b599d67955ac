"""Thirty simulated days of drift that never ends: how often does the governor retrain, whatever goes wrong?

A check every 15 minutes, and each hour; every one delivered several times, at once from threads, again minutes and
hours later, and again after each failure. Of the calls to the state and to the pipeline 30 % fail: 409 and 412, 500,
answers lost before and after the write, starts refused or started unheard, processes killed between claim and start.
The pipeline takes 20 to 90 minutes, fails one time in five, and forgets request tokens after ten minutes; people push a
commit now and then, and pause retraining once.

    python benchmarks/governor_month.py                       three policies, two schedules, half a minute
    python benchmarks/governor_month.py --days 3 --quiet      a quick look

It prints a line per start, and one for each policy and schedule. The exit code is 1 when a promise was broken: starts
at most ⌈period / cool-down⌉ and that far apart, none while another run is under way, at most the daily cap in any 24
hours, none while paused, no window with two starts or without an answer, each start told, and nothing that is stuck.
"""

from __future__ import annotations

import argparse
import bisect
import collections
import concurrent.futures
import heapq
import itertools
import math
import random
import sys
import threading
import time

from fraud.errors import ConflictError
from fraud.governor import pause, resume, start_once, token_for
from fraud.moment import iso, seconds

HOUR, DAY = 3600.0, 86_400.0
BEGIN = seconds("2026-01-01T00:00:00Z")
POLICIES = (
    {"cool_down_hours": 24.0, "daily_cap": 2},
    {"cool_down_hours": 6.0, "daily_cap": 10},
    {"cool_down_hours": 6.0, "daily_cap": 3},
)
FAULTS = 0.3  # of the calls
REMEMBERS = 600.0  # seconds for which the pipeline knows a request token
LEAST = 0.75  # of the starts that the limits allow must happen: a governor that never starts keeps every limit


class ServiceError(Exception):
    """An answer of the service that is no success."""

    def __init__(self, code):
        super().__init__(code)
        self.code = code


class Killed(BaseException):
    """The process is gone; nothing in it runs on."""


class World:
    """Clock, luck and counts that everything shares; each thread has luck of its own."""

    def __init__(self):
        self.now, self.calls, self.failed = BEGIN, 0, 0
        self.lock, self.mine = threading.RLock(), threading.local()

    def clock(self):
        with self.lock:
            return self.now

    def call(self, kinds):
        """Let a call take its time; returns how it fails, or nothing."""
        luck = self.mine.luck
        time.sleep(luck.random() * 1e-4)  # lets other threads in
        with self.lock:
            self.now += luck.uniform(0.01, 0.1)
            self.calls += 1
            failed = luck.random() < FAULTS
            self.failed += failed
        return luck.choice(kinds) if failed else ""


class Bucket:
    """One object of S3 with conditional writes, as the drift check reaches it."""

    def __init__(self, world):
        self.world, self.document, self.tag = world, None, 0

    def get(self):
        if self.world.call(["500"]):
            raise ServiceError("InternalError")
        with self.world.lock:
            return (dict(self.document), str(self.tag)) if self.document else (None, None)

    def put_if(self, document, etag):
        try:
            return self.put(document, etag)
        except ServiceError as error:
            if error.code in ("409", "412"):
                raise ConflictError(error.code) from error
            raise

    def put(self, document, etag):
        fault = self.world.call(["409", "412 after the write", "500", "lost before", "lost after", "killed after"])
        if fault in ("409", "500", "lost before"):
            raise ServiceError(fault)
        with self.world.lock:
            if etag != (str(self.tag) if self.document else None):
                raise ServiceError("412")
            self.document, self.tag = dict(document), self.tag + 1
            tag = str(self.tag)
        if fault == "412 after the write":  # the SDK lost the answer and asked again
            raise ServiceError("412")
        if fault == "lost after":
            raise ServiceError("timeout")
        if fault == "killed after":
            raise Killed
        return tag


class Pipeline:
    """CodePipeline: executions take their time, tokens are remembered for a while, the newest is listed first."""

    def __init__(self, world, luck, log):
        self.world, self.luck, self.log = world, luck, log
        self.executions, self.violations = [], []

    def add(self, kind, token=""):
        now = self.world.now
        if any(item["end"] > now for item in self.executions):
            self.violations.append(f"{kind} at {iso(now)} beside a run under way")
        made = {"id": f"{kind}-{len(self.executions)}", "kind": kind, "token": token, "start": now}
        made |= {"end": now + 60 * self.luck.uniform(20, 90), "fails": self.luck.random() < 0.2}
        self.executions.append(made)
        return made["id"]

    def in_flight(self):
        if self.world.call(["throttled"]):
            raise ServiceError("ThrottlingException")
        with self.world.lock:
            return any(item["end"] > self.world.now for item in self.executions)

    def runs_since(self, moment):
        if self.world.call(["throttled"]):
            raise ServiceError("ThrottlingException")
        with self.world.lock:
            calls = [item for item in self.executions if item["kind"] == "governor"]
            return [(item["id"], item["start"]) for item in calls if item["start"] >= moment - 5]

    def start(self, token):
        fault = self.world.call(["refused", "lost after", "killed after"])
        if fault == "refused":
            raise ServiceError("ThrottlingException")
        with self.world.lock:
            known = [item for item in self.executions if item["token"] == token]
            if known and self.world.now - known[-1]["start"] < REMEMBERS:
                execution = known[-1]["id"]
            else:
                execution = self.add("governor", token)
                minutes = (self.executions[-1]["end"] - self.world.now) / 60
                end = "fails" if self.executions[-1]["fails"] else "succeeds"
                self.log(f"{iso(self.world.now)[:19]}Z  start {execution}: {minutes:.0f} min, {end}")
        if fault == "lost after":
            raise ServiceError("timeout")
        if fault == "killed after":
            raise Killed
        return execution


class Month:
    """One policy under one schedule."""

    def __init__(self, policy, minutes, days, seed, log):
        self.policy = {"min_records": 500, "min_new_labels": 1} | policy
        self.minutes, self.days, self.luck = minutes, days, random.Random(seed)
        self.world = World()
        self.bucket = Bucket(self.world)
        self.pipeline = Pipeline(self.world, random.Random(seed + 1), log)
        self.deliveries, self.attempts, self.answers = 0, 0, collections.defaultdict(list)
        self.order = itertools.count()
        self.labels = sorted(BEGIN + self.luck.uniform(-DAY, days * DAY) for _ in range(days * 12))
        begin = self.luck.uniform(0.2, 0.7) * days * DAY
        self.paused = (BEGIN + begin, BEGIN + begin + 12 * HOUR)

    def verdict(self, end):
        window = {"start": iso(end - DAY), "end": iso(end)}
        return {"verdict": "DRIFT", "n": 5000, "endpoint": "fraud", "model_version": "run-1", "window": window}

    def new_labels(self):
        """Since the last start; nobody knows one time in ten."""
        if self.world.mine.luck.random() < 0.1:
            return None
        last = (self.bucket.document or {}).get("last_start")
        since = seconds(last) if last else BEGIN - DAY
        return bisect.bisect(self.labels, self.world.clock()) - bisect.bisect(self.labels, since)

    def plan(self):
        """Every delivery: its moment and the end of its window."""
        for k in range(1, int(self.days * DAY / 60 / self.minutes) + 1):
            end = BEGIN + 60 * self.minutes * k
            moments = [end + self.luck.uniform(0, 2) for _ in range(self.luck.randint(1, 6))]  # at once
            moments += [end + self.luck.uniform(60, 600)] * (self.luck.random() < 0.2)
            moments += [end + self.luck.uniform(1, 3) * HOUR] * (self.luck.random() < 0.1)
            yield from ((moment, next(self.order), end, 0) for moment in moments)

    def deliver(self, item):
        """Once; returns the delivery to repeat, if it has no answer."""
        moment, number, end, attempt = item
        self.world.mine.luck = random.Random(f"{self.minutes} {number} {attempt}")
        owner = f"request-{number}"  # a repeated event keeps its name, as Lambda's does
        arguments = (self.verdict(end), self.bucket, self.pipeline, self.policy, owner, self.world.clock)
        try:
            outcome = start_once(*arguments, new_labels=self.new_labels)
        except (ServiceError, Killed):
            return (moment + self.luck.uniform(60, 120), number, end, attempt + 1)
        with self.world.lock:
            self.answers[end].append(outcome)
        return None

    def people(self, now):
        """What people do between two deliveries: a pause once, and a push about every fifth day."""
        self.world.mine.luck = random.Random(f"person {now}")
        begin, end = self.paused
        for moment, switch in ((begin, lambda: pause(self.bucket, "ana", "labels are late", self.world.clock)),
                               (end, lambda: resume(self.bucket, "ana", self.world.clock))):  # fmt: skip
            if self.world.now < moment <= now:
                self.world.now = moment
                insist(switch)
        self.world.now = max(self.world.now, now)
        idle = all(item["end"] <= self.world.now for item in self.pipeline.executions)
        if idle and self.luck.random() < self.minutes / 60 / 24 / 5 / 5:
            self.pipeline.add("push")

    def run(self):
        """Live through it."""
        queue = list(self.plan())
        self.deliveries = len(queue)
        heapq.heapify(queue)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            while queue:
                self.people(queue[0][0])
                until, batch = max(self.world.now, queue[0][0] + 2), []
                while queue and queue[0][0] <= until:
                    batch.append(heapq.heappop(queue))
                self.attempts += len(batch)
                for again in pool.map(self.deliver, batch):
                    if again:
                        heapq.heappush(queue, again)
        return self

    def report(self):
        """One line, and what was broken."""
        starts = [item for item in self.pipeline.executions if item["kind"] == "governor"]
        moments = [item["start"] for item in starts]
        cool_down, cap = self.policy["cool_down_hours"] * HOUR, self.policy["daily_cap"]
        bound = math.ceil(self.days * DAY / cool_down)
        busiest = max((sum(m - DAY < other <= m for other in moments) for m in moments), default=0)
        gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
        tokens = collections.Counter(item["token"] for item in starts)
        windows = int(self.days * DAY / 60 / self.minutes)
        ends = [BEGIN + 60 * self.minutes * k for k in range(1, windows + 1)]
        known = {item["id"] for item in self.pipeline.executions}
        told = {outcome.execution_id for answer in self.answers.values() for outcome in answer} - {None}
        expected = {token_for("fraud", "run-1", self.verdict(end)["window"]) for end in ends}
        unanswered = sum(not self.answers[end] for end in ends)
        twice = sum(n > 1 for n in tokens.values())
        every = self.pipeline.executions
        at_once = max((sum(a["start"] <= b["start"] < a["end"] for a in every) for b in every), default=0)
        begin, end = self.paused
        room = min(bound, self.days * cap) - 12 * HOUR / max(cool_down, DAY / cap)
        promises = {
            f"{len(starts)} starts, but {bound} are allowed": len(starts) <= bound,
            f"{busiest} starts within 24 hours": busiest <= cap,
            "two starts closer than the cool-down": all(gap >= cool_down for gap in gaps),
            f"{at_once} runs at once": at_once <= 1,
            f"{twice} windows with two starts": not twice,
            "a start for no window": set(tokens) <= expected,
            f"{unanswered} windows without an answer": not unanswered,
            "a start was told that never was": told <= known,
            "a start that nobody was told of": {item["id"] for item in starts} <= told,
            "a start while paused": not any(begin + 60 < moment < end for moment in moments),
            f"stuck: only {len(starts)} starts where {room:.0f} had room": len(starts) >= LEAST * room,
        }
        broken = [*self.pipeline.violations, *(name for name, kept in promises.items() if not kept)]
        world = self.world
        line = (
            f"{self.days} days, a check every {self.minutes} min, cool-down {self.policy['cool_down_hours']:g} h, "
            f"cap {cap}: {windows:,} windows, {self.deliveries:,} deliveries in {self.attempts:,} attempts, "
            f"{world.failed / world.calls:.0%} of {world.calls:,} calls failed; "
            f"{len(starts)} starts (at most {min(bound, self.days * cap)}), within 24 h {busiest}, runs at once "
            f"{at_once}, windows with two starts {twice}, without an answer {unanswered}"
        )
        return line, broken


def insist(call):
    """As a person does: once more after an error; killed is not a matter of people."""
    for _ in range(200):
        try:
            return call()
        except (ServiceError, ConflictError, Killed):
            continue
    raise RuntimeError("the switch could not be written in 200 attempts")


def main(arguments=None):
    chosen = argparse.ArgumentParser(description="Thirty simulated days of permanent drift.")
    chosen.add_argument("--days", type=int, default=30, help="how long (days)")
    chosen.add_argument("--every", type=int, nargs="*", default=[15, 60], help="minutes between checks")
    chosen.add_argument("--seed", type=int, default=7, help="of luck; threads still take turns as they like")
    chosen.add_argument("--quiet", action="store_true", help="no line per start")
    p = chosen.parse_args(arguments)
    deliveries, lines, broken = 0, [], []
    for policy, minutes in itertools.product(POLICIES, p.every):
        month = Month(policy, minutes, p.days, p.seed, (lambda line: None) if p.quiet else print).run()
        line, found = month.report()
        deliveries += month.deliveries
        lines.append(line)
        broken += found
        print(line)
        for problem in found:
            print(f"  BROKEN: {problem}")
    print(f"{deliveries:,} deliveries: " + (f"{len(broken)} promises broken" if broken else "every promise held"))
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
