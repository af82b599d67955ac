"""Deploy ``infra/app.yml``: bundle the Lambdas, upload them, create or update the stack, say what went wrong.

The Lambdas talk to the same AWS as whoever deploys them: addresses in botocore's variables become their environment.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from botocore.exceptions import BotoCoreError, ClientError

from fraud.errors import ParameterError, PlatformError
from fraud.pipeline.dashboard_files import in_cloudformation
from fraud.pipeline.parameters import ROOT, resolve
from fraud.pipeline.where import client, region

TEMPLATE = ROOT / "infra" / "app.yml"
NO_DASHBOARD = re.compile(r"^ +DashboardBody: .*$", re.MULTILINE)
BUNDLE = ROOT / "lambdas" / "bundle.py"
CODE_KEYS = {"inference": "InferenceCodeKey", "drift_check": "DriftCodeKey"}
LIMIT_SECONDS = 1800
# States of a stack that never came to be: nothing in it is worth keeping, and CloudFormation refuses to update it.
NEVER_WAS = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "REVIEW_IN_PROGRESS")
GOOD = ("CREATE_COMPLETE", "UPDATE_COMPLETE")

Echo = Callable[[str], None]


@contextmanager
def _aws(doing: str) -> Iterator[None]:
    """Turn an error of AWS into one sentence that says what was being done."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise PlatformError(f"{doing} failed: {error}") from error


class _Template(yaml.SafeLoader):
    """Reads a template's plain parts; CloudFormation's own tags become nothing."""


_Template.add_multi_constructor("!", lambda loader, suffix, node: None)


def template_parameters() -> list[str]:
    """Names of the parameters that ``infra/app.yml`` takes."""
    return list(yaml.load(TEMPLATE.read_text(encoding="utf-8"), _Template)["Parameters"])


def template() -> str:
    """``infra/app.yml`` with the dashboard of ``infra/dashboards/cloudwatch.json`` in its place."""
    body = f"      DashboardBody: !Sub |\n        {in_cloudformation()}"
    text, count = NO_DASHBOARD.subn(lambda found: body, TEMPLATE.read_text(encoding="utf-8"))
    if count != 1:
        raise PlatformError(f"infra/app.yml has {count} lines that begin with DashboardBody; it must have one.")
    return text


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


