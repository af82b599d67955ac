"""The page of `fraud dashboard show`: what it reads from CloudWatch, and how it draws that."""

import datetime as dt
import re

import boto3
import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_rgba
from matplotlib.dates import date2num
from moto import mock_aws

from fraud.pipeline import dashboard_page
from fraud.pipeline.dashboards import GREEN, RED, SECTIONS, Section

PANELS = {panel.title: panel for section in SECTIONS for panel in section.panels}
NOW = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC)
NAMES = {"endpoint": "here", "pipeline": "again", "queue": "lost"}


@pytest.fixture
def cloudwatch(monkeypatch):
    """CloudWatch in memory with half a day of drift checks; the check of 06:00 is missing."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_CLOUDWATCH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    with mock_aws():
        watch = boto3.client("cloudwatch", region_name="eu-west-1")
        monkeypatch.setattr(dashboard_page, "client", lambda service: watch)

        def put(namespace, metric, value, at, **dimensions):
            named = [{"Name": name, "Value": value} for name, value in dimensions.items()]
            datum = {"MetricName": metric, "Dimensions": named, "Value": value, "Timestamp": at}
            watch.put_metric_data(Namespace=namespace, MetricData=[datum])

        watch.put = put
        for hour in range(12):
            at = NOW - dt.timedelta(hours=12 - hour)
            if hour != 6:
                put("Fraud/Drift", "Ok", float(hour < 9), at, EndpointName="here")
                put("Fraud/Drift", "Drift", float(hour >= 9), at, EndpointName="here")
                put("Fraud/Drift", "Drift", 1.0, at, EndpointName="there")
        yield watch


@pytest.fixture
def drawn():
    """Draws lines on a panel, by its title, and the hours until now; returns the axes."""
    made = []

    def draw(title, lines, hours):
        figure, ax = plt.subplots()
        made.append(figure)
        return dashboard_page.plot_panel(PANELS[title], lines, NOW - dt.timedelta(hours=hours), NOW, ax)

    yield draw
    for figure in made:
        plt.close(figure)


def boxes(ax):
    """Coloured times of a panel of states: colour, hours from now, and for how many hours."""
    found = []
    for box in ax.collections:
        left, right = box.get_paths()[0].get_extents().intervalx
        (colour,) = box.get_facecolor()
        name = next(name for name in ("green", "grey", "red", RED, GREEN) if to_rgba(name) == tuple(colour))
        found.append((name, round(24 * float(left - date2num(NOW)), 2), round(24 * float(right - left), 2)))
    return found


def test_a_line_has_a_bounded_number_of_points():
    for hours in (0.25, 1, 24, 24 * 90):
        assert hours * 3600 / dashboard_page.period_for(hours) <= dashboard_page.POINTS
    assert dashboard_page.period_for(24) == 300


def test_what_is_read_is_of_this_endpoint(cloudwatch):
    (section,) = [section for section in SECTIONS if section.question == "Has the world moved?"]
    found = dashboard_page.read(section, NAMES, NOW - dt.timedelta(hours=24), NOW)
    verdict, *others = found
    assert {label: values for label, _, _, values in verdict} == {
        "ok": [1.0] * 8 + [0.0] * 3,
        "drift": [0.0] * 8 + [1.0] * 3,
    }
    assert others == [[]] * 6


def test_each_model_has_a_line_of_its_own(cloudwatch):
    for version, score in (("one", 0.25), ("two", 0.5)):
        at = NOW - dt.timedelta(hours=1)
        cloudwatch.put("Fraud/Api", "Score", score, at, Service="inference", Endpoint="here", ModelVersion=version)
    cloudwatch.put("Fraud/Api", "Score", 0.9, at, Service="inference", Endpoint="there", ModelVersion="three")
    cloudwatch.put("Fraud/Api", "Score", 0.9, at, Service="inference", Endpoint="here", ModelVersion="four", More="x")
    (metric,) = PANELS["Score, by model"].metrics
    assert [one.label for one in dashboard_page.filled(metric, NAMES)] == ["one", "two"]


def test_a_check_that_is_missing_is_a_gap(drawn):
    hours = [NOW - dt.timedelta(hours=hour) for hour in (5, 4, 2, 1)]
    assert boxes(drawn("Verdict", [("ok", "green", hours, [1.0] * 4)], 6)) == [
        ("green", -5, 1),
        ("green", -4, 1),
        ("green", -2, 1),
        ("green", -1, 1),
    ]


def test_of_several_verdicts_in_one_point_the_worst_is_drawn(drawn):
    """Two weeks are drawn in points of six hours, each with several checks; an hour may hold two as well."""
    at = [NOW - dt.timedelta(hours=hours) for hours in (24, 18, 12, 6)]
    ok = ("ok", "green", at, [1.0, 1.0, 1.0, 1.0])
    too_few = ("too few payments", "grey", at, [1.0, 0.0, 0.0, 0.0])
    drift = ("drift", "red", at, [0.0, 1.0, 0.0, 1.0])
    ax = drawn("Verdict", [ok, too_few, drift], 24 * 14)
    assert boxes(ax) == [("grey", -24, 6), ("red", -18, 6), ("green", -12, 6), ("red", -6, 6)]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["too few payments", "drift", "ok"]


def test_what_is_read_over_two_weeks_shows_the_drift(cloudwatch, drawn):
    """From 301 hours on, a point is six hours: ok until 08:00 and drift from 09:00 are one of them."""
    hours = 24 * 14
    (section,) = [section for section in SECTIONS if section.question == "Has the world moved?"]
    verdict, *_ = dashboard_page.read(section, NAMES, NOW - dt.timedelta(hours=hours), NOW)
    assert {label: values for label, _, _, values in verdict} == {"ok": [1.0, 1.0], "drift": [0.0, 1.0]}
    assert [(round(at), round(width)) for _, at, width in boxes(drawn("Verdict", verdict, hours))] == [
        (-12, 6),
        (-6, 6),
    ]
    assert boxes(drawn("Verdict", verdict, hours))[1][0] == RED


@pytest.mark.parametrize(
    ("title", "hours", "thresholds", "said"),
    [
        ("Reviews beyond the limit", 5, [5.0], []),  # drawn by the minute, as the alarm counts
        ("Reviews beyond the limit", 6, [], ["alarm: 5 in 1 min, not drawn"]),
        ("Reviews beyond the limit", 24, [], ["alarm: 5 in 1 min, not drawn"]),
        ("Requests at the API", 24, [1.0], []),  # one error rings, whatever a point stands for
        ("Turned away or failed", 24, [1.0], []),
        ("Time of the model", 24, [250.0], []),  # no sum: it does not grow with the time
        ("Unreadable lines", 24 * 14, [100.0], []),
    ],
)
def test_a_sum_is_held_against_no_threshold_of_another_time(drawn, title, hours, thresholds, said):
    scale = 1000 if PANELS[title].unit == "us" else 1
    ax = drawn(title, [("some", "blue", [NOW - dt.timedelta(hours=1)], [200.0 * scale])], hours)
    levels = [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--"]
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert levels == thresholds
    assert [text for text in words if text.startswith("alarm")] == said


@pytest.mark.parametrize(
    ("title", "hours", "label"),
    [
        ("Reviews beyond the limit", 24, "count in 5 min"),
        ("Requests at the API", 1, "count in 1 min"),
        ("Retrainings", 24 * 14, "count in 6 h"),
        ("Payments in the window", 24, "count"),  # the largest of them, so of one check
        ("Time of the model", 24, "ms"),
    ],
)
def test_the_axis_of_a_sum_tells_its_time(drawn, title, hours, label):
    assert drawn(title, [], hours).get_ylabel() == label


@pytest.mark.parametrize("hours", [0.25, 4, 24, 24 * 14, 24 * 90])
def test_a_narrow_axis_has_room_for_its_times(drawn, hours):
    ax = drawn("Time of the model", [], hours)
    left, right = ax.get_xlim()
    assert 2 <= sum(left <= tick <= right for tick in ax.get_xticks()) <= 5


def test_a_challenger_has_lines_of_its_own(cloudwatch):
    for variant, errors in (("AllTraffic", 0.0), ("Challenger", 3.0)):
        at = NOW - dt.timedelta(hours=1)
        cloudwatch.put("AWS/SageMaker", "Invocations", 9.0, at, EndpointName="here", VariantName=variant)
        cloudwatch.put("AWS/SageMaker", "Invocation5XXErrors", errors, at, EndpointName="here", VariantName=variant)
    section = Section("", (PANELS["Calls of the endpoint"],))
    (lines,) = dashboard_page.read(section, NAMES, NOW - dt.timedelta(hours=24), NOW)
    assert {label: values for label, _, _, values in lines} == {
        "calls, AllTraffic": [9.0],
        "calls, Challenger": [9.0],
        "model's errors": [0.0],
        "challenger's 5xx": [3.0],
    }


def test_the_page_holds_everything_itself(cloudwatch, tmp_path):
    for name in ("fraud-here-drift", "fraud-here-too-drift", "fraud-here-drift-2"):  # two of other endpoints
        cloudwatch.put_metric_alarm(
            AlarmName=name,
            AlarmDescription="Payments <changed>.",
            MetricName="Drift",
            Namespace="Fraud/Drift",
            Statistic="Maximum",
            Period=300,
            EvaluationPeriods=1,
            Threshold=1.0,
            ComparisonOperator="GreaterThanOrEqualToThreshold",
        )
        cloudwatch.set_alarm_state(AlarmName=name, StateValue="ALARM", StateReason="test")
    page = dashboard_page.write(tmp_path / "new" / "page.html", NAMES, 24, NOW).read_text(encoding="utf-8")
    assert "1 of 1 alarms ring:</b> fraud-here-drift." in page and "Payments &lt;changed&gt;." in page
    assert page.count("data:image/png;base64,") == len(SECTIONS)
    assert not re.search(r"<script|https?://|<link|\son\w+=", page)
    for title in PANELS:
        assert f"<dt>{title}</dt>" in page
