"""Truth, maturity, opinion: which label a live row gets, and how wrong the opinions would have been."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fraud.label_files import read_label_file
from fraud.labels import GroundTruth, LabelColumns, resolve
from fraud.pipeline import labelling, truth
from fraud.pipeline.labelling import DAY, Ends, Policy

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)


def frame(*rows):
    """Live rows given as (id, age in days, score)."""
    cells = [(name, NOW.timestamp() - age * DAY, score) for name, age, score in rows]
    return pl.DataFrame(cells, schema={"__id": pl.String, "__time": pl.Float64, "__score": pl.Float64}, orient="row")


def told(*rows):
    """Newest truth given as (id, label, age in days)."""
    cells = [(name, label, NOW.timestamp() - age * DAY, "k") for name, label, age in rows]
    return pl.DataFrame(cells, schema=truth.STATEMENT, orient="row")


def label(rows, known=None, policy=None, **change):
    return labelling.label(rows, told() if known is None else known, NOW, policy or Policy(**change))


def results(found):
    return {row["__id"]: (row["label"], row["label_source"], row["weight"]) for row in found.rows.to_dicts()}


@pytest.mark.parametrize(
    ("age", "score", "known", "policy", "expected"),
    [
        (1, 0.1, 1, "threshold", (1, "truth", 1.0)),
        (1, 0.9, 0, "off", (0, "truth", 1.0)),
        (99, 0.9, 1, "off", (1, "truth", 1.0)),
        (30, 0.9, None, "threshold", (0, "mature", 1.0)),
        (29.999, 0.9, None, "off", (None, "unknown", 0.0)),
        (1, 0.9, None, "threshold", (1, "pseudo", 0.25)),
        (1, 0.5, None, "threshold", (1, "pseudo", 0.25)),
        (1, np.nextafter(0.5, 0), None, "threshold", (0, "pseudo", 0.25)),
        (1, None, None, "threshold", (None, "unknown", 0.0)),
        (1, float("nan"), None, "threshold", (None, "unknown", 0.0)),
        (1, float("nan"), None, "confident", (None, "unknown", 0.0)),
        (1, 1.0, None, "confident", (None, "unknown", 0.0)),
    ],
)
def test_where_a_label_comes_from(age, score, known, policy, expected):
    rows, said = frame(("a", age, score)), told(*([] if known is None else [("a", known, 0.5)]))
    assert results(label(rows, said, pseudo_labels=policy, weight=0.25, max_share=1.0)) == {"a": expected}


def test_rows_keep_their_order_and_their_number():
    rows = frame(*((f"id{i}", i % 40, (i * 37 % 100) / 100) for i in range(200)))
    found = label(rows, told(("id7", 1, 1), ("nobody", 1, 1)), pseudo_labels="threshold", max_share=1.0)
    assert found.rows.select("__id", "__time", "__score").equals(rows)
    assert found.rows["label"].null_count() == 0


def history(n=4_000, seed=0, frauds=0.05):
    """Mature rows whose scores mean something: uniform for frauds in the upper, for others in the lower part."""
    make = np.random.default_rng(seed)
    label = (make.random(n) < frauds).astype(int)
    score = np.where(label == 1, make.uniform(0.3, 1, n), make.uniform(0, 0.7, n))
    rows = frame(*((f"m{i}", 40 + i / n, score[i]) for i in range(n)))
    return rows, told(*((f"m{i}", 1, 20) for i in np.flatnonzero(label))), score, label


def test_the_confident_ends_hold_what_they_promise_on_other_rows():
    *_, score, truth_ = history()
    ends = labelling.calibrate(score, truth_, 0.9)
    *_, other, their = history(20_000, seed=1)
    assert 0.6 < ends.high < 0.8 and 0.25 < ends.low < 0.5
    assert their[other >= ends.high].mean() >= 0.9
    assert their[other <= ends.low].mean() <= 0.1 * their.mean() * 1.5


def test_few_rows_prove_nothing():
    assert labelling.calibrate(np.array([0.1, 0.9] * 5), np.array([0, 1] * 5), 0.9) == Ends(None, None, 10)
    assert labelling.calibrate(np.array([]), np.array([]), 0.9) == Ends()
    assert labelling.calibrate(np.full(1000, 0.5), np.array([0, 1] * 500), 0.9) == Ends(None, None, 1000)


GROUPS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9, 1.0]), st.integers(0, 300), st.integers(0, 300)), max_size=6
)


@given(GROUPS)
@settings(max_examples=300)
def test_equal_scores_are_never_split(groups):
    score = np.repeat([g[0] for g in groups for _ in (0, 1)], [n for g in groups for n in g[1:]]).astype(float)
    fraud = np.repeat([k for _ in groups for k in (0, 1)], [n for g in groups for n in g[1:]]).astype(int)
    ends = labelling.calibrate(score, fraud, 0.6)
    if ends.high is not None:
        assert fraud[score >= ends.high].mean() >= 0.6
    if ends.low is not None:
        assert fraud[score <= ends.low].mean() <= 0.4 * fraud.mean()


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (5, 10), (50, 50), (3, 1_000), (999, 1_000)])
def test_the_bound_is_wilsons(hits, n):
    from scipy.stats import binomtest

    wanted = binomtest(hits, n).proportion_ci(0.9, "wilson")
    found = [float(labelling._wilson(np.array([hits]), np.array([n]), side)[0]) for side in (-1, 1)]
    assert found == pytest.approx([wanted.low, wanted.high], abs=2e-4)


def test_confident_labels_only_beyond_its_ends():
    rows, known, *_ = history()
    young = frame(("sure", 1, 0.99), ("legit", 1, 0.01), ("doubt", 1, 0.55))
    found = label(pl.concat([rows, young]), known, pseudo_labels="confident")
    said = results(found)
    assert (said["sure"][:2], said["legit"][:2]) == ((1, "pseudo"), (0, "pseudo"))
    assert said["doubt"] == (None, "unknown", 0.0)


def test_days_of_which_only_the_frauds_are_known_prove_nothing():
    rows = frame(*((f"y{i}", 25.1 + i / 4_000, 0.1 + 0.8 * (i % 2)) for i in range(2_000)))
    young = frame(*((f"z{i}", 5, 0.9) for i in range(3_000)))
    known = told(*((f"y{i}", 1, 1) for i in range(0, 2_000, 7)))
    found = label(pl.concat([rows, young]), known, pseudo_labels="confident")
    assert found.ends == Ends() and "pseudo" not in found.rows["label_source"]


def test_frauds_that_were_reported_at_once_prove_nothing_about_payments_that_are_still_silent():
    # Of the payments scored 0.9 half were fraud and reported within a day; the rest stayed silent and were legitimate.
    rows = frame(*((f"m{i}", 40.1 + i / 5_000, 0.9 if i < 2_000 else 0.1) for i in range(4_000)))
    soon = told(*((f"m{i}", 1, 39.5) for i in range(1_999)))
    late = told(*((f"m{i}", 1, 12) for i in range(1_999)))
    young = frame(*((f"y{i}", 10 + i / 100, 0.9) for i in range(100)))
    assert label(pl.concat([rows, young]), late).ends.high == 0.9
    found = label(pl.concat([rows, young]), soon)
    assert found.ends.high is None and found.ends.rows == 4_000 - 1_999
    assert label(rows, soon).ends.high == 0.9  # nothing is silent, so nothing is left out


def test_the_cap_holds_and_draws_the_same_rows_in_any_order():
    rows = frame(*((f"id{i}", 1, i / 1000) for i in range(1_000)))
    policy = Policy(pseudo_labels="threshold", max_share=0.2)
    found = labelling.label(rows, told(), NOW, policy, n_history=400)
    pseudo = found.rows.filter(pl.col("label_source") == "pseudo")
    assert pseudo.height == 100 and found.capped == 900  # 100 of 500
    again = labelling.label(rows.sample(fraction=1, shuffle=True, seed=3), told(), NOW, policy, n_history=400)
    assert set(again.rows.filter(pl.col("label_source") == "pseudo")["__id"]) == set(pseudo["__id"])
    assert 0.3 < pseudo["__score"].mean() < 0.7  # drawn at random, not from one end


def test_the_counterfactual_counts_what_each_policy_gets_wrong():
    rows, known, _, fraud = history()
    young = frame(*((f"y{i}", 1, score) for i, score in enumerate((0.01, 0.02, 0.55, 0.99))))
    table = label(pl.concat([rows, young]), known).counterfactual
    by = {row["policy"]: row for row in table.to_dicts()}
    assert (by["off"]["unlabelled"], by["off"]["judged"]) == (4, 0)
    assert (by["threshold"]["fraud"], by["threshold"]["legitimate"]) == (2, 2)
    assert (by["confident"]["fraud"], by["confident"]["legitimate"], by["confident"]["unlabelled"]) == (1, 2, 1)
    later = rows.sort("__time", "__id").tail(2_000).join(known.select("__id", "label"), on="__id", how="left")
    said, is_fraud = later["__score"].to_numpy() >= 0.5, later["label"].fill_null(0).to_numpy() == 1
    assert by["threshold"]["judged"] == 2_000 and by["threshold"]["wrong"] == int((said != is_fraud).sum())
    assert (by["threshold"]["frauds"], by["threshold"]["frauds_missed"]) == (
        int(is_fraud.sum()),
        int((is_fraud & ~said).sum()),
    )
    assert by["confident"]["wrong"] < by["threshold"]["wrong"] / 4


def test_the_review_slice_is_random_unknown_and_can_be_delivered_back():
    rows = frame(*((f"id{i:03d}", i % 40, 0.5) for i in range(400)))
    found = label(rows, told(("id001", 1, 1)))
    drawn = labelling.review_slice(found.rows, 30)
    unknown = set(found.rows.filter(pl.col("label_source") == "unknown")["__id"])
    assert drawn.height == 30 and set(drawn["inference_id"]) < unknown
    assert drawn.equals(labelling.review_slice(found.rows.reverse(), 30))
    body = drawn.write_csv().replace(",,", ",1,").encode()
    labels, problems = read_label_file(body, "labels/review.csv", LabelColumns(), 9.0)[:2]
    assert len(labels) == 30 and not problems
    assert read_label_file(drawn.write_csv().encode(), "labels/review.csv", LabelColumns(), 9.0) == ([], [], "")


STATEMENTS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 1), st.integers(0, 5).map(float), st.sampled_from(["k1", "k2"]))
)


@given(STATEMENTS, st.integers(0, 6), st.randoms())
def test_settling_many_is_the_rule_for_one_and_loses_no_statement(statements, as_of, random):
    shuffled = random.sample(statements, len(statements))
    newest, aside = truth.settle(pl.DataFrame(shuffled, schema=truth.STATEMENT, orient="row"), as_of)
    wanted = resolve((GroundTruth(*one) for one in statements), as_of)
    assert {row[0]: GroundTruth(*row) for row in newest.iter_rows()} == wanted
    kept = [*newest.iter_rows(), *(row[:4] for row in aside.iter_rows())]
    assert sorted(kept) == sorted(set(statements))
    for name, label_, time, _, why in aside.iter_rows():
        final = wanted.get(name)
        if why == truth.NOT_YET:
            assert time > as_of
        elif why == truth.REPEATED:
            assert label_ == final.label
        else:
            assert label_ != final.label and (time == final.time) == (why == truth.CONTRADICTED)
