"""What drift is found, and what alarms are false: ours beside the mean-shift rule and Evidently's defaults.

Made-up payments with a known change (`fraud.demo.sample_shift` and two more), windows of several sizes. The model is
LightGBM's own, grown on the history: it gives the scores and what each feature is worth to it. Windows are stretches of
the months after the history, in their order, as an endpoint sees them; nothing is drawn at random from the reference.

    python benchmarks/drift_quality.py                                     all, about 8 minutes
    python benchmarks/drift_quality.py --windows 5 --aa 40 --sizes 2000    a quick look
    python benchmarks/drift_quality.py --evidently /tmp/evidently/bin/python   with Evidently (see drift_evidently.py)

A signal is what one check says by itself. A verdict DRIFT takes two signals in three checks: with windows that do not
overlap, as here, that is rarer still.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightgbm
import numpy as np
import polars as pl

from fraud import drift, performance
from fraud.cohort import Cohort
from fraud.demo.sample import generate
from fraud.demo.sample_shift import shift
from fraud.intervals import wilson
from fraud.rules import ON_TRUTH
from fraud.schema import Feature, Schema
from fraud.training import natural
from fraud.verdict import CHECKS_A_MONTH, POLICY, judge

HISTORY, ROWS = 60_000, 400_000  # rows taught from, rows of the whole table
AMOUNT, TARGET, TIME = "TransactionAmt", "isFraud", "TransactionDT"
LEFT_OUT = {"TransactionID", TIME, TARGET}


class World:
    """History, model, baseline and the traffic that follows."""

    def __init__(self, seed: int) -> None:
        parts = generate(ROWS, seed, 0, columns="core", steady=True)
        table = pl.concat(list(parts))
        self.history, self.later = table[:HISTORY], table[HISTORY:]
        kinds = {name: "number" if kind.is_numeric() else "category" for name, kind in table.schema.items()}
        self.names = [name for name in table.columns if name not in LEFT_OUT]
        features = []
        for name in self.names:
            known = self.history[name].drop_nulls().value_counts(sort=True)[name].to_list()[:200]
            features.append(
                Feature(name, "number") if kinds[name] == "number" else Feature(name, "category", False, tuple(known))
            )
        self.schema = Schema(tuple(features), roles={"amount": AMOUNT})
        train, graded = self.history[: HISTORY * 2 // 3], self.history[HISTORY * 2 // 3 :]
        matrix = self.encode(train)
        data = lightgbm.Dataset(matrix, train[TARGET].to_numpy(), feature_name=self.names)
        settings = {"objective": "binary", "verbosity": -1, "num_threads": 1, "num_leaves": 15, "seed": 1}
        self.booster = lightgbm.train(settings | {"boost_from_average": False, "learning_rate": 0.05}, data, 150)
        scores, labels = self.score(graded), graded[TARGET].to_list()
        threshold = float(np.quantile(scores, 0.98))
        gain = self.booster.feature_importance("gain")
        columns = {}
        for j, (name, feature) in enumerate(zip(self.names, self.schema.features, strict=True)):
            columns[name] = matrix[:, j] if feature.type == "number" else train[name].to_list()
        self.baseline = drift.build_baseline(
            columns, self.schema, scores.tolist(), "bench", threshold=threshold,
            importance={name: float(g) / float(gain.sum()) for name, g in zip(self.names, gain, strict=True)},
            performance=performance.reference(labels, scores, threshold, graded[TIME].to_list(), 7),
        )  # fmt: skip
        moved = natural.variation(matrix, self.names, train[TIME].to_numpy(), self.baseline["features"])
        for name, variation in moved.items():
            self.baseline["features"][name]["natural"] = variation

    def encode(self, frame: pl.DataFrame) -> np.ndarray:
        """Numbers as they are, categories as codes; what is missing or unseen is NaN."""
        made = []
        for feature in self.schema.features:
            column = frame[feature.name]
            if feature.type == "category":
                codes = {text: float(k) for k, text in enumerate(feature.categories)}
                made.append([codes.get(value, np.nan) for value in column.to_list()])
            else:
                made.append(column.cast(pl.Float64).fill_null(np.nan).to_numpy())
        return np.column_stack(made)

    def score(self, frame: pl.DataFrame) -> np.ndarray:
        """The model's scores."""
        return self.booster.predict(self.encode(frame))

    def verdict(self, frame: pl.DataFrame, *, truth: bool = False) -> dict[str, Any]:
        """What one check says of a window, by itself."""
        scores = self.score(frame).tolist()
        sketch = drift.Sketch(self.baseline, self.schema)
        for row, score in zip(frame.select(self.names).iter_rows(named=True), scores, strict=True):
            sketch.add(SimpleNamespace(transaction=row, fraud_probability=score))
        found = None
        if truth:
            cohort = Cohort(start=0.0, end=7 * 86_400.0)
            for score, label in zip(scores, frame[TARGET].to_list(), strict=True):
                cohort.add(score, label, self.baseline["threshold"])
            found = performance.judge_performance(self.baseline["performance"], [cohort], POLICY)
        return judge(
            self.baseline, sketch, POLICY | {"persistence": [1, 1]}, (0, 86_400), "fraud", 0, performance=found
        )

    def mean_shift(self, frame: pl.DataFrame) -> bool:
        """The simple rule: 30 % on the mean of the amount."""
        before, after = self.history[AMOUNT].mean(), frame[AMOUNT].mean()
        return after is None or abs(after - before) / abs(before) > 0.30

    def windows(self, n: int, most: int, start: int = 0, end: int | None = None) -> list[pl.DataFrame]:
        """Stretches of the later traffic, evenly over a part of it, apart from each other if there is room."""
        end = self.later.height if end is None else end
        places = np.linspace(start, end - n, max(2, min(most, (end - start) // n))).astype(int)
        return [self.later[int(place) : int(place) + n] for place in dict.fromkeys(places.tolist())]


def _scaled(frame: pl.DataFrame, _: int) -> pl.DataFrame:
    """Spread: distances from the median doubled on the logarithmic scale, the mean stays."""
    middle, mean = frame[AMOUNT].median(), frame[AMOUNT].mean()
    spread = middle * (frame[AMOUNT] / middle).pow(2.0)
    return frame.with_columns((spread * (mean / spread.mean())).alias(AMOUNT))


def _median(frame: pl.DataFrame, _: int) -> pl.DataFrame:
    """The median rises by 60 % while the mean stays: the usual payments cost more, the tail is shorter."""
    raised = pl.col(AMOUNT) * 1.6
    cap = frame[AMOUNT].quantile(0.9)
    return frame.with_columns(pl.when(pl.col(AMOUNT) < cap).then(raised).otherwise(pl.col(AMOUNT)).alias(AMOUNT))


FAULTS: dict[str, tuple[str, Callable[[pl.DataFrame, int], pl.DataFrame]]] = {
    "amounts +40 %": ("TransactionAmt × 1.4", lambda f, k: shift(f, "amount", factor=1.4, seed=k)),
    "spread ×2": ("of log TransactionAmt, the mean stays", _scaled),
    "missing 5 → 60 %": ("addr1 empty in 60 %", lambda f, k: shift(f, "missing", columns="addr1", share=0.6, seed=k)),
    "new category": ("card6 unknown in 10 %", lambda f, k: shift(f, "category", columns="card6", share=0.1, seed=k)),
    "card testing 8 %": ("8 % of payments cost 1.00", lambda f, k: shift(f, "card_testing", share=0.08, seed=k)),
    "median +60 %, tail kept": ("below its 90 % point × 1.6", _median),
    "new fraud pattern": ("6 % fraud of a new kind", lambda f, k: shift(f, "pattern", share=0.06, steady=True, seed=k)),
}


def evidently(python: str, reference: pl.DataFrame, windows: list[pl.DataFrame]) -> list[dict[str, Any]]:
    """What Evidently says of the windows."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{k}.parquet" for k in range(len(windows) + 1)]
        for path, frame in zip(paths, [reference, *windows], strict=True):
            frame.write_parquet(path)
        script = Path(__file__).with_name("drift_evidently.py")
        done = subprocess.run([python, str(script), *map(str, paths)], stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def power(world: World, p: argparse.Namespace) -> list[list[str]]:
    """Share of windows with each fault in which something notices."""
    rows = []
    for name, (what, change) in FAULTS.items():
        for n in p.sizes:
            frames = [change(frame, k) for k, frame in enumerate(world.windows(n, p.windows))]
            truth = name == "new fraud pattern"
            verdicts = [world.verdict(frame, truth=truth) for frame in frames]
            by: dict[str, int] = {}
            for verdict in verdicts:
                for kind in {rule["rule"] for rule in verdict["rules"] if rule["fired"]}:
                    by[kind] = by.get(kind, 0) + 1
            ours = sum(verdict["signal"] for verdict in verdicts)
            unlabelled = sum(any(r["fired"] and r["rule"] not in ON_TRUTH for r in v["rules"]) for v in verdicts)
            simple = sum(world.mean_shift(frame) for frame in frames)
            theirs = ["", ""]
            if p.evidently:
                wanted = [*world.names]
                found = evidently(
                    p.evidently, world.history.select(wanted)[-20_000:], [f.select(wanted) for f in frames]
                )
                changed = {"addr1"} if "missing" in name else {"card6"} if "category" in name else {AMOUNT}
                theirs = [
                    _share(sum(one["dataset_drift"] for one in found), len(found)),
                    _share(sum(bool(changed & set(one["drifted"])) for one in found), len(found)),
                ]
            what_fired = ", ".join(f"{kind} {count}" for kind, count in sorted(by.items(), key=lambda i: -i[1])[:4])
            label = f"{what} (by features alone {_share(unlabelled, len(frames))})" if truth else what
            rows.append(
                [name, label, f"{n:,}", _share(ours, len(frames)), what_fired, _share(simple, len(frames)), *theirs]
            )
            sys.stderr.write(f"{name}, n = {n:,}: {rows[-1][3]}\n")
    return rows


def false_alarms(worlds: list[World], p: argparse.Namespace) -> list[list[str]]:
    """Alarms without any change: rows drawn from the history itself, and the traffic that follows, in two halves.

    The windows of a half do not overlap where there are enough payments. In the second half, three to six months after
    the history, some columns of the sample have really moved: days since a client's first payment grow.
    """
    kinds: dict[str, Callable[[World, int], list[pl.DataFrame]]] = {
        "drawn from the history": lambda world, n: [
            world.history[np.sort(np.random.default_rng(k).integers(0, HISTORY, n)).tolist()] for k in range(p.aa)
        ],
        "the three months after": lambda world, n: world.windows(n, p.aa, 0, world.later.height // 2),
        "the three after these": lambda world, n: world.windows(n, p.aa, world.later.height // 2),
    }
    rows = []
    for n in p.sizes:
        for what, cut in kinds.items():
            checks = signals = lasting = simple = 0
            moved: set[str] = set()
            for world in worlds:
                frames = cut(world, n)
                verdicts = [world.verdict(frame) for frame in frames]
                said = [verdict["signal"] for verdict in verdicts]
                checks, signals = checks + len(said), signals + sum(said)
                lasting += sum(sum(said[max(0, k - 2) : k + 1]) >= 2 for k in range(len(said)) if said[k])
                simple += sum(world.mean_shift(frame) for frame in frames)
                moved |= {rule["feature"] for verdict in verdicts for rule in verdict["rules"] if rule["fired"]}
            low, high = wilson(signals, checks)
            month = [f"{CHECKS_A_MONTH * share:.1f}" for share in (signals / checks, low, high)]
            theirs = ""
            if p.evidently:
                theirs = _peer(p, worlds[0], cut(worlds[0], n)[: p.windows])
            rows.append([
                what, f"{n:,}", f"{signals} of {checks}", f"{month[0]} [{month[1]}, {month[2]}]",
                f"{CHECKS_A_MONTH * lasting / checks:.1f}", ", ".join(sorted(moved)[:4]),
                f"{CHECKS_A_MONTH * simple / checks:.0f}", theirs,
            ])  # fmt: skip
            sys.stderr.write(f"no drift, {what}, n = {n:,}: {rows[-1][2]}\n")
    return rows


def _peer(p: argparse.Namespace, world: World, frames: list[pl.DataFrame]) -> str:
    found = evidently(
        p.evidently, world.history.select(world.names)[-20_000:], [frame.select(world.names) for frame in frames]
    )
    drifted = sum(bool(one["drifted"]) for one in found)
    return f"{sum(one['dataset_drift'] for one in found)}, a column in {drifted} of {len(found)}"


def _forge(frame: pl.DataFrame, values: dict[str, Any], share: float) -> pl.DataFrame:
    """The first payments say what a forger wants."""
    forged = pl.int_range(frame.height) < round(share * frame.height)
    return frame.with_columns(
        pl.when(forged).then(pl.lit(value)).otherwise(pl.col(name)).alias(name) for name, value in values.items()
    )


FORGED: dict[str, dict[str, Any]] = {
    "one amount of 40,700": {AMOUNT: 40_700.0},
    "amounts of 0.01": {AMOUNT: 0.01},
    "no amount": {AMOUNT: None},
    "an unknown card6": {"card6": "forged"},
    "four fields at once": {AMOUNT: 40_700.0, "card6": "forged", "addr1": None, "C1": 99_999.0},
}


def forgery(world: World, p: argparse.Namespace) -> list[list[str]]:
    """Smallest share of forged payments that gives a signal, in steps of half a per cent."""
    rows = []
    for name, values in FORGED.items():
        for n in p.sizes:
            smallest = []
            for frame in world.windows(n, min(p.windows, 5)):
                steps = (k / 200 for k in range(1, 61))
                smallest.append(next((s for s in steps if world.verdict(_forge(frame, values, s))["signal"]), 1.0))
            rows.append([name, f"{n:,}", f"{min(smallest):.1%}", f"{max(smallest):.1%}"])
            sys.stderr.write(f"forged, {name}, n = {n:,}: {rows[-1][2]}\n")
    return rows


def _share(part: int, whole: int) -> str:
    return f"{part} of {whole}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--windows", type=int, default=20, help="windows of each size with each fault")
    parser.add_argument("--aa", type=int, default=400, help="most windows without any fault, of each world")
    parser.add_argument("--worlds", type=int, default=3, help="samples of other seeds for false alarms")
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 2000, 10_000], help="payments in a window")
    parser.add_argument("--evidently", default="", help="an interpreter that has it")
    p = parser.parse_args()
    world = World(p.seed)
    sys.stdout.write(f"{len(world.names)} features; {HISTORY:,} rows of history; thresholds {json.dumps(POLICY)}\n\n")
    head = "fault|what|n|signal|by (in windows)|mean of amount ± 30 %|Evidently: data set|Evidently: column".split("|")
    sys.stdout.write(table(head, power(world, p)) + "\n")
    head = "no drift|n|signals|signals a month, one check an hour [95 %]|DRIFT a month|what moved|mean rule a month"
    worlds = [world, *(World(p.seed + k) for k in range(1, p.worlds))]
    sys.stdout.write(table([*head.split("|"), "Evidently"], false_alarms(worlds, p)) + "\n")
    head = ["forged", "n", "smallest share that gives a signal", "largest of the windows"]
    sys.stdout.write(table(head, forgery(world, p)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
