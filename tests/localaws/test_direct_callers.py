"""Callers who ask the endpoint itself, with no API in front: their mistakes are theirs, and roll nothing back."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hosting_kit import CAPTURE, ENVIRONMENT, World, archive, asynchronous, deployment, variant

from fraud.errors import QualityGateError
from fraud.localaws.wire import AwsError
from fraud.pipeline import replay
from fraud.schema import BOOLEAN, CATEGORY, NUMBER, Feature, Schema

SRC = Path(__file__).resolve().parents[2] / "src"
JSON, CSV = "application/json", "text/csv"
SCHEMA = Schema(
    (Feature("amount", NUMBER, True), Feature("card", CATEGORY, False, ("visa",)), Feature("known", BOOLEAN)),
    {"amount": "amount", "id": "tx"},
)
GOOD = {"transactions": [{"amount": 40.0, "card": "visa"}], "inference_ids": []}

# The handlers that every archive carries, around a model that needs no training.
PROGRAM = """
from pathlib import Path
from types import SimpleNamespace
from inference import input_fn, output_fn, predict_fn
from fraud.schema import Schema

def model_fn(model_dir):
    folder = Path(model_dir)
    return SimpleNamespace(
        schema=Schema.from_json((folder / "schema.json").read_text()),
        scores=lambda rows: [row[0] / 100 for row in rows],
        reasons=lambda rows: [[{"feature": "amount", "contribution": 1.0}] for row in rows],
        told='"model_version": "' + (folder / "name.txt").read_text() + '", "sha256": ""}',
    )
