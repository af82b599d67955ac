"""The README cannot rot: its tree, its parameters and its commands are held against the repository."""

import os
import re
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import botocore.session
import pytest
from botocore import xform_name
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from typer.main import get_command

from fraud.pipeline import parameters
from fraud.pipeline.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_parameter_tables_are_those_of_the_notebooks():
    written = README.split("<!-- parameters -->")[1].split("<!-- /parameters -->")[0].strip()
    assert written == parameters.markdown(), "paste the output of `fraud params --markdown`"


@pytest.mark.parametrize("name", re.findall(r"^[├└│][├└│ ─]*([\w./]+?)/? {2,}", README, re.MULTILINE))
def test_the_tree_names_what_is_there(name):
    assert [path for path in (ROOT / name, ROOT / "src" / name, ROOT / "src/fraud" / name) if path.exists()], name


def test_the_tree_leaves_nothing_out():
    folders = {p.name for p in ROOT.iterdir() if p.is_dir() and not p.name.startswith(".")}
    for name in folders - {"build", "reports", "dist"}:
        assert f"{name}/" in README, f"{name}/ is not in the README's tree"


def test_commands_exist():
    known = get_command(app)
    for line in re.findall(r"`fraud ([a-z ]+)", README):
        command = known
        for word in line.split():
            command = getattr(command, "commands", {}).get(word, command)
        assert command is not known, f"fraud {line}"


PAGES = sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", *PAGES])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / page).parent.joinpath(target).exists(), target


# ------------------------------------------------------------------------------------------------ what people type


@pytest.mark.parametrize("token", ["", "FwoGZXIvYXdzEBYa/+token=="])
@pytest.mark.parametrize("page", ["README.md", "docs/api.md"])
def test_a_request_by_curl_is_signed_also_with_the_credentials_of_a_session(page, token):
    text = (ROOT / page).read_text(encoding="utf-8").replace("\\\n", " ")
    flags = re.search(r'curl (-s --aws-sigv4 .*?)(?:-H \'content-type|"\$@")', text, re.DOTALL)[1]
    assert shutil.which("curl"), "curl signs requests since 7.75"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        port = server.getsockname()[1]
        environment = {"PATH": os.environ["PATH"], "AWS_REGION": "eu-west-1", "AWS_ACCESS_KEY_ID": "AKID"}
        environment |= {"AWS_SECRET_ACCESS_KEY": "secret"} | ({"AWS_SESSION_TOKEN": token} if token else {})
        asked = subprocess.Popen(["bash", "-c", f"curl {flags} http://127.0.0.1:{port}/live/health"], env=environment)
        connection, _ = server.accept()
        with connection:
            request = connection.recv(65_536).decode()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        assert asked.wait(20) == 0
    headers = {name.lower(): value for name, _, value in (line.partition(":") for line in request.splitlines()[1:])}
    assert headers.get("x-amz-security-token", "").strip() == token
    signed = re.search("SignedHeaders=([^,]+)", headers["authorization"])[1].split(";")
    assert ("x-amz-security-token" in signed) == bool(token)
    wanted = AWSRequest("GET", f"http://127.0.0.1:{port}/live/health", headers={n: headers[n].strip() for n in signed})
    wanted.context["timestamp"] = headers["x-amz-date"].strip()
    signer = SigV4Auth(Credentials("AKID", "secret"), "execute-api", "eu-west-1")
    scope = signer.string_to_sign(wanted, signer.canonical_request(wanted))
    assert headers["authorization"].rpartition("Signature=")[2].strip() == signer.signature(scope, wanted)


AWS_LINES = re.findall(r"(aws (?:codeconnections|codepipeline) [^`)#\n]+)", README.replace("\\\n", " "))


@pytest.mark.parametrize("line", AWS_LINES)
def test_aws_knows_what_the_readme_asks_of_it(line):
    _, service, operation, *options = shlex.split(line)
    model = botocore.session.get_session().get_service_model(service)
    (name,) = [name for name in model.operation_names if xform_name(name, "-") == operation]
    members = {
        xform_name(member, "-"): shape for member, shape in model.operation_model(name).input_shape.members.items()
    }
    given = dict(zip(options[::2], options[1::2], strict=True))
    for option, value in given.items():
        if option not in ("--query", "--output"):
            shape = members[option.removeprefix("--")]
            assert not getattr(shape, "enum", None) or value in shape.enum
    assert {
        f"--{xform_name(name, '-')}" for name in model.operation_model(name).input_shape.required_members
    } <= given.keys()


def test_the_readme_asks_aws_for_a_connection_and_for_a_run():
    assert [shlex.split(line)[2] for line in AWS_LINES] == ["create-connection", "start-pipeline-execution"]
