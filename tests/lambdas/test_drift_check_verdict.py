"""What a check goes by beside its window: checks before, season, truth, calls; and what it tells."""

import datetime as dt
import json

import pytest
from botocore.exceptions import ClientError
from drift_check_kit import NOON, app, capture, check, invoked, metric, stored, tick, told
from lambdas_kit import BUCKET, ENDPOINT, RELEASE, keys, load_module, put

from fraud.advice import advice
from fraud.decision import Decision, Outcome
from fraud.moment import iso

metrics = load_module("drift_check", "metrics")
message = load_module("drift_check", "message")
acting = load_module("drift_check", "acting")


def policy(**given):
    found = json.loads(app.POLICY_FILE.read_bytes()) | given
    app.POLICY_FILE.write_text(json.dumps(found))


def at(monkeypatch, moment):
    """A tick of the schedule at another moment."""
    monkeypatch.setattr(app.time, "time", lambda: moment + 60)
    return tick({"time": dt.datetime.fromtimestamp(moment, dt.UTC).isoformat()}, owner=f"request-{moment}")


def read(s3, key):
    return json.loads(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())


def decisions(s3):
    return [read(s3, key) for key in keys(s3, f"drift/{ENDPOINT}/decisions/")]


# ---------------------------------------------------------------------------------------------- persistence


def test_drift_is_what_several_checks_see(s3, pipeline, monkeypatch):
    policy(persistence=[2, 3])
    capture(s3, factor=1.5)
    first = at(monkeypatch, NOON)
    assert (first["verdict"], stored(s3, first)["signal"]) == ("OK", True)
    assert not told()
    second = at(monkeypatch, NOON + 3600)
    assert second["verdict"] == "DRIFT"
    assert stored(s3, second)["persistence"] == {"signals": 2, "of": 3, "needed": 2}
    assert (metric("Signal"), metric("Drift"), metric("RetrainingStarted")) == (2, 1, 1)


@pytest.mark.parametrize(
    ("earlier", "verdict"),
    [
        ([("02/110000", True, "run-1")], "DRIFT"),
        ([("01/230000", True, "run-1")], "DRIFT"),
        ([("02/100000", True, "run-1"), ("02/110000", False, "run-1")], "DRIFT"),
        ([("02/080000", True, "run-1"), ("02/100000", False, "run-1"), ("02/110000", False, "run-1")], "OK"),
        ([("02/110000", True, "run-0")], "OK"),
        ([("02/130000", True, "run-1")], "OK"),  # from after this window
        ([("02/110000", True, "run-1"), ("02/130000", True, "run-2")], "DRIFT"),
        ([("02/110000", None, "run-1")], "DRIFT"),  # of a version that knew no signal
        ([], "OK"),
    ],
)
def test_only_the_checks_before_of_this_model_count(s3, pipeline, monkeypatch, earlier, verdict):
    policy(persistence=[2, 3])
    capture(s3, factor=1.5)
    for moment, signal, version in earlier:
        document = {"verdict": "DRIFT" if signal is None else "OK", "model_version": version, "schema_version": 1}
        document |= {"window": {"end": moment}} | ({} if signal is None else {"signal": signal})
        put(s3, f"drift/{ENDPOINT}/verdicts/2026/01/{moment}-{document['verdict']}.json", document)
    assert tick()["verdict"] == verdict


def test_a_window_is_judged_once(s3, pipeline):
    capture(s3)
    first = tick()
    capture(s3, factor=9)
    assert tick(owner="again") == first
    assert keys(s3, f"drift/{ENDPOINT}/verdicts/") == [first["verdict_key"]]


# --------------------------------------------------------------------------------------- decisions and messages


def test_each_decision_is_kept_as_a_record(s3, pipeline):
    capture(s3, factor=1.5)
    report = tick()
    (made,) = decisions(s3)
    assert (made["start"], made["reasons"], made["execution_id"]) == (True, ["START"], report["execution_id"])
    assert (made["verdict_key"], made["owner"]) == (report["verdict_key"], "request-1")
    assert keys(s3, f"drift/{ENDPOINT}/decisions/") == [f"drift/{ENDPOINT}/decisions/2026/01/02/120100-START.json"]


