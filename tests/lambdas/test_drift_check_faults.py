"""What must not make the check wrong, silent or for sale: odd lines, rare schedules, two deliveries, heavy callers."""

import datetime as dt
import json
import random

import pytest
from drift_check_kit import NOON, app, capture, check, stored, tick, told
from lambdas_kit import BASELINE, BUCKET, ENDPOINT, RELEASE, keys, load_module, put
from test_drift_check_verdict import at, policy

from fraud.capture import encode_line

counting = load_module("drift_check", "counting")
DAY = 86_400


@pytest.mark.parametrize("body", [b'{"TransactionAmt":1.0,"\\udc00":2}', b'{"TransactionAmt":1.0,"\\ud800":2}'])
def test_half_a_surrogate_is_a_damaged_line_and_no_end_of_the_checks(s3, pipeline, body):
    line = encode_line([{"TransactionAmt": 1.0}], [0.1], event_id="odd", time=NOON - 3600, model_version="run-1")
    document = json.loads(line)
    document["captureData"]["endpointInput"]["data"] = '{"transactions": [' + body.decode() + "]}"
    capture(s3, junk=json.dumps(document).encode() + b"\n")
    verdict = stored(s3, tick())
    assert (verdict["verdict"], verdict["n"], verdict["unreadable"]) == ("OK", 500, 2)  # one in each file


def test_a_whole_number_beyond_all_measure_is_counted_as_no_number(s3, pipeline):
    assert counting.plain_array([1.0, 10**400]) is None
    odd = encode_line([{"TransactionAmt": 1.0}], [0.1], event_id="odd", time=NOON - 3600, model_version="run-1")
    document = json.loads(odd)
    data = '{"transactions": [{"TransactionAmt": 1' + "0" * 400 + ', "card4": "visa", "is_new": true}]}'
    document["captureData"]["endpointInput"]["data"] = data
    capture(s3, junk=json.dumps(document).encode() + b"\n")
    verdict = stored(s3, tick())
    assert verdict["verdict"] == "OK" and verdict["n"] == 501
    assert verdict["features"]["TransactionAmt"]["missing"][1] == pytest.approx(1 / 501)


@pytest.mark.parametrize(("apart", "persistence"), [(DAY, [2, 3]), (2 * DAY, [2, 3]), (3600, [30, 60])])
def test_drift_lasts_at_whatever_pace_it_is_looked_for(s3, pipeline, monkeypatch, apart, persistence):
    policy(persistence=persistence)
    put(s3, f"releases/{ENDPOINT}/current.json", RELEASE | {"released_at": "2025-12-01T00:00:00Z"})
    needed = persistence[0] - 1
    for back in range(1, needed + 1):
        moment = dt.datetime.fromtimestamp(NOON - back * apart, dt.UTC)
        document = {"verdict": "OK", "model_version": "run-1", "schema_version": 2, "signal": True}
        put(s3, f"drift/{ENDPOINT}/verdicts/{moment:%Y/%m/%d/%H%M%S}-OK.json", document)
    capture(s3, factor=1.5)
    assert stored(s3, tick())["verdict"] == "DRIFT"


def test_checks_of_the_same_minutes_are_one(s3, pipeline, monkeypatch):
    policy(persistence=[2, 3])
    capture(s3, factor=1.5)
    for seconds in (0, 60, 120, 299):
        assert at(monkeypatch, NOON + seconds)["verdict"] == "OK"
    assert at(monkeypatch, NOON + 600)["verdict"] == "DRIFT"


def test_what_could_not_be_judged_is_no_sign_of_drift(s3, pipeline, monkeypatch):
    policy(persistence=[2, 3])
    capture(s3, factor=1.5)
    with monkeypatch.context() as patch:
        patch.setattr(check, "_calls", lambda *_: (2_000, []))
        first = stored(s3, at(monkeypatch, NOON))
    assert (first["verdict"], first["signal"], first["persistence"]["signals"]) == ("MISSING_CAPTURE", False, 0)
    second = stored(s3, at(monkeypatch, NOON + 3600))
    assert (second["verdict"], second["signal"], second["persistence"]["signals"]) == ("OK", True, 1)


def test_of_two_verdicts_on_one_moment_the_first_counts_for_both(s3, pipeline, monkeypatch):
    """Another delivery judges and stores while this one is still counting; an object arrives in between."""
    capture(s3)
    find, first = check.find, []

    def slow(*given, **how):
        if not first:
            first.append(None)
            first[0] = tick(owner="other")
            capture(s3, factor=3.0)
            for key in [*keys(s3, f"drift/{ENDPOINT}/verdicts/")]:  # as if not seen yet when this one began
                s3.delete_object(Bucket=BUCKET, Key=key)
        return find(*given, **how)

    monkeypatch.setattr(app.check, "find", slow)
    second = tick(owner="request-1")
    assert (first[0]["verdict"], second["verdict"]) == ("OK", "OK")
    assert keys(s3, f"drift/{ENDPOINT}/verdicts/") == [first[0]["verdict_key"]]
    assert not pipeline.executions and not told()


def test_a_late_object_of_a_short_window_is_counted_by_the_next_check(s3, pipeline, monkeypatch):
    """With windows of one hour nothing else would ever look at that hour again, neither verdict nor truth."""
    policy(window_hours=1)
    capture(s3, 250, hour="02/11")
    at(monkeypatch, NOON)
    sketch = f"drift/{ENDPOINT}/sketches/run-1/2026/01/02/11.json"
    before = json.loads(s3.get_object(Bucket=BUCKET, Key=sketch)["Body"].read())
    capture(s3, 250, hour="02/11")
    assert stored(s3, at(monkeypatch, NOON + 3600))["n"] == 0
    after = json.loads(s3.get_object(Bucket=BUCKET, Key=sketch)["Body"].read())
    assert len(after["files"]) == len(before["files"]) + 1


