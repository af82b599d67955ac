"""A fresh checkout and a Python environment for each build, made in a fraction of a second from what is here.

The checkout holds what git would commit: tracked files as they stand on disk, and untracked ones that are not ignored.
The environment is an empty virtual environment whose last search path is the site-packages of the interpreter that
runs this: ``pip install -r requirements.lock`` finds all of it satisfied, while ``pip install -e .`` lands in the
overlay and so comes first. Neither the developer's tree nor the developer's environment is ever written to.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import stat
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from fraud.errors import PlatformError
from fraud.localaws.clean_environment import kept

SOURCE = "FRAUD_SOURCE"
_NEVER = frozenset({".git", ".venv", "venv", ".fraud", "node_modules", "__pycache__", ".ipynb_checkpoints"})
_CACHES = ("_cache", ".egg-info")


@dataclass(frozen=True)
class Revision:
    """What was checked out.

    Attributes
    ----------
    commit : str
        Hash of the commit, or of the files' content where there is no git.
    branch, message : str
        Of the commit; empty where there is none.
    changed : bool
        Whether files differ from the commit.
    files : int
        How many were copied.
    """

    commit: str
    branch: str
    message: str
    changed: bool
    files: int


def source_root() -> Path:
    """Return the repository to build: ``FRAUD_SOURCE``, else the one this package lies in.

    Raises
    ------
    PlatformError
        It has no buildspec.yml.
    """
    named = os.environ.get(SOURCE)
    if named:
        folder = Path(named).resolve()
        if not (folder / "buildspec.yml").is_file():
            raise PlatformError(f"{SOURCE} is {folder}, which has no buildspec.yml.")
        return folder
    for folder in Path(__file__).resolve().parents:
        if (folder / "buildspec.yml").is_file():
            return folder
    raise PlatformError(f"No buildspec.yml was found above the package; set {SOURCE} to a checkout of the repository.")


def checkout(source: Path, destination: Path) -> Revision:
    """Copy what git would commit of `source` into the new folder `destination`."""
    destination.mkdir(parents=True)
    root = destination.resolve()
    copied = 0
    digest = hashlib.sha256()
    for name in _names(source):
        origin = source / name
        target = destination / name
        try:
            mode = origin.lstat().st_mode
        except OSError:
            continue  # deleted, and not yet committed so
        if stat.S_ISDIR(mode) or root.is_relative_to(origin.absolute()):
            continue  # a repository within; ourselves
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(origin, target, follow_symlinks=False)
        digest.update(f"{name}\0{mode}\0".encode(errors="surrogateescape"))
        digest.update(str(target.readlink()).encode() if stat.S_ISLNK(mode) else target.read_bytes())
        copied += 1
    commit = _git(source, "rev-parse", "HEAD")
    return Revision(
        commit=commit or digest.hexdigest()[:40],
        branch=_git(source, "rev-parse", "--abbrev-ref", "HEAD") if commit else "",
        message=_git(source, "log", "-1", "--format=%s") if commit else "",
        changed=bool(commit and _git(source, "status", "--porcelain")),
        files=copied,
    )


def _names(source: Path) -> Iterator[str]:
    listed = _run_git(source, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    # A folder that lies in somebody else's repository, or that this repository ignores, lists nothing.
    if listed:
        yield from sorted({os.fsdecode(name) for name in listed.split(b"\0") if name})
        return
    for folder, folders, files in os.walk(source):
        folders[:] = sorted(name for name in folders if name not in _NEVER and not name.endswith(_CACHES))
        for name in sorted(files):
            yield (Path(folder) / name).relative_to(source).as_posix()


def _git(source: Path, *arguments: str) -> str:
    return os.fsdecode(_run_git(source, *arguments)).strip()


def _run_git(source: Path, *arguments: str) -> bytes:
    # git must not find another repository through variables of a hook that we were started from.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = "0"  # `status` must not touch the developer's index
    try:
        done = subprocess.run(
            ["git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", *arguments],
            cwd=source,
            env=environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return b""
    return done.stdout if done.returncode == 0 else b""


def overlay(folder: Path) -> Path:
    """Make the virtual environment `folder` over the interpreter that runs this; return its ``bin``.

    Raises
    ------
    PlatformError
        It cannot be made.
    """
    has_pip = importlib.util.find_spec("pip") is not None
    try:
        builder = venv.EnvBuilder(with_pip=not has_pip, symlinks=True, prompt="build")
        builder.create(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PlatformError(f"The build's Python environment {folder} could not be made: {error}") from None
    paths = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    # .pth files are read in order of name and each line is appended: after whatever pip installs in the overlay. The
    # .pth files over there are not read, so that a checkout installed there (pip install -e) does not come along.
    (site / "zz_parent.pth").write_text("".join(f"{path}\n" for path in paths))
    binaries = folder / "bin"
    _scripts(binaries)
    _jupyter(folder)
    return binaries


def _scripts(binaries: Path) -> None:
    """Give the overlay the commands of what is already installed, run by its own Python."""
    scripts = {"pip": "pip._internal.cli.main:main", "pip3": "pip._internal.cli.main:main"}
    for distribution in distributions():
        if _from_folder(distribution):
            continue  # the build installs it itself, or does not have it
        for entry in distribution.entry_points:
            if entry.group == "console_scripts" and "/" not in entry.name:
                scripts.setdefault(entry.name, entry.value)
    for name, value in scripts.items():
        module, _, rest = value.partition("[")[0].strip().partition(":")
        attribute = rest.strip().partition(".")[0]
        path = binaries / name
        if path.exists() or not attribute:
            continue
        path.write_text(
            f"#!/bin/sh\n'''exec' \"$(dirname \"$0\")/python\" \"$0\" \"$@\"\n' '''\n"
            f"import sys\nfrom {module.strip()} import {attribute}\nsys.exit({rest.strip()}())\n"
        )
        path.chmod(0o755)


def _from_folder(distribution: Distribution) -> bool:
    try:
        return "dir_info" in json.loads(distribution.read_text("direct_url.json") or "{}")
    except ValueError:
        return False


def _jupyter(folder: Path) -> None:
    """Let Jupyter find its templates, and let the kernel python3 be the overlay's own."""
    share = folder / "share" / "jupyter"
    kernel = share / "kernels" / "python3"
    kernel.mkdir(parents=True)
    command = [str(folder / "bin" / "python"), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(
        json.dumps({"argv": command, "display_name": "Python 3 (build)", "language": "python"})
    )
    parent = Path(sys.prefix) / "share" / "jupyter"
    for item in sorted(parent.iterdir()) if parent.is_dir() else ():
        if item.name != "kernels":
            (share / item.name).symlink_to(item)


def environment(binaries: Path) -> dict[str, str]:
    """Return the environment variables of a build: nothing of the developer's shell but what it needs to work."""
    # Without a virtual environment its bin is the system's, which a build needs.
    parent = {str(Path(sys.prefix) / "bin")} if sys.prefix != sys.base_prefix else set()
    path = [item for item in os.environ.get("PATH", os.defpath).split(os.pathsep) if item and item not in parent]
    return kept(os.environ) | {
        "PATH": os.pathsep.join([str(binaries), *path]),
        "VIRTUAL_ENV": str(binaries.parent),
        "PYTHONNOUSERSITE": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_INPUT": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_USER": "0",
    }


def prune(builds: Path, keep: int = 3, spare: frozenset[str] = frozenset()) -> list[str]:
    """Remove the folders of all but the newest `keep` builds, never those named in `spare`; return what went."""
    folders = sorted(
        (path for path in builds.iterdir() if path.is_dir() and not path.is_symlink()) if builds.is_dir() else (),
        key=lambda path: path.stat().st_mtime,
        reverse=True,
    )
    removed = []
    for path in folders[keep:]:
        if path.name not in spare:
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path.name)
    return removed
