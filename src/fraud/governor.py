"""How a retraining that a drift verdict asks for starts exactly once, and how people stop it.

Whether it starts is decided in `fraud.decision`. The start is a small protocol over one object with conditional writes:
*claim* it, start the pipeline with a token that is the same for every delivery of the same window, mark it *started*.
Whoever finds a claim that was never marked finishes it: after looking for an execution that began since, and with the
same token. A claim holds for almost an hour; then it counts only if its run is there, else all is decided anew. The
kill switch lies in the same object, so that a claim and a pause cannot both be written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from fraud.decision import (
    CLAIMED,
    CONTENDED,
    DUPLICATE,
    EXPIRES,
    IN_FLIGHT,
    POLICY,
    RECOVERED,
    START,
    STARTED,
    Decision,
    Outcome,
    claimed,
    decide,
    in_words,
    recent_starts,
    record,
    record_key,
)
from fraud.errors import ConflictError, DataError
from fraud.moment import iso, seconds

__all__ = [  # the codes of reasons are in fraud.decision
    "POLICY",
    "Decision",
    "Outcome",
    "Pipeline",
    "Store",
    "checked",
    "decide",
    "in_words",
    "pause",
    "paused",
    "record",
    "record_key",
    "resume",
    "resumed",
    "start_once",
    "token_for",
]

_ATTEMPTS = 20
_MARGIN = 300.0  # seconds before a claim expires from which nobody starts it: a call, with its repetitions, takes less


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

    def runs_since(self, moment: float) -> Sequence[tuple[str, float]]:
        """Id and begin of each execution that a call has started since then, the oldest first."""

    def start(self, token: str) -> str:
        """Start an execution and return its id; the same token gives the same execution."""


def token_for(endpoint: str, model_version: str, window: Mapping[str, str]) -> str:
    """Client request token of the retraining that a window asks for: the same for each delivery of it.

    Examples
    --------
    >>> token_for("fraud", "run-1", {"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"})[:8]
    'drift-61'
    """
    text = "\n".join((endpoint, model_version, window["end"]))
    return f"drift-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def start_once(
    verdict: Mapping[str, Any],
    store: Store,
    pipeline: Pipeline,
    policy: Mapping[str, Any],
    owner: str,
    clock: Callable[[], float],
    new_labels: Callable[[], int | None] | None = None,
) -> Outcome:
    """Start the retraining that a verdict asks for, once however often and wherever this is called for its window.

    Errors of store and pipeline are passed on: the caller is delivered again, and goes on where this one stopped. What
    costs a call is asked last: the pipeline when the state allows a start, the labels when the pipeline does, too.

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
    new_labels : callable, optional
        Number of labels that came in since the last training; None when nobody knows. Called once at most.

    Returns
    -------
    Outcome
    """
    found: tuple[str, ...] = ()
    execution_id = None
    state, etag = store.get()
    before, token = state, _token(verdict)
    labels: list[int | None] = []
    for _ in range(_ATTEMPTS):
        decision = decide(verdict, state, clock(), policy)
        if decision.reasons == (START,) and state and claimed(state) and _own(state, pipeline):
            decision = Decision(True, (RECOVERED,))  # that claim is over, but not without its run
        if decision.reasons == (START,):
            decision = decide(verdict, state, clock(), policy, pipeline.in_flight())
        if decision.reasons == (START,) and decision.notes and new_labels:
            labels = labels or [new_labels()]
            decision = decide(verdict, state, clock(), policy, False, labels[0])
        known = labels[0] if labels else None
        if decision.reasons == (DUPLICATE,) and state and (state.get("owner"), state.get("token")) == (owner, token):
            # This very delivery started it and could not say so, or is repeated: it says the same.
            return Outcome(Decision(True, (START,)), state.get("execution_id"), before, known)
        if not decision.start:
            return Outcome(Decision(bool(execution_id), (*found, *decision.reasons)), execution_id, before, known)
        fresh = decision.reasons == (START,)
        if fresh:
            claim = _claim(verdict, state, owner, clock())
            try:
                etag, state = store.put_if(claim, etag), claim
            except ConflictError:
                state, etag = store.get()
                continue  # another's claim, or one's own, is there to be finished
        assert state is not None  # decide() takes only what is there for a claim
        reason = START if state.get("owner") == owner else RECOVERED
        execution_id, busy = _finish(state, etag, store, pipeline, fresh, clock)
        if execution_id is None:  # a person's execution is under way, or it is late; a later delivery sees to the claim
            return Outcome(Decision(False, (IN_FLIGHT if busy else CONTENDED,)), None, before, known)
        found = tuple(dict.fromkeys((*found, reason)))  # an earlier window's is said, too
        if state["token"] == token:
            return Outcome(Decision(True, found, decision.notes), execution_id, before, known)
        state, etag = store.get()
    return Outcome(Decision(bool(execution_id), (*found, CONTENDED)), execution_id, before, None)


def _token(verdict: Mapping[str, Any]) -> str:
    return token_for(verdict["endpoint"], verdict["model_version"], verdict["window"])


def _claim(verdict: Mapping[str, Any], state: Mapping[str, Any] | None, owner: str, now: float) -> dict[str, Any]:
    return {
        **(state or {}),  # the last start stays, and what people wrote into it
        "schema_version": 1,
        "paused": False,
        "status": CLAIMED,
        "owner": owner,
        "token": _token(verdict),
        "model_version": verdict["model_version"],
        "window_end": verdict["window"]["end"],
        "claimed_at": iso(now),
        "starts": recent_starts(state, now),
        "execution_id": None,
    }


def _finish(
    claim: dict[str, Any], etag: str | None, store: Store, pipeline: Pipeline, fresh: bool, clock: Callable[[], float]
) -> tuple[str | None, bool]:
    """Start what was claimed, or find it started, and mark it.

    Even one's own fresh claim is looked up before the start: a process that was held up here for long may find that
    others finished its claim, and the service may have forgotten the token by then.

    Returns
    -------
    execution_id : str or None
        None when nothing could be started.
    busy : bool
        Whether another execution is under way.
    """
    busy = not fresh and pipeline.in_flight()  # asked first: what begins in between is found by the look-up
    execution_id, began = _own(claim, pipeline) or (None, None)
    if execution_id is None:
        if busy or clock() >= seconds(claim["claimed_at"]) + EXPIRES - _MARGIN:
            return None, busy  # who finds the claim expired must not be overtaken by this start
        execution_id = pipeline.start(claim["token"])
    for _ in range(_ATTEMPTS):
        now = clock()
        at = iso(now if began is None else began)  # found late, it has begun no later
        starts = [*recent_starts(claim, now), {"at": at, "execution_id": execution_id}]
        done = claim | {"status": STARTED, "last_start": at, "starts": starts, "execution_id": execution_id}
        try:
            store.put_if(done, etag)
            break
        except ConflictError:
            state, etag = store.get()
            if not state or state.get("token") != claim["token"] or state.get("status") == STARTED:
                break  # another delivery marked it, or this one did and the answer was lost
            claim = state  # changed by a person, who may have paused it
    return execution_id, busy


def _own(claim: Mapping[str, Any], pipeline: Pipeline) -> tuple[str, float] | None:
    """The run that a claim was made for, and when it began; None while there is none.

    No list of runs tells their tokens. It is the first one that a call has started while the claim held, but for that
    of an earlier window from just before: clocks differ by seconds. A run that a person started later is not its own.
    """
    since = seconds(claim["claimed_at"])
    known = {item.get("execution_id") for item in claim.get("starts", ())}
    runs = (run for run in pipeline.runs_since(since) if run[0] not in known and run[1] < since + EXPIRES)
    return next(runs, None)


def checked(state: Any, name: str) -> dict[str, Any] | None:
    """Return a stored state as it is, if it can be used.

    Parameters
    ----------
    state : object
        What the stored JSON holds; None when nothing is stored.
    name : str
        Of the object, for people.

    Raises
    ------
    DataError
        When it cannot.

    Examples
    --------
    >>> checked({"starts": [1]}, "locks/drift/fraud.json")
    Traceback (most recent call last):
    fraud.errors.DataError: locks/drift/fraud.json is no state of the governor (an item of starts has no moment): ...
    """
    if state is None or not (wrong := _wrong(state)):
        return state  # type: ignore[no-any-return]
    raise DataError(
        f"{name} is no state of the governor ({wrong}): restore an earlier version, or delete it and pause again if "
        "retraining was paused."
    )


def _wrong(state: Any) -> str:
    if not isinstance(state, dict):
        return "it is no JSON object"
    for field in ("window_end", "claimed_at", "last_start"):
        if state.get(field) is not None and not _is_moment(state[field]):
            return f"{field} is no moment"
    starts = state.get("starts") or []
    if not isinstance(starts, list) or not all(isinstance(one, dict) and _is_moment(one.get("at")) for one in starts):
        return "an item of starts has no moment"
    if claimed(state) and not state.get("claimed_at"):
        return "a claim has no claimed_at"
    return ""


def _is_moment(given: Any) -> bool:
    try:
        return isinstance(given, str) and bool(iso(given))
    except (ValueError, OverflowError):
        return False


def paused(state: Mapping[str, Any] | None, by: str, reason: str, now: float) -> dict[str, Any]:
    """Return the state with the kill switch on: who, why and when are kept in it.

    Examples
    --------
    >>> paused(None, "ana", "labels are late", 0.0)["pause"]
    {'by': 'ana', 'reason': 'labels are late', 'at': '1970-01-01T00:00:00Z'}
    """
    return {"schema_version": 1, **(state or {}), "paused": True, "pause": {"by": by, "reason": reason, "at": iso(now)}}


def resumed(state: Mapping[str, Any] | None, by: str, now: float) -> dict[str, Any]:
    """Return the state with the kill switch off; the pause that ends stays readable, with who ended it and when."""
    ended = {**((state or {}).get("pause") or {}), "resumed_by": by, "resumed_at": iso(now)}
    return {"schema_version": 1, **(state or {}), "paused": False, "pause": ended}


def pause(store: Store, by: str, reason: str, clock: Callable[[], float]) -> tuple[dict[str, Any], bool]:
    """Turn the kill switch on; a pause that is there already stays as it is.

    Parameters
    ----------
    store : Store
        Where the state lies.
    by, reason : str
        Who and why.
    clock : callable
        Seconds since 1970, UTC.

    Returns
    -------
    state : dict
        As it is stored now.
    changed : bool
        False when it was paused before.

    Raises
    ------
    ConflictError
        When others kept writing it; nothing was changed.
    """
    return _switch(store, lambda state: None if (state or {}).get("paused") else paused(state, by, reason, clock()))


def resume(store: Store, by: str, clock: Callable[[], float]) -> tuple[dict[str, Any], bool]:
    """Turn the kill switch off; as `pause`, the other way round."""
    return _switch(store, lambda state: resumed(state, by, clock()) if (state or {}).get("paused") else None)


def _switch(
    store: Store, wanted: Callable[[dict[str, Any] | None], dict[str, Any] | None]
) -> tuple[dict[str, Any], bool]:
    written: dict[str, Any] | None = None
    for _ in range(_ATTEMPTS):
        state, etag = store.get()
        if state is not None and state == written:
            return state, True  # the write came through, its answer did not
        written = wanted(state)
        if written is None:
            return state or {}, False
        try:
            store.put_if(written, etag)
            return written, True
        except ConflictError:
            continue
    raise ConflictError("The governor's state was written by others again and again; try once more.")
