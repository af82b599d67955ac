"""A tick of the schedule: one verdict, one start at most, and never silence where something is wrong."""

import datetime as dt
import json
import random
import uuid
from types import SimpleNamespace

import boto3
import pytest
from botocore.exceptions import ClientError
from lambdas_kit import BUCKET, ENDPOINT, RELEASE, keys, load, put, recorded
from moto.core import DEFAULT_ACCOUNT_ID
from moto.sns import sns_backends

from fraud.capture import encode_line

app = load("drift_check")
NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC).timestamp()
POLICY = {"window_hours": 24, "min_records": 100, "cool_down_hours": 6.0}
LOCK = f"locks/drift/{ENDPOINT}.json"


class CodePipeline:
    """The service over HTTP: validates nothing, is idempotent by token, lists the newest first, fails when told to."""

    def __init__(self):
        self.executions, self.calls, self.fail = [], [], None

    def __call__(self, request):
        operation = request.headers["X-Amz-Target"].partition(".")[2]
        given = json.loads(request.body)
        self.calls.append((operation, given))
        if self.fail == operation:
            return 400, {}, b'{"__type": "PipelineNotFoundException", "message": "no such pipeline"}'
        answer = getattr(self, operation)(given)
        return 200, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(answer).encode()

    def StartPipelineExecution(self, given):
        token = given["clientRequestToken"]
        known = [item["pipelineExecutionId"] for item in self.executions if item["token"] == token]
        if not known:
            self.add("InProgress", token=token)
        return {"pipelineExecutionId": known[0] if known else self.executions[0]["pipelineExecutionId"]}

    def ListPipelineExecutions(self, given):
        names = ("pipelineExecutionId", "status", "startTime", "trigger")
        return {"pipelineExecutionSummaries": [{name: item[name] for name in names} for item in self.executions]}

    def add(self, status, *, at=NOON + 60, token="", kind="StartPipelineExecution"):
        self.executions.insert(
            0,
            {
                "pipelineExecutionId": str(uuid.uuid4()),
                "status": status,
                "startTime": at,
                "trigger": {"triggerType": kind},
                "token": token,
            },
        )


@pytest.fixture(scope="module")
def topic(aws):
    return boto3.client("sns").create_topic(Name="fraud-alarms")["TopicArn"]


@pytest.fixture
def pipeline(s3, serve, topic, tmp_path, monkeypatch):
    """CodePipeline, with the Lambda around it set up: policy, topic, clock."""
    service = CodePipeline()
    monkeypatch.setenv("PIPELINE_NAME", "fraud-retrain")
    monkeypatch.setenv("TOPIC_ARN", topic)
    monkeypatch.setenv("AWS_ENDPOINT_URL_CODEPIPELINE", serve(service))
    (tmp_path / "policy.json").write_text(json.dumps(POLICY))
    monkeypatch.setattr(app, "POLICY_FILE", tmp_path / "policy.json")
    monkeypatch.setattr(app.time, "time", lambda: NOON + 60)
    clients = {name: boto3.client(name, config=app.PATIENCE) for name in ("s3", "sns", "cloudwatch", "codepipeline")}
    monkeypatch.setattr(app, "client", clients.__getitem__)
    told().clear()
    return service


def told():
    """What was published: (subject, message)."""
    topics = sns_backends[DEFAULT_ACCOUNT_ID]["eu-west-1"].topics
    (only,) = topics.values()
    return only.sent_notifications


def tick(event=None, owner="request-1"):
    return app.handler(recorded("schedule") if event is None else event, SimpleNamespace(aws_request_id=owner))


