"""Load a LightGBM text model without trusting it.

A text model runs no code, but LightGBM ends the whole process on a truncated file, loops on some damaged ones and gives
other scores on the rest. So a model is loaded by a child process first, which must reproduce the scores that training
wrote beside it; only then are the very same bytes loaded here.

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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fraud.errors import QualityGateError
from fraud.schema import Schema
from fraud.serving import libgomp

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


def load(folder: Path, expected_sha256: str = "") -> tuple[Booster, Schema, str]:
    """Load ``model.txt`` and ``schema.json`` once a child process has loaded them and scored ``golden.json``.

    Parameters
    ----------
    folder : Path
        Holds ``model.txt``, ``schema.json`` and ``golden.json``.
    expected_sha256 : str
        Of ``model.txt``, from the release; empty when nobody promised one.

    Returns
    -------
    booster : lightgbm.Booster
    schema : Schema
    sha256 : str
        Of the bytes that were loaded.

    Raises
    ------
    QualityGateError
        When the file is another one than promised, cannot be loaded, or scores differently than at training.
    """
    model = _read(folder / "model.txt")
    digest = sha256(model)
    if expected_sha256 and digest != expected_sha256:
        raise QualityGateError(f"model.txt has SHA-256 {digest[:12]}…, but {expected_sha256[:12]}… was released.")
    trees_sha256(model)
    golden = json.loads(_read(folder / "golden.json"))
    answer = _ask_child(folder)
    if answer["sha256"] != digest:
        raise QualityGateError("model.txt changed while it was checked.")
    if answer["scores"] != golden["scores"]:
        differ = sum(here != there for here, there in zip(answer["scores"], golden["scores"], strict=False))
        raise QualityGateError(f"{differ} of {len(golden['scores'])} golden rows score differently than at training.")
    return (*_load_here(model, _read(folder / "schema.json")), digest)


def booster_of(model: bytes) -> Booster:
    """Load a model in this process; only for bytes that are known to be sound."""
    booster: Booster = libgomp.lightgbm().Booster(model_str=model.decode())
    return booster


def probabilities(booster: Booster, rows: np.ndarray, num_threads: int = 1) -> np.ndarray:
    """Score encoded rows.

    Parameters
    ----------
    booster : lightgbm.Booster
    rows : ndarray of shape (n_rows, n_features)
        Of float64, in the schema's order; missing is NaN.
    num_threads : int

    Returns
    -------
    ndarray of shape (n_rows,)
        Each within 0 and 1.
    """
    scores = np.asarray(booster.predict(rows, num_threads=num_threads))
    if not (np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()):
        raise QualityGateError("The model gives scores that are no probabilities.")
    return scores


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > SIZE_LIMIT:
            raise QualityGateError(f"{path.name} has more than the {SIZE_LIMIT:,} bytes allowed.")
        return path.read_bytes()
    except OSError as error:
        raise QualityGateError(f"The model has no readable {path.name}.") from error


def _load_here(model: bytes, schema_json: bytes) -> tuple[Booster, Schema]:
    schema = Schema.from_json(schema_json)
    booster = booster_of(model)
    if booster.num_feature() != len(schema.features):
        raise QualityGateError(
            f"The model takes {booster.num_feature()} features, its schema names {len(schema.features)}."
        )
    return booster, schema


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
    answer = json.loads(child.stdout)
    if not all(math.isfinite(score) for score in answer["scores"]):
        raise QualityGateError("The model gives scores that are no numbers.")
    return dict(answer)


def main(folder: Path) -> None:
    """Load the model in ``folder``, score its golden rows and print hash and scores as JSON."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is an answer here, not something to debug
    model = _read(folder / "model.txt")
    booster, schema = _load_here(model, _read(folder / "schema.json"))
    golden = json.loads(_read(folder / "golden.json"))
    rows = np.array([schema.encode(transaction) for transaction in golden["transactions"]], dtype=np.float64)
    scores = probabilities(booster, rows).tolist() if len(rows) else []
    sys.stdout.write(json.dumps({"sha256": sha256(model), "scores": scores}) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
