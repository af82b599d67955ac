"""``fraud sample``: transactions shaped like IEEE-CIS's merged training table, made up and reproducible.

434 columns with the names, order and types of ``train_merged1.csv``: its fraud rate by product, hour and month, its
null blocks, heavy-tailed amounts, clients and devices that recur, stolen cards used in bursts, and patterns of fraud
that come and go. It shows the shape of the product's work; it says nothing about the quality of a model.

Rows are made chunk by chunk, each chunk from a seed of its own, so that a table of any size needs the memory of one
chunk, and any row can be made without those before it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from fraud.demo import sample_facts as facts
from fraud.demo.sample_columns import build
from fraud.demo.sample_people import stream
from fraud.demo.sample_rows import scene
from fraud.errors import DataError, ParameterError, PlatformError

CHUNK = 8_192
MATURITY_DAYS = 120.0  # no chargeback within it: the payment counts as legitimate


def column_names(columns: str = "full") -> tuple[str, ...]:
    """Names of the columns of a kind of table, in order.

    Parameters
    ----------
    columns : {"full", "core"}
        All 434, or about 65 that hold every family and every pattern of fraud.

    Raises
    ------
    ParameterError
        For another word.
    """
    if columns not in ("full", "core"):
        raise ParameterError(f"columns is {columns!r}, but it must be full or core.")
    return facts.COLUMNS if columns == "full" else facts.CORE


def generate(
    rows: int,
    seed: int = 7,
    start_row: int = 0,
    *,
    stop_row: int | None = None,
    columns: str = "full",
    steady: bool = False,
) -> Iterator[pl.DataFrame]:
    """Make a table, chunk by chunk.

    Its rows always span the whole calendar of 182 days, so the same row number means another moment in a longer
    table. The same ``(rows, seed)`` gives the same table on every machine, whatever part of it is asked for.

    Parameters
    ----------
    rows : int
        Rows of the whole table.
    seed : int
        Another seed is another world: other clients, other days.
    start_row, stop_row : int
        The part wanted, half open; the default is all of it.
    columns : {"full", "core"}
        How many columns. The values are the same in both.
    steady : bool
        Keep the mix of products, what is collected and the browsers as they are in one month. Otherwise they change
        over the months as published, which any drift check notices. Patterns of fraud come and go in both.

    Yields
    ------
    DataFrame
        At most `CHUNK` rows, sorted by TransactionDT.

    Raises
    ------
    ParameterError
        When a number is out of range.
    """
    names = column_names(columns)
    stop = rows if stop_row is None else stop_row
    if rows < 1 or seed < 0:
        raise ParameterError(f"rows is {rows} and seed is {seed}, but rows must be at least 1 and seed at least 0.")
    if not 0 <= start_row <= stop <= rows:
        raise ParameterError(f"Rows {start_row} to {stop} are no part of a table of {rows} rows.")
    return _chunks(rows, seed, start_row, stop, names, steady)


def _chunks(
    rows: int, seed: int, start: int, stop: int, names: tuple[str, ...], steady: bool
) -> Iterator[pl.DataFrame]:
    for chunk in range(start // CHUNK, -(-stop // CHUNK) if stop > start else start // CHUNK):
        made = build(scene(rows, seed, chunk, CHUNK, steady), names)
        frame = pl.DataFrame({name: pl.from_arrow(made[name]) for name in names})
        first = chunk * CHUNK
        yield frame.slice(max(0, start - first), min(stop, first + CHUNK) - max(start, first))


def table(
    rows: int,
    seed: int = 7,
    start_row: int = 0,
    *,
    stop_row: int | None = None,
    columns: str = "full",
    steady: bool = False,
) -> pl.DataFrame:
    """Make a table, or a part of it, in memory; see `generate`."""
    frames = list(generate(rows, seed, start_row, stop_row=stop_row, columns=columns, steady=steady))
    return pl.concat(frames) if frames else next(generate(rows, seed, columns=columns)).clear()


def write(
    path: str | Path,
    rows: int,
    seed: int = 7,
    *,
    start_row: int = 0,
    stop_row: int | None = None,
    columns: str = "full",
    steady: bool = False,
    force: bool = False,
    echo: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write a table as CSV or Parquet. The file appears whole or not at all.

    Parameters
    ----------
    path : path
        Ends in ``.csv`` or ``.parquet``.
    rows, seed, start_row, stop_row, columns, steady
        See `generate`.
    force : bool
        Replace a file that is there.
    echo : callable
        Gets a line of progress now and then.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ParameterError
        When a parameter or the name of the file is not as needed.
    DataError
        When the file exists.
    PlatformError
        When the folder cannot be written to or the disk is full.
    """
    path = Path(path)
    if path.suffix not in (".csv", ".parquet"):
        raise ParameterError(f"{path} must end in .csv or .parquet.")
    if path.exists() and not force:
        raise DataError(f"{path} exists already; --force replaces it.")
    chunks = generate(rows, seed, start_row, stop_row=stop_row, columns=columns, steady=steady)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        (_write_csv if path.suffix == ".csv" else _write_parquet)(part, chunks, echo)
        part.replace(path)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise PlatformError(f"{path} could not be written: {reason}.") from error
    finally:
        part.unlink(missing_ok=True)
    echo(f"{path}: {(rows if stop_row is None else stop_row) - start_row:,} rows, {path.stat().st_size / 1e6:,.1f} MB")
    return path


