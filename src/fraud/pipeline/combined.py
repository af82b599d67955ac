"""The merged rows as one CSV, for people and tools that want a file: written from the parts, a batch at a time."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from fraud.pipeline.columns import ARROW
from fraud.pipeline.roles import Roles
from fraud.pipeline.storage import Storage

BATCH = 16_384  # rows


def write(
    storage: Storage,
    key: str,
    parts: Sequence[Mapping[str, Any]],
    labels: pa.Table,
    types: Mapping[str, str],
    roles: Roles,
) -> int:
    """Write all rows that a model may learn from as one CSV.

    Parameters
    ----------
    storage : Storage
        The bucket.
    key : str
        Where the CSV goes; it replaces what is there.
    parts : sequence of mapping
        As ``dataset.json`` lists them.
    labels : Table
        As ``labels.parquet``.
    types : mapping of str to str
        Columns of the history and their types.
    roles : Roles
        Names of target, id and time; where the history has none, ours are used.

    Returns
    -------
    int
        Rows written. Time is in seconds since 1970; the last columns are ``label_source`` and ``weight``.
    """
    names = {"__id": roles.id or "__id", "__time": roles.time if roles.time != roles.id else "__time"}
    schema = pa.schema(
        [
            (names["__id"], pa.string()),
            (names["__time"] or "__time", pa.float64()),
            (roles.target, pa.int8()),
            *((name, ARROW[kind]) for name, kind in types.items()),
            ("label_source", pa.string()),
            ("weight", pa.float32()),
        ]
    )
    seen = pa.array([], pa.string())
    rows = 0
    with tempfile.TemporaryDirectory(prefix="fraud-combined-") as folder:
        path = Path(folder) / "combined.csv"
        with pacsv.CSVWriter(path, schema) as writer:
            for part in parts:
                file = pq.ParquetFile(io.BytesIO(storage.get(part["key"])))
                for batch in file.iter_batches(BATCH):
                    table = _labelled(pa.Table.from_batches([batch]), labels, seen)
                    ours = table.filter(pc.is_valid(table["__given"]))
                    if len(ours):
                        seen = pa.concat_arrays([seen, ours["__id"].combine_chunks()]) if _live(part) else seen
                        writer.write_table(_shaped(ours, schema, types))
                        rows += len(ours)
        storage.put(key, path, "text/csv")
    return rows


def _live(part: Mapping[str, Any]) -> bool:
    return str(part["key"]).startswith("ledger/live/")


def _labelled(table: pa.Table, labels: pa.Table, seen: pa.Array) -> pa.Table:
    """Add ``__given`` (the label that counts), its source and weight; null where the row is not to be learnt from."""
    at = pc.index_in(table["__id"].combine_chunks(), value_set=labels["inference_id"].combine_chunks())
    own = table["__label"].combine_chunks()
    given = pc.coalesce(pc.take(labels["label"].combine_chunks(), at), own)
    if len(seen):
        given = pc.if_else(pc.is_in(table["__id"].combine_chunks(), value_set=seen), None, given)
    source = pc.coalesce(pc.take(labels["label_source"].combine_chunks(), at), pa.scalar("history"))
    weight = pc.coalesce(pc.take(labels["weight"].combine_chunks(), at), pa.scalar(1.0, pa.float32()))
    return table.append_column("__given", given).append_column("__source", source).append_column("__weight", weight)


def _shaped(table: pa.Table, schema: pa.Schema, types: Mapping[str, str]) -> pa.Table:
    features = [
        table[name].cast(ARROW[kind]) if name in table.column_names else pa.nulls(len(table), ARROW[kind])
        for name, kind in types.items()
    ]
    columns = [table["__id"], table["__time"], table["__given"], *features, table["__source"], table["__weight"]]
    return pa.table([c.combine_chunks() if isinstance(c, pa.ChunkedArray) else c for c in columns], schema=schema)
