"""False alarms of months without drift, as the product runs: a check every hour, over the last 24 hours.

Windows that overlap make one chance last for many checks, so alarms are counted as people get them: a verdict DRIFT
where none was within a day, as the drift alarm counts, too. Traffic that has not changed is the history itself in
another order: each hour of a month is an hour of the history at the same time of day, payments of one hour together, so
that a card's burst stays a burst. Beside it stands the traffic that really followed, month by month; there some columns
of the sample move after all. The model stays the same for all that time, as if nobody ever retrained.

    python benchmarks/drift_month.py             a year at each of three volumes, and what followed: about 20 minutes
    python benchmarks/drift_month.py --months 1 --worlds 1    a quick look
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import polars as pl
from drift_on_truth import poisson_interval
from drift_quality import AMOUNT, TIME, World, table

from fraud.drift import Sketch
from fraud.verdict import DRIFT, POLICY, judge, persistence

HOUR, DAY = 3600, 24
MONTH = 30 * DAY  # hours
SIMPLE = 0.30


@dataclass
class Seen:
    """What the checks of some time said."""

    checks: int = 0
    payments: int = 0
    signals: int = 0
    drift: int = 0
    alarms: int = 0
    simple: int = 0
    why: Counter[str] = field(default_factory=Counter)

    @property
    def months(self) -> float:
        """How long it was."""
        return self.checks / MONTH


def counted(world: World, frame: pl.DataFrame) -> tuple[Sketch, float, int]:
    """An hour in counts, and its amounts' sum and number for the simple rule."""
    sketch = Sketch(world.baseline, world.schema)
    for row, score in zip(frame.select(world.names).iter_rows(named=True), world.score(frame).tolist(), strict=True):
        sketch.add(SimpleNamespace(transaction=row, fraud_probability=score))
    amounts = frame[AMOUNT].drop_nulls()
    return sketch, float(amounts.sum()), len(amounts)


def live_through(world: World, hours: Iterator[pl.DataFrame], seen: Seen) -> None:
    """Check at the end of every hour."""
    window: deque[tuple[Sketch, float, int]] = deque(maxlen=DAY)
    _, of = persistence(POLICY)
    signals: deque[bool] = deque(maxlen=of - 1)
    before, last, ran = float(world.history[AMOUNT].mean()), -math.inf, False
    for k, frame in enumerate(hours):
        window.append(counted(world, frame))
        if len(window) < DAY:
            continue
        whole = Sketch(world.baseline, world.schema)
        for sketch, _, _ in window:
            whole.merge(sketch)
        end = float(k * HOUR)
        verdict = judge(world.baseline, whole, POLICY, (end - DAY * HOUR, end), "fraud", end, previous=list(signals))
        signals.appendleft(verdict["signal"])
        drifts = verdict["verdict"] == DRIFT
        mean = sum(total for _, total, _ in window) / max(1, sum(n for _, _, n in window))
        runs = abs(mean - before) / before > SIMPLE
        seen.checks += 1
        seen.payments += whole.n
        seen.signals += verdict["signal"]
        seen.drift += drifts
        new = drifts and k - last > DAY
        seen.alarms += new
        seen.simple += runs and not ran
        if new:
            seen.why.update({f"{r['rule']} {r['feature']}".strip() for r in verdict["rules"] if r["fired"]})
        last, ran = (k if drifts else last), runs


def by_hour(frame: pl.DataFrame) -> list[pl.DataFrame]:
    """Payments hour by hour, empty hours too."""
    number = (frame[TIME] - int(frame[TIME].min())).cast(pl.Int64) // HOUR
    edges = np.searchsorted(number.to_numpy(), np.arange(int(number.max()) + 2))
    return [frame[int(a) : int(b)] for a, b in zip(edges, edges[1:], strict=False)]


def again(hours: list[pl.DataFrame], factor: float, length: int, rng: np.random.Generator) -> Iterator[pl.DataFrame]:
    """The history in another order: of each hour a part, or several days' together."""
    for k in range(length):
        same = hours[k % DAY :: DAY]
        chosen = [same[int(place)] for place in rng.integers(0, len(same), max(1, round(factor)))]
        yield pl.concat([one[: max(1, round(len(one) * min(1.0, factor)))] for one in chosen])


def row(what: str, seen: Seen) -> list[str]:
    """One line of the table."""
    low, high = poisson_interval(seen.alarms)
    rate = f"{seen.alarms / seen.months:.2f} [{low / seen.months:.2f}, {high / seen.months:.2f}]"
    return [
        what,
        f"{seen.payments / max(1, seen.checks):,.0f}",
        f"{seen.checks:,}",
        f"{seen.signals:,}",
        f"{seen.drift:,}",
        f"{seen.alarms}",
        rate,
        f"{seen.simple / seen.months:.1f}",
        ", ".join(f"{name} {count}" for name, count in seen.why.most_common(4)),
    ]


def main() -> int:
    """Print the table; fail when unchanged traffic gave more than one alarm a month for certain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--months", type=int, default=4, help="of each sample, at each volume")
    parser.add_argument("--worlds", type=int, default=3, help="samples")
    parser.add_argument("--factors", type=float, nargs="+", default=[0.25, 1.0, 4.0], help="of the sample's own volume")
    p = parser.parse_args()
    unchanged = {factor: Seen() for factor in p.factors}
    followed: dict[int, Seen] = {}
    for seed in range(1, p.worlds + 1):
        world = World(seed)
        hours = by_hour(world.history)
        hours = hours[: len(hours) // DAY * DAY]
        for factor, seen in unchanged.items():
            rng = np.random.default_rng([seed, round(100 * factor)])
            live_through(world, again(hours, factor, p.months * MONTH, rng), seen)
            sys.stderr.write(
                f"sample {seed}, {factor} of the volume: {seen.alarms} alarms in {seen.months:.1f} months\n"
            )
        later = by_hour(world.later)
        for month in range(min(p.months + 1, len(later) // MONTH)):
            seen = followed.setdefault(month, Seen())
            live_through(world, iter(later[max(0, month * MONTH - DAY) : (month + 1) * MONTH]), seen)
            sys.stderr.write(f"sample {seed}, month {month + 1} after: {seen.alarms} alarms\n")
    rows = [row("unchanged", seen) for seen in unchanged.values()]
    rows += [row(f"month {month + 1} after the history", seen) for month, seen in followed.items()]
    head = "traffic|payments a window|checks|signals|DRIFT|alarms|alarms a month [95 %]|mean ± 30 %, a month|by what"
    sys.stdout.write(table(head.split("|"), rows))
    worst = max(unchanged.values(), key=lambda seen: seen.alarms / seen.months)
    if poisson_interval(worst.alarms)[0] / worst.months > 1:
        sys.stdout.write("Unchanged traffic gave more than one alarm a month.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
