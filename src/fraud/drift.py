"""Has live traffic moved away from what the model learnt? One baseline, one sketch, one verdict.

The baseline is made once, at training. The verdict is made once a check and used by the trigger, the report, the e-mail
and the dashboard, so that they cannot disagree.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from fraud.precision import SINGLE, edge_above, last_of_cell, width_of
from fraud.schema import CATEGORY, NUMBER, Schema, category_text
from fraud.sketch import Sketch
from fraud.tally import HUGE, Numbers, bin_counts, exact_sum, finite_floats, most_frequent, repeated_values
from fraud.verdict import judge

__all__ = ["Sketch", "build_baseline", "category_profile", "judge", "number_profile", "reference_of"]

N_BINS = 20
TOP = 50
REACH = 0.01  # of the spread: so far beyond a value its bin may end
SCORE_EDGES = tuple(last_of_cell(k / N_BINS, SINGLE) for k in range(1, N_BINS))


def number_profile(values: Sequence[Any], edges: Sequence[float] | None = None) -> dict[str, Any]:
    """Describe the numbers of one column.

    Parameters
    ----------
    values : sequence of shape (n,)
        Numbers; None and NaN are missing, and so is what is infinite or no number. A NumPy array gives the same result
        as a list, faster.
    edges : sequence of float, optional
        Strictly rising. By default up to 19, each above a quantile of the values themselves; equal ones count once.
        None lies on a value: see `fraud.precision.edge_above`. Where the smallest value is a quantile too, an edge
        below it comes first, so that values below all known ones get a bin of their own, as those above do.

    Returns
    -------
    dict
        ``count``, ``missing``, ``mean``, ``std`` (population), ``min``, ``max``, ``median``, ``iqr`` (interquartile
        range; all null without values), ``edges``, ``counts`` of the bins ``(edge[i-1], edge[i]]``, ``repeats`` (values
        that at least one row in 200 has, with their counts), ``width`` (16 when float16 holds all values, else 32:
        two numbers that are one in this width lie in one bin). Exact: the order of the values makes no difference.

    Examples
    --------
    >>> profile = number_profile([0, 0, 0, 1, None])
    >>> profile["mean"], profile["missing"], profile["counts"]
    (0.25, 1, [0, 3, 1, 0])
    """
    rows = len(values)
    dtype: Any = getattr(values, "dtype", None)
    if dtype is not None and dtype.kind == "f":
        present = values[values == values]  # sorted by NumPy; sorting again costs nothing
        present.sort()
        values = present.tolist()
    elif hasattr(values, "tolist"):
        values = values.tolist()
    numbers, _, _ = finite_floats(values)
    count = len(numbers)
    mean = std = low = high = median = iqr = None
    if numbers:
        median = _quantile(numbers, 0.5)
        iqr = min(_quantile(numbers, 0.75) - _quantile(numbers, 0.25), HUGE)
        low, high = numbers[0], numbers[-1]
        mean = min(max((exact_sum(numbers) or [0.0])[0] / count, low), high)
        std = math.dist(numbers, [mean] * count) / math.sqrt(count)
    width = width_of(numbers)
    if edges is None:
        edges = _quantile_edges(numbers, REACH * (iqr or std or 0.0), width)
    return {
        "count": count,
        "missing": rows - count,
        "mean": mean,
        "std": std,
        "min": low,
        "max": high,
        "median": median,
        "iqr": iqr,
        "width": width,
        "edges": list(edges),
        "counts": bin_counts(numbers, edges),
        "repeats": most_frequent(repeated_values(numbers), TOP),
    }


def _quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    return ordered[max(math.ceil(round(share * len(ordered), 9)) - 1, 0)]


def _quantile_edges(ordered: Sequence[float], reach: float, width: int) -> list[float]:
    """Ends of up to 20 bins, each above all values that are one with a quantile in the width."""
    if not ordered:
        return []
    edges = set()
    for value in {_quantile(ordered, k / N_BINS) for k in range(1, N_BINS)}:
        place = bisect_right(ordered, last_of_cell(value, width))
        following = ordered[place] if place < len(ordered) else math.inf
        edges.add(edge_above(ordered[place - 1], following, reach, width))
    low = ordered[0]
    if len(edges) < N_BINS - 1 and _quantile(ordered, 1 / N_BINS) <= last_of_cell(low, width):
        edges.add(math.nextafter(-edge_above(-low, math.inf, reach, width), -math.inf))
    return sorted(edges)


def category_profile(
    values: Sequence[Any] | Mapping[Any, int], kind: str = CATEGORY, known: Iterable[str] = ()
) -> dict[str, Any]:
    """Describe the values of one category or boolean column.

    Parameters
    ----------
    values : sequence of shape (n,), or mapping
        The values, None and NaN for missing; or how often each occurs.
    kind : {'category', 'boolean'}
        Values of a boolean may be 0 and 1; they are counted as ``false`` and ``true``.
    known : iterable of str
        Values that the model knows, where it does not know all: of the others live traffic is unseen, too.

    Returns
    -------
    dict
        ``count``, ``missing``, ``top`` (the 50 most frequent values with their counts), ``other``, ``unseen`` (those
        that the model does not know).

    Examples
    --------
    >>> category_profile(["visa", "visa", None, 150.0])
    {'count': 3, 'missing': 1, 'top': {'visa': 2, '150': 1}, 'other': 0, 'unseen': 0}
    """
    names = frozenset(known)
    if not isinstance(values, Mapping):
        values = Counter(values.tolist() if hasattr(values, "tolist") else values)
    counts: Counter[str] = Counter()
    missing = 0
    for value, count in values.items():
        if value is None or value != value:
            missing += int(count)
        elif count:
            counts[category_text(value if kind == CATEGORY else bool(value))] += int(count)
    top = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:TOP])
    rest = {text: count for text, count in counts.items() if text not in top}
    unseen = sum(count for text, count in rest.items() if names and text not in names)
    other = sum(rest.values()) - unseen
    return {"count": counts.total(), "missing": missing, "top": top, "other": other, "unseen": unseen}


def build_baseline(
    columns: Mapping[str, Sequence[Any] | Mapping[Any, int]],
    schema: Schema,
    scores: Sequence[float],
    model_version: str,
    *,
    threshold: float | None = None,
    importance: Mapping[str, float] | None = None,
    performance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Describe the training rows for every later drift check.

    Parameters
    ----------
    columns : mapping of str to sequence of shape (n,)
        Values of every feature: lists or NumPy arrays. For a category or boolean feature also a mapping of value to
        count, with None for the missing.
    schema : Schema
        The model's schema.
    scores : sequence of float of shape (n,)
        The model's own scores, of rows that it has not seen.
    model_version : str
        The run that trained it.
    threshold : float, optional
        Score at or above which a payment is reviewed.
    importance : mapping of str to float, optional
        Share of the model's gain that each feature brings.
    performance : mapping, optional
        How right the model was where it was graded, as `fraud.performance.reference` says it.

    Returns
    -------
    dict
        ``baseline.json``: small, and without any row of the data.
    """
    features: dict[str, Any] = {}
    for feature in schema.features:
        values = columns[feature.name]
        known: dict[str, Any] = {"type": feature.type, "required": feature.required}
        known |= {"importance": importance.get(feature.name, 0.0)} if importance is not None else {}
        if feature.type == NUMBER:
            if isinstance(values, Mapping):
                values = list(chain.from_iterable([value] * count for value, count in values.items()))
            features[feature.name] = known | number_profile(values)
        else:
            features[feature.name] = known | category_profile(values, feature.type, feature.categories)
    reviewed = None if threshold is None or not len(scores) else sum(s >= threshold for s in scores) / len(scores)
    return {
        "schema_version": 2,
        "model_version": model_version,
        "rows": len(scores),
        "threshold": threshold,
        "review_rate": reviewed,
        "performance": performance,
        "features": features,
        "score": {"type": NUMBER} | number_profile(scores, SCORE_EDGES),
        "roles": dict(schema.roles),
        "ignored": list(schema.ignored),
    }


def reference_of(baseline: Mapping[str, Any], sketch: Sketch) -> dict[str, Any]:
    """Turn counted traffic into a reference, such as the same hours a week before: like is compared with like.

    Parameters
    ----------
    baseline : mapping
        ``baseline.json`` that the sketch was counted by.
    sketch : Sketch

    Returns
    -------
    dict
        As ``baseline.json``, with the counts, means and shares of the sketch. What a sketch does not know, such as the
        spread, stays as it was at training.
    """
    features = {}
    for name, entry in baseline["features"].items():
        current = sketch.features[name]
        seen: dict[str, Any] = {"count": current.count, "missing": current.missing + current.invalid}
        if isinstance(current, Numbers):
            seen |= {"mean": current.mean, "counts": current.counts, "repeats": current.repeats}
        else:
            seen |= {"top": current.top, "other": current.other, "unseen": current.unseen}
        features[name] = {**entry, **seen}
    score = {"count": sketch.score.count, "missing": sketch.score.missing, "mean": sketch.score.mean}
    return {
        **baseline,
        "rows": sketch.n,
        "review_rate": sketch.reviewed / sketch.n if sketch.n else None,
        "features": features,
        "score": {**baseline["score"], **score, "counts": sketch.score.counts},
    }
