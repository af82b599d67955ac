"""Train a fraud model: the entry point of the SageMaker training job (script mode, SKLearn image).

Reads the channel ``train`` (ledger parts, ``labels.parquet``, ``dataset.json``) and, if there is one, the channel
``champion`` (the archive of the model in service). Learns from the older rows, validates on the newest truly labelled
ones, and writes the model archive's files to ``SM_MODEL_DIR``: a text model and JSON, never a pickle.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fraud import drift
from fraud.errors import DataError, FraudError, ParameterError
from fraud.serving import model_file
from fraud.training import champion
from fraud.training import metrics as training_metrics
from fraud.training.boosting import STOPPING_METRICS, boost
from fraud.training.data import SOURCES, Ledger, Rows, open_ledger, raw_rows, read_rows, split_in_time
from fraud.training.features import Learnt, learn

HERE = Path(__file__).resolve().parent
SERVED = ("inference.py", "fraud/*.py", "fraud/serving/*.py")
TRAINING_ONLY = "# training only"
N_GOLDEN = 20

logger = logging.getLogger("fraud.train")


class Parser(argparse.ArgumentParser):
    """A parser whose complaint reaches the failure file."""

    def error(self, message: str) -> NoReturn:
        """Raise instead of leaving."""
        raise ParameterError(f"Hyperparameters: {message}.")


def within(kind: type, low: float, high: float) -> Callable[[str], Any]:
    """Make an argparse type for a number of ``kind`` from ``low`` to ``high``."""

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high:
            raise argparse.ArgumentTypeError(f"must be {kind.__name__} from {low:g} to {high:g}")
        return value

    return convert


def truth(text: str) -> bool:
    """Read ``true`` or ``false``."""
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError("must be true or false")
    return text.lower() == "true"


def version(text: str) -> str:
    """Read a name of a model version."""
    if not re.fullmatch(r"[A-Za-z0-9._:-]{1,64}", text):
        raise argparse.ArgumentTypeError("must be 1 to 64 letters, digits or ._:-")
    return text


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the hyperparameters.

    The defaults are a preset for rare fraud. LightGBM's own collapse there: with few frauds the first leaves take
    steps of a thousand log-odds. A minimum of hessian in a leaf, a ridge and a start from even odds prevent it. Log
    loss decides when to stop: with few frauds the best AUC is often that of the very first trees, whose scores are no
    probabilities yet.

    Parameters
    ----------
    arguments : list of str
        As SageMaker passes them.

    Returns
    -------
    Namespace

    Raises
    ------
    ParameterError
        When one is unknown, of the wrong type or out of range.
    """
    parser = Parser(description=__doc__.splitlines()[0], allow_abbrev=False)
    share = within(float, 0.01, 1)
    parser.add_argument("--num_boost_round", type=within(int, 1, 20_000), default=600)
    parser.add_argument("--learning_rate", type=within(float, 1e-4, 1), default=0.05)
    parser.add_argument("--num_leaves", type=within(int, 2, 4_096), default=31)
    parser.add_argument("--min_child_samples", type=within(int, 1, 100_000), default=20)
    parser.add_argument("--min_child_weight", type=within(float, 0, 1e6), default=1.0)
    parser.add_argument("--reg_lambda", type=within(float, 0, 1e6), default=5.0)
    parser.add_argument("--subsample", type=share, default=0.8)
    parser.add_argument("--colsample", type=share, default=0.8)
    parser.add_argument("--max_bin", type=within(int, 2, 65_535), default=255)
    parser.add_argument("--boost_from_average", type=truth, default=False)
    parser.add_argument("--early_stopping_rounds", type=within(int, 1, 1_000), default=50)
    parser.add_argument("--stopping_metric", choices=sorted(STOPPING_METRICS), default="log_loss")
    parser.add_argument("--validation_fraction", type=within(float, 0.01, 0.9), default=0.2)
    parser.add_argument("--min_positives", type=within(int, 1, 1_000_000), default=5)
    parser.add_argument("--max_categories", type=within(int, 1, 65_535), default=256)
    parser.add_argument("--review_rate", type=within(float, 1e-4, 0.5), default=0.02)
    parser.add_argument("--decision_threshold", type=within(float, 0, 1), default=None)
    parser.add_argument("--seed", type=within(int, 0, 2**31 - 1), default=42)
    parser.add_argument("--num_threads", type=within(int, 0, 1_024), default=0)
    parser.add_argument("--model_version", type=version, default=os.environ.get("MODEL_VERSION") or "unversioned")
    return parser.parse_args(arguments)


