"""An environment whose models wait for a person, by the commands that README, mails and errors print."""

import json
import subprocess
import sys

import pytest

from fraud.pipeline import parameters

pytestmark = [pytest.mark.localaws, pytest.mark.slow]
QUICK = ["-p", "num_boost_round=40", "-p", "min_auc=0.5", "-p", "folds=1", "-p", "wait_seconds=1"]


@pytest.fixture(scope="module")
def prod(bare_house):
    """The stack of prod on a local AWS of its own, with a history."""
    house = bare_house
    house.outputs = json.loads(house.fraud("infra", "deploy", "--env", "prod").stdout)
    house.bucket = house.outputs["BucketName"]
    table = house.state / "history.parquet"
    house.fraud("sample", str(table), "--rows", "4000", "--columns", "core")
    house.fraud("history", "put", str(table))
    return house


def test_a_model_waits_is_approved_deployed_and_taken_down(prod):
    done = prod.fraud("run", "--run-id", "r1", *QUICK, code=1)
    assert "with params/prod" in done.stderr
    assert "waits for approval: `fraud approve r1`, then `fraud run --run-id r1 --from 03`" in done.stderr
    assert "is approved" in prod.fraud("approve", "r1").stderr
    prod.fraud("run", "--run-id", "r1", "--from", "03", *QUICK[-2:])
    assert json.loads(prod.read("releases/fraud-prod/current.json"))["run_id"] == "r1"
    assert "r1" in prod.fraud("models").stdout
    assert "first release of fraud-prod" in prod.fraud("rollback", code=1).stderr

    out = prod.state / "by-hand.ipynb"  # as in Studio, with its defaults: approval is what params/prod say
    command = [sys.executable, "-m", "papermill", str(parameters.NOTEBOOKS / "04_drift_report.ipynb"), str(out)]
    subprocess.run(command, env=prod.environment, check=True, capture_output=True)
    assert "fraud-prod" in out.read_text()

    said = prod.fraud("infra", "destroy", "--env", "prod").stderr
    assert "Deleting the endpoint fraud-prod …" in said and f"The bucket {prod.bucket} stays: " in said
    assert "No bucket is known" in prod.fraud("run", code=2).stderr
