"""Small objects become large ones, once: hour partitions of the bucket and the immutable parts made of them.

A part holds what was new in one partition, and an index beside it names the objects that went in. The index is written
last, so a part counts when its index exists; whoever reads later starts from the indexes and never opens the objects,
nor the columns of a part that it does not need. Nothing is ever overwritten.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fraud.pipeline.storage import Item, Storage, join

WORKERS = 8  # objects under way at once: the time goes into waiting for S3
CHUNK_BYTES = 64 << 20  # of source objects in one part, so that memory does not depend on how busy an hour was
INDEX = ".index.parquet"
ABOUT = b"fraud"  # key of an index's own metadata

Convert = Callable[[list[tuple[str, bytes]]], tuple[pa.Table, dict[str, Any]]]
"""Makes the rows of a part, and a JSON document about them, of ``(key, body)`` pairs in the order of their keys."""


@dataclass(frozen=True)
class Chunk:
    """Objects of one partition that become one part.

    Attributes
    ----------
    folder : str
        Where the part goes, such as ``ledger/live/fraud/AllTraffic/2026/01/02/03``.
    items : tuple of Item
        The objects, in the order of their keys.
    """

    folder: str
    items: tuple[Item, ...]

    def name(self, mark: str) -> str:
        """Key of the part without its ending; all that decides its content decides its name."""
        listed = json.dumps([mark, [(item.key, item.etag, item.size) for item in self.items]])
        return join(self.folder, f"{mark}-{hashlib.sha256(listed.encode()).hexdigest()[:16]}")

    def to_json(self) -> str:
        """Write it down for another machine."""
        return json.dumps({"folder": self.folder, "items": [(item.key, item.size, item.etag) for item in self.items]})

    @classmethod
    def from_json(cls, text: str | bytes) -> Chunk:
        """Read what `to_json` wrote."""
        found = json.loads(text)
        never = dt.datetime.fromtimestamp(0, dt.UTC)  # when an object came does not matter to a part
        return cls(found["folder"], tuple(Item(key, size, etag, never) for key, size, etag in found["items"]))


@dataclass(frozen=True)
class Index:
    """What is known of a part without opening it.

    Attributes
    ----------
    key : str
        Of the index.
    about : dict
        What `Convert` said, ``sources`` as ``[key, etag, size]``, and ``part`` as ``{"key", "rows", "sha256"}``.
    rows : pyarrow.Table
        The indexed columns.
    """

    key: str
    about: dict[str, Any]
    rows: pa.Table

    @property
    def sources(self) -> set[tuple[str, str, int]]:
        """The objects that went in."""
        return {(key, etag, size) for key, etag, size in self.about["sources"]}


def mark_of(*decisive: Any) -> str:
    """Name a way of converting by all that decides its outcome: parts made another way do not count."""
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:8]


def read_indexes(storage: Storage, folder: str, mark: str, first: str = "", last: str = "~") -> list[Index]:
    """Read the indexes under a folder, in the order of their keys.

    Parameters
    ----------
    storage : Storage
        The bucket.
    folder : str
        Of the ledger.
    mark : str
        As `mark_of` made it; others are passed over.
    first, last : str
        Lowest and highest key below the folder that can matter.
    """
    keys = []
    for key in storage.list_keys(join(folder, "/"), after=join(folder, first)):
        if key > join(folder, last):
            break
        if key.endswith(INDEX) and key.rsplit("/", 1)[-1].startswith(f"{mark}-"):
            keys.append(key)
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(lambda key: parse_index(key, storage.get(key)), keys))


def parse_index(key: str, body: bytes) -> Index:
    """Read the bytes of an index."""
    # read_table would import pandas, a fifth of a second. One thread is enough for an index, and Arrow's pool aborts a
    # process that ends while it is still starting.
    table = pq.ParquetFile(io.BytesIO(body)).read(use_threads=False)
    return Index(key, json.loads(table.schema.metadata[ABOUT]), table.replace_schema_metadata(None))


def pending(partitions: Iterable[tuple[str, Sequence[Item]]], indexes: Iterable[Index]) -> list[Chunk]:
    """Name the work that is left: the objects that no index names, cut into chunks.

    Parameters
    ----------
    partitions : iterable of (str, sequence of Item)
        Folder of the ledger, and the objects that belong to it.
    indexes : iterable of Index
        What was done before.
    """
    done = {source for index in indexes for source in index.sources}
    return [
        Chunk(folder, chunk)
        for folder, items in partitions
        for chunk in _chunks([item for item in items if (item.key, item.etag, item.size) not in done])
    ]


def _chunks(items: Sequence[Item]) -> Iterator[tuple[Item, ...]]:
    waiting: list[Item] = []
    size = 0
    for item in sorted(items, key=lambda item: item.key):
        if waiting and size + item.size > CHUNK_BYTES:
            yield tuple(waiting)
            waiting, size = [], 0
        waiting.append(item)
        size += item.size
    if waiting:
        yield tuple(waiting)


def compact(storage: Storage, chunk: Chunk, mark: str, convert: Convert, indexed: Sequence[str] = ()) -> Index:
    """Make one part and its index: the only place where the ledger gets either.

    Parameters
    ----------
    storage : Storage
        The bucket.
    chunk : Chunk
        What goes in.
    mark : str
        As `mark_of` made it.
    convert : callable
        Makes the rows; the same objects must give the same rows.
    indexed : sequence of str
        Columns that the index repeats; none means that the index is all there is, without a part.
    """
    with ThreadPoolExecutor(WORKERS) as pool:
        bodies = list(pool.map(storage.get, chunk.items))
    table, about = convert([(item.key, body) for item, body in zip(chunk.items, bodies, strict=True)])
    about |= {"sources": [[item.key, item.etag, item.size] for item in chunk.items]}
    name = chunk.name(mark)
    if indexed:
        body = _keep(storage, f"{name}.parquet", to_parquet(table))
        about["part"] = {
            "key": f"{name}.parquet", "rows": table.num_rows, "sha256": hashlib.sha256(body).hexdigest(),
        }  # fmt: skip
        table = table.select(list(indexed))
    table = table.replace_schema_metadata({ABOUT: json.dumps(about, sort_keys=True).encode()})
    return parse_index(name + INDEX, _keep(storage, name + INDEX, to_parquet(table)))


def _keep(storage: Storage, key: str, body: bytes) -> bytes:
    # Another version of the libraries may have been first: then its object, equal in content, is the one that counts.
    return body if storage.put_once(key, body) else bytes(storage.get(key))


def to_parquet(table: pa.Table) -> bytes:
    """Write a table; the same rows give the same bytes."""
    buffer = io.BytesIO()
    texts = [field.name for field in table.schema if pa.types.is_string(field.type)]
    statistics = [name for name in ("__time",) if name in table.column_names]
    pq.write_table(table, buffer, compression="zstd", use_dictionary=texts, write_statistics=statistics)
    return buffer.getvalue()
