"""How much one caller may count: nobody can buy a retraining with forged payments alone.

Of a window no caller may make up more than a given share, as long as enough other traffic is there. The share is held
for the window as a whole, since that is what is judged: in a single hour somebody may dominate. Which of a caller's
payments are too many is known only when all are counted, so they are not picked one by one: the counts of the caller
are made smaller, all in the same proportion, as if an even sample of its payments stayed. That depends on neither the
order nor the grouping of the records.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fraud.schema import Schema
from fraud.sketch import Sketch


def most_each(totals: Mapping[str, int], others: int, share: float) -> int | None:
    """How many payments each caller may count, so that none makes up more than a share of all that count.

    Parameters
    ----------
    totals : mapping of str to int
        Payments of the heavy callers.
    others : int
        Payments of everybody else, none of whom is held down.
    share : float
        In (0, 1].

    Returns
    -------
    int or None
        None when nobody is above the share. 0 when there is too little other traffic to hold the share at all.

    Examples
    --------
    >>> most_each({"a": 1000, "b": 100}, 300, 0.25)
    133
    >>> most_each({"a": 1000}, 0, 0.25), most_each({"a": 20}, 80, 0.25)
    (0, None)
    """
    sizes = sorted(totals.values(), reverse=True)
    rest = others + sum(sizes)
    if share >= 1 or not sizes or sizes[0] <= share * rest:
        return None
    for held, size in enumerate(sizes, 1):
        rest -= size
        if share * held >= 1:
            break
        most = share * rest / (1 - share * held)  # the share is reached exactly: most = share * (rest + held * most)
        if held == len(sizes) or most >= sizes[held]:
            return math.floor(most + 1e-9)
    return min(sizes)


def shrunk(sketch: Sketch, baseline: Mapping[str, Any], schema: Schema | None, n: int) -> Sketch:
    """A sketch as an even sample of its records would give it.

    Parameters
    ----------
    sketch : Sketch
        Left as it is.
    baseline : mapping
        By which it was counted.
    schema : Schema or None
        By which it was counted.
    n : int
        Records to leave.

    Returns
    -------
    Sketch
        Every count in the same proportion, rounded so that those of one feature add up to ``n``; means, least and
        greatest value stay.
    """
    if n >= sketch.n:
        return Sketch(baseline, schema).merge(sketch)
    if n <= 0:
        return Sketch(baseline, schema)
    document = json.loads(sketch.to_json())
    factor = n / document["n"]
    document["n"] = n
    document["reviewed"] = round(document["reviewed"] * factor)
    document["unknown_records"] = round(document["unknown_records"] * factor)
    document["unknown_fields"] = {k: v for k, v in _scaled(document["unknown_fields"], factor).items() if v}
    for part in (document["score"], *document["features"].values()):
        _shrink(part, n, factor)
    return Sketch.from_json(baseline, document, schema)


def _shrink(part: dict[str, Any], n: int, factor: float) -> None:
    """Make the counts of one column smaller, in place."""
    number = "counts" in part
    known = part["counts"] if number else [*part["top"].values(), part["other"], part["unseen"]]
    *kept, part["absent"], missing, part["invalid"] = apportioned(
        [*known, part["absent"], part["missing"] - part["absent"], part["invalid"]], n
    )
    part["missing"] = missing + part["absent"]
    mean = math.fsum(part["sum"]) / part["count"] if number and part["count"] else 0.0
    part["count"] = sum(kept)
    if not number:
        *tops, part["other"], part["unseen"] = kept
        part["top"] = dict(zip(part["top"], tops, strict=True))
        return
    part["counts"] = kept
    part["sum"] = [total] if (total := mean * part["count"]) else []
    part["below"], part["above"] = round(part["below"] * factor), round(part["above"] * factor)
    part["repeats"] = {text: count for text, count in _scaled(part["repeats"], factor).items() if count}
    if not part["count"]:
        part["min"] = part["max"] = None


def _scaled(counts: Mapping[str, int], factor: float) -> dict[str, int]:
    return {name: round(count * factor) for name, count in counts.items()}


def apportioned(counts: Sequence[int], total: int) -> list[int]:
    """Counts in the same proportion that add up to a total, by the largest remainders.

    Examples
    --------
    >>> apportioned([5, 3, 2], 4)
    [2, 1, 1]
    """
    whole = sum(counts)
    if not whole:
        return [0] * len(counts)
    made = [count * total // whole for count in counts]
    by_remainder = sorted(range(len(counts)), key=lambda k: (-(counts[k] * total % whole), k))
    for k in by_remainder[: total - sum(made)]:
        made[k] += 1
    return made
