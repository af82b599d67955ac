"""Baseline, sketch and verdict: exact counts, no false alarm, no exception and no NaN whatever the window holds."""

import json
import math
import statistics
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud import distances, rules, wording
from fraud.distances import population_stability_index, relative_mean_shift
from fraud.drift import Sketch, build_baseline, category_profile, judge, number_profile, reference_of
from fraud.errors import DataError, ParameterError
from fraud.schema import Feature, Schema
from fraud.tally import bin_counts, exact_sum, repeated_values
from fraud.verdict import POLICY as VERDICT_POLICY
from fraud.verdict import VERDICTS

CARDS = ("visa", "mastercard", "amex")
SCHEMA = Schema(
    (
        Feature("amount", "number", True),
        Feature("card", "category", True, CARDS),
        Feature("is_new", "boolean"),
        Feature("flag", "number"),
    ),
    roles={"id": "tx", "amount": "amount"},
    ignored=("note",),
)
N = 5000


def payments(n, seed, **change):
    """Columns of ``n`` payments; ``change`` maps a column to a function of its values."""
    rng = np.random.default_rng(seed)
    columns = {
        "amount": rng.lognormal(4.2, 1.0, n).tolist(),
        "card": rng.choice(CARDS, n, p=(0.7, 0.28, 0.02)).tolist(),
        "is_new": (rng.random(n) < 0.2).tolist(),
        "flag": [None if r < 0.15 else float(r > 0.97) for r in rng.random(n)],
    }
    return {name: change.get(name, list)(values) for name, values in columns.items()}


def scores(n, seed):
    return np.random.default_rng(seed + 1).beta(0.5, 9, n).tolist()


BASELINE = build_baseline(payments(N, 0), SCHEMA, scores(N, 0), "run-1")
POLICY = {"min_records": 100, "persistence": [1, 1]}


def record(transaction, score=0.1):
    return SimpleNamespace(transaction=transaction, fraud_probability=score)


def sketch_of(columns, seed=1, baseline=BASELINE):
    sketch = Sketch(baseline, SCHEMA)
    n = max(map(len, columns.values()))
    for k, score in enumerate(scores(n, seed)):
        sketch.add(record({name: values[k] for name, values in columns.items()}, score))
    return sketch


def verdict_of(sketch, baseline=BASELINE, **given):
    policy = POLICY | given.pop("policy", {})
    found = judge(baseline, sketch, policy, (0, 86_400), "fraud", 90_000, **given)
    json.dumps(found, allow_nan=False)
    return found


def rule(verdict, kind, feature):
    (found,) = [r for r in verdict["rules"] if (r["rule"], r["feature"]) == (kind, feature)]
    return found


# ------------------------------------------------------------------------------------------------ baseline


def test_a_baseline_holds_exact_statistics():
    amount = payments(N, 0)["amount"]
    profile = BASELINE["features"]["amount"]
    assert profile["mean"] == pytest.approx(statistics.fmean(amount), rel=1e-15)
    assert profile["std"] == pytest.approx(statistics.pstdev(amount), rel=1e-12)
    assert (profile["min"], profile["max"]) == (min(amount), max(amount))
    assert len(profile["edges"]) == 19
    assert sum(profile["counts"]) == profile["count"] == N
    assert all(abs(count - N / 20) <= 1 for count in profile["counts"])
    ranks = np.ceil(np.arange(1, 20) * N / 20).astype(int)
    assert (np.sort(amount)[ranks - 1] < profile["edges"]).all() and (profile["edges"] < np.sort(amount)[ranks]).all()
    json.dumps(BASELINE, allow_nan=False)


def test_lists_and_arrays_give_the_same_baseline_in_any_order():
    columns = payments(N, 0)
    arrays = {
        "amount": np.array(columns["amount"]),
        "card": dict.fromkeys(CARDS, 0) | {card: columns["card"].count(card) for card in CARDS},
        "is_new": np.array(columns["is_new"], dtype=float),
        "flag": np.array(columns["flag"], dtype=float),
    }
    assert build_baseline(arrays, SCHEMA, np.array(scores(N, 0)), "run-1") == BASELINE
    backwards = {name: values[::-1] for name, values in columns.items()}
    assert build_baseline(backwards, SCHEMA, scores(N, 0)[::-1], "run-1") == BASELINE


def test_an_array_is_not_changed():
    values = np.array([3.0, np.nan, 1.0])
    number_profile(values)
    assert np.array_equal(values, [3.0, np.nan, 1.0], equal_nan=True)


@pytest.mark.parametrize(
    ("values", "count", "missing", "mean", "std"),
    [
        ([], 0, 0, None, None),
        ([None, math.nan], 0, 2, None, None),
        ([7], 1, 0, 7.0, 0.0),
        ([7, 7, None], 2, 1, 7.0, 0.0),
        ([1, math.inf, -math.inf, "x", True], 1, 4, 1.0, 0.0),
        ([1, 2**63, 10**400], 1, 2, 1.0, 0.0),
        ([1e308, 1e308], 2, 0, 1e300, 0.0),
        ([-1e308, 1e308], 2, 0, 0.0, 1e300),
    ],
)
def test_degenerate_columns(values, count, missing, mean, std):
    profile = number_profile(values)
    assert (profile["count"], profile["missing"], profile["mean"]) == (count, missing, mean)
    assert profile["std"] == (std if std is None else pytest.approx(std))
    assert sum(profile["counts"]) == count
    json.dumps(profile, allow_nan=False)


