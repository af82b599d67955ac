"""The Model Registry: one package for each run that passed the gate, and who let it be deployed."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from fraud.errors import ApprovalError, ParameterError
from fraud.pipeline import parameters
from fraud.pipeline.runs import Run, dumps
from fraud.pipeline.where import client, where

APPROVED, REJECTED, PENDING = "Approved", "Rejected", "PendingManualApproval"
CONTENT_TYPES = ["application/json", "text/csv"]


def group_of(endpoint_name: str) -> str:
    """Name of the group of an endpoint's models."""
    return f"fraud-{endpoint_name}"


def register(run: Run, p: SimpleNamespace, trained: dict[str, Any], job: dict[str, Any], gate: str) -> dict[str, str]:
    """Register the model of a run; the same run again finds its own package.

    Parameters
    ----------
    run : Run
    p : SimpleNamespace
        ``endpoint_name``, ``approval`` (``auto`` or ``manual``), ``instance_type``.
    trained : dict
        As `fraud.pipeline.training.read_model` gives it.
    job : dict
        As DescribeTrainingJob gives it.
    gate : str
        What the quality gate said.

    Returns
    -------
    dict
        ``model_package_arn`` and ``approval``, its status now.
    """
    sagemaker, metrics = client("sagemaker"), trained["metrics"]
    group = group_of(p.endpoint_name)
    try:
        sagemaker.describe_model_package_group(ModelPackageGroupName=group)
    except ClientError as error:
        if "does not exist" not in str(error):
            raise
        _create_group(group, p.endpoint_name)
    for name in ("metrics", "baseline"):
        run.storage.put_once(run.key(f"{name}.json"), dumps(trained[name]).encode())
    request: dict[str, Any] = {
        "ModelPackageGroupName": group,
        "ModelPackageDescription": f"{run.run_id}: AUC ROC {metrics['auc']:.4f}",
        # The same run and the same model give the same token, so that a repeated or doubled call makes one package. A
        # run of that id in another bucket is another one.
        "ClientToken": hashlib.sha256(f"{group}/{run.uri('')}/{trained['archive_sha256']}".encode()).hexdigest()[:36],
        "InferenceSpecification": {
            "Containers": [
                {"Image": where().image_uri, "ModelDataUrl": job["ModelArtifacts"]["S3ModelArtifacts"]},
            ],
            "SupportedContentTypes": CONTENT_TYPES,
            "SupportedResponseMIMETypes": CONTENT_TYPES,
            "SupportedRealtimeInferenceInstanceTypes": [p.instance_type],
        },
        "ModelMetrics": {"ModelQuality": {"Statistics": _source(run, "metrics.json")}},
        "DriftCheckBaselines": {"ModelDataQuality": {"Statistics": _source(run, "baseline.json")}},
        "MetadataProperties": {"GeneratedBy": job["TrainingJobArn"]} | _commit(),
        "CustomerMetadataProperties": lineage(run, trained) | {"gate": _short(gate), "approval": p.approval},
        "ModelApprovalStatus": APPROVED if p.approval == "auto" else PENDING,
    }
    arn = str(sagemaker.create_model_package(**request)["ModelPackageArn"])
    package = sagemaker.describe_model_package(ModelPackageName=arn)
    return {"model_package_arn": arn, "approval": str(package["ModelApprovalStatus"])}


def lineage(run: Run, trained: dict[str, Any]) -> dict[str, str]:
    """Where a model comes from and how good it is, as text."""
    metrics = trained["metrics"]
    dataset = run.storage.read_json(run.key("data/dataset.json"), default={})
    found = {
        "run_id": run.run_id,
        "bucket": run.bucket,
        "notebook": run.uri("02_train.ipynb"),
        "auc": f"{metrics['auc']:.6f}",
        "average_precision": f"{metrics['average_precision']:.6f}",
        "decision_threshold": repr(metrics["decision_threshold"]),
        "archive_sha256": trained["archive_sha256"],
        "model_sha256": trained["model_sha256"],
        "trees_sha256": metrics["trees_sha256"],
        "dataset_sha256": dataset.get("content_sha256", ""),
    }
    if "champion_auc" in metrics:
        found["champion_auc"] = f"{metrics['champion_auc']:.6f}"
    return {name: value for name, value in found.items() if value}


def check_approved(model_package_arn: str) -> None:
    """Refuse to deploy what nobody let pass.

    Raises
    ------
    ApprovalError
        When the package waits or was rejected; says what to do.
    """
    package = client("sagemaker").describe_model_package(ModelPackageName=model_package_arn)
    status, about = package["ModelApprovalStatus"], package.get("CustomerMetadataProperties", {})
    run_id = about.get("run_id", "")
    if status == REJECTED:
        why = package.get("ApprovalDescription", "")
        raise ApprovalError(f"The model of {run_id} was rejected{f' ({why})' if why else ''}: the champion stays.")
    if status != APPROVED:
        raise ApprovalError(
            f"The model of {run_id} (AUC ROC {float(about.get('auc', 'nan')):.4f}) waits for approval: "
            f"`fraud approve {run_id}`, then `fraud run --run-id {run_id} --from 03`."
        )


