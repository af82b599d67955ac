"""A stored verdict as the report reads it, whichever version wrote it. Nothing is judged here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fraud.plaintext import distance, figure, percent, shown
from fraud.rules import ON_TRUTH
from fraud.verdict import DRIFT, JUDGED, MISSING_CAPTURE, OK, SCHEMA_CHANGED

ALARMING = (DRIFT, SCHEMA_CHANGED, MISSING_CAPTURE)
CUT = 5.0  # multiples of a threshold beyond which more says nothing
WHOLE = ("score_psi", "review_rate")  # rules that look at no single feature
RULES = {
    "mean_shift": "mean",
    "psi": "distribution (PSI)",
    "ks": "distribution (KS)",
    "missing": "missing values",
    "unseen": "new categories",
    "repeated": "one value repeated",
    "score_psi": "scores of the model",
    "review_rate": "share sent to review",
    "fraud_rate": "share of fraud",
    "recall": "share of frauds found",
    "auc": "AUC ROC on truth",
}


def modern(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """A verdict in the form of schema version 2; what an older one does not say is null.

    Parameters
    ----------
    verdict : mapping
        As stored.

    Returns
    -------
    dict
        The same verdict; verdict, sentence and rules are never changed.
    """
    if verdict.get("schema_version", 1) >= 2:
        return dict(verdict)
    rules: list[dict[str, Any]] = [
        {"importance": None, "p_value": None, "detail": "", "direction": "none"} | dict(r) for r in verdict["rules"]
    ]
    features: dict[str, dict[str, Any]] = {}
    for rule in rules:
        if rule["rule"] in ("mean_shift", "psi", "missing"):
            entry = features.setdefault(rule["feature"], {})
            if rule["rule"] == "psi":
                entry |= {"psi": rule["score"], "psi_without_missing": rule.get("without_missing")}
            elif rule["rule"] == "missing":
                entry["missing"] = [rule["reference"], rule["current"]]
            else:
                entry["mean_shift"] = rule["score"]
    score = next((rule for rule in rules if rule["rule"] == "score_psi"), None)
    return dict(verdict) | {
        "rules": rules,
        "features": features,
        "score": {"psi": score["score"], "mean": [score["reference"], score["current"]]} if score else {},
        "review_rate": None,
        "performance": None,
        "signal": any(rule["fired"] for rule in rules),
        "persistence": None,
        "notes": [],
        "repeated": 0,
        "capped": 0,
    }


def level(rule: Mapping[str, Any]) -> float | None:
    """How far a rule is, as a multiple of its threshold; None where it was not computed."""
    if rule.get("score") is None or not rule.get("threshold"):
        return None
    return abs(float(rule["score"])) / abs(float(rule["threshold"]))


def top_level(verdict: Mapping[str, Any]) -> float | None:
    """The largest multiple of a threshold among all rules."""
    found = [value for rule in verdict["rules"] if (value := level(rule)) is not None]
    return max(found, default=None)


def fired(verdict: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rules that fired, in the verdict's order."""
    return [rule for rule in verdict["rules"] if rule["fired"]]


def cause(verdict: Mapping[str, Any]) -> dict[str, Any] | None:
    """The rule to name first: of those that fired the first; None when none did."""
    return next(iter(fired(verdict)), None)


def is_about_feature(rule: Mapping[str, Any]) -> bool:
    """Whether a rule looks at one feature, and not at the score, at reviews or at truth."""
    return rule["rule"] not in (*WHOLE, *ON_TRUTH)


def change(rule: Mapping[str, Any]) -> str:
    """What one rule found, in a few words.

    Parameters
    ----------
    rule : mapping
        Of a verdict.

    Returns
    -------
    str
    """
    name, before, after, score = rule["rule"], rule.get("reference"), rule.get("current"), rule.get("score")
    if name == "mean_shift" and score is not None:
        sign = "−" if rule.get("direction") == "down" else "+"
        return f"mean {sign}{percent(score)} ({figure(before)} → {figure(after)})"
    if name == "missing":
        return f"missing {percent(before)} → {percent(after)}"
    if name == "unseen":
        return f"new categories {percent(before)} → {percent(after)}"
    if name == "repeated":
        value = f"the value {value_of(rule)}" if rule.get("value") is not None else "one value"
        return f"{value}: {percent(before)} → {percent(after)}"
    if name in ("review_rate", "fraud_rate", "recall"):
        return f"{RULES[name]} {percent(before)} → {percent(after)}"
    if name in ("auc", "score_psi"):
        what = "AUC ROC" if name == "auc" else "mean score"
        return f"{what} {figure(before)} → {figure(after)}"
    label = {"psi": "PSI", "ks": "KS"}.get(name, shown(name))
    return f"{label} {distance(score)}"


def value_of(rule: Mapping[str, Any]) -> str:
    """The value that is repeated, as people read it; empty where the rule does not name it."""
    value = rule.get("value")
    if value is None:
        return ""
    return figure(value) if isinstance(value, (int, float)) else shown(value, 24)


def summary_of(verdict: Mapping[str, Any], moment: str = "") -> dict[str, Any]:
    """What lists and sparklines need of a check.

    Returns
    -------
    dict
        ``at``, ``verdict``, ``n``, ``level`` (largest multiple of a threshold; None where nothing could be judged),
        ``review_rate``, ``signal``.
    """
    new = modern(verdict)
    rate = (new.get("review_rate") or {}).get("current")
    return {
        "at": moment or new["window"]["end"],
        "verdict": new["verdict"],
        "n": new["n"],
        "level": top_level(new) if new["verdict"] in JUDGED else None,
        "review_rate": rate,
        "signal": bool(new.get("signal")),
    }


def causes(verdict: Mapping[str, Any], most: int = 3) -> list[str]:
    """The most telling of what fired, a feature once, in a few words each; nothing where that is not the matter."""
    said: dict[str, str] = {}
    if verdict["verdict"] not in (OK, DRIFT):
        return []
    for rule in fired(verdict):
        if is_about_feature(rule):
            said.setdefault(rule["feature"], f"{shown(rule['feature'], 30)}: {change(rule)}")
        else:
            said.setdefault(f"\n{rule['rule']}", change(rule))
    return list(said.values())[:most]


def rule_name(rule: Mapping[str, Any]) -> str:
    """What a rule looks at, in a few words: its feature and how, or what it watches as a whole."""
    if not is_about_feature(rule):
        return RULES.get(rule["rule"], shown(rule["rule"]))
    return f"{shown(rule['feature'], 28)} · {str(rule['rule']).replace('_', ' ')}"


def multiple(value: float) -> str:
    """A multiple of a limit; beyond a hundred more says nothing.

    Examples
    --------
    >>> multiple(1.234), multiple(1e300)
    ('1.23', 'more than 100')
    """
    return f"{value:.2f}" if value <= 100 else "more than 100"


def spark_levels(checks: Sequence[Mapping[str, Any]], most: int = 24) -> list[float | None]:
    """Levels of the last checks, the oldest first; null where nothing could be judged."""
    return [None if check["level"] is None else round(check["level"], 3) for check in checks[-most:]]
