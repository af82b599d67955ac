"""What the story is told with: a history, and the payments that come after it. From the sample or a user's table."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl

from fraud.demo import sample
from fraud.demo.report import Scored, auc
from fraud.demo.sample_shift import shift
from fraud.errors import DataError, ParameterError

SEED = 7
HISTORY_SHARE = 0.6  # of the sample; what comes after it is sent as traffic
USER_SHARE = 0.8  # of a user's table
# A model is validated on the newest fifth of all labelled rows: there must be more changed traffic than that, or the
# retrained model has not seen any of it.
MOST_LIVE = 10_000  # transactions that are sent
NORMAL_SHARE = 0.13  # of them, before the traffic changes
DURING_SHARE = 0.15  # of them, the last: sent while the model is replaced, never learnt from
FACTOR = 1.6
NEW_FRAUD = 0.06  # share of the changed traffic that is a pattern no model has seen


@dataclass
class Material:
    """A history and what follows it in time.

    Attributes
    ----------
    history : Path
        A table for ``fraud history put``.
    history_rows : int
    roles : dict of str to str
        ``target``, ``id``, ``time``, ``amount``; empty where there is none.
    exclude : list of str
        Columns that no model may see.
    normal, shifted, during : DataFrame
        Traffic like the history, traffic that differs, and more of that for the time in which the model is replaced.
    change : str
        How it differs, in words.
    notes : list of str
        What a person should know.
    """

    history: Path
    history_rows: int
    roles: dict[str, str]
    normal: pl.DataFrame
    shifted: pl.DataFrame
    during: pl.DataFrame
    change: str
    exclude: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def target(self) -> str:
        """Column with the truth."""
        return self.roles["target"]


def from_sample(
    folder: Path,
    rows: int,
    columns: str = "core",
    seed: int = SEED,
    live_seed: int | None = None,
    factor: float = FACTOR,
) -> Material:
    """Make the sample: the history is written to a file, what follows stays in memory.

    Parameters
    ----------
    folder : Path
        Where the history is written.
    rows : int
        Of history and traffic together.
    columns : {"core", "full"}
        See `fraud.demo.sample.generate`.
    seed, live_seed : int
        Of the history and of the traffic. Another one for the traffic makes payments that nobody has seen.
    factor : float
        By which amounts are multiplied when the traffic changes.

    Raises
    ------
    ParameterError
        When there are too few rows to train and watch a model.
    """
    if rows < 6_000:
        raise ParameterError(f"--rows is {rows}, but the story needs at least 6000 transactions.")
    first = int(rows * HISTORY_SHARE)
    path = folder / "sample.parquet"
    sample.write(path, rows, seed, stop_row=first, columns=columns, steady=True, force=True)
    live_seed = seed if live_seed is None else live_seed
    live = sample.table(rows, live_seed, first, stop_row=min(rows, first + MOST_LIVE), columns=columns, steady=True)
    normal, later = _first(live)
    changed = shift(shift(later, "pattern", share=NEW_FRAUD, seed=live_seed, steady=True), "amount", factor=factor)
    roles = {"target": "isFraud", "id": "TransactionID", "time": "TransactionDT", "amount": "TransactionAmt"}
    roles["card"] = "card1"
    change = (
        f"amounts × {factor}, and a pattern of fraud that no model has seen in {100 * NEW_FRAUD:.0f} % of the payments"
    )
    return Material(path, first, roles, normal, *_last(changed, live.height), change)


def _first(live: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What is sent before the traffic changes, and the rest."""
    first = max(1, int(live.height * NORMAL_SHARE))
    return live[:first], live[first:]


