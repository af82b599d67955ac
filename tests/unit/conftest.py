"""What unit tests share."""

import boto3
import pytest
from moto import mock_aws

from fraud.pipeline.storage import Storage


@pytest.fixture
def storage(monkeypatch):
    """An empty bucket, in memory."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    with mock_aws():
        client = boto3.client("s3", region_name="eu-west-1")
        client.create_bucket(Bucket="loop", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        yield Storage("loop", client, wait=0)
