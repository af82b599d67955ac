"""Fixtures of the whole house."""

import json
import os
import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest

# A machine may be slow or busy: no example fails for the time it takes. `make test` tries the same examples each time,
# so that it says something of the change at hand; `make prove-properties` looks for others.
WANTED = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("same", derandomize=True, database=None, **WANTED)
hypothesis.settings.register_profile("explore", **WANTED)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

ROOT = Path(__file__).resolve().parents[1]


class House:
    """A local AWS of its own with the stack deployed and a small history in ``raw/``.

    Attributes
    ----------
    state : Path
        Its folder.
    environment : dict of str to str
        Variables that point a process at it.
    bucket : str
        The bucket.
    """

    def __init__(self, state: Path, *up: str) -> None:
        self.state = state
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FRAUD_"))
        } | {"FRAUD_LOCAL_STATE": str(state), "FRAUD_LOCAL_CAPTURE_SECONDS": "1", "FRAUD_LOCAL_TIME_SCALE": "100"}
        self.environment["FRAUD_REPORTS"] = str(state / "reports")
        self.outputs = json.loads(self.fraud("local", "up", *up).stdout).get("outputs", {})
        self.bucket = self.outputs.get("BucketName", "")
        lines = self.fraud("local", "env").stdout.splitlines()
        exports = [line.removeprefix("export ") for line in lines if line.startswith("export ")]
        self.environment |= dict(line.split("=", 1) for line in exports)

    def fraud(self, *arguments, code=0, timeout=600, **environment):
        """Run the command line as a user does; fails the test on another exit code."""
        done = subprocess.run(
            [sys.executable, "-m", "fraud.pipeline.cli", *arguments],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=self.state,
        )
        assert done.returncode == code, f"fraud {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done

    def s3(self):
        """A client of its own."""
        import boto3

        wanted = {name: self.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        return boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            region_name=self.environment["AWS_REGION"],
            aws_access_key_id=wanted["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=wanted["AWS_SECRET_ACCESS_KEY"],
        )

    def read(self, key):
        """Body of an object."""
        return self.s3().get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def keys(self, prefix):
        """Keys under a prefix."""
        return [
            item["Key"] for item in self.s3().list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        ]


@pytest.fixture(scope="session", autouse=True)
def own_ports(worker_id):
    """Each worker of pytest-xdist prefers ports of its own.

    A test that kills a local AWS and starts it again would otherwise meet, on the port that was free for a moment,
    the local AWS of another worker.
    """
    from fraud.localaws import supervisor

    base = 10_000 + 1_000 * int(worker_id.removeprefix("gw") if worker_id != "master" else 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(supervisor, "PREFERRED_PORTS", {"ministack": base + 566, "server": base + 570})
        yield


@pytest.fixture(scope="session")
def house(tmp_path_factory):
    """The product deployed on a local AWS of the test session."""
    house = None
    state = tmp_path_factory.mktemp("house")
    try:
        house = House(state)
        table = state / "history.parquet"
        house.fraud("sample", str(table), "--rows", "4000", "--columns", "core")
        house.fraud("history", "put", str(table))
        yield house
    finally:
        subprocess.run(
            [sys.executable, "-m", "fraud.localaws", "down"],
            env=os.environ | {"FRAUD_LOCAL_STATE": str(state)},
            check=False,
        )


@pytest.fixture(scope="module")
def bare_house(tmp_path_factory):
    """A local AWS on which nothing is deployed."""
    state = tmp_path_factory.mktemp("bare")
    try:
        yield House(state, "--bare")
    finally:
        subprocess.run(
            [sys.executable, "-m", "fraud.localaws", "down"],
            env=os.environ | {"FRAUD_LOCAL_STATE": str(state)},
            check=False,
        )


@pytest.fixture(scope="module")
def any_endpoint(house):
    """A deployment that does not say which endpoint is its own, so that each run may have another."""
    import boto3

    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    keys = {name.lower(): house.environment[name] for name in names}
    ssm = boto3.client(
        "ssm", endpoint_url=house.environment["AWS_ENDPOINT_URL"], region_name=house.environment["AWS_REGION"], **keys
    )
    before = ssm.get_parameter(Name="/fraud-loop/where")["Parameter"]["Value"]
    without = {name: value for name, value in json.loads(before).items() if name != "endpoint_name"}
    ssm.put_parameter(Name="/fraud-loop/where", Value=json.dumps(without), Type="String", Overwrite=True)
    yield
    ssm.put_parameter(Name="/fraud-loop/where", Value=before, Type="String", Overwrite=True)
