"""The alarm on reviews: what it lets pass by chance, and what it notices."""

from __future__ import annotations

import numpy as np
import pytest
from samtranslator.yaml_helper import yaml_parse
from scipy.stats import binom

from fraud.pipeline.parameters import ROOT

TEMPLATE = yaml_parse((ROOT / "infra" / "app.yml").read_text(encoding="utf-8"))
LIMIT, EXCESS = (TEMPLATE["Parameters"][name]["Default"] for name in ("ReviewRateLimit", "ReviewExcess"))
MINUTES = TEMPLATE["Resources"]["ReviewRateAlarm"]["Properties"]["EvaluationPeriods"]
PAYMENTS = np.arange(1, 3_001)
"""A minute's payments of the new model."""


def rings(rate: float) -> np.ndarray:
    """Probability that a model of this review rate rings in so many given minutes, by payments a minute."""
    needed = np.ceil(EXCESS + LIMIT * PAYMENTS - 1e-9)
    return binom.sf(needed - 1, PAYMENTS, rate) ** MINUTES


@pytest.mark.parametrize(("rate", "once_in"), [(0.02, 1e19), (0.05, 1e13), (0.1, 1e8), (0.15, 25_000)])
def test_a_sound_model_does_not_ring_by_chance_whatever_the_traffic(rate: float, once_in: float) -> None:
    assert rings(rate).max() < 1 / once_in


@pytest.mark.parametrize(("rate", "payments"), [(0.25, 467), (0.3, 167), (0.4, 63), (0.6, 24), (1.0, 7)])
def test_a_bad_model_is_noticed_from_so_many_payments_a_minute_on(rate: float, payments: int) -> None:
    assert rings(rate)[payments - 1 :].min() >= 0.95 > rings(rate)[payments - 2]


def test_the_page_for_people_has_these_figures() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert "467 · 167 · 63 · 24 · 7 payments" in page and "10¹⁹ · 10¹³ · 10⁸ · 25,000" in page
    assert f"`ReviewRateLimit` ({LIMIT})" in page and f"`ReviewExcess` ({EXCESS})" in page
    assert round(1 - 0.95**5, 2) == 0.23 and "in 23 %" in page
