"""No caller counts for more than its share of a window, whenever enough others are there."""

import json
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fraud.callers import apportioned, limits, most_each, shrunk, usual_shares
from fraud.capture import Record
from fraud.drift import build_baseline
from fraud.hours import HEAVY, Hour
from fraud.schema import Feature, Schema
from fraud.sketch import Sketch
from fraud.window import OWN, Gathering

SCHEMA = Schema((Feature("amount", "number", True), Feature("card", "category", False, ("visa",))))
BASELINE = build_baseline(
    {"amount": [float(k % 50) for k in range(500)], "card": ["visa"] * 500}, SCHEMA, [0.1] * 500, "run-1", threshold=0.5
)


def record(k, caller="", amount=1.0, time=10.0):
    return Record(f"{caller}-{k}", f"e{caller}-{k}", time, {"amount": amount}, 0.2, "run-1", "v", caller=caller)


def hour_of(records, share, files=1, start=0.0):
    hour = Hour(BASELINE, SCHEMA, start)
    hour.heavy_share = share * OWN if share < 1 else 1.0
    for part in range(files):
        hour.take(f"k{part}", "", records[part::files])
    return hour


def judged(hours, share, enough=1, usual=None):
    gathering = Gathering(BASELINE, SCHEMA)
    for hour in hours:
        gathering.add(Hour.from_json(hour.to_json(), BASELINE, SCHEMA))
    return gathering.result(share, enough, lambda: usual or {})


@given(
    st.lists(st.tuples(st.integers(1, 2000), st.sampled_from([0.05, 0.1, 0.25, 1 / 3, 0.5, 0.9, 1.0])), max_size=12),
    st.integers(0, 3000),
)
@example([(1, 1 / 3), (2, 1 / 3)], 1)
@example([(3, 1 / 3), (3, 0.5)], 1)
def test_the_shares_are_reached_and_not_passed(given, others):
    sizes = {str(k): n for k, (n, _) in enumerate(given)}
    shares = {str(k): share for k, (_, share) in enumerate(given)}
    total = others + sum(sizes.values())
    most = most_each(sizes, others, shares)
    kept = sizes | most
    whole = others + sum(kept.values())
    assert most.keys() <= sizes.keys() and all(most[name] < sizes[name] for name in most)
    for name, n in kept.items():
        assert n <= shares[name] * (whole + len(most)) + 1e-6  # each is rounded down, so a few are wanting
        if name in most:
            assert n + 1 > shares[name] * whole - 1e-6  # more would be too much
    if all(n <= shares[name] * total for name, n in sizes.items()):
        assert not most


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=20), st.integers(0, 10**6))
def test_proportions_stay_and_add_up(counts, total):
    total = min(total, sum(counts))
    made = apportioned(counts, total)
    assert sum(made) == total
    whole = sum(counts)
    assert all(abs(a - b * total / max(whole, 1)) < 1 for a, b in zip(made, counts, strict=True))


def test_a_sketch_is_made_smaller_like_an_even_sample():
    rng = random.Random(1)
    sketch = Sketch(BASELINE, SCHEMA)
    for k in range(4000):
        transaction = {"amount": rng.choice([None, 7.0, rng.uniform(-5, 60)]), "new": 1}
        transaction |= {"card": rng.choice(["visa", "x"])} if k % 2 else {}
        sketch.add(Record(f"{k}", "e", 0.0, transaction, rng.random(), "run-1", "v"))
    before = sketch.to_json()
    made = shrunk(sketch, BASELINE, SCHEMA, 1000)
    assert sketch.to_json() == before
    assert made.n == 1000
    for name, small in made.features.items():
        large = sketch.features[name]
        assert small.count + small.missing + small.invalid == 1000
        assert small.missing == pytest.approx(large.missing / 4, abs=2)
        assert small.absent == pytest.approx(large.absent / 4, abs=2)
    small, large = made.features["amount"], sketch.features["amount"]
    assert sum(small.counts) == small.count
    assert small.mean == pytest.approx(large.mean)
    assert small.repeats["7.0"] == pytest.approx(large.repeats["7.0"] / 4, abs=1)
    assert made.reviewed == pytest.approx(sketch.reviewed / 4, abs=1)
    assert made.unknown_fields == {"new": 1000}
    assert json.loads(made.to_json())["n"] == 1000
    assert shrunk(sketch, BASELINE, SCHEMA, 0).to_json() == Sketch(BASELINE, SCHEMA).to_json()
    assert shrunk(sketch, BASELINE, SCHEMA, 9999).to_json() == before


def mix(heavy=5000, others=40, each=100):
    """One caller with large amounts, and many others."""
    records = [record(k, "forger", 999.0) for k in range(heavy)]
    records += [record(k, f"c{c}") for c in range(others) for k in range(each)]
    random.Random(3).shuffle(records)
    return records