def test_the_season_holds_callers_down_as_the_window_does(s3, pipeline, monkeypatch):
    put(s3, f"releases/{ENDPOINT}/current.json", RELEASE | {"released_at": "2025-12-01T00:00:00Z"})
    policy(max_caller_share=0.05, season=True)
    for back in range(1, 4):
        for week in (0, 7):
            moment = dt.datetime.fromtimestamp(NOON - DAY * (back + week), dt.UTC)
            document = {"verdict": "OK", "model_version": "run-0", "callers": {"backend": 0.5}}
            put(s3, f"drift/{ENDPOINT}/verdicts/{moment:%Y/%m/%d}/110000-OK.json", document)
    for end, hour in ((NOON - 7 * DAY, "../../2025/12/26/10"), (NOON, "02/10")):
        for k in range(30):
            capture(s3, 25, caller=f"c{k}", end=end, hour=hour)
        capture(s3, 750, factor=2.0, caller="backend", end=end, hour=hour)
        report = at(monkeypatch, end)
        if end < NOON:
            told().clear()
    assert report["verdict"] == "OK"
    assert any("as in the same hours a week before" in rule["detail"] for rule in stored(s3, report)["rules"])


def test_beside_one_backend_that_is_new_a_forger_is_still_held_down(s3, pipeline):
    """A key was changed, so nothing is usual yet, and without the backend too little would be left."""
    policy(max_caller_share=0.05, min_records=100)
    capture(s3, 750, caller="backend")
    capture(s3, 250, factor=9.0, caller="forger")
    for k in range(5):
        capture(s3, 10, caller=f"c{k}")
    verdict = stored(s3, tick())
    assert verdict["verdict"] == "OK" and verdict["capped"] == pytest.approx(250 - 42, abs=5)
    assert "too little other traffic to hold it to 5 %" in verdict["sentence"]
    assert "one caller sent 24 % of the payments and counts for 5 % at most" in verdict["sentence"]


def test_a_challenger_of_which_nothing_is_captured_is_missed(s3, pipeline, monkeypatch):
    challenger = {"variant": "Challenger", "model_version": "run-2", "since": "2026-01-01T00:00:00Z"}
    put(s3, f"releases/{ENDPOINT}/current.json", RELEASE | {"challenger": challenger})
    capture(s3)
    asked = []
    monkeypatch.setattr(check, "_calls", lambda endpoint, variants, *_: asked.append(variants) or (500, []))
    tick()
    assert asked == [["AllTraffic", "Challenger"]]


def test_answers_that_were_not_captured_are_no_change_of_the_answers(s3, pipeline):
    baseline = BASELINE | {"review_rate": 0.17, "threshold": 0.5}
    put(s3, RELEASE["baseline_key"], baseline)
    rng = random.Random(1)
    lines = b""
    for k in range(500):
        payment = {"TransactionAmt": float(rng.randrange(50, 150)), "card4": "visa", "is_new": rng.random() < 0.5}
        payment["card4"] = rng.choice(["visa", "visa", "mastercard", None])
        line = json.loads(encode_line([payment], [0.1], event_id=f"e{k}", time=NOON - 5000 + k, model_version="run-1"))
        if k % 10:
            del line["captureData"]["endpointOutput"]
        lines += json.dumps(line).encode() + b"\n"
    key = f"data-capture/{ENDPOINT}/AllTraffic/2026/01/02/10/00-00-000-a.jsonl"
    s3.put_object(Bucket=BUCKET, Key=key, Body=lines)
    verdict = stored(s3, tick())
    assert verdict["verdict"] == "OK" and {"score_psi", "review_rate"}.isdisjoint(r["rule"] for r in verdict["rules"])
    assert "The model's answers to 450 of 500 payments were not captured" in verdict["sentence"]


def test_earlier_checks_of_the_same_minutes_are_one_too(s3, pipeline, monkeypatch):
    policy(persistence=[3, 3])
    capture(s3, factor=1.5)
    for seconds in (0, 60, 600):
        report = at(monkeypatch, NOON + seconds)
    assert stored(s3, report)["persistence"]["signals"] == 2


def test_a_signal_that_an_older_version_noted_where_it_could_not_judge_is_none(s3, pipeline):
    policy(persistence=[2, 3])
    document = {"verdict": "MISSING_CAPTURE", "model_version": "run-1", "schema_version": 2, "signal": True}
    put(s3, f"drift/{ENDPOINT}/verdicts/2026/01/02/110000-MISSING_CAPTURE.json", document)
    capture(s3, factor=1.5)
    assert stored(s3, tick())["persistence"]["signals"] == 1


@pytest.mark.parametrize(("percentage", "verdict"), [(5, "OK"), (100, "MISSING_CAPTURE")])
def test_of_a_small_sample_half_may_be_missing_by_chance(s3, pipeline, monkeypatch, percentage, verdict):
    put(s3, f"releases/{ENDPOINT}/current.json", RELEASE | {"capture_percentage": percentage})
    monkeypatch.setattr(check, "_calls", lambda *_: (40 * 100 // percentage, []))
    capture(s3, 15, several=8)
    assert stored(s3, tick())["verdict"] == verdict


def test_a_verdict_on_another_model_does_not_count_for_this_one(s3, pipeline):
    """A release came between two deliveries of one event."""
    other = {"verdict": "OK", "model_version": "run-0", "schema_version": 2}
    put(s3, f"drift/{ENDPOINT}/judged/2026/01/02/120000.json", other)
    capture(s3, factor=1.5)
    assert stored(s3, tick())["verdict"] == "DRIFT"
