"""What the story says at its end, in plain words, from facts gathered on the way."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, field

from fraud.demo.report import Report


@dataclass
class Facts:
    """What happened.

    Attributes
    ----------
    history, history_rows, change
        Of the material.
    run_id, retrain_id : str
        The first run, and the one that the drift check started.
    champion_auc, challenger_auc : float or None
        On the same newest rows.
    first_auc : float or None
        Of the first model on its own newest rows.
    report : Report
        All traffic.
    labels, labels_failed : int
        Ground truth that was taken, and requests that failed.
    before, drift : str
        Sentences of the verdicts before the traffic changed and when the pipeline was started.
    early : bool
        Whether the pipeline was started before the traffic was changed.
    pages, mails : list of str
        Files with reports and e-mails.
    bucket, api_url, endpoint, tools, body, notebook : str
        Where things are, as they are typed; ``tools`` is the folder of the programs, ``body`` a transaction.
    seconds : dict of str to float
        Wall time of each step.
    notes : list of str
        What else a person should know.
    """

    history: str = ""
    history_rows: int = 0
    change: str = ""
    run_id: str = ""
    retrain_id: str = ""
    champion_auc: float | None = None
    challenger_auc: float | None = None
    first_auc: float | None = None
    report: Report = field(default_factory=Report)
    labels: int = 0
    labels_failed: int = 0
    before: str = ""
    drift: str = ""
    early: bool = False
    pages: list[str] = field(default_factory=list)
    mails: list[str] = field(default_factory=list)
    bucket: str = ""
    api_url: str = ""
    endpoint: str = "fraud"
    tools: str = ".venv/bin"
    body: str = "transaction.json"
    notebook: str = "notebooks/04_drift_report.ipynb"
    seconds: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        """Requests that a caller would call failed."""
        return self.report.failed + self.labels_failed

    @property
    def good(self) -> bool:
        """Whether the loop closed without a failed request."""
        return self.failed == 0 and bool(self.retrain_id)


def number(value: float | None, digits: int = 3) -> str:
    """A figure for people; a dash when there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def summary(facts: Facts) -> list[str]:
    """Say what happened, where everything lies and how to go on.

    Returns
    -------
    list of str
        Lines; those by hand can be pasted into a shell.
    """
    return [*_model(facts), "", *_traffic(facts), "", *_places(facts), "", *_by_hand(facts), "", *_times(facts)]


def _model(facts: Facts) -> list[str]:
    lines = [
        "What happened",
        f"  A model learnt from {facts.history_rows:,} transactions of {facts.history} "
        f"(AUC {number(facts.first_auc)} on its own newest rows) and was deployed.",
    ]
    if facts.before:
        lines.append(f"  Before the traffic changed, the drift check said: {facts.before}")
    if facts.early:
        lines.append(
            "  The drift check found that the traffic differs from the history by itself, before it was changed, "
            f"and started the pipeline: {facts.drift}"
        )
        lines.append(f"  While the pipeline worked, the traffic changed too: {facts.change}.")
    else:
        lines.append(f"  Then the traffic changed: {facts.change}.")
        lines.append(f"  The drift check found it and started the pipeline by itself: {facts.drift}")
    champion, challenger = facts.champion_auc, facts.challenger_auc
    if champion is not None and challenger is not None:
        word = "better" if challenger > champion else "no better"
        lines.append(
            f"  AUC on the same newest rows: {number(champion)} before, {number(challenger)} after retraining "
            f"({challenger - champion:+.3f}); the new model is {word}."
        )
    served = [f"{version} {number(area)}" for version, area in facts.report.auc.items()]
    if served:
        lines.append(f"  AUC of what was served, on all labels known by now: {', '.join(served)}.")
    return lines + [f"  {note}" for note in facts.notes]


def _traffic(facts: Facts) -> list[str]:
    report = facts.report
    models = ", ".join(f"{count:,} by {version}" for version, count in report.by_model_version.items())
    lines = [
        "Traffic",
        f"  {report.sent:,} requests with {report.transactions:,} transactions ({report.frauds:,} of them fraud), "
        f"{facts.failed:,} failed; {report.refused:,} malformed ones were refused, as they should be.",
        f"  Scored: {models or 'none'}. Half of the requests took up to {number(report.p50, 0)} ms, "
        f"99 % up to {number(report.p99, 0)} ms.",
        f"  Ground truth was delivered later for {facts.labels:,} of the transactions.",
    ]
    return lines + [f"  Failed: {problem}" for problem in report.problems[:5]]


def _places(facts: Facts) -> list[str]:
    lines = ["Where to look"]
    lines += [f"  report   {page}" for page in facts.pages]
    lines += [f"  e-mail   {mail}" for mail in facts.mails] or ["  e-mail   none was sent"]
    for run_id in (facts.run_id, facts.retrain_id):
        if run_id:
            lines.append(f"  run      s3://{facts.bucket}/runs/{run_id}/")
    return lines


def _by_hand(facts: Facts) -> list[str]:
    tool = facts.tools.rstrip("/")
    return [
        "Go on by hand",
        f'  eval "$({shlex.quote(f"{tool}/fraud")} local env)"',
        '  curl -s --aws-sigv4 "aws:amz:$AWS_REGION:execute-api" --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" '
        f"-H 'content-type: application/json' -d @{shlex.quote(facts.body)} {shlex.quote(f'{facts.api_url}/predict')}",
        f"  aws sagemaker describe-endpoint --endpoint-name {shlex.quote(facts.endpoint)}",
        f"  {shlex.quote(f'{tool}/jupyter')} lab {shlex.quote(facts.notebook)}",
        f"  {shlex.quote(f'{tool}/fraud')} local tick      # what the schedule does each hour",
        f"  {shlex.quote(f'{tool}/fraud')} local down      # stop it; what it holds stays on disk",
    ]


def _times(facts: Facts) -> list[str]:
    width = max((len(title) for title in facts.seconds), default=0)
    width = max(width, len("together"))
    lines = [f"  {title:<{width}}  {took:6.1f} s" for title, took in facts.seconds.items()]
    return ["Wall time", *lines, f"  {'together':<{width}}  {sum(facts.seconds.values()):6.1f} s"]
