"""Where the product runs: region, bucket, roles and addresses, and the one place that makes AWS clients.

Nothing here knows whether it talks to AWS or to the local AWS: botocore's own variables (``AWS_ENDPOINT_URL``,
``AWS_ENDPOINT_URL_SAGEMAKER``, …) decide that.
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, NoCredentialsError

from fraud.errors import ParameterError, PlatformError

PARAMETER = "/fraud-loop/where"
LISTS = {"report_to", "report_to_on_drift", "report_to_on_success", "report_to_on_failure"}
IDENTITY = ("environment", "endpoint_name")  # a shell may add what no deployment says, and contradict none
STUDIO_METADATA = Path("/opt/ml/metadata/resource-metadata.json")


@dataclass(frozen=True)
class Where:
    """The addresses of one deployment of ``infra/app.yml``.

    Attributes
    ----------
    bucket : str
        The one bucket.
    environment : str
        Folder of ``params/`` with which this deployment's notebooks run; empty when nobody said.
    endpoint_name : str
        The endpoint that its API, alarms and drift check belong to; empty when nobody said.
    region : str
        AWS region.
    train_role_arn, processing_role_arn, serve_role_arn : str
        Roles that SageMaker assumes for training jobs, for processing jobs and for the endpoint.
    image_uri : str
        SKLearn container image.
    kms_key_arn : str
        Key of the bucket and of captured data; empty for the bucket's default encryption.
    report_from : str
        Sender of the report e-mail; empty sends none.
    report_to : list of str
        Recipients of all mail.
    report_to_on_drift, report_to_on_success, report_to_on_failure : list of str
        Recipients of drift reports, of what a finished retraining says, and of a failed or waiting one, instead.
    pipeline_name : str
        The CodePipeline that retrains.
    """

    bucket: str
    region: str
    environment: str = ""
    endpoint_name: str = ""
    train_role_arn: str = ""
    processing_role_arn: str = ""
    serve_role_arn: str = ""
    image_uri: str = ""
    kms_key_arn: str = ""
    report_from: str = ""
    report_to: list[str] = field(default_factory=list)
    report_to_on_drift: list[str] = field(default_factory=list)
    report_to_on_success: list[str] = field(default_factory=list)
    report_to_on_failure: list[str] = field(default_factory=list)
    pipeline_name: str = ""


def _studio() -> dict[str, Any]:
    """What SageMaker Studio says about the space the notebook runs in; empty elsewhere."""
    try:
        found: dict[str, Any] = json.loads(STUDIO_METADATA.read_text())
    except (OSError, ValueError):
        return {}
    return found


def region() -> str:
    """Find the AWS region: environment, profile, then SageMaker Studio's own metadata.

    Raises
    ------
    PlatformError
        When none of them names one.
    """
    found = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or boto3.Session().region_name
    if not found:
        arn = str(_studio().get("ResourceArn", "")).split(":")
        found = arn[3] if len(arn) > 3 else ""
    if not found:
        raise PlatformError(
            "No AWS region is known: set AWS_REGION, or start the local AWS with `fraud local up` "
            'and run `eval "$(fraud local env)"`.'
        )
    return found


@functools.cache
def client(service: str) -> Any:
    """Return the one boto3 client of a service for this process."""
    retries = Config(retries={"mode": "standard", "max_attempts": 5}, connect_timeout=10, read_timeout=60)
    return boto3.client(service, region_name=region(), config=retries)


@functools.cache
def client_once(service: str) -> Any:
    """Return a client that never tries again, for measuring what a caller would feel."""
    single = Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=30)
    return boto3.client(service, region_name=region(), config=single)


def stored() -> dict[str, Any]:
    """What ``infra/app.yml`` wrote into the parameter ``/fraud-loop/where``; empty when nothing is deployed.

    Raises
    ------
    botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError
        When AWS cannot be asked or refuses.
    """
    try:
        value: dict[str, Any] = json.loads(client("ssm").get_parameter(Name=PARAMETER)["Parameter"]["Value"])
    except ClientError as error:
        if error.response["Error"]["Code"] == "ParameterNotFound":
            return {}
        raise
    return value


@functools.cache
def where() -> Where:
    """Find the deployment: environment variables first, then the parameter that ``infra/app.yml`` writes.

    ``FRAUD_BUCKET``, ``FRAUD_TRAIN_ROLE_ARN`` … (the field names in capitals) override single fields.

    Raises
    ------
    PlatformError
        When AWS cannot be reached, has no credentials, or holds no deployment.
    """
    here = region()
    found: dict[str, Any] = {}
    try:
        found = stored()
    except NoCredentialsError as error:
        raise PlatformError(
            'No AWS credentials: log in to AWS, or run `fraud local up` and `eval "$(fraud local env)"`.'
        ) from error
    except EndpointConnectionError as error:
        address = os.environ.get("AWS_ENDPOINT_URL_SSM") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"
        raise PlatformError(
            f"Nothing answers at {address}: start the local AWS with `fraud local up`, or unset AWS_ENDPOINT_URL."
        ) from error
    except ClientError as error:
        if "FRAUD_BUCKET" not in os.environ:
            raise PlatformError(f"The parameter {PARAMETER} in {here} could not be read: {error}") from error
    except BotoCoreError as error:
        raise PlatformError(f"AWS could not be asked for {PARAMETER} in {here}: {error}") from error
    for name in (item.name for item in fields(Where)):
        if value := os.environ.get(f"FRAUD_{name.upper()}"):
            if name in IDENTITY and found.get(name, value) != value:
                raise PlatformError(
                    f"FRAUD_{name.upper()} is {value!r}, but the deployment in {here} says {found[name]!r}: unset it."
                )
            found[name] = value
    if not found.get("bucket"):
        raise PlatformError(
            f"No bucket is known in {here}: deploy infra/app.yml (`fraud infra deploy`), or set FRAUD_BUCKET."
        )
    for name in found.keys() & LISTS:
        if isinstance(found[name], str):
            found[name] = [item.strip() for item in found[name].split(",") if item.strip()]
    role = str(_studio().get("ExecutionRoleArn", ""))
    known = {item.name for item in fields(Where)}
    return Where(
        **{"region": here, "train_role_arn": role, "processing_role_arn": role, "serve_role_arn": role}
        | {name: value for name, value in found.items() if name in known and value not in ("", None)}
    )


def environment(wanted: str = "") -> str:
    """The folder of ``params/`` to run with: the deployment's.

    Parameters
    ----------
    wanted : str
        What a person named; empty for nothing.

    Returns
    -------
    str

    Raises
    ------
    ParameterError
        When that is another than the deployment's, or neither says one.
    """
    return _agreed("environment", wanted, "--env staging or --env prod")


def endpoint(wanted: str = "") -> str:
    """The endpoint to work on: the deployment's.

    Parameters
    ----------
    wanted : str
        What a person named; empty for nothing.

    Returns
    -------
    str

    Raises
    ------
    ParameterError
        When that is another than the deployment's, or neither says one.
    """
    return _agreed("endpoint_name", wanted, "--endpoint, or the parameter endpoint_name")


def _agreed(name: str, wanted: str, option: str) -> str:
    deployed = str(getattr(where(), name))
    what = name.replace("_name", "")
    if wanted and deployed and wanted != deployed:
        raise ParameterError(
            f"The {what} {wanted!r} is not this deployment's, which is {deployed!r}: leave it out, "
            "or go to the account and region of the other."
        )
    if not (wanted or deployed):
        raise ParameterError(f"Nothing says which {what} this is: name it ({option}), or deploy infra/app.yml.")
    return wanted or deployed