def _write_csv(part: Path, chunks: Iterator[pl.DataFrame], echo: Callable[[str], None]) -> None:
    done = 0
    with part.open("wb") as file:
        for frame in chunks:
            file.write(frame.write_csv(include_header=done == 0).encode())
            done = _progress(done, frame.height, echo)
        file.flush()
        os.fsync(file.fileno())


def _write_parquet(part: Path, chunks: Iterator[pl.DataFrame], echo: Callable[[str], None]) -> None:
    done = 0
    with part.open("wb") as file:
        writer: pq.ParquetWriter | None = None
        try:
            for frame in chunks:
                rows: pa.Table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
                writer = writer or pq.ParquetWriter(file, rows.schema, compression="zstd")
                writer.write_table(rows)
                done = _progress(done, frame.height, echo)
        finally:
            if writer is not None:
                writer.close()
        file.flush()
        os.fsync(file.fileno())


def _progress(done: int, more: int, echo: Callable[[str], None]) -> int:
    if (done + more) // 100_000 > done // 100_000:
        echo(f"{done + more:,} rows …")
    return done + more


def label_delay(fraud: np.ndarray, seed: int = 7, *, start_row: int = 0, median_days: float = 18.0) -> np.ndarray:
    """Days until the label of each payment is known.

    A fraud is known when its chargeback arrives: half of them within ``median_days``, few after two months. A payment
    without one is taken for legitimate after `MATURITY_DAYS`.

    Parameters
    ----------
    fraud : array-like of shape (n,)
        1 for fraud, else 0.
    seed : int
        As for the table.
    start_row : int
        Number of the first row in its table.
    median_days : float
        Half of the chargebacks arrive within it (days).

    Returns
    -------
    ndarray of shape (n,)
        Days, between 0.5 and `MATURITY_DAYS`.
    """
    fraud = np.asarray(fraud, dtype=bool)
    drawn = []
    for chunk in range(start_row // CHUNK, (start_row + max(len(fraud), 1) - 1) // CHUNK + 1):
        drawn.append(stream(seed, chunk, "label delay").standard_normal(CHUNK))
    noise = np.concatenate(drawn)[start_row % CHUNK :][: len(fraud)]
    late = np.clip(median_days * np.exp(0.8 * noise), 0.5, MATURITY_DAYS)
    return np.where(fraud, np.round(late, 3), MATURITY_DAYS)
