"""Performance on arrived truth: counts, figures with intervals, and what fires by itself."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score

from fraud.cohort import DAY, DELAYS, EDGES, MIDDLES, UNIT, Cohort, estimate, figures, id_hash, weeks
from fraud.errors import DataError
from fraud.intervals import (
    auc,
    average_precision,
    design_effect,
    dispersion,
    greater_by_chance,
    logit_interval,
    student_tail,
    upper_tail,
    wilson,
)
from fraud.performance import MIN_FRAUDS, delay_of, judge_performance, reference

THRESHOLD = 0.3


def sample(n: int, seed: int = 0, rate: float = 0.02, blind: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores; a share of the frauds scores as legitimate payments do."""
    rng = np.random.default_rng(seed)
    label = (rng.random(n) < rate).astype(int)
    seen = (label == 1) & (rng.random(n) >= blind)
    score = 1 / (1 + np.exp(-np.where(seen, rng.normal(0.5, 2, n), rng.normal(-5, 1.2, n))))
    return label, score


def cohort(label, score, told=True, start: float = 0.0, days: float = 7, **changed) -> Cohort:
    found = Cohort(start, start + days * DAY)
    for one, value in zip(label, score, strict=True):
        found.add(value, int(one) if told or one else None, THRESHOLD)
    return replace(found, **changed)


LABEL, SCORE = sample(60_000)
KNOWN = reference(LABEL.tolist(), SCORE.tolist(), THRESHOLD, delay_days=7)
WEEK = cohort(*sample(15_000, 1))


def rules(found) -> dict[str, dict]:
    return {rule["rule"]: rule for rule in found["rules"]}


def judged(*cohorts: Cohort, **policy) -> dict[str, dict]:
    return rules(judge_performance(KNOWN, cohorts, policy))


def finite(found) -> None:
    json.dumps(found, allow_nan=False)


# -- counts


def test_equal_to_scikit_learn_on_the_same_bins():
    rounded = np.array(MIDDLES)[np.searchsorted(EDGES, SCORE, side="right")]
    assert KNOWN["auc"] == pytest.approx(roc_auc_score(LABEL, rounded), abs=1e-12)
    assert KNOWN["average_precision"] == pytest.approx(average_precision_score(LABEL, rounded), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_bins_lose_next_to_nothing(seed):
    label, score = sample(20_000, seed)
    found = figures(cohort(label, score))
    assert found["auc"] == pytest.approx(roc_auc_score(label, score), abs=1e-3)
    assert found["average_precision"] == pytest.approx(average_precision_score(label, score), abs=1e-2)
    assert found["recall"] == recall_score(label, score >= THRESHOLD)
    assert found["precision"] == precision_score(label, score >= THRESHOLD)
    assert found["fraud_rate"] == label.mean()


@given(st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0, 1, None])), max_size=60), st.randoms())
@settings(max_examples=60)
def test_merging_knows_no_order_and_no_grouping(rows, shuffle: random.Random):
    whole = Cohort(0.0, 1.0)
    for score, label in rows:
        whole.add(score, label, THRESHOLD, 3)
    parts = [Cohort(0.0, 1.0) for _ in range(4)]
    for score, label in shuffle.sample(rows, len(rows)):
        shuffle.choice(parts).add(score, label, THRESHOLD, 3)
    shuffle.shuffle(parts)
    merged = parts[0].merge(parts[1]).merge(parts[2].merge(parts[3]))
    assert merged == whole
    assert merged.n == len(rows)
    assert merged.told == sum(label is not None for _, label in rows)
    assert sum(merged.delays) == merged.frauds


def test_a_score_on_an_edge_and_at_the_threshold():
    found = Cohort()
    for score in (0.0, 1.0, EDGES[160], math.nextafter(EDGES[160], 0), THRESHOLD, math.nextafter(THRESHOLD, 0)):
        found.add(score, None, THRESHOLD)
    assert found.scored[161] == found.scored[160] == 1
    assert (found.scored[0], found.scored[-1]) == (1, 1)
    assert found.flagged == 4  # the four from the threshold on, the threshold among them