def check_classes(label: np.ndarray, period: str, min_positives: int) -> None:
    """Refuse a period in which there is nothing to tell apart."""
    frauds, legit = int((label == 1).sum()), int((label == 0).sum())
    if not legit:
        raise DataError(f"The {len(label):,} {period} rows hold one class only: all are fraud.")
    if not frauds:
        raise DataError(f"The {len(label):,} {period} rows hold one class only: none is fraud.")
    if frauds < min_positives:
        raise DataError(f"The {len(label):,} {period} rows hold {frauds} frauds, fewer than {min_positives}.")


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
        Output.

    Returns
    -------
    dict
        ``metrics.json``.
    """
    ledger = open_ledger(channel)
    rows = read_rows(ledger)
    train_mask, validation = split_in_time(rows, p.validation_fraction)
    check_classes(rows.label[train_mask], "training", p.min_positives)
    check_classes(rows.label[validation], "validation", p.min_positives)
    learnt = learn(ledger, rows, train_mask, validation, p.max_categories)
    logger.info(
        "%d training and %d validation rows, %d features, %d columns left out",
        *learnt.train.shape[:1], *learnt.validation.shape, len(learnt.excluded),
    )  # fmt: skip
    model, history = boost(p, learnt, rows, train_mask, validation)

    content = model.encode()
    loaded = model_file.booster_of(content)  # what is judged is what was written
    score = model_file.probabilities(loaded, learnt.validation, p.num_threads)
    label = rows.label[validation]
    found = training_metrics.evaluate(label, score)
    logger.info(
        "best round %d: validation auc=%.5f average_precision=%.5f log_loss=%.5f",
        history["best_iteration"], found["auc"], found["average_precision"], found["log_loss"],
    )  # fmt: skip
    threshold = p.decision_threshold
    if threshold is None:
        threshold = training_metrics.threshold_for(score, p.review_rate)
    sources = {name: int((rows.source == k).sum()) for k, name in enumerate(SOURCES)}
    metrics = {
        "schema_version": 1,
        "model_version": p.model_version,
        **found,
        **history,
        **describe_rows(rows, train_mask, validation),
        "trees_sha256": model_file.trees_sha256(content),
        "model_sha256": model_file.sha256(content),
        "decision_threshold": threshold,
        "at_threshold": training_metrics.at_threshold(label, score, threshold),
        "importance": importance(loaded, learnt),
        "scores": training_metrics.histogram(label, score),
        "label_sources": sources | {"unlabelled": int((rows.source < 0).sum())},
        "excluded": learnt.excluded,
        "hyperparameters": vars(p),
    }
    if champion_channel:
        theirs = champion.score(champion_channel, ledger, validation, p.num_threads)
        metrics |= {f"champion_{name}": value for name, value in training_metrics.evaluate(label, theirs).items()}
        logger.info("champion auc=%.5f, on the same rows", metrics["champion_auc"])
    # Features as they were learnt, but scores of rows that the model has not seen, as live ones will be: on its
    # training rows it is surer than it will ever be again. So the count of rows is set here.
    baseline = drift.build_baseline(learnt.columns, learnt.schema, score.tolist(), p.model_version)
    documents = {
        "metrics.json": metrics,
        "golden.json": golden_rows(ledger, learnt, validation, score),
        "baseline.json": baseline | {"rows": metrics["n_train"]},
    }
    write(model_dir, content, learnt.schema.to_json(), documents)
    return metrics


def describe_rows(rows: Rows, train_mask: np.ndarray, validation: np.ndarray) -> dict[str, Any]:
    """Count both periods and name the ends of the later one (seconds since 1970)."""
    return {
        "n_train": int(train_mask.sum()),
        "n_validation": int(validation.sum()),
        "fraud_rate_train": float((rows.label[train_mask] == 1).mean()),
        "fraud_rate_validation": float((rows.label[validation] == 1).mean()),
        "train_start": float(rows.time[train_mask].min()),
        "train_end": float(rows.time[train_mask].max()),
        "validation_start": float(rows.time[validation].min()),
        "validation_end": float(rows.time[validation].max()),
    }


def importance(booster: Any, learnt: Learnt) -> list[dict[str, Any]]:
    """Total gain by feature, largest first."""
    gains = zip(learnt.schema.names, booster.feature_importance("gain").tolist(), strict=True)
    return [{"feature": name, "gain": gain} for name, gain in sorted(gains, key=lambda item: (-item[1], item[0]))]


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
