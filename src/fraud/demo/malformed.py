"""Requests that must be refused: each has one thing wrong with it, and the status codes that are right for that."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Malformed:
    """One way to get a request wrong.

    Attributes
    ----------
    name : str
        What is wrong.
    body : callable
        Makes the body from a transaction that is right.
    expected : frozenset of int
        Status codes that refuse it properly.
    method, path : str
        Of the request.
    """

    name: str
    body: Callable[[Mapping[str, Any]], bytes]
    expected: frozenset[int] = frozenset({400})
    method: str = "POST"
    path: str = "/predict"


def _dumps(document: object) -> bytes:
    return json.dumps(document, default=str).encode()


def _number(transaction: Mapping[str, Any]) -> str:
    """Name of a field that holds a number, the last one: the first may be an id, which is passed over."""
    names = [name for name, value in transaction.items() if type(value) is float]
    names = names or [name for name, value in transaction.items() if type(value) is int]
    return names[-1] if names else next(iter(transaction), "amount")


def _not_finite(transaction: Mapping[str, Any]) -> bytes:
    return json.dumps({**transaction, _number(transaction): float("nan")}, default=str).encode()


def _twice(transaction: Mapping[str, Any]) -> bytes:
    name = json.dumps(_number(transaction)).encode()
    return _dumps(transaction)[:-1] + b", " + name + b": 1, " + name + b": 2}"


def _deep(transaction: Mapping[str, Any]) -> bytes:
    return b'{"transactions": ' + b"[" * 500 + b"]" * 500 + b"}"


KINDS: tuple[Malformed, ...] = (
    Malformed("unknown field", lambda good: _dumps({**good, "no_such_field": 1})),
    Malformed("text for a number", lambda good: _dumps({**good, _number(good): "a lot"})),
    Malformed("cut off", lambda good: _dumps(good)[:-7]),
    Malformed("not a number", _not_finite),
    Malformed("no transactions", lambda good: b'{"transactions": []}'),
    Malformed("too many transactions", lambda good: _dumps({"transactions": [{}] * 101})),
    Malformed("empty body", lambda good: b""),
    Malformed("no object", lambda good: _dumps([good])),
    Malformed("a field twice", _twice),
    Malformed("nested deeply", _deep),
    Malformed("bad inference id", lambda good: _dumps({**good, "inference_id": "../../etc/passwd"})),
    Malformed("not UTF-8", lambda good: b'{"a": "\xff\xfe"}'),
    Malformed("too large", lambda good: b'{"a": "' + b"x" * (1 << 20) + b'"}', frozenset({413})),
    Malformed("wrong path", lambda good: _dumps(good), frozenset({403, 404}), path="/predictions"),
)
