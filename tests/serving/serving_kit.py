"""What the proofs of serving share: callers that keep their pace, trained models, and the product's own deployment."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import io
import itertools
import json
import re
import sys
import tarfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
import pytest
from samtranslator.yaml_helper import yaml_parse

from fraud.demo import sample
from fraud.demo.traffic import transactions
from fraud.pipeline import deployment, parameters, releases, strategies
from fraud.pipeline.runs import Run
from fraud.pipeline.where import client, client_once, where

EASY = ("-p", "min_auc=0.5", "-p", "max_auc_drop=0.5", "-p", "max_segment_drop=1")
ROUNDS = {"proof-a": 30, "proof-b": 40}
PATIENCE = 70.0  # seconds; AWS gives up after 60


# ---- models ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trained:
    """A model as 03_deploy has it after its checks."""

    house: Any
    run: Run
    trained: dict[str, Any]
    model: dict[str, Any]

    @property
    def name(self) -> str:
        return self.run.run_id

    def offline(self, rows: Sequence[dict[str, Any]]) -> list[float]:
        """Scores by LightGBM in this process."""
        loaded = self.model["loaded"]
        return loaded.probabilities(np.array([loaded.schema.encode(row) for row in rows], dtype=np.float64)).tolist()


def train(house: Any) -> None:
    """Two runs over the same history, up to the model."""
    for name, rounds in ROUNDS.items():
        house.fraud("run", "--run-id", name, "--only", "01")
        house.fraud("run", "--run-id", name, "--only", "02", "-p", f"num_boost_round={rounds}", *EASY)


def checked(house: Any, name: str) -> Trained:
    """A run's model, loaded by `deployment.verify_model`."""
    run = Run(house.bucket, name)
    trained = run.results("02_train")
    return Trained(house, run, trained, deployment.verify_model(run, trained))


def live_rows(n: int, seed: int = 11) -> list[dict[str, Any]]:
    """Transactions that no model has seen, as callers send them."""
    return transactions(sample.table(n, seed, columns="core"), ["isFraud"])


# ---- archives --------------------------------------------------------------------------------------------------------


