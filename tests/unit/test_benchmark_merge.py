"""The benchmark of the merge runs from end to end, on a table too small to say anything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "merge.py"


def test_each_way_merges_the_same_rows(tmp_path):
    sizes = ["--rows", "1200", "--live", "400", "--columns", "core", "--rounds", "1", "--double"]
    places = ["--folder", str(tmp_path / "kept"), "--json", str(tmp_path / "found.json")]
    told = subprocess.run([sys.executable, str(BENCHMARK), *sizes, *places], check=True, capture_output=True, text=True)
    assert "no network" in told.stdout and not told.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    new = 400 // 48  # rows of the capture object that arrives before the second run
    assert {way: one["rows"] for way, one in found["figures"]["once"].items()} == {
        "pandas": 1600 - new, "first": 1600 - new, "second": 1600,
    }  # fmt: skip
    assert {way: one["rows"] for way, one in found["figures"]["double"].items()} == {
        "first": 2800 - new, "second": 2800,
    }  # fmt: skip
    for way, about in found["figures"]["once"].items():
        assert 0 < about["seconds"] < about["whole"] and 20 < about["imports_mb"] < about["peak_mb"], way
    assert set(found["ratios"]) == {
        *(f"{way}_{what}" for way in ("first", "second") for what in ("time", "process_time", "cpu", "memory")),
        "first_double_memory", "second_double_memory",
    }  # fmt: skip
    assert [path.name for path in (tmp_path / "kept" / "1200-400-core-1").iterdir() if "bucket" in path.name] == []
