"""One number in several widths: which doubles are the same number once a table is stored in less precision.

A history kept as float32, and the payment that a caller sends as JSON, hold one value as two doubles: 12.3 and
12.300000190734863. All doubles that round to the same number of a width are one *cell* here. Cells are numbered in the
order of their values, so that they can be compared and counted.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_right
from collections.abc import Sequence

HALF, SINGLE, DOUBLE = 16, 32, 64
_PACKED = {HALF: struct.Struct("<e"), SINGLE: struct.Struct("<f"), DOUBLE: struct.Struct("<d")}
_BITS = {HALF: struct.Struct("<H"), SINGLE: struct.Struct("<I"), DOUBLE: struct.Struct("<Q")}


def width_of(ordered: Sequence[float]) -> int:
    """Width that numbers may have been stored in: 16 where float16 holds them all exactly, else 32.

    A double is as good as its float32: both are in one cell of 32 bits. A column of float16 has lost more.

    Parameters
    ----------
    ordered : sequence of float
        Finite, in rising order.

    Examples
    --------
    >>> width_of([0.5, 1.0, 2048.0]), width_of([0.1]), width_of([])
    (16, 32, 16)
    """
    place = 0
    while place < len(ordered):
        value = ordered[place]
        try:
            (stored,) = _PACKED[HALF].unpack(_PACKED[HALF].pack(value))
        except OverflowError:
            return SINGLE
        if stored != value:
            return SINGLE
        place = bisect_right(ordered, value, place)
    return HALF


def cell(value: float, width: int) -> int | None:
    """Number of the cell that a value lies in; None where the width does not reach so far.

    Examples
    --------
    >>> cell(12.3, 32) == cell(12.300000190734863, 32) != cell(12.300001, 32)
    True
    >>> cell(-0.0, 32), cell(1e-50, 32), cell(1e39, 32)
    (0, 0, None)
    """
    try:
        (bits,) = _BITS[width].unpack(_PACKED[width].pack(value))
    except OverflowError:
        return None
    sign = 1 << (width - 1)
    return sign - int(bits) if bits & sign else int(bits)


def _number(place: int, width: int) -> float:
    """The number in the middle of a cell."""
    sign = 1 << (width - 1)
    (value,) = _PACKED[width].unpack(_BITS[width].pack(sign - place if place < 0 else place))
    return float(value)


def _end(place: int, width: int) -> float:
    """Largest double of a cell. Halfway between two numbers, rounding goes to the one whose last bit is 0."""
    value = _number(place, width)
    if width == DOUBLE:
        return value
    halfway = value + (_number(place + 1, width) - value) / 2
    if not math.isfinite(halfway):  # of the largest number
        halfway = value + (value - _number(place - 1, width)) / 2
    return halfway if cell(halfway, width) == place else math.nextafter(halfway, -math.inf)


def last_of_cell(value: float, width: int) -> float:
    """Largest double that is the same number in a width; the value itself where the width does not reach so far."""
    return value if (place := cell(value, width)) is None else _end(place, width)


def first_of_cell(value: float, width: int) -> float:
    """Smallest double that is the same number in a width; the value itself where the width does not reach so far."""
    return -last_of_cell(-value, width)


def edge_above(value: float, following: float, reach: float, width: int) -> float:
    """Where a bin may end after a value, so that rounding to the width takes no number from one side to the other.

    Parameters
    ----------
    value, following : float
        Adjacent values in different cells; ``following`` may be infinite.
    reach : float
        The edge lies midway, but no farther than this from ``value``: there what is new between them can be seen.
    width : {16, 32}

    Returns
    -------
    float
        The last double of a cell: that of ``value`` or a later one, but none of ``following``.

    Examples
    --------
    >>> round(edge_above(1.0, 2.0, 9.0, 32), 6), round(edge_above(1.0, 2.0, 0.01, 32), 6)
    (1.5, 1.01)
    """
    wanted = value + min(following / 2 - value / 2, reach)
    before = math.nextafter(first_of_cell(following, width), -math.inf) if math.isfinite(following) else math.inf
    return min(max(last_of_cell(value, width), last_of_cell(wanted, width)), before)
