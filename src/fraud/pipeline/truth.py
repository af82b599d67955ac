"""Ground truth: from ``labels/`` to the ledger, every statement once, and what is true of each transaction at a moment.

Statements are never changed or forgotten. The newest by event time wins, whatever the order they arrive in; what it
replaced stays in the ledger, and beside the run's labels with the reason.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from fraud import labels
from fraud.labels import GroundTruth, LabelColumns
from fraud.pipeline import partitions
from fraud.pipeline.live import check_bad_share
from fraud.pipeline.storage import Storage, join

LABELS, LEDGER = "labels/", "ledger/labels/"
FORMAT = 2  # of the parts; a change reads all statements anew
STATEMENT = {"__id": pl.String, "label": pl.Int8, "label_time": pl.Float64, "source_key": pl.String}
ASIDE = {**STATEMENT, "why": pl.String}
NOT_YET, REPEATED, CORRECTED, CONTRADICTED, UNKNOWN_ID = (
    "not yet known", "repeated", "corrected", "contradicted", "unknown id",
)  # fmt: skip


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
    lines : int
        Lines of all label files.
    bad : list of dict
        ``{"file", "line", "reason"}``.
    converted : int
        Label files that were read just now.
    """

    newest: pl.DataFrame
    aside: pl.DataFrame
    lines: int
    bad: list[dict[str, Any]]
    converted: int

    @property
    def counts(self) -> dict[str, int]:
        """What a person should know, by name."""
        why: Mapping[str, int] = dict(self.aside["why"].value_counts().iter_rows())
        return {
            "label_lines": self.lines,
            "bad_label_lines": len(self.bad),
            "labels_from_the_future": why.get(NOT_YET, 0),
            "labels_repeated": why.get(REPEATED, 0),
            "labels_corrected": why.get(CORRECTED, 0),
            "labels_contradicted": why.get(CONTRADICTED, 0),
        }


def read(storage: Storage, moment: dt.datetime, columns: LabelColumns, max_bad_share: float) -> Truth:
    """Read what is true at a moment; only label files that are new are opened.

    Parameters
    ----------
    storage : Storage
        The bucket.
    moment : datetime
        Whose knowledge counts.
    columns : LabelColumns
        What the columns of CSV files are called.
    max_bad_share : float
        Share of lines that may be unreadable.

    Raises
    ------
    DataError
        When more are.
    """
    mark = partitions.mark_of(FORMAT, columns)
    listed = [item for item in storage.list(LABELS) if item.size and item.key.endswith((".jsonl", ".csv"))]
    delivered = {item.key: item.last_modified.timestamp() for item in listed}
    folders = itertools.groupby(listed, lambda item: item.key.rsplit("/", 1)[0])
    hours = [(join(LEDGER, folder.removeprefix(LABELS.rstrip("/"))), list(items)) for folder, items in folders]

    def convert(objects: list[tuple[str, bytes]]) -> tuple[pa.Table, dict[str, Any]]:
        said: list[GroundTruth] = []
        bad: list[tuple[str, int, str]] = []
        for key, body in objects:
            if key.endswith(".csv"):
                found, problems = labels.parse_label_csv(body, key, columns, delivered[key])
            else:
                found, problems = labels.parse_label_file(body, key)
            said += found
            bad += [(key, line, reason) for line, reason in problems]
        frame = pl.DataFrame(said, schema=STATEMENT, orient="row")
        table = frame.to_arrow().cast(
            pa.schema({"__id": pa.string(), "label": pa.int8(), "label_time": pa.float64(), "source_key": pa.string()})
        )
        return table, {"bad": bad, "lines": len(said) + len(bad)}

    indexes = partitions.read_indexes(storage, LEDGER, mark)
    work = partitions.pending(hours, indexes)
    indexes += [partitions.compact(storage, chunk, mark, convert) for chunk in work]
    bad = [
        {"file": key, "line": line, "reason": reason} for index in indexes for key, line, reason in index.about["bad"]
    ]
    lines = sum(index.about["lines"] for index in indexes)
    check_bad_share(bad, lines, max_bad_share, "label")
    frames = [pl.DataFrame(schema=STATEMENT), *(pl.DataFrame(pl.from_arrow(index.rows)) for index in indexes)]
    newest, aside = settle(pl.concat(frames), moment.timestamp())
    return Truth(newest, aside, lines, bad, sum(len(chunk.items) for chunk in work))


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
