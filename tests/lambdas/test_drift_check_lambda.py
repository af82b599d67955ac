"""A tick of the schedule: one verdict, one start at most, and never silence where something is wrong."""

import datetime as dt
import json

import pytest
from botocore.exceptions import BotoCoreError, ClientError
from drift_check_kit import LOCK, NOON, app, aws, capture, invoked, metric, stored, tick, told
from lambdas_kit import BUCKET, ENDPOINT, RELEASE, keys, put, recorded


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
    again = [tick(owner=f"again-{k}") for k in range(3)]
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


def test_one_that_waits_behind_many_newer_ones_is_in_flight(s3, pipeline):
    """CodePipeline answers page by page, and a page may be empty."""
    capture(s3, factor=1.5)
    pipeline.add("InProgress", kind="Webhook", at=NOON - 86_400)
    for _ in range(5):
        pipeline.add("Superseded", kind="Webhook")
    assert tick()["decision"] == {"start": False, "reasons": ["IN_FLIGHT"]}


def test_one_in_flight_is_enough(s3, pipeline):
    capture(s3, factor=1.5)
    pipeline.add("InProgress", kind="Webhook")
    report = tick()
    assert report["decision"] == {"start": False, "reasons": ["IN_FLIGHT"]}
    assert len(pipeline.executions) == 1
    assert (
        "No retraining was started. The pipeline is running already, and one run at a time is enough." in told()[0][1]
    )


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
    pipeline.lose = "StartPipelineExecution"
    with pytest.raises(BotoCoreError):
        tick()
    pipeline.lose = None
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

    monkeypatch.setattr(aws.client("cloudwatch"), "get_paginator", refuse)
    report = tick()
    assert report["sentence"].endswith("How often the endpoint was called could not be read.")
    assert stored(s3, report)["invocations"] is None


def test_only_the_model_in_service_since_its_release_is_compared(s3, pipeline):
    put(s3, f"releases/{ENDPOINT}/current.json", RELEASE | {"released_at": "2026-01-02T11:00:00Z"})
    capture(s3, 400, hour="02/11")
    capture(s3, 200, model="", hour="02/11", encodings=("JSON", "CSV"))
    capture(s3, 300, model="run-0", factor=9, hour="02/11")
    capture(s3, 200, source="test", factor=9, hour="02/11")
    capture(s3, 200, factor=9)
    report = tick()
    verdict = stored(s3, report)
    # Of an answer that names no model the time decides; a whole hour of captured files is counted.
    assert (verdict["verdict"], verdict["n"], verdict["skipped"]) == ("OK", 500, 600)
    assert verdict["window"]["start"] == "2026-01-02T11:00:00Z"


def test_a_release_from_after_the_tick_has_an_empty_window(s3, pipeline):
    put(s3, f"releases/{ENDPOINT}/current.json", RELEASE | {"released_at": "2026-01-02T12:30:00Z"})
    capture(s3, factor=1.5)
    assert tick()["verdict"] == "INSUFFICIENT_DATA"


def test_every_variant_is_read_and_unreadable_lines_are_counted(s3, pipeline):
    capture(s3, 300)
    capture(s3, 300, variant="challenger", junk=b"{oops\n")
    capture(s3, 100, root="/")
    capture(s3, 300, variant="Shadow", factor=9)
    verdict = stored(s3, tick())
    assert (verdict["n"], verdict["unreadable"]) == (700, 2)


@pytest.mark.parametrize(
    ("event", "end"),
    [
        ({"time": "2026-01-02T11:30:00Z"}, "2026-01-02T11:30:00Z"),
        ({"time": "2026-01-02T11:30:00.75Z"}, "2026-01-02T11:30:00Z"),
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
    real = aws.Bucket.put_if
    first = []

    def overtaken(self, key, document, etag):
        if key == LOCK and not first:
            first.append(key)
            put(s3, LOCK, {"paused": True})
        return real(self, key, document, etag)

    monkeypatch.setattr(aws.Bucket, "put_if", overtaken)
    assert tick()["decision"]["reasons"] == ["PAUSED"]
    assert not pipeline.executions
