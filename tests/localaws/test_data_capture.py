"""Data capture: SageMaker's lines and keys, and nothing lost."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hosting_kit import CAPTURE, World, asynchronous

from fraud.localaws import data_capture
from fraud.localaws.data_capture import Capture

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
KEY = r"data-capture/fraud/AllTraffic/\d{4}/\d\d/\d\d/\d\d/\d\d-\d\d-\d{3}-[0-9a-f-]{36}\.jsonl"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUD_LOCAL_CAPTURE_SECONDS", "0.2")


def make(world: World, **changes: object) -> Capture:
    return Capture(world.context, {**CAPTURE, **changes}, "fraud", "AllTraffic")


def fill(capture: Capture, count: int = 1) -> None:
    for number in range(count):
        capture.record(b'{"n":%d}' % number, "application/json", b"0.5", "text/csv", f"id-{number}")


async def arrived(world: World, count: int) -> list[dict]:
    async with asyncio.timeout(10):
        while len(world.s3.records()) < count:
            await asyncio.sleep(0.02)
    return world.s3.records()


def test_a_line_is_exactly_sagemakers(tmp_path: Path) -> None:
    capture = make(World(tmp_path))
    line = capture.line(b'{"a": "\xc3\xa9"}', "application/json", b"0.5\n", "text/csv; charset=utf-8", "tx-1", NOW)
    assert line.endswith(b"}\n")
    record = json.loads(line)
    event_id = record["eventMetadata"].pop("eventId")
    assert re.fullmatch(r"[0-9a-f-]{36}", event_id)
    assert record == {
        "captureData": {
            "endpointInput": {
                "observedContentType": "application/json",
                "mode": "INPUT",
                "data": '{"a": "é"}',
                "encoding": "JSON",
            },
            "endpointOutput": {
                "observedContentType": "text/csv; charset=utf-8",
                "mode": "OUTPUT",
                "data": "0.5\n",
                "encoding": "CSV",
            },
        },
        "eventMetadata": {"inferenceId": "tx-1", "inferenceTime": "2026-01-02T03:04:05Z"},
        "eventVersion": "0",
    }


def test_what_a_caller_says_in_custom_attributes_is_kept(tmp_path: Path) -> None:
    capture = make(World(tmp_path))
    line = capture.line(b"{}", "application/json", b"0.5", "text/csv", None, NOW, "caller=9f86d081")
    assert json.loads(line)["eventMetadata"]["customAttributes"] == ["caller=9f86d081"]


def test_without_content_type_headers_all_is_base64(tmp_path: Path) -> None:
    config = {key: value for key, value in CAPTURE.items() if key != "CaptureContentTypeHeader"}
    capture = Capture(World(tmp_path).context, config, "fraud", "AllTraffic")
    record = json.loads(capture.line(b"{}", "application/json", b"\xff", "text/csv", None, NOW))
    for side, data in (("endpointInput", b"{}"), ("endpointOutput", b"\xff")):
        assert record["captureData"][side]["encoding"] == "BASE64"
        assert base64.b64decode(record["captureData"][side]["data"]) == data
    assert "inferenceId" not in record["eventMetadata"]


def test_text_that_is_none_is_base64(tmp_path: Path) -> None:
    record = json.loads(make(World(tmp_path)).line(b"\xff\xfe", "text/csv", b"1", "text/csv", None, NOW))
    assert record["captureData"]["endpointInput"]["encoding"] == "BASE64"


@pytest.mark.parametrize(("mode", "sides"), [("Input", {"endpointInput"}), ("Output", {"endpointOutput"})])
def test_only_the_sides_asked_for(tmp_path: Path, mode: str, sides: set[str]) -> None:
    capture = make(World(tmp_path), CaptureOptions=[{"CaptureMode": mode}])
    assert set(json.loads(capture.line(b"1", "text/csv", b"2", "text/csv", None, NOW))["captureData"]) == sides


@pytest.mark.parametrize("prefix", ["data-capture", "data-capture/", "", "/a/b//"])
def test_a_key_has_no_double_slash_and_says_when_the_buffer_was_opened(prefix: str) -> None:
    key = data_capture.object_key(prefix, "fraud", "AllTraffic", NOW)
    assert "//" not in key
    assert not key.startswith("/")
    assert re.search(r"(^|/)fraud/AllTraffic/2026/01/02/03/04-05-678-[0-9a-f-]{36}\.jsonl$", key)


@asynchronous
async def test_one_buffer_is_one_object_after_the_time(tmp_path: Path) -> None:
    world = World(tmp_path)
    fill(make(world), 30)
    assert not world.s3.objects
    records = await arrived(world, 30)
    assert [record["eventMetadata"]["inferenceId"] for record in records] == [f"id-{n}" for n in range(30)]
    ((bucket, key),) = world.s3.objects
    assert bucket == "bucket"
    assert re.fullmatch(KEY, key)
    assert not list(data_capture.left_behind(world.context))


@asynchronous
async def test_a_large_buffer_does_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUD_LOCAL_CAPTURE_SECONDS", "3600")
    world = World(tmp_path)
    capture = make(world)
    for _ in range(12):
        capture.record(b"x" * 100_000, "text/csv", b"1", "text/csv")
    await arrived(world, 11)
    await capture.close()
    assert len(world.s3.records()) == 12


@asynchronous
async def test_sampling(tmp_path: Path) -> None:
    world = World(tmp_path)
    for percentage in (0, 25):
        capture = make(world, InitialSamplingPercentage=percentage)
        fill(capture, 1000)
        await capture.close()
        assert percentage * 10 * 0.75 <= len(world.s3.records()) <= percentage * 10 * 1.25
    off = make(world, EnableCapture=False)
    assert off.percentage == 0


DYING = """
import asyncio, os, signal, sys
from pathlib import Path
from hosting_kit import World
from test_data_capture import fill, make

async def story():
    fill(make(World(Path(sys.argv[1]))), 5)  # never flushed, never closed
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(story())
"""


@asynchronous
async def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), *sys.path])}
    died = subprocess.run([sys.executable, "-c", DYING, tmp_path], cwd=here, env=environment)
    assert died.returncode == -signal.SIGKILL
    world = World(tmp_path)
    (spooled,) = data_capture.left_behind(world.context)
    with spooled.open("ab") as file:
        file.write(b'{"captureData": {"half a li')  # as if it had died while writing the next one
    async with world:
        records = await arrived(world, 5)
        assert [record["eventMetadata"]["inferenceId"] for record in records] == [f"id-{n}" for n in range(5)]


@asynchronous
async def test_s3_may_be_down_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path)
    world.s3.down = True
    capture = make(world)
    fill(capture, 3)
    await capture.close(patience=0.2)
    assert not world.s3.objects
    assert len(list(data_capture.left_behind(world.context))) == 1
    world.s3.down = False
    assert len(await arrived(world, 3)) == 3


@asynchronous
async def test_a_full_disk_stops_capture_not_the_endpoint(tmp_path: Path) -> None:
    world = World(tmp_path)
    data_capture.spool(world.context).write_text("a file where the folder should be")
    capture = make(world)
    fill(capture, 2)
    assert capture.lost == 2


@asynchronous
async def test_an_unreadable_spool_file_is_put_aside(tmp_path: Path) -> None:
    world = World(tmp_path)
    folder = data_capture.spool(world.context)
    folder.mkdir()
    (folder / "x.jsonl").write_bytes(b"not json\n{}\n")
    await data_capture.recover(world.context)
    assert not world.s3.objects
    assert [path.name for path in folder.iterdir()] == ["x.unreadable"]
