"""The proof of drift on truth: without its data it says so; what it counts by is right."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import drift_on_truth as proof


def test_without_the_data_it_says_so(tmp_path, capsys):
    assert proof.main([str(tmp_path / "handbook_raw.parquet")]) == 0
    assert "is not on this machine, so nothing is measured" in capsys.readouterr().out


def test_false_alarms_are_counted_where_there_are_some(monkeypatch):
    rng = np.random.default_rng(0)
    label = (rng.random(5_000) < 0.02).astype(int)
    score = np.where(label & (rng.random(5_000) < 0.7), 0.8, rng.random(5_000) / 10)
    world = proof.World("a", None, {}, None, (label, score, None, None))
    assert proof.resampled(world, 1, 500, 0, 0.5) == (0, 720)
    for name in ("fraud_rate_threshold", "recall_threshold", "auc_threshold"):
        monkeypatch.setitem(proof.POLICY, name, 0.0)
    monkeypatch.setitem(proof.POLICY, "false_alarm_rate", 1.0)
    assert proof.resampled(world, 1, 500, 0, 0.5)[0] > 0


def test_garwoods_interval():
    assert proof.poisson_interval(0) == pytest.approx((0.0, 3.6889), abs=1e-4)
    assert proof.poisson_interval(10) == pytest.approx((4.7954, 18.3904), abs=1e-4)