def deploy_stack(
    stack_name: str, env: str, parameters: Mapping[str, str], *, echo: Echo | None = None
) -> dict[str, str]:
    """Create the stack, or update it to what the repository says; quick when nothing changed.

    Parameters
    ----------
    stack_name : str
        CloudFormation's name of it.
    env : str
        Folder of ``params/``: gives the endpoint's name and the drift check's rules.
    parameters : mapping of str to str
        Parameters of ``infra/app.yml``. One that is not given keeps the value it has in the stack.
    echo : callable, optional
        Gets one line of progress at a time.

    Returns
    -------
    dict of str to str
        The stack's outputs.

    Raises
    ------
    ParameterError
        When a parameter is unknown.
    PlatformError
        When AWS refuses; names the first resource that failed, and why.
    """
    say = echo or (lambda line: None)
    known = template_parameters()
    if unknown := [name for name in parameters if name not in known]:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
        raise ParameterError(f"infra/app.yml has no parameter {unknown[0]!r}; {hint}")
    values = addresses() | dict(parameters)
    if "EndpointName" not in values:
        values["EndpointName"] = str(resolve(env, ["03_deploy"])["03_deploy"]["endpoint_name"])
    with _aws("Uploading the Lambdas"), tempfile.TemporaryDirectory() as folder:
        bundles, owner = _bundle(env, Path(folder)), _code_bucket(say)
        values |= _upload(bundles, owner, say)
        template_url = _upload_template(owner)
    with _aws(f"Deploying the stack {stack_name}"):
        stack = _settled(stack_name)
        if stack and stack["StackStatus"] in NEVER_WAS:
            _delete(stack)
            stack = None
        if not _given(stack).get("CallerKey"):
            values.setdefault("CallerKey", secrets.token_hex(32))  # kept by the stack alone, which never shows it
        keep = [name for name in _given(stack) if name in known and name not in values]
        if stack is None:
            values |= _bucket(values, say)
        token = f"deploy-{uuid.uuid4()}"
        request: dict[str, Any] = {
            "StackName": stack_name,
            "TemplateURL": template_url,
            "Parameters": [{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()]
            + [{"ParameterKey": name, "UsePreviousValue": True} for name in keep],
            "Capabilities": ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
            "ClientRequestToken": token,
            "Tags": [{"Key": "product", "Value": "fraud-loop"}, {"Key": "environment", "Value": env}],
        }
        if _submit(stack, request):
            say(f"{'Updating' if stack else 'Creating'} the stack {stack_name} …")
            _wait(stack_name, token)
        else:
            say(f"The stack {stack_name} is up to date.")
    return stack_outputs(stack_name)


def _given(stack: Mapping[str, Any] | None) -> dict[str, str]:
    """Parameters that a stack has; none when there is no stack."""
    return {item["ParameterKey"]: item["ParameterValue"] for item in (stack or {}).get("Parameters", [])}


def _bucket(values: Mapping[str, str], say: Echo) -> dict[str, str]:
    """The bucket of a new stack: one that outlived an earlier stack is gone on with, so that no data is lost."""
    account = client("sts").get_caller_identity()["Account"]
    name = values.get("BucketName", f"fraud-loop-{account}-{region()}")
    there = _exists(client("s3").head_bucket, Bucket=name, ExpectedBucketOwner=account)
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


def _code_bucket(say: Echo) -> dict[str, str]:
    """The bucket of what CloudFormation reads, made when missing; as S3's own arguments."""
    s3 = client("s3")
    account = client("sts").get_caller_identity()["Account"]
    owner = {"Bucket": f"fraud-loop-code-{account}-{region()}", "ExpectedBucketOwner": account}
    if not _exists(s3.head_bucket, **owner):
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
        if not _exists(s3.head_object, Key=key, **owner):
            say(f"Uploading {path.name} ({path.stat().st_size / 1000:.0f} kB) …")
            s3.put_object(Key=key, Body=path.read_bytes(), **owner)
        found[CODE_KEYS[name]] = key
    return found


def _upload_template(owner: Mapping[str, str]) -> str:
    """Put the template there too, and return its address: with the dashboard it is too long for a request."""
    s3, body = client("s3"), template().encode()
    key = f"templates/app-{hashlib.sha256(body).hexdigest()[:16]}.yml"
    s3.put_object(Key=key, Body=body, **owner)
    return f"{s3.meta.endpoint_url.rstrip('/')}/{owner['Bucket']}/{key}"


def _exists(head: Callable[..., Any], **request: Any) -> bool:
    """Whether a bucket or an object is there; a refusal is not a no."""
    try:
        head(**request)
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
            return False
        raise
    return True


def _describe(name: str) -> dict[str, Any] | None:
    """The stack by its name or id; None when there is none."""
    try:
        return dict(client("cloudformation").describe_stacks(StackName=name)["Stacks"][0])
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise


def _settled(name: str) -> dict[str, Any] | None:
    """The stack once nothing is under way."""
    end, pause = time.monotonic() + LIMIT_SECONDS, 0.1
    while (stack := _describe(name)) and stack["StackStatus"].endswith("_IN_PROGRESS"):
        if stack["StackStatus"] == "REVIEW_IN_PROGRESS":  # a change set that nobody executed
            break
        if time.monotonic() > end:
            raise PlatformError(f"The stack {name} is still {stack['StackStatus']} after {LIMIT_SECONDS} s.")
        time.sleep(pause)
        pause = min(5.0, 1.5 * pause)
    return stack


def _submit(stack: dict[str, Any] | None, request: dict[str, Any]) -> bool:
    """Create or update; False when there is nothing to update."""
    if stack is None:
        client("cloudformation").create_stack(**request)
        return True
    try:
        client("cloudformation").update_stack(**request)
    except ClientError as error:
        if "No updates are to be performed" in str(error):
            return False
        raise
    return True


def _wait(name: str, token: str) -> None:
    """Wait for what was submitted under this token; raise the reason when it failed."""
    stack = _settled(name)
    if stack is None or stack["StackStatus"] not in GOOD:
        status = stack["StackStatus"] if stack else "gone"
        raise PlatformError(f"The stack {name} is {status}: {_reason(stack['StackId'] if stack else name, token)}")


def _reason(stack_id: str, token: str) -> str:
    """The first resource that failed, and why; what was merely cancelled because of it is no reason."""
    failed = ""
    for page in client("cloudformation").get_paginator("describe_stack_events").paginate(StackName=stack_id):
        for event in page["StackEvents"]:  # newest first
            why = event.get("ResourceStatusReason", "")
            if event.get("ClientRequestToken", token) == token and event["ResourceStatus"].endswith("_FAILED"):
                if "cancelled" not in why:
                    failed = f"{event['LogicalResourceId']} ({event['ResourceType']}): {why}"
    return failed or "CloudFormation gives no reason."


def stack_outputs(stack_name: str) -> dict[str, str]:
    """What the stack says of itself: ApiUrl, BucketName, DriftFunctionName and more.

    Raises
    ------
    PlatformError
        When there is no such stack.
    """
    with _aws(f"Reading the stack {stack_name}"):
        stack = _describe(stack_name)
        if stack is None:
            raise PlatformError(f"There is no stack {stack_name} in {region()}: make it with `fraud infra deploy`.")
    return {item["OutputKey"]: item["OutputValue"] for item in stack.get("Outputs", [])}


def api_url(outputs: Mapping[str, str]) -> str:
    """Address of the API, to which ``/predict``, ``/labels`` or ``/health`` is appended.

    Parameters
    ----------
    outputs : mapping of str to str
        As `stack_outputs`.

    Returns
    -------
    str
        Without a slash at the end. Requests to it are signed (SigV4) for ``execute-api``.
    """
    return outputs["ApiUrl"].rstrip("/")


def _delete(stack: dict[str, Any]) -> None:
    """Delete a stack and wait until it is gone."""
    token = f"delete-{uuid.uuid4()}"
    client("cloudformation").delete_stack(StackName=stack["StackName"], ClientRequestToken=token)
    after = _settled(stack["StackId"])
    if after and after["StackStatus"] != "DELETE_COMPLETE":
        raise PlatformError(
            f"The stack {stack['StackName']} is {after['StackStatus']}: {_reason(stack['StackId'], token)}"
        )


def destroy_stack(stack_name: str, *, echo: Echo | None = None) -> None:
    """Delete the stack; the bucket that it made goes only when it is empty. A stack that is not there is fine.

    Parameters
    ----------
    stack_name : str
        CloudFormation's name of it.
    echo : callable, optional
        Gets one line of progress at a time.

    Raises
    ------
    PlatformError
        When AWS refuses.
    """
    say = echo or (lambda line: None)
    with _aws(f"Deleting the stack {stack_name}"):
        stack = _settled(stack_name)
        if stack is None:
            say(f"There is no stack {stack_name}.")
            return
        bucket = _given(stack).get("BucketName", "")
        say(f"Deleting the stack {stack_name} …")
        _delete(stack)
        if not bucket or not _exists(client("s3").head_bucket, Bucket=bucket):
            return
        kept = client("s3").list_object_versions(Bucket=bucket, MaxKeys=1)
        if kept.get("Versions") or kept.get("DeleteMarkers"):
            say(f"The bucket {bucket} holds data and stays.")
        elif _given(stack).get("MakesBucket") == "true":
            client("s3").delete_bucket(Bucket=bucket)
