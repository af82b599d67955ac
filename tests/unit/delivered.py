"""Small sound tables to change one cell of."""

from __future__ import annotations

from fraud.pipeline.roles import Roles

ROLES = Roles("isFraud", "TransactionID", "TransactionDT", "TransactionAmt")
HEAD = "TransactionID,isFraud,TransactionDT,TransactionAmt,card4,C1\n"


def table(n=200, **change):
    """Text of a small sound table, with single cells changed: ``{"C1": {7: "x"}}`` changes row 7."""
    rows = [
        [
            str(3_000 + i),
            str(int(i % 10 == 0)),
            str(86_400 + 60 * i),
            f"{10 + i % 37}.5",
            ("visa", "amex")[i % 3 > 0],
            str(i % 5),
        ]
        for i in range(n)
    ]
    names = HEAD.strip().split(",")
    for name, cells in change.items():
        for row, value in cells.items():
            rows[row - 1][names.index(name)] = value
    return HEAD + "".join(",".join(row) + "\n" for row in rows)


def keys(storage):
    return list(storage.list_keys(""))
