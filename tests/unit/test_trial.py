"""The archive's own inference.py is tried before any traffic, and cannot hurt who tries it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import training_kit as kit

from fraud.archive import read_all
from fraud.errors import DataError, DeploymentError
from fraud.pipeline import deployment, trial

RUN = "run-1"
SOUND = """

_sound = predict_fn

def predict_fn(request, model):
    found = _sound(request, model)
    {}
    return found
"""


def pack(files: dict[str, bytes], *more: tarfile.TarInfo) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz", compresslevel=1) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in more:
            tar.addfile(member)
    return raw.getvalue()


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """What a training job puts into its archive."""
    channel = kit.put(tmp_path_factory.mktemp("channel"), kit.history(kit.table()))
    with pytest.MonkeyPatch.context() as patch:
        folder = kit.run(patch, tmp_path_factory.mktemp("job"), channel).model_dir
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def check(files):
    """Try the archive with more at the end of its inference.py, or with other files."""

    def run(code: str = "", *, seconds: float = trial.SECONDS, **other: bytes | None) -> None:
        changed = files | {"code/inference.py": files["code/inference.py"] + code.encode()} | other
        kept = {name: content for name, content in changed.items() if content is not None}
        model = {name: json.loads(files[f"{name}.json"]) for name in ("golden", "schema")}
        digest = hashlib.sha256(files["model.txt"]).hexdigest()
        trial.check_code(model | {"archive": pack(kept), "model_sha256": digest}, RUN, seconds=seconds)

    return run


def refused(check, *arguments, **more) -> str:
    with pytest.raises(DeploymentError) as caught:
        check(*arguments, **more)
    said = str(caught.value)
    assert "\n" not in said and said.endswith(".") and len(said) < 300, said
    return said


def test_sound_code_passes(check) -> None:
    check()


def test_code_that_raises_on_a_request(check) -> None:
    said = refused(check, SOUND.format("raise RuntimeError('broken on purpose')"))
    assert said == "The code of run-1 cannot score (exit code 1): RuntimeError: broken on purpose."


@pytest.mark.parametrize(
    ("line", "differ"),
    [
        ("found.scores[:] = [0.5 + score / 2 for score in found.scores]", 20),
        ("found.scores[3:] = [0.25, *found.scores[4:]][: len(found.scores[3:])]", 1),  # one among many
        ("found.scores[:] = [0.25] if len(found.scores) == 1 else found.scores", 20),  # each alone
    ],
)
def test_code_that_scores_otherwise(check, line: str, differ: int) -> None:
    assert f"{differ} of 20 golden rows score differently by the code of run-1" in refused(check, SOUND.format(line))


def test_code_that_fails_when_reasons_are_asked(check) -> None:
    assert "ZeroDivisionError" in refused(check, SOUND.format("request.reasons and 1 / 0"))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("del predict_fn", "has no attribute 'predict_fn'"),
        ("import os; os.abort()", r"exit code -6\): no message"),
        (SOUND.format("found.scores[:] = [2.0 for _ in found.scores]"), "gives an answer that cannot be used"),
        ("def output_fn(prediction, accept): return '[' * 100000, accept", "gives an answer that cannot be used"),
        ("import os; os.environ['MODEL_VERSION'] = 'other'", "answers for the model 'other'"),
        ("import os; os._exit(0)", "ended before it had answered"),
        (SOUND.format("print('x' * 200 + chr(10), flush=True); 1 / 0"), "ZeroDivisionError: division by zero"),
    ],
)
def test_what_else_is_no_code_to_serve(check, code: str, reason: str) -> None:
    with pytest.raises(DeploymentError, match=reason):
        check(f"\n{code}\n")


def test_the_package_of_who_deploys_does_not_stand_in_for_the_archives(check, files) -> None:
    without = {name: None for name in files if name.startswith("code/fraud/")}
    assert "fraud is not in the archive" in refused(check, **without)
    assert "inference is not in the archive" in refused(check, **{"code/inference.py": None})


def test_code_that_never_ends_is_ended_with_all_that_it_started(check, tmp_path: Path) -> None:
    note = tmp_path / "pids"
    began = time.monotonic()
    spin = f"""
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(note)!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
while True: time.sleep(1)
"""
    assert "has not scored the golden rows within 5 s" in refused(check, spin, seconds=5)
    assert time.monotonic() - began < 30
    for pid in map(int, note.read_text().split()):
        assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_what_sound_code_leaves_running_is_ended_too(check, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    check(f"""
