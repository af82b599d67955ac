"""How the Fraud Detection Handbook (Le Borgne et al.; chapters 3.4, 4.4, 5.3) splits in time and grades.

The product has the same in `fraud.training.splits` and `fraud.training.metrics`. This is a second hand, on purpose: two
that agree are evidence.
"""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
from sklearn.metrics import average_precision_score, roc_auc_score

WEEK = 7  # days: of training, of delay, of test
TOP = 100  # cards that can be looked at on a day
MEASURES = ("auc", "average_precision", "card_precision")


def split(table: pl.DataFrame, test_start: dt.date) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Training rows, and the rows of a test week without the cards that were known to be compromised.

    On a test day those cards are known that had a fraud since training began and up to a day more than the delay
    before: the training week for the first test day, one more day for each day after.

    Parameters
    ----------
    table : DataFrame
        As `handbook_features.features` makes it.
    test_start : date

    Returns
    -------
    train, test : DataFrame
    """
    day = table["TX_DATETIME"].dt.date()
    test_day = [test_start + dt.timedelta(k) for k in range(WEEK)]
    train_end = test_start - dt.timedelta(WEEK)
    train = table.filter((day >= train_end - dt.timedelta(WEEK)) & (day < train_end))
    bad = set(train.filter(pl.col("TX_FRAUD") == 1)["CUSTOMER_ID"].to_list())
    parts = []
    for today in test_day:
        became_known = table.filter((day == today - dt.timedelta(WEEK + 1)) & (table["TX_FRAUD"] == 1))
        bad |= set(became_known["CUSTOMER_ID"].to_list())
        parts.append(table.filter((day == today) & ~table["CUSTOMER_ID"].is_in(list(bad))))
    return train, pl.concat(parts)


def card_precision(test: pl.DataFrame, score: np.ndarray, k: int = TOP) -> float:
    """Share of cards with a fraud that day among the ``k`` most suspicious ones of a day, mean over the days.

    A card is as suspicious as its worst payment of the day; once found, it is not looked at again. Cards of the same
    score are looked at in the order of their numbers, which say nothing: in the order of the day's payments, the busy
    ones would come first.
    """
    cards = (
        test.select("CUSTOMER_ID", "TX_FRAUD", day=pl.col("TX_DATETIME").dt.date())
        .with_columns(score=pl.Series(score))
        .group_by("day", "CUSTOMER_ID")
        .agg(pl.col("TX_FRAUD").max(), pl.col("score").max())
        .sort("day", "CUSTOMER_ID")
    )
    found: set[int] = set()
    shares = []
    for today in cards.partition_by("day", maintain_order=True):
        worst = today.filter(~pl.col("CUSTOMER_ID").is_in(list(found))).sort(
            "score", descending=True, maintain_order=True
        )
        hits = worst.head(k).filter(pl.col("TX_FRAUD") == 1)["CUSTOMER_ID"].to_list()
        shares.append(len(hits) / k)
        found |= set(hits)
    return float(np.mean(shares))


def grade(test: pl.DataFrame, score: np.ndarray) -> np.ndarray:
    """AUC ROC, average precision, card precision top-100 (``MEASURES``)."""
    label = test["TX_FRAUD"].to_numpy()
    return np.array([roc_auc_score(label, score), average_precision_score(label, score), card_precision(test, score)])
