"""Which rows fit, stop and grade."""

from __future__ import annotations

import numpy as np
import pytest
import training_kit as kit
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud.errors import DataError
from fraud.training import splits
from fraud.training.data import GRADING, SOURCES, Rows

DAY = splits.DAY
HISTORY, TRUTH, PSEUDO = (SOURCES.index(name) for name in ("history", "truth", "pseudo"))


def rows_of(days, label=None, source=None):
    days = np.asarray(days, float)
    n = len(days)
    label = np.arange(n) % 2 if label is None else np.asarray(label)
    source = np.zeros(n) if source is None else np.asarray(source)
    return Rows(days * DAY, label.astype(np.int8), source.astype(np.int8), np.ones(n, np.float32))


def cut(rows, *arguments, card=None):
    return splits.prequential(rows, kit.settings("--label_coverage", "0", *arguments), card)


@settings(max_examples=200)
@given(st.data())
def test_whatever_the_rows_the_order_in_time_holds(data):
    n = data.draw(st.integers(5, 120))
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    source = rng.integers(-1, len(SOURCES), n)
    rows = rows_of(rng.integers(0, data.draw(st.integers(2, 90)), n), rng.integers(0, 2, n), source)
    delay, fraction = data.draw(st.sampled_from([0, 1, 7])), data.draw(st.floats(0.05, 0.6))
    count, window = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([0, 5, 30]))
    chosen = data.draw(st.sampled_from([["--validation_fraction", str(fraction)], ["--validation_days", "6"]]))
    arguments = ["--delay_days", str(delay), "--folds", str(count), "--train_days", str(window), *chosen]
    try:
        folds = cut(rows, *arguments)
    except DataError:
        return
    true = np.isin(source, [SOURCES.index(name) for name in GRADING])
    assert 1 <= len(folds) <= count
    for k, fold in enumerate(folds):
        newest = k == len(folds) - 1
        learnt = fold.train & true
        start = rows.time[fold.grading].min()
        assert (true[fold.grading]).all() and not (fold.train & fold.grading & true).any()
        assert rows.time[learnt].max() < start - delay * DAY
        assert not window or rows.time[learnt].min() >= start - (delay + window + 6) * DAY
        assert (fold.stopping <= learnt).all()  # stopping rows teach in the end, and opinions never stop
        fitting = learnt & ~fold.stopping
        assert not (fitting.any() and fold.stopping.any()) or (
            rows.time[fitting].max() < rows.time[fold.stopping].min()
        )
        assert (fold.train & (source == PSEUDO)).sum() == (source == PSEUDO).sum() * newest
        assert not (fold.train & (source < 0)).any()
        if k:
            assert rows.time[folds[k - 1].grading].max() < start


def test_the_gap_is_left_out_whole():
    rows = rows_of(np.repeat(np.arange(40), 4))
    (fold,) = cut(rows, "--validation_days", "7", "--delay_days", "7", "--train_days", "7")
    assert sorted(set(rows.time[fold.grading] / DAY)) == list(range(33, 40))
    assert sorted(set(rows.time[fold.train] / DAY)) == list(range(19, 26))


def test_folds_are_shifted_by_their_own_length_and_end_with_the_history():
    rows = rows_of(np.repeat(np.arange(30), 4))
    folds = cut(rows, "--validation_days", "7", "--delay_days", "2", "--folds", "9")
    assert [sorted(set(rows.time[f.grading] / DAY))[0] for f in folds] == [9, 16, 23]
    assert [int(rows.time[f.train].max() / DAY) for f in folds] == [6, 13, 20]


def test_a_gap_longer_than_the_history_says_so():
    with pytest.raises(DataError, match=r"history begins 8\.0 days before the validation rows, delay_days is 30"):
        cut(rows_of(np.arange(10)), "--delay_days", "30")


def test_days_of_which_only_the_reports_are_there_do_not_grade():
    """Frauds are reported at once, the rest is silence: the last 10 days hold frauds and nothing else."""
    day = np.repeat(np.arange(40), 10)
    label = np.tile([1] + [0] * 9, 40)
    source = np.where((day < 30) | (label == 1), TRUTH, -1)
    rows = rows_of(day, label, source)
    fold = splits.prequential(rows, kit.settings())[-1]
    assert rows.time[fold.grading].max() / DAY == 29
    naive = splits.prequential(rows, kit.settings("--label_coverage", "0"))[-1]
    assert rows.label[naive.grading].mean() > 2 * rows.label[fold.grading].mean()
    with pytest.raises(DataError, match="On no day have 50% of the rows a true label"):
        splits.prequential(rows_of(day, label, np.where(label == 1, TRUTH, -1)), kit.settings())


def test_cards_leave_on_the_day_their_fraud_is_known():
    """A fraud of day f is known on day d when f + 2 < d."""
    day = np.array([0, 1, 10, 11, 12, 13, 14, 14, 14, 14])
    label = np.array([0, 1, 0, 1, 0, 0, 0, 0, 0, 1])
    card = np.array([1, 1, 2, 3, 2, 3, 3, 1, 2, -1])
    rows = rows_of(day, label)
    arguments = ("--validation_days", "5", "--delay_days", "2", "--exclude_known_cards", "true")
    (fold,) = cut(rows, *arguments, card=card)
    # card 1 was known from training; card 3 defrauds on day 11, so it leaves from day 14 on
    assert list(zip(day[fold.grading].tolist(), card[fold.grading].tolist(), strict=True)) == [
        (10, 2), (11, 3), (12, 2), (13, 3), (14, 2), (14, -1),
    ]  # fmt: skip
    assert fold.known_cards == 2


def test_a_random_split_has_as_many_rows():
    train, grading = np.arange(20) < 12, (np.arange(20) >= 12) & (np.arange(20) < 18)
    mixed, graded = splits.random_split(train, grading, 1)
    assert graded.sum() == 6 and mixed.sum() == 12 and not (mixed & graded).any() and not mixed[18:].any()
    assert (graded & train).any()
