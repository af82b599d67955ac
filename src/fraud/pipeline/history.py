"""Labelled history: from the tables in ``raw/`` to typed, immutable Parquet parts, once per delivered object.

Every check is made before the first byte is written. Parts are written first and the manifest last; a source counts
when its manifest exists, so a conversion that was killed is simply done again and gives the same objects.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from fraud.errors import DataError
from fraud.pipeline import clock as clocks
from fraud.pipeline.clock import Clock
from fraud.pipeline.conversion import Converted, convert
from fraud.pipeline.ids import find, read_ids
from fraud.pipeline.roles import Roles, check_columns, check_header, suggest_roles
from fraud.pipeline.storage import Item, Storage, join
from fraud.pipeline.tables import ENDINGS, Table

RAW, LEDGER = "raw/", "ledger/history/"
FORMAT = 3  # of the parts; a change converts all sources anew


@dataclass
class History:
    """All labelled history that is in ``raw/`` now, converted.

    Attributes
    ----------
    sources : list of dict
        The manifests, in the order of their keys.
    converted : int
        How many of them this call made.
    notes : list of str
        What a person should know.
    """

    sources: list[dict[str, Any]] = field(default_factory=list)
    converted: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Transactions."""
        return sum(source["rows"] for source in self.sources)

    @property
    def frauds(self) -> int:
        """Those that are fraud."""
        return sum(source["frauds"] for source in self.sources)

    @property
    def parts(self) -> list[dict[str, Any]]:
        """``{"key", "rows", "sha256"}`` and more of each part, in order."""
        return [part for source in self.sources for part in source["parts"]]

    @property
    def time_span(self) -> tuple[float, float]:
        """First and last moment (seconds since 1970)."""
        spans = [source["time_span"] for source in self.sources]
        return min(span[0] for span in spans), max(span[1] for span in spans)

    @property
    def leaks(self) -> list[dict[str, Any]]:
        """Columns that give the answer away, as `fraud.pipeline.roles.find_leaks` found them."""
        found = {leak["column"]: leak for source in self.sources for leak in source["leaks"]}
        return [found[name] for name in sorted(found)]

    @property
    def types(self) -> dict[str, str]:
        """Type of each source column over all sources, by name: ``int``, ``float``, ``bool``, ``text`` or ``time``."""
        merged: dict[str, str] = {}
        for source in self.sources:
            merged = _merge_types(merged, {name: item["type"] for name, item in source["columns"].items()})
        # By name: a manifest that was read back has its columns so, and what is made of the types must not change then.
        return dict(sorted(merged.items()))

    def holding(self, storage: Storage, ids: pl.Series) -> pl.DataFrame:
        """Find which ids are transactions of the history.

        No feature is read: the ids of each part lie in a small object beside it, and only those are read whose range
        can hold one.

        Parameters
        ----------
        storage : Storage
            The bucket.
        ids : Series of str
            Of live rows, or of ground truth.

        Returns
        -------
        DataFrame
            ``__id``, ``file`` and ``row`` of each one found.
        """
        return find(storage, self.ids(), ids)

    def ids(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """Source, rows before it and where its ids are, of each part that has ids of its own."""
        for source in self.sources:
            before = 0
            for part in source["parts"]:
                if part["ids"]:
                    yield source["source"]["key"], before, part["ids"]
                before += part["rows"]


def source_id(item: Item, roles: Roles, origin: str) -> str:
    """Name a conversion by all that decides its outcome: the delivered object, the roles, the origin of time."""
    how = [item.key, item.etag, str(item.size), *roles.to_dict().values(), origin, str(FORMAT)]
    return hashlib.sha256("|".join(how).encode()).hexdigest()[:16]


def delivered(storage: Storage) -> tuple[list[Item], list[str]]:
    """List the tables in ``raw/``, and say what else lies there."""
    items, notes = [], []
    for item in storage.list(RAW):
        if item.key.endswith(ENDINGS):
            items.append(item)
        elif not item.key.endswith("/") and not item.key.rsplit("/", 1)[-1].startswith((".", "_")):
            notes.append(f"{item.key} is ignored: its name does not end in {', '.join(ENDINGS)}.")
    return items, notes


def ingest(storage: Storage, roles: Roles, exclude: Sequence[str] = (), origin: str = "") -> History:
    """Convert what is new in ``raw/``; what was converted before costs one read of its manifest.

    Parameters
    ----------
    storage : Storage
        The bucket.
    roles : Roles
        Columns with a meaning, the same in all tables.
    exclude : sequence of str
        Columns that no model sees.
    origin : str
        ISO 8601 moment at which a numeric time column is 0; empty chooses it.

    Raises
    ------
    DataError
        One sentence that names file, column and row; nothing has been written then.
    """
    items, notes = delivered(storage)
    if not items:
        raise DataError(
            f"{storage.uri(RAW)} holds no table: put a labelled history there with `fraud history put <file>`."
        )
    named = [(item, source_id(item, roles, origin)) for item in items]
    manifests = {name: storage.read_json(_manifest(name), default=None) for _, name in named}
    pending = [(item, name) for item, name in named if manifests[name] is None]
    done = History([manifests[name] for _, name in named if manifests[name] is not None], 0, notes)
    if pending:
        with tempfile.TemporaryDirectory(prefix="fraud-history-") as folder:
            made = _convert_all(storage, pending, done, roles, exclude, origin, Path(folder))
            for name, manifest, converted in made:
                manifests[name] = _store(storage, name, manifest, converted)
    found = History([manifests[name] for _, name in named], len(pending), notes)
    found.notes += [note for source in found.sources for note in source["notes"]]
    found.notes += _unknown(exclude, {*found.types, *roles.consumed})
    return found


def _unknown(exclude: Sequence[str], columns: set[str]) -> list[str]:
    """Say which excluded columns no table has: a misspelt one would be learnt from."""
    return [f'exclude_columns names "{name}", which no table has.' for name in exclude if name not in columns]


def _manifest(name: str) -> str:
    return join(LEDGER, name, "_manifest.json")


def _convert_all(
    storage: Storage,
    pending: list[tuple[Item, str]],
    done: History,
    roles: Roles,
    exclude: Sequence[str],
    origin: str,
    folder: Path,
) -> list[tuple[str, dict[str, Any], Converted]]:
    """Convert to the local disk and check; the only thing written to the bucket is how time is read, at the end."""
    tables = []
    for at, (item, _) in enumerate(pending):
        path = folder / f"raw-{at}"
        storage.download(item, path)
        table = Table(path, item.key)
        check_columns(table.name, table.columns, roles, exclude, _binary(table, roles))
        tables.append(table)
    latest = dt.datetime.now(dt.UTC).timestamp() + clocks.DAY
    moments = [item.last_modified.timestamp() for item, _ in pending]
    clock, keep = _clock(storage, tables, moments, roles, origin)
    made, types = [], done.types
    for (item, name), table, moment in zip(pending, tables, moments, strict=True):
        own = clock if roles.time else Clock("rows", moment - (table.count() - 1))
        spool = folder / name
        spool.mkdir()
        converted = convert(table, roles, own, spool, name, latest, exclude, types)
        table.path.unlink()
        manifest = _describe(item, name, roles, own, table, converted)
        types = _merge_types(types, {column: about["type"] for column, about in converted.columns.items()})
        made.append((name, manifest, converted))
    _check_classes(done, [converted for *_, converted in made], roles)
    _check_across(storage, done, [converted for *_, converted in made], roles)
    if keep and clock is not None:
        storage.write_json(keep, clock.to_dict(), once=True)
    return made


def _binary(table: Table, roles: Roles) -> list[str]:
    return [] if roles.target in table.columns else table.binary()


def _clock(storage: Storage, tables: list[Table], moments: list[float], roles: Roles, origin: str) -> tuple[Clock, str]:
    """How the time column is read, and the key to keep that under when it was found just now."""
    if not roles.time:
        return Clock("rows"), ""
    key = join(LEDGER, "clock-" + hashlib.sha256(f"{roles.time}|{origin}".encode()).hexdigest()[:16] + ".json")
    if kept := storage.read_json(key, default=None):
        return Clock(**kept), ""
    readers = [lambda table=table: table.column(roles.time) for table in tables]
    return clocks.find(readers, moments, origin), key


def _describe(item: Item, name: str, roles: Roles, clock: Clock, table: Table, converted: Converted) -> dict[str, Any]:
    parts = [_placed(part, name) | {"ids": part["ids"] and _placed(part["ids"], name)} for part in converted.parts]
    modified = item.last_modified.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "schema_version": 1,
        "source_id": name,
        "source": {"key": item.key, "etag": item.etag, "size": item.size, "last_modified": modified},
        "roles": roles.to_dict(),
        "clock": clock.to_dict(),
        "rows": converted.rows,
        "frauds": converted.frauds,
        "time_span": list(converted.time_span),
        "columns": converted.columns,
        "parts": parts,
        "leaks": converted.leaks,
        "notes": [f"{item.key}: {clock.sentence(roles.time)}", *table.notes],
    }


