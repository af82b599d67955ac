"""Captured traffic: from data-capture objects to Parquet parts of the ledger, once per object.

Only the hours of the window are listed, and an object that was converted before is not read again: a later run reads
the small index of each part. A part keeps every row of its objects; the window, and each id once, are cut when the
indexes are put together.
"""

from __future__ import annotations

import datetime as dt
import functools
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from fraud import capture
from fraud.errors import CaptureFormatError, DataError
from fraud.pipeline import partitions
from fraud.pipeline.captured import build_part
from fraud.pipeline.partitions import Chunk, Index
from fraud.pipeline.roles import Roles
from fraud.pipeline.storage import Item, Storage, join
from fraud.schema import Schema

CAPTURE, LEDGER = "data-capture/", "ledger/live/"
FORMAT = 3  # of the parts; a change converts all objects of a window anew
HOUR = 3600.0
INDEXED = ("__id", "__time", "__score", "__model", "__variant")
COLUMNS = {
    "line": pl.UInt32, "__id": pl.String, "__time": pl.Float64, "__score": pl.Float64, "__model": pl.String,
    "__variant": pl.String, "part": pl.String, "hour": pl.Float64,
}  # fmt: skip


@dataclass
class Live:
    """The captured rows of a window.

    Attributes
    ----------
    rows : DataFrame
        ``__id``, ``__time``, ``__score``, ``__model``, ``__variant``, ``part`` and ``hour`` (begin of the partition),
        in order of time; each id once.
    parts : list of dict
        ``{"key", "rows", "sha256"}`` of the parts with rows, in order.
    bad : list of dict
        ``{"file", "line", "reason"}`` of each line that could not be read.
    counts : dict of str to int
        ``objects``, ``converted``, ``lines``, ``bad_lines``, ``captured``, ``outside_window``, ``tagged``,
        ``refused`` (requests that got no score), ``duplicates``, ``foreign``, ``impossible_times``.
    profile : dict
        Per column ``nulls``, ``least``, ``most``, ``texts``, ``retyped`` over all parts, ``rows`` beside them.
    versions : dict
        Per model version ``rows``, ``absent`` columns and ``retyped`` values.
    """

    rows: pl.DataFrame
    parts: list[dict[str, Any]] = field(default_factory=list)
    bad: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    profile: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversion:
    """All that decides how capture objects become rows; plain JSON, so that other machines can convert too.

    Attributes
    ----------
    types : dict of str to str
        The history's columns and types.
    roles : Roles
        Columns that are not repeated under their own names.
    schema : Schema or None
        Of the model in service; names the cells of requests in CSV.
    """

    types: Mapping[str, str]
    roles: Roles
    schema: Schema | None = None

    @property
    def mark(self) -> str:
        """Names this way of converting; what could not be read for want of a schema is read once there is one."""
        return partitions.mark_of(FORMAT, sorted(self.types.items()), self.roles.consumed, self.schema is not None)

    def compact(self, storage: Storage, chunks: Sequence[Chunk]) -> Iterator[Index]:
        """Convert the objects of hour partitions, each to one part of the ledger."""
        convert = functools.partial(build_part, types=dict(self.types), roles=self.roles, schema=self.schema)
        return partitions.compact_all(storage, chunks, self.mark, convert, INDEXED)

    def to_json(self) -> str:
        """Write it down for another machine."""
        schema = self.schema.to_json() if self.schema else None
        return json.dumps({"types": list(self.types.items()), "roles": self.roles.to_dict(), "schema": schema})

    @classmethod
    def from_json(cls, text: str | bytes) -> Conversion:
        """Read what `to_json` wrote."""
        found = json.loads(text)
        schema = Schema.from_json(found["schema"]) if found["schema"] else None
        return cls(dict(found["types"]), Roles(**found["roles"]), schema)


Elsewhere = Callable[[Conversion, Sequence[Chunk]], None]
"""Compacts chunks on other machines and returns when that is done."""


