"""Whatever stands in the shell: the local AWS's commands and processes see the local AWS alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from localaws_kit import LocalAws

from fraud.localaws.children import MARK
from fraud.localaws.clean_environment import changes, clean, kept, set_aside
from fraud.localaws.supervisor import aws_variables

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parents[2]
AWS = aws_variables(4566, 4570)
ELSEWHERE = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
    "AWS_ENDPOINT_URL_SSM": "http://127.0.0.1:1",
    "AWS_ENDPOINT_URL_LAMBDA": "http://127.0.0.1:1",
    "AWS_ENDPOINT_URL_CLOUDFORMATION": "http://127.0.0.1:1",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
    "AWS_PROFILE": "absent",
    "AWS_DEFAULT_PROFILE": "absent",
    "AWS_CONFIG_FILE": "{home}/.aws/config",
    "AWS_SHARED_CREDENTIALS_FILE": "{home}/.aws/credentials",
    "AWS_ACCESS_KEY_ID": "AKIAELSEWHERE",
    "AWS_SESSION_TOKEN": "elsewhere-token",
    "AWS_REGION": "us-gov-west-1",
    "AWS_DEFAULT_REGION": "us-gov-west-1",
    "AWS_USE_FIPS_ENDPOINT": "true",
    "AWS_USE_DUALSTACK_ENDPOINT": "true",
    "AWS_CA_BUNDLE": "/absent/ca.pem",
    "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/elsewhere",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "/absent/token",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/credentials",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/credentials",
    "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT": "legacy",
    "AWS_S3_DISABLE_MULTIREGION_ACCESS_POINTS": "true",
    "AWS_STS_REGIONAL_ENDPOINTS": "legacy",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "WHEN_REQUIRED",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "WHEN_REQUIRED",
    "AWS_MAX_ATTEMPTS": "elsewhere",
    "AWS_DATA_PATH": "/absent/models",
    "AWS_SOMETHING_OF_TOMORROW": "elsewhere",
    "BOTO_CONFIG": "/absent/boto",
    "SM_TRAINING_ENV": "elsewhere",
    "SAGEMAKER_BASE_DIR": "/absent/sagemaker",
    "SAGEMAKER_ADMIN_CONFIG_OVERRIDE": "/absent/sagemaker.yaml",
    "TRAINING_JOB_NAME": "elsewhere",
    "FRAUD_BUCKET": "elsewhere",
    "FRAUD_ENV": "elsewhere",
    "FRAUD_TRAIN_ROLE_ARN": "arn:aws:iam::123456789012:role/elsewhere",
    "PYTHONSTARTUP": "/absent/startup.py",
    "PYTHONWARNINGS": "error",
    "GIT_DIR": "/absent/git",
    "GIT_WORK_TREE": "/absent/tree",
    "GIT_CONFIG_GLOBAL": "/absent/gitconfig",
    "SSL_CERT_FILE": "/absent/ca.pem",
    "REQUESTS_CA_BUNDLE": "/absent/ca.pem",
}
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
CONFIG = """\
[default]
endpoint_url = http://127.0.0.1:1
region = us-gov-west-1
use_fips_endpoint = true
services = elsewhere
s3 =
    use_accelerate_endpoint = true
    addressing_style = virtual
    use_dualstack_endpoint = true
[services elsewhere]
s3 =
    endpoint_url = http://127.0.0.1:1
ssm =
    endpoint_url = http://127.0.0.1:1
"""
ASK = """\
import boto3
assert boto3.client("s3").list_buckets()["Buckets"] is not None
boto3.client("s3").head_bucket(Bucket="{bucket}")
boto3.client("ssm").describe_parameters()
boto3.client("sts").get_caller_identity()
boto3.client("sagemaker").list_models()
print("answered")
"""


class Sink:
    """A proxy that answers nothing and counts who came."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(2)
                self.asked.append(connection.recv(200))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)


@pytest.fixture
def sink() -> Iterator[Sink]:
    opened = Sink()
    yield opened
    opened.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home" / ".aws").mkdir(parents=True)
    (tmp_path / "home" / ".aws" / "config").write_text(CONFIG)
    (tmp_path / "home" / ".aws" / "credentials").write_text("[default]\naws_access_key_id = AKIAELSEWHERE\n")
    return tmp_path / "home"


