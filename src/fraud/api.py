"""The HTTP side of the inference API: events in, checked requests, answers and problems out. No AWS in here."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fraud.errors import EndpointError, InvalidRequestError, ModelRefusalError
from fraud.labels import TOLERANCE, GroundTruth, hour_folder, render_label_line
from fraud.moment import seconds
from fraud.schema import FieldError, Schema, category_text, showable
from fraud.strictjson import parse_json

MAX_BYTES = 1 << 20
MAX_TRANSACTIONS = 100
MAX_LABELS = 1000
MAX_ERRORS = 20
ROUTES = {"/predict": "POST", "/labels": "POST", "/health": "GET", "/openapi.json": "GET"}
ID_PATTERN = "[A-Za-z0-9._:-]{1,64}"

_ID = re.compile(ID_PATTERN, re.ASCII)
_ID_PROBLEM = "must be 1 to 64 letters, digits, dots, colons, hyphens and underscores"
TITLES = {
    400: "Bad request",
    404: "Not found",
    405: "Method not allowed",
    406: "Not acceptable",
    413: "Too large",
    415: "Unsupported media type",
    429: "Too many requests",
    500: "Internal error",
    502: "Bad gateway",
    503: "Service unavailable",
    504: "Gateway timeout",
}
_NOT_NOW = (503, 2, "The model is not available now.")
_NOT_DEPLOYED = (503, 30, "The model is not deployed.")
_TOO_MANY = (429, 1, "Too many requests; try again soon.")
_TOO_LATE = (504, None, "The model did not answer in time.")
_UPSTREAM: dict[str | int, tuple[int, int | None, str]] = {
    # What InvokeEndpoint answers, by code or else by HTTP status: status, seconds to wait, sentence.
    "ModelNotReadyException": (503, 5, "The model is starting."),
    "ServiceUnavailable": _NOT_NOW,
    "ServiceUnavailableException": _NOT_NOW,
    "ValidationError": _NOT_DEPLOYED,
    "ValidationException": _NOT_DEPLOYED,
    408: _TOO_LATE,
    429: _TOO_MANY,
    503: _NOT_NOW,
    504: _TOO_LATE,
}
_THROTTLED = re.compile(r"Throttl|TooManyRequests|(Limit|Quota|Throughput)Exceeded|SlowDown")


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.

    Attributes
    ----------
    route : str
        A key of ``ROUTES``.
    body : bytes
        As sent.
    """

    route: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Prediction:
    """A checked request for scores.

    Attributes
    ----------
    transactions : list of dict
        What is scored.
    inference_ids : list of str
        One for each: given, taken from the transaction's id, or made.
    reasons : bool
        Whether the features that moved each score most are wanted.
    single : bool
        Whether the body was one transaction, and so is the answer.
    """

    transactions: list[dict[str, Any]]
    inference_ids: list[str]
    reasons: bool
    single: bool

    def only(self, places: Sequence[int]) -> Prediction:
        """The request for some of the transactions."""
        ids = [self.inference_ids[k] for k in places]
        return Prediction([self.transactions[k] for k in places], ids, self.reasons, self.single)

    def to_json(self) -> bytes:
        """Body for the endpoint; what data capture stores."""
        document: dict[str, Any] = {"transactions": self.transactions, "inference_ids": self.inference_ids}
        if self.reasons:
            document["reasons"] = True
        return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()


def read_event(event: Mapping[str, Any]) -> Request:
    """Read an event of API Gateway: REST (version 1.0) or HTTP (2.0).

    Raises
    ------
    InvalidRequestError
        Status 404 or 405 for another path or method; 400 or 413 for the body.
    """
    event = _mapping(event)
    context = _mapping(event.get("requestContext"))
    method = str(_mapping(context.get("http")).get("method") or event.get("httpMethod") or "").upper()
    path = str(event.get("rawPath") or event.get("path") or "")
    if (stage := f"/{context.get('stage') or ''}") != "/" and path.startswith(f"{stage}/"):
        path = path[len(stage) :]
    path = path.rstrip("/")
    if path not in ROUTES:
        raise InvalidRequestError(f"There is no such path; use {', '.join(ROUTES)}.", 404)
    if method != ROUTES[path]:
        raise InvalidRequestError(f"{path} takes {ROUTES[path]} only.", 405)
    body = event.get("body") or ""
    if method == "GET":  # whatever is sent along
        return Request(path, b"")
    if isinstance(body, str) and len(body) > MAX_BYTES * 4 // 3 + 4:
        raise InvalidRequestError(f"The body is longer than {MAX_BYTES:,} bytes.", 413)
    try:
        raw = base64.b64decode(body, validate=True) if event.get("isBase64Encoded") else body.encode()
    except (binascii.Error, ValueError, TypeError, AttributeError):
        raise InvalidRequestError("The body is not the text it should be.") from None
    return Request(path, raw)


