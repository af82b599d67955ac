"""The product's training job, `src/train.py`, as a child process on a table of features."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import polars as pl

from fraud.schema import Schema
from fraud.serving import calibration

TRAIN = Path(__file__).resolve().parents[2] / "src" / "train.py"
DATA = "runs/published/data"
# What the defaults were before the training rows gave them; see docs/training.md.
FIXED = ("--reg_lambda", "5", "--max_bin", "255", "--colsample", "0.8")
PART = "ledger/history/published/part-00000.parquet"


class Refused(Exception):
    """The training job failed; its own words."""


@dataclass(frozen=True)
class Trained:
    """What the job left, and how it scores.

    Attributes
    ----------
    metrics : dict
        ``metrics.json``.
    model_dir : Path
    """

    metrics: dict[str, Any]
    model_dir: Path

    def score(self, table: pl.DataFrame) -> np.ndarray:
        """What the endpoint would answer: the trees, then the calibration."""
        schema = Schema.from_json((self.model_dir / "schema.json").read_bytes())
        booster = lightgbm.Booster(model_file=str(self.model_dir / "model.txt"))
        if any(feature.categories for feature in schema.features):
            matrix = np.array([schema.encode(row) for row in table.select(schema.names).iter_rows(named=True)])
        else:
            matrix = table.select(schema.names).to_numpy().astype(float)
        bare = np.asarray(booster.predict(matrix))
        document = json.loads((self.model_dir / "calibration.json").read_bytes())
        return np.array(calibration.calibrate(document, bare.tolist()))


def channel(folder: Path, columns: dict[str, pl.Series], features: pl.DataFrame, roles: dict[str, str]) -> Path:
    """Write a training channel as the pipeline delivers it.

    Parameters
    ----------
    folder : Path
    columns : dict
        ``id``, ``time`` (seconds since 1970), ``label`` and, maybe, ``card``, which is no feature.
    features : DataFrame
        Numbers, texts, booleans.
    roles : dict
        Names of the columns that are the label, the id and so on.

    Returns
    -------
    Path
        The folder.
    """
    table = features.with_columns(
        __id=columns["id"].cast(pl.String), __time=columns["time"].cast(pl.Float64), __label=columns["label"]
    )
    if "card" in columns:
        table = table.with_columns(columns["card"].alias(roles["card"]))
    part, data = folder / PART, folder / DATA
    part.parent.mkdir(parents=True)
    data.mkdir(parents=True)
    table.write_parquet(part)
    listed = {"key": PART, "rows": table.height, "sha256": hashlib.sha256(part.read_bytes()).hexdigest()}
    hidden = [roles["card"]] if "card" in columns else []
    document = {"schema_version": 1, "roles": roles, "exclude": hidden, "parts": [listed]}
    (data / "dataset.json").write_text(json.dumps(document), encoding="utf-8")
    return folder


def train(source: Path, work: Path, arguments: list[str]) -> Trained:
    """Run the training job in a process of its own, as SageMaker does.

    Parameters
    ----------
    source : Path
        Its channel.
    work : Path
        Where the model and the failure file go.
    arguments : list of str
        Hyperparameters.

    Returns
    -------
    Trained

    Raises
    ------
    Refused
        With what the job says.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("SM_", "SAGEMAKER_"))}
    clean |= {"SM_CHANNEL_TRAIN": str(source), "SM_MODEL_DIR": str(work / "model"), "SM_OUTPUT_DIR": str(work)}
    done = subprocess.run([sys.executable, str(TRAIN), *arguments], env=clean, capture_output=True, text=True)
    if done.returncode:
        raise Refused((done.stderr.strip() or done.stdout.strip()).splitlines()[-1])
    return Trained(json.loads((work / "model" / "metrics.json").read_bytes()), work / "model")
