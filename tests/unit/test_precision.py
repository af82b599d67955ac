"""A payment is the same payment in whatever width its history was kept: no bin's edge comes between the two."""

import json
import math
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from fraud import precision, rules
from fraud.drift import SCORE_EDGES, Sketch, build_baseline, number_profile
from fraud.schema import Feature, Schema
from fraud.training import natural
from fraud.verdict import POLICY, judge

SCHEMA = Schema((Feature("x", "number"),), roles={"amount": "x"})
LARGEST = float(np.finfo(np.float32).max)


def as_float16(values):
    return np.array(values).astype(np.float16).astype(float)


def as_float32(values):
    return np.array(values).astype(np.float32).astype(float)


def as_json(values):
    return json.loads(json.dumps([float(v) for v in values]))


def compared(history, live, **policy):
    """Baseline of the history, sketch of what came in, and the verdict."""
    baseline = build_baseline({"x": history}, SCHEMA, [0.1] * len(history), "run-1")
    sketch = Sketch(baseline, SCHEMA)
    for value in live:
        sketch.add(SimpleNamespace(transaction={"x": value}, fraud_probability=0.1))
    policy = {"min_records": 1, "persistence": [1, 1], "false_alarm_rate": 1.0} | policy
    return baseline["features"]["x"], sketch, judge(baseline, sketch, policy, (0, 86_400), "fraud", 90_000)


def nothing_moved(history, live):
    """Every value lies in the bin that it had at training, and no rule fires, even where chance excuses nothing."""
    profile, sketch, verdict = compared(history, live)
    counted = sketch.features["x"]
    assert counted.counts == profile["counts"]
    assert (counted.below, counted.above, counted.missing, counted.invalid) == (0, 0, 0, 0)
    statistics = rules.statistics(profile, counted)
    assert statistics["psi"] == statistics["ks"] == statistics["jensen_shannon"] == 0
    assert [rule["rule"] for rule in verdict["rules"] if rule["fired"]] == []
    cells, width, _ = natural._cells(np.array(live, dtype=float), profile["edges"])
    assert np.bincount(cells, minlength=width)[:-1].tolist() == profile["counts"]


near = st.builds(lambda v, k: float(np.nextafter(v, np.inf)) if k else v, st.floats(-1e4, 1e4), st.booleans())
neighbours = st.lists(st.integers(-6, 6), min_size=1, max_size=6).map(lambda ks: [1.0 + k * 2.0**-24 for k in ks])
values = st.one_of(
    st.sampled_from([0.0, -0.0, 5e-324, -1e-310, 1e-50, 12.3, 0.1, 1.0, 2049.0, 2051.0, 16_777_217.0, 99.99, 2.0**60]),
    near,
    st.integers(-5000, 5000).map(float),
    st.integers(-(2**40), 2**40).map(float),
    st.decimals(-10_000, 10_000, places=2).map(float),
)
columns = st.one_of(
    st.lists(values, min_size=1, max_size=60),
    neighbours.map(lambda some: some * 7),
    st.lists(values, min_size=1, max_size=4).flatmap(  # heavily repeated
        lambda few: st.lists(st.sampled_from(few), min_size=20, max_size=80)
    ),
)


@settings(max_examples=300, deadline=None)
@example([2051.0] * 30 + [2049.0] * 30 + [2050.0] * 40)  # halfway between two numbers of float16
@example([12.3] * 30 + [12.4] * 30 + [7.7] * 40)
@given(columns)
def test_a_float16_history_and_the_same_payments_as_json(column):
    assume(max(map(abs, column)) < 65_504)
    nothing_moved(as_float16(column), as_json(column))


@settings(max_examples=300, deadline=None)
@example([16_777_217.0] * 30 + [16_777_219.0] * 30 + [16_777_218.0] * 40)
@example([12.3] * 30 + [12.4] * 30 + [7.7] * 40)
@example([3.4028234e38] * 5 + [-3.4028234e38] * 5 + [1e-45] * 5)
@given(columns)
def test_a_float32_history_and_the_same_payments_as_json(column):
    nothing_moved(as_float32(column), as_json(column))


@settings(max_examples=200, deadline=None)
@given(columns | st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=40))
def test_a_float64_history_and_callers_who_compute_in_float32(column):
    narrow = [float(np.float32(v)) if abs(v) <= LARGEST else v for v in column]
    nothing_moved(np.array(column), as_json(narrow))
    nothing_moved(np.array(column), as_json(column))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.decimals(-10_000, 10_000, places=3), min_size=1, max_size=60))
def test_a_history_of_decimals_and_the_same_payments_as_json(column):
    nothing_moved([float(v) for v in column], as_json(column))
    nothing_moved(as_float32([float(v) for v in column]), [float(str(v)) for v in column])
    assert all(isinstance(v, Decimal) for v in column)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-(2**62), 2**62) | st.integers(0, 3), min_size=1, max_size=60))
def test_a_history_of_whole_numbers_kept_as_floats(column):
    for history in (column, [float(v) for v in column], as_float32(column)):
        nothing_moved(history, json.loads(json.dumps(column)))


