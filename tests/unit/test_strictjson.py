"""No body whatsoever may raise anything but InvalidRequestError, nor be repeated in it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud.errors import InvalidRequestError
from fraud.strictjson import parse_json

HOSTILE = {
    "empty": b"",
    "blank": b" \n\t ",
    "not JSON": b"amount=12",
    "cut": b'{"amount": 12',
    "trailing junk": b'{"amount": 12} extra',
    "two documents": b"{}{}",
    "byte order mark": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "bad UTF-8": b'{"a": "\xff"}',
    "cut UTF-8": b'{"a": "\xe2\x82"}',
    "overlong UTF-8": b'{"a": "\xc0\xaf"}',
    "UTF-8 surrogate": b'{"a": "\xed\xa0\x80"}',
    "lone surrogate": rb'{"a": "\ud800"}',
    "lone surrogate in a name": rb'{"\udfff": 1}',
    "lone surrogate, nested": rb'{"a": [{"b": "\uDC00"}]}',
    "NUL": b'{"a": "\x00"}',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": Infinity}',
    "-Infinity": b"[-Infinity]",
    "float overflow": b'{"a": 1e999}',
    "float overflow, negative": b'{"a": -1e999}',
    "huge whole number": b'{"a": ' + b"9" * 5000 + b"}",
    "64 bits and one more": b"9223372036854775808",
    "leading zero": b'{"a": 012}',
    "hexadecimal": b'{"a": 0x1F}',
    "plus": b'{"a": +1}',
    "comment": b'{"a": 1 /* no */}',
    "trailing comma": b'{"a": 1,}',
    "single quotes": b"{'a': 1}",
    "duplicate": b'{"a": 1, "a": 2}',
    "duplicate, nested": b'{"t": [{"a": 1, "a": 1}]}',
    "duplicate by escape": rb'{"a": 1, "\u0061": 2}',
    "deep": b"[" * 9 + b"]" * 9,
    "deep objects": b'{"a":' * 9 + b"1" + b"}" * 9,
    "very deep": b"[" * 100_000,
    "very deep, closed": b"[" * 200_000 + b"]" * 200_000,
    "very deep objects": b'{"a":' * 100_000,
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_hostile_bodies_are_refused_with_a_reason(body):
    with pytest.raises(InvalidRequestError) as caught:
        parse_json(body)
    assert caught.value.status == 400
    assert caught.value.detail.startswith("The body is no valid JSON: ")
    assert len(caught.value.detail) < 100


def test_too_long_is_413_before_it_is_read():
    assert parse_json(b'"' + b"x" * 98 + b'"', max_bytes=100)
    for body in (b'"' + b"x" * 99 + b'"', b"\xff" * 101, "ä" * 51):
        with pytest.raises(InvalidRequestError, match="longer than 100 bytes") as caught:
            parse_json(body, max_bytes=100)
        assert caught.value.status == 413


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"null", None),
        (b" 1 ", 1),
        ("9223372036854775807", 2**63 - 1),
        (b"-9223372036854775808", -(2**63)),
        (b"1E2", 100.0),
        (rb'"\ud83d\ude00"', "\U0001f600"),
        (b"[" * 8 + b"]" * 8, [[[[[[[[]]]]]]]]),
        (b'{"a": {"a": 1}}', {"a": {"a": 1}}),
    ],
)
def test_valid_bodies_are_read(body, found):
    assert parse_json(body) == found


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(body):
    try:
        parse_json(body)
    except InvalidRequestError as error:
        assert error.status == 400


PIECES = st.sampled_from(
    [
        '{"a":',
        "[",
        "]",
        "}",
        ",",
        '"a"',
        "1",
        "-",
        "1e9",
        "e",
        "NaN",
        "Infinity",
        r'"\ud800"',
        "\\",
        "null",
        ":",
        " ",
        "ÿ",
    ]
)


@given(st.lists(PIECES, max_size=40).map("".join))
def test_no_text_made_of_json_pieces_raises_anything_else(text):
    try:
        parse_json(text)
    except InvalidRequestError:
        return
    assert json.loads(text) is not Ellipsis  # what passes here passes there


def _nested(inner):
    return st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)


FINITE = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | FINITE | st.text(max_size=8)


@given(SCALARS | _nested(SCALARS) | _nested(_nested(SCALARS)), st.booleans())
def test_valid_json_is_read_as_written(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse_json(text.encode()) == value == parse_json(text)
