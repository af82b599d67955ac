"""Reading buildspec.yml, version 0.2, as CodeBuild does: every scalar is text, and what does not fit is refused.

What CodeBuild knows and this machine cannot do (batch builds, other users, Secrets Manager) is refused by name, so that
a build never passes here because half of its file was skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import yaml

from fraud.errors import UserError

PHASES = ("install", "pre_build", "build", "post_build")
REPORT_FORMATS = (
    "JUNITXML",
    "CUCUMBERJSON",
    "NUNITXML",
    "NUNIT3XML",
    "TESTNGXML",
    "VISUALSTUDIOTRX",
    "CLOVERXML",
    "COBERTURAXML",
    "JACOCOXML",
    "SIMPLECOV",
)
_LARGEST = 1_000_000
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ELSEWHERE = {  # CodeBuild's own, not had here
    "": ("run-as", "proxy", "batch"),
    "env": ("secrets-manager", "git-credential-helper"),
    "phases": ("run-as",),
    "artifacts": ("secondary-artifacts", "s3-prefix"),
}


class BuildspecError(UserError):
    """The buildspec cannot be run; one sentence that names the place."""


@dataclass(frozen=True)
class Phase:
    """One phase: its commands, those that always run, and what a failure means."""

    name: str
    commands: tuple[str, ...] = ()
    finally_commands: tuple[str, ...] = ()
    on_failure: str = ""


@dataclass(frozen=True)
class Report:
    """A group of test reports to read."""

    group: str
    files: tuple[str, ...]
    base_directory: str = ""
    file_format: str = "JUNITXML"


@dataclass(frozen=True)
class Artifacts:
    """Which files are the output of the build."""

    files: tuple[str, ...]
    base_directory: str = ""
    exclude: tuple[str, ...] = ()
    discard_paths: bool = False


@dataclass(frozen=True)
class Buildspec:
    """What a buildspec says.

    Attributes
    ----------
    shell : str
        ``sh``, as in CodeBuild, unless the file asks for ``bash``.
    variables, parameter_store : dict of str to str
        Environment variables: their values, or the names of the SSM parameters that hold them.
    exported : tuple of str
        Variables that the pipeline gets back.
    runtime_versions : dict of str to str
        Languages asked for in the install phase.
    phases : tuple of Phase
        In the order in which they run.
    reports, artifacts, cache_paths
        What is read, kept and remembered afterwards.
    """

    shell: str = "sh"
    variables: dict[str, str] = field(default_factory=dict)
    parameter_store: dict[str, str] = field(default_factory=dict)
    exported: tuple[str, ...] = ()
    runtime_versions: dict[str, str] = field(default_factory=dict)
    phases: tuple[Phase, ...] = ()
    reports: tuple[Report, ...] = ()
    artifacts: Artifacts | None = None
    cache_paths: tuple[str, ...] = ()


def parse(text: str | bytes, name: str = "buildspec.yml") -> Buildspec:
    """Read a buildspec.

    Parameters
    ----------
    text : str or bytes
        The file's content.
    name : str
        What to call it in messages.

    Raises
    ------
    BuildspecError
        One sentence: not YAML, another version, an unknown key, a value of the wrong kind.
    """
    try:
        return _read(_Place(name, ""), _load(text, name))
    except RecursionError:
        raise BuildspecError(f"{name}: it is nested too deeply.") from None


class _Loader(yaml.BaseLoader):
    """Every scalar is text (3.10 stays 3.10, ``true`` stays a command); a key given twice is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key that is not text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Place:
    """Where in the file something is, for messages."""

    def __init__(self, file: str, path: str) -> None:
        self.file = file
        self.path = path

    def __truediv__(self, key: str | int) -> _Place:
        step = f"[{key}]" if isinstance(key, int) else f".{key}" if self.path else str(key)
        return _Place(self.file, self.path + step)

    def wrong(self, problem: str) -> BuildspecError:
        return BuildspecError(f"{self.file}: {self.path + ' ' if self.path else ''}{problem}.")


