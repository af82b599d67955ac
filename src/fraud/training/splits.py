"""Which rows fit the trees, which tell when to stop, which grade: always in the order of time.

The order is that of Dal Pozzolo et al., "Credit card fraud detection and concept-drift adaptation with delayed
supervised information" (IJCNN 2015), and of the Fraud Detection Handbook (Le Borgne et al., chapter 5.3): a training
period, a gap as long as labels take to become known, a test period; and the same again, shifted into the past.

    ├──────── fit ────────┼─ stopping ─┤   delay   ├── grading ──┤
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass

import numpy as np

from fraud.errors import DataError
from fraud.training.data import GRADING, SOURCES, Rows

DAY = 86_400.0
PSEUDO = SOURCES.index("pseudo")


@dataclass(frozen=True)
class Fold:
    """One round of learning and grading.

    Attributes
    ----------
    train : ndarray of bool
        Mask over all rows: those the shipped trees learn from.
    stopping : ndarray of bool
        The newest of them. They are left out while the number of trees, the calibration and a cost threshold are
        found.
    grading : ndarray of bool
        Later rows, seen by nothing before the model is done.
    known_cards : int
        Rows that do not grade because their card was known to be compromised.
    """

    train: np.ndarray
    stopping: np.ndarray
    grading: np.ndarray
    known_cards: int = 0


def prequential(rows: Rows, p: Namespace, card: np.ndarray | None = None) -> list[Fold]:
    """Cut the rows into folds in time.

    Parameters
    ----------
    rows : Rows
    p : Namespace
        Hyperparameters: ``validation_days`` (whole UTC days) or, when that is 0, ``validation_fraction`` of the truly
        labelled rows; ``delay_days``, ``train_days`` (0 is all), ``folds``, ``stopping_fraction``, ``label_coverage``,
        ``exclude_known_cards``.
    card : ndarray of int, optional
        Card of each row; -1 where there is none.

    Returns
    -------
    list of Fold
        Oldest first; the last one makes the model. Rows of the same moment stay together, so a share may be a little
        more. Pseudo-labelled rows teach in the last fold whatever their age, for nearly all are younger than any true
        label; they neither stop nor grade.

    Raises
    ------
    DataError
        When there is nothing to learn from or to grade on in the last fold. An older fold for which there is no
        history is left out.
    """
    true = np.isin(rows.source, [SOURCES.index(name) for name in GRADING])
    n_true = int(true.sum())
    if n_true < 2:
        raise DataError(f"{len(rows.time):,} rows, {n_true:,} of them with a true label: nothing to learn from.")
    complete = true & (rows.time < complete_until(rows, true, p.label_coverage))
    if not complete.any():
        raise DataError(
            f"On no day have {p.label_coverage:.0%} of the rows a true label (label_coverage): rows whose labels came "
            "early are no fair sample, so nothing can be graded."
        )
    folds = []
    for start, end in _periods(rows.time[complete], p):
        grading = complete & (rows.time >= start) & (rows.time < end)
        limit = start - p.delay_days * DAY
        train = true & (rows.time < limit) & (rows.time >= (limit - p.train_days * DAY if p.train_days else -np.inf))
        if not train.any() or not grading.any():
            if not folds:
                raise DataError(_nothing_earlier(rows, true, p, start))
            break
        known = 0
        if p.exclude_known_cards and card is not None:
            excluded = grading & known_cards(rows, train | (true & (rows.time >= limit) & (rows.time < end)), card, p)
            grading, known = grading & ~excluded, int(excluded.sum())
        stopping = newest(rows.time, train, p.stopping_fraction)
        if not folds:
            train = train | (rows.source == PSEUDO)
        folds.append(Fold(train, stopping, grading, known))
    return folds[::-1]


def complete_until(rows: Rows, true: np.ndarray, coverage: float) -> float:
    """End of the last UTC day of whose rows at least a share of ``coverage`` is truly labelled (seconds since 1970).

    Frauds are reported long before legitimate payments count as such. Where only the reports are there, a day has
    frauds and next to nothing else, and whoever grades on it measures the reports.
    """
    day = np.floor(rows.time / DAY).astype(np.int64)
    days, place = np.unique(day, return_inverse=True)
    share = np.bincount(place, true) / np.bincount(place)
    enough = days[share >= coverage] if coverage else days
    return float((enough.max() + 1) * DAY) if len(enough) else -np.inf


def known_cards(rows: Rows, known: np.ndarray, card: np.ndarray, p: Namespace) -> np.ndarray:
    """Rows of cards whose fraud was known on the day: payments that a bank would no longer have let through.

    A fraud of day *f* is known on day *d* when ``f + delay_days < d``.

    Parameters
    ----------
    rows : Rows
    known : ndarray of bool
        Rows whose labels count.
    card : ndarray of int
    p : Namespace
        ``delay_days``.

    Returns
    -------
    ndarray of bool
    """
    day = np.floor(rows.time / DAY)
    first = np.full(max(int(card.max(initial=-1)), 0) + 2, np.inf)  # the last place belongs to rows without a card
    fraud = known & (rows.label == 1) & (card >= 0)
    np.minimum.at(first, card[fraud], day[fraud])
    return day > first[card] + p.delay_days


def random_split(train: np.ndarray, grading: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Shuffle the rows of a fold; only to show how much a random split flatters.

    Parameters
    ----------
    train, grading : ndarray of bool
        Masks of a fold.
    seed : int

    Returns
    -------
    train, grading : ndarray of bool
        As many rows of each as before.
    """
    places = np.flatnonzero(train | grading)
    picked = np.random.default_rng(seed).permutation(places)[: int(grading.sum())]
    shuffled = np.zeros(len(grading), bool)
    shuffled[picked] = True
    return (train | grading) & ~shuffled, shuffled


def _periods(times: np.ndarray, p: Namespace) -> list[tuple[float, float]]:
    """Begin and end of the grading periods, newest first."""
    if p.validation_days:
        length = p.validation_days * DAY
        end = (np.floor(times.max() / DAY) + 1) * DAY
        return [(end - (k + 1) * length, end - k * length) for k in range(p.folds)]
    times = np.sort(times)
    size = max(1, round(len(times) * p.validation_fraction))
    periods, end = [], np.inf
    for k in range(p.folds):
        place = len(times) - (k + 1) * size
        if place < 0:
            break
        start = float(times[place])
        if start < end:  # many rows of one moment can fill a whole period
            periods.append((start, end))
        end = start
    return periods


def newest(time: np.ndarray, mask: np.ndarray, fraction: float) -> np.ndarray:
    """The newest share of some rows; rows of the same moment stay together, but never all of them."""
    times = np.sort(time[mask])
    start = times[len(times) - max(1, round(len(times) * fraction))]
    if start == times[0]:
        start = np.nextafter(start, np.inf) if times[-1] > start else np.inf
    return mask & (time >= start)


def _nothing_earlier(rows: Rows, true: np.ndarray, p: Namespace, start: float) -> str:
    earlier = true & (rows.time < start)
    if not earlier.any():
        return "No labelled row is earlier than the validation rows: do all rows have the same time?"
    days = (start - rows.time[earlier].min()) / DAY
    window = f" and train_days is {p.train_days}" if p.train_days else ""
    return (
        f"No labelled row is left to learn from: the history begins {days:.1f} days before the validation rows, "
        f"delay_days is {p.delay_days:g}{window}."
    )
