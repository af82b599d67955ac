"""01_merge_data on several machines: a processing job with 1, 2 and 4 of them makes the ledger that 01 makes alone."""

import datetime as dt
import json
import subprocess
import sys

import pytest

from fraud import capture

pytestmark = pytest.mark.localaws
ENDPOINT = "sharded"
LEDGER = f"ledger/live/{ENDPOINT}/"


@pytest.fixture(scope="module")
def traffic(house, any_endpoint):
    """Captured traffic of three hours."""
    s3, now = house.s3(), dt.datetime.now(dt.UTC).replace(minute=0, second=0, microsecond=0)
    for hour in range(3):
        for minute in range(3):
            moment = now - dt.timedelta(hours=hour + 2) + dt.timedelta(minutes=minute)
            lines = [
                capture.encode_line(
                    [{"TransactionAmt": 10.0 + k, "ProductCD": "W"}], [k / 50], event_id=f"e{hour}-{minute}-{k}",
                    time=moment.timestamp() + k, model_version="m", inference_ids=[f"s{hour}-{minute}-{k}"],
                )
                for k in range(40)
            ]  # fmt: skip
            key = f"data-capture/{ENDPOINT}/AllTraffic/{moment:%Y/%m/%d/%H/%M}-00-000-a{minute}.jsonl"
            s3.put_object(Bucket=house.bucket, Key=key, Body=b"".join(lines))


COMPACT = """
import sys
from types import SimpleNamespace
from fraud.pipeline import dataset, processing
from fraud.pipeline.runs import Run
run = Run(sys.argv[1], "shard" + sys.argv[2])
how = SimpleNamespace(compact_instance_count=int(sys.argv[2]), compact_instance_type="ml.m5.large", compact_role_arn="")
roles = run.storage.read_json(dataset.ROLES_KEY)
found = dataset.build(run.storage, run.run_id, target=roles["target"], id_column=roles["id"], time_column=roles["time"],
                      endpoint_name="sharded", elsewhere=processing.compactor(run, how, poll=0.2))
assert found.rows["live"] == 360 and found.counts["converted"] == 9, found
"""


def ledger(house):
    """What captured traffic has become; it is taken away."""
    found = {key: house.read(key) for key in house.keys(LEDGER)}
    for key in found:
        house.s3().delete_object(Bucket=house.bucket, Key=key)
    return found


def test_any_number_of_machines_makes_the_ledger_that_the_notebook_makes_alone(house, traffic):
    house.fraud("run", "--run-id", "shard0", "--only", "01", "-p", f"endpoint_name={ENDPOINT}")
    said = json.loads(house.read("runs/shard0/01_merge_data.json"))
    alone = ledger(house)
    assert said["rows"]["live"] == 360 and len(alone) == 6  # a part and its index for each hour
    for machines in ("1", "2"):
        subprocess.run([sys.executable, "-c", COMPACT, house.bucket, machines], env=house.environment, check=True)
        assert ledger(house) == alone
    given = ("-p", f"endpoint_name={ENDPOINT}", "-p", "compact_instance_count=4")
    house.fraud("run", "--run-id", "shard4", "--only", "01", *given)
    again = json.loads(house.read("runs/shard4/01_merge_data.json"))
    assert ledger(house) == alone and again["rows"] == said["rows"]
    assert again["counts"] == said["counts"] | {"converted_tables": 0}
    for machines in ("1", "2", "4"):
        sent = [key for key in house.keys(f"runs/shard{machines}/data/compact/") if "/hours/" in key]
        assert len(sent) == 3  # the job did it, not the notebook
