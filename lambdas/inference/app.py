"""Lambda behind API Gateway: ``POST /predict``, ``POST /labels``, ``GET /health``, ``GET /openapi.json``."""

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
from botocore.exceptions import ClientError, ConnectTimeoutError, ReadTimeoutError

from fraud import api, conditional
from fraud.caller import caller_of
from fraud.errors import EndpointError, ModelRefusalError
from fraud.release import Releases, threshold_of, variants_of

JSON = "application/json"
# Two attempts of 1 + 3 s stay far inside API Gateway's 29 s; botocore's own defaults wait for minutes.
PATIENCE = Config(connect_timeout=1, read_timeout=3, retries={"total_max_attempts": 2, "mode": "standard"})
LABEL_ATTEMPTS = 4  # at a write that meets others at the same instant: a second at most
NO_SUCH_VARIANT = {"ValidationError", "ValidationException"}
# Metrics travel in the log line, as CloudWatch's embedded metric format; so no call stands in a request's way.
NAMESPACE, SERVICE = "Fraud/Api", "inference"
UNITS = {
    "Requests": "Count",
    "ClientErrors": "Count",
    "ServerErrors": "Count",
    "Latency": "Milliseconds",
    "ModelLatency": "Milliseconds",
    "Transactions": "Count",
    "Approved": "Count",
    # One value for each transaction, so that averages and percentiles are over transactions; the format takes up to
    # 100 values, and so many are in a request. Review is 1 or 0: its average is the share that goes to review.
    "Review": "None",
    "Score": "None",
    # Review once more, of answers by another model than the released one, and by how many they are more than the share
    # that an alarm lets pass. The alarm is on the sum: a few transactions cannot reach it by chance, as they could a
    # share, and the answers of the released model do not water it down.
    "CandidateReview": "None",
    "CandidateExcess": "None",
}
BY_MODEL = {"ModelLatency", "Review", "Score"}  # also told apart by model version


@dataclass(frozen=True)
class Settings:
    """What the environment says."""

    endpoint: str
    bucket: str
    review_rate_limit: float = 0.2

    @classmethod
    def from_environ(cls) -> Settings:
        """Read ``ENDPOINT_NAME``, ``BUCKET`` and, if it is there, ``REVIEW_RATE_LIMIT``."""
        limit = os.environ.get("REVIEW_RATE_LIMIT") or cls.review_rate_limit
        return cls(os.environ["ENDPOINT_NAME"], os.environ["BUCKET"], float(limit))


