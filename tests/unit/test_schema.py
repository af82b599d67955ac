"""Names, types and codes of a transaction: what the model is given, what a caller is told."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud.errors import DataError, InvalidRequestError
from fraud.schema import Feature, FieldError, Schema, category_text

SCHEMA = Schema(
    features=(
        Feature("TransactionAmt", "number", True),
        Feature("card4", "category", True, ("visa", "mastercard", "150")),
        Feature("is_new", "boolean"),
        Feature("dist1", "number"),
    ),
    roles={"target": "isFraud", "id": "TransactionID", "time": "TransactionDT", "amount": "TransactionAmt"},
    ignored=("TransactionID", "TransactionDT", "note"),
)
GOOD = {"TransactionAmt": 12.5, "card4": "visa", "is_new": True, "dist1": 3}


def same(row, expected):
    return np.array_equal(row, expected, equal_nan=True)


@pytest.mark.parametrize(
    ("transaction", "row"),
    [
        (GOOD, [12.5, 0, 1, 3]),
        ({}, [math.nan] * 4),
        ({"card4": "amex", "is_new": None, "dist1": -0.0, "extra": 1}, [math.nan, math.nan, math.nan, 0]),
        ({"card4": 150, "TransactionAmt": 2**62}, [2.0**62, 2, math.nan, math.nan]),
        ({"card4": 150.0, "is_new": False}, [math.nan, 2, 0, math.nan]),
        ({"TransactionAmt": math.nan, "card4": math.nan, "is_new": math.nan}, [math.nan] * 4),
        ({"TransactionAmt": np.float32(0.5), "dist1": np.int64(4), "is_new": np.bool_(True)}, [0.5, math.nan, 1, 4]),
    ],
)
def test_encode(transaction, row):
    assert same(SCHEMA.encode(transaction), row)


@given(st.permutations(list(GOOD)))
def test_the_order_of_the_fields_makes_no_difference(names):
    assert SCHEMA.encode({name: GOOD[name] for name in names}) == SCHEMA.encode(GOOD)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("TransactionAmt", True, "must be a number"),
        ("TransactionAmt", "12.5", "must be a number, not text"),
        ("TransactionAmt", math.inf, "must be a finite number"),
        ("TransactionAmt", -math.inf, "must be a finite number"),
        ("TransactionAmt", 10**400, "must be a finite number"),
        ("TransactionAmt", [1], "must be a number"),
        ("TransactionAmt", {}, "must be a number"),
        ("card4", ["visa"], "must be text"),
        ("card4", {"a": 1}, "must be text"),
        ("is_new", 1, "must be true or false"),
        ("is_new", "true", "must be true or false"),
    ],
)
def test_a_wrong_value_is_refused_the_same_by_both(field, value, problem):
    transaction = GOOD | {field: value}
    assert SCHEMA.validate(transaction) == [FieldError(field, problem)]
    with pytest.raises(InvalidRequestError) as caught:
        SCHEMA.encode(transaction)
    assert caught.value.errors == [{"field": field, "problem": problem}]
    assert "12.5" not in str(caught.value)


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers())


@given(st.dictionaries(st.sampled_from([*SCHEMA.names, "note"]), VALUES))
def test_what_validation_lets_through_can_be_encoded(transaction):
    if not SCHEMA.validate(transaction):
        assert len(SCHEMA.encode(transaction)) == 4
        SCHEMA.unseen(transaction)


def test_missing_required_fields_are_named():
    assert SCHEMA.validate({}) == [FieldError("TransactionAmt", "is required"), FieldError("card4", "is required")]
    assert SCHEMA.validate({"TransactionAmt": 1, "card4": None}) == [FieldError("card4", "is required")]


def test_unknown_fields_get_the_nearest_name():
    errors = SCHEMA.validate(GOOD | {"transactionamt": 1, "qqq": 2, "note": "fine", "isFraud": 0})
    assert errors == [
        FieldError("transactionamt", "is not a known field; did you mean TransactionAmt?"),
        FieldError("qqq", "is not a known field"),
    ]


@pytest.mark.parametrize("name", ["<script>", "4111111111111111", "a" * 41, "", "a b", "ä", "x\n"])
def test_a_field_name_that_is_no_name_is_not_repeated(name):
    (error,) = SCHEMA.validate(GOOD | {name: 1})
    assert error.field == "(a name that cannot be shown)"


@pytest.mark.parametrize("value", [None, 1, "x", [], [1]])
def test_only_objects_are_transactions(value):
    assert SCHEMA.validate(value) == [FieldError("", "must be a JSON object with one member for each field")]


def test_unseen_categories():
    assert SCHEMA.unseen({"card4": "amex", "TransactionAmt": 1}) == ["card4"]
    assert SCHEMA.unseen({"card4": 150.0}) == SCHEMA.unseen({}) == SCHEMA.unseen({"card4": math.nan}) == []


@pytest.mark.parametrize(
    ("value", "text"),
    [(150, "150"), (150.0, "150"), (np.float64(150), "150"), (np.int8(3), "3"), ("150.0", "150.0"), (-0.0, "0")]
    + [(1e16, "10000000000000000"), (0.1, "0.1"), (False, "false"), (np.bool_(True), "true"), ("", "")],
)
def test_category_text(value, text):
    assert category_text(value) == text


def test_csv_rows_take_names_and_types():
    assert SCHEMA.coerce_csv(["-12.5", "visa", "False", ""]) == {
        "TransactionAmt": -12.5,
        "card4": "visa",
        "is_new": False,
    }


@pytest.mark.parametrize("cell", ["nan", "inf", "1e999", "1_0", "0x1", "twelve", "٣"])
def test_a_csv_cell_that_is_no_number_is_refused(cell):
    with pytest.raises(InvalidRequestError, match="TransactionAmt must be a finite number"):
        SCHEMA.coerce_csv([cell, "visa", "", ""])


def test_csv_rows_of_another_length_or_type_are_refused():
    with pytest.raises(InvalidRequestError, match="3 cells where the schema has 4"):
        SCHEMA.coerce_csv(["1", "visa", ""])
    with pytest.raises(InvalidRequestError, match="is_new must be true or false"):
        SCHEMA.coerce_csv(["1", "visa", "maybe", ""])


def test_json_round_trip():
    text = SCHEMA.to_json()
    again = Schema.from_json(text)
    assert again == SCHEMA
    assert again.to_json() == text
    assert Schema.from_json(text.encode()) == Schema.from_json(json.loads(text)) == SCHEMA
    assert json.loads(text)["features"][0] == {"name": "TransactionAmt", "type": "number", "required": True}


@pytest.mark.parametrize(
    "document",
    [
        "[]",
        "{",
        "null",
        '{"schema_version": 2, "features": []}',
        '{"schema_version": 1}',
        '{"schema_version": 1, "features": [{"name": "a"}]}',
        '{"schema_version": 1, "features": [{"name": "a", "type": "date", "required": true}]}',
        '{"schema_version": 1, "features": [{"name": "a", "type": "category", "required": true, "categories": [1]}]}',
        '{"schema_version": 1, "features": [{"name": "a", "type": "number", "required": true, "categories": ["x"]}]}',
    ],
)
def test_a_broken_schema_is_refused(document):
    with pytest.raises(DataError, match=r"schema\.json"):
        Schema.from_json(document)


@pytest.mark.parametrize(
    "features",
    [
        (Feature("a", "number"), Feature("a", "number")),
        (Feature("a", "category", False, ("x", "x")),),
    ],
)
def test_repeated_names_are_refused(features):
    with pytest.raises(DataError, match="twice"):
        Schema(features)
