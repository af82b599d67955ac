"""Nothing that a caller sends is a 5xx, comes back or reaches the log: in process by hundreds of thousands, over HTTP.

Quick versions run with the other tests; the proof (``slow``) is the same with the numbers of `PROOF`. Every answer is
held against the OpenAPI document on the way.
"""

import base64
import collections
import http.client
import json
import random
import re
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from fraud.demo.malformed import KINDS

sys.path.insert(0, str(Path(__file__).parents[1] / "lambdas"))
from inference_kit import CONTEXT, GOOD, answered, app, check_answer, service_in_memory

MARK, DIGITS = "c4n4ry", 31415926535
LABELS = {"labels": [{"inference_id": "tx-1", "label": 1, "time": "2026-01-02T03:04:05Z"}]}
# Refused requests in process by the mutator, by hypothesis; requests over HTTP by schemathesis, by the mutator.
QUICK, PROOF = (3_500, 500, 100, 3_000), (190_000, 20_000, 20_000, 20_000)
AMOUNTS = [QUICK, pytest.param(PROOF, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
IDS = ["quick", "proof"]


class Log:
    """Stands in for standard output: keeps the lines since the last look."""

    def __init__(self):
        self.lines = collections.deque()

    def write(self, text):
        self.lines.append(text)


@pytest.fixture
def log(monkeypatch):
    """The Lambda's service in memory, and what it logs."""
    service = service_in_memory()
    monkeypatch.setattr(app, "service", lambda: service)
    monkeypatch.setenv("ENDPOINT_NAME", "fraud")
    log = Log()
    monkeypatch.setattr(app, "sys", SimpleNamespace(stdout=log))
    return log


def look(log, requests=1):
    """Check the log lines of some requests: one each, with a status below 500 and nothing of the payload."""
    lines = [log.lines.popleft() for _ in range(len(log.lines))]
    assert len(lines) == requests
    for line in lines:
        assert MARK not in line and str(DIGITS) not in line, line
        found = json.loads(line)
        assert found["status"] < 500 and found["level"] == "INFO", line


def unechoed(body):
    body = re.sub(r'"inference_id": "-?[0-9]+"', "", body)  # a transaction's own id names its answer, on purpose
    assert MARK not in body and str(DIGITS) not in body, body


# ------------------------------------------------------------------------------------------------ one thing wrong


def hostile(rng):
    """A value that belongs nowhere; text and numbers are marked, so that an echo of them shows."""
    return rng.choice(
        [
            lambda: f"<{MARK}{rng.randrange(99)}>",
            lambda: DIGITS * rng.choice([1, -1, 10**9, 10**20, 10**400]),
            lambda: DIGITS / 7,
            lambda: float(rng.choice(["nan", "inf", "-inf", "1e308", "-0.0"])),
            lambda: rng.choice([True, False, None, "", "\u0000", f"\ud800{MARK}", "x" * 70, "💥", 2**63, -(2**63)]),
            lambda: [] if rng.random() < 0.5 else [f"<{MARK}>"] * rng.randrange(1, 200),
            lambda: {f"<{MARK} {rng.randrange(9)}>": hostile(rng)} if rng.random() < 0.9 else {},
            lambda: rng.choice(["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-13-01", "1e5", "now"]),
            lambda: f"http://169.254.169.254/{MARK}",
            lambda: f"../../{MARK}\r\nx-evil: {MARK}",
        ]
    )()


def nest(value, rng):
    for _ in range(rng.choice([1, 7, 9, 60, 3000])):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def bend(document, rng):
    """Change one member, somewhere."""
    places = [(document, key) for key in document]
    for holder, key in list(places):
        inner = holder[key]
        while isinstance(inner, (dict, list)) and inner:
            step = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
            places.append((inner, step))
            inner = inner[step]
    holder, key = rng.choice(places)
    what = rng.randrange(5)
    if what == 0:
        holder[key] = hostile(rng)
    elif what == 1:
        del holder[key]
    elif what == 2 and isinstance(holder, dict):
        holder[rng.choice([f"<{MARK} {rng.randrange(9)}>", "TargetVariant", "Content-Type", "<b>", "", "\ud800"])] = 1
    elif what == 3 and isinstance(holder, dict):
        holder[rng.choice(["transactions", "inference_id", "inference_ids", "reasons", "time", "label"])] = hostile(rng)
    else:
        holder[key] = [holder[key]] * rng.choice([2, 101, 1001]) if rng.random() < 0.05 else {"a": holder[key]}
    return document


def text_of(document):
    """JSON as its standard is not written: NaN, Infinity, lone surrogates and all."""
    try:
        return json.dumps(document).encode()
    except RecursionError:
        return b"[" * 5000 + b"]" * 5000


def damage(raw, rng):
    """Change some bytes."""
    at = rng.randrange(len(raw) + 1)
    return rng.choice(
        [
            lambda: raw[:at],
            lambda: raw[at:],
            lambda: raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :],
            lambda: raw[:at] + rng.randbytes(rng.randrange(1, 9)) + raw[at:],
            lambda: raw[:at] + raw[at // 2 :],
            lambda: (
                raw[:at] + rng.choice([b"\xff\xfe", b"\xc0\x80", b"\xed\xa0\x80", b"\x00", b"\xef\xbb\xbf"]) + raw[at:]
            ),
            lambda: (
                raw[:at] + rng.choice([b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b'"\\ud800"', b"//"]) + raw[at:]
            ),
            lambda: b"\xef\xbb\xbf" + raw,
            lambda: raw.decode(errors="replace").encode("utf-16"),
            lambda: raw + raw,
            lambda: raw.replace(b"{", b'{"TransactionAmt": 1, "TransactionAmt": 2, "labels": [], "labels": [], ', 1),
            lambda: b"[" * rng.choice([9, 100_000]) + raw,
            lambda: b" " * rng.choice([5, 70_000]) + raw[:at],
        ]
    )()


def payload(rng):
    """Path, method and body of a request in which something is wrong, now and then by chance nothing."""
    if rng.random() < 0.1:
        kind = rng.choice([kind for kind in KINDS if kind.name != "too large" or rng.random() < 0.01])
        body = kind.body({**GOOD, "TransactionID": DIGITS, "card4": f"<{MARK}>"})
        return kind.path, kind.method, body if rng.random() < 0.5 else damage(body[:2000], rng)
    good = rng.choice(
        [
            lambda: {**GOOD, "TransactionID": 5, "is_new": True},
            lambda: {"transactions": [dict(GOOD), dict(GOOD)], "inference_ids": ["a", None], "reasons": True},
            lambda: json.loads(json.dumps(LABELS)),
        ]
    )()
    path = "/labels" if "labels" in good else "/predict"
    if rng.random() < 0.05:
        return rng.choice(["/", f"/{MARK}", "/labels", "/predict", "/predict/../labels", "/predict//x"]), "POST", b"{}"
    wrong = bend(good, rng)
    for _ in range(rng.choice([0, 0, 1, 3])):
        wrong = bend(wrong, rng) if wrong else {}
    if rng.random() < 0.03:
        wrong = nest(wrong, rng)
    raw = text_of(wrong)
    return path, "POST", damage(raw, rng) if rng.random() < 0.4 else raw


def as_event(path, method, body, rng):
    """An event of API Gateway around it, REST or HTTP; now and then of a shape that it never has."""
    plain = rng.random() < 0.5
    try:
        text = body.decode() if plain else base64.b64encode(body).decode()
    except UnicodeDecodeError:
        text, plain = base64.b64encode(body).decode(), False
    more = {"body": text, "isBase64Encoded": not plain}
    if rng.random() < 0.5:
        http = {"method": method, "path": path, "userAgent": MARK}
        event = {"version": "2.0", "rawPath": path, "requestContext": {"http": http, "stage": "$default"}, **more}
    else:
        event = {
            "httpMethod": method,
            "path": path,
            "requestContext": {"stage": "live"},
            "headers": {MARK: MARK},
            **more,
        }
    if rng.random() < 0.05:
        event[rng.choice(["body", "requestContext", "isBase64Encoded", "headers", "version"])] = hostile(rng)
    return event


@pytest.mark.parametrize("amounts", AMOUNTS, ids=IDS)
def test_in_process(log, capsys, amounts):
    rng, statuses, refused = random.Random(20261125), collections.Counter(), 0
    wanted_by_mutation, wanted_by_hypothesis, *_ = amounts

    def send(path, method, event):
        answer = app.handler(event, CONTEXT)
        look(log)
        unechoed(answer["body"])
        if answer["statusCode"] in (404, 405):  # an event of odd shape may have lost its method
            method = path = ""
        status, _, _ = answered(answer, method, path)
        statuses[status] += 1
        return status >= 400

    while refused < wanted_by_mutation:
        path, method, body = payload(rng)
        refused += send(path, method, as_event(path, method, body, rng))
    by_mutation, refused = sum(statuses.values()), 0

    @seed(20261125)
    @settings(max_examples=1000, database=None, suppress_health_check=list(HealthCheck))
    @given(ANYTHING, st.sampled_from(["/predict", "/labels"]))
    def anything(body, path):
        nonlocal refused
        text = body if isinstance(body, str) else base64.b64encode(body).decode()
        event = {"path": path, "httpMethod": "POST", "body": text, "isBase64Encoded": isinstance(body, bytes)}
        refused += send(path, "POST", event)

    while refused < wanted_by_hypothesis:
        anything()
        anything = seed(rng.random())(anything)
    assert {200, 202, 400, 404} <= set(statuses)
    with capsys.disabled():
        told = ", ".join(f"{count:,} × {status}" for status, count in sorted(statuses.items()))
        by_hypothesis = sum(statuses.values()) - by_mutation
        print(f"\nin process: {by_mutation:,} requests by mutation, {by_hypothesis:,} by hypothesis: {told}",
              file=sys.__stdout__)  # fmt: skip


ANYTHING = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([f"<{MARK}>", "\ud800", DIGITS]),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.sampled_from(
                    ["TransactionAmt", "card4", "is_new", "TransactionID", "transactions", "inference_id"]
                    + ["inference_ids", "reasons", "labels", "label", "time", f"<{MARK} 1>", "EndpointName", ""]
                ),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    ).map(json.dumps),
)


