"""No page of a web site may use the local AWS: every port that listens refuses whatever a browser can send."""

from __future__ import annotations

import base64
import io
import json
import socket
import time
import zipfile
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from hosting_kit import ENVIRONMENT, IMAGE, archive, variant
from localaws_kit import LocalAws

from fraud.localaws.children import MARK
from fraud.localaws.guard import is_refused

CODE = "def handle(event, context):\n    return 1\n"
UPGRADE = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
UPGRADE += "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
HEADERS = {
    "an origin": "Host: {here}\r\nOrigin: http://evil.example\r\n",
    "an origin of null": "Host: {here}\r\nOrigin: null\r\n",
    "an empty origin": "Host: {here}\r\nOrigin:\r\n",
    "its own origin": "Host: {here}\r\nOrigin: http://{here}\r\n",
    "capitals": "hOsT: {here}\r\noRiGiN: http://evil.example\r\n",
    "a request across sites without an origin": "Host: {here}\r\nSec-Fetch-Site: cross-site\r\n",
    "a page of the same site": "Host: {here}\r\nSec-Fetch-Site: same-site\r\n",
    "a page that we served": "Host: {here}\r\nSec-Fetch-Site: same-origin\r\n",
    "a referer": "Host: {here}\r\nReferer: https://evil.example/a\r\n",
    "a name that was bound to loopback": "Host: evil.example:{port}\r\n",
    "such a name without a port": "Host: evil.example\r\n",
    "a name that begins like ours": "Host: 127.0.0.1.evil.example:{port}\r\n",
    "a name that ends like ours": "Host: evil.localhost:{port}\r\n",
    "a bucket's name": "Host: bucket.s3.localhost:{port}\r\n",
    "an API's name": "Host: abc.execute-api.localhost:{port}\r\n",
    "a dot at the end": "Host: localhost.:{port}\r\n",
    "another address of loopback": "Host: 127.0.0.2:{port}\r\n",
    "another spelling of loopback": "Host: 127.1:{port}\r\n",
    "any address": "Host: 0.0.0.0:{port}\r\n",
    "another port": "Host: 127.0.0.1:1\r\n",
    "no port": "Host: localhost\r\n",
    "an empty host": "Host:\r\n",
    "somebody before the host": "Host: evil.example@{here}\r\n",
    "two hosts, ours first": "Host: {here}\r\nHost: evil.example\r\n",
    "two hosts, ours last": "Host: evil.example\r\nHost: {here}\r\n",
    "two hosts, both ours": "Host: {here}\r\nHost: {here}\r\n",
    "two hosts on one line": "Host: {here}, evil.example\r\n",
    "no host": "",
}


@pytest.fixture(scope="module")
def ports(aws: LocalAws) -> Iterator[dict[int, str]]:
    """Every port on which a process of the local AWS listens, and what that is, while an endpoint serves."""
    aws.client("s3").put_object(Bucket=aws.bucket, Key="models/guarded.tar.gz", Body=archive("guarded"))
    sagemaker = aws.client("sagemaker")
    container = {"Image": IMAGE, "ModelDataUrl": f"s3://{aws.bucket}/models/guarded.tar.gz", "Environment": ENVIRONMENT}
    sagemaker.create_model(ModelName="guarded", PrimaryContainer=container, ExecutionRoleArn=aws.role)
    sagemaker.create_endpoint_config(EndpointConfigName="guarded", ProductionVariants=[variant("guarded")])
    sagemaker.create_endpoint(EndpointName="guarded", EndpointConfigName="guarded")
    try:
        sagemaker.get_waiter("endpoint_in_service").wait(
            EndpointName="guarded", WaiterConfig={"Delay": 1, "MaxAttempts": 60}
        )
        yield _listening(str(aws.state))
    finally:
        sagemaker.delete_endpoint(EndpointName="guarded")


def _listening(mark: str) -> dict[int, str]:
    found = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark:
                command = " ".join(process.cmdline())
                kinds = {"fraud.localaws.ministack": "MiniStack", "serving.py": "instance", "serve": "server"}
                kind = next((kind for part, kind in kinds.items() if part in command), command)
                links = process.net_connections("inet")
                found |= {link.laddr.port: kind for link in links if link.status == psutil.CONN_LISTEN}
        except (psutil.Error, OSError):
            continue
    return found


def _package() -> str:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as packed:
        packed.writestr("x.py", CODE)
    return base64.b64encode(raw.getvalue()).decode()


def _work(kind: str, name: str) -> tuple[str, str, bytes]:
    """Path, further headers and body of what would change something at a port."""
    if kind == "server":
        target = "X-Amz-Target: SageMaker.CreateModelPackageGroup\r\n"
        return "/", target, json.dumps({"ModelPackageGroupName": name}).encode()
    if kind == "instance":
        return "/invocations", "Content-Type: application/json\r\n", b"{}"
    function = {"FunctionName": name, "Runtime": "python3.11", "Handler": "x.handle", "Code": {"ZipFile": _package()}}
    function["Role"] = "arn:aws:iam::000000000000:role/x"
    return "/2015-03-31/functions", "Content-Type: text/plain\r\n", json.dumps(function).encode()


def _send(port: int, data: bytes, family: int = socket.AF_INET) -> bytes:
    """Everything that is answered to bytes on a connection of their own."""
    answer = b""
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(20)
        connection.connect(("127.0.0.1" if family == socket.AF_INET else "::1", port))
        connection.sendall(data)
        while b"\r\n\r\n" not in answer and (part := connection.recv(65_536)):
            answer += part
    return answer


