"""One drift check against Evidently's DataDriftPreset: seconds and peak memory of whole processes, taking turns.

50,000 live rows × 50 columns against 500,000 reference rows, all made here from a seed. Ours reads the stored baseline
and captured lines as SageMaker writes them, JSON in JSON; Evidently reads both tables as Parquet, the faster form.

* **check**: all live rows are counted, as after an outage of a day.
* **hourly**: 23 of 24 hours are counted already, as at every check of a running product.
* **parse**: orjson reads each captured line and the request in it, and nothing else is done: what no check that counts
  all rows can be faster than.

    python benchmarks/drift_speed.py --evidently /tmp/evidently/bin/python      (see drift_evidently.py)
    python benchmarks/drift_speed.py --columns 400
    python benchmarks/drift_speed.py --reference 5000000                        ours alone, with ten times the reference
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LAMBDA = HERE.parent / "lambdas" / "drift_check"
HOURS, CATEGORIES = 24, 5
WAYS = ("check", "hourly", "parse")
PEER = "evidently"


def make(folder: Path, reference: int, live: int, columns: int, parquet: bool) -> None:
    """Write baseline, captured hours, and the two tables for Evidently."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from fraud.capture import encode_line
    from fraud.drift import build_baseline
    from fraud.schema import Feature, Schema

    rng = np.random.default_rng(7)
    texts = np.array([f"value {k}" for k in range(30)])
    weights = 1 / np.arange(1, 31) / (1 / np.arange(1, 31)).sum()
    names = [f"x{k}" for k in range(columns - CATEGORIES)] + [f"c{k}" for k in range(CATEGORIES)]
    features, tables, counted = [], ({}, {}), {}
    for k, name in enumerate(names):
        for table, rows in zip(tables, (reference, live), strict=True):
            if name[0] == "c":
                table[name] = rng.choice(texts, rows, p=weights)
            else:
                values = rng.lognormal(3, 1, rows).round(2) if k % 3 == 0 else rng.normal(size=rows)
                values[rng.random(rows) < 0.05 * (k % 4)] = np.nan
                table[name] = values
        kind = "category" if name[0] == "c" else "number"
        features.append(Feature(name, kind, False, tuple(texts.tolist()) if kind == "category" else ()))
        if kind == "category":
            values, counts = np.unique(tables[0][name], return_counts=True)
            counted[name] = dict(zip(values.tolist(), counts.tolist(), strict=True))
        else:
            counted[name] = tables[0][name]
        if not parquet:
            tables[0][name] = None
    schema = Schema(tuple(features), roles={"amount": "x0"})
    scores = rng.beta(0.5, 9, 20_000)
    baseline = build_baseline(counted, schema, scores.tolist(), "bench", threshold=0.5)
    (folder / "baseline.json").write_text(json.dumps(baseline))
    (folder / "schema.json").write_text(schema.to_json())
    if parquet:
        for table, name in zip(tables, ("reference", "live"), strict=True):
            pq.write_table(pa.table(table), folder / f"{name}.parquet")
    lists = {name: [None if v != v else v for v in values.tolist()] for name, values in tables[1].items()}
    live_scores = rng.beta(0.5, 9, live).tolist()
    for hour in range(HOURS):
        lines = []
        for j in range(hour * live // HOURS, (hour + 1) * live // HOURS):
            row = {name: values[j] for name, values in lists.items()}
            about = {"event_id": f"event-{j}", "inference_ids": [f"id-{j}"], "model_version": "bench"}
            lines.append(encode_line([row], [live_scores[j]], time=3600.0 * hour, **about))
        (folder / f"{hour:02d}.jsonl").write_bytes(b"".join(lines))


def check(folder: Path, hourly: bool) -> dict[str, Any]:
    """One check, in this process."""
    sys.path.insert(0, str(LAMBDA))
    from counting import FastSketch, Reader

    from fraud.schema import Schema
    from fraud.sketch import Sketch
    from fraud.verdict import POLICY, judge

    baseline = json.loads((folder / "baseline.json").read_bytes())
    schema = Schema.from_json((folder / "schema.json").read_bytes())
    window = Sketch(baseline, schema)
    for hour in range(HOURS):
        kept = folder / f"{hour:02d}.sketch"
        if hourly and hour < HOURS - 1 and kept.exists():
            window.merge(Sketch.from_json(baseline, kept.read_bytes(), schema))
            continue
        sketch = FastSketch(baseline, schema)
        records, problems = Reader(schema).read((folder / f"{hour:02d}.jsonl").read_bytes(), "AllTraffic")
        if problems:
            raise SystemExit(f"{len(problems)} lines cannot be read: {problems[0]}")
        for record in records:
            sketch.add(record)
        kept.write_text(sketch.to_json())
        window.merge(sketch)
    verdict = judge(baseline, window, POLICY, (0, 86_400), "fraud", 86_400)
    return {"verdict": verdict["verdict"], "n": verdict["n"], "peak_mb": _peak()}


def parse(folder: Path) -> dict[str, Any]:
    """Read the JSON of all captured lines, in this process."""
    from orjson import loads

    n = 0
    for hour in range(HOURS):
        for line in (folder / f"{hour:02d}.jsonl").read_bytes().splitlines():
            n += len(loads(loads(line)["captureData"]["endpointInput"]["data"])["transactions"])
    return {"n": n, "peak_mb": _peak()}


def _peak() -> float:
    """Of this process: `ru_maxrss` would count what its parent held when it was started."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) / 1024


def run(way: str, folder: Path, evidently: str) -> dict[str, Any]:
    """A whole process: start, imports, work, end."""
    if way == PEER:
        files = [str(folder / f"{name}.parquet") for name in ("reference", "live")]
        command = [evidently, str(HERE / "drift_evidently.py"), *files]
    else:
        command = [sys.executable, __file__, "--folder", str(folder), "--child", way]
    began = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    seconds = time.perf_counter() - began
    return json.loads(done.stdout.splitlines()[-1]) | {"seconds": seconds}


def main() -> int:
    """Print one line a way, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=int, default=500_000, help="rows the model was trained on")
    parser.add_argument("--live", type=int, default=50_000, help="payments in the window")
    parser.add_argument("--columns", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--evidently", default="", help="an interpreter that has it; without, ours alone")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    p = parser.parse_args()
    if p.child:
        found = parse(p.folder) if p.child == "parse" else check(p.folder, p.child == "hourly")
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    ways = [*WAYS, *([PEER] if p.evidently else [])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, p.reference, p.live, p.columns, bool(p.evidently))
        size = (folder / "baseline.json").stat().st_size
        sys.stdout.write(
            f"{p.live:,} live rows × {p.columns} columns against {p.reference:,}; baseline {size:,} bytes\n"
        )
        found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
        for k in range(p.rounds):
            for way in ways if k % 2 == 0 else ways[::-1]:
                found[way].append(run(way, folder, p.evidently))
                sys.stderr.write(f"round {k + 1}, {way}: {found[way][-1]['seconds']:.2f} s\n")
    for way in ways:
        seconds = [one["seconds"] for one in found[way]]
        peak = max(one["peak_mb"] for one in found[way])
        line = f"{way:10} {statistics.median(seconds):8.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
        line += f", peak {peak:,.0f} MB"
        if p.evidently and way != PEER:
            ratios = [b["seconds"] / a["seconds"] for a, b in zip(found[way], found[PEER], strict=True)]
            memory = peak / max(one["peak_mb"] for one in found[PEER])
            line += f"; Evidently takes {statistics.median(ratios):.0f} times as long"
            line += f" ({min(ratios):.0f} to {max(ratios):.0f}), memory {memory:.2f} of its"
        sys.stdout.write(line + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
