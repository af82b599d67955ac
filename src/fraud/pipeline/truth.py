"""Ground truth: from ``labels/`` to the ledger, every statement once, and what is true of each transaction at a moment.

Training, reports, replays and A/B tests read it here, all from the same ledger. The drift check, which joins it with
scores by day, reads the same files by the same function (`fraud.label_files`) and keeps the same rule.

Statements are never changed or forgotten. The newest by event time wins, whatever the order they arrive in; what it
replaced stays in the ledger, and beside the run's labels with the reason.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from fraud.errors import DataError
from fraud.label_files import is_delivery, read_label_file
from fraud.labels import GroundTruth, LabelColumns
from fraud.pipeline import partitions
from fraud.pipeline.live import check_bad_share
from fraud.pipeline.storage import Item, Storage, join
from fraud.plaintext import shown

LABELS, LEDGER = "labels/", "ledger/labels/"
FORMAT = 3  # of the parts; a change reads all statements anew
STATEMENT = {"__id": pl.String, "label": pl.Int8, "label_time": pl.Float64, "source_key": pl.String}
ASIDE = {**STATEMENT, "why": pl.String}
NOT_YET, REPEATED, CORRECTED, CONTRADICTED, UNKNOWN_ID = (
    "not yet known", "repeated", "corrected", "contradicted", "unknown id",
)  # fmt: skip


NAMED = 5  # label files with unreadable lines that are named one by one
ALL_UNREAD = 1.0  # share of unreadable lines from which a run goes on whatever cannot be read


@dataclass
class Statements:
    """What label files say, whenever they said it.

    Attributes
    ----------
    rows : DataFrame
        ``__id``, ``label``, ``label_time``, ``source_key`` of each statement.
    lines : int
        Lines of all label files.
    bad : list of dict
        ``{"file", "line", "reason"}`` of each line that cannot be read, of files that lie there now.
    unread : dict of str to str
        Files of which nothing can be read, and why.
    converted : int
        Label files that were read just now.
    """

    rows: pl.DataFrame
    lines: int
    bad: list[dict[str, Any]]
    unread: dict[str, str]
    converted: int


@dataclass
class Truth:
    """What was said about transactions.

    Attributes
    ----------
    newest : DataFrame
        ``__id``, ``label``, ``label_time``, ``source_key``: the statement that counts, once for each id.
    aside : DataFrame
        The other statements, with ``why``: repeated (says the same), corrected (a later one says otherwise),
        contradicted (another of the same moment says otherwise), not yet known (from after the moment asked for).
    statements : Statements
        What all files say.
    """

    newest: pl.DataFrame
    aside: pl.DataFrame
    statements: Statements

    @property
    def counts(self) -> dict[str, int]:
        """What a person should know, by name."""
        why: Mapping[str, int] = dict(self.aside["why"].value_counts().iter_rows())
        return {
            "label_lines": self.statements.lines,
            "bad_label_lines": len(self.statements.bad),
            "labels_from_the_future": why.get(NOT_YET, 0),
            "labels_repeated": why.get(REPEATED, 0),
            "labels_corrected": why.get(CORRECTED, 0),
            "labels_contradicted": why.get(CONTRADICTED, 0),
        }


def read(storage: Storage, moment: dt.datetime, columns: LabelColumns) -> Truth:
    """Read what is true at a moment; only label files that are new are opened, and kept in the ledger.

    Parameters
    ----------
    storage : Storage
        The bucket.
    moment : datetime
        Whose knowledge counts.
    columns : LabelColumns
        What the columns of tables are called.
    """
    said = read_statements(storage, columns, keep=True)
    return Truth(*settle(said.rows, moment.timestamp()), said)


def read_statements(storage: Storage, columns: LabelColumns, *, keep: bool) -> Statements:
    """Read all statements: from the ledger, and from the files that are not in it yet.

    Parameters
    ----------
    storage : Storage
        The bucket.
    columns : LabelColumns
        What the columns of tables are called.
    keep : bool
        Whether what is new goes into the ledger.
    """
    mark = partitions.mark_of(FORMAT, columns)
    # A file is another when it is delivered again, for its delivery dates the labels that have no time of their own.
    listed = [_as_delivered(item) for item in storage.list(LABELS) if item.size]
    delivered = {item.key: item.last_modified.timestamp() for item in listed}
    folders = itertools.groupby(listed, lambda item: item.key.rsplit("/", 1)[0])
    hours = [(join(LEDGER, folder.removeprefix(LABELS.rstrip("/"))), list(items)) for folder, items in folders]

    def convert(objects: list[tuple[str, bytes]]) -> tuple[pa.Table, dict[str, Any]]:
        said: list[GroundTruth] = []
        bad: list[tuple[str, int, str]] = []
        unread: dict[str, str] = {}
        for key, body in objects:
            found = read_label_file(body, key, columns, delivered[key])
            said += found.labels
            bad += [(key, line, reason) for line, reason in found.problems]
            if found.unread:
                unread[key] = found.unread
        frame = pl.DataFrame(said, schema=STATEMENT, orient="row")
        table = frame.to_arrow().cast(
            pa.schema({"__id": pa.string(), "label": pa.int8(), "label_time": pa.float64(), "source_key": pa.string()})
        )
        return table, {"bad": bad, "unread": unread, "lines": len(said) + len(bad)}

    indexes = partitions.read_indexes(storage, LEDGER, mark)
    work = partitions.pending(hours, indexes)
    make = partitions.compact if keep else partitions.convert_only
    indexes += [make(storage, chunk, mark, convert) for chunk in work]
    there = {(item.key, item.etag, item.size) for item in listed}
    bad: dict[tuple[str, int, int], dict[str, Any]] = {}
    unread: dict[str, str] = {}
    read = 0
    for index in indexes:  # what was written over or taken away says what it said, but its bad lines are mended
        now = {key for key, *_ in index.sources & there}
        nth = Counter[tuple[str, int]]()
        for key, line, reason in index.about["bad"]:
            if key in now:
                nth[key, line] += 1
                bad[key, line, nth[key, line]] = {"file": key, "line": line, "reason": reason}
        unread |= {key: reason for key, reason in index.about["unread"].items() if key in now}
        read += index.rows.num_rows
    frames = [pl.DataFrame(schema=STATEMENT), *(pl.DataFrame(pl.from_arrow(index.rows)) for index in indexes)]
    converted = sum(len(chunk.items) for chunk in work)
    return Statements(pl.concat(frames), read + len(bad), list(bad.values()), unread, converted)


def _as_delivered(item: Item) -> Item:
    return dataclasses.replace(item, etag=f"{item.etag} {item.last_modified.isoformat()}")


def check(said: Statements, max_bad_share: float) -> None:
    """Stop where label files hold more that cannot be read than a run may pass over.

    A file that was delivered as labels and of which nothing can be read stops a run however many others there are: it
    may be all that a bank has to say.

    Parameters
    ----------
    said : Statements
    max_bad_share : float
        Share of lines that may be unreadable; 1 lets everything pass.

    Raises
    ------
    DataError
        Naming the first file, line and reason.
    """
    for key, reason in said.unread.items():
        if is_delivery(key) and max_bad_share < ALL_UNREAD:
            raise DataError(
                f"Nothing of the label file {shown(key, 400)} can be read: {reason}; put a mended file in its place, "
                "name its columns with label_id_column, label_column and label_time_column, or take it away."
            )
    check_bad_share([one for one in said.bad if is_delivery(one["file"])], said.lines, max_bad_share, "label")


def unreadable(said: Statements) -> list[dict[str, Any]]:
    """Name the label files with lines that cannot be read, those first of which nothing can.

    Returns
    -------
    list of dict
        ``file``, its ``lines`` that cannot be read, how many lines it has (``of``), the ``first`` one and its
        ``reason``.
    """
    files: dict[str, dict[str, Any]] = {}
    for one in said.bad:
        first = {"file": one["file"], "lines": 0, "first": one["line"], "reason": one["reason"]}
        files.setdefault(one["file"], first)["lines"] += 1
    good = said.rows.filter(pl.col("source_key").is_in(list(files)))["source_key"].value_counts()
    read: dict[str, int] = dict(good.iter_rows())
    named = [about | {"of": about["lines"] + read.get(key, 0)} for key, about in files.items()]
    return sorted(named, key=lambda about: (about["lines"] < about["of"], about["file"]))


def warnings_of(files: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say of each of the first files of `unreadable` what is wrong, and how many more there are."""
    told = [
        f"{one['file']}: {'nothing' if one['lines'] == one['of'] else 'not all'} of it could be read "
        f"({one['lines']:,} of {one['of']:,} lines; line {one['first']}: {one['reason']})."
        for one in files[:NAMED]
    ]
    if more := files[NAMED:]:
        told.append(f"{len(more):,} more label files could not be read whole; see quarantine.jsonl.")
    return told


