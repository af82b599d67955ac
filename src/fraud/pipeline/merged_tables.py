"""The tables of 01_merge_data that a person reads and the figures are drawn from."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import polars as pl

from fraud.pipeline.labelling import DAY, SOURCES

BINS = 20  # of the score histogram


def captured(rows: pl.DataFrame) -> pl.DataFrame:
    """Live rows by ``hour`` and ``variant``."""
    hour = pl.from_epoch((pl.col("__time") // 3600 * 3600).cast(pl.Int64), time_unit="s").alias("hour")
    return (
        rows.group_by(hour, pl.col("__variant").alias("variant"))
        .agg(pl.len().cast(pl.Int64).alias("rows"))
        .sort("hour", "variant")
    )


def coverage(labelled: pl.DataFrame, moment: dt.datetime) -> pl.DataFrame:
    """Live rows, and frauds among them, by ``age_days`` and ``source`` of their label."""
    age = ((moment.timestamp() - pl.col("__time")) // DAY).cast(pl.Int64).alias("age_days")
    return (
        labelled.group_by(age, pl.col("label_source").alias("source"))
        .agg(pl.len().cast(pl.Int64).alias("rows"), pl.col("label").sum().cast(pl.Int64).alias("fraud"))
        .sort("age_days", "source")
    )


def histogram(scores: pl.Series) -> pl.DataFrame:
    """Scores in bins of equal width: ``low``, ``high``, ``rows``."""
    counted = Counter(min(BINS - 1, int(score * BINS)) for score in scores.drop_nulls())
    return pl.DataFrame(
        [(at / BINS, (at + 1) / BINS, counted[at]) for at in range(BINS)],
        schema={"low": pl.Float64, "high": pl.Float64, "rows": pl.Int64},
        orient="row",
    )


def fraud_rate(n_history: int, n_frauds: int, labelled: pl.DataFrame) -> pl.DataFrame:
    """Rows, frauds and their share by where the label comes from."""
    rows = [("history", n_history, n_frauds)]
    for name in SOURCES[:-1]:
        mine = labelled.filter(pl.col("label_source") == name)["label"]
        rows.append((name, mine.len(), int(mine.sum())))
    table = pl.DataFrame(rows, schema={"source": pl.String, "rows": pl.Int64, "fraud": pl.Int64}, orient="row")
    rate = pl.when(pl.col("rows") > 0).then(pl.col("fraud") / pl.col("rows"))
    return table.with_columns(fraud_rate=rate)


def versions(found: Mapping[str, Mapping[str, Any]], foreign: int, exclude: Collection[str] = ()) -> pl.DataFrame:
    """How the rows of each model version were taken: as they are, up-cast, or left out."""
    lacking = {version: len(set(one["absent"]) - set(exclude)) for version, one in found.items()}
    rows = [
        (
            version or "(not said)",
            one["rows"],
            lacking[version],
            one["retyped"],
            "up-cast to the history's columns" if lacking[version] or one["retyped"] else "as they are",
        )
        for version, one in found.items()
    ]
    rows += [("(another schema)", foreign, 0, 0, "left out")] if foreign else []
    schema = {"model_version": pl.String, "rows": pl.Int64, "absent": pl.Int64, "retyped": pl.Int64, "taken": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")
