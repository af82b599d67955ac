"""AWS on this machine: MiniStack, and beside it our own SageMaker, CodePipeline and SESv2, on loopback.

Whatever speaks to AWS speaks to it after ``eval "$(fraud local env)"``. Nothing in the product imports this package:
notebooks, Lambdas and pipeline find it by botocore's ``AWS_ENDPOINT_URL`` variables alone.
"""

from __future__ import annotations

from fraud.localaws.supervisor import down, environment, state_folder, status, up

__all__ = ["down", "environment", "state_folder", "status", "up"]
