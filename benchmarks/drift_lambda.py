"""A check of the drift Lambda over a busy day: cold, after one more hour, and against reading the window anew.

The captured files are made here from a seed and lie on this disk, so no network is measured. Each measurement is a
child process of its own, whose peak memory is compared with what the Lambda has, and the ways take turns:

* **cold**: no hour has been counted yet; the check reads the whole day.
* **warm**: the same check an hour later; one hour is new, 23 lie counted.
* **anew**: `fraud.window.read_window`, the standard library over every file, on `--anew` hours of the same day.

A check is all that the Lambda does between its event and its verdict, truth included; only the calls to CloudWatch are
answered by a stand-in.

    python benchmarks/drift_lambda.py                        500,000 requests, 50 features, JSON
    python benchmarks/drift_lambda.py --form base64
    python benchmarks/drift_lambda.py --callers 30           the most that callers can cost
    python benchmarks/drift_lambda.py --requests 20000       a quick look
"""

from __future__ import annotations

import argparse
import base64
import datetime as dt
import hashlib
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "lambdas" / "drift_check"))

NUMBERS = [f"V{k}" for k in range(30)]
COUNTS = [f"C{k}" for k in range(8)]
TEXTS = [f"card{k}" for k in range(9)]
FLAGS = ["M1", "M2", "M3"]
NAMES = NUMBERS + COUNTS + TEXTS + FLAGS
MEMORY = 512  # MB of the Lambda
MIDNIGHT = dt.datetime(2026, 1, 2, tzinfo=dt.UTC).timestamp()
HOURS = 25  # the last is the one that a warm check finds
WAYS = ("cold", "warm", "anew")
VERSION = "run-1"


def columns(rows: int, seed: int) -> dict[str, list[object]]:
    """Columns of so many payments; a tenth of the values is missing in every third column."""
    import numpy as np

    rng = np.random.default_rng(seed)
    found: dict[str, list[object]] = {}
    for k, name in enumerate(NAMES):
        if name in NUMBERS:
            values = np.round(rng.lognormal(4, 1.5, rows) if k % 2 else rng.normal(0, 100, rows), 4)
        elif name in COUNTS:
            values = rng.geometric(0.2, rows)
        elif name in TEXTS:
            values = np.array([f"{name}-{j}" for j in range(30)])[rng.geometric(0.2, rows).clip(max=30) - 1]
        else:
            values = rng.random(rows) < 0.3
        texts: list[object] = values.tolist()
        if k % 3 == 0 and name not in FLAGS:
            for place in np.flatnonzero(rng.random(rows) < 0.1).tolist():
                texts[place] = None
        found[name] = texts
    return found


def schema():
    from fraud.schema import BOOLEAN, CATEGORY, NUMBER, Feature, Schema

    kinds = dict.fromkeys(NUMBERS + COUNTS, NUMBER) | dict.fromkeys(TEXTS, CATEGORY) | dict.fromkeys(FLAGS, BOOLEAN)
    values = {name: tuple(f"{name}-{j}" for j in range(30)) for name in TEXTS}
    return Schema([Feature(name, kinds[name], False, values.get(name, ())) for name in NAMES])


