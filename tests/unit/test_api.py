"""The HTTP side of the API without AWS: which request is taken, and as what."""

import base64
import json
import uuid

import pytest

from fraud import api
from fraud.errors import EndpointError, InvalidRequestError
from fraud.label_files import read_label_file
from fraud.labels import GroundTruth, LabelColumns
from fraud.schema import Feature, Schema

SCHEMA = Schema(
    (Feature("amount", "number", True), Feature("card", "category", False, ("visa",))),
    roles={"id": "tx", "amount": "amount"},
    ignored=("note",),
)
ONE = {"amount": 5}


def read(document):
    return api.read_prediction(json.dumps(document).encode(), SCHEMA)


def problems(document):
    with pytest.raises(InvalidRequestError) as caught:
        read(document)
    return [(error["field"], error["problem"]) for error in caught.value.errors] or caught.value.detail


@pytest.mark.parametrize(
    ("document", "ids"),
    [
        (ONE | {"inference_id": "my-id"}, ["my-id"]),
        (ONE | {"tx": 2987000}, ["2987000"]),
        (ONE | {"tx": 2987000.0}, ["2987000"]),
        (ONE | {"tx": "T.1:2_3-4"}, ["T.1:2_3-4"]),
        (ONE | {"tx": 2987000, "inference_id": "my-id"}, ["my-id"]),
        (ONE | {"tx": 2987000, "inference_id": None}, ["2987000"]),
        ({"transactions": [ONE | {"tx": 1}, ONE | {"tx": 2}]}, ["1", "2"]),
        ({"transactions": [ONE | {"tx": 1}, ONE], "inference_ids": [None, "b"]}, ["1", "b"]),
    ],
)
def test_inference_ids(document, ids):
    assert read(document).inference_ids == ids


@pytest.mark.parametrize("own", ["a b", "x" * 65, "", "a/b", "ä", "a\n", True, [1], {"a": 1}])
def test_an_id_that_cannot_serve_is_replaced(own):
    (made,) = read(ONE | {"tx": own}).inference_ids
    assert str(uuid.UUID(made)) == made


def test_ids_that_repeat_within_a_batch_are_made_new():
    found = read({"transactions": [ONE | {"tx": 1}, ONE | {"tx": 1}, ONE]}).inference_ids
    assert found[0] == "1"
    assert len(set(found)) == 3


def test_options_are_no_fields_of_the_transaction():
    found = read(ONE | {"inference_id": "a", "reasons": True, "note": "kept"})
    assert found.transactions == [ONE | {"note": "kept"}]
    assert json.loads(found.to_json()) == {
        "transactions": [ONE | {"note": "kept"}],
        "inference_ids": ["a"],
        "reasons": True,
    }
    assert "reasons" not in json.loads(read(ONE).to_json())


def test_a_column_that_is_called_like_an_option_stays_a_column():
    schema = Schema((Feature("amount", "number"), Feature("reasons", "category", False, ("r1",))))
    found = api.read_prediction(b'{"amount": 1, "reasons": "r1"}', schema)
    assert found.transactions == [{"amount": 1, "reasons": "r1"}]
    assert not found.reasons


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (5, "The body must be a JSON object: one transaction, or transactions."),
        ({"transactions": []}, "transactions must hold 1 to 100 of them."),
        ({"transactions": [ONE] * 101}, "transactions must hold 1 to 100 of them."),
        ({"transactions": [5]}, [("transactions[0]", "must be a JSON object with one member for each field")]),
        ({"transactions": ONE}, [("amount", "is required"), ("transactions", "is not a known field")]),
        ({"transactions": [ONE], "extra": 1}, [("extra", "is not known beside transactions")]),
        ({"transactions": [ONE], "inference_id": "a"}, [("inference_id", "is not known beside transactions")]),
        (
            {"transactions": [ONE], "inference_ids": []},
            [("inference_ids", "must be a list with one id for each transaction")],
        ),
        (
            {"transactions": [ONE], "inference_ids": "a"},
            [("inference_ids", "must be a list with one id for each transaction")],
        ),
        ({"transactions": [ONE, ONE], "inference_ids": ["a", "a"]}, [("inference_ids[1]", "repeats an earlier one")]),
        (ONE | {"reasons": "yes"}, [("reasons", "must be true or false")]),
        (
            ONE | {"inference_ids": ["a"]},
            [("inference_ids", "belongs to transactions; use inference_id for one")],
        ),
        (
            ONE | {"inference_id": "a b"},
            [("inference_id", "must be 1 to 64 letters, digits, dots, colons, hyphens and underscores")],
        ),
        ({"amount": None}, [("amount", "is required")]),
        (ONE | {"source": "canary"}, [("source", "is not a known field")]),
        (ONE | {"TargetVariant": "x"}, [("TargetVariant", "is not a known field")]),
    ],
)
def test_what_is_refused(document, expected):
    assert problems(document) == expected


def test_errors_are_named_up_to_twenty():
    with pytest.raises(InvalidRequestError, match="100 fields cannot be used|20 fields cannot be used") as caught:
        read({"transactions": [{}] * 100})
    assert len(caught.value.errors) == 20
    with pytest.raises(InvalidRequestError, match="500 fields cannot be used; the first 20 are named"):
        read(ONE | {f"f{k}": k for k in range(500)})


