"""Small objects become large ones, once: hour partitions of the bucket and the immutable parts made of them.

A part holds what was new in one partition, and an index beside it names the objects that went in. The index is written
last, so a part counts when its index exists; whoever reads later starts from the indexes and never opens the objects,
nor the columns of a part that it does not need. Nothing is ever overwritten.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fraud.pipeline.columns import encoding
from fraud.pipeline.storage import Item, Storage, join

WORKERS = 8  # objects under way at once: the time goes into waiting for S3
CHUNK_BYTES = 64 << 20  # of source objects in one part, so that memory does not depend on how busy an hour was
WORTH = 16 << 20  # bytes of source objects that are worth a process of their own: it takes half a second to start
INDEX = ".index.parquet"
ABOUT = b"fraud"  # key of an index's own metadata

Convert = Callable[[list[tuple[str, bytes]]], tuple[pa.Table, dict[str, Any]]]
"""Makes the rows of a part, and a JSON document about them, of ``(key, body)`` pairs in the order of their keys."""
Made = tuple[pa.Table, dict[str, Any], bytes]
"""What the index will hold, the document, and the part as it will be stored, empty if there is none."""


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
    return _write(storage, chunk, mark, _make(convert, indexed, _read(storage, chunk)))


def convert_only(storage: Storage, chunk: Chunk, mark: str, convert: Convert) -> Index:
    """As `compact` without a part, but nothing is written: for those who only look."""
    table, about = convert(_read(storage, chunk))
    # As a stored index comes back: tuples have become lists.
    about = json.loads(json.dumps(about | {"sources": [[item.key, item.etag, item.size] for item in chunk.items]}))
    return Index("", about, table)


def compact_all(
    storage: Storage, chunks: Sequence[Chunk], mark: str, convert: Convert, indexed: Sequence[str] = ()
) -> Iterator[Index]:
    """Make the parts of several chunks, one after the other or, when there is enough to do, on all cores.

    A process of its own gets bytes and gives bytes: whatever is read from the bucket or written there is so here, in
    the order of the chunks. ``convert`` must be picklable. The parameters are those of `compact`.

    Yields
    ------
    Index
        Of each chunk, in their order.
    """
    done = 0
    with contextlib.suppress(BrokenProcessPool):  # one was killed, for want of memory perhaps: the rest is made here
        for index in _in_processes(storage, chunks, mark, convert, indexed):
            yield index
            done += 1
    for chunk in chunks[done:]:
        yield compact(storage, chunk, mark, convert, indexed)


def _in_processes(
    storage: Storage, chunks: Sequence[Chunk], mark: str, convert: Convert, indexed: Sequence[str]
) -> Iterator[Index]:
    """Make the parts of all chunks in processes, or of none if that would not pay."""
    size = sum(item.size for chunk in chunks for item in chunk.items)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = min(cores, len(chunks), size // WORTH)
    if workers < 2:
        return
    # Not forked: a lock that a thread of Arrow or Polars holds just then would never be released. One worker is this
    # process, which is there already.
    pool = ProcessPoolExecutor(workers - 1, multiprocessing.get_context("spawn"), _begin)
    threads, here = ThreadPoolExecutor(workers + 1), threading.Lock()  # while as many work as can, one reads ahead

    def make(chunk: Chunk) -> Made:
        task = functools.partial(_make, convert, indexed, _read(storage, chunk))
        if not here.acquire(blocking=False):
            return pool.submit(task).result()
        try:
            return task()
        finally:
            here.release()

    left, waiting = iter(chunks), deque[tuple[Chunk, Future[Made]]]()
    try:
        while True:
            for chunk in itertools.islice(left, 2 * workers - len(waiting)):
                waiting.append((chunk, threads.submit(make, chunk)))
            if not waiting:
                return
            chunk, made = waiting.popleft()
            yield _write(storage, chunk, mark, made.result())
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
        pool.shutdown(cancel_futures=True)
        threads.shutdown()


def _begin() -> None:
    """Begin a process: Ctrl-C is the parent's affair, and when the parent is gone, however that came, this ends too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _read(storage: Storage, chunk: Chunk) -> list[tuple[str, bytes]]:
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(zip((item.key for item in chunk.items), pool.map(storage.get, chunk.items), strict=True))


def _make(convert: Convert, indexed: Sequence[str], objects: list[tuple[str, bytes]]) -> Made:
    table, about = convert(objects)
    return (table.select(list(indexed)), about, to_parquet(table)) if indexed else (table, about, b"")


def _write(storage: Storage, chunk: Chunk, mark: str, made: Made) -> Index:
    table, about, body = made
    about |= {"sources": [[item.key, item.etag, item.size] for item in chunk.items]}
    name = chunk.name(mark)
    if body:
        body = _keep(storage, f"{name}.parquet", body)
        about["part"] = {
            "key": f"{name}.parquet", "rows": table.num_rows, "sha256": hashlib.sha256(body).hexdigest(),
        }  # fmt: skip
    table = table.replace_schema_metadata({ABOUT: json.dumps(about, sort_keys=True).encode()})
    return parse_index(name + INDEX, _keep(storage, name + INDEX, to_parquet(table)))


def _keep(storage: Storage, key: str, body: bytes) -> bytes:
    # Another version of the libraries may have been first: then its object, equal in content, is the one that counts.
    return body if storage.put_once(key, body) else bytes(storage.get(key))


def to_parquet(table: pa.Table) -> bytes:
    """Write a table; the same rows give the same bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **encoding(table))
    return buffer.getvalue()
