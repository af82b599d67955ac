"""Grow the trees: LightGBM, deterministic, stopped by rows it has not seen."""

from __future__ import annotations

import argparse
import logging
import os
import re
from typing import Any

import numpy as np

from fraud.serving import libgomp
from fraud.training.data import Rows
from fraud.training.features import Learnt

PROGRESS_ROUNDS, CURVE_ROUNDS = 50, 10
STOPPING_METRICS = {"log_loss": "binary_logloss", "auc": "auc", "average_precision": "average_precision"}

logger = logging.getLogger("fraud.train")


def feature_names(names: list[str]) -> list[str]:
    """Names that LightGBM can write in its text model: ASCII, unique; the schema keeps the true ones."""
    safe = [re.sub(r"[^\w.-]", "_", name, flags=re.ASCII) for name in names]
    return [name if safe.count(name) == 1 else f"{name}_{j}" for j, name in enumerate(safe)]


def boost(
    p: argparse.Namespace, learnt: Learnt, rows: Rows, train: np.ndarray, validation: np.ndarray
) -> tuple[str, dict[str, Any]]:
    """Grow the trees until the newest rows gain nothing more.

    Parameters
    ----------
    p : Namespace
        Hyperparameters.
    learnt : Learnt
    rows : Rows
    train, validation : ndarray of bool
        Masks over all rows.

    Returns
    -------
    model : str
        LightGBM's text, up to the best round.
    history : dict
        ``best_iteration`` and ``learning_curve``.
    """
    lightgbm = libgomp.lightgbm()
    stopping = STOPPING_METRICS[p.stopping_metric]
    metrics = [stopping, *(name for name in STOPPING_METRICS.values() if name != stopping)]
    settings = {
        "objective": "binary",
        "metric": metrics,
        "learning_rate": p.learning_rate,
        "num_leaves": p.num_leaves,
        "min_child_samples": p.min_child_samples,
        "min_child_weight": p.min_child_weight,
        "reg_lambda": p.reg_lambda,
        "bagging_fraction": p.subsample,
        "bagging_freq": 1,
        "feature_fraction": p.colsample,
        "max_bin": p.max_bin,
        "boost_from_average": p.boost_from_average,
        "seed": p.seed,
        "deterministic": True,
        "force_row_wise": True,  # otherwise LightGBM times both ways and takes the faster, which may differ each time
        "num_threads": p.num_threads or os.cpu_count(),
        "verbosity": -1,
    }
    data = lightgbm.Dataset(
        learnt.train,
        rows.label[train],
        weight=rows.weight[train] if (rows.weight[train] != 1).any() else None,
        feature_name=feature_names(learnt.schema.names),
        categorical_feature=[j for j, feature in enumerate(learnt.schema.features) if feature.type == "category"],
        params=settings,
    )
    held_out = data.create_valid(learnt.validation, rows.label[validation])
    curve: dict[str, list[Any]] = {"iteration": [], "train_auc": [], "valid_auc": []}

    def watch(env: Any) -> None:
        done = env.iteration + 1
        if done % CURVE_ROUNDS and done != env.end_iteration:
            return
        found = {name: value for _, name, value, *_ in env.evaluation_result_list}
        train_auc = next(value for _, name, value, *_ in env.model.eval_train() if name == "auc")
        for name, value in (("iteration", done), ("train_auc", train_auc), ("valid_auc", found["auc"])):
            curve[name].append(value)
        if done % PROGRESS_ROUNDS == 0:
            logger.info(
                "round %d: train auc=%.5f, validation auc=%.5f average_precision=%.5f log_loss=%.5f",
                done, train_auc, found["auc"], found["average_precision"], found["binary_logloss"],
            )  # fmt: skip

    stop = lightgbm.early_stopping(p.early_stopping_rounds, first_metric_only=True, verbose=False)
    booster = lightgbm.train(settings, data, p.num_boost_round, [held_out], ["validation"], callbacks=[watch, stop])
    best = int(booster.best_iteration or booster.current_iteration())
    return booster.model_to_string(num_iteration=best), {"best_iteration": best, "learning_curve": curve}
