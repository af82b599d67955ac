"""The benchmark of loading runs from end to end, on a table too small to say anything."""

import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "load_training.py"


def test_both_ways_come_to_the_same_rows():
    small = ["--rows", "2000", "--columns", "core", "--rounds", "1"]
    told = subprocess.run([sys.executable, str(BENCHMARK), *small], check=True, capture_output=True, text=True).stdout
    ours, pandas = (line.split()[-2:] for line in told.splitlines() if line.startswith(("ours", "pandas")))
    assert ours == pandas and ours[0] == "1,600"
    assert "ratio ours : pandas = " in told