def read_prediction(body: bytes, schema: Schema) -> Prediction:
    """Check the body of ``POST /predict`` against the model's schema.

    Raises
    ------
    InvalidRequestError
        Names every field at fault, up to twenty.
    """
    found = parse_json(body, MAX_BYTES)
    if not isinstance(found, dict):
        raise InvalidRequestError("The body must be a JSON object: one transaction, or transactions.")
    single = not isinstance(found.get("transactions"), list)
    options = {name for name in ("inference_id", "inference_ids", "reasons") if name not in schema.known}
    errors: list[FieldError] = []
    given: Any
    if single:
        transactions: list[Any] = [{name: value for name, value in found.items() if name not in options}]
        given = [found.get("inference_id")] if "inference_id" in options else [None]
        if found.get("inference_ids") is not None and "inference_ids" in options:
            errors.append(FieldError("inference_ids", "belongs to transactions; use inference_id for one"))
    else:
        transactions, given = found["transactions"], found.get("inference_ids")
        for name in found.keys() - {"transactions", "inference_ids", "reasons"}:
            errors.append(FieldError(showable(name), "is not known beside transactions"))
        if not 1 <= len(transactions) <= MAX_TRANSACTIONS:
            raise InvalidRequestError(f"transactions must hold 1 to {MAX_TRANSACTIONS} of them.")
        if given is None:
            given = [None] * len(transactions)
        elif not isinstance(given, list) or len(given) != len(transactions):
            errors.append(FieldError("inference_ids", "must be a list with one id for each transaction"))
            given = [None] * len(transactions)
    reasons = found.get("reasons") if "reasons" in options else None
    if reasons is not None and not isinstance(reasons, bool):
        errors.append(FieldError("reasons", "must be true or false"))
    ids: dict[str, None] = {}
    for k, (transaction, own) in enumerate(zip(transactions, given, strict=True)):
        where = "" if single else f"transactions[{k}]"
        if len(errors) < MAX_ERRORS:
            problems = schema.validate(transaction)
            errors += [FieldError(f"{where}.{name}".strip("."), problem) for name, problem in problems]
        if own is not None and not (isinstance(own, str) and _ID.fullmatch(own)):
            errors.append(FieldError("inference_id" if single else f"inference_ids[{k}]", _ID_PROBLEM))
        elif own in ids:
            errors.append(FieldError(f"inference_ids[{k}]", "repeats an earlier one"))
        else:
            ids[_inference_id(own, transaction, schema, ids)] = None
    raise_if(errors)
    return Prediction(transactions, list(ids), bool(reasons), single)


def _inference_id(own: str | None, transaction: object, schema: Schema, taken: Mapping[str, None]) -> str:
    """The caller's id, else the transaction's own if it can serve, else a new one."""
    if own is not None:
        return own
    value = transaction.get(schema.roles["id"]) if isinstance(transaction, dict) else None
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        text = category_text(value)
        if _ID.fullmatch(text) and text not in taken:
            return text
    return str(uuid.uuid4())


