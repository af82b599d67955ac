"""What the model may look at: the schema learnt from the training rows, and rows encoded by it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraud.errors import DataError
from fraud.schema import Feature, Schema
from fraud.training.data import Ledger, Rows, as_float64, batches, kind_of, plain, select

KIND_REASONS = {"empty": "empty", "datetime": "a date or time", "other": "nested or binary"}
AT_ONCE = 16  # columns of all training rows in memory, on a host that keeps only its share
CLOCK_STEPS = 10
"""A number that only ever grew (or fell), in more steps than this, tells the time and nothing else."""


@dataclass
class Target:
    """Rows to encode by a schema; ``matrix`` is filled by ``encode``."""

    schema: Schema
    mask: np.ndarray
    matrix: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        shape = (int(self.mask.sum()), len(self.schema.features))
        self.matrix = np.full(shape, np.nan, dtype=np.float64, order="F")


@dataclass(frozen=True)
class Learnt:
    """A schema, the rows encoded by it, and why the other columns are not in it.

    Attributes
    ----------
    schema : Schema
    excluded : dict of str to str
        Column name to reason.
    counts : dict of str to dict
        How often each value of a category feature occurs in the training rows; None is missing.
    train, validation : ndarray of shape (n_rows, n_features)
        Of several hosts each has its own training rows.
    stopping : ndarray of shape (n_rows, n_features)
        Where training rows are shared out, all those that stop the trees; else empty.
    """

    schema: Schema
    excluded: dict[str, str]
    counts: dict[str, dict[str | None, int]]
    train: np.ndarray
    validation: np.ndarray
    stopping: np.ndarray

    @property
    def columns(self) -> dict[str, Any]:
        """The training rows by feature, as ``drift.build_baseline`` takes them: values, or values with counts."""
        return {
            feature.name: self.counts.get(feature.name, self.train[:, j])
            for j, feature in enumerate(self.schema.features)
        }


def learn(
    ledger: Ledger,
    rows: Rows,
    train: np.ndarray,
    validation: np.ndarray,
    max_categories: int,
    *,
    mine: np.ndarray | None = None,
    stopping: np.ndarray | None = None,
) -> Learnt:
    """Learn the schema from the training rows and encode training and validation rows by it.

    Parameters
    ----------
    ledger : Ledger
    rows : Rows
    train, validation : ndarray of bool
        Masks over all rows.
    max_categories : int
        Most values of a category feature; rarer ones count as unseen.
    mine, stopping : ndarray of bool, optional
        Of several hosts: the training rows that this one keeps, and the rows that all keep. The schema is learnt from
        all training rows on every host.

    Returns
    -------
    Learnt

    Raises
    ------
    DataError
        When a column cannot be encoded, or none is left.
    """
    excluded, names = _refuse_by_kind(ledger)
    kinds = {name: _kind(ledger.kinds[name]) for name in names}
    counts = _count_values(ledger, train, [name for name in names if kinds[name] == "category"])
    features = []
    for name in names:
        if name not in counts:
            features.append(Feature(name, kinds[name]))
        elif reason := _refuse_text(counts[name], max_categories):
            excluded[name] = reason
        else:
            features.append(Feature(name, kinds[name], not counts[name][None], _top(counts[name], max_categories)))
    roles = ledger.dataset["roles"]
    order = np.argsort(rows.time[train], kind="stable")
    seen: dict[str, tuple[int, str]] = {}
    if mine is not None:  # a value that is missing once, on whatever host, is not required
        numbers = [feature for feature in features if feature.name not in counts]
        for first in range(0, len(numbers), AT_ONCE):
            some = Target(Schema(tuple(numbers[first : first + AT_ONCE]), roles), train)
            encode(ledger, [some])
            seen |= {name: _judge(some.matrix[:, j], order) for j, name in enumerate(some.schema.names)}
    masks = (train if mine is None else mine, validation, np.zeros_like(train) if stopping is None else stopping)
    targets = [Target(Schema(tuple(features), roles), mask) for mask in masks]
    encode(ledger, targets)
    pa.default_memory_pool().release_unused()  # Arrow keeps what it decoded with; LightGBM needs it next

    kept: list[Feature] = []
    for j, feature in enumerate(features):
        n_missing, reason = 0, ""
        if feature.name not in counts:
            n_missing, reason = seen.get(feature.name) or _judge(targets[0].matrix[:, j], order)
        if reason:
            excluded[feature.name] = reason
            continue
        for target in targets:  # close the gaps in place: a second matrix would double the memory
            if len(kept) != j:
                target.matrix[:, len(kept)] = target.matrix[:, j]
        kept.append(feature if feature.name in counts else replace(feature, required=n_missing == 0))
    if not kept:
        raise DataError(f"No column is left to learn from: {'; '.join(f'{k}: {v}' for k, v in excluded.items())}.")
    known = {roles.get("id"), roles.get("time")} - {None, ""}
    ignored = sorted(known | {name for name in excluded if not name.startswith("__")} - {roles.get("target")})
    schema = Schema(tuple(kept), roles, tuple(ignored))
    return Learnt(schema, excluded, counts, *(target.matrix[:, : len(kept)] for target in targets))


def encode(ledger: Ledger, targets: Sequence[Target]) -> None:
    """Fill the matrices of ``targets``, in one pass over the parts.

    The doubles are those of ``Schema.encode`` on the same transactions one by one.

    Parameters
    ----------
    ledger : Ledger
    targets : sequence of Target

    Raises
    ------
    DataError
        When a value is infinite or of another type than the schema says.
    """
    filled = [0] * len(targets)
    names = list(dict.fromkeys(name for target in targets for name in target.schema.names))
    for part, start, batch in batches(ledger, names):
        present = set(batch.schema.names)
        for k, target in enumerate(targets):
            chosen = np.flatnonzero(target.mask[start : start + batch.num_rows])
            if not len(chosen):
                continue
            place = slice(filled[k], filled[k] + len(chosen))
            for j, feature in enumerate(target.schema.features):
                if feature.name in present:
                    column = select(batch.column(feature.name), chosen)
                    target.matrix[place, j] = encode_column(column, feature, part.key)
            filled[k] += len(chosen)


def encode_column(column: pa.Array, feature: Any, key: str) -> np.ndarray:
    """Encode one column of a batch as ``Schema.encode`` does a value.

    Parameters
    ----------
    column : pyarrow.Array
    feature : fraud.schema.Feature
    key : str
        The part, for the error.

    Returns
    -------
    ndarray of float64

    Raises
    ------
    DataError
        When a value is infinite or the column has another type than the feature.
    """
    kind = kind_of(column.type)
    if kind == "empty":
        return np.full(len(column), np.nan)
    if kind != feature.type and not (feature.type == "category" and kind in ("number", "boolean")):
        raise DataError(f"{key}: {feature.name} is a {kind} column, but a {feature.type} is expected.")
    if feature.type == "category":
        text = plain(column)
        return as_float64(pc.index_in(text, value_set=pa.array(feature.categories, text.type)))
    values = as_float64(column)
    if np.isinf(values).any():
        raise DataError(f"{key}: {feature.name} holds an infinite number.")
    return values


def _refuse_by_kind(ledger: Ledger) -> tuple[dict[str, str], list[str]]:
    """Sort columns out by name and type; no row is read."""
    roles = ledger.dataset["roles"]
    by_role = {roles.get(role): role for role in ("target", "id", "time")}
    listed = set(ledger.dataset.get("exclude", []))
    excluded, names = {}, []
    for name, kinds in ledger.kinds.items():
        kind = _kind(kinds)
        if name.startswith("__"):
            excluded[name] = "reserved"
        elif name in by_role:
            excluded[name] = f"is the {by_role[name]}"
        elif name in listed:
            excluded[name] = "excluded by parameter"
        elif kind in ("number", "boolean", "category"):
            names.append(name)
        else:
            excluded[name] = {"empty": "empty", "datetime": "a date or time", "other": "nested or binary"}.get(
                kind, kind
            )
    return excluded, names


def _kind(kinds: set[str]) -> str:
    found = sorted(kinds - {"empty"}) or ["empty"]
    if found == ["category", "number"]:
        return "category"  # a number can be written as text, and is, at serving too
    return found[0] if len(found) == 1 else f"{' in some parts, '.join(found)} in others"


def _count_values(ledger: Ledger, train: np.ndarray, names: Sequence[str]) -> dict[str, dict[str | None, int]]:
    """Count the values of text columns over the training rows; None is missing."""
    counts: dict[str, Counter[str | None]] = {name: Counter() for name in names}
    for _, start, batch in batches(ledger, names):
        chosen = np.flatnonzero(train[start : start + batch.num_rows])
        for name in batch.schema.names if len(chosen) else ():
            found = pc.value_counts(plain(select(batch.column(name), chosen)).drop_null())
            counts[name].update(dict(zip(found.field(0).to_pylist(), found.field(1).to_pylist(), strict=True)))
    n_train = int(train.sum())
    return {name: {**counter, None: n_train - counter.total()} for name, counter in counts.items()}


def _top(counts: dict[str | None, int], max_categories: int) -> tuple[str, ...]:
    """Most frequent first, ties by text, so that equal rows give equal codes whatever their order."""
    values = [value for value in counts if value is not None]
    return tuple(sorted(values, key=lambda value: (-counts[value], value))[:max_categories])


def _refuse_text(counts: dict[str | None, int], max_categories: int) -> str:
    n_values, n_rows = len(counts) - 1, sum(counts.values()) - counts[None]
    if not n_values:
        return "empty"
    if n_values == 1 and not counts[None]:
        return "constant"
    if n_values > max_categories and n_values > 0.5 * n_rows:
        return f"free text: {n_values:,} values in {n_rows:,} rows"
    return ""


def _judge(column: np.ndarray, order: np.ndarray) -> tuple[int, str]:
    """How many values of a column of numbers are missing, and why nothing can be learnt from it, if so."""
    n_missing = int(np.isnan(column).sum())
    return n_missing, _refuse_numbers(column, n_missing, order)


def _refuse_numbers(column: np.ndarray, n_missing: int, order: np.ndarray) -> str:
    if n_missing == len(column):
        return "empty"
    if not n_missing and (column == column[0]).all():
        return "constant"
    in_time = column[order]
    steps = np.diff(in_time[~np.isnan(in_time)] if n_missing else in_time)
    if np.count_nonzero(steps) > CLOCK_STEPS and ((steps >= 0).all() or (steps <= 0).all()):
        return "runs with time: later values lie outside all that was learnt"
    return ""
