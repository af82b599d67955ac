"""Deploy ``infra/app.yml`` and ``infra/cicd.yml``: bundle the Lambdas, upload them, create or update the stacks.

The Lambdas talk to the same AWS as whoever deploys them: addresses in botocore's variables become their environment.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping
from email.utils import parseaddr
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from fraud.errors import ParameterError, PlatformError
from fraud.pipeline import stacks, templates
from fraud.pipeline.parameters import ROOT
from fraud.pipeline.stacks import aws_errors
from fraud.pipeline.where import client, region, stored

BUNDLE = ROOT / "lambdas" / "bundle.py"
AWS_DOMAINS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")
CODE_KEYS = {"inference": "InferenceCodeKey", "drift_check": "DriftCodeKey"}

Echo = Callable[[str], None]


def _silent(line: str) -> None:
    """Progress that nobody asked for."""


def endpoint_url(service: str) -> str:
    """Address that botocore's variables give a service; empty for AWS's own.

    Parameters
    ----------
    service : str
        As in the variable's name, ``SAGEMAKER_RUNTIME``; empty for the address of all.

    Returns
    -------
    str
    """
    if os.environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
        return ""
    everything = os.environ.get("AWS_ENDPOINT_URL", "")
    return os.environ.get(f"AWS_ENDPOINT_URL_{service}", everything) if service else everything


def addresses() -> dict[str, str]:
    """Parameters that tell the Lambdas where AWS is; all empty on AWS itself."""
    gateway = endpoint_url("API_GATEWAY").rstrip("/")
    return {
        "AwsEndpointUrl": endpoint_url(""),
        "SageMakerRuntimeEndpointUrl": endpoint_url("SAGEMAKER_RUNTIME"),
        "CodePipelineEndpointUrl": endpoint_url("CODEPIPELINE"),
        # The path below which API Gateway's stand-ins (LocalStack, MiniStack) serve a deployed API.
        "ApiBaseUrl": f"{gateway}/_aws/execute-api" if gateway else "",
    }


def deploy_app(env: str, parameters: Mapping[str, str], *, echo: Echo | None = None) -> dict[str, str]:
    """Create the stack of ``infra/app.yml``, or update it to what the repository says; quick when nothing changed.

    Parameters
    ----------
    env : str
        Folder of ``params/``: names the deployment and gives the drift check's rules.
    parameters : mapping of str to str
        Parameters of ``infra/app.yml``. One that is not given keeps the value it has in the stack; a new stack's
        endpoint is ``fraud-<env>``.
    echo : callable, optional
        Gets one line of progress at a time.

    Returns
    -------
    dict of str to str
        The stack's outputs.

    Raises
    ------
    ParameterError
        When a parameter is unknown, or the account and region hold another deployment.
    PlatformError
        When AWS refuses; names the first resource that failed, and why.
    """
    say, stack_name = echo or _silent, app_stack_name(env)
    known = _check_names(templates.APP, parameters)
    with aws_errors(f"Looking for the stack {stack_name}"):
        _check_environment(env)
        stack = stacks.current(stack_name)
    values = addresses() | dict(parameters) | {"Environment": env}
    values["EndpointName"] = _endpoint_name(stack, env, parameters.get("EndpointName", ""))
    with aws_errors("Uploading the Lambdas"), tempfile.TemporaryDirectory() as folder:
        bundles, owner = _bundle(env, Path(folder)), _code_bucket(say)
        values |= _upload(bundles, owner, say)
        template_url = _upload_template(owner, "app", templates.app())
    with aws_errors(f"Deploying the stack {stack_name}"):
        if not stacks.given(stack).get("CallerKey"):
            values.setdefault("CallerKey", secrets.token_hex(32))  # kept by the stack alone, which never shows it
        if stack is None:
            values |= _bucket(values, say)
        return _submit(stack_name, stack, env, template_url, values, known, say)


def deploy_pipeline(env: str, parameters: Mapping[str, str], *, echo: Echo | None = None) -> dict[str, str]:
    """Create or update the stack of ``infra/cicd.yml``, the pipeline that retrains, beside that of ``infra/app.yml``.

    What both templates must agree on is taken from the app's stack. CodePipeline starts a run of each pipeline that is
    created, so a history must be there first.

    Parameters
    ----------
    env : str
        Folder of ``params/``; the deployment's.
    parameters : mapping of str to str
        Further parameters of ``infra/cicd.yml``: a new stack needs ``ConnectionArn`` and ``Repository``.
    echo : callable, optional
        Gets one line of progress at a time.

    Returns
    -------
    dict of str to str
        The stack's outputs.

    Raises
    ------
    ParameterError
        When a parameter is unknown, missing or the app's to decide, or there is no history yet.
    PlatformError
        When there is no app, or AWS refuses.
    """
    say = echo or _silent
    known = _check_names(templates.CICD, parameters)
    name = pipeline_stack_name(env)
    app_name = app_stack_name(env)
    with aws_errors(f"Reading the stack {app_name}"):
        _check_environment(env)
        app = stacks.describe(app_name)
    if app is None:
        raise PlatformError(f"There is no stack {app_name}: make it first with `fraud infra deploy --env {env}`.")
    shared = _shared_with_app(env, app)
    if taken := sorted(shared.keys() & parameters.keys()):
        raise ParameterError(f"{taken[0]} is what the stack {app_name} says; change it there.")
    with aws_errors(f"Deploying the stack {name}"):
        stack = stacks.current(name)
        values = shared | _sender(app, parameters) | dict(parameters)
        required = [key for key, item in templates.parameters(templates.CICD).items() if "Default" not in item]
        if missing := [key for key in required if key not in values and key not in stacks.given(stack)]:
            raise ParameterError(f"A new pipeline needs {' and '.join(missing)}: see `fraud infra pipeline --help`.")
        if stack is None and not _has_history(shared["BucketName"]):
            raise ParameterError(
                f"raw/ in {shared['BucketName']} holds no history, and creating a pipeline starts a run of it: "
                "`fraud history put` first."
            )
        template_url = _upload_template(_code_bucket(say), "cicd", templates.cicd())
        made = _submit(name, stack, env, template_url, values, known, say)
        if stack is None:
            say(f"Creating the pipeline {made['PipelineName']} started its first run; `fraud models` shows its model.")
    return made


def app_stack_name(env: str) -> str:
    """Name of the stack of ``infra/app.yml``."""
    return f"fraud-loop-{env}"


def pipeline_stack_name(env: str) -> str:
    """Name of the stack of ``infra/cicd.yml``."""
    return f"fraud-loop-{env}-cicd"


def environment_to_deploy(wanted: str) -> str:
    """The environment that a person names, else that of the deployment that is there.

    Raises
    ------
    ParameterError
        When nothing is deployed yet and none is named.
    """
    with aws_errors("Looking for a deployment"):
        env = wanted or str(stored().get("environment", ""))
    if not env:
        raise ParameterError("Nothing is deployed here yet: name the environment, such as --env staging or --env prod.")
    return env


def _check_names(template: Path, parameters: Mapping[str, str]) -> list[str]:
    """Names of a template's parameters; refuses those that it has not."""
    known = list(templates.parameters(template))
    if unknown := [name for name in parameters if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
        raise ParameterError(f"infra/{template.name} has no parameter {unknown[0]!r}; {hint}")
    return known


def _check_environment(env: str) -> None:
    """Refuse an environment that is not the deployment's, and the toy's on AWS itself."""
    there = stored().get("environment", "")
    if there and there != env:
        raise ParameterError(
            f"This account and region hold the deployment {there!r} already, and there is one for each: "
            f"deploy {env!r} in another, or leave --env out."
        )
    if env == "local" and (urlsplit(client("cloudformation").meta.endpoint_url).hostname or "").endswith(AWS_DOMAINS):
        raise ParameterError(
            "params/local trains a toy in seconds and is for the local AWS (`fraud local up`); "
            "on AWS name another folder of params/, such as --env staging or --env prod."
        )


def _endpoint_name(stack: Mapping[str, Any] | None, env: str, wanted: str) -> str:
    """The deployment's endpoint: a stack keeps the one it has, else the former would run on and cost."""
    present = stacks.given(stack).get("EndpointName", "")
    if present and wanted and present != wanted:
        raise ParameterError(
            f"The deployment's endpoint is {present}; for {wanted} destroy this one first: "
            f"`fraud infra destroy --env {env}`."
        )
    return wanted or present or f"fraud-{env}"


def _shared_with_app(env: str, app: Mapping[str, Any]) -> dict[str, str]:
    """What ``infra/cicd.yml`` must have from the deployment of ``infra/app.yml``."""
    said = stacks.outputs(app)
    names = ("BucketName", "EndpointName", "PipelineName", "TrainRoleArn", "ProcessingRoleArn", "ServeRoleArn")
    return {name: said[name] for name in names} | {
        "Environment": env,
        "KmsKeyArn": stacks.given(app).get("KmsKeyArn", ""),
    }


def _sender(app: Mapping[str, Any], parameters: Mapping[str, str]) -> dict[str, str]:
    """Sender of the mail that a run sends, and the SES identity it stands under: the address's own, else its domain."""
    address = parseaddr(stacks.given(app).get("ReportFrom", ""))[1]
    if not address or "ReportIdentity" in parameters:
        return {"ReportFrom": address} if address else {}
    identity = address.rpartition("@")[2]
    try:
        client("sesv2").get_email_identity(EmailIdentity=address)
        identity = address
    except ClientError as error:
        if error.response["Error"]["Code"] != "NotFoundException":
            raise
    return {"ReportFrom": address, "ReportIdentity": identity}


def _has_history(bucket: str) -> bool:
    """Whether ``raw/`` holds a table."""
    pages = client("s3").get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix="raw/")
    keys = (item["Key"].removeprefix("raw/") for page in pages for item in page.get("Contents", []))
    return any(key and not key.startswith("_") for key in keys)


