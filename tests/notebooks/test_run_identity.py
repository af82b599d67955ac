"""Two runs share nothing but what is equal: each trains on its own rows, whatever its id begins with."""

from __future__ import annotations

import io
import json
import tarfile

import pytest

pytestmark = pytest.mark.localaws
QUICK = ("--only", "01", "--only", "02", "-p", "num_boost_round=15", "-p", "min_auc=0.5", "-p", "reg_lambda=5")
ENDPOINT = ("-p", "endpoint_name=identity")


def model(house, bucket, trained, name):
    """A document of the archive of a recorded model, which lies in the bucket of its run."""
    address = trained["model_uri"].removeprefix(f"s3://{bucket}/")
    assert address != trained["model_uri"]
    body = house.s3().get_object(Bucket=bucket, Key=address)["Body"].read()
    with tarfile.open(fileobj=io.BytesIO(body)) as archive:
        return json.load(archive.extractfile(name))


def features(house, bucket, trained):
    """The columns that a recorded model looks at."""
    return {feature["name"] for feature in model(house, bucket, trained, "schema.json")["features"]}


@pytest.fixture(scope="module")
def retry(house, any_endpoint):
    """A run whose id begins with that of the runs to come."""
    house.fraud("run", "--run-id", "nov-retry", *QUICK, *ENDPOINT)
    return json.loads(house.read("runs/nov-retry/02_train.json"))


def test_a_run_does_not_take_the_job_of_a_run_whose_id_begins_alike(house, retry):
    without = ("-p", 'exclude_columns=["card4", "DeviceType"]')
    house.fraud("run", "--run-id", "nov", *QUICK, *ENDPOINT, *without)
    trained = json.loads(house.read("runs/nov/02_train.json"))
    assert trained["training_job_name"] != retry["training_job_name"]
    assert trained["model_package_arn"] != retry["model_package_arn"]
    left, every = (features(house, house.bucket, found) for found in (trained, retry))
    assert every - left == {"card4", "DeviceType"}
    # and the same command again takes the very job
    house.fraud("run", "--run-id", "nov", *QUICK, *ENDPOINT, *without)
    assert json.loads(house.read("runs/nov/02_train.json")) == trained


def test_a_run_of_the_same_id_in_another_bucket_is_another_run(house, retry):
    s3, other = house.s3(), f"{house.bucket}-second"
    s3.create_bucket(Bucket=other, CreateBucketConfiguration={"LocationConstraint": house.environment["AWS_REGION"]})
    for key in house.keys("raw/"):
        s3.copy_object(Bucket=other, Key=key, CopySource={"Bucket": house.bucket, "Key": key})
    house.fraud("run", "--run-id", "nov-retry", *QUICK, *ENDPOINT, FRAUD_BUCKET=other)
    found = json.loads(s3.get_object(Bucket=other, Key="runs/nov-retry/02_train.json")["Body"].read())
    assert found["training_job_name"] != retry["training_job_name"]
    assert found["model_package_arn"] != retry["model_package_arn"]
    assert features(house, other, found) == features(house, house.bucket, retry)


def test_a_job_that_tunes_has_what_it_needs(house, retry):
    house.fraud("run", "--run-id", "nov-tuned", *QUICK, *ENDPOINT, "-p", "n_trials=2")
    trained = json.loads(house.read("runs/nov-tuned/02_train.json"))
    assert model(house, house.bucket, trained, "metrics.json")["tuned"]