def _placed(written: dict[str, Any], name: str) -> dict[str, Any]:
    """What a manifest says of a local file: its key in place of its path."""
    said = {key: value for key, value in written.items() if key != "path"}
    return said | {"key": join(LEDGER, name, written["path"].name)}


def _store(storage: Storage, name: str, manifest: dict[str, Any], converted: Converted) -> dict[str, Any]:
    """Write the parts, then the manifest; whoever wrote the manifest first decides."""
    for part, written in zip(manifest["parts"], converted.parts, strict=True):
        for said, local in ((part, written), (part["ids"], written["ids"])):
            if said and not storage.put_once(said["key"], local["path"]):
                # Left behind by another version of the libraries, and never referred to: keep it, write beside it.
                said["key"] = said["key"].replace(".parquet", f"-{said['sha256'][:8]}.parquet")
                storage.put_once(said["key"], local["path"])
            if said:
                local["path"].unlink()
    if storage.write_json(_manifest(name), manifest, once=True):
        return manifest
    first: dict[str, Any] = storage.read_json(_manifest(name))
    return first


def _check_classes(done: History, made: list[Converted], roles: Roles) -> None:
    """Refuse a history of one class only."""
    rows, frauds = done.rows + sum(item.rows for item in made), done.frauds + sum(item.frauds for item in made)
    if frauds in (0, rows):
        names = ", ".join([source["source"]["key"] for source in done.sources] + [item.name for item in made])
        only = f"{int(frauds > 0)} in all rows, 1 to {rows}"
        raise DataError(f'{names}: column "{roles.target}" is {only}; a model needs both classes.')


