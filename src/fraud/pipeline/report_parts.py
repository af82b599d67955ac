"""The parts of the drift report in their order; all in a row they are its plain-text twin and the brief for e-mail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fraud.advice import advice
from fraud.pipeline import drift_plots, report, report_money, report_tables
from fraud.pipeline.blocks import Badge, Block, Prose
from fraud.pipeline.report import review_rates
from fraud.pipeline.report_governor import decisions, outlook
from fraud.pipeline.report_tables import missing, moved, repeated
from fraud.pipeline.report_truth import on_truth, recorded
from fraud.pipeline.verdict_view import causes, multiple, spark_levels
from fraud.plaintext import count, sparkline
from fraud.verdict import DRIFT

if TYPE_CHECKING:
    from fraud.pipeline.report import Findings

__all__ = [
    "basis",
    "brief",
    "champion",
    "course",
    "decisions",
    "missing",
    "model",
    "money",
    "moved",
    "on_truth",
    "panels",
    "recorded",
    "repeated",
    "rules",
    "scores_over_time",
    "to_do",
    "twin",
    "verdict",
]
MAIL_ROWS = 8
ADVICE = 5  # pieces of advice; more are not followed


def verdict(findings: Findings) -> Badge:
    """The verdict and its sentence, as stored."""
    return Badge(findings.verdict["verdict"], findings.verdict["sentence"])


def money(findings: Findings) -> Prose:
    """What it costs; the sentence that says it all stands out."""
    return Prose(report_money.money_of(findings, review_rates(findings)).sentences, strong=1)


def to_do(findings: Findings) -> Prose:
    """What to do, one item a cause."""
    found = advice(findings.verdict)
    if findings.verdict["verdict"] == DRIFT:
        found = [*found[: ADVICE - 1], outlook(findings)]
    return Prose(found, bullets=True)


def basis(findings: Findings) -> Prose:
    """What the verdict covers, how lasting the change is, and how often such a verdict is wrong."""
    said = [report.describe(findings)]
    lasting, rate = findings.verdict.get("persistence"), findings.verdict.get("expected_false_alarms_per_month")
    if lasting and lasting["of"] > 1:
        needed = f"it takes {lasting['needed']} for DRIFT"
        said.append(f"{lasting['signals']} of the last {lasting['of']} checks had a signal; {needed}.")
    if rate is not None:
        said.append(f"Without any drift these rules raise {rate:.2g} false alarms a month at most.")
    called, n = findings.verdict.get("invocations"), findings.verdict["n"]
    if called is not None:
        said.append(f"Captures were to be there of {count(called, 'call')}; {count(n, 'payment')} were compared.")
    return Prose([" ".join(said)])


def course(findings: Findings) -> Prose:
    """The checks up to this one as a line of blocks."""
    levels = spark_levels(findings.checks)
    known = [value for value in levels if value is not None]
    if not known:
        return Prose(["No check before this one could judge."])
    return Prose(
        [
            f"Largest drift score of the last {count(len(levels), 'check')}, oldest first, as a multiple of its limit: "
            f"{sparkline(levels)} ({'now' if levels[-1] is not None else 'last'} {multiple(known[-1])}, highest "
            f"{multiple(max(known))}; half the height is the limit)."
        ]
    )


def rules(findings: Findings) -> list[dict[str, Any]]:
    """The rules whose scores mean something."""
    return list(findings.verdict["rules"]) if findings.judged else []


def panels(findings: Findings, most: int = 6) -> list[dict[str, Any]]:
    """Distributions of the score and of the features that moved most, for `plot_distributions`."""
    return report.panels(findings, [name for name, _, _ in report_tables.ranked(findings)[: most - 1]])


def scores_over_time(findings: Findings) -> drift_plots.Course:
    """Mean score and share sent to review, slice by slice."""
    return drift_plots.course(findings, review_rates(findings)[0])


def model(findings: Findings) -> Block:
    """Scores and shares sent to review or approved."""
    return report_tables.model(findings, review_rates(findings))


def champion(findings: Findings) -> Prose:
    """How the model did against the one before it, when it was trained."""
    return Prose([findings.champion or "How the model did against the one before it is not stored."])


def twin(findings: Findings, test: str = "") -> list[str]:
    """What the report says, but for its figures, as lines of plain text.

    Parameters
    ----------
    findings : Findings
    test : str
        What an A/B test says.

    Returns
    -------
    list of str
    """
    parts: list[tuple[str, Sequence[Block]]] = [
        ("", [verdict(findings), money(findings)]),
        ("What to do", [to_do(findings)]),
        ("What this covers", [basis(findings), course(findings)]),
        ("What moved", [moved(findings, narrow=True)]),
        ("What the model says", [model(findings)]),
        ("Missing and new", [missing(findings)]),
        ("Repeated values", [repeated(findings)]),
        ("How right it is", on_truth(findings)),
        ("Which of two models is better", [champion(findings), *([Prose([test.replace("**", "")])] if test else [])]),
        ("What the governor did", decisions(findings)),
    ]
    lines: list[str] = []
    for title, blocks in parts:
        lines += [title.upper(), ""] if title else []
        lines += ["\n".join(block.text() for block in blocks), ""]
    return "\n".join(lines[:-1]).splitlines()


def brief(findings: Findings) -> dict[str, Any]:
    """What e-mail and history page show of the report, as plain JSON.

    Returns
    -------
    dict
        ``money``, ``advice``, ``basis`` (sentences), ``moved`` (``columns``, ``rows``, ``marked``, ``note``),
        ``causes``, ``levels`` (of the last checks).
    """
    table = moved(findings, MAIL_ROWS, narrow=True)
    return {
        "money": list(money(findings).sentences),
        "advice": list(to_do(findings).sentences),
        "basis": basis(findings).sentences[0],
        "moved": {
            "columns": list(table.columns),
            "rows": [list(row) for row in table.rows],
            "marked": list(table.marked),
            "note": table.note,
        },
        "causes": causes(findings.verdict),
        "levels": spark_levels(findings.checks),
    }
