"""Captured transactions to the ledger's columns, which follow the history's types.

Rows come in batches. A batch whose values have the type that their column should have becomes Arrow at once; one that
holds anything else keeps its values until all rows are known, because what a column becomes depends on all of them.
"""

from __future__ import annotations

import datetime as dt
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from fraud.pipeline.columns import ARROW
from fraud.pipeline.roles import RESERVED
from fraud.schema import category_text

EXACT = 2**53  # below this every whole number is a float too
FEW = 200  # distinct texts of a column that a part's profile counts one by one
DEPTH = 32  # a value that nests deeper is none
TRUTHS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
POLARS = {
    "int": pl.Int64(), "float": pl.Float64(), "bool": pl.Boolean(), "text": pl.String(), "time": pl.Datetime("us"),
}  # fmt: skip
PYTHON = {"int": int, "float": float, "bool": bool, "text": str}
_NOTHING = type(None)

Values = pa.Array | Sequence[Any]


@dataclass
class Batch:
    """Some rows, column by column.

    Attributes
    ----------
    rows : int
        How many.
    columns : dict
        By name: an Arrow array of the column's final type, or the values as they were sent.
    sent : dict
        By name: which rows sent the field, null or not; None for all of them.
    """

    rows: int
    columns: dict[str, Values] = field(default_factory=dict)
    sent: dict[str, np.ndarray | None] = field(default_factory=dict)


def of_objects(transactions: list[dict[str, Any]], types: Mapping[str, str], consumed: set[str]) -> Batch:
    """Turn transactions into columns."""
    batch = Batch(len(transactions))
    blank: dict[str, Any] = {}
    rows = []
    for item in transactions:
        row = blank | item  # the fields in the order of those before, then what none of them had
        if len(row) > len(blank):
            blank = dict.fromkeys(row)
        rows.append(tuple(row.values()))
    nulls = 0
    for name, values in zip(blank, itertools.zip_longest(*rows), strict=True):
        column = values if name in consumed else clean(values, types.get(name))
        nulls += column.null_count if _is_exact(column) else sum(value is None for value in values)
        if name not in consumed:
            batch.columns[name] = column
    absent = batch.rows * len(blank) - sum(map(len, transactions))
    for name, column in batch.columns.items():
        if not absent or (_is_exact(column) and not column.null_count):
            batch.sent[name] = None
        elif nulls == absent and _is_exact(column):  # no field was sent as null
            batch.sent[name] = _valid(column)
        else:
            batch.sent[name] = np.fromiter((name in item for item in transactions), bool, batch.rows)
    return batch


def _is_exact(column: Values) -> TypeGuard[pa.Array]:
    """Whether a column is null only where its values were None; of a text that is no time null was made."""
    return isinstance(column, pa.Array) and not pa.types.is_timestamp(column.type)


def _valid(column: pa.Array) -> np.ndarray:
    """Which values are not null; `to_numpy` would import pandas."""
    bits = column.buffers()[0]
    if bits is None:
        return np.ones(len(column), bool)
    end = column.offset + len(column)
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=end, bitorder="little")[column.offset :].view(bool)


def arrow(values: Sequence[Any] | np.ndarray, kind: str) -> pa.Array:
    """Make an Arrow array of values that all have the type or are None.

    Polars does it, as fast: `pyarrow.array` would import pandas to look at them, a quarter of a second and 40 MB.

    Raises
    ------
    TypeError, OverflowError
        When a value has another type, or a whole number has more than 64 bits.
    """
    column = pl.Series("", values, POLARS[kind]).to_arrow()
    return column if column.type == ARROW[kind] else column.cast(ARROW[kind])


def of_table(table: pa.Table, types: Mapping[str, str], consumed: set[str]) -> Batch:
    """Turn a table read from CSV, where missing is not sent, into columns."""
    batch = Batch(table.num_rows)
    for name in table.column_names:
        if name not in consumed:
            column = table[name].combine_chunks()
            batch.sent[name] = _valid(column)
            batch.columns[name] = _clean_array(column, types.get(name))
    return batch


