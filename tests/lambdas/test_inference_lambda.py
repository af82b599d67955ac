"""API Gateway events in, answers out: every refusal has its status, nothing a caller sends is a 5xx or comes back."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inference_kit import CONTEXT, GOOD, answered, app, call, predict
from lambdas_kit import BUCKET, ENDPOINT, RELEASE, SCHEMA, keys, put, recorded


@pytest.mark.parametrize("name", ["rest_predict", "http_predict"])
def test_recorded_events(service, name):
    status, body, _ = answered(app.handler(recorded(name), CONTEXT))
    assert status == 200
    assert body == {
        "fraud_probability": 0.25,
        "decision": "approve",
        "inference_id": "2987000",
        "model_version": "run-1",
    }
    (sent,) = service.runtime.calls
    assert sent["EndpointName"] == ENDPOINT
    assert sent["InferenceId"] == "2987000"
    assert json.loads(sent["Body"]) == {
        "transactions": [{"TransactionID": 2987000} | GOOD],
        "inference_ids": ["2987000"],
    }


def test_a_batch(service):
    service.runtime.scores = (0.1, 0.5, 0.9)
    status, body, _ = predict({"transactions": [GOOD] * 3, "inference_ids": ["a", "b", "c"]})
    assert (status, body) == (
        200,
        {
            "predictions": [
                {"fraud_probability": 0.1, "decision": "approve", "inference_id": "a"},
                {"fraud_probability": 0.5, "decision": "review", "inference_id": "b"},
                {"fraud_probability": 0.9, "decision": "review", "inference_id": "c"},
            ],
            "model_version": "run-1",
        },
    )


def test_reasons_are_passed_on_when_asked_for(service):
    reasons = [{"feature": "card4", "contribution": -0.5}]
    prediction = {"fraud_probability": 0.5, "reasons": reasons}
    service.runtime.answer = json.dumps({"predictions": [prediction], "model_version": "m"}).encode()
    status, body, _ = predict(GOOD | {"reasons": True})
    assert (status, body["reasons"]) == (200, reasons)
    assert json.loads(service.runtime.calls[0]["Body"])["reasons"] is True


def test_fields_at_fault_are_named(service):
    status, body, _ = predict({"transactions": [GOOD, {"TransactionAmt": "68.5", "crad4": "visa"}]})
    assert status == 400
    assert body["errors"] == [
        {"field": "transactions[1].TransactionAmt", "problem": "must be a number, not text"},
        {"field": "transactions[1].crad4", "problem": "is not a known field; did you mean card4?"},
    ]
    assert not service.runtime.calls


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/predict", 405),
        ("DELETE", "/labels", 405),
        ("POST", "/health", 405),
        ("POST", "/", 404),
        ("POST", "/predict/../labels", 404),
        ("POST", "/s3://bucket/key", 404),
        ("", "", 404),
    ],
)
def test_other_paths_and_methods(service, method, path, status):
    assert call(method, path, "{}")[0] == status


@pytest.mark.parametrize("event", [{}, {"body": None}, {"version": "2.0", "rawPath": "/predict"}, {"path": None}])
def test_events_without_their_members(service, event):
    assert answered(app.handler(event, CONTEXT), "", "")[0] in (404, 405)


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (None, 404),
        ([], 404),
        ("text", 404),
        ({"path": ["/predict"]}, 404),
        ({"path": "/predict", "httpMethod": "POST", "requestContext": "x"}, 400),
        ({"path": "/predict", "httpMethod": "POST", "requestContext": {"http": [1], "stage": {}}}, 400),
        ({"path": "/predict", "httpMethod": "POST", "body": {"TransactionAmt": 1}}, 400),
        ({"path": "/predict", "httpMethod": "POST", "body": 5}, 400),
        ({"path": "/predict", "httpMethod": "POST", "body": [1], "isBase64Encoded": True}, 400),
        ({"path": "/predict", "httpMethod": "POST", "body": "ä", "isBase64Encoded": True}, 400),
        ({"path": "/predict", "httpMethod": {"POST": 1}}, 405),
        ({"path": "/health", "httpMethod": "GET", "body": 5, "isBase64Encoded": True}, 200),
        ({"path": "/health", "httpMethod": "GET", "body": "x" * (3 << 20)}, 200),
    ],
)
def test_events_of_odd_shape(service, event, status):
    method, path = ("", "") if status in (404, 405) else (event["httpMethod"], event["path"])
    assert answered(app.handler(event, CONTEXT), method, path)[0] == status


def test_too_long_is_413(service):
    assert predict('{"TransactionAmt": 1, "card4": "' + "x" * (1 << 20) + '"}')[0] == 413
    assert predict("x" * (3 << 20))[0] == 413


def test_patience_ends_before_api_gateways():
    attempts = app.PATIENCE.retries["total_max_attempts"]
    assert attempts * (app.PATIENCE.connect_timeout + app.PATIENCE.read_timeout) <= 10


# ------------------------------------------------------------------------------------------------ the release


def test_health(service):
    assert call("GET", "/health")[:2] == (200, {"status": "ok", "model_version": "run-1"})


def test_before_the_first_release(s3, service):
    s3.delete_object(Bucket=BUCKET, Key=f"releases/{ENDPOINT}/current.json")
    for status, body, headers in (call("GET", "/health"), predict(GOOD)):
        assert (status, body["detail"], headers["retry-after"]) == (503, "No model is deployed yet.", "30")
    put(s3, f"releases/{ENDPOINT}/current.json", RELEASE)
    assert predict(GOOD)[0] == 200


def test_a_release_is_looked_up_every_thirty_seconds_and_outlives_s3(s3, service, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(service.releases, "_clock", lambda: now[0])
    service.releases._due = 0.0
    version = lambda: call("GET", "/health")[1]["model_version"]  # noqa: E731
    assert version() == "run-1"
    put(s3, f"releases/{ENDPOINT}/current.json", RELEASE | {"model_version": "run-2"})
    now[0] = 29.9
    assert version() == "run-1"
    now[0] = 30.0
    assert version() == "run-2"
    s3.put_object(Bucket=BUCKET, Key=f"releases/{ENDPOINT}/current.json", Body=b"broken {")
    now[0] = 60.0
    assert version() == "run-2"
    put(s3, f"releases/{ENDPOINT}/current.json", RELEASE | {"model_version": "run-3"})
    now[0] = 64.9
    assert version() == "run-2"
    now[0] = 65.0
    assert version() == "run-3"
    s3.delete_object(Bucket=BUCKET, Key=f"releases/{ENDPOINT}/current.json")
    now[0] = 95.0
    assert version() == "run-3"


@pytest.mark.parametrize(
    "change",
    [
        {"schema_key": "raw/secret.json"},
        {"schema_key": f"releases/{ENDPOINT}/none/schema.json"},
        {"decision_threshold": 7},
        {"decision_threshold": None},
        {"model_version": None},
    ],
)
def test_a_release_that_cannot_be_used_is_503(s3, service, change):
    put(s3, "raw/secret.json", json.loads(SCHEMA.to_json()))
    put(s3, f"releases/{ENDPOINT}/current.json", RELEASE | change)
    status, body, _ = predict(GOOD)
    assert (status, body["detail"]) == (503, "The model in service cannot be looked up now.")


# ------------------------------------------------------------------------------------------------ labels


def test_labels_are_stored_once(s3, service, monkeypatch):
    monkeypatch.setattr(app.time, "time", lambda: 1_767_605_400.0)  # 2026-01-05T09:30:00Z
    body = json.dumps(
        {
            "labels": [
                {"inference_id": "a", "label": 1, "time": "2026-01-02T03:04:05Z"},
                {"inference_id": "b", "label": 0, "time": "2026-01-02T01:00:00+00:00"},
            ]
        }
    )
    first, second = call("POST", "/labels", body), call("POST", "/labels", body)
    assert first[:2] == second[:2] == (202, {"stored": 2, "key": first[1]["key"]})
    assert keys(s3, "labels/") == [first[1]["key"]]
    assert first[1]["key"].startswith("labels/2026/01/05/09/")  # when they came
    lines = s3.get_object(Bucket=BUCKET, Key=first[1]["key"])["Body"].read().splitlines()
    assert json.loads(lines[0]) == {
        "groundTruthData": {"data": "1", "encoding": "CSV"},
        "eventMetadata": {"eventId": "a", "labelTime": "2026-01-02T03:04:05Z"},
        "eventVersion": "0",
    }
    assert len(lines) == 2
    put(s3, first[1]["key"], "what came first")
    assert call("POST", "/labels", body) == first
    assert s3.get_object(Bucket=BUCKET, Key=first[1]["key"])["Body"].read() == b'"what came first"'


def test_labels_that_cannot_be_stored_are_503(service):
    service.settings = app.Settings(ENDPOINT, "no-such-bucket")
    status, _, headers = call("POST", "/labels", '{"labels": [{"inference_id": "a", "label": 1}]}')
    assert status == 503
    assert "retry-after" in headers


# ------------------------------------------------------------------------------------------------ hostility

CANARY = "c4n4ry"
HOSTILE = st.one_of(
    st.text(max_size=60),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["visa", f"<{CANARY}>", "\ud800"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [*SCHEMA.names, "TransactionID", "transactions", "inference_id", "inference_ids", "reasons"]
                    + [
                        "TargetVariant",
                        "EndpointName",
                        f"<{CANARY}>",
                        "labels",
                        "label",
                        "time",
                        "http://169.254.169.254/",
                    ]
                ),
                inner,
                max_size=4,
            )
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value)),
)


@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(HOSTILE, st.sampled_from(["/predict", "/labels"]))
def test_nothing_a_caller_sends_is_a_5xx_or_comes_back(service, body, path):
    service.runtime.calls.clear()
    status, answer, _ = call("POST", path, body)
    assert status in (200, 202, 400)
    assert CANARY not in json.dumps(answer)
    for sent in service.runtime.calls:
        assert sent.keys() == {"EndpointName", "ContentType", "Accept", "InferenceId", "Body"}
        assert (sent["EndpointName"], sent["ContentType"]) == (ENDPOINT, "application/json")


def test_one_line_is_logged_without_the_payload(service, capsys):
    predict({"TransactionAmt": 987654321.25, "card4": CANARY})
    predict({"TransactionAmt": CANARY})
    call("POST", f"/{CANARY}", CANARY)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["status"] for line in lines] == [200, 400, 404]
    assert lines[0]["route"] == "/predict"
    assert lines[0]["request_id"] == "request-1"
    assert CANARY not in json.dumps(lines)
    assert "987654321" not in json.dumps(lines)


def test_a_defect_is_500_without_a_trace_for_the_caller(service, capsys):
    service.releases = None
    status, body, _ = predict(GOOD)
    assert status == 500
    assert "NoneType" not in json.dumps(body)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["error"].startswith("AttributeError at app.py:")


@pytest.mark.parametrize("name", ["ENDPOINT_NAME", "BUCKET"])
def test_the_environment_is_named_when_it_lacks_something(monkeypatch, name):
    monkeypatch.delenv(name)
    with pytest.raises(KeyError, match=name):
        app.Settings.from_environ()
