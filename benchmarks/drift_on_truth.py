"""Drift that only truth can see: a new pattern of fraud in the Fraud Detection Handbook's payments, and none.

    python benchmarks/drift_on_truth.py shared/data/handbook_raw.parquet            about twelve minutes on two cores
    python benchmarks/drift_on_truth.py shared/data/handbook_raw.parquet --quick    one seed, fewer resamplings

The product's training job (`src/train.py`) learns from the history that has truth a week before the onset, on day 66,
and serves from then on; the drift check's own `lambdas/drift_check/truth.py` looks every midnight, over captured scores
and label files in memory.

* *onset*: scenario 3 (stolen card data) is taken out of the history and present from day 73 on. The alarm must come by
  day 73 + 7 (days until a fraud is reported) + 14.
* *untouched*: the set is stationary; fifteen weeks of checks (days 66 to 182) must give no alarm.
* *A/A*: days drawn at random from the rows that graded the model, 24 checks a day; false alarms a month.

Exit code 1 when an alarm is late or false, or false alarms are more often than stated.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "published"), str(HERE.parent / "lambdas" / "drift_check")]

import datasets  # noqa: E402
import product  # noqa: E402
import truth  # noqa: E402
from handbook_features import FEATURES, features  # noqa: E402

from fraud.capture import Record  # noqa: E402
from fraud.cohort import Cohort, weeks  # noqa: E402
from fraud.drift import judge  # noqa: E402
from fraud.labels import GroundTruth, render_label_line  # noqa: E402
from fraud.performance import POLICY, judge_performance, reference  # noqa: E402
from fraud.schema import Schema  # noqa: E402
from fraud.sketch import Sketch  # noqa: E402
from fraud.training.metrics import threshold_for  # noqa: E402

START = dt.datetime(2018, 4, 1, tzinfo=dt.UTC).timestamp()
DAY = 86_400
WARM_UP, DEPLOYED, ONSET, LAST = 30, 66, 73, 182  # days
DELAY, LATEST = 7, 14  # days until a report; until the alarm after that
CHECKS = 24  # a day
TRAIN = "--delay_days 7 --n_bootstrap 20 --num_threads 2".split()
ENDPOINT = "fraud"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Item(NamedTuple):
    """An object as a bucket lists it."""

    key: str
    etag: str
    modified: float


class Memory:
    """A bucket: what `performance_of` needs, and how much it read."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.came: dict[str, float] = {}  # when each object did (seconds since 1970)
        self.read_bytes, self.now = 0, 0.0

    def items(self, prefix: str, after: str = "") -> list[Item]:
        found = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
        return [Item(key, str(hash(self.objects[key])), self.came[key]) for key in found]

    def read(self, key: str) -> bytes:
        if key not in self.objects:
            raise FileNotFoundError(key)
        self.read_bytes += len(self.objects[key])
        return self.objects[key]

    def put(self, key: str, body: bytes) -> None:
        self.objects[key], self.came[key] = body, self.now


