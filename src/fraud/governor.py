"""Whether a drift verdict starts a retraining, and how it starts exactly once.

A decision is a pure function of the verdict and the stored state. The start is a small protocol over one object with
conditional writes: *claim* it, start the pipeline with a token that is the same for every delivery of the same window,
mark it *started*. Whoever finds a claim that was never marked finishes it: with the same token, after looking for an
execution that began since.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from fraud.errors import ConflictError
from fraud.moment import iso, seconds
from fraud.verdict import DRIFT

START, RECOVERED = "START", "RECOVERED"
NOT_DRIFT, MIN_RECORDS, PAUSED, DUPLICATE = "NOT_DRIFT", "MIN_RECORDS", "PAUSED", "DUPLICATE"
IN_FLIGHT, COOL_DOWN, CONTENDED = "IN_FLIGHT", "COOL_DOWN", "CONTENDED"
CLAIMED, STARTED = "claimed", "started"

POLICY: dict[str, float] = {"min_records": 500, "cool_down_hours": 24.0}
"""What holds where a policy is silent; names and units as in the parameters of 04_drift_report."""

_ATTEMPTS = 20


class Store(Protocol):
    """One JSON document that is written conditionally."""

    def get(self) -> tuple[dict[str, Any] | None, str | None]:
        """Return the document and its entity tag; None and None when there is none."""

    def put_if(self, document: dict[str, Any], etag: str | None) -> str:
        """Write if the tag still holds (None: if there is none); return the new tag, or raise `ConflictError`."""


class Pipeline(Protocol):
    """The pipeline that retrains."""

    def in_flight(self) -> bool:
        """Whether an execution is under way."""

    def started_since(self, moment: float) -> str | None:
        """Id of an execution that was started by a call since then; None without one."""

    def start(self, token: str) -> str:
        """Start an execution and return its id; the same token gives the same execution."""


@dataclass(frozen=True)
class Decision:
    """Whether to start, and why.

    Attributes
    ----------
    start : bool
        Whether an execution starts.
    reasons : tuple of str
        Reason codes, the deciding one first.
    """

    start: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What came of a decision.

    Attributes
    ----------
    decision : Decision
        As taken in the end.
    execution_id : str or None
        The execution that was started, or found started, now.
    """

    decision: Decision
    execution_id: str | None = None


def token_for(endpoint: str, model_version: str, window: Mapping[str, str]) -> str:
    """Client request token of the retraining that a window asks for: the same for each delivery of it.

    Examples
    --------
    >>> token_for("fraud", "run-1", {"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"})[:8]
    'drift-61'
    """
    text = "\n".join((endpoint, model_version, window["end"]))
    return f"drift-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def decide(
    verdict: Mapping[str, Any],
    state: Mapping[str, Any] | None,
    now: float,
    policy: Mapping[str, Any],
    in_flight: bool = False,
) -> Decision:
    """Decide whether a verdict starts a retraining.

    Parameters
    ----------
    verdict : mapping
        Of `fraud.verdict.judge`.
    state : mapping or None
        What was stored last.
    now : float
        Seconds since 1970, UTC.
    policy : mapping
        Names as in ``POLICY``.
    in_flight : bool
        Whether the pipeline is running already.

    Returns
    -------
    Decision
    """
    state, policy = state or {}, POLICY | dict(policy)
    if state.get("paused"):
        return Decision(False, (PAUSED,))
    if verdict["verdict"] != DRIFT:
        return Decision(False, (NOT_DRIFT,))
    if verdict["n"] < policy["min_records"]:
        return Decision(False, (MIN_RECORDS,))
    if state.get("status") == CLAIMED and state.get("token"):
        return Decision(True, (RECOVERED,))
    if state.get("window_end") and seconds(verdict["window"]["end"]) <= seconds(state["window_end"]):
        return Decision(False, (DUPLICATE,))
    if in_flight:
        return Decision(False, (IN_FLIGHT,))
    if state.get("last_start") and now - seconds(state["last_start"]) < policy["cool_down_hours"] * 3600:
        return Decision(False, (COOL_DOWN,))
    return Decision(True, (START,))


def start_once(
    verdict: Mapping[str, Any],
    store: Store,
    pipeline: Pipeline,
    policy: Mapping[str, Any],
    owner: str,
    clock: Callable[[], float],
) -> Outcome:
    """Start the retraining that a verdict asks for, once however often and wherever this is called for its window.

    Errors of store and pipeline are passed on: the caller is delivered again, and goes on where this one stopped.

    Parameters
    ----------
    verdict : mapping
        Of `fraud.verdict.judge`.
    store : Store
        Where the state lies.
    pipeline : Pipeline
        What is started.
    policy : mapping
        Names as in ``POLICY``.
    owner : str
        Names this delivery, to know its own claim again when the answer to the write was lost.
    clock : callable
        Seconds since 1970, UTC.

    Returns
    -------
    Outcome
    """
    found: tuple[str, ...] = ()
    execution_id = None
    for _ in range(_ATTEMPTS):
        state, etag = store.get()
        decision = decide(verdict, state, clock(), policy)
        if decision.reasons == (START,) and pipeline.in_flight():
            decision = Decision(False, (IN_FLIGHT,))
        if not decision.start:
            return Outcome(Decision(bool(execution_id), (*found, *decision.reasons)), execution_id)
        if decision.reasons == (START,):
            claim = _claim(verdict, state, owner, clock())
            try:
                etag, state = store.put_if(claim, etag), claim
            except ConflictError:
                continue  # read again: another's claim, or one's own, is there to be finished
        assert state is not None  # decide() takes only what is there for a claim
        mine = state.get("owner") == owner
        execution_id = _finish(state, etag, store, pipeline, mine, clock)
        found = (START,) if mine else (RECOVERED,)
        if state["token"] == _token(verdict):
            return Outcome(Decision(True, found), execution_id)
    return Outcome(Decision(bool(execution_id), (*found, CONTENDED)), execution_id)


def _token(verdict: Mapping[str, Any]) -> str:
    return token_for(verdict["endpoint"], verdict["model_version"], verdict["window"])


def _claim(verdict: Mapping[str, Any], state: Mapping[str, Any] | None, owner: str, now: float) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "paused": False,
        "status": CLAIMED,
        "owner": owner,
        "token": _token(verdict),
        "model_version": verdict["model_version"],
        "window_end": verdict["window"]["end"],
        "claimed_at": iso(now),
        "last_start": (state or {}).get("last_start"),
        "execution_id": None,
    }


def _finish(
    claim: dict[str, Any], etag: str | None, store: Store, pipeline: Pipeline, mine: bool, clock: Callable[[], float]
) -> str:
    """Start what was claimed, or find it started, and mark it."""
    began = None if mine else pipeline.started_since(seconds(claim["claimed_at"]))
    execution_id = began or pipeline.start(claim["token"])
    for _ in range(_ATTEMPTS):
        done = claim | {"status": STARTED, "last_start": iso(clock()), "execution_id": execution_id}
        try:
            store.put_if(done, etag)
            break
        except ConflictError:
            state, etag = store.get()
            if not state or state.get("token") != claim["token"] or state.get("status") == STARTED:
                break  # another delivery marked it, or this one did and the answer was lost
            claim = state  # changed by a person, who may have paused it
    return execution_id
