"""Whatever goes wrong behind the API has its status: each fault of InvokeEndpoint, over HTTP and through botocore."""

import io
import json
import socket
import threading
import time

import boto3
import pytest
from botocore.exceptions import NoCredentialsError, SSLError
from botocore.response import StreamingBody
from botocore.stub import Stubber
from inference_kit import DOCUMENT, GOOD, MODEL, app, call, predict
from lambdas_kit import ENDPOINT

SECRET = "https://console.aws.amazon.com/cloudwatch/logs 68.5"
ANSWER = b'{"predictions": [{"fraud_probability": 0.75}], "model_version": "run-1"}'
HTML = b"<html><body><h1>nginx 68.5 console</h1></body></html>"
MODELLED = {  # HTTP status of AWS, ours
    "InternalFailure": (500, 502),
    "ServiceUnavailable": (503, 503),
    "ValidationError": (400, 503),
    "ModelError": (424, 502),
    "InternalDependencyException": (530, 502),
    "ModelNotReadyException": (429, 503),
}
COMMON = [
    ("ThrottlingException", 400, 429),
    ("ThrottlingException", 429, 429),
    ("Throttling", 400, 429),
    ("RequestThrottled", 400, 429),
    ("TooManyRequestsException", 429, 429),
    ("RequestLimitExceeded", 503, 429),
    ("LimitExceededException", 400, 429),
    ("ServiceQuotaExceededException", 402, 429),
    ("ProvisionedThroughputExceededException", 400, 429),
    ("BandwidthLimitExceeded", 509, 429),
    ("SlowDown", 503, 429),
    ("ServiceUnavailableException", 503, 503),
    ("ValidationException", 400, 503),
    ("AccessDeniedException", 403, 502),
    ("ExpiredTokenException", 403, 502),
    ("ExpiredToken", 400, 502),
    ("UnrecognizedClientException", 403, 502),
    ("InvalidSignatureException", 403, 502),
    ("MissingAuthenticationToken", 403, 502),
    ("OptInRequired", 403, 502),
    ("SomethingNew", 400, 502),
    ("SomethingNew", 500, 502),
    ("SomethingNew", 429, 429),
    ("SomethingNew", 503, 503),
    ("SomethingNew", 504, 504),
]


@pytest.fixture
def endpoint_at(service, serve, monkeypatch):
    """Point the service at a server of its own, with less patience than in service."""

    def start(answer, attempts=1):
        address = answer if isinstance(answer, str) else serve(answer)
        monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME", address)
        retries = {"total_max_attempts": attempts, "mode": "standard"}
        hasty = app.Config(connect_timeout=0.3, read_timeout=0.3, retries=retries)
        service.runtime = boto3.client("sagemaker-runtime", config=app.PATIENCE.merge(hasty))

    return start


def refused(expected):
    """Ask; check that nothing of the fault comes through and that a wait is named where waiting helps."""
    status, body, headers = predict(GOOD)
    assert status == expected
    assert not [word for word in ("console", "68.5", "nginx") if word in json.dumps(body)]
    assert ("retry-after" in headers) is (status in (429, 503))
    return body


def test_every_error_of_the_service_model_is_known():
    shapes = MODEL.operation_model("InvokeEndpoint").error_shapes
    assert {shape.error_code: shape.metadata["error"]["httpStatusCode"] for shape in shapes} == {
        code: theirs for code, (theirs, _) in MODELLED.items()
    }


@pytest.mark.parametrize(
    ("code", "theirs", "ours"), [(code, *both) for code, both in MODELLED.items()] + COMMON, ids=lambda item: str(item)
)
def test_errors_of_the_endpoint(endpoint_at, code, theirs, ours):
    said = json.dumps({"Message": SECRET, "message": SECRET, "OriginalMessage": SECRET}).encode()
    endpoint_at(lambda request: (theirs, {"x-amzn-errortype": code, "Content-Type": "application/json"}, said))
    refused(ours)


@pytest.mark.parametrize(
    ("original", "status"),
    [(400, 503), (413, 503), (415, 503), (408, 504), (429, 429), (500, 502), (503, 502), (504, 502), (None, 502)],
)
def test_a_refusal_by_the_model_of_what_the_api_accepts_is_not_the_callers(endpoint_at, original, status):
    said = {"Message": SECRET, "OriginalMessage": SECRET, "LogStreamArn": SECRET}
    said |= {} if original is None else {"OriginalStatusCode": original}
    endpoint_at(lambda request: (424, {"x-amzn-errortype": "ModelError"}, json.dumps(said).encode()))
    refused(status)