def clean(values: Sequence[Any], kind: str | None) -> Values:
    """Arrow of the wanted type when all values have it; else the values themselves."""
    if kind is None:
        return values
    if kind == "time":
        return to_column(values, kind)[0]
    seen = set(map(type, values)) - {_NOTHING}
    if not seen:
        return pa.nulls(len(values), ARROW[kind])
    try:
        if seen == {PYTHON[kind]}:
            column = arrow(values, kind)
            return column if kind != "float" or all_finite(column) else values
        if kind in ("int", "float") and seen <= {int, float}:
            column = arrow(values, "float")  # a whole number that changes so is not below EXACT
            return _as_int(column, values) if kind == "int" else column if all_finite(column) else values
    except (TypeError, OverflowError):
        pass
    return values


def _clean_array(column: pa.Array, kind: str | None) -> Values:
    if kind is not None and column.type == ARROW[kind]:
        return column
    if kind == "int" and pa.types.is_floating(column.type):
        return _as_int(column, None)
    values = column.to_pylist()
    return clean(values, kind) if kind == "time" else values


def _as_int(column: pa.Array, values: Sequence[Any] | None) -> Values:
    """Whole numbers of a float column as such; the values when there are others."""
    largest = pc.max(pc.abs(column)).as_py() or 0.0  # not compared in Arrow: a Python number there imports pandas
    if largest < EXACT and _all(pc.equal(pc.floor(column), column)):
        return column.cast(pa.int64())
    return column.to_pylist() if values is None else values


def _all(column: pa.Array) -> bool:
    return pc.all(column, min_count=0).as_py() is True


def all_finite(column: pa.Array | pa.ChunkedArray) -> bool:
    """Whether no value is infinite or NaN, and not even their sum; null is neither."""
    return math.isfinite(pc.sum(column).as_py() or 0.0)


