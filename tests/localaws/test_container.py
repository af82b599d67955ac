"""The container's contract, without starting anything."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from localaws_kit import archive

from fraud.localaws.archives import ArchiveError, pack, unpack
from fraud.localaws.channels import manifest_objects, relative
from fraud.localaws.container import Container, ContainerError, unsatisfied
from fraud.localaws.roles import trusts


def container(folder: Path, **job: Any) -> Container:
    base = {
        "TrainingJobName": "a-job",
        "AlgorithmSpecification": {"TrainingImage": "image"},
        "ResourceConfig": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
        "HyperParameters": {
            "sagemaker_program": '"train.py"',
            "num-leaves": "31",
            "name": "x",
            "n": "true",
            "o": '{"a":1}',
        },
        "InputDataConfig": [
            {"ChannelName": "train", "ContentType": "text/csv", "DataSource": {"S3DataSource": {"S3Uri": "s3://b/x"}}}
        ],
    }
    made = Container(folder / "ml", base | job, "arn:job", {"AWS_REGION": "eu-west-1"}, folder / "site")
    made.prepare()
    (made.code / "train.py").write_text("")
    return made


def test_script_mode_gives_arguments_and_variables(tmp_path: Path) -> None:
    made = container(tmp_path, Environment={"MINE": "1"})
    (command,) = made.commands()
    assert command.folder == made.code
    assert command.arguments == [
        sys.executable, "train.py", "-n", "True", "--name", "x", "--num-leaves", "31", "-o", "a=1"
    ]  # fmt: skip
    variables = command.environment
    assert variables["SM_MODEL_DIR"] == str(made.root / "model")
    assert variables["SM_CHANNEL_TRAIN"] == str(made.root / "input" / "data" / "train")
    assert variables["SM_CHANNELS"] == '["train"]'
    assert variables["SM_OUTPUT_DATA_DIR"] == str(made.root / "output" / "data")
    assert json.loads(variables["SM_HPS"]) == {"num-leaves": 31, "name": "x", "n": True, "o": {"a": 1}}
    assert variables["SM_HP_NUM-LEAVES"] == "31"
    assert json.loads(variables["SM_HOSTS"]) == ["algo-1"] and variables["SM_CURRENT_HOST"] == "algo-1"
    assert variables["TRAINING_JOB_NAME"] == "a-job" and variables["MINE"] == "1"
    assert variables["AWS_REGION"] == "eu-west-1"
    config = made.root / "input" / "config"
    assert json.loads((config / "hyperparameters.json").read_text())["num-leaves"] == "31"
    assert json.loads((config / "inputdataconfig.json").read_text())["train"]["ContentType"] == "text/csv"
    assert json.loads((config / "resourceconfig.json").read_text())["hosts"] == ["algo-1"]


def test_nothing_of_the_daemon_leaks_into_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTHONPATH", "PYTHONHOME", "SECRET_TOKEN", "FRAUD_BUCKET"):
        monkeypatch.setenv(name, "/leak")
    (command,) = container(tmp_path).commands()
    assert "/leak" not in command.environment.values()


@pytest.mark.parametrize("program", ["../train.py", "/etc/passwd", "-c", "a b.py", "", "x;y.py"])
def test_a_program_outside_the_source_is_refused(tmp_path: Path, program: str) -> None:
    made = container(tmp_path, HyperParameters={"sagemaker_program": program})
    with pytest.raises(ContainerError, match="ClientError: The training entry point"):
        made.commands()


def test_a_missing_script_is_named(tmp_path: Path) -> None:
    with pytest.raises(ContainerError, match=r"has no other\.py"):
        container(tmp_path, HyperParameters={"sagemaker_program": "other.py"}).commands()


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("packaging>=20", False),
        ("packaging >= 20  # a comment", False),
        ("packaging>=9999", True),
        ("surely-not-installed-anywhere", True),
        ("surely-not-installed-anywhere; python_version < '3'", False),
        ("# packaging>=9999", False),
        ("--no-binary :all:", False),
        ("packaging>=20 \\\n    --hash=sha256:00", False),
        ("-r more.txt", True),
        ("./folder", True),
        ("packaging @ https://example.com/packaging.zip", True),
    ],
)
def test_only_what_is_missing_is_installed(tmp_path: Path, line: str, missing: bool) -> None:
    (tmp_path / "more.txt").write_text("packaging>=9999\n")
    (tmp_path / "requirements.txt").write_text(f"\n{line}\n")
    assert bool(unsatisfied(tmp_path / "requirements.txt")) is missing


def test_missing_requirements_go_beside_not_into_the_environment(tmp_path: Path) -> None:
    made = container(tmp_path)
    (made.code / "requirements.txt").write_text("packaging>=9999\n")
    install, script = made.commands()
    assert install.arguments[:5] == [sys.executable, "-m", "pip", "install", "--target"]
    target = install.arguments[5]
    assert target.startswith(str(tmp_path / "site"))
    assert script.environment["PYTHONPATH"].split(":") == [str(made.code), target]


def test_an_entry_point_with_opt_ml_gets_the_jobs_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with spaces"
    made = container(
        folder,
        AlgorithmSpecification={
            "TrainingImage": "i",
            "ContainerEntrypoint": ["/bin/bash", "-c"],
            "ContainerArguments": ["/opt/ml/input/data/sm_drivers/sm_train.sh"],
        },
    )
    drivers = made.data / "sm_drivers"
    drivers.mkdir()
    (drivers / "sm_train.sh").write_text("ls /opt/ml/model")
    (command,) = made.commands()
    root = command.arguments[2].removesuffix("/input/data/sm_drivers/sm_train.sh")
    assert " " not in root and Path(root).samefile(made.root)
    assert (drivers / "sm_train.sh").read_text() == f"ls {root}/model"
    made.close()
    assert not Path(root).exists() and made.root.exists()


@pytest.mark.parametrize(
    ("key", "prefix", "path"),
    [
        ("data/train/a.csv", "data/train/", "a.csv"),
        ("data/train/b/a.csv", "data/train/", "b/a.csv"),
        ("data/train/a.csv", "data/train", "a.csv"),
        ("data/train.csv", "data/train.csv", "train.csv"),
        ("data/train2/a.csv", "data/train", "train2/a.csv"),
        ("a.csv", "", "a.csv"),
    ],
)
def test_objects_of_a_prefix_are_named_as_sagemaker_names_them(key: str, prefix: str, path: str) -> None:
    assert relative(key, prefix) == path


def test_a_manifest_keeps_relative_keys() -> None:
    manifest = [{"prefix": "s3://b/p/"}, "ledger/a.parquet", "x"]
    assert list(manifest_objects(manifest)) == [("b", "p/ledger/a.parquet", "ledger/a.parquet"), ("b", "p/x", "x")]


@pytest.mark.parametrize(
    "manifest", [[], {}, ["a"], [{"prefix": "b/"}], [{"prefix": "s3://b/"}, 1], [{"prefix": "s3://b/"}, ""]]
)
def test_what_is_no_manifest_is_refused(manifest: Any) -> None:
    with pytest.raises(ValueError, match="."):
        list(manifest_objects(manifest))


def tar_with(path: Path, member: tarfile.TarInfo, data: bytes = b"") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a\\b"])
def test_an_archive_never_leaves_its_folder(tmp_path: Path, name: str) -> None:
    path = tar_with(tmp_path / "a.tar.gz", tarfile.TarInfo(name), b"x")
    with pytest.raises(ArchiveError, match="leads out"):
        unpack(path, tmp_path / "out")
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.tar.gz"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    member = tarfile.TarInfo("link")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(ArchiveError):
        unpack(tar_with(tmp_path / "a.tar.gz", member), tmp_path / "out")
    assert not (tmp_path / "out" / "link").exists()


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fraud.localaws.archives.LARGEST_TOTAL", 10)
    path = tar_with(tmp_path / "a.tar.gz", tarfile.TarInfo("x"), b"x" * 11)
    with pytest.raises(ArchiveError, match="more than"):
        unpack(path, tmp_path / "out")


@pytest.mark.parametrize(
    "data", [b"", b"not an archive", archive(a__txt="x" * 1000)[:-40]], ids=["empty", "no archive", "cut off"]
)
def test_a_broken_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar.gz").write_bytes(data)
    with pytest.raises(ArchiveError):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")


def test_equal_files_pack_to_equal_bytes_without_links(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "code").mkdir(parents=True)
    (folder / "model.txt").write_text("m")
    (folder / "code" / "x.py").write_text("x")
    (folder / "link").symlink_to("/etc/passwd")
    pack(folder, tmp_path / "1.tar.gz")
    (folder / "model.txt").touch()
    pack(folder, tmp_path / "2.tar.gz")
    assert (tmp_path / "1.tar.gz").read_bytes() == (tmp_path / "2.tar.gz").read_bytes()
    unpack(tmp_path / "1.tar.gz", tmp_path / "out")
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*")) == [
        "code", "code/x.py", "model.txt"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "trusted"),
    [
        ({"Statement": [{"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}}]}, True),
        ({"Statement": {"Effect": "Allow", "Principal": {"Service": ["a", "sagemaker.amazonaws.com"]}}}, True),
        ("%7B%22Statement%22%3A%5B%7B%22Effect%22%3A%22Allow%22%2C%22Principal%22%3A%22*%22%7D%5D%7D", True),
        ({"Statement": [{"Effect": "Deny", "Principal": {"Service": "sagemaker.amazonaws.com"}}]}, False),
        ({"Statement": [{"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}}]}, False),
        ("nonsense", False),
        (None, False),
    ],
)
def test_a_role_must_trust_sagemaker(policy: Any, trusted: bool) -> None:
    assert trusts(policy, "sagemaker.amazonaws.com") is trusted
