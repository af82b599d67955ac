"""Captured traffic one payment at a time, and the truth about it: what reports, replays and tests compare."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from fraud.capture import Record, hour_prefixes, only_live, parse_file
from fraud.errors import CaptureFormatError
from fraud.labels import GroundTruth, label_columns
from fraud.pipeline.storage import Storage
from fraud.pipeline.strategies import VARIANT
from fraud.pipeline.truth import read_statements, settle
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


def truth(storage: Storage, columns: Sequence[str] | None = None) -> dict[str, GroundTruth]:
    """Ground truth that has arrived, the newest of each inference id; what cannot be read is left out.

    Parameters
    ----------
    storage : Storage
    columns : sequence of str, optional
        ``label_columns`` of a release, for tables.
    """
    newest, _ = settle(read_statements(storage, label_columns(columns), keep=False).rows, math.inf)
    return {row[0]: GroundTruth(*row) for row in newest.iter_rows()}