"""
FAILING = PROGRAM + "\ndef predict_fn(request, model):\n    raise RuntimeError('broken on purpose')\n"


def model_archive(name: str, schema: Schema = SCHEMA, program: str = PROGRAM) -> bytes:
    code = [SRC / "inference.py", *SRC.glob("fraud/*.py"), *SRC.glob("fraud/serving/*.py")]
    files = {f"code/{path.relative_to(SRC)}": path.read_text(encoding="utf-8") for path in code}
    return archive(name, None, **files, **{"code/served.py": program, "schema.json": schema.to_json()})


async def deploy(world: World, name: str, data: bytes, count: int = 2) -> None:
    await world.model(name, data, **ENVIRONMENT | {"SAGEMAKER_PROGRAM": "served.py"})
    await world.config(name, variant(name, count), DataCaptureConfig=CAPTURE)
    if world.context.store.get("endpoints", "fraud") is None:
        await world.endpoints.create_endpoint({"EndpointName": "fraud", "EndpointConfigName": name})
        await world.settled()


def transactions(text: str) -> bytes:
    return b'{"transactions": [' + text.encode() + b"]}"


MISTAKES: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "another content type": (b"<a/>", {"ContentType": "text/xml"}, 415, "content type must be"),
    "NumPy's own format": (b"\x93NUMPY", {"ContentType": "application/x-npy"}, 415, "content type must be"),
    "another charset": (transactions('{"amount": 1}'), {"ContentType": f"{JSON}; charset=utf-16"}, 415, "utf-8"),
    "a CSV with a header": (b"amount,card,known\n1,visa,true\n", {"ContentType": CSV}, 400, "names of fields"),
    "a CSV that says so": (b"amount,card,known\n1,,\n", {"ContentType": f"{CSV};header=present"}, 415, "header"),
    "cells too few": (b"1,visa\n", {"ContentType": CSV}, 400, "rows[0]"),
    "cells too many": (b"1,visa,true\n1,visa,true,4\n", {"ContentType": CSV}, 400, "rows[1]"),
    "a cell of another type": (b"1,visa,perhaps\n", {"ContentType": CSV}, 400, "rows[0].known"),
    "a required cell left out": (b",visa,true\n", {"ContentType": CSV}, 400, "rows[0].amount"),
    "an unclosed quote": (b'1,"visa,true\n', {"ContentType": CSV}, 400, "line 1"),
    "an endless cell": (b"1," + b"x" * 200_000 + b",true\n", {"ContentType": CSV}, 400, "no valid CSV"),
    "a byte order mark": (b"\xef\xbb\xbf1,visa,true\n", {"ContentType": CSV}, 400, "byte order mark"),
    "no row": (b"\n", {"ContentType": CSV}, 400, "no row"),
    "NaN": (transactions('{"amount": NaN}'), {}, 400, "NaN"),
    "Infinity": (transactions('{"amount": -Infinity}'), {}, 400, "Infinity"),
    "NaN in a CSV": (b"nan,visa,true\n", {"ContentType": CSV}, 400, "rows[0].amount"),
    "a huge number": (transactions('{"amount": 1e999}'), {}, 400, "too large"),
    "a huge whole number": (transactions('{"amount": 1' + "0" * 5000 + "}"), {}, 400, "64 bits"),
    "no wrapper": (b'{"amount": 1}', {}, 400, '{"transactions": [{…}, …]}'),
    "a list": (b'[{"amount": 1}]', {}, 400, '{"transactions": [{…}, …]}'),
    "no transaction": (b'{"transactions": []}', {}, 400, "at least one"),
    "a list in place of a transaction": (transactions("[1, 2]"), {}, 400, "transactions[0]"),
    "bytes that are no UTF-8": (transactions('{"amount": 1, "card": "X"}').replace(b"X", b"\xff"), {}, 400, "UTF-8"),
    "the same with a charset": (b'{"transactions": "\xe4"}', {"ContentType": f"{JSON};charset=utf-8"}, 400, "UTF-8"),
    "an empty body": (b"", {}, 400, "empty"),
    "an empty body in CSV": (b"", {"ContentType": CSV}, 400, "no row"),
    "deep nesting": (b'{"transactions": ' + b"[" * 100_000, {}, 400, "nests deeper"),
    "a member twice": (transactions('{"amount": 1, "amount": 2}'), {}, 400, "twice"),
    "nothing in it": (transactions("{}"), {}, 400, "transactions[0].amount"),
    "names in another case": (transactions('{"Amount": 1, "amount": 2}'), {}, 400, "did you mean amount?"),
    "an unknown member": (b'{"transactions": [{"amount": 1}], "threshold": 1}', {}, 400, "threshold"),
    "reasons that are text": (b'{"transactions": [{"amount": 1}], "reasons": "yes"}', {}, 400, "reasons"),
    "too many ids": (b'{"transactions": [{"amount": 1}], "inference_ids": ["a", "b"]}', {}, 400, "inference_ids"),
    "an answer as a picture": (json.dumps(GOOD).encode(), {"Accept": "image/png"}, 406, "can only be"),
    "an answer not as JSON": (json.dumps(GOOD).encode(), {"Accept": f"{JSON};q=0, text/html"}, 406, "can only be"),
    "reasons in CSV": (json.dumps(GOOD | {"reasons": True}).encode(), {"Accept": CSV}, 406, f"can only be {JSON}"),
}  # fmt: skip


async def ask(world: World, body: bytes, **more: str) -> tuple[int, str, bytes]:
    """Status of the container, content type and body; of a refusal the status and its document."""
    params = {"EndpointName": "fraud", "Body": body, "ContentType": JSON, **more}
    try:
        answer = await world.runtime.invoke_endpoint(params)
    except AwsError as error:
        assert (error.code, error.status) == ("ModelError", 424)
        return error.fields["OriginalStatusCode"], "", error.fields["OriginalMessage"].encode()
    return 200, answer["ContentType"], answer["Body"]


class BadCaller:
    """Every mistake, again and again, until stopped."""

    def __init__(self, world: World) -> None:
        self.world, self.statuses = world, Counter[int]()
        self._stop = False
        self._task = asyncio.ensure_future(self._work())

    async def _work(self) -> None:
        while not self._stop:
            for body, more, _, _ in MISTAKES.values():
                self.statuses[(await ask(self.world, body, **more))[0]] += 1

    async def stop(self) -> None:
        self._stop = True
        await self._task


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUD_LOCAL_CAPTURE_SECONDS", "0.2")
    monkeypatch.setenv("FRAUD_LOCAL_METRIC_SECONDS", "0.2")


@asynchronous
async def test_each_mistake_is_answered_with_its_status_and_reason_and_never_counts_as_a_fault(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await deploy(world, "one", model_archive("one"), count=1)
        wrong: dict[str, Any] = {}
        for kind, (body, more, status, reason) in MISTAKES.items():
            found, _, said = await ask(world, body, **more)
            document = json.loads(said) if found != 500 else {}
            words = " ".join([document.get("detail", ""), *(" ".join(e.values()) for e in document.get("errors", []))])
            if (found, document.get("status")) != (status, status) or reason not in words:
                wrong[kind] = (found, said[:200])
        assert not wrong
        await world.hosting.router.metrics.report()
        assert world.cloudwatch.total("Invocation4XXErrors") == len(MISTAKES)
        assert world.cloudwatch.total("Invocation5XXErrors") == 0


@pytest.mark.parametrize(
    ("body", "more", "kind", "answer"),
    [
        (b"40,visa,true\n", {"ContentType": "Text/CSV; charset=UTF-8"}, CSV, b"0.4\n"),
        (b"40,visa,\r\n30,,true", {"ContentType": CSV}, CSV, b"0.4\n0.3\n"),
        (b"40,visa,true\n", {"ContentType": CSV, "Accept": "application/*"}, JSON, b'{"predictions"'),
        (json.dumps(GOOD).encode(), {"ContentType": 'application/json;charset="utf-8"'}, JSON, b'{"predictions"'),
        (json.dumps(GOOD).encode(), {"Accept": "image/png, */*;q=0.1"}, JSON, b'{"predictions"'),
        (json.dumps(GOOD).encode(), {"Accept": "text/*"}, CSV, b"0.4\n"),
        (transactions('{"amount": 40, "card": "\\ufffd"}'), {}, JSON, b'{"predictions"'),
    ],
)  # fmt: skip
@asynchronous
async def test_parameters_of_types_are_read(tmp_path: Path, body: bytes, more: dict, kind: str, answer: bytes) -> None:
    async with World(tmp_path) as world:
        await deploy(world, "one", model_archive("one"), count=1)
        status, found, said = await ask(world, body, **more)
        assert (status, found) == (200, kind), said
        assert said.startswith(answer)


@asynchronous
async def test_a_canary_goes_on_under_a_bad_caller(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.cloudwatch.alarms["errors"] = "OK"
        await deploy(world, "one", model_archive("one"))
        await deploy(world, "two", model_archive("two"))
        caller = BadCaller(world)
        await world.update("two", DeploymentConfig=deployment("CANARY", wait=3, alarms=["errors"]))
        found = await world.settled()
        await caller.stop()
        assert (found["EndpointStatus"], found["EndpointConfigName"], found.get("FailureReason")) == (
            "InService", "two", None,
        )  # fmt: skip
        assert set(caller.statuses) == {400, 406, 415} and caller.statuses.total() > 2 * len(MISTAKES)
        await world.endpoints.fleets["fraud"].variants["AllTraffic"].capture.close()
        assert world.s3.records() == []  # only what was answered is captured


@asynchronous
async def test_a_broken_model_still_goes_back_under_a_bad_caller(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.cloudwatch.alarms["errors"] = "OK"
        await deploy(world, "one", model_archive("one"))
        await deploy(world, "bad", model_archive("bad", program=FAILING))
        caller = BadCaller(world)
        await world.update("bad", DeploymentConfig=deployment("CANARY", wait=60, alarms=["errors"]))
        found = await world.settled()
        await caller.stop()
        assert (found["EndpointStatus"], found["EndpointConfigName"]) == ("InService", "one")
        assert "alarms were triggered during the update: errors" in found["FailureReason"]
        assert caller.statuses[500]


class Captured:
    """What the hosting has put to S3, as the pipeline's storage reads it."""

    def __init__(self, world: World, schema: Schema) -> None:
        self.objects = {key: body for (_, key), body in world.s3.objects.items() if key.startswith("data-capture/")}
        self.objects["releases/fraud/one/schema.json"] = schema.to_json().encode()

    def list_keys(self, prefix: str, after: str = "") -> Iterator[str]:
        return (key for key in sorted(self.objects) if key.startswith(prefix) and key > after)

    def list(self, prefix: str) -> list[Any]:
        assert prefix == "labels/"  # nobody delivers any
        return []

    def get(self, key: str) -> bytes:
        return self.objects[key]


