"""Counts of one column of live traffic, on the bins and values of the baseline."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from heapq import nsmallest
from typing import Any

from fraud.schema import category_text

HUGE = 1e300  # numbers beyond it count as it: a sum must stay finite
RARE = 200  # a value that fewer than one row of a batch in so many has is not remembered
REPEATS = 64  # most frequent values of a number that are written
_HELD, _KEPT = 4096, 1024  # values of a number held in memory at most, and left when there are more
_WHOLE = 2**63
ABSENT = object()  # the field is not in the record
_INVALID = object()


def exact_sum(values: Sequence[float]) -> list[float]:
    """Sum without any rounding.

    Parameters
    ----------
    values : sequence of float
        Finite, none beyond ``HUGE``.

    Returns
    -------
    list of float
        Floats whose exact sum is the sum of ``values``, largest first: the first is the sum, rounded once. The same
        sum always gives the same list.

    Examples
    --------
    >>> exact_sum([1e16, 1.0, 1.0, -1e16])
    [2.0]
    >>> exact_sum([1e16, 1.0])
    [1e+16, 1.0]
    """
    rest = list(values)
    parts: list[float] = []
    while part := math.fsum(rest):
        parts.append(part)
        rest.append(-part)
    return parts


def finite_floats(values: Sequence[Any]) -> tuple[list[float], int, int]:
    """Sort the finite numbers out of a column.

    Parameters
    ----------
    values : sequence
        Numbers, None and NaN for missing, and whatever else callers send.

    Returns
    -------
    numbers : list of float
        In rising order.
    missing : int
        How many are None or NaN.
    invalid : int
        How many are of another type, infinite, or whole numbers of more than 64 bits.
    """
    numbers = [float(v) for v in values if type(v) is float or (type(v) is int and -_WHOLE <= v < _WHOLE)]
    missing = len(values) - len(numbers) and sum(v is None for v in values)
    invalid = len(values) - len(numbers) - missing
    if numbers and not _all_finite(numbers):
        nans = sum(v != v for v in numbers)
        kept = [v for v in numbers if math.isfinite(v)]
        missing, invalid = missing + nans, invalid + len(numbers) - len(kept) - nans
        numbers = [min(max(v, -HUGE), HUGE) for v in kept]
    numbers.sort()
    return numbers, missing, invalid


def _all_finite(numbers: list[float]) -> bool:
    """Whether all are within ±HUGE, and none is NaN; in C."""
    try:
        return math.isfinite(math.fsum(numbers)) and max(numbers) <= HUGE and min(numbers) >= -HUGE
    except (OverflowError, ValueError):
        return False


def bin_counts(ordered: Sequence[float], edges: Sequence[float]) -> list[int]:
    """Count numbers in left-open bins.

    Parameters
    ----------
    ordered : sequence of float
        In rising order.
    edges : sequence of float
        Strictly rising.

    Returns
    -------
    list of int
        Of shape (len(edges) + 1,).

    Examples
    --------
    >>> bin_counts([0.0, 0.0, 1.0, 7.0], [0.0, 1.0])
    [2, 1, 1]
    """
    below = [bisect_right(ordered, edge) for edge in edges]
    return [high - low for low, high in zip([0, *below], [*below, len(ordered)], strict=True)]


def most_frequent(repeats: Mapping[str, int], most: int) -> dict[str, int]:
    """The values that occur most often, equal ones in the order of their numbers."""
    if len(repeats) <= most:
        return dict(sorted(repeats.items(), key=lambda item: (-item[1], float(item[0]))))
    return dict(nsmallest(most, repeats.items(), key=lambda item: (-item[1], float(item[0]))))


def repeated_values(ordered: Sequence[float]) -> dict[str, int]:
    """Count the values that at least one in `RARE` has, under their shortest text; -0 counts as 0.

    Parameters
    ----------
    ordered : sequence of float
        In rising order. Whatever so many have stands at one of `RARE` even places.

    Examples
    --------
    >>> repeated_values([-0.0, 0.0, 1.0, 1.0, 2.5])
    {'0.0': 2, '1.0': 2, '2.5': 1}
    """
    step = max(1, len(ordered) // RARE)
    counts = {v: bisect_right(ordered, v) - bisect_left(ordered, v) for v in dict.fromkeys(ordered[step - 1 :: step])}
    return {repr(v + 0.0): count for v, count in counts.items() if count * RARE >= len(ordered)}


COUNTED = ("below", "above", "repeats", "count", "missing", "absent", "invalid", "sum", "min", "max", "counts")


class Numbers:
    """Counts of one number feature, or of the score.

    Parameters
    ----------
    edges : sequence of float
        Of the bins, strictly rising.
    low, high : float, optional
        Smallest and largest value at training; what lies outside is counted.
    """

    def __init__(self, edges: Sequence[float], low: float | None = None, high: float | None = None) -> None:
        self.edges = list(edges)
        self.low, self.high = low, high
        self.below = self.above = 0
        self.repeats: dict[str, int] = {}
        self.count = self.missing = self.absent = self.invalid = 0
        self.sum: list[float] = []
        self.min: float | None = None
        self.max: float | None = None
        self.counts = [0] * (len(self.edges) + 1)

    @property
    def mean(self) -> float | None:
        """Mean of the values; None without any."""
        return self.sum[0] / self.count if self.sum else (0.0 if self.count else None)

    def take(self, column: list[Any]) -> None:
        """Count one batch of values."""
        numbers, missing, invalid = finite_floats(column)
        absent = invalid and sum(value is ABSENT for value in column)
        self.count += len(numbers)
        self.missing += missing + absent
        self.absent += absent
        self.invalid += invalid - absent
        if numbers:
            self.sum = exact_sum(self.sum + numbers)
            self._widen(numbers[0], numbers[-1])
            self.counts = [a + b for a, b in zip(self.counts, bin_counts(numbers, self.edges), strict=True)]
            if self.low is not None and self.high is not None:
                self.below += bisect_left(numbers, self.low)
                self.above += len(numbers) - bisect_right(numbers, self.high)
            self._repeat(repeated_values(numbers))

    def _repeat(self, counts: Mapping[str, int]) -> None:
        for text, count in counts.items():
            self.repeats[text] = self.repeats.get(text, 0) + count
        if len(self.repeats) > _HELD:
            self.repeats = most_frequent(self.repeats, _KEPT)

    def _widen(self, low: float | None, high: float | None) -> None:
        self.min = min((v for v in (self.min, low) if v is not None), default=None)
        self.max = max((v for v in (self.max, high) if v is not None), default=None)

    def merge(self, other: Numbers) -> None:
        """Add the counts of another batch."""
        for name in ("count", "missing", "absent", "invalid", "below", "above"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self._repeat(other.repeats)
        self.sum = exact_sum(self.sum + other.sum)
        self._widen(other.min, other.max)
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Everything but what the baseline says; of the values that repeat, the most frequent."""
        own = {name: value for name, value in vars(self).items() if name in COUNTED}
        return own | {"repeats": most_frequent(self.repeats, REPEATS)}


