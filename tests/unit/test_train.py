"""The training job: what it learns from, what it refuses, what it leaves."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import training_kit as kit

import train
from fraud.pipeline.training import METRICS
from fraud.serving import model_file

SRC = Path(train.__file__).parent


@pytest.fixture(scope="module")
def channel(tmp_path_factory):
    return kit.put(tmp_path_factory.mktemp("channel"), kit.history(kit.table()))


@pytest.fixture(scope="module")
def job(channel, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return kit.run(patch, tmp_path_factory.mktemp("job"), channel)


# -- what it leaves


def test_the_archive_holds_text_and_json_only(job):
    files = {path.relative_to(job.model_dir).as_posix() for path in job.model_dir.rglob("*") if path.is_file()}
    own = {name for name in files if not name.startswith("code/fraud/")}
    data = {"model.txt", "schema.json", "baseline.json", "metrics.json", "golden.json", "calibration.json"}
    assert job.exit_code == 0
    assert own == data | {"code/inference.py", "code/requirements.txt"}
    assert {name.removeprefix("code/fraud/") for name in files - own} == {
        path.relative_to(SRC / "fraud").as_posix()
        for pattern in ("*.py", "serving/*.py")
        for path in (SRC / "fraud").glob(pattern)
    }


def test_the_endpoint_installs_no_training_package(job):
    lines = (job.model_dir / "code/requirements.txt").read_text().split()
    assert "lightgbm==4.7.0" in lines
    assert not any("pyarrow" in line for line in lines)
    assert "pyarrow" in (SRC / "requirements.txt").read_text()


def test_metrics_hold_what_the_notebook_shows(job):
    metrics = job.read("metrics.json")
    assert metrics["n_train"] + metrics["n_validation"] == 1500
    assert metrics["n_validation"] == 300
    assert metrics["auc"] > 0.8
    assert metrics["train_end"] < metrics["validation_start"]
    assert metrics["model_sha256"] == model_file.sha256((job.model_dir / "model.txt").read_bytes())
    assert metrics["learning_curve"]["iteration"] == [10, 20, 30]
    assert all(len(values) <= 200 for curve in ("roc", "pr") for values in metrics[curve].values())
    assert sum(metrics["scores"]["legit"]) + sum(metrics["scores"]["fraud"]) == 300
    assert metrics["at_threshold"]["review_rate"] <= 0.02
    assert [item["gain"] for item in metrics["importance"]] == sorted(
        (item["gain"] for item in metrics["importance"]), reverse=True
    )
    assert not any(name.startswith("champion") for name in metrics)


def test_the_baseline_describes_the_training_rows(job):
    baseline, metrics = job.read("baseline.json"), job.read("metrics.json")
    assert baseline["model_version"] == "run-1"
    assert baseline["rows"] == metrics["n_train"]
    assert list(baseline["features"]) == [feature["name"] for feature in job.read("schema.json")["features"]]
    for profile in baseline["features"].values():
        assert profile["count"] + profile["missing"] == metrics["n_train"]
    rows = kit.table()["card"].slice(0, 1200).to_pylist()
    assert baseline["features"]["card"]["top"]["visa"] == rows.count("visa")
    assert baseline["features"]["card"]["missing"] == rows.count(None)


def test_the_baseline_knows_how_right_the_model_was(job):
    known, metrics = job.read("baseline.json")["performance"], job.read("metrics.json")
    assert (known["n"], known["threshold"]) == (metrics["n_validation"], metrics["decision_threshold"])
    assert known["fraud_rate"] == metrics["fraud_rate_validation"]
    assert known["recall"] == metrics["at_threshold"]["recall"]
    assert known["precision"] == metrics["at_threshold"]["precision"]
    assert known["auc"] == pytest.approx(metrics["auc"], abs=1e-3)
    assert known["average_precision"] == pytest.approx(metrics["average_precision"], abs=1e-2)
    assert known["delay_days"] == 0 and sum(known["scored"]) == metrics["n_validation"]


def test_progress_can_be_read_by_the_metric_definitions(channel, tmp_path):
    environment = os.environ | {"SM_CHANNEL_TRAIN": str(channel), "SM_MODEL_DIR": str(tmp_path / "model")}
    command = [sys.executable, str(SRC / "train.py"), *kit.FAST, "--num_boost_round", "100"]
    done = subprocess.run(
        [*command, "--early_stopping_rounds", "100"],
        env=environment | {"SM_OUTPUT_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    metrics = json.loads((tmp_path / "model/metrics.json").read_text())
    for name, key in (("validation:auc", "auc"), ("validation:average_precision", "average_precision")):
        (value,) = re.findall(METRICS[name], done.stdout)
        assert float(value) == pytest.approx(metrics[key], abs=1e-5)
    assert len(re.findall(METRICS["stopping:auc"], done.stdout)) == 2  # rounds 50 and 100


# -- the same again


def test_trees_do_not_depend_on_the_number_of_threads(channel, tmp_path, monkeypatch, job):
    two = kit.run(monkeypatch, tmp_path, channel, "--num_threads", "2")
    text = (two.model_dir / "model.txt").read_bytes()
    assert two.read("metrics.json")["trees_sha256"] == job.read("metrics.json")["trees_sha256"]
    assert b"[num_threads: 2]" in text  # so the whole file differs, and the hash of the trees is the one to compare
    assert two.read("metrics.json")["model_sha256"] != job.read("metrics.json")["model_sha256"]
    other = kit.run(monkeypatch, tmp_path / "other", channel, "--seed", "43")
    assert other.read("metrics.json")["trees_sha256"] != job.read("metrics.json")["trees_sha256"]


def test_every_hyperparameter_reaches_the_trees(channel, tmp_path, monkeypatch, job):
    changed = {
        "num_boost_round": 20, "learning_rate": 0.2, "num_leaves": 5, "min_child_samples": 40, "min_child_weight": 9,
        "reg_lambda": 50, "subsample": 0.5, "colsample": 0.4, "max_bin": 15, "boost_from_average": "true",
        "validation_fraction": 0.4, "max_categories": 1,
    }  # fmt: skip
    hashes = {job.read("metrics.json")["trees_sha256"]}
    for name, value in changed.items():
        found = kit.run(monkeypatch, tmp_path / name, channel, f"--{name}", str(value)).read("metrics.json")
        assert found["trees_sha256"] not in hashes, name
        hashes.add(found["trees_sha256"])


def test_weights_count(channel, tmp_path, monkeypatch, job):
    rows = kit.table()
    labels = [(f"t{k}", int(rows["__label"][k].as_py()), "truth", 0.1 if k % 2 else 1.0) for k in range(len(rows))]
    bare = rows.set_column(2, "__label", pa.nulls(len(rows), pa.int8()))
    weighted = kit.run(monkeypatch, tmp_path, kit.put(tmp_path / "in", kit.history(bare), labels))
    assert weighted.read("metrics.json")["n_train"] == job.read("metrics.json")["n_train"]
    assert weighted.read("metrics.json")["trees_sha256"] != job.read("metrics.json")["trees_sha256"]


# -- what it refuses


def one_class(value):
    rows = kit.table(300)
    return rows.set_column(2, "__label", pa.array([value] * len(rows), pa.int8()))


def validation_without_fraud():
    rows = kit.table(300)
    label = rows["__label"].to_numpy().copy()
    label[230:] = 0
    return rows.set_column(2, "__label", pa.array(label, pa.int8()))


def with_infinity():
    rows = kit.table(300)
    values = rows["v1"].to_numpy().copy()
    values[5] = np.inf
    return rows.set_column(rows.schema.get_field_index("v1"), "v1", pa.array(values))


def same_time():
    rows = kit.table(300)
    return rows.set_column(1, "__time", pa.array([1.7e9] * 300))


def without_time():
    rows = kit.table(300)
    return rows.set_column(1, "__time", pa.array([1.7e9, None] * 150))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (kit.table(300).slice(0, 0), "0 rows, 0 of them with a true label"),
        (kit.table(300, labelled=False), "300 rows, 0 of them with a true label"),
        (one_class(0), "one class only: none is fraud"),
        (one_class(1), "one class only: all are fraud"),
        (validation_without_fraud(), "60 validation rows hold one class only: none is fraud"),
        (with_infinity(), "v1 holds an infinite number"),
        (same_time(), "do all rows have the same time"),
        (without_time(), "row 1 has no time"),
        (kit.table(300).drop_columns(["__time"]), "lacks the column __time"),
        (kit.table(300).select(["__id", "__time", "__label", "same"]), "No column is left to learn from"),
        (kit.table(300).set_column(2, "__label", pa.array([0, 1, 2] * 100)), "neither 0 nor 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unusable_rows_end_in_one_sentence(tmp_path, monkeypatch, rows, reason):
    job = kit.run(monkeypatch, tmp_path, kit.put(tmp_path / "in", {"ledger/history/abc/part-00000.parquet": rows}))
    assert job.exit_code == 1
    assert reason in job.reason
    assert not (job.model_dir / "model.txt").exists()


def test_too_few_frauds_are_counted(tmp_path, monkeypatch, channel):
    job = kit.run(monkeypatch, tmp_path, channel, "--min_positives", "1000")
    assert re.fullmatch(r"The 300 validation rows hold \d+ frauds, fewer than 1000\.", job.reason)


def damage(channel: Path, how: str) -> None:
    part = channel / "ledger/history/abc/part-00001.parquet"
    document = channel / kit.RUN / "dataset.json"
    if how == "absent":
        part.unlink()
    elif how == "other content":
        part.write_bytes((channel / "ledger/history/abc/part-00000.parquet").read_bytes())
    elif how == "no dataset.json":
        document.unlink()
    elif how == "two":
        (channel / "dataset.json").write_bytes(document.read_bytes())
    elif how == "not json":
        document.write_text("{")
    else:
        (channel.parent / "outside.parquet").write_bytes(part.read_bytes())
        changes = {"rows": ("rows", 7), "outside": ("key", "../outside.parquet")}
        content = json.loads(document.read_text())
        name, value = changes[how]
        content["parts"][1][name] = value
        document.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("absent", "part-00001.parquet stands in dataset.json, but is not in the train channel"),
        ("other content", "its SHA-256 differs"),
        ("rows", "dataset.json says 7"),
        ("outside", "is not in the train channel"),
        ("no dataset.json", "holds 0 files dataset.json"),
        ("two", "holds 2 files dataset.json"),
        ("not json", "dataset.json cannot be read"),
    ],
)
def test_a_damaged_channel_ends_in_one_sentence(tmp_path, monkeypatch, how, reason):
    channel = kit.put(tmp_path / "in", kit.history(kit.table(300)))
    damage(channel, how)
    job = kit.run(monkeypatch, tmp_path, channel)
    assert job.exit_code == 1
    assert reason in job.reason


def test_a_truncated_part_is_named(tmp_path, monkeypatch):
    channel = kit.put(tmp_path / "in", kit.history(kit.table(300)))
    part, document = channel / "ledger/history/abc/part-00001.parquet", channel / kit.RUN / "dataset.json"
    part.write_bytes(part.read_bytes()[:-100])
    content = json.loads(document.read_text())
    content["parts"][1]["sha256"] = model_file.sha256(part.read_bytes())
    document.write_text(json.dumps(content))
    job = kit.run(monkeypatch, tmp_path, channel)
    assert "part-00001.parquet cannot be read" in job.reason


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([("a", 1, "truth", 1.0), ("a", 0, "truth", 1.0)], "repeated inference_id"),
        ([("a", 1, "guess", 1.0)], "label_source that is none of truth, mature, pseudo"),
        ([("a", 3, "truth", 1.0)], "neither 0 nor 1"),
        ([("a", 1, "truth", float("nan"))], "weight"),
    ],
)
def test_unusable_labels_end_in_one_sentence(tmp_path, monkeypatch, labels, reason):
    job = kit.run(monkeypatch, tmp_path, kit.put(tmp_path / "in", kit.history(kit.table(300)), labels))
    assert job.exit_code == 1
    assert reason in job.reason


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--num_boost_rounds", "3"], "--num_boost_rounds"),
        (["--num_boost", "3"], "--num_boost"),
        (["--learning_rate", "7"], "must be float from 0.0001 to 1"),
        (["--learning_rate", "nan"], "must be float from"),
        (["--num_leaves", "3.5"], "must be int from 2"),
        (["--boost_from_average", "maybe"], "must be true or false"),
        (["--stopping_metric", "f1"], "invalid choice"),
        (["--model_version", "../x"], "must be 1 to 64 letters"),
    ],
)
def test_wrong_hyperparameters_are_refused(tmp_path, monkeypatch, channel, arguments, reason):
    job = kit.run(monkeypatch, tmp_path, channel, *arguments)
    assert job.exit_code == 1
    assert reason in job.reason
