"""What the product takes from the training rows (ridge, bins, columns of a tree) against the fixed numbers it had.

    python benchmarks/published/preset.py shared/data

Every grading row lies before those of `handbook.py` and `ulb.py`. Few frauds are made out of many by leaving customers
out of training; the whole week grades. A mean over the folds of each set, and the difference with the 95 % interval of
a paired bootstrap of the grading rows. Exit code 1 when the rule is worse beyond that interval, in AUC ROC or in
average precision, 2 when a file is not what `datasets.py` claims. A set that is not in the folder is left out.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import handbook
import numpy as np
import polars as pl
import product
import protocol
import ulb
from handbook_features import FEATURES, features
from sklearn.metrics import average_precision_score, roc_auc_score

from fraud.demo import sample

WEEKS = handbook.CHOSEN_ON[::4]
SAMPLE_ROWS, WORLDS = 60_000, (1, 2)
FIRST_DAY = dt.datetime(2018, 1, 1)
RESAMPLES, SEED = 200, 7

Channel = tuple[pl.DataFrame, dict[str, str], list[str], list[str]]  # rows, roles, features, hyperparameters
Scored = tuple[np.ndarray, np.ndarray, np.ndarray, int]  # labels, scores with fixed numbers and with the rule, frauds


def handbook_weeks(folder: Path, keep: int) -> Iterator[Channel]:
    """A week of training of one customer in ``keep``, a week of delay, a week of all customers to grade on."""
    table = features(datasets.read(folder / datasets.HANDBOOK.file, datasets.HANDBOOK))
    roles = {"id": "TRANSACTION_ID", "time": "TX_DATETIME", "target": "TX_FRAUD", "amount": "TX_AMOUNT"}
    day = pl.col("TX_DATETIME").dt.date()
    for start in WEEKS:
        week = dt.timedelta(protocol.WEEK)
        taught = (pl.col("CUSTOMER_ID") % keep == 0) | (day >= start)
        rows = table.filter((day >= start - 2 * week) & (day < start + week) & taught)
        yield rows, roles, list(FEATURES), ["--train_days", "7", *handbook.EITHER]


def ulb_folds(folder: Path) -> Iterator[Channel]:
    """The first 80 % alone, which teach in `ulb.py`: four folds, each graded on the 15 % of them that follow."""
    table = datasets.read(folder / datasets.ULB.file, datasets.ULB)
    past = table.head(-round(table.height * ulb.SHARE))
    past = past.with_columns(moment=pl.lit(FIRST_DAY) + pl.duration(seconds=pl.col("Time")))
    roles = {"id": "source_row", "time": "moment", "target": "Class", "amount": "Amount"}
    names = [name for name in past.columns if name not in (*ulb.NO_FEATURES, "moment")]
    for share in (0.55, 0.7, 0.85, 1.0):
        rows = past.head(round(past.height * share))
        yield rows, roles, names, [*ulb.RULES, "--validation_fraction", f"{0.15 / share:.4f}"]


def samples(keep: int) -> Iterator[Channel]:
    """Made-up payments; the newest quarter grades after a week, one earlier row in ``keep`` teaches."""
    roles = {"id": "TransactionID", "time": "moment", "target": "isFraud", "amount": "TransactionAmt"}
    for world in WORLDS:
        table = sample.table(SAMPLE_ROWS, world, columns="core")
        table = table.with_columns(moment=pl.lit(FIRST_DAY) + pl.duration(seconds=pl.col("TransactionDT")))
        names = [name for name in table.columns if name not in ("TransactionID", "TransactionDT", "moment", "isFraud")]
        place = pl.int_range(pl.len())
        size = SAMPLE_ROWS // 4
        rows = table.filter((place % keep == 0) | (place >= SAMPLE_ROWS - size))
        given = ["--delay_days", "7", "--validation_fraction", f"{size / rows.height:.6f}", "--label_coverage", "0"]
        yield rows, roles, names, [*given, "--n_bootstrap", "20"]


def scored(channel: Channel) -> Scored:
    """Train with the fixed numbers and with the rule, and score the newest rows."""
    rows, roles, names, arguments = channel
    columns = {name: rows[roles[of]] for name, of in (("id", "id"), ("label", "target"))}
    columns["time"] = rows[roles["time"]].dt.epoch("s")
    found = []
    for given in (product.FIXED, ()):
        with tempfile.TemporaryDirectory(prefix="fraud-published-") as folder:
            source = product.channel(Path(folder) / "channel", columns, rows.select(names), roles)
            trained = product.train(source, Path(folder), [*arguments, *given])
            said = trained.metrics
            graded = rows.tail(said["n_validation"])
            label, score = graded[roles["target"]].to_numpy(), trained.score(graded)
            if not np.isclose(roc_auc_score(label, score), said["auc"], rtol=0, atol=1e-9):
                raise product.Refused(f"metrics.json says {said['auc']:.6f}, not what the written model gives")
            found.append(score)
    return label, found[0], found[1], round(said["n_train"] * said["fraud_rate_train"])


def differences(folds: list[Scored]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean AUC ROC and average precision of both, and the ends of the interval of their difference."""
    rng = np.random.default_rng(SEED)

    def both(pick: Callable[[int], np.ndarray | slice]) -> np.ndarray:
        measured = []
        for label, *scores, _ in folds:
            at = pick(len(label))
            measured.append(
                [[f(label[at], score[at]) for f in (roc_auc_score, average_precision_score)] for score in scores]
            )
        return np.mean(measured, axis=0)

    def drawn(n: int) -> np.ndarray:
        return rng.integers(0, n, n)

    again = [both(drawn) for _ in range(RESAMPLES)]
    ends = np.percentile([now - fixed for fixed, now in again], [2.5, 97.5], axis=0)
    return (both(lambda n: slice(None)), *ends)


def sets(folder: Path) -> Iterator[tuple[str, Iterator[Channel]]]:
    """Names and folds of the sets that are there."""
    if (folder / datasets.HANDBOOK.file).is_file():
        for keep in (1, 4, 12):
            yield f"Handbook, a customer in {keep}", handbook_weeks(folder, keep)
    if (folder / datasets.ULB.file).is_file():
        yield "ULB, the first 80 %", ulb_folds(folder)
    for keep in (1, 4, 12):
        yield f"fraud sample, a row in {keep}", samples(keep)


def compared(folder: Path) -> list[str]:
    """Print a line for each set, and name those on which the rule is worse."""
    worse = []
    print(f"{'':30} frauds  AUC ROC fixed, rule, difference           average precision")
    for name, channels in sets(folder):
        began = time.monotonic()
        folds = [scored(channel) for channel in channels]
        (fixed, now), low, high = differences(folds)
        cells = [
            f"{fixed[k]:.4f} {now[k]:.4f} {now[k] - fixed[k]:+.4f} ({low[k]:+.4f} to {high[k]:+.4f})" for k in (0, 1)
        ]
        print(f"{name:30} {np.mean([fold[3] for fold in folds]):6.0f}  {'  '.join(cells)}", flush=True)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        if (high < 0).any():
            worse.append(name)
    return worse


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with handbook_raw.parquet and ulb_creditcard.parquet")
    p = parser.parse_args(arguments)
    try:
        worse = compared(p.folder)
    except datasets.NotAsClaimed as error:
        print(error, file=sys.stderr)
        return 2
    for name in worse:
        print(f"{name}: the rule is worse than the fixed numbers.")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
