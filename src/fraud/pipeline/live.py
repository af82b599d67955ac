"""Captured live traffic: from data-capture objects to Parquet parts of the ledger, once per object.

Only the hours of the window are listed, and an object that was converted before is not read again. A part keeps every
row of its object, so that it never changes; the window, and each id once, are cut when parts are put together.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from fraud import capture
from fraud.errors import DataError
from fraud.pipeline.captured import build_part, read_object
from fraud.pipeline.roles import Roles
from fraud.pipeline.storage import Item, Storage, join
from fraud.schema import Schema

CAPTURE, LEDGER = "data-capture/", "ledger/live/"
FORMAT = 1  # of the parts; a change converts all objects of a window anew
WORKERS = 8  # objects under way at once: the time goes into waiting for S3
ABOUT = b"fraud"  # key of a part's own metadata


@dataclass
class Live:
    """The captured rows of a window.

    Attributes
    ----------
    rows : DataFrame
        ``__id``, ``__time``, ``__score``, ``__model``, ``__variant`` and ``part``, in order of time; each id once.
    parts : list of dict
        ``{"key", "rows", "sha256"}`` of the parts with rows, in order.
    bad : list of dict
        ``{"file", "line", "reason"}`` of each line that could not be read.
    counts : dict of str to int
        ``objects``, ``converted``, ``lines``, ``bad_lines``, ``captured``, ``outside_window``, ``tagged``,
        ``duplicates``.
    profile : dict
        Per column ``nulls``, ``least``, ``most``, ``texts``, ``retyped`` over all parts, ``rows`` beside them.
    """

    rows: pl.DataFrame
    parts: list[dict[str, Any]] = field(default_factory=list)
    bad: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    profile: dict[str, Any] = field(default_factory=dict)


def window_items(storage: Storage, endpoint: str, start: dt.datetime, end: dt.datetime) -> Iterator[tuple[str, Item]]:
    """List the capture objects whose hour lies in a window, with their variant."""
    for variant in storage.folders(join(CAPTURE, endpoint)):
        prefixes = capture.hour_prefixes(endpoint, variant, start, end)
        if not prefixes:
            continue
        first, last = min(prefixes), max(prefixes)
        for item in storage.list(join(CAPTURE, endpoint, variant, "/"), after=first):
            if item.key[: len(last)] > last:
                break
            if item.size:
                yield variant, item


def compact(
    storage: Storage,
    endpoint: str,
    start: dt.datetime,
    end: dt.datetime,
    *,
    types: Mapping[str, str],
    roles: Roles,
    schema: Schema | None = None,
    run_id: str = "",
    max_bad_share: float = 0.01,
) -> Live:
    """Convert the captured traffic of a window and gather its rows.

    Parameters
    ----------
    storage : Storage
        The bucket.
    endpoint : str
        The endpoint's name; empty gives no rows.
    start, end : datetime
        Half-open window, with time zone.
    types : mapping of str to str
        The history's columns and types.
    roles : Roles
        Columns that are not repeated under their own names.
    schema : Schema, optional
        Of the model in service; names the cells of requests in CSV.
    run_id : str
        The run that keeps the list of bad lines; empty keeps none.
    max_bad_share : float
        Share of lines that may be unreadable.

    Raises
    ------
    DataError
        When more lines are unreadable.
    """
    mark = hashlib.sha256(json.dumps([FORMAT, dict(types), roles.consumed], sort_keys=True).encode()).hexdigest()
    work = []
    for variant, item in window_items(storage, endpoint, start, end) if endpoint else ():
        name = hashlib.sha256(f"{item.key}|{item.etag}|{item.size}|{mark}".encode()).hexdigest()[:16]
        hour = item.key.removeprefix(join(CAPTURE, "/")).rsplit("/", 1)[0]
        work.append((variant, item, join(LEDGER, hour, f"{name}.parquet")))
    there = _converted(storage, endpoint, [key for *_, key in work])

    def one(task: tuple[str, Item, str]) -> tuple[dict[str, Any], dict[str, Any], pl.DataFrame]:
        variant, item, key = task
        body = storage.get(key) if key in there else _convert(storage, item, variant, key, types, roles, schema)
        return _summary(key, body)

    with ThreadPoolExecutor(WORKERS) as pool:
        done = list(pool.map(one, work))
    live = _gather(done, start, end)
    live.counts["converted"] = sum(key not in there for *_, key in work)
    if live.bad and run_id:
        lines = [json.dumps(entry, sort_keys=True, ensure_ascii=False) for entry in live.bad]
        storage.put(join("runs", run_id, "data/quarantine.jsonl"), ("\n".join(lines) + "\n").encode())
    if live.counts["bad_lines"] > max_bad_share * live.counts["lines"]:
        worst = live.bad[0]
        raise DataError(
            f"{live.counts['bad_lines']} of {live.counts['lines']} captured lines cannot be read, more than "
            f"max_bad_share {max_bad_share:g} allows; the first is {worst['file']}, line {worst['line']}: "
            f"{worst['reason']}"
        )
    return live


def _converted(storage: Storage, endpoint: str, keys: list[str]) -> set[str]:
    """Which of these parts exist: one listing for each variant."""
    found: set[str] = set()
    for variant in sorted({key.split("/")[3] for key in keys}):
        own = [key for key in keys if key.split("/")[3] == variant]
        last = max(own)
        for key in storage.list_keys(join(LEDGER, endpoint, variant, "/"), after=min(own)[:-1]):
            if key > last:
                break
            found.add(key)
    return found


def _convert(
    storage: Storage,
    item: Item,
    variant: str,
    key: str,
    types: Mapping[str, str],
    roles: Roles,
    schema: Schema | None,
) -> bytes:
    records, lines, bad = read_object(storage.get(item.key), variant, schema)
    part, about = build_part(records, types, roles)
    about |= {"source": item.key, "lines": lines, "bad": bad}
    part = part.replace_schema_metadata({ABOUT: json.dumps(about, sort_keys=True).encode()})
    buffer = io.BytesIO()
    texts = [item.name for item in part.schema if item.type == pa.string()]
    pq.write_table(part, buffer, compression="zstd", use_dictionary=texts, write_statistics=["__time"])
    body = buffer.getvalue()
    # Another version of the libraries may have been first: then its part, equal in content, is the one that counts.
    return body if storage.put_once(key, body) else bytes(storage.get(key))


def _summary(key: str, body: bytes) -> tuple[dict[str, Any], dict[str, Any], pl.DataFrame]:
    file = pq.ParquetFile(io.BytesIO(body))
    about = json.loads(file.schema_arrow.metadata[ABOUT])
    rows = pl.from_arrow(file.read(columns=["__id", "__time", "__score", "__model", "__variant"]))
    assert isinstance(rows, pl.DataFrame)
    part = {"key": key, "rows": rows.height, "sha256": hashlib.sha256(body).hexdigest()}
    return part, about, rows.with_columns(part=pl.lit(key)).with_row_index("line")


def _gather(
    done: list[tuple[dict[str, Any], dict[str, Any], pl.DataFrame]], start: dt.datetime, end: dt.datetime
) -> Live:
    """Put the parts of a window together: each id once, the earliest first."""
    empty = pl.DataFrame(schema={"line": pl.UInt32, "__id": pl.String, "__time": pl.Float64, "__score": pl.Float64,
                                 "__model": pl.String, "__variant": pl.String, "part": pl.String})  # fmt: skip
    rows = pl.concat([empty, *(frame for *_, frame in done)])
    inside = rows.filter(pl.col("__time").is_between(start.timestamp(), end.timestamp(), closed="left"))
    once = inside.sort("__time", "part", "line").unique("__id", keep="first", maintain_order=True).drop("line")
    bad = [
        {"file": about["source"], "line": line, "reason": reason}
        for _, about, _ in done
        for line, reason in about["bad"]
    ]
    counts = {
        "objects": len(done),
        "lines": sum(about["lines"] for _, about, _ in done),
        "bad_lines": len(bad),
        "captured": once.height,
        "outside_window": rows.height - inside.height,
        "tagged": sum(sum(about["tagged"].values()) for _, about, _ in done),
        "duplicates": inside.height - once.height + sum(about["duplicates"] for _, about, _ in done),
    }
    used = set(once["part"].unique())
    parts = [part for part, *_ in done if part["key"] in used]
    return Live(once, parts, bad, counts, _merge_profiles([about for _, about, _ in done], rows.height))


def _merge_profiles(abouts: list[dict[str, Any]], rows: int) -> dict[str, Any]:
    columns: dict[str, dict[str, Any]] = {}
    filled = 0
    for about in abouts:
        for name in columns.keys() - about["profile"].keys():
            columns[name]["nulls"] += about["rows"]
        for name, one in about["profile"].items():
            fresh = {"nulls": filled, "texts": Counter(), "retyped": 0}
            into = columns.setdefault(name, fresh)
            into["nulls"] += one["nulls"]
            into["retyped"] += about["retyped"].get(name, 0)
            if "least" in one:
                into["least"] = min(one["least"], into.get("least", one["least"]))
                into["most"] = max(one["most"], into.get("most", one["most"]))
            if one.get("texts"):
                into["texts"].update(one["texts"])
            elif "texts" in one:
                into["many"] = True
        filled += about["rows"]
    return {"rows": rows, "columns": columns, "new": sorted({name for about in abouts for name in about["new"]})}
