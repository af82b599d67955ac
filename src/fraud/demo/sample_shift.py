"""Drift on purpose: change a table in one known way, so that what notices it can be checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from fraud.demo import sample_facts as facts
from fraud.demo.sample_columns import build
from fraud.demo.sample_people import PATTERNS, choose, population, stream
from fraud.demo.sample_rows import Scene, draw_latents
from fraud.errors import ParameterError

KINDS = ("amount", "missing", "category", "card_testing", "pattern")
NEW = len(PATTERNS) - 1  # the pattern that no table has by itself
AMOUNT = "TransactionAmt"


def shift(
    frame: pl.DataFrame,
    kind: str,
    *,
    columns: str | Sequence[str] = "",
    factor: float = 1.6,
    share: float = 0.0,
    value: str = "never seen before",
    seed: int = 7,
    steady: bool = False,
) -> pl.DataFrame:
    """Return the table with one injected change.

    Parameters
    ----------
    frame : DataFrame
        Transactions; for ``pattern`` they must come from `fraud.demo.sample`.
    kind : {"amount", "missing", "category", "card_testing", "pattern"}
        * ``amount``: the columns (default TransactionAmt) are multiplied by ``factor``.
        * ``missing``: the columns (default M4) are emptied in a ``share`` (default 0.6) of the rows.
        * ``category``: the columns (default card6) hold ``value`` in a ``share`` (default 0.2) of the rows.
        * ``card_testing``: a ``share`` (default 0.3) of the payments cost 1.00.
        * ``pattern``: a ``share`` (default 0.06) of the rows become fraud of a pattern that no table has by itself.
    columns : str or sequence of str
        Which columns.
    factor, share, value
        As above.
    seed : int
        Which rows.
    steady : bool
        As the table was made.

    Returns
    -------
    DataFrame
        Same columns, types and order.

    Raises
    ------
    ParameterError
        When the kind is unknown, the share is no share, or a column is missing or of the wrong kind.
    """
    if kind not in KINDS:
        raise ParameterError(f"kind is {kind!r}, but it must be one of {', '.join(KINDS)}.")
    usual = {"amount": (AMOUNT, 1.0), "missing": ("M4", 0.6), "category": ("card6", 0.2), "card_testing": (AMOUNT, 0.3)}
    default, usual_share = usual.get(kind, ("TransactionDT", 0.06))
    names = [columns] if isinstance(columns, str) and columns else list(columns) or [default]
    share = share or usual_share
    if not 0 < share <= 1:
        raise ParameterError(f"share is {share}, but it must be above 0 and at most 1.")
    if absent := [name for name in names if name not in frame.columns]:
        raise ParameterError(f"The table has no column {absent[0]!r}.")
    hit = stream(seed, "shift", kind).random(frame.height) < share
    if kind == "pattern":
        return _pattern(frame, np.flatnonzero(hit), seed, steady)
    if kind in ("amount", "card_testing") and (text := [n for n in names if not frame[n].dtype.is_numeric()]):
        raise ParameterError(f"The column {text[0]!r} holds no numbers.")
    chosen = pl.Series(hit)
    if kind == "amount":
        return frame.with_columns((pl.col(names).cast(pl.Float64) * factor).round(6))
    if kind == "missing":
        return frame.with_columns(pl.when(chosen).then(None).otherwise(pl.col(names)).name.keep())
    if kind == "category":
        return frame.with_columns(
            pl.when(chosen).then(pl.lit(value)).otherwise(pl.col(names).cast(pl.String)).name.keep()
        )
    return frame.with_columns(pl.when(chosen).then(pl.lit(1.0)).otherwise(pl.col(names).cast(pl.Float64)).name.keep())


def _pattern(frame: pl.DataFrame, rows: np.ndarray, seed: int, steady: bool) -> pl.DataFrame:
    """Rewrite these rows as frauds of the new pattern: same moment and product, other cards, values and label."""
    needed = {"TransactionID", "isFraud", "TransactionDT", "ProductCD"}
    if strange := [name for name in frame.columns if name not in facts.COLUMNS] or sorted(needed - set(frame.columns)):
        raise ParameterError(
            f"A pattern can only be put into a table made by `fraud sample`; {strange[0]!r} is not of it."
        )
    if not len(rows):
        return frame
    second = frame["TransactionDT"].to_numpy()[rows]
    product = np.array([facts.PRODUCTS.index(code) for code in frame["ProductCD"].gather(rows)])
    people = population(seed)
    rng = stream(seed, "shift", "clients")
    client = np.empty(len(rows), dtype=np.int64)
    for kind in range(len(facts.PRODUCTS)):
        mine = np.flatnonzero(product == kind)
        stolen = people.pools[kind][choose(rng, people.shares(kind, PATTERNS[NEW]), max(1, len(mine) // 6))]
        client[mine] = stolen[rng.integers(0, len(stolen), len(mine))]
    pattern = np.full(len(rows), NEW)
    fraud = np.ones(len(rows), dtype=bool)
    latent, strength = draw_latents(stream(seed, "shift", "latent"), people, client, fraud, pattern)
    index = frame["TransactionID"].to_numpy()[rows] - facts.FIRST_ID
    # The chunk number only separates these draws from those of the table itself
    made = build(
        Scene(seed, 10**9, index, second, product, pattern, fraud, client, latent, strength, people, steady),
        frame.columns,
    )
    changed = pl.DataFrame({name: pl.from_arrow(made[name]) for name in frame.columns})
    order = np.arange(frame.height)
    order[rows] = frame.height + np.arange(len(rows))
    return pl.concat([frame, changed], how="vertical_relaxed")[order]
