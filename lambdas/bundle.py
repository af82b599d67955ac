"""Build the zip files of the Lambdas: their *.py and src/fraud/*.py, the same bytes from the same source.

    python lambdas/bundle.py --env staging --out build

prints a JSON object of zip files by Lambda. A Lambda's own ``requirements.txt`` is installed for Lambda's Python;
``--this-python`` is for the interpreter at hand instead, which runs Lambdas on the local AWS: what it has itself
is not installed again.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from fraud.errors import FraudError, ParameterError, PlatformError
from fraud.pipeline import parameters
from fraud.verdict import persistence

LAMBDAS = Path(__file__).resolve().parent
PACKAGE = LAMBDAS.parent / "src" / "fraud"
NAMES = ("drift_check", "inference")
POLICY = (
    "window_hours",
    "min_records",
    "mean_shift_threshold",
    "mean_shift_features",
    "psi_threshold",
    "ks_threshold",
    "missing_threshold",
    "unseen_threshold",
    "repeated_threshold",
    "review_rate_threshold",
    "fraud_rate_threshold",
    "recall_threshold",
    "auc_threshold",
    "min_truth",
    "false_alarm_rate",
    "min_importance",
    "persistence",
    "season",
    "max_caller_share",
    "cool_down_hours",
    "daily_cap",
    "min_new_labels",
)
LAMBDA_PYTHON = (
    # Lambda's Python 3.12 runs on Amazon Linux 2023, glibc 2.34; pip takes a name for no older one.
    *(f"--platform=manylinux{tag}_x86_64" for tag in ("_2_34", "_2_28", "_2_17", "2014")),
    "--implementation=cp",
    "--python-version=3.12",
    "--only-binary=:all:",
)
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip file can say


def policy(env: str) -> dict[str, object]:
    """Rules of the drift check, as 04_drift_report has them in one environment.

    Parameters
    ----------
    env : str
        Folder of ``params/``.

    Returns
    -------
    dict
        The parameters of 04_drift_report that the verdict depends on.

    Raises
    ------
    ParameterError
        When the notebook does not declare one of them, or a list of them is none that can be.
    """
    step = "04_drift_report"
    values = parameters.resolve(env, [step])[step]
    if missing := [name for name in POLICY if name not in values]:
        raise ParameterError(f"notebooks/{step}.ipynb does not declare {', '.join(missing)}.")
    persistence(values)
    return {name: values[name] for name in POLICY}


def installed(requirements: Path, *, this_python: bool) -> dict[str, bytes]:
    """Install a requirements.txt aside and return its files; notes of the installer, which differ each time, left out.

    Parameters
    ----------
    requirements : Path
        The file.
    this_python : bool
        For the interpreter at hand instead of Lambda's; what it has itself is left out.

    Returns
    -------
    dict of str to bytes

    Raises
    ------
    PlatformError
        With pip's last line when it fails.
    """
    if this_python and all(_is_there(line) for line in requirements.read_text(encoding="utf-8").splitlines()):
        return {}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        command += ["--target", folder, "--requirement", str(requirements), *(() if this_python else LAMBDA_PYTHON)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
            raise PlatformError(f"{requirements.parent.name}/{requirements.name} could not be installed: {said[-1]}")
        found = {path.relative_to(folder): path for path in Path(folder).rglob("*") if path.is_file()}
        return {
            name.as_posix(): path.read_bytes()
            for name, path in found.items()
            if "__pycache__" not in name.parts
            and name.parts[0] != "bin"
            and name.name not in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
        }


def _is_there(line: str) -> bool:
    """Whether a line of a requirements.txt asks for nothing that this interpreter has not."""
    line = line.partition("#")[0].strip()
    try:
        wanted = Requirement(line)
        return metadata.version(wanted.name) in wanted.specifier and not wanted.extras
    except (InvalidRequirement, metadata.PackageNotFoundError):
        return not line


def members(name: str, env: str, *, this_python: bool = False) -> dict[str, bytes]:
    """What goes into the zip file of a Lambda.

    Parameters
    ----------
    name : str
        Folder of ``lambdas/``.
    env : str
        Folder of ``params/``; decides the drift check's policy.json.
    this_python : bool, default=False
        As `installed`.

    Returns
    -------
    dict of str to bytes
        Contents by name inside the zip file.

    Raises
    ------
    PlatformError
        When the Lambda has no ``app.py``.
    """
    folder = LAMBDAS / name
    if not (folder / "app.py").is_file():
        raise PlatformError(f"lambdas/{name}/app.py is missing.")
    requirements = folder / "requirements.txt"
    found = installed(requirements, this_python=this_python) if requirements.is_file() else {}
    found |= {f"fraud/{path.name}": path.read_bytes() for path in PACKAGE.glob("*.py")}
    found |= {path.name: path.read_bytes() for path in folder.glob("*.py")}
    if name == "drift_check":
        found["policy.json"] = (json.dumps(policy(env), indent=1, sort_keys=True) + "\n").encode()
    return found


def content_hash(contents: Mapping[str, bytes]) -> str:
    """SHA-256 (first 16 hex digits) of names and contents; zip libraries may compress differently, this stays."""
    digest = hashlib.sha256()
    for name in sorted(contents):
        digest.update(f"{name}\0{len(contents[name])}\0".encode() + contents[name])
    return digest.hexdigest()[:16]


def zipped(contents: Mapping[str, bytes]) -> bytes:
    """Zip file of the contents: sorted, one fixed time, plain permissions."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # Unix, wherever it is built: else the permissions are not read
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, contents[name])
    return buffer.getvalue()


def bundle(env: str, out: Path, *, this_python: bool = False) -> dict[str, Path]:
    """Build the zip files of all Lambdas.

    Parameters
    ----------
    env : str
        Folder of ``params/``.
    out : Path
        Folder to write to; made when missing.
    this_python : bool, default=False
        As `installed`.

    Returns
    -------
    dict of str to Path
        ``<name>-<content hash>.zip`` by Lambda.
    """
    out.mkdir(parents=True, exist_ok=True)
    built = {}
    for name in NAMES:
        contents = members(name, env, this_python=this_python)
        built[name] = out / f"{name}-{content_hash(contents)}.zip"
        built[name].write_bytes(zipped(contents))
    return built


def main(arguments: list[str] | None = None) -> int:
    """Build from the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Build the zip files of the Lambdas.")
    parser.add_argument("--env", default="local", help="folder of params/")
    parser.add_argument("--out", type=Path, default=LAMBDAS.parent / "build", help="folder to write to")
    parser.add_argument("--this-python", action="store_true", help="install requirements for this interpreter")
    chosen = parser.parse_args(arguments)
    try:
        built = bundle(chosen.env, chosen.out, this_python=chosen.this_python)
    except FraudError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.exit_code
    sys.stdout.write(json.dumps({name: str(path) for name, path in built.items()}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