def shell(state: Path, home: Path, **more: str) -> dict[str, str]:
    """An environment with nothing but the given words."""
    said = {name: value.replace("{home}", str(home)) for name, value in more.items()}
    return {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(home), "FRAUD_LOCAL_STATE": str(state)} | said


def run(command: str, environment: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-ec", command], env=environment, cwd=cwd, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_leads_elsewhere_is_unset_in_shells_and_absent_in_processes(name: str) -> None:
    found = {"PATH": "/bin", name: ELSEWHERE[name]}
    assert changes(found, AWS)[name] == AWS.get(name)
    assert set_aside(found, AWS) == [name]
    assert name not in clean(found) and name not in kept(found)
    assert set_aside({**found, **AWS}, AWS) == ([] if name in AWS else [name])  # evaluated twice


@pytest.mark.parametrize("name", PROXIES)
def test_a_proxy_stays_for_the_world_and_is_passed_by_for_loopback(name: str) -> None:
    found = clean({name: "http://proxy:1", "NO_PROXY": "a.example,localhost", "no_proxy": "b.example"})
    assert found[name] == "http://proxy:1"
    assert found["NO_PROXY"] == found["no_proxy"] == "127.0.0.1,localhost,::1,a.example,b.example"
    assert changes(found, AWS)["NO_PROXY"] == found["NO_PROXY"]


def test_what_steers_the_local_aws_and_the_terminal_stays() -> None:
    harmless = {"FRAUD_LOCAL_TIME_SCALE": "9", "FRAUD_REPORTS": "r", "AWS_PAGER": "", "PYTHONUTF8": "1", "LC_ALL": "C"}
    assert set_aside(harmless, AWS) == []
    assert clean(harmless).items() >= {"FRAUD_LOCAL_TIME_SCALE": "9", "PYTHONUTF8": "1"}.items()


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_python_starts_below_a_folder_that_is_not_ascii_in_any_locale(locale: str, tmp_path: Path) -> None:
    folder = tmp_path / "ä"
    venv.create(folder / "venv", symlinks=True)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "editable.pth").write_text(f"{folder}\n", encoding="utf-8")
    python = [str(folder / "venv" / "bin" / "python"), "-c", "print('starts')"]
    assert subprocess.run(python, env=kept({"LC_ALL": locale}), capture_output=True).stdout == b"starts\n"
    (folder / "Makefile").write_text(f"include {ROOT}/Makefile\nshow:\n\t@venv/bin/python -c 'print(1)'\n")
    assert run("make show", {"PATH": os.environ["PATH"], "LC_ALL": locale}, folder).stdout == "1\n"


@pytest.mark.localaws
@pytest.mark.parametrize("name", [*ELSEWHERE, *PROXIES, "PYTHONPATH", "no variable, but ~/.aws"])
def test_a_shell_speaks_to_the_local_aws_alone(name: str, aws: LocalAws, home: Path, sink: Sink) -> None:
    more = {name: sink.url if name in PROXIES else ELSEWHERE.get(name, str(home))} if name.isidentifier() else {}
    ask = f"python -c '{ASK.format(bucket=aws.bucket)}'"
    done = run(f'eval "$(python -m fraud.localaws env)"; {ask}', shell(aws.state, home, **more), home)
    assert (done.returncode, done.stdout) == (0, "answered\n"), done.stderr
    assert sink.asked == []
    note = [line for line in done.stderr.splitlines() if "Set aside" in line]
    assert note == ([] if name in PROXIES or not name.isidentifier() else [note[0]])
    assert not note or (note[0].endswith(f": {name}") and (ELSEWHERE.get(name, str(home)) not in note[0]))


