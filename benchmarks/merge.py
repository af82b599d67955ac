"""Merging against pandas: history CSV + captured live rows → training set, time and peak memory of each.

Everything is made here, from a seed. Each measurement is a child process of its own, the ways take turns in each round,
and S3 is a folder on this disk (class `Disk`), so that neither a network nor a server's memory is measured.

    python benchmarks/merge.py                       200,000 × 434 history, 20,000 live rows
    python benchmarks/merge.py --double              also with twice the history
    python benchmarks/merge.py --rows 3000 --live 500 --columns core     a quick look
"""

from __future__ import annotations

import argparse
import datetime as dt
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ENDPOINT, BUCKET = "fraud", "bench"
DELIVERED = dt.datetime(2026, 1, 10, tzinfo=dt.UTC)  # of the history; live traffic is that of the day after
FILES = 48  # capture objects over 24 hours; one more arrives before the second run
MADE_BY = 1  # a change makes the cached tables anew
WAYS = ("pandas", "first", "second")


class Disk:
    """The S3 calls that `fraud.pipeline.storage.Storage` makes, on a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _tag(self, path: Path) -> str:
        about = path.stat()
        return f'"{about.st_size:x}-{about.st_mtime_ns:x}"'

    def _refuse(self, code: str, operation: str) -> Exception:
        from botocore.exceptions import ClientError

        return ClientError({"Error": {"Code": code}}, operation)

    def put_object(self, *, Key: str, Body: object, IfNoneMatch: str = "", IfMatch: str = "", **_: str) -> dict:
        path = self.root / Key
        path.parent.mkdir(parents=True, exist_ok=True)
        if IfMatch and (not path.exists() or self._tag(path).strip('"') != IfMatch.strip('"')):
            raise self._refuse("PreconditionFailed", "PutObject")
        with tempfile.NamedTemporaryFile(dir=self.root.parent, prefix="put-", delete=False) as file:
            shutil.copyfileobj(io.BytesIO(Body) if isinstance(Body, bytes) else Body, file, 1 << 20)
        made = Path(file.name)
        try:
            if IfNoneMatch:
                os.link(made, path)  # the one step that a second writer cannot make
            else:
                shutil.copyfile(made, path) if path.exists() else made.rename(path)
        except FileExistsError:
            raise self._refuse("PreconditionFailed", "PutObject") from None
        finally:
            made.unlink(missing_ok=True)
        return {"ETag": self._tag(path)}

    def get_object(self, *, Key: str, IfMatch: str = "", Range: str = "", **_: str) -> dict:
        path = self.root / Key
        if not path.is_file():
            raise self._refuse("NoSuchKey", "GetObject")
        if IfMatch and IfMatch.strip('"') != self._tag(path).strip('"'):
            raise self._refuse("PreconditionFailed", "GetObject")
        if Range:
            raise NotImplementedError("Range")
        return {"Body": Body(path), "ContentLength": path.stat().st_size, "ETag": self._tag(path)}

    def head_object(self, *, Key: str, **_: str) -> dict:
        path = self.root / Key
        if not path.is_file():
            raise self._refuse("404", "HeadObject")
        about = path.stat()
        modified = dt.datetime.fromtimestamp(about.st_mtime, dt.UTC)
        return {"ContentLength": about.st_size, "ETag": self._tag(path), "LastModified": modified}

    def list_objects_v2(self, *, Prefix: str = "", StartAfter: str = "", Delimiter: str = "", **_: str) -> dict:
        start = self.root / Prefix.rpartition("/")[0]
        keys = sorted(path.relative_to(self.root).as_posix() for path in start.rglob("*") if path.is_file())
        keys = [key for key in keys if key.startswith(Prefix) and key > StartAfter]
        if Delimiter:
            folders = {Prefix + key[len(Prefix) :].split("/")[0] + "/" for key in keys if "/" in key[len(Prefix) :]}
            return {"CommonPrefixes": [{"Prefix": folder} for folder in sorted(folders)], "IsTruncated": False}
        found = []
        for key in keys:
            about = self.head_object(Key=key)
            found.append({"Key": key, "Size": about.pop("ContentLength"), **about})
        return {"Contents": found, "IsTruncated": False}

    def delete_object(self, *, Key: str, **_: str) -> dict:
        (self.root / Key).unlink(missing_ok=True)
        return {}


class Body:
    """A streamed answer."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("rb")

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)

    def iter_chunks(self, size: int = 1024):
        with self.file:
            while chunk := self.file.read(size):
                yield chunk

    def close(self) -> None:
        self.file.close()


# what is measured, each in a child process