def test_calm_is_a_decision_too(s3, pipeline):
    capture(s3)
    tick()
    (made,) = decisions(s3)
    assert (made["start"], made["reasons"]) == (False, ["NOT_DRIFT"])
    assert metric("RetrainingStarted") == 0


def test_who_was_told_of_a_failure_is_told_of_the_start(s3, pipeline, monkeypatch):
    capture(s3, factor=1.5)
    pipeline.fail = "StartPipelineExecution"
    for moment in (60, 120):
        monkeypatch.setattr(app.time, "time", lambda moment=moment: NOON + moment)
        with pytest.raises(ClientError):
            tick(owner="request-1")
    assert len(told()) == 1
    assert "What was done: The retraining could not be started; it is tried again." in told()[0][1]
    pipeline.fail = None
    for moment in (180, 240):
        monkeypatch.setattr(app.time, "time", lambda moment=moment: NOON + moment)
        tick(owner="request-1")
    assert len(told()) == 2
    assert "A retraining has been started." in told()[1][1]
    assert [made["reasons"] for made in decisions(s3)][:2] == [["FAILED"], ["FAILED"]]


def test_a_drift_that_lasts_is_told_once_and_what_is_new_at_once(s3, pipeline, monkeypatch):
    capture(s3, factor=1.5)
    at(monkeypatch, NOON)
    assert len(told()) == 1 and "retraining has been started" in told()[0][1]
    assert [at(monkeypatch, NOON + 3600 * hour)["verdict"] for hour in (1, 2, 3)] == ["DRIFT"] * 3
    assert len(told()) == 1
    capture(s3, factor=1.5, hour="02/13", end=NOON + 4 * 3600, card="jcb")
    assert at(monkeypatch, NOON + 4 * 3600)["verdict"] == "DRIFT"
    assert len(told()) == 2 and "card4 has values that training never saw" in told()[1][1]
    assert [made["told"] for made in decisions(s3)] == [
        ["moved:TransactionAmt"], [], [], [], ["moved:TransactionAmt", "collected:card4", "new:card4", "moved:card4"],
    ]  # fmt: skip


def test_what_lasts_is_told_again_after_a_day(s3, pipeline, monkeypatch):
    policy(window_hours=72, cool_down_hours=1000)
    put(s3, f"releases/{ENDPOINT}/current.json", RELEASE | {"released_at": "2025-12-01T00:00:00Z"})
    capture(s3, factor=1.5)
    for hours, messages in ((0, 1), (11, 1), (23, 1), (24, 2), (47, 2)):
        assert at(monkeypatch, NOON + 3600 * hours)["verdict"] == "DRIFT"
        assert len(told()) == messages


RECORDS = [
    {"verdict_key": "k0", "start": False, "told": ["missing", "moved"]},
    {"verdict_key": "k1", "start": True, "told": ["new"]},
    {"verdict_key": "k2", "start": False, "told": ["FAILED", "moved"]},
    {"verdict_key": "k3", "start": True, "told": []},  # the message could not be sent
    {"verdict_key": "old", "start": False},  # of a version that kept no such thing
]


@pytest.mark.parametrize(
    ("topics", "reasons", "key", "expected"),
    [
        (["moved"], ("COOL_DOWN",), "k9", []),
        (["missing", "new"], ("COOL_DOWN",), "k9", []),
        (["moved", "truth"], ("COOL_DOWN",), "k9", ["moved", "truth"]),
        (["moved"], ("START",), "k9", ["moved"]),
        (["moved"], ("START",), "k2", ["moved"]),  # it failed before
        (["new"], ("START",), "k1", []),  # the same event once more
        (["new"], ("START",), "k3", ["new"]),
        (["moved"], ("FAILED",), "k9", []),
        (["MISSING_CAPTURE"], ("NOT_DRIFT",), "k9", ["MISSING_CAPTURE"]),
    ],
)
def test_what_is_news(topics, reasons, key, expected):
    decision = Decision(reasons == ("START",), reasons)
    assert acting.news(topics, decision, RECORDS, key) == expected
    if reasons == ("FAILED",):
        assert acting.news(topics, decision, RECORDS[:2], key) == [*topics, "FAILED"]


