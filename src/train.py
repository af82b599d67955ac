"""Train a fraud model: the entry point of the SageMaker training job (script mode, SKLearn image).

Reads the channel ``train`` (ledger parts, ``labels.parquet``, ``dataset.json``) and, if there is one, the channel
``champion`` (the archive of the model in service). Learns from the older rows, grades on the newest truly labelled
ones, and writes the model archive's files to ``SM_MODEL_DIR``: a text model and JSON, never a pickle.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from fraud.errors import DataError, FraudError
from fraud.serving import model_file
from fraud.training import attributes, baseline, champion, grading, hosts, splits
from fraud.training.data import SOURCES, Ledger, Rows, open_ledger, raw_rows, read_rows
from fraud.training.features import Learnt
from fraud.training.fitting import fit
from fraud.training.hyperparameters import parse

HERE = Path(__file__).resolve().parent
SERVED = ("inference.py", "fraud/*.py", "fraud/serving/*.py")
TRAINING_ONLY = "# training only"
N_GOLDEN = 20

logger = logging.getLogger("fraud.train")


def golden_rows(ledger: Ledger, learnt: Learnt, validation: np.ndarray, score: np.ndarray) -> dict[str, Any]:
    """Pick validation rows from the lowest to the highest score, as a caller would send them, with their scores.

    Parameters
    ----------
    ledger : Ledger
    learnt : Learnt
    validation : ndarray of bool
        Mask over all rows.
    score : ndarray of shape (n_validation,)

    Returns
    -------
    dict
        ``transactions`` and ``scores``; whoever serves the model must give these very doubles.
    """
    needed = [j for j, feature in enumerate(learnt.schema.features) if feature.required]
    usable = np.flatnonzero(~np.isnan(learnt.validation[:, needed]).any(axis=1))
    by_score = usable[np.argsort(score[usable], kind="stable")]
    evenly = np.linspace(0, len(by_score) - 1, min(N_GOLDEN, len(by_score))).round().astype(int)
    picked = np.sort(by_score[evenly])
    transactions = raw_rows(ledger, np.flatnonzero(validation)[picked], learnt.schema.names)
    for place, transaction in zip(picked, transactions, strict=True):
        if not np.array_equal(learnt.schema.encode(transaction), learnt.validation[place], equal_nan=True):
            raise DataError(f"Validation row {place} is encoded differently for training and for serving.")
    return {"transactions": transactions, "scores": score[picked].tolist()}


def copy_code(target: Path) -> None:
    """Put what the endpoint runs beside the model."""
    for source in sorted(path for pattern in SERVED for path in HERE.glob(pattern)):
        place = target / source.relative_to(HERE)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)
    requirements = (HERE / "requirements.txt").read_text(encoding="utf-8")
    (target / "requirements.txt").write_text(requirements.partition(TRAINING_ONLY)[0], encoding="utf-8")


def train(p: argparse.Namespace, channel: Path, champion_channel: Path | None, model_dir: Path) -> dict[str, Any]:
    """Train, evaluate and write the archive's files.

    Parameters
    ----------
    p : Namespace
        Hyperparameters.
    channel, champion_channel : Path
        Input; no champion is None.
    model_dir : Path
        Output of the first host; the others write nothing.

    Returns
    -------
    dict
        ``metrics.json``; empty on the others.
    """
    ledger = open_ledger(channel)
    rows = read_rows(ledger)
    card = attributes.codes(ledger, ledger.dataset["roles"].get("card") or "")
    *older, fold = splits.prequential(rows, p, card)
    folds = grading.prequential(p, ledger, rows, older, card)
    fitted = fit(p, ledger, rows, fold)
    random_split = grading.flattery(p, ledger, rows, fold) if p.split == "random" else {}
    if not hosts.leads(p):
        return {}
    graded = grading.graded_rows(ledger, rows, fold, card)
    threshold = grading.decide(p, ledger, rows, fold, fitted, card)
    theirs = champion.score(champion_channel, ledger, fold.grading, p.num_threads) if champion_channel else None
    seen_card = None if card is None else np.isin(card, card[fold.train])[fold.grading] & (card[fold.grading] >= 0)
    found = grading.grade(p, ledger, graded, fitted, threshold, theirs, (fold.grading, seen_card))
    logger.info(
        "%d trees: validation auc=%.5f average_precision=%.5f log_loss=%.5f",
        fitted.boosted.rounds, found["auc"], found["average_precision"], found["log_loss"],
    )  # fmt: skip
    if theirs is not None:
        logger.info("champion auc=%.5f, on the same rows", found["champion_auc"])
    if random_split:
        found["random_split"] = random_split
        logger.info("random split auc=%.5f: it flatters, and grades nothing", random_split["auc"])
    metrics = {
        "schema_version": 2,
        "model_version": p.model_version,
        **found,
        "best_iteration": fitted.boosted.rounds,
        "learning_curve": fitted.boosted.curve,
        **describe_rows(rows, fold),
        "folds": [*folds, grading.period(rows, fold) | grading.summary(p, graded, fitted)],
        "trees_sha256": model_file.trees_sha256(fitted.content),
        "model_sha256": model_file.sha256(fitted.content),
        "decision_threshold": threshold,
        "importance": grading.importance(fitted.booster, fitted.learnt, p.seed),
        "label_sources": {name: int((rows.source == k).sum()) for k, name in enumerate(SOURCES)}
        | {"unlabelled": int((rows.source < 0).sum())},
        "excluded": fitted.learnt.excluded,
        "hyperparameters": vars(p),
        "settled": fitted.settled,
        "tuned": fitted.tuned,
    }
    documents = {
        "metrics.json": metrics,
        "golden.json": golden_rows(ledger, fitted.learnt, fold.grading, fitted.score),
        "baseline.json": baseline.describe(p, rows, fold, fitted, threshold, card),
        "calibration.json": fitted.calibration,
    }
    write(model_dir, fitted.content, fitted.learnt.schema.to_json(), documents)
    return metrics


def describe_rows(rows: Rows, fold: splits.Fold) -> dict[str, Any]:
    """Count the periods and name their ends (seconds since 1970)."""
    train_mask, validation = fold.train, fold.grading
    return {
        "n_train": int(train_mask.sum()),
        "n_stopping": int(fold.stopping.sum()),
        "n_validation": int(validation.sum()),
        "n_known_cards": fold.known_cards,
        "fraud_rate_train": float((rows.label[train_mask] == 1).mean()),
        "fraud_rate_validation": float((rows.label[validation] == 1).mean()),
        "train_start": float(rows.time[train_mask].min()),
        "train_end": float(rows.time[train_mask].max()),
        "validation_start": float(rows.time[validation].min()),
        "validation_end": float(rows.time[validation].max()),
    }


def write(model_dir: Path, model: bytes, schema: str, documents: dict[str, Any]) -> None:
    """Write the files of the model archive; SageMaker packs them."""
    model_dir.mkdir(parents=True, exist_ok=True)
    copy_code(model_dir / "code")
    (model_dir / "schema.json").write_text(schema, encoding="utf-8")
    for name, document in documents.items():
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=1)
        (model_dir / name).write_text(text, encoding="utf-8")
    (model_dir / "model.txt").write_bytes(model)


def main(arguments: list[str] | None = None) -> int:
    """Run the training job as SageMaker's environment describes it.

    Parameters
    ----------
    arguments : list of str, optional
        Hyperparameters; by default the command line's.

    Returns
    -------
    int
        Exit code. What went wrong stands in the failure file, which SageMaker shows as the job's failure reason.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    began = time.monotonic()
    base = Path(os.environ.get("SAGEMAKER_BASE_DIR") or "/opt/ml")
    failure = Path(os.environ.get("SM_OUTPUT_DIR") or base / "output") / "failure"
    their_channel = os.environ.get("SM_CHANNEL_CHAMPION")
    try:
        p = parse(sys.argv[1:] if arguments is None else arguments)
        with hosts.connected(p):
            train(
                p,
                Path(os.environ.get("SM_CHANNEL_TRAIN") or base / "input/data/train"),
                Path(their_channel) if their_channel else None,
                Path(os.environ.get("SM_MODEL_DIR") or base / "model"),
            )
    except FraudError as error:  # the data's fault or the caller's: one sentence, no traceback
        report_failure(failure, str(error))
        return 1
    except Exception as error:
        report_failure(failure, f"{type(error).__name__}: {error}")
        raise
    logger.info("done in %.1f s", time.monotonic() - began)
    return 0


def report_failure(path: Path, sentence: str) -> None:
    """Say what went wrong in the two places where SageMaker looks: the failure file and standard error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(sentence[:1024], encoding="utf-8")
    sys.stderr.write(f"{sentence}\n")


if __name__ == "__main__":
    sys.exit(main())