class Service:
    """The routes, over the clients they need; made once for each container of the Lambda.

    Each route takes the body and what is measured along the way, and returns status and document.
    """

    def __init__(self, settings: Settings, s3: Any, runtime: Any) -> None:
        self.settings, self.s3, self.runtime = settings, s3, runtime
        self.releases = Releases(self._read, settings.endpoint, time.monotonic)

    def _read(self, key: str) -> bytes | None:
        try:
            body: bytes = self.s3.get_object(Bucket=self.settings.bucket, Key=key)["Body"].read()
            return body
        except self.s3.exceptions.NoSuchKey:
            return None

    def health(self, body: bytes, seen: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Say which model is in service."""
        return 200, {"status": "ok", "model_version": self.releases.current()[0]["model_version"]}

    def predict(self, body: bytes, seen: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Check, score, check again; where the model refuses what was found good, by the release as it is now."""
        try:
            return self._predict(body, seen)
        except ModelRefusalError:
            self.releases.expire()  # its schema may have changed since; and of two models the other one may answer
            return self._predict(body, seen)

    def _predict(self, body: bytes, seen: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        caller = seen.get("Caller", "")
        release, schema = self.releases.current()
        asked = api.read_prediction(body, schema)
        began = time.perf_counter()
        try:
            predictions, versions = self._score(asked, release, schema.names, caller)
        except ModelRefusalError:  # the released model would not: what another one refuses, a person must decide
            seen["CandidateExcess"] = seen.get("CandidateExcess", 0) + len(asked.transactions)
            raise
        finally:
            seen["ModelLatency"] = milliseconds(began)
        thresholds = {version: threshold_of(release, version) for version in versions}
        document = api.answer_prediction(asked, predictions, versions, thresholds, release["model_version"])
        answers = document.get("predictions", [document])
        review = [int(item["decision"] == "review") for item in answers]
        seen |= {"Transactions": len(review), "Approved": review.count(0), "Review": review}
        seen["Score"] = [round(item["fraud_probability"], 6) for item in answers]
        if len(thresholds) == 1:  # a dimension has one value a line
            seen["ModelVersion"] = versions[0]
        pairs = zip(review, versions, strict=True)
        if theirs := [value for value, version in pairs if version != release["model_version"]]:
            excess = sum(theirs) - self.settings.review_rate_limit * len(theirs) + seen.get("CandidateExcess", 0)
            seen |= {"CandidateReview": theirs, "CandidateExcess": round(excess, 6)}
        return 200, document

    def _score(
        self, asked: api.Prediction, release: dict[str, Any], names: list[str], caller: str
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """Prediction of each transaction and the model that gave it; a sticky A/B test may split a batch in two."""
        parts = variants_of(release, asked.transactions)
        found: dict[int, tuple[dict[str, Any], str]] = {}
        for variant, places in parts.items():
            part = asked if len(parts) == 1 else asked.only(places)
            predictions, version = api.read_answer(self._invoke(part, variant, caller), len(places), names)
            found |= {k: (item, version) for k, item in zip(places, predictions, strict=True)}
        ordered = [found[k] for k in range(len(asked.transactions))]
        return [item for item, _ in ordered], [version for _, version in ordered]

    def _invoke(self, asked: api.Prediction, variant: str, caller: str) -> bytes:
        try:
            answer = self.runtime.invoke_endpoint(
                EndpointName=self.settings.endpoint,
                ContentType=JSON,
                Accept=JSON,
                InferenceId=asked.inference_ids[0],
                Body=asked.to_json(),
                **({"TargetVariant": variant} if variant else {}),
                **({"CustomAttributes": f"caller={caller}"} if caller else {}),
            )
            body: bytes = answer["Body"].read()
            return body
        except ClientError as error:
            said = error.response
            if variant and said["Error"].get("Code") in NO_SUCH_VARIANT:  # the test ended; the pointer tells it soon
                return self._invoke(asked, "", caller)
            http_status = said.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            code = str(said["Error"].get("Code"))  # a stranger's error may hold anything there
            raise api.upstream_error(code, said.get("OriginalStatusCode"), http_status) from error
        except (ReadTimeoutError, ConnectTimeoutError) as error:
            raise EndpointError("The model did not answer in time.", 504) from error
        except Exception as error:  # botocore trips over answers that are none with whatever error comes first
            raise EndpointError("The model failed to answer.", 502) from error

    def labels(self, body: bytes, seen: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Keep ground truth; the same request again changes nothing."""
        now = time.time()
        truths = api.read_labels(body, now)
        key, content = api.label_object(truths, body, now)

        def put() -> str:
            given = {"Body": content, "ContentType": JSON, "IfNoneMatch": "*"}
            return str(self.s3.put_object(Bucket=self.settings.bucket, Key=key, **given).get("ETag", ""))

        try:  # the key names the request: what is there was sent by it, or by one that says the same
            conditional.write(put, lambda: None, attempts=LABEL_ATTEMPTS)
        except Exception as error:
            raise EndpointError("The labels could not be stored; send them again.", 503, 2) from error
        return 202, {"stored": len(truths), "key": key}

    def openapi(self, body: bytes, seen: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Describe the API; before the first release it cannot say which fields a transaction has."""
        from fraud.openapi import build_openapi  # not in the way of those who want a score

        try:
            release, schema = self.releases.current()
        except EndpointError:
            return 200, build_openapi()
        return 200, build_openapi(schema, release["model_version"])


@functools.cache
def service() -> Service:
    """The one service of this process."""
    clients = (boto3.client(name, config=PATIENCE) for name in ("s3", "sagemaker-runtime"))
    return Service(Settings.from_environ(), *clients)


def milliseconds(began: float) -> float:
    """Time since a reading of ``perf_counter``."""
    return round(1000 * (time.perf_counter() - began), 2)


def metrics(status: int, began: float, seen: dict[str, Any]) -> dict[str, Any]:
    """What CloudWatch makes metrics of: values, and ``_aws``, which says which members are some."""
    values = {
        "Service": SERVICE,
        "Endpoint": os.environ.get("ENDPOINT_NAME") or "unknown",
        "Requests": 1,
        "ClientErrors": int(400 <= status < 500),
        "ServerErrors": int(status >= 500),
        "Latency": milliseconds(began),
    } | seen
    told = [{"Name": name, "Unit": unit} for name, unit in UNITS.items() if name in values]
    by_model = [item for item in told if item["Name"] in BY_MODEL] if "ModelVersion" in values else []
    dimensions = ["Service", "Endpoint"]
    directives = [{"Namespace": NAMESPACE, "Dimensions": [dimensions], "Metrics": told}]
    if by_model:
        dimensions = [*dimensions, "ModelVersion"]
        directives.append({"Namespace": NAMESPACE, "Dimensions": [dimensions], "Metrics": by_model})
    return values | {"_aws": {"Timestamp": int(1000 * time.time()), "CloudWatchMetrics": directives}}


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one event of API Gateway; log one line about it, without its payload."""
    began, route, problem = time.perf_counter(), "", ""
    seen: dict[str, Any] = {}
    try:
        request = api.read_event(event)
        route = request.route
        seen["Caller"] = caller_of(event, os.environ.get("CALLER_KEY") or service().settings.bucket)
        act = getattr(service(), route[1:].removesuffix(".json"))
        answer = api.respond(*act(request.body, seen))
    except Exception as error:  # the last resort is 500, without a trace for the caller
        answer, problem = api.respond_problem(error), api.describe_error(error)
    seen.pop("Caller", None)  # nobody's business but the drift check's
    line = {
        "level": "ERROR" if answer["statusCode"] >= 500 else "INFO",
        "request_id": getattr(context, "aws_request_id", ""),
        "route": route,
        "status": answer["statusCode"],
        "error": problem,
    } | metrics(answer["statusCode"], began, seen)
    sys.stdout.write(json.dumps(line) + "\n")
    return answer
