"""Serving against the handler that examples use, and what stands before the endpoint, as ratios of one interleaved run.

One LightGBM model is trained here on the IEEE-CIS-shaped sample (63 features, 18 of them categories) and served twice:
by `usual_handler/inference.py` (JSON → DataFrame → `LGBMClassifier.predict_proba` → JSON) and by `src/inference.py`.
Before anything is timed, both must give the same scores to the last bit on every request.

(a) Each handler runs in an instance as the local AWS starts it: `fraud/localaws/serving.py`, the container's gunicorn
    and gevent with one worker. A third instance has a handler that does nothing: the ceiling of that stack. The load is
    a closed loop over keep-alive connections: each sends its next request when its answer is there. All take turns in
    each round, at 1 and at 16 connections. Latencies are pooled over all rounds; `cpu` is the worker's processor time
    for a request, which neighbours on this machine disturb least. The load generator's own ceiling is what it reaches
    against a socket that answers without reading.
(b) In this process, call by call in turns: `Booster.predict` of a numpy row, our single row, and our handlers.
(c) Child processes in turns: boto3 with the Lambda's two clients alone, and the Lambda's import with its service.
(d) `--whole`: a local AWS of its own with a model deployed by `fraud run`; `POST /predict` through API Gateway and the
    Lambda, and `InvokeEndpoint` alone with the same transaction, in turns.

    python benchmarks/serving.py                            about four minutes
    python benchmarks/serving.py --whole                    with (d), about three minutes more
    python benchmarks/serving.py --rounds 1 --seconds 0.5 --trees 50   a quick look
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from closed_loop import Bare, Load, ask, load, percentile, requests_of

os.environ["OMP_NUM_THREADS"] = "1"  # one row has no work for two threads; read when LightGBM is imported

ROOT = Path(__file__).resolve().parents[1]
USUAL, OURS, NULL = "usual", "ours", "null"
CONNECTIONS = (1, 16)
N_REQUESTS = 256
NULL_HANDLER = """
def model_fn(model_dir): return None
def input_fn(body, content_type): return body
def predict_fn(data, model): return None
def output_fn(prediction, accept): return '{"predictions": []}', accept
"""
GOALS = {  # what a figure must reach, or must not pass
    "requests_1": ("requests/s, ours : usual, 1 connection", "≥", 30.0),
    "requests_16": ("requests/s, ours : usual, 16 connections", "≥", 30.0),
    "p99_1": ("p99, ours : usual, 1 connection", "≤", 0.1),
    "p99_16": ("p99, ours : usual, 16 connections", "≤", 0.1),
    "row": ("one row, ours : Booster.predict(numpy)", "≤", 0.8),
    "handlers": ("input_fn + predict_fn + output_fn : Booster.predict(numpy)", "≤", 0.8),
    "import": ("Lambda's import and clients : boto3's", "≤", 1.15),
    "whole": ("gateway → Lambda → endpoint : endpoint alone, p50", "", 0.0),
}


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


# -- the model, once for each handler


def make(folder: Path, rows: int, trees: int) -> dict[str, Any]:
    """Train, lay out the three archives, and return requests with the scores that every handler must give."""
    import joblib
    import pandas as pd
    import polars as pl
    from lightgbm import LGBMClassifier

    from fraud.demo import sample
    from fraud.schema import Feature, Schema

    table = sample.table(rows, columns="core")
    columns = table.drop("TransactionID", "isFraud", "TransactionDT")
    texts = {
        name: sorted(columns[name].drop_nulls().unique()) for name, kind in columns.schema.items() if kind == pl.String
    }
    dtypes = {name: pd.CategoricalDtype(texts[name]) if name in texts else "float64" for name in columns.columns}
    frame = pd.DataFrame(columns.to_dict(as_series=False)).astype(dtypes)
    classifier = LGBMClassifier(n_estimators=trees, num_leaves=31, learning_rate=0.05, n_jobs=1, verbose=-1)
    classifier.fit(frame, table["isFraud"].to_list())

    asked = columns.sample(N_REQUESTS, seed=1).to_dicts()
    picked = pd.DataFrame(asked)[list(dtypes)].astype(dtypes)
    scores = classifier.predict_proba(picked)[:, 1].tolist()
    for name in (USUAL, OURS, NULL):
        (folder / name / "code").mkdir(parents=True)
    joblib.dump({"classifier": classifier, "dtypes": dtypes}, folder / USUAL / "model.joblib")
    shutil.copy(ROOT / "benchmarks/usual_handler/inference.py", folder / USUAL / "code")
    (folder / NULL / "code/inference.py").write_text(NULL_HANDLER)

    ours, code = folder / OURS, folder / OURS / "code"
    text = classifier.booster_.model_to_string().partition("\npandas_categorical:")[0]
    features = [
        Feature(name, "category" if name in texts else "number", False, tuple(texts.get(name, ()))) for name in dtypes
    ]
    (ours / "model.txt").write_text(f"{text}\npandas_categorical:null\n")
    (ours / "schema.json").write_text(Schema(tuple(features)).to_json())
    (ours / "golden.json").write_text(json.dumps({"transactions": asked[:20], "scores": scores[:20]}))
    shutil.copy(ROOT / "src/inference.py", code)
    for package in ("fraud", "fraud/serving"):
        (code / package).mkdir()
        for path in (ROOT / "src" / package).glob("*.py"):
            shutil.copy(path, code / package)
    bodies = [
        json.dumps({"transactions": [transaction], "inference_ids": [f"id-{k:032d}"], "reasons": False}).encode()
        for k, transaction in enumerate(asked)
    ]
    return {"bodies": bodies, "scores": scores, "transactions": asked, "features": len(features), "texts": len(texts)}


# -- (a) the container's stack


class Instance:
    """One handler in the serving process that the local AWS starts for an instance."""

    def __init__(self, folder: Path) -> None:
        self.log = folder.with_suffix(".log").open("wb")
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            os.set_inheritable(listener.fileno(), True)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.port = listener.getsockname()[1]
            places = ["--model-dir", str(folder), "--code-dir", str(folder / "code"), "--program", "inference.py"]
            self.process = subprocess.Popen(
                [sys.executable, "-P", str(ROOT / "src/fraud/localaws/serving.py"), "--fd", str(listener.fileno())]
                + places,
                pass_fds=(listener.fileno(),),
                env={"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1", "MODEL_VERSION": "run-20260102-030405-abcd"},
                stdout=self.log,
                stderr=self.log,
                cwd=folder,
            )

    def cpu(self) -> float:
        """Processor seconds of the worker so far."""
        import psutil

        (worker,) = psutil.Process(self.process.pid).children()
        used = worker.cpu_times()
        return float(used.user + used.system)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()
        self.log.close()


def container(folder: Path, made: dict[str, Any], rounds: int, seconds: float) -> dict[str, Any]:
    """(a): figures and ratios."""
    instances: dict[str, Any] = {name: Instance(folder / name) for name in (USUAL, OURS, NULL)}
    instances["bare"] = Bare()
    requests = {name: requests_of(made["bodies"], instance.port) for name, instance in instances.items()}
    found: dict[tuple[str, int], list[Load]] = {}
    try:
        for name in (USUAL, OURS):
            answers = [ask(instances[name].port, request)["predictions"] for request in requests[name]]
            if [answer[0]["fraud_probability"] for answer in answers] != made["scores"]:
                raise SystemExit(f"The handler {name} gives other scores than training.")
        say(f"both handlers score {len(requests)} requests as training did, to the last bit")
        for round_ in range(rounds):
            for connections in CONNECTIONS:
                order = list(instances)
                for name in order[round_ % len(order) :] + order[: round_ % len(order)]:
                    one = load(instances[name], requests[name], connections, seconds)
                    found.setdefault((name, connections), []).append(one)
                    say(f"round {round_ + 1}/{rounds}: {name} at {connections}: {one.rate:,.0f} requests/s")
    finally:
        for instance in instances.values():
            instance.stop()
    figures = {f"{name}_{connections}": _figures(loads) for (name, connections), loads in found.items()}
    ratios = {}
    for n in CONNECTIONS:
        pairs = list(zip(found[OURS, n], found[USUAL, n], strict=True))
        ratios[f"requests_{n}"] = spread([ours.rate / usual.rate for ours, usual in pairs])
        p99 = {name: figures[f"{name}_{n}"]["p99"] for name in (OURS, USUAL)}
        by_round = [percentile(ours.latencies, 0.99) / percentile(usual.latencies, 0.99) for ours, usual in pairs]
        ratios[f"p99_{n}"] = (p99[OURS] / p99[USUAL], min(by_round), max(by_round))
    return {"figures": figures, "ratios": ratios}


def _figures(loads: Sequence[Load]) -> dict[str, float]:
    pooled = [latency for one in loads for latency in one.latencies]
    return {
        "rate": statistics.median(one.rate for one in loads),
        "p50": percentile(pooled, 0.5),
        "p99": percentile(pooled, 0.99),
        "cpu": statistics.median(one.cpu for one in loads),
        "n": len(pooled),
    }


def spread(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Median, lowest, highest."""
    return statistics.median(ratios), min(ratios), max(ratios)


