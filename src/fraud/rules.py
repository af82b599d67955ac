"""The rules of the drift verdict: what has moved, by how much, and whether chance alone could do that.

A rule fires when its score reaches its threshold, more than a single caller may send has moved, and chance is excluded.
The threshold of a distribution's distance begins where the training period itself left off: what moved as much between
stretches of training is nothing new.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from fraud import distances
from fraud.plaintext import percent
from fraud.precision import last_of_cell
from fraud.sketch import Sketch
from fraud.tally import Categories, Numbers, most_frequent

MEAN_SHIFT, PSI, KS, MISSING = "mean_shift", "psi", "ks", "missing"
UNSEEN, REPEATED, SCORE_PSI, REVIEW_RATE = "unseen", "repeated", "score_psi", "review_rate"
ON_TRUTH = ("fraud_rate", "recall", "auc")  # of fraud.performance
HALF = 0.5  # of the false alarm rate: for the rules on payments; the other is for those on truth
MOVED = 0.06  # share of payments that must have moved beyond chance, more than one caller may bring; see `least_moved`
_ALMOST = 1e-9  # a shift of exactly the threshold fires, whatever rounding did
_DECIMALS = 17  # no rounding
_COVERED = 0.5  # of a number whose few values make up so much, the distribution says what repetition would


def least_moved(policy: Mapping[str, Any]) -> float:
    """Share of the payments that must have moved beyond chance before any rule on payments fires.

    A fifth more than one caller may bring; where no caller is held down, `MOVED`.
    """
    share = float(policy["max_caller_share"])
    return max(MOVED, 1.2 * share) if share < 1 else MOVED


def rule(kind: str, feature: str, threshold: float, n: int) -> dict[str, Any]:
    """A rule that has not been applied yet."""
    return {
        "rule": kind,
        "feature": feature,
        "reference": None,
        "current": None,
        "score": None,
        "threshold": float(threshold),
        "n": n,
        "fired": False,
        "direction": "none",
        "p_value": None,
        "importance": None,
        "detail": "",
    }


def direction(reference: float | None, current: float | None) -> str:
    """Whether a figure went up or down."""
    if reference is None or current is None or current == reference:
        return "none"
    return "up" if current > reference else "down"


def _cells(reference: Mapping[str, Any], current: Numbers | Categories) -> tuple[list[int], list[int]]:
    """Counts of both samples over the same bins, without the missing."""
    if isinstance(current, Numbers):
        return reference["counts"], current.counts
    top = reference["top"]
    return (
        [*top.values(), reference["other"], reference.get("unseen", 0)],
        [*(current.top[text] for text in top), current.other, current.unseen],
    )


def pooled(reference: Sequence[int], current: Sequence[int]) -> tuple[list[int], list[int]]:
    """Bins in which less than one row is expected are one bin: each alone would be mere chance."""
    share = sum(current) / max(1, sum(reference))
    pairs = list(zip(reference, current, strict=True))
    common = [pair for pair in pairs if pair[0] * share >= 1]
    rare = [pair for pair in pairs if pair[0] * share < 1]
    if rare:
        common.append((sum(a for a, _ in rare), sum(b for _, b in rare)))
    return [a for a, _ in common], [b for _, b in common]


def statistics(reference: Mapping[str, Any], current: Numbers | Categories) -> dict[str, Any]:
    """Compare one column with its reference in every way; null where nothing can be compared.

    Parameters
    ----------
    reference : mapping
        A feature of ``baseline.json``, or its score.
    current : Numbers or Categories

    Returns
    -------
    dict
        ``n`` rows, ``missing`` (shares, reference and current), ``psi`` (missing values are a bin), ``psi_tail``,
        ``psi_without_missing``, ``jensen_shannon``, ``chi_square`` (with ``chi_square_tail``), ``moved`` (total
        variation beyond what chance brings); of numbers also ``mean``, ``mean_shift``, ``ks``, ``ks_by_chance``
        (expected of samples of one distribution), ``ks_tail``,
        ``wasserstein`` (in interquartile ranges, else in standard deviations), ``out_of_range`` (share beyond what
        training saw); of categories ``unseen`` (shares).
    """
    lost, n = current.missing + current.invalid, current.count + current.missing + current.invalid
    rows = reference["count"] + reference["missing"]
    before, after = _cells(reference, current)
    whole = pooled([*before, reference["missing"]], [*after, lost])
    some, both = bool(rows and n), bool(reference["count"] and current.count)
    psi = distances.population_stability_index(*whole) if some else None
    wider = reference.get("natural", {}).get("dispersion", 1.0)  # rows of one card are not independent
    statistic, degrees = distances.chi_square(*whole)
    found: dict[str, Any] = {
        "type": reference["type"],
        "n": n,
        "missing": [reference["missing"] / rows if rows else None, lost / n if n else None],
        "psi": psi,
        "psi_tail": None if psi is None else distances.psi_tail(psi, len(whole[0]), rows / wider, n / wider),
        "psi_without_missing": distances.population_stability_index(*pooled(before, after)) if both else None,
        "jensen_shannon": distances.jensen_shannon(*whole) if some else None,
        "chi_square": statistic if some else None,
        "chi_square_tail": distances.chi_square_tail(statistic, degrees) if some else None,
        "moved": max(distances.total_variation(*whole) - distances.total_variation_by_chance(*whole), 0.0)
        if some
        else None,
    }
    if isinstance(current, Categories):
        seen = [reference.get("unseen", 0) / rows if rows else None, current.unseen / n if n else None]
        return found | {"unseen": seen}
    shift = tail = far = expected = None
    ks = distances.kolmogorov_smirnov(before, after) if both else None
    if both:
        shift = distances.relative_mean_shift(reference["mean"], current.mean or 0.0, reference["std"])
        expected = distances.kolmogorov_by_chance(reference["count"] / wider, current.count / wider)
        tail = distances.kolmogorov_tail(ks or 0.0, reference["count"] / wider, current.count / wider)
        low = min(reference["min"], current.min if current.min is not None else reference["min"])
        high = max(reference["max"], current.max if current.max is not None else reference["max"])
        scale = reference.get("iqr") or reference["std"]
        far = distances.wasserstein(
            before, after, reference["edges"], low, high, scale, (current.mean or 0.0) - reference["mean"]
        )
    outside = (current.below + current.above) / current.count if current.count else None
    return found | {
        "mean": [reference["mean"], current.mean],
        "mean_shift": shift,
        "ks": ks,
        "ks_by_chance": expected,
        "ks_tail": tail,
        "wasserstein": far,
        "out_of_range": outside,
    }


def _mean_shift(
    name: str, reference: Mapping[str, Any] | None, current: Any, found: Any, limit: float, least: float
) -> Any:
    """The mean moved by the threshold, beyond its own chance, and not because of a few payments.

    One payment can move a mean as far as it likes, but the distribution only by its own share. So the distribution
    must have moved too, beyond its chance.
    """
    made = rule(MEAN_SHIFT, name, limit, 0)
    if reference is None or not isinstance(current, Numbers):
        return made | {"detail": "the model has no number of this name"}
    n, (center, mean) = current.count, found["mean"]
    made |= {"n": n, "reference": center, "current": mean, "direction": direction(center, mean)}
    if center is None or mean is None:
        return made | {"detail": "there are no values in " + ("training" if mean is not None else "this window")}
    if found["mean_shift"] is None:
        return made | {"detail": "no share of a constant 0 can be taken; psi watches this feature"}
    error = reference["std"] / n**0.5
    z = min(abs(mean - center) / error, 1e300) if error else (0.0 if mean == center else 1e300)
    detail = f"{z:.1f} standard errors at n = {n:,}" if error else "the reference is constant"
    reached = found["mean_shift"] >= limit - _ALMOST
    moved = found["ks"] - distances.kolmogorov_by_chance(reference["count"], n)
    if reached and moved < least:
        detail += f", by a few payments: only {percent(max(moved, 0.0))} of the values have moved beyond chance"
    p_value = max(distances.normal_tail(z), found["ks_tail"])
    made |= {"score": found["mean_shift"], "p_value": p_value, "detail": detail}
    return made | {"fired": reached and moved >= least}


def _psi(kind: str, name: str, found: Mapping[str, Any], limit: float, least: float) -> dict[str, Any]:
    """The distribution has changed, missing values counted as one more bin."""
    made = rule(kind, name, limit, found["n"])
    if "mean" in found:
        reference, current = found["mean"]
        made |= {"reference": reference, "current": current, "direction": direction(reference, current)}
    bare = found["psi_without_missing"]
    if found["psi"] is None:
        return made | {"without_missing": bare, "detail": "there are no rows to compare"}
    detail = f"PSI {found['psi']:.3f}" + (f", {bare:.3f} without missing values" if bare is not None else "")
    fired = found["psi"] >= limit - _ALMOST and found["moved"] >= least
    made |= {"score": found["psi"], "without_missing": bare, "p_value": found["psi_tail"], "detail": detail}
    return made | {"fired": fired}


def _ks(name: str, found: Mapping[str, Any], limit: float, least: float) -> dict[str, Any]:
    """The distribution function has moved by the threshold somewhere."""
    made = rule(KS, name, limit, found["n"])
    reference, current = found["mean"]
    made |= {"reference": reference, "current": current, "direction": direction(reference, current)}
    made |= {
        "score": found["ks"],
        "p_value": found["ks_tail"],
        "detail": f"{percent(found['ks'])} of its values have moved",
    }
    return _sized(made, found["ks"] - found["ks_by_chance"], least)


def _sized(made: dict[str, Any], moved: float, least: float) -> dict[str, Any]:
    """Hold a rule's size against its limit, and what has moved beyond chance against what one caller may move."""
    reached = made["score"] >= made["threshold"] - _ALMOST
    if reached and moved < least - _ALMOST:
        return made | {"detail": f"{made['detail']}, beyond chance only {percent(max(moved, 0.0))}"}
    return made | {"fired": reached}


