"""Benchmarks of published figures: their features, splits and measures, on payments small enough to follow by hand."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "published"))

import datasets
import handbook
import preset
import product
import protocol
import ulb
from handbook_features import CUSTOMER, FEATURES, KEPT, TERMINAL, WINDOWS, features

from fraud.training import metrics, splits
from fraud.training.data import SOURCES, Rows

RAW = Path(__file__).parents[3] / "shared" / "data" / "handbook_raw.parquet"
FIRST = dt.datetime(2018, 8, 1)


def payments(n=2_000, days=70, customers=12, terminals=8, seed=0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    second = np.sort(rng.integers(0, days * 86_400, n))
    second[100:103] = second[100]  # payments of the same second
    start = dt.datetime(2018, 4, 1)
    return pl.DataFrame(
        {
            "TRANSACTION_ID": np.arange(n, dtype=np.int32),
            "TX_DATETIME": pl.Series([start + dt.timedelta(seconds=int(s)) for s in second], dtype=pl.Datetime("ms")),
            "CUSTOMER_ID": rng.integers(0, customers, n).astype(np.int16),
            "TERMINAL_ID": rng.integers(0, terminals, n).astype(np.int16),
            "TX_AMOUNT": np.round(rng.exponential(50, n), 2),
            "TX_TIME_DAYS": (second // 86_400).astype(np.int16),
            "TX_FRAUD": (rng.random(n) < 0.05).astype(np.int8),
        }
    )


def by_the_word(raw: pl.DataFrame, whose: str) -> pd.DataFrame:
    """The features of customers or of terminals with pandas' rolling windows, one owner at a time."""
    table = pd.DataFrame(raw.to_dict(as_series=False)).sort_values(["TX_DATETIME", "TRANSACTION_ID"])
    pieces = []
    for _, own in table.groupby(whose):
        own = own.set_index("TX_DATETIME")
        made = pd.DataFrame({"TRANSACTION_ID": own["TRANSACTION_ID"].to_numpy()})
        for n in WINDOWS:
            if whose == "CUSTOMER_ID":
                window = own["TX_AMOUNT"].rolling(f"{n}D")
                made[f"CUSTOMER_ID_NB_TX_{n}DAY_WINDOW"] = window.count().to_numpy()
                made[f"CUSTOMER_ID_AVG_AMOUNT_{n}DAY_WINDOW"] = window.mean().to_numpy()
                continue
            delay, both = own["TX_FRAUD"].rolling("7D"), own["TX_FRAUD"].rolling(f"{n + 7}D")
            count = (both.count() - delay.count()).to_numpy()
            frauds = (both.sum() - delay.sum()).to_numpy()
            made[f"TERMINAL_ID_NB_TX_{n}DAY_WINDOW"] = count
            made[f"TERMINAL_ID_RISK_{n}DAY_WINDOW"] = np.where(count > 0, frauds / np.maximum(count, 1), 0.0)
        pieces.append(made)
    return pd.concat(pieces).sort_values("TRANSACTION_ID")


