"""Labels of live rows: truth from ``labels/``, else by age, else by the model's own score if that is asked for.

What a label is worth is decided in `fraud.labels`; here it is read, joined on the inference id, counted and written.
"""

from __future__ import annotations

import datetime as dt
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from fraud import labels
from fraud.errors import DataError
from fraud.pipeline.live import WORKERS
from fraud.pipeline.storage import Storage, join

LABELS = "labels/"
SOURCES = (labels.TRUTH, labels.MATURE, labels.PSEUDO, labels.UNKNOWN)
LABEL_COLUMNS = {
    "inference_id": pa.string(), "label": pa.int8(), "label_source": pa.string(), "label_time": pa.float64(),
    "weight": pa.float32(),
}  # fmt: skip


class _Row(NamedTuple):
    inference_id: str
    time: float
    fraud_probability: float | None


@dataclass
class Labelled:
    """Live rows with their labels, and what was found on the way.

    Attributes
    ----------
    rows : DataFrame
        The live rows with ``label``, ``label_source``, ``weight``, ``label_time``.
    counts : dict of str to int
        Lines read, bad ones, labels from the future, replaced ones, labels of ids that are not live rows.
    bad : list of dict
        ``{"file", "line", "reason"}``.
    """

    rows: pl.DataFrame
    counts: dict[str, int] = field(default_factory=dict)
    bad: list[dict[str, Any]] = field(default_factory=list)


def read_truth(storage: Storage, start: dt.datetime) -> tuple[list[labels.GroundTruth], list[dict[str, Any]], int]:
    """Read the ground truth that arrived since ``start``: what is true of a row is said after it, never before.

    Returns
    -------
    truth : list of GroundTruth
        All of it, also what became known later than any moment asked for.
    bad : list of dict
        ``{"file", "line", "reason"}``.
    lines : int
        Lines read.
    """
    after = join(LABELS, f"{start:%Y/%m/%d/%H}/")
    items = [item for item in storage.list(LABELS, after=after) if item.key.endswith(".jsonl")]
    with ThreadPoolExecutor(WORKERS) as pool:
        read = list(pool.map(lambda item: labels.parse_label_file(storage.get(item.key), item.key), items))
    bad = [
        {"file": item.key, "line": line, "reason": reason}
        for item, (_, problems) in zip(items, read, strict=True)
        for line, reason in problems
    ]
    truth = [one for found, _ in read for one in found]
    return truth, bad, len(truth) + len(bad)


def label(
    storage: Storage,
    rows: pl.DataFrame,
    start: dt.datetime,
    moment: dt.datetime,
    max_bad_share: float,
    settings: tuple[float, str, float],
) -> Labelled:
    """Label live rows as they were known at a moment.

    Parameters
    ----------
    storage : Storage
        The bucket.
    rows : DataFrame
        As `fraud.pipeline.live.Live.rows`.
    start, moment : datetime
        Begin of the window, and the moment whose knowledge counts.
    max_bad_share : float
        Share of label lines that may be unreadable.
    settings : tuple
        Maturity (days), pseudo-label policy, pseudo-label threshold.

    Raises
    ------
    DataError
        When more lines are unreadable.
    """
    truth, bad, lines = read_truth(storage, start) if rows.height else ([], [], 0)
    if len(bad) > max_bad_share * lines:
        raise DataError(
            f"{len(bad)} of {lines} label lines cannot be read, more than max_bad_share {max_bad_share:g} allows; "
            f"the first is {bad[0]['file']}, line {bad[0]['line']}: {bad[0]['reason']}."
        )
    known = labels.resolve(truth, moment.timestamp())
    asked = map(_Row._make, rows.select("__id", "__time", "__score").iter_rows())
    found = labels.label_rows(asked, known, moment.timestamp(), *settings)
    schema = {"label": pl.Int8, "label_source": pl.String, "weight": pl.Float32, "label_time": pl.Float64}
    labelled = rows.hstack(pl.DataFrame(list(found), schema=schema, orient="row"))
    ids = set(rows["__id"])
    early = [one for one in truth if one.time <= moment.timestamp()]
    counts = {
        "label_lines": lines,
        "bad_label_lines": len(bad),
        "labels_from_the_future": len(truth) - len(early),
        "labels_replaced": len(early) - len(known),
        "labels_of_unknown_ids": sum(name not in ids for name in known),
    }
    return Labelled(labelled, counts, bad)


def to_parquet(labelled: pl.DataFrame) -> bytes:
    """``labels.parquet``; rows whose label is unknown are left out, and so are not trained on."""
    kept = labelled.filter(pl.col("label_source") != labels.UNKNOWN).rename({"__id": "inference_id"})
    kept = kept.sort("__time", "inference_id").select(*LABEL_COLUMNS)
    buffer = io.BytesIO()
    pq.write_table(kept.to_arrow().cast(pa.schema(LABEL_COLUMNS.items())), buffer, compression="zstd")
    return buffer.getvalue()
