"""Parts of the rows that are graded apart: kinds of product, bands of amount, cards that training had not seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from fraud.training import bootstrap
from fraud.training.metrics import Graded

MIN_EACH = 10  # frauds, and legitimate rows, that a segment needs for a figure
MOST_VALUES = 8
BANDS = 4


def masks(
    graded: Graded, columns: Mapping[str, np.ndarray], seen_card: np.ndarray | None
) -> Iterator[tuple[str, str, np.ndarray]]:
    """Name and rows of every segment.

    Parameters
    ----------
    graded : Graded
    columns : mapping of str to ndarray of str
        Values of the columns that make segments; None where one is missing.
    seen_card : ndarray of bool or None
        Whether training had rows of the card.

    Yields
    ------
    by : str
    segment : str
    mask : ndarray of bool
    """
    for name, values in columns.items():
        texts, counts = np.unique(values[values != None].astype(str), return_counts=True)  # noqa: E711  an array of objects
        shown = texts[np.lexsort((texts, -counts))][:MOST_VALUES]
        for text in shown:
            yield name, str(text), values == text
        rest = ~np.isin(values.astype(str), shown) & (values != None)  # noqa: E711
        if rest.any():
            yield name, "other", rest
        if (missing := values == None).any():  # noqa: E711
            yield name, "missing", missing
    if graded.amount is not None and np.isfinite(graded.amount).any():
        ends = np.unique(np.nanquantile(graded.amount, np.linspace(0, 1, BANDS + 1)[1:-1]))
        band = np.searchsorted(ends, graded.amount, side="right")
        for k in range(len(ends) + 1):
            low, high = (f"{ends[j]:,.6g}" if 0 <= j < len(ends) else "" for j in (k - 1, k))
            named = f"from {low} to below {high}" if low and high else f"below {high}" if high else f"from {low}"
            yield "amount", named, (band == k) & ~np.isnan(graded.amount)
    if seen_card is not None:
        yield "card", "known to training", seen_card
        yield "card", "new", ~seen_card


def table(
    graded: Graded,
    score: np.ndarray,
    champion: np.ndarray | None,
    parts: Iterator[tuple[str, str, np.ndarray]],
    threshold: float,
    replicates: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Grade every segment.

    Parameters
    ----------
    graded : Graded
    score : ndarray of shape (n_rows,)
    champion : ndarray of shape (n_rows,) or None
        Scores of the model in service.
    parts : iterator
        As `masks` gives them.
    threshold : float
        Review means ``score >= threshold``.
    replicates, seed : int
        Of the bootstrap.

    Returns
    -------
    list of dict
        ``by``, ``segment``, ``rows``, ``frauds``, ``recall`` at the threshold, ``auc`` with ``auc_low`` and
        ``auc_high``; beside a champion ``champion_auc`` and its paired ``difference``, ``low``, ``high``. Figures are
        None where a segment has fewer than `MIN_EACH` rows of a class.
    """
    found = []
    for by, segment, mask in parts:
        here = graded.take(mask)
        frauds = int(here.label.sum())
        row: dict[str, Any] = {"by": by, "segment": segment, "rows": len(here.label), "frauds": frauds}
        row["recall"] = float((score[mask][here.label == 1] >= threshold).mean()) if frauds else None
        names = ["auc", "auc_low", "auc_high"]
        if champion is not None:
            names += ["champion_auc", "difference", "low", "high"]
        row |= dict.fromkeys(names)
        if min(frauds, len(here.label) - frauds) >= MIN_EACH:
            everyone = np.ones(len(here.label))
            row["auc"] = bootstrap.Ranked(here.label, score[mask]).measure(everyone)[0]
            row["auc_low"], row["auc_high"] = bootstrap.intervals(here, score[mask], replicates, seed)["auc"]
            if champion is not None:
                row["champion_auc"] = bootstrap.Ranked(here.label, champion[mask]).measure(everyone)[0]
                row |= bootstrap.differences(here, score[mask], champion[mask], replicates, seed)["auc"]
        found.append(row)
    return found
