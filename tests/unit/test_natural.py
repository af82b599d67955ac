"""What stretches of training did by themselves: nothing in steady rows, much where a column came and went."""

import numpy as np
import pytest

from fraud.training.natural import stretches, variation

N = 20_000
EDGES = {"edges": np.quantile(np.random.default_rng(9).normal(size=N), np.arange(1, 20) / 20).tolist()}


def rows(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(N, 3)), np.sort(rng.uniform(0, 30 * 86_400, N))


def test_steady_rows_vary_by_chance_only():
    train, times = rows()
    train[:, 2] = np.random.default_rng(1).integers(0, 4, N)
    found = variation(train, ["a", "b", "c"], times, {"a": EDGES, "b": EDGES, "c": {}})
    assert all(0 <= value < 0.03 for one in found.values() for name, value in one.items() if name != "dispersion")
    assert all(1 <= one["dispersion"] < 1.3 for one in found.values())
    assert found["c"].keys() == {"psi", "missing", "dispersion"}
    assert found["a"].keys() == {"psi", "missing", "dispersion", "ks", "repeated"}


def test_what_wavers_from_day_to_day_is_told():
    train, times = rows()
    day = times // 86_400
    train[:, 0] += np.where(day % 7 >= 5, 1.0, 0.0)
    train[day % 7 >= 5, 1] = np.nan
    found = variation(train, ["a", "b", "c"], times, {name: EDGES for name in "abc"})
    assert found["a"]["psi"] > 0.3 and found["a"]["ks"] > 0.2 and found["a"]["missing"] == 0
    assert found["b"]["missing"] == pytest.approx(0.68, abs=0.1)
    assert max(value for name, value in found["c"].items() if name != "dispersion") < 0.03
    assert found["a"]["dispersion"] > 3 > 1.3 > found["c"]["dispersion"]


def test_a_short_period_is_cut_into_twentieths_and_too_few_rows_say_nothing():
    assert len(stretches(np.linspace(0, 100, 10_000))) == 20
    assert stretches(np.linspace(0, 100, 1000)) == [] == stretches(np.zeros(9999)) == stretches(np.array([]))
    train, times = rows()
    assert variation(train[:500], ["a", "b", "c"], times[:500], {name: EDGES for name in "abc"}) == {}


def test_the_order_of_the_rows_makes_no_difference():
    train, times = rows()
    shuffled = np.random.default_rng(2).permutation(N)
    names, features = ["a", "b", "c"], {name: EDGES for name in "abc"}
    assert variation(train[shuffled], names, times[shuffled], features) == variation(train, names, times, features)


def test_bursts_of_one_value_are_told():
    train, times = rows()
    first = np.searchsorted(times, np.arange(30) * 86_400.0)  # a burst of 30 payments at the start of each day
    for start, value in zip(first, np.random.default_rng(3).normal(size=30), strict=True):
        train[start : start + 30, 0] = value
    found = variation(train, ["a", "b", "c"], times, {name: EDGES for name in "abc"})
    assert found["a"]["repeated"] == pytest.approx(30 / (N / 30), abs=0.01)
    assert found["b"]["repeated"] < 0.005


def test_rows_that_come_in_fives_count_as_a_fifth():
    train, times = rows()
    train[:, 0] = np.repeat(train[: N // 5, 0], 5)
    found = variation(train, ["a", "b", "c"], times, {name: EDGES for name in "abc"})
    assert found["a"]["dispersion"] == pytest.approx(5, rel=0.2)