def make(folder: Path, requests: int, form: str, per_file: int, callers: int = 0) -> int:
    """Write the files of the day and of one more hour; returns their bytes."""
    import orjson

    from fraud.drift import build_baseline

    size, rng = 0, random.Random(5)
    train = columns(20_000, 1)
    baseline = build_baseline(train, schema(), [rng.random() ** 4 for _ in range(20_000)], VERSION, threshold=0.5)
    write(folder / "releases/fraud/baseline.json", json.dumps(baseline).encode())
    write(folder / "releases/fraud/schema.json", schema().to_json().encode())
    for hour in range(HOURS):
        rows = requests * (hour + 1) // 24 - requests * hour // 24
        found = columns(rows, 100 + hour)
        payments = [dict(zip(NAMES, row, strict=True)) for row in zip(*(found[name] for name in NAMES), strict=True)]
        for first in range(0, rows, per_file):
            begin = MIDNIGHT + 3600 * hour + 3590 * first / rows
            lines = []
            for k, payment in enumerate(payments[first : first + per_file], first):
                moment = dt.datetime.fromtimestamp(MIDNIGHT + 3600 * hour + 3590 * k / rows, dt.UTC)
                answer = orjson.dumps(
                    {"predictions": [{"fraud_probability": rng.random() ** 4}], "model_version": VERSION}
                )
                if form == "csv":
                    cells = ["" if value is None else str(value) for value in payment.values()]
                    request, kind, code = ",".join(cells).encode(), "text/csv", "CSV"
                else:
                    given = {"transactions": [payment], "inference_ids": [f"{hour}-{k}"]}
                    request, kind, code = orjson.dumps(given), "application/json", "JSON"
                sides = [(request, kind, code), (answer, "application/json", "JSON")]
                if form == "base64":
                    sides = [(base64.b64encode(data), kind, "BASE64") for data, kind, _ in sides]
                capture = {
                    name: {"observedContentType": kind, "mode": mode, "data": data.decode(), "encoding": code}
                    for (data, kind, code), name, mode in zip(
                        sides, ("endpointInput", "endpointOutput"), ("INPUT", "OUTPUT"), strict=True
                    )
                }
                meta: dict[str, object] = {
                    "eventId": f"{hour:02d}{k:08d}-0000-4000-8000-00000000",
                    "inferenceId": f"{hour}-{k}",
                }
                if callers:
                    meta["customAttributes"] = [f"caller=c{k % callers}"]
                meta["inferenceTime"] = f"{moment:%Y-%m-%dT%H:%M:%SZ}"
                lines.append(orjson.dumps({"captureData": capture, "eventMetadata": meta, "eventVersion": "0"}))
            named = dt.datetime.fromtimestamp(begin, dt.UTC)
            key = f"data-capture/fraud/AllTraffic/{named:%Y/%m/%d/%H/%M-%S}-000-{first:08d}.jsonl"
            size += write(folder / key, b"\n".join(lines) + b"\n")
    return size


def write(path: Path, body: bytes) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.write_bytes(body)


class Disk:
    """A folder that answers as the Lambda's bucket does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.read_bytes = folder, 0

    def find(self, key: str):
        path = self.folder / key
        if not path.is_file():
            return None
        body = path.read_bytes()
        self.read_bytes += len(body)
        return body, self.etag(key)

    def etag(self, key: str) -> str:
        status = (self.folder / key).stat()
        return f'"{status.st_size}-{status.st_mtime_ns}"'

    def read(self, key: str) -> bytes:
        if (found := self.find(key)) is None:
            raise FileNotFoundError(key)
        return found[0]

    def pieces(self, key: str):
        return self.etag(key), iter([self.read(key)])

    def items(self, prefix: str, after: str = ""):
        from aws import Item

        start = self.folder / prefix if prefix.endswith("/") else (self.folder / prefix).parent
        for path in sorted(start.rglob("*")):
            key = path.relative_to(self.folder).as_posix()
            if path.is_file() and key.startswith(prefix) and key > after:
                yield Item(key, self.etag(key), path.stat().st_size, path.stat().st_mtime)

    def keys(self, prefix: str, after: str = ""):
        return (item.key for item in self.items(prefix, after))

    def folders(self, prefix: str):
        root = self.folder / prefix
        return [path.name for path in root.iterdir()] if root.is_dir() and "//" not in prefix else []

    def put(self, key: str, body: bytes) -> None:
        write(self.folder / key, body)

    def put_if(self, key: str, document, etag) -> str:
        text = document if isinstance(document, str) else json.dumps(document)
        write(self.folder / key, text.encode())
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


class Watch:
    """CloudWatch, which knows nothing."""

    def get_paginator(self, name: str):
        return self

    def paginate(self, **_):
        return [{"MetricDataResults": []}]


def peak_memory() -> float:
    """Largest resident memory of this process (MB)."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage counts what the parent held before this process began
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(way: str, folder: Path, hours: int) -> None:
    """In a child process: one check; prints seconds, records, peak memory."""
    import aws
    import check

    from fraud.verdict import POLICY
    from fraud.window import read_window

    aws.client = lambda service: Watch()
    disk = Disk(folder)
    imported = peak_memory()
    wall, cpu = time.perf_counter(), time.process_time()
    if way == "anew":
        end = MIDNIGHT + 3600 * hours
        baseline = json.loads(disk.read("releases/fraud/baseline.json"))
        window = read_window(
            disk.keys, disk.read, "fraud", MIDNIGHT, end, baseline=baseline, schema=schema(), variants=["AllTraffic"]
        )
        records, verdict = window.sketch.n, ""
    else:
        end = MIDNIGHT + 3600 * (24 if way == "cold" else 25)
        release = {
            "model_version": VERSION,
            "released_at": "2026-01-01T00:00:00Z",
            "baseline_key": "releases/fraud/baseline.json",
            "schema_key": "releases/fraud/schema.json",
        }
        policy = POLICY | {"max_caller_share": 0.05}
        found = check.find(disk, "fraud", release, end, end + 60, policy, lambda: 300.0)
        records, verdict = found.verdict["n"], found.verdict["verdict"]
    taken = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "records": records}
    print(
        json.dumps(taken | {"peak": peak_memory(), "imported": imported, "read": disk.read_bytes, "verdict": verdict})
    )


