"""From models and an endpoint config to what a fleet runs, and the rules that a deployment must keep."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable
from typing import Any

from fraud.localaws.wire import AwsError, Context

_IMAGE = re.compile(r"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(\.cn)?/sagemaker-scikit-learn(:[\w.-]+|@sha256:\w+)")
_RETAINABLE = ("DesiredInstanceCount", "DesiredWeight", "DataCaptureConfig")

Document = dict[str, Any]


def refuse(message: str) -> AwsError:
    """Return a ``ValidationException``."""
    return AwsError("ValidationException", message)


def arn(context: Context, kind: str, name: str) -> str:
    """Return the ARN of a model, endpoint config or endpoint; SageMaker writes names in lower case there."""
    return context.arn("sagemaker", f"{kind}/{name.lower()}")


def container(model: Document) -> Document:
    """Return the model's one container as ``Image``, ``ModelDataUrl``, ``Environment``.

    Raises
    ------
    AwsError
        The model has another number of containers, another image, or data in a form that is not served here.
    """
    containers = [model["PrimaryContainer"]] if model.get("PrimaryContainer") else model.get("Containers", [])
    if len(containers) != 1:
        raise refuse("The local AWS serves models of exactly one container.")
    given = containers[0]
    image = given.get("Image", "")
    if not _IMAGE.fullmatch(image):
        raise refuse(
            f"Image {image!r} is not served here: the local AWS has the serving stack of the sagemaker-scikit-learn "
            "images, <account>.dkr.ecr.<region>.amazonaws.com/sagemaker-scikit-learn:<tag>."
        )
    source = (given.get("ModelDataSource") or {}).get("S3DataSource")
    if source and (source["S3DataType"], source["CompressionType"]) != ("S3Object", "Gzip"):
        raise refuse("ModelDataSource is served here as S3DataType S3Object with CompressionType Gzip only.")
    url = source["S3Uri"] if source else given.get("ModelDataUrl")
    if not url:
        raise refuse("The local AWS needs ModelDataUrl or ModelDataSource.")
    return {"Image": image, "ModelDataUrl": url, "Environment": given.get("Environment", {})}


def specify(config: Document, models: dict[str, Document], overrides: Document | None = None) -> Document:
    """Return the specification of a fleet: all that is needed to run it, also when config or model are deleted.

    Parameters
    ----------
    config : dict
        The endpoint config.
    models : dict of str to dict
        The models it names.
    overrides : dict, optional
        ``Variants`` (``{name: {"Weight", "InstanceCount"}}``) and ``Capture`` that win over the config's.
    """
    overrides = overrides or {}

    def variant(given: Document) -> Document:
        kept = overrides.get("Variants", {}).get(given["VariantName"], {})
        model = container(models[given["ModelName"]])
        return {
            "VariantName": given["VariantName"],
            "InstanceType": given["InstanceType"],
            "Weight": kept.get("Weight", given.get("InitialVariantWeight", 1.0)),
            "InstanceCount": kept.get("InstanceCount", given["InitialInstanceCount"]),
            "Container": model,
            "StartupSeconds": given.get("ContainerStartupHealthCheckTimeoutInSeconds"),
        }

    return {
        "Fleet": f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(3)}",
        "EndpointConfigName": config["EndpointConfigName"],
        "Variants": [variant(given) for given in config["ProductionVariants"]],
        "Shadows": [variant(given) for given in config.get("ShadowProductionVariants", [])],
        "Capture": overrides.get("Capture", config.get("DataCaptureConfig")),
    }


def retained(spec: Document, params: Document) -> Document:
    """Return the overrides that ``RetainAllVariantProperties`` keeps from the running `spec`."""
    if not params.get("RetainAllVariantProperties"):
        return {}
    excluded = {item["VariantPropertyType"] for item in params.get("ExcludeRetainedVariantProperties", [])}
    kept = [name for name in _RETAINABLE if name not in excluded]
    overrides: Document = {"Variants": {variant["VariantName"]: {} for variant in spec["Variants"]}}
    for variant in spec["Variants"]:
        if "DesiredInstanceCount" in kept:
            overrides["Variants"][variant["VariantName"]]["InstanceCount"] = variant["InstanceCount"]
        if "DesiredWeight" in kept:
            overrides["Variants"][variant["VariantName"]]["Weight"] = variant["Weight"]
    if "DataCaptureConfig" in kept:
        overrides["Capture"] = spec.get("Capture")
    return overrides


def check_config(params: Document) -> None:
    """Refuse an endpoint config that SageMaker refuses (or that cannot run here)."""
    production, shadows = params["ProductionVariants"], params.get("ShadowProductionVariants", [])
    names = [variant["VariantName"] for variant in [*production, *shadows]]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise refuse(f"Duplicate production variant names are not allowed: {', '.join(twice)}.")
    if shadows and (len(shadows) > 1 or len(production) > 1):
        raise refuse("A shadow variant needs exactly one production variant, and there can be only one shadow variant.")
    for variant in [*production, *shadows]:
        name = variant["VariantName"]
        if variant.get("ServerlessConfig"):
            raise refuse(f"Variant {name}: serverless inference is not in the local AWS; give InstanceType and count.")
        if not variant.get("ModelName"):
            raise refuse(f"Variant {name}: ModelName is required.")
        if not variant.get("InstanceType") or not variant.get("InitialInstanceCount"):
            raise refuse(
                f"Variant {name}: InstanceType and InitialInstanceCount are required for a real-time endpoint."
            )
    if not any(variant.get("InitialVariantWeight", 1.0) for variant in production):
        raise refuse("At least one production variant must have an InitialVariantWeight greater than 0.")
    if params.get("AsyncInferenceConfig"):
        raise refuse("Asynchronous inference is not in the local AWS.")
    if capture := params.get("DataCaptureConfig"):
        _check_capture(capture)


def _check_capture(capture: Document) -> None:
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?", capture["DestinationS3Uri"]):
        raise refuse(f"Invalid DestinationS3Uri {capture['DestinationS3Uri']!r}: it must be s3://bucket/prefix.")
    modes = [option["CaptureMode"] for option in capture["CaptureOptions"]]
    if len(set(modes)) < len(modes):
        raise refuse("CaptureOptions must not contain the same CaptureMode twice.")
    kinds = capture.get("CaptureContentTypeHeader") or {}
    if both := sorted(set(kinds.get("CsvContentTypes", [])) & set(kinds.get("JsonContentTypes", []))):
        raise refuse(f"Content types must not be both CSV and JSON: {', '.join(both)}.")


def alarm_names(deployment: Document | None) -> list[str]:
    """Return the alarms of a deployment config."""
    alarms = ((deployment or {}).get("AutoRollbackConfiguration") or {}).get("Alarms", [])
    return [alarm["AlarmName"] for alarm in alarms if alarm.get("AlarmName")]


def check_deployment(deployment: Document, new: Document, old: Document | None) -> None:
    """Refuse a ``DeploymentConfig`` that does not fit its fleets.

    Parameters
    ----------
    deployment : dict
        What the request says.
    new, old : dict
        Specifications of the new fleet and of the one in service (None when the endpoint is created).
    """
    blue_green, rolling = deployment.get("BlueGreenUpdatePolicy"), deployment.get("RollingUpdatePolicy")
    if blue_green and rolling:
        raise refuse("Specify either BlueGreenUpdatePolicy or RollingUpdatePolicy, not both.")
    if new["Shadows"] or (old or {}).get("Shadows"):
        raise refuse("DeploymentConfig is not supported for endpoints with shadow variants.")
    if old is not None:
        before, after = (sorted(variant["VariantName"] for variant in spec["Variants"]) for spec in (old, new))
        if before != after:
            raise refuse(
                "The production variant names of the new endpoint configuration must be the same as those of the "
                f"endpoint for an update with DeploymentConfig: {', '.join(before)} became {', '.join(after)}."
            )
    counts = {variant["VariantName"]: variant["InstanceCount"] for variant in new["Variants"]}
    if blue_green:
        _check_routing(blue_green["TrafficRoutingConfiguration"], counts)
    if rolling:
        _check_size("MaximumBatchSize", rolling["MaximumBatchSize"], counts.items(), least=5)


def _check_routing(routing: Document, counts: dict[str, int]) -> None:
    kind = routing["Type"]
    wanted = {"CANARY": "CanarySize", "LINEAR": "LinearStepSize"}.get(kind)
    for name in ("CanarySize", "LinearStepSize"):
        if name == wanted and name not in routing:
            raise refuse(f"{name} is required when the traffic routing type is {kind}.")
        if name != wanted and name in routing:
            raise refuse(f"{name} must not be specified when the traffic routing type is {kind}.")
    if wanted:
        _check_size(wanted, routing[wanted], counts.items(), least=10 if kind == "LINEAR" else 1)


def _check_size(name: str, size: Document, counts: Iterable[tuple[str, int]], least: int) -> None:
    for variant, count in counts:
        if count < 2:
            raise refuse(
                f"{name} cannot be used with variant {variant}: it has {count} instance, and shifting traffic in steps "
                "needs at least 2."
            )
        value = size["Value"]
        if size["Type"] == "CAPACITY_PERCENT":
            fits, limit = least <= value <= 50, f"between {least} and 50 percent of the capacity"
        else:
            fits, limit = value <= count * 0.5, f"at most half of {count} instances"
        if not fits:
            raise refuse(f"{name} {value} is invalid for variant {variant}: it must be {limit}.")