@pytest.mark.parametrize(
    ("theirs", "content", "ours"),
    [
        (503, HTML, 503),
        (504, HTML, 504),
        (502, HTML, 502),
        (500, b"", 502),
        (429, HTML, 429),
        (403, HTML, 502),
        (400, b"{", 502),
        (400, b"[]", 502),
        (400, b'{"code": 5}', 502),
        (400, b'{"code": ["Throttling"], "message": {}}', 502),
        (429, b'{"Code": null}', 429),
        (424, b'{"__type": "ModelError", "OriginalStatusCode": "x"}', 502),
        (404, b"\xff\xfe", 502),
        (307, b"", 502),
        (200, HTML, 502),
        (204, b"", 502),
        (206, ANSWER[:20], 502),
    ],
)
def test_answers_that_are_not_awss(endpoint_at, theirs, content, ours):
    endpoint_at(lambda request: (theirs, {"Content-Type": "text/html"}, content))
    refused(ours)


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
        b'{"predictions": [{"fraud_probability": 0.5}], "model_version": 5}',
        b'{"predictions": [{"fraud_probability": 0.5}], "model_version": ""}',
        b'{"predictions": {"fraud_probability": 0.5}, "model_version": "m"}',
        b'{"predictions": [{"fraud_probability": 0.5, "reasons": [{"feature": "x", "contribution": 1}]}], '
        b'"model_version": "m"}',
        b'{"predictions": [{"fraud_probability": 0.5, "reasons": [{"feature": "card4", "contribution": NaN}]}], '
        b'"model_version": "m"}',
        b'{"predictions": [{"fraud_probability": 0.5, "reasons": [{"feature": ["card4"], "contribution": 1}]}], '
        b'"model_version": "m"}',
        b'{"predictions": [{"fraud_probability": 0.5, "reasons": [{"feature": "card4", "contribution": 1'
        + b"0" * 400
        + b'}]}], "model_version": "m"}',
        b'{"predictions": [{"fraud_probability": 1' + b"0" * 5000 + b'}], "model_version": "m"}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
    ids=lambda body: f"{len(body)} bytes {body[:40]!r}",
)
def test_an_answer_that_is_no_probability_is_502(service, answer):
    service.runtime.answer = answer
    refused(502)


def test_an_endpoint_that_never_answers_is_504(endpoint_at):
    release, seen = threading.Event(), []
    endpoint_at(lambda request: (seen.append(request.path), release.wait(10), None)[2], attempts=2)
    began = time.monotonic()
    try:
        refused(504)
    finally:
        release.set()
    assert time.monotonic() - began < 5
    assert seen == [f"/endpoints/{ENDPOINT}/invocations"] * 2  # asked twice, no more


@pytest.fixture
def raw_server():
    """A server that sends bytes of its own and then does what it is told to: no HTTP library is in between."""
    stop, listener = threading.Event(), socket.create_server(("127.0.0.1", 0))

    def start(content, then_wait):
        def run():
            with listener:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(content)
                    if then_wait:
                        stop.wait(10)

        threading.Thread(target=run, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    stop.set()
    listener.close()


@pytest.mark.parametrize(
    ("content", "then_wait", "status"),
    [
        (b"", False, 502),  # hangs up
        (b"garbage\r\n\r\n", False, 502),
        (b"HTTP/1.1 two hundred\r\n\r\n", False, 502),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + ANSWER, False, 502),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n" + ANSWER, False, 502),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + ANSWER, True, 504),  # stalls in the body
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" + ANSWER, False, 502),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n" + ANSWER, False, 502),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n" + ANSWER[:4], True, 504),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 72\r\n\r\n" + b"x" * 72, False, 502),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 5000 + b"\r\n" + ANSWER, False, 502),
        (b"HTTP/1.1 100 Continue\r\n\r\n", True, 504),
    ],
)
def test_broken_http(endpoint_at, raw_server, content, then_wait, status):
    endpoint_at(raw_server(content, then_wait))
    refused(status)


def test_an_endpoint_that_nobody_listens_at_is_502(endpoint_at):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    endpoint_at(f"http://127.0.0.1:{port}")
    refused(502)


@pytest.mark.parametrize("error", [NoCredentialsError(), SSLError(endpoint_url="https://console", error="68.5")])
def test_a_request_that_cannot_be_sent_is_502(service, error):
    class Failing:
        def invoke_endpoint(self, **given):
            raise error

    service.runtime = Failing()
    refused(502)


def test_an_endpoint_that_recovers_is_asked_again(endpoint_at):
    answers = [(503, {"x-amzn-errortype": "ServiceUnavailable"}, b'{"Message": "x"}'), (200, {}, ANSWER)]
    endpoint_at(lambda request: answers.pop(0), attempts=2)
    assert predict(GOOD)[0] == 200


def test_the_real_client_reads_the_body(service, real_runtime):
    service.runtime = real_runtime
    with Stubber(service.runtime) as stub:
        stub.add_response("invoke_endpoint", {"Body": StreamingBody(io.BytesIO(ANSWER), len(ANSWER))})
        assert predict(GOOD)[1]["decision"] == "review"


@pytest.mark.parametrize(
    ("code", "status"),
    [("SlowDown", 503), ("AccessDenied", 403), ("InternalError", 500), ("ConditionalRequestConflict", 409)],
)
def test_storage_that_fails_is_503_for_labels(service, code, status):
    with Stubber(service.s3) as stub:
        for _ in range(app.PATIENCE.retries["total_max_attempts"]):
            stub.add_client_error("put_object", code, SECRET, status)
        found, body, headers = call("POST", "/labels", '{"labels": [{"inference_id": "a", "label": 1}]}')
    assert (found, headers["retry-after"]) == (503, "2")
    assert "console" not in json.dumps(body)


def test_every_documented_fault_of_predict_was_met():
    ours = {both[1] for both in MODELLED.values()} | {ours for _, _, ours in COMMON}
    documented = {int(status) for status in DOCUMENT["paths"]["/predict"]["post"]["responses"]}
    assert documented == ours | {200, 400, 403, 413, 500}  # those of good and bad requests, gateway and defects
