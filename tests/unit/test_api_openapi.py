"""The OpenAPI document says what the code does: what it takes is taken, what it refuses is refused."""

import inspect
import json
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from fraud import api
from fraud.errors import InvalidRequestError
from fraud.openapi import build_openapi
from fraud.schema import Feature, Schema
from fraud.strictjson import parse_json

SCHEMA = Schema(
    (
        Feature("amount", "number", True),
        Feature("hour", "number"),
        Feature("card", "category", False, ("visa", "150")),
        Feature("fresh", "boolean"),
    ),
    roles={"id": "tx", "amount": "amount", "target": "fraud"},
    ignored=("note",),
)
DOCUMENT = build_openapi(SCHEMA, "run-7")
SCHEMAS = DOCUMENT["components"]["schemas"]


def valid(document, name, body):
    return Draft202012Validator(document | {"$ref": f"#/components/schemas/{name}"}).is_valid(body)


def parts(node):
    """Every object within a document."""
    if isinstance(node, dict):
        yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from parts(inner)


@pytest.mark.parametrize("document", [DOCUMENT, build_openapi()], ids=["with a model", "before the first"])
def test_every_route_is_described_and_every_part_is_a_schema(document):
    assert {(path, method.upper()) for path, item in document["paths"].items() for method in item} == set(
        api.ROUTES.items()
    )
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for reference in {part["$ref"] for part in parts(document) if "$ref" in part}:
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]
    used = {part["$ref"].rpartition("/")[2] for part in parts(document) if "$ref" in part}
    assert set(document["components"]["schemas"]) - used == set()
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_each_operation_says_which_statuses_it_has():
    found = {
        path: [int(status) for status in operation["responses"]]
        for path, item in DOCUMENT["paths"].items()
        for operation in item.values()
    }
    assert found == {
        "/predict": [200, 400, 403, 413, 429, 500, 502, 503, 504],
        "/labels": [202, 400, 403, 413, 429, 500, 503],
        "/health": [200, 403, 429, 500, 503],
        "/openapi.json": [200, 403, 429, 500],
    }
    for item in DOCUMENT["paths"].values():
        for operation in item.values():
            for status, answer in operation["responses"].items():
                kind = "application/problem+json" if int(status) >= 400 else "application/json"
                assert list(answer["content"]) == [kind]


def test_the_fields_of_a_transaction_are_those_of_the_schema():
    assert SCHEMAS["Transaction"] == {
        "type": "object",
        "properties": {
            "amount": {"type": ["number"]},
            "card": {"type": ["string", "number", "null"]},
            "fraud": {},
            "fresh": {"type": ["boolean", "null"]},
            "hour": {"type": ["number", "null"]},
            "note": {},
            "tx": {},
        },
        "required": ["amount"],
        "additionalProperties": False,
    }
    assert "run-7" in DOCUMENT["info"]["description"]
    assert build_openapi()["components"]["schemas"]["Transaction"]["additionalProperties"] is True


def test_the_limits_are_those_of_the_code():
    assert SCHEMAS["Many"]["properties"]["transactions"]["maxItems"] == api.MAX_TRANSACTIONS
    assert SCHEMAS["Labels"]["properties"]["labels"]["maxItems"] == api.MAX_LABELS
    assert SCHEMAS["Problem"]["properties"]["errors"]["maxItems"] == api.MAX_ERRORS
    text = json.dumps(DOCUMENT)
    assert f"{api.MAX_BYTES:,} bytes" in text
    assert api.ID_PATTERN in text


def test_a_column_that_is_called_like_an_option_keeps_its_type():
    schema = Schema((Feature("reasons", "category"), Feature("inference_id", "number")))
    document = build_openapi(schema)
    assert document["components"]["schemas"]["One"]["properties"] == {
        "reasons": {"type": ["string", "number", "null"]},
        "inference_id": {"type": ["number", "null"]},
    }


