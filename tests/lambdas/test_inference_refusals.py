"""What the API accepts and the endpoint refuses: another model answers there, and nobody is blamed for it falsely."""

import json

import pytest
from botocore.exceptions import ClientError
from inference_kit import GOOD, predict
from lambdas_kit import ENDPOINT, RELEASE, SCHEMA, put

from fraud.schema import NUMBER, Feature, Schema

STRICTER = Schema((*SCHEMA.features, Feature("device_risk", NUMBER, True)), SCHEMA.roles, SCHEMA.ignored)
REFUSED = {"Error": {"Code": "ModelError", "Message": ""}, "OriginalStatusCode": 400}


@pytest.fixture
def refusing(service, monkeypatch):
    """The endpoint refuses the next requests, so many of them, as a model with another schema does."""
    good = service.runtime.invoke_endpoint

    def begin(times):
        left = [times]

        def invoke(**given):
            if left[0]:
                left[0] -= 1
                raise ClientError(REFUSED, "InvokeEndpoint")
            return good(**given)

        monkeypatch.setattr(service.runtime, "invoke_endpoint", invoke)

    return begin


@pytest.fixture
def line(capsys):
    return lambda: json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_model_under_deployment_that_refuses_is_asked_once_more_and_the_released_one_answers(refusing, line):
    refusing(1)
    status, body, _ = predict(GOOD)
    assert (status, body["model_version"]) == (200, "run-1")
    assert line()["CandidateExcess"] == 1


def test_where_it_refuses_again_the_caller_is_told_to_come_back(refusing, line):
    refusing(2)
    status, body, headers = predict({"transactions": [GOOD] * 3})
    assert (status, headers["retry-after"]) == (503, "5")
    assert "errors" not in body and "other fields than the released one" in body["detail"]
    assert line()["CandidateExcess"] == 6  # they ring the alarm that sends a deployment back


def test_a_release_that_came_meanwhile_says_which_field_is_missing(refusing, s3, line):
    assert predict(GOOD)[0] == 200  # the release is looked up, and kept
    put(s3, f"releases/{ENDPOINT}/run-2/schema.json", json.loads(STRICTER.to_json()))
    put(s3, f"releases/{ENDPOINT}/current.json", RELEASE | {
        "run_id": "run-2", "model_version": "run-2", "schema_key": f"releases/{ENDPOINT}/run-2/schema.json",
    })  # fmt: skip
    refusing(1)
    status, body, _ = predict(GOOD)
    assert (status, body["errors"]) == (400, [{"field": "device_risk", "problem": "is required"}])


def test_a_callers_own_mistake_never_reaches_the_model(refusing, line):
    refusing(1)
    assert predict(GOOD | {"crad4": "visa"})[0] == 400
    assert "CandidateExcess" not in line()
