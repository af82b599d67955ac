"""Parts made in processes: the same ones in the same order, and no process outlives the work."""

from __future__ import annotations

import datetime as dt
import functools
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraud.errors import DataError
from fraud.pipeline import partitions
from fraud.pipeline.partitions import Chunk
from fraud.pipeline.storage import Item


class Bucket:
    """As much of `fraud.pipeline.storage.Storage` as making parts needs."""

    def __init__(self, chunks=4):
        never = dt.datetime.fromtimestamp(0, dt.UTC)
        self.objects = {f"in/{at}": b"x" * (chunks - at) for at in range(chunks)}
        self.chunks = [
            Chunk(f"out/{key[3:]}", (Item(key, len(body), "e", never),)) for key, body in self.objects.items()
        ]

    def get(self, item):
        return self.objects[item.key]

    def put_once(self, key, body):
        assert multiprocessing.parent_process() is None
        self.objects[key] = body
        return True

    @property
    def made(self):
        return {key: body for key, body in self.objects.items() if key.startswith("out/")}


def slowly(objects, fails="", dies=False):
    """Rows of some objects, the earlier ones later; only in a child can ``dies`` end it."""
    ((key, body),) = objects
    time.sleep(0.1 * len(body))
    if key == fails:
        raise DataError(f"{key} cannot be used.")
    if dies and multiprocessing.parent_process():
        os.kill(os.getpid(), signal.SIGKILL)
    about = {"process": os.getpid(), "ctrl_c": signal.getsignal(signal.SIGINT) != signal.SIG_IGN}
    return pa.table({"__id": [key] * len(body), "more": [1] * len(body)}), about


def as_made(objects):
    """Rows of some objects, and nothing that another process would say otherwise."""
    return slowly(objects)[0], {}


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(partitions, "WORTH", 1)


def children():
    return [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.parametrize("indexed", [("__id",), ()])
def test_processes_make_the_same_parts_in_the_same_order(two_cores, monkeypatch, indexed):
    there, here = Bucket(), Bucket()
    found = list(partitions.compact_all(there, there.chunks, "m", as_made, indexed))
    monkeypatch.setattr(partitions, "WORTH", 1 << 20)
    same = list(partitions.compact_all(here, here.chunks, "m", as_made, indexed))
    assert list(there.made.items()) == list(here.made.items()) and len(here.made) == (8 if indexed else 4)
    assert [(index.key, index.about) for index in found] == [(index.key, index.about) for index in same]
    assert [index.about["sources"][0][0] for index in found] == ["in/0", "in/1", "in/2", "in/3"]


def test_all_cores_work_on_much_and_this_process_on_little(two_cores, monkeypatch):
    bucket = Bucket()
    told = {index.about["process"]: index.about for index in partitions.compact_all(bucket, bucket.chunks, "m", slowly)}
    assert len(told) == 2 and not children()
    # Whether this process heeds Ctrl-C depends on how it was started: in the background shells take that from it.
    assert not any(about["ctrl_c"] for process, about in told.items() if process != os.getpid())
    monkeypatch.setattr(partitions, "WORTH", 6)  # all objects have 10 bytes
    processes = [index.about["process"] for index in partitions.compact_all(bucket, bucket.chunks, "m", slowly)]
    assert set(processes) == {os.getpid()}


def test_each_index_comes_as_soon_as_it_is_written_and_few_objects_are_in_memory(two_cores):
    bucket = Bucket(8)
    read, get = [], bucket.get
    bucket.get = lambda item: read.append(item.key) or get(item)
    for at, index in enumerate(partitions.compact_all(bucket, bucket.chunks, "m", slowly), 1):
        assert index.key in bucket.made and len(bucket.made) == at and len(read) <= at + 3
    assert len(read) == 8


def test_what_is_refused_there_is_refused_here(two_cores):
    bucket = Bucket()
    work = partitions.compact_all(bucket, bucket.chunks, "m", functools.partial(slowly, fails="in/1"))
    with pytest.raises(DataError, match=r"^in/1 cannot be used\.$"):
        list(work)
    assert [key.split("/")[1] for key in bucket.made] == ["0"] and not children()


def test_a_process_that_was_killed_costs_time_only(two_cores):
    bucket = Bucket()
    found = list(partitions.compact_all(bucket, bucket.chunks, "m", functools.partial(slowly, dies=True)))
    assert {index.about["process"] for index in found} == {os.getpid()} and len(bucket.made) == 4 and not children()


def test_few_values_are_written_once_and_the_others_packed():
    rows = 4_000
    table = pa.table(
        {
            "__id": [f"x{k}" for k in range(rows)],
            "__time": [float(k) for k in range(rows)],
            "dist.1": [float(k % 7) for k in range(rows)],
            "card": [None if k % 3 else f"visa{k % 200}" for k in range(rows)],
            "ratio": [k / 3 for k in range(rows)],
            "late": [0.0] * 2_000 + [k / 7 for k in range(2_000)],  # many after all: larger, not wrong
            "empty": pa.nulls(rows, pa.float64()),
        }
    )
    body = partitions.to_parquet(table)
    cut = pa.concat_tables([table.slice(0, 900), table.slice(900)])
    assert body == partitions.to_parquet(table) == partitions.to_parquet(cut)
    file = pq.ParquetFile(io.BytesIO(body))
    assert file.read().equals(table)
    group = file.metadata.row_group(0)
    made = {one.path_in_schema: one for one in map(group.column, range(group.num_columns))}
    few = {name for name, one in made.items() if one.has_dictionary_page}
    assert few == {"dist.1", "card", "late", "empty"}
    assert {name for name, one in made.items() if one.compression == "LZ4"} == made.keys() - few
    assert {name for name, one in made.items() if one.is_stats_set} == {"__time"}


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_behind(tmp_path, by):
    script = tmp_path / "work.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_partitions import Bucket, partitions, slowly
        if __name__ == "__main__":
            os.sched_getaffinity, partitions.WORTH, bucket = lambda _: {{0, 1}}, 1, Bucket(12)
            for index in partitions.compact_all(bucket, bucket.chunks, "m", slowly):
                print(index.about["process"], flush=True)
    """)
    )
    work = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while int(work.stdout.readline()) == work.pid:
        pass
    family = psutil.Process(work.pid).children(recursive=True)
    (os.killpg if by == signal.SIGINT else os.kill)(work.pid, by)  # a terminal's Ctrl-C goes to all of them
    told = work.communicate(timeout=30)[1]
    assert len(family) >= 2 and not psutil.wait_procs(family, timeout=10)[1]
    if by == signal.SIGINT:
        assert told.count("Traceback") == 1 and told.endswith("\nKeyboardInterrupt\n")
