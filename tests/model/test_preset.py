"""LightGBM's own defaults fail on rare fraud; the preset of this product does not."""

from __future__ import annotations

import sys
from pathlib import Path

import lightgbm
import numpy as np
import pytest
import training_kit as kit
from sklearn.metrics import roc_auc_score

from fraud.serving import model_file

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "published"))

import datasets

ULB = Path(__file__).parents[3] / "shared" / "data" / datasets.ULB.file


@pytest.mark.slow
@pytest.mark.skipif(not ULB.is_file(), reason=f"{ULB.name} is not in shared/data beside the repository")
def test_real_frauds_of_which_there_are_few(tmp_path, monkeypatch):
    """The last fifth of the ULB payments, by time: the library's defaults rank it far worse."""
    table = datasets.read(ULB, datasets.ULB).to_arrow()
    names = [name for name in table.column_names if name not in ("source_row", "Time", "Class")]
    label = table["Class"].to_numpy().astype(np.int8)
    last = len(table) - round(len(table) * 0.2)
    matrix = np.column_stack([table[name].to_numpy().astype(float) for name in names])
    library = lightgbm.LGBMClassifier(random_state=42, n_jobs=1, verbosity=-1).fit(matrix[:last], label[:last])
    plain = roc_auc_score(label[last:], library.predict_proba(matrix[last:])[:, 1])

    columns = {
        "__id": [str(k) for k in table["source_row"].to_pylist()],
        "__time": 1.3e9 + table["Time"].to_numpy(),
        "__label": label,
    }
    rows = kit.pa.table(columns | {name: table[name] for name in names})
    roles = {"target": "Class", "id": "", "time": "Time", "amount": "Amount"}
    channel = kit.put(tmp_path / "in", kit.history(rows), roles=roles, exclude=[])
    arguments = ["--delay_days", "0", "--label_coverage", "0", "--num_threads", "1", "--n_bootstrap", "20"]
    monkeypatch.setattr(kit, "FAST", [])  # the product's preset, all of it
    job = kit.run(monkeypatch, tmp_path, channel, *arguments)
    metrics = job.read("metrics.json")
    assert metrics["n_validation"] == len(table) - last
    assert plain < 0.9 < 0.97 < metrics["auc"]
    loaded = model_file.load(job.model_dir)
    again = loaded.probabilities(np.asfortranarray(matrix[last:][:, [names.index(n) for n in loaded.schema.names]]))
    assert roc_auc_score(label[last:], again) == pytest.approx(metrics["auc"])
