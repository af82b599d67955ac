"""What tests of the inference Lambda share: the handler, an endpoint in memory, and the contract of every answer."""

import copy
import functools
import io
import json
from types import SimpleNamespace

import botocore.session
import botocore.validate
import pytest
from jsonschema import Draft202012Validator
from lambdas_kit import ENDPOINT, RELEASE, SCHEMA, load

from fraud import api
from fraud.openapi import build_openapi

app = load("inference")
CONTEXT = SimpleNamespace(aws_request_id="request-1")
MODEL = botocore.session.get_session().get_service_model("sagemaker-runtime")
GOOD = {"TransactionAmt": 68.5, "card4": "visa"}
DOCUMENT = build_openapi(SCHEMA, RELEASE["model_version"])


class Runtime:
    """The endpoint: validates the call as AWS does, answers a score for each transaction, remembers the calls."""

    def __init__(self, scores=(0.25,), version="run-1"):
        self.scores, self.version, self.calls, self.answer = scores, version, [], None
        shape = MODEL.operation_model("InvokeEndpoint").input_shape
        validator = botocore.validate.ParamValidator()
        self._check = lambda given: validator.validate(given, shape)

    def invoke_endpoint(self, **given):
        assert not self._check(given).has_errors()
        self.calls.append(given)
        rows = json.loads(given["Body"])["transactions"]
        scores = [self.scores[k % len(self.scores)] for k in range(len(rows))]
        answer = {"predictions": [{"fraud_probability": s} for s in scores], "model_version": self.version}
        body = json.dumps(answer).encode() if self.answer is None else self.answer
        return {"Body": io.BytesIO(body)}


class Bucket:
    """S3 in memory, as far as the Lambda needs it."""

    class exceptions:
        class NoSuchKey(Exception):
            pass

    def __init__(self):
        self.objects = {
            f"releases/{ENDPOINT}/current.json": json.dumps(RELEASE).encode(),
            RELEASE["schema_key"]: SCHEMA.to_json().encode(),
        }
        self.puts = 0

    def get_object(self, *, Bucket, Key):
        if Key not in self.objects:
            raise self.exceptions.NoSuchKey
        return {"Body": io.BytesIO(self.objects[Key])}

    def put_object(self, *, Bucket, Key, Body, ContentType, IfNoneMatch):
        assert (ContentType, IfNoneMatch) == ("application/json", "*")
        self.puts += 1
        return {"ETag": '"1"'}


def service_in_memory():
    """The Lambda's service without any AWS."""
    return app.Service(app.Settings(ENDPOINT, "bucket"), Bucket(), Runtime())


def strictly(node):
    """A copy of a document in which an object may have no members but those described."""
    node = copy.deepcopy(node)

    def close(part):
        if isinstance(part, dict):
            if "properties" in part:
                part.setdefault("additionalProperties", False)
            for inner in part.values():
                close(inner)
        elif isinstance(part, list):
            for inner in part:
                close(inner)

    close(node["paths"])
    close(node["components"])
    return node


STRICT = strictly(DOCUMENT)


@functools.cache
def validator(*place):
    """Validator of a part of the document."""
    pointer = "/".join(str(step).replace("~", "~0").replace("/", "~1") for step in place)
    return Draft202012Validator(STRICT | {"$ref": f"#/{pointer}"}, format_checker=Draft202012Validator.FORMAT_CHECKER)


@functools.lru_cache(100_000)
def check_answer(method, path, status, kind, body):
    """Hold an answer against the OpenAPI document; returns what the body says."""
    found = json.loads(body, parse_constant=pytest.fail)
    if DOCUMENT["paths"].get(path, {}).get(method.lower()):
        answers = DOCUMENT["paths"][path][method.lower()]["responses"]
        assert str(status) in answers, f"{method} {path} answers {status}, which is not documented"
        assert kind in answers[str(status)]["content"], (status, kind)
        place = ("paths", path, method.lower(), "responses", status, "content", kind, "schema")
    else:
        assert status in (404, 405), status
        assert kind == "application/problem+json"
        place = ("components", "schemas", "Problem")
    problems = [error.message for error in validator(*place).iter_errors(found)]
    assert not problems, problems
    if status >= 400:
        assert (found["status"], found["title"]) == (status, api.TITLES[status])
    return found


def answered(response, method="POST", path="/predict"):
    """Check what holds of every answer, and return status, body and headers."""
    status, headers = response["statusCode"], response["headers"]
    assert response.keys() == {"statusCode", "headers", "body", "isBase64Encoded"}
    if "retry-after" in headers:
        assert status in (429, 503) and int(headers["retry-after"]) >= 1
    return status, check_answer(method, path, status, headers["content-type"], response["body"]), headers


def call(method, path, body=None):
    event = {"httpMethod": method, "path": path, "requestContext": {"stage": "live"}, "body": body}
    return answered(app.handler(event, CONTEXT), method, path)


def predict(document):
    return call("POST", "/predict", document if isinstance(document, str) else json.dumps(document))