def _share(
    kind: str,
    name: str,
    before: tuple[float, float],
    after: tuple[float, float],
    limit: float,
    least: float,
    wider: float = 1.0,
) -> dict[str, Any]:
    """A share of the payments has changed; `before` and `after` are (how many, of how many)."""
    made = rule(kind, name, limit, int(after[1]))
    if not before[1] or not after[1]:
        return made | {"detail": "there are no rows to compare"}
    reference, current = before[0] / before[1], after[0] / after[1]
    made |= {"reference": reference, "current": current, "direction": direction(reference, current)}
    score = abs(current - reference)
    made |= {"score": score, "p_value": distances.share_tail(*(count / wider for count in (*before, *after)))}
    made |= {"detail": f"{percent(current)} of payments, {percent(reference)} before"}
    cells = ((n / wider, (of - n) / wider) for n, of in (before, after))
    return _sized(made, score - distances.total_variation_by_chance(*cells), least)


def _repeated(
    name: str, reference: Mapping[str, Any], current: Numbers, limit: float, least: float
) -> dict[str, Any] | None:
    """One value makes up far more of the payments than before, as when stolen cards are tested at one price."""
    known, rows = reference.get("repeats"), reference["count"] + reference["missing"]
    n = current.count + current.missing + current.invalid
    if known is None or not rows or not current.count or sum(known.values()) > _COVERED * reference["count"]:
        return None
    # A history is rounded, too, where it was written with few decimals: 0.333333 and a third are one value.
    decimals = max((-int(Decimal(text).normalize().as_tuple().exponent) for text in known), default=_DECIMALS)
    before, after = (_same_numbers(c, reference["width"], max(decimals, 0)) for c in (known, current.repeats))
    gains = {end: count / n - before.get(end, (0, 0.0))[0] / rows for end, (count, _) in after.items()}
    end = max(gains, key=lambda e: (gains[e], e), default=None)
    if end is None:
        return None
    count, value = after[end]
    made = _share(REPEATED, name, (before.get(end, (0, 0.0))[0], rows), (count, n), limit, least)
    # The value was chosen among all that repeat: each of them could have come out by chance.
    p_value = min(1.0, made["p_value"] * max(1, len(after)))
    words = f"the value {value:g} in {percent(made['current'])} of payments, {percent(made['reference'])} before"
    return made | {"p_value": p_value, "detail": words, "value": value, "fired": made["fired"] and gains[end] > 0}


