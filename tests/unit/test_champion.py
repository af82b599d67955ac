"""The champion: scored on the same rows, and never trusted."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import training_kit as kit

from fraud.errors import FraudError
from fraud.serving import libgomp, model_file
from fraud.training import champion, splits
from fraud.training import data as training_data


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A training job, and its channel."""
    channel = kit.put(tmp_path_factory.mktemp("channel"), kit.history(kit.table()))
    with pytest.MonkeyPatch.context() as patch:
        return kit.run(patch, tmp_path_factory.mktemp("job"), channel), channel


def score(folder, channel):
    ledger = training_data.open_ledger(channel)
    fold = splits.prequential(training_data.read_rows(ledger), kit.settings())[-1]
    return champion.score(folder, ledger, fold.grading, 1)


def test_the_same_model_on_the_same_rows_scores_the_same(served, tmp_path, monkeypatch):
    job, channel = served
    job.archive(tmp_path / "model.tar.gz")
    again = kit.run(monkeypatch, tmp_path / "again", channel, champion=tmp_path).read("metrics.json")
    for name in ("auc", "average_precision", "log_loss", "roc", "pr"):
        assert again[f"champion_{name}"] == again[name]


def test_the_champion_is_scored_by_its_own_schema(served, tmp_path, monkeypatch):
    """The newer rows lack a column, have another one, and count their categories otherwise."""
    job, _ = served
    rows = kit.table(1500, 9, 1.8e9)
    card = rows["card"].to_pylist()
    card = ["diners" if value == "visa" else value for value in card]
    rows = rows.set_column(rows.schema.get_field_index("card"), "card", pa.array(card))
    rows = rows.drop_columns(["count"]).append_column("newer", pa.array(np.arange(1500.0)[::-1] % 7))
    channel = kit.put(tmp_path / "in", kit.history(rows))
    job.archive(tmp_path / "model.tar.gz")
    scores = score(tmp_path, channel)
    loaded = model_file.load(job.model_dir)
    newest = training_data.raw_rows(training_data.open_ledger(channel), range(1200, 1500), loaded.schema.names)
    expected = loaded.probabilities(np.array([loaded.schema.encode(row) for row in newest]))
    assert scores.tolist() == expected.tolist()
    assert kit.run(monkeypatch, tmp_path / "out", channel, champion=tmp_path).read("metrics.json")["champion_auc"] > 0.7


def test_a_column_that_became_text_cannot_be_scored(served, tmp_path):
    rows = kit.table(300)
    rows = rows.set_column(rows.schema.get_field_index("v1"), "v1", rows["v1"].cast(pa.string()))
    served[0].archive(tmp_path / "model.tar.gz")
    with pytest.raises(FraudError, match="v1 is a category column, but a number is expected"):
        score(tmp_path, kit.put(tmp_path / "in", kit.history(rows)))


def hostile(archive, files, how, outside):
    """Write an archive that must be refused."""

    def add(tar, name, content, **member):
        info = tarfile.TarInfo(name)
        info.size = len(content)
        for key, value in member.items():
            setattr(info, key, value)
        tar.addfile(info, io.BytesIO(content))

    with tarfile.open(archive, "w:gz") as tar:
        for name, content in files.items():
            if name == "model.txt" and how == "truncated":
                content = content[: len(content) // 2]
            elif name == "model.txt" and how == "half a line":
                content = content.replace(b"split_feature=", b"split_feature=9999 ", 1)
            elif name == "model.txt" and how == "other leaf":
                line = content[content.index(b"leaf_value=") :].split(b"\n", 1)[0]
                content = content.replace(line, line.translate(bytes.maketrans(b"123456789", b"234567891")), 1)
            elif name == "model.txt" and how == "no model":
                content = b"tree\n\nTree=0\nnothing\nend of trees\n"
            elif name == "schema.json" and how == "fewer features":
                document = json.loads(content)
                document["features"].pop()
                content = json.dumps(document).encode()
            elif name == "golden.json" and how == "missing member":
                continue
            add(tar, name, content)
        if how == "twice":
            add(tar, "model.txt", files["model.txt"])
        elif how == "outside":
            add(tar, f"../{outside.name}", b"x")
            add(tar, "./model.txt", files["model.txt"])
        elif how == "too large":
            info = tarfile.TarInfo("baseline.json")
            info.size = 1 << 50
            tar.addfile(info)
    if how == "link":
        with tarfile.open(archive, "w:gz") as tar:
            for name in files:
                add(tar, name, b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    elif how == "no archive":
        archive.write_bytes(b"not gzip")
    elif how == "cut":
        archive.write_bytes(archive.read_bytes()[:-2000])
    elif how == "flipped":
        content = archive.read_bytes()
        archive.write_bytes(content[:3000] + bytes(byte ^ 0x55 for byte in content[3000:3100]) + content[3100:])


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("truncated", "not a whole LightGBM text model"),
        ("half a line", "not a whole LightGBM text model"),
        ("other leaf", "golden rows score differently than at training"),
        ("no model", "its header has no proper version"),
        ("fewer features", "The model takes 7 features, its schema names 6"),
        ("missing member", "lacks golden.json"),
        ("twice", "holds model.txt twice"),
        ("outside", "holds model.txt twice"),
        ("too large", "is damaged"),
        ("link", "is not a regular file"),
        ("no archive", "is damaged"),
        ("cut", "is damaged"),
        ("flipped", "is damaged"),
    ],
)
def test_a_hostile_archive_is_refused_and_nothing_is_written(served, tmp_path, monkeypatch, how, reason):
    job, channel = served
    files = {name: (job.model_dir / name).read_bytes() for name in champion.LIMITS}
    folder, outside = tmp_path / "in", tmp_path / "escaped"
    folder.mkdir()
    hostile(folder / "model.tar.gz", files, how, outside)
    refused = kit.run(monkeypatch, tmp_path, channel, champion=folder)
    assert refused.exit_code == 1
    assert reason in refused.reason
    assert not outside.exists()
    assert not (refused.model_dir / "model.txt").exists()


def test_a_model_that_never_loads_is_given_up(served, tmp_path, monkeypatch):
    sleeper = tmp_path / "python"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o700)
    monkeypatch.setattr(model_file.sys, "executable", str(sleeper))
    monkeypatch.setattr(model_file, "CHILD_SECONDS", 0.3)
    with pytest.raises(FraudError, match="was not loaded within"):
        model_file.load(served[0].model_dir)


def test_a_model_swapped_while_it_is_checked_is_refused(served, tmp_path, monkeypatch):
    folder = shutil.copytree(served[0].model_dir, tmp_path / "model")
    ask = model_file._ask_child

    def swap(path):
        (path / "model.txt").write_bytes((path / "model.txt").read_bytes() + b"\n")
        return ask(path)

    monkeypatch.setattr(model_file, "_ask_child", swap)
    with pytest.raises(FraudError, match="changed while it was checked"):
        model_file.load(folder)


def test_a_renamed_libgomp_serves_lightgbm():
    if libgomp.vendored() is None:
        pytest.skip("this scikit-learn carries no libgomp")
    program = """
import ctypes, sys
from fraud.serving import libgomp
assert libgomp.preload()
ctypes.CDLL(libgomp.SYSTEM_NAME)  # is found by its name, not searched for on the disk
loaded = {line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line or "(deleted)" in line}
assert loaded == {"(deleted)"}, loaded
"""
    subprocess.run([sys.executable, "-c", program], cwd=Path(libgomp.__file__).parent, check=True)
