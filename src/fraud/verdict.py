"""The verdict on a window of live traffic: which rule fired, by how much, and whether chance alone could do that."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fraud import rules, wording
from fraud.distances import false_discovery_adjusted
from fraud.errors import ParameterError
from fraud.moment import iso
from fraud.plaintext import count
from fraud.schema import showable
from fraud.sketch import Sketch

OK, DRIFT = "OK", "DRIFT"
INSUFFICIENT_DATA, MISSING_CAPTURE, SCHEMA_CHANGED = "INSUFFICIENT_DATA", "MISSING_CAPTURE", "SCHEMA_CHANGED"
VERDICTS = (OK, DRIFT, INSUFFICIENT_DATA, MISSING_CAPTURE, SCHEMA_CHANGED)
JUDGED = (OK, DRIFT, SCHEMA_CHANGED)  # on enough traffic

POLICY: dict[str, Any] = {
    "window_hours": 24,
    "min_records": 500,
    "mean_shift_threshold": 0.30,
    "mean_shift_features": [],
    "psi_threshold": 0.25,
    "ks_threshold": 0.10,
    "missing_threshold": 0.10,
    "unseen_threshold": 0.06,
    "repeated_threshold": 0.06,
    "review_rate_threshold": 0.06,
    "false_alarm_rate": 0.001,
    "min_importance": 0.05,
    "persistence": [2, 3],
    "season": False,
    "max_caller_share": 0.05,
}
"""What holds where a policy is silent; names and units as in the parameters of 04_drift_report."""

CHECKS_A_MONTH = 720  # one an hour
_OF_IMPORTANCE_TO_PEOPLE = (rules.MEAN_SHIFT, rules.SCORE_PSI, rules.REVIEW_RATE)  # whatever the model goes by
_CAPTURED = 0.5  # with less of the calls captured, what is there says nothing about the rest
FEW = 20  # calls of which nothing is concluded
_ORDER = {  # what people understand first
    name: k
    for k, name in enumerate(
        "recall fraud_rate auc mean_shift review_rate score_psi missing unseen repeated psi ks".split()
    )
}


def persistence(policy: Mapping[str, Any]) -> tuple[int, int]:
    """How many checks with a signal, of how many in a row, are drift.

    Raises
    ------
    ParameterError
        When it is no pair of whole numbers, or asks for more signals than checks.
    """
    given = policy["persistence"]
    try:
        needed, of = (int(one) for one in given if one == int(one))
    except (TypeError, ValueError):
        needed, of = 0, 0
    if not 1 <= needed <= of <= 100:
        raise ParameterError(
            f"persistence is {given!r}: give two whole numbers, the checks with a signal and of how many in a row, "
            "such as [2, 3]."
        )
    return needed, of


def judge(
    baseline: Mapping[str, Any],
    sketch: Sketch,
    policy: Mapping[str, Any],
    window: tuple[dt.datetime | float, dt.datetime | float],
    endpoint: str,
    now: dt.datetime | float,
    *,
    invocations: int | None = None,
    sampled: float = 1.0,
    unreadable: int = 0,
    skipped: int = 0,
    repeated: int = 0,
    capped: int = 0,
    callers: Mapping[str, float] | None = None,
    usual_callers: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
    previous: Sequence[bool] = (),
    performance: Mapping[str, Any] | None = None,
    season: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Judge a window of live traffic.

    Parameters
    ----------
    baseline : mapping
        ``baseline.json`` of the model in service.
    sketch : Sketch
        The window's records, counted.
    policy : mapping
        Names as in ``POLICY``; others are passed over.
    window : tuple of datetime or float
        ``[start, end)``.
    endpoint : str
        Endpoint name.
    now : datetime or float
        When this is computed.
    invocations : int, optional
        Calls of the endpoint of which captures are to be expected; None when nobody knows.
    sampled : float
        Share of the calls that is captured. Which they are is chance.
    unreadable : int
        Captured lines that cannot be read.
    skipped : int
        Captured records that are not compared: another model's, tests.
    repeated : int
        Records left out because their inference id was there before.
    capped : int
        Records left out because one caller sent too many.
    callers, usual_callers : mapping of str to float, optional
        Share of all payments that the heaviest callers sent, by pseudonym, and what was usual of them before.
    notes : sequence of str
        What else a reader must know, such as a read that failed.
    previous : sequence of bool
        ``signal`` of the checks before, newest first.
    performance : mapping, optional
        ``rules`` and ``summary`` of `fraud.performance.judge_performance`.
    season : mapping, optional
        Of the same hours a week before, as `fraud.drift.reference_of` makes it: a rule on payments must fire against
        it too.

    Returns
    -------
    dict
        The verdict: see docs/drift.md. Its numbers are finite or null.
    """
    policy = POLICY | {name: policy[name] for name in POLICY if name in policy}
    n = sketch.n
    enough = n >= max(1, policy["min_records"])
    applied, statistics = rules.apply(baseline, sketch, policy)
    _decide(applied, policy, _insignificant(baseline, policy["min_importance"]))
    if season is not None and enough:
        _keep_what_is_new(applied, season, sketch, policy)
    for one in applied:
        one["fired"] = one["fired"] and enough
    on_truth = (performance or {}).get("rules", ())  # the other half of the false alarm rate is theirs
    found = sorted([*applied, *on_truth], key=_rank)
    fired = [one for one in found if one["fired"]]
    needed, of = persistence(policy)
    signals = sum([bool(fired), *map(bool, previous[: of - 1])])
    captured = n + skipped + repeated + capped
    changed = _schema_changes(baseline, sketch) if enough else []
    by_truth = any(one["fired"] for one in on_truth)
    if _uncaptured(captured, unreadable, invocations, sampled):
        verdict, sentence = MISSING_CAPTURE, wording.missing(invocations, captured, unreadable)
    elif not enough and not by_truth:
        verdict = INSUFFICIENT_DATA
        sentence = f"Too little traffic to judge: {count(n, 'payment')} where {policy['min_records']:,} are needed."
    elif changed:
        verdict, sentence = SCHEMA_CHANGED, f"Payments no longer have the fields the model knows: {'; '.join(changed)}."
    elif fired and signals >= needed:
        verdict, sentence = DRIFT, wording.drifted(fired, n)
    elif fired:
        verdict, sentence = OK, wording.first_sign(fired, n, signals, needed)
    else:
        verdict, sentence = OK, wording.calm(found, n)
    signal = bool(fired) and verdict in (OK, DRIFT)  # what cannot be judged is no sign of anything
    if n and not rules.answers_known(sketch):
        said = f"The model's answers to {n - sketch.score.count:,} of {count(n, 'payment')} were not captured"
        notes = [*notes, f"{said}, so scores and reviews are not judged."]
    rate, answered = baseline.get("review_rate"), sketch.score.count
    reviewed = {"reference": rate, "current": sketch.reviewed / answered if answered and rate is not None else None}
    return {
        "schema_version": 2,
        "verdict": verdict,
        "endpoint": endpoint,
        "model_version": sketch.model_version,
        "window": {"start": iso(window[0]), "end": iso(window[1])},
        "n": n,
        "unreadable": unreadable,
        "skipped": skipped,
        "repeated": repeated,
        "capped": capped,
        "callers": dict(callers or {}),
        "usual_callers": dict(usual_callers or {}),
        "invocations": invocations,
        "sentence": " ".join([sentence, *notes]),
        "signal": signal,
        "persistence": {"signals": signals - (bool(fired) and not signal), "of": of, "needed": needed},
        "rules": found if n else list(on_truth),
        "features": {name: one for name, one in statistics.items() if name},
        "score": statistics[""],
        "review_rate": reviewed,
        "performance": (performance or {}).get("summary"),
        "expected_false_alarms_per_month": policy["false_alarm_rate"]
        * CHECKS_A_MONTH
        * (1.0 if on_truth else rules.HALF),
        "notes": list(notes),
        "policy": policy,
        "computed_at": iso(now),
    }


