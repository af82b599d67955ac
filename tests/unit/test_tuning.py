"""Tuning: judged on the stopping rows, repeatable, and never worse there than what was given."""

from __future__ import annotations

import re

import pytest
import training_kit as kit

from fraud.pipeline import model_tables
from fraud.training import tuning

BAD = ("--min_child_weight", "1000", "--learning_rate", "0.02")


@pytest.fixture(scope="module")
def channel(tmp_path_factory):
    return kit.put(tmp_path_factory.mktemp("channel"), kit.history(kit.table(3_000)))


def tuned(patch, tmp_path, channel, *arguments):
    job = kit.run(patch, tmp_path, channel, *BAD, *arguments)
    assert job.exit_code == 0, job.reason
    return job.read("metrics.json")


def test_it_finds_what_a_bad_start_lacks_and_says_so(channel, tmp_path, monkeypatch, caplog):
    bad = tuned(monkeypatch, tmp_path / "bad", channel)
    caplog.set_level("INFO")
    assert model_tables.tuning_sentence(bad) == ""
    found = tuned(monkeypatch, tmp_path / "tuned", channel, "--n_trials", "25")
    about = found["tuned"]
    assert bad["tuned"] == {} and about["trials"] == 25 and 0 < about["pruned"] < 25
    assert about["best"] < about["first"] and found["auc"] > bad["auc"] + 0.02
    assert 0 < len(about["changed"]) and set(about["changed"]) <= set(tuning.SPACE)
    assert f"to {about['best']:.5f}; changed: " in model_tables.rows_of(found)
    said = r"trial (\d+) of 25 ▕(█*)·*▏ log_loss (?:cut short|[\d.]+), best [\d.]+"
    lines = re.findall(said, caplog.text)
    assert [int(number) for number, _ in lines] == list(range(1, 26)) and len(lines[-1][1]) == tuning.BAR


def test_the_same_seed_tries_the_same(channel, tmp_path, monkeypatch):
    first, again, other = (
        tuned(monkeypatch, tmp_path / str(k), channel, "--n_trials", "4", "--seed", str(seed))
        for k, seed in enumerate((1, 1, 2))
    )
    assert first["trees_sha256"] == again["trees_sha256"] != other["trees_sha256"]
    assert first["tuned"] == again["tuned"]


@pytest.mark.parametrize("n_trials", ["0", "4"])
def test_the_grading_rows_are_not_looked_at(channel, tmp_path, monkeypatch, n_trials):
    """Other labels in the newest fifth change the figures, and neither the trials nor the trees."""
    rows = kit.table(3_000)
    label = rows["__label"].to_numpy().copy()
    label[2_400:] = label[2_400:][::-1]
    turned = rows.set_column(2, "__label", kit.pa.array(label, kit.pa.int8()))
    there = kit.put(tmp_path / "in", kit.history(turned))
    given = ("--n_trials", n_trials, "--min_child_weight", "1")  # without trials, the ridge alone is chosen
    first = tuned(monkeypatch, tmp_path / "a", channel, *given)
    second = tuned(monkeypatch, tmp_path / "b", there, *given)
    assert first["tuned"] == second["tuned"] and first["trees_sha256"] == second["trees_sha256"]
    assert first["auc"] != second["auc"]