def capture(s3, n=500, *, factor=1.0, end=NOON, model="run-1", junk=b"", variant="AllTraffic", **given):
    """Payments of the two hours before a moment, in files of 250."""
    rng = random.Random(n)
    for part in range(0, n, 250):
        lines = b""
        for k in range(part, min(part + 250, n)):
            transaction = {
                "TransactionAmt": float(rng.randrange(50, 150)) * factor,
                "card4": rng.choice(["visa", "visa", "mastercard", None]),
                "is_new": rng.random() < 0.5,
            }
            score = [0.01 * rng.randrange(60)]
            time = end - 7200 + 7200 * k / n
            lines += encode_line([transaction], score, event_id=f"e{k}", time=time, model_version=model, **given)
        key = f"data-capture/{ENDPOINT}/{variant}/2026/01/02/10/00-00-{part % 1000:03}-{uuid.uuid4()}.jsonl"
        s3.put_object(Bucket=BUCKET, Key=key, Body=lines + junk)


def stored(s3, report):
    return json.loads(s3.get_object(Bucket=BUCKET, Key=report["verdict_key"])["Body"].read())


def metric(name):
    """Sum of a metric of the checks so far; None without any."""
    found = boto3.client("cloudwatch").get_metric_statistics(
        Namespace="Fraud/Drift",
        MetricName=name,
        Dimensions=[{"Name": "EndpointName", "Value": ENDPOINT}],
        StartTime=0,
        EndTime=4_000_000_000,
        Period=4_000_000_020,
        Statistics=["Sum"],
    )["Datapoints"]
    return found[0]["Sum"] if found else None


@pytest.fixture(autouse=True)
def no_metrics(aws):
    from moto.cloudwatch import cloudwatch_backends

    cloudwatch_backends[DEFAULT_ACCOUNT_ID]["eu-west-1"].metric_data.clear()


def test_calm_traffic(s3, pipeline):
    capture(s3)
    report = tick()
    assert report == {
        "verdict": "OK",
        "sentence": report["sentence"],
        "decision": {"start": False, "reasons": ["NOT_DRIFT"]},
        "execution_id": None,
        "verdict_key": f"drift/{ENDPOINT}/verdicts/2026/01/02/120000-OK.json",
    }
    verdict = stored(s3, report)
    assert (verdict["n"], verdict["model_version"]) == (500, "run-1")
    assert verdict["window"] == {"start": "2026-01-01T12:00:00Z", "end": "2026-01-02T12:00:00Z"}
    assert verdict["policy"]["min_records"] == 100
    assert (metric("Drift"), metric("Ok"), metric("Records")) == (0, 1, 500)
    assert not told()
    assert not pipeline.calls
    assert keys(s3, "locks/") == []


def test_drift_starts_the_pipeline_once_and_people_are_told_once(s3, pipeline):
    capture(s3, factor=1.5)
    report = tick()
    assert report["verdict"] == "DRIFT"
    assert report["decision"] == {"start": True, "reasons": ["START"]}
    (execution,) = pipeline.executions
    assert report["execution_id"] == execution["pipelineExecutionId"]
    state = json.loads(s3.get_object(Bucket=BUCKET, Key=LOCK)["Body"].read())
    assert (state["status"], state["execution_id"]) == ("started", report["execution_id"])
    assert metric("Drift") == 1
    assert metric("TopScore") > 1
    ((_, message, subject, *_),) = told()
    assert subject == "[fraud] drift"
    assert message.startswith(report["sentence"])
    assert "TransactionAmt averages" in message
    assert "A retraining has been started" in message
    again = [tick(owner=f"request-{k}") for k in range(3)]
    assert [item["decision"]["reasons"] for item in again] == [["DUPLICATE"]] * 3
    assert len(pipeline.executions) == 1
    assert len(told()) == 1


def test_the_next_hour_cools_down(s3, pipeline, monkeypatch):
    capture(s3, factor=1.5)
    tick()
    pipeline.executions[0]["status"] = "Succeeded"
    for hours, reason in ((1, "COOL_DOWN"), (5, "COOL_DOWN"), (7, "START")):
        monkeypatch.setattr(app.time, "time", lambda hours=hours: NOON + 3600 * hours + 60)
        moment = dt.datetime.fromtimestamp(NOON + 3600 * hours, dt.UTC)
        assert tick({"time": moment.isoformat()})["decision"]["reasons"] == [reason]
    assert len(pipeline.executions) == 2