def test_a_message_says_what_why_and_where(s3, pipeline):
    capture(s3, factor=1.5)
    report = tick()
    ((_, text, subject, *_),) = told()
    assert subject == "[fraud] drift"
    assert text.splitlines() == [
        report["sentence"],
        "",
        f"What was done: A retraining has been started. Execution {report['execution_id']}.",
        f"What to do: {' '.join(advice(stored(s3, report))[:2])} {message.THEN[True]}",
        "",
        "Endpoint fraud, model run-1",
        "Traffic from 2026-01-01T12:00:00Z to 2026-01-02T12:00:00Z, 500 payments",
        "Reports: s3://fraud-test/drift/fraud/reports/index.html",
        f"This verdict: s3://fraud-test/{report['verdict_key']}",
        "Pause retraining: fraud drift pause. Start again: fraud drift resume.",
    ]


@pytest.mark.parametrize("verdict", message.WHAT)
@pytest.mark.parametrize("names", [("repeated",), ("missing", "psi", "unseen"), ()])
def test_a_message_always_says_what_to_do(verdict, names):
    about = {"feature": "V1", "fired": True, "direction": "up", "reference": 0.05, "current": 0.6}
    rules = [about | {"rule": name} for name in names] + [about | {"rule": "ks", "feature": "V9", "fired": False}]
    found = {"verdict": verdict, "sentence": "It moved.", "model_version": "m", "n": 1234, "rules": rules}
    found |= {"window": {"start": "2026-01-01T12:00:00Z", "end": "2026-01-02T12:00:00Z"}, "endpoint": "fraud"}
    subject, text = message.text("e" * 120, "b", "k", found, Outcome(Decision(False, ("COOL_DOWN", "PAUSED"))))
    assert len(subject) == 100
    assert "No retraining was started. The last retraining was started too short a time ago. A person has" in text
    (line,) = [line for line in text.splitlines() if line.startswith("What to do: ")]
    assert all(said in line for said in advice(found)[:2]) and "V9" not in line and len(line) > 60
    assert line.endswith(message.THEN[False]) == (verdict == "DRIFT")
    assert line.count("V1") == (2 if len(names) == 3 else len(names)) * (verdict == "DRIFT")


# ------------------------------------------------------------------------------------------------ captured calls


def every_five_minutes(n, value, end=NOON):
    invoked([end - 7200 + 300 * k for k in range(n)], value)


def test_calls_that_were_not_captured_are_said(s3, pipeline):
    capture(s3, 500, hour="02/10")  # from 10:00 on, one every 14.4 seconds
    every_five_minutes(24, 25.0)
    verdict = stored(s3, tick())
    # The last quarter of an hour is not compared, and what came before 10:10 neither.
    assert verdict["invocations"] == 25 * 21
    assert verdict["verdict"] == "OK"
    assert verdict["notes"] == ["Only 83 % of 525 calls were captured."]
    assert metric("CaptureRatio") == pytest.approx(437 / 525, abs=0.005)


def test_requests_are_compared_and_not_payments(s3, pipeline):
    """Half of the requests are missing, though there are more payments than calls."""
    capture(s3, 250, hour="02/10", several=8, factor=1.5)
    every_five_minutes(24, 60.0)
    report = tick()
    assert report["verdict"] == "MISSING_CAPTURE" and not stored(s3, report)["signal"]
    assert report["sentence"].startswith("Nothing can be judged: too few of the endpoint's calls were captured. Only ")
    assert stored(s3, report)["n"] == 2000
    assert told()[0][2] == "[fraud] nothing captured"


