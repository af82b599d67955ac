"""What AWS checks before it looks at a request: presence, length, range, pattern and enum of every member.

botocore's own ``ParamValidator`` checks types, unknown names and required members only, because the service does the
rest. Here we are the service.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

from botocore.model import ListShape, MapShape, Shape, StructureShape
from botocore.validate import ParamValidator

# Java's character properties, near enough for ASCII and the letters of living languages.
_IN_CLASS = {
    "L": r"\w",
    "N": r"\d",
    "M": r"\u0300-\u036f",
    "Z": r" \u00a0\u2000-\u200a\u2028\u2029\u202f\u205f\u3000",
    "S": r"!-/:-@\[-`{-~\u00a1-\U0010ffff",
    "P": r"!-/:-@\[-`{-~\u00a1-\U0010ffff",
    "Alnum": "a-zA-Z0-9",
    "Print": r"\x20-\x7e",
    "ASCII": r"\x00-\x7f",
}
_LONGEST_MATCHED = 10_000  # a pattern is not tried on longer text: some of them are slow


def violations(params: dict[str, Any], shape: StructureShape) -> list[str]:
    """Return what is wrong with `params`, each in AWS's words, e.g. ``Value null at 'roleArn' failed to satisfy …``."""
    return list(_structure(params, shape, ""))


def type_errors(params: dict[str, Any], shape: StructureShape) -> str:
    """Return botocore's report on types and unknown names ("" when there is nothing to say)."""
    report = ParamValidator().validate(params, shape)
    return report.generate_report() if report.has_errors() else ""


def _structure(value: Any, shape: StructureShape, at: str) -> Iterator[str]:
    if not isinstance(value, dict):
        return  # a wrong type is ParamValidator's to report
    for name, member in shape.members.items():
        where = f"{at}.{_camel(name)}" if at else _camel(name)
        if value.get(name) is not None:
            yield from _check(value[name], member, where)
        elif name in shape.required_members:
            yield f"Value null at '{where}' failed to satisfy constraint: Member must not be null"


def _check(value: Any, shape: Shape, at: str) -> Iterator[str]:
    for constraint in _broken(value, shape):
        shown = "Value" if shape.metadata.get("sensitive") else f"Value '{_java(value)}'"
        yield f"{shown} at '{at}' failed to satisfy constraint: {constraint}"
    if isinstance(shape, StructureShape):
        yield from _structure(value, shape, at)
    elif isinstance(shape, ListShape) and isinstance(value, list):
        if isinstance(shape.member, StructureShape | ListShape | MapShape):
            for number, item in enumerate(value, 1):
                yield from _check(item, shape.member, f"{at}.{number}.member")
        elif any(True for item in value for _ in _broken(item, shape.member)):
            yield (
                f"Value '{_java(value)}' at '{at}' failed to satisfy constraint: "
                f"Member must satisfy constraint: [{', '.join(_all(shape.member))}]"
            )
    elif isinstance(shape, MapShape) and isinstance(value, dict):
        yield from _map(value, shape, at)


def _map(value: dict[str, Any], shape: MapShape, at: str) -> Iterator[str]:
    if any(True for key in value for _ in _broken(key, shape.key)):
        yield (
            f"Value '{_java(value)}' at '{at}' failed to satisfy constraint: "
            f"Map keys must satisfy constraint: [{', '.join(_all(shape.key))}]"
        )
    if isinstance(shape.value, StructureShape | ListShape | MapShape):
        for key, item in value.items():
            yield from _check(item, shape.value, f"{at}.{key}.member")
    elif any(True for item in value.values() for _ in _broken(item, shape.value)):
        yield (
            f"Value '{_java(value)}' at '{at}' failed to satisfy constraint: "
            f"Map value must satisfy constraint: [{', '.join(_all(shape.value))}]"
        )


def _broken(value: Any, shape: Shape) -> Iterator[str]:
    """Yield the constraints of this very shape that `value` breaks."""
    limits = shape.metadata
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, str) and shape.type_name in ("string", "character"):
        pattern = _pattern(limits.get("pattern"))
        if shape.enum and value not in shape.enum:
            yield f"Member must satisfy enum value set: [{', '.join(shape.enum)}]"
        if pattern and len(value) <= _LONGEST_MATCHED and not pattern.fullmatch(value):
            yield f"Member must satisfy regular expression pattern: {limits['pattern']}"
    if number or not hasattr(value, "__len__"):
        size, what = value, "value"
        if not number or shape.type_name not in ("integer", "long", "float", "double"):
            return
    else:
        size, what = len(value), "length"
    if limits.get("max") is not None and size > limits["max"]:
        yield f"Member must have {what} less than or equal to {limits['max']}"
    if limits.get("min") is not None and size < limits["min"]:
        yield f"Member must have {what} greater than or equal to {limits['min']}"


def _all(shape: Shape) -> Iterator[str]:
    """Yield all constraints of a shape: inside a list or map AWS names all of them, broken or not."""
    if shape.metadata.get("max") is not None:
        yield f"Member must have length less than or equal to {shape.metadata['max']}"
    if shape.metadata.get("min") is not None:
        yield f"Member must have length greater than or equal to {shape.metadata['min']}"
    if shape.metadata.get("pattern"):
        yield f"Member must satisfy regular expression pattern: {shape.metadata['pattern']}"
    if getattr(shape, "enum", None):
        yield f"Member must satisfy enum value set: [{', '.join(shape.enum)}]"


@cache
def _pattern(pattern: str | None) -> re.Pattern[str] | None:
    """Compile a pattern of the service model, which is Java's; AWS matches it against the whole value."""
    if not pattern:
        return None
    text = re.sub(r"\$\{\d+,\d+\}", "$", pattern).replace(r"\z", r"\Z")
    text = re.sub(r"(?<!\[)\\p\{ASCII\}", r"[\\x00-\\x7f]", text)
    text = re.sub(r"\\p\{(\w+)\}", lambda found: _IN_CLASS.get(found[1], r"\w"), text)
    text = text.replace(r"\uD800\uDC00-\uDBFF\uDFFF", r"\U00010000-\U0010FFFF")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "possible nested set": it is not
        try:
            return re.compile(text, 0 if r"\p" in pattern else re.ASCII)
        except re.error:
            return None


def _camel(name: str) -> str:
    return name[:1].lower() + name[1:]


def _java(value: Any) -> str:
    """Show a value as AWS does: strings as they are, the rest as Java prints it, nothing endless."""
    if isinstance(value, bool):
        shown = str(value).lower()
    elif isinstance(value, list):
        shown = f"[{', '.join(map(_java, value))}]"
    elif isinstance(value, dict):
        shown = "{" + ", ".join(f"{key}={_java(item)}" for key, item in value.items()) + "}"
    else:
        shown = str(value)
    return shown if len(shown) <= 1000 else shown[:1000] + "…"
