"""Captured lines of requests that were refused, should SageMaker capture such."""

from __future__ import annotations

import base64
import json
from typing import Any

from fraud.moment import iso

PROBLEM = {"type": "about:blank", "title": "Bad request", "status": 400, "detail": "1 field cannot be used."}


def line(
    sent: Any,
    time: float,
    kind: str = "application/problem+json",
    answer: Any = PROBLEM,
    event: str = "r1",
    **meta: Any,
) -> bytes:
    """One request and its refusal; ``sent`` is text as it came, or what was sent as one transaction."""
    text = sent if isinstance(sent, str) else json.dumps({"transactions": [sent], "inference_ids": []})
    said = json.dumps(answer)
    plain = kind == "application/json"  # SageMaker keeps other types in BASE64
    sides = {
        "endpointInput": {"observedContentType": "application/json", "mode": "INPUT", "data": text, "encoding": "JSON"},
        "endpointOutput": {
            "observedContentType": kind,
            "mode": "OUTPUT",
            "data": said if plain else base64.b64encode(said.encode()).decode(),
            "encoding": "JSON" if plain else "BASE64",
        },
    }
    about = {"eventId": event, "inferenceTime": iso(time)} | meta
    return json.dumps({"captureData": sides, "eventMetadata": about, "eventVersion": "0"}).encode() + b"\n"