def test_what_holds_an_immature_part_is_immature():
    young = replace(WEEK, mature=False)
    assert WEEK.merge(WEEK).mature and not WEEK.merge(young).mature and not young.merge(WEEK).mature


def test_a_cohort_survives_json_and_other_bins_are_refused():
    document = json.loads(json.dumps(WEEK.to_dict()))
    assert Cohort.from_dict(document) == WEEK
    with pytest.raises(DataError, match="other bins"):
        Cohort.from_dict(document | {"scored": [1, 2]})


def test_ids_have_one_name_everywhere():
    import hashlib

    assert id_hash("tx-1") == int.from_bytes(hashlib.blake2b(b"tx-1", digest_size=8).digest(), "big")
    assert id_hash("\ud800") != id_hash("\ud801")  # no text is refused


def test_weeks_end_with_the_newest_mature_day():
    days = {day: cohort([1, 0], [0.9, 0.1], start=day * DAY, days=1) for day in range(100)}
    found = weeks(days, 100.5 * DAY, 7)
    young, newest, older = found[:3]
    assert not young.mature and young.end == 101 * DAY and young.n == 2 * 6  # day 100 has no payments yet
    assert newest.mature and newest.end == 93 * DAY == 100 * DAY - 7 * DAY and newest.start == 86 * DAY
    assert older.end == newest.start
    assert len(found) == 9 and all(one.n == 14 for one in found[1:])
    assert weeks(days, 100 * DAY - 1, 7)[1].end == 92 * DAY  # day 92 ends 7 days after a moment that is to come
    assert weeks(days, 100 * DAY, 7)[1].end == 93 * DAY
    now = weeks(days, 99.5 * DAY, 0)  # truth takes no time: today counts
    assert now[0].mature and now[0].end == 100 * DAY and now[0].n == 14
    assert weeks({}, 1e9, 7) == []
    assert weeks({95: days[95]}, 100 * DAY, 7) == [replace(days[95], end=101 * DAY, mature=False)]


# -- intervals, against known values


def test_wilson():
    for hits, n in ((0, 10), (8, 10), (3, 1000), (1000, 1000)):
        expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
        assert wilson(hits, n) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert wilson(0, 0) is None


@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 400), st.integers(0, 400))
@settings(max_examples=200)
def test_fishers_exact_test(a, n, b, m):
    a, b = min(a, n), min(b, m)
    found = greater_by_chance(a, n, b, m)
    expected = stats.fisher_exact([[a, n - a], [b, m - b]], alternative="greater").pvalue if n and m else 1.0
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-12)


def test_fishers_exact_test_of_a_large_shop():
    assert greater_by_chance(4_600, 500_000, 340, 40_000) == pytest.approx(
        stats.hypergeom.sf(4_599, 540_000, 4_940, 500_000), rel=1e-6
    )
    assert greater_by_chance(50_000, 5_000_000, 40_000, 5_000_000) < 1e-100


def test_auc_and_its_variance_are_delongs():
    rng = np.random.default_rng(3)
    fraud, legitimate = rng.integers(0, 6, 12), rng.integers(0, 9, 12)
    x, y = np.repeat(range(12), fraud), np.repeat(range(12), legitimate)
    kernel = (x[:, None] > y[None, :]) + 0.5 * (x[:, None] == y[None, :])  # written out, pair by pair
    variance = kernel.mean(1).var(ddof=1) / len(x) + kernel.mean(0).var(ddof=1) / len(y)
    assert auc(fraud.tolist(), legitimate.tolist()) == pytest.approx((kernel.mean(), variance), rel=1e-12)


def test_auc_without_a_variance_to_see_is_not_certain():
    area, variance = auc([0, 0, 20], [100, 0, 0])
    assert area == 1 and 0 < variance < 0.01
    assert auc([0, 1, 0], [4, 2, 4])[1] > 0  # a single fraud
    assert auc([0, 0], [3, 4]) is None and auc([1, 0], [0, 0]) is None


