"""What unit tests share."""

import boto3
import pytest
from moto import mock_aws
from moto.backends import get_backend

from fraud.pipeline.storage import Storage


@pytest.fixture(scope="module")
def in_memory():
    """A client of an S3 in memory; to make one for each test would take longer than most of them."""
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        yield boto3.client("s3", region_name="eu-west-1")


@pytest.fixture
def storage(in_memory):
    """An empty bucket, in memory."""
    for account in get_backend("s3").values():
        account["aws"].reset()
    in_memory.create_bucket(Bucket="loop", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    return Storage("loop", in_memory, wait=0)
