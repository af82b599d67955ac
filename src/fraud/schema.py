"""Names, types, order and categories of the features: learnt from the training data, enforced everywhere else.

``schema.json`` travels in the model archive. Training, endpoint, API and drift check read it; nobody types a list of
features by hand.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fraud.errors import DataError, InvalidRequestError

NUMBER, CATEGORY, BOOLEAN = "number", "category", "boolean"
TYPES = (NUMBER, CATEGORY, BOOLEAN)
ROLES = ("target", "id", "time", "amount", "card")

_INF = math.inf
_TRUTHS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
_NUMBER_TEXT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# What a caller sent is never repeated, except a field name that reads like a name, so that it can be found.
_SHOWABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}", re.ASCII)
_HINTED = 10  # nearest names are searched for so many unknown fields only: the search is slow


class FieldError(NamedTuple):
    """One field that cannot be used, and why; ``problem`` never repeats the value."""

    field: str
    problem: str


@dataclass(frozen=True, slots=True)
class Feature:
    """One column that the model sees.

    Attributes
    ----------
    name : str
        Its name in transactions and in the history.
    type : {'number', 'category', 'boolean'}
        What its values are.
    required : bool
        Whether a transaction without it is refused.
    categories : tuple of str
        Known values of a category; the place is the model's integer code.
    """

    name: str
    type: str
    required: bool = False
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Schema:
    """All features in the order the model takes them.

    Parameters
    ----------
    features : sequence of Feature
        In the model's order.
    roles : mapping of str to str
        Column names of ``target``, ``id``, ``time`` and ``amount``; empty where there is none.
    ignored : sequence of str
        Known fields that are no features: accepted and not used.

    Raises
    ------
    DataError
        When names repeat, a type is unknown, or categories do not fit the type.

    Examples
    --------
    >>> schema = Schema((Feature("amount", "number", True), Feature("card", "category", False, ("credit", "debit"))))
    >>> schema.encode({"amount": 12, "card": "debit"})
    [12.0, 1.0]
    >>> schema.validate({"amount": 9, "crad": "debit"})[0]
    FieldError(field='crad', problem='is not a known field; did you mean card?')
    """

    features: tuple[Feature, ...]
    roles: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", tuple(self.features))
        object.__setattr__(self, "ignored", tuple(self.ignored))
        object.__setattr__(self, "roles", {role: str(self.roles.get(role) or "") for role in ROLES})
        names = self.names
        if len(set(names)) != len(names):
            raise DataError("schema.json names a feature twice.")
        for feature in self.features:
            if feature.type not in TYPES:
                raise DataError(f"schema.json: {feature.name} has the type {feature.type!r}; use {', '.join(TYPES)}.")
            if feature.categories and feature.type != CATEGORY:
                raise DataError(f"schema.json: {feature.name} is a {feature.type}, but has categories.")
            if len(set(feature.categories)) != len(feature.categories):
                raise DataError(f"schema.json names a category of {feature.name} twice.")
        codes = {f.name: {text: float(code) for code, text in enumerate(f.categories)} for f in self.features}
        known = frozenset(names) | frozenset(self.ignored) | {name for name in self.roles.values() if name}
        object.__setattr__(self, "_plan", tuple((f.name, f.type, codes[f.name]) for f in self.features))
        object.__setattr__(self, "_known", known)

    _plan: tuple[tuple[str, str, dict[str, float]], ...] = field(init=False, repr=False, compare=False, default=())
    _known: frozenset[str] = field(init=False, repr=False, compare=False, default=frozenset())

    @property
    def names(self) -> list[str]:
        """Feature names in the model's order."""
        return [feature.name for feature in self.features]

    @property
    def known(self) -> frozenset[str]:
        """Every field a transaction may carry: features, ignored fields and roles."""
        return self._known

    @classmethod
    def from_json(cls, document: str | bytes | Mapping[str, Any]) -> Schema:
        """Read ``schema.json``.

        Parameters
        ----------
        document : str, bytes or mapping
            Its text, or what its text holds.

        Raises
        ------
        DataError
            When it is no schema of version 1.
        """
        try:
            found = json.loads(document) if isinstance(document, (str, bytes)) else document
            if found["schema_version"] != 1:
                raise DataError(f"schema.json has version {found['schema_version']!r}; this program reads version 1.")
            features = tuple(
                Feature(
                    str(item["name"]), str(item["type"]), bool(item["required"]), tuple(item.get("categories") or ())
                )
                for item in found["features"]
            )
            if not all(isinstance(text, str) for feature in features for text in feature.categories):
                raise DataError("schema.json holds a category that is no text.")
            return cls(features, dict(found.get("roles") or {}), tuple(found.get("ignored") or ()))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DataError(f"schema.json cannot be read: {type(error).__name__}.") from error

    def to_json(self) -> str:
        """Write ``schema.json``; the same schema gives the same text."""
        features = [
            {"name": f.name, "type": f.type, "required": f.required}
            | ({"categories": list(f.categories)} if f.type == CATEGORY else {})
            for f in self.features
        ]
        document = {"schema_version": 1, "roles": dict(self.roles), "features": features, "ignored": list(self.ignored)}
        return json.dumps(document, ensure_ascii=False, indent=1)

    def encode(self, transaction: Mapping[str, Any]) -> list[float]:
        """Turn one transaction into the model's row.

        Parameters
        ----------
        transaction : mapping
            Fields by name, in any order; more fields than the model sees are passed over.

        Returns
        -------
        list of float
            Of shape (n_features,): numbers as they are, booleans 0 or 1, categories as their code; null, absent and
            unseen are NaN.

        Raises
        ------
        InvalidRequestError
            When a value has the wrong type or is not finite; names every such field.
        """
        row: list[float] = []
        append, get, nan = row.append, transaction.get, math.nan
        try:
            for name, kind, codes in self._plan:
                value = get(name)
                if value is None:
                    append(nan)
                elif kind == NUMBER:
                    append(value if type(value) is float else _number(value))
                elif kind == CATEGORY:
                    append(codes.get(value if type(value) is str else category_text(value), nan))
                elif isinstance(value, bool):
                    append(1.0 if value else 0.0)
                else:
                    append(_boolean(value))
        except (TypeError, ValueError, OverflowError):
            raise self._refusal(transaction) from None
        if _INF in row or -_INF in row:
            raise self._refusal(transaction)
        return row

    def _refusal(self, transaction: Mapping[str, Any]) -> InvalidRequestError:
        errors = [item for feature in self.features if (item := _check(feature, transaction.get(feature.name)))]
        detail = "; ".join(f"{item.field} {item.problem}" for item in errors[:5])
        return InvalidRequestError(f"{detail}.", 400, [item._asdict() for item in errors])

    def validate(self, transaction: object) -> list[FieldError]:
        """Find everything that is wrong with a transaction from outside.

        Parameters
        ----------
        transaction : object
            What a caller sent.

        Returns
        -------
        list of FieldError
            Missing required fields, wrong types and numbers that are not finite in the schema's order, then unknown
            fields with the nearest known name; empty when `encode` will accept it.
        """
        if not isinstance(transaction, Mapping):
            return [FieldError("", "must be a JSON object with one member for each field")]
        errors: list[FieldError] = []
        for feature in self.features:
            value = transaction.get(feature.name)
            if type(value) is str and feature.type == CATEGORY:
                continue
            if type(value) is float and feature.type == NUMBER and value - value == 0.0:
                continue
            if value is None:
                if feature.required:
                    errors.append(FieldError(feature.name, "is required"))
            elif problem := _check(feature, value):
                errors.append(problem)
        unknown = [name for name in transaction if name not in self._known]
        for place, name in enumerate(unknown):
            near = self._nearest(name) if place < _HINTED else ""
            errors.append(
                FieldError(
                    showable(name),
                    "is not a known field" + (f"; did you mean {near}?" if near else ""),
                )
            )
        return errors

    def _nearest(self, name: object) -> str:
        if not isinstance(name, str) or len(name) > 64:
            return ""
        folded = {known.casefold(): known for known in sorted(self._known)}
        return folded[near[0]] if (near := difflib.get_close_matches(name.casefold(), folded, 1, 0.7)) else ""

    def unseen(self, transaction: Mapping[str, Any]) -> list[str]:
        """Names of the category features whose value the training data did not hold; the model takes it as missing."""
        found: list[str] = []
        for name, kind, codes in self._plan:
            if (
                kind == CATEGORY
                and not _is_missing(value := transaction.get(name))
                and category_text(value) not in codes
            ):
                found.append(name)
        return found

    def coerce_csv(self, texts: Sequence[str]) -> dict[str, Any]:
        """Give the cells of a CSV row their names and types.

        Parameters
        ----------
        texts : sequence of str
            Of shape (n_features,), in the schema's order; an empty cell is missing.

        Returns
        -------
        dict
            A transaction without the missing fields.

        Raises
        ------
        InvalidRequestError
            When the row has another length or a cell does not fit its type.
        """
        if len(texts) != len(self.features):
            raise InvalidRequestError(f"The row has {len(texts)} cells where the schema has {len(self.features)}.")
        transaction: dict[str, Any] = {}
        errors: list[FieldError] = []
        for feature, text in zip(self.features, texts, strict=True):
            if text == "":
                continue
            if feature.type == CATEGORY:
                transaction[feature.name] = text
            elif feature.type == BOOLEAN:
                if (truth := _TRUTHS.get(text.strip().lower())) is None:
                    errors.append(FieldError(feature.name, "must be true or false"))
                else:
                    transaction[feature.name] = truth
            elif not _NUMBER_TEXT.fullmatch(text.strip()) or abs(value := float(text)) == _INF:
                errors.append(FieldError(feature.name, "must be a finite number"))
            else:
                transaction[feature.name] = value
        if errors:
            detail = "; ".join(f"{item.field} {item.problem}" for item in errors[:5])
            raise InvalidRequestError(f"{detail}.", 400, [item._asdict() for item in errors])
        return transaction