def _submit(
    name: str,
    stack: Mapping[str, Any] | None,
    env: str,
    template_url: str,
    values: Mapping[str, str],
    known: list[str],
    say: Echo,
) -> dict[str, str]:
    """Create the stack or update it, wait, and return its outputs."""
    keep = [key for key in stacks.given(stack) if key in known and key not in values]
    token = f"deploy-{uuid.uuid4()}"
    request = {
        "StackName": name,
        "TemplateURL": template_url,
        "Parameters": [{"ParameterKey": key, "ParameterValue": value} for key, value in values.items()]
        + [{"ParameterKey": key, "UsePreviousValue": True} for key in keep],
        "Capabilities": ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
        "ClientRequestToken": token,
        "Tags": [{"Key": "product", "Value": "fraud-loop"}, {"Key": "environment", "Value": env}],
    }
    if stacks.submit(stack, request):
        say(f"{'Updating' if stack else 'Creating'} the stack {name} …")
        stacks.wait(name, token)
    else:
        say(f"The stack {name} is up to date.")
    return stacks.stack_outputs(name)


def _bucket(values: Mapping[str, str], say: Echo) -> dict[str, str]:
    """The bucket of a new stack: one that outlived an earlier stack is gone on with, so that no data is lost."""
    account = client("sts").get_caller_identity()["Account"]
    name = values.get("BucketName", f"fraud-loop-{account}-{region()}")
    there = exists(client("s3").head_bucket, Bucket=name, ExpectedBucketOwner=account)
    if there:
        say(f"Going on with the bucket {name}, which is there already.")
    return {"BucketName": name, "MakesBucket": "false" if there else "true"}


