"""Transactions in time order for `pseudo_labels.py`: four sets, and a tiny one that needs no file.

Where the truth about a payment is known is no business of this module: it gives every row its true label.
"""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from fraud.demo import sample
from fraud.schema import Feature, Schema

sys.path.insert(0, str(Path(__file__).resolve().parent / "published"))

import datasets

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"  # beside the repository; not part of it
DAY = 86_400.0
MADE_BY = 1  # a change makes the cached features anew

HANDBOOK_START = dt.datetime(2018, 4, 1, tzinfo=dt.UTC)
WARM_UP, ONSET = 30, 73  # days: windows are full, scenario 3 appears
CUSTOMERS = 0.06  # share that is scored and learnt from; what a terminal has seen is counted over all of them

ULB_START = dt.datetime(2013, 9, 1, tzinfo=dt.UTC)
ULB_SPAN = 2 * DAY
ULB_DAYS = 98  # its two days are stretched to so many, so that a delay of 7 is a fourteenth of the span
ULB_HISTORY = 42

SAMPLE_START = dt.datetime(2017, 12, 1, tzinfo=dt.UTC)
SAMPLE_ROWS, SAMPLE_HISTORY = 30_000, 56  # later: two patterns come (days 85, 120), two go (days 70, 115)
MOST_CATEGORIES = 256  # as the training's default


class Absent(Exception):
    """The set is not on this machine."""


@dataclass(frozen=True)
class Data:
    """A set, in time order.

    Attributes
    ----------
    time : ndarray of float64
        Seconds since 1970.
    label : ndarray of int8
        The truth.
    matrix : ndarray of float64
        Encoded as the training encodes: categories as codes, missing as NaN.
    schema : Schema
        Its columns.
    start : float
        End of the fully labelled history; live traffic follows.
    """

    time: np.ndarray
    label: np.ndarray
    matrix: np.ndarray
    schema: Schema
    start: float

    @property
    def n_history(self) -> int:
        return int(np.searchsorted(self.time, self.start))


def make(name: str, seed: int, folder: Path) -> Data:
    """Read or make a set; what takes long is kept in a folder."""
    return MAKERS[name](seed, folder)


def shared(claimed: datasets.Dataset) -> pl.DataFrame:
    """Read a set of ``shared/data``; `datasets.NotAsClaimed` when it is another one."""
    path = SHARED / claimed.file
    if not path.is_file():
        raise Absent(f"{claimed.file} is not in shared/data beside the repository")
    return datasets.read(path, claimed)


def encoded(frame: pl.DataFrame, time: np.ndarray, label: str, start: float) -> Data:
    """Codes for text (frequent first, as the training gives them), NaN for null; a constant column teaches nothing."""
    features, columns = [], []
    for column in frame.drop(label):
        if column.dtype == pl.String:
            counts = column.drop_nulls().value_counts(name="n").sort(["n", column.name], descending=[True, False])
            values = counts[column.name].head(MOST_CATEGORIES).to_list()
            codes = column.replace_strict(values, range(len(values)), default=None, return_dtype=pl.Float64)
            features.append(Feature(column.name, "category", False, tuple(values)))
            columns.append(codes.fill_null(np.nan).to_numpy())
        elif column.n_unique() > 1:
            features.append(Feature(column.name, "number"))
            columns.append(column.cast(pl.Float64).fill_null(np.nan).to_numpy())
    roles = {"target": "label", "id": "id", "time": "time", "amount": ""}
    matrix = np.asfortranarray(np.column_stack(columns))
    return Data(time, frame[label].cast(pl.Int8).to_numpy(), matrix, Schema(tuple(features), roles), start)