def test_average_precision_of_ties():
    assert average_precision([1, 1], [2, 0]) == 0.75
    assert average_precision([0], [5]) is None


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("error", [0.0, 1e-20, 1e-12, 0.02, 0.4, 5.0])
def test_an_interval_holds_its_value_and_stays_inside(value, error):
    low, high = logit_interval(value, error)
    assert 0 <= low <= value <= high <= 1


def test_logit_interval_is_the_delta_method_for_small_errors():
    low, high = logit_interval(0.9, 0.001)
    assert (low, high) == pytest.approx((0.9 - 0.00196, 0.9 + 0.00196), abs=2e-5)


def test_tails():
    assert upper_tail(3.09) == pytest.approx(stats.norm.sf(3.09), rel=1e-9)
    for degrees in (9, 30, 300):
        for t in (-2.0, 0.0, 1.0, 3.0, 6.0):
            assert student_tail(t, degrees) == pytest.approx(stats.t.sf(t, degrees), rel=0.05)


def test_dispersion_finds_clusters():
    rng = np.random.default_rng(0)
    even = [(int(k), 1000) for k in rng.binomial(1000, 0.02, 200)]
    bursts = [(int(k), 1000) for k in 5 * rng.binomial(1000, 0.004, 200)]
    assert dispersion(even) == pytest.approx(1.0, abs=0.3)
    assert dispersion(bursts) == pytest.approx(5.0, rel=0.3)
    assert dispersion(bursts[:6]) == dispersion([(0, 10)] * 20) == dispersion([]) == 1.0


def test_the_design_effect_is_how_much_wider_means_of_groups_scatter():
    rng = np.random.default_rng(0)

    def world(size):
        stolen = rng.random(3000) < 0.02
        n = rng.integers(1, 9, 3000)
        return [(int(k), int(k + m)) for k, m in zip(stolen * rng.integers(size, 2 * size, 3000), n, strict=True)]

    for size in (1, 8):
        worlds = [world(size) for _ in range(300)]
        shares = [sum(k for k, _ in one) / sum(n for _, n in one) for one in worlds]
        total, mean = sum(n for _, n in worlds[0]), float(np.mean(shares))
        scatter = float(np.var(shares)) / (mean * (1 - mean) / total)
        assert np.mean([design_effect(one) for one in worlds]) == pytest.approx(scatter, rel=0.2)
    assert scatter > 5
    alone = [(int(k), 1) for k in rng.random(5000) < 0.02]
    assert design_effect(alone) == pytest.approx(1.0)
    assert design_effect([]) == design_effect([(0, 9)]) == design_effect([(9, 9)]) == 1.0


# -- what fires


def test_nothing_changed_and_nothing_fires():
    found = judge_performance(KNOWN, [WEEK], {})
    assert [rule["rule"] for rule in found["rules"]] == ["fraud_rate", "recall", "auc"]
    assert not any(rule["fired"] for rule in found["rules"])
    assert found["summary"]["sentence"].startswith("Of the frauds reported for the week of 1 January, the model caught")
    finite(found)


def test_a_pattern_that_the_model_does_not_see():
    blind = cohort(*sample(15_000, 2, rate=0.035, blind=0.6))
    found = judged(blind)
    assert all(found[name]["fired"] for name in ("fraud_rate", "recall", "auc"))
    assert found["fraud_rate"]["direction"] == "up" and found["recall"]["direction"] == "down"
    assert found["recall"]["score"] == pytest.approx(KNOWN["recall"] - blind.caught / blind.frauds)
    assert found["fraud_rate"]["score"] == pytest.approx(blind.frauds / blind.n / KNOWN["fraud_rate"] - 1)
    assert max(rule["p_value"] for rule in found.values()) < 1e-6
    sentence = judge_performance(KNOWN, [blind], {})["summary"]["sentence"]
    caught, before = (f"{100 * share:.0f} %" for share in (blind.caught / blind.frauds, KNOWN["recall"]))
    assert sentence == (
        f"Of the frauds reported for the week of 1 January, the model caught {caught} instead of {before}."
    )