def unpack(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        return {item.name.removeprefix("./"): tar.extractfile(item).read() for item in tar if item.isreg()}


def pack(files: dict[str, bytes], more: Iterable[tuple[tarfile.TarInfo, bytes]] = ()) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz", compresslevel=1) as tar:
        for item, content in [*((member(name, len(body)), body) for name, body in files.items()), *more]:
            tar.addfile(item, io.BytesIO(content) if content else None)  # else the header alone
    return raw.getvalue()


def member(name: str, size: int = 0, **more: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size = size
    for key, value in more.items():
        setattr(made, key, value)
    return made


# ---- the product, in this process ------------------------------------------------------------------------------------


@contextlib.contextmanager
def at_home(house: Any) -> Iterator[None]:
    """Point the product's functions in this process at a house."""
    made = (where, client, client_once)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in house.environment.items():
            if name.startswith(("AWS_", "FRAUD_")):
                patch.setenv(name, value)
        for function in made:
            function.cache_clear()
        yield
        for function in made:
            function.cache_clear()


def settings(endpoint: str, **chosen: Any) -> SimpleNamespace:
    """Parameters of 03_deploy: its defaults, and short waits."""
    quick = {"wait_seconds": 50, "termination_wait_seconds": 0, "probe_interval_ms": 500}
    values = {name: item.default for name, item in parameters.declared("03_deploy").items()}
    return SimpleNamespace(**values | quick | chosen | {"endpoint_name": endpoint})


def guard(endpoint: str) -> list[str]:
    """Give another endpoint the alarms that ``infra/app.yml`` gives to ``fraud``.

    The alarm on errors looks back 10 s instead of 60: the local CloudWatch knows no time scale, and an alarm that one
    test rang must be quiet when the next begins.
    """
    kept = (
        "MetricName Namespace Statistic ExtendedStatistic Period EvaluationPeriods Threshold ComparisonOperator "
        "TreatMissingData"
    ).split()
    names = strategies.alarm_names("fraud")
    for alarm in client("cloudwatch").describe_alarms(AlarmNames=names)["MetricAlarms"]:
        name = alarm["AlarmName"].replace("fraud-fraud-", f"fraud-{endpoint}-")
        dimensions = [
            item | {"Value": endpoint if item["Value"] == "fraud" else item["Value"]} for item in alarm["Dimensions"]
        ]
        request = {key: alarm[key] for key in kept if alarm.get(key) is not None} | {"Dimensions": dimensions}
        if name.endswith("5xx"):
            request["Period"] = 10
        client("cloudwatch").put_metric_alarm(AlarmName=name, **request)
    return strategies.alarm_names(endpoint)


def promote(challenger: Trained, p: SimpleNamespace) -> deployment.Deployment:
    """Deploy and release as the notebook does."""
    champion = releases.read_release(challenger.run, p.endpoint_name)
    done = deployment.deploy(challenger.run, p, challenger.trained, challenger.model, champion)
    done.check()
    releases.write_release(challenger.run, p, challenger.trained, challenger.model, done.endpoint_config)
    return done


def in_service(endpoint: str) -> str:
    """The run whose configuration an endpoint is on."""
    found = deployment.describe(endpoint)
    return found["EndpointConfigName"].removeprefix("fraud-").rpartition("-")[0]


# ---- callers ---------------------------------------------------------------------------------------------------------


class Background:
    """`_run` in a thread of its own, for as long as a ``with`` lasts; it ends once `_over` is set."""

    def __init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        raise NotImplementedError


class OpenLoop(Background):
    """Requests at a fixed rate, however long the answers take; each answer is held against the offline scores.

    Parameters
    ----------
    url, endpoint : str
        Of sagemaker-runtime, and whom to ask.
    rows : sequence of dict
        Transactions, sent one at a time, in turn.
    right : dict of str to list of float
        By model version the score of each transaction; another version or another bit is a wrong answer.
    rates : dict of str to float
        Requests a second (1/s) on ``fresh`` connections, one each, and on ``kept`` ones.
    """

    def __init__(
        self,
        url: str,
        endpoint: str,
        rows: Sequence[dict[str, Any]],
        right: dict[str, list[float]],
        rates: dict[str, float],
    ) -> None:
        address = urlsplit(url)
        self.host, self.port = str(address.hostname), address.port
        self.right, self.rates = right, rates
        self.requests = {pool: [self._request(endpoint, row, pool) for row in rows] for pool in rates}
        self.sent: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.failed: list[str] = []
        self.wrong: list[str] = []
        self.seconds: list[float] = []
        self.most_under_way = 0
        super().__init__()

    def _request(self, endpoint: str, row: dict[str, Any], pool: str) -> bytes:
        body = json.dumps({"transactions": [row], "inference_ids": []}).encode()
        head = (
            f"POST /endpoints/{endpoint}/invocations HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"Connection: {'close' if pool == 'fresh' else 'keep-alive'}\r\n\r\n"
        )
        return head.encode() + body

    def _run(self) -> None:
        async def all_pools() -> None:
            await asyncio.gather(*(self._pace(pool, rate) for pool, rate in self.rates.items()))

        asyncio.run(all_pools())

    async def _pace(self, pool: str, rate: float) -> None:
        began, idle = time.monotonic(), []
        under_way: set[asyncio.Task[None]] = set()
        for number in itertools.count():
            due = began + number / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self._over.is_set():
                break
            task = asyncio.create_task(self._call(pool, number % len(self.requests[pool]), due, idle))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            self.most_under_way = max(self.most_under_way, len(under_way))
        await asyncio.gather(*under_way)
        for _, writer in idle:
            await _close(writer)

    async def _call(self, pool: str, k: int, due: float, idle: list[Any]) -> None:
        self.sent[pool] += 1
        try:
            async with asyncio.timeout(PATIENCE):
                while idle and idle[-1][0].at_eof():  # the server closed it while nobody used it
                    await _close(idle.pop()[1])
                reader, writer = idle.pop() if idle else await asyncio.open_connection(self.host, self.port)
                try:
                    writer.write(self.requests[pool][k])
                    head = await reader.readuntil(b"\r\n\r\n")
                    body = await reader.readexactly(int(re.search(rb"(?i)content-length: (\d+)", head)[1]))
                except BaseException:
                    await _close(writer)
                    raise
            self.seconds.append(time.monotonic() - due)
            self._judge(k, int(head.split(b" ", 2)[1]), body)
        except (OSError, EOFError, TimeoutError) as error:
            self.failed.append(f"{pool}: {type(error).__name__}: {error}")
            return
        if pool == "kept":
            idle.append((reader, writer))
        else:
            await _close(writer)

    def _judge(self, k: int, status: int, body: bytes) -> None:
        if status != 200:
            self.failed.append(f"{status}: {body[:300].decode()}")
            return
        answer = json.loads(body)
        version, score = answer["model_version"], answer["predictions"][0]["fraud_probability"]
        self.answers[version] += 1
        if version not in self.right or self.right[version][k] != score:
            self.wrong.append(
                f"row {k}: {version} says {score!r}, offline it is {self.right.get(version, [None])[k]!r}"
            )

    def wait_for(self, count: int) -> None:
        """Until so many requests were sent."""
        while self.sent.total() < count and self._thread.is_alive():
            time.sleep(0.1)

    def __str__(self) -> str:
        ms = np.percentile(self.seconds or [0], [50, 99, 100]) * 1000
        return (
            f"{self.sent.total():,} requests ({', '.join(f'{n:,} {pool}' for pool, n in self.sent.items())}), "
            f"{len(self.failed)} failed, {len(self.wrong)} wrong; answered by {dict(self.answers)}; "
            f"median {ms[0]:.1f} ms, p99 {ms[1]:.0f} ms, longest {ms[2]:.0f} ms, "
            f"at most {self.most_under_way} under way"
        )

    def check(self) -> None:
        """Not one failed, and every answer is what its model scores offline."""
        assert not self.failed, self.failed[:5]
        assert not self.wrong, self.wrong[:5]
        assert self.answers.total() == self.sent.total()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


def callers(house: Any, endpoint: str, models: Sequence[Trained], rate: float) -> OpenLoop:
    """Open-loop callers of an endpoint that these models may answer; half of them on fresh connections."""
    rows = models[0].model["golden"]["transactions"]
    right = {one.name: one.offline(rows) for one in models}
    assert right[models[0].name] == models[0].model["golden"]["scores"]
    url = house.environment["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"]
    return OpenLoop(url, endpoint, rows, right, {"fresh": rate / 2, "kept": rate / 2})


# ---- an AWS that watches ---------------------------------------------------------------------------------------------


class CloudWatch:
    """CloudWatch in memory: the alarms of ``infra/app.yml`` over what it is told, each minute of theirs a moment.

    The one of the house knows no time scale and no dimensions: there, what one endpoint does rings the alarms of all
    for minutes.
    """

    def __init__(self, endpoint: str, scale: float) -> None:
        self.scale = scale
        self.alarms = {item["AlarmName"]: item for item in alarms_of_the_template(endpoint)}
        self._points: defaultdict[tuple[str, str, frozenset[Any]], list[tuple[float, float, float]]] = defaultdict(list)

    def put_metric_data(self, Namespace: str, MetricData: Sequence[dict[str, Any]]) -> None:
        now = time.monotonic()
        for datum in MetricData:
            values, counts = datum.get("Values") or [datum.get("Value")], datum.get("Counts")
            if whole := datum.get("StatisticValues"):
                values, counts = [whole["Sum"] / whole["SampleCount"]], [whole["SampleCount"]]
            points = self._points[Namespace, datum["MetricName"], _dimensions(datum)]
            points += [(now, value, n) for value, n in zip(values, counts or [1] * len(values), strict=True)]

    def describe_alarms(
        self, AlarmNames: Sequence[str] = (), AlarmTypes: Sequence[str] = (), StateValue: str = ""
    ) -> dict[str, Any]:
        states = {name: "ALARM" if self.rings(name) else "OK" for name in AlarmNames if name in self.alarms}
        return {"MetricAlarms": [{"AlarmName": name, "StateValue": state} for name, state in states.items()]}

    def rings(self, name: str) -> bool:
        alarm, now = self.alarms[name], time.monotonic()
        assert alarm["ComparisonOperator"] == "GreaterThanOrEqualToThreshold"
        assert alarm["TreatMissingData"] == "notBreaching"
        points = self._points[alarm["Namespace"], alarm["MetricName"], _dimensions(alarm)]
        period, found = alarm["Period"] / self.scale, []
        for back in range(alarm["EvaluationPeriods"]):
            until = now - back * period
            window = [(value, count) for at, value, count in list(points) if until - period < at <= until]
            statistic = alarm.get("Statistic") or alarm["ExtendedStatistic"]
            found.append(bool(window) and _statistic(statistic, window) >= float(alarm["Threshold"]))
        return all(found)


def _dimensions(item: dict[str, Any]) -> frozenset[Any]:
    return frozenset((one["Name"], one["Value"]) for one in item["Dimensions"])


def _statistic(name: str, window: list[tuple[float, float]]) -> float:
    values, counts = np.array(window).T
    if name in ("Sum", "Average"):
        return float((values * counts).sum() / (counts.sum() if name == "Average" else 1))
    return float(np.percentile(np.repeat(values, counts.astype(int)), float(name.removeprefix("p"))))


def alarms_of_the_template(endpoint: str) -> list[dict[str, Any]]:
    """Properties of the alarms in ``infra/app.yml``, for an endpoint and the default parameters."""
    template = yaml_parse((parameters.ROOT / "infra" / "app.yml").read_text(encoding="utf-8"))
    known = {name: item.get("Default") for name, item in template["Parameters"].items()} | {"EndpointName": endpoint}

    def resolved(node: Any) -> Any:
        if isinstance(node, list):
            return [resolved(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "Ref" in node:
            return known.get(node["Ref"])
        if isinstance(node.get("Fn::Sub"), str):
            return node["Fn::Sub"].replace("${EndpointName}", endpoint)
        return {key: resolved(value) for key, value in node.items()}

    items = template["Resources"].values()
    return [resolved(item["Properties"]) for item in items if item["Type"] == "AWS::CloudWatch::Alarm"]


def inference_lambda() -> Any:
    """``lambdas/inference/app.py`` as a module of its own."""
    path = parameters.ROOT / "lambdas" / "inference" / "app.py"
    spec = importlib.util.spec_from_file_location("inference_app_of_the_proofs", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def posted(app: Any, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Status and document that the handler answers to ``POST /predict``."""
    event = {"httpMethod": "POST", "path": "/predict", "body": json.dumps(body)}
    answer = app.handler(event, SimpleNamespace(aws_request_id="proof"))
    return answer["statusCode"], json.loads(answer["body"])


say = functools.partial(print, flush=True)