def settle(statements: pl.DataFrame, as_of: float) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Tell the statement that counts for each id from those that do not.

    The newest counts; of two from the same moment the one in the later key, and within one key fraud: the same rule as
    `fraud.labels.resolve`, for many.

    Parameters
    ----------
    statements : DataFrame
        In any order.
    as_of : float
        Later statements do not count (seconds since 1970).

    Returns
    -------
    newest, aside : DataFrame
        As in `Truth`.
    """
    # A file that two runs compacted at the same time lies in two parts; its statements are the same.
    once = statements.unique().sort("label_time", "source_key", "label", "__id")
    known = once.filter(pl.col("label_time") <= as_of)
    later = once.filter(pl.col("label_time") > as_of).with_columns(why=pl.lit(NOT_YET))
    last = pl.int_range(pl.len()).over("__id") == pl.len().over("__id") - 1
    marked = known.with_columns(
        last=last, final=pl.col("label").last().over("__id"), final_time=pl.col("label_time").last().over("__id")
    )
    why = (
        pl.when(pl.col("label") == pl.col("final"))
        .then(pl.lit(REPEATED))
        .when(pl.col("label_time") == pl.col("final_time"))
        .then(pl.lit(CONTRADICTED))
        .otherwise(pl.lit(CORRECTED))
    )
    replaced = marked.filter(~pl.col("last")).with_columns(why=why)
    return (
        marked.filter("last").select(*STATEMENT).sort("__id"),
        pl.concat([replaced.select(*ASIDE), later.select(*ASIDE)]).sort(pl.all()),
    )