@pytest.mark.parametrize("share", [0.05, 0.25])
def test_a_caller_is_held_to_its_share_of_the_window(share):
    found = judged([hour_of(mix(), share, files=7)], share)
    assert found.sketch.n + found.capped == 9000
    amount = found.sketch.features["amount"]
    assert amount.repeats["999.0"] / found.sketch.n == pytest.approx(share, abs=0.002)
    assert amount.repeats["999.0"] <= share * found.sketch.n + 1
    said = f"one caller sent 56 % of the payments and counts for {100 * share:.0f} % at most."
    assert found.notes == [f"{found.capped:,} payments were left out: {said}"]
    assert found.callers["forger"] == round(5000 / 9000, 4)


def test_who_has_always_sent_most_is_no_forger():
    usual = {"forger": 0.5, "gone": 0.3}
    found = judged([hour_of(mix(), 0.05)], 0.05, usual=usual)
    assert (found.sketch.n, found.capped, found.notes, found.usual_callers) == (9000, 0, [], {"forger": 0.5})
    found = judged([hour_of(mix(), 0.05)], 0.05, usual={"forger": 0.2})  # a quarter more than usual, not all of it
    assert found.sketch.features["amount"].repeats["999.0"] / found.sketch.n == pytest.approx(0.25, abs=0.002)


def test_what_is_usual_is_what_was_there_on_each_of_the_days():
    week = [{"old": 0.6, "new": 0.2}, {"old": 0.7}, {"old": 0.5}]
    assert usual_shares(week) == {"old": 0.5}
    assert usual_shares(week[:2]) == {}  # too few days
    assert limits(["old", "new"], 0.05, {"old": 0.9}) == {"old": 1.0, "new": 0.05}


def test_it_is_the_same_however_the_files_are_cut_and_whenever_they_come():
    records = mix()
    ways = [[hour_of(records, 0.1, files=n)] for n in (1, 3, 50)]
    late = hour_of(records[:500], 0.1)
    late = Hour.from_json(late.to_json(), BASELINE, SCHEMA)
    late.heavy_share = 0.1 * OWN
    late.take("late", "", records[500:])
    found = [judged(way, 0.1) for way in [*ways, [late]]]
    assert len({one.sketch.n for one in found}) == 1
    assert len({one.sketch.to_json() for one in found}) == 1


def test_the_window_is_held_though_an_hour_is_not():
    quiet = [record(k, "forger", 999.0) for k in range(1000)]  # alone in its hour
    busy = [record(k, f"c{k % 30}", time=4000.0) for k in range(3000)]
    found = judged([hour_of(quiet, 0.1), hour_of(busy, 0.1, start=3600.0)], 0.1)
    assert found.sketch.features["amount"].repeats["999.0"] == 333  # a tenth of 3,333
    assert found.capped == 667


def test_one_single_caller_is_not_held_and_a_note_says_so():
    found = judged([hour_of([record(k, "only") for k in range(800)], 0.25)], 0.25, 500)
    assert (found.sketch.n, found.capped) == (800, 0)
    said = "there is too little other traffic to hold it to 25 %."
    assert found.notes == [f"One caller sent 100 % of the payments; {said}"]


def test_too_few_others_to_judge_by_hold_nobody():
    records = [record(k, "backend") for k in range(5000)] + [record(k, f"c{k % 5}") for k in range(50)]
    found = judged([hour_of(records, 0.25)], 0.25, 500)
    assert (found.sketch.n, found.capped, len(found.notes)) == (5050, 0, 1)


def test_nobody_is_held_where_no_share_is_set_or_no_caller_is_known():
    for records, share in ((mix(), 1.0), ([record(k) for k in range(900)], 0.05)):
        hour = hour_of(records, share)
        found = judged([hour], share)
        assert (found.sketch.n, found.capped, found.notes, hour.own) == (len(records), 0, [], {})


def test_what_was_sent_before_a_caller_was_heavy_counts_against_it():
    hour = hour_of([record(k, f"c{k % 60}") for k in range(6000)] + [record(k, "slow", 999.0) for k in range(100)], 0.1)
    assert "slow" not in hour.own
    hour.take("more", "", [record(k, "slow", 999.0) for k in range(100, 3000)])
    assert hour.own["slow"].n == 2900
    found = judged([hour], 0.1)
    counted = found.sketch.features["amount"].repeats["999.0"]
    assert counted <= 0.1 * found.sketch.n + 1
    assert counted == pytest.approx(0.1 * found.sketch.n, abs=2)


def test_so_many_callers_have_a_sketch_of_their_own_and_no_more():
    hour = hour_of([record(k, f"c{c:02}") for c in range(60) for k in range(10 + c)], 0.01, files=4)
    assert len(hour.own) == HEAVY
    assert min(hour.own) == "c36"
    assert hour.n == sum(10 + c for c in range(60))
    assert sum(hour.callers.values()) == hour.n
