"""Dashboards and alarms: they show and watch what the product writes, agree with each other, and tell people."""

import ast
import datetime as dt
import importlib.util
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from moto import mock_aws
from samtranslator.yaml_helper import yaml_parse

from fraud.pipeline import dashboard_files, dashboard_page, infra
from fraud.pipeline.alarms import alarms, limits
from fraud.pipeline.dashboards import SECTIONS
from fraud.verdict import VERDICTS

ROOT = Path(__file__).resolve().parents[2]
CLOUDWATCH = json.loads((ROOT / "infra" / "dashboards" / "cloudwatch.json").read_text(encoding="utf-8"))
GRAFANA = json.loads((ROOT / "infra" / "dashboards" / "grafana.json").read_text(encoding="utf-8"))
RESOURCES = yaml_parse((ROOT / "infra" / "app.yml").read_text(encoding="utf-8"))["Resources"]
ALARMS = {name: item["Properties"] for name, item in RESOURCES.items() if item["Type"] == "AWS::CloudWatch::Alarm"}
PANELS = [panel for section in SECTIONS for panel in section.panels]
# Metrics of AWS's own services, by their dimensions, as each service's page on CloudWatch metrics has them.
SERVICES = {
    ("AWS/SageMaker", frozenset({"EndpointName", "VariantName"})): {
        "Invocations",
        "Invocation4XXErrors",
        "Invocation5XXErrors",
        "ModelLatency",
        "OverheadLatency",
    },
    ("AWS/ApiGateway", frozenset({"ApiName", "Stage"})): {
        "Count",
        "4XXError",
        "5XXError",
        "Latency",
        "IntegrationLatency",
    },
    ("AWS/Lambda", frozenset({"FunctionName"})): {"Invocations", "Errors", "Throttles", "Duration"},
    ("AWS/SQS", frozenset({"QueueName"})): {"ApproximateNumberOfMessagesVisible"},
    ("AWS/CodePipeline", frozenset({"PipelineName"})): {"PipelineDuration", "FailedPipelineExecutions"},
    ("AWS/CodeBuild", frozenset({"ProjectName"})): {"Builds", "FailedBuilds", "Duration"},
}


def written_by_the_api(monkeypatch):
    """Metrics of the inference Lambda's log line, by their dimensions; and the values of its dimensions."""
    monkeypatch.setenv("ENDPOINT_NAME", "here")
    spec = importlib.util.spec_from_file_location("inference", ROOT / "lambdas" / "inference" / "app.py")
    app = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "inference", app)  # dataclasses look their module up
    spec.loader.exec_module(app)
    line = app.metrics(200, 0.0, dict.fromkeys(app.UNITS, 1) | {"ModelVersion": "m"})
    found = {}
    for directive in line["_aws"]["CloudWatchMetrics"]:
        for names in directive["Dimensions"]:
            kept = found.setdefault((directive["Namespace"], frozenset(names)), set())
            kept |= {metric["Name"] for metric in directive["Metrics"]}
    return found, {"Service": line["Service"], "Endpoint": line["Endpoint"].replace("here", "{endpoint}")}


def written_by_the_drift_check():
    """Metrics of the drift check: a 0 or 1 for each verdict, and names that stand as text in its code."""
    texts = set()
    for path in (ROOT / "lambdas" / "drift_check").glob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        texts |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert {"Fraud/Drift", "EndpointName"} <= texts
    verdicts = {"".join(part.title() for part in name.split("_")) for name in VERDICTS}
    return {("Fraud/Drift", frozenset({"EndpointName"})): verdicts | {text for text in texts if text.isalpha()}}


@pytest.fixture
def written(monkeypatch):
    """Everything that somebody writes."""
    return SERVICES | written_by_the_api(monkeypatch)[0] | written_by_the_drift_check()


def described():
    return {
        (
            m.namespace,
            m.name,
            frozenset(m.dimensions.items()) | ({(m.each, "*")} if m.each else set()),
            m.stat,
            panel.period,
        )
        for panel in PANELS
        for m in panel.metrics
    }


