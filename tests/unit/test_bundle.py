"""The Lambdas' zip files: small, the same bytes from the same source, nothing in them but what they need."""

import importlib.util
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from fraud import decision, performance, verdict
from fraud.errors import ParameterError, PlatformError
from fraud.pipeline import parameters

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "lambdas" / "bundle.py"
RULES = {  # what 04 declares of the policy, without what params/ changes
    "window_hours": 24, "min_records": 500, "mean_shift_threshold": 0.3, "mean_shift_features": [],
    "psi_threshold": 0.25, "ks_threshold": 0.1, "missing_threshold": 0.1, "unseen_threshold": 0.06,
    "repeated_threshold": 0.06, "review_rate_threshold": 0.06, "fraud_rate_threshold": 0.3, "recall_threshold": 0.15,
    "auc_threshold": 0.05, "min_truth": 500, "false_alarm_rate": 0.001, "min_importance": 0.05, "persistence": [2, 3],
    "season": False, "max_caller_share": 0.05, "cool_down_hours": 24.0, "daily_cap": 2, "min_new_labels": 100,
}  # fmt: skip
CELL = "".join(f"{name}: {type(value).__name__} = {value!r}  # A rule\n" for name, value in RULES.items()) + (
    'report_title: str = "Drift"  # Not the drift check\'s business\n'
)