@pytest.mark.parametrize("rule", ["fraud_rate", "recall", "auc"])
def test_each_threshold_is_the_policys(rule):
    blind = cohort(*sample(15_000, 2, rate=0.035, blind=0.6))
    score = judged(blind)[rule]["score"]
    assert not judged(blind, **{f"{rule}_threshold": score + 1e-6})[rule]["fired"]
    assert judged(blind, **{f"{rule}_threshold": score - 1e-6})[rule]["fired"]


def test_a_large_shift_of_few_frauds_is_chance():
    few = cohort(*sample(700, 5, rate=0.028))
    found = judged(few)
    assert found["fraud_rate"]["score"] > 0.3
    assert not any(rule["fired"] for rule in found.values())
    assert "within chance" in found["fraud_rate"]["detail"]
    assert judged(few, false_alarm_rate=0.9)["fraud_rate"]["fired"]


def test_the_rate_is_shared_among_the_tests():
    blind = cohort(*sample(3_000, 2, rate=0.03, blind=0.5))
    p = judged(blind)["fraud_rate"]["p_value"]
    found = judge_performance(
        KNOWN, [blind], {"false_alarm_rate": 2 * 3.001 * p}
    )  # half of it is for the payments' rules
    assert rules(found)["fraud_rate"]["fired"]
    found = judge_performance(KNOWN, [blind], {"false_alarm_rate": 2 * 2.999 * p})
    assert not rules(found)["fraud_rate"]["fired"]


def test_too_few_payments_or_frauds_are_not_judged():
    blind = cohort(*sample(15_000, 2, rate=0.035, blind=0.6))
    found = judged(blind, min_truth=blind.n + 1)
    assert not any(rule["fired"] for rule in found.values())
    assert "too few" in found["recall"]["detail"]
    assert all(rule["fired"] for rule in judged(blind, min_truth=blind.n).values())
    nine = cohort([1] * (MIN_FRAUDS - 1) + [0] * 600, [0.001] * (MIN_FRAUDS - 1) + [0.002] * 600)
    assert judged(nine)["recall"]["score"] > 0.5 and not judged(nine)["recall"]["fired"]


def test_clusters_need_a_larger_shift():
    shifted = cohort(*sample(15_000, 2, rate=0.028))
    assert judged(shifted)["fraud_rate"]["fired"]
    clustered = KNOWN | {"dispersion": {"fraud_rate": 8.0, "recall": 8.0}}
    found = judge_performance(clustered, [shifted], {})
    assert not rules(found)["fraud_rate"]["fired"]
    low, high = found["summary"]["judged"]["fraud_rate_interval"]
    alone = judge_performance(KNOWN, [shifted], {})["summary"]["judged"]["fraud_rate_interval"]
    assert high - low > 2 * (alone[1] - alone[0])


