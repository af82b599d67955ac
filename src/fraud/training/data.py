"""Ledger parts in, matrices out: labels, times, batches of rows.

Parts are read one batch of rows at a time and go straight into float64 matrices in column order, which LightGBM takes
without a copy. Nothing else of the table stays in memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud.errors import DataError
from fraud.schema import category_text

BATCH_ROWS = 8_192  # decoded at once; eight times as many take 250 MB more on 434 columns, and longer
SOURCES = ("history", "truth", "mature", "pseudo")
"""Where a label can come from, in the order of ``Rows.source``'s codes."""
GRADING = ("history", "truth", "mature")
"""Label sources that may validate a model; pseudo-labels only teach."""
UNLABELLED = -1


@dataclass(frozen=True)
class Part:
    """One Parquet file of the ledger; ``start`` is the place of its first row among all rows.

    It is opened for each pass anew: the footers of a thousand parts with 400 columns would fill the memory.
    """

    key: str
    path: Path
    n_rows: int
    start: int
    columns: frozenset[str]


@dataclass(frozen=True)
class Ledger:
    """What ``dataset.json`` names.

    Attributes
    ----------
    dataset : dict
        ``dataset.json``.
    parts : list of Part
        In its order.
    kinds : dict of str to set of str
        Column name to what it holds, over all parts (see ``kind_of``), in the order of the first part.
    labels : Path or None
        ``labels.parquet`` beside it.
    """

    dataset: dict[str, Any]
    parts: list[Part]
    kinds: dict[str, set[str]]
    labels: Path | None

    @property
    def n_rows(self) -> int:
        """Number of rows of all parts."""
        return sum(part.n_rows for part in self.parts)


@dataclass(frozen=True)
class Rows:
    """What is known of every row beside its features.

    Attributes
    ----------
    time : ndarray of float64
        Seconds since 1970, UTC.
    label : ndarray of int8
        1 fraud, 0 legitimate, -1 unlabelled.
    source : ndarray of int8
        Index into ``SOURCES``; -1 unlabelled.
    weight : ndarray of float32
    """

    time: np.ndarray
    label: np.ndarray
    source: np.ndarray
    weight: np.ndarray


def open_ledger(channel: Path) -> Ledger:
    """Find ``dataset.json`` in a channel and open the parts it names.

    Parameters
    ----------
    channel : Path
        Files under it keep their keys, as SageMaker delivers a manifest.

    Returns
    -------
    Ledger

    Raises
    ------
    DataError
        When ``dataset.json`` or a part is absent, unreadable, or has other rows than it should.
    """
    found = sorted(channel.rglob("dataset.json"))
    if len(found) != 1:
        raise DataError(f"The train channel holds {len(found)} files dataset.json; exactly one is needed.")
    try:
        dataset = json.loads(found[0].read_bytes())
        listed = [(str(part["key"]), int(part["rows"]), part["sha256"]) for part in dataset["parts"]]
        dataset["roles"]["time"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"dataset.json cannot be read: {type(error).__name__} {error}.") from error
    parts: list[Part] = []
    kinds: dict[str, set[str]] = {}
    start = 0
    for key, rows, sha256 in listed:
        path = channel / key
        if not path.is_file() or not path.resolve().is_relative_to(channel.resolve()):
            raise DataError(f"{key} stands in dataset.json, but is not in the train channel.")
        with path.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != sha256:
                raise DataError(f"{key} is not the file that dataset.json names: its SHA-256 differs.")
        with _opened(key, path) as file:
            if file.metadata.num_rows != rows:
                raise DataError(f"{key} has {file.metadata.num_rows:,} rows, dataset.json says {rows:,}.")
            columns = frozenset(file.schema_arrow.names)
            if missing := {"__id", "__time", "__label"} - columns:
                raise DataError(f"{key} lacks the column {', '.join(sorted(missing))}.")
            for column in file.schema_arrow:
                kinds.setdefault(column.name, set()).add(kind_of(column.type))
        parts.append(Part(key, path, rows, start, columns))
        start += rows
    labels = found[0].with_name("labels.parquet")
    return Ledger(dataset, parts, kinds, labels if labels.is_file() else None)