def _bundle(env: str, folder: Path) -> dict[str, Path]:
    """Build the zip files in a process of their own: nothing of the Lambdas is imported here."""
    command = [sys.executable, str(BUNDLE), "--env", env, "--out", str(folder)]
    if endpoint_url("LAMBDA"):  # not AWS's own Lambda: it runs functions by the interpreter at hand
        command.append("--this-python")
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no reason was given"]
        raise PlatformError(f"The Lambdas could not be bundled: {said[-1].removeprefix('Error: ')}")
    return {name: Path(path) for name, path in json.loads(done.stdout).items()}


def code_bucket() -> dict[str, str]:
    """The bucket of what CloudFormation reads, as S3's own arguments."""
    account = client("sts").get_caller_identity()["Account"]
    return {"Bucket": f"fraud-loop-code-{account}-{region()}", "ExpectedBucketOwner": account}


def _code_bucket(say: Echo) -> dict[str, str]:
    """The same, made when missing."""
    s3, owner = client("s3"), code_bucket()
    if not exists(s3.head_bucket, **owner):
        say(f"Creating the bucket {owner['Bucket']} …")
        place = {} if region() == "us-east-1" else {"LocationConstraint": region()}
        s3.create_bucket(Bucket=owner["Bucket"], **({"CreateBucketConfiguration": place} if place else {}))
        blocked = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
        s3.put_public_access_block(PublicAccessBlockConfiguration=dict.fromkeys(blocked, True), **owner)
    return owner


def _upload(bundles: Mapping[str, Path], owner: Mapping[str, str], say: Echo) -> dict[str, str]:
    """Put the zip files where CloudFormation finds them; the name carries the content, so it is put once."""
    s3, found = client("s3"), {"CodeBucket": owner["Bucket"]}
    for name, path in bundles.items():
        key = f"lambdas/{path.name}"
        if not exists(s3.head_object, Key=key, **owner):
            say(f"Uploading {path.name} ({path.stat().st_size / 1000:.0f} kB) …")
            s3.put_object(Key=key, Body=path.read_bytes(), **owner)
        found[CODE_KEYS[name]] = key
    return found


def _upload_template(owner: Mapping[str, str], name: str, text: str) -> str:
    """Put a template there too, and return its address: it is too long for a request."""
    s3, body = client("s3"), text.encode()
    key = f"templates/{name}-{hashlib.sha256(body).hexdigest()[:16]}.json"
    s3.put_object(Key=key, Body=body, **owner)
    return f"{s3.meta.endpoint_url.rstrip('/')}/{owner['Bucket']}/{key}"


def exists(head: Callable[..., Any], **request: Any) -> bool:
    """Whether a bucket or an object is there; a refusal is not a no."""
    try:
        head(**request)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return False
        raise
    return True


def api_url(outputs: Mapping[str, str]) -> str:
    """Address of the API, to which ``/predict``, ``/labels`` or ``/health`` is appended.

    Parameters
    ----------
    outputs : mapping of str to str
        As `fraud.pipeline.stacks.stack_outputs`.

    Returns
    -------
    str
        Without a slash at the end. Requests to it are signed (SigV4) for ``execute-api``.
    """
    return outputs["ApiUrl"].rstrip("/")