def test_one_in_flight_is_enough(s3, pipeline):
    capture(s3, factor=1.5)
    pipeline.add("InProgress", kind="Webhook")
    report = tick()
    assert report["decision"] == {"start": False, "reasons": ["IN_FLIGHT"]}
    assert len(pipeline.executions) == 1
    assert "No retraining was started (IN_FLIGHT)." in told()[0][1]


def test_a_pause_holds(s3, pipeline):
    capture(s3, factor=1.5)
    put(s3, LOCK, {"paused": True})
    assert tick()["decision"]["reasons"] == ["PAUSED"]
    assert not pipeline.executions


def test_a_dry_run_stores_the_verdict_and_does_nothing_else(s3, pipeline):
    capture(s3, factor=1.5)
    report = tick(recorded("schedule") | {"dry_run": True})
    assert (report["verdict"], report["decision"]["reasons"]) == ("DRIFT", ["DRY_RUN"])
    assert stored(s3, report)["verdict"] == "DRIFT"
    assert not pipeline.calls
    assert not told()
    assert keys(s3, "locks/") == []


@pytest.mark.parametrize("operation", ["ListPipelineExecutions", "StartPipelineExecution"])
def test_a_pipeline_that_fails_is_an_error_people_hear_of_and_is_tried_again(s3, pipeline, operation):
    capture(s3, factor=1.5)
    pipeline.fail = operation
    with pytest.raises(ClientError):
        tick()
    assert "could not be started" in told()[0][1]
    assert metric("Drift") == 1
    pipeline.fail = None
    report = tick(owner="request-2")
    assert report["decision"]["start"]
    assert len(pipeline.executions) == 1
    assert report["execution_id"] == pipeline.executions[0]["pipelineExecutionId"]


def test_a_start_whose_answer_was_lost_is_found_again(s3, pipeline):
    capture(s3, factor=1.5)
    real = pipeline.StartPipelineExecution

    def lose(given):
        real(given)
        raise ConnectionAbortedError

    pipeline.StartPipelineExecution = lose
    with pytest.raises(app.BotoCoreError):
        tick()
    pipeline.StartPipelineExecution = real
    calls = len(pipeline.calls)
    report = tick(owner="request-2")
    assert report["decision"] == {"start": True, "reasons": ["RECOVERED"]}
    assert [name for name, _ in pipeline.calls[calls:]] == ["ListPipelineExecutions"] * (len(pipeline.calls) - calls)
    assert len(pipeline.executions) == 1


def test_before_the_first_release(s3, pipeline):
    s3.delete_object(Bucket=BUCKET, Key=f"releases/{ENDPOINT}/current.json")
    assert tick() == {
        "verdict": "INSUFFICIENT_DATA",
        "sentence": "Nothing is deployed yet.",
        "decision": {"start": False, "reasons": ["NO_RELEASE"]},
        "execution_id": None,
        "verdict_key": None,
    }
    assert (metric("Drift"), metric("InsufficientData")) == (0, 1)


def test_a_release_without_its_baseline_is_an_error(s3, pipeline):
    s3.delete_object(Bucket=BUCKET, Key=RELEASE["baseline_key"])
    with pytest.raises(FileNotFoundError):
        tick()
    assert metric("Drift") is None


def invoked(times, value=50.0):
    boto3.client("cloudwatch").put_metric_data(
        Namespace="AWS/SageMaker",
        MetricData=[
            {
                "MetricName": "Invocations",
                "Dimensions": [
                    {"Name": "EndpointName", "Value": ENDPOINT},
                    {"Name": "VariantName", "Value": "AllTraffic"},
                ],
                "Timestamp": dt.datetime.fromtimestamp(time, dt.UTC),
                "Value": value,
            }
            for time in times
        ],
    )


