"""Whether a drift verdict starts a retraining: a pure function of the verdict, the stored state and a policy.

Every reason that blocks is named, the deciding one first, by a code for programs and a sentence for people. What came
of a decision is kept as a record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fraud.moment import iso, seconds
from fraud.rules import ON_TRUTH
from fraud.verdict import DRIFT

START, RECOVERED = "START", "RECOVERED"
PAUSED, NOT_DRIFT, MIN_RECORDS, DUPLICATE = "PAUSED", "NOT_DRIFT", "MIN_RECORDS", "DUPLICATE"
IN_FLIGHT, COOL_DOWN, DAILY_CAP = "IN_FLIGHT", "COOL_DOWN", "DAILY_CAP"
NOTHING_NEW_TO_LEARN, NEW_LABELS_UNKNOWN = "NOTHING_NEW_TO_LEARN", "NEW_LABELS_UNKNOWN"
CONTENDED, FAILED, DRY_RUN, NO_RELEASE = "CONTENDED", "FAILED", "DRY_RUN", "NO_RELEASE"

SENTENCES = {
    START: "A retraining has been started.",
    RECOVERED: "The retraining that another check had begun to start has been started.",
    PAUSED: "A person has paused retraining.",
    NOT_DRIFT: "Only drift starts a retraining.",
    MIN_RECORDS: "There were fewer payments than a retraining asks for.",
    DUPLICATE: "This window, or a later one, has had its retraining already.",
    IN_FLIGHT: "The pipeline is running already, and one run at a time is enough.",
    COOL_DOWN: "The last retraining was started too short a time ago.",
    DAILY_CAP: "As many retrainings as are allowed within 24 hours have been started.",
    NOTHING_NEW_TO_LEARN: "Too few labels have come in since the last training: a new model would know nothing new.",
    CONTENDED: "Too many checks were deciding at the same moment; the next one decides again.",
    FAILED: "The retraining could not be started; it is tried again.",
    DRY_RUN: "This check was a trial.",
    NO_RELEASE: "Nothing is deployed yet.",
    NEW_LABELS_UNKNOWN: "How many labels have come in since the last training is not known, and held nothing up.",
}
"""What each code says to people."""

POLICY: dict[str, float] = {"min_records": 500, "cool_down_hours": 24.0, "daily_cap": 2, "min_new_labels": 100}
"""What holds where a policy is silent; names and units as in the parameters of 04_drift_report."""

CLAIMED, STARTED = "claimed", "started"
EXPIRES = 3300.0  # seconds for which a claim holds: it is over for the next hour's check
DAY = 86_400.0  # seconds over which the daily cap counts


@dataclass(frozen=True)
class Decision:
    """Whether to start, and why.

    Attributes
    ----------
    start : bool
        Whether an execution starts.
    reasons : tuple of str
        Reason codes, the deciding one first.
    notes : tuple of str
        Codes of what decided nothing and should be known.
    """

    start: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of a decision.

    Attributes
    ----------
    decision : Decision
        As taken in the end.
    execution_id : str or None
        The execution that was started, or found started, now.
    before : mapping or None
        The stored state that the decision was first taken on.
    new_labels : int or None
        Labels that came in since the last training; None when nobody asked or nobody knows.
    """

    decision: Decision
    execution_id: str | None = None
    before: Mapping[str, Any] | None = field(default=None, compare=False)
    new_labels: int | None = field(default=None, compare=False)


def in_words(reasons: Iterable[str] | Mapping[str, Any]) -> str:
    """Say to people what the codes of reasons mean, in their order.

    Parameters
    ----------
    reasons : iterable of str, or mapping
        Codes; or a record of `record`, of which reasons and notes are said.

    Examples
    --------
    >>> in_words(["IN_FLIGHT"])
    'The pipeline is running already, and one run at a time is enough.'
    """
    if isinstance(reasons, Mapping):
        reasons = (*reasons["reasons"], *reasons.get("notes", ()))
    codes = (reasons,) if isinstance(reasons, str) else reasons
    return " ".join(SENTENCES.get(code, f"The reason is {code}.") for code in codes)


def claimed(state: Mapping[str, Any]) -> bool:
    """Whether a start was begun that nobody has marked as done."""
    return bool(state.get("status") == CLAIMED and state.get("token"))


def _holds(state: Mapping[str, Any], now: float) -> bool:
    """Whether a claim is to be finished. One that is over decides nothing: what held it up may last for days."""
    return claimed(state) and not (state.get("claimed_at") and now - seconds(state["claimed_at"]) >= EXPIRES)


def recent_starts(state: Mapping[str, Any] | None, now: float) -> list[dict[str, Any]]:
    """Starts of the last 24 hours, the oldest first: ``{"at", "execution_id"}`` each.

    A state from before starts were listed knows the last one only.
    """
    state = state or {}
    last = state.get("last_start")
    known = state.get("starts") or ([{"at": last, "execution_id": state.get("execution_id")}] if last else [])
    return sorted((item for item in known if now - seconds(item["at"]) < DAY), key=lambda item: seconds(item["at"]))


def allowed_from(state: Mapping[str, Any] | None, now: float, policy: Mapping[str, Any]) -> str | None:
    """The moment from which cool-down and daily cap allow a start.

    Returns
    -------
    str or None
        ISO 8601, UTC. None when they allow one now, and when a cap of 0 never does.

    Examples
    --------
    >>> allowed_from({"last_start": "2026-01-02T12:00:00Z"}, seconds("2026-01-02T13:00:00Z"), {"cool_down_hours": 6})
    '2026-01-02T18:00:00Z'
    """
    policy, starts = POLICY | dict(policy), recent_starts(state, now)
    moments = [now]
    if last := (state or {}).get("last_start"):
        moments.append(seconds(last) + policy["cool_down_hours"] * 3600)
    if (cap := int(policy["daily_cap"])) > 0 and len(starts) >= cap:
        moments.append(seconds(starts[-cap]["at"]) + DAY)
    return iso(max(moments)) if max(moments) > now and cap > 0 else None