def test_bins_are_left_open():
    assert bin_counts([0.0, 0.5, 1.0, 1.5], [0.0, 1.0]) == [1, 2, 1]


def test_ties_leave_a_bin_of_their_own_and_one_on_each_side():
    profile = number_profile([0] * 97 + [1] * 3)
    assert profile["counts"] == [0, 97, 3]
    assert bin_counts([-5.0], profile["edges"]) == [1, 0, 0]
    assert number_profile([4.0] * 10)["counts"] == [0, 10, 0]


def test_categories_beyond_the_top_are_counted():
    profile = category_profile([f"v{k:02}" for k in range(60) for _ in range(k + 1)] + [None])
    assert (len(profile["top"]), profile["missing"], profile["other"]) == (50, 1, sum(range(1, 11)))
    assert next(iter(profile["top"])) == "v59"
    assert profile["count"] == sum(profile["top"].values()) + profile["other"]


@given(st.lists(st.floats(-1e300, 1e300), max_size=30), st.randoms())
def test_a_sum_is_exact_in_any_order(values, shuffle):
    from fractions import Fraction

    parts = exact_sum(values)
    assert sum(map(Fraction, parts)) == sum(map(Fraction, values))
    assert exact_sum(shuffle.sample(values, len(values))) == parts
    assert not parts or parts[0] == math.fsum(values)


# ------------------------------------------------------------------------------------------------ sketch

VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([*CARDS, "diners", "<b>", "$x$", "=1+1"])
    | st.text(max_size=3)
    | st.lists(st.integers(), max_size=2)
)
TRANSACTIONS = st.dictionaries(st.sampled_from([*SCHEMA.names, "tx", "note", "extra", "<script>"]), VALUES)
RECORDS = st.lists(st.builds(record, TRANSACTIONS, st.none() | st.floats(0, 1)), max_size=12)


def filled(records):
    sketch = Sketch(BASELINE, SCHEMA)
    for item in records:
        sketch.add(item)
    return sketch


@given(RECORDS, RECORDS, RECORDS)
def test_merging_is_associative_and_commutative_and_the_same_as_counting_at_once(a, b, c):
    at_once = filled(a + b + c).to_json()
    assert filled(a).merge(filled(b)).merge(filled(c)).to_json() == at_once
    assert filled(a).merge(filled(b).merge(filled(c))).to_json() == at_once
    assert filled(c).merge(filled(a)).merge(filled(b)).to_json() == at_once


@given(RECORDS)
def test_a_sketch_survives_json_and_accounts_for_every_record(records):
    sketch = filled(records)
    text = sketch.to_json()
    assert Sketch.from_json(BASELINE, text, SCHEMA).to_json() == text
    assert sketch.n == len(records)
    for feature in sketch.features.values():
        assert feature.count + feature.missing + feature.invalid == len(records)
    assert "NaN" not in text


def test_more_unknown_fields_than_are_remembered_merge_in_any_order():
    parts = [[record({f"f{k:04}": 1 for k in range(start, start + 90)})] for start in (0, 200, 50, 100)]
    forward, backward = Sketch(BASELINE), Sketch(BASELINE)
    for part in parts:
        forward.merge(filled(part))
    for part in parts[::-1]:
        backward.merge(filled(part))
    assert forward.to_json() == backward.to_json()
    assert len(forward.unknown_fields) == 100


def test_many_records_are_counted_in_batches():
    sketch = sketch_of(payments(N, 0), seed=0)
    amount = sketch.features["amount"]
    assert sketch.n == N
    assert amount.counts == BASELINE["features"]["amount"]["counts"]
    assert amount.mean == BASELINE["features"]["amount"]["mean"]
    assert sketch.features["card"].top == BASELINE["features"]["card"]["top"]
    assert sketch.features["is_new"].top == BASELINE["features"]["is_new"]["top"] != {}
    assert sketch.score.counts == BASELINE["score"]["counts"]


def test_absent_null_wrong_and_unseen_values_are_told_apart():
    sketch = filled([record({"amount": None, "card": "diners"}), record({"amount": "12", "extra": 1}), record({})])
    amount, card = sketch.features["amount"], sketch.features["card"]
    assert (amount.missing, amount.absent, amount.invalid, amount.count) == (2, 1, 1, 0)
    assert (card.unseen, card.other, card.missing, card.absent) == (1, 0, 2, 2)
    assert (sketch.unknown_records, sketch.unknown_fields) == (1, {"extra": 1})


