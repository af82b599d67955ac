"""Broken model archives: none comes into service, callers notice nothing, and the reason is one sentence.

Each kind meets both lines of defence. 03_deploy checks the archive before anything is made: once against the hashes
that 02_train recorded, once as if training itself had made and recorded the broken archive. Then, as if nobody had
checked, the endpoint is updated to it.
"""

from __future__ import annotations

import contextlib
import json
import re
import tarfile
from collections.abc import Callable

import pytest
from serving_kit import callers, guard, member, pack, promote, say, settings, unpack

from fraud.archive import read_members
from fraud.errors import DataError, DeploymentError, FraudError
from fraud.pipeline import deployment
from fraud.pipeline.runs import Run
from fraud.serving import model_file

pytestmark = [pytest.mark.localaws, pytest.mark.slow, pytest.mark.timeout(1800)]
RATE = 30.0  # requests a second
INFERENCE = "code/inference.py"
Files = dict[str, bytes]


def edited(name: str, edit: Callable[[bytes], bytes | None]) -> Callable[[Files, Files], bytes]:
    """An archive with one file changed, or without it."""

    def make(good: Files, other: Files) -> bytes:
        changed = edit(good[name])
        return pack({key: body for key, body in (good | {name: changed}).items() if body is not None})

    return make


def document(name: str, change: Callable[[dict], object]) -> Callable[[Files, Files], bytes]:
    """An archive with one JSON document changed."""

    def edit(body: bytes) -> bytes:
        found = json.loads(body)
        change(found)
        return json.dumps(found).encode()

    return edited(name, edit)


def mutate_leaf(model: bytes) -> bytes:
    """Another value in the first leaf of the first tree, as well written as the one before."""
    return re.sub(rb"(leaf_value=-?\d+\.)(\d)", lambda m: m[1] + b"%d" % ((int(m[2]) + 5) % 10), model, count=1)


def without(name: str) -> Callable[[Files, Files], bytes]:
    return lambda good, other: pack({key: body for key, body in good.items() if not key.startswith(name)})


def beside(*more: tuple[tarfile.TarInfo, bytes], instead_of: str = "") -> Callable[[Files, Files], bytes]:
    return lambda good, other: pack({key: body for key, body in good.items() if key != instead_of}, more)


LINK = member("model.txt", type=tarfile.SYMTYPE, linkname="/etc/hostname")
RAISING = b"\n\ndef predict_fn(request, model):\n    raise RuntimeError('broken on purpose')\n"
SHIFTING = b"""
_sound = predict_fn

def predict_fn(request, model):
    found = _sound(request, model)
    found.scores[:] = [score / 2 for score in found.scores]
    return found
"""
KINDS: dict[str, Callable[[Files, Files], bytes]] = {
    "truncated model.txt": edited("model.txt", lambda body: body[: len(body) // 2]),
    "a tree was changed": edited("model.txt", mutate_leaf),
    "another run's model.txt": lambda good, other: pack(good | {"model.txt": other["model.txt"]}),
    "no schema.json": without("schema.json"),
    "schema.json with a feature less": document("schema.json", lambda found: found["features"].pop()),
    "golden rows score differently": document("golden.json", lambda found: found["scores"].__setitem__(0, 0.123)),
    "calibration.json is no JSON": edited("calibration.json", lambda body: body[:-3]),
    "calibration.json falls": document(
        "calibration.json",
        lambda found: found.update(method="isotonic", score=[0.1, 0.2], probability=[0.9, 0.1]),
    ),
    "no inference code": without("code/"),
    "code that raises on import": edited(INFERENCE, lambda body: b"raise RuntimeError('broken on purpose')\n"),
    "code that raises on a request": edited(INFERENCE, lambda body: body + RAISING),
    "code that scores otherwise": edited(INFERENCE, lambda body: body + SHIFTING),
    "not a tar": lambda good, other: b"This is no archive. " * 1000,
    "archive cut short": lambda good, other: (whole := pack(good))[: len(whole) // 2],
    "a path that leads out": beside((member("../../escaped", 4), b"gone")),
    "a symbolic link": beside((LINK, b""), instead_of="model.txt"),
    "a member of a tebibyte": beside((member("model.txt", 1 << 40), b""), instead_of="model.txt"),
    "model.txt twice": lambda good, other: pack(good, [(member("model.txt", len(body := other["model.txt"])), body)]),
}
# A ping does not score: such code would be met by callers, and sent back by an alarm. So it must not get past
# 03_deploy, also when training itself recorded it.
NOT_BY_A_PING = {"code that raises on a request", "code that scores otherwise"}


def digests(archive: bytes) -> dict[str, str]:
    """What 02_train would have recorded of an archive; of one that cannot be read, only its own hash."""
    found = {"archive_sha256": model_file.sha256(archive)}
    with contextlib.suppress(DataError):
        found["model_sha256"] = model_file.sha256(read_members(archive)["model.txt"])
    return found


def refusal(run: Run, trained: dict) -> str:
    """How 03_deploy refuses a model, in a sentence; empty when it does not."""
    try:
        deployment.verify_model(run, trained)
        return ""
    except FraudError as error:
        said = str(error)
    assert "\n" not in said and said.endswith(".") and len(said) < 300, said
    return said


def test_no_broken_archive_comes_into_service(models) -> None:
    champion, other = models
    guard("broken")
    p = settings("broken", strategy="all_at_once", wait_seconds=0)
    config = promote(champion, p).endpoint_config
    good, theirs = unpack(champion.model["archive"]), unpack(other.model["archive"])
    survived = []
    with callers(champion.house, "broken", [champion], RATE) as load:
        for number, (kind, make) in enumerate(KINDS.items()):
            archive, run = make(good, theirs), Run(champion.house.bucket, f"broken-{number}")
            run.storage.put(run.key("model/model.tar.gz"), archive)
            recorded = champion.trained | {"model_uri": run.uri("model/model.tar.gz")}
            changed = refusal(run, recorded)
            made_so = refusal(run, recorded | digests(archive))
            served = "" if kind in NOT_BY_A_PING else update(run, p, recorded, champion, config)
            say(f"\n{kind}\n  changed after training: {changed}\n  recorded so: {made_so or 'passed'}\n"
                f"  endpoint: {served or 'not tried'}")  # fmt: skip
            if not changed or not (made_so if kind in NOT_BY_A_PING else served):
                survived.append(kind)
    say(f"\n{len(KINDS)} kinds of broken archive, {len(KINDS) - len(survived)} refused; {load}")
    assert not survived
    load.check()
    assert set(load.answers) == {champion.name}


def update(run: Run, p, trained: dict, champion, config: str) -> str:
    """Deploy without looking; returns why the endpoint did not take it, empty when it did."""
    try:
        deployment.deploy(run, p, trained, champion.model, None).check()
    except DeploymentError as error:
        assert deployment.describe("broken")["EndpointConfigName"] == config
        return str(error)
    deployment.go_back("broken", config)
    return ""
