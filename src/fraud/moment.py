"""Moments: seconds since 1970 inside, ISO 8601 in UTC outside."""

from __future__ import annotations

import datetime as dt


def seconds(moment: dt.datetime | float | str) -> float:
    """Seconds since 1970 of a moment; without a zone it is UTC.

    Raises
    ------
    ValueError
        When a text is no ISO 8601 moment.

    Examples
    --------
    >>> seconds("1970-01-01T01:00:00Z"), seconds(dt.datetime(1970, 1, 2)), seconds(5)
    (3600.0, 86400.0, 5.0)
    """
    if isinstance(moment, str):
        moment = dt.datetime.fromisoformat(moment)
    if not isinstance(moment, dt.datetime):
        return float(moment)
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()
    except OverflowError as error:
        raise ValueError("the moment cannot be counted in seconds") from error


def iso(moment: dt.datetime | float | str) -> str:
    """ISO 8601 in UTC, to the microsecond where there is one.

    Examples
    --------
    >>> iso(3600), iso(0.25)
    ('1970-01-01T01:00:00Z', '1970-01-01T00:00:00.250000Z')
    """
    return dt.datetime.fromtimestamp(seconds(moment), dt.UTC).isoformat().replace("+00:00", "Z")