def _uncaptured(captured: int, unreadable: int, invocations: int | None, sampled: float) -> bool:
    """Whether what was captured cannot stand for what was called; one call may carry many payments, never none."""
    if not captured and unreadable:
        return True
    calls = invocations or 0
    return calls >= FEW and captured + unreadable < (_CAPTURED - capture_slack(calls, sampled)) * calls


def capture_slack(calls: int, sampled: float) -> float:
    """How far the captured share of so many expected captures may fall short by chance: three standard errors."""
    return 3 * math.sqrt((1 - sampled) / calls) if calls else 0.0


def _decide(applied: Iterable[dict[str, Any]], policy: Mapping[str, Any], insignificant: frozenset[str]) -> None:
    """Keep what fired beyond chance, all rules looked at together, on features that the model goes by.

    Hundreds of rules are looked at together, so their p-values are adjusted for the share of false discoveries.
    """
    tested = [one for one in applied if one["p_value"] is not None]
    for one, adjusted in zip(tested, false_discovery_adjusted([one["p_value"] for one in tested]), strict=True):
        one["p_value"] = adjusted
        if one["fired"] and not adjusted < rules.HALF * policy["false_alarm_rate"]:
            one["fired"] = False
            one["detail"] += f", within chance at n = {one['n']:,}"
        elif one["fired"] and one["feature"] in insignificant and one["rule"] not in _OF_IMPORTANCE_TO_PEOPLE:
            one["fired"] = False
            one["detail"] += ", of next to no importance to the model"


