"""Capture files to a table: our reader against json + DataFrame, and against `json.loads` of the lines alone.

The files are made here from a seed and lie on this disk. Each measurement is a child process of its own, so that peaks
of memory are comparable, and the ways take turns in each round, so that a busy machine is unfair to none of them.

A record is one transaction that was scored. By default each has a captured line of its own, which is what an endpoint
writes that is asked about one payment at a time; with `--batch 100` a hundred share one line.

    python benchmarks/parse_capture.py                       1,000 files × 500 records, 20 columns, JSON
    python benchmarks/parse_capture.py --format csv
    python benchmarks/parse_capture.py --files 20            a quick look
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = ("ours", "usual", "lines")  # the last reads the lines and throws them away: what no reader in Python can beat
NUMBERS = [f"V{k}" for k in range(14)]
COUNTS = ["C1", "C2", "card1"]
TEXTS = {"card4": ["visa", "mastercard", "discover"], "P_emaildomain": ["gmail.com", "mail.ru", "üni.example"],
         "ProductCD": list("WCHRS")}  # fmt: skip
CHUNK = 64 << 20  # as fraud.pipeline.partitions cuts an hour that was busy
NOON = 1_767_355_200.0


def columns() -> dict[str, str]:
    return dict.fromkeys(NUMBERS, "float") | dict.fromkeys(COUNTS, "int") | dict.fromkeys(TEXTS, "text")


def schema():
    from fraud.schema import CATEGORY, NUMBER, Feature, Schema

    kinds = {"text": CATEGORY}
    return Schema([Feature(name, kinds.get(kind, NUMBER)) for name, kind in columns().items()])


def make(folder: Path, files: int, records: int, batch: int, form: str) -> int:
    """Write the files; the names tell minute and second, as SageMaker's do. Returns their bytes."""
    from fraud import capture

    rng, size = random.Random(7), 0
    for n in range(files):
        lines = []
        for first in range(0, records, batch):
            rows = []
            for _ in range(min(batch, records - first)):
                row: dict[str, object] = {name: round(rng.gauss(0, 100), 4) for name in NUMBERS}
                row |= {name: rng.randrange(20_000) for name in COUNTS}
                row |= {name: rng.choice(texts) for name, texts in TEXTS.items()}
                rows.append(row)
            ids = [f"{n:05d}-{first + k:05d}" for k in range(len(rows))]
            lines.append(
                capture.encode_line(
                    rows,
                    [rng.random() for _ in rows],
                    event_id=f"e-{n}-{first}",
                    time=NOON + n,
                    model_version="run-1",
                    inference_ids=ids if form == "json" else ids[: len(rows) == 1],
                    encodings=("JSON", "JSON") if form == "json" else ("CSV", "CSV"),
                    schema=schema(),
                )
            )
        path = folder / f"data-capture/fraud/AllTraffic/2026/01/02/12/{n // 60 % 60:02d}-{n % 60:02d}-000-{n:06d}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        size += path.write_bytes(b"".join(lines))
        if n % 100 == 99:
            print(f"made {n + 1} of {files} files", file=sys.stderr)
    return size