def run(way: str, folder: Path, hours: int) -> dict[str, float]:
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", way, "--folder", str(folder)]
    done = subprocess.run([*command, "--anew", str(hours)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500_000, help="of the day")
    parser.add_argument("--form", choices=("json", "base64", "csv"), default="json")
    parser.add_argument("--per-file", type=int, default=500, help="requests in a captured file")
    parser.add_argument("--callers", type=int, default=0, help="callers who are told apart, all alike")
    parser.add_argument("--anew", type=int, default=1, help="hours that the standard library reads")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keeps the files; a temporary one by default")
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    p = parser.parse_args()
    if p.measure:
        measure(p.measure, p.folder, p.anew)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = p.folder or Path(temporary)
        if not (folder / "data-capture").exists():
            began = time.perf_counter()
            size = make(folder, p.requests, p.form, p.per_file, p.callers)
            print(f"made {size / 1e6:,.0f} MB in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        taken: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(p.rounds):
            for path in (folder / "drift").rglob("*") if (folder / "drift").exists() else ():
                if path.is_file():
                    path.unlink()
            for way in WAYS:
                taken[way].append(run(way, folder, p.anew))
                print(way, taken[way][-1], file=sys.stderr)
    return table(taken, p)


def table(taken: dict[str, list[dict[str, float]]], p: argparse.Namespace) -> int:
    told = f"{len(NAMES)} features, {p.form}, {p.per_file} requests a file, {p.callers} callers"
    print(f"{p.requests:,} requests a day, {told}")
    print(f"{'':6} {'seconds':>9} {'cpu':>9} {'records':>10} {'records/s':>10} {'read MB':>8} {'peak MB':>8}")
    rate = {}
    for way in WAYS:
        seconds, cpu = (statistics.median(item[name] for item in taken[way]) for name in ("seconds", "cpu"))
        one = taken[way][0]
        new = one["records"] / 24 if way == "warm" else one["records"]
        rate[way] = new / cpu
        peak = max(item["peak"] for item in taken[way])
        print(
            f"{way:6} {seconds:9.2f} {cpu:9.2f} {one['records']:10,} {new / seconds:10,.0f} "
            f"{one['read'] / 1e6:8,.0f} {peak:8,.0f}"
        )
    cold, warm = taken["cold"][0], taken["warm"][0]
    print(f"a record costs read_window {rate['cold'] / rate['anew']:.1f} times the processor time of a cold check")
    print(f"a warm check costs {warm['cpu'] / cold['cpu']:.1%} of a cold one; one of 24 hours is new: {1 / 24:.1%}")
    peak = max(item["peak"] for way in ("cold", "warm") for item in taken[way])
    good = peak <= MEMORY and cold["cpu"] < 60
    print(f"goal: {MEMORY} MB and 60 s on one core: {'met' if good else 'MISSED'}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
