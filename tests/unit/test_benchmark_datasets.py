"""What benchmarks claim of other people's data is checked: another file, order or count is refused in one sentence."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from pathlib import Path

import polars as pl
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks" / "published"))

import datasets
import drift_on_truth
import handbook
import handbook_features
import handbook_merge
import policy_data
import preset
import pseudo_labels
import ulb

SHARED = Path(__file__).parents[3] / "shared" / "data"
TABLE = pl.DataFrame({"at": [1.0, 2.0, 2.0, 5.0], "x": [0.1, 0.2, 0.3, 0.4], "fraud": [0, 0, 1, 0]})


def claimed(path: Path) -> datasets.Dataset:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return datasets.Dataset("the made-up set", "made_up.parquet", digest, ("at", "x", "fraud"), 4, 1, "fraud", "at")


@pytest.fixture
def made_up(tmp_path):
    path = tmp_path / "made_up.parquet"
    TABLE.write_parquet(path)
    return path


def test_a_file_that_is_what_is_claimed_is_read_as_it_stands(made_up):
    assert datasets.read(made_up, claimed(made_up)).equals(TABLE)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (TABLE.head(3), "it has 3 rows, not 4"),
        (TABLE.with_columns(fraud=pl.Series([0, 1, 1, 0])), "2 of its rows are frauds, not 1"),
        (TABLE.with_columns(fraud=pl.Series([0, 0, 1, 2])), "fraud holds something other than 0 and 1"),
        (TABLE.with_columns(fraud=pl.Series([0, 0, 1, None])), "fraud holds something other than 0 and 1"),
        (TABLE.reverse(), "its rows are not in the order of at"),
        (TABLE.with_columns(at=pl.Series([1.0, None, 2.0, 5.0])), "its rows are not in the order of at"),
        (TABLE.with_columns(at=pl.Series([2.0, 1.0, 2.0, 5.0])), "its rows are not in the order of at"),
        (TABLE.drop("x"), "the column x is not there"),
        (TABLE.with_columns(leak=1), "it has a column leak more"),
        (TABLE.with_columns(x=pl.Series([0.1, 0.2, 0.3, 0.5])), "its SHA-256 is "),
    ],
)
def test_a_claim_that_does_not_hold_is_named(made_up, tmp_path, other, words):
    path = tmp_path / "other.parquet"
    other.write_parquet(path)
    with pytest.raises(datasets.NotAsClaimed) as refused:
        datasets.read(path, claimed(made_up))
    sentence = str(refused.value)
    assert sentence.startswith(f"{path} is not the made-up set: {words}")
    assert sentence.endswith("; give made_up.parquet as it was measured.") and "\n" not in sentence


def test_the_hash_is_looked_at_last_and_always(made_up, tmp_path):
    with pytest.raises(datasets.NotAsClaimed, match="its SHA-256 is .*, not 000000000000…"):
        datasets.read(made_up, dataclasses.replace(claimed(made_up), sha256="0" * 64))


@pytest.mark.parametrize("content", [None, b"", b"no parquet"])
def test_what_is_no_parquet_is_refused_too(made_up, tmp_path, content):
    path = tmp_path / "other.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(datasets.NotAsClaimed, match="it cannot be read as Parquet"):
        datasets.read(path, claimed(made_up))


@pytest.mark.parametrize(
    "main",
    [
        ulb.main,
        handbook.main,
        drift_on_truth.main,
        lambda arguments: handbook_features.main([*arguments, "--out", f"{arguments[0]}.out"]),
    ],
)
def test_every_benchmark_refuses_another_table(made_up, capsys, main):
    assert main([str(made_up)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and err.startswith(f"{made_up} is not ")


@pytest.mark.parametrize("file", [datasets.ULB.file, datasets.HANDBOOK.file])
def test_a_folder_with_another_table_is_refused(made_up, capsys, monkeypatch, tmp_path, file):
    made_up.rename(tmp_path / file)
    assert preset.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"{tmp_path / file} is not ")
    monkeypatch.setattr(policy_data, "SHARED", tmp_path)
    name = "ulb" if file == datasets.ULB.file else "onset"
    kept = ["--folder", str(tmp_path / "kept"), "--workers", "1", "--seeds", "1"]
    assert pseudo_labels.main(["--datasets", name, *kept]) == 2
    assert capsys.readouterr().err.startswith(f"{tmp_path / file} is not ")


def test_the_merge_of_another_table_is_refused(made_up):
    with pytest.raises(datasets.NotAsClaimed):
        handbook_merge.split(made_up, 0.4, 0)


@pytest.mark.parametrize("real", [datasets.ULB, datasets.HANDBOOK], ids=lambda real: real.file)
def test_the_real_sets_are_what_is_claimed(real):
    if not (path := SHARED / real.file).is_file():
        pytest.skip(f"{real.file} is not in shared/data beside the repository")
    table = datasets.read(path, real)
    assert table.height == real.rows and table[real.time].is_sorted()


def test_a_shuffled_sample_is_not_taken_for_the_set():
    """An earlier benchmark believed that its rows were in the order of time."""
    if not (path := SHARED / "ulb_rounded_sample.parquet").is_file():
        pytest.skip("ulb_rounded_sample.parquet is not in shared/data beside the repository")
    with pytest.raises(datasets.NotAsClaimed, match="the column Time is not there"):
        datasets.read(path, datasets.ULB)