@dataclass
class World:
    """A model in service, and all payments after its training, scored.

    Attributes
    ----------
    name : str
    live : DataFrame
        ``id``, ``time``, ``day``, ``label``, ``customer``, ``score`` and the features.
    baseline : dict
    schema : Schema
    graded : tuple of ndarray
        Label, score, time and customer of the rows that graded the model.
    """

    name: str
    live: pl.DataFrame
    baseline: dict[str, Any]
    schema: Schema
    graded: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def world(name: str, raw: pl.DataFrame, seed: int) -> World:
    """Train on what has truth at the deployment, score what follows."""
    if name == "onset":
        raw = raw.filter((pl.col("TX_FRAUD_SCENARIO") != 3) | (pl.col("TX_TIME_DAYS") >= ONSET))
    table = features(raw).filter(pl.col("TX_TIME_DAYS") >= WARM_UP)
    past = table.filter(pl.col("TX_TIME_DAYS") < DEPLOYED - DELAY)
    roles = {"id": "TRANSACTION_ID", "time": "TX_DATETIME", "target": "TX_FRAUD", "amount": "TX_AMOUNT"}
    roles["card"] = "CUSTOMER_ID"
    columns = {name: past[roles[of]] for name, of in (("id", "id"), ("label", "target"))}
    columns |= {"time": past["TX_DATETIME"].dt.epoch("s"), "card": past["CUSTOMER_ID"]}
    arguments = [*TRAIN, "--seed", str(seed), "--model_version", "run-1"]
    with tempfile.TemporaryDirectory(prefix="fraud-truth-") as folder:
        source = product.channel(Path(folder) / "channel", columns, past.select(FEATURES), roles)
        trained = product.train(source, Path(folder), arguments)
        known = past.filter(pl.col("TX_DATETIME").dt.epoch("s") >= trained.metrics["validation_start"])
        live = table.filter(pl.col("TX_TIME_DAYS") >= DEPLOYED)
        live = live.with_columns(score=pl.Series(trained.score(live)), time=pl.col("TX_DATETIME").dt.epoch("s"))
        seconds, customers = known["TX_DATETIME"].dt.epoch("s").to_numpy(), known["CUSTOMER_ID"].to_numpy()
        graded = known["TX_FRAUD"].to_numpy(), trained.score(known), seconds, customers
        baseline = json.loads((trained.model_dir / "baseline.json").read_bytes())
        schema = Schema.from_json((trained.model_dir / "schema.json").read_bytes())
    assert len(graded[0]) == trained.metrics["n_validation"]
    assert baseline["performance"] == counted(graded, trained.metrics["decision_threshold"]), "counted otherwise"
    return World(name, live, baseline, schema, graded)


def counted(graded: tuple[np.ndarray, ...], threshold: float) -> dict[str, Any]:
    """The reference, at any threshold."""
    label, score, second, customer = (one.tolist() for one in graded)
    return reference(label, score, threshold, second, DELAY, customer)


def reviewing(one: World, rate: float) -> World:
    """The same model, with the threshold of another review rate."""
    made = counted(one.graded, threshold_for(one.graded[1], rate))
    return replace(one, baseline=one.baseline | {"performance": made})


def live_through(one: World, customers: pl.Series | None, regime: str, policy: dict[str, Any], last: int) -> list[Any]:
    """Check at every midnight.

    Parameters
    ----------
    one : World
    customers : Series, optional
        Whose payments come; by default all.
    regime : {'frauds', 'both'}
        Whether only frauds are reported, or each payment.
    policy : dict
    last : int
        Day number of the last check, from the start of the set.

    Returns
    -------
    list of (int, dict)
        Day of the check, and what it found.
    """
    bucket, found = Memory(), []
    live = one.live if customers is None else one.live.filter(pl.col("CUSTOMER_ID").is_in(customers.implode()))
    days = dict(live.partition_by("TX_TIME_DAYS", as_dict=True))
    for day in range(DEPLOYED + 1, last + 1):
        now = bucket.now = START + day * DAY
        if (came := days.get((day - 1,))) is not None:
            ids = came["TRANSACTION_ID"].cast(pl.String).to_list()
            scores, times = came["score"].to_list(), came["time"].to_list()
            truth.append_scores(bucket.put, ENDPOINT, "run-1", ids, scores, times)
        if (known := days.get((day - 1 - DELAY,))) is not None:
            told = known if regime == "both" else known.filter(pl.col("TX_FRAUD") == 1)
            rows = zip(told["TRANSACTION_ID"], told["TX_FRAUD"], told["time"], strict=True)
            lines = [render_label_line(GroundTruth(str(i), label, t + DELAY * DAY)) for i, label, t in rows]
            hour = dt.datetime.fromtimestamp(now - 3600, dt.UTC)
            bucket.put(f"labels/{hour:%Y/%m/%d/%H}/reports.jsonl", "\n".join(lines).encode())
        answer = truth.performance_of(bucket.items, bucket.read, ENDPOINT, one.baseline, now, policy, bucket.put)
        json.dumps(answer, allow_nan=False)
        found.append((day, answer))
    return found


def alarms(checks: list[Any]) -> list[tuple[int, list[dict[str, Any]]]]:
    """Checks at which a rule fired."""
    return [(day, fired) for day, one in checks if (fired := [r for r in one["rules"] if r["fired"]])]