def category_text(value: Any) -> str:
    """Text of a category value, the same at training and at serving.

    A whole number is written without a point, whatever its type: a column of whole numbers with gaps is read as
    floats at training and sent as integers by callers.

    Examples
    --------
    >>> category_text(150.0), category_text(150), category_text("150.0"), category_text(0.5), category_text(True)
    ('150', '150', '150.0', '0.5', 'true')
    """
    if isinstance(value, str):
        return value
    if hasattr(value, "item"):  # a NumPy scalar
        value = value.item()
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, int):
        return str(value)
    raise TypeError(f"a {type(value).__name__} is no category")


def showable(name: object) -> str:
    """A field name as it may be repeated to people: only if it reads like a name."""
    return name if isinstance(name, str) and _SHOWABLE.fullmatch(name) else "(a name that cannot be shown)"


def _is_missing(value: Any) -> bool:
    return value is None or value != value  # NaN, as tables hold it


def _number(value: Any) -> float:
    """A number that is no plain float; TypeError for text and truth values, which float() would take."""
    if hasattr(value, "item"):  # a NumPy scalar
        value = value.item()
    if isinstance(value, (bool, str, bytes)):
        raise TypeError
    return float(value)


def _boolean(value: Any) -> float:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, bool) or value != value:
        return float(value)
    raise TypeError


def _check(feature: Feature, value: Any) -> FieldError | None:
    """Say what is wrong with a value; None when `Schema.encode` takes it."""
    if _is_missing(value):
        return None
    problem = {NUMBER: "must be a number", CATEGORY: "must be text", BOOLEAN: "must be true or false"}[feature.type]
    try:
        if feature.type == NUMBER:
            problem += ", not text" if isinstance(value, str) else ""
            if math.isfinite(_number(value)):
                return None
            problem = "must be a finite number"
        elif feature.type == BOOLEAN:
            _boolean(value)
            return None
        elif not isinstance(value, bool):
            category_text(value)
            return None
    except OverflowError:
        problem = "must be a finite number"
    except (TypeError, ValueError):
        pass
    return FieldError(feature.name, problem)
