"""How sure a share, an AUC or an average precision is, and whether chance alone explains a difference of two.

Counts of scored payments come in bins of rising score; payments in one bin count as equal in score. Standard library
only: a Lambda and a training job use the same lines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959963984540054  # half of a 95 % interval, in standard errors
_NEGLIGIBLE = 1e-17  # of a sum that has been added up so far


def wilson(hits: float, n: float, z: float = Z95) -> tuple[float, float] | None:
    """Interval of a share (Wilson, JASA 1927); never outside [0, 1], and sensible for 0 of n. None of nothing.

    Examples
    --------
    >>> [round(bound, 4) for bound in wilson(8, 10)]
    [0.4902, 0.9433]
    """
    if n <= 0:
        return None
    share, square = hits / n, z * z
    center = share + square / (2 * n)
    half = z * math.sqrt(max(0.0, share * (1 - share) / n + square / (4 * n * n)))
    scale = 1 + square / n
    return max(0.0, (center - half) / scale), min(1.0, (center + half) / scale)


def greater_by_chance(hits: int, n: int, other_hits: int, other_n: int) -> float:
    """Probability that ``n`` of both samples together, drawn blindly, hold so many hits or more.

    Fisher's exact test, one-sided: small when the share of the first sample is greater than the other's. 1 where there
    is nothing to compare.

    Parameters
    ----------
    hits, n : int
        Of the first sample.
    other_hits, other_n : int
        Of the other.

    Examples
    --------
    >>> round(greater_by_chance(8, 10, 1, 6), 4)
    0.0245
    """
    total, marked = n + other_n, hits + other_hits
    low, high = max(0, n - (total - marked)), min(n, marked)
    if n <= 0 or other_n <= 0 or hits <= low:
        return 1.0
    upper = hits * total > n * marked  # the shorter tail is summed: its terms fall from the first one on
    k = hits if upper else hits - 1
    term = math.exp(_log_choose(marked, k) + _log_choose(total - marked, n - k) - _log_choose(total, n))
    tail = 0.0
    while low <= k <= high and term > tail * _NEGLIGIBLE:
        tail += term
        rest = total - marked - n + k  # unmarked payments of the other sample
        if upper:
            term *= (marked - k) * (n - k) / ((k + 1) * (rest + 1))
            k += 1
        else:
            term *= k * rest / ((marked - k + 1) * (n - k + 1))
            k -= 1
    return min(1.0, max(0.0, tail if upper else 1.0 - tail))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def auc(fraud: Sequence[int], legitimate: Sequence[int]) -> tuple[float, float] | None:
    """AUC ROC of counts in bins, and its variance.

    The variance is DeLong's (DeLong, DeLong and Clarke-Pearson, Biometrics 1988): how much the *placement* of a payment
    among those of the other kind varies. Where there is none to see (one fraud, perfect order), Hanley and McNeil's
    (Radiology 1982) is taken half a pair away from perfection.

    Parameters
    ----------
    fraud, legitimate : sequence of int of shape (n_bins,)
        Payments per bin, scores rising.

    Returns
    -------
    tuple of float or None
        None when one kind is missing.
    """
    m, n = sum(fraud), sum(legitimate)
    if not m or not n:
        return None
    below, places, total = 0, [], 0.0
    for f, count in zip(fraud, legitimate, strict=True):
        places.append((below + count / 2) / n)  # share of the legitimate that a fraud of this bin is above
        total += f * places[-1]
        below += count
    area = total / m
    squares = math.fsum(f * (place - area) ** 2 for f, place in zip(fraud, places, strict=True))
    above, others = m, []
    for f, count in zip(fraud, legitimate, strict=True):
        above -= f
        if count:
            others.append(count * ((above + f / 2) / m - area) ** 2)
    variance = 0.0
    if m > 1 and n > 1:
        variance = squares / (m - 1) / m + math.fsum(others) / (n - 1) / n
    return area, variance or _hanley_mcneil(area, m, n)


def _hanley_mcneil(area: float, m: int, n: int) -> float:
    area = min(max(area, 0.5 / (m * n)), 1 - 0.5 / (m * n))
    first, second = area / (2 - area), 2 * area * area / (1 + area)
    spread = area * (1 - area) + (m - 1) * (first - area * area) + (n - 1) * (second - area * area)
    return max(spread, 0.0) / (m * n)


def average_precision(fraud: Sequence[int], legitimate: Sequence[int]) -> float | None:
    """Mean of the precision at each fraud, worst bins last; scikit-learn's on scores that are rounded to the bins.

    None without a fraud.

    Examples
    --------
    >>> average_precision([1, 1], [2, 0])
    0.75
    """
    caught = flagged = 0
    total = 0.0
    for f, count in zip(reversed(fraud), reversed(legitimate), strict=True):
        caught, flagged = caught + f, flagged + f + count
        if f:
            total += f * (caught / flagged)
    return total / caught if caught else None


def log_odds(value: float, error: float) -> tuple[float, float]:
    """Log-odds of an area and their standard error (Pepe 2003): there an area near 1 is nearly normal.

    0 and 1 are moved by half the error first.
    """
    margin = min(max(error / 2, 1e-12), 0.5)
    inner = min(max(value, margin), 1 - margin)
    return math.log(inner / (1 - inner)), error / (inner * (1 - inner))


def logit_interval(value: float, error: float, z: float = Z95) -> tuple[float, float]:
    """Interval of an area, symmetric in log-odds, so that it cannot leave [0, 1].

    For average precision this is Boyd, Eng and Page's (2013), given the error of a share of as many frauds.

    Parameters
    ----------
    value : float
        The area.
    error : float
        Its standard error.
    """
    if not error > 0:
        return value, value
    odds, spread = log_odds(value, error)
    low, high = (1 / (1 + math.exp(min(-bound, 700.0))) for bound in (odds - z * spread, odds + z * spread))
    return min(low, value), max(high, value)


def student_tail(t: float, degrees: float) -> float:
    """Probability of more than ``t`` under Student's distribution, within 5 % (Wallace, Annals of Math. Stat. 1959).

    A spread that was measured on few frauds is itself uncertain; the normal distribution would not know.
    """
    size = (8 * degrees + 1) / (8 * degrees + 3) * math.sqrt(degrees * math.log1p(t * t / degrees))
    return upper_tail(math.copysign(size, t))


def upper_tail(z: float) -> float:
    """Probability of more than ``z`` under the standard normal distribution.

    Examples
    --------
    >>> round(upper_tail(1.96), 4)
    0.025
    """
    return math.erfc(z / math.sqrt(2)) / 2


def dispersion(pairs: Sequence[tuple[int, int]]) -> float:
    """How much more a share varies from day to day than independent payments would: 1 for not at all.

    Pearson's chi-square per degree of freedom (McCullagh and Nelder 1989, 4.5), never below 1: payments of one stolen
    card, or of one attack, are no independent witnesses. Counts divided by it may be treated as independent (Rao and
    Scott, Biometrics 1992).

    Parameters
    ----------
    pairs : sequence of (int, int)
        Hits and trials of each day; fewer than seven days with trials tell nothing.
    """
    pairs = [(hits, n) for hits, n in pairs if n]
    hits, total = sum(k for k, _ in pairs), sum(n for _, n in pairs)
    if len(pairs) < 7 or not 0 < hits < total:
        return 1.0
    share = hits / total
    square = math.fsum((k - n * share) ** 2 / (n * share * (1 - share)) for k, n in pairs)
    return max(1.0, square / (len(pairs) - 1))


def design_effect(pairs: Sequence[tuple[int, int]]) -> float:
    """By how much the variance of a share grows because trials come in groups: 1 when they might as well not.

    The variance of a ratio estimator over groups, against that of independent trials (Kish, *Survey Sampling*, 1965,
    8.2; the frauds of one stolen card are one group). Never below 1.

    Parameters
    ----------
    pairs : sequence of (int, int)
        Hits and trials of each group.

    Examples
    --------
    >>> design_effect([(4, 4), (0, 4), (0, 4), (4, 4)]), design_effect([(1, 1), (0, 1), (0, 1), (1, 1)])
    (4.0, 1.0)
    """
    hits, total = sum(k for k, _ in pairs), sum(n for _, n in pairs)
    if not 0 < hits < total:
        return 1.0
    share = hits / total
    return max(1.0, math.fsum((k - n * share) ** 2 for k, n in pairs) / (total * share * (1 - share)))