@asynchronous
async def test_a_replay_of_that_traffic_passes_a_good_model_and_none_that_refuses_more(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await deploy(world, "one", model_archive("one"), count=1)
        for k in range(12):
            sent = {"amount": 1.0 + k} | ({"card": "visa"} if k else {})
            body = {"transactions": [sent], "inference_ids": [f"p-{k}"]}
            assert (await ask(world, json.dumps(body).encode()))[0] == 200
            for wrong, more, _, _ in MISTAKES.values():
                await ask(world, wrong, **more)
        await world.endpoints.fleets["fraud"].variants["AllTraffic"].capture.close()
        run = SimpleNamespace(storage=Captured(world, SCHEMA))
        await asyncio.sleep(1.1)  # a replay ends with the last whole second
        p = SimpleNamespace(endpoint_name="fraud", replay_hours=24, replay_rows=100, max_refused_share=0.0)
        released = {"model_version": "one", "decision_threshold": 0.5, "schema_key": "releases/fraud/one/schema.json"}
        stricter = Schema([replace(feature, required=True) for feature in SCHEMA.features[:2]] + [SCHEMA.features[2]])

        def replayed(schema: Schema) -> replay.Replay:
            loaded = SimpleNamespace(schema=schema, probabilities=lambda rows: rows[:, 0] / 100)
            model = {"loaded": loaded, "metrics": {"decision_threshold": 0.5, "model_version": "two"}}
            return replay.replay(run, p, released, model)  # type: ignore[arg-type]

        done = replayed(SCHEMA)
        assert (done.n, done.n_refused, done.n_flipped) == (12, 0, 0)
        with pytest.raises(QualityGateError, match=r"would refuse 1 of the last 12 requests.*card is required \(1\)"):
            replayed(stricter)
