"""What the tests of both Lambdas share: the handlers by path, recorded events, a release and its baseline."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path

from fraud.drift import build_baseline
from fraud.schema import Feature, Schema

LAMBDAS = Path(__file__).resolve().parents[2] / "lambdas"
EVENTS = Path(__file__).parent / "events"
BUCKET, ENDPOINT = "fraud-test", "fraud"
SCHEMA = Schema(
    (
        Feature("TransactionAmt", "number", True),
        Feature("card4", "category", False, ("visa", "mastercard")),
        Feature("is_new", "boolean"),
    ),
    roles={"target": "isFraud", "id": "TransactionID", "amount": "TransactionAmt"},
)
BASELINE = build_baseline(
    {
        "TransactionAmt": [float(k % 100 + 50) for k in range(2000)],
        "card4": ["visa", "visa", "mastercard", None] * 500,
        "is_new": [False, True] * 1000,
    },
    SCHEMA,
    [0.01 * (k % 60) for k in range(2000)],
    "run-1",
)
RELEASE = {
    "schema_version": 1,
    "endpoint": ENDPOINT,
    "run_id": "run-1",
    "model_version": "run-1",
    "schema_key": f"releases/{ENDPOINT}/run-1/schema.json",
    "baseline_key": f"releases/{ENDPOINT}/run-1/baseline.json",
    "decision_threshold": 0.5,
    "released_at": "2026-01-01T00:00:00Z",
    "previous": None,
}


def load(name):
    """Import ``lambdas/<name>/app.py`` under a name of its own; its folder is on the path, as in Lambda."""
    if str(LAMBDAS / name) not in sys.path:
        sys.path.append(str(LAMBDAS / name))
    spec = importlib.util.spec_from_file_location(f"{name}_app", LAMBDAS / name / "app.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_module(name, module):
    """Import a module that stands beside ``app.py``, as ``app.py`` does."""
    if str(LAMBDAS / name) not in sys.path:
        sys.path.append(str(LAMBDAS / name))
    return importlib.import_module(module)


def recorded(name):
    return json.loads((EVENTS / f"{name}.json").read_text())


def put(s3, key, document):
    s3.put_object(Bucket=BUCKET, Key=key, Body=json.dumps(document).encode())


def keys(s3, prefix=""):
    return [item["Key"] for item in s3.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])]