def in_cloudwatch():
    """Metrics of infra/dashboards/cloudwatch.json, shorthand written out, with the description's own placeholders."""
    found = set()
    back = {value: f"{{{name}}}" for name, value in dashboard_files.IN_CLOUDFORMATION.items()}

    def plain(text):
        for value, name in back.items():
            text = text.replace(value, name)
        return text

    for widget in CLOUDWATCH["widgets"]:
        before = []
        for row in widget["properties"].get("metrics", []):
            options, parts = row[-1], row[:-1]
            if "expression" in options:
                said = re.fullmatch(
                    r"SEARCH\('\{([^}]+)\} MetricName=\"(\w+)\" (.+)', '(\w+)', (\d+)\)", options["expression"]
                )
                namespace, *names = said[1].split(",")
                values = dict(re.findall(r'(\w+)="([^"]+)"', said[3]))
                assert values.keys() < set(names)
                named = {(name, plain(values.get(name, "*"))) for name in names}
                found.add((namespace, said[2], frozenset(named), said[4], int(said[5])))
                continue
            before = [old if part == "." else part for part, old in itertools.zip_longest(parts, before)][: len(parts)]
            named = zip(before[2::2], map(plain, before[3::2]), strict=True)
            found.add((before[0], before[1], frozenset(named), options["stat"], widget["properties"]["period"]))
    return found


def in_grafana():
    found = set()
    for panel in GRAFANA["panels"]:
        for target in panel.get("targets", []):
            if target["expression"]:
                continue
            named = {k: v[0] if isinstance(v, list) else v.replace("${", "{") for k, v in target["dimensions"].items()}
            place = (target["namespace"], target["metricName"], frozenset(named.items()))
            found.add((*place, target["statistic"], int(target["period"])))
    return found


# ------------------------------------------------------------------------------------------------ what is shown


def test_the_files_are_what_the_description_says():
    for name, text in dashboard_files.files().items():
        assert (dashboard_files.FOLDER / name).read_text(encoding="utf-8") == text, "run `fraud dashboard render`"


def test_both_dashboards_show_the_same():
    assert in_cloudwatch() == described()
    assert in_grafana() == described()


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_each_metric_on_a_panel_is_written_by_somebody(panel, written):
    for metric in panel.metrics:
        names = frozenset({*metric.dimensions} | ({metric.each} if metric.each else set()))
        assert metric.name in written.get((metric.namespace, names), set()), f"nobody writes {metric}"


def test_dimensions_have_the_values_that_are_written(monkeypatch):
    _, values = written_by_the_api(monkeypatch)
    gateway = RESOURCES["Api"]["Properties"]
    functions = {RESOURCES[name]["Properties"]["FunctionName"]["Fn::Sub"] for name in ("Inference", "DriftCheck")}
    project = yaml_parse((ROOT / "infra" / "cicd.yml").read_text())["Resources"]["Project"]["Properties"]["Name"]
    known = {
        **{name: {value} for name, value in values.items()},
        "ApiName": {gateway["Name"]["Fn::Sub"]},
        "Stage": {gateway["StageName"]},
        "FunctionName": functions,
        "ProjectName": {project["Fn::Sub"]},
        "EndpointName": {"{endpoint}"},
        "PipelineName": {"{pipeline}"},
        "VariantName": {"AllTraffic"},
        "QueueName": {"{queue}"},
    }
    for panel in PANELS:
        for metric in panel.metrics:
            for name, value in metric.dimensions.items():
                written = {
                    item.replace("${EndpointName}", "{endpoint}").replace("${PipelineName}", "{pipeline}")
                    for item in known[name]
                }
                assert value in written, f"{metric.namespace} {metric.name}: {name} is never {value}"


def test_every_metric_of_the_drift_check_is_shown():
    shown = {metric.name for panel in PANELS for metric in panel.metrics if metric.namespace == "Fraud/Drift"}
    promised = (
        "Ok Drift InsufficientData MissingCapture SchemaChanged Signal Records Unreadable Repeated Capped TopScore"
    )
    promised += " ScorePsi ReviewRate CaptureRatio TruthFraudRate TruthRecall RetrainingStarted Seconds"
    assert shown == set(promised.split())


