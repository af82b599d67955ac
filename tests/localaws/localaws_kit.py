"""What the tests of the local AWS use: clients, a daemon inside the test process, archives."""

from __future__ import annotations

import asyncio
import io
import tarfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from aiohttp import web
from botocore.config import Config

from fraud.localaws.server import Daemon
from fraud.localaws.supervisor import aws_variables


def make_client(variables: dict[str, str], service: str) -> Any:
    """A boto3 client as any program would have it after ``eval "$(fraud local env)"``, without waiting and retrying."""
    suffix = service.upper().replace("-", "_")
    return boto3.session.Session().client(
        service,
        region_name=variables["AWS_REGION"],
        endpoint_url=variables.get(f"AWS_ENDPOINT_URL_{suffix}", variables["AWS_ENDPOINT_URL"]),
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=60),
    )


@dataclass
class LocalAws:
    """A running local AWS: its folder, its variables, a bucket and a role that SageMaker may take."""

    state: Path
    environment: dict[str, str]
    bucket: str
    role: str

    def client(self, service: str) -> Any:
        return make_client(self.environment, service)


class InProcess:
    """A daemon in a thread of the test process."""

    def __init__(self, state: Path, classes: list[type]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._run(self._open(state, classes))

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _open(self, state: Path, classes: list[type]) -> None:
        self.daemon = Daemon(state, aws_variables(1, 1), classes)
        self._runner = web.AppRunner(self.daemon.application(), access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        await self.daemon.start()

    def client(self, service: str) -> Any:
        return make_client(aws_variables(1, self.port), service)

    def close(self) -> None:
        self._run(self._runner.cleanup())
        self._run(self.daemon.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


def archive(**files: str | bytes) -> bytes:
    """A tar.gz; ``__`` in a name stands for a dot."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name.replace("__", "."))
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
