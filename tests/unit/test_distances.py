"""Distances and their chances against SciPy, on the same bins; nothing raises, nothing is NaN, whatever the counts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import distance

from fraud import distances as d

COUNTS = st.lists(st.integers(0, 10**6), min_size=1, max_size=30)


def pair_of(seed, n=20, bins=20):
    rng = np.random.default_rng(seed)
    return rng.multinomial(5000, rng.dirichlet(np.ones(bins) * 3)), rng.multinomial(
        n * 50, rng.dirichlet(np.ones(bins) * 3)
    )


@pytest.mark.parametrize("seed", range(5))
def test_distances_are_those_of_scipy_on_the_same_bins(seed):
    reference, current = pair_of(seed)
    p, q = reference / reference.sum(), current / current.sum()
    assert d.jensen_shannon(reference, current) == pytest.approx(distance.jensenshannon(p, q, base=2), abs=1e-12)
    assert d.total_variation(reference, current) == pytest.approx(np.abs(p - q).sum() / 2, abs=1e-12)
    assert d.kolmogorov_smirnov(reference, current) == pytest.approx(np.abs(np.cumsum(p - q)).max(), abs=1e-12)
    a, b = reference + 0.5, current + 0.5
    a, b = a / a.sum(), b / b.sum()
    psi = stats.entropy(a, b) + stats.entropy(b, a)
    assert d.population_stability_index(reference.tolist(), current.tolist()) == pytest.approx(psi, abs=1e-12)
    found, degrees = d.chi_square(reference, current)
    theirs = stats.chi2_contingency([reference, current], correction=False)
    assert (found, degrees) == (pytest.approx(theirs.statistic, rel=1e-12), theirs.dof)


def test_wasserstein_is_scipys_for_values_that_lie_evenly_in_their_bins():
    rng = np.random.default_rng(0)
    edges = np.sort(rng.normal(0, 1, 19))
    bounds = np.concatenate([[edges[0] - 1], edges, [edges[-1] + 1]])
    counts = [rng.integers(0, 30, 20) for _ in range(2)]
    spread = [
        np.concatenate(
            [np.linspace(a, b, 201)[:-1] + (b - a) / 400 for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
        )
    ] * 2
    weights = [np.repeat(c / c.sum() / 200, 200) for c in counts]
    theirs = stats.wasserstein_distance(spread[0], spread[1], weights[0], weights[1])
    place = edges.tolist(), bounds[0], bounds[-1]
    ours = d.wasserstein(*counts, *place, 1.0, 0.0)
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert d.wasserstein(*counts, *place, 2.0, 0.0) == pytest.approx(ours / 2)
    assert d.wasserstein(*counts, *place, 0.0, 0.0) is None


@pytest.mark.parametrize("factor", [0.6, 1.3])
def test_wasserstein_is_scipys_for_values_that_all_moved_one_way(factor):
    rng = np.random.default_rng(1)
    reference, current = rng.lognormal(4, 1, 20_000), rng.lognormal(4, 1, 5_000) * factor
    edges = np.quantile(reference, np.arange(1, 20) / 20)
    counts = [np.bincount(np.searchsorted(edges, x), minlength=20) for x in (reference, current)]
    low, high = min(reference.min(), current.min()), max(reference.max(), current.max())
    ours = d.wasserstein(*counts, edges.tolist(), low, high, 10.0, current.mean() - reference.mean())
    assert ours == pytest.approx(stats.wasserstein_distance(reference, current) / 10, rel=1e-3)


def test_the_binned_distance_falls_short_by_one_bin_at_most():
    rng = np.random.default_rng(3)
    reference, current = rng.normal(0, 1, 20_000), rng.normal(0.3, 1.4, 3000)
    edges = np.quantile(reference, np.arange(1, 20) / 20)
    binned = [np.bincount(np.searchsorted(edges, x), minlength=20) for x in (reference, current)]
    exact = stats.ks_2samp(reference, current).statistic
    ours = d.kolmogorov_smirnov(*binned)
    assert exact - max(counts.max() / counts.sum() for counts in binned) <= ours <= exact + 1e-12


@pytest.mark.parametrize("degrees", [1, 2, 5, 19, 60, 400])
def test_the_chi_square_tail_is_scipys(degrees):
    x = np.concatenate([np.linspace(0.01, 3 * degrees + 60, 200), [1e-12, 2000.0]])
    theirs = stats.chi2.sf(x, degrees)
    ours = [d.chi_square_tail(value, degrees) for value in x]
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-15)
    assert d.chi_square_tail(math.inf, degrees) == 0.0 and d.chi_square_tail(0, degrees) == 1.0


def test_kolmogorovs_tail_is_scipys_for_large_samples():
    for distance_ in (0.005, 0.01, 0.02, 0.03, 0.05):
        theirs = stats.kstwobign.sf(distance_ * math.sqrt(5000))
        assert d.kolmogorov_tail(distance_, 10_000, 10_000) == pytest.approx(theirs, abs=0.02)
    assert d.kolmogorov_by_chance(10_000, 10_000) == pytest.approx(stats.kstwobign.mean() / math.sqrt(5000), rel=1e-6)
    assert d.kolmogorov_by_chance(0, 10) == 1.0
    assert d.kolmogorov_tail(0.0, 100, 100) == 1.0 and d.kolmogorov_tail(1.0, 1000, 1000) < 1e-100


def test_shares_are_compared_as_scipy_does():
    for a, n, b, m in ((50, 1000, 90, 1000), (5, 10_000, 9, 300), (0, 100, 8, 100), (100, 100, 100, 100)):
        if 0 < a + b < n + m:
            theirs = stats.chi2_contingency([[a, n - a], [b, m - b]], correction=True).pvalue
            assert d.share_tail(a, n, b, m) == pytest.approx(theirs, rel=1e-9, abs=1e-300)
        else:
            assert d.share_tail(a, n, b, m) == 1.0


def test_adjusted_p_values_are_scipys():
    p = np.random.default_rng(0).random(50) ** 3
    np.testing.assert_allclose(d.false_discovery_adjusted(p.tolist()), stats.false_discovery_control(p))
    assert d.false_discovery_adjusted([]) == []


@pytest.mark.parametrize("n", [500, 2000, 20_000])
def test_psi_exceeds_its_chance_as_often_as_it_says(n):
    rng = np.random.default_rng(n)
    share = np.full(20, 0.05)
    reference = rng.multinomial(100_000, share, 2000)
    current = rng.multinomial(n, share, 2000)
    tails = np.array(
        [
            d.psi_tail(d.population_stability_index(a.tolist(), b.tolist()), 20, 100_000, n)
            for a, b in zip(reference, current, strict=True)
        ]
    )
    for level in (0.05, 0.01):
        assert abs((tails < level).mean() - level) < 4 * math.sqrt(level / 2000)


@pytest.mark.parametrize("n", [300, 3000])
def test_total_variation_by_chance_is_what_resampling_gives(n):
    rng = np.random.default_rng(n)
    share = rng.dirichlet(np.ones(20) * 2)
    pairs = list(zip(rng.multinomial(20_000, share, 400), rng.multinomial(n, share, 400), strict=True))
    drawn = np.mean([d.total_variation(a, b) for a, b in pairs])
    assert np.mean([d.total_variation_by_chance(a, b) for a, b in pairs]) == pytest.approx(drawn, rel=0.03)


@given(COUNTS, st.data())
def test_any_counts_have_finite_distances(reference, data):
    current = data.draw(st.lists(st.integers(0, 10**6), min_size=len(reference), max_size=len(reference)))
    edges = sorted({float(k) for k in range(len(reference) - 1)})
    found = [
        d.population_stability_index(reference, current),
        d.jensen_shannon(reference, current),
        d.total_variation(reference, current),
        d.kolmogorov_smirnov(reference, current),
        d.wasserstein(reference, current, edges, -1.0, 99.0, 1e-300, data.draw(st.floats(-1e308, 1e308))),
        d.chi_square(reference, current)[0],
        d.psi_tail(0.1, len(reference), sum(reference), sum(current)),
        d.kolmogorov_tail(0.1, sum(reference), sum(current)),
        d.share_tail(reference[0], sum(reference), current[0], sum(current)),
    ]
    assert all(math.isfinite(value) and value >= 0 for value in found)
    assert max(found[1], found[2], found[3], *found[6:]) <= 1
