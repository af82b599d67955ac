"""How a model comes into service: what the endpoint is made of, how traffic moves, which alarms send it back.

==============  =======================================================================================
all_at_once     a second fleet takes all traffic at once; the alarms watch it
canary, linear  it takes a share first, or share after share; the alarms watch each
shadow          the champion answers, the challenger is asked the same and nobody hears its answer
ab_test         both answer, each its share of the callers; nobody is promoted yet
==============  =======================================================================================

SageMaker moves traffic in steps only between fleets of equally named variants, and never where there is a shadow. So an
endpoint under a test goes back to the champion alone before anything else is deployed.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from fraud.capture import SHADOW
from fraud.errors import ParameterError, PlatformError
from fraud.pipeline.resources import named
from fraud.pipeline.where import client, where

CONTENT = "application/json"
VARIANT, CHALLENGER = "AllTraffic", "Challenger"
TESTS = ("shadow", "ab_test")
"""Strategies that leave the champion in service."""


def check(p: SimpleNamespace, champion: dict[str, Any] | None, run_id: str) -> None:
    """Refuse before anything is made what SageMaker would refuse, or what makes no sense.

    Parameters
    ----------
    p : SimpleNamespace
        Parameters of 03_deploy.
    champion : dict or None
        The release in service.
    run_id : str
        The run whose model is deployed.

    Raises
    ------
    ParameterError
    """
    if p.strategy in ("canary", "linear") and p.instance_count < 2:
        raise ParameterError(
            f"strategy is {p.strategy!r}, but instance_count is {p.instance_count}: shifting traffic in steps "
            "needs at least 2 instances."
        )
    if p.strategy == "linear" and p.canary_percent < 10:
        raise ParameterError(f"strategy is 'linear', but canary_percent is {p.canary_percent}: a step is 10 or more.")
    if p.strategy in TESTS and (champion is None or champion["run_id"] == run_id):
        there = "nothing" if champion is None else "this very model"
        raise ParameterError(
            f"strategy is {p.strategy!r}, but {there} is in service at {p.endpoint_name}: a test needs a champion "
            "and a challenger."
        )
    if p.strategy == "ab_test" and p.traffic_percent > 90:
        raise ParameterError(
            f"strategy is 'ab_test', but traffic_percent is {p.traffic_percent}: more than 90 leaves nothing to "
            "compare with."
        )
    if p.sticky_column and p.strategy != "ab_test":
        raise ParameterError(f"sticky_column is {p.sticky_column!r}, but strategy is {p.strategy!r}, not 'ab_test'.")


def deployment_config(p: SimpleNamespace, alarms: Sequence[str]) -> dict[str, Any]:
    """``DeploymentConfig`` of an update that promotes.

    Parameters
    ----------
    p : SimpleNamespace
        ``strategy``, ``canary_percent``, ``wait_seconds``, ``termination_wait_seconds``.
    alarms : sequence of str
        CloudWatch alarms that roll the update back.

    Returns
    -------
    dict
    """
    routing: dict[str, Any] = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": p.wait_seconds}
    if p.strategy in ("canary", "linear"):
        size = {"Type": "CAPACITY_PERCENT", "Value": p.canary_percent}
        name = "CanarySize" if p.strategy == "canary" else "LinearStepSize"
        routing = {"Type": p.strategy.upper(), name: size, "WaitIntervalInSeconds": p.wait_seconds}
    steps = 100 // p.canary_percent + 1
    return {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": routing,
            "TerminationWaitInSeconds": p.termination_wait_seconds,
            "MaximumExecutionTimeoutInSeconds": min(
                28_800, max(600, 2 * (steps * p.wait_seconds + p.termination_wait_seconds))
            ),
        },
        "AutoRollbackConfiguration": {"Alarms": [{"AlarmName": name} for name in alarms]},
    }


def alarm_names(endpoint_name: str) -> list[str]:
    """Alarms that guard an endpoint; ``infra/app.yml`` makes them.

    Raises
    ------
    PlatformError
        When one is missing: without it a rollback would never happen.
    """
    names = [f"fraud-{endpoint_name}-{what}" for what in ("5xx", "latency", "review-rate")]
    found = {item["AlarmName"] for item in client("cloudwatch").describe_alarms(AlarmNames=names)["MetricAlarms"]}
    if missing := [name for name in names if name not in found]:
        raise PlatformError(
            f"The alarm {', '.join(missing)} does not exist, so a bad model would not be rolled back: "
            f"deploy infra/app.yml with EndpointName={endpoint_name}."
        )
    return names


def endpoint_config(p: SimpleNamespace, bucket: str, run_id: str, model: str, champion: str) -> dict[str, Any]:
    """Request of CreateEndpointConfig.

    Parameters
    ----------
    p : SimpleNamespace
        Parameters of 03_deploy.
    bucket : str
        Where traffic is captured: input and output, as JSON and CSV.
    run_id : str
        Whose model is deployed; stands in the name.
    model, champion : str
        SageMaker's names of its model and of the champion's; without a test the champion is not needed.

    Returns
    -------
    dict
        Promoting by canary, linear or all at once ends in the same configuration.
    """

    def variant(name: str, model: str, weight: float) -> dict[str, Any]:
        return {
            "VariantName": name,
            "ModelName": model,
            "InitialInstanceCount": p.instance_count,
            "InstanceType": p.instance_type,
            "InitialVariantWeight": weight,
        }

    content: dict[str, Any] = {
        "ProductionVariants": [variant(VARIANT, model, 1.0)],
        "DataCaptureConfig": {
            "EnableCapture": True,
            "InitialSamplingPercentage": p.capture_percentage,
            "DestinationS3Uri": f"s3://{bucket}/data-capture",
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"], "JsonContentTypes": [CONTENT]},
        },
    }
    share = float(p.traffic_percent)
    if p.strategy == "ab_test":
        both = [variant(VARIANT, champion, 100.0 - share), variant(CHALLENGER, model, share)]
        content["ProductionVariants"] = both
    elif p.strategy == "shadow":  # its share of the traffic is its weight over the champion's
        content["ProductionVariants"] = [variant(VARIANT, champion, 100.0)]
        content["ShadowProductionVariants"] = [variant(SHADOW, model, share)]
    if key := where().kms_key_arn:
        content["KmsKeyId"] = key
        content["DataCaptureConfig"]["KmsKeyId"] = key
    suffix = {"shadow": "-shadow", "ab_test": "-ab"}.get(p.strategy, "")
    return {"EndpointConfigName": named(f"fraud-{run_id}{suffix}", content)} | content


def under_test(endpoint: dict[str, Any]) -> bool:
    """Whether an endpoint is more than one variant."""
    return len(endpoint.get("ProductionVariants", [])) > 1 or bool(endpoint.get("ShadowProductionVariants"))
