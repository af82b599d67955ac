"""Updates and rollbacks while callers never pause, and scores that are the same wherever they are asked for.

The numbers are those of the proof; ``PROVE_SHARE=0.05 make prove-serving`` is a rehearsal with a twentieth of them.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from serving_kit import (
    Background,
    CloudWatch,
    callers,
    guard,
    in_service,
    inference_lambda,
    live_rows,
    pack,
    posted,
    promote,
    say,
    settings,
    unpack,
)

from fraud.errors import DeploymentError
from fraud.localaws.endpoints import Catalog, Endpoints, Runtime
from fraud.pipeline import probing, strategies
from fraud.pipeline.parameters import ROOT
from fraud.pipeline.rollback import rollback
from fraud.pipeline.where import client, client_once
from fraud.release import Releases

sys.path.insert(0, str(ROOT / "tests" / "localaws"))
from hosting_kit import ENVIRONMENT, IMAGE, S3, Logs, variant
from localaws_kit import InProcess

pytestmark = [pytest.mark.localaws, pytest.mark.slow, pytest.mark.timeout(3600)]
SHARE = float(os.environ.get("PROVE_SHARE", "1"))
UPDATES, REQUESTS, ROWS = (int(SHARE * whole) for whole in (100, 50_000, 10_000))
RATE = 90.0  # requests a second; the two cores of a small machine also start some 240 serving processes meanwhile
BUSY = ("Creating", "Updating", "RollingBack")
STRATEGIES = ("canary", "linear", "all_at_once")


class Ringing(Background):
    """Reports a server error of the endpoint as soon as an update of it bakes, and so rings its alarm."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint, self.rang = endpoint, False
        super().__init__()

    def _run(self) -> None:
        while not self.rang and not self._over.wait(0.1):
            found = client("sagemaker").describe_endpoint(EndpointName=self.endpoint)
            variants = found.get("PendingDeploymentSummary", {}).get("ProductionVariants", [{}])
            if [item["Status"] for item in variants[0].get("VariantStatus", [])] == ["Baking"]:
                names = {"EndpointName": self.endpoint, "VariantName": "AllTraffic"}
                dimensions = [{"Name": name, "Value": value} for name, value in names.items()]
                datum = {"MetricName": "Invocation5XXErrors", "Value": 1.0, "Dimensions": dimensions}
                client("cloudwatch").put_metric_data(Namespace="AWS/SageMaker", MetricData=[datum])
                self.rang = True


