"""What may be asked of the endpoint itself, and how all else is refused: 4xx, with a reason, never a 500.

The SKLearn container makes a 500 of whatever ``input_fn``, ``predict_fn`` and ``output_fn`` raise, and a 200 of a
tuple. What else ``output_fn`` returns it hands to Flask as the view's answer, and Flask takes any WSGI application: the
one way to a status that needs nothing of the container's own. A 500 would count as a fault of the model, and one is
enough to roll a deployment back.
"""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from fraud import api
from fraud.errors import InvalidRequestError
from fraud.schema import FieldError, Schema, showable
from fraud.strictjson import parse_json

JSON, CSV = "application/json", "text/csv"
MAX_BYTES = 32 << 20  # more than SageMaker lets through
_BESIDE = {"transactions", "inference_ids", "reasons", "source"}
_CHARSETS = {"", "utf-8", "utf8", "us-ascii", "ascii"}


class Request(NamedTuple):
    """What was asked: transactions of a JSON body, or cells of a CSV body."""

    transactions: list[dict[str, Any]]
    cells: list[list[str]]
    reasons: bool = False


class Refusal:
    """The answer to a request that cannot be used: problem+json, as a WSGI application.

    Parameters
    ----------
    error : InvalidRequestError
        Status, reason and the fields at fault.
    """

    def __init__(self, error: InvalidRequestError) -> None:
        self.status = error.status
        self.document = api.problem(error.status, error.detail, error.errors)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer."""
        body = json.dumps(self.document).encode()
        headers = [("Content-Type", "application/problem+json"), ("Content-Length", str(len(body)))]
        start_response(f"{self.status} {self.document['title']}", headers)
        return [body]


def read(body: str | bytes, content_type: str) -> Request:
    """Read a body.

    Parameters
    ----------
    body : str or bytes
        The container decodes bodies whose content type has no parameters, and puts U+FFFD for what is no UTF-8.
    content_type : str
        ``application/json`` or ``text/csv``, in UTF-8.

    Returns
    -------
    Request

    Raises
    ------
    InvalidRequestError
        Status 415 for another type; 400 for a body that cannot be used, with the members at fault.
    """
    kind = _kind(content_type)
    if isinstance(body, str) and "\ufffd" in body:  # unlike others a caller can do without it, or escape it in JSON
        raise InvalidRequestError("The body is not UTF-8 text, or holds U+FFFD, which stands for what is not.")
    if kind == CSV:
        return Request([], _read_csv(body))
    found = parse_json(body, MAX_BYTES)
    transactions = found.get("transactions") if isinstance(found, dict) else None
    if not isinstance(transactions, list) or not transactions:
        raise InvalidRequestError('The body must be {"transactions": [{…}, …]} with at least one transaction.')
    errors = [FieldError(showable(name), "is not known beside transactions") for name in found.keys() - _BESIDE]
    if not isinstance(reasons := found.get("reasons", False), bool):
        errors.append(FieldError("reasons", "must be true or false"))
    if not isinstance(found.get("source", ""), str):
        errors.append(FieldError("source", "must be text"))
    if problem := _problem_of_ids(found.get("inference_ids"), len(transactions)):
        errors.append(FieldError("inference_ids", problem))
    api.raise_if(errors)
    return Request(transactions, [], reasons)


def transactions_of(request: Request, schema: Schema) -> list[dict[str, Any]]:
    """Check a request against the model's schema, as the API does.

    Parameters
    ----------
    request : Request
    schema : Schema

    Returns
    -------
    list of dict
        One transaction for each row.

    Raises
    ------
    InvalidRequestError
        Status 400, with every field at fault, up to twenty.
    """
    if not request.cells:
        api.raise_if(_problems("transactions", request.transactions, schema))
        return request.transactions
    known = {name.casefold() for name in schema.names}
    if all(cell.strip().casefold() in known for cell in request.cells[0]):
        raise InvalidRequestError("The first row holds names of fields: send rows alone, in the order of the schema.")
    errors: list[FieldError] = []
    transactions: list[dict[str, Any]] = []
    for k, cells in enumerate(request.cells):
        if len(errors) >= api.MAX_ERRORS:
            break
        if len(cells) != len(schema.features):
            errors.append(FieldError(f"rows[{k}]", f"has {len(cells)} cells where the schema has {len(known)}"))
            continue
        try:
            transactions.append(schema.coerce_csv(cells))
        except InvalidRequestError as error:
            errors += [FieldError(f"rows[{k}].{item['field']}", item["problem"]) for item in error.errors]
    api.raise_if(errors)
    api.raise_if(_problems("rows", transactions, schema))
    return transactions


def answer_type(accept: str, own: str, others: Sequence[str]) -> str:
    """Choose how an answer is written (RFC 9110, section 12.5.1).

    Parameters
    ----------
    accept : str
        The container puts ``application/json`` where the caller sent none, or ``*/*``.
    own : str
        What goes with the request.
    others : sequence of str
        What else can be written.

    Returns
    -------
    str
        Of those that the caller wants most, the first.

    Raises
    ------
    InvalidRequestError
        Status 406 when he wants none of them.

    Examples
    --------
    >>> answer_type("application/json", "text/csv", ["application/json"])
    'text/csv'
    >>> answer_type("text/html, application/*;q=0.5, */*;q=0.1", "text/csv", ["application/json"])
    'application/json'
    """
    if accept.strip().lower() in ("", JSON) and JSON in (own, *others):
        return own
    wanted = [(kind, _quality(parameters.get("q", ""))) for kind, parameters in map(_header, accept.split(","))]
    best, most = "", 0.0
    for offer in (own, *others):
        ranges = (offer, f"{offer.partition('/')[0]}/*", "*/*")  # the narrowest that is named decides
        quality = next((q for name in ranges for kind, q in wanted if kind == name), 0.0)
        if quality > most:
            best, most = offer, quality
    if not best:
        raise InvalidRequestError(f"The answer can only be {' or '.join((own, *others))}.", 406)
    return best


@functools.lru_cache(64)
def _kind(content_type: str) -> str:
    kind, parameters = _header(content_type)
    if kind not in (JSON, CSV):
        raise InvalidRequestError(f"The content type must be {JSON} or {CSV}.", 415)
    if parameters.get("charset", "") not in _CHARSETS:
        raise InvalidRequestError("The charset must be utf-8.", 415)
    if kind == CSV and parameters.get("header") == "present":
        raise InvalidRequestError("Rows of text/csv come in the order of the schema, without a header.", 415)
    return kind


def _header(text: str) -> tuple[str, dict[str, str]]:
    """A media type and its parameters, all in small letters."""
    kind, *rest = [part.strip().lower() for part in text.split(";")]
    pairs = [part.partition("=") for part in rest]
    return kind, {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


def _quality(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1.0)
    except ValueError:
        return 1.0


def _read_csv(body: str | bytes) -> list[list[str]]:
    try:
        text = body if isinstance(body, str) else body.decode()
    except UnicodeError:
        raise InvalidRequestError("The body is no valid CSV: it is not UTF-8 text.") from None
    if text.startswith("\ufeff"):  # it would be part of the first cell
        raise InvalidRequestError("The body begins with a byte order mark; send it without.")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        cells = [row for row in reader if row]
    except csv.Error:
        raise InvalidRequestError(f"The body is no valid CSV: the error is in line {reader.line_num}.") from None
    if not cells:
        raise InvalidRequestError("The body has no row.")
    return cells


def _problem_of_ids(ids: Any, rows: int) -> str:
    if ids is None or ids == []:
        return ""
    if not isinstance(ids, list) or len(ids) != rows or not all(own is None or isinstance(own, str) for own in ids):
        return "must be a list with one id for each transaction"
    named = [own for own in ids if own]
    return "" if len(set(named)) == len(named) else "names one id twice"


def _problems(where: str, transactions: Iterable[object], schema: Schema) -> list[FieldError]:
    errors: list[FieldError] = []
    for k, transaction in enumerate(transactions):
        if problems := schema.validate(transaction):
            errors += [FieldError(f"{where}[{k}].{name}".strip("."), problem) for name, problem in problems]
            if len(errors) >= api.MAX_ERRORS:
                break
    return errors
