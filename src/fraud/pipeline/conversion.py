"""Convert one delivered table to Parquet parts with the ledger's columns, refusing what cannot be learnt from.

Rows go by in row groups: one is read and typed while the one before is checked and the one before that is written,
each in a thread, and none is kept. What is remembered of the rows is a bounded sample and 8 bytes of each id.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud.errors import DataError
from fraud.pipeline.clock import Clock, first
from fraud.pipeline.columns import describe, encoding
from fraud.pipeline.ids import Ids, write_ids
from fraud.pipeline.roles import RESERVED, Roles, find_leaks
from fraud.pipeline.tables import Table

PART_ROWS = 250_000
PART_CELLS = 32_000_000  # wide tables get fewer rows a part, so that no part is huge
GROUP_CELLS = 4_000_000  # of a row group, which is what memory holds at once
SAMPLED = {1: 500, 0: 1_500}  # at least so many rows of each class are looked at closely, at most twice as many
LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "true": 1, "false": 0}
RUNS = 0.99  # a column whose ranks follow time so closely tells when, not what
RUNS_ROWS = 30  # with fewer values that is chance
END: Any = object()


@dataclass
class Converted:
    """What the conversion of one table found.

    Attributes
    ----------
    name : str
        The file, for messages.
    ids : Ids
        Its ids; empty for a table without an id column.
    rows, frauds : int
        Counts.
    time_span : tuple of float
        First and last moment (seconds since 1970).
    columns : dict
        ``{"type", "nulls", "constant", "runs_with_time"}`` for each source column that is kept under its name.
    parts : list of dict
        ``{"path", "rows", "sha256", "bytes", "ids"}`` for each part; ``ids`` is None without an id column, else
        ``{"path", "sha256", "min", "max", "shortest", "longest"}`` of the small file that holds the part's ids alone.
    leaks : list of dict
        Columns that give the answer away.
    """

    name: str
    ids: Ids
    rows: int
    frauds: int
    time_span: tuple[float, float]
    columns: dict[str, dict[str, Any]]
    parts: list[dict[str, Any]]
    leaks: list[dict[str, Any]]


class _Sample:
    """Rows evenly spread over all rows of their class: each ``step``-th, ever fewer the more there are."""

    def __init__(self) -> None:
        self.step, self.seen, self.kept = ({label: start for label in SAMPLED} for start in (1, 0, 0))
        self._rows: list[pa.Table] = []

    def add(self, group: pa.Table, label: pl.Series) -> None:
        """Look at the rows of a row group."""
        taken: list[int] = []
        for value, least in SAMPLED.items():
            there = (label == value).arg_true()
            chosen = self._choose(there, value)
            while self.kept[value] + len(chosen) > 2 * least:
                self._thin(value)
                chosen = self._choose(there, value)
            self.seen[value] += len(there)
            self.kept[value] += len(chosen)
            taken += chosen
        if taken:
            self._rows.append(group.take(pl.Series(taken).to_arrow()))

    def _choose(self, there: pl.Series, value: int) -> list[int]:
        chosen: list[int] = there.to_list()[-self.seen[value] % self.step[value] :: self.step[value]]
        return chosen

    def _thin(self, value: int) -> None:
        """Drop each second row of a class."""
        self.step[value] *= 2
        if not self._rows:
            return
        rows = pa.concat_tables(self._rows)
        label = pl.Series(pl.from_arrow(rows["__label"]))
        mine, others = (label == value).arg_true().gather_every(2), (label != value).arg_true()
        self.kept[value] = len(mine)
        self._rows = [rows.take(pl.concat([mine, others]).sort().to_arrow())]

    def frame(self) -> pl.DataFrame:
        """The rows."""
        frame = pl.from_arrow(pa.concat_tables(self._rows))
        assert isinstance(frame, pl.DataFrame)
        return frame


@dataclass
class _Pass:
    """What is gathered while the rows go by."""

    ids: Ids
    rows: int = 0
    frauds: int = 0
    low: float = float("inf")
    high: float = float("-inf")
    parts: list[dict[str, Any]] = field(default_factory=list)
    sample: _Sample = field(default_factory=_Sample)
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
    wide = max(1, len(table.columns))
    part_rows = max(1_000, min(PART_ROWS, PART_CELLS // wide))
    rows = max(1_000, min(part_rows, GROUP_CELLS // wide))
    numeric = [roles.amount] if roles.amount else []
    state, writer = _Pass(Ids(table.name)), _Writer(spool, bool(roles.id))
    chunks = _ahead(table.chunks(rows, roles.consumed, numeric, exclude, known))
    with contextlib.closing(_ahead(_groups(chunks, table, roles, clock, source_id, latest))) as groups:
        for now, group in groups:
            if now is not state:
                state, writer = now, _Writer(spool, bool(roles.id))
                for path in spool.iterdir():
                    path.unlink()
            writer.add(group)
            if writer.rows + rows > part_rows:
                writer.close(state)
    writer.close(state)
    if not state.rows:
        raise DataError(f"{table.name} has a header but no rows.")
    state.ids.close(roles.id)
    sample = state.sample.frame()
    kept = [name for name in table.columns if name not in roles.consumed]
    runs = _run_with_time(sample)
    columns = {
        name: {
            "type": table.types[name],
            "nulls": state.nulls[name],
            "constant": state.nulls[name] < state.rows and name not in state.varied,
            "runs_with_time": name in runs,
        }
        for name in kept
    }
    if not any(columns[name]["nulls"] < state.rows for name in kept if name not in exclude):
        raise DataError(f"{table.name}: no usable feature is left: every column that is not excluded is empty.")
    leaks = find_leaks(sample, ignore=exclude)
    span = (state.low, state.high)
    return Converted(table.name, state.ids, state.rows, state.frauds, span, columns, state.parts, leaks)


def _ahead(items: Iterator[Any]) -> Iterator[Any]:
    """Make the next item in a thread while one is worked on; most of both is done outside the interpreter's lock."""
    with contextlib.closing(items), ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, END)
        while (item := coming.result()) is not END:
            coming = thread.submit(next, items, END)
            yield item