def test_an_endpoint_that_captures_a_sample_is_not_blind(s3, pipeline):
    put(s3, f"releases/{ENDPOINT}/current.json", RELEASE | {"capture_percentage": 20})
    capture(s3, 500, hour="02/10")
    every_five_minutes(24, 105.0)
    verdict = stored(s3, tick())
    assert (verdict["verdict"], verdict["invocations"], verdict["notes"]) == ("OK", 105 * 21 // 5, [])
    put(s3, f"releases/{ENDPOINT}/current.json", RELEASE)


def test_a_model_that_refused_has_no_answer_to_capture(s3, pipeline):
    capture(s3, 500, hour="02/10")
    every_five_minutes(24, 25.0)
    invoked([NOON - 3600], 100.0, name="Invocation5XXErrors")
    verdict = stored(s3, tick())
    assert (verdict["invocations"], verdict["notes"]) == (425, [])


def test_everything_that_was_captured_counts(s3, pipeline):
    capture(s3, 250, hour="02/10")
    capture(s3, 250, hour="02/10", model="run-0")
    capture(s3, 250, hour="02/10", source="canary")
    every_five_minutes(24, 30.0)
    assert stored(s3, tick())["notes"] == []


# --------------------------------------------------------------------------------------- callers, season, truth


def test_one_caller_cannot_make_the_drift(s3, pipeline, monkeypatch):
    policy(max_caller_share=0.05)
    for k in range(30):
        capture(s3, 25, caller=f"c{k}")
    capture(s3, 750, factor=2.0, caller="forger")
    verdict = stored(s3, tick())
    assert (verdict["verdict"], verdict["n"], verdict["capped"]) == ("OK", 750 + 39, 750 - 39)
    assert "were left out: one caller sent 50 % of the payments and counts for 5 % at most." in verdict["sentence"]
    assert metric("Capped") == 711
    assert verdict["callers"]["forger"] == 0.5 and verdict["usual_callers"] == {}


@pytest.mark.parametrize(("shares", "found"), [((0.5, 0.5, 0.5), "DRIFT"), ((0.5, 0.02, 0.5), "OK")])
def test_a_caller_who_has_sent_as_much_for_days_counts_in_full(s3, pipeline, shares, found):
    policy(max_caller_share=0.05)
    for k in range(30):
        capture(s3, 25, caller=f"c{k}")
    capture(s3, 750, factor=2.0, caller="backend")
    for back, share in enumerate(shares, 1):
        moment = iso(NOON - 86_400 * back)
        key = f"drift/{ENDPOINT}/verdicts/{moment[:10].replace('-', '/')}/110000-OK.json"
        put(s3, key, {"verdict": "OK", "model_version": "run-0", "callers": {"backend": share, "c1": 0.01}})
    little = {"verdict": "INSUFFICIENT_DATA", "model_version": "run-0", "callers": {"c1": 1.0}}
    put(s3, f"drift/{ENDPOINT}/verdicts/2025/12/29/110000-INSUFFICIENT_DATA.json", little)  # it says nothing
    verdict = stored(s3, tick())
    assert verdict["verdict"] == found
    assert verdict["usual_callers"]["backend"] == min(shares)
    assert verdict["capped"] == (0 if found == "DRIFT" else 711)


def test_without_the_cap_it_would(s3, pipeline, monkeypatch):
    policy(max_caller_share=1.0)
    for k in range(30):
        capture(s3, 25, caller=f"c{k}")
    capture(s3, 750, factor=2.0, caller="forger")
    verdict = stored(s3, tick())
    assert (verdict["verdict"], verdict["n"], verdict["capped"]) == ("DRIFT", 1500, 0)


def test_the_same_hours_a_week_before_are_the_season(s3, pipeline, monkeypatch):
    put(s3, f"releases/{ENDPOINT}/current.json", RELEASE | {"released_at": "2025-12-01T00:00:00Z"})
    week = 7 * 86_400
    capture(s3, factor=1.5, end=NOON - week, hour="../../2025/12/26/10")
    at(monkeypatch, NOON - week)
    told().clear()
    capture(s3, factor=1.5)
    policy(season=True)
    report = at(monkeypatch, NOON)
    assert report["verdict"] == "OK"
    assert any("as in the same hours a week before" in rule["detail"] for rule in stored(s3, report)["rules"])


def test_too_little_of_the_week_before_is_no_season(s3, pipeline, monkeypatch):
    capture(s3, factor=1.5)
    policy(season=True)
    report = tick()
    assert report["verdict"] == "DRIFT"
    assert report["sentence"].endswith("There is too little traffic of the same hours a week before to compare with.")


def test_truth_is_handed_over_and_a_failure_there_is_a_note(s3, pipeline, monkeypatch):
    put(s3, f"releases/{ENDPOINT}/current.json", RELEASE | {"label_columns": ["payment", "", ""]})
    capture(s3)
    rule = {"rule": "fraud_rate", "feature": "", "reference": 0.01, "current": 0.04, "score": 4.0, "threshold": 1.0}
    rule |= {"n": 500, "fired": True, "direction": "up", "detail": "", "p_value": 1e-9, "importance": None}
    recall = rule | {"rule": "recall", "current": 0.5, "fired": False}
    asked = []

    def known(*given):
        asked.append(given)
        return {"rules": [rule, recall], "summary": {"sentence": "Fraud has risen."}}

    with monkeypatch.context() as patch:
        patch.setattr(check, "performance_of", known)
        report = tick()
    assert report["verdict"] == "DRIFT"
    assert stored(s3, report)["performance"] == {"sentence": "Fraud has risen."}
    assert (metric("TruthFraudRate"), metric("TruthRecall")) == (0.04, 0.5)
    assert (asked[0][2], asked[0][-1]) == (ENDPOINT, ["payment", "", ""])

    def fails(*_):
        raise ValueError("secret")

    monkeypatch.setattr(check, "performance_of", fails)
    report = at(monkeypatch, NOON + 3600)
    assert report["verdict"] == "OK"
    assert report["sentence"].endswith("What is known of the truth could not be read (ValueError).")


# ------------------------------------------------------------------------------------------------------ metrics

NAMES = set(
    "Ok Drift InsufficientData MissingCapture SchemaChanged Signal Records Unreadable Repeated Capped TopScore "
    "ScorePsi ReviewRate CaptureRatio TruthFraudRate TruthRecall RetrainingStarted Seconds".split()
)


def test_every_metric_that_dashboards_read_is_written(s3, pipeline):
    capture(s3, 500, hour="02/10")
    every_five_minutes(24, 25.0)
    tick()
    names = {name for name in NAMES if metric(name) is not None}
    assert NAMES - names == {"ReviewRate", "TruthFraudRate", "TruthRecall"}  # the baseline here knows neither
    assert metric("Seconds") > 0


def test_a_metric_that_nobody_knows_is_not_zero():
    empty = {"verdict": "INSUFFICIENT_DATA", "n": 0, "unreadable": 0}
    found = metrics.values(empty)
    assert {"TopScore", "ReviewRate", "CaptureRatio", "Seconds", "RetrainingStarted"}.isdisjoint(found)
    rules = [{"rule": "recall", "current": None, "score": None, "threshold": 0.1}]
    full = empty | {"rules": rules, "review_rate": {"current": 0.0}, "score": {"psi": None}, "performance": None}
    found = metrics.values(full, captured=0.0, started=False, took=0.0)
    assert (found["ReviewRate"], found["CaptureRatio"], found["RetrainingStarted"], found["Seconds"]) == (0, 0, 0, 0)
    assert {"TruthRecall", "ScorePsi", "TopScore"}.isdisjoint(found)
    assert set(found) <= NAMES


def test_a_share_of_no_reports_is_left_out():
    metrics = load_module("drift_check", "metrics")
    rule = {"rule": "fraud_rate", "current": 0.0, "score": None, "threshold": 0.3}
    silent = {"verdict": "OK", "n": 5, "unreadable": 0, "rules": [rule]}
    assert "TruthFraudRate" not in metrics.values(silent)
    assert metrics.values(silent | {"rules": [rule | {"score": 0.0}]})["TruthFraudRate"] == 0.0