def test_the_reference_finds_clusters_by_day():
    label = np.zeros(20_000, int)
    label[np.arange(20_000) // 1000 % 4 == 0] = np.tile([1] + [0] * 9, 500)
    score, times = np.where(label, 0.9, 0.1), np.arange(20_000) // 1000 * DAY
    assert reference(label.tolist(), score.tolist(), 0.5, times.tolist())["dispersion"]["fraud_rate"] > 20
    assert reference(label.tolist(), score.tolist(), 0.5)["dispersion"]["fraud_rate"] == 1.0


def test_the_reference_finds_clusters_by_card():
    rng = np.random.default_rng(1)
    label = np.zeros(20_000, int)
    card = np.arange(20_000) // 10
    for stolen in rng.permutation(2000)[:50]:
        label[stolen * 10 : stolen * 10 + 8] = 1
    order = rng.permutation(20_000)  # no day is unusual
    label, card, times = label[order], card[order], np.arange(20_000) // 1000 * DAY
    score = np.where(label & (card % 2), 0.9, 0.1)  # all frauds of a card are found, or none
    given = label.tolist(), score.tolist(), 0.5, times.tolist(), 7
    assert reference(*given)["dispersion"]["fraud_rate"] < 2
    found = reference(*given, card.tolist())["dispersion"]
    assert found["fraud_rate"] == pytest.approx(8, rel=0.1) and found["recall"] == pytest.approx(8, rel=0.1)
    assert reference(*given, [-1] * 20_000) == reference(*given)


def test_rows_without_a_card_are_no_group():
    label, score = [1] * 50 + [0] * 950, [0.9] * 25 + [0.1] * 975
    found = reference(label, score, 0.5, None, 7, [-1] * 50 + list(range(950)))
    assert found["dispersion"] == {"fraud_rate": 1.0, "recall": 1.0}


# -- honesty about silence


def test_an_immature_week_is_never_judged():
    young = cohort(*sample(15_000, 2, rate=0.05, blind=0.9), mature=False)
    found = judge_performance(KNOWN, [young], {})
    assert found["rules"] == [] and found["summary"]["cohorts"] == [] and found["summary"]["judged"] is None
    assert found["summary"]["sentence"] == "No payment is old enough for its truth to have come."
    both = judge_performance(KNOWN, [young, WEEK], {})
    assert both["summary"]["judged"]["n"] == WEEK.n and not any(rule["fired"] for rule in both["rules"])
    estimated = both["summary"]["estimate"]
    assert estimated["n"] == young.n and "cannot see a new pattern" in estimated["limit"]


def test_frauds_alone_are_enough_to_see_a_rise():
    label, score = sample(15_000, 2, rate=0.035, blind=0.6)
    found = judged(cohort(label, score, told=False))
    assert all(rule["fired"] for rule in found.values())
    assert found == judged(cohort(label, score)) | {"fraud_rate": found["fraud_rate"]}


def test_missing_reports_are_no_fall_of_fraud():
    label, score = sample(15_000, 2)
    label[::2] = 0  # every second fraud is never reported
    found = judged(cohort(label, score, told=False))["fraud_rate"]
    assert found["direction"] == "down" and found["current"] < 0.6 * found["reference"] and not found["fired"]
    assert found["score"] == 0.0 and found["p_value"] == 1.0  # of the reported payments, no fewer are fraud
    assert judged(cohort(label, score))["fraud_rate"]["fired"]  # somebody said that the others are legitimate


def test_truth_of_a_chosen_few_is_no_rise_of_fraud():
    label, score = sample(15_000, 2)
    chosen = Cohort(0.0, 7.0 * DAY)
    for one, value in zip(label, score, strict=True):
        chosen.add(value, int(one) if value >= THRESHOLD else None, THRESHOLD)  # what was reviewed
    found = judged(chosen)
    assert not any(rule["fired"] for rule in found.values())


def test_where_the_caught_is_never_reported_recall_is_not_judged():
    label, score = sample(15_000, 2)
    label[score >= THRESHOLD] = 0  # blocked: no charge, no chargeback
    found = judge_performance(KNOWN, [cohort(label, score, told=False)], {})
    assert not any(rule["fired"] for rule in found["rules"])
    assert "nothing was reported about" in rules(found)["recall"]["detail"]
    assert found["summary"]["sentence"].startswith("Recall cannot be told for the week of 1 January")
    assert all(rules(found)[name]["score"] is None for name in ("recall", "auc"))
    finite(found)


def test_no_report_at_all_is_said():
    _, score = sample(15_000, 2)
    found = judge_performance(KNOWN, [cohort(np.zeros(15_000), score, told=False)], {})
    assert not any(rule["fired"] for rule in found["rules"])
    assert found["summary"]["sentence"].startswith("Nothing has been reported about the 15,000 payments")
    assert "are labels delivered?" in found["summary"]["notes"][0]


def test_small_shops_are_judged_over_four_weeks_whatever_was_found():
    parts = [cohort(*sample(400, k), start=(9 - k) * 7 * DAY) for k in range(6)]
    assert KNOWN["fraud_rate"] * 400 < 25 / 3
    found = judge_performance(KNOWN, parts, {})["summary"]
    assert found["judged"]["n"] == 1600
    assert [one["judged"] for one in found["cohorts"]] == [True] * 4 + [False] * 2
    assert "the 28 days from" in found["sentence"]
    without = [cohort(np.zeros(400), sample(400, k)[1], start=(9 - k) * 7 * DAY) for k in range(6)]
    assert judge_performance(KNOWN, without, {})["summary"]["judged"]["n"] == 1600
    rich = cohort([1] * 40 + [0] * 360, sample(400, 0)[1], start=70 * DAY)
    assert judge_performance(KNOWN, [rich, *parts], {})["summary"]["judged"]["n"] == 1600
    assert judge_performance(KNOWN, [WEEK, *parts], {})["summary"]["judged"]["n"] == WEEK.n


def test_late_reports_are_said():
    late = Cohort(0.0, 7.0 * DAY)
    for k in range(100):
        late.add(0.5, 1, THRESHOLD, delay_days=k % 40)
    found = judge_performance(KNOWN, [late], {"truth_delay_days": 7})["summary"]
    assert found["reported_after"] == {"median_days": 16.0, "p90_days": 34.0}
    assert any("Raise delay_days of 02_train" in note for note in found["notes"])
    assert not judge_performance(KNOWN, [late], {"truth_delay_days": 40})["summary"]["notes"]
    assert sum(late.delays) == 100 and len(late.delays) == DELAYS


def test_the_delay_is_the_policys_then_trainings_then_a_week():
    assert delay_of({"delay_days": 3.0}, {"truth_delay_days": 0}) == 0.0
    assert delay_of({"delay_days": 3.0}, {"truth_delay_days": None}) == 3.0
    assert delay_of({}, {}) == 7.0


def test_the_estimate_is_right_when_the_scores_are():
    rng = np.random.default_rng(0)
    score = 1 / (1 + np.exp(-rng.normal(-3, 2, 200_000)))
    label = rng.random(len(score)) < score
    found = estimate(cohort(np.zeros(len(score)), score))
    assert found["recall"] == pytest.approx(recall_score(label, score >= THRESHOLD), abs=0.01)
    assert found["precision"] == pytest.approx(precision_score(label, score >= THRESHOLD), abs=0.01)
    assert found["fraud_rate"] == pytest.approx(label.mean(), rel=0.02)
    assert found["auc"] == pytest.approx(roc_auc_score(label, score), abs=0.003)
    assert estimate(cohort([0] * 9, [0.2] * 9))["auc"] == 0.5


# -- nothing breaks it

counts = st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0, 1, None]), st.integers(0, 400)), max_size=12)


