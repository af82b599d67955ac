"""A small SageMaker hosting around real processes, with S3, CloudWatch and IAM kept in memory."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
import os
import signal
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from fraud.localaws.children import Children
from fraud.localaws.endpoints import Catalog, Endpoints, Runtime
from fraud.localaws.hosting import Hosting
from fraud.localaws.store import Store
from fraud.localaws.wire import AwsError, Context

IMAGE = "141502667606.dkr.ecr.eu-west-1.amazonaws.com/sagemaker-scikit-learn:1.9-0-cpu-py3"
ENVIRONMENT = {"SAGEMAKER_PROGRAM": "inference.py", "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code"}
CAPTURE = {
    "EnableCapture": True,
    "InitialSamplingPercentage": 100,
    "DestinationS3Uri": "s3://bucket/data-capture/",
    "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
    "CaptureContentTypeHeader": {"CsvContentTypes": ["text/csv"], "JsonContentTypes": ["application/json"]},
}

# Answers with the name it finds in its model folder, so that a test sees which model answered.
MODULE = """
import json, os, time
from pathlib import Path

def model_fn(model_dir):
    return (Path(model_dir) / "name.txt").read_text()

def input_fn(body, content_type):
    return json.loads(body)

def predict_fn(data, model):
    if data.get("fail"):
        raise ValueError("asked to fail")
    if data.get("die"):
        os.abort()
    time.sleep(data.get("sleep", 0))
    return {"model": model, "echo": data}

def output_fn(prediction, accept):
    return json.dumps(prediction), "application/json"
"""
FAILING = MODULE.replace('if data.get("fail"):', "if True:")


def archive(name: str, module: str | None = MODULE, **files: str) -> bytes:
    """A model.tar.gz whose model says `name`."""
    content = {"name.txt": name, **({"code/inference.py": module} if module is not None else {}), **files}
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as tar:
        for path, text in content.items():
            member = tarfile.TarInfo(path)
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return raw.getvalue()


def client_error(code: str, operation: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": code}}, operation)


class S3:
    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], bytes] = {}
        self.down = False

    def put_object(self, Bucket: str, Key: str, Body: bytes, **_: Any) -> dict[str, Any]:
        if self.down:
            raise client_error("ServiceUnavailable", "PutObject")
        self.objects[Bucket, Key] = Body
        return {}

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:
        self.head_object(Bucket, Key)
        return {"Body": io.BytesIO(self.objects[Bucket, Key])}

    def head_object(self, Bucket: str, Key: str) -> dict[str, Any]:
        if (Bucket, Key) not in self.objects:
            raise client_error("404", "HeadObject")
        return {}

    def records(self, prefix: str = "data-capture/") -> list[dict[str, Any]]:
        bodies = [body for (_, key), body in sorted(self.objects.items()) if key.startswith(prefix)]
        return [json.loads(line) for body in bodies for line in body.splitlines()]


class CloudWatch:
    """Alarms named ``errors…`` ring when a server error was reported."""

    def __init__(self) -> None:
        self.data: list[dict[str, Any]] = []
        self.alarms: dict[str, str] = {}
        self.down = False

    def put_metric_data(self, Namespace: str, MetricData: list[dict[str, Any]]) -> None:
        assert Namespace == "AWS/SageMaker"
        self.data += MetricData
        if self.total("Invocation5XXErrors"):
            self.alarms.update({name: "ALARM" for name in self.alarms if name.startswith("errors")})

    def describe_alarms(
        self, AlarmNames: Sequence[str] = (), AlarmTypes: Sequence[str] = (), StateValue: str = ""
    ) -> dict[str, Any]:
        if self.down:
            raise client_error("InternalFailure", "DescribeAlarms")
        found = [{"AlarmName": name, "StateValue": self.alarms[name]} for name in AlarmNames if name in self.alarms]
        return {"MetricAlarms": found, "CompositeAlarms": []}

    def total(self, metric: str, variant: str = "AllTraffic") -> float:
        result = 0.0
        for datum in self.data:
            dimensions = {item["Name"]: item["Value"] for item in datum["Dimensions"]}
            if datum["MetricName"] == metric and dimensions["VariantName"] == variant:
                result += datum.get("StatisticValues", {}).get("Sum", datum.get("Value", 0.0))
        return result


class Logs:
    class exceptions:
        class ResourceAlreadyExistsException(Exception):
            pass

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []

    def get_paginator(self, operation: str) -> Any:
        """No Lambda logs anything here."""
        assert operation == "describe_log_groups"
        return SimpleNamespace(paginate=lambda **_: [{"logGroups": []}])

    def create_log_group(self, **_: Any) -> None: ...

    def create_log_stream(self, **_: Any) -> None: ...

    def put_log_events(self, logGroupName: str, logStreamName: str, logEvents: list[dict[str, Any]]) -> None:
        self.lines += [(logGroupName, logStreamName, event["message"]) for event in logEvents]


class World:
    """Control plane and runtime over one state folder; ``async with`` starts and stops it."""

    def __init__(self, state: Path, s3: S3 | None = None) -> None:
        self.s3, self.cloudwatch, self.logs = s3 or S3(), CloudWatch(), Logs()
        self.clients = {"s3": self.s3, "cloudwatch": self.cloudwatch, "logs": self.logs}
        self.tasks: set[asyncio.Task[Any]] = set()
        self.errors: list[BaseException] = []
        self.children = Children(state / "children", str(state))
        self.context = Context(
            state=state,
            store=Store(state / "store"),
            environment={"AWS_REGION": "eu-west-1"},
            client=self.clients.__getitem__,
            call=asyncio.to_thread,
            background=self._background,
            spawn=self.children.spawn,
        )
        self.catalog, self.endpoints = Catalog(self.context), Endpoints(self.context)
        self.runtime = Runtime(self.context)

    def _background(self, coroutine: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self._settle)
        return task

    def _settle(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception():
            self.errors.append(task.exception())

    async def __aenter__(self) -> World:
        await self.endpoints.start()
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.endpoints.stop()
        await self.drop()
        assert not self.errors

    async def drop(self) -> None:
        """Cancel what is left, without winding up."""
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        async with asyncio.timeout(20):
            while list(self.children.folder.glob("*.json")):
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """End as kill -9 would: no stop, no flush; connections break and the processes die with the daemon."""
        tasks = list(self.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for fleet in [*self.endpoints.fleets.values(), *self.endpoints.green.values()]:
            for instance in [instance for item in fleet.all for instance in item.healthy]:
                instance.pool.close()
        for path in self.children.folder.glob("*.json"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(path.stem), signal.SIGKILL)
        await self.drop()

    # ---- shorthand -------------------------------------------------------------------------------------------------

    async def model(self, name: str, data: bytes | None = None, **environment: str) -> None:
        self.s3.objects["bucket", f"models/{name}.tar.gz"] = data if data is not None else archive(name)
        container = {"Image": IMAGE, "ModelDataUrl": f"s3://bucket/models/{name}.tar.gz"}
        container["Environment"] = {**ENVIRONMENT, **environment}
        await self.catalog.create_model({"ModelName": name, "PrimaryContainer": container})

    async def config(self, name: str, *variants: dict[str, Any], **more: Any) -> None:
        await self.catalog.create_endpoint_config(
            {"EndpointConfigName": name, "ProductionVariants": [*variants], **more}
        )

    async def deploy(self, name: str = "one", data: bytes | None = None, count: int = 1, **more: Any) -> None:
        """Model, config and (first time) endpoint ``fraud``, all ready."""
        await self.model(name, data)
        await self.config(name, variant(name, count), **more)
        if self.context.store.get("endpoints", "fraud") is None:
            await self.endpoints.create_endpoint({"EndpointName": "fraud", "EndpointConfigName": name})
            await self.settled()

    async def update(self, config: str, **more: Any) -> None:
        await self.endpoints.update_endpoint({"EndpointName": "fraud", "EndpointConfigName": config, **more})

    async def describe(self, endpoint: str = "fraud") -> dict[str, Any]:
        return await self.endpoints.describe_endpoint({"EndpointName": endpoint})

    async def settled(self, endpoint: str = "fraud", patience: float = 60) -> dict[str, Any]:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            found = await self.describe(endpoint)
            if found["EndpointStatus"] not in ("Creating", "Updating", "RollingBack", "Deleting"):
                return found
            await asyncio.sleep(0.05)
        raise TimeoutError(f"{endpoint} is still {found['EndpointStatus']}")

    async def invoke(self, payload: Any = None, **more: Any) -> dict[str, Any]:
        body = json.dumps(payload if payload is not None else {}).encode()
        params = {"EndpointName": "fraud", "Body": body, "ContentType": "application/json", **more}
        answer = await self.runtime.invoke_endpoint(params)
        return {**answer, "json": json.loads(answer["Body"])}

    @property
    def hosting(self) -> Hosting:
        return self.endpoints.hosting


def asynchronous(test: Any) -> Any:
    """Let pytest run a coroutine; what hangs fails."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        async def limited() -> None:
            async with asyncio.timeout(120):
                await test(*args, **kwargs)

        asyncio.run(limited())

    return run


