"""The hyperparameters of the training job: names, ranges, and a preset for rare fraud."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Callable
from typing import Any, NoReturn

from fraud.errors import ParameterError

ALONE = '["algo-1"]'
STOPPING_METRICS = {"log_loss": "binary_logloss", "auc": "auc", "average_precision": "average_precision"}

# What the preset takes from the training rows, where it is not given a number; see `settle` and `tuning.ridge`.
RIDGES = (20.0, 5.0, 1.0)  # the most cautious first
BINS, BINS_PER_FRAUD_SHARE = (255, 4_095), 8
COLSAMPLE, COLUMNS_OF_A_TREE = (0.5, 0.8), 12
UNSETTLED = {"reg_lambda": -1.0, "max_bin": 0, "colsample": 0.0}
MIDDLE = {"reg_lambda": 5.0, "max_bin": 255, "colsample": 0.8}  # for whoever grows trees and settles nothing


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


def or_else(unsettled: float, convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let an argparse type take one number more: the one that leaves the choice to the training rows."""

    def either(text: str) -> Any:
        try:
            return type(unsettled)(unsettled) if float(text) == unsettled else convert(text)
        except ValueError:
            return convert(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f"{error}, or {unsettled:g}") from None

    return either


def settle(p: argparse.Namespace, fraud_share: float, n_columns: int) -> argparse.Namespace:
    """Choose the bins and the columns of a tree by what the training rows hold.

    Nothing is tried for it and no score looked at. The ridge is left to `fraud.training.tuning.ridge`.

    Parameters
    ----------
    p : Namespace
        Hyperparameters; what they give a number for stays.
    fraud_share : float
        Of all training rows, on whichever host.
    n_columns : int
        Columns that are learnt from.

    Returns
    -------
    Namespace
        ``max_bin``: bins hold equal shares of the rows, and frauds lie in the tails; so a bin must be small beside the
        share of the frauds, or the one at the end puts them together with as many others. An eighth of it, within
        ``BINS``. ``colsample``: among many columns a tree that sees half of them still finds its like, and the trees
        differ more; but it shall see a dozen, within ``COLSAMPLE``.
    """
    chosen = dict(vars(p))
    if p.max_bin == UNSETTLED["max_bin"]:
        low, high = BINS
        chosen["max_bin"] = min(high, max(low, round(BINS_PER_FRAUD_SHARE / fraud_share))) if fraud_share else high
    if p.colsample == UNSETTLED["colsample"]:
        least, most = COLSAMPLE
        chosen["colsample"] = min(most, max(least, COLUMNS_OF_A_TREE / n_columns))
    return argparse.Namespace(**chosen)


def settled(p: argparse.Namespace, name: str) -> Any:
    """A hyperparameter that `settle` would choose; the middle of the preset where nobody has."""
    value = getattr(p, name)
    return MIDDLE[name] if value == UNSETTLED[name] else value


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


