"""The CloudFormation templates of ``infra/``, as they are sent: plain JSON.

CloudFormation refuses YAML's anchors and aliases («YAML aliases are not allowed in CloudFormation templates»), which
``infra/app.yml`` uses so that nothing stands in it twice. They are resolved here; intrinsic functions are not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from fraud.errors import PlatformError
from fraud.pipeline.dashboard_files import in_cloudformation
from fraud.pipeline.parameters import ROOT

APP = ROOT / "infra" / "app.yml"
CICD = ROOT / "infra" / "cicd.yml"
LARGEST = 1_000_000  # bytes that CloudFormation takes from S3


class _Loader(yaml.SafeLoader):
    """Reads CloudFormation's short forms as their long ones: ``!Ref x`` is ``{"Ref": "x"}``; dates stay text."""


def _long_form(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
        if tag == "GetAtt":
            value = str(value).split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)  # YAML knows no fourth kind
        value = loader.construct_mapping(node, deep=True)
    return {tag if tag in ("Ref", "Condition") else f"Fn::{tag}": value}


_Loader.add_multi_constructor("!", _long_form)
# What looks like a date stays the text that it is: JSON has none, and CloudFormation wants text.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def load(path: Path) -> dict[str, Any]:
    """Read a template; short forms become long ones, aliases what they stand for.

    Parameters
    ----------
    path : Path
        A YAML file.

    Returns
    -------
    dict

    Raises
    ------
    PlatformError
        When the file cannot be read.
    """
    try:
        return dict(yaml.load(path.read_bytes(), _Loader))
    except (OSError, yaml.YAMLError, ValueError, TypeError) as error:
        raise PlatformError(f"{path} cannot be read as a template: {' '.join(str(error).split())}") from error


def parameters(path: Path) -> dict[str, dict[str, Any]]:
    """Parameters that a template declares, by name, in its order."""
    return dict(load(path)["Parameters"])


def app() -> str:
    """``infra/app.yml`` as CloudFormation gets it, with the dashboard of ``infra/dashboards/cloudwatch.json`` in it."""
    template = load(APP)
    dashboards = [item for item in template["Resources"].values() if item["Type"] == "AWS::CloudWatch::Dashboard"]
    if len(dashboards) != 1:
        raise PlatformError(f"infra/app.yml has {len(dashboards)} dashboards; it must have one.")
    dashboards[0]["Properties"]["DashboardBody"] = {"Fn::Sub": in_cloudformation()}
    return _as_sent(template, APP)


def cicd() -> str:
    """``infra/cicd.yml`` as CloudFormation gets it."""
    return _as_sent(load(CICD), CICD)


def _as_sent(template: dict[str, Any], path: Path) -> str:
    text = json.dumps(template, separators=(",", ":"), ensure_ascii=False)
    if (size := len(text.encode())) > LARGEST:
        raise PlatformError(f"infra/{path.name} is {size:,} bytes as JSON; CloudFormation takes {LARGEST:,}.")
    return text
