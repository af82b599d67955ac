"""What follows from a verdict: the governor decides, people are told, and the decision is kept as a record."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import message
from aws import Bucket, Pipeline, Settings, State
from botocore.exceptions import BotoCoreError, ClientError
from check import Found

from fraud import advice, governor
from fraud.decision import DRY_RUN, FAILED, Decision, Outcome
from fraud.moment import iso, seconds

DAY = 86_400.0
AT_ONCE = 8  # records read; a check each minute leaves 1,440 of them a day


def act(
    settings: Settings,
    bucket: Bucket,
    release: Mapping[str, Any],
    found: Found,
    policy: Mapping[str, Any],
    owner: str,
    now: float,
    *,
    dry_run: bool,
) -> tuple[Outcome | None, Exception | None]:
    """Do what a verdict asks for, once however often it is delivered.

    Parameters
    ----------
    settings, bucket
        Where.
    release : mapping
        What is in service.
    found : Found
        The verdict.
    policy : mapping
        Names as in the parameters of 04_drift_report.
    owner : str
        Names this delivery.
    now : float
        Seconds since 1970, UTC.
    dry_run : bool
        Whether nothing is to be started, told or kept.

    Returns
    -------
    outcome : Outcome or None
        Of the governor.
    failure : Exception or None
        Why the retraining could not be started. People have been told; it is raised in the end, so that the event is
        delivered again.
    """
    if dry_run:
        return Outcome(Decision(False, (DRY_RUN,))), None
    outcome, failure = None, None
    try:
        outcome = _govern(settings, bucket, release, found.verdict, policy, owner)
    except (ClientError, BotoCoreError, ValueError) as error:
        failure = error
    decided = outcome or Outcome(Decision(False, (FAILED,)))
    topics: list[str] = []
    if settings.topic and found.verdict["verdict"] in message.WHAT:
        topics = news(
            advice.topics(found.verdict), decided.decision, _records(bucket, settings.endpoint, now), found.key
        )
        if topics:
            text = message.text(settings.endpoint, settings.bucket, found.key, found.verdict, outcome)
            message.send(settings.topic, *text)
    made = governor.record(found.verdict, decided, now, policy, verdict_key=found.key, owner=owner, told=topics)
    bucket.put_once(governor.record_key(made), made)  # after people are told: rather twice than not at all
    return outcome, failure


def _govern(
    settings: Settings,
    bucket: Bucket,
    release: Mapping[str, Any],
    verdict: Mapping[str, Any],
    policy: Mapping[str, Any],
    owner: str,
) -> Outcome:
    state = State(bucket, f"locks/drift/{settings.endpoint}.json")

    def labels() -> int:
        return new_labels(bucket, seconds(release["released_at"]), int(policy.get("min_new_labels", 1)))

    return governor.start_once(verdict, state, Pipeline(settings.pipeline), policy, owner, time.time, labels)


def _records(bucket: Bucket, endpoint: str, now: float) -> list[dict[str, Any]]:
    """What was decided in the last day."""
    folder, since = f"drift/{endpoint}/decisions/", iso(now - DAY)
    # A record's name begins with its second; whatever follows that stands before a tilde.
    first = f"{folder}{since[:10].replace('-', '/')}/{since[11:19].replace(':', '')}~"
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [json.loads(body) for body in pool.map(bucket.read, bucket.keys(folder, first))]


def news(topics: list[str], decision: Decision, records: list[dict[str, Any]], key: str) -> list[str]:
    """What people are to be told of, with all that belongs to it; nothing when it has been told within a day.

    A drift that lasts is judged every hour. It is told once a day, and at once when something else moves, a retraining
    is started, or could not be.

    Parameters
    ----------
    topics : list of str
        Of the verdict.
    decision : Decision
        On the verdict.
    records : list of dict
        Of the last day.
    key : str
        Where the verdict lies.
    """
    mine = [made for made in records if made["verdict_key"] == key]
    started = decision.start and not any(made["start"] for made in mine)
    topics = [*topics, *([FAILED] if FAILED in decision.reasons else [])]
    known = {topic for made in records for topic in made.get("told", ())}
    return topics if started or not known.issuperset(topics) else []


def new_labels(bucket: Bucket, since: float, enough: int) -> int:
    """How many labels have come in since a moment; counting stops when there are enough.

    A payment that nobody complained about becomes legitimate by its age alone. That teaches little about fraud, and is
    not counted.
    """
    count = 0
    for item in bucket.items("labels/", after=f"labels/{iso(since)[:13].replace('-', '/').replace('T', '/')}"):
        if count >= enough:
            break
        if item.modified >= since and item.size:
            lines = sum(bool(line.strip()) for line in bucket.read(item.key).split(b"\n"))
            count += max(0, lines - item.key.endswith(".csv"))
    return count
