"""What the preset takes from the training rows: bins, columns of a tree and the ridge."""

from __future__ import annotations

import re
from argparse import Namespace

import numpy as np
import pytest
import training_kit as kit

from fraud.errors import ParameterError
from fraud.schema import Feature, Schema
from fraud.training import boosting, tuning
from fraud.training.hyperparameters import MIDDLE, RIDGES, UNSETTLED, parse, settle


def learnt_with(text: str) -> dict[str, str]:
    return dict(re.findall(r"^\[(\w+): (.*)\]$", text, flags=re.MULTILINE))


@pytest.mark.parametrize(
    ("fraud_share", "n_columns", "bins", "colsample"),
    [
        (0.0017, 29, 4_095, 0.5),  # frauds of the ULB payments
        (0.0084, 15, 952, 0.8),  # the Handbook's
        (0.035, 434, 255, 0.5),  # IEEE-CIS's
        (0.02, 20, 400, 0.6),
        (0.5, 1, 255, 0.8),
        (0.0, 1, 4_095, 0.8),
    ],
)
def test_bins_follow_the_share_of_frauds_and_columns_their_number(fraud_share, n_columns, bins, colsample):
    found = settle(parse([]), fraud_share, n_columns)
    assert (found.max_bin, found.colsample) == (bins, colsample)
    assert found.reg_lambda == UNSETTLED["reg_lambda"], "the stopping rows decide"


def test_what_is_given_stays():
    p = parse(["--max_bin", "31", "--colsample", "0.3", "--reg_lambda", "0"])
    assert settle(p, 0.001, 400) == p
    assert tuning.ridge(p, None, None, None) is p, "nothing is tried"


@pytest.mark.parametrize("texts", [("-1.0", "0", "0.0"), ("-1", "0", "0")])
def test_the_default_can_be_said(texts):
    """SageMaker passes texts, and the notebook passes its default."""
    names = ("--reg_lambda", "--max_bin", "--colsample")
    said = [text for pair in zip(names, texts, strict=True) for text in pair]
    assert vars(parse(said)) == vars(parse([]))
    assert {name: getattr(parse([]), name) for name in UNSETTLED} == UNSETTLED


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--reg_lambda", "-0.5"], "must be float from 0 to 1e+06, or -1"),
        (["--reg_lambda", "nan"], "must be float from 0"),
        (["--max_bin", "1"], "must be int from 2 to 65535, or 0"),
        (["--max_bin", "many"], "must be int from 2"),
        (["--colsample", "-1"], "must be float from 0.01 to 1, or 0"),
    ],
)
def test_others_are_refused(arguments, reason):
    with pytest.raises(ParameterError, match=re.escape(reason)):
        parse(arguments)


def test_who_settles_nothing_grows_with_the_middle():
    settings = boosting.settings(parse([]))
    names = {"reg_lambda": "reg_lambda", "max_bin": "max_bin", "colsample": "feature_fraction"}
    assert {name: settings[ours] for name, ours in names.items()} == MIDDLE


def rows(n: int, *, chance: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frauds by chance, or wherever two of ten columns are large; the newest fifth of the rows stops."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(n, 10))
    fraud = rng.random(n) < 0.02 if chance else (matrix[:, 0] > 1.5) & (matrix[:, 1] > 0.5)
    return np.asfortranarray(matrix), fraud.astype(np.int8), np.arange(n) >= 0.8 * n


def ridge(matrix, label, stopping, **given) -> Namespace:
    schema = Schema(tuple(Feature(f"c{k}", "number", False) for k in range(matrix.shape[1])))
    p = Namespace(**vars(parse(["--num_threads", "1", "--num_boost_round", "300"])) | given)
    data = boosting.dataset(p, matrix, label, np.ones(len(label)), schema)
    return tuning.ridge(p, boosting.split(data, stopping), matrix[stopping], label[stopping])


def test_few_frauds_keep_the_strongest_ridge():
    """No ridge is better than another, whatever half a dozen frauds say."""
    taken = [ridge(*rows(1_500, chance=True, seed=seed)).reg_lambda for seed in range(4)]
    assert taken.count(RIDGES[0]) >= 3


def test_many_frauds_that_are_sure_take_a_weaker_one(caplog):
    caplog.set_level("INFO")
    assert ridge(*rows(10_000, chance=False)).reg_lambda < RIDGES[0]
    losses = [float(text) for text in re.findall(r"([\d.]+) with", caplog.text)]
    assert len(losses) == len(RIDGES) and min(losses) < losses[0], "and the log says why"


def test_the_archive_says_what_was_taken(tmp_path, monkeypatch):
    job = kit.run(monkeypatch, tmp_path, kit.put(tmp_path / "in", kit.history(kit.table())))
    taken = learnt_with((job.model_dir / "model.txt").read_text())
    assert float(taken["lambda_l2"]) in RIDGES
    share = job.read("metrics.json")["fraud_rate_train"]
    n_columns = len(job.read("schema.json")["features"])
    wanted = settle(parse([]), share, n_columns)
    assert (int(taken["max_bin"]), float(taken["feature_fraction"])) == (wanted.max_bin, wanted.colsample)
    ridge = {"reg_lambda": float(taken["lambda_l2"])}
    assert job.read("metrics.json")["settled"] == ridge | {"max_bin": wanted.max_bin, "colsample": wanted.colsample}


@pytest.mark.parametrize("column", ["reg_lambda", "max_bin", "colsample"])
def test_a_number_that_is_given_reaches_the_archive(tmp_path, monkeypatch, column):
    given = {"reg_lambda": ("lambda_l2", "3"), "max_bin": ("max_bin", "63"), "colsample": ("feature_fraction", "0.7")}
    name, value = given[column]
    channel = kit.put(tmp_path / "in", kit.history(kit.table(600)))
    job = kit.run(monkeypatch, tmp_path, channel, f"--{column}", value)
    assert learnt_with((job.model_dir / "model.txt").read_text())[name] == value