def _same_numbers(repeats: Mapping[str, int], width: int, decimals: int) -> dict[float, tuple[int, float]]:
    """Counts of values that are one number when rounded, and the most frequent of them, by the end of their cell."""
    found: dict[float, tuple[int, float]] = {}
    for text, count in most_frequent(repeats, len(repeats)).items():
        end = last_of_cell(round(float(text), decimals), width)
        total, value = found.get(end, (0, float(text)))
        found[end] = total + count, value
    return found


def apply(
    reference: Mapping[str, Any], sketch: Sketch, policy: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Apply every rule on every feature and on the score.

    Parameters
    ----------
    reference : mapping
        ``baseline.json``, or what `fraud.drift.reference_of` made of other traffic.
    sketch : Sketch
        The window's records, counted.
    policy : mapping
        Thresholds, as in ``fraud.verdict.POLICY``.

    Returns
    -------
    rules : list of dict
        Those with nothing to compare left out. ``fired`` says yet only that the size is there.
    statistics : dict of str to dict
        By feature; the score's under the empty name.
    """
    entries, least = reference["features"], least_moved(policy)
    found = {name: statistics(entries[name], current) for name, current in sketch.features.items()}
    watched = policy["mean_shift_features"] or [reference.get("roles", {}).get("amount", "")]
    made = [
        _mean_shift(
            name, entries.get(name), sketch.features.get(name), found.get(name), policy["mean_shift_threshold"], least
        )
        for name in watched
        if name
    ]
    for name, current in sketch.features.items():
        entry, one = entries[name], found[name]
        natural = entry.get("natural", {})
        made.append(_psi(PSI, name, one, policy["psi_threshold"] + natural.get("psi", 0.0), least))
        rows, lost = entry["count"] + entry["missing"], current.missing + current.invalid
        limit = policy["missing_threshold"] + natural.get("missing", 0.0)
        wider = natural.get("dispersion", 1.0)
        made.append(_share(MISSING, name, (entry["missing"], rows), (lost, one["n"]), limit, least, wider))
        if isinstance(current, Categories):
            seen = (entry.get("unseen", 0), rows), (current.unseen, one["n"])
            made.append(_share(UNSEEN, name, *seen, policy["unseen_threshold"], least))
            continue
        if one["ks"] is not None:
            made.append(_ks(name, one, policy["ks_threshold"] + natural.get("ks", 0.0), least))
        limit = policy["repeated_threshold"] + natural.get("repeated", 0.0)
        if repeated := _repeated(name, entry, current, limit, least):
            made.append(repeated)
    made = [one for one in made if one["score"] or one["rule"] in (MEAN_SHIFT, PSI)]
    for one in made:
        one["importance"] = entries.get(one["feature"], {}).get("importance")
    answered = copy.copy(sketch.score)  # an answer that was not captured is no change of the answers
    answered.missing = answered.invalid = answered.absent = 0
    found[""] = statistics(reference["score"], answered)
    if not answers_known(sketch):
        return made, found
    made.append(_psi(SCORE_PSI, "score", found[""], policy["psi_threshold"], least))
    if (rate := reference.get("review_rate")) is not None:
        rows = reference["score"]["count"]
        both = (rate * rows, rows), (sketch.reviewed, answered.count)
        made.append(_share(REVIEW_RATE, "score", *both, policy["review_rate_threshold"], least))
    return made, found


def answers_known(sketch: Sketch) -> bool:
    """Whether at least half of the payments were captured with the model's answer."""
    return 2 * sketch.score.count >= sketch.n
