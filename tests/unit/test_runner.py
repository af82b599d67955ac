"""The runner on small notebooks of its own, against S3 in process."""

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import boto3
import nbformat
import psutil
import pytest
from moto import mock_aws
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from fraud.errors import ParameterError, PlatformError
from fraud.pipeline import parameters, runner, runs, where

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:.*does not support.*:UserWarning"),
]

FIRST = "import json\nprint('figures')"


@pytest.fixture
def house(tmp_path, monkeypatch):
    """Two notebooks, their params, a bucket; returns a function that sets the second notebook's code."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "FRAUD_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("FRAUD_BUCKET", "house")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "params" / "local").mkdir(parents=True)
    for name, folder in (("NOTEBOOKS", "notebooks"), ("PARAMS", "params")):
        monkeypatch.setattr(parameters, name, tmp_path / folder)
    monkeypatch.setattr(parameters, "ROOT", tmp_path)
    monkeypatch.setattr(runner, "REPORTS", tmp_path / "reports")

    def write(step, code):
        cell = 'bucket: str = ""  # where\nrun_id: str = ""  # which run\n'
        cell += 'endpoint_name: str = "shop"  # whose\nas_of: str = ""  # moment\nn: int = 1  # how many [1, 9]'
        made = new_notebook(
            cells=[
                new_code_cell(cell, metadata={"tags": ["parameters"]}),
                new_markdown_cell(f"# {step}"),
                new_code_cell(code),
            ],
            metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        )
        nbformat.write(made, tmp_path / "notebooks" / f"{step}.ipynb")
        (tmp_path / "params" / "local" / f"{step}.yaml").write_text("n: 2\n")

    write("01_first", FIRST)
    write("02_second", FIRST)
    with mock_aws():
        where.client.cache_clear()
        where.where.cache_clear()
        boto3.client("s3").create_bucket(Bucket="house", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        yield write
    where.client.cache_clear()
    where.where.cache_clear()


def keys():
    return sorted(i["Key"] for i in boto3.client("s3").list_objects_v2(Bucket="house").get("Contents", []))


def put(key, body):
    boto3.client("s3").put_object(Bucket="house", Key=key, Body=body)


def get(key):
    return boto3.client("s3").get_object(Bucket="house", Key=key)["Body"].read()


def test_archives_notebook_and_report_and_commits_once_all_recorded(house, tmp_path):
    for step in ("01_first", "02_second"):
        put(f"runs/r1/{step}.json", b"{}")
    lines = []
    runner.run("local", run_id="r1", echo=lines.append)
    assert keys() == [
        "runs/r1/01_first.html",
        "runs/r1/01_first.ipynb",
        "runs/r1/01_first.json",
        "runs/r1/02_second.html",
        "runs/r1/02_second.ipynb",
        "runs/r1/02_second.json",
        "runs/r1/COMMITTED",
        "runs/r1/params.json",
    ]
    assert "<title>shop · 01_first · r1</title>" in get("runs/r1/01_first.html").decode()
    assert b"figures" in get("runs/r1/01_first.html") and b"import json" not in get("runs/r1/01_first.html")
    assert (tmp_path / "reports" / "r1" / "02_second.html").exists()
    injected = nbformat.reads(get("runs/r1/01_first.ipynb").decode(), as_version=4).metadata.papermill.parameters
    assert injected["n"] == 2 and injected["run_id"] == "r1" and injected["as_of"].endswith("Z")
    assert ET.parse(tmp_path / "reports" / "run.xml").getroot().get("tests") == "2"
    assert any("✓ 01_first" in line for line in lines)
    with pytest.raises(ParameterError, match="committed already"):
        runner.run("local", run_id="r1")


def test_what_a_notebook_warns_of_stands_on_the_console_beside_its_mark(house):
    put("runs/r1/01_first.json", json.dumps({"warnings": ["labels/bank.csv: nothing of it\n\x1b[2J"]}).encode())
    lines = []
    runner.run("local", run_id="r1", only=["01_first"], echo=lines.append)
    assert lines[-2].startswith("✓ 01_first") and lines[-1] == "! labels/bank.csv: nothing of it ⟨U+001B⟩[2J"


def test_without_records_nothing_is_committed(house):
    runner.run("local", run_id="r1")
    assert "runs/r1/COMMITTED" not in keys()


def test_a_failing_cell_is_archived_named_last_and_stops_the_run(house, tmp_path):
    house("02_second", "raise ValueError('the reason')")
    with pytest.raises(runner.StepFailed, match=r"02_second, cell \d+: ValueError: the reason") as caught:
        runner.run("local", run_id="r1")
    assert caught.value.exit_code == 1
    assert b"the reason" in get("runs/r1/02_second.html")
    assert "runs/r1/COMMITTED" not in keys()
    failure = ET.parse(tmp_path / "reports" / "run.xml").getroot().find("testcase/failure")
    assert "the reason" in failure.get("message")


def test_the_users_mistake_keeps_its_exit_code(house):
    house("01_first", "from fraud.errors import DataError\nraise DataError('row 7')")
    with pytest.raises(runner.StepFailed) as caught:
        runner.run("local", run_id="r1")
    assert caught.value.exit_code == 2


def test_resumes_from_a_step_with_the_same_moment(house):
    runner.run("local", run_id="r1", only=["01"])
    moment = json.loads(get("runs/r1/params.json"))["as_of"]
    runner.run("local", run_id="r1", first="02")
    notebook = nbformat.reads(get("runs/r1/02_second.ipynb").decode(), as_version=4)
    assert notebook.metadata.papermill.parameters["as_of"] == moment


def test_a_repeated_run_with_other_parameters_is_refused(house):
    runner.run("local", run_id="r1", only=["01"])
    with pytest.raises(ParameterError, match=r"began with other parameters for 01_first \(n\)"):
        runner.run("local", run_id="r1", overrides={"n": "3"})


def test_everything_is_checked_before_the_first_call(house):
    with pytest.raises(ParameterError, match="n is 99"):
        runner.run("local", run_id="r1", overrides={"n": "99"})
    for bad in ("Capital", "a/b", "../x", "x" * 41):
        with pytest.raises(ParameterError, match="run_id"):
            runner.run("local", run_id=bad)
    assert keys() == []


@pytest.mark.parametrize(
    ("only", "first", "steps"),
    [
        ([], "", ["01_first", "02_second"]),
        (["02"], "", ["02_second"]),
        ([], "02_second", ["02_second"]),
    ],
)
def test_choose(house, only, first, steps):
    assert runner.choose(only, first) == steps


@pytest.mark.parametrize(("only", "first"), [(["9"], ""), ([], "first"), (["01"], "02")])
def test_choose_refuses(house, only, first):
    with pytest.raises(ParameterError):
        runner.choose(only, first)


def test_a_cell_that_takes_too_long_is_stopped(house):
    house("01_first", "import time\ntime.sleep(60)")
    with pytest.raises(Exception, match="(?i)timeout|timed out|longer than"):
        runner.run("local", run_id="r1", cell_timeout=2)
    assert runner.stop_kernels() == 0


def test_a_run_that_takes_too_long_is_stopped(house):
    house("01_first", "import time\ntime.sleep(60)")
    began = time.monotonic()
    with pytest.raises(runner.StepFailed, match="longer than 3 s"):
        runner.run("local", run_id="r1", timeout=3)
    assert time.monotonic() - began < 30
    assert runner.stop_kernels() == 0


WHERE_IT_LISTENS = """
import json, os
from ipykernel.connect import get_connection_info
address = json.loads(get_connection_info())
folder = os.path.dirname(address["ip"])
found = {"transport": address["transport"], "folder": folder, "mode": os.stat(folder).st_mode & 0o777}
with open("heard.json", "a") as file:
    file.write(json.dumps(found | {"sockets": len(os.listdir(folder)), "here": os.listdir()}) + "\\n")
