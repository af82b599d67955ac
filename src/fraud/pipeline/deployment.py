"""Deploy a model without a failed request: verify, create, shift traffic, probe all the while; and the way back."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
from botocore.exceptions import ClientError

from fraud.errors import DeploymentError, ParameterError, QualityGateError
from fraud.pipeline import releases, strategies, trial
from fraud.pipeline.probing import Probes
from fraud.pipeline.resources import named
from fraud.pipeline.runs import Run
from fraud.pipeline.training import read_model
from fraud.pipeline.where import client, where
from fraud.serving import model_file


def source(run: Run, p: SimpleNamespace) -> Run:
    """The run whose model is deployed: this one, unless ``model_run`` names another."""
    return Run(run.bucket, p.model_run) if p.model_run else run


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

    Its hashes must be those that 02 recorded, a child process must load the model and score the golden rows exactly as
    training did, and so must another one by the archive's own ``inference.py``.

    Parameters
    ----------
    run : Run
        The run that trained it.
    trained : dict
        What 02_train recorded.

    Returns
    -------
    dict
        As `fraud.pipeline.training.read_model`, with ``offline`` scores of the golden rows and the model ``loaded``.

    Raises
    ------
    DeploymentError
        When a hash or a score differs, the model does not load, or its code does not answer.
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
            loaded = model_file.load(Path(folder), trained["model_sha256"])
        except QualityGateError as error:
            raise DeploymentError(f"The model of {run.run_id} must not be served: {error}") from error
    trial.check_code(model, run.run_id)
    return model | {"offline": model["golden"]["scores"], "loaded": loaded}


def _create(call: Callable[..., Any], **request: Any) -> None:
    """Create a resource; one of the same name has the same content, and an earlier attempt made it."""
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
        Until the endpoint was in service, or back.
    problem : str
        Why the former model answers on; empty when the new one does.
    """

    endpoint_config: str
    previous_config: str
    probes: list[dict[str, Any]]
    seconds: float
    problem: str = ""

    @property
    def n_failed(self) -> int:
        """Probes that got no answer."""
        return sum(not probe["ok"] for probe in self.probes)

    def check(self) -> None:
        """Stop here when the update was sent back: its probes are to be seen first.

        Raises
        ------
        DeploymentError
        """
        if self.problem:
            raise DeploymentError(self.problem)


def deploy(
    run: Run, p: SimpleNamespace, trained: dict[str, Any], model: dict[str, Any], champion: dict[str, Any] | None
) -> Deployment:
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
    champion : dict or None
        The release in service.

    Returns
    -------
    Deployment
        Also when an update was sent back; `Deployment.check` raises that.

    Raises
    ------
    DeploymentError
        When nothing was begun, or the endpoint is new and failed.
    ParameterError
        When the strategy cannot be used here.
    """
    strategies.check(p, champion, run.run_id)
    releases.check_same_model(run, p.endpoint_name, model)
    if p.sticky_column and p.sticky_column not in model["loaded"].schema.known:
        raise ParameterError(f"sticky_column is {p.sticky_column!r}, which is no field of a transaction.")
    sagemaker = client("sagemaker")
    began = time.monotonic()
    before = _settled(p.endpoint_name)
    served = _model(run, p, trained, model)
    _create(sagemaker.create_model, **served)
    theirs = _model_on(champion["endpoint_config"]) if p.strategy in strategies.TESTS and champion else ""
    request = strategies.endpoint_config(p, run.bucket, run.run_id, served["ModelName"], theirs)
    _create(sagemaker.create_endpoint_config, **request)
    name = request["EndpointConfigName"]
    probes = Probes(p.endpoint_name, model["golden"]["transactions"], p.probe_interval_ms / 1000)
    problem = ""
    try:
        if before is None:
            sagemaker.create_endpoint(EndpointName=p.endpoint_name, EndpointConfigName=name)
            _wait(p.endpoint_name, name)
        elif before["EndpointConfigName"] != name:
            _update(p, before, name, champion, probes)
        _check_capture(p)
    except DeploymentError as error:
        if not probes.taken:
            raise
        problem = str(error)
    previous = before["EndpointConfigName"] if before else ""
    return Deployment(name, previous, probes.taken, time.monotonic() - began, problem)


def _update(
    p: SimpleNamespace, before: dict[str, Any], name: str, champion: dict[str, Any] | None, probes: Probes
) -> None:
    """Move an endpoint to a configuration as the strategy says, probing all the while."""
    alarms = strategies.alarm_names(p.endpoint_name)
    with probes:
        if p.strategy in strategies.TESTS:
            _move(p.endpoint_name, name)
            _watch(p, alarms, before["EndpointConfigName"])
            return
        at = before["EndpointConfigName"]  # not always the release's: a rollback may have ended half way
        if strategies.under_test(before) and champion:
            at = champion["endpoint_config"]
            _move(p.endpoint_name, at)
        if at != name:
            _move(p.endpoint_name, name, DeploymentConfig=strategies.deployment_config(p, alarms))


def _model(run: Run, p: SimpleNamespace, trained: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """Request of CreateModel."""
    here = where()
    environment = {
        "SAGEMAKER_PROGRAM": "inference.py",
        "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
        "MODEL_VERSION": run.run_id,
        "MODEL_SHA256": model["model_sha256"],
    }
    container = {"Image": here.image_uri, "ModelDataUrl": trained["model_uri"], "Environment": environment}
    content = {"ExecutionRoleArn": p.role_arn or here.serve_role_arn, "PrimaryContainer": container}
    return {"ModelName": named(f"fraud-{run.run_id}", content)} | content


def _model_on(config: str) -> str:
    """SageMaker's name of the model that a configuration promoted."""
    found = client("sagemaker").describe_endpoint_config(EndpointConfigName=config)
    return str(found["ProductionVariants"][0]["ModelName"])


