"""The verdict on a window of live traffic: which rule fired, by how much, and whether chance alone could do that."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fraud.moment import iso
from fraud.schema import showable
from fraud.sketch import Categories, Numbers, Sketch

OK, DRIFT = "OK", "DRIFT"
INSUFFICIENT_DATA, MISSING_CAPTURE, SCHEMA_CHANGED = "INSUFFICIENT_DATA", "MISSING_CAPTURE", "SCHEMA_CHANGED"
VERDICTS = (OK, DRIFT, INSUFFICIENT_DATA, MISSING_CAPTURE, SCHEMA_CHANGED)

POLICY: dict[str, Any] = {
    "window_hours": 24,
    "min_records": 500,
    "mean_shift_threshold": 0.30,
    "psi_threshold": 0.25,
    "missing_threshold": 0.10,
    "min_z": 3.0,
    "mean_shift_features": [],
}
"""What holds where a policy is silent; names and units as in the parameters of 04_drift_report."""

SPREAD = 0.1  # share of the reference's spread that stands in for a mean near 0
ALONE = 0.9  # share of the threshold that must be reached without the most extreme payment
_ALMOST = 1e-9  # a shift of exactly the threshold fires, whatever rounding did
_SMOOTH = 0.5  # added to each bin, so that an empty one has a logarithm
_ORDER = {"mean_shift": 0, "score_psi": 1, "missing": 2, "psi": 3}  # what people understand first


def relative_mean_shift(reference: float, current: float, std: float) -> float | None:
    """How far the mean has moved, as a share of the reference mean: ``|current - reference| / |reference|``.

    Where the reference mean is smaller than a tenth of the spread, that tenth takes its place: a share of 0, or of
    next to nothing, has no meaning. A negative mean counts by its size. None when the reference is constantly 0.

    Examples
    --------
    >>> relative_mean_shift(100.0, 130.0, 50.0), relative_mean_shift(-100.0, -70.0, 50.0)
    (0.3, 0.3)
    >>> relative_mean_shift(0.0, 0.25, 5.0), relative_mean_shift(0.0, 1.0, 0.0)
    (0.5, None)
    """
    unit = max(abs(reference), SPREAD * std)
    return min(abs(current - reference) / unit, 1e300) if unit > 0 else None


def population_stability_index(reference: Sequence[float], current: Sequence[float]) -> float:
    """PSI of two counts over the same bins, half a row added to each bin.

    Examples
    --------
    >>> round(population_stability_index([970, 30], [700, 300]), 2)
    0.71
    """
    n, m = sum(reference) + _SMOOTH * len(reference), sum(current) + _SMOOTH * len(current)
    pairs = [((a + _SMOOTH) / n, (b + _SMOOTH) / m) for a, b in zip(reference, current, strict=True)]
    return math.fsum((b - a) * math.log(b / a) for a, b in pairs)


def psi_by_chance(bins: int, reference_rows: int, current_rows: int, z: float) -> float:
    """PSI that equal distributions exceed only by a chance of ``z`` standard deviations.

    n·PSI follows a chi-square distribution with ``bins - 1`` degrees of freedom; its quantile by Wilson and Hilferty.
    """
    degrees = bins - 1
    if degrees < 1 or not reference_rows or not current_rows:
        return 0.0
    root = 1 - 2 / (9 * degrees) + z * math.sqrt(2 / (9 * degrees))
    return float(degrees * root**3 * (1 / reference_rows + 1 / current_rows))


def judge(
    baseline: Mapping[str, Any],
    sketch: Sketch,
    policy: Mapping[str, Any],
    window: tuple[dt.datetime | float, dt.datetime | float],
    endpoint: str,
    now: dt.datetime | float,
    *,
    invocations: int | None = None,
    unreadable: int = 0,
    skipped: int = 0,
    notes: Sequence[str] = (),
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
        How often the endpoint was called; None when nobody knows.
    unreadable : int
        Captured lines that cannot be read.
    skipped : int
        Captured records that are not compared: another model's, tests.
    notes : sequence of str
        What else a reader must know, such as a read that failed.

    Returns
    -------
    dict
        The verdict: see the README. Its numbers are finite or null.
    """
    policy = POLICY | {name: policy[name] for name in POLICY if name in policy}
    n = sketch.n
    enough = n >= max(1, policy["min_records"])
    rules = _rules(baseline, sketch, policy, enough) if n else []
    changed = _schema_changes(baseline, sketch) if enough else []
    fired = [rule for rule in rules if rule["fired"]]
    if not n and (unreadable or (invocations and not skipped)):
        verdict, sentence = MISSING_CAPTURE, _missing(invocations, unreadable)
    elif not enough:
        verdict = INSUFFICIENT_DATA
        sentence = f"Too little traffic to judge: {n:,} payments where {policy['min_records']:,} are needed."
    elif changed:
        verdict, sentence = SCHEMA_CHANGED, f"Payments no longer have the fields the model knows: {'; '.join(changed)}."
    elif fired:
        verdict, sentence = DRIFT, _drifted(fired, n)
    else:
        verdict, sentence = OK, _calm(rules, n)
    return {
        "schema_version": 1,
        "verdict": verdict,
        "endpoint": endpoint,
        "model_version": sketch.model_version,
        "window": {"start": iso(window[0]), "end": iso(window[1])},
        "n": n,
        "unreadable": unreadable,
        "skipped": skipped,
        "invocations": invocations,
        "sentence": " ".join([sentence, *notes]),
        "rules": rules,
        "policy": policy,
        "computed_at": iso(now),
    }