def _load(text: str | bytes, name: str) -> Any:
    if len(text) > _LARGEST:
        raise BuildspecError(f"{name}: it is larger than {_LARGEST} bytes.")
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        loader = _Loader(decoded)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except UnicodeDecodeError:
        raise BuildspecError(f"{name}: it is not UTF-8 text.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise BuildspecError(f"{name}: it is not YAML{where}: {error.problem or error.context}.") from None
    except yaml.YAMLError as error:
        raise BuildspecError(f"{name}: it is not YAML: {' '.join(str(error).split())}.") from None


def _read(top: _Place, content: Any) -> Buildspec:
    if not isinstance(content, dict):
        raise BuildspecError(f"{top.file}: it must be a mapping that starts with version: 0.2.")
    if "version" not in content:
        raise top.wrong("has no version; it must say version: 0.2")
    if content["version"] != "0.2":
        raise (top / "version").wrong(f"is {content['version']!r}; only 0.2 is run here")
    _keys(top, content, ("version", "env", "phases", "reports", "artifacts", "cache"), _ELSEWHERE[""])
    env = _mapping(top / "env", content.get("env", {}))
    allowed = ("shell", "variables", "parameter-store", "exported-variables")
    _keys(top / "env", env, allowed, _ELSEWHERE["env"])
    shell = _text(top / "env" / "shell", env.get("shell", "sh"))
    if shell not in ("sh", "/bin/sh", "bash"):
        raise (top / "env" / "shell").wrong(f"is {shell!r}; it may be bash or /bin/sh")
    phases, runtimes = _phases(top / "phases", content.get("phases"))
    cache = _mapping(top / "cache", content.get("cache", {}))
    _keys(top / "cache", cache, ("paths", "key", "fallback-keys", "action"), ())
    return Buildspec(
        shell="bash" if shell == "bash" else "sh",
        variables=_names(top / "env" / "variables", env.get("variables", {})),
        parameter_store=_names(top / "env" / "parameter-store", env.get("parameter-store", {})),
        exported=_exported(top / "env" / "exported-variables", env.get("exported-variables", [])),
        runtime_versions=runtimes,
        phases=phases,
        reports=_reports(top / "reports", content.get("reports", {})),
        artifacts=_artifacts(top / "artifacts", content["artifacts"]) if "artifacts" in content else None,
        cache_paths=_texts(top / "cache" / "paths", cache.get("paths", [])),
    )


def _phases(at: _Place, content: Any) -> tuple[tuple[Phase, ...], dict[str, str]]:
    if content is None:
        raise at.wrong("is missing; it must hold at least one of " + ", ".join(PHASES))
    content = _mapping(at, content)
    _keys(at, content, PHASES, ())
    if not content:
        raise at.wrong("is empty; it must hold at least one of " + ", ".join(PHASES))
    phases = []
    runtimes: dict[str, str] = {}
    for name in PHASES:
        if name not in content:
            continue
        phase = _mapping(at / name, content[name])
        allowed = ("commands", "finally", "on-failure") + (("runtime-versions",) if name == "install" else ())
        _keys(at / name, phase, allowed, _ELSEWHERE["phases"])
        if "runtime-versions" in phase:
            place = at / name / "runtime-versions"
            runtimes = {
                key: _text(place / key, value) for key, value in _mapping(place, phase["runtime-versions"]).items()
            }
        elif "commands" not in phase:
            raise (at / name).wrong("has no commands")
        on_failure = _text(at / name / "on-failure", phase.get("on-failure", ""))
        if on_failure not in ("", "ABORT", "CONTINUE"):
            raise (at / name / "on-failure").wrong(f"is {on_failure!r}; ABORT and CONTINUE are had here")
        phases.append(
            Phase(
                name,
                _commands(at / name / "commands", phase.get("commands", [])),
                _commands(at / name / "finally", phase.get("finally", [])),
                on_failure,
            )
        )
    return tuple(phases), runtimes


def _reports(at: _Place, content: Any) -> tuple[Report, ...]:
    reports = []
    for group, value in _mapping(at, content).items():
        place = at / group
        value = _mapping(place, value)
        _keys(place, value, ("files", "base-directory", "discard-paths", "file-format"), ())
        kind = _text(place / "file-format", value.get("file-format", "JUNITXML")).upper()
        if kind not in REPORT_FORMATS:
            raise (place / "file-format").wrong(f"is {kind!r}; it may be {', '.join(REPORT_FORMATS)}")
        files = _texts(place / "files", value.get("files", []))
        if not files:
            raise place.wrong("names no files")
        reports.append(Report(group, files, _text(place / "base-directory", value.get("base-directory", "")), kind))
    return tuple(reports)


def _artifacts(at: _Place, content: Any) -> Artifacts:
    content = _mapping(at, content)
    allowed = ("files", "base-directory", "exclude-paths", "discard-paths", "name", "enable-symlinks")
    _keys(at, content, allowed, _ELSEWHERE["artifacts"])
    files = _texts(at / "files", content.get("files", []))
    if not files:
        raise at.wrong("names no files")
    return Artifacts(
        files,
        _text(at / "base-directory", content.get("base-directory", "")),
        _texts(at / "exclude-paths", content.get("exclude-paths", [])),
        _text(at / "discard-paths", content.get("discard-paths", "no")).lower() in ("yes", "true"),
    )


def _keys(at: _Place, content: dict[str, Any], allowed: Iterable[str], elsewhere: Iterable[str]) -> None:
    for key in content:
        if key in elsewhere:
            raise (at / key).wrong("is CodeBuild's, but cannot be had on this machine")
        if key not in allowed:
            raise (at / key).wrong(f"is not known; here may stand {', '.join(allowed)}")


def _mapping(at: _Place, value: Any) -> dict[str, Any]:
    if value == "":  # a key with nothing below it
        return {}
    if not isinstance(value, dict):
        raise at.wrong("must be a mapping of names to values")
    return value


def _text(at: _Place, value: Any) -> str:
    if not isinstance(value, str):
        raise at.wrong("must be text")
    if "\0" in value:
        raise at.wrong("holds a NUL character")
    return value


def _texts(at: _Place, value: Any) -> tuple[str, ...]:
    if value == "":
        return ()
    if not isinstance(value, list):
        raise at.wrong("must be a list")
    return tuple(_text(at / number, item) for number, item in enumerate(value))


def _commands(at: _Place, value: Any) -> tuple[str, ...]:
    if isinstance(value, list):
        for number, item in enumerate(value):
            if isinstance(item, dict):
                raise (at / number).wrong("is a mapping, not a command: a text with ': ' in it needs quotes around it")
    return _texts(at, value)


def _names(at: _Place, value: Any) -> dict[str, str]:
    found = {}
    for name, item in _mapping(at, value).items():
        if name.startswith("CODEBUILD_"):
            raise (at / name).wrong("begins with CODEBUILD_, which CodeBuild keeps for itself")
        found[_variable(at, name)] = _text(at / name, item)
    return found


def _exported(at: _Place, value: Any) -> tuple[str, ...]:
    names = _texts(at, value)
    for number, name in enumerate(names):
        if _variable(at / number, name).startswith("AWS_"):
            raise (at / number).wrong(f"is {name}; variables of AWS are not exported")
    return names


def _variable(at: _Place, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise at.wrong(f"holds {name!r}, which cannot name an environment variable")
    return name