def closest(checks: list[Any]) -> str:
    """How near each rule came to its threshold, and the least p-value."""
    rules = [rule for _, one in checks for rule in one["rules"] if rule["score"] is not None]
    parts = []
    for name in dict.fromkeys(rule["rule"] for rule in rules):
        mine = [rule for rule in rules if rule["rule"] == name]
        worst, p = max(rule["score"] for rule in mine), min(rule["p_value"] for rule in mine)
        parts.append(f"{name} {worst:.3f} of {mine[0]['threshold']:g} (p ≥ {p:.1g})")
    return ", ".join(parts)


def unlabelled(one: World, until: int) -> tuple[int, int, dict[str, float]]:
    """The statistics without truth: checks, those with a signal, and the largest figure of each rule."""
    signals, largest = [], {}
    for day in range(ONSET + 1, until + 1):
        rows = one.live.filter(pl.col("TX_TIME_DAYS") == day - 1)
        sketch = Sketch(one.baseline, one.schema)
        names = [feature.name for feature in one.schema.features]
        for k, (values, score) in enumerate(zip(rows.select(names).iter_rows(), rows["score"], strict=True)):
            transaction = dict(zip(names, map(float, values), strict=True))
            sketch.add(Record(str(k), str(k), 0.0, transaction, score, "run-1", "AllTraffic"))
        now = START + day * DAY
        verdict = judge(one.baseline, sketch, {"persistence": [1, 1]}, (now - DAY, now), ENDPOINT, now)
        signals.append(verdict["signal"])
        for rule in verdict["rules"]:
            # A day is a weekend or none: that column differs from a whole training set every day.
            if rule["score"] is not None and not rule["feature"].startswith("TX_DURING"):
                largest[rule["rule"]] = max(largest.get(rule["rule"], 0.0), rule["score"])
    return len(signals), sum(signals), largest


def resampled(one: World, months: int, daily: int, seed: int, threshold: float) -> tuple[int, int]:
    """False alarms of months in which nothing changes.

    The reference is drawn from the graded rows too, so that its own chance is in the result; then days of so many
    payments. An alarm that lasts over several checks is one. Checks of one day see the same days, so one a day decides.

    Returns
    -------
    alarms, checks : int
    """
    rng = np.random.default_rng([seed, daily])
    label, score, *_ = one.graded

    def drawn(n: int) -> Cohort:
        picked = rng.integers(0, len(score), n)
        rows, reports = np.zeros(n, truth.SCORE), np.zeros(n, truth.report_type(1))
        rows["id"] = reports["id"] = np.arange(n)
        rows["score"], reports["label"] = score[picked], label[picked]
        return truth.count(rows, reports[reports["label"] == 1], 0, threshold)

    found = 0
    for _ in range(months):
        known = drawn(len(score))
        before = {name: getattr(known, name) for name in ("scored", "fraud", "told", "flagged", "caught")}
        before |= {name: getattr(known, name) for name in ("flagged_told", "expected", "expected_flagged")}
        before |= {"told": known.n, "threshold": threshold, "delay_days": 0, "dispersion": {}}
        days, firing = {day: drawn(daily) for day in range(28)}, False
        for day in range(28, 58):
            days[day] = drawn(daily)
            cohorts = weeks({d: c for d, c in days.items() if d > day - 56}, (day + 0.5) * DAY, 0)
            fires = any(rule["fired"] for rule in judge_performance(before, cohorts, POLICY)["rules"])
            found, firing = found + (fires and not firing), fires
    return found, months * 30 * CHECKS


def poisson_interval(count: int) -> tuple[float, float]:
    """95 % interval of a mean of which so many were seen (Garwood 1936)."""
    from scipy import stats

    low = stats.chi2.ppf(0.025, 2 * count) / 2 if count else 0.0
    return float(low), float(stats.chi2.ppf(0.975, 2 * count + 2) / 2)


