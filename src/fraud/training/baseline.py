"""What later drift checks compare with, made once, of the rows that the model learnt from and was graded on."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import numpy as np

from fraud import drift, performance
from fraud.training import hosts, natural
from fraud.training.data import Rows
from fraud.training.fitting import Fitted
from fraud.training.splits import Fold


def describe(
    p: Namespace, rows: Rows, fold: Fold, fitted: Fitted, threshold: float, card: np.ndarray | None
) -> dict[str, Any]:
    """Make ``baseline.json``.

    Features as they were learnt, but scores of rows that the model has not seen, as live ones will be: on its training
    rows it is surer than it will ever be again.

    Parameters
    ----------
    p : Namespace
        Hyperparameters.
    rows : Rows
    fold : Fold
        The periods of the shipped model.
    fitted : Fitted
    threshold : float
        Score at or above which a payment is reviewed.
    card : ndarray of shape (n_rows,) or None
        Number of the card of each row, -1 where there is none.
    """
    learnt, scores, graded = fitted.learnt, fitted.score.tolist(), fold.grading
    gains = fitted.booster.feature_importance("gain")
    total = float(gains.sum()) or 1.0
    found = drift.build_baseline(
        learnt.columns,
        learnt.schema,
        scores,
        p.model_version,
        threshold=threshold,
        importance={name: float(gain) / total for name, gain in zip(learnt.schema.names, gains, strict=True)},
        performance=performance.reference(
            rows.label[graded].tolist(),
            scores,
            threshold,
            rows.time[graded].tolist(),
            p.delay_days,
            None if card is None else card[graded].tolist(),
        ),
    )
    times = rows.time[hosts.share(p, fold.train)]
    for name, moved in natural.variation(learnt.train, list(learnt.schema.names), times, found["features"]).items():
        found["features"][name]["natural"] = moved
    return found | {"rows": int(fold.train.sum())}