def pandas_way(folder: Path, run: str) -> dict:
    """Read everything, put it together, write everything: what the notebook did before."""
    import pandas as pd

    began, before = time.perf_counter(), peak()
    history = pd.read_csv(folder / "raw" / "history.csv")
    rows = []
    for path in sorted((folder / "data-capture").rglob("*.jsonl")):
        with path.open() as file:
            for line in file:
                captured = json.loads(line)["captureData"]
                asked, said = (json.loads(captured[side]["data"]) for side in ("endpointInput", "endpointOutput"))
                for sent, name, score in zip(
                    asked["transactions"], asked["inference_ids"], said["predictions"], strict=True
                ):
                    rows.append({**sent, "inference_id": name, "fraud_probability": score["fraud_probability"]})
    merged = pd.concat([history, pd.DataFrame(rows)], ignore_index=True)
    merged.to_csv(folder.parent / f"{run}.csv", index=False)
    done = {"rows": len(merged), "seconds": time.perf_counter() - began, "imports_mb": before}
    (folder.parent / f"{run}.csv").unlink()
    return done


def our_way(folder: Path, run: str, as_of: str) -> dict:
    """`fraud.pipeline.dataset.build`, as 01_merge_data calls it."""
    from fraud.pipeline import dataset
    from fraud.pipeline.storage import Storage

    began, before = time.perf_counter(), peak()
    storage = Storage(BUCKET, Disk(folder), owner="", attempts=1)
    made = dataset.build(
        storage,
        run,
        target="isFraud",
        id_column="TransactionID",
        time_column="TransactionDT",
        amount_column="TransactionAmt",
        endpoint_name=ENDPOINT,
        lookback_days=30,
        as_of=as_of,
    )
    return {"rows": sum(made.rows.values()), "seconds": time.perf_counter() - began, "imports_mb": before}


def peak() -> float:
    """Largest memory this process ever held (MB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# what it is measured on


def generate(cache: Path, rows: int, live: int, columns: str) -> None:
    """Make the history, the history doubled and the live traffic, chunk by chunk."""
    from fraud.capture import encode_line
    from fraud.demo import sample

    total = 2 * rows + live
    for name, stop in (("history", rows), ("double", 2 * rows)):
        sample.write(cache / f"{name}.csv", total, stop_row=stop, columns=columns, force=True)
    at, spread = 0, live - live // FILES  # the last file's worth arrives before the second run
    for frame in sample.generate(total, start_row=2 * rows, columns=columns):
        for row in frame.iter_rows(named=True):
            second = int(86_400 * at / spread) if at < spread else 86_400 + 30 + (at - spread)
            moment = DELIVERED.timestamp() + second
            file = at * FILES // spread if at < spread else FILES
            opened = DELIVERED + dt.timedelta(seconds=86_400 * file // FILES)
            key = f"{opened:%Y/%m/%d/%H}/{opened:%M-%S}-000-{file:08x}-0000-4000-8000-000000000000.jsonl"
            path = cache / ("new" if file == FILES else "live") / "data-capture" / ENDPOINT / "AllTraffic" / key
            path.parent.mkdir(parents=True, exist_ok=True)
            name = f"{row.pop('TransactionID')}"
            row.pop("isFraud")
            sent = {column: value for column, value in row.items() if value is not None}
            line = encode_line(
                [sent], [at % 1000 / 1000], event_id=f"e{at}", time=moment, model_version="m1", inference_ids=[name]
            )
            with path.open("ab") as file_:
                file_.write(line)
            at += 1


def bucket(cache: Path, folder: Path, history: str) -> None:
    """Lay out a fresh bucket without copying."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "raw").mkdir(parents=True)
    os.utime(cache / f"{history}.csv", (DELIVERED.timestamp(),) * 2)
    os.link(cache / f"{history}.csv", folder / "raw" / "history.csv")
    shutil.copytree(cache / "live", folder, copy_function=os.link, dirs_exist_ok=True)


def child(way: str, folder: Path, run: str) -> dict:
    """Measure one way in a process of its own."""
    command = [sys.executable, __file__, "--child", way, "--folder", str(folder), "--run", run]
    began, together = time.perf_counter(), 0.0
    with tempfile.TemporaryFile() as said, subprocess.Popen(command, stdout=said) as done:
        while done.poll() is None:
            together = max(together, resident(done.pid))
            time.sleep(0.05)
        whole = time.perf_counter() - began
        if done.returncode:
            raise subprocess.CalledProcessError(done.returncode, command)
        said.seek(0)
        found = json.loads(said.read().splitlines()[-1])
    return found | {"whole": whole, "peak_mb": max(found["peak_mb"], together)}