def _rules(
    baseline: Mapping[str, Any], sketch: Sketch, policy: Mapping[str, Any], enough: bool
) -> list[dict[str, Any]]:
    """Every rule on every feature; what fired first, then by size."""
    watched = policy["mean_shift_features"] or [baseline.get("roles", {}).get("amount", "")]
    rules = [_mean_shift(name, baseline, sketch, policy) for name in watched if name]
    # Hundreds of features are looked at together: each must be that much further from chance.
    z = math.sqrt(policy["min_z"] ** 2 + 2 * math.log(max(1, len(sketch.features))))
    for name, current in sketch.features.items():
        reference = baseline["features"][name]
        rules.append(_psi("psi", name, reference, current, policy["psi_threshold"], z))
        missing = _missing_rate(name, reference, current, policy["missing_threshold"], z)
        if missing["score"]:
            rules.append(missing)
    rules.append(_psi("score_psi", "score", baseline["score"], sketch.score, policy["psi_threshold"], policy["min_z"]))
    for rule in rules:
        rule["fired"] = rule["fired"] and enough
    return sorted(rules, key=_rank)


def _rank(rule: Mapping[str, Any]) -> tuple[bool, int, float, str]:
    size = (rule["score"] or 0.0) / max(rule["threshold"], 1e-12)
    return (not rule["fired"], _ORDER[rule["rule"]] if rule["fired"] else 0, -size, rule["feature"])


def _rule(rule: str, feature: str, threshold: float, n: int) -> dict[str, Any]:
    return {
        "rule": rule,
        "feature": feature,
        "reference": None,
        "current": None,
        "score": None,
        "threshold": float(threshold),
        "n": n,
        "fired": False,
        "direction": "none",
        "detail": "",
    }


def _direction(reference: float | None, current: float | None) -> str:
    if reference is None or current is None or current == reference:
        return "none"
    return "up" if current > reference else "down"


def _mean_shift(name: str, baseline: Mapping[str, Any], sketch: Sketch, policy: Mapping[str, Any]) -> dict[str, Any]:
    """The mean moved by the threshold, beyond its own chance, and not because of one payment."""
    reference, current = baseline["features"].get(name), sketch.features.get(name)
    rule = _rule("mean_shift", name, policy["mean_shift_threshold"], 0)
    if reference is None or not isinstance(current, Numbers):
        return rule | {"detail": "the model has no number of this name"}
    n, mean = current.count, current.mean
    rule |= {"n": n, "reference": reference["mean"], "current": mean}
    rule["direction"] = _direction(reference["mean"], mean)
    if reference["mean"] is None or mean is None:
        return rule | {"detail": "there are no values in " + ("training" if mean is not None else "this window")}
    center, std = reference["mean"], reference["std"]
    score = relative_mean_shift(center, mean, std)
    if score is None:
        return rule | {"detail": "no share of a constant 0 can be taken; psi watches this feature"}
    error = std / math.sqrt(n)
    z = min(abs(mean - center) / error, 1e300) if error else (0.0 if mean == center else 1e300)
    extreme = current.max if mean > center else current.min
    without = (current.sum[0] - extreme) / (n - 1) if n > 1 and current.sum and extreme is not None else center
    survives = (relative_mean_shift(center, without, std) or 0.0) >= ALONE * rule["threshold"]
    detail = f"{z:.1f} standard errors at n = {n:,}" if error else "the reference is constant"
    if score >= rule["threshold"] - _ALMOST:
        if z < policy["min_z"]:
            detail += f", within chance ({policy['min_z']:g})"
        elif not survives:
            detail += ", by a single payment"
    fired = score >= rule["threshold"] - _ALMOST and z >= policy["min_z"] and survives
    return rule | {"score": score, "fired": fired, "detail": detail}


def _cells(reference: Mapping[str, Any], current: Numbers | Categories) -> tuple[list[int], list[int]]:
    """Counts of both samples over the same bins, without the missing."""
    if isinstance(current, Numbers):
        return reference["counts"], current.counts
    top = reference["top"]
    return (
        [*top.values(), reference["other"], reference.get("unseen", 0)],
        [*(current.top[text] for text in top), current.other, current.unseen],
    )


