"""Pseudo-labels against no pseudo-labels: retraining loops on data whose truth is known, policy by policy.

Each loop begins with a fully labelled history. Every two weeks the live rows so far are labelled by
`fraud.pipeline.labelling.label` with what is known at that moment, a model is trained and scores the next two weeks,
where it is held against the whole truth. A policy lives with its own models, so its mistakes can feed on themselves.

    python benchmarks/pseudo_labels.py                                   the whole table, three seeds
    python benchmarks/pseudo_labels.py --datasets ulb sample --seeds 1   a part of it
    python benchmarks/pseudo_labels.py --quick                           a tiny made-up set, in seconds
"""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime as dt
import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import policy_data
from datasets import NotAsClaimed
from policy_data import DAY, Absent, Data
from policy_table import report
from sklearn.metrics import average_precision_score, roc_auc_score

from fraud.errors import DataError
from fraud.pipeline import labelling
from fraud.pipeline.labelling import CONFIDENT, OFF, THRESHOLD, Policy
from fraud.serving import model_file
from fraud.training import boosting, splits
from fraud.training.data import SOURCES, Rows
from fraud.training.fitting import check_fold
from fraud.training.hyperparameters import parse

DATASETS = ("onset", "handbook", "ulb", "sample")
ROUND, DELAY, REPORTED, MATURITY = 14.0, 7.0, 10.0, 30.0  # days; frauds of `reports` come after 10 on average
NEVER = 1e6  # days
NEVER_RETRAINED, CONTROL, BARE = "never retrained", "off, other seed", "threshold, bare"
POLICIES: dict[str, Policy] = {  # the product's defaults; `bare` is what one gets without its weight and its cap
    OFF: Policy(),
    CONTROL: Policy(),
    THRESHOLD: Policy(pseudo_labels=THRESHOLD),
    BARE: Policy(pseudo_labels=THRESHOLD, weight=1.0, max_share=1.0),
    CONFIDENT: Policy(pseudo_labels=CONFIDENT),
}
REGIMES = ("both", "reports", "none")
TRAININGS = ("product", "all")


def statements(data: Data, regime: str, seed: int) -> pl.DataFrame:
    """Everything that will ever be said about the live rows, and when.

    ``both``: fraud or not, a week later. ``reports``: frauds only, after days drawn from an exponential distribution;
    silence is left to the policy's maturity. ``none``: nothing.
    """
    live = np.arange(data.n_history, len(data.time))
    if regime == "both":
        told, late = live, np.full(len(live), DELAY)
    else:
        told = live[data.label[live] == 1] if regime == "reports" else live[:0]
        late = np.random.default_rng([seed, 3]).exponential(REPORTED, len(told))
    return pl.DataFrame(
        {
            "__id": names(told),
            "label": data.label[told],
            "label_time": data.time[told] + late * DAY,
            "source_key": ["labels/benchmark.jsonl"] * len(told),
        },
        schema={"__id": pl.String, "label": pl.Int8, "label_time": pl.Float64, "source_key": pl.String},
    )


def names(places: np.ndarray) -> list[str]:
    return [f"{place:08d}" for place in places]


