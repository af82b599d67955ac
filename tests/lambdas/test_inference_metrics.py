"""The log line of a request is CloudWatch's embedded metric format, and tells no more than numbers."""

import json
import re

import pytest
from inference_kit import CONTEXT, GOOD, app, call, predict
from jsonschema import Draft202012Validator
from lambdas_kit import LAMBDAS

NAME = {"type": "string", "minLength": 1, "maxLength": 255}
# As in CloudWatch's specification of the embedded metric format.
FORMAT = Draft202012Validator(
    {
        "type": "object",
        "required": ["_aws"],
        "properties": {
            "_aws": {
                "type": "object",
                "required": ["Timestamp", "CloudWatchMetrics"],
                "properties": {
                    "Timestamp": {"type": "integer", "minimum": 1_600_000_000_000},
                    "CloudWatchMetrics": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["Namespace", "Dimensions", "Metrics"],
                            "properties": {
                                "Namespace": {"type": "string", "pattern": "^[0-9A-Za-z./_#:-]+$"},
                                "Dimensions": {
                                    "type": "array",
                                    "minItems": 1,
                                    "items": {"type": "array", "minItems": 1, "maxItems": 30, "items": NAME},
                                },
                                "Metrics": {
                                    "type": "array",
                                    "minItems": 1,
                                    "maxItems": 100,
                                    "items": {
                                        "type": "object",
                                        "required": ["Name"],
                                        "properties": {
                                            "Name": NAME,
                                            "Unit": {"enum": ["Count", "Milliseconds", "None"]},
                                        },
                                    },
                                },
                            },
                        },
                    },
                },
            }
        },
    }
)


@pytest.fixture
def metrics(capsys):
    """What CloudWatch makes of the log since the last call: values by name and dimensions, line by line."""

    def read():
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        found = []
        for line in lines:
            FORMAT.validate(line)
            values = {}
            for directive in line["_aws"]["CloudWatchMetrics"]:
                assert directive["Namespace"] == "Fraud/Api"
                for dimensions in directive["Dimensions"]:
                    assert all(isinstance(line[name], str) and line[name] for name in dimensions)
                    for metric in directive["Metrics"]:
                        value = line[metric["Name"]]
                        assert all(type(v) in (int, float) for v in (value if isinstance(value, list) else [value]))
                        assert not isinstance(value, list) or 1 <= len(value) <= 100
                        values[metric["Name"], *(line[name] for name in dimensions)] = value
            found.append(values)
        return found

    return read


HERE = ("inference", "fraud")


def test_a_prediction(service, metrics):
    service.runtime.scores = (0.1, 0.5, 0.9, 1 / 3)
    predict({"transactions": [GOOD] * 4})
    (found,) = metrics()
    assert {name for name, *_ in found} == set(app.UNITS) - {"CandidateReview", "CandidateExcess"}
    assert [found[name, *HERE] for name in ("Requests", "ClientErrors", "ServerErrors")] == [1, 0, 0]
    assert (found["Transactions", *HERE], found["Approved", *HERE]) == (4, 2)
    assert found["Review", *HERE] == found["Review", *HERE, "run-1"] == [0, 1, 1, 0]
    assert found["Score", *HERE] == found["Score", *HERE, "run-1"] == [0.1, 0.5, 0.9, 0.333333]
    assert found["ModelLatency", *HERE] == found["ModelLatency", *HERE, "run-1"]
    assert 0 <= found["ModelLatency", *HERE] <= found["Latency", *HERE] < 1000
    assert ("Latency", *HERE, "run-1") not in found


def test_the_share_that_goes_to_review_is_an_average_over_transactions(service, metrics):
    service.runtime.scores = (0.9,)
    predict(GOOD)
    service.runtime.scores = (0.1,)
    predict({"transactions": [GOOD] * 99})
    values = [value for found in metrics() for value in found["Review", *HERE]]
    assert sum(values) / len(values) == 0.01


def test_what_a_model_under_deployment_decides_is_told_apart(service, metrics):
    service.runtime.scores, service.runtime.version = (0.9, 0.1), "run-2"
    predict({"transactions": [GOOD] * 2})
    (found,) = metrics()
    assert found["CandidateReview", *HERE] == found["Review", *HERE, "run-2"] == [1, 0]
    assert found["CandidateExcess", *HERE] == 1 - 0.2 * 2
    service.runtime.version = "run-1"
    predict(GOOD)
    assert not {name for name, *_ in metrics()[0]} & {"CandidateReview", "CandidateExcess"}


def test_the_share_that_counts_as_excess_is_set_from_outside(monkeypatch):
    for name, value in (("ENDPOINT_NAME", "e"), ("BUCKET", "b"), ("REVIEW_RATE_LIMIT", "0.05")):
        monkeypatch.setenv(name, value)
    assert app.Settings.from_environ() == app.Settings("e", "b", 0.05)
    monkeypatch.delenv("REVIEW_RATE_LIMIT")
    assert app.Settings.from_environ().review_rate_limit == 0.2


@pytest.mark.parametrize(
    ("method", "path", "body", "errors"),
    [
        ("GET", "/health", None, (0, 0)),
        ("GET", "/openapi.json", None, (0, 0)),
        ("POST", "/labels", '{"labels": [{"inference_id": "a", "label": 1}]}', (0, 0)),
        ("POST", "/predict", "{", (1, 0)),
        ("DELETE", "/predict", "", (1, 0)),
    ],
)
def test_other_requests_are_counted_and_no_more(service, metrics, method, path, body, errors):
    call(method, path, body)
    (found,) = metrics()
    assert {key[1:] for key in found} == {HERE}
    assert {name for name, *_ in found} == {"Requests", "ClientErrors", "ServerErrors", "Latency"}
    assert (found["ClientErrors", *HERE], found["ServerErrors", *HERE]) == errors


def test_an_answer_that_cannot_be_used_is_a_server_error_of_known_latency(service, metrics):
    service.runtime.answer = b"oops"
    predict(GOOD)
    (found,) = metrics()
    assert found["ServerErrors", *HERE] == 1
    assert {name for name, *_ in found} == {"Requests", "ClientErrors", "ServerErrors", "Latency", "ModelLatency"}


def test_a_lambda_without_its_environment_still_counts_the_error(monkeypatch, metrics):
    monkeypatch.delenv("ENDPOINT_NAME", raising=False)
    monkeypatch.setattr(app, "service", lambda: app.Service(app.Settings.from_environ(), None, None))
    event = {"httpMethod": "GET", "path": "/health"}
    assert app.handler(event, CONTEXT)["statusCode"] == 500
    (found,) = metrics()
    assert found["ServerErrors", "inference", "unknown"] == 1


def test_the_page_for_people_names_every_metric():
    page = (LAMBDAS.parent / "docs" / "api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[A-Z]\w+`.*?) \|", page[page.index("## What is measured") :], re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(app.UNITS)
    assert {name for row in rows for name in re.findall(r"`(\w+)` \*", row)} == app.BY_MODEL