class Categories:
    """Counts of one category or boolean feature."""

    def __init__(self, named: Sequence[str], known: frozenset[str] | None) -> None:
        self.known = known
        self.count = self.missing = self.absent = self.invalid = 0
        self.top = dict.fromkeys(named, 0)
        self.other = self.unseen = 0

    def take(self, column: list[Any]) -> None:
        """Count one batch of values."""
        for text, count in Counter([v if type(v) is str else _text(v) for v in column]).items():
            if text is None or text is ABSENT:
                self.missing += count
                self.absent += count if text is ABSENT else 0
            elif text is _INVALID:
                self.invalid += count
            else:
                self.count += count
                if text in self.top:
                    self.top[text] += count
                elif self.known is None or text in self.known:
                    self.other += count
                else:
                    self.unseen += count

    def merge(self, other: Categories) -> None:
        """Add the counts of another batch."""
        for name in ("count", "missing", "absent", "invalid", "other", "unseen"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for text, count in other.top.items():
            self.top[text] += count

    def to_dict(self) -> dict[str, Any]:
        """Everything but the known values."""
        return {name: value for name, value in vars(self).items() if name != "known"}


def _text(value: Any) -> Any:
    if value is None or value is ABSENT or value != value:
        return None if value is not ABSENT else ABSENT
    try:
        return category_text(value)
    except (TypeError, ValueError):
        return _INVALID
