"""Columns of the ledger that grade a model rather than teach it: amount, card, segments."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fraud.training.data import Ledger, as_float64, batches, kind_of, plain


def numbers(ledger: Ledger, name: str, rows: np.ndarray) -> np.ndarray | None:
    """Read a column of numbers.

    Parameters
    ----------
    ledger : Ledger
    name : str
        Empty, or a column that the ledger lacks or that holds no numbers, gives None.
    rows : ndarray of bool
        Mask over all rows.

    Returns
    -------
    ndarray of float64, of shape (n_masked,), or None
        NaN where a value is missing.
    """
    if not ledger.kinds.get(name, set()) & {"number"} or ledger.kinds[name] - {"number", "empty"}:
        return None
    found = np.full(len(rows), np.nan)
    for _, start, batch in batches(ledger, [name]):
        if kind_of(batch.column(name).type) == "number":
            found[start : start + batch.num_rows] = as_float64(batch.column(name))
    return found[rows]


def texts(ledger: Ledger, name: str, rows: np.ndarray) -> np.ndarray | None:
    """Read a column as text.

    Parameters
    ----------
    ledger : Ledger
    name : str
        Empty, or a column that the ledger lacks, gives None.
    rows : ndarray of bool
        Mask over all rows.

    Returns
    -------
    ndarray of object, of shape (n_masked,), or None
        None where a value is missing.
    """
    if name not in ledger.kinds:
        return None
    found = np.full(len(rows), None, object)
    for _, start, batch in batches(ledger, [name]):
        span = slice(start, start + batch.num_rows)
        chosen = np.flatnonzero(rows[span])
        if len(chosen) and kind_of(batch.column(name).type) in ("number", "boolean", "category"):
            found[start + chosen] = plain(batch.column(name).take(pa.array(chosen))).to_numpy(zero_copy_only=False)
    return found[rows]


def codes(ledger: Ledger, name: str) -> np.ndarray | None:
    """Number the values of a column, over all rows.

    Parameters
    ----------
    ledger : Ledger
    name : str
        Empty, or a column that the ledger lacks, gives None.

    Returns
    -------
    ndarray of int, of shape (n_rows,), or None
        Equal values have equal codes, in no order; -1 where a value is missing.
    """
    if name not in ledger.kinds:
        return None
    found = np.full(ledger.n_rows, -1, np.int64)
    known: dict[str, int] = {}
    for _, start, batch in batches(ledger, [name]):
        if kind_of(batch.column(name).type) not in ("number", "boolean", "category"):
            continue
        column = batch.column(name)
        coded = column if pa.types.is_dictionary(column.type) else pc.dictionary_encode(column)
        # Few distinct values become text, not every row; a number in one part and text in another meet as text.
        values = plain(coded.dictionary).to_pylist()
        numbered = np.array([-1 if v is None else known.setdefault(v, len(known)) for v in values] + [-1])
        places = as_float64(coded.indices)
        found[start : start + batch.num_rows] = numbered[np.where(np.isnan(places), -1, places).astype(np.int64)]
    return found