# ------------------------------------------------------------------------------------------------ over HTTP


class Gateway(BaseHTTPRequestHandler):
    """HTTP in, events of API Gateway (HTTP API, version 2.0) to the handler, its answers out."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self):
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            body, encoded = raw.decode(), False
        except UnicodeDecodeError:
            body, encoded = base64.b64encode(raw).decode(), True
        path, _, query = self.path.partition("?")
        event = {
            "version": "2.0",
            "routeKey": "$default",
            "rawPath": path,
            "rawQueryString": query,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "requestContext": {"http": {"method": self.command, "path": path}, "stage": "$default"},
            "isBase64Encoded": encoded,
        } | ({"body": body} if raw else {})
        found = app.handler(event, CONTEXT)
        content = found["body"].encode()
        self.send_response(found["statusCode"])
        for name, value in {**found["headers"], "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = answer

    def log_message(self, *_):
        pass


@pytest.fixture
def gateway(log):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


# Without positive_data_acceptance: what JSON Schema cannot say (64-bit integers, one id for each transaction) is
# refused; test_api_openapi.py is about that.
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
]


@pytest.mark.parametrize("amounts", AMOUNTS, ids=IDS)
def test_over_http_from_the_document(gateway, log, capsys, amounts):
    import requests
    import schemathesis

    url, session, statuses = f"http://127.0.0.1:{gateway}", requests.Session(), collections.Counter()
    session.trust_env = False
    served = session.get(f"{url}/openapi.json").json()
    look(log)
    schemathesis.openapi.from_dict(served).validate()
    document = schemathesis.openapi.from_dict(served | {"security": []})  # signatures are the gateway's business
    operations = [found.ok() for found in document.get_all_operations()]
    checks = schemathesis.checks.CHECKS.get_by_names(CHECKS)
    right, wrong = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
    shares = {"/predict": 0.36, "/labels": 0.14}
    for operation in operations:
        for mode in (right, wrong) if operation.path in shares else (right,):  # a GET has nothing to get wrong

            @seed(20261125)
            @settings(
                max_examples=int(shares.get(operation.path, 0) * amounts[2]) + 1,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(operation.as_strategy(generation_mode=mode))
            def send(case):
                answer = case.call(base_url=url, session=session)
                look(log)
                unechoed(answer.text)
                case.validate_response(answer, checks=checks)
                (kind,) = answer.headers["content-type"]
                path = case.operation.path if answer.status_code not in (404, 405) else ""
                check_answer(answer.request.method, path, answer.status_code, kind, answer.text)
                statuses[answer.status_code] += 1

            send()
    session.close()
    assert sum(statuses.values()) >= amounts[2]
    assert {200, 202, 400} <= set(statuses)
    with capsys.disabled():
        told = ", ".join(f"{count:,} × {status}" for status, count in sorted(statuses.items()))
        print(f"\nover HTTP, schemathesis: {sum(statuses.values()):,} requests: {told}", file=sys.__stdout__)


@pytest.mark.parametrize("amounts", AMOUNTS, ids=IDS)
def test_over_http_by_mutation(gateway, log, capsys, request, amounts):
    rng, statuses = random.Random(20261126), collections.Counter()
    connection = http.client.HTTPConnection("127.0.0.1", gateway, timeout=10)
    request.addfinalizer(connection.close)
    connection.connect()
    connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for _ in range(amounts[3]):
        path, method, body = payload(rng)
        connection.request(method, path, body, {"Content-Type": rng.choice(["application/json", "text/plain", MARK])})
        with connection.getresponse() as answer:
            text = answer.read().decode()
        look(log)
        unechoed(text)
        check_answer(method, path.rstrip("/"), answer.status, answer.headers["content-type"], text)
        statuses[answer.status] += 1
    with capsys.disabled():
        told = ", ".join(f"{count:,} × {status}" for status, count in sorted(statuses.items()))
        print(f"\nover HTTP, mutation: {sum(statuses.values()):,} requests: {told}", file=sys.__stdout__)
