"""What a fraud model must and must not react to, whatever it has learnt (invariance, direction, minimum)."""

from __future__ import annotations

import json
import random

import numpy as np
import pyarrow as pa
import pytest
import training_kit as kit

import inference


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    channel = kit.put(tmp_path_factory.mktemp("channel"), kit.history(kit.table(3000)))
    with pytest.MonkeyPatch.context() as patch:
        return kit.run(patch, tmp_path_factory.mktemp("job"), channel, "--num_boost_round", "80")


@pytest.fixture(scope="module")
def score(job):
    """Score transactions through the endpoint's handlers."""
    model = inference.model_fn(str(job.model_dir))

    def score(*transactions):
        request = inference.input_fn(json.dumps({"transactions": transactions}), "application/json")
        return inference.predict_fn(request, model).scores

    return score


@pytest.fixture(scope="module")
def transactions(job):
    return job.read("golden.json")["transactions"]


def changed(transactions, **fields):
    return [transaction | fields for transaction in transactions]


# -- invariance


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_fields_does_not_matter(score, transactions, seed):
    shuffled = [dict(random.Random(seed).sample(list(t.items()), len(t))) for t in transactions]
    assert [list(t) for t in shuffled] != [list(t) for t in transactions]
    assert score(*shuffled) == score(*transactions)


def test_id_time_and_excluded_columns_do_not_matter(score, transactions):
    expected = score(*transactions)
    for name in ("tx_id", "tx_time", "secret", "note", "same", "counter", "when"):
        assert score(*changed(transactions, **{name: "T-1"})) == expected, name


def test_an_unseen_category_an_absent_field_and_null_are_the_same(score, transactions):
    unseen = score(*changed(transactions, card="brand new"))
    assert unseen == score(*changed(transactions, card=None))
    assert unseen == score(*[{k: v for k, v in t.items() if k != "card"} for t in transactions])
    assert unseen != score(*transactions)


def test_whole_numbers_and_floats_are_the_same(score, transactions):
    assert score(*changed(transactions, amount=12)) == score(*changed(transactions, amount=12.0))


def test_neighbours_in_a_batch_do_not_matter(score, transactions):
    alone = [score(transaction)[0] for transaction in transactions]
    assert score(*transactions) == alone
    assert score(*reversed(transactions)) == alone[::-1]


# -- values at the edge


def test_what_is_needed_alone_scores_as_all_else_null(score, job, transactions):
    needed = {f["name"]: transactions[0][f["name"]] for f in job.read("schema.json")["features"] if f["required"]}
    assert 0 < len(needed) < len(transactions[0])
    assert score(needed) == score(dict.fromkeys(transactions[0]) | needed)
    assert 0 < score(needed)[0] < 1


@pytest.mark.parametrize("wrong", [{}, {"unheard_of": "T-1"}, {"AMOUNT": 1.0}])
def test_what_the_schema_does_not_take_is_refused(job, transactions, wrong):
    model = inference.model_fn(str(job.model_dir))
    body = json.dumps({"transactions": [transactions[0], transactions[0] | wrong if wrong else {}]})
    answer = inference.predict_fn(inference.input_fn(body, "application/json"), model)
    assert (answer.status, answer.document["errors"][0]["field"].partition(".")[0]) == (400, "transactions[1]")


@pytest.mark.parametrize("value", [0, -1, 1e308, -1e308, 5e-324, 2**63 - 1, 2.0**63, -0.0])
def test_any_finite_number_has_a_probability(score, transactions, value):
    assert all(0 < p < 1 for p in score(*changed(transactions, amount=value, v1=value, count=value)))


# -- direction


def test_what_was_riskier_scores_higher_on_average(score, transactions):
    low, high = (np.mean(score(*changed(transactions, v1=value))) for value in (-1.5, 1.5))
    assert high > 3 * low
    assert np.mean(score(*changed(transactions, card="amex"))) > np.mean(score(*changed(transactions, card="visa")))


# -- minimum


def test_it_learns_what_there_is_to_learn(job):
    metrics = job.read("metrics.json")
    assert metrics["auc"] > 0.85
    assert metrics["mean_score"] == pytest.approx(metrics["fraud_rate_validation"], rel=0.3)
    assert {item["feature"] for item in metrics["importance"][:3]} >= {"v1", "amount"}


def test_it_learns_nothing_from_labels_without_meaning(tmp_path, monkeypatch):
    rows = kit.table(3000)
    label = np.random.default_rng(3).permutation(rows["__label"].to_numpy())
    rows = rows.set_column(2, "__label", pa.array(label, pa.int8()))
    job = kit.run(monkeypatch, tmp_path, kit.put(tmp_path / "in", kit.history(rows)))
    metrics = job.read("metrics.json")
    n = metrics["n_validation"]
    frauds = metrics["fraud_rate_validation"] * n
    error = ((n + 1) / (12 * frauds * (n - frauds))) ** 0.5  # of the rank sum, when it says nothing
    assert error < 0.06
    assert metrics["auc"] == pytest.approx(0.5, abs=3 * error)


def test_very_rare_fraud_is_learnt(tmp_path, monkeypatch):
    """Three frauds in a thousand; the preset must neither collapse nor call them likely everywhere."""
    rows = kit.table(20_000, 4)
    rng = np.random.default_rng(0)
    risk = -9 + 2.2 * rows["v1"].to_numpy() + 1.5 * (np.log(rows["amount"].to_numpy()) - 3)
    label = rng.random(len(rows)) < 1 / (1 + np.exp(-risk))
    assert 0.001 < label.mean() < 0.006
    rows = rows.set_column(2, "__label", pa.array(label.astype(np.int8)))
    channel = kit.put(tmp_path / "in", kit.history(rows))
    arguments = ("--num_boost_round", "200", "--learning_rate", "0.05", "--min_child_samples", "20")
    metrics = kit.run(monkeypatch, tmp_path, channel, *arguments).read("metrics.json")
    assert metrics["auc"] > 0.9
    assert metrics["mean_score"] < 3 * metrics["fraud_rate_validation"]
