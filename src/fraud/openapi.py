"""The OpenAPI 3.1 document of the inference API, made from what the API checks by and from the schema in service.

Nothing in here is on the way of a request for a score: the Lambda imports this file when the document is asked for.
"""

from __future__ import annotations

from typing import Any

from fraud import __version__, api
from fraud.schema import BOOLEAN, CATEGORY, NUMBER, Schema

Json = dict[str, Any]

_WHY = {
    400: "The request cannot be used; every field at fault is named, up to twenty.",
    403: "The gateway knows no such path or method, or the request is not signed. Not an answer of the API itself.",
    413: f"The body is longer than {api.MAX_BYTES:,} bytes.",
    429: "Too many requests, at the gateway or at the model.",
    500: "A defect of the API. It has been logged.",
    502: "The model failed, or gave an answer that is no probability.",
    503: "Not now: no model is deployed, it is starting, or storage does not answer.",
    504: "The model did not answer in time.",
}
_BY_GATEWAY = (403, 429)
_WAITS = (429, 503)
# What a value of each type may be in JSON. A category may be a number: it is compared by its text.
_TYPES = {NUMBER: ["number"], CATEGORY: ["string", "number"], BOOLEAN: ["boolean"]}
_ID = {"type": "string", "pattern": f"^{api.ID_PATTERN}$"}
_VERSION = {"type": "string", "description": "The model that gave the answer."}


def build_openapi(schema: Schema | None = None, model_version: str = "") -> Json:
    """Describe the API.

    Parameters
    ----------
    schema : Schema, optional
        Of the model in service; without it a transaction may have any fields.
    model_version : str, optional
        Of the model in service.

    Returns
    -------
    dict
        OpenAPI 3.1.
    """
    found = f"model {model_version}" if schema else "no model yet, so the fields of a transaction are left open"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Fraud Loop inference API",
            "version": __version__,
            "description": f"Scores transactions and takes ground truth. In service: {found}.",
        },
        "servers": [{"url": ".", "description": "where this document was found"}],
        "security": [{"sigv4": []}],
        "paths": {route: {method.lower(): _OPERATIONS[route]} for route, method in api.ROUTES.items()},
        "components": {
            "schemas": _schemas(schema),
            "securitySchemes": {
                "sigv4": {
                    "type": "apiKey",
                    "name": "Authorization",
                    "in": "header",
                    "description": "AWS Signature Version 4 for the service execute-api.",
                    "x-amazon-apigateway-authtype": "awsSigv4",
                }
            },
        },
    }


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: Json, optional: Json | None = None) -> Json:
    return {"type": "object", "properties": required | (optional or {}), "required": list(required)}


def _problem(status: int) -> Json:
    """An answer that is no good one."""
    kinds = [_ref("GatewayProblem")] if status in _BY_GATEWAY else []
    kinds += [_ref("Problem")] if status != 403 else []
    answer: Json = {
        "description": _WHY[status],
        "content": {"application/problem+json": {"schema": kinds[0] if len(kinds) == 1 else {"anyOf": kinds}}},
    }
    if status in _WAITS:
        seconds = {"type": "integer", "minimum": 1}
        answer["headers"] = {"Retry-After": {"schema": seconds, "description": "Seconds until it makes sense again."}}
    return answer


def _operation(name: str, summary: str, good: tuple[int, str, Json], bad: tuple[int, ...], takes: str = "") -> Json:
    status, says, shape = good
    responses = {str(status): {"description": says, "content": {"application/json": {"schema": shape}}}}
    responses |= {str(code): _problem(code) for code in sorted({*bad, *_BY_GATEWAY})}
    found: Json = {"operationId": name, "summary": summary, "responses": responses}
    if takes:
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": _ref(takes)}}}
    return found


_OPERATIONS = {
    "/predict": _operation(
        "predict",
        f"Score one transaction, or up to {api.MAX_TRANSACTIONS}",
        (200, "The scores.", {"anyOf": [_ref("Answer"), _ref("Answers")]}),
        (400, 413, 429, 500, 502, 503, 504),
        "Prediction",
    ),
    "/labels": _operation(
        "labels",
        f"Send up to {api.MAX_LABELS:,} labels; the same request again changes nothing",
        (202, "The labels are kept.", _ref("Stored")),
        (400, 413, 500, 503),
        "Labels",
    ),
    "/health": _operation(
        "health", "Say which model is in service", (200, "A model is in service.", _ref("Health")), (500, 503)
    ),
    "/openapi.json": _operation("openapi", "This document", (200, "OpenAPI 3.1.", {"type": "object"}), (500,)),
}


