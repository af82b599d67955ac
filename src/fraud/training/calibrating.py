"""Choose the map from score to probability on rows that the trees were not grown on."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from fraud.serving import calibration

ISOTONIC_FRAUDS = 100  # with fewer its steps follow single frauds


def choose(label: np.ndarray, score: np.ndarray, method: str = "auto") -> tuple[dict[str, Any], dict[str, Any]]:
    """Fit the calibration, if it helps.

    The older half of the rows fits each method and the newer half judges it: its Brier score must be lower than that
    of the bare scores by more than one standard error of the difference. The winner is fitted again on all rows.

    Parameters
    ----------
    label : ndarray of shape (n_rows,)
        In the order of time.
    score : ndarray of shape (n_rows,)
    method : {'auto', 'none', 'platt', 'isotonic'}
        One named is taken unjudged.

    Returns
    -------
    document : dict
        As `fraud.serving.calibration` reads it.
    trials : dict
        Brier score of each method on the newer half; empty when nothing was judged.
    """
    if method != "auto":
        return fit(label, score, method), {}
    half = len(label) // 2
    older, newer = slice(None, half), slice(half, None)
    if min(_frauds(label[older]), _frauds(label[newer])) < 2:
        return dict(calibration.NONE), {}
    bare = (score[newer] - label[newer]) ** 2
    trials, best = {"none": float(bare.mean())}, ("none", 0.0)
    for name in ("platt", "isotonic"):
        if name == "isotonic" and _frauds(label[older]) < ISOTONIC_FRAUDS:
            continue
        found = np.array(calibration.calibrate(fit(label[older], score[older], name), score[newer].tolist()))
        error = (found - label[newer]) ** 2
        trials[name] = float(error.mean())
        gain = bare - error
        if gain.mean() > max(best[1], gain.std() / np.sqrt(len(gain))):
            best = (name, float(gain.mean()))
    return fit(label, score, best[0]), trials


def fit(label: np.ndarray, score: np.ndarray, method: str) -> dict[str, Any]:
    """Fit one method.

    Parameters
    ----------
    label, score : ndarray of shape (n_rows,)
    method : {'none', 'platt', 'isotonic'}

    Returns
    -------
    dict
        As `fraud.serving.calibration` reads it. Platt's map falls back to none when it would turn the order around.
    """
    if method == "platt":
        odds = np.array([calibration.log_odds(value) for value in score.tolist()])
        line = LogisticRegression(C=np.inf, max_iter=1_000).fit(odds[:, None], label)
        slope, intercept = float(line.coef_[0, 0]), float(line.intercept_[0])
        return {"method": "platt", "slope": slope, "intercept": intercept} if slope > 0 else dict(calibration.NONE)
    if method == "isotonic":
        steps = IsotonicRegression(y_min=0, y_max=1).fit(score, label)
        return {
            "method": "isotonic",
            "score": steps.X_thresholds_.tolist(),
            "probability": steps.y_thresholds_.tolist(),
        }
    return dict(calibration.NONE)


def _frauds(label: np.ndarray) -> int:
    return int((label == 1).sum())
