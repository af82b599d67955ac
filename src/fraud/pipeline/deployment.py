"""Deploy a model without a failed request: verify, create, shift traffic, probe all the while, record the release."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
from botocore.exceptions import ClientError

from fraud.errors import DeploymentError, ParameterError, PlatformError, QualityGateError
from fraud.pipeline.probing import CONTENT, Probes
from fraud.pipeline.runs import Run
from fraud.pipeline.training import read_model
from fraud.pipeline.where import client, where
from fraud.serving import model_file

VARIANT = "AllTraffic"


def describe(endpoint_name: str) -> dict[str, Any] | None:
    """What SageMaker says of an endpoint; None when there is none."""
    try:
        return dict(client("sagemaker").describe_endpoint(EndpointName=endpoint_name))
    except ClientError as error:
        if "Could not find endpoint" in str(error) or "not found" in str(error).lower():
            return None
        raise


def verify_model(run: Run, trained: dict[str, Any]) -> dict[str, Any]:
    """Check the archive before anything serves it.

    Its hashes must be those that 02 recorded, and a child process must load it and score the golden rows exactly as
    training did.

    Parameters
    ----------
    run : Run
        The run that trained it.
    trained : dict
        What 02_train recorded.

    Returns
    -------
    dict
        As `fraud.pipeline.training.read_model`, with ``offline`` scores of the golden rows.

    Raises
    ------
    DeploymentError
        When a hash or a score differs, or the model does not load.
    """
    model = read_model(run, trained["model_uri"])
    for name in ("archive_sha256", "model_sha256"):
        if model[name] != trained[name]:
            raise DeploymentError(
                f"{trained['model_uri']} is not what 02_train recorded: {name} is {model[name][:12]}…, "
                f"recorded was {trained[name][:12]}…."
            )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "model.txt").write_bytes(model["model_text"])
        for name in {"schema", "golden", "calibration"} & model.keys():
            (Path(folder) / f"{name}.json").write_bytes(orjson.dumps(model[name]))
        try:
            model_file.load(Path(folder), trained["model_sha256"])
        except QualityGateError as error:
            raise DeploymentError(f"The model of {run.run_id} must not be served: {error}") from error
    return model | {"offline": model["golden"]["scores"]}


def deployment_config(p: SimpleNamespace, alarms: Sequence[str]) -> dict[str, Any]:
    """``DeploymentConfig`` of an update.

    Parameters
    ----------
    p : SimpleNamespace
        ``strategy``, ``canary_percent``, ``wait_seconds``, ``termination_wait_seconds``, ``instance_count``.
    alarms : sequence of str
        CloudWatch alarms that roll the update back.

    Returns
    -------
    dict

    Raises
    ------
    ParameterError
        When SageMaker would refuse it: a canary needs two instances and may take half of them.
    """
    routing: dict[str, Any] = {"Type": "ALL_AT_ONCE", "WaitIntervalInSeconds": p.wait_seconds}
    if p.strategy in ("canary", "linear"):
        if p.instance_count < 2:
            raise ParameterError(
                f"strategy is {p.strategy!r}, but instance_count is {p.instance_count}: shifting traffic in steps "
                "needs at least 2 instances."
            )
        size = {"Type": "CAPACITY_PERCENT", "Value": p.canary_percent}
        name = "CanarySize" if p.strategy == "canary" else "LinearStepSize"
        routing = {"Type": p.strategy.upper(), name: size, "WaitIntervalInSeconds": p.wait_seconds}
    return {
        "BlueGreenUpdatePolicy": {
            "TrafficRoutingConfiguration": routing,
            "TerminationWaitInSeconds": p.termination_wait_seconds,
            "MaximumExecutionTimeoutInSeconds": max(600, 4 * (p.wait_seconds + p.termination_wait_seconds)),
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
    names = [f"fraud-{endpoint_name}-5xx", f"fraud-{endpoint_name}-latency"]
    found = {item["AlarmName"] for item in client("cloudwatch").describe_alarms(AlarmNames=names)["MetricAlarms"]}
    if missing := [name for name in names if name not in found]:
        raise PlatformError(
            f"The alarm {', '.join(missing)} does not exist, so a bad model would not be rolled back: "
            f"deploy infra/app.yml with EndpointName={endpoint_name}."
        )
    return names


def _create(call: Callable[..., Any], **request: Any) -> None:
    """Create a resource; one of the same name is what an earlier attempt of this run made."""
    try:
        call(**request)
    except ClientError as error:
        if "already exist" not in str(error):
            raise


@dataclass
class Deployment:
    """How a deployment went.

    Attributes
    ----------
    endpoint_config : str
        Configuration now in service.
    previous_config : str
        The one before; empty the first time.
    probes : list of dict
        As `Probes.taken`; empty the first time.
    seconds : float
        Until the endpoint was in service.
    """

    endpoint_config: str
    previous_config: str
    probes: list[dict[str, Any]]
    seconds: float

    @property
    def n_failed(self) -> int:
        """Probes that got no answer."""
        return sum(not probe["ok"] for probe in self.probes)


def deploy(run: Run, p: SimpleNamespace, trained: dict[str, Any], model: dict[str, Any]) -> Deployment:
    """Create or update the endpoint, probing all the while.

    Parameters
    ----------
    run : Run
        The run whose model is deployed.
    p : SimpleNamespace
        Parameters of 03_deploy.
    trained : dict
        What 02_train recorded.
    model : dict
        As `verify_model` returned it.

    Returns
    -------
    Deployment

    Raises
    ------
    DeploymentError
        When the endpoint failed or rolled back; the former model answers on.
    """
    name = f"fraud-{run.run_id}"
    here, sagemaker = where(), client("sagemaker")
    began = time.monotonic()
    before = _settled(p.endpoint_name)
    role = p.role_arn or here.serve_role_arn
    environment = {
        "SAGEMAKER_PROGRAM": "inference.py",
        "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
        "MODEL_VERSION": run.run_id,
        "MODEL_SHA256": model["model_sha256"],
    }
    container = {"Image": here.image_uri, "ModelDataUrl": trained["model_uri"], "Environment": environment}
    _create(sagemaker.create_model, ModelName=name, ExecutionRoleArn=role, PrimaryContainer=container)
    _create(sagemaker.create_endpoint_config, **endpoint_config(name, run.bucket, p))
    probes = Probes(p.endpoint_name, model["golden"]["transactions"], p.probe_interval_ms / 1000)
    if before is None:
        sagemaker.create_endpoint(EndpointName=p.endpoint_name, EndpointConfigName=name)
        _wait(p.endpoint_name, name)
    elif before["EndpointConfigName"] != name:
        config = deployment_config(p, alarm_names(p.endpoint_name))
        with probes:
            sagemaker.update_endpoint(EndpointName=p.endpoint_name, EndpointConfigName=name, DeploymentConfig=config)
            _wait(p.endpoint_name, name)
    after = describe(p.endpoint_name) or {}
    capture = after.get("DataCaptureConfig", {})
    if not capture.get("EnableCapture") or capture.get("CurrentSamplingPercentage") != p.capture_percentage:
        raise DeploymentError(
            f"The endpoint {p.endpoint_name} does not capture {p.capture_percentage} % of its traffic."
        )
    previous = before["EndpointConfigName"] if before else ""
    return Deployment(name, previous, probes.taken, time.monotonic() - began)


def endpoint_config(name: str, bucket: str, p: SimpleNamespace) -> dict[str, Any]:
    """Request of CreateEndpointConfig: one variant, input and output captured as JSON and CSV."""
    request: dict[str, Any] = {
        "EndpointConfigName": name,
        "ProductionVariants": [
            {
                "VariantName": VARIANT,
                "ModelName": name,
                "InitialInstanceCount": p.instance_count,
                "InstanceType": p.instance_type,
                "InitialVariantWeight": 1.0,
            }
        ],
        "DataCaptureConfig": {
            "EnableCapture": True,
            "InitialSamplingPercentage": p.capture_percentage,
            "DestinationS3Uri": f"s3://{bucket}/data-capture",
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"], "JsonContentTypes": [CONTENT]},
        },
    }
    if key := where().kms_key_arn:
        request["KmsKeyId"] = key
        request["DataCaptureConfig"]["KmsKeyId"] = key
    return request


def _settled(endpoint_name: str, limit: float = 1800) -> dict[str, Any] | None:
    """The endpoint once nothing is under way; a failed one is removed, so that it can be made again."""
    end = time.monotonic() + limit
    while (found := describe(endpoint_name)) and found["EndpointStatus"] in (
        "Creating",
        "Updating",
        "SystemUpdating",
        "RollingBack",
        "Deleting",
    ):
        if time.monotonic() > end:
            raise DeploymentError(
                f"The endpoint {endpoint_name} is still {found['EndpointStatus']} after {limit:.0f} s."
            )
        time.sleep(1)
    if found and found["EndpointStatus"] == "Failed":
        raise DeploymentError(
            f"The endpoint {endpoint_name} is Failed ({found.get('FailureReason', 'no reason given')}): "
            "delete it and deploy again."
        )
    return found


def _wait(endpoint_name: str, wanted: str) -> None:
    """Wait until the wanted configuration is in service."""
    found = _settled(endpoint_name) or {}
    if found.get("EndpointConfigName") != wanted:
        raise DeploymentError(
            f"The endpoint {endpoint_name} did not take {wanted}: {found.get('FailureReason', 'it was rolled back')} "
            f"{found.get('EndpointConfigName', 'nothing')} answers on."
        )