def _transaction(schema: Schema | None) -> tuple[Json, list[str], bool]:
    """Members of a transaction, those that it must have, and whether it may have others."""
    if schema is None:
        return {}, [], True
    fields: Json = {name: {} for name in sorted(schema.known)}  # known, but no feature: whatever it holds
    for feature in schema.features:
        types = _TYPES[feature.type]
        fields[feature.name] = {"type": types if feature.required else [*types, "null"]}
    return fields, [feature.name for feature in schema.features if feature.required], False


def _schemas(schema: Schema | None) -> Json:
    fields, needed, others = _transaction(schema)
    options = {
        "inference_id": _ref("GivenId"),
        "reasons": {"type": ["boolean", "null"], "description": "Whether to name what moved the score most."},
    }
    single = {name: option for name, option in options.items() if name not in fields}
    given = {"type": ["array", "null"], "items": _ref("GivenId"), "maxItems": api.MAX_TRANSACTIONS}
    given["description"] = "One for each transaction, none twice."
    transactions = {
        "type": "array",
        "minItems": 1,
        "maxItems": api.MAX_TRANSACTIONS,
        "items": _ref("Transaction"),
    }
    scored = {
        "fraud_probability": {"type": "number", "minimum": 0, "maximum": 1},
        "decision": {"enum": ["approve", "review"]},
        "inference_id": _ID | {"description": "Names this answer; labels refer to it."},
    }
    reasons = {"reasons": {"type": "array", "items": _ref("Reason"), "description": "If asked for."}}
    own = {"model_version": {"type": "string", "description": "In an A/B test, when two models answered a batch."}}
    label = {
        "inference_id": _ID,
        "label": {"type": "integer", "enum": [0, 1], "description": "1 is fraud, 0 legitimate; 1.0 is refused."},
    }
    when = {"type": ["string", "null"], "format": "date-time", "description": "When it became known; by default now."}
    about = {"type": {"const": "about:blank"}, "title": {"type": "string"}}
    fault = _object({"field": {"type": "string"}, "problem": {"type": "string"}})
    return {
        "Transaction": {"type": "object", "properties": fields, "required": needed, "additionalProperties": others},
        "Prediction": {"anyOf": [_ref("One"), _ref("Many")]},
        "One": {
            "type": "object",
            "description": "A transaction with what else is wanted of it.",
            "properties": fields | single,
            "required": needed,
            "additionalProperties": others,
        },
        "Many": _object({"transactions": transactions}, {"inference_ids": given, "reasons": options["reasons"]})
        | {"additionalProperties": False},
        "GivenId": _ID
        | {
            "type": ["string", "null"],
            "description": "Without it the transaction's own id is taken if it can serve, else one is made.",
        },
        "Answer": _object(scored | {"model_version": _VERSION}, reasons),
        "Answers": _object(
            {"predictions": {"type": "array", "items": _object(scored, reasons | own)}, "model_version": _VERSION}
        ),
        "Reason": _object(
            {
                "feature": {"enum": schema.names} if schema else {"type": "string"},
                "contribution": {"type": "number", "description": "To the score, in log odds."},
            }
        ),
        "Labels": _object(
            {
                "labels": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": api.MAX_LABELS,
                    "items": _object(label, {"time": when}) | {"additionalProperties": False},
                }
            }
        )
        | {"additionalProperties": False},
        "Stored": _object({"stored": {"type": "integer", "minimum": 1}, "key": {"type": "string"}}),
        "Health": _object({"status": {"const": "ok"}, "model_version": _VERSION}),
        "Problem": _object(
            about | {"status": {"enum": sorted(api.TITLES)}, "detail": {"type": "string"}},
            {"errors": {"type": "array", "minItems": 1, "maxItems": api.MAX_ERRORS, "items": fault}},
        ),
        "GatewayProblem": _object(about),
    }