def test_sketches_of_other_models_are_refused():
    other = Sketch(BASELINE | {"model_version": "run-2"})
    with pytest.raises(DataError, match=r"run-2 cannot be merged with one of run-1"):
        Sketch(BASELINE).merge(other)
    with pytest.raises(DataError):
        Sketch.from_json(BASELINE, other.to_json())
    for broken in ("{", "[]", "{}", json.dumps(json.loads(filled([]).to_json()) | {"features": {}})):
        with pytest.raises(DataError):
            Sketch.from_json(BASELINE, broken)


# ------------------------------------------------------------------------------------------------ statistics


@pytest.mark.parametrize(
    ("reference", "current", "std", "shift"),
    [
        (100, 130, 50, 0.30),
        (100, 70, 50, 0.30),
        (-100, -130, 50, 0.30),
        (-100, 100, 50, 2.0),
        (0, 0, 0, None),
        (0, 5, 0, None),
        (0, 1, 10, 1.0),
        (0.5, 1.5, 10, 1.0),
        (7, 7, 0, 0.0),
        (7, 14, 0, 1.0),
        (5e-324, 1e300, 0, 1e300),
    ],
)
def test_relative_mean_shift(reference, current, std, shift):
    assert relative_mean_shift(reference, current, std) == (shift if shift is None else pytest.approx(shift))


def test_psi_is_symmetric_and_zero_for_equal_shares():
    assert population_stability_index([10, 30], [10, 30]) == 0
    assert population_stability_index([100, 300], [1000, 3000]) < 1e-5
    assert population_stability_index([97, 3], [70, 30]) == population_stability_index([70, 30], [97, 3])


# ------------------------------------------------------------------------------------------------ verdict


@pytest.mark.parametrize("seed", range(1, 9))
@pytest.mark.parametrize("n", [100, 300, 2000])
def test_no_alarm_without_drift(seed, n):
    assert verdict_of(sketch_of(payments(n, seed), seed))["verdict"] == "OK"


def scaled(factor):
    return lambda values: [None if value is None else value * factor for value in values]


@pytest.mark.parametrize(
    ("column", "change", "kind"),
    [
        ("amount", scaled(1.5), "mean_shift"),
        ("amount", scaled(0.5), "mean_shift"),
        ("amount", lambda values: [118.0 + (v - 118.0) * 0.3 for v in values], "psi"),
        ("amount", lambda values: [None if k % 4 == 0 else v for k, v in enumerate(values)], "missing"),
        ("card", lambda values: ["diners" if k % 12 == 0 else v for k, v in enumerate(values)], "unseen"),
        ("card", lambda values: ["visa" if k % 2 else "mastercard" for k, v in enumerate(values)], "psi"),
        ("is_new", lambda values: [k % 2 == 0 for k, _ in enumerate(values)], "psi"),
        ("flag", lambda values: [v if v is None else float(k % 10 < 3) for k, v in enumerate(values)], "psi"),
        ("flag", lambda values: [v if v is None else -1.0 for v in values], "psi"),
        ("flag", lambda values: [0.0 if v is None else v for v in values], "missing"),
    ],
)
def test_drift_is_found(column, change, kind):
    verdict = verdict_of(sketch_of(payments(2000, 1, **{column: change})))
    assert verdict["verdict"] == "DRIFT"
    assert rule(verdict, kind, column)["fired"]
    assert column in verdict["sentence"]
    assert verdict["rules"][0]["fired"]


def test_a_rare_flag_that_gets_common_is_a_large_psi():
    reference = number_profile([0] * 970 + [1] * 30)
    current = bin_counts(sorted([0.0] * 700 + [1.0] * 300), reference["edges"])
    assert population_stability_index(reference["counts"], current) > 0.6