def agree(raw: pl.DataFrame, found: pl.DataFrame, whose: str, names: tuple[str, ...]) -> None:
    wanted = by_the_word(raw, whose)
    mine = found.filter(pl.col("TRANSACTION_ID").is_in(wanted["TRANSACTION_ID"].tolist())).sort("TRANSACTION_ID")
    assert mine.height == len(wanted) > 0
    for name in names:
        np.testing.assert_allclose(mine[name].to_numpy(), wanted[name].to_numpy(), rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("seed", [0, 1])
def test_features_are_the_rolling_windows_of_the_book(seed):
    raw = payments(seed=seed)
    found = features(raw.sample(fraction=1.0, shuffle=True, seed=seed))  # in whatever order they come
    assert found.columns == [*KEPT, *FEATURES] and len(FEATURES) == 15
    agree(raw, found, "CUSTOMER_ID", CUSTOMER)
    agree(raw, found, "TERMINAL_ID", TERMINAL)
    at = raw["TX_DATETIME"].to_list()
    assert found["TX_DURING_WEEKEND"].to_list() == [int(moment.weekday() >= 5) for moment in at]
    assert found["TX_DURING_NIGHT"].to_list() == [int(moment.hour <= 6) for moment in at]


def test_features_by_hand():
    """One customer, one terminal: a window excludes what is exactly its length ago, and risk waits for a week."""
    at = [dt.timedelta(0), dt.timedelta(days=1), dt.timedelta(days=7), dt.timedelta(days=8, seconds=-1)]
    raw = pl.DataFrame(
        {
            "TRANSACTION_ID": [0, 1, 2, 3],
            "TX_DATETIME": pl.Series([FIRST + one for one in at], dtype=pl.Datetime("ms")),
            "CUSTOMER_ID": [5] * 4,
            "TERMINAL_ID": [9] * 4,
            "TX_AMOUNT": [10.0, 20.0, 30.0, 60.0],
            "TX_TIME_DAYS": [0, 1, 7, 7],
            "TX_FRAUD": [1, 0, 0, 0],
        }
    )
    found = features(raw)
    assert found["CUSTOMER_ID_NB_TX_1DAY_WINDOW"].to_list() == [1, 1, 1, 2]
    assert found["CUSTOMER_ID_NB_TX_7DAY_WINDOW"].to_list() == [1, 2, 2, 3]
    assert found["CUSTOMER_ID_AVG_AMOUNT_7DAY_WINDOW"].to_list() == [10, 15, 25, 110 / 3]
    assert found["TERMINAL_ID_NB_TX_1DAY_WINDOW"].to_list() == [0, 0, 1, 1]
    assert found["TERMINAL_ID_RISK_1DAY_WINDOW"].to_list() == [0, 0, 1, 1]


@pytest.mark.skipif(not RAW.is_file(), reason="handbook_raw.parquet is not in shared/data beside the repository")
def test_features_of_the_books_own_payments():
    raw = pl.read_parquet(RAW)
    found = features(raw)
    for whose, names in (("CUSTOMER_ID", CUSTOMER), ("TERMINAL_ID", TERMINAL)):
        few = raw[whose].unique().sample(200, seed=3)
        agree(raw.filter(pl.col(whose).is_in(few.implode())), found, whose, names)


def graded(rows) -> tuple[pl.DataFrame, np.ndarray]:
    """Day, card, label and score of each row."""
    day, card, label, score = zip(*rows, strict=True)
    moments = pl.Series([FIRST + dt.timedelta(days=d, hours=3) for d in day], dtype=pl.Datetime("ms"))
    return pl.DataFrame({"TX_DATETIME": moments, "CUSTOMER_ID": card, "TX_FRAUD": label}), np.array(score)


def test_card_precision_by_hand():
    """Day 0: cards 1 (found) and 2 of three. Day 1: card 1 is not looked at again, so 3 and 4 are; 4 is found."""
    rows = [(0, 1, 0, 0.9), (0, 1, 1, 0.1), (0, 2, 0, 0.8), (0, 3, 1, 0.7)]
    rows += [(1, 1, 1, 0.9), (1, 3, 0, 0.8), (1, 4, 1, 0.7), (1, 5, 1, 0.6)]
    test, score = graded(rows)
    assert protocol.card_precision(test, score, k=2) == (1 / 2 + 1 / 2) / 2
    assert protocol.card_precision(test, score, k=1) == (1 + 0) / 2
    assert protocol.card_precision(test, score, k=10) == (2 / 10 + 2 / 10) / 2  # 3 was found on day 0


def test_card_precision_is_the_products():
    rng = np.random.default_rng(4)
    n = 3_000
    day, card, label = rng.integers(0, 7, n), rng.integers(0, 200, n), (rng.random(n) < 0.03).astype(int)
    test, score = graded(zip(day.tolist(), card, label, rng.random(n) + 0.3 * label, strict=True))
    for k in (1, 10, 50):
        theirs = metrics.card_precision(day, card, label, score, k).mean()
        assert protocol.card_precision(test, score, k) == pytest.approx(theirs, abs=1e-12)


def test_known_cards_by_hand():
    """Training 1-7 August, delay 8-14, test 15-21: a fraud of day f is known on day d when f + 7 < d."""
    day = lambda d: FIRST + dt.timedelta(days=d - 1, hours=12)  # noqa: E731
    rows = [(1, 10, 1), (7, 20, 1), (8, 30, 1), (14, 40, 1), (2, 50, 0)]  # day of August, card, fraud
    rows += [(d, card, 0) for d in (15, 16, 17, 21) for card in (10, 20, 30, 40, 50)]
    table = pl.DataFrame(
        {
            "TX_DATETIME": pl.Series([day(d) for d, _, _ in rows], dtype=pl.Datetime("ms")),
            "CUSTOMER_ID": [card for _, card, _ in rows],
            "TX_FRAUD": [fraud for _, _, fraud in rows],
        }
    )
    train, test = protocol.split(table, dt.date(2018, 8, 15))
    assert train["CUSTOMER_ID"].to_list() == [10, 20, 50]
    left = [(d.day, card) for d, card in test.select("TX_DATETIME", "CUSTOMER_ID").iter_rows()]
    assert left == [(15, 30), (15, 40), (15, 50)] + [(d, card) for d in (16, 17, 21) for card in (40, 50)]


def test_split_is_the_products():
    raw = payments(n=6_000, customers=400, days=60, seed=2)
    last = raw["TX_DATETIME"].max().date()
    start = last - dt.timedelta(6)
    train, test = protocol.split(raw, start)
    label = raw["TX_FRAUD"].to_numpy()
    history = np.full(raw.height, SOURCES.index("history"), np.int8)
    rows = Rows(
        raw["TX_DATETIME"].dt.epoch("s").to_numpy().astype(float), label, history, np.ones(raw.height, np.float32)
    )
    p = Namespace(
        validation_days=7, delay_days=7.0, train_days=7, folds=1, stopping_fraction=0.2, label_coverage=0.5,
        exclude_known_cards=True,
    )  # fmt: skip
    (fold,) = splits.prequential(rows, p, raw["CUSTOMER_ID"].to_numpy())
    assert raw.filter(pl.Series(fold.train))["TRANSACTION_ID"].to_list() == train["TRANSACTION_ID"].to_list()
    assert raw.filter(pl.Series(fold.grading))["TRANSACTION_ID"].to_list() == test["TRANSACTION_ID"].to_list()
    assert 0 < test.height == raw.filter(pl.col("TX_DATETIME").dt.date() >= start).height - fold.known_cards
    assert fold.known_cards > 0


def test_weeks_that_choose_are_before_those_that_test():
    assert max(handbook.CHOSEN_ON) + dt.timedelta(7) <= min(handbook.WEEKS)
    assert [str(day) for day in handbook.WEEKS] == ["2018-08-08", "2018-08-15", "2018-08-22", "2018-08-29"]


def test_the_product_is_graded_as_the_book_grades():
    """The training job on made-up payments: `ours` refuses when rows or figures differ."""
    raw = payments(n=9_000, customers=600, days=60, seed=5)
    raw = raw.with_columns(TX_AMOUNT=pl.col("TX_AMOUNT") + 200.0 * pl.col("TX_FRAUD"))
    start = raw["TX_DATETIME"].max().date() - dt.timedelta(6)
    quick = ["--num_boost_round", "20", "--learning_rate", "0.1", "--num_threads", "1"]
    found = handbook.ours(features(raw), (start,), [*handbook.RULES, *quick])
    assert found.shape == (1, 3) and found[0, 0] > 0.9


def test_a_refusal_has_the_jobs_words(tmp_path):
    columns = {"id": pl.Series([1, 2]), "time": pl.Series([0.0, 1.0]), "label": pl.Series([0, 1], dtype=pl.Int8)}
    roles = {"id": "id", "time": "time", "target": "label"}
    source = product.channel(tmp_path / "channel", columns, pl.DataFrame({"a": [1.0, 2.0]}), roles)
    with pytest.raises(product.Refused, match="unrecognized arguments: --nonsense"):
        product.train(source, tmp_path, ["--nonsense", "1"])


@pytest.mark.skipif(not RAW.is_file(), reason="handbook_raw.parquet is not in shared/data beside the repository")
def test_the_books_single_split(capsys, monkeypatch):
    """Without the forest, which takes long; and a figure that is not met is told."""
    make, published, must = handbook.ONCE["tree, depth 2"]
    few = {"tree, depth 2": (make, published, must), "never": (make, (0.8, 0.5, 0.2), True)}
    monkeypatch.setattr(handbook, "ONCE", few)
    assert handbook.main([str(RAW), "--quick"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert "0.763 0.496 0.241" in out[1] and out[3:] == [
        "single split, never: more than 0.003 from the book's figures."
    ]


def written(monkeypatch, path: Path, table: pl.DataFrame, name: str) -> Path:
    """Write a table that stands for a published one: what is claimed is what is true of it."""
    table.write_parquet(path)
    claimed = getattr(datasets, name)
    frauds, digest = int(table[claimed.target].sum()), hashlib.sha256(path.read_bytes()).hexdigest()
    made_up = {"sha256": digest, "columns": tuple(table.columns), "rows": table.height, "frauds": frauds}
    monkeypatch.setattr(datasets, name, dataclasses.replace(claimed, **made_up))
    return path


def test_ulb_on_made_up_rows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ulb, "RULES", [*ulb.RULES, "--num_boost_round", "40"])
    rng = np.random.default_rng(0)
    label = (rng.random(1_200) < 0.05).astype(np.int8)
    table = pl.DataFrame({"source_row": np.arange(1_200), "Time": np.arange(1_200) // 2 * 3.0})
    table = table.with_columns(V1=rng.normal(size=1_200) + 6 * label, Amount=rng.integers(0, 99, 1_200), Class=label)
    path = written(monkeypatch, tmp_path / "made_up.parquet", table, "ULB")
    assert ulb.main([str(path), "--json", str(tmp_path / "found.json")]) == 0
    assert "product, its defaults" in capsys.readouterr().out


def test_the_rule_is_judged_on_rows_before_those_that_are_published(tmp_path, monkeypatch):
    assert set(preset.WEEKS) <= set(handbook.CHOSEN_ON)
    place = np.arange(1_000)
    table = pl.DataFrame({"source_row": place, "Time": place * 2.0, "V1": np.zeros(1_000), "Class": [0] * 1_000})
    written(monkeypatch, tmp_path / datasets.ULB.file, table, "ULB")
    end = 0
    for rows, _, names, arguments in preset.ulb_folds(tmp_path):
        assert names == ["V1"] and rows["source_row"].max() < 800
        share = float(arguments[-1])
        assert arguments[-2] == "--validation_fraction" and round(rows.height * share) == 120
        assert end <= rows.height - 120 <= rows.height, "the folds grade on different rows"
        end = rows.height
    assert end == 800


def test_few_frauds_are_made_of_many(tmp_path, monkeypatch):
    """Customers leave the training rows, not those that grade."""
    raw = payments(n=3_000, customers=60, days=60)
    written(monkeypatch, tmp_path / "handbook_raw.parquet", raw, "HANDBOOK")
    monkeypatch.setattr(preset, "WEEKS", (raw["TX_DATETIME"].max().date() - dt.timedelta(7),))
    ((all_rows, *_),) = preset.handbook_weeks(tmp_path, 1)
    ((few, *_),) = preset.handbook_weeks(tmp_path, 4)
    graded = pl.col("TX_DATETIME").dt.date() >= preset.WEEKS[0]
    assert few.filter(graded).equals(all_rows.filter(graded)) and few.filter(graded).height > 0
    assert set(few.filter(~graded)["CUSTOMER_ID"] % 4) == {0}
    assert all_rows.filter(~graded).height > 2 * few.filter(~graded).height > 0


def test_a_rule_that_is_worse_is_told(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    label = (rng.random(2_000) < 0.1).astype(int)
    good, bad = label + rng.normal(size=2_000), rng.normal(size=2_000)
    monkeypatch.setattr(preset, "RESAMPLES", 20)
    for folds, code in (([(label, bad, good, 7)], 0), ([(label, good, bad, 7), (label, good, good, 9)], 1)):
        monkeypatch.setattr(preset, "sets", lambda _, folds=folds: [("made up", folds)])
        monkeypatch.setattr(preset, "scored", lambda fold: fold)
        assert preset.main([str(tmp_path)]) == code
        out = capsys.readouterr().out
        assert ("made up: the rule is worse than the fixed numbers." in out) == bool(code)
        assert f"{np.mean([fold[3] for fold in folds]):.0f}" in out


def test_texts_are_scored_as_the_job_scores_them(monkeypatch):
    """The sample has categories; `scored` refuses when its figures are not the job's."""
    monkeypatch.setattr(preset, "SAMPLE_ROWS", 4_000)
    rows, roles, names, arguments = next(preset.samples(1))
    assert any(rows[name].dtype == pl.String for name in names) and "isFraud" not in names
    quick = ["--num_boost_round", "10", "--num_threads", "1"]
    label, fixed, now, frauds = preset.scored((rows, roles, names, [*arguments, *quick]))
    assert len(label) == len(fixed) == len(now) == 1_000 and 0 < frauds < 200
    assert label.tolist() == rows["isFraud"].tail(1_000).to_list() and not np.array_equal(fixed, now)
