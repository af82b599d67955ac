"""The traffic of one capture hour, counted once: what a drift check keeps of it and the report reads again.

A capture hour is the folder that a captured object lies in. Each object is counted into exactly one hour, and only its
key and entity tag are kept, so that a later look reads what is new. An hour belongs to one model: what other models
answered is only a number in it.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from fraud.capture import REFUSED, Record, only_live
from fraud.errors import DataError
from fraud.moment import iso, seconds
from fraud.schema import Schema
from fraud.sketch import Sketch

HOUR = 3600.0
BUCKET = 300  # seconds; how finely captured requests are counted, to be compared with the invocations metric
HEAVY = 24  # callers with a sketch of their own, at most
_WAITING = 8192  # records of such callers that may wait to be counted
_CALLERS = 256  # callers whose payments are counted
_DIGEST = 8  # bytes of an inference id that are kept
_EXAMPLES = 20  # problems kept with their place; all are counted
_NUMBERS = ("unreadable", "repeated", "other_model")


class Hour:
    """What one capture hour holds of one model's answers.

    Heavy callers have a sketch of their own, so that their share can be held down when a window is judged
    (`fraud.callers`): which payments are too many is known only then. Everybody else is in the rest, where nobody has
    more than ``heavy_share`` of the hour, or than a twenty-fifth of it when 24 others have sent more.

    Parameters
    ----------
    baseline : mapping
        ``baseline.json`` of the model.
    schema : Schema or None
        Of the same model.
    start : float
        Begin of the hour (seconds since 1970, UTC).
    kind : type of Sketch
        What counts; `fraud.sketch.Sketch` or what counts faster.

    Attributes
    ----------
    files : dict of str to str
        Entity tag of each object that is counted, by key.
    ids : set of bytes
        Hashes of the inference ids that are counted.
    rest : Sketch
        Of all callers without a sketch of their own, and of what names no caller.
    own : dict of str to Sketch
        Of the heaviest callers.
    heavy_share : float
        Share of the hour from which on a caller has a sketch of its own; from 1 on nobody has. Not stored.
    callers : Counter
        Payments of each caller, wherever they are counted.
    requests : Counter
        Captured requests that got scores, by begin of the five minutes in which they were answered.
    unreadable : int
        Lines that cannot be read; the first of them are in ``problems``: key, line number, reason.
    repeated : int
        Payments whose inference id was counted before; what came first counts.
    other_model : int
        Payments that another model answered.
    tagged : Counter
        Payments of tests and probes, by tag; under ``refused`` requests that got no score.
    """

    def __init__(
        self, baseline: Mapping[str, Any], schema: Schema | None, start: float, kind: type[Sketch] = Sketch
    ) -> None:
        self.baseline, self.schema, self.start, self.kind = baseline, schema, start, kind
        self.model_version = str(baseline["model_version"])
        self.files: dict[str, str] = {}
        self.ids: set[bytes] = set()
        self.rest = kind(baseline, schema)
        self.own: dict[str, Sketch] = {}
        self.heavy_share, self._waiting = 1.0, 0
        self.callers: Counter[str] = Counter()
        self.requests: Counter[int] = Counter()
        self.unreadable = self.repeated = self.other_model = 0
        self.problems: list[tuple[str, int, str]] = []
        self.tagged: Counter[str] = Counter()

    def take(
        self,
        key: str,
        etag: str,
        records: Iterable[Record],
        problems: Collection[tuple[int, str]] = (),
        *,
        beside: Collection[Collection[bytes]] = (),
        since: float = float("-inf"),
    ) -> list[tuple[bytes, Record]]:
        """Count one captured object, or another piece of it.

        Parameters
        ----------
        key, etag : str
            Which object.
        records, problems
            As `fraud.capture.parse_file` returns them.
        beside : collection of sets of bytes
            Hashes of ids that other hours have counted.
        since : float
            An answer that names no model is the model's own from this moment on: when it was released.

        Returns
        -------
        list of (bytes, Record)
            What was counted as this model's, with the hash of its inference id.
        """
        records = list(records)
        self._count_requests(records)
        self.unreadable += len(problems)
        found = [*self.problems, *((key, line, reason) for line, reason in problems)]
        self.problems = sorted(found)[:_EXAMPLES] if problems else self.problems
        live, dropped = only_live(records)
        self.tagged += dropped
        counted = list(self._first(live, beside, since))
        self._add([record for _, record in counted])
        self.files[key] = etag
        return counted

    def _count_requests(self, records: Iterable[Record]) -> None:
        last, event = self.start + 2 * HOUR, ""
        for record in records:
            if record.event_id != event and record.source != REFUSED:  # the payments of one request stand together
                event = record.event_id
                self.requests[int(min(max(record.time, self.start), last) // BUCKET * BUCKET)] += 1

    def _first(
        self, records: Iterable[Record], beside: Collection[Collection[bytes]], since: float
    ) -> Iterator[tuple[bytes, Record]]:
        """Records of this model whose inference id was not counted yet."""
        for record in records:
            if record.model_version != self.model_version and (record.model_version or record.time < since):
                self.other_model += 1
                continue
            text = record.inference_id.encode("utf-8", "surrogatepass")
            digest = hashlib.blake2b(text, digest_size=_DIGEST).digest()
            if digest in self.ids or any(digest in ids for ids in beside):
                self.repeated += 1
                continue
            self.ids.add(digest)
            yield digest, record

    def _add(self, records: Collection[Record]) -> None:
        self.callers.update(record.caller for record in records if record.caller)
        heavy = self._heavy(self.n + len(records))
        for name in self.own.keys() - heavy:
            self.rest.merge(self.own.pop(name))
        for record in records:
            if record.caller not in heavy:
                self.rest.add(record)
                continue
            if record.caller not in self.own:
                self.own[record.caller] = self.kind(self.baseline, self.schema)
            self.own[record.caller].add(record)
            self._waiting += 1
        if self._waiting > _WAITING:  # many sketches that wait for many records each would fill the memory
            self._waiting = 0
            for sketch in self.own.values():
                _ = sketch.features

    def _heavy(self, total: int) -> set[str]:
        """Callers with a sketch of their own: who ever was above the share, the heaviest of them."""
        if self.heavy_share >= 1 or not self.callers:
            return set(self.own)
        above = {name for name, count in self.callers.items() if count > self.heavy_share * total} | self.own.keys()
        return set(sorted(above, key=lambda name: (-self.callers[name], name))[:HEAVY])

    @property
    def n(self) -> int:
        """Payments counted."""
        return self.rest.n + sum(sketch.n for sketch in self.own.values())

    def to_json(self) -> str:
        """Write it; equal hours give equal text."""
        callers = sorted(self.callers.items(), key=lambda item: (-item[1], item[0]))[:_CALLERS]
        document = {
            "schema_version": 1,
            "model_version": self.model_version,
            "hour": iso(self.start),
            "n": self.n,
            **{name: getattr(self, name) for name in _NUMBERS},
            "tagged": dict(sorted(self.tagged.items())),
            "requests": {str(moment): count for moment, count in sorted(self.requests.items())},
            "problems": self.problems,
            "files": dict(sorted(self.files.items())),
            "ids": base64.b64encode(b"".join(sorted(self.ids))).decode(),
            "callers": dict(callers),
        }
        own = ", ".join(f"{json.dumps(name)}: {sketch.to_json()}" for name, sketch in sorted(self.own.items()))
        text = json.dumps(document, allow_nan=False, ensure_ascii=False)
        return f'{text[:-1]}, "sketch": {self.rest.to_json()}, "own": {{{own}}}}}'

    @classmethod
    def from_json(
        cls,
        document: str | bytes,
        baseline: Mapping[str, Any],
        schema: Schema | None,
        kind: type[Sketch] = Sketch,
    ) -> Hour:
        """Read what `to_json` wrote.

        Raises
        ------
        DataError
            When it was not made with this baseline, or by another version: it must be counted anew.
        """
        try:
            found = json.loads(document)
            hour = cls(baseline, schema, seconds(found["hour"]), kind)
            if found["schema_version"] != 1 or found["model_version"] != hour.model_version:
                raise DataError("The counted hour has another version, or belongs to another model.")
            for name in _NUMBERS:
                setattr(hour, name, int(found[name]))
            hour.tagged, hour.callers = Counter(found["tagged"]), Counter(found["callers"])
            hour.requests = Counter({int(moment): count for moment, count in found["requests"].items()})
            hour.problems = [(str(key), int(line), str(reason)) for key, line, reason in found["problems"]]
            hour.files = dict(found["files"])
            ids = base64.b64decode(found["ids"], validate=True)
            hour.ids = {ids[place : place + _DIGEST] for place in range(0, len(ids), _DIGEST)}
            hour.rest = kind.from_json(baseline, found["sketch"], schema)
            hour.own = {name: kind.from_json(baseline, one, schema) for name, one in found["own"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"The counted hour cannot be read: {type(error).__name__}.") from error
        return hour


def hours_of(start: dt.datetime | float, end: dt.datetime | float) -> list[float]:
    """Begins of the capture hours that overlap ``[start, end)``, oldest first.

    Examples
    --------
    >>> hours_of(3700, 7201)
    [3600.0, 7200.0]
    """
    since, until = seconds(start), seconds(end)
    first = since // HOUR * HOUR
    return [first + k * HOUR for k in range(max(0, -int(-(until - first) // HOUR)))] if since < until else []


def hour_key(endpoint: str, model_version: str, hour: float) -> str:
    """Key of a counted hour.

    Examples
    --------
    >>> hour_key("fraud", "run-1", 3600)
    'drift/fraud/sketches/run-1/1970/01/01/01.json'
    """
    moment = dt.datetime.fromtimestamp(hour, dt.UTC)
    return f"drift/{endpoint}/sketches/{model_version}/{moment:%Y/%m/%d/%H}.json"


def capture_prefixes(endpoint: str, variant: str, hour: float) -> list[str]:
    """Prefixes of the captured objects of an hour; with two slashes where the destination ended in one.

    Examples
    --------
    >>> capture_prefixes("fraud", "AllTraffic", 0)[1]
    'data-capture//fraud/AllTraffic/1970/01/01/00/'
    """
    moment = dt.datetime.fromtimestamp(hour, dt.UTC)
    return [f"data-capture/{slash}{endpoint}/{variant}/{moment:%Y/%m/%d/%H}/" for slash in ("", "/")]
