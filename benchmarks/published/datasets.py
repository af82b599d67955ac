"""What the benchmarks say of other people's data sets, checked before a figure stands on it.

The order of a file, its rows and its frauds are claims like any other: one look at the wrong file, and a split in time
is a split at random. So every benchmark reads these files here, and refuses one that is not what is claimed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import polars as pl


class NotAsClaimed(Exception):
    """The file is not the one that the figures are of; one sentence."""


@dataclass(frozen=True)
class Dataset:
    """Claims about a Parquet file.

    Attributes
    ----------
    name : str
        What people call it.
    file : str
        What it is called in ``shared/data``.
    sha256 : str
        Of the file.
    columns : tuple of str
        Those that are there, in any order.
    rows, frauds : int
    target, time : str
        The column of ones (frauds) and zeros; the column that never falls from one row to the next.
    """

    name: str
    file: str
    sha256: str
    columns: tuple[str, ...]
    rows: int
    frauds: int
    target: str
    time: str


HANDBOOK = Dataset(
    "the Fraud Detection Handbook's simulated payments",
    "handbook_raw.parquet",
    "458092d69076061430bec26f9d2f051fa88e9145b863e5d6b41b6227f5fc4a7e",
    (
        "TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_TIME_SECONDS", "TX_TIME_DAYS",
        "TX_FRAUD", "TX_FRAUD_SCENARIO",
    ),
    1_754_155,
    14_681,
    "TX_FRAUD",
    "TX_DATETIME",
)  # fmt: skip
ULB = Dataset(
    "the ULB card payments, whole and in the order of time",
    "ulb_creditcard.parquet",
    "5dbba03a4dd6bd7456aac841ee89f0c83c18e5864741de29b3851b309debc6ee",
    ("source_row", "Time", *(f"V{k}" for k in range(1, 29)), "Amount", "Class"),
    284_807,
    492,
    "Class",
    "Time",
)


def read(path: Path, claimed: Dataset) -> pl.DataFrame:
    """Read a data set once everything that is claimed of it has been checked.

    Parameters
    ----------
    path : Path
        A Parquet file.
    claimed : Dataset

    Returns
    -------
    DataFrame
        All rows and columns, in the order of the file, which is that of time.

    Raises
    ------
    NotAsClaimed
        Naming the first claim that does not hold.
    """

    def refuse(what: str) -> NotAsClaimed:
        return NotAsClaimed(f"{path} is not {claimed.name}: {what}; give {claimed.file} as it was measured.")

    try:
        table = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise refuse(f"it cannot be read as Parquet ({type(error).__name__})") from error
    if lacking := [name for name in claimed.columns if name not in table.columns]:
        raise refuse(f"the column {lacking[0]} is not there")
    if more := [name for name in table.columns if name not in claimed.columns]:
        raise refuse(f"it has a column {more[0]} more")
    if table.height != claimed.rows:
        raise refuse(f"it has {table.height:,} rows, not {claimed.rows:,}")
    target, time = table[claimed.target], table[claimed.time]
    if not target.is_in([0, 1]).all() or target.null_count():
        raise refuse(f"{claimed.target} holds something other than 0 and 1")
    if (frauds := int(target.sum())) != claimed.frauds:
        raise refuse(f"{frauds:,} of its rows are frauds, not {claimed.frauds:,}")
    if time.null_count() or not time.is_sorted():
        raise refuse(f"its rows are not in the order of {claimed.time}")
    if (digest := hashlib.sha256(path.read_bytes()).hexdigest()) != claimed.sha256:
        raise refuse(f"its SHA-256 is {digest[:12]}…, not {claimed.sha256[:12]}…")
    return table