def paths(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.jsonl"))


def ours(folder: Path) -> int:
    """Parts as the ledger has them: chunks of objects, one after the other."""
    from fraud.pipeline.captured import build_part
    from fraud.pipeline.roles import Roles

    chunk, size, rows, shape = [], 0, 0, schema()
    listed = paths(folder)
    for path in listed:
        chunk.append((path.relative_to(folder).as_posix(), path.read_bytes()))
        size += len(chunk[-1][1])
        if size > CHUNK or path == listed[-1]:
            table, about = build_part(chunk, columns(), Roles("isFraud"), shape)
            assert not about["bad"] and not about["retyped"] and table.num_rows == about["rows"], about
            rows, chunk, size = rows + table.num_rows, [], 0
    return rows


def usual(folder: Path) -> int:
    """What the examples do: each line and each payload with json.loads, a list of dicts, one DataFrame."""
    import pandas as pd

    rows = []
    names = list(columns())
    for path in paths(folder):
        for line in path.read_text().splitlines():
            document = json.loads(line)
            sent, answered = (document["captureData"][side] for side in ("endpointInput", "endpointOutput"))
            about = document["eventMetadata"]
            if sent["encoding"] == "CSV":
                scores = answered["data"].split("\n")
                for k, (cells, score) in enumerate(zip(sent["data"].splitlines(), scores, strict=True)):
                    row = dict(zip(names, cells.split(","), strict=True))
                    row |= {name: float(row[name]) for name in (*NUMBERS, *COUNTS)}
                    rows.append(
                        row
                        | {"__id": f"{about['eventId']}/{k}", "__time": about["inferenceTime"], "__score": float(score)}
                    )
            else:
                request, answer = json.loads(sent["data"]), json.loads(answered["data"])
                for row, name, score in zip(
                    request["transactions"], request["inference_ids"], answer["predictions"], strict=True
                ):
                    row["__id"], row["__time"] = name, about["inferenceTime"]
                    row["__score"], row["__model"] = score["fraud_probability"], answer["model_version"]
                    rows.append(row)
    frame = pd.DataFrame(rows)
    frame["__time"] = pd.to_datetime(frame["__time"])
    return len(frame)


def lines(folder: Path) -> int:
    """`json.loads` of each line and no more: not even the payloads inside."""
    rows = 0
    for path in paths(folder):
        for line in path.read_bytes().split(b"\n"):
            if line:
                data = json.loads(line)["captureData"]["endpointOutput"]["data"]
                rows += data.count("fraud_probability") or data.count("\n") + 1
    return rows


def measure(way: str, folder: Path) -> dict[str, float]:
    """One way once, in this process."""
    import numpy  # noqa: F401
    import pandas  # noqa: F401  imports are no part of what is compared

    import fraud.pipeline.captured  # noqa: F401

    idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in paths(folder):  # the page cache is warm for all of them
        path.read_bytes()
    began, busy = time.perf_counter(), time.process_time()
    rows = {"ours": ours, "usual": usual, "lines": lines}[way](folder)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": seconds,
        "cpu": time.process_time() - busy,
        "rows": rows,
        "peak": peak / 1024,
        "idle": idle / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000)
    parser.add_argument("--records", type=int, default=500, help="in each file")
    parser.add_argument("--batch", type=int, default=1, help="transactions of one request")
    parser.add_argument("--format", choices=("json", "csv"), default="json")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measure(given.way, given.folder)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = make(folder, given.files, given.records, given.batch, given.format)
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for turn in range(given.rounds):
            for way in WAYS[turn % 3 :] + WAYS[: turn % 3]:
                command = [sys.executable, __file__, "--way", way, "--folder", name]
                done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
                found[way].append(json.loads(done.stdout))
                print(f"round {turn + 1}, {way}: {found[way][-1]['seconds']:.2f} s", file=sys.stderr)
    wanted = given.files * given.records
    assert all(one["rows"] == wanted for each in found.values() for one in each), "a way lost rows"
    print(f"{given.files:,} files × {given.records:,} records = {wanted:,} rows, {given.format}, "
          f"{given.batch} a request, {size / 1e6:.0f} MB, {given.rounds} rounds")  # fmt: skip
    print(f"{'':8}{'median s':>10}{'CPU s':>8}{'records/s':>12}{'peak MB':>9}{'of it idle':>12}")
    for way, each in found.items():
        seconds, cpu, peak, idle = (
            statistics.median(one[key] for one in each) for key in ("seconds", "cpu", "peak", "idle")
        )
        print(f"{way:8}{seconds:>10.2f}{cpu:>8.2f}{wanted / seconds:>12,.0f}{peak:>9.0f}{idle:>12.0f}")
    for other, what in (("usual", "json + DataFrame"), ("lines", "json.loads of the lines alone")):
        pairs = list(zip(found["ours"], found[other], strict=True))
        wall, cpu = (statistics.median(a[key] / b[key] for a, b in pairs) for key in ("seconds", "cpu"))
        print(f"ratio ours : {what} = {wall:.3f}  ({1 / wall:.1f} times as fast), of CPU time {cpu:.3f}")


if __name__ == "__main__":
    main()