def _last(changed: pl.DataFrame, rows: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What is sent before the model is replaced, and while it is."""
    last = changed.height - max(1, int(rows * DURING_SHARE))
    return changed[:last], changed[last:]


def from_table(
    path: Path,
    folder: Path,
    roles: Mapping[str, str],
    exclude: Sequence[str] = (),
    rows: int = 0,
    echo: Callable[[str], None] = lambda line: None,
) -> Material:
    """Split a user's table in time: the first 80 % are the history, what follows is sent as traffic.

    The history is copied without a change of its values, a block at a time.

    Parameters
    ----------
    path : Path
        A .csv, .csv.gz or .parquet table.
    folder : Path
        Where the history is written.
    roles : mapping of str to str
        ``target``, ``id``, ``time``, ``amount``; what is empty is guessed.
    exclude : sequence of str
        Columns that no model may see.
    rows : int
        Use this many of the newest rows; 0 uses all.
    echo : callable
        Gets a line of progress now and then.

    Raises
    ------
    DataError
        One sentence that names file, column and row.
    """
    from fraud.pipeline import history as histories

    found = histories.preview(path, roles, exclude)
    leaks = [str(leak["column"]) for leak in found["leaks"]]
    notes = [*found["notes"], *(f'"{name}" gives the answer away and is left out.' for name in leaks)]
    exclude = [*exclude, *(name for name in leaks if name not in exclude)]
    chosen = {role: str(found["roles"][role] or "") for role in ("target", "id", "time", "amount", "card")}
    for note in notes:
        echo(note)
    frame = _scan(path).with_row_index("__row")
    key = _order(frame, chosen["time"])
    kept = min(rows, found["rows"]) if rows else found["rows"]
    if kept < found["rows"]:
        echo(f"The newest {kept:,} of {found['rows']:,} rows are used.")
    places = _places(frame, key, [found["rows"] - kept, found["rows"] - kept + int(kept * USER_SHARE)])
    past = frame.filter(_from(key, places[0]) & ~_from(key, places[1]))
    history = folder / f"{path.name.split('.')[0]}{'.parquet' if path.suffix == '.parquet' else '.csv'}"
    _sink(past.drop("__row"), history)
    coming = frame.filter(_from(key, places[1])).sort(key, "__row").drop("__row").head(MOST_LIVE).collect()
    live = _typed(coming, chosen, {name: about["type"] for name, about in found["columns"].items()})
    normal, later = _first(live)
    changed, change = _change(normal, later, chosen, exclude)
    shifted, during = _last(changed, live.height)
    first = int(kept * USER_SHARE)
    return Material(history, first, chosen, normal, shifted, during, change, list(exclude), notes)


def _scan(path: Path) -> pl.LazyFrame:
    """Rows as they come; of a CSV every value as the text it is."""
    if path.suffix == ".parquet":
        return pl.scan_parquet(path)
    return pl.scan_csv(path, infer_schema=False, truncate_ragged_lines=False)


def _order(frame: pl.LazyFrame, time: str) -> pl.Expr:
    """What orders the rows in time: numbers and dates by their value, not their text."""
    if not time:
        return pl.col("__row")
    values = frame.select(time).collect().to_series()
    if values.dtype != pl.String:
        return pl.col(time)
    if values.cast(pl.Float64, strict=False).null_count() == values.null_count():
        return pl.col(time).cast(pl.Float64)
    return pl.col(time).str.strip_chars()  # ISO 8601 sorts as text


def _places(frame: pl.LazyFrame, key: pl.Expr, positions: Sequence[int]) -> list[tuple[object, int]]:
    """The key and row number that stand at these positions in order of time."""
    ordered = frame.select(key.alias("key"), "__row").collect().sort("key", "__row")
    return [(ordered["key"][at], int(ordered["__row"][at])) for at in positions]


def _from(key: pl.Expr, place: tuple[object, int]) -> pl.Expr:
    """Tell whether a row stands at the place or after it."""
    value = pl.lit(place[0])
    return (key > value) | ((key == value) & (pl.col("__row") >= place[1]))


def _sink(frame: pl.LazyFrame, path: Path) -> None:
    """Write a table whole or not at all, in the order of its rows."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        if path.suffix == ".parquet":
            frame.sink_parquet(part)
        else:
            frame.sink_csv(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _typed(frame: pl.DataFrame, roles: Mapping[str, str], known: Mapping[str, str]) -> pl.DataFrame:
    """Give texts of a CSV the types that the history has, and the target the values 0 and 1."""
    from fraud.pipeline.columns import MISSING_TEXT
    from fraud.pipeline.conversion import LABELS

    change = []
    for name, dtype in frame.schema.items():
        column = pl.col(name)
        if name == roles["target"]:
            text = column.cast(pl.String).str.strip_chars().str.to_lowercase()
            change.append(text.replace_strict(LABELS, default=None, return_dtype=pl.Int64).alias(name))
        elif dtype == pl.String:
            text = column.str.strip_chars()
            kind = known.get(name, "text")
            if kind in ("int", "float"):
                change.append(text.cast(pl.Float64, strict=False))
            elif kind == "bool":
                change.append(text.str.to_lowercase().replace_strict({"true": True, "false": False}, default=None))
            else:
                change.append(pl.when(text.is_in(MISSING_TEXT)).then(None).otherwise(column).name.keep())
        elif dtype.is_decimal():
            change.append(column.cast(pl.Float64))
    return frame.with_columns(change)


def _change(
    normal: pl.DataFrame, later: pl.DataFrame, roles: Mapping[str, str], exclude: Sequence[str]
) -> tuple[pl.DataFrame, str]:
    """Change a user's traffic: the amount, or without one the feature that tells fraud best."""
    if roles["amount"]:
        return shift(later, "amount", columns=roles["amount"], factor=FACTOR), f"{roles['amount']} × {FACTOR}"
    truth = normal[roles["target"]].to_list()
    best, name = -1.0, ""
    for column in normal.columns:
        if column in (*roles.values(), *exclude) or not normal[column].dtype.is_numeric():
            continue
        values = normal[column].cast(pl.Float64).fill_null(strategy="mean").fill_null(0.0).fill_nan(0.0)
        if not values.std():
            continue
        scored = [Scored("", value, label) for value, label in zip(values, truth, strict=True)]
        separation = abs(auc(scored) - 0.5)
        if (0.0 if np.isnan(separation) else separation) > best:
            best, name = (0.0 if np.isnan(separation) else separation), column
    if not name:
        raise DataError("The table has neither an amount nor another number that could be shifted.")
    step = float(normal[name].cast(pl.Float64).std() or 1.0)  # type: ignore[arg-type]
    return later.with_columns(pl.col(name).cast(pl.Float64) + step), f"{name} + {step:.4g}, one standard deviation"
