"""Choose hyperparameters on the stopping rows, so that the rows that grade stay unseen: the ridge, or with Optuna."""

from __future__ import annotations

import logging
from argparse import Namespace
from collections.abc import Callable
from typing import Any

import numpy as np

from fraud.serving import model_file
from fraud.training import boosting
from fraud.training.hyperparameters import RIDGES, STOPPING_METRICS, UNSETTLED, settled

REPORT_ROUNDS = 10
STARTUP_TRIALS = 5  # before that nothing is cut short: there is no median yet
BAR = 20
TINY = 1e-12  # a score of exactly 0 or 1 would have no logarithm
SPACE: dict[str, tuple[str, float, float, bool]] = {  # kind, least, most, logarithmic
    "learning_rate": ("float", 0.01, 0.2, True),
    "num_leaves": ("int", 4, 128, True),
    "min_child_samples": ("int", 5, 300, True),
    "min_child_weight": ("float", 0.01, 20.0, True),
    "reg_lambda": ("float", 0.1, 50.0, True),
    "subsample": ("float", 0.5, 1.0, False),
    "colsample": ("float", 0.3, 1.0, False),
}

logger = logging.getLogger("fraud.train")


def ridge(p: Namespace, data: boosting.Datasets, stopping: np.ndarray, label: np.ndarray) -> Namespace:
    """Take the strongest ridge that is not worse on the stopping rows than chance explains.

    Each of ``RIDGES`` grows trees on the older rows. The one of least log loss on the stopping rows is the best, and
    the strongest whose loss exceeds that by no more than one standard error of the difference, row by row, is taken
    (the one-standard-error rule of Breiman et al., "Classification and Regression Trees", 1984, section 3.4.3). Few
    frauds have a large standard error: then the strongest stays. Only where many frauds say so are steps bolder.

    Parameters
    ----------
    p : Namespace
        Hyperparameters; a ridge that is given stays, and nothing is tried.
    data : boosting.Datasets
    stopping : ndarray of shape (n_stopping, n_features)
        The stopping rows, encoded.
    label : ndarray of shape (n_stopping,)

    Returns
    -------
    Namespace
        With ``reg_lambda``.
    """
    if p.reg_lambda != UNSETTLED["reg_lambda"]:
        return p
    losses = []
    for value in RIDGES:
        tried = Namespace(**vars(p) | {"reg_lambda": value})
        booster, rounds, _ = boosting.grow(tried, data, curves=False)
        score = np.clip(model_file.probabilities(booster, stopping, p.num_threads, rounds=rounds), TINY, 1 - TINY)
        losses.append(-np.log(np.where(label == 1, score, 1 - score)))
    best = min(losses, key=np.mean)
    excess = [loss - best for loss in losses]
    taken = next(k for k, e in enumerate(excess) if e.mean() <= e.std() / np.sqrt(len(e)))
    logger.info(
        "ridge %g: log loss of the stopping rows %s", RIDGES[taken],
        ", ".join(f"{loss.mean():.6f} with {value:g}" for value, loss in zip(RIDGES, losses, strict=True)),
    )  # fmt: skip
    return Namespace(**vars(p) | {"reg_lambda": RIDGES[taken]})


def tune(p: Namespace, fresh: Callable[[Namespace], boosting.Datasets]) -> tuple[Namespace, dict[str, Any]]:
    """Try ``n_trials`` sets of hyperparameters and take the best; the first are those given.

    Parameters
    ----------
    p : Namespace
        Hyperparameters; equal ones and equal rows give equal trials.
    fresh : callable
        Makes LightGBM's datasets for some hyperparameters; bins are part of what is tried. What is learnt from the
        older rows is judged on the stopping rows by ``stopping_metric``; a trial that is worse than the median of the
        former ones at the same round is cut short.

    Returns
    -------
    p : Namespace
        With the best values.
    found : dict
        ``metric``, ``first`` and ``best`` value, ``trials``, ``pruned``, ``changed`` hyperparameters.
    """
    import optuna  # 1 s of import, and only here when somebody tunes: see requirements-tuning.txt

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    cut_short = optuna.trial.TrialState.PRUNED  # such a trial has a value too: the last one it reported
    metric = STOPPING_METRICS[p.stopping_metric]
    sign = 1 if metric == "binary_logloss" else -1

    def objective(trial: Any) -> float:
        tried = Namespace(**vars(p) | space(trial, p))
        watched: list[float] = []

        def watch(env: Any) -> None:
            value = next(value for _, name, value, *_ in env.evaluation_result_list if name == metric)
            watched.append(sign * value)
            if len(watched) % REPORT_ROUNDS == 0:
                trial.report(min(watched), len(watched))
                if trial.should_prune():
                    raise optuna.TrialPruned

        boosting.grow(tried, fresh(tried), curves=False, also=[watch])
        return min(watched)

    def tell(study: Any, trial: Any) -> None:
        done = trial.number + 1
        bar = "█" * (BAR * done // p.n_trials)
        value = "cut short" if trial.state == cut_short else f"{sign * trial.value:.5f}"
        logger.info(
            "trial %d of %d ▕%s▏ %s %s, best %.5f",
            done, p.n_trials, bar.ljust(BAR, "·"), p.stopping_metric, value, sign * study.best_value,
        )  # fmt: skip

    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=p.seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=2 * REPORT_ROUNDS),
    )
    p = Namespace(**vars(p) | {"reg_lambda": settled(p, "reg_lambda"), "colsample": settled(p, "colsample")})
    study.enqueue_trial({name: getattr(p, name) for name in SPACE})
    study.optimize(objective, n_trials=p.n_trials, callbacks=[tell])
    pruned = sum(trial.state == cut_short for trial in study.trials)
    changed = {name: value for name, value in study.best_params.items() if value != getattr(p, name)}
    return Namespace(**vars(p) | study.best_params), {
        "metric": p.stopping_metric,
        "first": sign * study.trials[0].value,
        "best": sign * study.best_value,
        "trials": len(study.trials),
        "pruned": pruned,
        "changed": changed,
    }


def space(trial: Any, p: Namespace) -> dict[str, Any]:
    """What a trial tries; the bounds are widened to hold what was given, else it could not be tried."""
    tried = {}
    for name, (kind, low, high, log) in SPACE.items():
        given = getattr(p, name)
        low, high = min(low, given), max(high, given)
        bounds = (int(low), int(high)) if kind == "int" else (low, high)
        tried[name] = getattr(trial, f"suggest_{kind}")(name, *bounds, log=log and low > 0)
    return tried
