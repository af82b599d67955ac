"""Serve the model in the SageMaker SKLearn container: ``model_fn``, ``input_fn``, ``predict_fn``, ``output_fn``.

Request ``{"transactions": [{…}], "inference_ids": ["…"], "reasons": false}``, answer ``{"predictions":
[{"fraud_probability": 0.01}], "model_version": "…", "sha256": "…"}``. ``text/csv`` is rows in the schema's order,
without a header; its answer is one probability a line. What a caller got wrong is answered with 4xx and the reason, as
problem+json: it goes from function to function as a `Refusal`. Whatever raises is a fault of ours, and a 500.
"""

from __future__ import annotations

import ctypes
import json
import os
import struct
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fraud.errors import InvalidRequestError
from fraud.schema import Schema
from fraud.serving import libgomp, model_file
from fraud.serving.calibration import calibrator
from fraud.serving.request import CSV, JSON, Refusal, Request, answer_type, read, transactions_of

N_REASONS = 5
_NORMAL_PREDICTION, _FLOAT64 = 0, 1  # constants of LightGBM's C interface


class Prediction(NamedTuple):
    """What ``predict_fn`` found; ``model`` is how a JSON answer ends."""

    scores: list[float]
    reasons: list[list[dict[str, Any]]] | None
    model: str
    is_csv: bool


class Model:
    """A checked model with its schema, ready to score.

    Parameters
    ----------
    loaded : model_file.Loaded
    version : str
        The run that trained it.
    """

    def __init__(self, loaded: model_file.Loaded, version: str) -> None:
        self.loaded, self.version = loaded, version
        self.schema: Schema = loaded.schema
        self._score_row = single_row(loaded.booster, len(loaded.schema.features))
        self._calibrate = calibrator(loaded.calibration)
        self.told = json.dumps({"model_version": version, "sha256": loaded.sha256})[1:]  # the same in every answer

    def scores(self, rows: list[list[float]]) -> list[float]:
        """Score encoded rows; one row takes LightGBM's way without set-up."""
        if len(rows) == 1:
            score = self._score_row(rows[0])
            if not 0.0 <= score <= 1.0:
                raise ValueError("The model gave a score that is no probability.")
            return [self._calibrate(score)]
        scores: list[float] = self.loaded.probabilities(np.array(rows, dtype=np.float64)).tolist()
        return scores

    def reasons(self, rows: list[list[float]]) -> list[list[dict[str, Any]]]:
        """Contributions (log-odds) of the features that moved each score most, largest first."""
        shares = self.loaded.booster.predict(np.array(rows, dtype=np.float64), pred_contrib=True, num_threads=1)[:, :-1]
        top = np.argsort(-np.abs(shares), axis=1, kind="stable")[:, :N_REASONS]
        names = self.schema.names
        return [
            [{"feature": names[j], "contribution": float(row[j])} for j in best]
            for row, best in zip(shares, top, strict=True)
        ]


def single_row(booster: Any, n_features: int) -> Callable[[list[Any]], float]:
    """Prepare LightGBM's single-row prediction, which costs half of ``Booster.predict`` on one row.

    Parameters
    ----------
    booster : lightgbm.Booster
    n_features : int

    Returns
    -------
    callable
        ``(values) -> float`` for a list of ``n_features`` floats; the same bits as ``Booster.predict``.
    """
    basic = libgomp.lightgbm().basic
    library, check = basic._LIB, basic._safe_call
    if not hasattr(library, "LGBM_BoosterPredictForMatSingleRowFastInit"):  # no part of LightGBM's Python interface
        return lambda values: float(booster.predict(np.array([values], dtype=np.float64), num_threads=1)[0])
    settings = ctypes.c_void_p()
    prepare = library.LGBM_BoosterPredictForMatSingleRowFastInit
    every_tree = (0, -1)
    check(
        prepare(
            booster._handle,
            _NORMAL_PREDICTION,
            *every_tree,
            _FLOAT64,
            n_features,
            b"num_threads=1",
            ctypes.byref(settings),
        )
    )
    # Made once, used by all requests: the row, the score, their number, and the references that LightGBM is given.
    row, score, count = (ctypes.c_double * n_features)(), ctypes.c_double(), ctypes.c_int64()
    arguments = (settings, row, ctypes.byref(count), ctypes.byref(score))
    predict, lock = library.LGBM_BoosterPredictForMatSingleRowFast, threading.Lock()
    fill = struct.Struct(f"{n_features}d").pack_into  # refuses any other number of values

    def score_row(values: list[Any]) -> float:
        with lock:  # one buffer, maybe several threads
            fill(row, 0, *values)
            if failed := predict(*arguments):
                check(failed)
            return score.value

    weakref.finalize(booster, library.LGBM_FastConfigFree, settings).atexit = False
    return score_row


def model_fn(model_dir: str) -> Model:
    """Load the model, after its hash was compared with the release's and a child process has loaded it.

    Parameters
    ----------
    model_dir : str
        Where the container unpacked the archive.

    Returns
    -------
    Model

    Raises
    ------
    QualityGateError
        When the model is not the released one, or not sound.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread a worker; read when LightGBM is imported, below
    return Model(
        model_file.load(Path(model_dir), os.environ.get("MODEL_SHA256", "")), os.environ.get("MODEL_VERSION", "")
    )


def input_fn(body: str | bytes, content_type: str) -> Request | Refusal:
    """Read a request.

    Parameters
    ----------
    body : str or bytes
    content_type : str
        ``application/json`` or ``text/csv``, with any parameters.

    Returns
    -------
    Request or Refusal
    """
    try:
        return read(body, content_type)
    except InvalidRequestError as error:
        return Refusal(error)


def predict_fn(request: Request | Refusal, model: Model) -> Prediction | Refusal:
    """Score a request.

    Parameters
    ----------
    request : Request or Refusal
    model : Model

    Returns
    -------
    Prediction or Refusal
    """
    if isinstance(request, Refusal):
        return request
    try:
        transactions = transactions_of(request, model.schema)
    except InvalidRequestError as error:
        return Refusal(error)
    rows = [model.schema.encode(transaction) for transaction in transactions]
    return Prediction(
        scores=model.scores(rows),
        reasons=model.reasons(rows) if request.reasons else None,
        model=model.told,
        is_csv=bool(request.cells),
    )


def output_fn(prediction: Prediction | Refusal, accept: str) -> tuple[str, str] | Refusal:
    """Write the answer as the caller accepts it: by default CSV when the request was CSV, else JSON.

    Parameters
    ----------
    prediction : Prediction or Refusal
    accept : str

    Returns
    -------
    (body, content_type) or Refusal
        Reasons have no place in CSV.
    """
    if isinstance(prediction, Refusal):
        return prediction
    own, other = (CSV, JSON) if prediction.is_csv else (JSON, CSV)
    try:
        kind = answer_type(accept, own, [other] if prediction.reasons is None else [])
    except InvalidRequestError as error:
        return Refusal(error)
    if kind == CSV:
        return "".join(f"{score!r}\n" for score in prediction.scores), CSV
    if prediction.reasons is None:  # json.dumps would make an encoder for each answer to write the same characters
        items = ", ".join([f'{{"fraud_probability": {score!r}}}' for score in prediction.scores])
    else:
        pairs = zip(prediction.scores, prediction.reasons, strict=True)
        predictions = [{"fraud_probability": score, "reasons": reasons} for score, reasons in pairs]
        items = json.dumps(predictions, allow_nan=False)[1:-1]
    return f'{{"predictions": [{items}], {prediction.model}', JSON
