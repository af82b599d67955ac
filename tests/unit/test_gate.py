"""The quality gate: who is promoted."""

from types import SimpleNamespace

import pytest

from fraud.errors import QualityGateError
from fraud.pipeline import gate, model_tables

P = SimpleNamespace(min_auc=0.75, max_auc_drop=0.01, max_segment_drop=0.05)


def metrics(auc=0.9, change=None, identical=False, segment=None):
    found = {"auc": auc, "n_validation": 1_000, "segments": []}
    if change:
        difference, low, high = change
        found["comparison"] = {"auc": {"difference": difference, "low": low, "high": high}}
        found |= {"champion_auc": auc - difference, "identical": identical}
    if segment:
        names = ("difference", "low", "high")
        found["segments"] = [{"by": "ProductCD", "segment": "W"} | dict(zip(names, segment, strict=True))]
    return found


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (metrics(), "nothing is in service"),
        (metrics(change=(0.02, 0.01, 0.03)), "is better than the champion"),
        (metrics(change=(0.001, -0.004, 0.006)), "is not worse than the champion"),
        (metrics(change=(-0.002, -0.004, -0.001)), "is not worse than the champion"),  # surely worse, within the margin
        (metrics(change=(0.02, 0.01, 0.03), segment=(-0.04, -0.06, -0.02)), "is better"),
        (metrics(change=(0.02, 0.01, 0.03), segment=(-0.2, -0.5, 0.1)), "is better"),  # a few rows cannot tell
        (metrics(change=(0.02, 0.01, 0.03), segment=(None, None, None)), "is better"),
    ],
)
def test_it_lets_pass(found, said):
    assert said in gate.decide(found, P)
    assert set(model_tables.gate_table(found, P)["met"]) == {"yes"}


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (metrics(auc=0.7), "nothing is deployed. Floor: AUC ROC 0.7000, wanted at least 0.75"),
        (metrics(auc=0.7, change=(0.02, 0.01, 0.03)), "the champion stays. Floor"),
        (metrics(change=(-0.02, -0.03, -0.015)), "Not worse than the champion: AUC ROC -0.0200"),
        (metrics(change=(0.001, -0.05, 0.06)), "Not worse than the champion"),  # the rows cannot tell
        (metrics(change=(0.0, 0.0, 0.0), identical=True), "a tie keeps the champion"),
        (metrics(change=(0.02, 0.01, 0.03), segment=(-0.2, -0.3, -0.1)), "Segment ProductCD W"),
    ],
)
def test_it_refuses(found, said):
    with pytest.raises(QualityGateError) as error:
        gate.decide(found, P)
    assert said in str(error.value) and str(error.value).count("\n") == 0
    assert "NO" in set(model_tables.gate_table(found, P)["met"])
