"""Captured traffic one payment at a time, and the truth about it: what reports, replays and tests compare."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from typing import Any

from fraud.capture import Record, hour_prefixes, only_live, parse_file
from fraud.errors import CaptureFormatError
from fraud.labels import GroundTruth, in_hour_folder, label_columns, parse_label_csv, parse_label_file, resolve
from fraud.pipeline.runs import now
from fraud.pipeline.storage import Storage
from fraud.pipeline.strategies import VARIANT
from fraud.schema import Schema


def records(
    storage: Storage,
    endpoint: str,
    start: float,
    end: float,
    schema: Schema,
    *,
    variants: Sequence[str] = (VARIANT,),
) -> Iterator[Record]:
    """Yield the scored live records of a window, the newest object first; what cannot be read is left out.

    Parameters
    ----------
    storage : Storage
    endpoint : str
    start, end : float
        The window ``[start, end)`` (seconds since 1970).
    schema : Schema
        Names the cells of requests in CSV.
    variants : sequence of str
        Whose traffic.
    """
    keys = {
        key
        for variant in variants
        for prefix in hour_prefixes(endpoint, variant, start, end)
        for key in storage.list_keys(prefix)
    }
    for key in sorted(keys, key=lambda key: key.split("/")[3:], reverse=True):
        try:
            found, _ = parse_file(storage.get(key), key, schema)
        except CaptureFormatError:
            continue
        live, _ = only_live(record for record in found if start <= record.time < end)
        yield from (record for record in live if record.fraud_probability is not None)


def truth(storage: Storage, since: float, columns: Sequence[str] | None = None) -> dict[str, Any]:
    """Ground truth that arrived since a moment, the newest of each inference id; what cannot be read is left out.

    Parameters
    ----------
    storage : Storage
    since : float
        Seconds since 1970.
    columns : sequence of str, optional
        ``label_columns`` of a release, for CSV files.
    """
    first = dt.datetime.fromtimestamp(since - 3600, dt.UTC)
    said: list[GroundTruth] = []
    for key in storage.list_keys("labels/"):
        if in_hour_folder(key) and key < f"labels/{first:%Y/%m/%d/%H}":
            continue  # a bank's CSV has any name, and may stand anywhere
        if key.endswith(".csv"):
            found, _ = parse_label_csv(storage.get(key), key, label_columns(columns), now().timestamp())
        else:
            found, _ = parse_label_file(storage.get(key), key)
        said += found
    return dict(resolve(said))
