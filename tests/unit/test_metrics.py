"""Figures of a model against scikit-learn, against counting by hand, and against chance."""

from __future__ import annotations

import numpy as np
import pytest
import training_kit as kit
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score, roc_curve

from fraud.training import bootstrap, metrics, segments
from fraud.training.metrics import Graded


def sample(n=2_000, seed=0, skill=1.5):
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < 0.05).astype(np.int8)
    score = 1 / (1 + np.exp(-(skill * label - 3 + rng.normal(size=n))))
    return label, score


def graded(label, **columns):
    return Graded(label, np.arange(len(label)) * 600.0, **columns)


@settings(max_examples=100)
@given(st.integers(0, 10_000), st.integers(2, 300), st.integers(1, 50))
def test_weighted_figures_are_scikit_learns(seed, n, steps):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, n)
    score = rng.integers(0, steps, n) / steps  # many ties
    weight = rng.integers(0, 4, n)
    if len(set(label[weight > 0])) < 2:
        assert np.isnan(bootstrap.Ranked(label, score).measure(weight)).all()
        return
    found = dict(zip(bootstrap.METRICS, bootstrap.Ranked(label, score).measure(weight), strict=True))
    fpr, tpr, _ = roc_curve(label, score, sample_weight=weight)
    assert found["auc"] == pytest.approx(roc_auc_score(label, score, sample_weight=weight))
    assert found["average_precision"] == pytest.approx(average_precision_score(label, score, sample_weight=weight))
    assert found["brier"] == pytest.approx(brier_score_loss(label, score, sample_weight=weight))
    assert found["recall_at_1_percent_fpr"] == pytest.approx(max(tpr[fpr <= 0.01], default=0))


def test_a_rate_of_exactly_one_percent_is_within_it():
    label = np.r_[1, 0, 1, np.zeros(99, int)]
    score = np.linspace(1, 0, 102)
    assert bootstrap.Ranked(label, score).measure(np.ones(102))[2] == 1
    assert metrics.evaluate(label, score)["recall_at_1_percent_fpr"] == 1


def test_the_bootstraps_point_is_the_figure_that_is_shown():
    label, score = sample()
    shown = metrics.evaluate(label, score)
    found = dict(zip(bootstrap.METRICS, bootstrap.Ranked(label, score).measure(np.ones(len(label))), strict=True))
    assert found == pytest.approx({name: shown[name] for name in found}, rel=1e-9)


def test_intervals_cover_what_they_should():
    """95 % intervals of 100 samples cover the AUC of a large one about 95 times."""
    truth = roc_auc_score(*sample(400_000, 1))
    hits = 0
    for seed in range(100):
        low, high = bootstrap.intervals(graded(sample(1_500, 100 + seed)[0]), sample(1_500, 100 + seed)[1], 100, 1)[
            "auc"
        ]
        hits += low <= truth <= high
    assert 86 <= hits <= 100


def test_bursts_on_one_card_widen_the_interval():
    label, score = sample(300)
    label, score = np.repeat(label, 10), np.repeat(score, 10)  # each payment ten times
    card = np.repeat(np.arange(300), 10)
    alone = bootstrap.intervals(graded(label), score, 200, 1)["auc"]
    bursts = bootstrap.intervals(graded(label, card=card), score, 200, 1)["auc"]
    assert bursts[1] - bursts[0] > 2 * (alone[1] - alone[0])


def test_a_paired_difference_is_narrower_than_the_intervals_and_zero_for_the_same_scores():
    label, score = sample()
    other = np.clip(score + np.random.default_rng(1).normal(0, 0.01, len(score)), 0, 1)
    change = bootstrap.differences(graded(label), score, other, 100, 1)["auc"]
    low, high = bootstrap.intervals(graded(label), score, 100, 1)["auc"]
    assert change["high"] - change["low"] < (high - low) / 2
    assert change["low"] <= change["difference"] <= change["high"]
    same = bootstrap.differences(graded(label), score, score, 20, 1)
    assert all(value == 0 for item in same.values() for value in item.values())


def test_a_days_budget_by_hand():
    day = np.array([1, 1, 1, 2, 2, 3])
    score = np.array([0.9, 0.8, 0.1, 0.2, 0.3, 0.5])
    assert metrics.within_budget(day, score, 1).tolist() == [True, False, False, False, True, True]
    assert metrics.within_budget(day, score, 2).tolist() == [True, True, False, True, True, True]


def test_card_precision_by_hand():
    """Card 1 is found on the first day and not looked at again; card 2's best payment counts."""
    day = np.array([1, 1, 1, 2, 2, 2])
    card = np.array([1, 2, 2, 1, 2, 3])
    label = np.array([1, 0, 0, 1, 1, 0])
    score = np.array([0.9, 0.1, 0.8, 0.99, 0.7, 0.6])
    assert metrics.card_precision(day, card, label, score, 1).tolist() == [1, 1]
    assert metrics.card_precision(day, card, label, score, 2).tolist() == [0.5, 0.5]
    assert metrics.card_precision(day, card, label, score, 1, found_leave=False).tolist() == [1, 1]
    assert metrics.card_precision(day, card, label, score, 2, found_leave=False).tolist() == [0.5, 1]


def test_the_cost_curve_counts_reviews_and_missed_frauds():
    p = kit.settings("--review_cost", "10", "--fraud_cost", "5")
    label, amount = np.array([1, 0, 1, 0]), np.array([100.0, 7, 20, np.nan])
    score = np.array([0.9, 0.6, 0.6, 0.1])
    curve = metrics.cost_curve(graded(label, amount=amount), score, p)
    assert curve["cost"] == [130, 35, 30, 40]  # nothing; the first; three of them; all
    assert metrics.cheapest(curve) == 0.6
    at = metrics.at_threshold(graded(label, amount=amount), score, 0.7, p)
    assert (at["caught"], at["lost"], at["cost"]) == (105, 25, 35)


def test_a_calibrated_score_has_no_error_and_a_boastful_one_has():
    rng = np.random.default_rng(0)
    score = rng.beta(1, 20, 50_000)
    label = (rng.random(50_000) < score).astype(int)
    assert metrics.evaluate(label, score)["calibration_error"] < 0.003
    assert metrics.evaluate(label, np.sqrt(score))["calibration_error"] > 0.05


def test_segments_cut_the_rows_whole_and_say_where_there_are_too_few():
    label, score = sample(3_000)
    product = np.array(["W", "C", None], object)[np.random.default_rng(2).integers(0, 3, 3_000)]
    product[:5] = "rare"
    rows = graded(label, amount=np.arange(3_000.0))
    parts = list(segments.masks(rows, {"ProductCD": product}, np.arange(3_000) < 1_000))
    for by in ("ProductCD", "amount", "card"):
        assert sum(mask for name, _, mask in parts if name == by).tolist() == [1] * 3_000
    found = segments.table(rows, score, None, iter(parts), 0.5, 20, 1)
    by_name = {row["segment"]: row for row in found}
    assert by_name["rare"]["auc"] is None and by_name["W"]["auc_low"] < by_name["W"]["auc"] < by_name["W"]["auc_high"]
    assert by_name["new"]["rows"] == 2_000 and "difference" not in by_name["W"]
