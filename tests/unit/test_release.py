"""What the API makes of a release with an A/B test beside it."""

from collections import Counter

import pytest

from fraud import release

TEST = {
    "run_id": "m2", "model_version": "m2", "variant": "Challenger", "champion_variant": "AllTraffic",
    "traffic_percent": 20, "sticky_column": "card1", "decision_threshold": 0.7,
}  # fmt: skip
CURRENT = {"run_id": "m1", "model_version": "m1", "decision_threshold": 0.4, "challenger": TEST}


def test_equal_values_meet_the_same_model_and_the_challenger_gets_its_share():
    drawn = [release.variant_of(CURRENT, {"card1": card}) for card in range(20_000)]
    assert drawn == [release.variant_of(CURRENT, {"card1": card, "amount": 5}) for card in range(20_000)]
    counts = Counter(drawn)
    assert set(counts) == {"Challenger", "AllTraffic"}
    assert counts["Challenger"] / 20_000 == pytest.approx(0.2, abs=0.01)


def test_one_and_one_point_zero_are_one_card():
    for card in range(200):
        assert release.variant_of(CURRENT, {"card1": card}) == release.variant_of(CURRENT, {"card1": float(card)})


def test_another_test_deals_anew():
    other = CURRENT | {"challenger": TEST | {"run_id": "m3"}}
    same = sum(
        release.variant_of(CURRENT, {"card1": k}) == release.variant_of(other, {"card1": k}) for k in range(2_000)
    )
    assert same / 2_000 == pytest.approx(0.2**2 + 0.8**2, abs=0.04)


@pytest.mark.parametrize(
    ("current", "transaction"),
    [
        ({"decision_threshold": 0.4}, {"card1": 5}),
        (CURRENT | {"challenger": TEST | {"sticky_column": ""}}, {"card1": 5, "": 1}),
        (CURRENT, {}),
        (CURRENT, {"card1": None}),
    ],
)
def test_else_the_weights_decide(current, transaction):
    assert release.variant_of(current, transaction) == "" or transaction.get("") == 1


def test_a_batch_is_split_by_variant_in_its_order():
    cards = [{"card1": card} for card in range(50)]
    places = release.variants_of(CURRENT, cards)
    assert set(places) == {"Challenger", "AllTraffic"}
    assert next(iter(places)) == release.variant_of(CURRENT, cards[0])
    for variant, found in places.items():
        assert found == [k for k, card in enumerate(cards) if release.variant_of(CURRENT, card) == variant]


def test_what_the_weights_would_decide_goes_along_with_the_others():
    cards = [{}, {"card1": 1}, {"card1": None}, *({"card1": card} for card in range(50))]
    places = release.variants_of(CURRENT, cards)
    assert set(places) == {"Challenger", "AllTraffic"}
    assert sorted(k for found in places.values() for k in found) == list(range(len(cards)))
    (along,) = [found for found in places.values() if 0 in found]
    assert 2 in along and along == sorted(along)
    assert release.variants_of(CURRENT, [{}, {}]) == {"": [0, 1]}
    assert release.variants_of({"decision_threshold": 0.4}, cards) == {"": list(range(len(cards)))}


def test_each_model_has_its_own_threshold():
    assert [release.threshold_of(CURRENT, version) for version in ("m1", "m2", "m0", "")] == [0.4, 0.7, 0.4, 0.4]
    assert release.threshold_of({"decision_threshold": 0.4}, "m2") == 0.4