def window_hours(
    storage: Storage, endpoint: str, start: dt.datetime, end: dt.datetime
) -> Iterator[tuple[str, list[Item]]]:
    """List the capture objects whose hour lies in a window, but for a shadow's: they are copies.

    Yields
    ------
    folder : str
        ``<endpoint>/<variant>/yyyy/mm/dd/HH``.
    items : list of Item
        Its objects that are not empty.
    """
    for base in (f"{CAPTURE}{endpoint}/", f"{CAPTURE}/{endpoint}/"):
        for variant in storage.folders(base, exact=True):
            if variant == capture.SHADOW:
                continue
            prefixes = capture.hour_prefixes(endpoint, variant, start, end)
            if not prefixes:
                continue
            first, last = (base + edge.split("/", 2)[2] for edge in (min(prefixes), max(prefixes)))
            listed = itertools.takewhile(
                lambda item, last=last: item.key[: len(last)] <= last,
                storage.list(f"{base}{variant}/", after=first, exact=True),
            )
            for hour, items in itertools.groupby(listed, lambda item: item.key.rsplit("/", 1)[0]):
                yield join(endpoint, hour.removeprefix(base)), [item for item in items if item.size]


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
    elsewhere: Elsewhere | None = None,
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
    elsewhere : callable, optional
        Compacts on other machines; by default it is done here.

    Raises
    ------
    DataError
        When more lines are unreadable.
    """
    conversion = Conversion(types, roles, schema)
    hours: dict[str, list[Item]] = {}
    for folder, items in window_hours(storage, endpoint, start, end) if endpoint else ():
        hours.setdefault(join(LEDGER, folder), []).extend(items)

    edges = [prefix.split("/", 3)[3] for prefix in capture.hour_prefixes(endpoint, "any", start, end)]

    def known() -> list[Index]:
        found: list[Index] = []
        for variant in storage.folders(join(LEDGER, endpoint)) if edges and endpoint else ():
            folder = join(LEDGER, endpoint, variant)
            found += partitions.read_indexes(storage, folder, conversion.mark, edges[0], f"{edges[-1]}~")
        return found

    indexes = known()
    work = partitions.pending(hours.items(), indexes)
    if elsewhere and work:
        elsewhere(conversion, work)
        indexes = known()
        if left := partitions.pending(hours.items(), indexes):
            raise DataError(f"{len(left)} of {len(work)} hour partitions were not compacted; see the job's log.")
    else:
        indexes += conversion.compact(storage, work)
    live = _gather(sorted(indexes, key=lambda index: index.key), start, end)
    live.counts["converted"] = sum(len(chunk.items) for chunk in work)
    if run_id:
        quarantine(storage, run_id, live.bad)
    check_bad_share(live.bad, live.counts["lines"], max_bad_share, "captured")
    return live


def quarantine(storage: Storage, run_id: str, bad: Sequence[Mapping[str, Any]]) -> None:
    """Keep the list of lines that could not be read with the run, where there are any."""
    if bad:
        lines = [json.dumps(entry, sort_keys=True, ensure_ascii=False) for entry in bad]
        storage.put(join("runs", run_id, "data/quarantine.jsonl"), ("\n".join(lines) + "\n").encode())


def check_bad_share(bad: Sequence[Mapping[str, Any]], lines: int, max_bad_share: float, what: str) -> None:
    """Refuse to go on when too many lines were quarantined.

    Raises
    ------
    DataError
        Naming the first one.
    """
    if len(bad) > max_bad_share * max(lines, len(bad)):
        first = bad[0]
        raise DataError(
            f"{len(bad)} of {lines} {what} lines cannot be read, more than max_bad_share {max_bad_share:g} allows; "
            f"the first is {first['file']}, line {first['line']}: {first['reason']}."
        )


def _gather(indexes: list[Index], start: dt.datetime, end: dt.datetime) -> Live:
    """Put the parts of a window together: each id once, the earliest first."""
    frames = [pl.DataFrame(schema=COLUMNS)]
    for index in indexes:
        frame = pl.from_arrow(index.rows)
        assert isinstance(frame, pl.DataFrame)
        part, hour = pl.lit(index.about["part"]["key"]), pl.lit(_hour(index.key))
        frames.append(frame.with_columns(part=part, hour=hour).with_row_index("line"))
    abouts = [index.about for index in indexes]
    rows = pl.concat(frames)
    inside = rows.filter(pl.col("__time").is_between(start.timestamp(), end.timestamp(), closed="left"))
    once = inside.sort("__time", "part", "line").unique("__id", keep="first", maintain_order=True).drop("line")
    bad = [{"file": key, "line": line, "reason": reason} for about in abouts for key, line, reason in about["bad"]]
    late = pl.col("__time") - pl.col("hour")
    counts = {
        "objects": sum(len(about["sources"]) for about in abouts),
        "lines": sum(about["lines"] for about in abouts),
        "bad_lines": len(bad),
        "captured": once.height,
        "outside_window": rows.height - inside.height,
        "tagged": sum(n for about in abouts for tag, n in about["tagged"].items() if tag != capture.REFUSED),
        "refused": sum(about["tagged"].get(capture.REFUSED, 0) for about in abouts),
        "duplicates": inside.height - once.height + sum(about["duplicates"] for about in abouts),
        "foreign": sum(about["foreign"] for about in abouts),
        # A file is opened by its first record and holds what came in the minutes after.
        "impossible_times": once.filter(~late.is_between(-60.0, 2 * HOUR)).height,
    }
    used = set(once["part"].unique())
    parts = [about["part"] for about in abouts if about["part"]["key"] in used]
    parts.sort(key=lambda part: (_hour(part["key"]), part["key"]))
    return Live(once, parts, bad, counts, _merge_profiles(abouts, rows.height), _merge_versions(abouts))


def _hour(key: str) -> float:
    """Begin of the hour partition that a key of the ledger lies in (seconds since 1970)."""
    try:
        return dt.datetime.strptime("/".join(key.split("/")[-5:-1]), "%Y/%m/%d/%H").replace(tzinfo=dt.UTC).timestamp()
    except ValueError as error:
        raise CaptureFormatError("the key names an hour that does not exist") from error


def _merge_versions(abouts: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Add up what is known of each model version; a column is absent when no part had it."""
    merged: dict[str, dict[str, Any]] = {}
    for about in abouts:
        for version, one in about["versions"].items():
            into = merged.setdefault(version, {"rows": 0, "absent": set(one["absent"]), "retyped": 0})
            into["rows"] += one["rows"]
            into["retyped"] += one["retyped"]
            into["absent"] &= set(one["absent"])
    return {version: one | {"absent": sorted(one["absent"])} for version, one in sorted(merged.items())}


def _merge_profiles(abouts: list[dict[str, Any]], rows: int) -> dict[str, Any]:
    columns: dict[str, dict[str, Any]] = {}
    filled = 0
    for about in abouts:
        for name in columns.keys() - about["profile"].keys():
            columns[name]["nulls"] += about["rows"]
        for name, one in about["profile"].items():
            into = columns.get(name)
            if into is None:
                into = columns[name] = {"nulls": filled, "texts": Counter(), "retyped": 0}
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
