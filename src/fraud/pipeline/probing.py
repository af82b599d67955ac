"""Ask the endpoint as a caller would: probes through an update, golden rows after it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import orjson
from botocore.exceptions import BotoCoreError, ClientError

from fraud.errors import DeploymentError
from fraud.pipeline.strategies import CHALLENGER, CONTENT
from fraud.pipeline.where import client_once


@dataclass
class Probes:
    """Requests sent through a whole update, one after another, from a thread of their own.

    Attributes
    ----------
    taken : list of dict
        ``at`` (seconds since the start), ``ms``, ``ok``, ``model_version``, ``error``.
    """

    endpoint_name: str
    transactions: Sequence[dict[str, Any]]
    interval: float
    taken: list[dict[str, Any]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Probes:
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(timeout=70)

    def _send(self) -> None:
        began = time.monotonic()
        number = 0
        while not self._stop.is_set():
            sent = time.monotonic()
            version, problem = "", ""
            try:
                answer = invoke(self.endpoint_name, [self.transactions[number % len(self.transactions)]])
                version = answer["model_version"]
            except (ClientError, BotoCoreError, KeyError, ValueError) as error:
                problem = type(error).__name__
            done = time.monotonic()
            self.taken.append(
                {
                    "at": sent - began,
                    "ms": 1000 * (done - sent),
                    "ok": not problem,
                    "model_version": version,
                    "error": problem,
                }
            )
            number += 1
            self._stop.wait(max(0.0, self.interval - (done - sent)))


def invoke(endpoint_name: str, transactions: Sequence[dict[str, Any]], variant: str = "") -> dict[str, Any]:
    """Score transactions at the endpoint itself, or at one of its variants; the capture marks them as a test."""
    answer = client_once("sagemaker-runtime").invoke_endpoint(
        EndpointName=endpoint_name,
        ContentType=CONTENT,
        Accept=CONTENT,
        Body=orjson.dumps({"transactions": list(transactions), "inference_ids": [], "source": "test"}),
        **({"TargetVariant": variant} if variant else {}),
    )
    return dict(orjson.loads(answer["Body"].read()))


def serve_golden(p: SimpleNamespace, model: dict[str, Any]) -> dict[str, Any]:
    """Have the golden rows scored by the new model at the endpoint.

    Parameters
    ----------
    p : SimpleNamespace
        Parameters of 03_deploy.
    model : dict
        As `fraud.pipeline.deployment.verify_model` returned it.

    Returns
    -------
    dict
        ``scores``, and ``sha256`` of the model file that the endpoint says it loaded. Of a shadow, whose answers
        nobody can hear, no scores and no hash.
    """
    if p.strategy == "shadow":
        return {"scores": [], "sha256": ""}
    variant = CHALLENGER if p.strategy == "ab_test" else ""
    return served_scores(p.endpoint_name, model["golden"]["transactions"], variant)


def served_scores(endpoint_name: str, transactions: Sequence[dict[str, Any]], variant: str = "") -> dict[str, Any]:
    """``scores`` that the endpoint gives, and the ``sha256`` of the model file it says it loaded."""
    answer = invoke(endpoint_name, transactions, variant)
    return {"scores": [item["fraud_probability"] for item in answer["predictions"]], "sha256": answer["sha256"]}


def check_served(model: dict[str, Any], served: dict[str, Any]) -> str:
    """Compare what the endpoint serves with what was trained.

    Parameters
    ----------
    model : dict
        ``model_sha256`` and ``offline`` scores of the golden rows.
    served : dict
        As `serve_golden` returned it.

    Returns
    -------
    str
        One sentence.

    Raises
    ------
    DeploymentError
        When the endpoint loaded another file, or one score differs in one bit.
    """
    if not served["sha256"]:
        return "Nobody hears a shadow: its golden rows were compared before it was deployed, not at the endpoint."
    if served["sha256"] != model["model_sha256"]:
        raise DeploymentError(
            f"The endpoint loaded the model {served['sha256'][:12]}…, but {model['model_sha256'][:12]}… was released."
        )
    differ = sum(here != there for here, there in zip(served["scores"], model["offline"], strict=True))
    if differ:
        raise DeploymentError(f"{differ} of {len(model['offline'])} golden rows score differently served than trained.")
    return f"All {len(model['offline'])} golden rows score the same at the endpoint as at training, to the last bit."


def latency(probes: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Median and 99th percentile of the answered probes (ms)."""
    taken = sorted(probe["ms"] for probe in probes if probe["ok"])
    if not taken:
        return {"p50_ms": None, "p99_ms": None}
    return {"p50_ms": round(taken[len(taken) // 2], 2), "p99_ms": round(taken[int(0.99 * (len(taken) - 1))], 2)}