"""


def test_each_kernel_listens_in_a_folder_of_its_own(house, tmp_path):
    """Two runs from one checkout would otherwise pick the same names for their sockets."""
    house("01_first", WHERE_IT_LISTENS)
    house("02_second", WHERE_IT_LISTENS)
    runner.run("local", run_id="r1")
    first, second = map(json.loads, (tmp_path / "heard.json").read_text().splitlines())
    assert first["folder"] != second["folder"]
    for kernel in (first, second):
        assert (kernel["transport"], kernel["mode"]) == ("ipc", 0o700) and kernel["sockets"] >= 5
        assert not [name for name in kernel["here"] if "ipc" in name]
        assert not os.path.exists(kernel["folder"])  # noqa: PTH110


def test_a_long_path_of_temporary_files_is_too_long_for_a_socket(house, tmp_path, monkeypatch):
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    monkeypatch.setattr(runner.tempfile, "tempdir", str(folder))
    house("01_first", WHERE_IT_LISTENS)
    runner.run("local", run_id="r1", only=["01"])
    assert json.loads((tmp_path / "heard.json").read_text())["transport"] == "ipc"


INTERRUPTED = """
import sys
import test_runner
from fraud.pipeline import parameters, runner
import pathlib, os, boto3
from moto import mock_aws
folder = pathlib.Path(sys.argv[1])
parameters.NOTEBOOKS, parameters.PARAMS, parameters.ROOT = folder / "notebooks", folder / "params", folder
runner.REPORTS = folder / "reports"
with mock_aws():
    boto3.client("s3").create_bucket(Bucket="house", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    runner.run("local", run_id="r1", echo=lambda line: print(line, flush=True))
"""


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_no_kernel_survives(house, tmp_path, by):
    house("01_first", "import os\nopen('pid', 'w').write(str(os.getpid()))\nimport time\ntime.sleep(120)")
    here = os.path.dirname(__file__)  # noqa: PTH120
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": here},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    mark, end = tmp_path / "pid", time.monotonic() + 60
    while not (mark.exists() and mark.read_text()) and time.monotonic() < end:
        time.sleep(0.1)
    kernel = int(mark.read_text())
    assert psutil.pid_exists(kernel)
    child.send_signal(by)
    child.wait(timeout=30)
    end = time.monotonic() + 15  # a kernel whose parent was killed finds out by looking
    while psutil.pid_exists(kernel) and time.monotonic() < end:
        time.sleep(0.2)
    assert not psutil.pid_exists(kernel)


@pytest.fixture
def told(monkeypatch):
    """What the runner has others do after a step, in order."""
    calls = []
    for name in ("report", "finished", "failed"):
        monkeypatch.setattr(runner.outbox, name, lambda run, *given, name=name: calls.append((name, *given[:-1])))
    monkeypatch.setattr(
        runner.history_page, "publish", lambda run, folder, echo: calls.append(("publish", folder.name))
    )
    return calls


def test_a_finished_run_says_so_once_and_its_report_is_published_first(house, told, monkeypatch):
    monkeypatch.setattr(runner, "REPORT", "02_second")
    runner.run("local", run_id="r1")
    steps = ["01_first", "02_second"]
    assert told == [("publish", "reports"), ("report", steps), ("finished", steps)]


def test_a_failed_run_says_which_notebook_and_why(house, told):
    house("02_second", "raise ValueError('the reason')")
    with pytest.raises(runner.StepFailed):
        runner.run("local", run_id="r1")
    ((kind, step, error),) = told
    assert (kind, step) == ("failed", "02_second") and error.endswith("ValueError: the reason")


def test_a_run_that_takes_too_long_says_so(house, told):
    house("02_second", "import time\ntime.sleep(60)")
    with pytest.raises(runner.StepFailed, match="longer than 8 s"):
        runner.run("local", run_id="r1", only=["02"], timeout=8)
    assert told == [("failed", "02_second", "The run took longer than 8 s (--timeout) and was stopped.")]


# ------------------------------------------------------------------------------------------------ whose deployment


@pytest.fixture
def prod(house, tmp_path, monkeypatch):
    """The deployment is one of prod, as infra/app.yml says it."""
    (tmp_path / "params" / "prod").mkdir()
    for step in ("01_first", "02_second"):
        (tmp_path / "params" / "prod" / f"{step}.yaml").write_text("n: 7\n")
    monkeypatch.delenv("FRAUD_BUCKET")
    house("01_first", "")
    said = {"bucket": "house", "environment": "prod", "endpoint_name": "shop"}
    boto3.client("ssm").put_parameter(Name=where.PARAMETER, Value=json.dumps(said), Type="String")


def test_a_run_takes_environment_and_endpoint_from_the_deployment(prod):
    lines = []
    runner.run("", run_id="r1", only=["01"], echo=lines.append)
    assert "with params/prod" in lines[0]
    assert json.loads(get("runs/r1/params.json"))["steps"]["01_first"] == {
        "as_of": "",
        "endpoint_name": "shop",
        "n": 7,
    }


def test_another_environment_or_endpoint_than_the_deployments_is_refused_before_anything_runs(prod, monkeypatch):
    with pytest.raises(ParameterError, match="The environment 'local' is not this deployment's, which is 'prod'"):
        runner.run("local", run_id="r1")
    with pytest.raises(ParameterError, match="The endpoint 'fraud' is not this deployment's, which is 'shop'"):
        runner.run("prod", run_id="r1", overrides={"endpoint_name": "fraud"})
    assert keys() == []
    monkeypatch.setenv("FRAUD_ENDPOINT_NAME", "fraud")
    where.where.cache_clear()
    with pytest.raises(PlatformError, match="FRAUD_ENDPOINT_NAME is 'fraud', but the deployment in eu-west-1 says"):
        runner.run("prod", run_id="r1")
    monkeypatch.setenv("FRAUD_ENDPOINT_NAME", "shop")
    where.where.cache_clear()
    assert where.where().endpoint_name == "shop"


def test_a_notebook_by_hand_works_on_the_deployments_endpoint_and_no_other(prod):
    given = {"bucket": "", "run_id": "", "endpoint_name": "", "as_of": "", "n": 1}
    assert runs.begin("01_first", given)[1].endpoint_name == "shop"
    with pytest.raises(ParameterError, match="The endpoint 'fraud' is not this deployment's"):
        runs.begin("01_first", given | {"endpoint_name": "fraud"})


def test_a_notebook_by_hand_takes_what_params_of_the_environment_say_unless_a_person_changed_it(prod, capsys):
    by_hand = {"bucket": "", "run_id": "", "endpoint_name": "", "as_of": "", "n": 1}
    assert runs.begin("01_first", by_hand)[1].n == 7
    assert capsys.readouterr().out == "params/prod: n = 7\n"
    assert runs.begin("01_first", by_hand | {"n": 3})[1].n == 3
    by_runner = by_hand | {"bucket": "house", "run_id": "r1"}
    assert runs.begin("01_first", by_runner)[1].n == 1, "-p n=1 stays"
    assert capsys.readouterr().out == ""


def test_where_nothing_is_deployed_the_environment_must_be_named(house):
    with pytest.raises(ParameterError, match=r"Nothing says which environment this is: name it \(--env"):
        runner.run("", run_id="r1")
