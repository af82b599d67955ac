"""The table of pseudo-label policies: its loops, its data and its verdict, on sets small enough for a unit test."""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import policy_data
import policy_table
import pseudo_labels
from pseudo_labels import BARE, CONTROL, NEVER_RETRAINED, POLICIES, REGIMES, Trainer, loop, masks, statements

from fraud.pipeline.labelling import CONFIDENT, OFF, THRESHOLD, Policy
from fraud.training.data import SOURCES, Rows


@pytest.fixture(scope="module")
def tiny() -> policy_data.Data:
    return policy_data.make("tiny", 0, Path())


def test_quick_end_to_end(tmp_path, capsys):
    assert pseudo_labels.main(["--quick", "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_bytes())
    assert len(found) == 2 * (len(REGIMES) * (1 + len(POLICIES)) - 1)
    assert all(0 < one["auc"] <= 1 and 0 < one["ap"] <= 1 and one["rounds"] == 2 for one in found)
    out, err = capsys.readouterr()
    for policy in (NEVER_RETRAINED, *POLICIES):
        assert out.count(f"| tiny, made up | both | {policy} |") == 2
    assert "`off`" in out.splitlines()[-1]  # what follows for the default
    assert "tiny, seed 0, all, none" in err


def test_a_model_that_labels_for_itself_does_not_learn_a_new_pattern(tiny):
    trainer = Trainer(tiny, 1, "all")
    frozen = loop(tiny, statements(tiny, "none", 0), None, trainer)
    taught = loop(tiny, statements(tiny, "both", 0), POLICIES[OFF], trainer)
    alone = Policy(1e6, THRESHOLD, weight=1.0, max_share=1.0)
    fooled = loop(tiny, statements(tiny, "none", 0), alone, trainer)
    assert taught["ap"] > frozen["ap"] + 0.3, "truth teaches the new pattern"
    assert fooled["ap"] < frozen["ap"] + 0.03, "the model's own opinion does not"
    assert fooled["taught"] == fooled["pseudo"] > 400  # not for lack of rows
    assert fooled["wrong"] > 20


def test_without_any_truth_only_threshold_changes_a_model(tiny):
    trainer = Trainer(tiny, 1, "all")
    nothing = statements(tiny, "none", 0)
    frozen = loop(tiny, nothing, None, trainer)
    for policy in (OFF, CONFIDENT):
        found = loop(tiny, nothing, Policy(1e6, policy), trainer)
        assert (found["auc"], found["ap"], found["pseudo"]) == (frozen["auc"], frozen["ap"], 0)


def test_what_is_known_when(tiny):
    live = np.arange(tiny.n_history, len(tiny.time))
    both, reports = statements(tiny, "both", 0), statements(tiny, "reports", 0)
    assert both["label"].to_list() == tiny.label[live].tolist()
    assert np.allclose(both["label_time"].to_numpy() - tiny.time[live], 7 * 86_400)
    frauds = live[tiny.label[live] == 1]
    assert reports["__id"].to_list() == [f"{k:08d}" for k in frauds] and set(reports["label"]) == {1}
    late = (reports["label_time"].to_numpy() - tiny.time[frauds]) / 86_400
    assert (late > 0).all() and 7 < late.mean() < 13
    assert statements(tiny, "none", 0).is_empty()
    assert reports.equals(statements(tiny, "reports", 0)) and not reports.equals(statements(tiny, "reports", 1))


def test_pseudo_labels_never_stop_or_grade(tiny):
    n = len(tiny.time)
    source = np.zeros(n, np.int8)
    source[-200:] = SOURCES.index("pseudo")
    rows = Rows(tiny.time, tiny.label, source, np.ones(n, np.float32))
    for training in pseudo_labels.TRAININGS:
        teach, stop, grade = masks(rows, training, Trainer(tiny, 1, training).p)
        assert not (stop | grade)[-200:].any() and stop.any() and grade.any() == (training == "product")
        assert teach[-200:].all() and (teach[stop]).all() and not (teach & grade).any()


def test_handbook_features_are_the_books():
    rng = np.random.default_rng(0)
    n = 300
    seconds = np.sort(rng.choice(60 * 86_400, n, replace=False))
    raw = pl.DataFrame(
        {
            "TRANSACTION_ID": np.arange(n),
            "TX_DATETIME": [dt.datetime(2018, 4, 1) + dt.timedelta(seconds=int(s)) for s in seconds],
            "CUSTOMER_ID": rng.integers(0, 4, n),
            "TERMINAL_ID": rng.integers(0, 4, n),
            "TX_AMOUNT": rng.random(n) * 100,
            "TX_TIME_SECONDS": seconds,
            "TX_TIME_DAYS": seconds // 86_400,
            "TX_FRAUD": (rng.random(n) < 0.2).astype(np.int8),
            "TX_FRAUD_SCENARIO": np.zeros(n, np.int8),
        }
    )
    found = policy_data.handbook_features(raw)
    customer, terminal = raw["CUSTOMER_ID"].to_numpy(), raw["TERMINAL_ID"].to_numpy()
    amount, fraud = raw["TX_AMOUNT"].to_numpy(), raw["TX_FRAUD"].to_numpy()
    for k in range(0, n, 7):
        age = (seconds[k] - seconds) / 86_400
        assert found["weekend"][k] == (raw["TX_DATETIME"][k].weekday() >= 5)
        assert found["night"][k] == (raw["TX_DATETIME"][k].hour <= 6)
        for days in (1, 7, 30):
            mine = (customer == customer[k]) & (age >= 0) & (age < days)
            assert found[f"customer_count_{days}"][k] == mine.sum()
            assert found[f"customer_mean_{days}"][k] == pytest.approx(amount[mine].mean())
            there = (terminal == terminal[k]) & (age >= 7) & (age < days + 7)
            assert found[f"terminal_count_{days}"][k] == there.sum()
            risk = fraud[there].mean() if there.any() else 0.0
            assert found[f"terminal_risk_{days}"][k] == pytest.approx(risk)
    assert "TX_FRAUD_SCENARIO" not in found.columns


@pytest.mark.parametrize("name", ["onset", "ulb"])
def test_a_set_that_is_absent_is_named(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(policy_data, "SHARED", tmp_path)
    arguments = ["--datasets", name, "--seeds", "2", "--workers", "1", "--folder", str(tmp_path / "kept")]
    assert pseudo_labels.main(arguments) == 1
    out = capsys.readouterr().out
    assert out.count("is not in shared/data beside the repository.") == 1 and policy_data.TITLES[name] in out


def test_the_sample_needs_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(policy_data, "SAMPLE_ROWS", 3_000)
    data = policy_data.make("sample", 0, tmp_path)
    assert np.all(np.diff(data.time) >= 0) and data.matrix.shape == (3_000, len(data.schema.features))
    assert 120 < (data.time[-1] - data.start) / 86_400 < 130
    text = [feature for feature in data.schema.features if feature.type == "category"]
    assert text and not {"TransactionID", "TransactionDT", "isFraud"} & set(data.schema.names)
    for j, feature in enumerate(data.schema.features):
        if feature.type == "category":
            codes = data.matrix[~np.isnan(data.matrix[:, j]), j]
            assert set(codes) <= set(range(len(feature.categories)))


def figures(differences: dict[str, list[float]]) -> list[dict]:
    """Two sets, one kind of truth; AP differs from `off` by so much, seed by seed, in the second set."""
    return [
        {
            "dataset": dataset, "seed": seed, "training": "product", "regime": "both", "policy": policy, "auc": 0.9,
            "ap": 0.5 + (d[seed] if dataset == "ulb" else 0.0), "pseudo": 100.0, "wrong": 5.0,
        }
        for dataset in ("tiny", "ulb")
        for policy, d in {OFF: [0.0] * 3, **differences}.items()
        for seed in range(3)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("differences", "passes"),
    [
        ([0.0, 0.0, 0.0], True),
        ([0.01, 0.01, -0.004], True),
        ([-0.0015, -0.0015, -0.0015], True),
        ([-0.003, -0.003, -0.003], False),  # on average
        ([0.05, 0.05, -0.006], False),  # one seed
    ],
)
def test_verdict(differences, passes):
    groups = policy_table.by_key(figures({CONFIDENT: differences, BARE: [-0.1] * 3, CONTROL: [0.0] * 3}))
    said = policy_table.verdict(groups)
    assert ("Never worse than `off` throughout: `confident`; the default may be `off` or that." in said) == passes
    assert ("No policy is never worse than `off`: the default is `off`." in said) == (not passes)
    assert "`threshold, bare` is worse in 1 of 4 comparisons, most in ULB card payments / both: AP -0.1000" in said


def test_table_counts_seeds_that_are_worse():
    groups = policy_table.by_key(figures({CONFIDENT: [0.01, -0.001, -0.03]}))
    lines = policy_table.table(groups, "product").splitlines()
    line = next(line for line in lines if line.startswith("| ULB card payments | both | confident |"))
    assert "| +0.0000 | -0.0070 | 2 of 3 | 100 | 5.0% |" in line
    assert policy_table.report([]) == "Nothing was measured."
