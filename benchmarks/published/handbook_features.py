"""The features of the Fraud Detection Handbook (Le Borgne et al., chapter 3.4), from its raw rows.

    python benchmarks/published/handbook_features.py shared/data/handbook_raw.parquet --out build/handbook.parquet

A window of n days ends with a payment and holds it: from n days before, exclusive, to its moment, inclusive.

* Two flags: Saturday or Sunday; an hour from 0 to 6.
* Of a customer, over 1, 7 and 30 days: number of payments, mean amount.
* Of a terminal, over 1, 7 and 30 days that end 7 days earlier, when labels are known: number of payments, share of
  frauds (0 where there is no payment).
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import polars as pl

WINDOWS = (1, 7, 30)  # days
DELAY = 7  # days until a fraud is known
DAY = 86_400
CENTS = 100

AMOUNT = ("TX_AMOUNT",)
FLAGS = ("TX_DURING_WEEKEND", "TX_DURING_NIGHT")
CUSTOMER = tuple(f"CUSTOMER_ID_{what}_{n}DAY_WINDOW" for n in WINDOWS for what in ("NB_TX", "AVG_AMOUNT"))
TERMINAL = tuple(f"TERMINAL_ID_{what}_{n}DAY_WINDOW" for n in WINDOWS for what in ("NB_TX", "RISK"))
FEATURES = AMOUNT + FLAGS + CUSTOMER + TERMINAL
KEPT = ("TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TX_TIME_DAYS", "TX_FRAUD")


class Windows:
    """Sums over the last days of each customer or terminal.

    Rows are put in the order of owner and moment. Then a window is a piece of that order: two binary searches and a
    difference of running sums, in integers, so that nothing is lost however long the sums run.
    """

    def __init__(self, owner: np.ndarray, second: np.ndarray) -> None:
        self.order = np.lexsort((second, owner))
        longest = (DELAY + max(WINDOWS)) * DAY
        span = int(second.max()) + longest + 1  # no window reaches into another owner's seconds
        key = owner.astype(np.int64) * span + second - int(second.min()) + longest
        self.key = key[self.order]
        self.end = np.arange(
            1, len(self.key) + 1
        )  # of payments in the same second, the first knows nothing of the next

    def begin(self, days: int) -> np.ndarray:
        return np.searchsorted(self.key, self.key - days * DAY, side="right")

    def total(self, values: np.ndarray, days: int) -> np.ndarray:
        """Sum of integers over the window of each row, in the order of the rows as they came."""
        running = np.r_[0, np.cumsum(values[self.order], dtype=np.int64)]
        found = np.empty(len(self.order), np.int64)
        found[self.order] = running[self.end] - running[self.begin(days)]
        return found


def features(raw: pl.DataFrame) -> pl.DataFrame:
    """Make the book's fifteen features.

    Parameters
    ----------
    raw : DataFrame
        Columns TRANSACTION_ID, TX_DATETIME, CUSTOMER_ID, TERMINAL_ID, TX_AMOUNT (whole cents), TX_TIME_DAYS, TX_FRAUD.

    Returns
    -------
    DataFrame
        ``KEPT`` and ``FEATURES``, in the order of time.
    """
    raw = raw.sort("TX_DATETIME", "TRANSACTION_ID")
    moment = pl.col("TX_DATETIME")
    second = raw["TX_DATETIME"].dt.epoch("s").to_numpy()
    cents = np.rint(raw["TX_AMOUNT"].to_numpy() * CENTS).astype(np.int64)
    fraud, one = raw["TX_FRAUD"].to_numpy().astype(np.int64), np.ones(raw.height, np.int64)
    made: dict[str, np.ndarray] = {}
    customer = Windows(raw["CUSTOMER_ID"].to_numpy(), second)
    for n in WINDOWS:
        count = customer.total(one, n)
        made[f"CUSTOMER_ID_NB_TX_{n}DAY_WINDOW"] = count.astype(float)
        made[f"CUSTOMER_ID_AVG_AMOUNT_{n}DAY_WINDOW"] = customer.total(cents, n) / (CENTS * count)
    terminal = Windows(raw["TERMINAL_ID"].to_numpy(), second)
    young = {name: terminal.total(values, DELAY) for name, values in (("count", one), ("fraud", fraud))}
    for n in WINDOWS:
        count = terminal.total(one, DELAY + n) - young["count"]
        frauds = terminal.total(fraud, DELAY + n) - young["fraud"]
        made[f"TERMINAL_ID_NB_TX_{n}DAY_WINDOW"] = count.astype(float)
        made[f"TERMINAL_ID_RISK_{n}DAY_WINDOW"] = frauds / np.maximum(count, 1)
    flags = [
        (moment.dt.weekday() >= 6).cast(pl.Int8).alias("TX_DURING_WEEKEND"),
        (moment.dt.hour() <= 6).cast(pl.Int8).alias("TX_DURING_NIGHT"),
    ]
    return raw.with_columns(*flags, **{name: pl.Series(values) for name, values in made.items()}).select(
        KEPT + FEATURES
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="handbook_raw.parquet")
    parser.add_argument("--out", type=Path, required=True)
    p = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        found = features(datasets.read(p.table, datasets.HANDBOOK))
    except datasets.NotAsClaimed as error:
        print(error, file=sys.stderr)
        return 2
    p.out.parent.mkdir(parents=True, exist_ok=True)
    found.write_parquet(p.out)
    print(f"{found.height:,} rows, {time.monotonic() - began:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
