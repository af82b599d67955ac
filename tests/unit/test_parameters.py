import papermill
import pytest
import yaml

from fraud.errors import ParameterError
from fraud.pipeline import parameters

STEPS = parameters.steps()


@pytest.fixture
def notebook(tmp_path, monkeypatch):
    """Write a notebook with one parameters cell and its params file; return a function that does."""
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    def write(cell, values=""):
        (tmp_path / "notebooks").mkdir(exist_ok=True)
        (tmp_path / "params" / "local").mkdir(parents=True, exist_ok=True)
        made = new_notebook(cells=[new_code_cell(cell, metadata={"tags": ["parameters"]})])
        nbformat.write(made, tmp_path / "notebooks" / "01_some.ipynb")
        (tmp_path / "params" / "local" / "01_some.yaml").write_text(values)
        monkeypatch.setattr(parameters, "NOTEBOOKS", tmp_path / "notebooks")
        monkeypatch.setattr(parameters, "PARAMS", tmp_path / "params")

    return write


CELL = (
    'rate: float = 0.5  # share (percent) [0, 1]\nkind: str = "a"  # which {a, b}\n'
    "names: list = []  # columns\nrounds: int = 3  # trees [1, 9]\non: bool = False  # whether"
)


@pytest.mark.parametrize("step", STEPS)
def test_papermill_sees_the_same_parameters_as_we_do(step):
    seen = papermill.inspect_notebook(str(parameters.NOTEBOOKS / f"{step}.ipynb"))
    mine = parameters.declared(step)
    assert list(seen) == list(mine)
    for name, item in mine.items():
        assert seen[name]["inferred_type_name"].partition("[")[0] == item.type
        assert seen[name]["help"] == item.help, "a second = or a | in the line?"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("env", parameters.environments())
def test_committed_params_fit_their_notebook(env, step):
    assert parameters.resolve(env, [step])[step]


@pytest.mark.parametrize("step", STEPS)
def test_defaults_lie_within_their_own_bounds(step):
    parameters.from_namespace(step, {name: item.default for name, item in parameters.declared(step).items()})


@pytest.mark.parametrize("step", STEPS)
def test_every_parameter_has_help(step):
    for name, item in parameters.declared(step).items():
        assert len(item.help) > 8, name


def test_params_hold_no_place():
    for path in parameters.PARAMS.rglob("*.yaml"):
        assert not {"bucket", "run_id", "role_arn", "kms_key_arn"} & set(yaml.safe_load(path.read_text()) or {}), path


def test_precedence_is_default_then_file_then_command_line(notebook):
    notebook(CELL, "rate: 0.25\nrounds: 4")
    assert parameters.resolve("local", ["01_some"], {"rounds": "5", "names": "x,y"})["01_some"] == {
        "rate": 0.25,
        "kind": "a",
        "names": ["x", "y"],
        "rounds": 5,
        "on": False,
    }


@pytest.mark.parametrize(
    ("values", "overrides", "words"),
    [
        ("ratte: 0.1", {}, ["params/local/01_some.yaml", "'ratte'", "did you mean rate?"]),
        ("zzz: 1", {}, ["'zzz'", "known are rate, kind"]),
        ("rate: high", {}, ["rate is 'high' (str)", "must be float"]),
        ("rounds: 2.5", {}, ["rounds is 2.5", "must be int"]),
        ("rounds: true", {}, ["rounds is True", "must be int"]),
        ("rounds: 99", {}, ["rounds is 99", "[1, 9]"]),
        ("rate: .nan", {}, ["rate is nan", "[0, 1]"]),
        ("kind: c", {}, ["kind is 'c'", "one of a, b"]),
        ("- 1", {}, ["must map names to values"]),
        ("a: [", {}, ["not valid YAML"]),
        ("", {"ratee": "1"}, ["--param: 'ratee'", "did you mean rate?"]),
        ("", {"rounds": "x"}, ["--param rounds", "'x'", "int"]),
    ],
)
def test_what_does_not_fit_is_one_sentence(notebook, values, overrides, words):
    notebook(CELL, values)
    with pytest.raises(ParameterError) as caught:
        parameters.resolve("local", ["01_some"], overrides)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_file_or_environment_is_named(notebook, tmp_path):
    notebook(CELL)
    with pytest.raises(ParameterError, match="There is no params/mars; choose one of local"):
        parameters.resolve("mars", ["01_some"])
    (tmp_path / "params" / "local" / "01_some.yaml").unlink()
    with pytest.raises(ParameterError, match="01_some.yaml is missing"):
        parameters.resolve("local", ["01_some"])


@pytest.mark.parametrize("cell", ["x = 1", "x: int", "x: complex = 1j", "import os"])
def test_a_parameters_cell_holds_parameters_only(notebook, cell):
    notebook(cell)
    with pytest.raises(ParameterError, match="01_some"):
        parameters.declared("01_some")
