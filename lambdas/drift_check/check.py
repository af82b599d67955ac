"""One look at the traffic: what was captured, how often the endpoint was called, what truth says; and one verdict."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import aws
from aws import Bucket
from botocore.exceptions import BotoCoreError, ClientError
from hourly import CAPTURE_DELAY, Counter
from truth import performance_of

from fraud import callers
from fraud.drift import judge, reference_of
from fraud.hours import BUCKET, HOUR, hours_of
from fraud.moment import iso, seconds
from fraud.plaintext import percent
from fraud.schema import Schema
from fraud.verdict import DRIFT, FEW, JUDGED, MISSING_CAPTURE, OK, POLICY, VERDICTS, capture_slack, persistence
from fraud.window import VARIANT, Window

CARRIED = 600.0  # seconds of an hour whose requests may lie in a file that was opened the hour before
COMPLETE, USABLE = 0.9, 0.5  # share of the calls that is captured: below the first people are told
APART = 300.0  # seconds between two checks that both count: with less they have seen the same
LONGEST = 32  # days that earlier checks are looked for
WEEK = 7 * 24 * HOUR
DAY = 24 * HOUR
METRICS = ("Invocations", "Invocation4XXErrors", "Invocation5XXErrors")
_VERDICT = re.compile(rf"/(\d{{4}})/(\d\d)/(\d\d)/(\d\d)(\d\d)(\d\d)-({'|'.join(VERDICTS)})\.json")


@dataclass(frozen=True)
class Found:
    """What a check found.

    Attributes
    ----------
    verdict : dict
        The verdict object.
    key : str
        Where it lies, or will.
    stored : bool
        Whether an earlier delivery of the same event has stored it.
    captured : float or None
        Share of the calls that was captured; None when nobody knows.
    """

    verdict: dict[str, Any]
    key: str
    stored: bool = False
    captured: float | None = None


def find(
    bucket: Bucket,
    endpoint: str,
    release: Mapping[str, Any],
    end: float,
    now: float,
    policy: Mapping[str, Any],
    left: Callable[[], float],
) -> Found:
    """Judge the window that ends at a moment, or find it judged.

    Parameters
    ----------
    bucket : Bucket
    endpoint : str
        Endpoint name.
    release : mapping
        What is in service.
    end, now : float
        Seconds since 1970, UTC.
    policy : mapping
        Names as in the parameters of 04_drift_report.
    left : callable
        Seconds that are left.

    Raises
    ------
    UnfinishedError
        When the time is over; what was counted is kept.
    """
    earlier: list[dict[str, Any]] = []
    _, of = persistence(POLICY | dict(policy))
    before = end  # of the check that was taken last
    for moment, key in _verdicts(bucket, endpoint, end, LONGEST):
        if moment < end and len(earlier) >= of - 1:
            break
        verdict = json.loads(bucket.read(key))
        if verdict.get("model_version") != release["model_version"]:
            break  # checks of another model say nothing about this one
        if moment == end and verdict.get("schema_version") == 2:
            return Found(verdict, key, stored=True)
        if before - moment >= APART:
            earlier.append(verdict)
            before = moment
    found = _judge(bucket, endpoint, release, end, now, policy, left, [_signal(one) for one in earlier])
    return dataclasses.replace(found, key=_key(endpoint, end, found.verdict))


def store(bucket: Bucket, endpoint: str, end: float, found: Found) -> Found:
    """Keep a verdict, or find the one that another delivery kept for the same moment: that one counts for both.

    The name of a verdict's object says what it is, so two that differ would not exclude each other there.
    """
    claim = f"drift/{endpoint}/judged/{_stamp(end)}.json"
    if not bucket.put_once(claim, found.verdict):
        verdict = json.loads(bucket.read(claim))
        if verdict["model_version"] == found.verdict["model_version"]:
            found = Found(verdict, _key(endpoint, end, verdict), stored=True, captured=found.captured)
    bucket.put_once(found.key, found.verdict)
    return found


def _key(endpoint: str, end: float, verdict: Mapping[str, Any]) -> str:
    return f"{_folder(endpoint)}{_stamp(end)}-{verdict['verdict']}.json"


def _stamp(moment: float) -> str:
    at = iso(moment)
    return f"{at[:10].replace('-', '/')}/{at[11:19].replace(':', '')}"


def _folder(endpoint: str) -> str:
    return f"drift/{endpoint}/verdicts/"


def _verdicts(bucket: Bucket, endpoint: str, end: float, days: int) -> Iterator[tuple[float, str]]:
    """Moments and keys of the verdicts of so many days, until a moment, newest first."""
    for day in (end - back * DAY for back in range(days)):
        for key in sorted(bucket.keys(f"{_folder(endpoint)}{iso(day)[:10].replace('-', '/')}/"), reverse=True):
            if named := _VERDICT.search(key):
                moment = seconds("{}-{}-{}T{}:{}:{}Z".format(*named.groups()))
                if moment <= end:
                    yield moment, key


def _usual(bucket: Bucket, endpoint: str, end: float) -> dict[str, float]:
    """Shares that callers have had for days, whatever model was in service; windows with too little say nothing."""
    keys = [next(_verdicts(bucket, endpoint, end - back * DAY, 2), (0.0, ""))[1] for back in range(1, callers.WEEK + 1)]
    found = [json.loads(bucket.read(key)) for key in dict.fromkeys(keys) if key]
    return callers.usual_shares([one["callers"] for one in found if one.get("callers") and one["verdict"] in JUDGED])


def _signal(verdict: Mapping[str, Any]) -> bool:
    return verdict["verdict"] in (OK, DRIFT) and bool(verdict.get("signal", verdict["verdict"] == DRIFT))


def _judge(
    bucket: Bucket,
    endpoint: str,
    release: Mapping[str, Any],
    end: float,
    now: float,
    policy: Mapping[str, Any],
    left: Callable[[], float],
    previous: list[bool],
) -> Found:
    baseline = json.loads(bucket.read(release["baseline_key"]))
    schema = Schema.from_json(bucket.read(release["schema_key"]))
    released = seconds(release["released_at"])
    start = min(max(end - HOUR * policy["window_hours"], released), end)
    share, enough = float(policy.get("max_caller_share", 1.0)), int(policy["min_records"])
    counter = Counter(bucket, endpoint, baseline, schema, released, left, share)
    variants = counter.variants()
    usual = functools.cache(lambda: _usual(bucket, endpoint, end))
    window = counter.window(start, end, variants).result(share, enough, usual)
    tested = [release["challenger"]["variant"]] if release.get("challenger") else []
    calls, notes = _calls(endpoint, sorted({VARIANT, *tested, *variants}), start, end)
    sampled = float(release.get("capture_percentage", 100)) / 100
    calls = calls if calls is None else round(calls * sampled)  # those of which a capture is to be expected
    captured = _captured(window, calls, start, end)
    slack = capture_slack(calls or 0, sampled)
    if captured and captured < COMPLETE - slack:
        notes.append(f"Only {percent(captured)} of {calls:,} calls were captured.")
    season = None
    if policy.get("season"):
        before = counter.stored(start - WEEK, end - WEEK).result(share, enough, usual)
        if before.sketch.n >= enough:
            season = reference_of(baseline, before.sketch)
        else:
            notes.append("There is too little traffic of the same hours a week before to compare with.")
    performance = None
    try:
        columns = release.get("label_columns")
        performance = performance_of(bucket.items, bucket.read, endpoint, baseline, now, policy, bucket.put, columns)
    except Exception as error:  # whatever it is, the traffic can be judged without
        notes.append(f"What is known of the truth could not be read ({type(error).__name__}).")
    verdict = judge(
        baseline,
        window.sketch,
        policy,
        (start, end),
        endpoint,
        now,
        invocations=calls,
        sampled=sampled,
        unreadable=window.unreadable,
        skipped=window.skipped,
        repeated=window.repeated,
        capped=window.capped,
        callers=window.callers,
        usual_callers=window.usual_callers,
        notes=[*window.notes, *notes],
        previous=previous,
        performance=performance,
        season=season,
    )
    few = captured is not None and captured < USABLE - slack and (calls or 0) >= FEW
    if few and verdict["verdict"] != MISSING_CAPTURE:
        said = "Nothing can be judged: too few of the endpoint's calls were captured."
        verdict |= {"verdict": MISSING_CAPTURE, "sentence": " ".join([said, *verdict["notes"]]), "signal": False}
    return Found(verdict, "", captured=captured)


def _span(start: float, end: float) -> tuple[float, float]:
    """The part of a window in which everything captured must be there, in whole buckets of time."""
    begin = max(start, hours_of(start, end)[0] + CARRIED) if start < end else start
    return math.ceil(begin / BUCKET) * BUCKET, (end - CAPTURE_DELAY) // BUCKET * BUCKET


def _calls(endpoint: str, variants: list[str], start: float, end: float) -> tuple[int | None, list[str]]:
    """How often the endpoint answered, as far as its captured data must be there; None and why when nobody knows."""
    since, until = _span(start, end)
    if until <= since:
        return None, []
    queries = []
    for k, variant in enumerate(variants):
        named = [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": variant}]
        for j, name in enumerate(METRICS):
            metric = {"Namespace": "AWS/SageMaker", "MetricName": name, "Dimensions": named}
            queries.append({"Id": f"v{k}m{j}", "MetricStat": {"Metric": metric, "Period": BUCKET, "Stat": "Sum"}})
    totals: dict[str, float] = {str(query["Id"]): 0.0 for query in queries}
    try:
        pages = aws.client("cloudwatch").get_paginator("get_metric_data")
        for page in pages.paginate(MetricDataQueries=queries, StartTime=since, EndTime=until):
            for item in page["MetricDataResults"]:
                totals[item["Id"]] += sum(item["Values"])
    except (ClientError, BotoCoreError):
        return None, ["How often the endpoint was called could not be read."]
    # What the model refused has no answer that could be captured.
    answered = sum(value if query.endswith("m0") else -value for query, value in totals.items())
    return max(0, int(answered)), []


def _captured(window: Window, calls: int | None, start: float, end: float) -> float | None:
    """Share of the calls that was captured, whatever became of it then."""
    if not calls:
        return None
    since, until = _span(start, end)
    return (sum(n for at, n in window.requests.items() if since <= at < until) + window.unreadable) / calls