def _insignificant(baseline: Mapping[str, Any], share: float) -> frozenset[str]:
    """The least important features that together bring no more than `share` of the model's gain."""
    ranked = sorted(
        (entry.get("importance"), name)
        for name, entry in baseline["features"].items()
        if entry.get("importance") is not None
    )
    total, found = 0.0, set()
    for importance, name in ranked:
        if (total := total + importance) > share:
            break
        found.add(name)
    return frozenset(found)


def _keep_what_is_new(
    applied: Iterable[dict[str, Any]], season: Mapping[str, Any], sketch: Sketch, policy: Mapping[str, Any]
) -> None:
    """Take back what does not fire against the same hours a week before: that is the season, not drift."""
    again, _ = rules.apply(season, sketch, policy)
    _decide(again, policy, frozenset())
    new = {(one["rule"], one["feature"]) for one in again if one["fired"]}
    for one in applied:
        if one["fired"] and (one["rule"], one["feature"]) not in new:
            one["fired"] = False
            one["detail"] += ", as in the same hours a week before"


def _rank(rule: Mapping[str, Any]) -> tuple[bool, int, float, str, str]:
    size = (rule["score"] or 0.0) / max(rule["threshold"], 1e-12)
    return (not rule["fired"], _ORDER[rule["rule"]] if rule["fired"] else 0, -size, rule["feature"], rule["rule"])


def _schema_changes(baseline: Mapping[str, Any], sketch: Sketch) -> list[str]:
    """What more than half of the records do differently from the schema; at most three of each kind."""
    half, n = sketch.n / 2, sketch.n
    required = [name for name, entry in baseline["features"].items() if entry.get("required")]
    absent = [name for name in required if sketch.features[name].absent > half]
    retyped = [name for name, feature in sketch.features.items() if feature.invalid > half]
    found = [f"{showable(name)} is absent from {sketch.features[name].absent:,} of {n:,}" for name in absent[:3]]
    found += [
        f"{showable(name)} has another type in {sketch.features[name].invalid:,} of {n:,}" for name in retyped[:3]
    ]
    if sketch.unknown_records > half:
        often = sorted(sketch.unknown_fields.items(), key=lambda item: (-item[1], item[0]))[:3]
        names = ", ".join(showable(name) for name, _ in often)
        found.append(f"{sketch.unknown_records:,} of {n:,} carry unknown fields ({names})")
    return found
