"""Lambda on a schedule: compare live traffic with the training data, store the verdict, start the retraining."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from fraud.drift import judge
from fraud.errors import ConflictError
from fraud.governor import Decision, Outcome, start_once
from fraud.moment import iso, seconds
from fraud.schema import Schema
from fraud.verdict import DRIFT, INSUFFICIENT_DATA, MISSING_CAPTURE, SCHEMA_CHANGED, VERDICTS
from fraud.window import Window, read_window

POLICY_FILE = Path(__file__).with_name("policy.json")  # written by lambdas/bundle.py
PATIENCE = Config(connect_timeout=2, read_timeout=20, retries={"total_max_attempts": 5, "mode": "standard"})
CAPTURE_DELAY = 900.0  # seconds until captured data has arrived for sure
LATE = 86_400.0  # an event older than that is no repetition; its window is taken as now
VARIANT = "AllTraffic"
CHANGED = {"409", "412", "404", "ConditionalRequestConflict", "PreconditionFailed", "NoSuchKey"}
RUNNING = {"InProgress", "Stopping"}


@dataclass(frozen=True)
class Settings:
    """What the environment says."""

    endpoint: str
    bucket: str
    pipeline: str
    topic: str

    @classmethod
    def from_environ(cls) -> Settings:
        """Read ``ENDPOINT_NAME``, ``BUCKET``, ``PIPELINE_NAME`` and ``TOPIC_ARN``; without a topic nobody is told."""
        given = os.environ
        return cls(given["ENDPOINT_NAME"], given["BUCKET"], given["PIPELINE_NAME"], given.get("TOPIC_ARN", ""))


@functools.cache
def client(service: str) -> Any:
    """The one client of a service in this process."""
    return boto3.client(service, config=PATIENCE)


def _code(error: ClientError) -> str:
    return str(error.response["Error"]["Code"])


class Bucket:
    """The objects this Lambda reads and writes."""

    def __init__(self, name: str) -> None:
        self.name, self.s3 = name, client("s3")

    def find(self, key: str) -> tuple[bytes, str] | None:
        """Body and entity tag; None when there is no such object."""
        try:
            answer = self.s3.get_object(Bucket=self.name, Key=key)
            return answer["Body"].read(), answer["ETag"]
        except self.s3.exceptions.NoSuchKey:
            return None

    def read(self, key: str) -> bytes:
        """Body of an object; `FileNotFoundError` when there is none: that is no empty window."""
        if (found := self.find(key)) is None:
            raise FileNotFoundError(key)
        return found[0]

    def keys(self, prefix: str) -> Iterator[str]:
        """Keys under a prefix."""
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
            yield from (item["Key"] for item in page.get("Contents", ()))

    def folders(self, prefix: str) -> list[str]:
        """Names right under a prefix that ends with a slash."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix, Delimiter="/")
        return [item["Prefix"].split("/")[-2] for page in pages for item in page.get("CommonPrefixes", ())]

    def put_if(self, key: str, document: dict[str, Any], etag: str | None) -> str:
        """Write if the tag still holds, or without one if there is no object; else `ConflictError`."""
        condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        body = json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
        try:
            kind = "application/json"
            answer = self.s3.put_object(Bucket=self.name, Key=key, Body=body, ContentType=kind, **condition)
            return str(answer["ETag"])
        except ClientError as error:
            if _code(error) in CHANGED:
                raise ConflictError(key) from error
            raise


@dataclass(frozen=True)
class State:
    """The governor's state: `fraud.governor.Store` over one object."""

    bucket: Bucket
    key: str

    def get(self) -> tuple[dict[str, Any] | None, str | None]:
        """Document and tag."""
        found = self.bucket.find(self.key)
        return (json.loads(found[0]), found[1]) if found else (None, None)

    def put_if(self, document: dict[str, Any], etag: str | None) -> str:
        """Write if the tag still holds."""
        return self.bucket.put_if(self.key, document, etag)


@dataclass(frozen=True)
class Pipeline:
    """CodePipeline as `fraud.governor.Pipeline`."""

    name: str

    def _newest(self) -> list[dict[str, Any]]:
        answer = client("codepipeline").list_pipeline_executions(pipelineName=self.name, maxResults=50)
        return list(answer["pipelineExecutionSummaries"])

    def in_flight(self) -> bool:
        """Whether an execution is under way, whoever started it."""
        return any(item["status"] in RUNNING for item in self._newest())

    def started_since(self, moment: float) -> str | None:
        """Execution that was started by a call since then; clocks may differ by a few seconds."""
        for item in self._newest():
            kind = item.get("trigger", {}).get("triggerType", "StartPipelineExecution")
            if kind == "StartPipelineExecution" and seconds(item["startTime"]) >= moment - 5:
                return str(item["pipelineExecutionId"])
        return None

    def start(self, token: str) -> str:
        """Start an execution; the same token starts it once."""
        answer = client("codepipeline").start_pipeline_execution(name=self.name, clientRequestToken=token)
        return str(answer["pipelineExecutionId"])


def invocations(endpoint: str, variants: list[str], start: float, end: float) -> tuple[int | None, list[str]]:
    """How often the endpoint was called, as far as its captured data must be there; None and why when nobody knows."""
    if (until := end - CAPTURE_DELAY) <= start:
        return None, []
    queries = []
    for k, variant in enumerate(variants):
        named = [{"Name": "EndpointName", "Value": endpoint}, {"Name": "VariantName", "Value": variant}]
        metric = {"Namespace": "AWS/SageMaker", "MetricName": "Invocations", "Dimensions": named}
        queries.append({"Id": f"v{k}", "MetricStat": {"Metric": metric, "Period": 3600, "Stat": "Sum"}})
    try:
        pages = client("cloudwatch").get_paginator("get_metric_data")
        found = pages.paginate(MetricDataQueries=queries, StartTime=start, EndTime=until)
        return int(sum(sum(item["Values"]) for page in found for item in page["MetricDataResults"])), []
    except (ClientError, BotoCoreError):
        return None, ["How often the endpoint was called could not be read."]


