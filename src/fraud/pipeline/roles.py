"""Which column of a table is what: target, id, time, amount, card; guesses from well-known names, and give-aways.

A column gives the answer away when its value alone separates fraud from the rest almost perfectly: it was most likely
filled in after the fraud was known, and a model that learns it is worth nothing on live traffic.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import polars as pl

from fraud.errors import DataError

RESERVED = ("__id", "__time", "__label", "__score", "__model", "__variant")
KNOWN = {  # in order of trust, compared without case and punctuation
    "target": "isfraud fraud fraudlabel txfraud fraudbool fraudflag fraudind fraudindicator isfraudulent fraudulent "
    "class label target chargeback y",
    "id": "transactionid transid txid transnum transactionnumber transaction inferenceid eventid sourcerow id",
    "time": "transactiondt txdatetime transactiontime transactiondate transactiondatetime "
    "txtimeseconds transdatetranstime timestamp datetime eventtime unixtime time date step sourcerow",
    "amount": "transactionamt transactionamount txamount amount amt value price total",
    "card": "cardid cardnumber ccnum card1 customerid accountid account nameorig",
}
LEAK_AUC = 0.99  # a single real feature does not reach this; after-the-fact columns do
LEAK_ROWS = 10  # of each class; below that perfection is chance
FEW_VALUES = 50  # up to this many distinct values each value may have a meaning of its own


@dataclass(frozen=True)
class Roles:
    """The columns with a meaning of their own.

    Attributes
    ----------
    target : str
        1 for fraud, else 0.
    id : str
        Names a transaction; empty when there is none (ids are then made from file and row).
    time : str
        Orders transactions; empty when there is none (the order of rows is then the order in time).
    amount : str
        The amount of money; empty when there is none.
    card : str
        Names the card, account or customer, whose payments are no independent witnesses; empty when there is none.
    """

    target: str
    id: str = ""
    time: str = ""
    amount: str = ""
    card: str = ""

    def to_dict(self) -> dict[str, str]:
        """Plain mapping, as it stands in ``dataset.json``."""
        return asdict(self)

    @property
    def consumed(self) -> tuple[str, ...]:
        """Source columns that become reserved ones and are not repeated under their own names.

        A column may be id and time at once (a running number); it then serves both.
        """
        return tuple(dict.fromkeys(name for name in (self.target, self.id, self.time) if name))


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def suggest_roles(
    columns: Iterable[str], binary: Sequence[str] = (), given: Mapping[str, str] | None = None
) -> tuple[Roles, list[str]]:
    """Guess the roles that were not given from well-known column names.

    Parameters
    ----------
    columns : iterable of str
        Column names of the table.
    binary : sequence of str
        Columns that hold only 0 and 1; a lone one is taken as target when no name is known.
    given : mapping, optional
        Roles that the user named (``target``, ``id``, ``time``, ``amount``, ``card``); empty values are guessed.

    Returns
    -------
    roles : Roles
        ``target`` is empty when nothing can be guessed.
    reasons : list of str
        One sentence for each guess, for the user to read.
    """
    columns = list(columns)
    found = Roles(**{"target": "", **{role: name for role, name in (given or {}).items() if name}})
    reasons = []
    by_plain: dict[str, str] = {}
    for name in columns:
        by_plain.setdefault(_plain(name), name)
    for role, names in KNOWN.items():
        if getattr(found, role):
            continue
        guess = next((by_plain[name] for name in names.split() if name in by_plain), "")
        # One column may order and name rows (a running number); every other pair of roles must differ.
        taken = {found.target, found.amount} | ({found.id} if _plain(guess) != "sourcerow" else set())
        if not guess and role == "target" and len(binary) == 1:
            guess = binary[0]
        if guess and guess not in taken:
            found = replace(found, **{role: guess})
            reasons.append(f'{role} is taken to be the column "{guess}".')
    if not found.id:
        reasons.append("No id column: ids are made from file and row, and live rows cannot be matched with history.")
    if not found.time:
        reasons.append("No time column: the order of rows is taken as their order in time.")
    return found, reasons


def check_columns(
    name: str, columns: Sequence[str], roles: Roles, exclude: Sequence[str] = (), binary: Sequence[str] = ()
) -> None:
    """Refuse a table whose columns cannot be used.

    Parameters
    ----------
    name : str
        The file, for the message.
    columns : sequence of str
        Its columns.
    roles : Roles
        What the user says they are.
    exclude : sequence of str
        Columns to keep from the model.
    binary : sequence of str
        Columns that hold only 0 and 1, offered when the target is missing.

    Raises
    ------
    DataError
        On duplicate, nameless or reserved names, missing role columns and a table without a feature.
    """
    check_header(name, columns)
    if roles.target not in columns:
        raise DataError(_missing_target(name, columns, roles.target, binary))
    for role in ("id", "time", "amount", "card"):
        column = getattr(roles, role)
        if column and column not in columns:
            near = difflib.get_close_matches(column, columns, 1, 0.8)
            hint = f'; perhaps "{near[0]}" is meant.' if near else f"; leave {role}_column empty if there is none."
            raise DataError(f'{name}: the {role} column "{column}" is missing{hint}')
        if column and column == roles.target:
            raise DataError(f'{name}: the column "{column}" cannot be both target and {role}.')
    if not set(columns) - set(roles.consumed) - set(exclude):
        raise DataError(f"{name}: no feature column is left beside target, id, time and the excluded columns.")


def check_header(name: str, columns: Sequence[str]) -> None:
    """Refuse nameless, reserved and duplicate column names.

    Raises
    ------
    DataError
        Naming the file and the columns.
    """
    for at, column in enumerate(columns, 1):
        if not column.strip():
            hint = "; a table written by pandas needs index=False" if at == 1 else ""
            raise DataError(f"{name}: column {at} of the header has no name{hint}.")
        if column.startswith("__"):
            raise DataError(f'{name}: column {at} is named "{column}", but names that begin with __ are reserved.')
        if column in columns[: at - 1]:
            first = columns.index(column) + 1
            raise DataError(f'{name}: the columns {first} and {at} of the header have the same name "{column}".')


def _missing_target(name: str, columns: Sequence[str], target: str, binary: Sequence[str]) -> str:
    plain = {_plain(column): column for column in reversed(columns)}
    near = [plain[item] for item in difflib.get_close_matches(_plain(target), plain, 3, 0.6)]
    near += [plain[item] for item in KNOWN["target"].split() if item in plain]
    looks = list(dict.fromkeys([*near, *binary]))[:5]
    said = f'the target column "{target}" is missing' if target else "no target column is named"
    if looks:
        return f"{name}: {said}; what looks like one: {', '.join(looks)} (set the parameter target)."
    return f"{name}: {said}, and no column looks like one (0 and 1 only); its columns are {', '.join(columns[:8])}, …."


def find_leaks(sample: pl.DataFrame, ignore: Iterable[str] = ()) -> list[dict[str, object]]:
    """Find columns that alone separate the classes almost perfectly.

    Parameters
    ----------
    sample : DataFrame
        Rows with ``__label``; each class sampled as it comes, for ranks do not depend on the classes' sizes.
    ignore : iterable of str
        Columns not to look at.

    Returns
    -------
    list of dict
        ``{"column", "auc", "why"}``, worst first.
    """
    truth = sample["__label"].cast(pl.Boolean)
    n_fraud, n_legit = int(truth.sum()), int((~truth).sum())
    if min(n_fraud, n_legit) < LEAK_ROWS:
        return []
    found: list[dict[str, object]] = []

    def separation(values: pl.Series) -> float:
        ranks = float(values.rank("average").filter(truth).sum())
        area = (ranks - n_fraud * (n_fraud + 1) / 2) / (n_fraud * n_legit)
        return max(area, 1 - area)

    for column in sample.columns:
        if column in RESERVED or column in ignore:
            continue
        values, tests = sample[column], []
        if values.null_count():
            tests.append(("missing or not", separation(values.is_null().cast(pl.Int8))))
        if values.dtype.is_numeric() or values.dtype.is_temporal() or values.dtype == pl.Boolean:
            order = values.cast(pl.Float64) if not values.dtype.is_temporal() else values.cast(pl.Int64)
            tests.append(("its value", separation(order.fill_null(strategy="min").fill_null(0))))
        if values.n_unique() <= FEW_VALUES:
            rate = sample.select(truth.cast(pl.Float64).alias("y"), values.alias("x"))
            tests.append(("its value", separation(rate.select(pl.col("y").mean().over("x"))["y"])))
        if tests:
            why, area = max(tests, key=lambda test: test[1])
            if area >= LEAK_AUC:
                found.append({"column": column, "auc": round(area, 4), "why": why})
    return sorted(found, key=lambda leak: (-float(str(leak["auc"])), str(leak["column"])))