@pytest.mark.localaws
def test_everything_at_once_starts_deploys_calls_and_builds(tmp_path: Path, home: Path, sink: Sink) -> None:
    state = tmp_path / "state"
    hostile = shell(state, home, **ELSEWHERE, **dict.fromkeys(PROXIES, sink.url), FRAUD_LOCAL_CAPTURE_SECONDS="1")
    hostile |= {"PYTHONPATH": str(tmp_path / "code")}
    (tmp_path / "code" / "ministack").mkdir(parents=True)
    (tmp_path / "code" / "ministack" / "__init__.py").write_text("raise SystemExit('from elsewhere')")
    try:
        up = run("fraud local up", hostile, tmp_path)
        assert up.returncode == 0, up.stderr
        (note,) = [line for line in up.stderr.splitlines() if "Set aside" in line]
        assert set(note.partition(": ")[2].split(", ")) == {*ELSEWHERE, "PYTHONPATH"}
        assert not [value for value in ELSEWHERE.values() if len(value) > 9 and value in note]
        pipeline = json.loads(up.stdout)["outputs"]["PipelineName"]
        (home / "start.py").write_text(
            f"import boto3\nboto3.client('codepipeline').start_pipeline_execution(name='{pipeline}')"
        )
        commands = f"fraud infra outputs; fraud local tick; python {home}/start.py"
        done = run(f'eval "$(fraud local env)"; {commands}', hostile, tmp_path)
        assert done.returncode == 0, done.stderr
        outputs, answer = done.stdout.split("}\n{")
        assert json.loads(outputs + "}")["PipelineName"] == pipeline
        assert json.loads("{" + answer)["verdict"]
        ticked = run("fraud local tick", hostile, tmp_path)  # in a shell that was not told
        assert ticked.returncode == 0 and json.loads(ticked.stdout)["verdict"], ticked.stderr
        seen = _environments(str(state))
        assert {"ministack", "serve", "build"} <= seen.keys(), sorted(seen)
        for what, environment in seen.items():
            assert not {name for name in hostile.keys() & ELSEWHERE.keys() if environment.get(name) == hostile[name]}
            telling = {value for value in ELSEWHERE.values() if len(value) > len("legacy")}
            assert not [name for name, value in environment.items() if value in telling], what
            assert str(tmp_path / "code") not in environment.values(), what
        assert sink.asked == []
    finally:
        run("python -m fraud.localaws down", shell(state, home), tmp_path)


def _environments(mark: str, patience: float = 30.0) -> dict[str, dict[str, str]]:
    """What each kind of process of a local AWS sees, waited for until a build's shell runs."""
    found: dict[str, dict[str, str]] = {}
    deadline = time.monotonic() + patience
    while "build" not in found and time.monotonic() < deadline:
        for process in psutil.process_iter():
            try:
                environment = process.environ()
                if environment.get(MARK) == mark:
                    line = " ".join(process.cmdline())
                    kinds = {"fraud.localaws.ministack": "ministack", "fraud.localaws --state": "serve"}
                    kind = next((kind for part, kind in kinds.items() if part in line), line)
                    found["build" if "CODEBUILD_BUILD_ID" in environment else kind] = environment
            except (psutil.Error, OSError):
                continue
        time.sleep(0.1)
    return found


@pytest.mark.parametrize("name", ["PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"])
def test_make_hands_no_setting_of_another_python_on(name: str, tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text(f"include {ROOT}/Makefile\nshow:\n\t@env\n")
    done = run("make show", {"PATH": os.environ["PATH"], name: "/absent"}, tmp_path)
    assert done.returncode == 0 and f"{name}=" not in done.stdout, done.stderr


@pytest.mark.localaws
def test_the_default_bucket_of_the_sdk_asks_nobody_else(aws: LocalAws, home: Path, sink: Sink) -> None:
    program = """\
import socket
asked, real = [], socket.getaddrinfo
def noted(host, *rest, **more):
    asked.append(host)
    return real(host, *rest, **more)
socket.getaddrinfo = noted
import boto3
from sagemaker.core.helper.session_helper import Session
print(Session(boto3.Session()).default_bucket(), *sorted(set(asked)))
"""
    proxies = {"HTTPS_PROXY": sink.url, "HTTP_PROXY": sink.url}
    (home / "program.py").write_text(program)
    done = run('eval "$(python -m fraud.localaws env)"; python program.py', shell(aws.state, home, **proxies), home)
    assert done.stdout.split() == ["sagemaker-eu-west-1-000000000000", "127.0.0.1"], done.stderr[-2000:]
    assert sink.asked == []