def boxes_overlap(boxes):
    pairs = itertools.combinations(boxes, 2)
    return [
        (a, b)
        for a, b in pairs
        if a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]
    ]


def test_nothing_lies_on_something_else():
    widgets = [(w["x"], w["y"], w["width"], w["height"]) for w in CLOUDWATCH["widgets"]]
    panels = [tuple(p["gridPos"][k] for k in "xywh") for p in GRAFANA["panels"]]
    for boxes in (widgets, panels):
        assert boxes_overlap(boxes) == []
        assert all(x >= 0 and x + width <= 24 for x, _, width, _ in boxes)
    assert boxes_overlap([(0, 0, 2, 2), (1, 1, 2, 2)])


def test_the_dashboards_tell_the_story_in_one_order():
    questions = [section.question for section in SECTIONS]
    texts = [w["properties"]["markdown"] for w in CLOUDWATCH["widgets"] if w["type"] == "text"]
    assert texts == [f"## {question}" for question in questions]
    assert [panel["title"] for panel in GRAFANA["panels"] if panel["type"] == "row"] == questions


# ------------------------------------------------------------------------------------------------ CloudFormation


def test_what_is_deployed_is_a_template_with_the_dashboard_in_it(tmp_path):
    path = tmp_path / "app.yml"
    path.write_text(infra.template(), encoding="utf-8")
    command = [sys.executable, "-c", "from cfnlint.runner import main; main()", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    body = yaml_parse(path.read_text(encoding="utf-8"))["Resources"]["Dashboard"]["Properties"]["DashboardBody"]
    numbers = {"ReviewRateLimit", "ReviewExcess"}
    text = re.sub(r"\$\{(\w+)\}", lambda said: "0.5" if said[1] in numbers else said[0], body["Fn::Sub"])
    deployed = json.loads(text)  # a number that stood in quotation marks would be text to CloudWatch
    values = [
        line["value"]
        for widget in deployed["widgets"]
        for line in widget["properties"].get("annotations", {}).get("horizontal", [])
    ]
    assert len(values) > 10 and all(isinstance(value, int | float) for value in values)
    assert len(deployed["widgets"]) == len(CLOUDWATCH["widgets"]) < 500
    assert len(path.read_bytes()) < 1_000_000


def test_a_template_without_the_place_of_the_dashboard_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "app.yml"
    path.write_text("Resources: {}\n")
    monkeypatch.setattr(infra, "TEMPLATE", path)
    with pytest.raises(infra.PlatformError, match="has 0 lines that begin with DashboardBody"):
        infra.template()


# ------------------------------------------------------------------------------------------------ Grafana


def test_grafana_is_told_no_account_and_no_data_source():
    text = json.dumps(GRAFANA)
    assert not re.search(r"arn:aws|\b\d{12}\b|eu-west-1|us-east-1", text)
    sources = set(re.findall(r'"uid": "([^"]+)"', text))
    assert sources == {"${datasource}"} and "uid" not in GRAFANA and GRAFANA["id"] is None


def test_grafanas_variables_are_those_that_are_used():
    declared = [variable["name"] for variable in GRAFANA["templating"]["list"]]
    used = set(re.findall(r"\$\{?(\w+)\b(?!\()", json.dumps(GRAFANA)))
    assert used == set(declared) and len(declared) == len(used)
    assert declared[:2] == ["datasource", "region"]  # the others are asked for there


def test_grafana_can_tell_queries_and_panels_apart():
    numbers = [panel["id"] for panel in GRAFANA["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in GRAFANA["panels"]:
        targets = panel.get("targets", [])
        for name in ("refId", "id"):
            assert len({target[name] for target in targets}) == len(targets)
        assert all(re.fullmatch(r"[a-z][a-zA-Z0-9_]*", target["id"]) for target in targets)


def test_the_verdict_is_one_row_of_states():
    (panel,) = [panel for panel in GRAFANA["panels"] if panel["type"] == "state-timeline"]
    *hidden, shown = panel["targets"]
    assert all(target["hide"] for target in hidden) and not shown["hide"]
    weights = {name: int(k) for k, name in re.findall(r"(\d+) \* (\w+)", shown["expression"])}
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    for target in hidden:
        said = mapping["options"][str(weights[target["id"]])]["text"]
        assert said == target["label"]
    assert len(weights) == len(hidden) == len(VERDICTS)


# ------------------------------------------------------------------------------------------------ alarms


def test_every_alarm_is_read():
    assert [alarm.logical for alarm in alarms()] == list(ALARMS)


@pytest.mark.parametrize("alarm", alarms(), ids=lambda alarm: alarm.logical)
def test_an_alarm_watches_what_is_written_and_shown(alarm, written):
    metric = alarm.metric
    assert metric.name in written.get((metric.namespace, frozenset(metric.dimensions)), set())
    shown = [
        (panel, one)
        for panel in PANELS
        for one in panel.metrics
        if (one.namespace, one.name, one.dimensions) == (metric.namespace, metric.name, metric.dimensions)
    ]
    assert shown, f"{alarm.logical} watches {metric.name}, which is on no panel"
    drawn = [panel for panel, one in shown if one.stat == metric.stat and panel.kind != "states"]
    for panel in drawn:
        (widget,) = [w for w in CLOUDWATCH["widgets"] if w["properties"].get("title") == panel.title]
        (chart,) = [p for p in GRAFANA["panels"] if p["title"] == panel.title]
        lines = {line["label"]: line["value"] for line in widget["properties"]["annotations"]["horizontal"]}
        wanted = f"${{{alarm.parameter}}}" if alarm.parameter else alarm.threshold
        assert lines[f"alarm {alarm.name}"] == wanted
        assert alarm.threshold in [step["value"] for step in chart["fieldConfig"]["defaults"]["thresholds"]["steps"]]
    assert drawn or metric.stat == "SampleCount" or metric.name in ("Drift", "MissingCapture", "SchemaChanged")


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_tells_people_something_that_they_understand(name):
    said = ALARMS[name]
    told_by_the_check = name in ("DriftAlarm", "MissingCaptureAlarm", "SchemaChangedAlarm")  # with what to do
    assert said["OKActions" if told_by_the_check else "AlarmActions"] == [{"Ref": "AlarmTopic"}]
    assert ("AlarmActions" in said) != told_by_the_check
    assert re.fullmatch(r"[A-Z][^\n]{40,300}\.", said["AlarmDescription"])


def test_the_alarm_widget_shows_them_all():
    (widget,) = [widget for widget in CLOUDWATCH["widgets"] if widget["type"] == "alarm"]
    assert widget["properties"]["alarms"] == [f"${{{name}.Arn}}" for name in ALARMS]


def test_what_no_datum_means_is_decided_for_each_alarm():
    """A count of failures is quiet when nobody calls; the drift check's last word holds; its silence rings."""
    last_word = "Drift MissingCapture SchemaChanged CaptureRatio Unreadable DriftDuration".split()
    wanted = dict.fromkeys(ALARMS, "notBreaching") | {f"{name}Alarm": "ignore" for name in last_word}
    wanted["DriftSilenceAlarm"] = "breaching"
    assert {name: said["TreatMissingData"] for name, said in ALARMS.items()} == wanted
    for name, said in ALARMS.items():
        checks = said["Namespace"] == "Fraud/Drift"
        assert (said["TreatMissingData"] == "notBreaching") != checks, name


def test_a_check_is_slow_at_four_fifths_of_the_time_that_it_has():
    limit = RESOURCES["DriftCheck"]["Properties"]["Timeout"]
    assert ALARMS["DriftDurationAlarm"]["Threshold"] == 0.8 * limit, f"it must be {0.8 * limit:g} at {limit} s"


def test_a_failed_retraining_is_told_in_a_sentence():
    rule = RESOURCES["PipelineFailed"]["Properties"]
    pattern, (target,) = rule["EventPattern"], rule["Targets"]
    assert pattern["source"] == ["aws.codepipeline"]
    assert pattern["detail-type"] == ["CodePipeline Pipeline Execution State Change"]
    assert pattern["detail"] == {"pipeline": [{"Ref": "PipelineName"}], "state": ["FAILED"]}
    said = target["InputTransformer"]
    assert target["Arn"] == {"Ref": "AlarmTopic"}
    assert set(re.findall(r"<(\w+)>", said["InputTemplate"])) == set(said["InputPathsMap"])
    assert json.loads(said["InputTemplate"]).endswith(".")
    policy = RESOURCES["AlarmTopicPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    (events,) = [item for item in policy if item["Principal"] == {"Service": "events.amazonaws.com"}]
    assert (events["Effect"], events["Action"]) == ("Allow", "sns:Publish")
    assert "Condition" not in events  # EventBridge fulfils none there, and what is not allowed is lost in silence


def test_the_page_for_people_names_each_alarm():
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \|", page.split("## Alarms")[1].split("\n## ")[0], re.MULTILINE)
    assert sorted(rows) == sorted(alarm.name for alarm in alarms())
    assert "`PipelineFailed`" in page
    metrics = " ".join(re.findall(r"^\| (`.+?`) \|", page.split("## Metrics")[1], re.MULTILINE))
    shown = {metric.name for panel in PANELS for metric in panel.metrics if metric.namespace == "Fraud/Drift"}
    assert set(re.findall(r"`(\w+)`", metrics)) == shown
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page):
        assert (ROOT / "docs" / link).exists(), link


# ------------------------------------------------------------------------------------------------ the page


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
    (panel,) = [panel for panel in PANELS if panel.title == "Score, by model"]
    assert [one.label for one in dashboard_page.filled(panel.metrics[0], NAMES)] == ["one", "two"]


def test_a_check_that_is_missing_is_a_gap():
    import matplotlib.pyplot as plt

    (panel,) = [panel for panel in PANELS if panel.kind == "states"]
    hours = [NOW - dt.timedelta(hours=hour) for hour in (5, 4, 2, 1)]
    figure, ax = plt.subplots()
    dashboard_page.plot_panel(panel, [("ok", "green", hours, [1.0] * 4)], NOW - dt.timedelta(hours=6), NOW, ax)
    edges = [box.get_paths()[0].get_extents().intervalx for box in ax.collections]
    assert [round(24 * float(right - left), 2) for left, right in edges] == [1.0, 1.0, 1.0, 1.0]
    plt.close(figure)


def test_the_page_holds_everything_itself(cloudwatch, tmp_path):
    cloudwatch.put_metric_alarm(
        AlarmName="fraud-here-drift",
        AlarmDescription="Payments <changed>.",
        MetricName="Drift",
        Namespace="Fraud/Drift",
        Statistic="Maximum",
        Period=300,
        EvaluationPeriods=1,
        Threshold=1.0,
        ComparisonOperator="GreaterThanOrEqualToThreshold",
    )
    cloudwatch.set_alarm_state(AlarmName="fraud-here-drift", StateValue="ALARM", StateReason="test")
    page = dashboard_page.write(tmp_path / "new" / "page.html", NAMES, 24, NOW).read_text(encoding="utf-8")
    assert "1 of 1 alarms ring:</b> fraud-here-drift." in page and "Payments &lt;changed&gt;." in page
    assert page.count("data:image/png;base64,") == len(SECTIONS)
    assert not re.search(r"<script|https?://|<link|\son\w+=", page)
    for panel in PANELS:
        assert f"<dt>{panel.title}</dt>" in page


def test_limits_of_a_parameter_are_its_default():
    found = [limit for panel in PANELS for limit in limits(panel) if limit[2]]
    defaults = yaml_parse((ROOT / "infra" / "app.yml").read_text(encoding="utf-8"))["Parameters"]
    assert {(value, name) for _, value, name in found} == {
        (defaults[name]["Default"], name) for name in ("ReviewRateLimit", "ReviewExcess")
    }