def read_labels(body: bytes, now: float) -> list[GroundTruth]:
    """Check the body of ``POST /labels``.

    Parameters
    ----------
    body : bytes
        ``{"labels": [{"inference_id": …, "label": 0 or 1, "time": …}, …]}``; without a time it is ``now``.
    now : float
        Seconds since 1970, UTC.

    Raises
    ------
    InvalidRequestError
        Names every field at fault, up to twenty.
    """
    found = parse_json(body, MAX_BYTES)
    labels = found.get("labels") if isinstance(found, dict) and found.keys() == {"labels"} else None
    if not isinstance(labels, list) or not 1 <= len(labels) <= MAX_LABELS:
        raise InvalidRequestError(f'The body must be {{"labels": […]}} with 1 to {MAX_LABELS:,} of them.')
    errors: list[FieldError] = []
    truths: list[GroundTruth] = []
    for k, item in enumerate(labels):
        where = f"labels[{k}]"
        if not isinstance(item, dict):
            errors.append(FieldError(where, "must be a JSON object"))
            continue
        before = len(errors)
        for name in item.keys() - {"inference_id", "label", "time"}:
            errors.append(FieldError(f"{where}.{showable(name)}", "is not a known field"))
        own, label, time = item.get("inference_id"), item.get("label"), item.get("time")
        if not isinstance(own, str) or not _ID.fullmatch(own):
            errors.append(FieldError(f"{where}.inference_id", _ID_PROBLEM))
        if type(label) is not int or label not in (0, 1):
            errors.append(FieldError(f"{where}.label", "must be 0 or 1"))
        moment = now
        if time is not None:
            try:
                moment = seconds(time if isinstance(time, str) else "")
            except ValueError:
                errors.append(FieldError(f"{where}.time", "must be an ISO 8601 moment such as 2026-01-02T03:04:05Z"))
            if moment > now + TOLERANCE:
                errors.append(FieldError(f"{where}.time", "lies in the future"))
            elif moment < 0:  # the year 1 with a zone lies before what can be written
                errors.append(FieldError(f"{where}.time", "lies before 1970"))
        if len(errors) == before:
            truths.append(GroundTruth(str(own), int(label or 0), moment))
    raise_if(errors)
    return truths


def label_object(truths: Sequence[GroundTruth], body: bytes, now: float) -> tuple[str, bytes]:
    """Object that keeps some truths.

    Parameters
    ----------
    truths : sequence of GroundTruth
        Of the request; each keeps its own time.
    body : bytes
        The request.
    now : float
        When it came (seconds since 1970, UTC).

    Returns
    -------
    key : str
        Under the hour in which the request came, where readers look for what is new; the same for the same request,
        so that its repetition changes nothing. An hour later it says the same again, and is counted as repeated.
    content : bytes
        JSON lines of SageMaker's ground-truth schema.
    """
    name = uuid.uuid5(uuid.NAMESPACE_OID, body.decode())
    return f"{hour_folder(now)}{name}.jsonl", "".join(f"{render_label_line(truth)}\n" for truth in truths).encode()


