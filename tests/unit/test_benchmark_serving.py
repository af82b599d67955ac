"""The serving benchmark runs, and finds that both handlers give the same scores before it times them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_quick_look(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks/serving.py"), "--rounds", "1", "--seconds", "0.2", "--trees", "5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "as training did, to the last bit" in done.stderr
    for found in ("usual handler", "src/inference.py", "requests/s, ours : usual, 16 connections", "Lambda's import"):
        assert found in done.stdout
