"""Small ledgers to train on, and a training job run in this process."""

from __future__ import annotations

import hashlib
import json
import tarfile
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import train
from fraud.training.hyperparameters import parse

RUN = "runs/20260102-030405-abcd/data"
ROLES = {"target": "is_fraud", "id": "tx_id", "time": "tx_time", "amount": "amount"}
FAST = ["--num_boost_round", "30", "--learning_rate", "0.1", "--min_child_samples", "5", "--num_threads", "1"]
FAST += ["--delay_days", "0", "--n_bootstrap", "20"]  # the small tables are a day long
LIVE = "ledger/live/fraud/all/2026/01/02/03/ab.parquet"


def table(n: int = 1500, seed: int = 0, start: float = 1.7e9, prefix: str = "t", labelled: bool = True) -> pa.Table:
    """Transactions in time order with every kind of column; fraud follows ``v1``, ``amount`` and ``card``."""
    rng = np.random.default_rng(seed)
    v1, amount = rng.normal(size=n), np.round(np.exp(rng.normal(3, 1, n)), 2)
    card = rng.choice(["visa", "master", "amex", "diners"], n, p=[0.5, 0.3, 0.15, 0.05])
    risk = -4 + 2 * v1 + 1.2 * (np.log(amount) - 3) + 1.5 * (card == "amex")
    label = (rng.random(n) < 1 / (1 + np.exp(-risk))).astype(np.int8)
    gaps = rng.random((4, n)) < np.array([[0.2], [0.3], [0.4], [0.1]])
    return pa.table(
        {
            "__id": [f"{prefix}{k}" for k in range(n)],
            "__time": start + np.arange(n) * 60.0,
            "__label": pa.array(label, pa.int8()) if labelled else pa.nulls(n, pa.int8()),
            "amount": amount,
            "v1": v1,
            "v 2, {odd}": pa.array(rng.normal(size=n), mask=gaps[0]),
            "count": pa.array(rng.integers(0, 50, n), mask=gaps[1]),
            "card": pa.array(card, mask=gaps[2]),
            "known": pa.array(rng.random(n) < 0.3, mask=gaps[3]),
            "first_time": rng.random(n) < 0.5,
            "note": [f"note {rng.integers(1 << 40)}" for _ in range(n)],
            "same": np.full(n, 7),
            "nothing": pa.nulls(n),
            "when": pa.array(np.arange(n) * 1_000_000, pa.timestamp("us")),
            "counter": np.arange(n) // 2 + 100,
            "secret": rng.normal(size=n),
        }
    )


def put(channel: Path, parts: dict[str, pa.Table], labels: list[tuple] = (), **dataset) -> Path:
    """Write parts, labels ``(id, label, source, weight)`` and ``dataset.json`` as a channel delivers them."""
    listed = []
    for key, rows in parts.items():
        path = channel / key
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, path)
        listed.append({"key": key, "rows": len(rows), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    (channel / RUN).mkdir(parents=True, exist_ok=True)
    ids, values, sources, weights = zip(*labels, strict=True) if labels else ((), (), (), ())
    columns = {
        "inference_id": pa.array(ids, pa.string()),
        "label": pa.array(values, pa.int8()),
        "label_source": pa.array(sources, pa.string()),
        "label_time": pa.array([1.8e9] * len(ids), pa.float64()),
        "weight": pa.array(weights, pa.float32()),
    }
    pq.write_table(pa.table(columns), channel / RUN / "labels.parquet")
    document = {"schema_version": 1, "roles": ROLES, "exclude": ["secret"], "parts": listed} | dataset
    (channel / RUN / "dataset.json").write_text(json.dumps(document))
    return channel


def history(rows: pa.Table, n_parts: int = 2) -> dict[str, pa.Table]:
    """Cut a table into parts of a history."""
    size = -(-len(rows) // n_parts)
    return {f"ledger/history/abc/part-{k:05d}.parquet": rows.slice(k * size, size) for k in range(n_parts)}


def settings(*arguments: str) -> Namespace:
    """Hyperparameters of a small job."""
    return parse([*FAST, *arguments])


@dataclass
class Job:
    """What a training job left."""

    exit_code: int
    model_dir: Path
    failure: Path

    @property
    def reason(self) -> str:
        return self.failure.read_text() if self.failure.exists() else ""

    def read(self, name: str) -> dict:
        return json.loads((self.model_dir / name).read_text())

    def archive(self, path: Path) -> Path:
        """Pack the model as SageMaker does."""
        with tarfile.open(path, "w:gz") as tar:
            tar.add(self.model_dir, ".")
        return path


def run(monkeypatch, work: Path, channel: Path, *arguments: str, champion: Path | None = None) -> Job:
    """Run ``train.py`` in this process, in SageMaker's environment."""
    monkeypatch.setenv("SM_CHANNEL_TRAIN", str(channel))
    monkeypatch.setenv("SM_MODEL_DIR", str(work / "model"))
    monkeypatch.setenv("SM_OUTPUT_DIR", str(work / "output"))
    monkeypatch.setenv("MODEL_VERSION", "run-1")
    monkeypatch.delenv("SM_CHANNEL_CHAMPION", raising=False)
    if champion:
        monkeypatch.setenv("SM_CHANNEL_CHAMPION", str(champion))
    return Job(train.main([*FAST, *arguments]), work / "model", work / "output" / "failure")
