"""A bucket with all that a drift report reads, the notebook run on it in this process, and what pages may not hold."""

import base64
import contextlib
import datetime as dt
import io
import json
import random
from html.parser import HTMLParser
from types import SimpleNamespace

import nbformat
from nbformat.v4 import new_notebook, new_output

from fraud.capture import encode_line
from fraud.drift import build_baseline
from fraud.labels import GroundTruth, render_label_line
from fraud.moment import iso
from fraud.pipeline import parameters
from fraud.schema import Feature, Schema

END = dt.datetime(2026, 3, 5, 10, tzinfo=dt.UTC).timestamp()
START = END - 86_400
HOSTILE = [
    "<script>alert(1)</script>",
    "$x_1$ and $\\frac{",
    "=cmd|'/c calc'!A1",
    "\u202egnp.exe\u202c",
    "L" * 10_000,
    "<img src=https://evil.example/x.png onerror=alert(1)>",
    "a\r\nBcc: evil@example.com",
    "**bold** [x](javascript:alert(1)) `c`",
    "𝕏 漢字 \x00\x07",
]
COSTS = {"review_cost": 5.0, "fraud_cost": 25.0}
METRICS = {
    "hyperparameters": COSTS,
    "at_threshold": {"review_rate": 0.02, "caught": 6_000.0, "lost": 4_000.0, "cost": 5_000.0},
    "n_validation": 10_000,
    "fraud_rate_validation": 0.01,
}


def schema_of(features=3, hostile=()):
    """An amount, some numbers, a category with hostile values."""
    numbers = [Feature(f"V{k}", "number", False) for k in range(1, features - 1)]
    category = Feature("P_emaildomain", "category", False, ("gmail.com", "mail.example", *hostile))
    return Schema((Feature("TransactionAmt", "number", True), *numbers, category), {"amount": "TransactionAmt"})


def rows_of(schema, n, shift=1.0, missing=0.0, seed=0, hostile=()):
    """Transactions."""
    rng = random.Random(seed)
    domains = ["gmail.com"] * 6 + ["mail.example"] * 3 + list(hostile)
    rows = []
    for _ in range(n):
        row = {"TransactionAmt": round(rng.lognormvariate(4, 0.6) * shift, 2), "P_emaildomain": rng.choice(domains)}
        row |= {f.name: rng.gauss(0, 1) for f in schema.features if f.name.startswith("V")}
        rows.append({k: v for k, v in row.items() if k == "TransactionAmt" or rng.random() >= missing})
    return rows


def rule(name, feature, score, threshold, fired, **more):
    """A rule as a verdict has it."""
    given = {"reference": 0.1, "current": 0.3, "n": 1_000, "direction": "up", "detail": "", "p_value": None}
    return {"rule": name, "feature": feature, "score": score, "threshold": threshold, "fired": fired} | (
        given | {"importance": None} | more
    )