def _pooled(reference: Sequence[int], current: Sequence[int]) -> tuple[list[int], list[int]]:
    """Bins in which less than one row is expected are one bin: each alone would be mere chance."""
    share = sum(current) / max(1, sum(reference))
    pairs = list(zip(reference, current, strict=True))
    common = [pair for pair in pairs if pair[0] * share >= 1]
    rare = [pair for pair in pairs if pair[0] * share < 1]
    if rare:
        common.append((sum(a for a, _ in rare), sum(b for _, b in rare)))
    return [a for a, _ in common], [b for _, b in common]


def _psi(
    kind: str, name: str, reference: Mapping[str, Any], current: Numbers | Categories, threshold: float, z: float
) -> dict[str, Any]:
    """The distribution has changed, missing values counted as one more bin."""
    lost = current.missing + current.invalid
    n = current.count + lost
    rule = _rule(kind, name, threshold, n)
    if isinstance(current, Numbers):
        rule |= {"reference": reference["mean"], "current": current.mean}
        rule["direction"] = _direction(reference["mean"], current.mean)
    before, after = _cells(reference, current)
    rows = reference["count"] + reference["missing"]
    bare = population_stability_index(*_pooled(before, after)) if reference["count"] and current.count else None
    if not rows or not n:
        return rule | {"without_missing": bare, "detail": "there are no rows to compare"}
    whole = _pooled([*before, reference["missing"]], [*after, lost])
    score = population_stability_index(*whole)
    chance = psi_by_chance(len(whole[0]), rows, n, z)
    detail = f"PSI {score:.3f}, {bare:.3f} without missing values" if bare is not None else f"PSI {score:.3f}"
    if threshold - _ALMOST <= score < chance:
        detail += f", within chance at n = {n:,} ({chance:.3f})"
    fired = score >= threshold - _ALMOST and score >= chance
    return rule | {"score": score, "without_missing": bare, "fired": fired, "detail": detail}


def _missing_rate(
    name: str, reference: Mapping[str, Any], current: Numbers | Categories, threshold: float, z: float
) -> dict[str, Any]:
    """The share of missing or unusable values has changed."""
    lost = current.missing + current.invalid
    n, rows = current.count + lost, reference["count"] + reference["missing"]
    rule = _rule("missing", name, threshold, n)
    if not n or not rows:
        return rule | {"detail": "there are no rows to compare"}
    before, after = reference["missing"] / rows, lost / n
    score = abs(after - before)
    pooled = (reference["missing"] + lost + _SMOOTH) / (rows + n + 1)
    error = math.sqrt(pooled * (1 - pooled) * (1 / rows + 1 / n))
    fired = score >= threshold - _ALMOST and score >= z * error
    rule |= {"reference": before, "current": after, "score": score, "direction": _direction(before, after)}
    return rule | {"fired": fired, "detail": f"missing in {after:.1%}, {before:.1%} at training"}


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


def _figure(value: float | None) -> str:
    if value is None:
        return "nothing"
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1e15 else f"{value:,.4g}"


def _reason(rule: Mapping[str, Any]) -> str:
    """One fired rule in words."""
    feature, score, limit = showable(rule["feature"]), rule["score"], rule["threshold"]
    if rule["rule"] == "mean_shift":
        sign = "+" if rule["direction"] == "up" else "−"
        figures = f"{_figure(rule['current'])} instead of {_figure(rule['reference'])}"
        return f"{feature} averages {figures} ({sign}{100 * score:,.0f} %, limit {100 * limit:.0f} %)"
    if rule["rule"] == "missing":
        return f"{feature} is missing in {rule['current']:.0%} of payments instead of {rule['reference']:.0%}"
    if rule["rule"] == "score_psi":
        figures = f"{_figure(rule['current'])} on average instead of {_figure(rule['reference'])}"
        return f"the model's own scores have moved, {figures} (PSI {score:.2f}, limit {limit:.2f})"
    return f"{feature} is distributed differently (PSI {score:.2f}, limit {limit:.2f})"


def _drifted(fired: Sequence[Mapping[str, Any]], n: int) -> str:
    others = list(dict.fromkeys(showable(rule["feature"]) for rule in fired[1:]))
    others = [name for name in others if name != showable(fired[0]["feature"])]
    more = f" {len(others):,} more moved: {', '.join(others[:3])}{', …' if len(others) > 3 else ''}." if others else ""
    return f"Payments no longer look like what the model learnt: {_reason(fired[0])}, over {n:,} payments.{more}"


def _calm(rules: Sequence[Mapping[str, Any]], n: int) -> str:
    measured = [rule for rule in rules if rule["score"]]
    sentence = f"No drift: {n:,} payments look like what the model learnt"
    return f"{sentence}; the largest change: {_reason(measured[0])}." if measured else f"{sentence}."


def _missing(invocations: int | None, unreadable: int) -> str:
    if unreadable:
        return f"Nothing can be judged: none of {unreadable:,} captured lines can be read."
    return f"Nothing can be judged: the endpoint was called {invocations or 0:,} times, but nothing was captured."