def quiet(alarms: list[str], patience: float = 60) -> None:
    """Wait until no alarm rings."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        found = client("cloudwatch").describe_alarms(AlarmNames=alarms)["MetricAlarms"]
        if all(item["StateValue"] != "ALARM" for item in found):
            return
        time.sleep(0.5)
    raise TimeoutError(f"{alarms} still ring")


def test_a_hundred_updates_and_twenty_rollbacks_without_a_failed_request(models) -> None:
    alarms, done, began = guard("load"), Counter(), time.monotonic()
    promote(models[0], settings("load"))
    probes = []
    with callers(models[0].house, "load", models, RATE) as load:
        for number in range(UPDATES):
            now, other = models[number % 2], models[1 - number % 2]
            p = settings("load", strategy=STRATEGIES[number % 3])
            if number % 10 == 0:  # the alarm sends the same update back first
                with Ringing("load"), pytest.raises(DeploymentError, match="alarms were triggered.*load-5xx"):
                    promote(other, settings("load", strategy=p.strategy, wait_seconds=1000))
                done["sent back by an alarm"] += 1
                assert in_service("load") == now.name
                quiet(alarms)
            probed = promote(other, p)
            probes += probed.probes
            assert in_service("load") == other.name
            done[p.strategy] += 1
            if number % 10 == 5:  # back and, with the next update, forth
                assert f"{now.name} is back in service" in rollback(now.run, "load")
                done["fraud rollback"] += 1
                models = models[::-1]
        load.wait_for(REQUESTS)
    say(f"\n{sum(done[name] for name in STRATEGIES)} updates, {sum(done.values())} in all: {dict(done)}")
    failed = sum(not probe["ok"] for probe in probes)
    say(f"{load}; {len(probes):,} probes of 03_deploy, {failed} failed; {time.monotonic() - began:.0f} s")
    load.check()
    assert not failed
    assert set(load.answers) == {one.name for one in models}
    assert load.sent.total() >= REQUESTS


def test_training_endpoint_and_lambda_give_the_same_scores(models, monkeypatch: pytest.MonkeyPatch) -> None:
    guard("load")
    model, began = models[0], time.monotonic()
    promote(model, settings("load"))
    rows = live_rows(ROWS)
    offline = model.offline(rows)
    app = inference_lambda()
    clients = client("s3"), client_once("sagemaker-runtime")
    service = app.Service(app.Settings("load", model.house.bucket), *clients)
    monkeypatch.setattr(app, "service", lambda: service)
    monkeypatch.setattr(app, "sys", SimpleNamespace(stdout=SimpleNamespace(write=lambda line: None)))

    def lambda_(body: dict) -> list[float]:
        status, document = posted(app, body)
        assert status == 200, document
        return [item["fraud_probability"] for item in document.get("predictions", [document])]

    worst, compared = Counter(), Counter()
    for at in range(0, len(rows), 100):
        part, expected = rows[at : at + 100], offline[at : at + 100]
        answers = {
            "endpoint": probing.served_scores("load", part)["scores"],
            "lambda": lambda_({"transactions": part}),
            "endpoint, one at a time": probing.served_scores("load", part[:1])["scores"],
            "lambda, one at a time": lambda_(part[0]),
        }
        for name, scores in answers.items():
            compared[name] += len(scores)
            differences = [abs(a - b) for a, b in zip(scores, expected[: len(scores)], strict=True)]
            worst[name] = max(worst[name], *differences)
    say(f"\nscores compared with training's: {dict(compared)}; largest difference {dict(worst)}")
    say(f"scores from {min(offline):.6f} to {max(offline):.6f}, {len(set(offline)):,} different; "
        f"{time.monotonic() - began:.0f} s")  # fmt: skip
    assert len(set(offline)) > ROWS / 20
    assert compared["endpoint"] == compared["lambda"] == ROWS and not any(worst.values())


# ---- canaries --------------------------------------------------------------------------------------------------------

FAULTS = {  # what a bad model does, and the alarm that must notice
    "errors": ("raise RuntimeError('broken on purpose')", "5xx"),
    "slow": ("__import__('time').sleep(0.3)", "latency"),
    "shifted": (
        "found.scores[:] = [0.5 + score / 2 for score in found.scores]",
        "review-rate",
    ),
}
FAULT = """

_sound = predict_fn

def predict_fn(request, model):
    found = _sound(request, model)
    {}
    return found
"""
SCALE = 40.0  # the 300 s of a canary are 7.5 s, a minute of an alarm 1.5 s
CLEAN, BAD = (max(2, int(SHARE * whole)) for whole in (20, 10))


class Emf:
    """Standard output of the Lambda, as CloudWatch Logs reads it: lines in embedded metric format become metrics."""

    def __init__(self, cloudwatch: CloudWatch) -> None:
        self.cloudwatch = cloudwatch

    def write(self, line: str) -> None:
        said = json.loads(line)
        for directive in said["_aws"]["CloudWatchMetrics"]:
            for names in directive["Dimensions"]:
                dimensions = [{"Name": name, "Value": said[name]} for name in names]
                values = {item["Name"]: said[item["Name"]] for item in directive["Metrics"]}
                data = [
                    {"MetricName": name, "Dimensions": dimensions, "Values": value if type(value) is list else [value]}
                    for name, value in values.items()
                ]
                self.cloudwatch.put_metric_data(directive["Namespace"], data)


class Canaries:
    """An endpoint of the local AWS in this process, its alarms, and callers through the Lambda's handler."""

    def __init__(self, champion, challenger, server, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cloudwatch = CloudWatch("canary", SCALE)
        monkeypatch.setattr(strategies, "client", {"cloudwatch": self.cloudwatch}.__getitem__)
        self.alarms = strategies.alarm_names("canary")
        self.s3 = S3()
        server.daemon._clients |= {"cloudwatch": self.cloudwatch, "s3": self.s3, "logs": Logs()}
        self.sagemaker = server.client("sagemaker")
        self.schema, self.threshold = champion.model["schema"], champion.model["metrics"]["decision_threshold"]
        sound = {"sound-a": champion.model, "sound-b": challenger.model}
        for name, model in sound.items():
            self._create(name, model, unpack(model["archive"]))
        for name, (line, _) in FAULTS.items():
            files = unpack(challenger.model["archive"])
            files["code/inference.py"] += FAULT.format(line).encode()
            self._create(name, challenger.model, files)
        self.app = inference_lambda()
        self.service = self.app.Service(self.app.Settings("canary", ""), None, server.client("sagemaker-runtime"))
        monkeypatch.setattr(self.app, "service", lambda: self.service)
        monkeypatch.setattr(self.app, "sys", SimpleNamespace(stdout=Emf(self.cloudwatch)))
        monkeypatch.setenv("ENDPOINT_NAME", "canary")
        self.release("sound-a")
        self.sagemaker.create_endpoint(EndpointName="canary", EndpointConfigName="sound-a")
        self._settled()

    def _create(self, name: str, model: dict, files: dict[str, bytes]) -> None:
        self.s3.objects["bucket", name] = pack(files)
        environment = ENVIRONMENT | {"MODEL_VERSION": name, "MODEL_SHA256": model["model_sha256"]}
        container = {"Image": IMAGE, "ModelDataUrl": f"s3://bucket/{name}", "Environment": environment}
        self.sagemaker.create_model(ModelName=name, PrimaryContainer=container)
        self.sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant(name, 2)])

    def release(self, name: str) -> None:
        """Say that this model is the released one."""
        release = {"model_version": name, "decision_threshold": self.threshold}
        release["schema_key"] = "releases/canary/schema.json"
        objects = {"releases/canary/current.json": release, release["schema_key"]: self.schema}
        read = {key: json.dumps(value).encode() for key, value in objects.items()}.get
        self.service.releases = Releases(read, "canary", time.monotonic)

    def _settled(self) -> dict:
        while (found := self.sagemaker.describe_endpoint(EndpointName="canary"))["EndpointStatus"] in BUSY:
            time.sleep(0.2)
        return found

    def deploy(self, name: str) -> tuple[str, str]:
        """Try a canary as 03_deploy does by default; returns what is in service then, and why."""
        how = strategies.deployment_config(settings("canary", wait_seconds=300), self.alarms)
        self.sagemaker.update_endpoint(EndpointName="canary", EndpointConfigName=name, DeploymentConfig=how)
        found = self._settled()
        while any(map(self.cloudwatch.rings, self.alarms)):
            time.sleep(0.2)
        return found["EndpointConfigName"], found.get("FailureReason", "")