def test_the_threshold_itself_fires_and_less_does_not():
    baseline = build_baseline(payments(N, 0) | {"amount": [90.0, 110.0] * (N // 2)}, SCHEMA, scores(N, 0), "run-1")
    for factor, fired in ((1.3, True), (1.299, False), (0.7, True), (0.701, False)):
        columns = payments(1000, 1) | {"amount": [90.0 * factor, 110.0 * factor] * 500}
        found = rule(verdict_of(sketch_of(columns, baseline=baseline), baseline), "mean_shift", "amount")
        assert found["fired"] is fired
        assert found["direction"] == ("up" if factor > 1 else "down")


def test_one_payment_cannot_fire_the_rule():
    columns = payments(1000, 1)
    columns["amount"][0] = 60_000.0
    found = rule(verdict_of(sketch_of(columns)), "mean_shift", "amount")
    assert found["score"] > 0.30
    assert not found["fired"]
    assert "by a few payments" in found["detail"]


def test_a_shift_within_chance_does_not_fire():
    rare = [0.0] * 9 + [1000.0]  # mean 100, spread 300
    baseline = build_baseline(payments(N, 0) | {"amount": rare * (N // 10)}, SCHEMA, scores(N, 0), "run-1")
    for n, fired in ((100, False), (1000, True)):
        columns = payments(n, 1) | {"amount": ([0.0] * 80 + [1000.0] * 20) * (n // 100)}
        found = rule(verdict_of(sketch_of(columns, baseline=baseline), baseline), "mean_shift", "amount")
        assert found["score"] == pytest.approx(1.0)
        assert found["fired"] is fired
        assert ("chance" in found["detail"]) is not fired


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_a_constant_column_has_an_answer(value):
    baseline = build_baseline(payments(N, 0) | {"amount": [value] * N}, SCHEMA, scores(N, 0), "run-1")
    same = verdict_of(sketch_of(payments(500, 1) | {"amount": [value] * 500}, baseline=baseline), baseline)
    assert not any(r["fired"] for r in same["rules"] if r["feature"] == "amount")
    for moved in (value - 1, value + 1):
        other = verdict_of(sketch_of(payments(500, 1) | {"amount": [moved] * 500}, baseline=baseline), baseline)
        assert other["verdict"] == "DRIFT"
        assert rule(other, "psi", "amount")["fired"]


def test_watched_features_are_a_parameter():
    sketch = sketch_of(payments(500, 1))
    names = ["flag", "card", "nothing"]
    verdict = verdict_of(sketch, policy={"mean_shift_features": names})
    assert {r["feature"] for r in verdict["rules"] if r["rule"] == "mean_shift"} == set(names)
    assert rule(verdict, "mean_shift", "nothing")["score"] is None
    assert verdict["policy"]["mean_shift_features"] == names


def test_nothing_is_judged_below_the_minimum():
    columns = payments(99, 1, amount=scaled(5))
    verdict = verdict_of(sketch_of(columns))
    assert verdict["verdict"] == "INSUFFICIENT_DATA"
    assert not any(r["fired"] for r in verdict["rules"])
    assert "99 payments where 100" in verdict["sentence"]
    assert verdict_of(sketch_of(payments(100, 1, amount=scaled(5))))["verdict"] == "DRIFT"


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        ({}, "INSUFFICIENT_DATA"),
        ({"invocations": 0}, "INSUFFICIENT_DATA"),
        ({"invocations": None}, "INSUFFICIENT_DATA"),
        ({"invocations": 19}, "INSUFFICIENT_DATA"),  # too few to conclude anything
        ({"invocations": 20}, "MISSING_CAPTURE"),
        ({"invocations": 20, "sampled": 0.05}, "INSUFFICIENT_DATA"),  # which are captured is chance
        ({"invocations": 100, "sampled": 0.05}, "MISSING_CAPTURE"),
        ({"invocations": 7, "skipped": 7}, "INSUFFICIENT_DATA"),
        ({"unreadable": 3}, "MISSING_CAPTURE"),
        ({"unreadable": 3, "policy": {"min_records": 0}}, "MISSING_CAPTURE"),
        ({"policy": {"min_records": 0}}, "INSUFFICIENT_DATA"),
    ],
)
def test_an_empty_window_is_never_ok(given, verdict):
    assert verdict_of(Sketch(BASELINE), **given)["verdict"] == verdict


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tx, k: {n: v for n, v in tx.items() if n != "card" or k % 5 < 2}, "card is absent from 120 of 200"),
        (lambda tx, k: tx | ({"surprise": 1} if k % 5 else {}), "160 of 200 carry unknown fields (surprise)"),
        (lambda tx, k: tx | ({"amount": str(tx["amount"])} if k % 5 else {}), "amount has another type in 160 of 200"),
    ],
)
def test_a_changed_schema_is_said(change, words):
    columns = payments(200, 1)
    sketch = filled([record(change({n: v[k] for n, v in columns.items()}, k)) for k in range(200)])
    verdict = verdict_of(sketch)
    assert verdict["verdict"] == "SCHEMA_CHANGED"
    assert words in verdict["sentence"]


def test_hostile_names_are_not_repeated():
    sketch = filled([record({"<script>alert(1)</script>": 1}) for _ in range(200)])
    assert "script" not in verdict_of(sketch)["sentence"]


def test_the_verdict_document():
    verdict = verdict_of(sketch_of(payments(500, 1)), unreadable=2, skipped=3, invocations=505, notes=["A note."])
    held = ("rules", "sentence", "policy", "features", "score")
    assert {name: value for name, value in verdict.items() if name not in held} == {
        "schema_version": 2,
        "verdict": "OK",
        "endpoint": "fraud",
        "model_version": "run-1",
        "window": {"start": "1970-01-01T00:00:00Z", "end": "1970-01-02T00:00:00Z"},
        "n": 500,
        "unreadable": 2,
        "skipped": 3,
        "repeated": 0,
        "callers": {},
        "usual_callers": {},
        "capped": 0,
        "invocations": 505,
        "signal": False,
        "persistence": {"signals": 0, "of": 1, "needed": 1},
        "review_rate": {"reference": None, "current": None},
        "performance": None,
        "expected_false_alarms_per_month": 0.36,
        "notes": ["A note."],
        "computed_at": "1970-01-02T01:00:00Z",
    }
    assert verdict["features"].keys() == BASELINE["features"].keys()
    assert verdict["policy"].keys() == VERDICT_POLICY.keys()
    assert verdict["sentence"].endswith(" A note.")
    expected = {"rule", "feature", "reference", "current", "score", "threshold", "n", "fired", "direction", "detail"}
    expected |= {"p_value", "importance"}
    assert all(expected <= r.keys() for r in verdict["rules"])
    assert {r["rule"] for r in verdict["rules"]} >= {"mean_shift", "psi", "score_psi"}


def test_a_sentence_for_people():
    verdict = verdict_of(sketch_of(payments(2000, 1, amount=scaled(1.5))))
    assert verdict["sentence"].startswith("Payments no longer look like what the model learnt: amount averages ")
    assert "limit 30 %" in verdict["sentence"]
    assert "2,000 payments" in verdict["sentence"]


COLUMNS = {
    "amount": st.lists(st.none() | st.floats() | st.integers(), max_size=8),
    "card": st.lists(st.none() | st.sampled_from(CARDS), max_size=8),
    "is_new": st.lists(st.none() | st.booleans(), max_size=8),
    "flag": st.lists(st.sampled_from([None, 0.0, 1.0, -1e308, 1e308, 5e-324]), max_size=8),
}


@settings(max_examples=300)
@given(st.fixed_dictionaries(COLUMNS), RECORDS, st.integers(0, 2), st.sampled_from([None, 0, 9]))
def test_any_window_against_any_baseline_has_a_verdict(columns, records, min_records, invocations):
    baseline = build_baseline(columns, SCHEMA, [0.5] * len(columns["amount"]), "run-1")
    json.dumps(baseline, allow_nan=False)
    sketch = Sketch(baseline, SCHEMA)
    for item in records:
        sketch.add(item)
    watched = ["amount", "flag", "card", "gone"]
    policy = {"min_records": min_records, "false_alarm_rate": 1.0, "mean_shift_features": watched}
    found = verdict_of(sketch, baseline, policy=policy, invocations=invocations)
    assert found["verdict"] in VERDICTS
    assert records or found["verdict"] in ("INSUFFICIENT_DATA", "MISSING_CAPTURE")


# ------------------------------------------------------------------------------------------------ what else is judged


def with_(baseline, **given):
    """The baseline with something said of a feature, or of the whole."""
    features = {name: entry | given.get(name, {}) for name, entry in baseline["features"].items()}
    return baseline | {"features": features} | {name: v for name, v in given.items() if name not in features}


def test_a_signal_must_last():
    sketch = sketch_of(payments(2000, 1, amount=scaled(2)))
    lasting = {"policy": {"persistence": [2, 3]}}
    first = verdict_of(sketch, **lasting)
    assert (first["verdict"], first["signal"]) == ("OK", True)
    assert "first sign of drift, seen in 1 of the 2 checks" in first["sentence"]
    assert verdict_of(sketch, previous=[False, False, True], **lasting)["verdict"] == "OK"
    assert verdict_of(sketch, previous=[False, True, False], **lasting)["verdict"] == "DRIFT"
    calm = verdict_of(sketch_of(payments(2000, 1)), previous=[True, True], **lasting)
    assert (calm["verdict"], calm["persistence"]) == ("OK", {"signals": 2, "of": 3, "needed": 2})


@pytest.mark.parametrize("given", [[3, 2], [0, 1], [1], [1, 2, 3], ["a", 1], None, [1.5, 2], 2])
def test_a_persistence_that_cannot_be_is_refused(given):
    with pytest.raises(ParameterError, match="give two whole numbers"):
        verdict_of(sketch_of(payments(500, 1)), policy={"persistence": given})


def test_what_training_itself_did_is_nothing_new():
    sketch = sketch_of(payments(2000, 1, is_new=lambda values: [k % 2 == 0 for k, _ in enumerate(values)]))
    assert rule(verdict_of(sketch), "psi", "is_new")["fired"]
    wavering = with_(BASELINE, is_new={"natural": {"psi": 0.5, "missing": 0.1}})
    found = rule(verdict_of(sketch, wavering), "psi", "is_new")
    assert not found["fired"] and found["threshold"] == 0.75


def test_features_that_the_model_does_not_go_by_are_shown_only():
    sketch = sketch_of(payments(2000, 1, is_new=lambda values: [k % 2 == 0 for k, _ in enumerate(values)]))
    for importance, fired in ((0.04, False), (0.06, True)):
        weights = {name: {"importance": 0.3} for name in BASELINE["features"]} | {"is_new": {"importance": importance}}
        found = rule(verdict_of(sketch, with_(BASELINE, **weights)), "psi", "is_new")
        assert (found["fired"], found["importance"]) == (fired, importance)
        assert ("next to no importance" in found["detail"]) is not fired
    all_even = {name: {"importance": 1 / 400} for name in BASELINE["features"]} | {"is_new": {"importance": 0.06}}
    assert rule(verdict_of(sketch, with_(BASELINE, **all_even)), "psi", "is_new")["fired"]


def test_card_testing_at_one_price_is_a_repeated_value():
    def tested(share):
        return lambda values: [9.99 if k % 100 < share else v for k, v in enumerate(values)]

    verdict = verdict_of(sketch_of(payments(2000, 1, amount=tested(8))))
    found = rule(verdict, "repeated", "amount")
    assert found["fired"] and found["value"] == 9.99 and found["current"] == pytest.approx(0.08)
    assert "amount is 9.99 in 8 % of payments instead of 0 %" in verdict["sentence"]
    assert not rule(verdict, "mean_shift", "amount")["fired"]
    assert not rule(verdict_of(sketch_of(payments(2000, 1, amount=tested(5)))), "repeated", "amount")["fired"]
    usual = build_baseline(payments(N, 0, amount=tested(8)), SCHEMA, scores(N, 0), "run-1")
    same = verdict_of(sketch_of(payments(2000, 1, amount=tested(8)), baseline=usual), usual)
    assert not any(r["fired"] for r in same["rules"])


def test_the_review_rate_is_counted_exactly():
    baseline = build_baseline(payments(N, 0), SCHEMA, scores(N, 0), "run-1", threshold=0.2)
    sketch = sketch_of(payments(2000, 1), baseline=baseline)
    share = sum(score >= 0.2 for score in scores(2000, 1)) / 2000
    verdict = verdict_of(sketch, baseline)
    assert verdict["review_rate"] == {"reference": baseline["review_rate"], "current": share}
    assert baseline["review_rate"] == sum(score >= 0.2 for score in scores(N, 0)) / N
    again = Sketch.from_json(baseline, sketch.to_json(), SCHEMA)
    assert again.merge(sketch).reviewed == 2 * sketch.reviewed == round(2 * 2000 * share)
    flood = Sketch(baseline, SCHEMA)
    for k in range(1000):
        flood.add(record({}, 0.9 if k % 2 else 0.1))
    found = rule(verdict_of(flood, baseline), "review_rate", "score")
    assert found["fired"] and found["direction"] == "up"


def test_categories_beyond_those_that_the_model_knows_are_no_news():
    """A model that knows the 55 most frequent of many merchants finds the others unknown at training, too."""
    names = [f"m{k}" for k in range(60)]
    schema = Schema((Feature("merchant", "category", False, tuple(names[:55])),), roles={})
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, 61) ** 0.3

    def draw(n):
        return rng.choice(names, n, p=weights / weights.sum()).tolist()

    baseline = build_baseline({"merchant": draw(20_000)}, schema, scores(20_000, 0), "run-1")
    entry = baseline["features"]["merchant"]
    assert entry["unseen"] > 500 and entry["count"] == sum(entry["top"].values()) + entry["other"] + entry["unseen"]

    def judged(rows, of=baseline):
        sketch = Sketch(of, schema)
        for name, score in zip(rows, scores(len(rows), 1), strict=True):
            sketch.add(record({"merchant": name}, score))
        return verdict_of(sketch, of)

    assert not judged(draw(2_000))["signal"]
    drifted = judged([*draw(1_500), *("m58" for _ in range(500))])
    assert "values that the model does not know in 28 % of payments instead of 4.8 %" in drifted["sentence"]


def test_a_feature_called_score_does_not_speak_for_the_models_scores():
    schema = Schema((Feature("score", "number"), Feature("amount", "number")), roles={})
    rng = np.random.default_rng(0)
    columns = {"score": rng.normal(0, 1, N).tolist(), "amount": rng.normal(0, 1, N).tolist()}
    shares = {"score": 0.01, "amount": 0.99}
    baseline = build_baseline(columns, schema, scores(N, 0), "run-1", threshold=0.5, importance=shares)
    sketch = Sketch(baseline, schema)
    for k in range(1_000):
        sketch.add(record({name: values[k] for name, values in columns.items()}, 0.9))
    assert {r["rule"] for r in verdict_of(sketch, baseline)["rules"] if r["fired"]} == {"score_psi", "review_rate"}


def test_answers_that_are_missing_here_and_there_are_left_out():
    columns, n = payments(2000, 1), 2000
    sketch = Sketch(THRESHOLDED, SCHEMA)
    for k, score in enumerate(scores(n, 1)):
        sketch.add(record({name: values[k] for name, values in columns.items()}, None if k % 5 < 2 else score))
    found = verdict_of(sketch, THRESHOLDED)
    kept = [score for k, score in enumerate(scores(n, 1)) if k % 5 >= 2]
    share = sum(score >= 0.2 for score in kept) / len(kept)
    assert not found["signal"] and found["review_rate"]["current"] == pytest.approx(share)
    assert rule(found, "review_rate", "score")["current"] == pytest.approx(share)
    assert rule(found, "score_psi", "score")["score"] < 0.05 and not found["notes"]


def test_without_any_false_alarm_allowed_nothing_fires():
    sketch = sketch_of(payments(2000, 1, amount=scaled(9)))
    assert verdict_of(sketch)["signal"]
    assert not verdict_of(sketch, policy={"false_alarm_rate": 0.0})["signal"]


@pytest.mark.parametrize(("n", "base", "most"), [(500, 0.02, 8), (500, 0.12, 20), (2000, 0.02, 0), (2000, 0.12, 2)])
def test_a_twentieth_sent_to_review_seldom_gives_a_signal(n, base, most):
    """All forged payments look like fraud, in 400 windows each; a verdict then takes two signals in three checks."""
    rng = np.random.default_rng(round(1000 * base) + n)
    baseline = build_baseline(
        payments(N, 0), SCHEMA, [0.9 if k < base * N else 0.1 for k in range(N)], "run-1", threshold=0.5
    )
    before, signals = (base * N, N), 0
    for _ in range(400):
        after = int(0.05 * n) + rng.binomial(n - int(0.05 * n), base)
        found = rules._share("review_rate", "score", before, (after, n), 0.06, rules.least_moved(VERDICT_POLICY))
        signals += found["fired"]
    assert baseline["review_rate"] == base and signals <= most


@pytest.mark.parametrize("share", [0.05, 0.2])
@pytest.mark.parametrize(
    ("name", "forged"),
    [
        ("unseen_threshold", {"card": "forged"}),
        ("repeated_threshold", {"amount": 9.99}),
        ("missing_threshold", {"flag": None}),
        ("ks_threshold", {"amount": 1e6}),
    ],
)
def test_no_threshold_lifts_what_protects_from_one_caller(name, forged, share):
    columns, n = payments(2000, 7), 2000
    sketch = Sketch(THRESHOLDED, SCHEMA)
    for k, score in enumerate(scores(n, 7)):
        row = {feature: values[k] for feature, values in columns.items()}
        sketch.add(record(row | forged if k < share * n else row, score))
    policy = {name: 0.01, "max_caller_share": share}
    assert not verdict_of(sketch, THRESHOLDED, policy=policy)["signal"]
    assert verdict_of(sketch, THRESHOLDED, policy=policy | {"max_caller_share": share / 4})["signal"] == (share > 0.07)


def test_a_season_is_not_drift():
    weekend = payments(2000, 1, amount=scaled(2))
    sketch = sketch_of(weekend)
    season = reference_of(BASELINE, sketch_of(payments(2000, 5, amount=scaled(2)), 5))
    assert verdict_of(sketch)["verdict"] == "DRIFT"
    found = verdict_of(sketch, season=season)
    assert found["verdict"] == "OK" and "as in the same hours a week before" in rule(found, "psi", "amount")["detail"]
    both = sketch_of(payments(2000, 1, amount=scaled(5)))
    assert verdict_of(both, season=season)["verdict"] == "DRIFT"


def test_half_of_the_calls_uncaptured_is_missing_capture():
    sketch = sketch_of(payments(500, 1))
    assert verdict_of(sketch, invocations=900)["verdict"] == "OK"
    assert verdict_of(sketch, invocations=1200)["verdict"] == "MISSING_CAPTURE"
    assert verdict_of(sketch, invocations=1200, skipped=200)["verdict"] == "OK"
    assert "1,200 times, but only 500 were captured" in verdict_of(sketch, invocations=1200)["sentence"]


def test_truth_can_trigger_by_itself():
    found = {
        "rule": "fraud_rate", "feature": "fraud_rate", "reference": 0.0059, "current": 0.0088, "score": 0.49,
        "threshold": 0.3, "n": 60_000, "fired": True, "direction": "up", "p_value": 1e-9, "importance": None,
        "detail": "",
    }  # fmt: skip
    verdict = verdict_of(sketch_of(payments(500, 1)), performance={"rules": [found], "summary": {"a": 1}})
    assert verdict["verdict"] == "DRIFT" and verdict["performance"] == {"a": 1}
    assert "0.88 % of payments are known as fraud instead of 0.59 %, over 60,000" in verdict["sentence"]
    few = verdict_of(sketch_of(payments(10, 1)), performance={"rules": [found | {"fired": False}], "summary": None})
    assert few["verdict"] == "INSUFFICIENT_DATA"


@pytest.mark.parametrize("share", [0.01, 0.05])
@pytest.mark.parametrize("n", [500, 5000])
@pytest.mark.parametrize(
    "forged",
    [
        {"amount": 40_700.0},
        {"amount": 0.01},
        {"amount": -1e308},
        {"amount": None},
        {"card": "forged"},
        {"flag": -7.0},
        {"amount": 1e6, "card": None, "is_new": None, "flag": None},
        {"score": 1.0},
    ],
)
def test_a_twentieth_of_forged_payments_cannot_buy_a_retraining(forged, share, n):
    columns = payments(n, 7)
    sketch = Sketch(THRESHOLDED, SCHEMA)
    for k, score in enumerate(scores(n, 7)):
        row = {name: values[k] for name, values in columns.items()}
        false = k < share * n
        sketch.add(record(row | forged if false else row, forged.get("score", score) if false else score))
    found = verdict_of(sketch, THRESHOLDED)
    assert [r for r in found["rules"] if r["fired"]] == []


THRESHOLDED = build_baseline(payments(N, 0), SCHEMA, scores(N, 0), "run-1", threshold=0.2)


def test_rows_that_are_not_independent_count_for_less():
    sketch = sketch_of(payments(500, 1, amount=scaled(1.35)))
    alone = rule(verdict_of(sketch), "ks", "amount")
    assert alone["fired"]
    clustered = with_(BASELINE, amount={"natural": {"dispersion": 5.0}})
    found = rule(verdict_of(sketch, clustered), "ks", "amount")
    assert not found["fired"] and found["score"] == alone["score"] and "beyond chance only" in found["detail"]
    clustered = with_(BASELINE, amount={"natural": {"dispersion": 2.0}})
    assert "within chance at n = 500" in rule(verdict_of(sketch, clustered), "ks", "amount")["detail"]


def test_clusters_count_for_psi_and_single_values_for_all_that_repeat():
    columns = payments(500, 1, is_new=lambda values: [k % 10 < 5 for k, _ in enumerate(values)])
    few = rule(verdict_of(sketch_of(columns)), "psi", "is_new")
    wide = with_(BASELINE, is_new={"natural": {"dispersion": 40.0}})
    found = rule(verdict_of(sketch_of(columns), wide), "psi", "is_new")
    assert few["fired"] and not found["fired"] and found["p_value"] > few["p_value"]


def test_a_mean_that_moves_without_its_distribution_is_chance():
    """Its p-value is at least that of the distribution: the normal tail of a heavy-tailed mean says too much."""
    columns = payments(150, 3)
    columns["amount"] = [v * 1.6 if k % 3 == 0 else v for k, v in enumerate(columns["amount"])]
    (applied, statistics_) = rules.apply(BASELINE, sketch_of(columns), VERDICT_POLICY)
    (found,) = [r for r in applied if r["rule"] == "mean_shift"]
    assert found["p_value"] >= statistics_["amount"]["ks_tail"]


def test_payments_have_half_of_the_false_alarm_rate():
    sketch = sketch_of(payments(150, 3, amount=lambda v: [x * 1.5 for x in v]))
    p = min(r["p_value"] for r in verdict_of(sketch)["rules"] if r["score"] >= r["threshold"])
    assert 0 < p < 0.01
    assert verdict_of(sketch, policy={"false_alarm_rate": 2.001 * p})["signal"]
    assert not verdict_of(sketch, policy={"false_alarm_rate": 1.999 * p})["signal"]


def test_truth_judges_where_traffic_is_too_little():
    fired = {
        "rule": "recall", "feature": "", "reference": 0.6, "current": 0.4, "score": 0.2, "threshold": 0.15, "n": 9000,
        "fired": True, "direction": "down", "p_value": 1e-6, "importance": None, "detail": "",
    }  # fmt: skip
    few = verdict_of(sketch_of(payments(10, 1)), performance={"rules": [fired], "summary": None})
    assert few["verdict"] == "DRIFT" and "catches 40 % of the frauds instead of 60 %" in few["sentence"]
    assert few["expected_false_alarms_per_month"] == pytest.approx(0.72)


def test_what_one_in_two_hundred_has_is_remembered():
    values = sorted([7.0] * 10 + [float(k) for k in range(1000, 2990)])
    assert repeated_values(values) == {"7.0": 10}
    assert repeated_values(sorted([7.0] * 9 + [float(k) for k in range(1000, 2991)])) == {}


def test_a_repeated_value_of_last_week_is_known_to_the_season():
    def priced(values):
        return [9.99 if k % 5 == 0 else v for k, v in enumerate(values)]

    season = reference_of(BASELINE, sketch_of(payments(2000, 5, amount=priced), 5))
    assert season["features"]["amount"]["repeats"]["9.99"] == 400
    applied, _ = rules.apply(season, sketch_of(payments(2000, 1, amount=priced)), VERDICT_POLICY)
    assert not any(r["fired"] for r in applied if r["rule"] == "repeated")


def test_a_repeated_value_was_chosen_among_many():
    columns = payments(300, 2)
    columns["amount"] = [float(k % 40) if k < 280 else 9.99 for k in range(300)]
    applied, _ = rules.apply(BASELINE, sketch_of(columns), VERDICT_POLICY)
    (found,) = [r for r in applied if r["rule"] == "repeated" and r["feature"] == "amount"]
    alone = distances.share_tail(0, N, round(found["current"] * 300), 300)
    assert found["p_value"] == pytest.approx(min(1.0, alone * len(sketch_of(columns).features["amount"].repeats)))
    assert found["p_value"] > alone


def test_what_else_moved_is_named_as_people_know_it():
    flood = sketch_of(payments(2000, 1, amount=scaled(3)), baseline=THRESHOLDED)
    rules_ = [
        rule(verdict_of(flood, THRESHOLDED), "mean_shift", "amount") | {"fired": True},
        {"rule": "review_rate", "feature": "score"},
        {"rule": "score_psi", "feature": "score"},
        *({"rule": "psi", "feature": name} for name in ("card", "is_new", "flag")),
    ]
    assert wording.drifted(rules_, 2_000).endswith(" 4 more moved: the scores, card, is_new and 1 more.")