def packages(endpoint_name: str, bucket: str) -> list[dict[str, Any]]:
    """All packages of an endpoint's group whose runs are in this bucket, newest first; empty when there is no group.

    Parameters
    ----------
    endpoint_name : str
    bucket : str
        A group is the account's: another deployment may have an endpoint, and a run, of the same name.

    Returns
    -------
    list of dict
        As DescribeModelPackage gives them.
    """
    sagemaker = client("sagemaker")
    found: list[dict[str, Any]] = []
    pages = sagemaker.get_paginator("list_model_packages").paginate(
        ModelPackageGroupName=group_of(endpoint_name), SortBy="CreationTime", SortOrder="Descending"
    )
    try:
        for page in pages:
            for item in page["ModelPackageSummaryList"]:
                package = sagemaker.describe_model_package(ModelPackageName=item["ModelPackageArn"])
                if package.get("CustomerMetadataProperties", {}).get("bucket") == bucket:
                    found.append(package)
    except ClientError as error:
        if "does not exist" not in str(error):
            raise
    return sorted(found, key=lambda package: -package["ModelPackageVersion"])


def approve(run: Run, endpoint_name: str, *, reject: bool = False, note: str = "") -> str:
    """Let a model be deployed, or not.

    Parameters
    ----------
    run : Run
        The run that trained it. Of several models it has registered, the one that 02_train recorded, which is the one
        that 03_deploy asks about; before it has recorded, the newest.
    endpoint_name : str
    reject : bool
        Whether it must not.
    note : str
        Why; kept with the name of who decided.

    Returns
    -------
    str
        One sentence.

    Raises
    ------
    ParameterError
        When the run has no package.
    """
    run_id = run.run_id
    every = packages(endpoint_name, run.bucket)
    own = [package for package in every if package["CustomerMetadataProperties"].get("run_id") == run_id]
    if not own:
        waiting = [
            package["CustomerMetadataProperties"]["run_id"]
            for package in every
            if package["ModelApprovalStatus"] == PENDING
        ]
        said = f"waiting are {', '.join(waiting)}" if waiting else "none waits"
        raise ParameterError(f"There is no model of the run {run_id!r} in {group_of(endpoint_name)}; {said}.")
    recorded = run.storage.read_json(run.key("02_train.json"), default={}).get("model_package_arn")
    package = next((package for package in own if package["ModelPackageArn"] == recorded), own[0])
    wanted = REJECTED if reject else APPROVED
    version = package["ModelPackageVersion"]
    if package["ModelApprovalStatus"] == wanted:
        return f"Version {version}, the model of {run_id}, is {wanted.lower()} already."
    who = _caller()
    client("sagemaker").update_model_package(
        ModelPackageArn=package["ModelPackageArn"],
        ModelApprovalStatus=wanted,
        ApprovalDescription=f"{who}: {note}"[:1024] if note else f"by {who}"[:1024],
    )
    after = "" if reject else f" Deploy it: fraud run --run-id {run_id} --from 03"
    return f"Version {version}, the model of {run_id}, is {wanted.lower()}.{after}"


def _create_group(group: str, endpoint_name: str) -> None:
    try:
        client("sagemaker").create_model_package_group(
            ModelPackageGroupName=group, ModelPackageGroupDescription=f"Fraud models of the endpoint {endpoint_name}"
        )
    except ClientError as error:
        if "already exists" not in str(error):  # another run was faster
            raise


def _source(run: Run, name: str) -> dict[str, str]:
    return {"ContentType": "application/json", "S3Uri": run.uri(name)}


def _short(text: str) -> str:
    """What a metadata value may hold: 256 letters, digits, spaces and few marks."""
    return re.sub(r"[^\w .:/=+@-]+", " ", text)[:256]


def _commit() -> dict[str, str]:
    """The commit that the code is of: what CodeBuild says, or the checkout's own."""
    said = os.environ.get("CODEBUILD_RESOLVED_SOURCE_VERSION", "")
    if not said:
        asked = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=parameters.ROOT, capture_output=True, text=True, check=False
        )
        said = asked.stdout.strip()
    return {"CommitId": said} if said else {}


def _caller() -> str:
    try:
        return str(client("sts").get_caller_identity()["Arn"])
    except (BotoCoreError, ClientError):  # a name is good to have, and no reason to refuse
        return "unknown caller"