def masks(rows: Rows, training: str, p: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that teach, the newest true ones among them that tell when to stop, and rows that would grade.

    ``product`` is the product's own split: the newest true fifth and the week before it teach nothing, and
    pseudo-labelled rows teach whatever their age. ``all`` lets every labelled row teach.
    """
    fold = splits.prequential(rows, p)[-1]
    if training == "product":
        return fold.train, fold.stopping, fold.grading
    true = (rows.source >= 0) & (rows.source != splits.PSEUDO)
    return rows.source >= 0, splits.newest(rows.time, true, p.stopping_fraction), np.zeros(len(true), bool)


@dataclass
class Trainer:
    """Trains with the product's preset; equal rows give the model that they gave before."""

    data: Data
    seed: int
    training: str
    threads: int = 1
    kept: dict[bytes, Any] = field(default_factory=dict)
    taught: int = 0  # pseudo-labelled rows that the last training learnt from

    @property
    def p(self) -> argparse.Namespace:
        """The product's preset."""
        return parse(["--seed", str(self.seed), "--num_threads", str(self.threads)])

    def fit(self, label: np.ndarray, source: np.ndarray, weight: np.ndarray) -> Any:
        """Train on the first rows of the set; DataError when the product would refuse."""
        rows = Rows(self.data.time[: len(label)], label, source, weight)
        teach, stop, grade = masks(rows, self.training, self.p)
        check_fold(self.p, rows, splits.Fold(teach, stop, grade if grade.any() else stop))
        self.taught = int((teach & (source == splits.PSEUDO)).sum())
        key = hashlib.sha256(b"|".join(a.tobytes() for a in (label, weight, teach, stop))).digest()
        if key not in self.kept:
            self.kept[key] = boosted(self, rows, teach, stop)
        return self.kept[key]


def boosted(trainer: Trainer, rows: Rows, teach: np.ndarray, stop: np.ndarray) -> Any:
    """The product's trees."""
    matrix = np.asfortranarray(trainer.data.matrix[: len(rows.label)][teach])
    data = boosting.dataset(trainer.p, matrix, rows.label[teach], rows.weight[teach], trainer.data.schema)
    found = boosting.boost(trainer.p, boosting.split(data, stop[teach]), matrix[stop[teach]], curves=False)
    return model_file.booster_of(found.model.encode())


def loop(data: Data, truth: pl.DataFrame, policy: Policy | None, trainer: Trainer) -> dict[str, Any]:
    """Live through the traffic with one policy; None never retrains.

    Returns
    -------
    dict
        Means over the rounds after the first retraining: ``auc``, ``ap``; ``pseudo`` and ``wrong`` pseudo-labels in
        ``labels.parquet``; ``taught``: as in `Trainer`; ``refused`` trainings.
    """
    n, h = len(data.time), data.n_history
    score, label = np.full(n, np.nan), data.label.copy()
    source, weight = np.zeros(n, np.int8), np.ones(n, np.float32)  # the history's
    code = {labelling.UNKNOWN: -1, **{name: k for k, name in enumerate(SOURCES)}}
    model = trainer.fit(label[:h], source[:h], weight[:h])
    edges = np.arange(data.start, data.time[-1] + DAY / 2, ROUND * DAY)
    found: list[dict[str, float]] = []
    about = []
    for k, (moment, end) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
        seen, until = np.searchsorted(data.time, [moment, end])
        if k and policy:
            live = pl.DataFrame(
                {"__id": names(np.arange(h, seen)), "__time": data.time[h:seen], "__score": score[h:seen]}
            )
            known = truth.filter(pl.col("label_time") <= moment)
            rows = labelling.label(live, known, dt.datetime.fromtimestamp(moment, dt.UTC), policy, h).rows
            assert rows["__id"].equals(live["__id"])
            label[h:seen] = rows["label"].fill_null(-1).to_numpy()
            source[h:seen] = rows["label_source"].replace_strict(code, return_dtype=pl.Int8).to_numpy()
            weight[h:seen] = rows["weight"].to_numpy()
            pseudo = source[h:seen] == SOURCES.index("pseudo")
            entry = {"pseudo": int(pseudo.sum()), "taught": 0, "refused": 0}
            entry["wrong"] = int((label[h:seen] != data.label[h:seen])[pseudo].sum())
            try:
                model = trainer.fit(label[:seen], source[:seen], weight[:seen])
                entry["taught"] = trainer.taught
            except DataError:
                entry["refused"] = 1  # the model in service stays
            about.append(entry)
        score[seen:until] = model.predict(data.matrix[seen:until], num_threads=trainer.threads)
        later = data.label[seen:until]
        if k and 0 < later.sum() < len(later):
            mine = score[seen:until]
            found.append({"auc": roc_auc_score(later, mine), "ap": average_precision_score(later, mine)})
    means = {name: float(np.mean([one[name] for one in found])) for name in ("auc", "ap")}
    counts = {k: float(np.mean([one[k] for one in about])) if about else 0.0 for k in ("pseudo", "wrong", "taught")}
    return means | counts | {"rounds": len(found), "refused": sum(one["refused"] for one in about)}


def measure(name: str, seed: int, folder: Path, trainings: list[str], threads: int = 1) -> list[dict[str, Any]]:
    """All loops of a set and a seed."""
    data = policy_data.make(name, seed, folder)
    found = []
    for training in trainings:
        trainer, other = (Trainer(data, s, training, threads) for s in (seed + 1, seed + 1001))
        frozen = loop(data, statements(data, "none", seed), None, trainer)
        for regime in REGIMES:
            began = time.monotonic()
            truth = statements(data, regime, seed)
            about = {"dataset": name, "seed": seed, "training": training, "regime": regime}
            found.append({**about, "policy": NEVER_RETRAINED, **frozen})
            for policy, what in POLICIES.items():
                if policy == CONTROL and regime == "none":
                    continue  # without truth, `off` never changes its model
                days = NEVER if regime == "none" else MATURITY
                mine = Policy(days, what.pseudo_labels, what.threshold, what.purity, what.weight, what.max_share)
                one = loop(data, truth, mine, other if policy == CONTROL else trainer)
                found.append({**about, "policy": policy, **one})
            print(f"{name}, seed {seed}, {training}, {regime}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    return found


def run(datasets: list[str], seeds: int, folder: Path, trainings: list[str], workers: int) -> list[dict[str, Any]]:
    """Measure all, set by set and seed by seed; a set that is not there is named and left out."""
    tasks = [(name, seed, folder, trainings) for name in datasets for seed in range(seeds)]
    found: list[dict[str, Any]] = []
    absent = set()
    if workers == 1:
        pool, get = None, [lambda task=task: measure(*task) for task in tasks]
    else:  # not forked: Polars' threads do not survive that
        pool = concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
        get = [pool.submit(measure, *task).result for task in tasks]
    try:
        for (name, *_), result in zip(tasks, get, strict=True):
            try:
                found += result()
            except Absent as error:
                absent.add(f"{policy_data.TITLES[name]} is skipped: {error}.")
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
    for sentence in sorted(absent):
        print(sentence)
    return found


def main(arguments: list[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--datasets", nargs="+", choices=tuple(policy_data.MAKERS), default=list(DATASETS))
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--trainings", nargs="+", choices=TRAININGS, default=list(TRAININGS), help="see masks()")
    options.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1), help="processes of one thread")
    options.add_argument("--quick", action="store_true", help="one seed of a tiny made-up set")
    options.add_argument("--folder", type=Path, help="keeps features for the next time")
    options.add_argument("--json", type=Path, help="also write the figures there")
    p = options.parse_args(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fraud-pseudo-") as temporary:
        folder = p.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if p.quick:
            found = measure("tiny", 0, folder, p.trainings)
        else:
            try:
                found = run(p.datasets, p.seeds, folder, p.trainings, p.workers)
            except NotAsClaimed as error:
                print(error, file=sys.stderr)
                return 2
    print(report(found))
    print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
    if p.json:
        p.json.write_text(json.dumps(found, indent=1))
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main())