def read_rows(ledger: Ledger) -> Rows:
    """Read time and label of every row; ``labels.parquet`` gives labels by id, also instead of a row's own.

    Parameters
    ----------
    ledger : Ledger

    Returns
    -------
    Rows

    Raises
    ------
    DataError
        When a time or label cannot be used.
    """
    n = ledger.n_rows
    rows = Rows(np.empty(n), np.full(n, -1, np.int8), np.full(n, -1, np.int8), np.ones(n, np.float32))
    labels = _read_labels(ledger)
    seen = np.zeros(len(labels["id"]), dtype=bool)
    for part in ledger.parts:
        span = slice(part.start, part.start + part.n_rows)
        table = _read(part.key, part.path, ["__id", "__time", "__label"])
        time = as_float64(table["__time"])
        if not np.isfinite(time).all():
            raise DataError(f"{part.key}: row {int(np.argmin(np.isfinite(time)))} has no time.")
        own = as_float64(table["__label"])
        if not np.isin(own[~np.isnan(own)], (0, 1)).all():
            raise DataError(f"{part.key} has a label that is neither 0 nor 1.")
        rows.time[span] = time
        rows.label[span] = np.where(np.isnan(own), UNLABELLED, own)
        rows.source[span] = np.where(np.isnan(own), UNLABELLED, SOURCES.index("history"))
        if len(seen):  # truth may also correct what the history says
            _join(rows, part.start, np.arange(part.n_rows), table["__id"], labels, seen)
    return rows


def batches(ledger: Ledger, columns: Sequence[str]) -> Iterator[tuple[Part, int, pa.RecordBatch]]:
    """Read columns of all parts, a batch of rows at a time.

    Parameters
    ----------
    ledger : Ledger
    columns : sequence of str
        Those that a part lacks are left out.

    Yields
    ------
    part : Part
    start : int
        Place of the batch's first row among all rows.
    batch : pyarrow.RecordBatch
    """
    for part in ledger.parts:
        start = part.start
        with _opened(part.key, part.path) as file:
            wanted = [name for name in columns if name in part.columns]
            for batch in file.iter_batches(BATCH_ROWS, columns=wanted) if wanted else ():
                yield part, start, batch
                start += batch.num_rows


def kind_of(type_: pa.DataType) -> str:
    """Name what a column holds: number, boolean, category, datetime, empty or other."""
    if pa.types.is_dictionary(type_):
        return kind_of(type_.value_type)
    if pa.types.is_null(type_):
        return "empty"
    if pa.types.is_boolean(type_):
        return "boolean"
    if pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        return "number"
    if pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_):
        return "category"
    return "datetime" if pa.types.is_temporal(type_) else "other"