def hosts(text: str) -> tuple[str, ...]:
    """Read a JSON list of names, in the order of the hosts."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not (isinstance(found, list) and found and all(isinstance(name, str) and name for name in found)):
        raise argparse.ArgumentTypeError("must be a JSON list of names")
    return tuple(sorted(found, key=lambda name: (len(name), name)))


def columns(text: str) -> tuple[str, ...]:
    """Read names of columns, separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the hyperparameters.

    The defaults are a preset for rare fraud. LightGBM's own collapse there: with few frauds the first leaves take
    steps of a thousand log-odds. A minimum of hessian in a leaf, a ridge and a start from even odds prevent it. Log
    loss decides when to stop: with few frauds the best AUC is often that of the very first trees, whose scores are no
    probabilities yet. Ridge, bins and columns of a tree are taken from the training rows unless they are given; their
    defaults, ``UNSETTLED``, say so.

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
    parser = Parser(description="Train a fraud model.", allow_abbrev=False)
    share = within(float, 0.01, 1)
    # the trees
    parser.add_argument("--num_boost_round", type=within(int, 1, 20_000), default=600)
    parser.add_argument("--learning_rate", type=within(float, 1e-4, 1), default=0.05)
    parser.add_argument("--num_leaves", type=within(int, 2, 4_096), default=31)
    parser.add_argument("--max_depth", type=within(int, 0, 64), default=0)  # 0 is no limit
    parser.add_argument("--min_child_samples", type=within(int, 1, 100_000), default=20)
    parser.add_argument("--min_child_weight", type=within(float, 0, 1e6), default=1.0)
    parser.add_argument("--reg_lambda", type=or_else(UNSETTLED["reg_lambda"], within(float, 0, 1e6)), default=-1.0)
    parser.add_argument("--subsample", type=share, default=0.8)
    parser.add_argument("--colsample", type=or_else(UNSETTLED["colsample"], share), default=0.0)
    parser.add_argument("--max_bin", type=or_else(UNSETTLED["max_bin"], within(int, 2, 65_535)), default=0)
    parser.add_argument("--min_data_in_bin", type=within(int, 1, 100_000), default=3)
    parser.add_argument("--boost_from_average", type=truth, default=False)
    parser.add_argument("--n_trials", type=within(int, 0, 1_000), default=0)  # 0 does not tune
    parser.add_argument("--max_categories", type=within(int, 1, 65_535), default=256)
    parser.add_argument("--seed", type=within(int, 0, 2**31 - 1), default=42)
    parser.add_argument("--num_threads", type=within(int, 0, 1_024), default=0)
    # which rows fit, stop and grade
    parser.add_argument("--split", choices=("time", "random"), default="time")
    parser.add_argument("--validation_fraction", type=within(float, 0.01, 0.9), default=0.2)
    parser.add_argument("--validation_days", type=within(int, 0, 3_650), default=0)
    parser.add_argument("--delay_days", type=within(float, 0, 365), default=7.0)
    parser.add_argument("--train_days", type=within(int, 0, 3_650), default=0)
    parser.add_argument("--folds", type=within(int, 1, 50), default=1)
    parser.add_argument("--exclude_known_cards", type=truth, default=False)
    parser.add_argument("--label_coverage", type=within(float, 0, 1), default=0.5)
    parser.add_argument("--stopping_fraction", type=within(float, 0.01, 0.5), default=0.2)
    parser.add_argument("--early_stopping_rounds", type=within(int, 0, 1_000), default=50)  # 0 grows all rounds
    parser.add_argument("--stopping_metric", choices=sorted(STOPPING_METRICS), default="log_loss")
    parser.add_argument("--min_positives", type=within(int, 1, 1_000_000), default=5)
    # what is decided, and what it costs
    parser.add_argument("--calibration", choices=("auto", "none", "platt", "isotonic"), default="auto")
    parser.add_argument("--decision", choices=("review_rate", "cost"), default="review_rate")
    parser.add_argument("--review_rate", type=within(float, 1e-4, 0.5), default=0.02)
    parser.add_argument("--decision_threshold", type=within(float, 0, 1), default=None)
    parser.add_argument("--review_cost", type=within(float, 0, 1e9), default=5.0)
    parser.add_argument("--fraud_cost", type=within(float, 0, 1e9), default=25.0)
    parser.add_argument("--segment_columns", type=columns, default=("auto",))
    parser.add_argument("--n_bootstrap", type=within(int, 20, 10_000), default=200)
    # the machines, as SageMaker names them
    parser.add_argument("--hosts", type=hosts, default=os.environ.get("SM_HOSTS") or ALONE)
    parser.add_argument("--current_host", default=os.environ.get("SM_CURRENT_HOST") or "")
    parser.add_argument("--network_interface", default=os.environ.get("SM_NETWORK_INTERFACE_NAME") or "")
    parser.add_argument("--model_version", type=version, default=os.environ.get("MODEL_VERSION") or "unversioned")
    found = parser.parse_args(arguments)
    found.current_host = found.current_host or found.hosts[0]
    if found.current_host not in found.hosts:
        parser.error(f"current_host {found.current_host!r} is none of {', '.join(found.hosts)}")
    return found
