"""What to do, by cause: each kind of change has its own remedy, and retraining is only one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fraud.plaintext import listed, percent, shown
from fraud.rules import ON_TRUTH

Rule = Mapping[str, Any]
OF_A_FEATURE = ("repeated", "missing", "new", "moved", "collected")  # causes


def advice(verdict: Mapping[str, Any]) -> list[str]:
    """What to do about a verdict, the most urgent first; of the retraining that may follow, nothing.

    Parameters
    ----------
    verdict : mapping

    Returns
    -------
    list of str
        Sentences of plain text; at least one, but for a drift that no rule explains.
    """
    if say := QUIET.get(verdict["verdict"]):
        return [say(verdict)]
    groups = _groups(verdict)
    return [say(groups[cause]) for cause, say in CAUSES.items() if cause in groups]


def topics(verdict: Mapping[str, Any]) -> list[str]:
    """What a verdict is about, for who must not tell the same thing again and again, in its order.

    That is the verdict itself, or the causes of a drift; the cause of a change in a feature is told of each feature.
    Which rule has seen it, and how many have, is the same thing.

    Examples
    --------
    >>> rules = [{"rule": name, "feature": "card4", "fired": True} for name in ("unseen", "psi", "ks", "recall")]
    >>> topics({"verdict": "DRIFT", "rules": rules})
    ['new:card4', 'moved:card4', 'truth']
    >>> topics({"verdict": "MISSING_CAPTURE", "rules": []})
    ['MISSING_CAPTURE']
    """
    if verdict["verdict"] in QUIET:
        return [verdict["verdict"]]
    named = ((_cause(rule), rule["feature"]) for rule in verdict["rules"] if rule["fired"])
    return list(dict.fromkeys(f"{cause}:{feature}" if cause in OF_A_FEATURE else cause for cause, feature in named))


def _groups(verdict: Mapping[str, Any]) -> dict[str, list[Rule]]:
    """Rules that fired, by cause; a distribution that only lost values is no cause of its own."""
    groups: dict[str, list[Rule]] = {}
    fired = [rule for rule in verdict["rules"] if rule["fired"]]
    lost = {rule["feature"] for rule in fired if rule["rule"] == "missing"}
    for rule in fired:
        bare = rule.get("without_missing")
        if rule["rule"] == "psi" and rule["feature"] in lost and bare is not None and bare < rule["threshold"]:
            continue
        groups.setdefault(_cause(rule), []).append(rule)
    return groups


def _cause(rule: Rule) -> str:
    name, up = rule["rule"], rule.get("direction") != "down"
    if name in ON_TRUTH:
        return "truth"
    if name == "missing":
        return "missing" if up else "collected"
    if name == "review_rate":
        return "more reviews" if up else "fewer reviews"
    return {"unseen": "new", "repeated": "repeated", "score_psi": "score"}.get(name, "moved")


def _names(rules: list[Rule]) -> str:
    return listed(list(dict.fromkeys(shown(rule["feature"], 30) for rule in rules)))


def _truth(rules: list[Rule]) -> str:
    return (
        "Truth itself says so: fraud has changed, or the model finds less of it. Labels are here, so retraining can "
        "learn it; until then look at the frauds that were approved for what they have in common."
    )


def _repeated(rules: list[Rule]) -> str:
    return (
        f"Look at who sends the repeated value of {_names(rules)}: card testing, or a caller's default. Block or limit "
        "the caller; do not retrain on an attack before it is labelled."
    )


def _missing(rules: list[Rule]) -> str:
    worst = max(rules, key=lambda rule: abs((rule["current"] or 0.0) - (rule["reference"] or 0.0)))
    who = f"{shown(worst['feature'], 30)}: " if len(rules) > 1 else ""
    lost = "they are" if len(rules) > 1 else "it is"
    return (
        f"Ask who delivers {_names(rules)} why {lost} missing ({who}{percent(worst['current'])} of payments instead of "
        f"{percent(worst['reference'])}). Retrain only if it will not come back."
    )


def _collected(rules: list[Rule]) -> str:
    return (
        f"{_names(rules)} is now filled where it was missing at training. That is good news for the next model, once "
        "labels of such payments have arrived; nobody needs to be stopped."
    )


def _new(rules: list[Rule]) -> str:
    return (
        f"{_names(rules)} has values that training never saw; the model takes them as unknown. If a product or a "
        "market was added, have some of these payments labelled (review_rows of 01_merge_data draws them) and retrain."
    )


def _moved(rules: list[Rule]) -> str:
    return (
        f"Ask whether {_names(rules)} moved because of prices, a campaign, another unit or another currency. A unit is "
        "mended at the caller; real change is learnt by retraining."
    )


def _score(rules: list[Rule]) -> str:
    return "The model's scores moved: look at the threshold before reviewers do, and at the last deployment's date."


def _more(rules: list[Rule]) -> str:
    rule = rules[0]
    return (
        f"Reviewers get {percent(rule['current'])} of payments instead of {percent(rule['reference'])}: sort their "
        "queue by score, and add people or raise the threshold until a new model is in service."
    )


def _fewer(rules: list[Rule]) -> str:
    rule = rules[0]
    return (
        f"Only {percent(rule['current'])} of payments go to review instead of {percent(rule['reference'])}: fraud may "
        "slip through. Let reviewers look at payments below the threshold, drawn at random."
    )


CAUSES: dict[str, Callable[[list[Rule]], str]] = {
    "truth": _truth,
    "repeated": _repeated,
    "missing": _missing,
    "more reviews": _more,
    "fewer reviews": _fewer,
    "new": _new,
    "moved": _moved,
    "score": _score,
    "collected": _collected,
}


def _ok(verdict: Mapping[str, Any]) -> str:
    if verdict.get("signal"):
        return "A rule fired in this window alone. Wait for the next checks; what lasts becomes drift by itself."
    return "Nothing needs to be done."


QUIET: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "OK": _ok,
    "INSUFFICIENT_DATA": lambda verdict: "Wait for more traffic; no verdict is not the same as no drift.",
    "MISSING_CAPTURE": lambda verdict: (
        "Look at the endpoint's data capture (`aws sagemaker describe-endpoint --endpoint-name "
        f"{shown(verdict['endpoint'])}`, DataCaptureConfig): what it answers does not reach the bucket."
    ),
    "SCHEMA_CHANGED": lambda verdict: (
        "Look at the callers: they send other fields than the model was trained on. Do not retrain before that is "
        "settled."
    ),
}
