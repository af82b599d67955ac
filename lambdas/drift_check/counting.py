"""Fast counting of captured objects: orjson reads them, NumPy counts them, and every count is `fraud.sketch`'s own.

Only the plain shapes take the fast way; a line that is not one of them is read by `fraud.capture`, and a column that
holds anything but numbers is counted by `fraud.tally`. So the result is the same, to the last bit.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from orjson import loads

from fraud.capture import LIVE, MAX_LINE, TAGGED, Record, parse_line, read_attributes, read_caller
from fraud.errors import CaptureFormatError
from fraud.moment import seconds
from fraud.payload import BASE64, CSV, JSON, OPTIONS, form_of, read_answer
from fraud.schema import BOOLEAN, NUMBER, Schema
from fraud.sketch import Sketch
from fraud.tally import ABSENT, RARE, Numbers, exact_sum

_LARGE = 2.0**63  # from here on orjson gives a float where json gives a whole number
_PLAIN = {float, int, type(None)}
_UNUSUAL = {"features", "instances", *OPTIONS}  # members that make a request more than a transaction
_NUMBER_BYTES = b"0123456789+-.eE"
_TRUTHS = {"true": True, "false": False, "1": True, "0": False}
_FIELD = 131_072  # characters of a CSV field that csv reads at most
_GONE = math.nan  # stands for an absent field; no JSON holds it

Problems = list[tuple[int, str]]


@dataclass(slots=True)
class Read(Record):
    """A record with the line it was read from, so that it can be read once more by `fraud.capture`.

    Attributes
    ----------
    line : bytes
        As captured.
    place : int
        Of the transaction in the line.
    """

    line: bytes = b""
    place: int = 0


class Reader:
    """Reads captured lines of one model.

    Parameters
    ----------
    schema : Schema or None
        Names and types for requests in CSV.
    """

    def __init__(self, schema: Schema | None) -> None:
        self.schema = schema
        features = schema.features if schema else ()
        self._names = [feature.name for feature in features]
        self._numbers = [feature.name for feature in features if feature.type == NUMBER]
        self._booleans = [feature.name for feature in features if feature.type == BOOLEAN]

    def read(self, piece: bytes, variant: str, first: int = 1, last: bool = True) -> tuple[list[Record], Problems]:
        """Read a piece of a captured object, as `fraud.capture.parse_file` reads the whole.

        Parameters
        ----------
        piece : bytes
            Whole lines, but for the last of the object.
        variant : str
            That its key names.
        first : int
            Number of the first line.
        last : bool
            Whether the object ends here.
        """
        records: list[Record] = []
        problems: Problems = []
        lines = piece.split(b"\n")
        for number, line in enumerate(lines, first):
            if not line.strip():
                continue
            if (found := self._plain(line, variant)) is not None:
                records += found
                continue
            try:
                records += parse_line(line, variant, self.schema)
            except CaptureFormatError as error:
                cut = last and number == first + len(lines) - 1
                problems.append((number, f"the file ends in the middle of a line: {error}" if cut else str(error)))
        return records, problems

    def _plain(self, line: bytes, variant: str) -> list[Read] | None:
        """Records of a line of a usual shape; None for any other, and for what is no good."""
        if len(line) > MAX_LINE:
            return None
        try:
            found = loads(line)
            capture, meta = found["captureData"], found["eventMetadata"]
            event_id, time = meta["eventId"], _time(meta["inferenceTime"])
            if found["eventVersion"] != "0" or type(event_id) is not str or not event_id:
                return None
            if (request := self._request(capture["endpointInput"])) is None:
                return None
            rows, ids, tag = request
            source, version, caller = _attributes(meta.get("customAttributes"))
            scores: Sequence[float | None] = [None] * len(rows)
            if (output := capture.get("endpointOutput")) is not None:
                scores, told = _answer(output, len(rows))
                version = told or version
        except (ValueError, KeyError, TypeError, AttributeError, CaptureFormatError):
            return None
        if tag and (word := tag.strip().lower().removeprefix("source=").strip()) in TAGGED:
            source = word
        alone = meta.get("inferenceId")
        if not ids and len(rows) == 1 and type(alone) is str and alone:
            ids = [alone]
        named = len(ids)
        return [
            Read(
                (ids[k] if k < named and ids[k] else f"{event_id}/{k}"),
                event_id,
                time,
                row,
                scores[k],
                version,
                variant,
                source,
                caller,
                line,
                k,
            )
            for k, row in enumerate(rows)
        ]

    def _request(self, side: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str], str] | None:
        text, form, header = _side(side)
        if form == CSV:
            rows = None if header else self._csv(text if isinstance(text, str) else text.decode())
            return None if rows is None else (rows, [], "")
        if form != JSON:
            return None
        body = loads(text)
        if "transactions" in body:
            rows, given, tag = body["transactions"], body.get("inference_ids"), body.get("source")
            if type(rows) is not list or not all(type(row) is dict for row in rows):
                return None
            ids = [_text(item) for item in given] if type(given) is list else []
            return rows, ids, _text(tag)
        if type(body) is not dict or not body or not _UNUSUAL.isdisjoint(body):
            return None
        return [body], [], ""

    def _csv(self, text: str) -> list[dict[str, Any]] | None:
        """Rows of a CSV that quotes nothing."""
        if not self._names or len(text) > _FIELD or '"' in text or "\r" in text or "\0" in text:
            return None
        rows: list[dict[str, Any]] = []
        for line in text.split("\n"):
            if not line:
                continue
            cells = line.split(",")
            if len(cells) != len(self._names):
                return None
            row: dict[str, Any] = {name: cell for name, cell in zip(self._names, cells, strict=True) if cell}
            for name in self._booleans:
                if name in row:
                    row[name] = _TRUTHS[row[name].lower()]
            numbers = [(name, row[name]) for name in self._numbers if name in row]
            if "".join([cell for _, cell in numbers]).encode().translate(None, _NUMBER_BYTES):
                return None
            for name, cell in numbers:
                row[name] = value = float(cell)
                if value - value != 0.0:
                    return None
            rows.append(row)
        return rows


def _side(side: Mapping[str, Any]) -> tuple[str | bytes, str, bool]:
    data, encoding, kind = side["data"], side["encoding"], side.get("observedContentType")
    if type(data) is not str or encoding not in (JSON, CSV, BASE64):
        raise TypeError
    form, header = form_of(kind if type(kind) is str else "", encoding)
    return base64.b64decode(data, validate=True) if encoding == BASE64 else data, form, header


def _answer(side: Mapping[str, Any], rows: int) -> tuple[Sequence[float], str]:
    text, form, _ = _side(side)
    if form != JSON:
        return read_answer(side, rows)
    body = loads(text)
    predictions = body["predictions"]
    if type(predictions) is not list or len(predictions) != rows:
        raise TypeError
    scores = [item["fraud_probability"] for item in predictions]
    if not all(type(score) in (float, int) and 0 <= score <= 1 for score in scores):
        raise ValueError
    return [float(score) for score in scores], _text(body.get("model_version"))


def _text(value: Any) -> str:
    return value if type(value) is str else ""


@functools.lru_cache(4096)
def _time(text: str) -> float:
    if type(text) is not str:
        raise TypeError
    return seconds(text)


def _attributes(value: Any) -> tuple[str, str, str]:
    return (LIVE, "", "") if value is None else _told(tuple(value) if type(value) is list else (value,))


@functools.lru_cache(4096)
def _told(texts: tuple[Any, ...]) -> tuple[str, str, str]:
    return *read_attributes(list(texts)), read_caller(list(texts))


def exact_parts(values: NDArray[np.float64]) -> list[float]:
    """A few floats with the exact sum of many.

    Each turn takes the upper bits of all values, so few that their sum is exact in any order, and leaves the lower ones
    (Rump, Ogita and Oishi, *Accurate floating-point summation*, part I, 2008: ExtractVector).

    Parameters
    ----------
    values : array of shape (n,)
        Below 2**63 by size.
    """
    parts: list[float] = []
    while values.size and (largest := float(np.abs(values).max())):
        sigma = math.ldexp(1.0, math.frexp(largest)[1] + (values.size + 1).bit_length())
        upper = (sigma + values) - sigma
        parts.append(float(upper.sum()))
        values = values - upper
        values = values[values != 0.0]
    return parts


def plain_array(column: Sequence[Any]) -> NDArray[np.float64] | None:
    """Numbers as an array, NaN where there is none; None when anything else is among them."""
    if set(map(type, column)) <= _PLAIN:
        with contextlib.suppress(OverflowError):  # a whole number of more than 308 digits
            return np.array(column, dtype=np.float64)
    return None


class FastNumbers(Numbers):
    """`fraud.tally.Numbers`, counted by NumPy."""

    def take(self, column: Sequence[Any]) -> None:
        """Count one batch of values."""
        self.take_array(column, plain_array(column))

    def take_array(self, column: Sequence[Any], values: NDArray[np.float64] | None) -> None:
        """Count one batch of values, of which an array was made already; None where it cannot be made."""
        if values is None:
            return self._take_slowly(column)
        there = values == values
        absent = 0
        if lost := values.size - int(np.count_nonzero(there)):
            absent = sum(value is _GONE for value in column) if lost > column.count(None) else 0
            values = values[there]
        if values.size and float(np.abs(values).max()) >= _LARGE:
            return self._take_slowly(column)
        self.count += values.size
        self.missing += lost
        self.absent += absent
        if values.size:
            self._add(values)
        return None

    def _take_slowly(self, column: Sequence[Any]) -> None:
        super().take([ABSENT if value is _GONE else value for value in column])

    def _add(self, values: NDArray[np.float64]) -> None:
        n = values.size
        self.sum = exact_sum(self.sum + exact_parts(values))
        # The first of equal least values, the last of equal greatest ones: 0 and -0 are equal.
        self._widen(float(values[values.argmin()]), float(values[n - 1 - values[::-1].argmax()]))
        ordered = np.sort(values)
        below = [0, *ordered.searchsorted(self.edges, "right").tolist(), n]
        self.counts = [a + high - low for a, low, high in zip(self.counts, below, below[1:], strict=False)]
        if self.low is not None and self.high is not None:
            self.below += int(ordered.searchsorted(self.low, "left"))
            self.above += n - int(ordered.searchsorted(self.high, "right"))
        step = max(1, n // RARE)
        places = ordered[step - 1 :: step]  # whatever one in RARE has stands at one of these
        often = places[np.concatenate(([True], places[1:] != places[:-1]))]
        counts = ordered.searchsorted(often, "right") - ordered.searchsorted(often, "left")
        kept = counts * RARE >= n
        texts = map(repr, (often[kept] + 0.0).tolist())
        self._repeat(dict(zip(texts, counts[kept].tolist(), strict=True)))


class FastSketch(Sketch):
    """`fraud.sketch.Sketch`, counted by NumPy."""

    def __init__(self, baseline: Mapping[str, Any], schema: Schema | None = None) -> None:
        super().__init__(baseline, schema)
        self._schema = schema
        for name, feature in self._features.items():
            if isinstance(feature, Numbers):
                self._features[name] = FastNumbers(feature.edges, feature.low, feature.high)
        self._score = FastNumbers(self._score.edges, self._score.low, self._score.high)
        self._names = list(self._features)
        self._all = itemgetter(*self._names) if len(self._names) > 1 else None
        self._records: list[Any] = []

    def add(self, record: Any) -> None:
        """Count one record."""
        self._records.append(record)
        super().add(record)

    def _flush(self) -> None:
        if not (rows := self._pending):
            return
        records, scores = self._records, self._scores
        self._pending, self._scores, self._records = [], [], []
        columns, complete = self._columns(rows)
        arrays = self._arrays(columns)
        if odd := self._odd(columns, arrays):
            for k in odd:
                if isinstance(record := records[k], Read):
                    rows[k] = parse_line(record.line, record.variant, self._schema)[record.place].transaction
            columns, complete = self._columns(rows)
            arrays = self._arrays(columns)
        for feature, column, values in zip(self._features.values(), columns, arrays, strict=True):
            if isinstance(feature, FastNumbers):
                feature.take_array(column, values)
            else:
                feature.take(list(column) if complete else [ABSENT if v is _GONE else v for v in column])
        self._score.take(list(scores))
        if (threshold := self._threshold) is not None:
            self._reviewed += sum(score is not None and score >= threshold for score in scores)
        names: Counter[str] = Counter()
        width = len(self._names)
        for row in rows:
            if not (complete and len(row) == width) and not row.keys() <= self._known:
                self._unknown_records += 1
                names.update(row.keys() - self._known)
        self._note(names)
        self._n += len(rows)

    def _columns(self, rows: list[dict[str, Any]]) -> tuple[list[Sequence[Any]], bool]:
        """Values by feature, and whether no record lacks one."""
        if self._all is not None:
            try:
                return list(zip(*map(self._all, rows), strict=True)), True
            except KeyError:
                pass
        return [[row.get(name, _GONE) for row in rows] for name in self._names], False

    def _arrays(self, columns: Sequence[Sequence[Any]]) -> list[NDArray[np.float64] | None]:
        pairs = zip(self._features.values(), columns, strict=True)
        return [plain_array(column) if isinstance(feature, Numbers) else None for feature, column in pairs]

    @staticmethod
    def _odd(columns: Sequence[Sequence[Any]], arrays: Sequence[NDArray[np.float64] | None]) -> set[int]:
        """Records with a number that json may read as another one."""
        found: set[int] = set()
        for column, values in zip(columns, arrays, strict=True):
            if values is not None:
                large = np.abs(values) >= _LARGE
                if large.any():
                    found.update(np.flatnonzero(large).tolist())
            elif float in set(map(type, column)):
                found.update(k for k, v in enumerate(column) if type(v) is float and abs(v) >= _LARGE)
        return found
