"""One real local AWS for the session, and daemons inside the test process."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from localaws_kit import InProcess, LocalAws, make_client

from fraud import localaws


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalAws]:
    state = tmp_path_factory.mktemp("local-aws")
    localaws.up(state)
    try:
        environment = localaws.environment(state)
        bucket = f"test-{uuid.uuid4().hex[:12]}"
        make_client(environment, "s3").create_bucket(
            Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": environment["AWS_REGION"]}
        )
        trust = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
        role = make_client(environment, "iam").create_role(
            RoleName="train", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
        )["Role"]["Arn"]
        yield LocalAws(state, environment, bucket, role)
    finally:
        localaws.down(state)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., InProcess]]:
    opened: list[InProcess] = []

    def start(*classes: type) -> InProcess:
        opened.append(InProcess(tmp_path / "state", list(classes)))
        return opened[-1]

    yield start
    for server in opened:
        server.close()