def _check_across(storage: Storage, done: History, made: list[Converted], roles: Roles) -> None:
    """Refuse ids that appear in two tables."""
    for at, item in enumerate(made) if roles.id else ():
        for other, before, ids in _others(storage, done, item, made[:at]):
            if hit := item.ids.shared(ids):
                where = f'{item.name}: column "{roles.id}", row {hit[0]}'
                raise DataError(f"{where}: the id is the same as in {other}, row {before + hit[1] + 1}.")


def _others(
    storage: Storage, done: History, item: Converted, earlier: list[Converted]
) -> Iterator[tuple[str, int, pl.Series]]:
    """Ids of other tables that may hold one of a table's: the table, its rows before these, the ids; one part each."""
    low, high = min(part["ids"]["min"] for part in item.parts), max(part["ids"]["max"] for part in item.parts)
    for file, before, about in done.ids():
        if about["min"] <= high and low <= about["max"]:
            yield file, before, read_ids(storage.get(about["key"]))
    for one in earlier:
        yield from ((one.name, before, ids) for before, ids in one.ids.batches())


def _merge_types(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    """Type of each column over two tables: text before float before int before bool."""
    order = ("bool", "int", "float", "time", "text")
    return {
        name: max((kinds[name] for kinds in (first, second) if name in kinds), key=order.index)
        for name in [*first, *(name for name in second if name not in first)]
    }


def preview(
    path: Path, roles: Roles | Mapping[str, str] | None = None, exclude: Sequence[str] = (), origin: str = ""
) -> dict[str, Any]:
    """Check a local table as `ingest` will; guess the roles that are not named.

    Parameters
    ----------
    path : Path
        A .csv, .csv.gz or .parquet file.
    roles : Roles or mapping, optional
        ``target``, ``id``, ``time``, ``amount``; empty or missing ones are guessed.
    exclude : sequence of str
        Columns that no model will see.
    origin : str
        As in `ingest`.

    Returns
    -------
    dict
        ``roles``, ``rows``, ``frauds``, ``time_span``, ``columns``, ``leaks`` and ``notes``, plain JSON.

    Raises
    ------
    DataError
        One sentence that names file, column and row.
    """
    table = Table(Path(path), Path(path).name)
    if isinstance(roles, Roles):
        chosen, reasons = roles, []
    else:
        check_header(table.name, table.columns)
        chosen, reasons = suggest_roles(table.columns, table.binary(), roles)
    check_columns(table.name, table.columns, chosen, exclude, _binary(table, chosen))
    now = dt.datetime.now(dt.UTC).timestamp()
    clock = Clock("rows", now)
    if chosen.time:
        clock = clocks.find([lambda: table.column(chosen.time)], [now], origin)
    with tempfile.TemporaryDirectory(prefix="fraud-preview-") as folder:
        converted = convert(table, chosen, clock, Path(folder), "preview", now + clocks.DAY, exclude)
    _check_classes(History(), [converted], chosen)
    return {
        "roles": chosen.to_dict(),
        "rows": converted.rows,
        "frauds": converted.frauds,
        "time_span": list(converted.time_span),
        "columns": converted.columns,
        "leaks": converted.leaks,
        "notes": [*reasons, *table.notes, *_unknown(exclude, set(table.columns))],
    }


def put(
    storage: Storage,
    path: Path,
    roles: Mapping[str, str] | None = None,
    exclude: Sequence[str] = (),
    name: str = "",
    echo: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Check a local table and put it into ``raw/``; nothing is written when it cannot be used.

    Returns
    -------
    dict
        What `preview` found, and ``key``.

    Raises
    ------
    DataError
        As `preview`; and when ``raw/`` holds another table of that name.
    """
    found = preview(path, roles, exclude)
    for line in found["notes"]:
        echo(line)
    for leak in found["leaks"]:
        echo(f'Warning: the column "{leak["column"]}" gives the answer away (AUC {leak["auc"]}); exclude it.')
    key = join(RAW, name or Path(path).name)
    if not key.endswith(ENDINGS):
        raise DataError(f"{key}: the name must end in {', '.join(ENDINGS)}.")
    there = storage.head(key)
    if (there and there.size != Path(path).stat().st_size) or not storage.put_once(key, Path(path)):
        raise DataError(f"{storage.uri(key)} holds another table already, and raw/ is never overwritten; give --name.")
    echo(f"{found['rows']} rows, {found['frauds']} of them fraud, are in {storage.uri(key)}.")
    return found | {"key": key}