@pytest.mark.parametrize("narrow", [as_float16, as_float32])
@pytest.mark.parametrize(
    "shared",
    [[12.3, 45.6, 78.9], [0.1, 0.7], [49.95, 99.9, 100.1, 3.33], [1 / 3, 2 / 3], [1001.3, 1002.7], [-5.55, 5.55]],
)
def test_prices_that_many_payments_share(narrow, shared):
    """Kaggle's reduce_mem_usage: a quarter and more of the payments have one of a few prices."""
    rng = np.random.default_rng(len(shared))
    column = np.where(rng.random(4_000) < 0.6, rng.choice(shared, 4_000), rng.lognormal(3, 1, 4_000).round(2))
    profile, sketch, verdict = compared(narrow(column), as_json(column), false_alarm_rate=POLICY["false_alarm_rate"])
    assert verdict["verdict"] == "OK" and not any(rule["fired"] for rule in verdict["rules"])
    found = rules.statistics(profile, sketch.features["x"])
    assert found["psi"] == found["ks"] == found["out_of_range"] == 0


def test_one_price_in_two_widths_is_one_value_that_repeats():
    """The model learnt 12.3 as float32; half of the callers send float32, too."""
    rng = np.random.default_rng(1)
    usual = [12.3 if k % 5 == 0 else v for k, v in enumerate(rng.lognormal(3, 1, 3_000).tolist())]
    mixed = [v if k % 2 else float(np.float32(v)) for k, v in enumerate(usual)]
    for history, live in ((as_float32(usual), usual), (np.array(usual), mixed), (as_float32(usual), mixed)):
        profile, sketch, verdict = compared(history, as_json(live))
        assert not any(rule["fired"] for rule in verdict["rules"])
    tested = [12.3 if k % 10 < 4 else v for k, v in enumerate(mixed)]
    (found,) = [r for r in compared(as_float32(usual), as_json(tested))[2]["rules"] if r["rule"] == "repeated"]
    assert found["fired"] and found["value"] == 12.3
    assert found["current"] == pytest.approx(np.isclose(tested, 12.3, rtol=1e-7).mean())


@pytest.mark.parametrize("decimals", [2, 4, 6])
def test_a_history_written_with_few_decimals(decimals):
    """A fifth of the payments is a third, say of a limit; the file has 0.33 of it, the live payment all digits."""
    rng = np.random.default_rng(decimals)
    column = np.where(rng.random(4_000) < 0.4, rng.choice([1 / 3, 2 / 3], 4_000), rng.lognormal(0, 1, 4_000))
    profile, sketch, verdict = compared(column.round(decimals), as_json(column), false_alarm_rate=0.002)
    assert not any(rule["fired"] for rule in verdict["rules"])
    found = rules.statistics(profile, sketch.features["x"])
    assert found["psi"] < 0.001 and found["ks"] < 0.01
    tested = [0.35 if k % 10 == 0 else v for k, v in enumerate(column.tolist())]
    assert any(rule["fired"] for rule in compared(column.round(decimals), tested)[2]["rules"])


def test_what_is_new_between_known_values_is_still_seen():
    """Fees were 0 or from 5 on; a fee of 1, or of -1, is news."""
    rng = np.random.default_rng(2)
    fees = np.where(rng.random(5_000) < 0.8, 0.0, 5 + rng.exponential(3, 5_000)).astype(np.float32).astype(float)
    for new in (1.0, -1.0, 0.5):
        verdict = compared(fees, [new if v == 0 else v for v in fees.tolist()])[2]
        assert {"psi", "ks"} <= {rule["rule"] for rule in verdict["rules"] if rule["fired"]}


def test_scores_of_a_twentieth_lie_in_one_bin_in_any_width():
    scores = [k / 20 for k in range(21)]
    wide, narrow = (number_profile(some, SCORE_EDGES)["counts"] for some in (scores, as_float32(scores)))
    assert wide == narrow and sum(wide) == 21


# ------------------------------------------------------------------------------------------------ cells

anything = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(("width", "dtype"), [(16, np.float16), (32, np.float32)])
@settings(max_examples=500, deadline=None)
@given(value=anything, other=anything)
def test_cells_are_what_numpy_rounds_to(width, dtype, value, other):
    with np.errstate(over="ignore"):
        mine, theirs = float(dtype(value)), float(dtype(other))
    assert (precision.cell(value, width) is None) == math.isinf(mine)
    if math.isfinite(mine) and math.isfinite(theirs):
        assert (precision.cell(value, width) == precision.cell(other, width)) == (mine == theirs)
        assert (precision.cell(value, width) < precision.cell(other, width)) == (mine < theirs)


@pytest.mark.parametrize(("width", "dtype"), [(16, np.float16), (32, np.float32)])
@settings(max_examples=500, deadline=None)
@example(value=65_504.0)
@example(value=LARGEST)
@example(value=-0.0)
@example(value=2051.0)
@given(value=anything)
def test_a_cell_ends_where_numpy_begins_the_next_number(width, dtype, value):
    with np.errstate(over="ignore"):
        if math.isinf(number := float(dtype(value))):
            assert precision.last_of_cell(value, width) == precision.first_of_cell(value, width) == value
            return
        first, last = precision.first_of_cell(value, width), precision.last_of_cell(value, width)
        assert first <= value <= last
        assert dtype(first) == dtype(last) == number
        assert dtype(math.nextafter(last, math.inf)) > number > dtype(math.nextafter(first, -math.inf))


@settings(max_examples=500, deadline=None)
@given(anything, anything, st.floats(0, 1e300), st.sampled_from([16, 32]))
def test_an_edge_is_above_a_value_and_below_the_next(a, b, reach, width):
    assume(a != b)
    low, high = min(a, b), max(a, b)
    assume(precision.last_of_cell(low, width) < precision.first_of_cell(high, width))
    edge = precision.edge_above(low, high, reach, width)
    assert precision.last_of_cell(low, width) <= edge < precision.first_of_cell(high, width)
    assert precision.last_of_cell(low, width) <= precision.edge_above(low, math.inf, min(reach, 1e300), width)