# -- (b) in this process


def in_process(folder: Path, made: dict[str, Any], rounds: int, calls: int) -> dict[str, Any]:
    """(b): seconds of one row, and ratios to bare `Booster.predict`."""
    import numpy as np

    sys.path.insert(0, str(ROOT / "src"))
    import inference

    model = inference.model_fn(str(folder / OURS))
    rows = [model.schema.encode(transaction) for transaction in made["transactions"]]
    arrays = [np.array([row]) for row in rows]
    texts = [body.decode() for body in made["bodies"]]
    asked = [inference.input_fn(text, "application/json") for text in texts]

    def handlers(text: str) -> Any:
        request = inference.input_fn(text, "application/json")
        return inference.output_fn(inference.predict_fn(request, model), "application/json")

    ways: dict[str, tuple[Callable[[Any], Any], Sequence[Any]]] = {
        "Booster.predict": (model.loaded.booster.predict, arrays),
        "row": (lambda row: model.scores([row]), rows),
        "predict_fn": (lambda request: inference.predict_fn(request, model), asked),
        "handlers": (handlers, texts),
    }
    taken: dict[str, list[list[float]]] = {way: [] for way in ways}
    now = time.perf_counter
    for round_ in range(rounds):
        stretch: dict[str, list[float]] = {way: [] for way in ways}
        for k in range(calls):
            for way in list(ways)[k % len(ways) :] + list(ways)[: k % len(ways)]:
                act, values = ways[way]
                value = values[k % len(values)]
                began = now()
                act(value)
                stretch[way].append(now() - began)
        for way, times in stretch.items():
            taken[way].append(times)
        say(f"round {round_ + 1}/{rounds}: {calls:,} calls of each way in this process")
    middle = {way: [statistics.median(times) for times in stretches] for way, stretches in taken.items()}
    pooled = {way: [one for times in stretches for one in times] for way, stretches in taken.items()}
    return {
        "figures": {way: {"p50": percentile(v, 0.5), "p99": percentile(v, 0.99)} for way, v in pooled.items()},
        "ratios": {
            way: spread([a / b for a, b in zip(middle[way], middle["Booster.predict"], strict=True)])
            for way in ("row", "predict_fn", "handlers")
        },
    }


