"""The Fraud Detection Handbook's tables (Le Borgne et al., chapters 3.4 and 5.3), published and measured here.

    python benchmarks/published/handbook.py shared/data/handbook_raw.parquet

Reference models in the book's settings first, so that features, splits and measures are known to be the book's; then
the product's own training job on the same rows. Exit code 1 when a reference is out of tolerance, or when the product
as it comes misses the goal with four weeks of history; the one week that the book learns from is not enough for it. 2
when the file is not what `datasets.py` claims.
`--quick` leaves out the four test weeks, and with them the product.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import polars as pl
import product
import protocol
from handbook_features import FEATURES, features
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

SINGLE = dt.date(2018, 8, 8)  # first day of the test week
WEEKS = tuple(dt.date(2018, 8, 29) - dt.timedelta(7 * k) for k in (3, 2, 1, 0))
CHOSEN_ON = tuple(dt.date(2018, 8, 1) - dt.timedelta(7 * k) for k in range(9))  # all before the first of WEEKS
TOLERANCE = 0.003

Make = Callable[[], Any]
# Model, figures of the book, whether they must be met. Its tables are of scikit-learn 0.24.
ONCE: dict[str, tuple[Make, tuple[float, float, float], bool]] = {
    "logistic regression": (lambda: LogisticRegression(random_state=0), (0.871, 0.606, 0.291), False),
    "tree, depth 2": (lambda: DecisionTreeClassifier(max_depth=2, random_state=0), (0.763, 0.496, 0.241), True),
    "tree, unlimited": (lambda: DecisionTreeClassifier(random_state=0), (0.788, 0.309, 0.243), False),
    "random forest": (lambda: RandomForestClassifier(random_state=0, n_jobs=-1), (0.867, 0.658, 0.287), True),
}
PREQUENTIAL: dict[str, tuple[Make, tuple[float, float, float], bool]] = {
    "logistic regression": (lambda: LogisticRegression(random_state=0), (0.868, 0.623, 0.297), False),
    "random forest, depth 20": (
        lambda: RandomForestClassifier(max_depth=20, random_state=0, n_jobs=-1), (0.870, 0.678, 0.299), False,
    ),
}  # fmt: skip
BOOK_BEST = {"XGBoost, optimal": (0.872, 0.694, 0.304), "XGBoost, selected": (0.869, 0.687, 0.303)}
GOAL = (0.876, 0.694, 0.306)

# As the book: learn from a week, labels a week late, a week of test, and known cards leave.
EITHER = "--delay_days 7 --validation_days 7 --n_bootstrap 20".split()
RULES = [*EITHER, "--train_days", "7", "--exclude_known_cards", "true"]
# The product would know more cards from a longer history, and grade on other rows. So it keeps all of them, and the
# protocol takes those away that the book's week knows: the figures stand beside the others.
LONGER = [*EITHER, "--train_days", "28", "--exclude_known_cards", "false"]
# Random search over some 130 settings of LightGBM on the first seven of CHOSEN_ON, then eleven finalists on all nine
# with two seeds, by the sum of AUC ROC, average precision and twice CP@100; this one came first, by less than the
# noise. What it says: thresholds nearly exact (many bins), no ridge, wide leaves, slow steps. The number of trees is
# part of it, so that a fifth of a week's frauds need not stop them.
PRESET = (
    "--num_boost_round 600 --learning_rate 0.015 --num_leaves 20 --max_depth 4 --min_child_samples 50"
    " --min_child_weight 1 --reg_lambda 0 --subsample 0.7 --colsample 1 --max_bin 4095 --min_data_in_bin 3"
    " --boost_from_average true --early_stopping_rounds 0"
).split()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def reference(make: Make, table: pl.DataFrame, starts: tuple[dt.date, ...]) -> np.ndarray:
    """Mean figures of a scikit-learn model over test weeks."""
    found = []
    for start in starts:
        train, test = protocol.split(table, start)
        model = make_pipeline(StandardScaler(), make())
        model.fit(train.select(FEATURES).to_numpy(), train["TX_FRAUD"].to_numpy())
        found.append(protocol.grade(test, model.predict_proba(test.select(FEATURES).to_numpy())[:, 1]))
    return np.mean(found, axis=0)


def ours(table: pl.DataFrame, starts: tuple[dt.date, ...], arguments: list[str]) -> np.ndarray:
    """Figures of the product, a row a test week: a job for each, which sees nothing later than its test week.

    The job is given the test week, as it grades what it makes. Its grading rows must be the protocol's (or the whole
    week, when it keeps known cards), and what it says of them must be what the written model gives.
    """
    found = []
    for start in starts:
        began = time.monotonic()
        end = start + dt.timedelta(protocol.WEEK)
        past = table.filter(pl.col("TX_DATETIME").dt.date() < end)
        _, test = protocol.split(table, start)
        roles = {"id": "TRANSACTION_ID", "time": "TX_DATETIME", "target": "TX_FRAUD"}
        roles |= {"amount": "TX_AMOUNT", "card": "CUSTOMER_ID"}
        columns = {name: past[roles[of]] for name, of in (("id", "id"), ("label", "target"), ("card", "card"))}
        columns["time"] = past["TX_DATETIME"].dt.epoch("s")
        with tempfile.TemporaryDirectory(prefix="fraud-published-") as folder:
            source = product.channel(Path(folder) / "channel", columns, past.select(FEATURES), roles)
            trained = product.train(source, Path(folder), arguments)
            figures = protocol.grade(test, trained.score(test))
            whole = past.filter(pl.col("TX_DATETIME").dt.date() >= start)
            theirs = test if arguments[arguments.index("--exclude_known_cards") + 1] == "true" else whole
            check = protocol.grade(theirs, trained.score(theirs))
        said = trained.metrics
        if said["n_validation"] != theirs.height:
            raise product.Refused(f"{said['n_validation']:,} rows graded, not {theirs.height:,}")
        if not np.allclose(check[:2], [said["auc"], said["average_precision"]], rtol=0, atol=1e-9):
            raise product.Refused(f"metrics.json says {said['auc']:.6f}, the written model {check[0]:.6f}")
        found.append(figures)
        say(f"product, week of {start}: {shown(figures)}, {time.monotonic() - began:.0f} s")
    return np.array(found)


def shown(figures: np.ndarray) -> str:
    return " / ".join(f"{value:.4f}" for value in figures)


def line(title: str, name: str, published: tuple[float, ...] | None, measured: np.ndarray | None) -> str:
    def three(values: Any, form: str) -> str:
        return " ".join(form.format(v) for v in values) if values is not None else " " * 17

    gap = None if published is None or measured is None else measured - np.array(published)
    cells = (three(published, "{:5.3f}"), three(measured, "{:6.4f}"), three(gap, "{:+6.3f}"))
    return f"{title:12} {name:38} {cells[0]:18} {cells[1]:21} {cells[2]}".rstrip()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="handbook_raw.parquet")
    parser.add_argument("--quick", action="store_true", help="the single split alone")
    parser.add_argument("--json", type=Path, help="write the figures here")
    p = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        table = features(datasets.read(p.table, datasets.HANDBOOK))
    except datasets.NotAsClaimed as error:
        print(error, file=sys.stderr)
        return 2
    say(f"features of {table.height:,} rows: {time.monotonic() - began:.1f} s")
    failed: list[str] = []
    lines = [
        f"{'':12} {'AUC ROC, average precision, CP@100':38} {'published / goal':18} {'measured here':21} difference"
    ]
    figures: dict[str, list[float]] = {}
    rounds = [("single split", ONCE, (SINGLE,))] + ([] if p.quick else [("prequential", PREQUENTIAL, WEEKS)])
    for title, models, starts in rounds:
        for name, (make, published, must) in models.items():
            measured = reference(make, table, starts)
            say(f"{title}, {name}: {shown(measured)}, {time.monotonic() - began:.0f} s")
            lines.append(line(title, name, published, measured))
            figures[f"{title}, {name}"] = measured.tolist()
            if must and (np.abs(measured - published) > TOLERANCE + 1e-12).any():
                failed.append(f"{title}, {name}: more than {TOLERANCE} from the book's figures.")
    if not p.quick:
        lines += [line("prequential", name, published, None) for name, published in BOOK_BEST.items()]
        for name, given, must in (
            ("product, its defaults", RULES, False),
            ("product, fixed ridge, bins, columns", [*RULES, *product.FIXED], False),
            ("product, its defaults, four weeks", LONGER, True),
            ("product, preset", [*RULES, *PRESET], False),  # a week of history, as the book: not enough for all three
            ("product, preset, four weeks of history", [*LONGER, *PRESET], False),
        ):
            measured = ours(table, WEEKS, given).mean(axis=0)
            lines.append(line("prequential", name, GOAL, measured))
            figures[name] = measured.tolist()
            if must and (measured < GOAL).any():
                failed.append(f"{name}: a goal is missed.")
    print("\n".join(lines))
    for reason in failed:
        print(reason)
    if p.json:
        p.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
