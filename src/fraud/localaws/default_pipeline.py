"""The pipeline of ``infra/cicd.yml``, made here as CloudFormation would make it in an account.

``python -m fraud.localaws.default_pipeline --bucket NAME`` makes or updates it in the AWS that the environment points
to.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import boto3
import yaml
from botocore.exceptions import BotoCoreError, ClientError

from fraud.errors import FraudError, PlatformError
from fraud.localaws.checkout import source_root

logger = logging.getLogger(__name__)

NAME = "fraud-retrain"
TEMPLATE = "infra/cicd.yml"
_NOTHING = object()  # AWS::NoValue
_ACCOUNT = "000000000000"


def ensure_default_pipeline(
    client: Callable[[str], Any],
    name: str = NAME,
    env: str = "local",
    *,
    bucket: str,
    endpoint: str = "fraud",
    region: str = "eu-west-1",
    template: Path | None = None,
    parameters: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Make the pipeline and its build project, or bring them up to date; quick when they are.

    Parameters
    ----------
    client : callable
        ``client("codepipeline")`` → boto3 client.
    name : str
        Of the pipeline.
    env : str
        Folder of ``params/`` with which it runs.
    bucket : str
        Where artifacts go.
    endpoint : str
        The deployment's.
    region : str
    template : Path, optional
        ``infra/cicd.yml`` of the source by default.
    parameters : mapping of str to str, optional
        Further parameters of the template.

    Returns
    -------
    dict
        ``{"pipeline", "project", "change"}``; `change` is ``created``, ``updated`` or ``none``.

    Raises
    ------
    PlatformError
        The template cannot be used.
    """
    path = template or source_root() / TEMPLATE
    given = {
        "PipelineName": name,
        "Environment": env,
        "BucketName": bucket,
        "EndpointName": endpoint,
        "ConnectionArn": f"arn:aws:codeconnections:{region}:{_ACCOUNT}:connection/00000000-0000-0000-0000-000000000000",
        "Repository": "local/checkout",
        "TrainRoleArn": f"arn:aws:iam::{_ACCOUNT}:role/train",
        "ProcessingRoleArn": f"arn:aws:iam::{_ACCOUNT}:role/processing",
        "ServeRoleArn": f"arn:aws:iam::{_ACCOUNT}:role/serve",
    }
    try:
        stack = _Stack(yaml.load(path.read_bytes(), _Loader), given | dict(parameters or {}), region)
        project = stack.properties("AWS::CodeBuild::Project")
        pipeline = stack.properties("AWS::CodePipeline::Pipeline")
    except OSError as error:
        raise PlatformError(f"{path} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise PlatformError(f"{path} cannot be used: {type(error).__name__}: {error}") from None
    changed = _ensure_project(client("codebuild"), _for_api(project))
    change = _ensure_pipeline(client("codepipeline"), _for_api(pipeline))
    return {
        "pipeline": pipeline["Name"],
        "project": project["Name"],
        "change": "updated" if changed and change == "none" else change,
    }


def _ensure_pipeline(client: Any, pipeline: dict[str, Any]) -> str:
    try:
        kept = client.get_pipeline(name=pipeline["name"])["pipeline"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "PipelineNotFoundException":
            raise
        client.create_pipeline(pipeline=pipeline)
        return "created"
    if {key: value for key, value in kept.items() if key != "version"} == pipeline:
        return "none"
    client.update_pipeline(pipeline=pipeline)
    return "updated"


def _ensure_project(client: Any, project: dict[str, Any]) -> bool:
    found = client.batch_get_projects(names=[project["name"]])["projects"]
    if not found:
        client.create_project(**project)
        return True
    # What MiniStack does not keep (logs, cache) cannot have changed either.
    if all(found[0][key] == value for key, value in project.items() if key in found[0]):
        return False
    client.update_project(**project)
    return True


# ---- the part of CloudFormation that cicd.yml uses -----------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms: ``!Ref x`` is ``{"Ref": "x"}``."""


def _tagged(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
        if tag == "GetAtt":
            value = value.split(".")
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {tag if tag in ("Ref", "Condition") else f"Fn::{tag}": value}


_Loader.add_multi_constructor("!", _tagged)


class _Stack:
    """A template with values for its parameters."""

    def __init__(self, template: dict[str, Any], parameters: Mapping[str, str], region: str) -> None:
        self.resources = template["Resources"]
        self.conditions = template.get("Conditions", {})
        self.values = {
            name: str(parameters[name] if name in parameters else declared["Default"])
            for name, declared in template["Parameters"].items()
        }
        self.values |= {
            "AWS::Region": region,
            "AWS::AccountId": _ACCOUNT,
            "AWS::Partition": "aws",
            "AWS::URLSuffix": "amazonaws.com",
        }
        if unknown := parameters.keys() - template["Parameters"].keys():
            raise ValueError(f"it has no parameter {', '.join(sorted(unknown))}")

    def properties(self, kind: str) -> dict[str, Any]:
        """Return the resolved properties of the one resource of a type."""
        found = [item for item in self.resources.values() if item["Type"] == kind]
        if len(found) != 1:
            raise ValueError(f"it has {len(found)} resources of type {kind}, not one")
        return dict(self.resolve(found[0]["Properties"]))

    def resolve(self, value: Any) -> Any:
        if isinstance(value, list):
            return [item for item in map(self.resolve, value) if item is not _NOTHING]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((key, argument),) = value.items()
            if key == "Ref":
                return self.reference(argument)
            if key.startswith("Fn::"):
                return self.function(key, argument)
        resolved = {key: self.resolve(item) for key, item in value.items()}
        return {key: item for key, item in resolved.items() if item is not _NOTHING}

    def function(self, name: str, argument: Any) -> Any:
        if name == "Fn::Sub" and isinstance(argument, str):
            return re.sub(r"\$\{([A-Za-z0-9:]+)\}", lambda found: str(self.reference(found[1])), argument)
        if name == "Fn::GetAtt" and argument[1] == "Arn":
            return f"arn:aws:iam::{_ACCOUNT}:role/{argument[0]}"
        if name == "Fn::If":
            condition, yes, no = argument
            return self.resolve(yes if self.resolve(self.conditions[condition]) else no)
        if name == "Fn::Equals":
            first, second = map(self.resolve, argument)
            return first == second
        if name == "Fn::Not":
            return not self.resolve(argument[0])
        raise ValueError(f"{name} is not understood here")

    def reference(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return _NOTHING
        if name in self.values:
            return self.values[name]
        properties = self.resources[name]["Properties"]
        return self.resolve(properties["LogGroupName" if "LogGroupName" in properties else "Name"])


_NUMBERS = {"TimeoutInMinutes", "QueuedTimeoutInMinutes", "RunOrder"}
_NAMES = {"BuildSpec": "buildspec"}


def _for_api(value: Any) -> Any:
    """Return properties as the service's API spells them: first letter small; an action's configuration as it is."""
    if isinstance(value, list):
        return [_for_api(item) for item in value]
    if not isinstance(value, dict):
        return value
    written = {}
    for key, item in value.items():
        name = _NAMES.get(key, key[0].lower() + key[1:])
        if key == "Configuration":
            written[name] = {option: str(text) for option, text in item.items()}
        else:
            written[name] = int(item) if key in _NUMBERS else _for_api(item)
    return written


def main(arguments: list[str] | None = None) -> int:
    """Make the pipeline in the AWS of the environment and print what was done, as JSON."""
    parser = argparse.ArgumentParser(description=ensure_default_pipeline.__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--name", default=NAME)
    parser.add_argument("--env", default="local")
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--endpoint", default="fraud")
    chosen = parser.parse_args(arguments)
    region = os.environ.get("AWS_REGION", "eu-west-1")
    try:
        made = ensure_default_pipeline(
            lambda service: boto3.client(service, region_name=region),
            chosen.name,
            chosen.env,
            bucket=chosen.bucket,
            endpoint=chosen.endpoint,
            region=region,
        )
    except (FraudError, BotoCoreError, ClientError) as error:
        sys.stderr.write(f"Error: {error}\n")
        return getattr(error, "exit_code", 1)
    sys.stdout.write(json.dumps(made) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