# -- (c) the Lambda's import

BOTO = """
import boto3
from botocore.config import Config
for name in ("s3", "sagemaker-runtime"):
    boto3.client(name, config=Config(connect_timeout=1, read_timeout=3))
"""
LAMBDA = "import app\napp.service()\n"
TIMED = """import time
c, w = time.process_time(), time.perf_counter()
{}print(time.process_time() - c, time.perf_counter() - w)
"""


def imports(folder: Path, rounds: int) -> dict[str, Any]:
    """(c): seconds of import and clients, laid out as the Lambda's zip is; processor time makes the ratio."""
    package = folder / "lambda"
    (package / "fraud").mkdir(parents=True)
    shutil.copy(ROOT / "lambdas/inference/app.py", package)
    for path in (ROOT / "src/fraud").glob("*.py"):
        shutil.copy(path, package / "fraud")
    environment = {
        "AWS_DEFAULT_REGION": "eu-west-1",
        "ENDPOINT_NAME": "fraud",
        "BUCKET": "b",
        "PATH": os.environ["PATH"],
    }
    environment |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "PYTHONPATH": str(package)}
    ways = {"boto3": BOTO, "lambda": LAMBDA}
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for round_ in range(rounds + 1):
        for way in sorted(ways, reverse=bool(round_ % 2)):
            command = [sys.executable, "-c", TIMED.format(ways[way])]
            told = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()
            taken[way].append((float(told[0]), float(told[1])))
    say(f"{rounds} imports of each")
    cpu = {way: [one for one, _ in times[1:]] for way, times in taken.items()}  # the first wrote the bytecode
    wall = {way: [one for _, one in times[1:]] for way, times in taken.items()}
    ratios = [a / b for a, b in zip(cpu["lambda"], cpu["boto3"], strict=True)]
    return {
        "figures": {
            way: {"cpu": statistics.median(cpu[way]), "p50": percentile(wall[way], 0.5), "p99": max(wall[way])}
            for way in ways
        },
        "ratios": {
            "import": (statistics.median(cpu["lambda"]) / statistics.median(cpu["boto3"]), min(ratios), max(ratios))
        },
    }


