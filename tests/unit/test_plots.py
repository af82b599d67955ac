import datetime as dt

import matplotlib
import pytest

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from fraud.pipeline import drift_plots, label_plots, model_plots, plots

HOURS = [dt.datetime(2026, 1, 1, hour) for hour in range(24)]
METRICS = {
    "auc": 0.9,
    "average_precision": 0.5,
    "fraud_rate_validation": 0.03,
    "roc": {"fpr": [0, 0.1, 1], "tpr": [0, 0.8, 1]},
    "pr": {"precision": [0.03, 0.5, 1], "recall": [1, 0.5, 0]},
    "reliability": {"score": [0.001, 0.1], "fraud_rate": [0.0, 0.2], "rows": [50, 50]},
    "calibration_error": 0.01,
    "cost_curve": {"threshold": [1.1, 0.5, 0.1], "cost": [900, 400, 500], "review_rate": [0, 0.1, 1]},
}
DECISION = {"decision_threshold": 0.5, "at_threshold": {"review_rate": 0.1, "cost": 400}}
RULE = {"rule": "psi", "feature": "a", "score": 0.5, "threshold": 0.25, "fired": True}
PROBES = [
    {"at": 0.1, "ms": 3, "ok": True, "model_version": "a", "error": ""},
    {"at": 0.2, "ms": 4, "ok": False, "model_version": "", "error": "ModelError"},
    {"at": 0.3, "ms": 3, "ok": True, "model_version": "b", "error": ""},
]
COURSE = drift_plots.Course(HOURS, [0.02] * 24, [0.03] * 24, 3600, (0.02, 0.02))
WEEK = {"start": "2026-01-01T00:00:00Z", "fraud_rate": 0.01, "fraud_rate_interval": [0.008, 0.012], "recall": None}
PERFORMANCE = {"reference": {"fraud_rate": 0.005, "recall": 0.7}, "cohorts": [WEEK, WEEK | {"recall": 0.5}]}
DRAWN = {
    "label_sources": lambda: label_plots.plot_label_sources({"history": 10, "truth": 2}),
    "captured": lambda: plots.plot_captured(HOURS, list(range(24))),
    "learning_curve": lambda: model_plots.plot_learning_curve(
        {"iteration": [1, 2], "train_auc": [0.7, 0.8], "valid_auc": [0.6, 0.7]}, 2
    ),
    "importance": lambda: model_plots.plot_importance([{"feature": "a", "gain": 2.0, "shap": 0.1}]).axes[0],
    "calibration": lambda: model_plots.plot_calibration(METRICS),
    "cost": lambda: model_plots.plot_cost(METRICS | DECISION),
    "class_scores": lambda: model_plots.plot_class_scores(
        {"edges": [0, 0.5, 1], "legit": [9, 1], "fraud": [1, 2]}, 0.4
    ),
    "availability": lambda: plots.plot_availability(PROBES),
    "served": lambda: plots.plot_served_against_offline([0.1, 0.2], [0.1, 0.2]),
    "rules": lambda: drift_plots.plot_rules([RULE]),
    "course": lambda: drift_plots.plot_course(COURSE).axes[1],
    "cohorts": lambda: drift_plots.plot_cohorts(PERFORMANCE).axes[0],
}


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


@pytest.mark.parametrize("name", DRAWN)
def test_axes_carry_labels(name):
    ax = DRAWN[name]()
    assert ax.get_xlabel(), "an axis without a name"
    ax.figure.canvas.draw()


def test_draws_where_it_is_told():
    given = plt.subplots()[1]
    assert drift_plots.plot_rules([RULE], ax=given) is given and plots.plot_captured(HOURS, [1] * 24, ax=given) is given


def test_failures_and_fired_rules_are_red():
    failed = [line for line in plots.plot_availability(PROBES).lines if line.get_marker() == "x"]
    assert failed[0].get_color() == plots.OVER and len(failed[0].get_xdata()) == 1
    bars = drift_plots.plot_rules([RULE, RULE | {"fired": False, "feature": "b", "score": 0.1}]).patches
    assert {matplotlib.colors.to_hex(bar.get_facecolor()) for bar in bars} == {plots.OVER, plots.LIVE}


def test_roc_shows_the_champion_only_when_there_is_one():
    alone = model_plots.plot_roc_and_pr(METRICS)
    both = model_plots.plot_roc_and_pr(
        METRICS | {f"champion_{k}": v for k, v in METRICS.items() if k != "fraud_rate_validation"}
    )
    assert len(alone.axes[0].get_legend().get_texts()) == 1
    assert [text.get_text() for text in both.axes[0].get_legend().get_texts()] == ["champion 0.900", "challenger 0.900"]


@pytest.mark.parametrize("name", ["$x$", "$\\frac{", "a" * 80, "", None, "<b>", "漢字"])
def test_any_category_can_be_drawn(name):
    panel = {"feature": name, "labels": [name, "b"], "reference": [0.5, 0.5], "current": [1, 0]}
    with pytest.MonkeyPatch.context():
        import warnings

        warnings.filterwarnings("ignore", message="Glyph")
        drift_plots.plot_distributions([panel]).canvas.draw()
        drift_plots.plot_rules([RULE | {"feature": name}]).figure.canvas.draw()


@pytest.mark.parametrize("panels", [0, 1, 3, 7])
def test_small_multiples_of_any_number(panels):
    panel = {"feature": "f", "labels": ["a", "b"], "reference": [0.5, 0.5], "current": [0.1, 0.9]}
    drift_plots.plot_distributions([panel] * panels).canvas.draw()


def test_nothing_to_show_is_said():
    assert "no captured traffic" in plots.plot_captured([], []).texts[0].get_text()
    assert "nothing to compare" in drift_plots.plot_rules([]).texts[0].get_text()


def test_label_coverage_stacks_shares_and_shows_what_a_model_would_believe():
    groups = [(0, "unknown", 5, 0), (1, "truth", 1, 1), (1, "pseudo", 4, 0), (2, "truth", 1, 1), (2, "mature", 9, 0)]
    coverage = [dict(zip(("age_days", "source", "rows", "fraud"), group, strict=True)) for group in groups]
    left, right = label_plots.plot_label_coverage(coverage, 2).axes
    heights: dict[float, float] = {}
    for bar in left.patches:
        day = round(bar.get_x() + bar.get_width() / 2)
        heights[day] = heights.get(day, 0) + bar.get_height()
    assert heights == pytest.approx({0: 0.0, 1: 1.0, 2: 1.0})
    (line,) = [line for line in right.lines if line.get_marker() == "o"]
    assert list(zip(*line.get_data(), strict=True)) == [(1, 0.2), (2, 0.1)]
    assert label_plots.plot_label_coverage([], 30).axes[0].texts[0].get_text() == "no captured traffic yet"


def test_the_counterfactual_says_how_many_frauds_each_policy_misses():
    rows = [
        {"policy": "off", "fraud": 0, "legitimate": 0, "unlabelled": 9, "judged": 0, "wrong": 0, "frauds": 0,
         "frauds_missed": 0},
        {"policy": "threshold", "fraud": 1, "legitimate": 8, "unlabelled": 0, "judged": 50, "wrong": 5, "frauds": 4,
         "frauds_missed": 3},
    ]  # fmt: skip
    figure = label_plots.plot_counterfactual(rows)
    figure.canvas.draw()
    assert [text.get_text() for text in figure.axes[1].texts] == ["3 of 4", "labels nothing"]
    assert max(bar.get_width() for bar in figure.axes[1].patches) == 0.75