def handbook_features(raw: pl.DataFrame) -> pl.DataFrame:
    """The Fraud Detection Handbook's fifteen features.

    Its terminal risk uses true labels from seven days on, whatever else is known when: a feature of the set, not a
    label of the loop.
    """
    at, one = "TX_DATETIME", pl.lit(1.0).alias("one")
    frame = raw.sort(at, "TRANSACTION_ID").with_columns(one, fraud=pl.col("TX_FRAUD").cast(pl.Float64))
    found = [
        (pl.col(at).dt.weekday() >= 6).cast(pl.Int8).alias("weekend"),
        (pl.col(at).dt.hour() <= 6).cast(pl.Int8).alias("night"),
    ]
    for days in (1, 7, 30):
        window = f"{days}d"
        found += [
            pl.col("one").rolling_sum_by(at, window).over("CUSTOMER_ID").alias(f"customer_count_{days}"),
            pl.col("TX_AMOUNT").rolling_mean_by(at, window).over("CUSTOMER_ID").alias(f"customer_mean_{days}"),
        ]
    frame = frame.with_columns(found)

    def older(what: str, days: int) -> pl.Expr:
        """Sum over so many days that ended a week ago."""
        both, young = (pl.col(what).rolling_sum_by(at, f"{n}d").over("TERMINAL_ID") for n in (days + 7, 7))
        return both - young

    for days in (1, 7, 30):
        count, frauds = older("one", days).round(), older("fraud", days).round()
        frame = frame.with_columns(
            count.alias(f"terminal_count_{days}"),
            pl.when(count > 0).then(frauds / count).otherwise(0.0).alias(f"terminal_risk_{days}"),
        )
    return frame.drop("one", "fraud", "TX_TIME_SECONDS", "TERMINAL_ID", "TX_FRAUD_SCENARIO", "TRANSACTION_ID")


def handbook(seed: int, folder: Path, onset: bool) -> Data:
    """Simulated card payments; with ``onset``, scenario 3 (stolen card data, amounts × 5) begins on day 73."""
    kept = folder / f"handbook-{'onset' if onset else 'whole'}-{MADE_BY}.parquet"
    if not kept.exists():
        raw = shared(datasets.HANDBOOK)
        if onset:
            raw = raw.filter((pl.col("TX_FRAUD_SCENARIO") != 3) | (pl.col("TX_TIME_DAYS") >= ONSET))
        part = kept.with_suffix(f".{seed}.part")
        handbook_features(raw).filter(pl.col("TX_TIME_DAYS") >= WARM_UP).write_parquet(part)
        part.replace(kept)
    rng = np.random.default_rng([seed, 1])
    chosen = pl.Series(np.flatnonzero(rng.random(5_000) < CUSTOMERS))
    frame = pl.read_parquet(kept).filter(pl.col("CUSTOMER_ID").is_in(chosen.implode())).sort("TX_DATETIME")
    time = frame["TX_DATETIME"].dt.epoch("ms").to_numpy() / 1000.0
    features = frame.drop("TX_DATETIME", "CUSTOMER_ID", "TX_TIME_DAYS")
    return encoded(features, time, "TX_FRAUD", HANDBOOK_START.timestamp() + ONSET * DAY)


def ulb(seed: int, folder: Path) -> Data:
    """Real card payments of two days, in the order of their time."""
    frame = shared(datasets.ULB)
    start = ULB_START.timestamp()
    time = start + frame["Time"].to_numpy() * (ULB_DAYS * DAY / ULB_SPAN)
    return encoded(frame.drop("source_row", "Time"), time, "Class", start + ULB_HISTORY * DAY)


def rotating(seed: int, folder: Path) -> Data:
    """``fraud sample``: patterns of fraud that come and go; another seed is another world."""
    frame = sample.table(SAMPLE_ROWS, 100 + seed, columns="core")
    start = SAMPLE_START.timestamp()
    time = start + frame["TransactionDT"].to_numpy() - DAY  # its calendar begins with the second day
    frame = frame.drop("TransactionID", "TransactionDT")
    return encoded(frame, time.astype(np.float64), "isFraud", start + SAMPLE_HISTORY * DAY)


def tiny(seed: int, folder: Path) -> Data:
    """Ninety made-up days; a second pattern of fraud begins on day 45, in a column that meant nothing before."""
    rng = np.random.default_rng([seed, 2])
    n, start = 2_500, HANDBOOK_START.timestamp()
    day = np.sort(rng.random(n) * 90)
    known, new = rng.random(n) < 0.04, (rng.random(n) < 0.04) & (day >= 45)
    a, b = rng.normal(size=n) + 4 * known, rng.normal(size=n) + 4 * new
    frame = pl.DataFrame({"a": a, "b": b, "noise": rng.normal(size=n), "label": (known | new).astype(np.int8)})
    return encoded(frame, start + day * DAY, "label", start + 45 * DAY)


MAKERS: dict[str, Callable[[int, Path], Data]] = {
    "onset": lambda seed, folder: handbook(seed, folder, True),
    "handbook": lambda seed, folder: handbook(seed, folder, False),
    "ulb": ulb,
    "sample": rotating,
    "tiny": tiny,
}
TITLES = {
    "onset": f"Handbook, scenario 3 from day {ONSET}",
    "handbook": "Handbook, untouched",
    "ulb": "ULB card payments",
    "sample": "`fraud sample`, patterns rotate",
    "tiny": "tiny, made up",
}