@pytest.fixture
def bundle():
    spec = importlib.util.spec_from_file_location("bundle", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def repository(tmp_path, monkeypatch, bundle):
    """Two small Lambdas and a 04 notebook, beside the real package."""
    for name in bundle.NAMES:
        folder = tmp_path / "lambdas" / name
        folder.mkdir(parents=True)
        (folder / "app.py").write_text(f'import fraud.errors\n\ndef handler(event, context):\n    return "{name}"\n')
    (tmp_path / "params" / "local").mkdir(parents=True)
    (tmp_path / "params" / "local" / "04_drift_report.yaml").write_text("min_records: 300\ncool_down_hours: 1\n")
    (tmp_path / "notebooks").mkdir()
    write_notebook(tmp_path, CELL)
    monkeypatch.setattr(bundle, "LAMBDAS", tmp_path / "lambdas")
    monkeypatch.setattr(parameters, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(parameters, "PARAMS", tmp_path / "params")
    return tmp_path


def write_notebook(repository, cell):
    cells = [{"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": cell}]
    (repository / "notebooks" / "04_drift_report.ipynb").write_text(json.dumps({"cells": cells}))


def names(path):
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_a_zip_holds_the_app_and_the_files_of_the_package_only(bundle, repository):
    built = bundle.bundle("local", repository / "build")
    package = sorted(f"fraud/{path.name}" for path in (ROOT / "src" / "fraud").glob("*.py"))
    assert names(built["inference"]) == sorted(["app.py", *package])
    assert names(built["drift_check"]) == sorted(["app.py", "policy.json", *package])
    assert all(path.stat().st_size < 200_000 for path in built.values())


def test_the_same_source_gives_the_same_bytes_at_another_time_and_place(bundle, repository, monkeypatch):
    first = bundle.bundle("local", repository / "one")
    monkeypatch.chdir("/")
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    for path in (repository / "lambdas").rglob("*.py"):
        os.utime(path, (1_900_000_000, 1_900_000_000))
        path.chmod(0o600)
    second = bundle.bundle("local", repository / "two")
    for name in bundle.NAMES:
        assert first[name].name == second[name].name
        assert first[name].read_bytes() == second[name].read_bytes()


def test_a_changed_source_changes_the_name_of_its_zip_only(bundle, repository):
    before = bundle.bundle("local", repository / "build")
    with (repository / "lambdas" / "inference" / "app.py").open("a") as file:
        file.write("# changed\n")
    after = bundle.bundle("local", repository / "build")
    assert after["inference"].name != before["inference"].name
    assert after["drift_check"].name == before["drift_check"].name


def test_names_and_contents_cannot_be_mixed_up_in_the_hash(bundle):
    assert bundle.content_hash({"a": b"bc"}) != bundle.content_hash({"ab": b"c"})
    assert bundle.content_hash({"a": b"1", "b": b"2"}) == bundle.content_hash({"b": b"2", "a": b"1"})


def test_lambda_can_read_what_is_in_the_zip(bundle):
    with zipfile.ZipFile(io.BytesIO(bundle.zipped({"app.py": b"x = 1"}))) as archive:
        entry = archive.infolist()[0]
    assert entry.external_attr >> 16 == 0o100644
    assert entry.create_system == 3


def test_the_policy_is_what_04_would_run_with(bundle, repository):
    with zipfile.ZipFile(bundle.bundle("local", repository / "build")["drift_check"]) as archive:
        policy = json.loads(archive.read("policy.json"))
    assert policy == RULES | {"min_records": 300, "cool_down_hours": 1.0}


def test_a_policy_that_is_not_complete_is_refused(bundle, repository):
    write_notebook(repository, CELL.replace("psi_threshold:", "psy_threshold:"))
    with pytest.raises(ParameterError, match="does not declare psi_threshold"):
        bundle.bundle("local", repository / "build")


def test_a_lambda_without_app_is_refused(bundle, repository):
    (repository / "lambdas" / "inference" / "app.py").unlink()
    with pytest.raises(PlatformError, match=r"lambdas/inference/app\.py is missing"):
        bundle.bundle("local", repository / "build")


def test_requirements_of_its_own_are_carried_without_the_installers_notes(bundle, repository, tmp_path):
    package = tmp_path / "tiny"
    package.mkdir()
    (package / "tiny.py").write_text("x = 1\n")
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "tiny"\nversion = "1"\n'
    )
    (package / "backend.py").write_text(WHEEL)
    (repository / "lambdas" / "inference" / "requirements.txt").write_text(f"{package}\n")
    found = bundle.members("inference", "local", this_python=True)
    assert found["tiny.py"] == b"x = 1\n"
    assert not [name for name in found if name.endswith(("RECORD", "INSTALLER", "direct_url.json", ".pyc"))]
    assert found == bundle.members("inference", "local", this_python=True)


# A build backend without dependencies, so that this needs no network.
WHEEL = """
import pathlib, zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as file:
        file.writestr("tiny.py", "x = 1\\n")
        file.writestr("tiny-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1\\n")
        file.writestr("tiny-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        file.writestr("tiny-1.dist-info/RECORD", "tiny.py,,\\n")
    return name
"""


def test_requirements_that_cannot_be_installed_say_so(bundle, repository):
    (repository / "lambdas" / "inference" / "requirements.txt").write_text("./no-such-folder\n")
    with pytest.raises(PlatformError, match=r"inference/requirements\.txt could not be installed: .*no-such-folder"):
        bundle.members("inference", "local")


def test_the_package_in_the_zip_runs_on_the_standard_library_alone(bundle, repository):
    built = bundle.bundle("local", repository / "build")["inference"]
    modules = [name[:-3].replace("/", ".") for name in names(built) if name.startswith("fraud/") and "__" not in name]
    code = (
        f"import sys; sys.path.insert(0, {str(built)!r}); import app, {', '.join(modules)}; print(app.handler({{}}, 0))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.stdout == "inference\n", done.stderr


def test_every_lambda_of_the_repository_is_bundled(bundle):
    assert {path.parent.name for path in (ROOT / "lambdas").glob("*/app.py")} <= set(bundle.NAMES)


def test_the_command_line_says_what_is_wrong_in_one_line(tmp_path):
    command = [sys.executable, str(SCRIPT), "--env", "nowhere", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1


def test_every_module_beside_the_app_is_carried(bundle, repository):
    (repository / "lambdas" / "drift_check" / "hourly.py").write_text("x = 1\n")
    built = bundle.bundle("local", repository / "build")
    assert {"app.py", "hourly.py"} <= set(names(built["drift_check"]))
    assert "hourly.py" not in names(built["inference"])


def test_what_the_interpreter_at_hand_has_is_not_installed_again(bundle, repository, monkeypatch):
    requirements = repository / "lambdas" / "inference" / "requirements.txt"
    requirements.write_text("# counting\nnumpy>=1\n\npytest>=1,<1000  # any\n")
    monkeypatch.setattr(bundle.subprocess, "run", None)  # nothing may be started
    assert bundle.installed(requirements, this_python=True) == {}
    for line in ("numpy<1", "no-such-package-anywhere", "numpy[extra]", "./folder"):
        requirements.write_text(f"pytest\n{line}\n")
        with pytest.raises(TypeError):
            bundle.installed(requirements, this_python=True)


def test_what_the_drift_check_counts_with_is_here_and_for_lambda(bundle):
    requirements = ROOT / "lambdas" / "drift_check" / "requirements.txt"
    assert [line.split(">=")[0] for line in requirements.read_text().split()] == ["numpy", "orjson"]
    assert bundle.installed(requirements, this_python=True) == {}


def test_what_holds_where_a_policy_is_silent_is_what_04_declares():
    declared = parameters.resolve("staging", ["04_drift_report"])["04_drift_report"]
    for module in (decision, performance, verdict):
        for name, value in module.POLICY.items():
            assert value == declared.get(name), f"{module.__name__}: {name}"
