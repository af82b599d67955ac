"""Guessing what a column is, and finding columns that give the answer away."""

from __future__ import annotations

import polars as pl
import pytest

from fraud.pipeline.roles import Roles, find_leaks, suggest_roles


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        (["TransactionID", "isFraud", "TransactionDT", "TransactionAmt", "card4", "C1"],
         Roles("isFraud", "TransactionID", "TransactionDT", "TransactionAmt")),
        (["source_row", "V1", "Amount", "Class"], Roles("Class", "source_row", "source_row", "Amount")),
        (["TRANSACTION_ID", "TX_DATETIME", "TX_AMOUNT", "TX_TIME_SECONDS", "TX_FRAUD", "TX_FRAUD_SCENARIO"],
         Roles("TX_FRAUD", "TRANSACTION_ID", "TX_DATETIME", "TX_AMOUNT")),
        (["Time", "V1", "Amount", "Class"], Roles("Class", "", "Time", "Amount")),
        (["trans_num", "amt", "is_fraud", "unix_time", "trans_date_trans_time"],
         Roles("is_fraud", "trans_num", "trans_date_trans_time", "amt")),
        (["fraud_bool", "income"], Roles("fraud_bool")),
        (["a", "b"], Roles("")),
    ],
)  # fmt: skip
def test_roles_are_guessed_and_every_guess_is_told(columns, wanted):
    found, reasons = suggest_roles(columns)
    assert found == wanted
    for role, name in wanted.to_dict().items():
        assert not name or f'{role} is taken to be the column "{name}".' in reasons
    assert suggest_roles(columns, given={"target": "a"})[0].target == "a"


def test_a_lone_column_of_0_and_1_is_taken_as_target():
    assert suggest_roles(["a", "b"], binary=["b"])[0].target == "b"
    assert suggest_roles(["a", "b", "c"], binary=["b", "c"])[0].target == ""


def test_columns_that_give_the_answer_away_are_found():
    n = 1_000
    label = [int(i % 20 == 0) for i in range(n)]
    sample = pl.DataFrame(
        {
            "__label": label,
            "scenario": [y * (1 + i % 3) for i, y in enumerate(label)],
            "codes": [("A", "B", "C")[i % 3] if y else ("D", "E")[i % 2] for i, y in enumerate(label)],
            "charged_back": [f"2020-01-{i % 28 + 1:02d}" if y else None for i, y in enumerate(label)],
            "odd": [2.0 * (i % 4) + y for i, y in enumerate(label)],
            "good": [float(i * 37 % 11 + 2 * y) for i, y in enumerate(label)],
            "noise": [float(i * 7919 % 101) for i in range(n)],
            "text": [f"id {i}" for i in range(n)],
            "void": [None] * n,
        }
    )
    assert sorted(str(leak["column"]) for leak in find_leaks(sample)) == ["charged_back", "codes", "odd", "scenario"]
    assert find_leaks(sample, ignore=["codes", "odd", "scenario", "charged_back"]) == []
    assert find_leaks(sample.head(100)) == []  # five frauds prove nothing
