"""What CodePipeline refuses in the declaration of a pipeline, and the ``#{variables}`` in its actions."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from fraud.localaws.wire import AwsError

EXECUTIONS = "codepipeline-executions"  # kind of document
ACTIVE = ("InProgress", "Stopping")

ACTIONS = {
    ("Source", "CodeStarSourceConnection"): ("ConnectionArn", "FullRepositoryId", "BranchName"),
    ("Source", "S3"): ("S3Bucket", "S3ObjectKey"),
    ("Build", "CodeBuild"): ("ProjectName",),
    ("Test", "CodeBuild"): ("ProjectName",),
    ("Approval", "Manual"): (),
}
_REFERENCE = re.compile(r"#\{([A-Za-z0-9_@-]+)\.([A-Za-z0-9_@-]+)\}")


def check(pipeline: Mapping[str, Any]) -> None:
    """Refuse a declaration that CodePipeline would refuse, or one with actions that are not had here.

    Raises
    ------
    AwsError
        ``InvalidStructureException``, ``InvalidStageDeclarationException`` or ``InvalidActionDeclarationException``.
    """
    stages = pipeline["stages"]
    if len(stages) < 2:
        raise _structure("Pipeline must have at least two stages")
    if ("artifactStore" in pipeline) == ("artifactStores" in pipeline):
        raise _structure("Pipeline must have either artifactStore or artifactStores, not both or neither")
    if pipeline.get("pipelineType", "V1") != "V2":
        if pipeline.get("executionMode", "SUPERSEDED") != "SUPERSEDED":
            raise _structure(f"Execution mode {pipeline['executionMode']} is only supported by pipelines of type V2")
        if pipeline.get("variables"):
            raise _structure("Pipeline variables are only supported by pipelines of type V2")
    if twice := _twice(stage["name"] for stage in stages):
        raise AwsError("InvalidStageDeclarationException", f"Stage name {twice} is used more than once")
    if twice := _twice(variable["name"] for variable in pipeline.get("variables", [])):
        raise _structure(f"Pipeline variable {twice} is declared more than once")
    outputs: set[str] = set()
    namespaces: set[str] = set()
    for position, stage in enumerate(stages):
        if not stage["actions"]:
            raise AwsError("InvalidStageDeclarationException", f"Stage {stage['name']} has no actions")
        if twice := _twice(action["name"] for action in stage["actions"]):
            raise _action(twice, "its name is used more than once in the stage")
        for action in sorted(stage["actions"], key=lambda item: item.get("runOrder", 1)):
            _check_action(action, position == 0, outputs)
            if (namespace := action.get("namespace")) and namespace in namespaces | {"variables", "codepipeline"}:
                raise _action(action["name"], f"the namespace {namespace} is taken")
            namespaces.add(action.get("namespace", ""))


def _check_action(action: Mapping[str, Any], first: bool, outputs: set[str]) -> None:
    name, kind = action["name"], action["actionTypeId"]
    category, provider = kind["category"], kind["provider"]
    if (category == "Source") != first:
        where = "may only hold Source actions" if first else "cannot hold Source actions"
        raise _action(name, f"the {'first' if first else 'later'} stages {where}")
    if kind["owner"] != "AWS" or (category, provider) not in ACTIONS:
        raise _action(name, f"the local AWS does not have {kind['owner']} {category} by {provider}")
    configuration = action.get("configuration", {})
    for key in ACTIONS[category, provider]:
        if not configuration.get(key):
            raise _action(name, f"the configuration is missing {key}")
    inputs = [item["name"] for item in action.get("inputArtifacts", [])]
    made = [item["name"] for item in action.get("outputArtifacts", [])]
    if provider == "CodeBuild":
        if not inputs:
            raise _action(name, "it must have an input artifact")
        if len(inputs) > 1 and configuration.get("PrimarySource") not in inputs:
            raise _action(name, "with several input artifacts PrimarySource must name one of them")
        environment_variables(configuration, name)
    elif category == "Source" and (inputs or len(made) != 1):
        raise _action(name, "it must have one output artifact and no input")
    elif category == "Approval" and (inputs or made):
        raise _action(name, "it cannot have artifacts")
    if missing := [item for item in inputs if item not in outputs]:
        raise _action(name, f"no earlier action makes its input artifact {missing[0]}")
    if taken := [item for item in made if item in outputs]:
        raise _action(name, f"its output artifact {taken[0]} is made by another action too")
    outputs.update(made)


def environment_variables(configuration: Mapping[str, str], name: str) -> list[dict[str, str]]:
    """Return the variables that a CodeBuild action gives its build.

    Raises
    ------
    AwsError
        ``InvalidActionDeclarationException``: it is not a JSON list of ``{"name", "value", "type"}``.
    """
    text = configuration.get("EnvironmentVariables", "[]")
    wrong = _action(name, 'EnvironmentVariables must be a JSON list of {"name", "value", "type"}')
    try:
        items = json.loads(text)
    except ValueError:
        raise wrong from None
    if not isinstance(items, list):
        raise wrong
    for item in items:
        if not isinstance(item, dict) or not {"name", "value"} <= item.keys() <= {"name", "value", "type"}:
            raise wrong
        if not all(isinstance(value, str) for value in item.values()):
            raise wrong
        if item.get("type", "PLAINTEXT") not in ("PLAINTEXT", "PARAMETER_STORE", "SECRETS_MANAGER"):
            raise wrong
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", item["name"]):
            raise _action(name, f"{item['name']!r} cannot name an environment variable")
    return items


def variables(pipeline: Mapping[str, Any], given: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the values that an execution runs with, by declaration and request.

    Raises
    ------
    AwsError
        ``ValidationException``: an unknown name, or none where there is no default.
    """
    asked = {item["name"]: item["value"] for item in given}
    declared = {item["name"]: item.get("defaultValue") for item in pipeline.get("variables", [])}
    if unknown := sorted(asked.keys() - declared.keys()):
        raise AwsError("ValidationException", f"The pipeline does not declare the variables: {', '.join(unknown)}")
    values = {name: asked.get(name, default) for name, default in declared.items()}
    if missing := sorted(name for name, value in values.items() if value is None):
        raise AwsError("ValidationException", f"Variables without a default need a value: {', '.join(missing)}")
    return [{"name": name, "resolvedValue": str(value)} for name, value in values.items()]


def resolve(text: str, namespaces: Mapping[str, Mapping[str, str]]) -> str:
    """Put values in the place of ``#{namespace.name}``. A value is not read again, so it cannot refer to others.

    Raises
    ------
    KeyError
        There is no such variable; the argument is its name.
    """

    def value(found: re.Match[str]) -> str:
        try:
            return namespaces[found[1]][found[2]]
        except KeyError:
            raise KeyError(f"{found[1]}.{found[2]}") from None

    return _REFERENCE.sub(value, text)


def _twice(names: Any) -> str:
    return next((name for name, count in Counter(names).items() if count > 1), "")


def _structure(message: str) -> AwsError:
    return AwsError("InvalidStructureException", message)


def _action(name: str, problem: str) -> AwsError:
    return AwsError("InvalidActionDeclarationException", f"Action {name}: {problem}")