def read_answer(body: bytes, rows: int, known: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """Check what the endpoint answered before a caller sees it.

    Parameters
    ----------
    body : bytes
        ``{"predictions": [{"fraud_probability": …}, …], "model_version": …}``.
    rows : int
        How many were asked for.
    known : sequence of str
        Feature names that reasons may hold.

    Returns
    -------
    predictions : list of dict
        ``fraud_probability`` and, if given, ``reasons``.
    model_version : str

    Raises
    ------
    EndpointError
        Status 502 when a score is no probability, or the form is another.
    """
    try:
        found = json.loads(body)
        predictions: list[dict[str, Any]] = []
        for item in found["predictions"]:
            score = item["fraud_probability"]
            if type(score) not in (float, int) or not 0 <= score <= 1:
                raise ValueError
            predictions.append({"fraud_probability": float(score)})
            if "reasons" in item:
                reasons = [{"feature": r["feature"], "contribution": float(r["contribution"])} for r in item["reasons"]]
                if not all(r["feature"] in known and math.isfinite(r["contribution"]) for r in reasons):
                    raise ValueError
                predictions[-1]["reasons"] = reasons
        version = found["model_version"]
        if len(predictions) != rows or not isinstance(version, str) or not version:
            raise ValueError
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise EndpointError("The model gave an answer that cannot be used.", 502) from None
    return predictions, version


def answer_prediction(
    asked: Prediction,
    predictions: Sequence[Mapping[str, Any]],
    versions: Sequence[str],
    thresholds: Mapping[str, float],
    released: str,
) -> dict[str, Any]:
    """Body of a good answer to ``POST /predict``.

    ``versions`` says which model gave each prediction, ``thresholds`` from which score it sends to review. When two
    models answered a batch, each prediction names its own, and the batch the ``released`` one.
    """
    several = len(set(versions)) > 1
    answers = [
        {
            "fraud_probability": item["fraud_probability"],
            "decision": "review" if item["fraud_probability"] >= thresholds[version] else "approve",
            "inference_id": inference_id,
        }
        | ({"reasons": item["reasons"]} if "reasons" in item else {})
        | ({"model_version": version} if several else {})
        for item, version, inference_id in zip(predictions, versions, asked.inference_ids, strict=True)
    ]
    whole: dict[str, Any] = answers[0] if asked.single else {"predictions": answers}
    return whole | {"model_version": released if several else versions[0]}


def upstream_error(code: str, original_status: int | None = None, http_status: int = 0) -> Exception:
    """What to raise for an error code of InvokeEndpoint; its message, which may hold log addresses, is not passed on.

    Parameters
    ----------
    code : str
        Error code.
    original_status : int, optional
        What the model's container answered, for a ``ModelError``.
    http_status : int, optional
        What the service answered; decides when the code says nothing, as that of a proxy's page does.
    """
    if code == "ModelError":  # SageMaker's own status says no more than the code; the container's does
        if original_status is not None and 400 <= original_status < 500 and original_status not in _UPSTREAM:
            return ModelRefusalError()
        http_status = original_status if original_status in (408, 429) else 0
    elif _THROTTLED.search(code):
        http_status = 429
    unknown = (502, None, "The model failed to answer.")
    status, wait, sentence = _UPSTREAM.get(code) or _UPSTREAM.get(http_status, unknown)
    return EndpointError(sentence, status, wait)


def respond(status: int, document: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Answer for API Gateway, REST and HTTP alike."""
    kind = "application/json" if status < 400 else "application/problem+json"
    return {
        "statusCode": status,
        "headers": {"content-type": kind, "cache-control": "no-store", **(headers or {})},
        "body": json.dumps(document, allow_nan=False),
        "isBase64Encoded": False,
    }


def respond_problem(error: Exception) -> dict[str, Any]:
    """RFC 9457 answer to any error; of those that are not ours nothing is told."""
    status, detail, errors, wait = 500, "Something went wrong here; it has been logged.", [], None
    if isinstance(error, InvalidRequestError):
        status, detail, errors = error.status, error.detail, error.errors
    elif isinstance(error, EndpointError):
        status, detail, wait = error.status, error.detail, error.retry_after
    return respond(status, problem(status, detail, errors), {"retry-after": str(wait)} if wait else {})


def problem(status: int, detail: str, errors: Sequence[Mapping[str, str]] = ()) -> dict[str, Any]:
    """Document of RFC 9457; ``errors`` names the fields at fault, without their values."""
    document = {"type": "about:blank", "title": TITLES.get(status, "Error"), "status": status, "detail": detail}
    return document | ({"errors": list(errors)} if errors else {})


def describe_error(error: Exception) -> str:
    """Type of an error, or of what caused it, for the log; of a defect also its place, never its text."""
    if isinstance(error, (InvalidRequestError, EndpointError)):
        return type(error.__cause__ or error).__name__
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else "nowhere"
    return f"{type(error).__name__} at {where}"


def _mapping(found: object) -> Mapping[str, Any]:
    """What an event should hold in this place; nothing, if it is anything else."""
    return found if isinstance(found, Mapping) else {}


def raise_if(errors: Sequence[FieldError]) -> None:
    """Refuse a request that has fields at fault; the first twenty are named.

    Raises
    ------
    InvalidRequestError
        Status 400.
    """
    if errors:
        more = f"; the first {MAX_ERRORS} are named" if len(errors) > MAX_ERRORS else ""
        what = "1 field" if len(errors) == 1 else f"{len(errors):,} fields"
        raise InvalidRequestError(
            f"{what} cannot be used{more}.", 400, [error._asdict() for error in errors[:MAX_ERRORS]]
        )
