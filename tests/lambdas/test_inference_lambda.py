"""API Gateway events in, answers out: every refusal has its status, nothing a caller sends is a 5xx or comes back."""

import io
import json
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import boto3
import botocore.session
import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lambdas_kit import BUCKET, ENDPOINT, LAMBDAS, RELEASE, SCHEMA, keys, load, put, recorded

app = load("inference")
CONTEXT = SimpleNamespace(aws_request_id="request-1")
MODEL = botocore.session.get_session().get_service_model("sagemaker-runtime")
GOOD = {"TransactionAmt": 68.5, "card4": "visa"}


class Runtime:
    """The endpoint: validates the call as AWS does, answers a score for each transaction, remembers the calls."""

    def __init__(self, scores=(0.25,)):
        self.scores, self.calls, self.answer = scores, [], None
        shape = MODEL.operation_model("InvokeEndpoint").input_shape
        validator = botocore.validate.ParamValidator()
        self._check = lambda given: validator.validate(given, shape)

    def invoke_endpoint(self, **given):
        assert not self._check(given).has_errors()
        self.calls.append(given)
        rows = json.loads(given["Body"])["transactions"]
        scores = [self.scores[k % len(self.scores)] for k in range(len(rows))]
        answer = {"predictions": [{"fraud_probability": s} for s in scores], "model_version": "run-1", "sha256": "0"}
        body = json.dumps(answer).encode() if self.answer is None else self.answer
        return {"Body": io.BytesIO(body)}


@pytest.fixture(scope="module")
def clients(aws):
    """Clients are slow to make; the real one of the endpoint is for those who ask for it."""
    app.service.cache_clear()
    yield app.service()
    app.service.cache_clear()


@pytest.fixture(scope="module")
def real_runtime(clients):
    return clients.runtime


@pytest.fixture
def service(s3, clients, real_runtime):
    """The Lambda's service over the bucket and the endpoint above."""
    clients.runtime, clients.settings = Runtime(), app.Settings(ENDPOINT, BUCKET)
    clients.releases = app.Releases(clients._read, ENDPOINT, time.monotonic)
    return clients


def call(method, path, body=None):
    event = {"httpMethod": method, "path": path, "requestContext": {"stage": "live"}, "body": body}
    return answered(app.handler(event, CONTEXT))


def answered(response):
    """Check what holds of every answer, and return status, body and headers."""
    body = json.loads(response["body"], parse_constant=pytest.fail)
    status, headers = response["statusCode"], response["headers"]
    if status >= 400:
        assert headers["content-type"] == "application/problem+json"
        assert {"type", "title", "status", "detail"} <= body.keys()
        assert body["status"] == status
    else:
        assert headers["content-type"] == "application/json"
    return status, body, headers


def predict(document):
    return call("POST", "/predict", document if isinstance(document, str) else json.dumps(document))


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
    assert answered(app.handler(event, CONTEXT))[0] in (404, 405)


def test_too_long_is_413(service):
    assert predict('{"TransactionAmt": 1, "card4": "' + "x" * (1 << 20) + '"}')[0] == 413
    assert predict("x" * (3 << 20))[0] == 413


# ------------------------------------------------------------------------------------------------ the endpoint's faults

STATUS = {
    "InternalFailure": 502,
    "ServiceUnavailable": 503,
    "ValidationError": 503,
    "ModelError": 502,
    "InternalDependencyException": 502,
    "ModelNotReadyException": 503,
}
OTHERS = {
    "ThrottlingException": 429,
    "Throttling": 429,
    "TooManyRequestsException": 429,
    "RequestLimitExceeded": 429,
    "AccessDeniedException": 502,
    "ExpiredTokenException": 502,
    "SomethingNew": 502,
}


def test_every_error_of_the_service_model_is_known():
    assert {shape.error_code for shape in MODEL.operation_model("InvokeEndpoint").error_shapes} == set(STATUS)


@pytest.mark.parametrize(("code", "status"), (STATUS | OTHERS).items())
def test_errors_of_the_endpoint(service, real_runtime, code, status):
    service.runtime = real_runtime
    secret = "https://console.aws.amazon.com/cloudwatch/logs 68.5"
    with Stubber(service.runtime) as stub:
        stub.add_client_error("invoke_endpoint", code, secret, http_status_code=400)
        found, body, headers = predict(GOOD)
    assert found == status
    assert "console" not in json.dumps(body)
    assert "68.5" not in json.dumps(body)
    assert ("retry-after" in headers) is (status in (429, 503))


