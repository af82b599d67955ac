"""A build's checkout and environment: what is in them, and that nothing of the developer's is touched."""

import hashlib
import json
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from build_kit import Build

from fraud.errors import PlatformError
from fraud.localaws import checkout

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def build(tmp_path):
    return Build(tmp_path)


def git(folder, *arguments):
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(
        ["git", "-c", "user.name=n", "-c", "user.email=e@example.com", *arguments],
        cwd=folder, env=environment, check=True, capture_output=True,
    )  # fmt: skip


def test_a_checkout_is_what_git_would_commit(tmp_path):
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / ".gitignore").write_text("ignored*\n.fraud/\n")
    for name in ("tracked", "changed", "deleted", "ignored", "sub/ü ü"):
        (source / name).write_text("before")
    git(source, "init", "-b", "main")
    git(source, "add", ".")
    git(source, "commit", "-m", "The message")
    (source / "changed").write_text("after")
    (source / "deleted").unlink()
    (source / "fresh").write_text("fresh")
    (source / "link").symlink_to("tracked")
    index = (source / ".git" / "index").read_bytes()
    revision = checkout.checkout(source, source / ".fraud" / "builds" / "1")
    made = source / ".fraud" / "builds" / "1"
    names = {path.relative_to(made).as_posix() for path in made.rglob("*") if not path.is_dir()}
    assert names == {".gitignore", "tracked", "changed", "fresh", "link", "sub/ü ü"}
    assert (made / "changed").read_text() == "after" and (made / "link").is_symlink()
    assert len(revision.commit) == 40 and revision.changed and revision.files == 6
    assert (revision.branch, revision.message) == ("main", "The message")
    assert (source / ".git" / "index").read_bytes() == index, "not even git's index is written"


