"""Load a LightGBM text model without trusting it.

A text model runs no code, but LightGBM ends the whole process on a truncated file, loops on some damaged ones and gives
other scores on the rest. So the text is read first as strictly as LightGBM writes it; then a child process loads it and
must reproduce the scores that training wrote beside it; only then are the very same bytes loaded here.

``python model_file.py FOLDER`` is that child.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fraud.errors import QualityGateError
from fraud.schema import Schema
from fraud.serving import calibration as calibrations
from fraud.serving import libgomp, model_text

if TYPE_CHECKING:
    from lightgbm import Booster

CHILD_SECONDS = 60
SIZE_LIMIT = 512 << 20
TREES_BEGIN, TREES_END = b"\nTree=0\n", b"\nend of trees\n"

logger = logging.getLogger("fraud.model_file")


def sha256(content: bytes) -> str:
    """SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def trees_sha256(model: bytes) -> str:
    """SHA-256 of the trees alone.

    Everything after the trees repeats the parameters, the number of threads among them, which changes no tree.

    Parameters
    ----------
    model : bytes
        A LightGBM text model.

    Raises
    ------
    QualityGateError
        When the file is not a whole LightGBM text model.
    """
    begin, end = model.find(TREES_BEGIN), model.rfind(TREES_END)
    if not 0 <= begin < end:
        raise QualityGateError("The model file is not a whole LightGBM text model.")
    return sha256(model[begin:end])


@dataclass(frozen=True)
class Loaded:
    """A sound model.

    Attributes
    ----------
    booster : lightgbm.Booster
    schema : Schema
    calibration : dict
        From score to probability, as `fraud.serving.calibration` reads it.
    sha256 : str
        Of ``model.txt``.
    """

    booster: Booster
    schema: Schema
    calibration: dict[str, Any]
    sha256: str

    def probabilities(self, rows: np.ndarray, num_threads: int = 1) -> np.ndarray:
        """Score encoded rows, as `probabilities` does."""
        return probabilities(self.booster, rows, num_threads, calibration=self.calibration)


def load(folder: Path, expected_sha256: str = "") -> Loaded:
    """Load a model once a child process has loaded it and scored ``golden.json``.

    Parameters
    ----------
    folder : Path
        Holds ``model.txt``, ``schema.json``, ``golden.json`` and, unless scores are probabilities as they are,
        ``calibration.json``.
    expected_sha256 : str
        Of ``model.txt``, from the release; empty when nobody promised one.

    Returns
    -------
    Loaded

    Raises
    ------
    QualityGateError
        When the file is another one than promised, cannot be loaded, or scores differently than at training.
    """
    model = _read(folder / "model.txt")
    digest = sha256(model)
    if expected_sha256 and digest != expected_sha256:
        raise QualityGateError(f"model.txt has SHA-256 {digest[:12]}…, but {expected_sha256[:12]}… was released.")
    model_text.check(model)
    golden = _golden(folder)
    answer = _ask_child(folder)
    if answer["sha256"] != digest:
        raise QualityGateError("model.txt changed while it was checked.")
    if answer["scores"] != golden["scores"]:
        differ = sum(here != there for here, there in zip(answer["scores"], golden["scores"], strict=False))
        raise QualityGateError(f"{differ} of {len(golden['scores'])} golden rows score differently than at training.")
    return _load_here(model, folder)


def booster_of(model: bytes) -> Booster:
    """Load a model in this process; only for bytes that are known to be sound."""
    booster: Booster = libgomp.lightgbm().Booster(model_str=model.decode())
    return booster


def probabilities(
    booster: Booster,
    rows: np.ndarray,
    num_threads: int = 1,
    *,
    rounds: int | None = None,
    calibration: dict[str, Any] | None = None,
) -> np.ndarray:
    """Score encoded rows.

    Parameters
    ----------
    booster : lightgbm.Booster
    rows : ndarray of shape (n_rows, n_features)
        Of float64, in the schema's order; missing is NaN.
    num_threads : int
    rounds : int, optional
        Use the first trees only.
    calibration : dict, optional
        From score to probability; by default they are the same.

    Returns
    -------
    ndarray of shape (n_rows,)
        Each within 0 and 1.
    """
    scores = np.asarray(booster.predict(rows, num_threads=num_threads, num_iteration=rounds))
    if not (np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()):
        raise QualityGateError("The model gives scores that are no probabilities.")
    if calibration:
        return np.array(calibrations.calibrate(calibration, scores.tolist()))
    return scores


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > SIZE_LIMIT:
            raise QualityGateError(f"{path.name} has more than the {SIZE_LIMIT:,} bytes allowed.")
        return path.read_bytes()
    except OSError as error:
        raise QualityGateError(f"The model has no readable {path.name}.") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(_read(path)))
    except (ValueError, TypeError) as error:
        raise QualityGateError(f"{path.name} is no JSON object.") from error


def _golden(folder: Path) -> dict[str, list[Any]]:
    try:
        found = _json(folder / "golden.json")
        transactions, scores = list(found["transactions"]), list(found["scores"])
        if len(transactions) != len(scores):
            raise ValueError
    except (ValueError, LookupError, TypeError) as error:
        raise QualityGateError("golden.json does not hold transactions and a score of each.") from error
    return {"transactions": transactions, "scores": scores}


def _load_here(model: bytes, folder: Path) -> Loaded:
    schema = Schema.from_json(_read(folder / "schema.json"))
    calibration = dict(calibrations.NONE)
    if (folder / "calibration.json").exists():  # models of earlier versions have none
        calibration = _json(folder / "calibration.json")
    calibrations.calibrator(calibration)
    booster = booster_of(model)
    if booster.num_feature() != len(schema.features):
        raise QualityGateError(
            f"The model takes {booster.num_feature()} features, its schema names {len(schema.features)}."
        )
    return Loaded(booster, schema, calibration, sha256(model))


def _ask_child(folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "fraud.serving.model_file", str(folder.resolve())]
    package = str(Path(__file__).resolve().parents[2])  # the very code that asks, wherever it was unpacked
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": package}
    try:
        child = subprocess.run(command, capture_output=True, timeout=CHILD_SECONDS, env=environment, check=False)
    except subprocess.TimeoutExpired:
        raise QualityGateError(f"The model was not loaded within {CHILD_SECONDS} s.") from None
    if child.returncode:
        last = child.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise QualityGateError(f"The model cannot be loaded (exit code {child.returncode}): {last[0][:300]}")
    answer = json.loads(child.stdout.splitlines()[-1])  # LightGBM's warnings stand before it
    if not all(math.isfinite(score) for score in answer["scores"]):
        raise QualityGateError("The model gives scores that are no numbers.")
    return dict(answer)


def main(folder: Path) -> None:
    """Load the model in ``folder``, score its golden rows and print hash and scores as JSON."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is an answer here, not something to debug
    model = _read(folder / "model.txt")
    loaded = _load_here(model, folder)
    golden = _golden(folder)
    rows = np.array([loaded.schema.encode(transaction) for transaction in golden["transactions"]], dtype=np.float64)
    scores = loaded.probabilities(rows).tolist() if len(rows) else []
    sys.stdout.write(json.dumps({"sha256": loaded.sha256, "scores": scores}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
