"""Lambda behind API Gateway: ``POST /predict``, ``POST /labels``, ``GET /health``."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, ReadTimeoutError

from fraud import api
from fraud.errors import EndpointError
from fraud.release import Releases

JSON = "application/json"
# Two attempts of 1 + 3 s stay far inside API Gateway's 29 s; botocore's own defaults wait for minutes.
PATIENCE = Config(connect_timeout=1, read_timeout=3, retries={"total_max_attempts": 2, "mode": "standard"})
ALREADY_THERE = {"412", "PreconditionFailed"}


@dataclass(frozen=True)
class Settings:
    """What the environment says."""

    endpoint: str
    bucket: str

    @classmethod
    def from_environ(cls) -> Settings:
        """Read ``ENDPOINT_NAME`` and ``BUCKET``."""
        return cls(os.environ["ENDPOINT_NAME"], os.environ["BUCKET"])


class Service:
    """The three routes, over the clients they need; made once for each container of the Lambda."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.s3 = boto3.client("s3", config=PATIENCE)
        self.runtime = boto3.client("sagemaker-runtime", config=PATIENCE)
        self.releases = Releases(self._read, settings.endpoint, time.monotonic)

    def _read(self, key: str) -> bytes | None:
        try:
            body: bytes = self.s3.get_object(Bucket=self.settings.bucket, Key=key)["Body"].read()
            return body
        except self.s3.exceptions.NoSuchKey:
            return None

    def health(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """Say which model is in service."""
        return 200, {"status": "ok", "model_version": self.releases.current()[0]["model_version"]}

    def predict(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """Check, score, check again."""
        release, schema = self.releases.current()
        asked = api.read_prediction(body, schema)
        predictions, version = api.read_answer(self._invoke(asked), len(asked.transactions), schema.names)
        return 200, api.answer_prediction(asked, predictions, version, float(release["decision_threshold"]))

    def _invoke(self, asked: api.Prediction) -> bytes:
        try:
            answer = self.runtime.invoke_endpoint(
                EndpointName=self.settings.endpoint,
                ContentType=JSON,
                Accept=JSON,
                InferenceId=asked.inference_ids[0],
                Body=asked.to_json(),
            )
            body: bytes = answer["Body"].read()
            return body
        except ClientError as error:
            code, status = error.response["Error"]["Code"], error.response.get("OriginalStatusCode")
            raise api.upstream_error(code, status) from error
        except (ReadTimeoutError, ConnectTimeoutError) as error:
            raise EndpointError("The model did not answer in time.", 504) from error
        except BotoCoreError as error:
            raise EndpointError("The model failed to answer.", 502) from error

    def labels(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """Keep ground truth; the same request again changes nothing."""
        truths = api.read_labels(body, time.time())
        key, content = api.label_object(truths, body)
        try:
            self.s3.put_object(Bucket=self.settings.bucket, Key=key, Body=content, ContentType=JSON, IfNoneMatch="*")
        except (ClientError, BotoCoreError) as error:
            code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
            if code not in ALREADY_THERE:
                raise EndpointError("The labels could not be stored; send them again.", 503, 2) from error
        return 202, {"stored": len(truths), "key": key}


@functools.cache
def service() -> Service:
    """The one service of this process."""
    return Service(Settings.from_environ())


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one event of API Gateway; log one line about it, without its payload."""
    began, route, problem = time.perf_counter(), "", ""
    try:
        request = api.read_event(event)
        route = request.route
        answer = api.respond(*getattr(service(), route[1:])(request.body))
    except Exception as error:  # the last resort is 500, without a trace for the caller
        answer, problem = api.respond_problem(error), api.describe_error(error)
    line = {
        "level": "ERROR" if answer["statusCode"] >= 500 else "INFO",
        "request_id": getattr(context, "aws_request_id", ""),
        "route": route,
        "status": answer["statusCode"],
        "ms": round(1000 * (time.perf_counter() - began), 2),
        "error": problem,
    }
    sys.stdout.write(json.dumps(line) + "\n")
    return answer
