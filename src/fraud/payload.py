"""What one side of a captured request holds: transactions, or scores, in JSON, JSON lines or CSV; plain or BASE64.

SageMaker notes an encoding (how the bytes were kept) and a content type (what they mean). Both ways are written here,
so that what the one writes the other reads.
"""

from __future__ import annotations

import base64
import binascii
import csv
import functools
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fraud.errors import CaptureFormatError, InvalidRequestError
from fraud.schema import NUMBER, Schema, category_text

JSON, CSV, BASE64 = "JSON", "CSV", "BASE64"
LINES = "LINES"
"""JSON lines: no encoding of SageMaker's, but a content type of its own."""

CONTENT_TYPES = {JSON: "application/json", CSV: "text/csv", LINES: "application/jsonlines", BASE64: "application/json"}
_FORMS = {"text/csv": CSV} | dict.fromkeys(
    ("application/jsonlines", "application/x-jsonlines", "application/jsonl", "application/x-ndjson"), LINES
)
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_FORM = 'is not of the form {"transactions": [{…}, …]}'
OPTIONS = ("inference_id", "source", "reasons")  # beside the fields of a transaction that is not wrapped


def read_object(text: bytes | str, what: str) -> dict[str, Any]:
    """Read a JSON object; of two members with one name the last counts.

    Raises
    ------
    CaptureFormatError
        Also for NaN, Infinity and half a pair of surrogates, which no other reader takes.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
        found = json.loads(text, parse_constant=_refuse)
        if _SURROGATE.search(text):
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise CaptureFormatError(f"{what} is no JSON") from error
    if not isinstance(found, dict):
        raise CaptureFormatError(f"{what} is no JSON object")
    return found


def read_request(side: Mapping[str, Any], schema: Schema | None) -> tuple[list[dict[str, Any]], list[str], str]:
    """Read ``endpointInput``.

    Parameters
    ----------
    side : mapping
        As captured.
    schema : Schema, optional
        Names the values where the request does not: in CSV, and in ``{"features": […]}``.

    Returns
    -------
    transactions : list of dict
    inference_ids : list of str
        Empty, or one for each; an empty one is none.
    source : str
        The tag in the body, as sent; empty when there is none.

    Raises
    ------
    CaptureFormatError
        With a reason that holds nothing of the request.
    """
    text, form, header = read_side(side, "request")
    if form == CSV:
        return _read_csv(text, header, schema), [], ""
    if form == LINES and len(rows := [row for row in text.split("\n") if row.strip()]) != 1:
        alone = [_unwrapped(read_object(row, "a line of the captured request"), schema) for row in rows]
        ids = [own for _, own, _ in alone]
        return [item for item, _, _ in alone], ids if any(ids) else [], next((tag for *_, tag in alone if tag), "")
    found = read_object(text, "the captured request")
    if "transactions" in found:
        transactions = found["transactions"]
        if not isinstance(transactions, list) or not all(isinstance(item, dict) for item in transactions):
            raise CaptureFormatError(f"the captured request {_FORM}")
        given = found.get("inference_ids")
        ids = [_text(item) for item in given] if isinstance(given, list) else []
        return transactions, ids, _text(found.get("source"))
    if isinstance(instances := found.get("instances"), list):
        return [_by_place(item, schema) for item in instances], [], ""
    transaction, own, tag = _unwrapped(found, schema)
    return [transaction], [own] if own else [], tag


def read_answer(side: Mapping[str, Any], rows: int) -> tuple[list[float], str]:
    """Read ``endpointOutput``: scores of so many transactions, and the model version if it is told.

    Raises
    ------
    CaptureFormatError
        With a reason that holds nothing of the answer.
    """
    text, form, _ = read_side(side, "answer")
    version: Any = ""
    if form == CSV:
        raw: list[Any] = [_float(cell) for cell in text.replace(",", "\n").split()]
    else:
        if form == LINES:
            rows_text = [row for row in text.split("\n") if row.strip()]
            predictions: Any = [read_object(row, "a line of the captured answer") for row in rows_text]
        else:
            found = read_object(text, "the captured answer")
            version = found.get("model_version")
            predictions = found.get("predictions", [found] if "fraud_probability" in found else None)
        if not isinstance(predictions, list) or not all(isinstance(item, dict) for item in predictions):
            raise CaptureFormatError('the captured answer is not of the form {"predictions": [{…}, …]}')
        # SageMaker's own algorithms say score.
        raw = [item.get("fraud_probability", item.get("score")) for item in predictions]
    if len(raw) != rows:
        raise CaptureFormatError(f"the captured answer has {len(raw)} predictions for {rows} transactions")
    if not all(type(score) in (float, int) and 0 <= score <= 1 for score in raw):
        raise CaptureFormatError("the captured answer holds a fraud_probability outside 0 to 1")
    return [float(score) for score in raw], _text(version)


def is_refusal(side: Mapping[str, Any]) -> bool:
    """Whether ``endpointOutput`` is a refusal of the request: a problem document, or the container's own report.

    Examples
    --------
    >>> is_refusal({"data": '{"title": "Bad request", "status": 400}', "encoding": "JSON"})
    True
    >>> is_refusal({"data": '{"predictions": []}', "encoding": "JSON"})
    False
    """
    try:
        found = read_object(read_side(side, "answer")[0], "the captured answer")
    except CaptureFormatError:
        return False
    status = found.get("status")
    reported = {"error", "error-message"} <= found.keys() or (type(status) is int and 400 <= status < 500)
    return reported and not {"predictions", "fraud_probability"} & found.keys()


def read_side(side: Mapping[str, Any], what: str) -> tuple[str, str, bool]:
    """Text of one side, its form (JSON, LINES or CSV), and whether a CSV begins with a header.

    Raises
    ------
    CaptureFormatError
        When there is none, or its encoding is unknown or broken.
    """
    data, encoding = side.get("data"), side.get("encoding")
    if not isinstance(data, str):
        raise CaptureFormatError(f"the captured {what} has no data")
    if encoding not in (JSON, CSV, BASE64):
        raise CaptureFormatError(f"the captured {what} has an encoding other than JSON, CSV and BASE64")
    if encoding == BASE64:
        try:
            data = base64.b64decode(data, validate=True).decode()
        except (binascii.Error, ValueError) as error:
            raise CaptureFormatError(f"the captured {what} is no BASE64 of text") from error
    return data, *form_of(_text(side.get("observedContentType")), encoding)


@functools.lru_cache(256)
def form_of(content_type: str, encoding: str) -> tuple[str, bool]:
    """Form that a payload has (JSON, LINES or CSV), and whether a CSV begins with a header.

    Examples
    --------
    >>> form_of("text/csv; charset=utf-8; header=present", "BASE64"), form_of("application/json;charset=utf-8", "JSON")
    (('CSV', True), ('JSON', False))
    """
    kind, _, parameters = content_type.lower().partition(";")
    form = CSV if encoding == CSV else _FORMS.get(kind.strip(), JSON)
    return form, form == CSV and "header=present" in re.sub("[ \"']", "", parameters).split(";")


def write_request(
    transactions: Sequence[Mapping[str, Any]],
    inference_ids: Sequence[str],
    source: str,
    form: str,
    schema: Schema | None,
) -> str:
    """Write the text that `read_request` reads; CSV and JSON lines hold transactions only.

    Raises
    ------
    ValueError
        When CSV is wanted without a schema, or of fields that the schema lacks.
    """
    if form == LINES:
        return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in transactions)
    if form == JSON:
        request: dict[str, Any] = {"transactions": list(transactions), "inference_ids": list(inference_ids)}
        return json.dumps(request | ({"source": source} if source else {}), ensure_ascii=False)
    if schema is None or any(name not in schema.names for item in transactions for name in item):
        raise ValueError("CSV needs a schema that names every field of the transactions")
    return "".join(_csv_line([_cell(item.get(f.name), f.type) for f in schema.features]) for item in transactions)


def write_answer(scores: Sequence[float], model_version: str, form: str) -> str:
    """Write the text that `read_answer` reads; CSV and JSON lines hold scores only."""
    if form == CSV:
        return "\n".join(repr(float(score)) for score in scores)
    predictions = [{"fraud_probability": score} for score in scores]
    if form == LINES:
        return "".join(json.dumps(item) + "\n" for item in predictions)
    return json.dumps({"predictions": predictions, "model_version": model_version}, ensure_ascii=False)


def _csv_line(cells: Sequence[str]) -> str:
    made = io.StringIO()
    csv.writer(made).writerow(cells)  # only what stands in the line end is quoted in a cell, so that must be both
    return made.getvalue().removesuffix("\r\n") + "\n"


def _cell(value: Any, kind: str) -> str:
    if value is None:
        return ""
    return repr(value) if kind == NUMBER and type(value) is float else category_text(value)


def _read_csv(text: str, header: bool, schema: Schema | None) -> list[dict[str, Any]]:
    if schema is None:
        raise CaptureFormatError("the captured request is CSV, which needs the schema")
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
        if header:
            names, rows = (rows or [[]])[0], rows[1:]
            if len(set(names)) != len(names) or not set(names) <= set(schema.names):
                raise CaptureFormatError("the header of the captured CSV names other fields than the schema")
            if any(len(row) != len(names) for row in rows):
                raise CaptureFormatError("a row of the captured CSV has more or fewer cells than the header")
            rows = [[dict(zip(names, row, strict=True)).get(name, "") for name in schema.names] for row in rows]
        return [schema.coerce_csv(row) for row in rows]
    except (InvalidRequestError, csv.Error) as error:
        raise CaptureFormatError("the captured request is CSV that does not fit the schema") from error


def _unwrapped(found: dict[str, Any], schema: Schema | None) -> tuple[dict[str, Any], str, str]:
    """A transaction that stands for itself, its inference id and its tag."""
    if found.keys() == {"features"} and isinstance(found["features"], list):
        return _by_place(found, schema), "", ""
    if not found:
        raise CaptureFormatError(f"the captured request {_FORM}")
    options = {name: found.pop(name) for name in OPTIONS if name in found and not (schema and name in schema.known)}
    return found, _text(options.get("inference_id")), _text(options.get("source"))


def _by_place(item: object, schema: Schema | None) -> dict[str, Any]:
    """A transaction from ``{"features": […]}``, SageMaker's form without names."""
    values = item.get("features") if isinstance(item, dict) else None
    if not isinstance(values, list):
        raise CaptureFormatError(f"the captured request {_FORM}")
    if schema is None:
        raise CaptureFormatError("the captured request holds features without names, which needs the schema")
    if len(values) != len(schema.features):
        raise CaptureFormatError(
            f"the captured request has {len(values)} features where the schema has {len(schema.features)}"
        )
    return {name: value for name, value in zip(schema.names, values, strict=True) if value is not None}


def _refuse(name: str) -> None:
    raise ValueError(name)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
