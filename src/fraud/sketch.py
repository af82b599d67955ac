"""Counts of live traffic on the bins of the baseline: small, mergeable in any order, the same to the last bit.

Numbers are counted in left-open bins ``(edge[i-1], edge[i]]``, below the first and above the last edge included. No
edge lies on a value of training, nor between it and its neighbour in float32 (`fraud.precision`).
Categories are counted by the values that the baseline names, then *other* (known at training) and *unseen*. A sum is
kept exactly, as floats that do not overlap, so that neither order nor grouping of the records can change a mean. Of the
values of a number only those are remembered that many of a batch have: what makes up a tenth of a window cannot be
forgotten, but of a rarer value the count may fall short.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol

from fraud.errors import DataError
from fraud.precision import first_of_cell, last_of_cell
from fraud.schema import NUMBER, Schema
from fraud.tally import ABSENT, Categories, Numbers

SCHEMA_VERSION = 2
_BATCH = 2048  # records counted together
_NAMES = 100  # unknown field names remembered


class Scored(Protocol):
    """What a sketch needs of a captured record; `fraud.capture.Record` has it."""

    transaction: dict[str, Any]
    fraud_probability: float | None


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
                self._features[name] = Numbers(entry["edges"], *_range(entry))
            else:
                self._features[name] = Categories(list(entry["top"]), codes.get(name) or None)
        self._score = Numbers(baseline["score"]["edges"])
        self._threshold = baseline.get("threshold")
        self._reviewed = 0
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
    def reviewed(self) -> int:
        """Records whose score is at or above the baseline's threshold."""
        self._flush()
        return self._reviewed

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
            feature.take([row.get(name, ABSENT) for row in rows])
        self._score.take(list(scores))
        if (threshold := self._threshold) is not None:
            self._reviewed += sum(score is not None and score >= threshold for score in scores)
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
        self._reviewed += other.reviewed
        self._note(other.unknown_fields)
        self._n += other._n
        return self

    def _shape(self) -> list[tuple[str, object]]:
        return [(n, f.edges if isinstance(f, Numbers) else list(f.top)) for n, f in self._features.items()]

    def to_json(self) -> str:
        """Write the counts; equal sketches give equal text."""
        self._flush()
        document = {
            "schema_version": SCHEMA_VERSION,
            "model_version": self.model_version,
            "n": self._n,
            "reviewed": self._reviewed,
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
            if found["schema_version"] != SCHEMA_VERSION or found["model_version"] != sketch.model_version:
                raise DataError("The sketch has another version, or belongs to another model.")
            sketch._n, sketch._reviewed = found["n"], found["reviewed"]
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


def _range(entry: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Smallest and largest number that is one with a value of training in its width; None without values."""
    if entry["min"] is None:
        return None, None
    return first_of_cell(entry["min"], entry["width"]), last_of_cell(entry["max"], entry["width"])
