"""Convert one delivered table to Parquet parts with the ledger's columns, refusing what cannot be learnt from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud.errors import DataError
from fraud.pipeline.clock import Clock, first
from fraud.pipeline.columns import describe
from fraud.pipeline.roles import Roles, find_leaks
from fraud.pipeline.tables import Table

PART_ROWS = 250_000
PART_CELLS = 8_000_000  # wide tables get fewer rows a part, so that memory stays the same
SAMPLED = (250, 750)  # fraud and other rows of each part that are searched for give-aways
LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "true": 1, "false": 0}


@dataclass
class Converted:
    """What the conversion of one table found.

    Attributes
    ----------
    name : str
        The file, for messages.
    ids : Series
        Id of each row.
    rows, frauds : int
        Counts.
    time_span : tuple of float
        First and last moment (seconds since 1970).
    columns : dict
        ``{"type", "nulls", "constant"}`` for each source column that is kept under its name.
    parts : list of dict
        ``{"path", "rows", "sha256", "bytes", "ids"}`` for each part.
    leaks : list of dict
        Columns that give the answer away.
    """

    name: str
    ids: pl.Series
    rows: int
    frauds: int
    time_span: tuple[float, float]
    columns: dict[str, dict[str, Any]]
    parts: list[dict[str, Any]]
    leaks: list[dict[str, Any]]


@dataclass
class _Pass:
    """What is gathered while the rows go by."""

    rows: int = 0
    frauds: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    ids: list[pl.Series] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)
    sample: list[pl.DataFrame] = field(default_factory=list)
    nulls: dict[str, int] = field(default_factory=dict)
    value: dict[str, Any] = field(default_factory=dict)  # the one value of a column that had no other yet
    varied: set[str] = field(default_factory=set)


def convert(
    table: Table,
    roles: Roles,
    clock: Clock,
    spool: Path,
    source_id: str,
    latest: float,
    exclude: Sequence[str] = (),
    known: Mapping[str, str] | None = None,
) -> Converted:
    """Convert a table to Parquet parts in a local folder.

    Parameters
    ----------
    table : Table
        The delivered table; its columns have been checked.
    roles : Roles
        Its columns with a meaning.
    clock : Clock
        How its time is read.
    spool : Path
        Empty folder for the parts.
    source_id : str
        Begins the ids of a table without an id column.
    latest : float
        No row can lie after this moment (seconds since 1970).
    exclude : sequence of str
        Columns that no model sees; they may mix numbers and text.
    known : mapping of str to str, optional
        Types of the columns in the history before.

    Raises
    ------
    DataError
        One sentence that names file, column and row.
    """
    state = _Pass()
    rows = max(1_000, min(PART_ROWS, PART_CELLS // max(1, len(table.columns))))
    numeric = [roles.amount] if roles.amount else []
    for chunk in table.chunks(rows, roles.consumed, numeric, exclude, known):
        if chunk is None:  # the types did not hold: start again
            state = _Pass()
            for path in spool.iterdir():
                path.unlink()
            continue
        _add(state, chunk, table, roles, clock, spool, source_id, latest)
    if not state.rows:
        raise DataError(f"{table.name} has a header but no rows.")
    ids = pl.concat(state.ids)
    _check_ids(ids, table.name, roles.id)
    kept = [name for name in table.columns if name not in roles.consumed]
    columns = {
        name: {
            "type": table.types[name],
            "nulls": state.nulls[name],
            "constant": state.nulls[name] < state.rows and name not in state.varied,
        }
        for name in kept
    }
    if not any(columns[name]["nulls"] < state.rows for name in kept if name not in exclude):
        raise DataError(f"{table.name}: no usable feature is left: every column that is not excluded is empty.")
    leaks = find_leaks(pl.concat(state.sample), ignore=exclude)
    return Converted(table.name, ids, state.rows, state.frauds, (state.low, state.high), columns, state.parts, leaks)


def _add(
    state: _Pass, chunk: pa.Table, table: Table, roles: Roles, clock: Clock, spool: Path, source_id: str, latest: float
) -> None:
    """Check one chunk, write it as a part and count what is in it."""
    offset = state.rows
    label = _labels(_series(chunk, roles.target), table.name, offset)
    ids = _ids(chunk, table.name, roles.id, offset, source_id)
    if roles.time:
        time = clock.read(_series(chunk, roles.time), table.name, offset, latest)
    else:
        time = pl.Series(range(offset, offset + chunk.num_rows), dtype=pl.Float64) + clock.origin
    kept = [name for name in table.columns if name not in roles.consumed]
    part = chunk.select(kept)
    reserved = {"__id": ids, "__time": time, "__label": label}
    kinds = {"__id": pa.string(), "__time": pa.float64(), "__label": pa.int8()}
    for at, (name, values) in enumerate(reserved.items()):
        part = part.add_column(at, pa.field(name, kinds[name]), values.to_arrow().cast(kinds[name]))
    path = spool / f"part-{len(state.parts):05d}.parquet"
    write_part(part, path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    sizes = ids.str.len_bytes()
    span = {"min": ids.min(), "max": ids.max(), "shortest": sizes.min(), "longest": sizes.max()}
    state.parts.append({"path": path, "rows": len(ids), "sha256": digest, "bytes": path.stat().st_size, "ids": span})
    state.rows += len(ids)
    state.frauds += int(label.sum())
    state.low, state.high = min(state.low, float(str(time.min()))), max(state.high, float(str(time.max())))
    state.ids.append(ids)
    for name in kept:
        column = part[name]
        state.nulls[name] = state.nulls.get(name, 0) + column.null_count
        if name not in state.varied and column.null_count < len(column):
            span_ = pc.min_max(column).as_py() if not pa.types.is_string(column.type) else _ends(column)
            one = state.value.setdefault(name, span_["min"])
            if not one == span_["min"] == span_["max"]:
                state.varied.add(name)
    state.sample.append(_sampled(part, label))


def _ends(column: pa.ChunkedArray) -> dict[str, Any]:
    """Smallest and largest text; two different ones are enough to know that a column varies."""
    head = pc.unique(column.slice(0, 1_000)).drop_null()
    values = head if len(head) > 1 else pc.unique(column).drop_null()
    return {"min": values[0].as_py(), "max": values[-1].as_py()}


def _sampled(part: pa.Table, label: pl.Series) -> pl.DataFrame:
    """Some rows of both classes, evenly spread."""
    rows = []
    for value, wanted in ((1, SAMPLED[0]), (0, SAMPLED[1])):
        there = (label == value).arg_true()
        rows.append(there.gather_every(max(1, -(-len(there) // wanted))))
    frame = pl.from_arrow(part.take(pl.concat(rows).to_arrow()))
    assert isinstance(frame, pl.DataFrame)
    return frame


def write_part(part: pa.Table, path: Path) -> None:
    """Write a part; the same rows give the same bytes."""
    texts = [item.name for item in part.schema if item.type == pa.string()]
    pq.write_table(part, path, compression="zstd", use_dictionary=texts, write_statistics=["__time"])


def _series(chunk: pa.Table, name: str) -> pl.Series:
    return pl.Series(name, pl.from_arrow(chunk[name].combine_chunks()))


def _labels(column: pl.Series, name: str, offset: int) -> pl.Series:
    text = column.cast(pl.String).str.strip_chars().str.to_lowercase()
    label = text.replace_strict(LABELS, default=None, return_dtype=pl.Int8)
    if (row := first(label.is_null())) is not None:
        value = text[row]
        other = value is not None and value.replace(".", "", 1).lstrip("-").isdigit()
        what = "a number other than 0 and 1" if other else describe(value or "")
        raise DataError(
            f'{name}: column "{column.name}", row {offset + row + 1}: the target is {what}; it must be 0 or 1.'
        )
    return label


def _ids(chunk: pa.Table, name: str, column: str, offset: int, source_id: str) -> pl.Series:
    if not column:
        return pl.Series([f"{source_id}:{row + 1}" for row in range(offset, offset + chunk.num_rows)])
    values = _series(chunk, column)
    if values.dtype.is_float():
        whole = values.cast(pl.Int64, strict=False)
        values = whole if (whole.cast(pl.Float64) == values).all() else values
    ids = values.cast(pl.String).str.strip_chars()
    if (row := first(ids.is_null() | (ids == ""))) is not None:
        raise DataError(f'{name}: column "{column}", row {offset + row + 1}: the id is missing.')
    return ids


def _check_ids(ids: pl.Series, name: str, column: str) -> None:
    if column and ids.n_unique() < len(ids):
        again = int(str(ids.is_first_distinct().not_().arg_max()))
        before = int(str((ids == ids[again]).arg_max()))
        raise DataError(f'{name}: column "{column}", row {again + 1}: the id is the same as in row {before + 1}.')
