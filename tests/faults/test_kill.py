"""kill -9 at every stage of a run; the same command again gives what an undisturbed run gives."""

import json
import subprocess
import sys
import time

import psutil
import pytest

pytestmark = [pytest.mark.localaws, pytest.mark.slow]
FEW = ["-p", "num_boost_round=40", "-p", "min_auc=0.5", "-p", "wait_seconds=200"]


def arguments(run_id):
    """Each run has an endpoint of its own: on a common one the next run's equal model would be refused as a tie."""
    return ["run", "--run-id", run_id, *FEW, "-p", f"endpoint_name={run_id}"]


def kill_tree(process):
    """SIGKILL the runner and the kernel it started, as a lost machine would."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.kill()
    process.wait(timeout=30)


def sagemaker(house):
    import boto3

    return boto3.client(
        "sagemaker",
        endpoint_url=house.environment["AWS_ENDPOINT_URL_SAGEMAKER"],
        region_name="eu-west-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )


def has(house, key):
    return key in house.keys(key)


def training(house, run_id):
    found = sagemaker(house).list_training_jobs(NameContains=f"fraud-{run_id}")["TrainingJobSummaries"]
    return bool(found)


def updating(house, run_id):
    found = sagemaker(house).list_endpoints(NameContains=run_id)["Endpoints"]
    return bool(found) and found[0]["EndpointStatus"] in ("Creating", "Updating")


STAGES = {
    "parameters fixed": lambda house, run_id: has(house, f"runs/{run_id}/params.json"),
    "data written": lambda house, run_id: has(house, f"runs/{run_id}/data/train.manifest"),
    "training under way": training,
    "model recorded": lambda house, run_id: has(house, f"runs/{run_id}/02_train.json"),
    "endpoint updating": updating,
    "report recorded": lambda house, run_id: has(house, f"runs/{run_id}/04_drift_report.json"),
}


@pytest.fixture(scope="module")
def undisturbed(house, any_endpoint):
    house.fraud(*arguments("whole"))
    return json.loads(house.read("runs/whole/02_train.json"))


@pytest.mark.parametrize("number", range(len(STAGES)), ids=[name.replace(" ", "-") for name in STAGES])
def test_killed_and_repeated(house, undisturbed, number):
    name = list(STAGES)[number]
    run_id = f"kill{number}"
    process = subprocess.Popen(
        [sys.executable, "-m", "fraud.pipeline.cli", *arguments(run_id)],
        env=house.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=house.state,
    )
    end = time.monotonic() + 300
    while not STAGES[name](house, run_id):
        assert process.poll() is None and time.monotonic() < end, f"the run ended before: {name}"
        time.sleep(0.05)
    kill_tree(process)
    assert not has(house, f"runs/{run_id}/COMMITTED")
    house.fraud(*arguments(run_id))
    assert has(house, f"runs/{run_id}/COMMITTED")
    again = json.loads(house.read(f"runs/{run_id}/02_train.json"))
    same = ("auc", "trees_sha256", "n_train", "n_validation")
    assert {key: again[key] for key in same} == {key: undisturbed[key] for key in same}
    jobs = sagemaker(house).list_training_jobs(NameContains=f"fraud-{run_id}-")["TrainingJobSummaries"]
    assert len(jobs) == 1, "the job that ran on was not adopted"
    assert json.loads(house.read(f"releases/{run_id}/current.json"))["run_id"] == run_id