# -- (d) the whole path


def whole(folder: Path, rounds: int, calls: int) -> dict[str, Any]:
    """(d): seconds from a local AWS with a deployed model, and their ratio."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FRAUD_"))}
    environment |= {"FRAUD_LOCAL_STATE": str(folder / "aws")}

    def fraud(*arguments: str) -> str:
        say(f"fraud {' '.join(arguments)}")
        command = [sys.executable, "-m", "fraud.pipeline.cli", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder, check=False)
        if done.returncode:
            raise SystemExit(f"fraud {' '.join(arguments)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout

    try:
        outputs = json.loads(fraud("local", "up"))["outputs"]
        lines = fraud("local", "env").splitlines()
        environment |= dict(line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))
        fraud("sample", "history.parquet", "--rows", "8000", "--columns", "core")
        fraud("history", "put", "history.parquet")
        fraud("run", "--run-id", "bench")
        return _through_the_gateway(environment, outputs["ApiUrl"].rstrip("/"), rounds, calls)
    finally:
        down = [sys.executable, "-m", "fraud.localaws", "down"]
        subprocess.run(down, env=environment, check=False, capture_output=True)


def _through_the_gateway(environment: dict[str, str], url: str, rounds: int, calls: int) -> dict[str, Any]:
    import boto3
    import urllib3
    from botocore.auth import SigV4Auth
    from botocore.awsrequest import AWSRequest

    from fraud.demo import sample

    os.environ |= {name: value for name, value in environment.items() if name.startswith("AWS_")}
    session, pool = boto3.Session(), urllib3.PoolManager()
    runtime, signer = (
        session.client("sagemaker-runtime"),
        SigV4Auth(session.get_credentials(), "execute-api", session.region_name),
    )
    table = sample.table(200, seed=3, columns="core").drop("TransactionID", "isFraud", "TransactionDT")
    transactions = table.to_dicts()

    def gateway(transaction: dict[str, Any]) -> float:
        body = json.dumps(transaction).encode()
        request = AWSRequest("POST", f"{url}/predict", data=body, headers={"Content-Type": "application/json"})
        signer.add_auth(request)
        began = time.perf_counter()
        answer = pool.request("POST", request.url, body=body, headers=dict(request.headers))
        took = time.perf_counter() - began
        if answer.status != 200:
            raise SystemExit(f"POST /predict answered {answer.status}: {answer.data[:300]!r}")
        return took

    def endpoint(transaction: dict[str, Any]) -> float:
        body = json.dumps({"transactions": [transaction], "inference_ids": ["a"], "reasons": False})
        began = time.perf_counter()
        runtime.invoke_endpoint(EndpointName="fraud", ContentType="application/json", Body=body)["Body"].read()
        return time.perf_counter() - began

    taken: dict[str, list[list[float]]] = {"gateway": [], "endpoint": []}
    for transaction in transactions[:10]:
        gateway(transaction), endpoint(transaction)
    for round_ in range(rounds):
        both: tuple[list[float], list[float]] = ([], [])
        for k in range(calls):
            both[0].append(gateway(transactions[k % len(transactions)]))
            both[1].append(endpoint(transactions[k % len(transactions)]))
        taken["gateway"].append(both[0])
        taken["endpoint"].append(both[1])
        say(f"round {round_ + 1}/{rounds}: {calls} requests through the gateway, {calls} to the endpoint alone")
    pooled = {way: [one for times in stretches for one in times] for way, stretches in taken.items()}
    pairs = zip(taken["gateway"], taken["endpoint"], strict=True)
    return {
        "figures": {way: {"p50": percentile(v, 0.5), "p99": percentile(v, 0.99)} for way, v in pooled.items()},
        "ratios": {"whole": spread([statistics.median(a) / statistics.median(b) for a, b in pairs])},
    }


# -- what is printed


def table_of(found: dict[str, dict[str, Any]]) -> str:
    """Figures, then ratios against their goals."""
    names = {USUAL: "usual handler", OURS: "src/inference.py", NULL: "null handler", "bare": "load generator alone"}
    lines = [
        f"{'(a) in the container stack':44}{'conn':>5}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'cpu ms':>9}{'n':>9}"
    ]
    for key, one in found["container"]["figures"].items():
        name, _, connections = key.rpartition("_")
        lines.append(
            f"    {names[name]:40}{connections:>5}{one['rate']:12,.0f}{1e3 * one['p50']:9.3f}{1e3 * one['p99']:9.3f}"
            + (f"{1e3 * one['cpu']:9.3f}" if one["cpu"] else f"{'':9}")
            + f"{one['n']:9,}"
        )
    for part, title, unit, scale in (
        ("in_process", "(b) one row in this process", "µs", 1e6),
        ("imports", "(c) import and clients", "ms", 1e3),
        ("whole", "(d) through the local AWS, 1 connection", "ms", 1e3),
    ):
        if part in found:
            lines.append(f"{title:61}{'p50 ' + unit:>9}{'p99 ' + unit:>9}{'cpu ' + unit:>9}")
            for name, one in found[part]["figures"].items():
                cpu = f"{scale * one['cpu']:9.1f}" if "cpu" in one else ""
                lines.append(f"    {name:57}{scale * one['p50']:9.1f}{scale * one['p99']:9.1f}{cpu}")
    ratios = {name: ratio for part in found.values() for name, ratio in part["ratios"].items()}
    lines.append(f"{'ratio':61}{'found':>9}{'of rounds':>18}{'goal':>8}")
    for name, (title, sign, goal) in GOALS.items():
        if name in ratios:
            ratio, low, high = ratios[name]
            met = ratio >= goal if sign == "≥" else ratio <= goal
            told = f"{sign + ' ' + format(goal, 'g'):>8}  {'met' if met else 'MISSED'}" if sign else ""
            lines.append(f"    {title:57}{ratio:9.3g}{f'{low:.3g} … {high:.3g}':>18}{told}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="times that all take turns")
    parser.add_argument("--seconds", type=float, default=4.0, help="of load in each turn of (a)")
    parser.add_argument("--rows", type=int, default=20_000, help="that the model learns from")
    parser.add_argument("--trees", type=int, default=500, help="of the model, 31 leaves each")
    parser.add_argument("--whole", action="store_true", help="also (d)")
    parser.add_argument("--json", type=Path, help="write the figures here")
    p = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-serving-") as name:
        folder = Path(name)
        say(f"training {p.trees} trees on {p.rows:,} rows")
        made = make(folder, p.rows, p.trees)
        found = {"container": container(folder, made, p.rounds, p.seconds)}
        found["in_process"] = in_process(folder, made, p.rounds, max(100, int(500 * p.seconds)))
        found["imports"] = imports(folder, 4 * p.rounds)
        if p.whole:
            found["whole"] = whole(folder, p.rounds, max(20, int(50 * p.seconds)))
    about = f"{p.trees} trees of 31 leaves, {made['features']} features ({made['texts']} categories)"
    print(f"{about}; {N_REQUESTS} requests of one transaction, {len(made['bodies'][0]):,} bytes\n{table_of(found)}")
    if p.json:
        p.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