def _groups(
    chunks: Iterator[pa.Table | None], table: Table, roles: Roles, clock: Clock, source_id: str, latest: float
) -> Iterator[tuple[_Pass, pa.Table]]:
    """Give all chunks the ledger's columns, with what was gathered so far; another state says to start again."""
    state = _Pass(Ids(table.name))
    with contextlib.closing(chunks):
        for chunk in chunks:
            if chunk is None:  # the types did not hold
                state = _Pass(Ids(table.name))
            else:
                yield state, _group(state, chunk, table, roles, clock, source_id, latest)


def _group(
    state: _Pass, chunk: pa.Table, table: Table, roles: Roles, clock: Clock, source_id: str, latest: float
) -> pa.Table:
    """Check some rows, count what is in them and give them the ledger's columns."""
    offset, chunk = state.rows, chunk.combine_chunks()  # one piece a column, as it is written
    label = _labels(_series(chunk, roles.target), table.name, offset)
    ids = _ids(chunk, table.name, roles.id, offset, source_id)
    if roles.time:
        time = clock.read(_series(chunk, roles.time), table.name, offset, latest)
    else:
        time = pl.Series(range(offset, offset + chunk.num_rows), dtype=pl.Float64) + clock.origin
    kept = [name for name in table.columns if name not in roles.consumed]
    group = chunk.select(kept)
    reserved = {"__id": ids, "__time": time, "__label": label}
    kinds = {"__id": pa.string(), "__time": pa.float64(), "__label": pa.int8()}
    for at, (name, values) in enumerate(reserved.items()):
        group = group.add_column(at, pa.field(name, kinds[name]), values.to_arrow().cast(kinds[name]))
    state.rows += len(ids)
    state.frauds += int(label.sum())
    state.low, state.high = min(state.low, float(str(time.min()))), max(state.high, float(str(time.max())))
    if roles.id:
        state.ids.add(ids)
    for name in kept:
        column = group[name]
        state.nulls[name] = state.nulls.get(name, 0) + column.null_count
        if name not in state.varied and column.null_count < len(column):
            span_ = pc.min_max(column).as_py() if not pa.types.is_string(column.type) else _ends(column)
            one = state.value.setdefault(name, span_["min"])
            if not one == span_["min"] == span_["max"]:
                state.varied.add(name)
    state.sample.add(group, label)
    return group


def _ends(column: pa.ChunkedArray) -> dict[str, Any]:
    """Smallest and largest text; two different ones are enough to know that a column varies."""
    head = pc.unique(column.slice(0, 1_000)).drop_null()
    values = head if len(head) > 1 else pc.unique(column).drop_null()
    return {"min": values[0].as_py(), "max": values[-1].as_py()}


def _run_with_time(sample: pl.DataFrame) -> set[str]:
    """Columns that rise or fall with time, such as a day's number: no later row has a value seen in training."""
    names = [
        item.name
        for item in sample
        if item.name not in RESERVED
        and (item.dtype.is_numeric() or item.dtype.is_temporal())
        and len(item) - item.null_count() >= RUNS_ROWS
    ]
    ranks = [
        pl.corr(pl.col(name).drop_nulls().rank(), pl.col("__time").filter(pl.col(name).is_not_null()).rank())
        for name in names
    ]
    found = sample.select(rank.alias(name) for name, rank in zip(names, ranks, strict=True))
    # A column or a time that is always the same has no correlation: NaN.
    return {name for name in names if found[name][0] is not None and abs(found[name][0]) >= RUNS}


class _Writer:
    """Writes row groups to one part after the other, and the ids of each beside it; the same rows give the same bytes.

    Parameters
    ----------
    folder : Path
        Where to.
    ids : bool
        Whether the ids have a meaning outside the part.
    """

    def __init__(self, folder: Path, ids: bool) -> None:
        self.folder, self.rows, self.parts = folder, 0, 0
        self._beside, self._ids = ids, []  # type: tuple[bool, list[pa.ChunkedArray]]
        self._writer: pq.ParquetWriter | None = None

    def add(self, group: pa.Table) -> None:
        """Write a row group."""
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path("part"), group.schema, **encoding(group))
        self._writer.write_table(group)
        self._ids.append(group["__id"])
        self.rows += group.num_rows

    def close(self, state: _Pass) -> None:
        """End a part, if one was begun."""
        if self._writer is None:
            return
        self._writer.close()
        path, about = self._path("part"), None
        if self._beside:
            beside = self._path("ids")
            span = write_ids(pa.chunked_array([chunk for ids in self._ids for chunk in ids.chunks]), beside)
            about = {"path": beside, "sha256": _sha256(beside)} | span
            state.ids.file(beside, self.rows)
        size = path.stat().st_size
        state.parts.append({"path": path, "rows": self.rows, "sha256": _sha256(path), "bytes": size, "ids": about})
        self._writer, self._ids, self.rows, self.parts = None, [], 0, self.parts + 1

    def _path(self, kind: str) -> Path:
        return self.folder / f"{kind}-{self.parts:05d}.parquet"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
