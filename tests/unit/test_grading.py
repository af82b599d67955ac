"""What ``metrics.json`` says of a model, from the training job itself."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import training_kit as kit

from fraud.pipeline import model_tables

DAYS = 60


def rows(n=6_000, seed=0):
    """Two months, a card for each row, frauds that follow ``v1``."""
    table = kit.table(n, seed)
    rng = np.random.default_rng(seed)
    time = 1.7e9 // 86_400 * 86_400 + np.arange(n) * (DAYS * 86_400 / n)
    table = table.set_column(1, "__time", pa.array(time))
    return table.append_column("account", pa.array([f"a{k}" for k in rng.integers(0, 900, n)]))


@pytest.fixture(scope="module")
def channel(tmp_path_factory):
    roles = kit.ROLES | {"card": "account"}
    return kit.put(tmp_path_factory.mktemp("channel"), kit.history(rows()), roles=roles)


def metrics_of(monkeypatch, tmp_path, channel, *arguments, **more):
    job = kit.run(monkeypatch, tmp_path, channel, *arguments, **more)
    assert job.exit_code == 0, job.reason
    return job.read("metrics.json")


def test_folds_are_models_of_their_own_and_the_newest_is_shipped(monkeypatch, tmp_path, channel):
    arguments = ["--validation_days", "7", "--delay_days", "7", "--folds", "3"]
    found = metrics_of(monkeypatch, tmp_path, channel, *arguments)
    folds = found["folds"]
    assert [round((f["validation_start"] - folds[0]["validation_start"]) / 86_400) for f in folds] == [0, 7, 14]
    assert folds[-1]["auc"] == found["auc"] and len({f["auc"] for f in folds}) == 3
    assert folds[0]["n_train"] < folds[1]["n_train"] < folds[2]["n_train"] == found["n_train"]
    alone = metrics_of(monkeypatch, tmp_path / "alone", channel, *arguments[:-1], "1")
    assert alone["trees_sha256"] == found["trees_sha256"]
    shown = model_tables.folds(found)
    assert shown.index[-1] == "mean ± standard deviation" and len(shown) == 4


def test_known_cards_leave_the_grading_rows(monkeypatch, tmp_path, channel):
    arguments = ["--validation_days", "7", "--delay_days", "7"]
    everyone = metrics_of(monkeypatch, tmp_path / "a", channel, *arguments)
    fewer = metrics_of(monkeypatch, tmp_path / "b", channel, *arguments, "--exclude_known_cards", "true")
    assert everyone["n_known_cards"] == 0 < fewer["n_known_cards"]
    assert fewer["n_validation"] + fewer["n_known_cards"] == everyone["n_validation"]
    assert fewer["trees_sha256"] == everyone["trees_sha256"]
    assert f"{fewer['n_known_cards']:,} rows of cards" in model_tables.rows_of(fewer)


def test_the_threshold_by_cost_follows_the_costs_and_not_the_grading_rows(monkeypatch, tmp_path, channel):
    cost = ["--decision", "cost", "--review_cost"]
    dear, cheap = (metrics_of(monkeypatch, tmp_path / c, channel, *cost, c) for c in ("60", "1"))
    assert dear["decision_threshold"] > cheap["decision_threshold"]
    assert dear["at_threshold"]["review_rate"] < cheap["at_threshold"]["review_rate"]
    assert cheap["decision_threshold"] != cheap["cost_curve"]["threshold"][int(np.argmin(cheap["cost_curve"]["cost"]))]
    # near the best there is: far better than reviewing nothing or everything
    ends = cheap["cost_curve"]["cost"][0], cheap["cost_curve"]["cost"][-1]
    assert cheap["at_threshold"]["cost"] < min(ends)


def test_a_random_split_is_shown_and_grades_nothing(monkeypatch, tmp_path, channel):
    found = metrics_of(monkeypatch, tmp_path / "a", channel)
    asked = metrics_of(monkeypatch, tmp_path / "b", channel, "--split", "random")
    assert "random_split" not in found and asked["auc"] == found["auc"]
    assert asked["trees_sha256"] == found["trees_sha256"]
    assert 0.5 < asked["random_split"]["auc"] != asked["auc"]
    assert f"{asked['random_split']['auc']:.4f}" in model_tables.split_sentence(asked)


def test_segments_cards_and_a_champion_are_compared(monkeypatch, tmp_path, channel):
    first = kit.run(monkeypatch, tmp_path / "first", channel, "--num_boost_round", "2")
    (tmp_path / "in").mkdir()
    first.archive(tmp_path / "in/model.tar.gz")
    found = metrics_of(monkeypatch, tmp_path / "next", channel, champion=tmp_path / "in")
    assert found["comparison"]["auc"]["low"] > 0 and not found["identical"]
    by = {row["by"] for row in found["segments"]}
    assert by == {"card", "amount"} or by == {"card", "amount", "known"}
    names = {row["segment"] for row in found["segments"]}
    assert {"visa", "known to training", "new"} <= names  # the column "card" and the role of the same name
    assert 0 < found["budget"]["card_precision"] <= 1
    low, high = found["budget"]["precision_interval"]
    assert low <= found["budget"]["precision"] <= high
    for table in (model_tables.figures, model_tables.decision, model_tables.segments):
        assert len(table(found))
    again = metrics_of(monkeypatch, tmp_path / "again", channel, "--num_boost_round", "2", champion=tmp_path / "in")
    assert again["identical"] and again["comparison"]["auc"]["difference"] == 0


def test_the_baseline_knows_that_frauds_of_one_card_come_together(monkeypatch, tmp_path):
    table = rows()
    stolen = np.array([int(name[1:]) % 10 == 0 for name in table["account"].to_pylist()])
    table = table.set_column(2, "__label", pa.array(stolen.astype(np.int8), pa.int8()))
    found = {}
    for card in ("account", ""):
        channel = kit.put(tmp_path / f"in{card}", kit.history(table), roles=kit.ROLES | {"card": card})
        job = kit.run(monkeypatch, tmp_path / f"out{card}", channel, "--validation_days", "20")
        found[card] = job.read("baseline.json")["performance"]["dispersion"]["fraud_rate"]
    assert found["account"] > 2 > 1.4 > found[""]


def test_an_old_fold_without_frauds_says_so_and_the_newest_goes_on(monkeypatch, tmp_path):
    table = rows()
    label = table["__label"].to_numpy().copy()
    label[4_600:5_300] = 0
    table = table.set_column(2, "__label", pa.array(label, pa.int8()))
    channel = kit.put(tmp_path / "in", kit.history(table))
    found = metrics_of(monkeypatch, tmp_path, channel, "--validation_days", "7", "--folds", "2")
    assert "none is fraud" in found["folds"][0]["why_not"] and found["folds"][1]["auc"] == found["auc"]
    assert "none is fraud" in model_tables.folds(found)["remark"].iloc[0]


def test_a_column_name_cannot_become_markup_in_the_model_card(monkeypatch, tmp_path):
    table = rows(1_500).append_column("<script>|", pa.array(["x"] * 1_500))
    found = metrics_of(monkeypatch, tmp_path, kit.put(tmp_path / "in", kit.history(table)))
    assert "<script>|" in found["excluded"]
    text = model_tables.card(found | {"excluded": {"<script>|": "constant"}}, "job", "s3://b/k")
    assert "<script>" not in text and all(line.count("|") == 3 for line in text.splitlines())


def test_the_stopping_rows_teach_in_the_end_and_the_grading_rows_never(monkeypatch, tmp_path):
    hashes = []
    for name, span in (
        ("as they are", slice(0, 0)),
        ("stopping", slice(3_840, 4_800)),
        ("grading", slice(4_800, None)),
    ):
        table = rows()
        label = table["__label"].to_numpy().copy()
        label[span] = label[span][::-1]
        table = table.set_column(2, "__label", pa.array(label, pa.int8()))
        channel = kit.put(tmp_path / name, kit.history(table))
        found = metrics_of(monkeypatch, tmp_path / name, channel, "--early_stopping_rounds", "0")
        assert (found["n_train"], found["n_stopping"]) == (4_800, 960)
        hashes.append(found["trees_sha256"])
    assert hashes[0] != hashes[1] and hashes[0] == hashes[2]