@given(counts, st.lists(st.tuples(counts, st.booleans()), max_size=4), st.floats(1e-9, 1), st.floats(0, 50))
@settings(max_examples=150)
def test_no_exception_and_no_nan(graded, later, rate, spread):
    def of(rows, k, mature):
        found = Cohort(k * 7.0 * DAY, (k + 1) * 7.0 * DAY, mature=mature)
        for score, label, times in rows:
            for _ in range(times % 7):
                found.add(score, label, THRESHOLD, times)
        return found

    known = reference([int(label == 1) for _, label, _ in graded], [s for s, _, _ in graded], THRESHOLD)
    known["dispersion"] = {"fraud_rate": spread, "recall": spread}
    cohorts = [of(rows, k, mature) for k, (rows, mature) in enumerate(later)]
    found = judge_performance(known, cohorts, {"min_truth": 0, "false_alarm_rate": rate})
    finite(found)
    finite(known)
    assert all(rule["p_value"] is None or 0 <= rule["p_value"] <= 1 for rule in found["rules"])
    for one in [found["summary"]["reference"], *found["summary"]["cohorts"]]:
        for name in ("fraud_rate", "recall", "precision", "auc", "average_precision"):
            if one[name] is not None:
                low, high = one[f"{name}_interval"]
                assert 0 <= low <= one[name] + 1e-12 and one[name] - 1e-12 <= high <= 1


def test_odd_scores_are_counted():
    found = Cohort()
    for score in (-1.0, 2.0, math.nan, math.inf, -math.inf):
        found.add(score, None, THRESHOLD)
    assert found.n == 5 and found.flagged == 2 and found.expected == 2 * UNIT
