"""What DescribeEndpoint and ListEndpoints tell."""

from __future__ import annotations

from typing import Any

from fraud.localaws.fleet import Fleet

Document = dict[str, Any]


def summary(document: Document, arn: str) -> Document:
    """Return an entry of ListEndpoints."""
    names = ("EndpointName", "EndpointStatus", "CreationTime", "LastModifiedTime")
    return {**{name: document[name] for name in names}, "EndpointArn": arn}


def describe(document: Document, arn: str, blue: Fleet | None, green: Fleet | None) -> Document:
    """Return the answer of DescribeEndpoint.

    Parameters
    ----------
    document : dict
        What is kept of the endpoint.
    arn : str
        Its ARN.
    blue, green : Fleet or None
        In service, and in the making.
    """
    spec, pending = document["Spec"], document.get("Pending")
    answer = {
        **summary(document, arn),
        "EndpointConfigName": document["EndpointConfigName"],
        "FailureReason": document.get("FailureReason"),
        "LastDeploymentConfig": document.get("LastDeploymentConfig"),
    }
    if document["EndpointStatus"] not in ("Creating", "Failed"):
        answer["ProductionVariants"] = [_variant(item, blue, 1.0) for item in spec["Variants"]]
        if spec["Shadows"]:
            answer["ShadowProductionVariants"] = [_variant(item, blue, 1.0) for item in spec["Shadows"]]
    if capture := spec.get("Capture"):
        enabled = capture.get("EnableCapture", True)
        answer["DataCaptureConfig"] = {
            "EnableCapture": enabled,
            "CaptureStatus": "Started" if enabled else "Stopped",
            "CurrentSamplingPercentage": capture["InitialSamplingPercentage"],
            "DestinationS3Uri": capture["DestinationS3Uri"],
            "KmsKeyId": capture.get("KmsKeyId", ""),
        }
    if pending:
        stage = pending.get("Stage") or {}
        share = stage.get("Share", 0.0)
        status = [{name: stage[name] for name in ("Status", "StatusMessage", "StartTime")}] if stage else []
        answer["PendingDeploymentSummary"] = {
            "EndpointConfigName": pending["Spec"]["EndpointConfigName"],
            "StartTime": pending["StartTime"],
            "ProductionVariants": [
                {**_variant(item, green, share), "InstanceType": item["InstanceType"], "VariantStatus": status}
                for item in pending["Spec"]["Variants"]
            ],
        }
        for variant in answer.get("ProductionVariants", []):
            variant["CurrentWeight"] = round(variant["CurrentWeight"] * (1.0 - share), 6)
    return answer


def _variant(item: Document, fleet: Fleet | None, share: float) -> Document:
    running = {variant.name: variant for variant in fleet.all} if fleet else {}
    instances = len(running[item["VariantName"]].healthy) if item["VariantName"] in running else 0
    image = item["Container"]["Image"]
    return {
        "VariantName": item["VariantName"],
        "DeployedImages": [{"SpecifiedImage": image, "ResolvedImage": image}],
        "CurrentWeight": round(item["Weight"] * share, 6),
        "DesiredWeight": item["Weight"],
        "CurrentInstanceCount": instances,
        "DesiredInstanceCount": item["InstanceCount"],
    }
