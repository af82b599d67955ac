"""What people are told when a check finds something: what is wrong, what was done about it, and what they can do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aws

from fraud.advice import advice
from fraud.decision import FAILED, Outcome, in_words
from fraud.errors import FraudError
from fraud.verdict import DRIFT, MISSING_CAPTURE, SCHEMA_CHANGED

WHAT = {DRIFT: "drift", MISSING_CAPTURE: "nothing captured", SCHEMA_CHANGED: "other fields"}
"""Verdicts that people are told of, as the subject has them."""

THEN = {
    True: "When the retraining is over its report comes by mail; the new model goes into service only when it passes "
    "the gate.",
    False: "`fraud run` retrains by hand; without labels of such payments a new model cannot learn them.",
}
"""What comes after a drift, by whether a retraining was started."""
SAID = 2  # pieces of advice; the report has them all


def text(
    endpoint: str,
    bucket: str,
    key: str,
    verdict: Mapping[str, Any],
    outcome: Outcome | None,
    failure: Exception | None = None,
) -> tuple[str, str]:
    """Subject and message.

    Parameters
    ----------
    endpoint, bucket : str
    key : str
        Where the verdict lies.
    verdict : mapping
        Its verdict is a key of ``WHAT``.
    outcome : Outcome or None
        Of the governor; None when the retraining could not be started.
    failure : Exception, optional
        Why it could not; said when it is one of this product's own, whose sentence is for people.
    """
    started = outcome is not None and outcome.decision.start
    if outcome is None:
        action = f"{in_words(FAILED)} {failure}" if isinstance(failure, FraudError) else in_words(FAILED)
    elif started:
        action = f"{in_words(outcome.decision.reasons)} Execution {outcome.execution_id}."
    else:
        action = f"No retraining was started. {in_words(outcome.decision.reasons)}"
    window = verdict["window"]
    lines = [
        verdict["sentence"],
        "",
        f"What was done: {action}",
        f"What to do: {_to_do(verdict, started)}",
        "",
        f"Endpoint {endpoint}, model {verdict['model_version']}",
        f"Traffic from {window['start']} to {window['end']}, {verdict['n']:,} payments",
        f"Reports: s3://{bucket}/drift/{endpoint}/reports/index.html",
        f"This verdict: s3://{bucket}/{key}",
        "Pause retraining: fraud drift pause. Start again: fraud drift resume.",
    ]
    return f"[{endpoint}] {WHAT[verdict['verdict']]}"[:100], "\n".join(lines)


def _to_do(verdict: Mapping[str, Any], started: bool) -> str:
    found = advice(verdict)[:SAID]
    return " ".join([*found, THEN[started]] if verdict["verdict"] == DRIFT else found)


def send(topic: str, subject: str, message: str) -> None:
    """Publish a message."""
    aws.client("sns").publish(TopicArn=topic, Subject=subject, Message=message)
