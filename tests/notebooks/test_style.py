"""The notebooks' own rules: short, prose first, no logic, no outputs, parameters first, record last."""

import ast
import json

import pytest

from fraud.pipeline import parameters

STEPS = parameters.steps()


def cells(step, kind=None):
    found = json.loads((parameters.NOTEBOOKS / f"{step}.ipynb").read_text())["cells"]
    return [cell for cell in found if kind in (None, cell["cell_type"])]


def source(cell):
    return "".join(cell["source"])


def test_the_pipeline_is_four_notebooks():
    assert STEPS == ["01_merge_data", "02_train", "03_deploy", "04_drift_report"]


@pytest.mark.parametrize("step", STEPS)
def test_short(step):
    assert len(cells(step)) <= 30
    for cell in cells(step, "code"):
        if "parameters" not in cell["metadata"].get("tags", []):
            assert len(source(cell).splitlines()) <= 15, source(cell)


@pytest.mark.parametrize("step", STEPS)
def test_no_logic_in_cells(step):
    banned = (ast.FunctionDef, ast.ClassDef, ast.For, ast.While, ast.Try, ast.Lambda)
    for cell in cells(step, "code"):
        assert not [node for node in ast.walk(ast.parse(source(cell))) if isinstance(node, banned)], source(cell)


@pytest.mark.parametrize("step", STEPS)
def test_prose_carries_the_story(step):
    words = sum(len(source(cell).split()) for cell in cells(step, "markdown"))
    lines = sum(len(source(cell).splitlines()) for cell in cells(step, "code")[1:])
    assert words >= 2 * lines
    assert source(cells(step, "markdown")[0]).startswith(f"# {step[:2]} · ")
    assert "> " in source(cells(step, "markdown")[0]), "a notebook asks one question"


@pytest.mark.parametrize("step", STEPS)
def test_parameters_first_record_last(step):
    assert cells(step)[0]["metadata"]["tags"] == ["parameters"]
    assert source(cells(step)[-1]).startswith("run.record(")
    assert f'begin("{step}", globals())' in source(cells(step, "code")[1])


@pytest.mark.parametrize("step", STEPS)
def test_committed_without_outputs(step):
    for cell in cells(step, "code"):
        if "nbval-check-output" not in cell["metadata"].get("tags", []):
            assert cell["outputs"] == [] and cell["execution_count"] is None
