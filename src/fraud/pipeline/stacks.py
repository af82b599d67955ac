"""CloudFormation stacks: submit one and wait, read what it says of itself, delete it; why it failed in one sentence."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from fraud.errors import PlatformError
from fraud.pipeline.where import client, region

LIMIT_SECONDS = 1800
# States of a stack that never came to be: nothing in it is worth keeping, and CloudFormation refuses to update it.
NEVER_WAS = ("ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED", "REVIEW_IN_PROGRESS")
GOOD = ("CREATE_COMPLETE", "UPDATE_COMPLETE")


@contextmanager
def aws_errors(doing: str) -> Iterator[None]:
    """Turn an error of AWS into one sentence that says what was being done.

    Parameters
    ----------
    doing : str
        Begins the sentence: ``Deleting the stack x``.

    Raises
    ------
    PlatformError
    """
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise PlatformError(f"{doing} failed: {error}") from error


def describe(name: str) -> dict[str, Any] | None:
    """The stack by its name or id; None when there is none."""
    try:
        return dict(client("cloudformation").describe_stacks(StackName=name)["Stacks"][0])
    except ClientError as error:
        if "does not exist" in str(error):
            return None
        raise


def settled(name: str) -> dict[str, Any] | None:
    """The stack once nothing is under way; None when there is none.

    Raises
    ------
    PlatformError
        When something is still under way after `LIMIT_SECONDS`.
    """
    end, pause = time.monotonic() + LIMIT_SECONDS, 0.1
    while (stack := describe(name)) and stack["StackStatus"].endswith("_IN_PROGRESS"):
        if stack["StackStatus"] == "REVIEW_IN_PROGRESS":  # a change set that nobody executed
            break
        if time.monotonic() > end:
            raise PlatformError(f"The stack {name} is still {stack['StackStatus']} after {LIMIT_SECONDS} s.")
        time.sleep(pause)
        pause = min(5.0, 1.5 * pause)
    return stack


def given(stack: Mapping[str, Any] | None) -> dict[str, str]:
    """Parameters that a stack has; none when there is no stack."""
    return {item["ParameterKey"]: item["ParameterValue"] for item in (stack or {}).get("Parameters", [])}


def outputs(stack: Mapping[str, Any]) -> dict[str, str]:
    """Outputs of a stack, by name."""
    return {item["OutputKey"]: item["OutputValue"] for item in stack.get("Outputs", [])}


def current(name: str) -> dict[str, Any] | None:
    """The settled stack; one that never came to be is deleted first and counts as none."""
    stack = settled(name)
    if stack and stack["StackStatus"] in NEVER_WAS:
        delete(stack)
        return None
    return stack


def submit(stack: Mapping[str, Any] | None, request: Mapping[str, Any]) -> bool:
    """Create or update a stack; False when there is nothing to update.

    Parameters
    ----------
    stack : mapping or None
        The stack as it is.
    request : mapping
        As CreateStack and UpdateStack take it.

    Returns
    -------
    bool
    """
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


def wait(name: str, token: str) -> None:
    """Wait for what was submitted under a token.

    Raises
    ------
    PlatformError
        When it failed; names the first resource that did, and why.
    """
    stack = settled(name)
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


def stack_outputs(name: str) -> dict[str, str]:
    """What the stack says of itself: ApiUrl, BucketName, DriftFunctionName and more.

    Raises
    ------
    PlatformError
        When there is no such stack.
    """
    with aws_errors(f"Reading the stack {name}"):
        stack = describe(name)
        if stack is None:
            raise PlatformError(f"There is no stack {name} in {region()}: make it with `fraud infra deploy`.")
    return outputs(stack)


def delete(stack: Mapping[str, Any]) -> None:
    """Delete a stack and wait until it is gone.

    Raises
    ------
    PlatformError
        When something of it could not be deleted; names it, and why.
    """
    token = f"delete-{uuid.uuid4()}"
    client("cloudformation").delete_stack(StackName=stack["StackName"], ClientRequestToken=token)
    after = settled(stack["StackId"])
    if after and after["StackStatus"] != "DELETE_COMPLETE":
        raise PlatformError(
            f"The stack {stack['StackName']} is {after['StackStatus']}: {_reason(stack['StackId'], token)}"
        )