@pytest.mark.parametrize(("original", "status"), [(400, 400), (413, 400), (500, 502), (None, 502)])
def test_a_refusal_by_the_model_is_the_callers_and_a_failure_is_not(service, real_runtime, original, status):
    service.runtime = real_runtime
    fields = {} if original is None else {"OriginalStatusCode": original, "OriginalMessage": "secret"}
    with Stubber(service.runtime) as stub:
        stub.add_client_error("invoke_endpoint", "ModelError", "secret", 424, modeled_fields=fields)
        found, body, _ = predict(GOOD)
    assert found == status
    assert "secret" not in json.dumps(body)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"oops",
        b"[]",
        b"{}",
        b'{"predictions": [], "model_version": "m"}',
        b'{"predictions": [{"fraud_probability": NaN}], "model_version": "m"}',
        b'{"predictions": [{"fraud_probability": Infinity}], "model_version": "m"}',
        b'{"predictions": [{"fraud_probability": 1.0001}], "model_version": "m"}',
        b'{"predictions": [{"fraud_probability": -0.1}], "model_version": "m"}',
        b'{"predictions": [{"fraud_probability": "0.5"}], "model_version": "m"}',
        b'{"predictions": [{"fraud_probability": true}], "model_version": "m"}',
        b'{"predictions": [{"fraud_probability": null}], "model_version": "m"}',
        b'{"predictions": [{"fraud_probability": 0.5}, {"fraud_probability": 0.5}], "model_version": "m"}',
        b'{"predictions": [{"fraud_probability": 0.5}]}',
        b'{"predictions": [{"fraud_probability": 0.5, "reasons": [{"feature": "x", "contribution": 1}]}], '
        b'"model_version": "m"}',
        b'{"predictions": [{"fraud_probability": 0.5, "reasons": [{"feature": "card4", "contribution": NaN}]}], '
        b'"model_version": "m"}',
        b"[" * 100_000,
    ],
)
def test_an_answer_that_is_no_probability_is_502(service, answer):
    service.runtime.answer = answer
    assert predict(GOOD)[0] == 502


@pytest.fixture
def endpoint_at(service, serve, monkeypatch):
    """Point the service at a server of its own, with less patience than in service."""

    def start(answer):
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", serve(answer))
        hasty = app.PATIENCE.merge(app.Config(connect_timeout=0.3, read_timeout=0.3))
        service.runtime = boto3.client("sagemaker-runtime", config=hasty)

    return start


def test_an_endpoint_that_never_answers_is_504(endpoint_at):
    release = threading.Event()
    seen = []
    endpoint_at(lambda request: (seen.append(request.path), release.wait(10), None)[2])
    began = time.monotonic()
    try:
        assert predict(GOOD)[0] == 504
    finally:
        release.set()
    assert time.monotonic() - began < 5
    assert seen == [f"/endpoints/{ENDPOINT}/invocations"] * 2  # asked twice, no more


def test_an_endpoint_that_hangs_up_is_502(endpoint_at):
    endpoint_at(lambda request: None)
    assert predict(GOOD)[0] == 502


def test_an_answer_that_is_cut_is_502(endpoint_at):
    endpoint_at(lambda request: (200, {"Content-Length": "1000", "Connection": "close"}, b'{"predictions"'))
    assert predict(GOOD)[0] in (502, 504)


def test_an_endpoint_that_recovers_is_asked_again(endpoint_at):
    answers = [
        (503, {"x-amzn-errortype": "ServiceUnavailable"}, b'{"Message": "x"}'),
        (200, {}, b'{"predictions": [{"fraud_probability": 0.5}], "model_version": "m"}'),
    ]
    endpoint_at(lambda request: answers.pop(0))
    assert predict(GOOD)[0] == 200


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


def test_labels_are_stored_once(s3, service):
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
    assert first[1]["key"].startswith("labels/2026/01/02/03/")
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


@settings(deadline=None, max_examples=400, suppress_health_check=list(HealthCheck))
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
    predict({"TransactionAmt": 4111.25, "card4": CANARY})
    predict({"TransactionAmt": CANARY})
    call("POST", f"/{CANARY}", CANARY)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["status"] for line in lines] == [200, 400, 404]
    assert lines[0]["route"] == "/predict"
    assert lines[0]["request_id"] == "request-1"
    assert CANARY not in json.dumps(lines)
    assert "4111" not in json.dumps(lines)


def test_a_defect_is_500_without_a_trace_for_the_caller(service, capsys):
    service.runtime = None
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


def test_the_real_client_reads_the_body(service, real_runtime):
    service.runtime = real_runtime
    content = b'{"predictions": [{"fraud_probability": 0.75}], "model_version": "run-1"}'
    body = StreamingBody(io.BytesIO(content), len(content))
    with Stubber(service.runtime) as stub:
        stub.add_response("invoke_endpoint", {"Body": body})
        assert predict(GOOD)[1]["decision"] == "review"


IMPORTS = """
import sys
sys.path.insert(0, sys.argv[1])
import boto3, botocore.config, botocore.exceptions
before = set(sys.modules)
import app, fraud
assert fraud.__file__.startswith(sys.argv[1]), fraud.__file__
print(*sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize("name", ["inference", "drift_check"])
def test_a_lambda_loads_the_standard_library_boto3_and_itself(name, tmp_path):
    package = tmp_path / "fraud"
    package.mkdir()
    (tmp_path / "app.py").write_bytes((LAMBDAS / name / "app.py").read_bytes())
    for path in (LAMBDAS.parent / "src" / "fraud").glob("*.py"):
        (package / path.name).write_bytes(path.read_bytes())
    done = subprocess.run(
        [sys.executable, "-I", "-c", IMPORTS, str(tmp_path)], capture_output=True, text=True, check=True
    )
    loaded = {module.partition(".")[0] for module in done.stdout.split()}
    assert "fraud" in loaded
    assert loaded - set(sys.stdlib_module_names) == {"app", "fraud"}
