"""From score to probability: chosen when it helps, stored as data, the same bits for one row and for many."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import inference
from fraud.errors import QualityGateError
from fraud.serving import calibration
from fraud.training import calibrating

MAPS = [
    {"method": "none"},
    {"method": "platt", "slope": 0.7, "intercept": -1.2},
    {"method": "isotonic", "score": [0.1, 0.2, 0.9], "probability": [0.01, 0.01, 0.4]},
]


def scores(n=20_000, seed=0):
    rng = np.random.default_rng(seed)
    probability = rng.beta(1, 15, n)
    return (rng.random(n) < probability).astype(int), probability


@pytest.mark.parametrize("document", MAPS, ids=lambda d: d["method"])
@given(a=st.floats(0, 1), b=st.floats(0, 1))
def test_it_never_falls_and_stays_a_probability(document, a, b):
    low, high = calibration.calibrate(document, sorted([a, b]))
    assert 0 <= low <= high <= 1
    assert calibration.calibrator(document)(min(a, b)) == low


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"method": "spline"},
        {"method": "platt", "slope": -1, "intercept": 0},
        {"method": "platt", "slope": 1},
        {"method": "platt", "slope": math.inf, "intercept": 0},
        {"method": "platt", "slope": "1", "intercept": 0},
        {"method": "isotonic", "score": [], "probability": []},
        {"method": "isotonic", "score": [0.1, 0.1], "probability": [0, 1]},
        {"method": "isotonic", "score": [0.1, 0.2], "probability": [0.9, 0.1]},
        {"method": "isotonic", "score": [0.1], "probability": [1.5]},
        {"method": "isotonic", "score": [0.1], "probability": [None]},
    ],
    ids=str,
)
def test_a_damaged_map_is_refused(document):
    with pytest.raises(QualityGateError, match=r"calibration\.json"):
        calibration.calibrator(document)


def test_it_is_left_out_when_scores_are_probabilities_already():
    refused = [calibrating.choose(*scores(seed=seed))[0]["method"] for seed in range(10)]
    assert refused.count("none") >= 7  # one standard error lets chance through one time in six for each of two


@pytest.mark.parametrize(
    ("bend", "wanted"),
    [(lambda q: q**0.5, {"platt", "isotonic"}), (lambda q: np.where(q > 0.1, 0.5 + q / 2, q / 9), {"isotonic"})],
)
def test_it_repairs_bent_scores(bend, wanted):
    label, probability = scores(60_000)
    document, trials = calibrating.choose(label, bend(probability))
    assert document["method"] in wanted and trials[document["method"]] < trials["none"]
    later, true = scores(60_000, 1)
    found = np.array(calibration.calibrate(document, bend(true).tolist()))
    assert np.abs(found - true).mean() < 0.01 < np.abs(bend(true) - true).mean()
    assert ((found - later) ** 2).mean() < ((bend(true) - later) ** 2).mean()


def test_few_frauds_are_not_fitted():
    label = np.zeros(100, int)
    label[:3] = 1
    assert calibrating.choose(label, np.linspace(0, 1, 100)) == ({"method": "none"}, {})


@pytest.mark.parametrize("document", MAPS[1:], ids=lambda d: d["method"])
def test_the_endpoint_serves_calibrated_scores_to_the_last_bit(document, tmp_path, monkeypatch):
    import training_kit as kit

    channel = kit.put(tmp_path / "in", kit.history(kit.table()))
    monkeypatch.setattr(calibrating, "choose", lambda *_: (document, {}))
    job = kit.run(monkeypatch, tmp_path, channel)
    assert job.read("calibration.json") == document
    golden, model = job.read("golden.json"), inference.model_fn(str(job.model_dir))
    body = json.dumps({"transactions": golden["transactions"]})
    assert inference.predict_fn(inference.input_fn(body, "application/json"), model).scores == golden["scores"]
    alone = [model.scores([model.schema.encode(transaction)])[0] for transaction in golden["transactions"]]
    assert alone == golden["scores"]
    (job.model_dir / "calibration.json").write_text('{"method": "none"}')
    with pytest.raises(QualityGateError, match="golden rows score differently"):
        inference.model_fn(str(job.model_dir))
