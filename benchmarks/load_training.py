"""From the training channel to LightGBM's dataset: ours against `pandas.read_csv`, time and peak memory of each.

Both begin with the same rows of the IEEE-CIS-shaped sample on this disk, ours as the ledger's Parquet parts, pandas' as
one CSV; both end with the binned dataset that LightGBM trains on. Ours also checks the parts' SHA-256, splits in time,
and learns the schema on the way. Each measurement is a child process of its own, and the ways take turns.

    python benchmarks/load_training.py                              100,000 rows × 434 columns
    python benchmarks/load_training.py --rows 20000 --columns core  a quick look
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "published"))

ROLES = {"target": "isFraud", "id": "TransactionID", "time": "TransactionDT", "amount": "TransactionAmt"}
WAYS = ("ours", "pandas")
SHARE = 0.2  # of the rows, the newest, that do not teach


def make(folder: Path, rows: int, columns: str) -> None:
    """Write both forms of the table."""
    import polars as pl
    import product

    from fraud.demo import sample

    table = sample.table(rows, columns=columns)
    table.write_csv(folder / "table.csv")
    roles = {name: table[column] for name, column in (("id", "TransactionID"), ("label", "isFraud"))}
    roles["time"] = 1.5e9 + table["TransactionDT"].cast(pl.Float64)
    features = table.drop("TransactionID", "isFraud", "TransactionDT")
    product.channel(folder / "channel", roles, features, ROLES)


def ours(folder: Path) -> tuple[int, int]:
    """What `train.py` does before the first tree."""
    from fraud.training import boosting, splits
    from fraud.training.data import open_ledger, read_rows
    from fraud.training.features import learn
    from fraud.training.hyperparameters import parse

    p = parse(["--delay_days", "0", "--validation_fraction", str(SHARE)])
    ledger = open_ledger(folder / "channel")
    rows = read_rows(ledger)
    fold = splits.prequential(rows, p)[-1]
    learnt = learn(ledger, rows, fold.train, fold.grading, p.max_categories)
    data = boosting.dataset(p, learnt.train, rows.label[fold.train], rows.weight[fold.train], learnt.schema)
    data.construct()
    return data.num_data(), data.num_feature()


def usual(folder: Path) -> tuple[int, int]:
    """What the examples do: read_csv, sort by time, texts to categories, split, hand the frame to LightGBM."""
    import lightgbm
    import pandas as pd

    frame = pd.read_csv(folder / "table.csv").sort_values("TransactionDT", kind="stable")
    label = frame.pop("isFraud")
    frame = frame.drop(columns=["TransactionID", "TransactionDT"])
    for name in frame.select_dtypes(exclude="number").columns:
        frame[name] = frame[name].astype("category")
    n = len(frame) - round(len(frame) * SHARE)
    data = lightgbm.Dataset(frame.iloc[:n], label.iloc[:n], params={"verbosity": -1})
    validation = data.create_valid(frame.iloc[n:], label.iloc[n:])
    data.construct()
    assert validation is not None
    return data.num_data(), data.num_feature()


def measure(way: str, folder: Path) -> dict[str, float]:
    """One way once, in this process; imports and the page cache are no part of it."""
    import lightgbm  # noqa: F401
    import pandas  # noqa: F401

    import fraud.training.grading  # noqa: F401

    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                while file.read(1 << 20):  # not at once: that would be the peak
                    pass
    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, busy = time.perf_counter(), time.process_time()
    rows, features = (ours if way == "ours" else usual)(folder)
    seconds, cpu = time.perf_counter() - began, time.process_time() - busy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "cpu": cpu, "rows": rows, "features": features,
            "peak": peak / 1024, "idle": idle / 1024}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--columns", choices=("full", "core"), default="full")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=("make", *WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way == "make":
        make(given.folder, given.rows, given.columns)
        return
    if given.way:
        print(json.dumps(measure(given.way, given.folder)))
        return
    with tempfile.TemporaryDirectory(prefix="fraud-load-") as name:
        print("making the table", file=sys.stderr)
        # A process of its own, for the peak of a process is handed down to those that it starts.
        table = ["--rows", str(given.rows), "--columns", given.columns]
        subprocess.run([sys.executable, __file__, "--way", "make", "--folder", name, *table], check=True)
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for turn in range(given.rounds):
            for way in WAYS[turn % 2 :] + WAYS[: turn % 2]:
                command = [sys.executable, __file__, "--way", way, "--folder", name]
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
                found[way].append(json.loads(done.stdout))
                print(f"round {turn + 1}, {way}: {found[way][-1]['seconds']:.2f} s", file=sys.stderr)
    print(f"{given.rows:,} rows, columns {given.columns}, {given.rounds} rounds; the newest {SHARE:.0%} do not teach")
    print(f"{'':8}{'median s':>10}{'CPU s':>8}{'peak MB':>9}{'of it idle':>12}{'rows':>10}{'features':>10}")
    for way, each in found.items():
        values = {key: statistics.median(one[key] for one in each) for key in each[0]}
        print(f"{way:8}{values['seconds']:>10.2f}{values['cpu']:>8.2f}{values['peak']:>9.0f}{values['idle']:>12.0f}"
              f"{values['rows']:>10,.0f}{values['features']:>10,.0f}")  # fmt: skip
    pairs = list(zip(found["ours"], found["pandas"], strict=True))
    wall = statistics.median(a["seconds"] / b["seconds"] for a, b in pairs)
    above = statistics.median((a["peak"] - a["idle"]) / max(b["peak"] - b["idle"], 1.0) for a, b in pairs)
    peak = statistics.median(a["peak"] / b["peak"] for a, b in pairs)
    print(f"ratio ours : pandas = {wall:.3f} of the time ({1 / wall:.1f} times as fast), {peak:.3f} of the peak, "
          f"{above:.3f} of what is above the idle process")  # fmt: skip


if __name__ == "__main__":
    main()
