"""Lambda on a schedule: compare live traffic with the training data, store the verdict, start the retraining."""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import check
import metrics
from acting import act
from aws import Bucket, Settings

from fraud.decision import NO_RELEASE, Decision, Outcome
from fraud.moment import seconds
from fraud.verdict import INSUFFICIENT_DATA

POLICY_FILE = Path(__file__).with_name("policy.json")  # written by lambdas/bundle.py
LATE = 86_400.0  # an event older than that is no repetition; its window is taken as now


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Check once; an error is the Lambda's own, so that it is delivered again."""
    settings, now, began = Settings.from_environ(), time.time(), time.perf_counter()
    bucket, owner = Bucket(settings.bucket), str(getattr(context, "aws_request_id", "")) or f"{now!r}"
    pointer = bucket.find(f"releases/{settings.endpoint}/current.json")
    if pointer is None:
        empty = {"verdict": INSUFFICIENT_DATA, "n": 0, "unreadable": 0}
        metrics.put(settings.endpoint, metrics.values(empty, started=False, took=time.perf_counter() - began))
        none = Outcome(Decision(False, (NO_RELEASE,)))
        return _report(empty | {"sentence": "Nothing is deployed yet."}, none, None)
    release, policy = json.loads(pointer[0]), json.loads(POLICY_FILE.read_bytes())
    millis = getattr(context, "get_remaining_time_in_millis", None)
    moment = moment_of(event, now)
    found = check.find(
        bucket,
        settings.endpoint,
        release,
        moment,
        now,
        policy,
        left=lambda: millis() / 1000 if millis else math.inf,
    )
    if not found.stored:
        found = check.store(bucket, settings.endpoint, moment, found)
    dry_run = bool(event.get("dry_run"))
    outcome, failure = act(settings, bucket, release, found, policy, owner, now, dry_run=dry_run)
    started = bool(outcome and outcome.decision.start)
    took = time.perf_counter() - began
    shown = metrics.values(found.verdict, captured=found.captured, started=started, took=took)
    metrics.put(settings.endpoint, shown)
    if failure:
        raise failure
    assert outcome is not None  # there was no failure
    return _report(found.verdict, outcome, found.key)


def moment_of(event: dict[str, Any], now: float) -> float:
    """End of the window: the scheduled time, the same for each delivery of an event; else now, in whole seconds."""
    try:
        time_of = float(int(seconds(str(event["time"]))))
    except (KeyError, ValueError, OverflowError):
        return float(int(now))
    return time_of if now - LATE <= time_of <= now + 300 else float(int(now))


def _report(verdict: dict[str, Any], outcome: Outcome, key: str | None) -> dict[str, Any]:
    report = {
        "verdict": verdict["verdict"],
        "sentence": verdict["sentence"],
        "decision": {"start": outcome.decision.start, "reasons": list(outcome.decision.reasons)},
        "execution_id": outcome.execution_id,
        "verdict_key": key,
    }
    sys.stdout.write(json.dumps({"level": "INFO", "n": verdict["n"], **report}) + "\n")
    return report
