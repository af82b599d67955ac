"""Counts of live traffic on the bins of the baseline: small, mergeable in any order, the same to the last bit.

Numbers are counted in left-open bins ``(edge[i-1], edge[i]]``, below the first and above the last edge included.
Categories are counted by the values that the baseline names, then *other* (known at training) and *unseen*. A sum is
kept exactly, as floats that do not overlap, so that neither order nor grouping of the records can change a mean.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from fraud.errors import DataError
from fraud.schema import NUMBER, Schema, category_text

HUGE = 1e300  # numbers beyond it count as it: a sum must stay finite
_BATCH = 2048  # records counted together
_WHOLE = 2**63
_NAMES = 100  # unknown field names remembered
_ABSENT, _INVALID = object(), object()


class Scored(Protocol):
    """What a sketch needs of a captured record; `fraud.capture.Record` has it."""

    transaction: dict[str, Any]
    fraud_probability: float | None


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


class Numbers:
    """Counts of one number feature, or of the score."""

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = list(edges)
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
        absent = invalid and sum(value is _ABSENT for value in column)
        self.count += len(numbers)
        self.missing += missing + absent
        self.absent += absent
        self.invalid += invalid - absent
        if numbers:
            self.sum = exact_sum(self.sum + numbers)
            self._widen(numbers[0], numbers[-1])
            self.counts = [a + b for a, b in zip(self.counts, bin_counts(numbers, self.edges), strict=True)]

    def _widen(self, low: float | None, high: float | None) -> None:
        self.min = min((v for v in (self.min, low) if v is not None), default=None)
        self.max = max((v for v in (self.max, high) if v is not None), default=None)

    def merge(self, other: Numbers) -> None:
        """Add the counts of another batch."""
        for name in ("count", "missing", "absent", "invalid"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.sum = exact_sum(self.sum + other.sum)
        self._widen(other.min, other.max)
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the edges."""
        return {name: value for name, value in vars(self).items() if name != "edges"}


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
            if text is None or text is _ABSENT:
                self.missing += count
                self.absent += count if text is _ABSENT else 0
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
    if value is None or value is _ABSENT or value != value:
        return None if value is not _ABSENT else _ABSENT
    try:
        return category_text(value)
    except (TypeError, ValueError):
        return _INVALID


class Sketch:
    """What a window of captured records looks like, in counts.

    Parameters
    ----------
    baseline : mapping
        ``baseline.json``.
    schema : Schema, optional
        Tells categories that training never saw from rare ones; without it all are *other*.
    """

    def __init__(self, baseline: Mapping[str, Any], schema: Schema | None = None) -> None:
        self.model_version = str(baseline["model_version"])
        self._features: dict[str, Numbers | Categories] = {}
        codes = {f.name: frozenset(f.categories) for f in schema.features} if schema else {}
        for name, entry in baseline["features"].items():
            if entry["type"] == NUMBER:
                self._features[name] = Numbers(entry["edges"])
            else:
                self._features[name] = Categories(list(entry["top"]), codes.get(name) or None)
        self._score = Numbers(baseline["score"]["edges"])
        self._unknown_records = 0
        self._unknown_fields: dict[str, int] = {}
        named = set(baseline.get("roles", {}).values()) | set(baseline.get("ignored", ()))
        self._known = frozenset(self._features) | named
        self._n = 0
        self._pending: list[dict[str, Any]] = []
        self._scores: list[float | None] = []

    @property
    def n(self) -> int:
        """Number of records."""
        return self._n + len(self._pending)

    @property
    def features(self) -> dict[str, Numbers | Categories]:
        """Counts of each feature."""
        self._flush()
        return self._features

    @property
    def score(self) -> Numbers:
        """Counts of the scores."""
        self._flush()
        return self._score

    @property
    def unknown_records(self) -> int:
        """Records with a field that the model does not know."""
        self._flush()
        return self._unknown_records

    @property
    def unknown_fields(self) -> dict[str, int]:
        """How often such fields occur, by name; the first hundred names of the alphabet."""
        self._flush()
        return self._unknown_fields

    def add(self, record: Scored) -> None:
        """Count one record."""
        self._pending.append(record.transaction)
        self._scores.append(record.fraud_probability)
        if len(self._pending) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        """Count the records that wait."""
        if not (rows := self._pending):
            return
        scores, self._pending, self._scores = self._scores, [], []
        for name, feature in self._features.items():
            feature.take([row.get(name, _ABSENT) for row in rows])
        self._score.take(list(scores))
        names: Counter[str] = Counter()
        for row in rows:
            if not row.keys() <= self._known:
                self._unknown_records += 1
                names.update(row.keys() - self._known)
        self._note(names)
        self._n += len(rows)

    def _note(self, names: Mapping[str, int]) -> None:
        """Remember unknown names; which ones does not depend on the order of merging."""
        both = Counter(self._unknown_fields) + Counter(names)
        self._unknown_fields = {name: both[name] for name in sorted(both)[:_NAMES]}

    def merge(self, other: Sketch) -> Sketch:
        """Add another sketch of the same baseline; the order of merging makes no difference.

        Returns
        -------
        Sketch
            This one.

        Raises
        ------
        DataError
            When the other one counts for another model.
        """
        if (other.model_version, other._shape()) != (self.model_version, self._shape()):
            raise DataError(f"A sketch of {other.model_version} cannot be merged with one of {self.model_version}.")
        for name, feature in self.features.items():
            feature.merge(other.features[name])  # type: ignore[arg-type]  # same shape, so the same class
        self.score.merge(other.score)
        self._unknown_records += other.unknown_records
        self._note(other.unknown_fields)
        self._n += other._n
        return self

    def _shape(self) -> list[tuple[str, object]]:
        return [(n, f.edges if isinstance(f, Numbers) else list(f.top)) for n, f in self._features.items()]

    def to_json(self) -> str:
        """Write the counts; equal sketches give equal text."""
        self._flush()
        document = {
            "schema_version": 1,
            "model_version": self.model_version,
            "n": self._n,
            "unknown_records": self.unknown_records,
            "unknown_fields": self.unknown_fields,
            "score": self.score.to_dict(),
            "features": {name: feature.to_dict() for name, feature in self.features.items()},
        }
        return json.dumps(document, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(
        cls, baseline: Mapping[str, Any], document: str | bytes | Mapping[str, Any], schema: Schema | None = None
    ) -> Sketch:
        """Read the counts that `to_json` wrote.

        Raises
        ------
        DataError
            When they were not made with this baseline.
        """
        sketch = cls(baseline, schema)
        try:
            found = json.loads(document) if isinstance(document, (str, bytes)) else document
            if found["schema_version"] != 1 or found["model_version"] != sketch.model_version:
                raise DataError("The sketch has another version, or belongs to another model.")
            sketch._n = found["n"]
            sketch._unknown_records = found["unknown_records"]
            sketch._unknown_fields = dict(found["unknown_fields"])
            for name, part in [*sketch.features.items(), ("", sketch.score)]:
                stored = found["features"][name] if name else found["score"]
                empty = part.to_dict()
                if stored.keys() != empty.keys() or any(
                    len(stored[key]) != len(value) for key, value in empty.items() if key in ("counts", "top")
                ):
                    raise DataError(f"The sketch does not fit the baseline of {sketch.model_version}.")
                vars(part).update(stored)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"The sketch cannot be read: {type(error).__name__}.") from error
        return sketch
