"""JSON from strangers: what the standard library lets through or trips over is refused, with a reason."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from fraud.errors import InvalidRequestError

_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89abABcdefCDEF]")
_LARGEST = 2**63


class _RefusedError(ValueError):
    """Why a body is refused; the message is for the caller."""


def parse_json(body: bytes | str, max_bytes: int = 1 << 20, max_depth: int = 8) -> Any:
    """Read a JSON text as strictly as its standard is written.

    Parameters
    ----------
    body : bytes or str
        UTF-8, without a byte order mark.
    max_bytes : int
        Longer bodies are refused before they are read.
    max_depth : int
        How deep arrays and objects may nest.

    Returns
    -------
    object
        None, bool, int, float, str, list or dict.

    Raises
    ------
    InvalidRequestError
        Status 413 when it is too long; 400 for duplicate keys, NaN, Infinity, numbers beyond float or 64 bits, deep
        nesting, bad UTF-8, lone surrogates and whatever is no JSON. Never any other error, never the body's own text.

    Examples
    --------
    >>> parse_json(b'{"amount": 12.5}')
    {'amount': 12.5}
    >>> parse_json(b'{"amount": 1, "amount": 2}')
    Traceback (most recent call last):
    fraud.errors.InvalidRequestError: The body is no valid JSON: an object names a member twice.
    """
    if len(body) > max_bytes:
        raise _too_long(max_bytes)
    try:
        raw = body.encode() if isinstance(body, str) else body
        if len(raw) > max_bytes:
            raise _too_long(max_bytes)
        text = raw.decode()
        if not text.strip(" \t\r\n"):
            raise _RefusedError("it is empty")
        found = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite, parse_int=_whole
        )
        _check(found, max_depth, bool(_ESCAPED_SURROGATE.search(text)))
    except _RefusedError as error:
        raise InvalidRequestError(f"The body is no valid JSON: {error}.") from None
    except UnicodeError:
        raise InvalidRequestError("The body is no valid JSON: it is not UTF-8 text.") from None
    except RecursionError:
        raise InvalidRequestError(f"The body is no valid JSON: it nests deeper than {max_depth}.") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidRequestError(f"The body is no valid JSON: the error is at {where}.") from None
    return found


def _too_long(max_bytes: int) -> InvalidRequestError:
    return InvalidRequestError(f"The body is longer than {max_bytes:,} bytes.", 413)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _RefusedError("an object names a member twice")
    return members


def _no_constant(name: str) -> None:
    raise _RefusedError("NaN and Infinity are no JSON")


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise _RefusedError("a number is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > 20 or not -_LARGEST <= (value := int(text)) < _LARGEST:
        raise _RefusedError("a whole number has more than 64 bits")
    return value


def _check(value: Any, depth: int, surrogates: bool) -> None:
    """Refuse what nests deeper than ``depth``, and lone surrogates where there can be any."""
    if type(value) is str:
        if surrogates:
            value.encode()
        return
    if type(value) is not dict and type(value) is not list:
        return
    if depth < 1:
        raise RecursionError
    for item in value.values() if type(value) is dict else value:
        if surrogates or type(item) is dict or type(item) is list:
            _check(item, depth - 1, surrogates)
    if surrogates and type(value) is dict:
        for name in value:
            name.encode()
