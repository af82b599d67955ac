"""From captured payments and delivered labels to an alarm, through the whole drift check."""

import datetime as dt
import json

from drift_check_kit import NOON, app, capture, metric, stored, tick
from inference_kit import call
from lambdas_kit import BASELINE, BUCKET, ENDPOINT, RELEASE, keys, put

from fraud.capture import encode_line, parse_file
from fraud.labels import GroundTruth, render_label_line
from fraud.moment import iso
from fraud.performance import reference

DAY = 86_400
KNOWN = reference([1] * 400 + [0] * 19_600, [0.55] * 300 + [0.1] * 100 + [0.2] * 19_600, 0.5, delay_days=7)


def at(monkeypatch, moment):
    monkeypatch.setattr(app.time, "time", lambda: moment + 60)
    return tick({"time": dt.datetime.fromtimestamp(moment, dt.UTC).isoformat()}, owner=f"request-{moment}")


def payments(s3):
    """Inference ids and scores of what was captured."""
    for key in keys(s3, "data-capture/"):
        body = s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        yield from ((one.inference_id, one.fraud_probability) for one in parse_file(body, key)[0])


def test_frauds_that_the_model_missed_are_drift_once_their_week_is_mature(s3, pipeline, monkeypatch):
    put(s3, RELEASE["baseline_key"], BASELINE | {"performance": KNOWN})
    capture(s3)
    first = tick()
    assert first["verdict"] == "OK" and not stored(s3, first)["performance"]["cohorts"]
    assert len(keys(s3, f"drift/{ENDPOINT}/scores/run-1/2026/01/02/")) == 1

    scored = list(payments(s3))
    caught = [name for name, score in scored if score >= 0.5][:5]
    missed = [name for name, score in scored if score < 0.5][:55]
    told = NOON + 3 * DAY
    lines = "\n".join(render_label_line(GroundTruth(name, 1, told)) for name in caught + missed)
    s3.put_object(Bucket=BUCKET, Key="labels/2026/01/05/12/a.jsonl", Body=lines.encode())
    young = at(monkeypatch, NOON + 4 * DAY)
    assert not any(rule["fired"] for rule in stored(s3, young)["rules"])

    capture(s3, end=NOON + 8 * DAY, hour="10/10")  # looks as ever
    report = at(monkeypatch, NOON + 8 * DAY)
    verdict = stored(s3, report)
    assert report["verdict"] == "DRIFT" and report["decision"]["start"]
    fired = {rule["rule"]: rule for rule in verdict["rules"] if rule["fired"]}
    assert {"fraud_rate", "recall"} <= set(fired)
    assert fired["fraud_rate"]["current"] == 60 / 500 and fired["recall"]["current"] == 5 / 60
    (week,) = verdict["performance"]["cohorts"]
    assert (week["n"], week["frauds"], week["truth"]) == (500, 60, 60)
    assert metric("Drift") == 1
    json.dumps(verdict, allow_nan=False)


def reports(s3):
    """Of the payments, as the check counts them."""
    (key,) = keys(s3, f"drift/{ENDPOINT}/truth/run-1/state.json")
    days = json.loads(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read())["days"].values()
    return sum(day["counts"]["told"] for day in days)


def test_labels_that_come_days_after_they_were_known_are_judged_wherever_they_are_filed(
    s3, pipeline, service, monkeypatch
):
    """Posted daily, five days old; or put by hand into the folder of an hour long ago."""
    put(s3, RELEASE["baseline_key"], BASELINE | {"performance": KNOWN})
    names = [f"p{k}" for k in range(200)]
    lines = [
        encode_line([{"TransactionAmt": 70.0, "card4": "visa", "is_new": True}], [0.1], event_id=f"e-{name}",
                    inference_ids=[name], time=NOON - 3600, model_version="run-1")
        for name in names
    ]  # fmt: skip
    key = f"data-capture/{ENDPOINT}/AllTraffic/2026/01/02/11/00-00-000-0f.jsonl"
    s3.put_object(Bucket=BUCKET, Key=key, Body=b"".join(lines))
    at(monkeypatch, NOON)
    for day in range(1, 11):
        if day >= 6:
            known = iso(NOON + (day - 5) * DAY)
            body = {"labels": [{"inference_id": names[day], "label": 1, "time": known}]}
            assert call("POST", "/labels", json.dumps(body))[0] == 202
            row = f"inference_id,label,label_time\n{names[100 + day]},1,{known}\n"
            s3.put_object(Bucket=BUCKET, Key=f"labels/2026/01/0{day - 4}/12/hand{day}.csv", Body=row.encode())
        at(monkeypatch, NOON + day * DAY)
        assert reports(s3) == 2 * max(0, day - 5), day