def line(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="handbook_raw.parquet")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--review-rates", type=float, nargs="+", default=[0.005, 0.02])
    parser.add_argument("--shares", type=float, nargs="+", default=[1.0, 0.3, 0.1], help="of the customers")
    parser.add_argument("--months", type=int, default=200, help="of the A/A run, for each size of traffic")
    parser.add_argument("--quick", action="store_true", help="one seed, one review rate, 20 months")
    p = parser.parse_args(arguments)
    if not p.table.is_file():
        print(f"{p.table} is not on this machine, so nothing is measured; give the path of handbook_raw.parquet.")
        return 0
    if p.quick:
        p.seeds, p.review_rates, p.months = 1, [0.02], 20
    began, failed = time.monotonic(), []
    try:
        raw = datasets.read(p.table, datasets.HANDBOOK)
    except datasets.NotAsClaimed as error:
        print(error, file=sys.stderr)
        return 2
    customers = raw["CUSTOMER_ID"].unique().sort()
    print(f"Limits: {POLICY}\n")
    line("set", "seed", "review rate", "share of customers", "reports", "first alarm, days after onset + 7", "by what")
    line(*["---"] * 7)
    kept: dict[str, World] = {}
    made = ((name, seed, world(name, raw, seed + 1)) for seed in range(p.seeds) for name in ("onset", "untouched"))
    for name, seed, trained in made:
        kept.setdefault(name, trained)
        say(f"{name}, seed {seed}: dispersion {trained.baseline['performance']['dispersion']}")
        for rate in p.review_rates:
            one = reviewing(trained, rate)
            for share in p.shares:
                rng = np.random.default_rng([seed, int(1000 * share)])
                chosen = None if share == 1 else customers.filter(pl.Series(rng.random(len(customers)) < share))
                for regime in ("frauds", "both") if share == 1 and rate == p.review_rates[-1] else ("frauds",):
                    last = LAST if name == "untouched" else ONSET + DELAY + 28
                    since = time.monotonic()
                    checks = live_through(one, chosen, regime, POLICY, last)
                    seconds = (time.monotonic() - since) / len(checks)
                    fired = alarms(checks)
                    late = f"{fired[0][0] - ONSET - DELAY} (day {fired[0][0]})" if fired else "none"
                    why = "; ".join(
                        f"{r['rule']} {r['reference']:.4f} → {r['current']:.4f}, p {r['p_value']:.1g}"
                        for r in (fired[0][1] if fired else ())
                    )
                    line(name, seed, rate, share, regime, late, why or closest(checks))
                    say(f"{name}, seed {seed}, {rate}, {share}, {regime}: {1000 * seconds:.0f} ms a check")
                    if name == "untouched" and fired:
                        failed.append(f"untouched, seed {seed}, review rate {rate}, share {share}: a false alarm.")
                    if name == "onset" and share == 1 and not (fired and fired[0][0] <= ONSET + DELAY + LATEST):
                        failed.append(f"onset, seed {seed}, review rate {rate}: no alarm within two weeks.")
                    if name == "onset" and share == 1 and regime == "frauds" and fired:
                        say(next(c for d, c in checks if d == fired[0][0])["summary"]["sentence"])
    for name, one in kept.items():
        n, signals, largest = unlabelled(one, ONSET + DELAY + LATEST)
        figures = ", ".join(f"{rule} {value:.4f}" for rule, value in sorted(largest.items()))
        print(f"\n{name}, statistics without truth, {n} daily checks: {signals} with a signal; largest: {figures}.")
    print()
    line("A/A: payments a day", "frauds a day", "months", "checks", "alarms", "false alarms a month (95 %)")
    line(*["---"] * 6)
    one = kept["untouched"]
    threshold = one.baseline["performance"]["threshold"]
    for daily in (100, 1_000, 10_000):
        alarmed, checked = resampled(one, p.months, daily, 7, threshold)
        low, high = (bound / p.months for bound in poisson_interval(alarmed))
        frauds = f"{daily * one.graded[0].mean():.1f}"
        line(
            f"{daily:,}", frauds, p.months, f"{checked:,}", alarmed, f"{alarmed / p.months:.4f} ({low:.4f}, {high:.4f})"
        )
        if low > 1:
            failed.append(f"A/A, {daily:,} payments a day: more than one false alarm a month.")
    for reason in failed:
        print(reason)
    say(f"{time.monotonic() - began:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
