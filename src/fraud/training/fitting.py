"""One fold: learn the schema, grow the trees, calibrate, and score the rows that grade."""

from __future__ import annotations

import logging
from argparse import Namespace
from dataclasses import dataclass
from typing import Any

import numpy as np

from fraud.errors import DataError
from fraud.serving import calibration as calibrations
from fraud.serving import model_file
from fraud.training import boosting, calibrating, hosts, hyperparameters, tuning
from fraud.training.data import Ledger, Rows
from fraud.training.features import Learnt, learn
from fraud.training.splits import Fold

logger = logging.getLogger("fraud.train")


@dataclass(frozen=True)
class Fitted:
    """A model and what it says.

    Attributes
    ----------
    learnt : Learnt
    boosted : boosting.Boosted
    booster : lightgbm.Booster
        Read back from `content`: what is judged is what is written.
    content : bytes
        Of ``model.txt``.
    calibration : dict
        As `fraud.serving.calibration` reads it.
    trials : dict
        Brier score of each way of calibration.
    stopping_score : ndarray of shape (n_stopping,)
        Calibrated, of trees that had not seen these rows.
    score : ndarray of shape (n_grading,)
        Calibrated.
    bare_score : ndarray of shape (n_grading,)
        Before calibration.
    tuned : dict
        What `tuning.tune` found; empty when nothing was tuned.
    settled : dict
        The hyperparameters that were left to the training rows, as they came out.
    """

    learnt: Learnt
    boosted: boosting.Boosted
    booster: Any
    content: bytes
    calibration: dict[str, Any]
    trials: dict[str, float]
    stopping_score: np.ndarray
    score: np.ndarray
    bare_score: np.ndarray
    tuned: dict[str, Any]
    settled: dict[str, Any]


def fit(p: Namespace, ledger: Ledger, rows: Rows, fold: Fold) -> Fitted:
    """Make a model from the training rows of a fold.

    Parameters
    ----------
    p : Namespace
        Hyperparameters.
    ledger : Ledger
    rows : Rows
    fold : Fold

    Returns
    -------
    Fitted

    Raises
    ------
    DataError
        When a period has too few frauds or legitimate rows, or no column can be learnt from.
    """
    check_fold(p, rows, fold)
    together = len(p.hosts) > 1
    mine = hosts.share(p, fold.train) if together else fold.train
    graded = fold.grading & hosts.leads(p)
    kept = {"mine": mine, "stopping": fold.stopping} if together else {}
    learnt = learn(ledger, rows, fold.train, graded, p.max_categories, **kept)
    logger.info(
        "%d training and %d validation rows, %d features, %d columns left out",
        fold.train.sum(), *learnt.validation.shape, len(learnt.excluded),
    )  # fmt: skip
    if together:
        logger.info("%s keeps %d of %d training rows", p.current_host, mine.sum(), fold.train.sum())
    stopping = fold.stopping[mine]
    watched = learnt.stopping if together else learnt.train[stopping]

    def datasets(wanted: Namespace) -> boosting.Datasets:
        def view(matrix: np.ndarray, mask: np.ndarray, reference: Any = None) -> Any:
            return boosting.dataset(wanted, matrix, rows.label[mask], rows.weight[mask], learnt.schema, reference)

        data = view(learnt.train, mine)
        return boosting.split(data, stopping, view(watched, fold.stopping, data) if together else None)

    p = hyperparameters.settle(p, float((rows.label[fold.train] == 1).mean()), len(learnt.schema.names))
    logger.info("%d bins, %.2f of the columns a tree", p.max_bin, p.colsample)
    tuned: dict[str, Any] = {}
    if p.n_trials:
        p, tuned = tuning.tune(p, datasets)
    data = datasets(p)
    p = tuning.ridge(p, data, watched, rows.label[fold.stopping])
    boosted = boosting.boost(p, data, watched)
    in_time = np.argsort(rows.time[fold.stopping], kind="stable")
    calibration, trials = calibrating.choose(
        rows.label[fold.stopping][in_time], boosted.stopping_score[in_time], p.calibration
    )
    content = boosted.model.encode()
    booster = model_file.booster_of(content)
    bare = model_file.probabilities(booster, learnt.validation, p.num_threads)
    calibrated = (np.array(calibrations.calibrate(calibration, s.tolist())) for s in (boosted.stopping_score, bare))
    settled = {name: getattr(p, name) for name in hyperparameters.UNSETTLED}
    return Fitted(learnt, boosted, booster, content, calibration, trials, *calibrated, bare, tuned, settled)


def check_fold(p: Namespace, rows: Rows, fold: Fold) -> None:
    """Refuse a fold in one of whose periods there is nothing to tell apart."""
    for mask, period in (
        (fold.grading, "validation"),
        (fold.train & ~fold.stopping, "training"),
        (fold.stopping, "stopping"),
    ):
        label = rows.label[mask]
        frauds, legit = int((label == 1).sum()), int((label == 0).sum())
        if not legit:
            raise DataError(f"The {len(label):,} {period} rows hold one class only: all are fraud.")
        if not frauds:
            raise DataError(f"The {len(label):,} {period} rows hold one class only: none is fraud.")
        if frauds < p.min_positives:
            raise DataError(f"The {len(label):,} {period} rows hold {frauds} frauds, fewer than {p.min_positives}.")
