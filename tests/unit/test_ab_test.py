"""The arithmetic of an A/B test, against scikit-learn, simulation and the traffic of two models."""

from __future__ import annotations

import datetime as dt
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import precision_score, recall_score, roc_auc_score

from fraud import capture
from fraud.labels import GroundTruth, render_label_line
from fraud.moment import iso
from fraud.pipeline import ab_test, plots, scored
from fraud.pipeline.ab_test import Arm, Comparison
from fraud.pipeline.runs import now
from fraud.schema import NUMBER, Feature, Schema


def arm(name: str, n: int, power: float, seed: int, known: float = 1.0) -> Arm:
    rng = np.random.default_rng(seed)
    fraud = rng.random(n) < 0.05
    score = 1 / (1 + np.exp(-(rng.normal(size=n) + power * fraud)))
    label = np.where(rng.random(n) < known, fraud.astype(float), math.nan)
    return Arm(name, f"run-{name}", np.round(score, 3), label, 0.8)


def test_measures_are_scikit_learns() -> None:
    one = arm("champion", 3_000, 1.0, 1)
    reviewed = one.score >= 0.8
    found = {name: value for name, (value, _) in one.measures().items()}
    assert found["AUC ROC"] == pytest.approx(roc_auc_score(one.label, one.score), abs=1e-12)
    assert found["precision"] == pytest.approx(precision_score(one.label, reviewed))
    assert found["recall"] == pytest.approx(recall_score(one.label, reviewed))
    assert found["review rate"] == pytest.approx(reviewed.mean())


def test_only_what_has_truth_grades() -> None:
    one = arm("champion", 3_000, 1.0, 1, known=0.3)
    known = ~np.isnan(one.label)
    alone = Arm("champion", "m", one.score[known], one.label[known], 0.8)
    for name in ("precision", "recall", "AUC ROC"):
        assert one.measures()[name] == alone.measures()[name]
    assert one.measures()["review rate"][0] == pytest.approx((one.score >= 0.8).mean())


def test_the_variance_of_auc_is_that_of_repeated_samples() -> None:
    found = [ab_test.auc(one.score, one.label == 1) for one in (arm("a", 1_500, 1.0, seed) for seed in range(300))]
    areas, variances = np.array(found).T
    assert variances.mean() == pytest.approx(areas.var(), rel=0.25)


@pytest.mark.parametrize("measure", ab_test.MEASURES)
def test_equal_models_differ_by_chance_as_often_as_promised(measure: str) -> None:
    tests = [
        Comparison((arm("champion", 1_200, 1.0, 2 * k), arm("challenger", 400, 1.0, 2 * k + 1))) for k in range(250)
    ]
    rejected = np.mean([test.differences.loc[measure, "p"] < 0.05 for test in tests])
    assert 0.005 <= rejected <= 0.09


def test_a_better_challenger_is_found() -> None:
    test = Comparison((arm("champion", 8_000, 0.5, 1), arm("challenger", 2_000, 2.0, 2)))
    assert test.sentence.startswith("The **challenger is better**: AUC ROC differs by +0.")
    assert test.differences.loc["AUC ROC", "low"] > 0
    swapped = Comparison(test.arms[::-1])
    assert swapped.differences.loc["AUC ROC", "high"] < 0 and "**champion is better**" in swapped.sentence
    assert list(test.table.index) == ["champion run-champion", "challenger run-challenger"]
    assert test.table.loc["challenger run-challenger", "payments"] == 2_000


def test_too_little_truth_is_said() -> None:
    few = Comparison((arm("champion", 500, 1.0, 1), arm("challenger", 40, 1.0, 2, known=0.0)))
    said = "Truth has arrived for 0 frauds of one of the models: too few to compare them yet."
    assert few.sentence.startswith(f"{said} The share sent to review differs by ")
    assert few.table.loc["challenger run-challenger"].tolist()[4:] == ["–"] * 3, "no NaN is shown"
    assert few.table.loc["challenger run-challenger", "payments"] == 40
    nobody = Comparison((few.arms[0], arm("challenger", 0, 1.0, 2)))
    assert nobody.sentence == said, "where nobody was asked there is no share"
    assert math.isnan(few.differences.loc["AUC ROC", "p"])
    assert not math.isnan(few.differences.loc["review rate", "p"])


def test_no_test_runs() -> None:
    none = Comparison(())
    assert none.table is None and none.differences.empty and none.sentence.startswith("No A/B test runs")
    assert plots.plot_differences(none.differences) is None


def test_each_arm_is_what_its_model_answered_since_the_test_began(storage) -> None:
    at = now().timestamp()

    def send(variant: str, model: str, score: float, name: str, ago: float) -> None:
        sent = capture.encode_line(
            [{"a": 1.0}], [score], event_id=name, time=at - ago, model_version=model, inference_ids=[name]
        )
        moment = dt.datetime.fromtimestamp(at - ago, dt.UTC)
        storage.put(f"data-capture/fraud/{variant}/{moment:%Y/%m/%d/%H/%M-%S}-000-{name}.jsonl", sent)

    for sent in (
        ("AllTraffic", "m1", 0.1, "a", 60), ("AllTraffic", "m1", 0.2, "b", 50), ("Challenger", "m2", 0.9, "c", 40),
        ("AllTraffic", "m1", 0.3, "before", 4000), ("AllTraffic", "m0", 0.4, "another", 30),
        (capture.SHADOW, "m2", 0.5, "copy", 20),
    ):  # fmt: skip
        send(*sent)
    storage.put(f"labels/{now():%Y/%m/%d/%H}/x.jsonl", render_label_line(GroundTruth("c", 1, at)).encode())
    storage.put("s.json", Schema((Feature("a", NUMBER),)).to_json().encode())
    test = {"model_version": "m2", "decision_threshold": 0.7, "since": iso(at - 3600)}
    release = {"model_version": "m1", "decision_threshold": 0.15, "schema_key": "s.json", "challenger": test}
    storage.write_json("releases/fraud/current.json", release)
    run, p = SimpleNamespace(storage=storage), SimpleNamespace(endpoint_name="fraud")
    champion, challenger = ab_test.compare(run, p).arms
    assert (champion.model, sorted(champion.score), champion.threshold) == ("m1", [0.1, 0.2], 0.15)
    assert (challenger.model, challenger.score.tolist(), challenger.label.tolist()) == ("m2", [0.9], [1.0])
    assert np.isnan(champion.label).all()
    storage.write_json("releases/fraud/current.json", release | {"challenger": None})
    assert ab_test.compare(run, p).arms == ()


def test_no_chance_is_said_to_be_nothing():
    found = pd.Series({"difference": 0.1, "low": 0.09, "high": 0.11, "p": 0.0})
    assert ab_test._told("AUC ROC", found).endswith(", p < 0.0001")
    found["p"] = 0.0123
    assert ab_test._told("AUC ROC", found).endswith(", p = 0.012")


def test_truth_is_found_whatever_its_file_is_called(storage):
    """Named after December, or put into the folder of an hour long ago: read, as training reads it."""
    line = f"{render_label_line(GroundTruth('p1', 1, 1_767_700_000.0))}\n".encode()
    storage.put("labels/2025-12.csv", b"inference_id,label\np2,1\n")
    storage.put("labels/2026/01/06/12/a.jsonl", line)
    storage.put("labels/2025/11/06/12/a.jsonl", line.replace(b"p1", b"p3"))
    found = scored.truth(storage, ["inference_id", "label", ""])
    assert set(found) == {"p1", "p2", "p3"}
