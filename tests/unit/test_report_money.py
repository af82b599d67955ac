"""What a change costs: sums by hand, and silence where nobody can know."""

from types import SimpleNamespace

import pytest
import report_kit as kit

from fraud.moment import iso
from fraud.pipeline.report import Findings, Traffic
from fraud.pipeline.report_money import Costs, costs_of, money_of

COSTS = Costs(review_cost=5.0, fraud_cost=25.0, review_rate=0.02, loss=0.5, worth=100.0)


def findings(n=1_000, hours=24.0, labels=(), costs=COSTS, performance=None, verdict="DRIFT", capped=0, sampled=1.0):
    """Payments with score 0.01 (approved) and amount 75, of which the first have truth."""
    traffic = Traffic([0.0] * n, [0.01] * n, [75.0] * n, [f"p{k}" for k in range(n)])
    window = {"start": iso(kit.END - 3600 * hours), "end": iso(kit.END)}
    verdict = {"verdict": verdict, "n": n, "capped": capped, "window": window, "performance": performance}
    truth = {f"p{k}": SimpleNamespace(label=label) for k, label in enumerate(labels)}
    return Findings(verdict, "the drift check", {}, None, 0.5, traffic, truth, costs, sampled=sampled)


def test_costs_are_those_of_training():
    costs = costs_of(kit.METRICS)
    assert (costs.review_cost, costs.fraud_cost, costs.review_rate) == (5.0, 25.0, 0.02)
    assert (costs.loss, costs.worth) == (0.4, 100.0)


@pytest.mark.parametrize("name", list(kit.METRICS))
def test_without_all_of_them_there_are_no_costs(name):
    assert costs_of({key: value for key, value in kit.METRICS.items() if key != name}) is None
    assert costs_of(kit.METRICS | {"n_validation": 0}) is None


def test_more_reviews_cost_more():
    found = money_of(findings(), (0.02, 0.05))
    assert (found.per, found.reviews, found.lost) == ("day", pytest.approx(150.0), None)
    assert found.sentences[0] == (
        "Of the money only the reviews can be told: +150 per day against training, in the unit of the amounts."
    )
    assert (
        "50 per day instead of 20 (5 % of payments, 2 % at training): 150 more per day at 5 a review"
        in found.sentences[1]
    )
    assert "truth has arrived for none of 1,000 payments; at training's quality 500 per day" in found.sentences[2]


def test_what_is_not_captured_or_not_compared_costs_as_well():
    found = money_of(findings(n=90, capped=10, sampled=0.1), (0.02, 0.05))
    assert found.reviews == pytest.approx(150.0)
    assert "50 per day instead of 20" in found.sentences[1]


@pytest.mark.parametrize("verdict", ["INSUFFICIENT_DATA", "MISSING_CAPTURE"])
def test_of_what_cannot_be_judged_no_money_is_told(verdict):
    found = money_of(findings(verdict=verdict), (0.02, 0.05))
    assert (found.reviews, found.lost) == (None, None)
    assert [sentence[:26] for sentence in found.sentences] == ["Money cannot be told: what"]


def test_fewer_reviews_cost_less_and_half_a_day_is_scaled():
    found = money_of(findings(hours=12.0), (0.05, 0.02))
    assert found.reviews == pytest.approx(-300.0) and "300 less per day" in found.sentences[1]


def test_a_short_window_is_not_scaled_to_a_day():
    found = money_of(findings(n=100, hours=1.0), (0.02, 0.05))
    assert found.per == "1,000 payments" and found.reviews == pytest.approx(150.0)


def test_all_truth_tells_what_got_through():
    found = money_of(findings(labels=[1] * 10 + [0] * 990), (0.02, 0.02))
    assert found.lost == pytest.approx(1_000 - 500) and found.whole
    assert found.sentences[0].startswith("Against training this traffic costs 500 per day: reviews +0, fraud")
    less = money_of(findings(labels=[1] + [0] * 999), (0.02, 0.02))
    assert less.lost == pytest.approx(100 - 500) and "saves 400 per day" in less.sentences[0]


def test_part_of_the_truth_is_a_lower_bound_and_below_training_says_nothing():
    more = money_of(findings(labels=[1] * 10 + [0] * 90), (0.02, 0.02))
    assert more.lost == pytest.approx(500) and not more.whole
    assert "costs at least 500 per day" in more.sentences[0]
    assert "at least 1,000 per day, and truth has arrived for only 100 of 1,000 payments" in more.sentences[2]
    fewer = money_of(findings(labels=[1] + [0] * 99), (0.02, 0.02))
    assert fewer.lost is None and fewer.sentences[0].startswith("Of the money only the reviews can be told")


def test_frauds_that_were_found_cost_nothing():
    seen = findings(labels=[1] * 10 + [0] * 990)
    seen.traffic.score[:9] = [0.9] * 9
    seen.traffic.amount[9] = float("nan")
    assert money_of(seen, (0.02, 0.02)).lost == pytest.approx(25 - 500)


def test_the_weeks_with_truth_tell_it_at_the_pace_of_now():
    reference = {"fraud_rate": 0.01, "recall": 0.5}
    judged = {"fraud_rate": 0.02, "recall": 0.25, "start": "2026-02-01T00:00:00Z", "end": "2026-02-08T00:00:00Z"}
    found = money_of(findings(performance={"reference": reference, "judged": judged}), (0.02, 0.02))
    assert found.lost == pytest.approx(1_000 * 100 * (0.015 - 0.005)) and found.whole
    assert "1,500 per day instead of 500" in found.sentences[2] and "2026-02-01 to 2026-02-08" in found.sentences[2]
    blind = money_of(findings(performance={"reference": reference, "judged": judged | {"recall": None}}), (0.02, 0.02))
    assert blind.lost is None


@pytest.mark.parametrize(
    ("seen", "rates", "said"),
    [
        (findings(n=0), (0.02, None), "there are no payments in the window"),
        (findings(costs=None), (0.02, 0.05), "the costs that this model was trained with are not stored"),
        (findings(), (0.02, None), "no scores were captured"),
    ],
)
def test_what_cannot_be_told_is_said(seen, rates, said):
    assert (
        money_of(seen, rates).sentences[0].startswith("Money cannot be told: ")
        and said in money_of(seen, rates).sentences[0]
    )
