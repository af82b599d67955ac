"""How far two samples are apart, from counts over the same bins, and how likely chance alone brings them that far.

All take two sequences of counts over the same bins, of shape (n_bins,). Bins add nothing that is not there: a distance
between binned samples is at most that between the samples themselves (data processing inequality), and the
Kolmogorov-Smirnov distance falls short of it by at most the largest share that one bin has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

SPREAD = 0.1  # share of the reference's spread that stands in for a mean near 0
_SMOOTH = 0.5  # added to each bin, so that an empty one has a logarithm
_TINY = 1e-300
_ROUNDING = 1e-12  # of sums of shares


def relative_mean_shift(reference: float, current: float, std: float) -> float | None:
    """How far the mean has moved, as a share of the reference mean: ``|current - reference| / |reference|``.

    Where the reference mean is smaller than a tenth of the spread, that tenth takes its place: a share of 0, or of
    next to nothing, has no meaning. A negative mean counts by its size. None when the reference is constantly 0.

    Examples
    --------
    >>> relative_mean_shift(100.0, 130.0, 50.0), relative_mean_shift(-100.0, -70.0, 50.0)
    (0.3, 0.3)
    >>> relative_mean_shift(0.0, 0.25, 5.0), relative_mean_shift(0.0, 1.0, 0.0)
    (0.5, None)
    """
    unit = max(abs(reference), SPREAD * std)
    return min(abs(current - reference) / unit, 1e300) if unit > 0 else None


def shares(counts: Sequence[float]) -> list[float]:
    """Counts as shares of their sum; zeros when there is nothing."""
    total = math.fsum(counts)
    return [count / total if total else 0.0 for count in counts]


def population_stability_index(reference: Sequence[float], current: Sequence[float]) -> float:
    """PSI, the symmetric Kullback-Leibler divergence in nats, half a row added to each bin.

    Examples
    --------
    >>> round(population_stability_index([970, 30], [700, 300]), 2)
    0.71
    """
    n, m = sum(reference) + _SMOOTH * len(reference), sum(current) + _SMOOTH * len(current)
    pairs = [((a + _SMOOTH) / n, (b + _SMOOTH) / m) for a, b in zip(reference, current, strict=True)]
    return math.fsum((b - a) * math.log(b / a) for a, b in pairs)


def jensen_shannon(reference: Sequence[float], current: Sequence[float]) -> float:
    """Jensen-Shannon distance: the square root of the divergence to base 2, between 0 and 1.

    Examples
    --------
    >>> jensen_shannon([10, 0], [0, 7]), jensen_shannon([5, 5], [1, 1])
    (1.0, 0.0)
    """
    divergence = 0.0
    for p, q in zip(shares(reference), shares(current), strict=True):
        middle = (p + q) / 2
        divergence += sum(x * math.log2(x / middle) for x in (p, q) if x and middle) / 2
    return math.sqrt(min(max(divergence, 0.0), 1.0))


def total_variation(reference: Sequence[float], current: Sequence[float]) -> float:
    """Smallest share of payments that must differ: who forges a share ``f`` moves it by ``f`` at most."""
    return math.fsum(abs(p - q) for p, q in zip(shares(reference), shares(current), strict=True)) / 2


def total_variation_by_chance(reference: Sequence[float], current: Sequence[float]) -> float:
    """Total variation to be expected between samples of one distribution, from the normal approximation of each bin."""
    n, m = math.fsum(reference), math.fsum(current)
    if not n or not m:
        return 0.0
    pooled = [(a + b) / (n + m) for a, b in zip(reference, current, strict=True)]
    spread = math.fsum(math.sqrt(p * (1 - p)) for p in pooled if p < 1)
    return spread * math.sqrt(2 / math.pi / harmonic_size(n, m)) / 2


def kolmogorov_smirnov(reference: Sequence[float], current: Sequence[float]) -> float:
    """Largest difference of the two distribution functions at the edges of the bins.

    Examples
    --------
    >>> kolmogorov_smirnov([50, 50, 0], [25, 25, 50])
    0.5
    """
    gap = largest = 0.0
    for p, q in zip(shares(reference), shares(current), strict=True):
        gap += q - p
        largest = max(largest, abs(gap))
    return min(largest, 1.0)


def wasserstein(
    reference: Sequence[float],
    current: Sequence[float],
    edges: Sequence[float],
    low: float,
    high: float,
    scale: float,
    moved: float,
) -> float | None:
    """First Wasserstein distance in units of `scale`: the area between the two distribution functions.

    Where one of them lies above the other at every edge, that area is the difference of the means, which are known
    exactly. The outermost bins are wide and seldom evenly filled, so that is not what their counts would say.

    Parameters
    ----------
    reference, current : sequence of float of shape (n_edges + 1,)
        Counts of the left-open bins.
    edges : sequence of float
        Strictly rising.
    low, high : float
        Where the outermost bins end; values beyond are taken to lie there.
    scale : float
        Such as the reference's interquartile range or standard deviation.
    moved : float
        Difference of the means.

    Returns
    -------
    float or None
        None without a scale. Else exact for values that lie evenly in their bins; a value may be misplaced by the width
        of its bin at most.
    """
    if not scale > 0 or not math.isfinite(scale):
        return None
    bounds = [min(low, *edges), *edges, max(high, *edges)] if edges else [low, high]
    area = gap = lowest = highest = 0.0
    for p, q, left, right in zip(shares(reference), shares(current), bounds[:-1], bounds[1:], strict=True):
        before, gap = gap, gap + q - p
        lowest, highest = min(lowest, gap), max(highest, gap)
        width = min((right - left) / scale, 1e300)
        if before * gap >= 0:
            area += width * (abs(before) + abs(gap)) / 2
        else:  # the two functions cross within the bin
            area += width * (before * before + gap * gap) / (2 * (abs(before) + abs(gap)))
    one_sided = min(-lowest, highest) < _ROUNDING
    return min(abs(moved) / scale if one_sided else area, 1e300)


def chi_square(reference: Sequence[float], current: Sequence[float]) -> tuple[float, int]:
    """Pearson's statistic of a 2 × n_bins table and its degrees of freedom; bins empty in both count for nothing.

    Examples
    --------
    >>> chi_square([10, 20, 0], [10, 20, 0])
    (0.0, 1)
    """
    n, m = math.fsum(reference), math.fsum(current)
    if not n or not m:
        return 0.0, 0
    pairs = [(a, b) for a, b in zip(reference, current, strict=True) if a + b]
    statistic = math.fsum(
        (a - n * (a + b) / (n + m)) ** 2 / (n * (a + b) / (n + m))
        + (b - m * (a + b) / (n + m)) ** 2 / (m * (a + b) / (n + m))
        for a, b in pairs
    )
    return statistic, len(pairs) - 1


# -------------------------------------------------------------------------------------- how likely by chance alone


def chi_square_tail(statistic: float, degrees: int) -> float:
    """Probability that a chi-square variable with so many degrees of freedom exceeds `statistic`.

    The regularised upper incomplete gamma function, by its series below the mean and by Legendre's continued fraction
    (modified Lentz) above; Abramowitz and Stegun 6.5.29 and 6.5.31.
    """
    a, x = degrees / 2, statistic / 2
    if degrees < 1 or x <= 0:
        return 1.0
    if not math.isfinite(x):
        return 0.0
    front = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        k = a
        while term > total * 1e-16:
            k += 1
            term *= x / k
            total += term
        return min(max(1 - front * total, 0.0), 1.0)
    b = x + 1 - a
    c, d = 1 / _TINY, 1 / b
    value = d
    for k in range(1, 1000):
        step = -k * (k - a)
        b += 2
        d = 1 / (step * d + b or _TINY)
        c = b + step / c or _TINY
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return min(max(front * value, 0.0), 1.0)


def harmonic_size(reference_rows: float, current_rows: float) -> float:
    """``n m / (n + m)``: the sample size that a comparison of two samples has."""
    rows = reference_rows + current_rows
    return reference_rows * current_rows / rows if rows else 0.0


def psi_tail(psi: float, bins: int, reference_rows: float, current_rows: float) -> float:
    """Probability of at least this PSI between samples of one distribution.

    ``PSI · n m / (n + m)`` follows a chi-square distribution with ``bins - 1`` degrees of freedom (Yurdakul and
    Naranjo, 2020).
    """
    return chi_square_tail(psi * harmonic_size(reference_rows, current_rows), bins - 1)


def kolmogorov_tail(distance: float, reference_rows: float, current_rows: float) -> float:
    """Probability of at least this distance between samples of one distribution: Kolmogorov's series.

    With Stephens' correction for small samples (1970). Binned samples come nearer to each other than that: it errs
    towards no drift.
    """
    root = math.sqrt(harmonic_size(reference_rows, current_rows))
    x = (root + 0.12 + 0.11 / root) * distance if root else 0.0
    if x < 0.2:
        return 1.0
    total = math.fsum((-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 101))
    return min(max(2 * total, 0.0), 1.0)


def kolmogorov_by_chance(reference_rows: float, current_rows: float) -> float:
    """Distance to be expected between samples of one distribution: the mean of Kolmogorov's, ``ln 2 √(π/2)``."""
    size = harmonic_size(reference_rows, current_rows)
    return min(math.log(2) * math.sqrt(math.pi / 2 / size), 1.0) if size else 1.0


