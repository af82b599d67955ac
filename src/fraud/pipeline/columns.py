"""Types of columns: what a text column of a CSV really holds, and our names for Arrow's types.

A type is one of ``int``, ``float``, ``bool``, ``text``, ``time``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

MOSTLY = 0.95  # a column with this share of numbers is one of numbers, and what is no number a defect
MISSING_NUMBER = ["", "NA", "N/A", "NaN", "nan", "-nan", "null", "NULL", "None", "#N/A", "<NA>"]
KNOWN = 10_000  # texts of a column that are looked at once; beyond, they are not remembered
MISSING_TEXT = ["", "NaN", "nan", "null", "NULL", "None", "#N/A", "<NA>"]  # NA may be a country
TRUE, FALSE = ["true", "True", "TRUE"], ["false", "False", "FALSE"]
ARROW = {
    "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "text": pa.string(), "time": pa.timestamp("us"),
}  # fmt: skip
NUMBERS = ("int", "float", "bool")
HEAD, FEW = 1_000, 250  # a column whose first rows have so few values has them repeated


def describe(value: object) -> str:
    """Say of what kind a value is, without showing it.

    Examples
    --------
    >>> describe("1.234,50")
    'a number with commas, spaces or a currency sign'
    """
    text = str(value)
    if not text.strip():
        return "an empty value"
    if re.fullmatch(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T].*)?", text):
        return "a date"
    if re.fullmatch(r"[-+ ]?[$€£¥]?[\d.,' ]+[$€£¥%]?", text):
        return "a number with commas, spaces or a currency sign"
    return f"text of {len(text)} character{'s' * (len(text) > 1)}"


@dataclass
class Tally:
    """What one text column of a CSV holds, over all its rows.

    Attributes
    ----------
    values, numbers, integers, truths : int
        How many are given, numbers, whole numbers (-1 once one was not), truth values.
    bad_row, bad : int, str
        First row from 1 whose value is no number, and the value; 0 when there is none.
    known : dict
        Texts seen by `count_numbers`: whether each is a number; None for what is no value.
    """

    values: int = 0
    numbers: int = 0
    integers: int = 0
    truths: int = 0
    bad_row: int = 0
    bad: str = ""
    known: dict[str | None, bool | None] = field(default_factory=dict)

    def add(self, column: pl.Series, offset: int) -> None:
        """Count some more rows; ``offset`` rows came before."""
        text = column.str.strip_chars()
        given = ~(text.is_null() | text.is_in(MISSING_NUMBER))
        number = text.cast(pl.Float64, strict=False).is_not_null() & given
        self.values += int(given.sum())
        self.numbers += int(number.sum())
        if self.integers >= 0:
            whole = int((text.cast(pl.Int64, strict=False).is_not_null() & given).sum())
            self.integers = self.integers + whole if whole == int(given.sum()) else -1
        if self.numbers < self.values:
            self.truths += int(text.is_in(TRUE + FALSE).sum())
            if not self.bad_row and (at := (given & ~number).arg_max()) is not None and bool((given & ~number)[at]):
                self.bad_row, self.bad = offset + at + 1, str(column[at])

    @property
    def type(self) -> str:
        """Type that holds every value."""
        if self.values == 0:
            return "float"
        if self.truths == self.values:
            return "bool"
        if self.numbers == self.values:
            return "int" if self.integers >= 0 else "float"
        return "text"


def natural(kind: pa.DataType) -> str:
    """Our type for an Arrow one; empty when it is no single value."""
    if pa.types.is_dictionary(kind):
        return natural(kind.value_type)
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind) and kind != pa.uint64():
        return "int"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind) or kind == pa.uint64():
        return "float"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time"
    return "text" if pa.types.is_string(kind) or pa.types.is_large_string(kind) or "string" in str(kind) else ""


def cast(chunk: pa.Table, types: Mapping[str, str]) -> pa.Table:
    """Give a chunk our types, and one way to be missing: null."""
    # No pa.array and no None here: Arrow would import pandas to look at them, 0.2 s and 40 MB.
    columns, missing = [], pl.Series(MISSING_TEXT).to_arrow().cast(pa.string())
    for name, column in zip(chunk.column_names, chunk.columns, strict=True):
        kind = types[name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
            column = pa.nulls(len(column), pa.string())
        if pa.types.is_timestamp(column.type) and column.type.tz:
            column = column.cast(pa.timestamp(column.type.unit, "UTC")).cast(pa.timestamp(column.type.unit))
        if column.type != ARROW[kind]:
            column = column.cast(ARROW[kind], safe=kind != "time")
        if kind == "float" and not math.isfinite(pc.sum(column).as_py() or 0):  # looks at each value only if it must
            column = pc.if_else(pc.is_finite(column), column, pa.nulls(len(column), column.type))
        if kind == "text":
            column = pc.if_else(pc.is_in(column, value_set=missing), pa.nulls(len(column), column.type), column)
        columns.append(column)
    return pa.Table.from_arrays(columns, names=chunk.column_names)


def encoding(rows: pa.Table) -> dict[str, Any]:
    """How `pyarrow.parquet` writes a part, by its first rows; the same rows give the same bytes.

    LZ4 is read in half of Zstandard's time and written in less, most of all in small parts. What it costs in size comes
    back where a column has few values, as most have: each is written once, and the column as their numbers, which LZ4
    would hardly pack further. Statistics are kept of the time alone: nobody looks for rows by another column.
    """
    head = rows.slice(0, HEAD)
    few = [name for name in rows.column_names if len(pc.unique(head[name])) <= FEW]
    packed = {name: "none" if name in few else "lz4" for name in rows.column_names}
    times = [name for name in ("__time",) if name in rows.column_names]
    return {"compression": packed, "use_dictionary": few, "write_statistics": times}


def count_numbers(chunk: pa.Table, tallies: Mapping[str, Tally]) -> None:
    """Count values and numbers of some text columns."""
    for name, tally in tallies.items():
        counted = pc.value_counts(chunk[name])
        texts, counts = counted.field(0).to_pylist(), counted.field(1).to_pylist()
        known = tally.known
        if fresh := [text for text in texts if text not in known]:
            if len(known) > KNOWN:
                known.clear()
                fresh = texts
            number = pl.Series(fresh, dtype=pl.String).cast(pl.Float64, strict=False).is_not_null()
            known.update(zip(fresh, number, strict=True))
            known.update(dict.fromkeys([*MISSING_NUMBER, None]))
        for text, count in zip(texts, counts, strict=True):
            if (number := known[text]) is not None:
                tally.values += count
                tally.numbers += count * number
