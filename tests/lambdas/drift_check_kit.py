"""The drift check over an AWS in memory: captured payments, ticks of the schedule, what people were told."""

import datetime as dt
import json
import random
import uuid
from types import SimpleNamespace

import boto3
from lambdas_kit import BUCKET, ENDPOINT, load, load_module, recorded
from moto.core import DEFAULT_ACCOUNT_ID
from moto.sns import sns_backends

from fraud.capture import encode_line

app = load("drift_check")
aws, check, hourly = (load_module("drift_check", name) for name in ("aws", "check", "hourly"))
NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC).timestamp()
POLICY = {"window_hours": 24, "min_records": 100, "cool_down_hours": 6.0, "persistence": [1, 1], "min_new_labels": 0}
LOCK = f"locks/drift/{ENDPOINT}.json"


class CodePipeline:
    """The service over HTTP: validates nothing, is idempotent by token, lists the newest first, fails when told to.

    Its lists come in pages of two, after an empty one.
    """

    def __init__(self):
        self.executions, self.calls, self.fail, self.lose = [], [], None, None

    def __call__(self, request):
        operation = request.headers["X-Amz-Target"].partition(".")[2]
        given = json.loads(request.body)
        self.calls.append((operation, given))
        if self.fail == operation:
            return 400, {}, b'{"__type": "PipelineNotFoundException", "message": "no such pipeline"}'
        answer = getattr(self, operation)(given)
        if self.lose == operation:
            raise ConnectionAbortedError
        return 200, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps(answer).encode()

    def StartPipelineExecution(self, given):
        token = given["clientRequestToken"]
        known = [item["pipelineExecutionId"] for item in self.executions if item["token"] == token]
        if not known:
            self.add("InProgress", token=token)
        return {"pipelineExecutionId": known[0] if known else self.executions[0]["pipelineExecutionId"]}

    def ListPipelineExecutions(self, given):
        names = ("pipelineExecutionId", "status", "startTime", "trigger")
        if "nextToken" not in given:
            return {"pipelineExecutionSummaries": [], "nextToken": "0"}
        at = int(given["nextToken"])
        page = [{name: item[name] for name in names} for item in self.executions[at : at + 2]]
        more = {"nextToken": str(at + 2)} if at + 2 < len(self.executions) else {}
        return {"pipelineExecutionSummaries": page} | more

    def add(self, status, *, at=NOON + 60, token="", kind="StartPipelineExecution"):
        self.executions.insert(
            0,
            {
                "pipelineExecutionId": str(uuid.uuid4()),
                "status": status,
                "startTime": at,
                "trigger": {"triggerType": kind},
                "token": token,
            },
        )


def told():
    """What was published: (subject, message)."""
    topics = sns_backends[DEFAULT_ACCOUNT_ID]["eu-west-1"].topics
    (only,) = topics.values()
    return only.sent_notifications


def tick(event=None, owner="request-1"):
    return app.handler(recorded("schedule") if event is None else event, SimpleNamespace(aws_request_id=owner))


def capture(
    s3, n=500, *, factor=1.0, end=NOON, model="run-1", junk=b"", variant="AllTraffic", hour="02/10", root="",
    several=1, caller="", card="", **given,
):  # fmt: skip
    """Requests of the two hours before a moment, in files of 250; of one payment each, or several."""
    name = uuid.uuid4().hex[:8]
    rng = random.Random(f"{n}{caller}")
    for part in range(0, n, 250):
        lines = b""
        for k in range(part, min(part + 250, n)):
            transactions = [
                {
                    "TransactionAmt": float(rng.randrange(50, 150)) * factor,
                    "card4": card or rng.choice(["visa", "visa", "mastercard", None]),
                    "is_new": rng.random() < 0.5,
                }
                for _ in range(several)
            ]
            scores = [0.01 * rng.randrange(60) for _ in transactions]
            time = end - 7200 + 7200 * k / n
            line = encode_line(transactions, scores, event_id=f"{name}-{k}", time=time, model_version=model, **given)
            if caller:
                document = json.loads(line)
                document["eventMetadata"]["customAttributes"] = [f"caller={caller}"]
                line = json.dumps(document).encode() + b"\n"
            lines += line
        day = hour.removeprefix("../../") if hour.startswith("../") else f"2026/01/{hour}"
        key = f"data-capture/{root}{ENDPOINT}/{variant}/{day}/00-00-{part % 1000:03}-{uuid.uuid4()}.jsonl"
        s3.put_object(Bucket=BUCKET, Key=key, Body=lines + junk)


def stored(s3, report):
    return json.loads(s3.get_object(Bucket=BUCKET, Key=report["verdict_key"])["Body"].read())


def metric(name):
    """Sum of a metric of the checks so far; None without any."""
    found = boto3.client("cloudwatch").get_metric_statistics(
        Namespace="Fraud/Drift",
        MetricName=name,
        Dimensions=[{"Name": "EndpointName", "Value": ENDPOINT}],
        StartTime=0,
        EndTime=4_000_000_000,
        Period=4_000_000_020,
        Statistics=["Sum"],
    )["Datapoints"]
    return found[0]["Sum"] if found else None


def invoked(times, value=50.0, name="Invocations"):
    boto3.client("cloudwatch").put_metric_data(
        Namespace="AWS/SageMaker",
        MetricData=[
            {
                "MetricName": name,
                "Dimensions": [
                    {"Name": "EndpointName", "Value": ENDPOINT},
                    {"Name": "VariantName", "Value": "AllTraffic"},
                ],
                "Timestamp": dt.datetime.fromtimestamp(time, dt.UTC),
                "Value": value,
            }
            for time in times
        ],
    )
