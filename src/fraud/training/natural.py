"""How far stretches of the training period lay from the whole of it: what moved then is no drift later.

Rows of one hour or one day are not independent draws. Cards come in bursts, weekends differ, columns start being
collected. So the training period is cut into stretches as long as the window of a check, and each is compared with the
whole as live traffic will be; what remains beyond chance is added to the thresholds of that feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

DAY = 86_400.0
LEAST_ROWS, LEAST_STRETCHES = 200, 8
QUANTILE = 0.95  # one stretch in twenty may have been odd, and taught nothing about the others


def stretches(times: np.ndarray) -> list[np.ndarray]:
    """Cut rows into stretches of a day, or of a twentieth of a shorter period.

    Parameters
    ----------
    times : ndarray of shape (n_rows,)
        Seconds since 1970.

    Returns
    -------
    list of ndarray
        Places of the rows of each stretch with enough rows; empty when there are too few stretches.
    """
    if not len(times) or not (span := float(times.max() - times.min())):
        return []
    number = ((times - times.min()) // min(DAY, span / 20)).astype(np.int64)
    order = np.argsort(number, kind="stable")
    found = np.split(order, np.flatnonzero(np.diff(number[order])) + 1)
    kept = [places for places in found if len(places) >= LEAST_ROWS]
    return kept if len(kept) >= LEAST_STRETCHES else []


def variation(
    train: np.ndarray, names: list[str], times: np.ndarray, features: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """Measure how far stretches of training lay from the whole, beyond chance.

    Parameters
    ----------
    train : ndarray of shape (n_rows, n_features)
        Encoded training rows; NaN is missing.
    names : list of str
        Of the features.
    times : ndarray of shape (n_rows,)
        Seconds since 1970.
    features : mapping
        ``features`` of the baseline, for the edges of numbers.

    Returns
    -------
    dict of str to dict
        ``psi``, ``ks``, ``missing`` and ``repeated`` by feature, and ``dispersion``: as how many rows of a stretch one
        independent row counts. Empty when the period is too short to tell.
    """
    cut = stretches(times)
    if not cut:
        return {}
    sizes = np.array([len(places) for places in cut], dtype=float)
    group = np.full(len(times), -1)
    for k, places in enumerate(cut):
        group[places] = k
    found = {}
    for j, name in enumerate(names):
        cells, width, ordered = _cells(train[:, j], features[name].get("edges"))
        inside = group >= 0
        counts = np.bincount(group[inside] * width + cells[inside], minlength=len(cut) * width).reshape(-1, width)
        found[name] = _beyond_chance(counts, np.bincount(cells, minlength=width), sizes, ordered)
        if ordered:
            found[name]["repeated"] = _typical(np.array(_bursts(train[:, j], cut)))
    return found


def _cells(values: np.ndarray, edges: list[float] | None) -> tuple[np.ndarray, int, bool]:
    """Number of the bin of each value, the last one for the missing; how many bins; whether they have an order."""
    lost = np.isnan(values)
    if edges is not None:
        bins = np.searchsorted(np.asarray(edges, dtype=float), values, side="left")
        width = len(edges) + 1
    else:
        codes, bins = np.unique(values, return_inverse=True)
        width = len(codes)
    return np.where(lost, width, bins), width + 1, edges is not None


def _beyond_chance(counts: np.ndarray, whole: np.ndarray, sizes: np.ndarray, ordered: bool) -> dict[str, float]:
    rows = float(whole.sum())
    there = whole > 0
    current, reference = (counts + 0.5)[:, there], (whole + 0.5)[there]
    current, reference = current / current.sum(1, keepdims=True), reference / reference.sum()
    psi = ((current - reference) * np.log(current / reference)).sum(axis=1)
    degrees = max(1, int(there.sum()) - 1)
    chance = degrees * (1 / sizes + 1 / rows)  # the mean of chi-square, over the sample size
    often = 1 + 1.645 * np.sqrt(2 / degrees) + 0.6 / degrees  # its 95 % point, as a multiple of the mean
    gap = np.abs(counts[:, -1] / sizes - whole[-1] / rows)
    error = np.sqrt(whole[-1] / rows * (1 - whole[-1] / rows) / sizes)
    wider = max(1.0, round(float(np.median(psi / np.maximum(chance, 1e-12))), 3))  # Rao and Scott (1981), first order
    found = {"psi": _typical(psi - often * chance), "missing": _typical(gap - 2 * error), "dispersion": wider}
    if ordered:
        present = np.maximum(counts[:, :-1].sum(axis=1, keepdims=True), 1)
        steps = counts[:, :-1] / present - whole[:-1] / max(1, whole[:-1].sum())
        ks = np.abs(np.cumsum(steps, axis=1)).max(axis=1)
        found["ks"] = _typical(ks - 1.36 / np.sqrt(present[:, 0]))  # Kolmogorov's 5 % point
    return found


def _bursts(values: np.ndarray, cut: list[np.ndarray]) -> list[float]:
    """By how much the share of one value rose in each stretch: one card's burst repeats whatever is the card's own."""
    known, counts = np.unique(values[~np.isnan(values)], return_counts=True)
    rises = []
    for places in cut:
        there, times = np.unique(values[places][~np.isnan(values[places])], return_counts=True)
        usual = counts[np.searchsorted(known, there)] / len(values)
        rises.append(float((times / len(places) - usual).max(initial=0.0)))
    return rises


def _typical(excess: np.ndarray) -> float:
    return round(max(0.0, float(np.quantile(excess, QUANTILE))), 6)