def test_a_checkout_without_git_leaves_caches_and_environments(tmp_path):
    source = tmp_path / "source"
    for name in ("code.py", ".venv/x", "a/__pycache__/x", ".fraud/local/x", ".pytest_cache/x", "p.egg-info/x", "a/b"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    revision = checkout.checkout(source, tmp_path / "made")
    assert revision.files == 2 and (tmp_path / "made" / "a" / "b").is_file()
    assert revision.commit == checkout.checkout(source, tmp_path / "again").commit != ""
    (source / "code.py").write_text("other")
    assert revision.commit != checkout.checkout(source, tmp_path / "third").commit


def test_the_source_is_the_repository_of_this_package(monkeypatch, tmp_path):
    monkeypatch.delenv(checkout.SOURCE, raising=False)
    assert checkout.source_root() == ROOT
    monkeypatch.setenv(checkout.SOURCE, str(tmp_path))
    with pytest.raises(PlatformError, match=r"has no buildspec\.yml"):
        checkout.source_root()
    (tmp_path / "buildspec.yml").touch()
    assert checkout.source_root() == tmp_path


def test_old_builds_are_pruned(tmp_path):
    for age, name in enumerate(["newest", "second", "third", "running", "oldest"]):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    (tmp_path / "link").symlink_to(ROOT)
    assert checkout.prune(tmp_path, 3, frozenset({"running"})) == ["oldest"]
    assert {path.name for path in tmp_path.iterdir()} == {"newest", "second", "third", "running", "link"}
    assert checkout.prune(tmp_path / "none") == []


PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "fraud-loop"
version = "9.9.9"
[project.scripts]
fraud = "fraud:main"
[tool.setuptools.packages.find]
where = ["src"]
"""


def fingerprint(*folders):
    """Every file of the folders with size and time, but for bytecode."""
    digest = hashlib.sha256()
    for folder in folders:
        for where, names, files in os.walk(folder):
            names[:] = sorted(name for name in names if name != "__pycache__")
            for name in sorted(files):
                status = os.lstat(os.path.join(where, name))  # noqa: PTH118
                digest.update(f"{where}/{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def test_a_build_installs_the_checkout_over_what_is_there_and_touches_nothing_else(build):
    """The parent is itself an editable install of another tree; the build's `fraud` must be the checkout's."""
    package = build.source / "src" / "fraud"
    package.mkdir(parents=True)
    (build.source / "pyproject.toml").write_text(PROJECT)
    (package / "__init__.py").write_text("def main():\n    print('the fraud of the checkout', __file__)\n")
    (build.source / "requirements.lock").write_text(
        f"setuptools=={version('setuptools')} --hash=sha256:{'0' * 64}\n"  # satisfied, so never fetched
    )
    site = Path(next(path for path in sys.path if path.endswith("site-packages")))
    before = fingerprint(site, Path(sys.prefix) / "bin", build.source / "src")
    text = f"""
phases:
  install:
    commands:
      - 'test ! -e "$VIRTUAL_ENV/bin/fraud" && test "$(command -v fraud)" != "{Path(sys.prefix) / "bin" / "fraud"}"'
      - python -c "import importlib.util as u, sys; s = u.find_spec('fraud'); sys.exit(s and '{ROOT}/src' in s.origin)"
      - python -m pip install --require-hashes -r requirements.lock
      - python -m pip install --no-deps --no-build-isolation -e .
  build:
    commands:
      - fraud
      - for program in fraud python pip pytest; do command -v $program; done
      - python -c "import json, sys, boto3, psutil; print(json.dumps(sys.path)); print(boto3.__file__)"
      - python -c "import subprocess, sys; print(subprocess.check_output([sys.executable, '-m', 'pip', '-V']).decode())"
      - pytest --version && pip --version
      - jupyter kernelspec list --json
"""
    started = time.monotonic()
    result = build(text, environment=[{"name": "PIP_INDEX_URL", "value": "http://127.0.0.1:9/simple"}])
    seconds = time.monotonic() - started
    assert result["status"] == "SUCCEEDED", build.log()
    output = "\n".join(build.output())
    made = build.folder_of_build
    assert f"the fraud of the checkout {made}/src/src/fraud/__init__.py" in output
    for program in ("fraud", "python", "pip", "pytest"):
        assert f"{made}/venv/bin/{program}\n" in output
    paths = json.loads(next(line for line in build.output() if line.startswith('["')))
    overlay_site = next(path for path in paths if path.startswith(str(made / "venv")))
    assert paths.index(overlay_site) < paths.index(f"{made}/src/src") < paths.index(str(site))
    assert not [path for path in paths if path.startswith(str(ROOT / "src"))], "nothing of the developer's tree"
    assert f"{made}/venv/bin/python" in output, "the kernel is the overlay's"
    assert fingerprint(site, Path(sys.prefix) / "bin", build.source / "src") == before
    assert sorted(path.name for path in build.source.iterdir()) == [
        "buildspec.yml",
        "pyproject.toml",
        "requirements.lock",
        "src",
    ]
    assert seconds < 60


def test_a_copy_installed_in_the_parent_does_not_win(tmp_path, monkeypatch):
    """The parent holds a plain, not editable, `fraud`: what the overlay has comes first all the same."""
    parent = tmp_path / "parent" / "site-packages"
    (parent / "fraud").mkdir(parents=True)
    (parent / "fraud" / "__init__.py").write_text("origin = 'parent'\n")
    (parent / "only_there.py").touch()
    (parent / "leak.pth").write_text("import sys; sys.leaked = True\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(parent)])
    binaries = checkout.overlay(tmp_path / "venv")
    tree = tmp_path / "tree"
    (tree / "fraud").mkdir(parents=True)
    (tree / "fraud" / "__init__.py").write_text("origin = 'checkout'\n")
    (next((tmp_path / "venv" / "lib").iterdir()) / "site-packages" / "__editable__.fraud.pth").write_text(f"{tree}\n")
    code = "import fraud, only_there, sys; print(fraud.origin, hasattr(sys, 'leaked'))"
    done = subprocess.run(
        [binaries / "python", "-c", code],
        env=checkout.environment(binaries),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["checkout", "False"]


def test_an_overlay_costs_little(tmp_path):
    started = time.monotonic()
    checkout.overlay(tmp_path / "venv")
    assert time.monotonic() - started < 5, "it is measured at a tenth of a second"