def _post(port: int, kind: str, name: str, headers: str, *, target: str = "", version: str = "1.1") -> bytes:
    path, more, body = _work(kind, name)
    text = headers.format(here=f"127.0.0.1:{port}", port=port) + more
    head = f"POST {target.format(here=f'127.0.0.1:{port}') or path} HTTP/{version}\r\n{text}"
    return _send(port, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


def _assert_refused(answer: bytes) -> None:
    status = answer.partition(b"\r\n")[0].split(b" ")[1:2]
    assert status in ([b"403"], [b"400"]), answer[:300]
    assert b"access-control-" not in answer.lower()


def _made(aws: LocalAws) -> list[str]:
    functions = [item["FunctionName"] for item in aws.client("lambda").list_functions()["Functions"]]
    groups = aws.client("sagemaker").list_model_package_groups()["ModelPackageGroupSummaryList"]
    found = [*functions, *(item["ModelPackageGroupName"] for item in groups)]
    return [name for name in found if name.startswith("web-")]


@pytest.mark.localaws
def test_the_ports_are_those_of_ministack_of_our_server_and_of_the_instance(ports: dict[int, str]) -> None:
    assert sorted(ports.values()) == ["MiniStack", "instance", "server"]


@pytest.mark.localaws
@pytest.mark.parametrize("trick", HEADERS)
def test_each_port_refuses(trick: str, ports: dict[int, str], aws: LocalAws) -> None:
    for port, kind in ports.items():
        _assert_refused(_post(port, kind, "web-1", HEADERS[trick]))
        _assert_refused(_post(port, kind, "web-1", HEADERS[trick], version="1.0"))
        _assert_refused(_post(port, kind, "web-1", HEADERS[trick] + UPGRADE))
    assert not _made(aws)


@pytest.mark.localaws
def test_each_port_refuses_a_target_that_is_a_whole_address(ports: dict[int, str], aws: LocalAws) -> None:
    for port, kind in ports.items():
        for target in ("http://evil.example/", "http://{here}/", "evil.example:443", "*"):
            path = _work(kind, "")[0] if target.endswith("/") else ""
            _assert_refused(_post(port, kind, "web-2", "Host: {here}\r\n", target=target.rstrip("/") + path))
    assert not _made(aws)


@pytest.mark.localaws
def test_each_port_refuses_a_browser_that_asks_first(ports: dict[int, str]) -> None:
    for port, kind in ports.items():
        path = _work(kind, "")[0]
        for more in ("Origin: http://evil.example\r\n", ""):
            head = f"OPTIONS {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{more}"
            _assert_refused(_send(port, f"{head}Access-Control-Request-Method: POST\r\n\r\n".encode()))


@pytest.mark.localaws
def test_each_port_refuses_before_the_body_is_there(ports: dict[int, str]) -> None:
    for port, kind in ports.items():
        path, more, _ = _work(kind, "")
        head = f"POST {path} HTTP/1.1\r\nHost: evil.example:{port}\r\n{more}Transfer-Encoding: chunked\r\n\r\n5\r\n"
        began = time.monotonic()
        _assert_refused(_send(port, head.encode()))
        assert time.monotonic() - began < 5


@pytest.mark.localaws
def test_a_websocket_of_a_page_is_refused(ports: dict[int, str]) -> None:
    for port in ports:
        for headers in ("Host: {here}\r\nOrigin: http://evil.example\r\n", "Host: evil.example:{port}\r\n"):
            text = headers.format(here=f"127.0.0.1:{port}", port=port) + UPGRADE
            for path in ("/", "/_aws/execute-api/abc/live"):
                _assert_refused(_send(port, f"GET {path} HTTP/1.1\r\n{text}\r\n".encode()))


@pytest.mark.localaws
def test_no_port_answers_over_ipv6(ports: dict[int, str]) -> None:
    for port in ports:
        with pytest.raises(OSError):
            _send(port, b"GET / HTTP/1.1\r\n\r\n", socket.AF_INET6)


@pytest.mark.localaws
@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}", "[::1]:{port}"])
def test_programs_are_answered_without_a_word_about_other_origins(host: str, ports: dict[int, str]) -> None:
    for port, kind in ports.items():
        path = {"MiniStack": "/_ministack/health", "server": "/_local/health", "instance": "/ping"}[kind]
        for version in ("1.1", "1.0"):
            answer = _send(port, f"GET {path} HTTP/{version}\r\nHost: {host.format(port=port)}\r\n\r\n".encode())
            assert answer.split(b" ")[1] == b"200" and b"access-control-" not in answer.lower()


def test_a_link_that_a_person_follows_is_answered() -> None:
    def refused(**headers: str) -> bool:
        return is_refused(b"/", [(name.replace("_", "-").encode(), text.encode()) for name, text in headers.items()], 1)

    assert not refused(host="localhost:1", sec_fetch_site="none")
    assert refused(host="localhost:1", sec_fetch_site="none", referer="http://localhost:1/")


def test_the_name_of_http_2_counts_as_a_host() -> None:
    headers: list[Any] = [(b":authority", b"127.0.0.1:1")]
    assert not is_refused(b"/", headers, 1)
    assert is_refused(b"/", [*headers, (b"host", b"evil.example")], 1)