def normal_tail(z: float) -> float:
    """Probability that a standard normal variable is at least this far from 0, on either side."""
    return math.erfc(abs(z) / math.sqrt(2)) if z == z else 1.0


def share_tail(reference: float, reference_rows: float, current: float, current_rows: float) -> float:
    """Probability that two shares of one population differ by so much: two-sided, pooled, with Yates' correction.

    Parameters
    ----------
    reference, current : float
        How many of the rows have it.
    reference_rows, current_rows : float
        Of how many.
    """
    if not reference_rows or not current_rows:
        return 1.0
    pooled = (reference + current) / (reference_rows + current_rows)
    error = math.sqrt(pooled * (1 - pooled) / harmonic_size(reference_rows, current_rows))
    correction = 0.5 / harmonic_size(reference_rows, current_rows)
    gap = max(abs(current / current_rows - reference / reference_rows) - correction, 0.0)
    return normal_tail(gap / error) if error else 1.0


def false_discovery_adjusted(p_values: Sequence[float]) -> list[float]:
    """Benjamini and Hochberg's adjusted p-values (1995): below ``q``, at most a share ``q`` of the findings are false.

    Where nothing has drifted at all, any finding is a false one: then ``q`` bounds the chance of a single alarm.

    Parameters
    ----------
    p_values : sequence of float of shape (n,)

    Returns
    -------
    list of float of shape (n,)

    Examples
    --------
    >>> false_discovery_adjusted([0.01, 0.5, 0.02])
    [0.03, 0.5, 0.03]
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__, reverse=True)
    adjusted, smallest = [1.0] * len(p_values), 1.0
    for place, k in enumerate(order):
        smallest = min(smallest, p_values[k] * len(p_values) / (len(p_values) - place))
        adjusted[k] = smallest
    return adjusted
