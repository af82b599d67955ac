"""Counts what was captured, hour by hour, each object once; what is counted lies in the bucket (`fraud.hours`).

Nothing is written but whole hours, under the condition that nobody wrote the same hour since it was read. Who loses
reads it again and counts what is missing still, so that any number of checks at the same moment, a check that is
killed, and one that is delivered twice all end with the same counts. (Of values that repeat, `fraud.tally` keeps the
frequent ones; how often a rare one was seen may depend on how many checks counted the hour.)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from aws import Bucket, Item
from counting import FastSketch, Reader
from truth import append_scores

from fraud.capture import SHADOW, Record, hour_of_key, variant_of_key
from fraud.errors import CaptureFormatError, ConflictError, DataError, FraudError
from fraud.hours import HOUR, Hour, capture_prefixes, hour_key, hours_of
from fraud.schema import Schema
from fraud.window import OWN, Gathering

RESERVE = 10.0  # seconds that are left to write what was counted
ATTEMPTS = 20
CAPTURE_DELAY = 900.0  # seconds until captured data has arrived for sure
AHEAD = 4  # objects read while others are counted
WHOLE = 8 << 20  # bytes up to which an object is read ahead


class UnfinishedError(FraudError):
    """The time was over before everything was counted; what was counted is kept, and the next check goes on."""


@dataclass
class _Scores:
    """Scores of what was counted anew, as truth that arrives later is joined with them."""

    ids: list[bytes] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def add(self, counted: Iterable[tuple[bytes, Record]]) -> None:
        for digest, record in counted:
            self.ids.append(digest)
            self.scores.append(record.fraud_probability)
            self.times.append(record.time)

    def keep(self, bucket: Bucket, endpoint: str, model_version: str) -> None:
        if self.ids:
            ids = np.frombuffer(b"".join(self.ids), ">u8").astype(np.uint64)
            append_scores(bucket.put, endpoint, model_version, ids, self.scores, self.times)


class Counter:
    """Counts the hours of one endpoint for one model.

    Parameters
    ----------
    bucket : Bucket
    endpoint : str
        Endpoint name.
    baseline : mapping
        ``baseline.json`` of the model.
    schema : Schema
        Of the same model.
    released : float
        An answer that names no model is the model's own from this moment on (seconds since 1970, UTC).
    left : callable
        Seconds that are left.
    max_caller_share : float
        That the counted hours must allow to hold.
    """

    def __init__(
        self,
        bucket: Bucket,
        endpoint: str,
        baseline: Mapping[str, Any],
        schema: Schema,
        released: float,
        left: Callable[[], float],
        max_caller_share: float = 1.0,
    ) -> None:
        self.bucket, self.endpoint, self.baseline, self.schema = bucket, endpoint, baseline, schema
        self.released, self.left, self.max_caller_share = released, left, max_caller_share
        self.model_version = str(baseline["model_version"])
        self.reader = Reader(schema)
        self._stored: dict[float, tuple[bytes, str] | None] = {}

    def variants(self) -> list[str]:
        """Production variants that captured anything, but for a shadow's: they are copies."""
        found = {name for slash in ("", "/") for name in self.bucket.folders(f"data-capture/{slash}{self.endpoint}/")}
        return sorted(found - {SHADOW})

    def window(self, start: float, end: float, variants: Iterable[str]) -> Gathering:
        """Count what is new in the capture hours that overlap a window, and put them together.

        Raises
        ------
        UnfinishedError
            When the time is over; a later check goes on.
        ConflictError
            When others write the same hour again and again.
        """
        own = hours_of(start, end)
        # What the last checks could not see yet belongs to the hour before, which a short window leaves out.
        hours = hours_of(start - CAPTURE_DELAY, end) if own else []
        listed = self._list(hours, variants)
        with ThreadPoolExecutor(AHEAD) as pool:
            around = sorted({hour + shift for hour in hours for shift in (-HOUR, 0.0)})
            found = pool.map(self.bucket.find, [self._key(hour) for hour in around])
            self._stored = dict(zip(around, found, strict=True))
            gathering = Gathering(self.baseline, self.schema)
            before: set[bytes] = set()
            for hour in hours:
                if hour == hours[0] and any(listed.values()) and (first := self._known(hour - HOUR)):
                    before = first.ids
                counted = self._count(hour, listed.get(hour, {}), before, pool)
                if hour in own:
                    gathering.add(counted)
                before = counted.ids
        return gathering

    def stored(self, start: float, end: float) -> Gathering:
        """Put hours together as they are stored, counting nothing."""
        gathering = Gathering(self.baseline, self.schema)
        with ThreadPoolExecutor(AHEAD) as pool:
            for found in pool.map(self.bucket.find, [self._key(hour) for hour in hours_of(start, end)]):
                if found and (hour := self._read(found[0])):
                    gathering.add(hour)
        return gathering

    def _key(self, hour: float) -> str:
        return hour_key(self.endpoint, self.model_version, hour)

    def _read(self, document: bytes) -> Hour | None:
        try:
            return Hour.from_json(document, self.baseline, self.schema, FastSketch)
        except DataError:
            return None  # of another version of this program, or of the baseline: it is counted anew

    def _known(self, hour: float) -> Hour | None:
        found = self._stored.get(hour)
        return self._read(found[0]) if found else None

    def _list(self, hours: list[float], variants: Iterable[str]) -> dict[float, dict[str, Item]]:
        """Captured objects by hour and key."""
        found: dict[float, dict[str, Item]] = {hour: {} for hour in hours}
        for variant in variants if hours else ():
            for first, last in zip(*(capture_prefixes(self.endpoint, variant, hours[k]) for k in (0, -1)), strict=True):
                prefix = first[: -len("yyyy/mm/dd/HH/")]
                listed = self.bucket.items(prefix, after=first)
                for item in listed:
                    if item.key[: len(last)] > last:
                        break
                    begin = _begin_of(item.key)
                    if item.size and begin in found:
                        found[begin][item.key] = item
        return found

    def _count(self, begin: float, listed: Mapping[str, Item], before: set[bytes], pool: ThreadPoolExecutor) -> Hour:
        for _ in range(ATTEMPTS):
            found = self._stored.get(begin)
            hour = self._read(found[0]) if found else None
            if hour is None or any(hour.files.get(key, item.etag) != item.etag for key, item in listed.items()):
                # Counts cannot be taken back: an hour with an object that was written over is counted anew.
                hour = Hour(self.baseline, self.schema, begin, FastSketch)
            if not (new := [item for key, item in sorted(listed.items()) if key not in hour.files]):
                return hour
            hour.heavy_share = self.max_caller_share * OWN if self.max_caller_share < 1 else 1.0
            after = self._known(begin + HOUR)
            beside = [before, *([after.ids] if after else [])]
            scores, taken = _Scores(), 0
            for item, etag, pieces in self._bodies(new, pool):
                self._take(hour, item.key, etag, pieces, beside, scores)
                taken += 1
                if self.left() < RESERVE:
                    break
            text = hour.to_json()
            scores.keep(self.bucket, self.endpoint, self.model_version)  # before the hour says that they are counted
            try:
                self.bucket.put_if(self._key(begin), text, found[1] if found else None)
            except ConflictError:
                self._stored[begin] = self.bucket.find(self._key(begin))
                continue
            if taken < len(new):
                raise UnfinishedError(
                    f"The check stopped after {taken} of {len(new)} captured objects of an hour because its time was "
                    "nearly over; what was counted is kept, and the next check goes on."
                )
            # What is stored is less than what is in memory: of repeated values only the most frequent.
            return Hour.from_json(text, self.baseline, self.schema, FastSketch)
        raise ConflictError(f"{self._key(begin)} was written by others {ATTEMPTS} times; is the check run too often?")

    def _bodies(self, items: list[Item], pool: ThreadPoolExecutor) -> Iterator[tuple[Item, str, Iterable[bytes]]]:
        """Read objects, a few ahead of the one that is counted; large ones piece by piece."""
        waiting: list[tuple[Item, Any]] = []
        rest = iter(items)
        while True:
            for item in itertools.islice(rest, AHEAD - len(waiting)):
                waiting.append((item, pool.submit(self._whole, item.key) if item.size <= WHOLE else None))
            if not waiting:
                return
            item, future = waiting.pop(0)
            yield item, *(future.result() if future else self.bucket.pieces(item.key))

    def _whole(self, key: str) -> tuple[str, list[bytes]]:
        if (found := self.bucket.find(key)) is None:
            raise FileNotFoundError(key)
        return found[1], [found[0]]

    def _take(
        self, hour: Hour, key: str, etag: str, pieces: Iterable[bytes], beside: list[set[bytes]], scores: _Scores
    ) -> None:
        """Count one object."""
        try:
            variant, _ = variant_of_key(key), hour_of_key(key)
        except CaptureFormatError as error:
            hour.take(key, etag, [], [(0, str(error))])
            return
        line, ends = 1, iter(pieces)
        piece = next(ends, b"")
        while True:
            following = next(ends, None)
            records, problems = self.reader.read(piece, variant, line, following is None)
            scores.add(hour.take(key, etag, records, problems, beside=beside, since=self.released))
            if following is None:
                return
            line += piece.count(b"\n")
            piece = following


def _begin_of(key: str) -> float | None:
    """Begin of the hour folder that a key lies in."""
    try:
        folder = "/".join(key.split("/")[-5:-1])
        return hour_of_key(f"e/v/{folder}/00-00-000-0.jsonl")
    except CaptureFormatError:
        return None
