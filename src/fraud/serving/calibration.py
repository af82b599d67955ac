"""From a model's score to a probability: the map stored beside the model as data.

``{"method": "none"}``, ``{"method": "platt", "slope": a, "intercept": b}`` on the log-odds of the score, or
``{"method": "isotonic", "score": [...], "probability": [...]}``, rising, with straight lines between the points.
One row and many take the same steps in Python's own floats, so that they give the same bits.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any

from fraud.errors import QualityGateError

NONE = {"method": "none"}
_EDGE = 1e-15  # log-odds end here


def calibrator(document: dict[str, Any]) -> Callable[[float], float]:
    """Make the map that a document describes.

    Parameters
    ----------
    document : dict
        As above.

    Returns
    -------
    callable
        ``(score) -> probability``, never falling.

    Raises
    ------
    QualityGateError
        When it is none of the three, or does not rise from probability to probability.
    """
    method = document.get("method")
    if method == "none":
        return _same
    if method == "platt":
        slope, intercept = document.get("slope"), document.get("intercept")
        if not (_numbers([slope, intercept]) and slope > 0):  # type: ignore[operator]
            raise QualityGateError("calibration.json: platt needs a slope above 0 and an intercept.")
        return _platt(float(slope), float(intercept))  # type: ignore[arg-type]
    if method == "isotonic":
        scores, found = document.get("score"), document.get("probability")
        if not (isinstance(scores, list) and isinstance(found, list) and len(scores) == len(found) > 0):
            raise QualityGateError("calibration.json: isotonic needs as many scores as probabilities.")
        rising = _numbers([*scores, *found]) and all(a < b for a, b in zip(scores, scores[1:], strict=False))
        if not (rising and found == sorted(found) and 0 <= found[0] and found[-1] <= 1):
            raise QualityGateError("calibration.json: isotonic must rise, from probability to probability.")
        return _isotonic([float(x) for x in scores], [float(y) for y in found])
    raise QualityGateError(f"calibration.json names the method {str(method)[:40]!r}; known are none, platt, isotonic.")


def calibrate(document: dict[str, Any], scores: Iterable[float]) -> list[float]:
    """Map many scores."""
    return list(map(calibrator(document), scores))


def log_odds(score: float) -> float:
    """Log-odds of a score; at 0 and 1 those of its nearest neighbours that have some."""
    inside = min(max(score, _EDGE), 1 - _EDGE)
    return math.log(inside / (1 - inside))


def _numbers(values: list[Any]) -> bool:
    return all(type(value) in (int, float) and math.isfinite(value) for value in values)


def _same(score: float) -> float:
    return score


def _platt(slope: float, intercept: float) -> Callable[[float], float]:
    def platt(score: float) -> float:
        odds = slope * log_odds(score) + intercept
        return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0

    return platt


def _isotonic(scores: list[float], found: list[float]) -> Callable[[float], float]:
    def isotonic(score: float) -> float:
        k = bisect_right(scores, score)
        if k == 0 or k == len(scores):
            return found[0 if k == 0 else -1]
        share = (score - scores[k - 1]) / (scores[k] - scores[k - 1])
        return found[k - 1] + share * (found[k] - found[k - 1])

    return isotonic
