"""The drift verdict in words that people understand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fraud import rules
from fraud.plaintext import figure, listed, percent
from fraud.schema import showable


def reason(rule: Mapping[str, Any]) -> str:
    """One rule in words: what has moved, from where to where.

    Parameters
    ----------
    rule : mapping
        Of a verdict, with a score.
    """
    kind, feature = rule["rule"], showable(rule["feature"])
    score, limit, before, after = rule["score"], rule["threshold"], rule["reference"], rule["current"]
    if kind == "mean_shift":
        sign = "+" if rule["direction"] == "up" else "−"
        figures = f"{figure(after)} instead of {figure(before)}"
        return f"{feature} averages {figures} ({sign}{percent(score)}, limit {percent(limit)})"
    if kind == rules.MISSING:
        return f"{feature} is missing in {percent(after)} of payments instead of {percent(before)}"
    if kind == rules.UNSEEN:
        known = f" instead of {percent(before)}" if before else ""
        return f"{feature} has values that the model does not know in {percent(after)} of payments{known}"
    if kind == rules.REPEATED:
        return f"{feature} is {figure(rule['value'])} in {percent(after)} of payments instead of {percent(before)}"
    if kind == rules.SCORE_PSI:
        figures = f"{figure(after)} on average instead of {figure(before)}"
        return f"the model's own scores have moved, {figures} (PSI {score:.2f}, limit {limit:.2f})"
    if kind == rules.REVIEW_RATE:
        return f"{percent(after)} of payments are sent to review instead of {percent(before)}"
    if kind == "fraud_rate":
        return f"{percent(after)} of payments are known as fraud instead of {percent(before)}"
    if kind == "recall":
        return f"the model catches {percent(after)} of the frauds instead of {percent(before)}"
    if kind == "auc":
        return f"the model's AUC ROC on arrived truth is {after:.3f} instead of {before:.3f}"
    name = "KS" if kind == rules.KS else "PSI"
    return f"{feature} is distributed differently ({name} {score:.2f}, limit {limit:.2f})"


def _what(rule: Mapping[str, Any]) -> str:
    """What a rule looks at."""
    return "the scores" if rule["rule"] in (rules.SCORE_PSI, rules.REVIEW_RATE) else showable(rule["feature"])


def drifted(fired: Sequence[Mapping[str, Any]], n: int) -> str:
    """The sentence of a verdict DRIFT."""
    others = list(dict.fromkeys(_what(rule) for rule in fired[1:]))
    others = [name for name in others if name and name != _what(fired[0])]
    more = f" {len(others):,} more moved: {listed(others)}." if others else ""
    if fired[0]["rule"] in rules.ON_TRUTH:
        over = f"{fired[0]['n']:,} payments that are old enough to judge"
        return f"The model is no longer as right as it was: {reason(fired[0])}, over {over}.{more}"
    return f"Payments no longer look like what the model learnt: {reason(fired[0])}, over {n:,} payments.{more}"


def first_sign(fired: Sequence[Mapping[str, Any]], n: int, signals: int, needed: int) -> str:
    """The sentence of a signal that has not lasted yet."""
    return (
        f"A first sign of drift, seen in {signals} of the {needed} checks that it takes: "
        f"{reason(fired[0])}, over {n:,} payments."
    )


def calm(measured: Sequence[Mapping[str, Any]], n: int) -> str:
    """The sentence of a verdict OK."""
    sentence = f"No drift: {n:,} payments look like what the model learnt"
    nearest = [rule for rule in measured if rule["score"]]
    return f"{sentence}; the largest change: {reason(nearest[0])}." if nearest else f"{sentence}."


def missing(invocations: int | None, captured: int, unreadable: int) -> str:
    """The sentence of a verdict MISSING_CAPTURE."""
    if unreadable and not captured:
        return f"Nothing can be judged: none of {unreadable:,} captured lines can be read."
    what = "nothing was" if not captured else f"only {captured:,} were"
    return f"Nothing can be judged: the endpoint was called {invocations or 0:,} times, but {what} captured."
