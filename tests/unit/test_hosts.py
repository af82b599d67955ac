"""Several hosts train one model: as processes on this machine, connected as SageMaker's hosts are."""

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
from training_kit import FAST, history, put, settings, table

from fraud.errors import ParameterError, PlatformError
from fraud.training import hosts
from fraud.training.hyperparameters import parse

SOURCE = Path(__file__).resolve().parents[2] / "src"
NAMES = ("algo-1", "algo-2")


def job(folder: Path, channel: Path, names: tuple[str, ...], *arguments: str) -> list[tuple[int, str, Path]]:
    """Run the training script on every host; exit code, output and model folder of each."""
    running = []
    for name in names:
        base = folder / name
        environment = os.environ | {
            "SM_HOSTS": json.dumps(names),
            "SM_CURRENT_HOST": name,
            "SM_NETWORK_INTERFACE_NAME": "lo",
            "TRAINING_JOB_NAME": f"{folder}",
            "SAGEMAKER_BASE_DIR": str(base),
            "SM_CHANNEL_TRAIN": str(channel),
            "PYTHONPATH": str(SOURCE),
        }
        command = [sys.executable, str(SOURCE / "train.py"), *FAST, "--num_boost_round", "200", *arguments]
        base.mkdir(parents=True)
        with (base / "log").open("w") as log:
            running.append((subprocess.Popen(command, env=environment, stdout=log, stderr=log), base))
    try:
        return [(process.wait(300), (base / "log").read_text(), base / "model") for process, base in running]
    finally:
        for process, _ in running:
            process.kill()


def with_one_gap(rows: pa.Table) -> pa.Table:
    """``v1`` is missing once: only one of the hosts keeps that row."""
    values = rows["v1"].to_pylist()
    values[301] = None
    return rows.set_column(rows.column_names.index("v1"), "v1", pa.array(values))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[tuple[int, str, Path]]]:
    folder = tmp_path_factory.mktemp("hosts")
    channel = put(folder / "channel", history(with_one_gap(table(12_000, seed=3)), 3))
    arguments = ("--folds", "2", "--split", "random")
    return {n: job(folder / str(n), channel, NAMES[:n], *arguments) for n in (1, 2)}


def read(model: Path, name: str) -> dict:
    return json.loads((model / name).read_text())


def test_two_hosts_agree_with_one(trained) -> None:
    ((_, log, alone),) = trained[1]
    (first, output, together), (second, theirs, nothing) = trained[2]
    assert (first, second) == (0, 0), output + theirs
    assert not nothing.exists(), "the second host writes nothing"
    one, two = (read(model, "metrics.json") for model in (alone, together))
    assert one["trees_sha256"] != two["trees_sha256"], "were the rows shared out at all?"
    assert abs(one["auc"] - two["auc"]) < 0.002
    for name in ("n_train", "n_stopping", "n_validation", "label_sources", "excluded"):
        assert one[name] == two[name]
    assert [fold["n_train"] for fold in one["folds"]] == [fold["n_train"] for fold in two["folds"]]
    assert abs(one["random_split"]["auc"] - two["random_split"]["auc"]) < 0.01
    assert two["hyperparameters"]["hosts"] == list(NAMES)


def test_hosts_learn_one_schema_from_all_rows(trained) -> None:
    schemas = [(trained[n][0][2] / "schema.json").read_text() for n in (1, 2)]
    assert schemas[0] == schemas[1]
    required = {feature["name"]: feature["required"] for feature in json.loads(schemas[0])["features"]}
    assert not required["v1"] and required["amount"]


def test_each_host_keeps_its_share(trained) -> None:
    n_train = read(trained[2][0][2], "metrics.json")["n_train"]
    kept = [
        int(re.findall(r"keeps (\d+) of", output)[-2]) for _, output, _ in trained[2]
    ]  # the last is the random split
    assert sum(kept) == n_train and abs(kept[0] - kept[1]) <= 1
    assert "keeps" not in trained[1][0][1]


def test_same_hosts_grow_the_same_trees(trained, tmp_path: Path) -> None:
    channel = put(tmp_path / "channel", history(with_one_gap(table(12_000, seed=3)), 3))
    again = job(tmp_path, channel, NAMES, "--folds", "2", "--split", "random")
    before, after = (read(runs[0][2], "metrics.json")["trees_sha256"] for runs in (trained[2], again))
    assert before == after


def test_rows_are_dealt_out_once() -> None:
    mask = np.random.default_rng(0).random(1_001) < 0.6
    shares = [hosts.share(settings("--hosts", '["b", "a", "c"]', "--current_host", name), mask) for name in "abc"]
    assert (np.sum(shares, axis=0) == mask).all()
    assert max(map(np.sum, shares)) - min(map(np.sum, shares)) <= 1


def test_who_leads_does_not_depend_on_the_order_of_the_list() -> None:
    names = [f"algo-{k}" for k in range(1, 12)]
    for given in (names, names[::-1]):
        p = parse(["--hosts", json.dumps(given), "--current_host", "algo-2"])
        assert p.hosts == tuple(names) and not hosts.leads(p)


@pytest.mark.parametrize("given", ["algo-1", "[]", '{"a": 1}', "[1]", '[""]'])
def test_hosts_that_are_no_names_are_refused(given: str) -> None:
    with pytest.raises(ParameterError, match="JSON list of names"):
        parse(["--hosts", given])


def test_a_host_that_is_not_among_them_is_refused() -> None:
    with pytest.raises(ParameterError, match="'algo-3' is none of algo-1, algo-2"):
        parse(["--hosts", json.dumps(NAMES), "--current_host", "algo-3"])


def test_a_host_without_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "PATIENCE", 0.0)
    with pytest.raises(PlatformError, match=r"host algo-2\.invalid of the training job has no address"):
        hosts.address("algo-2.invalid", "eth0")
    assert hosts.address("localhost", "eth0") == hosts.address("whatever", "lo") == "127.0.0.1"


def test_a_port_that_is_taken_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(hosts, "PORTS", range(21_873, 21_876))
    with socket.create_server(("127.0.0.1", 21_873)):
        p = settings("--hosts", json.dumps(NAMES), "--network_interface", "lo")
        with pytest.raises(PlatformError, match="algo-1 cannot train with algo-1, algo-2"), hosts.connected(p):
            pass
