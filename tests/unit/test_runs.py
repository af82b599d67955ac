"""Which run a step continues when nobody names one."""

from __future__ import annotations

import time

import pytest

from fraud.pipeline import runs


@pytest.fixture
def bucket(storage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runs, "Storage", lambda name: storage)
    return storage


def test_the_newest_record_of_a_run_counts_and_nothing_that_lies_deeper(bucket) -> None:
    assert runs.newest("loop", "01_merge_data") == ""
    for key in ("nov-retry/01_merge_data", "nov/01_merge_data", "dec/02_train", "dec/data/01_merge_data"):
        bucket.put(f"runs/{key}.json", b"{}")
        time.sleep(1.1 if key.startswith("nov-") else 0)  # S3 keeps whole seconds
    assert runs.newest("loop", "01_merge_data") == "nov"
    assert [run_id for run_id, _ in runs.records(bucket, "01_merge_data")] == ["nov", "nov-retry"]


@pytest.mark.parametrize("run_id", ["", "Nov", "nov_1", "nov/1", "növ", "-nov", "n" * 41, "nov ", "nov\n", "../nov"])
def test_an_id_that_cannot_name_a_resource_is_refused(run_id: str) -> None:
    with pytest.raises(runs.ParameterError, match="lower-case letters, digits and hyphens"):
        runs.check_run_id(run_id)