def test_the_page_for_people_says_the_same():
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    said = {int(status) for status in re.findall(r"^\| (\d{3}) \|", page, re.MULTILINE)}
    documented = {
        int(status)
        for item in DOCUMENT["paths"].values()
        for operation in item.values()
        for status in operation["responses"]
    }
    assert said == {status for status in documented if status >= 400}
    routes = re.findall(r"^\| `(\w+) (/[\w.]+)` \|", page, re.MULTILINE)
    assert {path: method for method, path in routes} == api.ROUTES
    limits = re.findall(r"^\| (?:body|transactions|labels|nesting|whole).* \| ([\d,]+)", page, re.MULTILINE)
    depth = inspect.signature(parse_json).parameters["max_depth"].default
    assert limits == [f"{api.MAX_BYTES:,}", str(api.MAX_TRANSACTIONS), f"{api.MAX_LABELS:,}", str(depth), "64"]
    assert f"up to {api.MAX_ERRORS}." in page


# ------------------------------------------------------------------------------------------------ what is taken

VALUE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.sampled_from([1.5, -0.0, 1e300, 2**63 - 1, "", "visa", "150", "a b", "x" * 65, "ok-1"]),
    st.lists(st.integers(0, 1), max_size=1),
    st.just({}),
)
NAMES = ["amount", "hour", "card", "fresh", "tx", "fraud", "note", "other"]
RIGHT = st.fixed_dictionaries(
    {"amount": st.floats(-9, 9) | st.integers(-9, 9)},
    optional={"hour": st.none() | st.integers(0, 23), "card": st.sampled_from([None, "visa", 150, 1.5]), "note": VALUE},
)
TRANSACTION = RIGHT | st.builds(lambda good, wrong: good | wrong, RIGHT, st.dictionaries(st.sampled_from(NAMES), VALUE))
# None ends in a line feed: Python's $ matches before one, that of JSON Schema does not.
ID = st.sampled_from(["a", "b:1._-", "c", "x" * 64, None, None, "", "a b", "x" * 65, 5])
REASONS = st.booleans() | VALUE
OPTIONS = st.fixed_dictionaries({}, optional={"reasons": REASONS, "inference_id": ID})
ONE = st.tuples(TRANSACTION, OPTIONS).map(lambda both: both[0] | both[1])
MANY = st.builds(
    lambda transactions, more, ids: {"transactions": transactions} | more | ({} if ids is None else ids),
    st.lists(TRANSACTION, min_size=0, max_size=3),
    st.fixed_dictionaries({}, optional={"reasons": REASONS, "other": VALUE}),
    st.none() | st.fixed_dictionaries({"inference_ids": st.none() | st.just("a") | st.lists(ID, max_size=3)}),
)


def taken(read, *arguments):
    try:
        read(*arguments)
    except InvalidRequestError:
        return False
    return True


def unsaid(body):
    """What JSON Schema cannot say: one id for each transaction, none of them twice."""
    if not isinstance(ids := body.get("inference_ids"), list) or not isinstance(body.get("transactions"), list):
        return False
    named = [one for one in ids if one is not None]
    return len(ids) != len(body["transactions"]) or any(named.count(one) > 1 for one in named)


def test_a_prediction_is_taken_if_and_only_if_the_document_says_so():
    counts = {True: 0, False: 0}

    @settings(max_examples=2000, suppress_health_check=list(HealthCheck))
    @given(ONE | MANY)
    def agree(body):
        ours = taken(api.read_prediction, json.dumps(body).encode(), SCHEMA)
        counts[ours] += 1
        if unsaid(body):
            assert not ours
        else:
            assert valid(DOCUMENT, "Prediction", body) is ours

    agree()
    assert min(counts.values()) > 200


LABEL = st.fixed_dictionaries(
    {},
    optional={
        "inference_id": ID,
        "label": st.sampled_from([0, 1, 2, -1, True, "1", None]),
        "time": st.sampled_from([None, "2026-01-02T03:04:05Z", 5]),
        "other": VALUE,
    },
)
LABELS = st.fixed_dictionaries({"labels": st.lists(LABEL, max_size=2)}, optional={"more": VALUE})


@settings(max_examples=1000, suppress_health_check=list(HealthCheck))
@given(LABELS | VALUE)
def test_labels_are_taken_if_and_only_if_the_document_says_so(body):
    assert valid(DOCUMENT, "Labels", body) is taken(api.read_labels, json.dumps(body).encode(), 1_800_000_000.0)
