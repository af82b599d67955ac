"""The rules that the folders promise: who may import whom, what a Lambda carries, what the README says."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src"
DOMAIN = sorted((SRC / "fraud").glob("*.py"))
FOLDERS = ("pipeline", "training", "serving", "localaws", "demo")
ENTRY_POINTS = ("train", "inference", "compact")
STDLIB = set(sys.stdlib_module_names)


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} uses a relative import"
            names |= (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "fraud" else {node.module}
            )
    return names


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


@pytest.mark.parametrize("path", DOMAIN, ids=lambda path: path.name)
def test_files_of_fraud_import_the_standard_library_only(path):
    foreign = {name for name in imported(path) if name.split(".")[0] not in STDLIB | {"fraud"}}
    folders = {
        name for name in imported(path) if any(within(name, f"fraud.{f}") for f in ("pipeline", "localaws", "demo"))
    }
    assert not foreign, f"src/fraud/{path.name} imports {sorted(foreign)}; only the standard library may stand here"
    assert not folders, f"src/fraud/{path.name} imports {sorted(folders)}; the arrow points the other way"


@pytest.mark.parametrize("path", sorted((SRC / "fraud" / "pipeline").glob("**/*.py")), ids=lambda path: path.name)
def test_the_pipeline_does_not_know_the_local_aws(path):
    wrong = {name for name in imported(path) if within(name, "fraud.localaws") or name in ENTRY_POINTS}
    assert not wrong, f"{path.name} imports {sorted(wrong)}"


@pytest.mark.parametrize("path", sorted((SRC / "fraud" / "localaws").glob("**/*.py")), ids=lambda path: path.name)
def test_the_local_aws_imports_no_entry_point(path):
    wrong = {n for n in imported(path) if n in ENTRY_POINTS or within(n, "fraud.demo")}
    assert not wrong, f"{path.name} imports {sorted(wrong)}"


@pytest.mark.parametrize(
    ("place", "allowed"),
    [
        ("inference.py", {"serving"}),
        ("train.py", {"training", "serving"}),
        ("compact.py", {"pipeline"}),
        ("fraud/serving/*.py", {"serving"}),
        ("fraud/training/*.py", {"training", "serving"}),
    ],
)
def test_what_runs_in_the_container_imports_what_is_sent_there(place, allowed):
    for path in SRC.glob(place):
        wrong = {n for n in imported(path) if any(within(n, f"fraud.{f}") for f in set(FOLDERS) - allowed)}
        assert not wrong, path


@pytest.mark.parametrize(
    "path", sorted((ROOT / "lambdas").glob("*/*.py")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_lambdas_import_the_standard_library_boto_and_the_domain(path):
    own = {beside.stem for beside in path.parent.glob("*.py")}
    own |= {"numpy", "orjson"} if path.parent.name == "drift_check" else set()  # its requirements.txt
    foreign = {n for n in imported(path) if n.split(".")[0] not in STDLIB | {"fraud", "boto3", "botocore"} | own}
    folders = {n for n in imported(path) if any(within(n, f"fraud.{f}") for f in ("pipeline", "localaws", "demo"))}
    assert not foreign | folders


def test_nothing_unpickles():
    banned = {"pickle", "joblib", "cloudpickle", "dill", "shelve", "marshal"}
    for path in [*SRC.rglob("*.py"), *(ROOT / "lambdas").rglob("*.py")]:
        assert not {name.split(".")[0] for name in imported(path)} & banned, path
        assert "extractall" not in re.sub(r'""".*?"""|#.*', "", path.read_text(), flags=re.DOTALL), path


def test_no_s3_call_uses_the_default_bucket():
    for path in SRC.rglob("*.py"):
        assert ".default_bucket()" not in path.read_text(), path
