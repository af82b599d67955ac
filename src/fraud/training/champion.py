"""The model in service, scored on the challenger's validation rows."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from fraud.archive import MEMBERS, read_members
from fraud.errors import DataError
from fraud.serving import model_file
from fraud.training.data import Ledger
from fraud.training.features import Target, encode

LIMITS = {name: MEMBERS[name] for name in ("model.txt", "schema.json", "golden.json", "calibration.json")}
ARCHIVE_LIMIT = 1 << 30


def score(channel: Path, ledger: Ledger, validation: np.ndarray, num_threads: int) -> np.ndarray:
    """Score the validation rows by the champion's own schema.

    Parameters
    ----------
    channel : Path
        Holds one ``model.tar.gz``; it is not unpacked, and the model is loaded by a child process first.
    ledger : Ledger
    validation : ndarray of bool
        Mask over all rows.
    num_threads : int

    Returns
    -------
    ndarray of shape (n_validation,)

    Raises
    ------
    DataError, QualityGateError
        When the archive or its model cannot be trusted, or the rows do not fit its schema.
    """
    archives = sorted(channel.rglob("*.tar.gz"))
    if len(archives) != 1:
        raise DataError(f"The champion channel holds {len(archives)} archives; exactly one is needed.")
    if archives[0].stat().st_size > ARCHIVE_LIMIT:
        raise DataError(f"The champion's archive has more than the {ARCHIVE_LIMIT:,} bytes allowed.")
    members = read_members(archives[0].read_bytes(), LIMITS, name="the champion's model.tar.gz")
    with tempfile.TemporaryDirectory() as folder:
        for name, content in members.items():  # names are those of LIMITS, not the archive's
            (Path(folder) / name).write_bytes(content)
        loaded = model_file.load(Path(folder))
    target = Target(loaded.schema, validation)
    encode(ledger, [target])
    return loaded.probabilities(target.matrix, num_threads)
