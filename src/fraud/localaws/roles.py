"""Whether a service may take a role, as AWS asks before it accepts a request that names one."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote

from botocore.exceptions import ClientError

from fraud.localaws.wire import AwsError, Context


async def check(context: Context, arn: str, service: str = "sagemaker.amazonaws.com") -> None:
    """Refuse a role that is another account's, does not exist, or does not trust the service.

    Raises
    ------
    AwsError
        In AWS's words.
    """
    if arn.split(":")[4] != context.account:
        raise AwsError("AccessDeniedException", "Cross-account pass role is not allowed.")
    try:
        answer = await context.call(context.client("iam").get_role, RoleName=arn.rsplit("/", 1)[-1])
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchEntity":
            raise
    else:
        if trusts(answer["Role"].get("AssumeRolePolicyDocument"), service):
            return
    raise AwsError(
        "ValidationException",
        f"Could not assume role {arn}. Please ensure that the role exists and allows principal '{service}' to assume "
        "the role.",
    )


def trusts(policy: Any, service: str) -> bool:
    """Whether a trust policy lets the service take the role."""
    if isinstance(policy, str):
        try:
            policy = json.loads(unquote(policy))
        except ValueError:
            return False
    statements = (policy or {}).get("Statement", [])
    for statement in statements if isinstance(statements, list) else [statements]:
        principals = statement.get("Principal", {})
        named = principals if isinstance(principals, str) else principals.get("Service", [])
        named = [named] if isinstance(named, str) else named
        if statement.get("Effect") == "Allow" and (service in named or "*" in named):
            return True
    return False