def resident(pid: int) -> float:
    """Memory that a process and those it started hold together now (MB)."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        started = " ".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")).split()
    except OSError:  # a thread or a process ended meanwhile
        return 0.0
    return pages * resource.getpagesize() / 2**20 + sum(resident(int(one)) for one in started)


def measure(cache: Path, history: str, rounds: int, ways: tuple[str, ...] = WAYS) -> dict[str, dict[str, float]]:
    """Median of each figure over the rounds, for each way."""
    taken: dict[str, list[dict]] = {way: [] for way in ways}
    for number in range(rounds):
        folder = cache / "bucket"
        bucket(cache, folder, history)
        for way in ways:
            if way == "second":
                shutil.copytree(cache / "new", folder, copy_function=os.link, dirs_exist_ok=True)
            taken[way].append(child(way, folder, f"{way}-{number}"))
            print(f"  round {number + 1} {way:7}", *(f"{k} {v:,.2f}" for k, v in taken[way][-1].items()), flush=True)
        shutil.rmtree(folder)
    return {
        way: {name: statistics.median(one[name] for one in found) for name in found[0]} for way, found in taken.items()
    }


def report(found: dict[str, dict[str, float]], title: str) -> dict[str, float]:
    """Print a table and the ratios."""
    # seconds: the work alone. process, cpu: with the start of Python and imports. imports: memory held before the work.
    print(
        f"\n{title}\n{'':8}{'seconds':>9}{'process':>9}{'cpu':>9}{'peak MB':>9}{'imports':>9}{'net MB':>9}{'rows':>10}"
    )
    for way, one in found.items():
        net = one["peak_mb"] - one["imports_mb"]
        print(
            f"{way:8}{one['seconds']:9.2f}{one['whole']:9.2f}{one['cpu']:9.2f}{one['peak_mb']:9.0f}{one['imports_mb']:9.0f}{net:9.0f}"
            f"{one['rows']:10,.0f}"
        )
    if "pandas" not in found:
        return {}
    base = found["pandas"]
    ratios = {}
    for way in ("first", "second"):
        ratios[f"{way}_time"] = base["seconds"] / found[way]["seconds"]
        ratios[f"{way}_process_time"] = base["whole"] / found[way]["whole"]
        ratios[f"{way}_cpu"] = base["cpu"] / found[way]["cpu"]
        ratios[f"{way}_memory"] = found[way]["peak_mb"] / base["peak_mb"]
    for way, goal in (("first", 5), ("second", 100)):
        print(
            f"{way} run: {ratios[way + '_time']:.1f} times as fast as pandas (goal {goal}; with start and imports "
            f"{ratios[way + '_process_time']:.1f}; in CPU time {ratios[way + '_cpu']:.1f}), "
            f"peak {ratios[way + '_memory']:.2f} of its memory (goal 0.25)"
        )
    return ratios


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rows", type=int, default=200_000, help="rows of the history")
    options.add_argument("--live", type=int, default=20_000, help="captured rows")
    options.add_argument("--columns", choices=("full", "core"), default="full", help="434 columns, or about 65")
    options.add_argument("--rounds", type=int, default=3, help="the figures are medians over them")
    options.add_argument("--double", action="store_true", help="also measure ours with twice the history")
    options.add_argument("--without-pandas", action="store_true", help="ours only, to work on it")
    options.add_argument("--folder", type=Path, help="keeps what is generated for the next time")
    options.add_argument("--json", type=Path, help="also write the figures there")
    options.add_argument("--child", choices=(*WAYS, "generate"), help=argparse.SUPPRESS)
    options.add_argument("--run", default="", help=argparse.SUPPRESS)
    p = options.parse_args()
    if p.child == "generate":
        return generate(p.folder, p.rows, p.live, p.columns)
    if p.child:
        later = DELIVERED + dt.timedelta(days=1, hours=1 if p.child == "second" else 0)
        as_of = later.isoformat()
        done = pandas_way(p.folder, p.run) if p.child == "pandas" else our_way(p.folder, p.run, as_of)
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return print(json.dumps(done | {"peak_mb": peak(), "cpu": sum(one.ru_utime + one.ru_stime for one in used)}))
    with tempfile.TemporaryDirectory(prefix="fraud-merge-") as temporary:
        cache = (p.folder or Path(temporary)) / f"{p.rows}-{p.live}-{p.columns}-{MADE_BY}"
        if not (cache / "whole").exists():
            shutil.rmtree(cache, ignore_errors=True)
            cache.mkdir(parents=True)
            sizes = ["--rows", str(p.rows), "--live", str(p.live), "--columns", p.columns]
            command = [sys.executable, __file__, "--child", "generate", "--folder", str(cache), *sizes]
            subprocess.run(command, check=True)
            (cache / "whole").touch()
        print(f"{p.rows:,} rows of history, {p.live:,} live rows in {FILES} + 1 objects, {p.columns} columns,")
        print(f"{os.cpu_count()} cores; S3 is a folder on the local disk: no network, no server in memory.")
        ways = WAYS[1:] if p.without_pandas else WAYS
        found = {"once": measure(cache, "history", p.rounds, ways)}
        ratios = {}
        if p.double:
            found["double"] = measure(cache, "double", p.rounds, WAYS[1:])
        ratios |= report(found["once"], f"History of {p.rows:,} rows, medians of {p.rounds}")
        if p.double:
            report(found["double"], f"History of {2 * p.rows:,} rows, medians of {p.rounds}")
            for way in WAYS[1:]:
                ratios[f"{way}_double_memory"] = found["double"][way]["peak_mb"] / found["once"][way]["peak_mb"]
                ratio = ratios[f"{way}_double_memory"]
                print(f"{way} run: peak {ratio:.2f} times as high when the history doubles (goal 1.2)")
        if p.json:
            p.json.write_text(json.dumps({"figures": found, "ratios": ratios}, indent=1, sort_keys=True))


if __name__ == "__main__":
    main()
