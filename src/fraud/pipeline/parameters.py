"""The parameters cell of a notebook is its command line: names, types, defaults, help and bounds stand there once.

A line reads ``name: type = default  # help (unit) [low, high]`` or ``… {one, two}``; ``params/<env>/NN.yaml`` overrides
defaults. Everything is refused here, before a call is made: papermill itself only warns.
"""

from __future__ import annotations

import ast
import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fraud.errors import ParameterError

ROOT = Path(__file__).resolve().parents[3]
NOTEBOOKS = ROOT / "notebooks"
PARAMS = ROOT / "params"
TYPES = {"str": str, "int": int, "float": float, "bool": bool, "list": list}
GIVEN = ("bucket", "run_id")  # travel from the runner, never from a params file


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell.

    Attributes
    ----------
    name, type, help : str
        As written; ``type`` is one of str, int, float, bool, list.
    default : object
        Used when neither params file nor command line names it.
    low, high : float or None
        Inclusive bounds, from ``[low, high]`` in the help.
    choices : tuple of str
        Allowed values, from ``{one, two}`` in the help.
    """

    name: str
    type: str
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def check(self, value: Any, source: str) -> Any:
        """Return the value in this parameter's type.

        Raises
        ------
        ParameterError
            When type, bounds or choices do not fit; the message names parameter, value and source.
        """
        wanted = TYPES[self.type]
        if self.type == "float" and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, wanted) or (self.type == "int" and isinstance(value, bool)):
            raise ParameterError(
                f"{source}: {self.name} is {value!r} ({type(value).__name__}), but it must be {self.type}."
            )
        if (self.low is not None and not value >= self.low) or (self.high is not None and not value <= self.high):
            raise ParameterError(
                f"{source}: {self.name} is {value!r}, but it must lie in [{self.low:g}, {self.high:g}]."
            )
        if self.choices and value not in self.choices:
            raise ParameterError(
                f"{source}: {self.name} is {value!r}, but it must be one of {', '.join(self.choices)}."
            )
        return value


def steps() -> list[str]:
    """Names of the pipeline's notebooks, in order."""
    return sorted(path.stem for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def read_cell(step: str) -> str:
    """Source of the cell tagged ``parameters`` of a notebook."""
    cells = json.loads((NOTEBOOKS / f"{step}.ipynb").read_text(encoding="utf-8"))["cells"]
    found = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    if len(found) != 1:
        raise ParameterError(f"notebooks/{step}.ipynb has {len(found)} cells tagged `parameters`; it must have one.")
    return "".join(found[0]["source"])


def declared(step: str) -> dict[str, Parameter]:
    """Read the parameters that a notebook declares.

    Parameters
    ----------
    step : str
        ``"02_train"`` and the like.

    Returns
    -------
    dict of str to Parameter
        In the order of the cell.
    """
    source = read_cell(step)
    lines = source.splitlines()
    found: dict[str, Parameter] = {}
    for node in ast.parse(source).body:
        line = lines[node.lineno - 1]
        if not (isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None):
            raise ParameterError(f"notebooks/{step}.ipynb: `{line}` is not of the form `name: type = default  # help`.")
        kind = ast.unparse(node.annotation).partition("[")[0]
        if kind not in TYPES:
            raise ParameterError(
                f"notebooks/{step}.ipynb: {node.target.id} has the type {kind}; use {', '.join(TYPES)}."
            )
        text = line.partition("#")[2].strip()
        bounds = re.search(r"\[([-\d.e]+), ([-\d.e]+)\]$", text)
        choices = re.search(r"\{([^}]+)\}$", text)
        found[node.target.id] = Parameter(
            name=node.target.id,
            type=kind,
            default=ast.literal_eval(node.value),
            help=text,
            low=float(bounds[1]) if bounds else None,
            high=float(bounds[2]) if bounds else None,
            choices=tuple(item.strip() for item in choices[1].split(",")) if choices else (),
        )
    return found


def environments() -> list[str]:
    """Names of the folders under ``params/``."""
    return sorted(path.name for path in PARAMS.iterdir() if path.is_dir())


def read_file(env: str, step: str) -> dict[str, Any]:
    """Read ``params/<env>/<step>.yaml``.

    Raises
    ------
    ParameterError
        When environment or file is absent, the YAML is broken, or it is not a mapping.
    """
    if env not in environments():
        raise ParameterError(f"There is no params/{env}; choose one of {', '.join(environments())}.")
    path = PARAMS / env / f"{step}.yaml"
    name = f"params/{env}/{step}.yaml"
    if not path.exists():
        raise ParameterError(f"{name} is missing; it may be empty, but it must be there.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ParameterError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ParameterError(f"{name} must map names to values, one a line.")
    return values


def _unknown(name: str, known: Iterable[str], source: str) -> ParameterError:
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}."
    return ParameterError(f"{source}: {name!r} is not a parameter{hint}")


def resolve(env: str, chosen: Iterable[str], overrides: Mapping[str, str] | None = None) -> dict[str, dict[str, Any]]:
    """Resolve the parameters of several notebooks: default, then params file, then command line.

    Parameters
    ----------
    env : str
        Folder of ``params/``.
    chosen : iterable of str
        Steps to resolve.
    overrides : mapping of str to str, optional
        ``name=value`` from the command line, values as YAML; each applies to every chosen notebook that declares it.

    Returns
    -------
    dict of str to dict
        Values per step, without ``bucket`` and ``run_id``.

    Raises
    ------
    ParameterError
        On the first name that is unknown or value that does not fit.
    """
    overrides = overrides or {}
    named: set[str] = set()
    known: dict[str, None] = {}
    resolved: dict[str, dict[str, Any]] = {}
    for step in chosen:
        parameters = {name: item for name, item in declared(step).items() if name not in GIVEN}
        known |= dict.fromkeys(parameters)
        values = {name: item.default for name, item in parameters.items()}
        source = f"params/{env}/{step}.yaml"
        for name, value in read_file(env, step).items():
            if name not in parameters:
                raise _unknown(str(name), parameters, source)
            values[name] = parameters[name].check(value, source)
        for name in _named_here(overrides, parameters):
            named.add(name)
            values[name] = parameters[name].check(_parse(overrides[name], parameters[name]), f"--param {name}")
        resolved[step] = values
    for name in overrides:
        if name not in named:
            raise _unknown(name, known, "--param")
    return resolved


def _named_here(overrides: Mapping[str, str], parameters: Mapping[str, Parameter]) -> list[str]:
    """Names on the command line that this notebook declares."""
    return [name for name in overrides if name in parameters]


def _parse(text: str, parameter: Parameter) -> Any:
    """Read a command line value: text stays text, a list may be comma separated, the rest is YAML."""
    if parameter.type == "str":
        return text
    if parameter.type == "list" and not text.startswith("["):
        return [item.strip() for item in text.split(",") if item.strip()]
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def from_namespace(step: str, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Check the values that a notebook runs with, whoever set them: papermill, nbval or a person.

    Parameters
    ----------
    step : str
        The notebook's name.
    namespace : mapping
        Its ``globals()`` after the parameters cell.

    Returns
    -------
    dict
        Checked values in the order of the cell.
    """
    source = f"notebooks/{step}.ipynb"
    return {name: item.check(namespace[name], source) for name, item in declared(step).items()}


def markdown() -> str:
    """Every parameter of every notebook as Markdown tables: default, and what each environment changes."""
    lines: list[str] = []
    envs = environments()
    for step in steps():
        changed = {env: read_file(env, step) for env in envs}
        lines += [
            "",
            f"**{step}**",
            "",
            f"| parameter | default | {' | '.join(envs)} | meaning |",
            f"|---|---|{'---|' * len(envs)}---|",
        ]
        for name, item in declared(step).items():
            cells = [f"`{changed[env][name]!r}`" if name in changed[env] else "" for env in envs]
            lines.append(f"| `{name}` | `{item.default!r}` | {' | '.join(cells)} | {item.help} |")
    return "\n".join(lines).strip()
