"""The tables of the drift report on payments: what moved, what the model says, missing and new, repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fraud.pipeline.blocks import Table
from fraud.pipeline.verdict_view import CUT, change, is_about_feature, level, value_of
from fraud.plaintext import bar, distance, figure, percent, shown

if TYPE_CHECKING:
    from fraud.pipeline.report import Findings

TOP = 12
NOTHING = "Nothing could be compared."
WORTH = 0.02  # change of a share of missing values that is worth a line; of new categories a tenth of it
Rules = Sequence[Mapping[str, Any]]


def ranked(findings: Findings) -> list[tuple[str, float, Rules]]:
    """Features by what their change can do to the model: how far it is past its limit, times the model's gain.

    Returns
    -------
    list of tuple
        Name, weight (0 to 1, the largest is 1 unless all are 0), its rules with the farthest first. Features whose
        rules fired come first. Nothing where there was too little to judge.
    """
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for rule in findings.verdict["rules"] if findings.judged else ():
        if is_about_feature(rule) and level(rule) is not None:
            by_name.setdefault(rule["feature"], []).append(rule)
    found = []
    for name, rules in by_name.items():
        rules.sort(key=lambda rule: (not rule["fired"], -(level(rule) or 0.0)))
        far = min(max(level(rule) or 0.0 for rule in rules), CUT)
        found.append((name, far * findings.importance.get(name, 0.0) if findings.importance else far, rules))
    most = max((weight for _, weight, _ in found), default=0.0) or 1.0
    found.sort(key=lambda item: (not item[2][0]["fired"], -item[1], -(level(item[2][0]) or 0.0), item[0]))
    return [(name, weight / most, rules) for name, weight, rules in found]


def moved(findings: Findings, top: int = TOP, *, narrow: bool = False) -> Table:
    """What moved, how, and how much it matters: the most telling first, those that fired before all others.

    Parameters
    ----------
    findings : Findings
    top : int
        Rows; the note says how many more there are.
    narrow : bool
        For e-mail: both PSI in one column, shorter bars.

    Returns
    -------
    Table
    """
    features, rows, marked = ranked(findings), [], []
    for name, weight, rules in features[:top]:
        said = [change(rule) for rule in rules if rule["fired"] and rule["rule"] not in ("psi", "ks")]
        if not said:
            said = [next((change(r) for r in rules if r["rule"] not in ("psi", "ks") and _counts(r)), change(rules[0]))]
        entry = findings.verdict["features"].get(name) or {}
        psi = [distance(entry.get("psi")), distance(entry.get("psi_without_missing"))]
        gain = findings.importance.get(name)
        last = [percent(gain), bar(weight, 5)] if narrow else [_gain(gain), bar(weight)]
        rows.append([shown(name), "; ".join(dict.fromkeys(said)), *([" / ".join(psi)] if narrow else psi), *last])
        marked.append(any(rule["fired"] for rule in rules))
    more = len(features) - len(rows)
    over = sum(any(rule["fired"] for rule in rules) for _, _, rules in features[top:])
    note = "Weight is the distance past the limit times the model's gain"
    note += "" if findings.importance else "; the gain is not stored for this model, so it is the distance alone"
    note += f". {more:,} more features are not shown, {over:,} of them past a limit." if more else "."
    columns = ["feature", "how", *(["PSI / without missing"] if narrow else ["PSI", "PSI without missing"])]
    columns += ["gain", "weight"]
    return Table(
        columns,
        rows,
        marked,
        left=(1,),
        bars=(3, 4) if narrow else (4, 5),
        note=note,
        empty=NOTHING,
    )


def _counts(rule: Mapping[str, Any]) -> bool:
    return (level(rule) or 0.0) >= 0.25  # less is no way in which a feature moved


def _gain(share: float | None) -> str:
    return "" if share is None else f"{percent(share)} {bar(min(1.0, 3 * share), 6)}".strip()


def model(findings: Findings, rates: tuple[float, float | None]) -> Table:
    """What the model itself says: its scores, the share that it sends to review.

    Parameters
    ----------
    findings : Findings
    rates : tuple of float
        As `fraud.pipeline.report.review_rates` gives them.

    Returns
    -------
    Table
    """
    rules = {rule["rule"]: rule for rule in findings.verdict["rules"]}
    baseline, live = findings.baseline["score"], findings.sketch.score
    score, review = rules.get("score_psi", {}), rules.get("review_rate", {})
    psi = (findings.verdict.get("score") or {}).get("psi", score.get("score"))
    approved = None if rates[1] is None else 1 - rates[1]
    drifts = [(f"PSI {distance(psi)}", figure(score.get("threshold"))), _score_and_limit(review), ("", "")]
    rows = [
        ["mean score", figure(baseline["mean"]), figure(live.mean), *drifts[0]],
        ["sent to review", percent(rates[0]), percent(rates[1]), *drifts[1]],
        ["approved", percent(1 - rates[0]), percent(approved), *drifts[2]],
    ]
    marked = [bool(score.get("fired")), bool(review.get("fired")), bool(review.get("fired"))]
    return Table(["of all payments", "trained on", "live", "drift score", "limit"], rows, marked)


def _score_and_limit(rule: Mapping[str, Any]) -> tuple[str, str]:
    return (distance(rule["score"]), figure(rule["threshold"])) if rule else ("", "")


def missing(findings: Findings, top: int = 8) -> Table:
    """Missing values and new categories: the largest changes first."""
    lost: dict[str, list[float | None]] = {}
    for name, entry in findings.verdict["features"].items():
        if (pair := entry.get("missing")) and None not in pair:
            lost[name] = list(pair)
    new = {r["feature"]: r["current"] for r in findings.verdict["rules"] if r["rule"] == "unseen"}
    new |= {name: entry["unseen"][1] for name, entry in findings.verdict["features"].items() if entry.get("unseen")}
    over = {r["feature"] for r in findings.verdict["rules"] if r["rule"] in ("missing", "unseen") and r["fired"]}
    found = []
    for name in lost.keys() | new.keys():
        before, after = lost.get(name, [None, None])
        moved_by = abs((after or 0.0) - (before or 0.0))
        arrived = new.get(name)
        if name in over or moved_by >= WORTH or (arrived or 0.0) >= WORTH / 10:
            found.append((name not in over, -max(moved_by, arrived or 0.0), name, before, after, arrived))
    found.sort(key=lambda item: item[:3])
    rows = [[shown(name), *("" if s is None else percent(s) for s in shares)] for _, _, name, *shares in found]
    more = len(rows) - top
    return Table(
        ["feature", "missing at training", "missing now", "new categories now"],
        rows[:top],
        [name in over for _, _, name, *_ in found[:top]],
        note=f"{more:,} more features changed by {percent(WORTH)} of payments or more." if more > 0 else "",
        empty=f"No feature is missing in {percent(WORTH)} of payments more or less than at training, or has new "
        "categories worth a mention."
        if findings.verdict["n"]
        else NOTHING,
    )


def repeated(findings: Findings, top: int = 6) -> Table:
    """Single values that make up more of the payments than they did: card testing, or a default that a caller sends."""
    found = [r for r in findings.verdict["rules"] if r["rule"] == "repeated" and level(r) is not None]
    found.sort(key=lambda rule: (not rule["fired"], -(level(rule) or 0.0), rule["feature"]))
    near = [rule for rule in found if rule["fired"] or (level(rule) or 0.0) >= 0.25]
    rows = [
        [
            shown(rule["feature"]),
            value_of(rule),
            percent(rule["reference"]),
            percent(rule["current"]),
            percent(rule["threshold"]),
        ]
        for rule in near[:top]
    ]
    more = len(near) - top
    said = "No single value became more frequent than it was."
    if not findings.verdict["n"]:
        said = NOTHING
    elif not found and findings.verdict.get("schema_version", 1) < 2:
        said = "The check that made this verdict did not look for repeated values."
    return Table(
        ["feature", "value", "share at training", "share now", "limit"],
        rows,
        [rule["fired"] for rule in near[:top]],
        left=(1,),
        note=f"{more:,} more features have a value that became more frequent." if more > 0 else "",
        empty=said,
    )
