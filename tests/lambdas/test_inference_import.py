"""What the import of a Lambda brings along, and how long it takes."""

import statistics
import subprocess
import sys

import pytest
from lambdas_kit import LAMBDAS

IMPORTS = """
import sys
sys.path.insert(0, sys.argv[1])
import boto3, botocore.config, botocore.exceptions
before = set(sys.modules)
import app, fraud
assert fraud.__file__.startswith(sys.argv[1]), fraud.__file__
print(*sorted(set(sys.modules) - before))
"""


def unpack(name, folder):
    """Lay a Lambda out as its zip file does."""
    package = folder / "fraud"
    package.mkdir()
    for path in (LAMBDAS / name).glob("*.py"):
        (folder / path.name).write_bytes(path.read_bytes())
    for path in (LAMBDAS.parent / "src" / "fraud").glob("*.py"):
        (package / path.name).write_bytes(path.read_bytes())


@pytest.mark.parametrize("name", ["inference", "drift_check"])
def test_a_lambda_loads_the_standard_library_boto3_and_itself(name, tmp_path):
    unpack(name, tmp_path)
    done = subprocess.run(
        [sys.executable, "-I", "-c", IMPORTS, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "fraud.openapi" not in done.stdout.split()  # a request for a score does not wait for it
    loaded = {module.partition(".")[0] for module in done.stdout.split()}
    assert "fraud" in loaded
    own = {path.stem for path in (LAMBDAS / name).glob("*.py")} | {"fraud"}
    assert loaded - set(sys.stdlib_module_names) - ({"numpy", "orjson"} if name == "drift_check" else set()) == own


BARE = """
import time
began = time.process_time()
import boto3
from botocore.config import Config
for name in ("s3", "sagemaker-runtime"):
    boto3.client(name, config=Config(connect_timeout=1, read_timeout=3))
print(time.process_time() - began)
"""
OURS = """
import sys, time
began = time.process_time()
sys.path.insert(0, sys.argv[1])
import app
app.service()
print(time.process_time() - began)
"""


@pytest.mark.slow
def test_a_cold_start_is_boto3s(tmp_path, capsys):
    """Processor time of importing the Lambda and making its clients, against boto3 and the same clients alone."""
    unpack("inference", tmp_path)
    environment = {"AWS_DEFAULT_REGION": "eu-west-1", "ENDPOINT_NAME": "fraud", "BUCKET": "b"}
    environment |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    taken = {BARE: [], OURS: []}
    for round_ in range(21):  # the two take turns, so that both meet the same neighbours
        for code in (BARE, OURS) if round_ % 2 else (OURS, BARE):
            command = [sys.executable, "-c", code, str(tmp_path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
            taken[code].append(float(done.stdout))
    bare, ours = (statistics.median(taken[code][1:]) for code in (BARE, OURS))  # the first writes the bytecode
    with capsys.disabled():
        sys.stdout.write(
            f"\nimport and clients: boto3 alone {bare:.3f} s, the Lambda {ours:.3f} s: {ours / bare:.2f} times\n"
        )
    assert ours / bare <= 1.15
