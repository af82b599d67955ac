"""What follows from a verdict: the governor decides, people are told, and the decision is kept as a record."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import message
from aws import Bucket, Item, Pipeline, Settings, State
from botocore.exceptions import BotoCoreError, ClientError
from check import Found

from fraud import advice, governor
from fraud.decision import DRY_RUN, FAILED, Decision, Outcome
from fraud.label_files import read_label_file
from fraud.labels import LabelColumns, hour_folder, label_columns
from fraud.moment import iso, seconds

DAY = 86_400.0
RUN = 7 * DAY  # from a start to its release, with a person's approval in between
FIRST = 20  # topics of a verdict that make it news
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
        The first thing that went wrong. What could be done is done: people are told, the record is kept. It is raised
        in the end, so that the event is delivered again.
    """
    if dry_run:
        return Outcome(Decision(False, (DRY_RUN,))), None
    outcome, failures = None, list[Exception]()
    with _noted(failures):
        outcome = _govern(settings, bucket, release, found.verdict, policy, owner)
    decided = outcome or Outcome(Decision(False, (FAILED,)))
    told: list[str] = []
    if settings.topic and found.verdict["verdict"] in message.WHAT:
        records: list[dict[str, Any]] = []
        with _noted(failures):  # without the records: rather twice than not at all
            records = _records(bucket, settings.endpoint, now)
        topics = news(advice.topics(found.verdict), decided.decision, records, found.key)
        if topics:
            why = None if outcome else failures[0]
            with _noted(failures):
                text = message.text(settings.endpoint, settings.bucket, found.key, found.verdict, outcome, why)
                message.send(settings.topic, *text)
                told = topics
    made = governor.record(found.verdict, decided, now, policy, verdict_key=found.key, owner=owner, told=told)
    with _noted(failures):
        bucket.put_once(governor.record_key(made), made)  # after people are told, for the same reason
    return outcome, next(iter(failures), None)


@contextmanager
def _noted(failures: list[Exception]) -> Iterator[None]:
    """Whatever goes wrong here, what comes next is done all the same."""
    try:
        yield
    except Exception as error:
        failures.append(error)


def _govern(
    settings: Settings,
    bucket: Bucket,
    release: Mapping[str, Any],
    verdict: Mapping[str, Any],
    policy: Mapping[str, Any],
    owner: str,
) -> Outcome:
    state = State(bucket, f"locks/drift/{settings.endpoint}.json")

    def labels() -> int | None:
        last = (state.get()[0] or {}).get("last_start")
        since = learnt(seconds(release["released_at"]), seconds(last) if last else None)
        columns = label_columns(release.get("label_columns"))
        return new_labels(bucket, since, int(policy.get("min_new_labels", 1)), columns)

    return governor.start_once(verdict, state, Pipeline(settings.pipeline), policy, owner, time.time, labels)


def _records(bucket: Bucket, endpoint: str, now: float) -> list[dict[str, Any]]:
    """What was decided in the last day."""
    folder, since = f"drift/{endpoint}/decisions/", iso(now - DAY)
    # A record's name begins with its second; whatever follows that stands before a tilde.
    first = f"{folder}{since[:10].replace('-', '/')}/{since[11:19].replace(':', '')}~"
    found = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for body in pool.map(bucket.read, bucket.keys(folder, first)):
            try:
                made = json.loads(body)
            except ValueError:
                continue  # damaged: it has told nobody of anything
            if isinstance(made, dict) and isinstance(made.get("told", []), list):
                found.append(made)
    return found


def news(topics: list[str], decision: Decision, records: list[dict[str, Any]], key: str) -> list[str]:
    """What people are to be told of, with all that belongs to it; nothing when it has been told within a day.

    A drift that lasts is judged every hour. It is told once a day, and at once when something else moves, a retraining
    is started, or could not be. All that belongs to a verdict has been told with it, but only its first topics make it
    news: where everything moves a little, something hovers at its limit all day.

    Parameters
    ----------
    topics : list of str
        Of the verdict, in its order.
    decision : Decision
        On the verdict.
    records : list of dict
        Of the last day.
    key : str
        Where the verdict lies.
    """
    mine = [made for made in records if made.get("verdict_key") == key]
    started = decision.start and not any(made.get("start") and made.get("told") for made in mine)
    failed = [FAILED] if FAILED in decision.reasons else []
    known = {topic for made in records for topic in made.get("told") or ()}
    return [*topics, *failed] if started or not known.issuperset([*topics[:FIRST], *failed]) else []


def learnt(released: float, last_start: float | None) -> float:
    """Since when labels are new to the model in service; seconds since 1970.

    A retraining reads the labels some time between its start and its release, so those that come in between may have
    been read or not. They count as new: counted twice they bring a retraining too many, not counted they hold one up.
    A retraining that was not released has read them as well, and failed the gate with what they teach.

    Parameters
    ----------
    released : float
        When the model in service was released.
    last_start : float or None
        When a retraining was started last.
    """
    return last_start if last_start is not None and released < last_start + RUN else released


def new_labels(bucket: Bucket, since: float, enough: int, columns: LabelColumns) -> int | None:
    """How many labels have come in since a moment; None when that cannot be read.

    Counting stops when there are enough: most come into the folders of their hours, and all else is listed only where
    those are too few. There a file may have any name, and is new by the moment at which it came.

    A payment that nobody complained about becomes legitimate by its age alone. That teaches little about fraud, and is
    not counted.
    """
    first = hour_folder(since)
    count = 0
    try:
        others = itertools.takewhile(lambda item: item.key <= first, bucket.items("labels/"))
        for item in itertools.chain(bucket.items("labels/", after=first), others):
            if item.modified >= since and item.size:
                count += _labels(bucket, item, columns)
            if count >= enough:
                break
    except (ClientError, BotoCoreError):
        return None
    return count


def _labels(bucket: Bucket, item: Item, columns: LabelColumns) -> int:
    """Labels of a file, read as the next training reads them: what it cannot use is nothing to learn from."""
    try:
        return len(read_label_file(bucket.read(item.key), item.key, columns, item.modified).labels)
    except FileNotFoundError:
        return 0  # gone since it was listed
