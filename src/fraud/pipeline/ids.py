"""Ids of the history: in a small file beside each part, so that no feature is read to find one; hashes in memory.

Equal hashes need not be equal ids: whatever a hash says is looked up in the files before anybody is told.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from fraud.errors import DataError
from fraud.pipeline.clock import first
from fraud.pipeline.storage import Storage

WORKERS = 8  # objects read at once: the time goes into waiting for S3


def write_ids(ids: pa.ChunkedArray, path: Path) -> dict[str, Any]:
    """Write the ids of a part; the same ids give the same bytes.

    Returns
    -------
    dict
        ``min``, ``max``, ``shortest`` and ``longest`` (bytes): what an id in this file can look like.
    """
    table = pa.Table.from_arrays([ids.combine_chunks()], ["__id"])
    pq.write_table(table, path, compression="zstd", use_dictionary=False, write_statistics=False)
    texts = pl.Series(pl.from_arrow(ids))
    sizes = texts.str.len_bytes()
    return {"min": texts.min(), "max": texts.max(), "shortest": sizes.min(), "longest": sizes.max()}


def read_ids(body: bytes) -> pl.Series:
    """Ids of a part, in its order."""
    return pl.read_parquet(io.BytesIO(body), columns=["__id"])["__id"]  # pyarrow would import pandas first: 0.2 s


def find(storage: Storage, places: Iterable[tuple[str, int, dict[str, Any]]], ids: pl.Series) -> pl.DataFrame:
    """Find ids in the files beside the parts; only those are read that can hold one.

    Parameters
    ----------
    storage : Storage
        The bucket.
    places : iterable of (str, int, dict)
        Source, its rows before the part, and ``key`` and range of the file.
    ids : Series of str
        What to look for.

    Returns
    -------
    DataFrame
        ``__id``, ``file`` and ``row`` of each one found.
    """
    size, wanted = ids.str.len_bytes(), []
    for file, before, about in places if len(ids) else ():
        may = (ids >= about["min"]) & (ids <= about["max"]) & size.is_between(about["shortest"], about["longest"])
        if may.any():
            wanted.append((file, before, about["key"], ids.filter(may).to_frame("__id")))

    def look(task: tuple[str, int, str, pl.DataFrame]) -> pl.DataFrame:
        file, before, key, mine = task
        there = read_ids(storage.get(key)).to_frame().with_row_index("row", before + 1)
        hits = there.join(mine, on="__id", how="semi", maintain_order="left")
        return hits.select("__id", pl.lit(file).alias("file"), pl.col("row").cast(pl.Int64))

    with ThreadPoolExecutor(WORKERS) as pool:
        empty = pl.DataFrame(schema={"__id": pl.String, "file": pl.String, "row": pl.Int64})
        return pl.concat([empty, *pool.map(look, wanted)])


def hashes(ids: pl.Series) -> np.ndarray:
    """64 bits of each id."""
    return ids.hash().to_numpy()


class Ids:
    """The ids of one table, 8 bytes each.

    Parameters
    ----------
    name : str
        The table, for messages.

    Attributes
    ----------
    sorted : ndarray of uint64
        Hashes of all ids, once `close` was called.
    """

    def __init__(self, name: str) -> None:
        self.name, self.sorted = name, np.empty(0, np.uint64)
        self._files: list[tuple[Path, int]] = []
        self._hashes: list[np.ndarray] = []

    def add(self, ids: pl.Series) -> None:
        """Remember some more."""
        self._hashes.append(hashes(ids))

    def file(self, path: Path, rows: int) -> None:
        """Say where the next ``rows`` ids have been written."""
        self._files.append((path, rows))

    def close(self, column: str) -> None:
        """Refuse an id that comes twice.

        Raises
        ------
        DataError
            Naming both rows.
        """
        if not self._hashes:
            return
        self.sorted = np.concatenate(self._hashes)
        self._hashes = []
        self.sorted.sort()
        again = self.sorted[1:][self.sorted[1:] == self.sorted[:-1]]
        if not again.size:
            return
        found = self._where(lambda ids: _among(ids, again))
        if (at := first(found["__id"].is_first_distinct().not_())) is not None:
            before = found.filter(pl.col("__id") == found["__id"][at])["row"][0]
            row = found["row"][at]
            raise DataError(f'{self.name}: column "{column}", row {row}: the id is the same as in row {before}.')

    def shared(self, other: pl.Series) -> tuple[int, int] | None:
        """First of these ids that is one of some others: its row here from 1, and its index there."""
        maybe = other.filter(_among(other, self.sorted))
        found = self._where(lambda ids: ids.is_in(maybe.implode())) if len(maybe) else pl.DataFrame()
        if found.is_empty():
            return None
        return int(found["row"][0]), int(str((other == found["__id"][0]).arg_max()))

    def batches(self) -> Iterator[tuple[int, pl.Series]]:
        """The ids of each file, with the rows before them."""
        before = 0
        for path, rows in self._files:
            yield before, read_ids(path.read_bytes())
            before += rows

    def _where(self, wanted: Callable[[pl.Series], pl.Series]) -> pl.DataFrame:
        """``__id`` and ``row`` of all ids that are wanted."""
        rows = [pl.DataFrame(schema={"__id": pl.String, "row": pl.Int64})]
        for before, ids in self.batches():
            at = wanted(ids).arg_true()
            rows.append(pl.DataFrame({"__id": ids.gather(at), "row": at.cast(pl.Int64) + before + 1}))
        return pl.concat(rows)


def _among(ids: pl.Series, known: np.ndarray) -> pl.Series:
    """Which ids have one of these sorted hashes."""
    mine = hashes(ids)
    at = np.minimum(np.searchsorted(known, mine), len(known) - 1)
    return pl.Series(known[at] == mine)
