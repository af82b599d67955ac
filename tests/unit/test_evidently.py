"""Evidently, which counts and computes by itself, finds in the same bins what the verdict finds, with a stated error.

Evidently bins otherwise (equal widths over both samples), so here it gets the number of each value's bin as a category,
and counts the rows of each bin itself. Three things differ by design: an empty bin has half a row here and a ten
thousandth there; Jensen-Shannon is to base 2 here and natural there; the distance of Wasserstein takes values as lying
evenly in their bins.
"""

import json
import math
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from environments import environment_with

from fraud import rules
from fraud.drift import Sketch, build_baseline
from fraud.schema import Feature, Schema

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
THEIRS = """
import json, sys, warnings
warnings.filterwarnings("ignore")
import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.metrics import ValueDrift
given = json.load(sys.stdin)
reference, current = pd.DataFrame(given["reference"]), pd.DataFrame(given["current"])
numbers = [name for name in reference if name.startswith("value ")]
how = DataDefinition(categorical_columns=[name for name in reference if name not in numbers], numerical_columns=numbers)
wanted = [ValueDrift(column=name, method="wasserstein") for name in numbers]
wanted += [ValueDrift(column=name, method="ks") for name in numbers]
wanted += [ValueDrift(column=name, method=method) for name in how.categorical_columns
           for method in ("psi", "jensenshannon")]
report = Report(wanted).run(Dataset.from_pandas(current, data_definition=how),
                            Dataset.from_pandas(reference, data_definition=how))
print(json.dumps({m["config"]["column"] + " " + m["config"]["method"]: float(m["value"])
                  for m in report.dict()["metrics"]}))
"""
CARDS = ("visa", "mastercard", "amex", "discover")
SCHEMA = Schema(
    (
        Feature("amount", "number", True),
        Feature("filled", "number"),
        Feature("ties", "number"),
        Feature("card", "category", False, CARDS),
        Feature("new", "boolean"),
    ),
    roles={},
    ignored=(),
)
NUMBERS = ("amount", "filled", "ties")


def sample(n, seed, scale=1.0, missing=0.1, tie=0.3, visa=0.6, new=0.2):
    """Columns of payments, as lists with None for missing."""
    rng = np.random.default_rng(seed)
    filled, lost = np.clip(rng.normal(40, 9 * scale, n), 10, 70), rng.random(n) < missing
    return {
        "amount": np.clip(rng.gamma(6, 15, n) * scale, 10, 360).tolist(),
        "filled": [None if no else float(v) for no, v in zip(lost, filled, strict=True)],
        "ties": np.where(rng.random(n) < tie, 0.0, rng.integers(0, 30, n)).astype(float).tolist(),
        "card": rng.choice(CARDS, n, p=(visa, 0.8 - visa, 0.15, 0.05)).tolist(),
        "new": (rng.random(n) < new).tolist(),
    }  # fmt: skip


WINDOWS = {
    "unchanged": {},
    "spread": {"scale": 1.3},
    "missing": {"missing": 0.6},
    "repeated": {"tie": 0.45},
    "categories": {"visa": 0.3, "new": 0.5},
}


@pytest.fixture(scope="module")
def compared():
    """Ours and theirs, of every window."""
    python = environment_with("evidently==0.7.23", "pandas<3", "pyarrow") / "python"
    history = sample(20_000, 0)
    baseline = build_baseline(history, SCHEMA, [0.5] * 20_000, "m")

    def labelled(columns):
        """The bin of each value, found by NumPy; text, so that it is a category."""
        found = {}
        for name, values in columns.items():
            if name in NUMBERS:
                numbers = np.array([math.nan if v is None else v for v in values])
                bins = np.searchsorted(baseline["features"][name]["edges"], numbers, side="left")
                found[name] = [f"bin {b}" if v is not None else "missing" for b, v in zip(bins, values, strict=True)]
                if name == "amount":  # without missing values, so that both compare all rows
                    found[f"value {name}"], found["value bin"] = values, bins.tolist()
            else:
                found[name] = [str(value) for value in values]
        return found

    def both(change):
        columns = sample(3_000, 7, **change)
        sketch = Sketch(baseline, SCHEMA)
        for k in range(3_000):
            row = {name: values[k] for name, values in columns.items()}
            sketch.add(SimpleNamespace(transaction=row, fraud_probability=0.5))
        ours = {
            name: rules.statistics(baseline["features"][name], sketch.features[name])
            | {"at": baseline["features"][name]}
            for name in columns
        }
        asked = json.dumps({"reference": labelled(history), "current": labelled(columns)})
        done = subprocess.run(
            [str(python), "-c", THEIRS], input=asked, capture_output=True, text=True, env={"DO_NOT_TRACK": "1"}
        )
        assert done.returncode == 0, done.stderr
        return ours, json.loads(done.stdout.splitlines()[-1])

    return {what: both(change) for what, change in WINDOWS.items()}


@pytest.mark.parametrize("window", WINDOWS)
def test_psi_and_jensen_shannon(compared, window):
    ours, theirs = compared[window]
    for name, found in ours.items():
        assert found["psi"] == pytest.approx(theirs[f"{name} psi"], abs=0.002, rel=0.01), name
        natural = found["jensen_shannon"] * math.sqrt(math.log(2))
        assert natural == pytest.approx(theirs[f"{name} jensenshannon"], abs=1e-9), name


@pytest.mark.parametrize("window", WINDOWS)
def test_wasserstein_and_kolmogorov(compared, window):
    ours, theirs = compared[window]
    amount = ours["amount"]
    in_deviations = amount["wasserstein"] * amount["at"]["iqr"] / amount["at"]["std"]
    assert in_deviations == pytest.approx(theirs["value amount wasserstein"], abs=0.03)
    assert amount["ks_tail"] == pytest.approx(theirs["value bin ks"], abs=0.02)


def test_the_windows_differ(compared):
    """What is equal everywhere would prove little."""
    psi = {(what, name): found["psi"] for what, (ours, _) in compared.items() for name, found in ours.items()}
    assert max(value for (what, _), value in psi.items() if what == "unchanged") < 0.02
    for what, name in (("spread", "filled"), ("missing", "filled"), ("categories", "card"), ("categories", "new")):
        assert psi[(what, name)] > 0.1, (what, name)
    assert psi[("repeated", "ties")] > 0.05