async def refused(work: Any, code: str = "ValidationException") -> str:
    """Return how a request was refused."""
    with pytest.raises(AwsError) as caught:
        await work
    assert caught.value.code == code
    return caught.value.message


def variant(model: str, count: int = 1, name: str = "AllTraffic", **more: Any) -> dict[str, Any]:
    given = {"VariantName": name, "ModelName": model, "InitialInstanceCount": count, "InstanceType": "ml.m5.large"}
    return {**given, **more}


def deployment(kind: str = "CANARY", wait: int = 2, alarms: list[str] | None = None, **more: Any) -> dict[str, Any]:
    size = {"CANARY": "CanarySize", "LINEAR": "LinearStepSize"}.get(kind)
    routing = {"Type": kind, "WaitIntervalInSeconds": wait}
    if size:
        routing[size] = {"Type": "CAPACITY_PERCENT", "Value": 50}
    config: dict[str, Any] = {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing, **more}}
    if alarms is not None:
        config["AutoRollbackConfiguration"] = {"Alarms": [{"AlarmName": name} for name in alarms]}
    return config


class Load:
    """Constant requests until stopped; every answer must come from one of the models named."""

    def __init__(self, world: World, models: set[str], workers: int = 4, **payload: Any) -> None:
        self.world, self.models, self.payload = world, models, payload
        self.answers: dict[str, int] = {}
        self.failures: list[str] = []
        self._stop = False
        self._tasks = [asyncio.ensure_future(self._work()) for _ in range(workers)]

    @property
    def sent(self) -> int:
        return sum(self.answers.values()) + len(self.failures)

    async def _work(self) -> None:
        while not self._stop:
            try:
                model = (await self.world.invoke(self.payload))["json"]["model"]
                if model not in self.models:
                    self.failures.append(f"answered by {model}")
                self.answers[model] = self.answers.get(model, 0) + 1
            except AwsError as error:
                self.failures.append(str(error))
            await asyncio.sleep(0)

    async def until(self, count: int) -> None:
        while self.sent < count:
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)
