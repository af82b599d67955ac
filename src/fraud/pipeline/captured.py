"""What one capture object holds: lines to records, records to the ledger's frame.

`fraud.capture` says what a captured line means. Lines of this product's own wire format, nearly all, are read by
a shorter way here that gives the same records. Lines that cannot be read are returned with number and reason.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from fraud import capture
from fraud.capture import Record
from fraud.errors import CaptureFormatError
from fraud.pipeline.columns import ARROW
from fraud.pipeline.roles import RESERVED, Roles
from fraud.schema import Schema, category_text

try:
    from orjson import loads
except ImportError:  # slower, the same
    from json import loads

FEW = 200  # distinct texts of a column that a part's profile counts one by one


def read_object(
    body: bytes, variant: str, schema: Schema | None = None
) -> tuple[list[Record], int, list[tuple[int, str]]]:
    """Read one capture object.

    Parameters
    ----------
    body : bytes
        JSON lines.
    variant : str
        The production variant that answered.
    schema : Schema, optional
        Names the cells of requests in CSV.

    Returns
    -------
    records : list of Record
        In the order of the lines, tagged traffic too.
    lines : int
        Lines that are not blank.
    bad : list of (int, str)
        Line number from 1, and why it cannot be read.
    """
    records: list[Record] = []
    bad: list[tuple[int, str]] = []
    lines = body.split(b"\n")
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                records += _usual(line, variant) or capture.parse_line(line, variant, schema)
            except CaptureFormatError as error:
                cut = "the file ends in the middle of a line: " if number == len(lines) else ""
                bad.append((number, f"{cut}{error}"))
    return records, sum(1 for line in lines if line.strip()), bad


def _usual(line: bytes, variant: str) -> list[Record] | None:
    """Records of a line as our own endpoint has it captured; None leaves the line to `fraud.capture`."""
    try:
        document = loads(line)
        data, about = document["captureData"], document["eventMetadata"]
        sent, answered = data["endpointInput"], data["endpointOutput"]
        request, answer = loads(sent["data"]), loads(answered["data"])
        transactions, ids = request["transactions"], request["inference_ids"]
        scores = [one["fraud_probability"] for one in answer["predictions"]]
        when, event, model = (
            dt.datetime.fromisoformat(about["inferenceTime"]),
            about["eventId"],
            answer["model_version"],
        )
        usual = (
            document["eventVersion"] == "0"
            and sent["encoding"] == answered["encoding"] == "JSON"
            and sent["observedContentType"] == answered["observedContentType"] == "application/json"
            and type(transactions) is type(ids) is list
            and len(transactions) == len(ids) == len(scores) > 0
            and "source" not in request
            and "customAttributes" not in about
            and when.tzinfo is not None
            and type(model) is type(event) is str
            and event != ""
            and all(type(item) is dict for item in transactions)
            and all(type(item) is str and item for item in ids)
            and all(type(score) is float and 0 <= score <= 1 for score in scores)
        )
    except (KeyError, TypeError, ValueError):
        return None
    if not usual:
        return None
    time = when.timestamp()
    return [Record(ids[k], event, time, transactions[k], scores[k], model, variant) for k in range(len(ids))]


def build_part(records: list[Record], types: Mapping[str, str], roles: Roles) -> tuple[pa.Table, dict[str, Any]]:
    """Make the ledger's frame of some records.

    Parameters
    ----------
    records : list of Record
        In the order of capture; of two with the same id the earlier one stays.
    types : mapping of str to str
        The history's columns and their types, which live values follow.
    roles : Roles
        Columns that are not repeated under their own names.

    Returns
    -------
    part : pyarrow.Table
        The history's columns, then new ones; null where a transaction has none.
    about : dict
        ``rows``, ``duplicates``, ``tagged`` rows left out per tag, ``retyped`` values per column, ``absent`` and
        ``new`` columns, and the profile.
    """
    records, tagged = capture.only_live(records)
    first: dict[str, Record] = {}
    for record in records:
        if (before := first.get(record.inference_id)) is None or record.time < before.time:
            first[record.inference_id] = record
    kept = list(first.values())
    sent: dict[str, None] = {}
    for record in kept:
        sent.update(dict.fromkeys(record.transaction))
    consumed = {*roles.consumed, *RESERVED}
    new = sorted(name for name in sent if name not in types and name not in consumed)
    columns: dict[str, pa.Array] = {
        "__id": pa.array([record.inference_id for record in kept], pa.string()),
        "__time": pa.array([record.time for record in kept], pa.float64()),
        "__label": pa.nulls(len(kept), pa.int8()),
        "__score": pa.array([record.fraud_probability for record in kept], pa.float64()),
        "__model": pa.array([record.model_version for record in kept], pa.string()),
        "__variant": pa.array([record.variant for record in kept], pa.string()),
    }
    retyped: dict[str, int] = {}
    for name in [*types, *new]:
        if name not in sent:
            columns[name] = pa.nulls(len(kept), ARROW[types[name]])
            continue
        values = [record.transaction.get(name) for record in kept]
        columns[name], changed = _column(values, types.get(name) or _kind(values))
        if changed:
            retyped[name] = changed
    part = pa.table(columns)
    about = {
        "rows": len(kept),
        "duplicates": len(records) - len(kept),
        "tagged": dict(sorted(tagged.items())),
        "retyped": retyped,
        "absent": [name for name in types if name not in sent],
        "new": new,
        "profile": _profile(part),
    }
    return part, about


def _kind(values: Iterable[Any]) -> str:
    """Type of a column that the history does not have."""
    kinds = {type(value) for value in values if value is not None}
    if kinds and kinds <= {bool}:
        return "bool"
    return "float" if kinds <= {int, float} else "text"


def _column(values: list[Any], kind: str) -> tuple[pa.Array, int]:
    """A column of one type, and how many values had to change theirs; what cannot be changed becomes null."""
    usual = {"int": (int, float), "float": (int, float), "bool": (bool,), "text": (str,), "time": ()}[kind]
    seen = set(map(type, values)) - {type(None)}
    changed = 0
    if not seen <= set(usual):
        fixed = []
        for value in values:
            if value is not None and type(value) not in usual:
                value, changed = _follow(value, kind), changed + (kind != "time")
            fixed.append(value)
        values = fixed
    if kind == "text":
        return pa.array(values, pa.string()), changed
    if kind in ("bool", "time"):
        return pa.array(values, ARROW[kind]), changed
    if kind == "int" and float not in set(map(type, values)):
        try:
            return pa.array(values, pa.int64()), changed
        except (OverflowError, pa.ArrowInvalid):
            pass
    floats = [_finite(value) for value in values]
    changed += sum(one is None and value is not None for one, value in zip(floats, values, strict=True))
    column = pa.array(floats, pa.float64())
    if kind == "int" and all(value is None or (value.is_integer() and abs(value) < 2**53) for value in floats):
        return column.cast(pa.int64()), changed
    return column, changed


def _finite(value: Any) -> float | None:
    try:
        return float(value) if value is not None and math.isfinite(value) else None
    except OverflowError:  # a whole number of hundreds of digits
        return None


def _follow(value: Any, kind: str) -> Any:
    """Turn a value into the type that its column has in the history; None if there is no way."""
    if kind == "text":
        return category_text(value) if isinstance(value, (bool, int, float)) else json.dumps(value, sort_keys=True)
    if kind == "time":
        try:
            moment = dt.datetime.fromisoformat(value)
        except (TypeError, ValueError):
            return None
        return moment.astimezone(dt.UTC).replace(tzinfo=None) if moment.tzinfo else moment
    if kind == "bool":
        return {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}.get(str(value).lower())
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _profile(part: pa.Table) -> dict[str, Any]:
    """Counts that later tell what is wrong with live data, without reading the rows again."""
    profile: dict[str, Any] = {}
    for name in part.column_names:
        if name in RESERVED:
            continue
        column = part[name]
        about: dict[str, Any] = {"nulls": column.null_count}
        if column.null_count < len(column):
            if pa.types.is_string(column.type):
                counted = pc.value_counts(column.drop_null())
                texts = dict(zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True))
                about["texts"] = texts if len(texts) <= FEW else None
            elif not pa.types.is_timestamp(column.type):
                span = pc.min_max(column).as_py()
                about |= {"least": float(span["min"]), "most": float(span["max"])}
        profile[name] = about
    return profile
