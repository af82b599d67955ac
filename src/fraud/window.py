"""A window of live traffic, read once from the captured objects and counted."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fraud.capture import hour_of_key, hour_prefixes, only_live, parse_file
from fraud.errors import CaptureFormatError
from fraud.moment import seconds
from fraud.schema import Schema
from fraud.sketch import Sketch

_EXAMPLES = 20  # problems kept with their place; all are counted


@dataclass
class Window:
    """What lay in a window.

    Attributes
    ----------
    sketch : Sketch
        Records of the model in service, counted.
    files : int
        Captured objects read.
    unreadable : int
        Lines, or whole objects, that cannot be read.
    problems : list of (str, int, str)
        Key, line number (0 for the whole object) and reason of the first twenty of them.
    other_model : int
        Records that another model answered.
    tagged : dict of str to int
        Records of tests and probes, by tag.
    """

    sketch: Sketch
    files: int = 0
    unreadable: int = 0
    problems: list[tuple[str, int, str]] = field(default_factory=list)
    other_model: int = 0
    tagged: dict[str, int] = field(default_factory=dict)

    @property
    def skipped(self) -> int:
        """Records that are in the window but not compared."""
        return self.other_model + sum(self.tagged.values())


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
    """Count the records of a window.

    Only what the model of the baseline answered is counted; an answer that names no model is taken as its own, for a
    window begins with the release.

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
    window = Window(Sketch(baseline, schema))
    tagged: Counter[str] = Counter()
    names: Sequence[str | None] = variants if variants is not None else [None]
    prefixes = [prefix for name in names for prefix in hour_prefixes(endpoint, name, since, until)]
    for key in sorted({key for prefix in prefixes for key in list_keys(prefix)}):
        try:
            if not since // 3600 * 3600 - 3600 <= hour_of_key(key) < until:
                continue
            records, problems = parse_file(read_bytes(key), key, schema)
        except CaptureFormatError as error:
            records, problems = [], [(0, str(error))]
        window.files += 1
        window.unreadable += len(problems)
        window.problems += [(key, line, reason) for line, reason in problems[: _EXAMPLES - len(window.problems)]]
        live, dropped = only_live(record for record in records if since <= record.time < until)
        tagged += dropped
        for record in live:
            if record.model_version in ("", window.sketch.model_version):
                window.sketch.add(record)
            else:
                window.other_model += 1
    window.tagged = dict(tagged)
    return window
