"""Who sends a payment reaches its capture as a pseudonym and nothing else: the drift check caps one caller's weight."""

import json

import pytest
from inference_kit import CONTEXT, GOOD, app
from lambdas_kit import BUCKET

from fraud.caller import caller_of

SIGNED = {"identity": {"apiKeyId": "key-1", "userArn": "arn:aws:iam::1:user/a", "sourceIp": "192.0.2.1"}}


def ask(context):
    event = {"httpMethod": "POST", "path": "/predict", "requestContext": context, "body": json.dumps(GOOD)}
    return app.handler(event, CONTEXT)


def test_the_endpoint_is_told_a_pseudonym_and_the_log_is_not(service, capsys):
    runtime = service.runtime
    answer = ask({"stage": "live", **SIGNED})
    assert answer["statusCode"] == 200
    told = runtime.calls[-1]["CustomAttributes"]
    pseudonym = caller_of({"requestContext": SIGNED}, BUCKET)
    assert told == f"caller={pseudonym}"
    said = capsys.readouterr().out + json.dumps(answer)
    assert pseudonym not in said and "key-1" not in said and "192.0.2.1" not in said
    ask({"stage": "live"})
    assert "CustomAttributes" not in runtime.calls[-1]


@pytest.mark.parametrize(
    "other",
    [
        {"identity": {"apiKeyId": "key-2"}},
        {"identity": {"userArn": "arn:aws:iam::1:user/a"}},
        {"identity": {"sourceIp": "192.0.2.1"}},
        {"http": {"sourceIp": "192.0.2.2"}},
        {"authorizer": {"iam": {"userArn": "arn:aws:iam::1:user/b"}}},
    ],
)
def test_callers_are_told_apart_by_key_principal_or_address(other):
    mine = caller_of({"requestContext": SIGNED}, "k")
    assert (
        mine
        == caller_of({"requestContext": {"identity": {"apiKeyId": "key-1"}}}, "k")
        != caller_of({"requestContext": SIGNED}, "another key")
    )
    theirs = caller_of({"requestContext": other}, "k")
    assert theirs and theirs != mine


def test_all_sessions_of_a_role_are_one_caller():
    def of(arn):
        return caller_of({"requestContext": {"identity": {"userArn": arn}}}, "k")

    role = "arn:aws:sts::1:assumed-role/checkout/"
    assert of(role + "one") == of(role + "two/\n") != of("arn:aws:sts::1:assumed-role/other/one")
    assert of("arn:aws:iam::1:user/team/a") != of("arn:aws:iam::1:user/team/b")


@pytest.mark.parametrize("event", [None, {}, {"requestContext": 3}, {"requestContext": {"identity": []}}, "x"])
def test_an_event_that_says_nothing_has_no_caller(event):
    assert caller_of(event, "k") == ""
