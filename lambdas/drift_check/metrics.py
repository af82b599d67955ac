"""The metrics that alarms and dashboards read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import aws

from fraud.verdict import VERDICTS

NAMESPACE = "Fraud/Drift"
LARGEST = 1e6


def values(
    verdict: Mapping[str, Any],
    *,
    captured: float | None = None,
    started: bool | None = None,
    took: float | None = None,
) -> dict[str, float]:
    """Metrics of a check by name; what nobody knows is left out.

    Parameters
    ----------
    verdict : mapping
        The verdict object.
    captured : float, optional
        Share of the calls that was captured.
    started : bool, optional
        Whether a retraining was started.
    took : float, optional
        Duration of the check (seconds).
    """
    rules = verdict.get("rules", ())
    told = {rule.get("rule"): rule["current"] for rule in rules if rule["score"] is not None}  # no share of nothing
    tops = [rule["score"] / rule["threshold"] for rule in rules if rule["score"] and rule["threshold"]]
    found: dict[str, float | None] = {_title(name): float(verdict["verdict"] == name) for name in VERDICTS}
    found |= {
        "Signal": float(bool(verdict.get("signal"))),
        "Records": verdict["n"],
        "Unreadable": verdict["unreadable"],
        "Repeated": verdict.get("repeated", 0),
        "Capped": verdict.get("capped", 0),
        "TopScore": min(max(tops), LARGEST) if tops else None,
        "ScorePsi": (verdict.get("score") or {}).get("psi"),
        "ReviewRate": (verdict.get("review_rate") or {}).get("current"),
        "CaptureRatio": captured,
        "TruthFraudRate": told.get("fraud_rate"),
        "TruthRecall": told.get("recall"),
        "RetrainingStarted": None if started is None else float(started),
        "Seconds": took,
    }
    return {name: float(value) for name, value in found.items() if value is not None}


def _title(name: str) -> str:
    return "".join(part.title() for part in name.split("_"))


def put(endpoint: str, found: Mapping[str, float]) -> None:
    """Write metrics of an endpoint."""
    named = [{"Name": "EndpointName", "Value": endpoint}]
    data = [{"MetricName": name, "Dimensions": named, "Value": value} for name, value in found.items()]
    aws.client("cloudwatch").put_metric_data(Namespace=NAMESPACE, MetricData=data)
