from __future__ import annotations

import json
from pathlib import Path

import pytest

from fraud.localaws.store import AlreadyExistsError, Store, write_atomic


def test_a_new_process_sees_what_was_put(tmp_path: Path) -> None:
    Store(tmp_path).put("model", "a", {"CreationTime": 1.5, "Name": "é"})
    assert Store(tmp_path).get("model", "a") == {"CreationTime": 1.5, "Name": "é"}


def test_create_refuses_a_taken_name_and_keeps_the_document(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("model", "a", {"x": 1}, create=True)
    with pytest.raises(AlreadyExistsError):
        store.put("model", "a", {"x": 2}, create=True)
    assert store.get("model", "a") == {"x": 1}


def test_a_document_is_changed_only_by_put(tmp_path: Path) -> None:
    store = Store(tmp_path)
    doc = {"list": [1]}
    store.put("model", "a", doc)
    doc["list"].append(2)
    found = store.get("model", "a")
    assert found is not None
    found["list"].append(3)
    assert store.get("model", "a") == {"list": [1]}


@pytest.mark.parametrize(
    "name", ["../../up", "a/b", "arn:aws:sagemaker:eu-west-1:000000000000:model/x", "A", "a", "", ".", "x" * 300, "é"]
)
def test_any_name_stays_in_the_folder_and_comes_back(tmp_path: Path, name: str) -> None:
    root = tmp_path / "store"
    Store(root).put("tags", name, {"n": name})
    Store(root).put("tags", name + "2", {"n": name + "2"})
    assert [doc["n"] for doc in Store(root).list("tags")] == sorted([name, name + "2"])
    assert {path.name for path in tmp_path.iterdir()} == {"store"}


def test_list_and_delete(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for name in ("b", "a"):
        store.put("model", name, {"n": name})
    assert [doc["n"] for doc in store.list("model")] == ["a", "b"]
    assert store.delete("model", "a")
    assert not store.delete("model", "a")
    assert [doc["n"] for doc in Store(tmp_path).list("model")] == ["b"]


def test_a_write_that_fails_leaves_the_former_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.put("model", "a", {"x": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.put("model", "a", {"x": 2})
    assert store.get("model", "a") == {"x": 1}
    assert Store(tmp_path).get("model", "a") == {"x": 1}
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["a.json"]


def test_a_document_is_replaced_not_overwritten(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("model", "a", {"x": 1})
    with (tmp_path / "model" / "a.json").open() as reader:  # whoever reads meanwhile sees the former one whole
        store.put("model", "a", {"x": 2})
        assert json.load(reader)["document"] == {"x": 1}
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["a.json"]


def test_a_damaged_file_is_left_out(tmp_path: Path) -> None:
    Store(tmp_path).put("model", "a", {"x": 1})
    (tmp_path / "model" / "b.json").write_text('{"name": "b"')
    assert Store(tmp_path).list("model") == [{"x": 1}]


def test_what_is_not_json_is_refused_before_the_disk(tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError)):
        Store(tmp_path).put("model", "a", {"x": float("nan")})
    assert Store(tmp_path).get("model", "a") is None


def test_write_atomic_makes_its_folder(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a" / "b.json", json.dumps({}).encode())
    assert (tmp_path / "a" / "b.json").read_text() == "{}"