NOW = 1_767_323_045.0  # 2026-01-02T03:04:05Z


def labels(*items):
    return api.read_labels(json.dumps({"labels": items}).encode(), NOW)


def test_labels_are_read():
    assert labels(
        {"inference_id": "a", "label": 1}, {"inference_id": "b", "label": 0, "time": "1970-01-01T00:01:00Z"}
    ) == [GroundTruth("a", 1, NOW), GroundTruth("b", 0, 60.0)]


@pytest.mark.parametrize(
    ("item", "field", "problem"),
    [
        (5, "labels[0]", "must be a JSON object"),
        ({"label": 1}, "labels[0].inference_id", "must be 1 to 64"),
        ({"inference_id": 5, "label": 1}, "labels[0].inference_id", "must be 1 to 64"),
        ({"inference_id": "a"}, "labels[0].label", "must be 0 or 1"),
        ({"inference_id": "a", "label": 2}, "labels[0].label", "must be 0 or 1"),
        ({"inference_id": "a", "label": True}, "labels[0].label", "must be 0 or 1"),
        ({"inference_id": "a", "label": 1.0}, "labels[0].label", "must be 0 or 1"),
        ({"inference_id": "a", "label": "1"}, "labels[0].label", "must be 0 or 1"),
        ({"inference_id": "a", "label": 1, "time": "soon"}, "labels[0].time", "must be an ISO 8601 moment"),
        ({"inference_id": "a", "label": 1, "time": 5}, "labels[0].time", "must be an ISO 8601 moment"),
        ({"inference_id": "a", "label": 1, "time": "2026-01-02T03:10:00Z"}, "labels[0].time", "lies in the future"),
        ({"inference_id": "a", "label": 1, "time": "1969-12-31T23:59:59Z"}, "labels[0].time", "lies before 1970"),
        ({"inference_id": "a", "label": 1, "time": "0001-01-01T00:00:00+23:59"}, "labels[0].time", "lies before 1970"),
        ({"inference_id": "a", "label": 1, "why": "x"}, "labels[0].why", "is not a known field"),
    ],
)
def test_labels_that_are_refused(item, field, problem):
    with pytest.raises(InvalidRequestError) as caught:
        labels(item)
    ((found, text),) = [(error["field"], error["problem"]) for error in caught.value.errors]
    assert found == field
    assert text.startswith(problem)


@pytest.mark.parametrize(
    "document", [[], {}, {"labels": []}, {"labels": {}}, {"labels": [], "x": 1}, {"labels": [1] * 1001}]
)
def test_bodies_that_are_no_labels(document):
    with pytest.raises(InvalidRequestError, match="1 to 1,000 of them"):
        api.read_labels(json.dumps(document).encode(), NOW)


def test_labels_are_filed_by_the_hour_in_which_they_came_and_keep_their_own_time():
    truths = [GroundTruth("a", 1, NOW - 5 * 86_400), GroundTruth("b", 0, 60.0)]
    key, content = api.label_object(truths, b"body", NOW)
    assert key.startswith("labels/2026/01/02/03/")
    assert key.endswith(".jsonl")
    read = read_label_file(content, key, LabelColumns(), NOW)
    assert read.labels == [truth._replace(source_key=key) for truth in truths]
    assert api.label_object(truths, b"body", NOW) == (key, content)
    assert api.label_object(truths, b"other", NOW)[0] != key


def event(path="/predict", method="POST", **more):
    return {"httpMethod": method, "path": path, "body": "{}"} | more


@pytest.mark.parametrize(
    "given",
    [
        event(),
        event("/predict/"),
        event("/live/predict", requestContext={"stage": "live"}),
        event(body=base64.b64encode(b"{}").decode(), isBase64Encoded=True),
        {"rawPath": "/predict", "requestContext": {"http": {"method": "post"}, "stage": "$default"}, "body": "{}"},
    ],
)
def test_events(given):
    assert api.read_event(given) == api.Request("/predict", b"{}")


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (event("/live/predict"), 404),
        (event("/predict/x"), 404),
        (event(method="GET"), 405),
        (event(body="!!", isBase64Encoded=True), 400),
        (event(body="\ud800"), 400),
        (event(body="x" * 1_400_000), 413),
    ],
)
def test_events_that_are_refused(given, status):
    with pytest.raises(InvalidRequestError) as caught:
        api.read_event(given)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (InvalidRequestError("No.", 404), 404, {}),
        (EndpointError("Later.", 429, 7), 429, {"retry-after": "7"}),
        (EndpointError("Bad.", 502), 502, {}),
        (RuntimeError("secret"), 500, {}),
    ],
)
def test_problems(error, status, headers):
    found = api.respond_problem(error)
    document = json.loads(found["body"])
    assert found["statusCode"] == document["status"] == status
    assert found["headers"].items() >= headers.items()
    assert "secret" not in found["body"]
    assert document["title"] != "Error"
    assert "errors" not in document
