"""Grow the trees: LightGBM, deterministic, stopped by rows it has not seen."""

from __future__ import annotations

import logging
import os
import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fraud.serving import libgomp, model_file
from fraud.training import hosts
from fraud.training.hyperparameters import STOPPING_METRICS, settled

PROGRESS_ROUNDS, CURVE_ROUNDS = 50, 10
MIN_GAIN = 1e-9  # of the stopping metric: less is rounding, which differs with the number of threads

logger = logging.getLogger("fraud.train")


@dataclass(frozen=True)
class Boosted:
    """What growing the trees gave.

    Attributes
    ----------
    model : str
        LightGBM's text.
    rounds : int
        Trees in it.
    curve : dict
        ``iteration``, ``train_auc`` (of this host's rows), ``valid_auc`` of the trees that were grown without the
        stopping rows.
    stopping_score : ndarray of shape (n_stopping,)
        What those trees, up to the best round, say of the stopping rows.
    """

    model: str
    rounds: int
    curve: dict[str, list[Any]]
    stopping_score: np.ndarray


def settings(p: Namespace) -> dict[str, Any]:
    """LightGBM's parameters."""
    stopping = STOPPING_METRICS[p.stopping_metric]
    return {
        "objective": "binary",
        "metric": [stopping, *(name for name in STOPPING_METRICS.values() if name != stopping)],
        "learning_rate": p.learning_rate,
        "num_leaves": p.num_leaves,
        "max_depth": p.max_depth or -1,
        "min_child_samples": p.min_child_samples,
        "min_child_weight": p.min_child_weight,
        "reg_lambda": settled(p, "reg_lambda"),
        "bagging_fraction": p.subsample,
        "bagging_freq": 1,
        "feature_fraction": settled(p, "colsample"),
        "max_bin": settled(p, "max_bin"),
        "min_data_in_bin": p.min_data_in_bin,
        "boost_from_average": p.boost_from_average,
        "seed": p.seed,
        "deterministic": True,
        "force_row_wise": True,  # otherwise LightGBM times both ways and takes the faster, which may differ each time
        "num_threads": p.num_threads or os.cpu_count(),
        "verbosity": -1,
    } | hosts.settings(p)


def dataset(
    p: Namespace, matrix: np.ndarray, label: np.ndarray, weight: np.ndarray, schema: Any, reference: Any = None
) -> Any:
    """LightGBM's view of encoded rows.

    Parameters
    ----------
    p : Namespace
    matrix : ndarray of shape (n_rows, n_features)
        Float64 in column order, which LightGBM takes without a copy.
    label, weight : ndarray of shape (n_rows,)
    schema : fraud.schema.Schema
    reference : lightgbm.Dataset, optional
        Gives the bins; by default they are found here, or on all hosts together.

    Returns
    -------
    lightgbm.Dataset
    """
    return libgomp.lightgbm().Dataset(
        matrix,
        label,
        weight=weight if (weight != 1).any() else None,
        reference=reference,
        feature_name=feature_names(schema.names),
        categorical_feature=[j for j, feature in enumerate(schema.features) if feature.type == "category"],
        params=settings(p),
    )


@dataclass(frozen=True)
class Datasets:
    """LightGBM's views of the rows that teach.

    Attributes
    ----------
    train : lightgbm.Dataset
        All training rows that this host keeps.
    fit : lightgbm.Dataset
        The older of them.
    stopping : lightgbm.Dataset
        The newest rows, on every host all of them.
    """

    train: Any
    fit: Any
    stopping: Any


def split(data: Any, stopping: np.ndarray, watched: Any = None) -> Datasets:
    """Divide a dataset into the rows that fit the trees and those that stop them.

    Parameters
    ----------
    data : lightgbm.Dataset
        Training rows.
    stopping : ndarray of bool, of shape (n_rows,)
        The newest of them.
    watched : lightgbm.Dataset, optional
        The stopping rows of all hosts; by default those of `data`.

    Returns
    -------
    Datasets
    """
    older, newest = (np.flatnonzero(rows) for rows in (~stopping, stopping))
    return Datasets(data, data.subset(older), data.subset(newest) if watched is None else watched)


def feature_names(names: list[str]) -> list[str]:
    """Names that LightGBM can write in its text model: ASCII, unique; the schema keeps the true ones."""
    safe = [re.sub(r"[^\w.-]", "_", name, flags=re.ASCII) for name in names]
    return [name if safe.count(name) == 1 else f"{name}_{j}" for j, name in enumerate(safe)]


def boost(p: Namespace, data: Datasets, stopping: np.ndarray, *, curves: bool = True) -> Boosted:
    """Find how many trees help on the newest training rows, then grow as many on all of them.

    Parameters
    ----------
    p : Namespace
        Hyperparameters.
    data : Datasets
    stopping : ndarray of shape (n_stopping, n_features)
        The stopping rows, encoded.
    curves : bool
        Whether to measure AUC on the way, which costs more than the trees; they are the same without.

    Returns
    -------
    Boosted
    """
    lightgbm = libgomp.lightgbm()
    first, rounds, curve = grow(p, data, curves=curves)
    score = model_file.probabilities(first, stopping, p.num_threads, rounds=rounds)
    logger.info("best round %d; growing as many trees on all training rows", rounds)
    booster = lightgbm.train(settings(p), data.train, rounds)
    return Boosted(booster.model_to_string(), rounds, curve, score)


def grow(
    p: Namespace, data: Datasets, *, curves: bool, also: Sequence[Any] = ()
) -> tuple[Any, int, dict[str, list[Any]]]:
    """Grow trees on the older rows and watch them on the newest.

    Returns
    -------
    booster : lightgbm.Booster
    rounds : int
        The best one; the last one when ``early_stopping_rounds`` is 0.
    curve : dict
        ``iteration``, ``train_auc``, ``valid_auc``.
    """
    lightgbm = libgomp.lightgbm()
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
                "round %d: training rows auc=%.5f, stopping auc=%.5f average_precision=%.5f log_loss=%.5f",
                done, train_auc, found["auc"], found["average_precision"], found["binary_logloss"],
            )  # fmt: skip

    callbacks: list[Any] = [*also, *([watch] if curves else [])]
    if p.early_stopping_rounds:
        stop = lightgbm.early_stopping(
            p.early_stopping_rounds, first_metric_only=True, verbose=False, min_delta=MIN_GAIN
        )
        callbacks.append(stop)
    wanted = settings(p) | ({} if curves else {"metric": STOPPING_METRICS[p.stopping_metric]})
    booster = lightgbm.train(wanted, data.fit, p.num_boost_round, [data.stopping], ["stopping"], callbacks=callbacks)
    return booster, int(booster.best_iteration or 0) or booster.current_iteration(), curve