import subprocess, sys
open({str(note)!r}, "w").write(str(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid))
""")
    pid = int(note.read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_the_code_sees_no_credentials(check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_PROFILE", "DATABASE_PASSWORD"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("PYTHONPATH", "secret")
    note = tmp_path / "seen"
    check(f"import json, os; open({str(note)!r}, 'w').write(json.dumps([dict(os.environ), os.path.expanduser('~')]))")
    seen, home = json.loads(note.read_text())
    assert "secret" not in seen.values() and seen["PATH"] == os.environ["PATH"]
    assert {name for name in seen if name.startswith("AWS_")} == {"AWS_EC2_METADATA_DISABLED"}
    assert Path(home) != Path.home() and not Path(home).exists()


def test_03_deploy_tries_the_code_before_anything_is_made(files, storage) -> None:
    def verified(more: str) -> dict:
        archive = pack(files | {"code/inference.py": files["code/inference.py"] + more.encode()})
        storage.put("model.tar.gz", archive)
        trained = {"model_uri": "s3://loop/model.tar.gz", "archive_sha256": hashlib.sha256(archive).hexdigest()}
        trained["model_sha256"] = hashlib.sha256(files["model.txt"]).hexdigest()
        return deployment.verify_model(SimpleNamespace(bucket="loop", run_id=RUN, storage=storage), trained)

    assert len(verified("")["offline"]) == 20
    with pytest.raises(DeploymentError, match="broken on purpose"):
        verified(SOUND.format("raise RuntimeError('broken on purpose')"))


def test_a_flood_of_output_ends_the_code_and_nothing_else(check) -> None:
    flood = """
import sys, time
while True:
    sys.stdout.write("x" * (4 << 20))
    time.sleep(0.05)
"""
    assert "cannot score (exit code" in refused(check, flood, seconds=30)


# -- what is unpacked


def link(name: str) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = tarfile.SYMTYPE, sys.executable
    return made


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (pack({"../out": b""}), r"'\.\./out' leads out of its folder"),
        (pack({"/etc/out": b""}), "'/etc/out' leads out"),
        (pack({"a\\b": b""}), "leads out"),
        (pack({}, link("a")), "a is not a regular file"),
        (pack({"a": b"1", "./a": b"2"}), "holds a twice"),
        (pack({"a": b"1" * 1000}), "a has 1,000 bytes, more than the 999 allowed"),
        (pack({"a": b"1" * 500, "b": b"1" * 500}), "b has 500 bytes, more than the 499 allowed"),
        (pack({str(k): b"" for k in range(5)}), "holds more than 4 files"),
        (pack({"a": os.urandom(900)})[:-400], "is damaged"),
    ],
)
def test_an_archive_that_must_not_be_unpacked(monkeypatch: pytest.MonkeyPatch, archive: bytes, reason: str) -> None:
    monkeypatch.setattr("fraud.archive.MOST_BYTES", 999)
    monkeypatch.setattr("fraud.archive.MOST_FILES", 4)
    with pytest.raises(DataError, match=reason):
        read_all(archive)


def test_every_file_is_read() -> None:
    folder = tarfile.TarInfo("./code")
    folder.type = tarfile.DIRTYPE
    assert read_all(pack({"./a": b"1", "code/b": b"2"}, folder)) == {"a": b"1", "code/b": b"2"}