class LambdaCallers(Background):
    """Requests to the Lambda's handler at a fixed rate, whatever it answers."""

    def __init__(self, app, rows: list[dict], rate: float = 25.0) -> None:
        self.app, self.rows, self.rate = app, rows, rate
        self.answers: Counter[str] = Counter()
        super().__init__()

    def _run(self) -> None:
        began = time.monotonic()
        with ThreadPoolExecutor(32) as pool:
            for number in itertools.count():
                if self._over.wait(max(0.0, began + number / self.rate - time.monotonic())):
                    return
                pool.submit(self._call, self.rows[number % len(self.rows)])

    def _call(self, row: dict) -> None:
        status, document = posted(self.app, row)
        self.answers[document["model_version"] if status == 200 else f"status {status}"] += 1


@pytest.fixture
def serve(tmp_path):
    """Start daemons of the local AWS in threads of this process."""
    opened = []

    def start(*classes):
        opened.append(InProcess(tmp_path / "state", list(classes)))
        return opened[-1]

    yield start
    for server in opened:
        server.close()


def test_bad_canaries_go_back_and_clean_ones_stay(models, serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FRAUD_LOCAL_TIME_SCALE", str(SCALE))
    monkeypatch.setenv("FRAUD_LOCAL_METRIC_SECONDS", "0.5")
    world, began = Canaries(*models, serve(Catalog, Endpoints, Runtime), monkeypatch), time.monotonic()
    watched = [name for name, (_, alarm) in FAULTS.items() if f"fraud-canary-{alarm}" in world.alarms]
    say(f"\nalarms {world.alarms}; no alarm watches a model that is {set(FAULTS) - set(watched) or 'anything bad'}")
    plan = [name for n in range(max(CLEAN, BAD)) for name in ["clean"] * (n < CLEAN) + watched * (n < BAD)]
    champion, other, tried, back, missed = "sound-a", "sound-b", Counter(), Counter(), []
    with LambdaCallers(world.app, live_rows(500)) as load:
        for name in plan:
            tried[name] += 1
            in_service, why = world.deploy(other if name == "clean" else name)
            back[name] += in_service == champion
            if name == "clean" and in_service == other:
                champion, other = other, champion
                world.release(champion)
            elif name == "clean" or f"fraud-canary-{FAULTS[name][1]}" not in why:
                missed.append(f"{name}: {in_service} is in service. {why}")
    say(f"{sum(tried.values())} canaries: {dict(tried)}; rolled back {dict(back)}; {time.monotonic() - began:.0f} s")
    say(f"{load.answers.total():,} requests through the Lambda: {dict(load.answers)}")
    assert not missed, missed
