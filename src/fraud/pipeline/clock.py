"""Turn a table's time column into seconds since 1970.

Dates are what they say. Numbers that can only be seconds (or milli-, microseconds) since 1970 are taken as such. Other
numbers count seconds from a moment that nobody wrote down: it is chosen once, such that the newest row falls on the
delivery, and kept, so that a table delivered later continues the same time.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import polars as pl

from fraud.errors import DataError

DAY = 86_400.0
EPOCH = {1.0: (6.3e8, 4.1e9), 1e-3: (6.3e11, 4.1e12), 1e-6: (6.3e14, 4.1e15)}  # 1990 to 2099
ISO = r"^\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}([.,]\d{1,9})?)?)?Z?$"


def seconds(text: str, what: str = "time_origin") -> float:
    """Seconds since 1970 of an ISO 8601 moment; without a zone it is UTC.

    Raises
    ------
    DataError
        When it is none.
    """
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise DataError(f"{what} is {text!r}, no ISO 8601 moment such as 2026-01-02T03:04:05Z.") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()


@dataclass(frozen=True)
class Clock:
    """How a time column is read.

    Attributes
    ----------
    kind : str
        ``date``, ``epoch``, ``elapsed`` or ``rows`` (no time column: one second a row).
    origin : float
        Seconds since 1970 at the column's 0.
    scale : float
        Seconds of one unit.
    """

    kind: str
    origin: float = 0.0
    scale: float = 1.0

    def to_dict(self) -> dict[str, str | float]:
        """Plain mapping, as it stands in manifests."""
        return asdict(self)

    def sentence(self, column: str) -> str:
        """Say in words how time was read."""
        start = dt.datetime.fromtimestamp(self.origin, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return {
            "date": f'"{column}" holds dates.',
            "epoch": f'"{column}" counts from 1970 in units of {self.scale:g} s.',
            "elapsed": f'"{column}" is taken as seconds since {start}, so that the newest row falls on its delivery.',
            "rows": "There is no time column: the order of rows is taken as their order in time, a second apart.",
        }[self.kind]

    def read(self, column: pl.Series, name: str, offset: int, latest: float) -> pl.Series:
        """Seconds since 1970 for some rows of a table.

        Parameters
        ----------
        column : Series
            The column as delivered.
        name : str
            The file, for messages.
        offset : int
            Rows before these.
        latest : float
            No row can lie after this moment (seconds since 1970).

        Raises
        ------
        DataError
            On a time that is missing, cannot be read, is negative or lies in the future.
        """
        where = f'{name}: column "{column.name}", row'
        if self.kind == "date":
            value = _dates(column)
        else:
            value = column.cast(pl.Float64, strict=False) * self.scale
            value = pl.select(pl.when(value.is_finite()).then(value)).to_series()
        if (row := first(value.is_null())) is not None:
            what = "is missing" if column[row] is None else "cannot be read as a time"
            raise DataError(f"{where} {offset + row + 1}: the time {what}.")
        if (row := first(value < 0)) is not None:
            said = "lies before 1970" if self.kind == "date" else "is negative"
            raise DataError(f"{where} {offset + row + 1}: the time {said}.")
        value = value + self.origin
        if (row := first(value > latest)) is not None:
            hint = "; set time_origin to the moment of its 0" if self.kind == "elapsed" else ""
            raise DataError(f"{where} {offset + row + 1}: the time lies in the future{hint}.")
        return value


def first(mask: pl.Series) -> int | None:
    """Index of the first true value, None if there is none."""
    at = mask.fill_null(False).arg_max()
    return int(at) if at is not None and mask[at] else None


def _dates(column: pl.Series) -> pl.Series:
    if column.dtype.is_temporal():
        return column.cast(pl.Datetime("us")).dt.epoch("us") / 1e6
    if column.dtype != pl.String:
        return pl.Series(column.name, [None] * len(column), pl.Float64)
    text = column.str.strip_chars()
    plain = text.str.contains(ISO)
    usual = text.str.replace("T", " ").str.replace(",", ".").str.strip_chars("Z")
    usual = pl.select(pl.when(plain).then(usual)).to_series()
    moment = usual.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="us")
    if moment.null_count():
        minutes = usual.str.to_datetime("%Y-%m-%d %H:%M", strict=False, time_unit="us")
        days = usual.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us"))
        moment = pl.select(pl.coalesce(moment, minutes, days)).to_series()
    value = moment.dt.epoch("us") / 1e6
    odd = value.is_null() & text.is_not_null()
    if not odd.any():
        return value
    return pl.Series([_odd(text[i]) if odd[i] else value[i] for i in range(len(text))], dtype=pl.Float64)


def _odd(text: str) -> float | None:
    """Seconds of a moment with a zone or in another ISO 8601 form."""
    try:
        return seconds(text)
    except DataError:
        return None


def find(columns: Sequence[Callable[[], Iterable[pl.Series]]], delivered: list[float], origin: str) -> Clock:
    """Find how a time column is to be read.

    Parameters
    ----------
    columns : sequence of callable
        Each gives the column of one table, some rows at a time.
    delivered : list of float
        When each table was delivered (seconds since 1970).
    origin : str
        ISO 8601 moment of the column's 0; empty chooses it.
    """
    low, high = float("inf"), float("-inf")
    for read in columns:
        given = numbers = 0
        for column in read():
            number = column if column.dtype.is_numeric() else column.cast(pl.String).cast(pl.Float64, strict=False)
            given, numbers = given + column.drop_nulls().len(), numbers + number.drop_nulls().len()
            real = number.cast(pl.Float64).drop_nulls().drop_nans()
            if real.len():
                low, high = min(low, float(str(real.min()))), max(high, float(str(real.max())))
        if numbers * 2 <= given:
            return Clock("date")
    if origin:
        return Clock("elapsed", seconds(origin))
    for scale, (earliest, latest) in EPOCH.items():
        if earliest <= low and high <= latest:
            return Clock("epoch", 0.0, scale)
    return Clock("elapsed", max(delivered) - high)
