"""What tests of the governor share: a document with entity tags, a pipeline, faults in both."""

import threading
import time

from fraud.errors import ConflictError
from fraud.governor import start_once
from fraud.moment import iso

HOUR = 3600.0
POLICY = {"min_records": 100, "cool_down_hours": 6.0, "daily_cap": 1000, "min_new_labels": 0}


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


def no_faults():
    return (False, False, False)


class Store:
    """One document with entity tags, as S3 keeps it; ``faults()`` says what goes wrong before and after a call."""

    def __init__(self, faults=no_faults):
        self.lock, self.document, self.tag, self.faults = threading.Lock(), None, 0, faults
        self.writes = 0

    def rest(self):
        time.sleep(0)  # lets another thread in

    def get(self):
        if self.faults()[0]:
            raise Lost
        self.rest()
        with self.lock:
            return (dict(self.document), str(self.tag)) if self.document else (None, None)

    def put_if(self, document, etag):
        before, after, repeated = self.faults()
        if before:
            raise Lost
        self.rest()
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
    """CodePipeline: the same token starts one execution, as long as the service remembers it.

    ``started`` holds ``(token, id, moment)`` of each execution that was started by a call.
    """

    def __init__(self, clock=lambda: 0.0, faults=no_faults, remembers=True):
        self.lock, self.clock, self.faults, self.remembers = threading.Lock(), clock, faults, remembers
        self.started, self.calls, self.running = [], 0, False

    def in_flight(self):
        return self.running

    def runs_since(self, moment):
        with self.lock:
            return [item[1:] for item in self.started if item[2] >= moment - 5]

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


def run(store, pipeline, given=None, now=HOUR, owner="a", policy=POLICY, new_labels=None):
    return start_once(given or verdict(), store, pipeline, policy, owner, lambda: now, new_labels)
