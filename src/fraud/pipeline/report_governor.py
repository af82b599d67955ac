"""What the governor did with drift verdicts, and why: its own records, in its own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from fraud.governor import in_words
from fraud.moment import iso
from fraud.pipeline.blocks import Block, Prose, Table
from fraud.plaintext import count, shown
from fraud.rules import ON_TRUTH

if TYPE_CHECKING:
    from fraud.pipeline.report import Findings

ROWS = 8
HERE = "this report"  # made the verdict itself
Record = Mapping[str, Any]


def decisions(findings: Findings) -> list[Block]:
    """The governor's newest decisions, equal ones in a row together, and whether a person has paused it.

    Parameters
    ----------
    findings : Findings

    Returns
    -------
    list of Block
    """
    found: list[Block] = []
    state = findings.state or {}
    if state.get("paused"):
        pause = state.get("pause") or {}
        who = f" by {shown(pause['by'], 80)}" if pause.get("by") else ""
        since = f" since {_when(pause['at'])}" if pause.get("at") else ""
        why = f": {shown(pause['reason'], 200)}" if pause.get("reason") else ""
        found.append(
            Prose([f"Retraining is paused{who}{since}{why}. Drift starts nothing until it is resumed."], strong=1)
        )
    if not findings.decisions:
        return [*found, Prose([_without_records(state)])]
    runs = [list(same) for _, same in groupby(findings.decisions, key=lambda one: (did(one), list(one["reasons"])))]
    rows = [[_period(same), did(same[0]), why_of(same[0])] for same in runs[:ROWS]]
    return [*found, Table(["when (UTC)", "decision", "why"], rows, left=(1, 2))]


def of_verdict(findings: Findings) -> Record | None:
    """The decision on the verdict that is reported; None when there is no record of it."""
    end = findings.verdict["window"]["end"]
    return next((one for one in findings.decisions if (one.get("window") or {}).get("end") == end), None)


def outlook(findings: Findings) -> str:
    """What becomes of the retraining that a drift verdict asks for."""
    decision = of_verdict(findings)
    known = sum(name in findings.truth for name in findings.traffic.inference_id)
    by_truth = any(rule["fired"] and rule["rule"] in ON_TRUTH for rule in findings.verdict["rules"])
    labels = f" Truth has arrived for {count(known, 'payment')} of this window." if known else ""
    if not known and not by_truth:
        labels = " No truth has arrived for this window: without labels of the new traffic no model can learn it."
    if decision and decision.get("start"):
        return f"A retraining was started by itself ({shown(decision.get('execution_id'))}).{labels}"
    if decision:
        return f"No retraining was started: {why_of(decision)} By hand it is `fraud run`.{labels}"
    if (findings.state or {}).get("paused"):
        return f"Retraining is paused, so none starts by itself; by hand it is `fraud run`.{labels}"
    if findings.source == HERE:
        return f"Only the drift check starts a retraining, by its own verdict; by hand it is `fraud run`.{labels}"
    return f"A retraining starts by itself unless the governor holds it back; by hand it is `fraud run`.{labels}"


def did(one: Record) -> str:
    """What a decision came to."""
    if not one.get("start"):
        return "not started"
    return f"started {shown(one['execution_id'])}" if one.get("execution_id") else "started"


def why_of(one: Record) -> str:
    """Why, in the governor's own words, and from when on it may be otherwise."""
    said = str(one.get("in_words") or in_words(one["reasons"]))
    later = f" Possible from {_when(one['allowed_from'])}." if one.get("allowed_from") else ""
    return said + later


def _without_records(state: Record) -> str:
    if not state.get("last_start"):
        return "No decision of the governor is recorded, and it has not started a retraining yet."
    who = f" ({shown(state['execution_id'])})" if state.get("execution_id") else ""
    return f"The last retraining was started at {_when(state['last_start'])}{who}; no decision is recorded."


def _period(same: Sequence[Record]) -> str:
    newest = _when(same[0]["moment"])
    return newest if len(same) == 1 else f"{_when(same[-1]['moment'])} to {newest}, {len(same)} times"


def _when(moment: str) -> str:
    return iso(moment)[:16].replace("T", " ")