def test_calls_without_captures_are_missing_capture(s3, pipeline):
    invoked([NOON - 7200, NOON - 7000])
    report = tick()
    assert report["verdict"] == "MISSING_CAPTURE"
    assert report["sentence"].endswith("called 100 times, but nothing was captured.")
    assert report["decision"]["reasons"] == ["NOT_DRIFT"]
    assert (metric("MissingCapture"), metric("Drift")) == (1, 0)
    assert told()[0][2] == "[fraud] nothing captured"


def test_no_calls_and_no_captures_are_too_little(s3, pipeline):
    report = tick()
    assert report["verdict"] == "INSUFFICIENT_DATA"
    assert stored(s3, report)["invocations"] == 0
    assert not told()


def test_a_metric_that_cannot_be_read_is_said_and_is_not_zero(s3, pipeline, monkeypatch):
    capture(s3)

    def refuse(*_):
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": ""}}, "GetMetricData")

    monkeypatch.setattr(app.client("cloudwatch"), "get_paginator", refuse)
    report = tick()
    assert report["sentence"].endswith("How often the endpoint was called could not be read.")
    assert stored(s3, report)["invocations"] is None


def test_only_the_model_in_service_since_its_release_is_compared(s3, pipeline):
    put(s3, f"releases/{ENDPOINT}/current.json", RELEASE | {"released_at": "2026-01-02T11:00:00Z"})
    capture(s3, 400)
    capture(s3, 300, model="run-0", factor=9)
    capture(s3, 200, source="test", factor=9)
    report = tick()
    verdict = stored(s3, report)
    assert (verdict["verdict"], verdict["n"], verdict["skipped"]) == ("OK", 200, 250)
    assert verdict["window"]["start"] == "2026-01-02T11:00:00Z"


def test_a_release_from_after_the_tick_has_an_empty_window(s3, pipeline):
    put(s3, f"releases/{ENDPOINT}/current.json", RELEASE | {"released_at": "2026-01-02T12:30:00Z"})
    capture(s3, factor=1.5)
    assert tick()["verdict"] == "INSUFFICIENT_DATA"


def test_every_variant_is_read_and_unreadable_lines_are_counted(s3, pipeline):
    capture(s3, 300)
    capture(s3, 300, variant="challenger", junk=b"{oops\n")
    verdict = stored(s3, tick())
    assert (verdict["n"], verdict["unreadable"]) == (600, 2)


@pytest.mark.parametrize(
    ("event", "end"),
    [
        ({"time": "2026-01-02T11:30:00Z"}, "2026-01-02T11:30:00Z"),
        ({"time": "<aws.scheduler.scheduled-time>"}, "2026-01-02T12:01:00Z"),
        ({}, "2026-01-02T12:01:00Z"),
        ({"time": None}, "2026-01-02T12:01:00Z"),
        ({"time": "2020-01-01T00:00:00Z"}, "2026-01-02T12:01:00Z"),
        ({"time": "2036-01-01T00:00:00Z"}, "2026-01-02T12:01:00Z"),
    ],
)
def test_the_window_ends_at_the_scheduled_time(s3, pipeline, event, end):
    capture(s3)
    assert stored(s3, tick(event))["window"]["end"] == end


def test_without_a_topic_nobody_is_told(s3, pipeline, monkeypatch):
    monkeypatch.delenv("TOPIC_ARN")
    capture(s3, factor=1.5)
    assert tick()["decision"]["start"]
    assert not told()


def test_a_claim_that_another_writer_overtakes_is_read_again(s3, pipeline, monkeypatch):
    capture(s3, factor=1.5)
    real = app.Bucket.put_if
    first = []

    def overtaken(self, key, document, etag):
        if key == LOCK and not first:
            first.append(key)
            put(s3, LOCK, {"paused": True})
        return real(self, key, document, etag)

    monkeypatch.setattr(app.Bucket, "put_if", overtaken)
    assert tick()["decision"]["reasons"] == ["PAUSED"]
    assert not pipeline.executions