def verdict_of(schema, name="DRIFT", *, hostile=(), version=2, **more):
    """A verdict on all features of a schema, as the drift check stores it; ``hostile`` are names of more features."""
    rules = [
        rule("mean_shift", "TransactionAmt", 0.51, 0.3, True, reference=141.7, current=213.5, importance=0.3),
        rule("missing", "V1", 0.55, 0.1, True, reference=0.05, current=0.6, importance=0.2),
        rule("unseen", "P_emaildomain", 0.04, 0.02, True, reference=0.0, current=0.04, importance=0.05),
        rule("repeated", "TransactionAmt", 0.08, 0.05, True, reference=0.001, current=0.081, importance=0.3),
        rule("review_rate", "review_rate", 0.04, 0.02, True, reference=0.02, current=0.06),
        rule("score_psi", "score", 0.4, 0.25, True, reference=0.02, current=0.05),
    ]
    names = [feature.name for feature in schema.features]
    gains = {"TransactionAmt": 0.3, "V1": 0.2, "P_emaildomain": 0.05}
    rules += [
        rule("psi", name, 0.01 * (k % 20), 0.25, False, importance=gains.get(name, 0.45 / len(names)))
        for k, name in enumerate(names)
    ]
    rules += [rule("psi", name, 0.9, 0.25, True, importance=0.01) for name in hostile]
    if name not in ("DRIFT", "SCHEMA_CHANGED"):
        rules = [one | {"fired": False} for one in rules]
    features = {
        one: {"type": "number", "n": 1_000, "missing": [0.01, 0.02], "psi": 0.1, "psi_without_missing": 0.05}
        for one in [*names, *hostile]
    }
    found = {
        "schema_version": 2,
        "verdict": name,
        "endpoint": "fraud",
        "model_version": "run-1",
        "window": {"start": iso(START), "end": iso(END)},
        "n": 1_000,
        "unreadable": 2,
        "skipped": 3,
        "repeated": 4,
        "capped": 5,
        "invocations": 1_100,
        "sentence": "Payments no longer look like what the model learnt: TransactionAmt averages 213.5, not 141.7.",
        "signal": any(one["fired"] for one in rules),
        "persistence": {"signals": 2, "of": 3, "needed": 2},
        "rules": rules,
        "features": features,
        "score": {"psi": 0.4},
        "review_rate": {"reference": 0.02, "current": 0.06},
        "performance": None,
        "expected_false_alarms_per_month": 0.4,
        "notes": [],
        "policy": {},
        "computed_at": iso(END + 60),
    }
    if version == 1:
        kept = ("mean_shift", "psi", "missing", "score_psi")
        dropped = ("importance", "p_value")
        found["rules"] = [{k: v for k, v in r.items() if k not in dropped} for r in rules if r["rule"] in kept]
        found = {k: v for k, v in found.items() if k in VERSION_1} | {"schema_version": 1}
    return found | more


VERSION_1 = (
    "verdict endpoint model_version window n unreadable skipped invocations sentence rules policy computed_at"
).split()


