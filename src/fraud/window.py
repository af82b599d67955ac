"""A window of live traffic, counted: from the captured objects, or from hours that were counted before."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fraud.callers import limits, most_each, shrunk
from fraud.capture import REFUSED, SHADOW, Record, hour_of_key, hour_prefixes, parse_file, variant_of_key
from fraud.errors import CaptureFormatError, DataError
from fraud.hours import HEAVY, Hour, capture_prefixes, hour_key, hours_of
from fraud.moment import seconds
from fraud.plaintext import percent
from fraud.schema import Schema
from fraud.sketch import Sketch

VARIANT = "AllTraffic"
OWN = 0.5  # of the share that a caller may have: with that much of an hour its payments are kept apart


@dataclass
class Window:
    """What lay in a window.

    Attributes
    ----------
    sketch : Sketch
        Records of the model in service, counted.
    files : int
        Captured objects counted.
    unreadable : int
        Lines, or whole objects, that cannot be read.
    problems : list of (str, int, str)
        Key, line number (0 for the whole object) and reason of the first twenty of them.
    other_model : int
        Records that another model answered.
    tagged : dict of str to int
        Records of tests and probes, by tag; under ``refused`` requests that got no score.
    repeated : int
        Records whose inference id was there before: in the same hour, or in one beside it.
    capped : int
        Records left out because their caller sent too large a share.
    callers : dict of str to float
        Share of the heaviest callers before that.
    usual_callers : dict of str to float
        The shares of them that were usual, where it was asked.
    requests : dict of int to int
        Captured requests by begin of the five minutes in which they were answered (seconds since 1970, UTC).
    notes : list of str
        What a reader must know, in sentences.
    """

    sketch: Sketch
    files: int = 0
    unreadable: int = 0
    problems: list[tuple[str, int, str]] = field(default_factory=list)
    other_model: int = 0
    tagged: dict[str, int] = field(default_factory=dict)
    repeated: int = 0
    capped: int = 0
    callers: dict[str, float] = field(default_factory=dict)
    usual_callers: dict[str, float] = field(default_factory=dict)
    requests: dict[int, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def refused(self) -> int:
        """Captured requests that were refused: no payments."""
        return self.tagged.get(REFUSED, 0)

    @property
    def skipped(self) -> int:
        """Records that are in the window but not compared."""
        return self.other_model + sum(self.tagged.values()) - self.refused


class Gathering:
    """Puts counted hours together, one at a time.

    Parameters
    ----------
    baseline : mapping
        ``baseline.json`` of the model.
    schema : Schema or None
        Of the same model.
    """

    def __init__(self, baseline: Mapping[str, Any], schema: Schema | None) -> None:
        self.baseline, self.schema = baseline, schema
        self.window = Window(Sketch(baseline, schema))
        self._own: dict[str, Sketch] = {}
        self._callers: Counter[str] = Counter()
        self._tagged: Counter[str] = Counter()
        self._requests: Counter[int] = Counter()

    def add(self, hour: Hour) -> None:
        """Take an hour, which stays as it is."""
        window = self.window
        window.sketch.merge(hour.rest)
        for name, sketch in hour.own.items():
            self._own.setdefault(name, Sketch(self.baseline, self.schema)).merge(sketch)
        self._callers += hour.callers
        self._tagged += hour.tagged
        self._requests += hour.requests
        window.files += len(hour.files)
        window.problems = sorted([*window.problems, *hour.problems])[:20]
        for name in ("unreadable", "repeated", "other_model"):
            setattr(window, name, getattr(window, name) + getattr(hour, name))

    def result(
        self, max_caller_share: float = 1.0, enough: int = 1, usual: Callable[[], Mapping[str, float]] = dict
    ) -> Window:
        """Return the window, no caller above its share of it; call it once.

        Parameters
        ----------
        max_caller_share : float
            In (0, 1]; 1 holds nobody down.
        enough : int
            Nobody is held down where fewer records than that would be left; a note says so then.
        usual : callable
            Asked for the usual share of each caller, once somebody is above ``max_caller_share``.
        """
        window = self.window
        window.tagged, window.requests = dict(self._tagged), dict(self._requests)
        if n := window.refused:
            what = "1 captured request was" if n == 1 else f"{n:,} captured requests were"
            window.notes.append(f"{what} refused: nothing to compare.")
        sizes = {name: max(self._callers[name], sketch.n) for name, sketch in self._own.items()}
        total = window.sketch.n + sum(sketch.n for sketch in self._own.values())
        heaviest = sorted(self._callers.items(), key=lambda item: (-item[1], item[0]))[:HEAVY]
        window.callers = {name: min(1.0, round(count / total, 4)) for name, count in heaviest} if total else {}
        kept = {name: sketch.n for name, sketch in self._own.items()}
        if max_caller_share < 1 and sizes and max(sizes.values()) > max_caller_share * total:
            shares = usual()
            window.usual_callers = {name: shares[name] for name in sorted(window.callers.keys() & shares.keys())}
            kept |= self._held(sizes, kept, limits(sizes, max_caller_share, shares), total, enough)
        for name, sketch in sorted(self._own.items()):
            window.sketch.merge(shrunk(sketch, self.baseline, self.schema, kept[name]))
        return window

    def _held(
        self, sizes: Mapping[str, int], kept: Mapping[str, int], allowed: Mapping[str, float], total: int, enough: int
    ) -> dict[str, int]:
        """What is left of the callers who sent more than is allowed, if that leaves enough; and notes about it.

        Where it does not, the heaviest of them is not held down, then the next one: with one backend that sends nearly
        everything, the others still are.
        """
        allowed, free = dict(allowed), []
        while most := most_each(sizes, total - sum(sizes.values()), allowed):
            # What a caller sent while it was not among the heavy ones stands in the rest, and counts against it.
            held = {name: min(kept[name], max(0, n - (sizes[name] - kept[name]))) for name, n in most.items()}
            left = total - sum(kept[name] - n for name, n in held.items())
            first = max(most, key=lambda name: (sizes[name], name))
            if left >= max(enough, 1):
                break
            free.append((first, allowed[first]))
            allowed[first] = 1.0
        if free:
            name, share = free[0]
            said = f"One caller sent {percent(sizes[name] / total)} of the payments; there is too little other traffic"
            self.window.notes.append(f"{said} to hold it to {percent(share)}.")
        if not most:
            return {}
        self.window.capped = total - left
        self.window.notes.append(
            f"{total - left:,} payments were left out: one caller sent {percent(sizes[first] / total)} of the payments "
            f"and counts for {percent(allowed[first])} at most."
        )
        return held


def read_window(
    list_keys: Callable[[str], Iterable[str]],
    read_bytes: Callable[[str], bytes],
    endpoint: str,
    start: dt.datetime | float,
    end: dt.datetime | float,
    *,
    baseline: Mapping[str, Any],
    schema: Schema | None = None,
    variants: Sequence[str] | None = None,
) -> Window:
    """Count the records of a window from the captured objects alone.

    Only what the model of the baseline answered is counted, each inference id once; an answer that names no model is
    taken as its own, for a window begins with the release.

    Parameters
    ----------
    list_keys : callable
        ``(prefix) -> keys``.
    read_bytes : callable
        ``(key) -> body``. What it raises is passed on: a failed read is no empty window.
    endpoint : str
        Endpoint name.
    start, end : datetime or float
        The window ``[start, end)`` by the moment of scoring, UTC.
    baseline : mapping
        ``baseline.json`` of the model in service.
    schema : Schema, optional
        Of the same model; tells unseen categories, and reads CSV.
    variants : sequence of str, optional
        Production variants to read; by default all, which lists every hour that was ever captured.

    Returns
    -------
    Window
    """
    since, until = seconds(start), seconds(end)
    whole = Hour(baseline, schema, since // 3600 * 3600)
    names: Sequence[str | None] = variants if variants is not None else [None]
    prefixes = [prefix for name in names for prefix in hour_prefixes(endpoint, name, since, until)]
    for key in sorted({key for prefix in prefixes for key in list_keys(prefix)}):
        try:
            if not since // 3600 * 3600 - 3600 <= hour_of_key(key) < until:
                continue
            if variants is None and variant_of_key(key) == SHADOW:
                continue
        except CaptureFormatError:
            pass  # counted as what cannot be read
        records, problems = _parse(read_bytes, key, schema)
        whole.take(key, "", [record for record in records if since <= record.time < until], problems)
    gathering = Gathering(baseline, schema)
    gathering.add(whole)
    return gathering.result()


def stored_window(
    list_keys: Callable[[str], Iterable[str]],
    read_bytes: Callable[[str], bytes],
    endpoint: str,
    model_version: str,
    start: dt.datetime | float,
    end: dt.datetime | float,
    baseline: Mapping[str, Any],
    schema: Schema | None = None,
    *,
    variants: Sequence[str] | None = None,
    max_caller_share: float = 1.0,
    enough: int = 1,
    usual: Mapping[str, float] | None = None,
) -> Window:
    """Put a window together from hours that the drift check has counted; what it has not seen yet is read and counted.

    The window is made of whole capture hours: all that overlap ``[start, end)``. Nothing is written.

    Parameters
    ----------
    list_keys, read_bytes, endpoint
        As for `read_window`.
    model_version : str
        Whose answers are counted.
    start, end : datetime or float
        As the verdict's window has them.
    baseline : mapping
        ``baseline.json`` of that model.
    schema : Schema, optional
        Of the same model.
    variants : sequence of str, optional
        Production variants whose new objects are looked for; by default those of the hours, or ``AllTraffic``.
    max_caller_share, enough
        As for `Gathering.result`; the policy's ``max_caller_share`` and ``min_records`` give the drift check's window.
    usual : mapping of str to float, optional
        ``usual_callers`` of the verdict.

    Returns
    -------
    Window

    Raises
    ------
    DataError
        When the baseline belongs to another model.
    """
    if baseline["model_version"] != model_version:
        raise DataError(f"The baseline belongs to {baseline['model_version']}, not to {model_version}.")
    hours = hours_of(start, end)
    # The hour before holds ids that must not count twice.
    known = {hour: hour_key(endpoint, model_version, hour) for hour in [h - 3600 for h in hours[:1]] + hours}
    folders = sorted({key.rsplit("/", 1)[0] + "/" for key in known.values()})
    there = {key for folder in folders for key in list_keys(folder)}
    counted = {
        hour: _stored(read_bytes(key), baseline, schema) or Hour(baseline, schema, hour)
        for hour, key in known.items()
        if key in there
    }
    seen = {key.split("/")[-6] for hour in counted.values() for key in hour.files}
    names = sorted(set(variants) if variants is not None else seen | {VARIANT})
    gathering = Gathering(baseline, schema)
    for begin in hours:
        hour = counted.setdefault(begin, Hour(baseline, schema, begin))
        beside = [counted[at].ids for at in (begin - 3600, begin + 3600) if at in counted]
        for key in new_keys(list_keys, endpoint, names, hour):
            records, problems = _parse(read_bytes, key, schema)
            hour.heavy_share = max_caller_share * OWN if max_caller_share < 1 else 1.0
            hour.take(key, "", records, problems, beside=beside, since=seconds(start))
        gathering.add(hour)
    return gathering.result(max_caller_share, enough, lambda: usual or {})


def _parse(
    read_bytes: Callable[[str], bytes], key: str, schema: Schema | None
) -> tuple[list[Record], list[tuple[int, str]]]:
    try:
        hour_of_key(key)
        return parse_file(read_bytes(key), key, schema)
    except CaptureFormatError as error:
        return [], [(0, str(error))]


def _stored(document: bytes, baseline: Mapping[str, Any], schema: Schema | None) -> Hour | None:
    try:
        return Hour.from_json(document, baseline, schema)
    except DataError:
        return None  # of another version; the objects it was made of are read again


def new_keys(
    list_keys: Callable[[str], Iterable[str]], endpoint: str, variants: Iterable[str], hour: Hour
) -> list[str]:
    """Captured objects of an hour that are not counted in it yet, but for a shadow's: they are copies."""
    prefixes = [p for name in variants if name != SHADOW for p in capture_prefixes(endpoint, name, hour.start)]
    listed = {key for prefix in prefixes for key in list_keys(prefix)}
    return sorted(listed - hour.files.keys())