def decide(
    verdict: Mapping[str, Any],
    state: Mapping[str, Any] | None,
    now: float,
    policy: Mapping[str, Any],
    in_flight: bool = False,
    new_labels: int | None = None,
) -> Decision:
    """Decide whether a verdict starts a retraining.

    A start that was begun is finished, while its claim holds; one whose claim is over is decided anew.

    Where nothing asks for a retraining, because there is no drift or because the window has had its own, the limits on
    retrainings are not looked at. That drift persists is in the verdict already.

    Parameters
    ----------
    verdict : mapping
        Of `fraud.verdict.judge`.
    state : mapping or None
        What was stored last.
    now : float
        Seconds since 1970, UTC.
    policy : mapping
        Names as in ``POLICY``. A ``daily_cap`` of 0 starts none; ``min_new_labels`` of 0 asks for none.
    in_flight : bool
        Whether the pipeline is running already.
    new_labels : int, optional
        Labels that came in since the last training; None when nobody knows, which is noted and blocks nothing.

    Returns
    -------
    Decision
    """
    state, policy = state or {}, POLICY | dict(policy)
    reasons = [PAUSED] if state.get("paused") else []
    if verdict["verdict"] != DRIFT:
        return Decision(False, (*reasons, NOT_DRIFT))
    told_by_truth = any(rule["fired"] and rule["rule"] in ON_TRUTH for rule in verdict.get("rules", ()))
    if verdict["n"] < policy["min_records"] and not told_by_truth:  # truth has a minimum of its own
        reasons.append(MIN_RECORDS)
    if _holds(state, now):  # the limits were kept when it was claimed
        return Decision(False, tuple(reasons)) if reasons else Decision(True, (RECOVERED,))
    if state.get("window_end"):
        end, last = seconds(verdict["window"]["end"]), seconds(state["window_end"])
        if end < last or (end == last and not claimed(state)):  # a claim that is over has had no retraining
            return Decision(False, (*reasons, DUPLICATE))
    if in_flight:
        reasons.append(IN_FLIGHT)
    if state.get("last_start") and now - seconds(state["last_start"]) < policy["cool_down_hours"] * 3600:
        reasons.append(COOL_DOWN)
    if len(recent_starts(state, now)) >= policy["daily_cap"]:
        reasons.append(DAILY_CAP)
    if new_labels is not None and new_labels < policy["min_new_labels"]:
        reasons.append(NOTHING_NEW_TO_LEARN)
    unknown = (NEW_LABELS_UNKNOWN,) if new_labels is None and policy["min_new_labels"] > 0 else ()
    return Decision(False, tuple(reasons)) if reasons else Decision(True, (START,), unknown)


def record(
    verdict: Mapping[str, Any],
    outcome: Outcome,
    now: float,
    policy: Mapping[str, Any],
    *,
    verdict_key: str | None = None,
    owner: str = "",
    told: Iterable[str] = (),
) -> dict[str, Any]:
    """Make the record of a decision, as report, e-mail and `fraud drift history` read it.

    Parameters
    ----------
    verdict : mapping
        Of `fraud.verdict.judge`; what it lacks is null in the record.
    outcome : Outcome
        Of `fraud.governor.start_once`.
    now : float
        Seconds since 1970, UTC.
    policy : mapping
        Names as in ``POLICY``; others are passed over.
    verdict_key : str, optional
        Where the verdict is stored.
    owner : str
        Names the delivery that decided.
    told : iterable of str
        `fraud.advice.topics` that people were told of.

    Returns
    -------
    dict
        Its numbers are finite or null: JSON can hold it.
    """
    decision, before = outcome.decision, outcome.before
    used = {name: dict(policy).get(name, default) for name, default in POLICY.items()}
    return {
        "schema_version": 1,
        "moment": iso(now),
        "endpoint": verdict.get("endpoint"),
        "model_version": verdict.get("model_version"),
        "window": verdict.get("window"),
        "verdict": verdict["verdict"],
        "verdict_key": verdict_key,
        "n": verdict.get("n"),
        "reasons": list(decision.reasons),
        "notes": list(decision.notes),
        "in_words": in_words((*decision.reasons, *decision.notes)),
        "start": decision.start,
        "execution_id": outcome.execution_id,
        "allowed_from": None if decision.start else allowed_from(before, now, used),
        "new_labels": outcome.new_labels,
        "state_before": None
        if before is None
        else {name: before.get(name) for name in ("status", "window_end", "last_start", "execution_id")}
        | {"paused": bool(before.get("paused")), "starts_in_24_hours": len(recent_starts(before, now))},
        "policy": used,
        "owner": owner,
        "told": list(told),
    }


def record_key(made: Mapping[str, Any]) -> str:
    """Key of a decision's record: ``drift/<endpoint>/decisions/yyyy/mm/dd/HHMMSS-<START or deciding reason>.json``.

    Examples
    --------
    >>> record_key({"endpoint": "fraud", "moment": "2026-01-02T12:00:05.5Z", "start": False, "reasons": ["PAUSED"]})
    'drift/fraud/decisions/2026/01/02/120005-PAUSED.json'
    """
    day, _, time = made["moment"].partition("T")
    word = START if made["start"] else made["reasons"][0]
    return f"drift/{made['endpoint']}/decisions/{day.replace('-', '/')}/{time[:8].replace(':', '')}-{word}.json"