def fill(
    storage, verdict, schema, *, live=300, hostile=(), metrics=METRICS, labelled=0, frauds=0, decisions=(), sampled=100
):
    """Put a release, its baseline, a window of captured payments, truth and the verdict into the bucket."""
    learnt = rows_of(schema, 500, hostile=hostile)
    columns = {f.name: [row.get(f.name) for row in learnt] for f in schema.features}
    baseline = build_baseline(columns, schema, [0.01 + 0.0001 * k for k in range(500)], "run-1")
    folder = "releases/fraud"
    release = {
        "endpoint": "fraud", "run_id": "run-1", "model_version": "run-1", "decision_threshold": 0.04,
        "released_at": iso(START), "previous": None, "schema_key": f"{folder}/run-1/schema.json",
        "baseline_key": f"{folder}/run-1/baseline.json",
    }  # fmt: skip
    storage.write_json(f"{folder}/current.json", release)
    storage.write_json(f"{folder}/run-1/release.json", release)
    storage.write_json(f"{folder}/run-1/baseline.json", baseline)
    storage.put(f"{folder}/run-1/schema.json", schema.to_json().encode())
    if sampled != 100:
        storage.write_json(f"{folder}/run-1/release.json", release | {"capture_percentage": sampled})
    if metrics:
        storage.write_json("runs/run-1/metrics.json", metrics)
    lines = [
        encode_line([row], [0.001 * (k % 100)], event_id=f"e{k}", time=START + 60 + 280 * k, inference_ids=[f"p{k}"],
                    model_version="run-1")
        for k, row in enumerate(rows_of(schema, live, 1.5, 0.1, 1, hostile))
    ]  # fmt: skip
    by_hour = {}
    for k, line in enumerate(lines):
        by_hour.setdefault((START + 60 + 280 * k) // 3600 * 3600, []).append(line)
    for hour, some in by_hour.items():
        key = f"data-capture/fraud/AllTraffic/{dt.datetime.fromtimestamp(hour, dt.UTC):%Y/%m/%d/%H/%M-%S}-000-a.jsonl"
        storage.put(key, b"".join(some))
    if labelled:
        said = [GroundTruth(f"p{k}", int(k < frauds), END) for k in range(labelled)]
        key = f"labels/{dt.datetime.fromtimestamp(END, dt.UTC):%Y/%m/%d/%H}/a.jsonl"
        storage.put(key, "\n".join(render_label_line(one) for one in said).encode())
    if verdict:
        moment = dt.datetime.fromtimestamp(END, dt.UTC)
        storage.write_json(f"drift/fraud/verdicts/{moment:%Y/%m/%d/%H%M%S}-{verdict['verdict']}.json", verdict)
    for k, one in enumerate(decisions):
        storage.write_json(f"drift/fraud/decisions/2026/03/05/1000{k:02d}-{one['reasons'][0]}.json", one)
    return baseline


def parameters_of(**given):
    """Defaults of 04_drift_report."""
    values = {name: one.default for name, one in parameters.declared("04_drift_report").items()}
    return SimpleNamespace(**(values | {"endpoint_name": "fraud"} | given))


def executed(monkeypatch, storage, run_id="report-1", **given):
    """Run the cells of notebooks/04_drift_report.ipynb in this process; returns the notebook with its outputs.

    A kernel would be another process, and could not see the bucket that is held in memory.
    """
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    from fraud.pipeline import runs

    monkeypatch.setattr(runs, "Storage", lambda bucket: storage)
    monkeypatch.setattr(runs, "endpoint", lambda wanted: wanted)  # nothing is deployed around a bucket in memory
    source = nbformat.read(parameters.NOTEBOOKS / "04_drift_report.ipynb", as_version=4)
    shell = InteractiveShell.instance()
    shell.user_ns.update(vars(parameters_of(**{"bucket": storage.bucket, "run_id": run_id} | given)))
    made = new_notebook(metadata=source.metadata)
    for cell in source.cells:
        made.cells.append(cell)
        if cell.cell_type != "code":
            continue
        if "parameters" in cell.metadata.get("tags", []):
            continue
        with capture_output() as caught, contextlib.redirect_stdout(io.StringIO()):
            result = shell.run_cell(cell.source)
        result.raise_error()
        cell.outputs = [new_output("display_data", **_bundle(one.data, one.metadata)) for one in caught.outputs]
        if result.result is not None:
            shown = shell.display_formatter.format(result.result)
            cell.outputs.append(new_output("execute_result", execution_count=1, **_bundle(*shown)))
        assert not caught.stderr, caught.stderr
    InteractiveShell.clear_instance()
    return made


def _bundle(given, metadata):
    data = {kind: base64.b64encode(v).decode() if isinstance(v, bytes) else v for kind, v in given.items()}
    return {"data": data, "metadata": metadata or {}}


class Active(HTMLParser):
    """Collects what could run, fetch or lead outside."""

    def __init__(self):
        super().__init__()
        self.found, self.images = [], []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag in ("script", "iframe", "object", "embed", "form", "input", "link", "svg", "math", "base"):
            self.found.append(tag)
        if tag == "img":
            self.images.append(given)
        for name, value in attributes:
            value = (value or "").strip().lower()
            if name.startswith("on") or value.startswith(("javascript:", "http", "//")) or "url(" in value:
                self.found.append(f"{tag} {name}={value[:60]}")


def active(page):
    """What could run or fetch, and all pictures."""
    parser = Active()
    parser.feed(page)
    return parser.found, parser.images


def as_json(value):
    """What the bucket would give back."""
    return json.loads(json.dumps(value))


def shown_all():
    """All hostile texts as the product shows them, in one."""
    from fraud.plaintext import shown

    return "; ".join(shown(one) for one in HOSTILE)