def _move(endpoint_name: str, config: str, **how: Any) -> None:
    """Update an endpoint and wait until that is done."""
    client("sagemaker").update_endpoint(EndpointName=endpoint_name, EndpointConfigName=config, **how)
    _wait(endpoint_name, config)


def _watch(p: SimpleNamespace, alarms: list[str], back: str) -> None:
    """Watch a test that has begun: SageMaker itself watches no alarms where the variants change."""
    end = time.monotonic() + p.wait_seconds
    while time.monotonic() < end:
        time.sleep(min(1.0, max(0.0, end - time.monotonic())))
        found = client("cloudwatch").describe_alarms(AlarmNames=alarms)["MetricAlarms"]
        if ringing := [item["AlarmName"] for item in found if item["StateValue"] == "ALARM"]:
            _move(p.endpoint_name, back)
            raise DeploymentError(
                f"The alarm {', '.join(ringing)} rang during the {p.strategy.replace('_', ' ')}; "
                f"{p.endpoint_name} is back on {back}."
            )


def _check_capture(p: SimpleNamespace) -> None:
    """See that the update kept capture and key; a deployment that loses them blinds everything that watches.

    Raises
    ------
    DeploymentError
    """
    endpoint = describe(p.endpoint_name) or {}
    capture = endpoint.get("DataCaptureConfig", {})
    if not capture.get("EnableCapture") or capture.get("CurrentSamplingPercentage") != p.capture_percentage:
        raise DeploymentError(
            f"The endpoint {p.endpoint_name} does not capture {p.capture_percentage} % of its traffic."
        )
    if key := where().kms_key_arn:
        config = client("sagemaker").describe_endpoint_config(EndpointConfigName=endpoint["EndpointConfigName"])
        if config.get("KmsKeyId") != key or capture.get("KmsKeyId") != key:
            raise DeploymentError(f"The endpoint {p.endpoint_name} does not encrypt its disks and captures with {key}.")


def go_back(endpoint_name: str, config: str) -> None:
    """Put an endpoint on a configuration that has served before, at once; a no-op when it is there already.

    Raises
    ------
    DeploymentError
        When there is no such endpoint, or it did not take it.
    """
    found = _settled(endpoint_name)
    if found is None:
        raise DeploymentError(f"There is no endpoint {endpoint_name}.")
    if found["EndpointConfigName"] != config:
        _move(endpoint_name, config)


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
        reason = found.get("FailureReason", "it was rolled back").rstrip(".")
        raise DeploymentError(
            f"The endpoint {endpoint_name} did not take {wanted}: {reason}. "
            f"{found.get('EndpointConfigName', 'nothing')} answers on."
        )
