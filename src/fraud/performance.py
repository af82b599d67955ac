"""How good the model is on payments whose truth has come, week by week, against the rows that graded it at training.

A new pattern of fraud shows in no feature and in no score; it shows here, as late as truth is.

What truth is: a payment is fraud when the newest report says so. A payment that nobody reported counts as legitimate
once its week is *mature*, older than reports take. Silence proves little, so a rule fires only where it cannot be the
cause: see `judge_performance`.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fraud.cohort import DAY, DELAYS, UNIT, WEEK, Cohort, estimate, figures
from fraud.intervals import Z95, auc, design_effect, dispersion, greater_by_chance, log_odds, student_tail
from fraud.moment import iso
from fraud.rules import HALF, ON_TRUTH

POLICY: dict[str, Any] = {
    "fraud_rate_threshold": 0.30,
    "recall_threshold": 0.15,
    "auc_threshold": 0.05,
    "min_truth": 500,
    "false_alarm_rate": 0.001,
    "truth_delay_days": None,
}
"""What holds where a policy is silent. ``truth_delay_days``: how long reports take, None for as long as training took
them to (``delay_days``), or a week where that is not known."""

POOLED = 4  # weeks that are judged together where one expects too few frauds
EXPECTED_FRAUDS = 25  # of what is judged, if frauds are as frequent as at training
MIN_FRAUDS = 10  # below which nothing is said about recall and AUC
DELAY_DAYS = 7


def reference(
    labels: Iterable[int],
    scores: Iterable[float],
    threshold: float,
    times: Iterable[float] | None = None,
    delay_days: float | None = None,
    cards: Iterable[int] | None = None,
) -> dict[str, Any]:
    """Count the rows that graded a model, for every later comparison: ``baseline["performance"]``.

    Parameters
    ----------
    labels : iterable of int of shape (n,)
        1 for fraud.
    scores : iterable of float of shape (n,)
        Of rows that the model has not learnt from.
    threshold : float
        From which a payment goes to review.
    times : iterable of float of shape (n,), optional
        Seconds since 1970. They tell how much fraud comes in clusters.
    delay_days : float, optional
        How long labels take, as training took it.
    cards : iterable of int of shape (n,), optional
        Numbers of the cards, below 0 where there is none. Frauds of one card are no independent witnesses.

    Returns
    -------
    dict
        The counts of a `Cohort`; `figures` of them; ``threshold``, ``delay_days``; ``dispersion`` of the fraud rate
        and of recall: the greater one of `fraud.intervals.dispersion` by day and `design_effect` by card.
    """
    counts = Cohort()
    labels = list(labels)
    days: list[int | None] = [None] * len(labels) if times is None else [int(moment // DAY) for moment in times]
    groups: list[int | None] = [None] * len(labels) if cards is None else [c if c >= 0 else None for c in cards]
    by_day: dict[int, list[int]] = {}
    by_card: dict[int, list[int]] = {}
    for label, score, day, card in zip(labels, scores, days, groups, strict=True):
        bad, caught = int(label == 1), counts.caught
        counts.add(float(score), bad, threshold)
        for found, name in ((by_day, day), (by_card, card)):
            if name is not None:
                sums = found.setdefault(name, [0, 0, 0])
                for k, more in enumerate((1, bad, counts.caught - caught)):
                    sums[k] += more

    def spread_of(hits: int, trials: int) -> float:
        """By day or by card, whichever is more; ``hits`` and ``trials`` are places in the sums."""
        daily, by_owner = ([(sums[hits], sums[trials]) for sums in found.values()] for found in (by_day, by_card))
        return max(dispersion(daily), design_effect(by_owner))

    spread = {"fraud_rate": spread_of(1, 0), "recall": spread_of(2, 1)}
    about = {"schema_version": 1, "threshold": float(threshold), "delay_days": delay_days, "dispersion": spread}
    return about | {name: getattr(counts, name) for name in _COUNTED} | figures(counts)


_COUNTED = ("scored", "fraud", "told", "flagged", "caught", "flagged_told", "expected", "expected_flagged")


def delay_of(reference: Mapping[str, Any], policy: Mapping[str, Any]) -> float:
    """Days after which silence counts: the policy's, else training's, else a week."""
    for given in (policy.get("truth_delay_days"), reference.get("delay_days")):
        if given is not None:
            return float(given)
    return float(DELAY_DAYS)


def judge_performance(
    reference: Mapping[str, Any], cohorts: Sequence[Cohort], policy: Mapping[str, Any]
) -> dict[str, Any]:
    """Compare the newest mature week with the rows that graded the model.

    A rule fires when the difference is as large as its threshold, when chance alone exceeds it in fewer than half of
    ``false_alarm_rate`` of all checks (over the three rules together), and when missing reports cannot be its cause:

    * fraud rate: it has risen although every silent payment is taken as legitimate, or fallen although every silent
      payment is left out;
    * recall and AUC: reports say something about payments that the model flagged. Where what it catches is blocked and
      never reported, all known frauds are missed ones, and mean nothing.

    A week that is not mature is never judged. Where a week of so many payments expects fewer than 25 frauds, up to four
    are judged together; that depends on the payments alone, not on the frauds found.

    Parameters
    ----------
    reference : mapping
        As `reference` makes it.
    cohorts : sequence of Cohort
        As `weeks` makes them, newest first.
    policy : mapping
        Names as in `POLICY`; others are passed over.

    Returns
    -------
    dict
        ``rules``, as in a verdict, and ``summary``: ``reference`` and ``cohorts`` with their figures, ``judged``,
        ``sentence``, ``estimate``, ``reported_after``, ``truth_delay_days``, ``notes``. Finite numbers or null.
    """
    policy = POLICY | {name: policy[name] for name in POLICY if name in policy}
    spread = reference.get("dispersion") or {}
    known = Cohort(**{name: reference[name] for name in _COUNTED})
    mature = [cohort for cohort in cohorts if cohort.mature and cohort.n]
    young = [cohort for cohort in cohorts if not cohort.mature and cohort.n]
    judged, used = _judged(known, mature)
    level = HALF * policy["false_alarm_rate"] / len(ON_TRUTH)
    rules = [rule(known, judged, policy, level, spread) for rule in (_fraud_rate, _recall, _auc)] if judged else []
    notes = _notes(known, judged, mature, delay_of(reference, policy))
    return {
        "rules": rules,
        "summary": {
            "threshold": reference["threshold"],
            "reference": figures(known, spread),
            "cohorts": [described(cohort, spread, k < used) for k, cohort in enumerate(mature)],
            "judged": described(judged, spread, True) if judged else None,
            "sentence": _sentence(known, judged),
            "estimate": estimate(young[0]) | _period(young[0]) if young else None,
            "reported_after": _reported_after(mature),
            "truth_delay_days": delay_of(reference, policy),
            "dispersion": dict(spread),
            "notes": notes,
        },
    }


def described(cohort: Cohort, spread: Mapping[str, float], judged: bool) -> dict[str, Any]:
    """A cohort for reading: its period, how much truth it has, its figures."""
    coverage = {"truth": cohort.told, "coverage": cohort.told / cohort.n if cohort.n else None, "judged": judged}
    return _period(cohort) | coverage | figures(cohort, spread)


def _period(cohort: Cohort) -> dict[str, str]:
    return {"start": iso(cohort.start), "end": iso(cohort.end)}


def _judged(known: Cohort, mature: Sequence[Cohort]) -> tuple[Cohort | None, int]:
    """The newest week, and those before it while too few frauds are expected; how many weeks those are."""
    if not mature:
        return None, 0
    rate = known.frauds / known.n if known.n else 0.0
    whole, used = mature[0], 1
    for earlier in mature[1:POOLED]:
        if whole.n * rate >= EXPECTED_FRAUDS:
            break
        whole, used = whole.merge(earlier), used + 1
    return whole, used


def _rule(name: str, threshold: float, n: int, before: float | None, after: float | None) -> dict[str, Any]:
    changed = before is not None and after is not None and after != before
    return {
        "rule": name,
        "feature": "",
        "reference": before,
        "current": after,
        "score": None,
        "threshold": float(threshold),
        "n": n,
        "fired": False,
        "direction": "none" if not changed else ("up" if (after or 0.0) > (before or 0.0) else "down"),
        "detail": "",
        "p_value": None,
        "importance": None,
    }


def _chance(hits: int, n: int, other_hits: int, other_n: int, wider: float) -> float:
    """As `greater_by_chance`, on as many independent payments as the clusters are worth."""
    trials, other = round(n / wider), round(other_n / wider)
    return greater_by_chance(
        min(trials, round(hits / wider)), trials, min(other, round(other_hits / wider)), other
    )  # fmt: skip


def _share(hits: int, n: int) -> float | None:
    return hits / n if n else None


def _fraud_rate(
    known: Cohort, now: Cohort, policy: Mapping[str, Any], level: float, spread: Mapping[str, float]
) -> dict[str, Any]:
    before, after = _share(known.frauds, known.n), _share(now.frauds, now.n)
    rule = _rule("fraud_rate", policy["fraud_rate_threshold"], now.n, before, after)
    wider = max(1.0, spread.get("fraud_rate", 1.0))
    if not before or after is None:
        return rule | {"detail": "no fraud graded the model, so that no share of it can be taken"}
    if not now.told:
        return rule | {"detail": "nothing has been reported about these payments"}
    if after >= before:
        score = after / before - 1
        p = _chance(now.frauds, now.n, known.frauds, known.n, wider)
        detail = f"{now.frauds:,} frauds in {now.n:,} payments where {before * now.n:,.1f} are expected"
    else:
        # Reports that are missing look like fewer frauds; only among the reported payments they do not.
        score = max(0.0, 1 - now.frauds / now.told / before)
        p = _chance(known.frauds, known.n, now.frauds, now.told, wider)
        detail = f"{now.frauds:,} frauds in {now.told:,} reported payments, {now.n:,} in all"
    p = min(1.0, 2 * p)  # it may rise or fall
    enough = now.n >= policy["min_truth"] and (after < before or now.frauds >= MIN_FRAUDS)
    return rule | _decided(rule, score, p, level, enough, detail)


def _recall(
    known: Cohort, now: Cohort, policy: Mapping[str, Any], level: float, spread: Mapping[str, float]
) -> dict[str, Any]:
    before, after = _share(known.caught, known.frauds), _share(now.caught, now.frauds)
    rule = _rule("recall", policy["recall_threshold"], now.n, before, after)
    if before is None or after is None or (why := _blind(now)):
        return rule | {"detail": "there is no fraud to catch" if before is None or after is None else why}
    missed = (now.frauds - now.caught, now.frauds, known.frauds - known.caught, known.frauds)
    p = _chance(*missed, max(1.0, spread.get("recall", 1.0)))
    enough = now.n >= policy["min_truth"] and now.frauds >= MIN_FRAUDS
    detail = f"{now.caught:,} of {now.frauds:,} frauds caught, {known.caught:,} of {known.frauds:,} at training"
    return rule | _decided(rule, max(0.0, before - after), p, level, enough, detail)


def _auc(
    known: Cohort, now: Cohort, policy: Mapping[str, Any], level: float, spread: Mapping[str, float]
) -> dict[str, Any]:
    before, after = auc(known.fraud, known.legitimate), auc(now.fraud, now.legitimate)
    rule = _rule("auc", policy["auc_threshold"], now.n, before and before[0], after and after[0])
    if before is None or after is None or (why := _blind(now)):
        return rule | {"detail": "there are not both kinds of payments" if before is None or after is None else why}
    wider = max(1.0, spread.get("recall", 1.0))
    pair = [log_odds(area, math.sqrt(variance * wider)) for area, variance in (before, after)]
    drop, error = before[0] - after[0], math.sqrt((before[1] + after[1]) * wider)
    degrees = max(1.0, min(known.frauds, now.frauds) / wider - 1)
    p = student_tail((pair[0][0] - pair[1][0]) / (math.hypot(pair[0][1], pair[1][1]) or 1.0), degrees)
    enough = now.n >= policy["min_truth"] and now.frauds >= MIN_FRAUDS
    detail = f"a difference of {-drop:+.3f}, give or take {Z95 * error:.3f}, over {now.frauds:,} frauds"
    return rule | _decided(rule, max(0.0, drop), p, level, enough, detail)


def _blind(now: Cohort) -> str:
    """Why the known frauds say nothing about the model, or nothing."""
    if not now.flagged_told and now.expected_flagged >= MIN_FRAUDS * UNIT:
        return f"nothing was reported about the {now.flagged:,} payments that the model flagged"
    return ""


def _decided(
    rule: Mapping[str, Any], score: float, p: float, level: float, enough: bool, detail: str
) -> dict[str, Any]:
    large = score >= rule["threshold"] - 1e-9
    if large and not enough:
        detail += ", too few to judge"
    elif large and p >= level:
        detail += f", within chance (p {p:.2g}, limit {level:.2g})"
    return {"score": score, "p_value": p, "fired": large and enough and p < level, "detail": detail}


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"


def _when(cohort: Cohort) -> str:
    first = dt.datetime.fromtimestamp(cohort.start, dt.UTC)
    days = max(1, round((cohort.end - cohort.start) / DAY))
    if days in (1, WEEK):
        return f"the {'day' if days == 1 else 'week'} of {first.day} {first:%B}"
    return f"the {days:,} days from {first.day} {first:%B}"


def _sentence(known: Cohort, judged: Cohort | None) -> str:
    """The first thing to read."""
    if judged is None:
        return "No payment is old enough for its truth to have come."
    if not judged.told:
        return f"Nothing has been reported about the {judged.n:,} payments of {_when(judged)}."
    if not judged.frauds or not known.frauds:
        return f"No fraud has been reported for {_when(judged)}."
    if why := _blind(judged):
        return f"Recall cannot be told for {_when(judged)}: {why}."
    caught, before = judged.caught / judged.frauds, known.caught / known.frauds
    what = f"Of the frauds reported for {_when(judged)}, the model caught {_percent(caught)}"
    if f"{_percent(caught)}" == f"{_percent(before)}":
        return f"{what}, as at training."
    return f"{what} instead of {_percent(before)}."


def _reported_after(cohorts: Sequence[Cohort]) -> dict[str, float] | None:
    """Days until half, and nine tenths, of the frauds were reported; 60 means that or more."""
    total = [sum(column) for column in zip(*(cohort.delays for cohort in cohorts), strict=True)]
    if not (n := sum(total)):
        return None
    ends = [sum(total[: k + 1]) for k in range(DELAYS)]
    named = (("median_days", 0.5), ("p90_days", 0.9))
    return {name: float(next(k for k, end in enumerate(ends) if end >= share * n)) for name, share in named}


def _notes(known: Cohort, judged: Cohort | None, mature: Sequence[Cohort], delay: float) -> list[str]:
    notes = []
    if judged and known.n and not judged.frauds and (expected := judged.n * known.frauds / known.n) >= MIN_FRAUDS:
        notes.append(f"About {expected:,.0f} frauds are expected and none is reported: are labels delivered?")
    late = _reported_after(mature)
    if late and late["p90_days"] > delay:
        notes.append(
            f"A tenth of the frauds is reported after {late['p90_days']:.0f} days or later, but silence counts as "
            f"legitimate after {delay:g} days: the newest weeks will still gain frauds. Raise delay_days of 02_train "
            "to what reports take; it holds from the next training on."
        )
    return notes
