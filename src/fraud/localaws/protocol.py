"""How botocore's service models put a request and an answer on the wire: the ``json`` and ``rest-json`` protocols."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

from botocore.model import ListShape, MapShape, OperationModel, ServiceModel, Shape, StructureShape
from botocore.utils import parse_to_aware_datetime


class MalformedError(ValueError):
    """The bytes of a request cannot be read as what the model says they are."""


@dataclass(frozen=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes


def timestamp(value: float | datetime) -> float:
    """Return epoch seconds with milliseconds, as the JSON protocols write them."""
    return round(value.timestamp() if isinstance(value, datetime) else float(value), 3)


def content_type(model: ServiceModel) -> str:
    """Return what the body of an answer is."""
    return "application/x-amz-json-1.1" if model.protocol == "json" else "application/json"


# ---- request -------------------------------------------------------------------------------------------------------


def read(
    shape: StructureShape,
    body: bytes,
    headers: Mapping[str, str],
    query: Mapping[str, list[str]],
    path_values: Mapping[str, str],
) -> dict[str, Any]:
    """Return the members of a request, wherever they stand in it.

    Raises
    ------
    MalformedError
        Body, number, timestamp or blob cannot be read. Wrong JSON types are let through: the model's check names them.
    """
    params: dict[str, Any] = {}
    in_body = dict(shape.members)
    for name, member in shape.members.items():
        location = member.serialization.get("location")
        if location:
            del in_body[name]
            wire_name = member.serialization.get("name", name)
            value = _located(location, wire_name, member, headers, query, path_values)
            if value is not None:
                params[name] = value
    payload = shape.serialization.get("payload")
    if payload and shape.members[payload].type_name == "blob":
        params[payload] = body
    elif payload:
        params[payload] = _value(_load(body), shape.members[payload])
    elif in_body:
        content = _load(body)
        if not isinstance(content, dict):
            raise MalformedError("The request body is not a JSON object")
        wire_names = {member.serialization.get("name", name): name for name, member in in_body.items()}
        for key, value in content.items():
            name = wire_names.get(key, key)
            if value is not None:
                params[name] = _value(value, in_body[name]) if name in in_body else value
    return params


def _located(
    location: str,
    name: str,
    shape: Shape,
    headers: Mapping[str, str],
    query: Mapping[str, list[str]],
    path_values: Mapping[str, str],
) -> Any:
    if location == "uri":
        return _text(path_values.get(name.replace("-", "_")), shape)
    if location == "querystring":
        values = query.get(name)
        if values is None:
            return None
        return (
            [_text(value, shape.member) for value in values]
            if isinstance(shape, ListShape)
            else _text(values[-1], shape)
        )
    if location == "header":
        return _text(headers.get(name), shape)
    return None


def _text(value: str | None, shape: Shape) -> Any:
    """Read a value that came as text, in a path, query or header."""
    if value is None or shape.type_name not in ("integer", "long", "float", "double", "boolean"):
        return value
    if shape.type_name == "boolean":
        return value == "true"
    try:
        return int(value) if shape.type_name in ("integer", "long") else float(value)
    except ValueError:
        raise MalformedError(f"{value} is not a number") from None


def _load(body: bytes) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        return json.loads(body.decode() or "{}", parse_constant=refuse)
    except (ValueError, RecursionError):
        raise MalformedError("The request body is not JSON") from None


def _value(value: Any, shape: Shape) -> Any:
    if isinstance(shape, StructureShape) and isinstance(value, dict):
        wire_names = {member.serialization.get("name", name): name for name, member in shape.members.items()}
        read = {}
        for key, item in value.items():
            name = wire_names.get(key, key)
            if item is not None:
                read[name] = _value(item, shape.members[name]) if name in shape.members else item
        return read
    if isinstance(shape, ListShape) and isinstance(value, list):
        return [_value(item, shape.member) for item in value]
    if isinstance(shape, MapShape) and isinstance(value, dict):
        return {key: _value(item, shape.value) for key, item in value.items()}
    if shape.type_name == "blob" and isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise MalformedError("A blob is not base64") from None
    if shape.type_name == "timestamp" and isinstance(value, str):
        try:
            return timestamp(parse_to_aware_datetime(value))
        except (ValueError, OverflowError):
            raise MalformedError("A timestamp cannot be read") from None
    return value


# ---- answer --------------------------------------------------------------------------------------------------------


def write(operation: OperationModel, result: dict[str, Any]) -> Answer:
    """Write an answer; None and members that the model does not know are left out."""
    headers = {"Content-Type": content_type(operation.service_model)}
    status = operation.http.get("responseCode", 200)
    shape = operation.output_shape
    if shape is None:
        return Answer(status, headers, b"")
    payload = shape.serialization.get("payload")
    content: dict[str, Any] = {}
    for name, member in shape.members.items():
        value = result.get(name)
        location = member.serialization.get("location")
        wire_name = member.serialization.get("name", name)
        if value is None:
            continue
        if location == "statusCode":
            status = int(value)
        elif location == "header":
            headers[wire_name] = _header(value, member)
        elif name != payload:
            content[wire_name] = _json(value, member)
    if payload and shape.members[payload].type_name in ("blob", "string"):
        body = result.get(payload) or b""
        return Answer(status, headers, body.encode() if isinstance(body, str) else body)
    if payload:
        content = _json(result.get(payload) or {}, shape.members[payload])
    return Answer(status, headers, json.dumps(content, allow_nan=False).encode())


def _header(value: Any, shape: Shape) -> str:
    if shape.type_name == "timestamp":
        return format_datetime(datetime.fromtimestamp(timestamp(value), UTC), usegmt=True)
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return re.sub(r"[\r\n\0]", " ", text)  # no answer may grow a header


def _json(value: Any, shape: Shape) -> Any:
    if isinstance(shape, StructureShape):
        return {
            member.serialization.get("name", name): _json(value[name], member)
            for name, member in shape.members.items()
            if value.get(name) is not None
        }
    if isinstance(shape, ListShape):
        return [_json(item, shape.member) for item in value]
    if isinstance(shape, MapShape):
        return {key: _json(item, shape.value) for key, item in value.items()}
    if shape.type_name == "blob":
        return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()
    if shape.type_name == "timestamp":
        return timestamp(value)
    return value