def plain(column: Any) -> Any:
    """Give a category column one type, text as ``fraud.schema.category_text`` writes it."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if kind_of(column.type) in ("number", "boolean"):
        found = (None if value is None or value != value else category_text(value) for value in _as_sent(column))
        return pa.array(list(found), pa.large_string())
    return column.cast(pa.large_string())


def _as_sent(column: Any) -> list[Any]:
    """Values of a column of numbers or booleans as callers write them.

    What float32 or float16 keeps of 0.1 is 0.1 to them, not 0.10000000149011612: the shortest text that gives the same
    number in that width. A decimal is a whole number where it has no fraction.
    """
    if pa.types.is_decimal(column.type):
        return [v if v is None else int(v) if v == v.to_integral_value() else float(v) for v in column.to_pylist()]
    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
        narrow = np.float32 if pa.types.is_float32(column.type) else np.float16
        return [None if value is None else float(str(narrow(value))) for value in column.to_pylist()]
    return list(column.to_pylist())


def select(column: pa.Array, chosen: np.ndarray) -> pa.Array:
    """Take ascending positions of a column, without a copy when they are neighbours."""
    if chosen[-1] - chosen[0] + 1 == len(chosen):
        return column.slice(int(chosen[0]), len(chosen))
    return column.take(pa.array(chosen))


def raw_rows(ledger: Ledger, places: Sequence[int], names: Sequence[str]) -> list[dict[str, Any]]:
    """Read single rows as a caller would send them.

    Parameters
    ----------
    ledger : Ledger
    places : sequence of int
        Ascending places among all rows.
    names : sequence of str

    Returns
    -------
    list of dict
        JSON values; missing is None.
    """
    wanted = np.asarray(places)
    found: list[dict[str, Any]] = []
    for _, start, batch in batches(ledger, names):
        chosen = wanted[(wanted >= start) & (wanted < start + batch.num_rows)] - start
        if not len(chosen):
            continue
        rows = batch.take(pa.array(chosen))
        for place, name in enumerate(rows.schema.names):
            if "category" in ledger.kinds[name] and kind_of(rows.column(name).type) == "number":
                rows = rows.set_column(place, name, plain(rows.column(name)))  # text in other parts, so text it is
        found += [_as_json(row, names) for row in rows.to_pylist()]
    return found


def _as_json(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    def value(found: Any) -> Any:
        if found != found:  # a stored NaN is missing, and JSON has no word for it
            return None
        return float(found) if isinstance(found, Decimal) else found

    return {name: value(row.get(name)) for name in names}


@contextmanager
def _opened(key: str, path: Path) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file; whatever is wrong with it, then or while it is read, is named with its key."""
    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{key} cannot be read: {(str(error).splitlines() or [''])[0][:300]}") from error


def _read(key: str, path: Path, columns: list[str] | None = None) -> pa.Table:
    with _opened(key, path) as file:
        return file.read(columns=columns).combine_chunks()


def as_float64(column: Any) -> np.ndarray:
    """Convert numbers and booleans as Python's ``float`` does, nulls to NaN."""
    if pa.types.is_decimal(column.type):  # Arrow multiplies by a power of ten, which rounds twice
        return np.array([np.nan if value is None else float(value) for value in column.to_pylist()])
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))


def _read_labels(ledger: Ledger) -> dict[str, Any]:
    if ledger.labels is None:
        return {"id": pa.array([], pa.large_string())}
    table = _read("labels.parquet", ledger.labels)
    missing = {"inference_id", "label", "label_source", "weight"} - set(table.column_names)
    if missing:
        raise DataError(f"labels.parquet lacks the column {', '.join(sorted(missing))}.")
    ids = plain(table["inference_id"]).combine_chunks()
    if ids.null_count or len(pc.unique(ids)) != len(ids):
        raise DataError("labels.parquet has an empty or repeated inference_id.")
    label, weight = as_float64(table["label"]), as_float64(table["weight"])
    if not np.isin(label, (0, 1)).all():
        raise DataError("labels.parquet has a label that is neither 0 nor 1.")
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise DataError("labels.parquet has a weight that is no number from 0 on.")
    source = as_float64(pc.index_in(plain(table["label_source"]), value_set=pa.array(SOURCES, pa.large_string())))
    if np.isnan(source).any():
        raise DataError(f"labels.parquet has a label_source that is none of {', '.join(SOURCES[1:])}.")
    return {"id": ids, "label": label, "source": source, "weight": weight}


def _join(rows: Rows, start: int, places: np.ndarray, ids: Any, labels: dict[str, Any], seen: np.ndarray) -> None:
    """Give rows their labels by id; an id that was delivered twice counts once."""
    found = pc.index_in(plain(ids).combine_chunks().take(pa.array(places)), value_set=labels["id"])
    match = as_float64(found)
    places, match = places[~np.isnan(match)] + start, match[~np.isnan(match)].astype(np.int64)
    match, first = np.unique(match, return_index=True)
    places, match = places[first][~seen[match]], match[~seen[match]]
    seen[match] = True
    rows.label[places] = labels["label"][match]
    rows.source[places] = labels["source"][match]
    rows.weight[places] = labels["weight"][match]