def first_of_each(ids: pa.ChunkedArray, times: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Rows that stay: of each id the earliest one, and of several at one moment the first."""
    frame = pl.DataFrame({"id": pl.from_arrow(ids), "time": times, "row": np.arange(len(times))}).filter(allowed)
    if frame["id"].n_unique() < frame.height:
        frame = frame.sort("time", "row").unique("id", keep="first", maintain_order=True).sort("row")
    return frame["row"].to_numpy()


def gather(batches: list[Batch], name: str, kind: str | None, kept: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """One column over all batches.

    Returns
    -------
    column : pyarrow.Array
        Of the rows kept.
    changed : ndarray of int
        Places, among the rows kept, whose values had to change their type.
    """
    total = sum(batch.rows for batch in batches)
    pieces: list[Values] = []
    for batch in batches:
        piece = batch.columns.get(name)
        if piece is None:
            piece = pa.nulls(batch.rows, ARROW[kind]) if kind else [None] * batch.rows
        pieces.append(piece)
    if kind and all(isinstance(piece, pa.Array) for piece in pieces):
        whole = pa.chunked_array(pieces, ARROW[kind])
        return pick(whole, kept), np.empty(0, np.int64)
    values = list(itertools.chain.from_iterable(_plain(piece) for piece in pieces))
    chosen = values if len(kept) == total else [values[k] for k in kept.tolist()]
    column, changed = to_column(chosen, kind or kind_of(chosen))
    return column, np.array(changed, np.int64)


def pick(column: pa.ChunkedArray, kept: np.ndarray) -> pa.Array:
    """Some rows of a column, in their order, in one piece."""
    chosen = column if len(kept) == len(column) else column.take(arrow(kept, "int"))
    return chosen.chunk(0) if chosen.num_chunks == 1 else chosen.combine_chunks()


def _plain(piece: Values) -> Sequence[Any]:
    return piece.to_pylist() if isinstance(piece, pa.Array) else piece


def sent_rows(batches: list[Batch], name: str, kept: np.ndarray) -> np.ndarray | None:
    """Which of the rows kept sent a field; None when there are some and all of them did."""
    if len(kept) and all(batch.sent.get(name, batch) is None for batch in batches):
        return None
    masks = []
    for batch in batches:
        mask = batch.sent.get(name, np.zeros(batch.rows, bool))
        masks.append(np.ones(batch.rows, bool) if mask is None else mask)
    return np.concatenate(masks)[kept] if masks else np.zeros(0, bool)


def kind_of(values: Iterable[Any]) -> str:
    """Type of a column that the history does not have."""
    kinds = {type(value) for value in values if value is not None}
    if kinds and kinds <= {bool}:
        return "bool"
    return "float" if kinds <= {int, float} else "text"


def to_column(values: Sequence[Any], kind: str) -> tuple[pa.Array, list[int]]:
    """Make a column of one type, of whatever was sent.

    Parameters
    ----------
    values : sequence
        As JSON gives them.
    kind : {'int', 'float', 'bool', 'text', 'time'}
        Type wanted. A column of whole numbers with fractions in it is one of floats.

    Returns
    -------
    column : pyarrow.Array
        What cannot be changed is null.
    changed : list of int
        Places of the values that were changed.
    """
    usual = {"int": (int, float), "float": (int, float), "bool": (bool,), "text": (str,), "time": ()}[kind]
    changed: list[int] = []
    fixed: list[Any] = []
    for place, value in enumerate(values):
        if value is not None and type(value) not in usual:
            value = _follow(value, kind)
            changed += [place] if kind != "time" else []
        elif value is not None and kind in ("int", "float") and _finite(value) is None:
            value = None
            changed.append(place)
        fixed.append(value)
    if kind in ("int", "float"):
        if kind == "int":
            fixed = [int(v) if type(v) is float and v.is_integer() and abs(v) < EXACT else v for v in fixed]
            if float not in set(map(type, fixed)):
                try:
                    return arrow(fixed, kind), changed
                except (TypeError, OverflowError):
                    pass
        fixed = [_finite(value) for value in fixed]
        return arrow(fixed, "float"), changed
    return arrow(fixed, kind), changed


def _finite(value: Any) -> float | None:
    try:
        return float(value) if value is not None and math.isfinite(value) else None
    except OverflowError:  # a whole number of hundreds of digits
        return None


def _follow(value: Any, kind: str) -> Any:
    """Turn a value into the type that its column has in the history; None if there is no way."""
    if kind == "text":
        if isinstance(value, (dict, list)):
            return json.dumps(value, sort_keys=True) if _shallow(value, DEPTH) else None
        if type(value) is int and not -(2**63) <= value < 2**64:
            value = _finite(value) or value  # as the quick reader has it
        return None if type(value) is float and not math.isfinite(value) else category_text(value)
    if kind == "time":
        try:
            moment = dt.datetime.fromisoformat(value)
            return moment.astimezone(dt.UTC).replace(tzinfo=None) if moment.tzinfo else moment
        except (TypeError, ValueError, OverflowError):
            return None
    if kind == "bool":
        return None if isinstance(value, (dict, list)) else TRUTHS.get(category_text(value).lower())
    try:
        return _finite(float(value))
    except (TypeError, ValueError, OverflowError):
        return None


def _shallow(value: Any, depth: int) -> bool:
    if not isinstance(value, (dict, list)):
        return True
    return depth > 0 and all(
        _shallow(item, depth - 1) for item in (value.values() if isinstance(value, dict) else value)
    )


def profile_of(part: pa.Table) -> dict[str, Any]:
    """Count what later tells what is wrong with live data, without reading the rows again."""
    profile: dict[str, Any] = {}
    for name in part.column_names:
        if name in RESERVED:
            continue
        column = part[name]
        about: dict[str, Any] = {"nulls": column.null_count}
        if column.null_count < len(column):
            if pa.types.is_string(column.type):
                counted = pc.value_counts(column.drop_null())
                few = len(counted) <= FEW
                about["texts"] = (
                    dict(zip(*(counted.field(k).to_pylist() for k in (0, 1)), strict=True)) if few else None
                )
            elif not pa.types.is_timestamp(column.type):
                span = pc.min_max(column).as_py()
                about |= {"least": float(span["min"]), "most": float(span["max"])}
        profile[name] = about
    return profile