def check(settings: Settings, bucket: Bucket, release: dict[str, Any], end: float, now: float) -> dict[str, Any]:
    """Judge the window that ends at a moment."""
    policy = json.loads(POLICY_FILE.read_bytes())
    baseline = json.loads(bucket.read(release["baseline_key"]))
    schema = Schema.from_json(bucket.read(release["schema_key"]))
    start = min(max(end - 3600 * policy["window_hours"], seconds(release["released_at"])), end)
    variants = sorted({VARIANT, *bucket.folders(f"data-capture/{settings.endpoint}/")})
    window: Window = read_window(
        bucket.keys, bucket.read, settings.endpoint, start, end, baseline=baseline, schema=schema, variants=variants
    )
    called, notes = invocations(settings.endpoint, variants, start, end)
    return judge(
        baseline,
        window.sketch,
        policy,
        (start, end),
        settings.endpoint,
        now,
        invocations=called,
        unreadable=window.unreadable,
        skipped=window.skipped,
        notes=notes,
    )


def tell(settings: Settings, verdict: dict[str, Any], outcome: Outcome | None) -> None:
    """Send people a message they understand."""
    if outcome is None:
        action = "The retraining could not be started; it is tried again."
    elif outcome.decision.start:
        action = f"A retraining has been started ({outcome.execution_id})."
    else:
        action = f"No retraining was started ({', '.join(outcome.decision.reasons)})."
    window = verdict["window"]
    lines = [verdict["sentence"], action, "", f"Endpoint {settings.endpoint}, model {verdict['model_version']}"]
    lines += [f"Traffic from {window['start']} to {window['end']}, {verdict['n']:,} payments"]
    what = "drift" if verdict["verdict"] == DRIFT else "nothing captured"
    subject = f"[{settings.endpoint}] {what}"[:100]
    client("sns").publish(TopicArn=settings.topic, Subject=subject, Message="\n".join(lines))


def measure(settings: Settings, verdict: dict[str, Any]) -> None:
    """Write the metrics that alarms and dashboards read."""
    values = {"".join(part.title() for part in name.split("_")): float(verdict["verdict"] == name) for name in VERDICTS}
    values |= {"Records": float(verdict["n"]), "Unreadable": float(verdict["unreadable"])}
    if scores := [
        rule["score"] / rule["threshold"] for rule in verdict["rules"] if rule["score"] and rule["threshold"]
    ]:
        values["TopScore"] = min(max(scores), 1e6)
    named = [{"Name": "EndpointName", "Value": settings.endpoint}]
    data = [{"MetricName": name, "Dimensions": named, "Value": value} for name, value in values.items()]
    client("cloudwatch").put_metric_data(Namespace="Fraud/Drift", MetricData=data)


def moment_of(event: dict[str, Any], now: float) -> float:
    """End of the window: the scheduled time, the same for each delivery of an event; else now, in whole seconds."""
    try:
        time_of = seconds(str(event["time"]))
    except (KeyError, ValueError):
        return float(int(now))
    return time_of if now - LATE <= time_of <= now + 300 else float(int(now))


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Check once; an error is the Lambda's own, so that it is delivered again."""
    settings, now = Settings.from_environ(), time.time()
    bucket, owner = Bucket(settings.bucket), str(getattr(context, "aws_request_id", "")) or f"{now!r}"
    pointer = bucket.find(f"releases/{settings.endpoint}/current.json")
    if pointer is None:
        empty = {"verdict": INSUFFICIENT_DATA, "n": 0, "unreadable": 0, "rules": []}
        measure(settings, empty)
        return _report(
            empty | {"sentence": "Nothing is deployed yet."}, Outcome(Decision(False, ("NO_RELEASE",))), None
        )
    end = moment_of(event, now)
    verdict = check(settings, bucket, json.loads(pointer[0]), end, now)
    moment = iso(end)
    key = f"drift/{settings.endpoint}/verdicts/{moment[:10].replace('-', '/')}/"
    key += f"{moment[11:19].replace(':', '')}-{verdict['verdict']}.json"
    try:
        bucket.put_if(key, verdict, None)
        first = True
    except ConflictError:
        first = False  # this event was delivered before
    outcome, failure = None, None
    try:
        outcome = _govern(settings, bucket, verdict, owner, dry_run=bool(event.get("dry_run")))
    except (ClientError, BotoCoreError, ValueError) as error:
        failure = error  # first people are told, then the event is delivered again
    measure(settings, verdict)
    alarming = verdict["verdict"] in (DRIFT, MISSING_CAPTURE, SCHEMA_CHANGED)
    if first and alarming and settings.topic and not event.get("dry_run"):
        tell(settings, verdict, outcome)
    if failure:
        raise failure
    assert outcome is not None  # there was no failure
    return _report(verdict, outcome, key)


def _govern(settings: Settings, bucket: Bucket, verdict: dict[str, Any], owner: str, *, dry_run: bool) -> Outcome:
    if dry_run:
        return Outcome(Decision(False, ("DRY_RUN",)))
    state = State(bucket, f"locks/drift/{settings.endpoint}.json")
    policy = json.loads(POLICY_FILE.read_bytes())
    return start_once(verdict, state, Pipeline(settings.pipeline), policy, owner, time.time)


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
