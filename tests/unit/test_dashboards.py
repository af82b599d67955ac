"""Dashboards and alarms: they show and watch what the product writes, agree with each other, and tell people."""

import ast
import importlib.util
import itertools
import json
import re
import sys
from pathlib import Path

import pytest
from samtranslator.yaml_helper import yaml_parse

from fraud.errors import PlatformError
from fraud.pipeline import dashboard_files, templates
from fraud.pipeline.alarms import alarms, limits
from fraud.pipeline.dashboards import SECTIONS
from fraud.pipeline.strategies import CHALLENGER, VARIANT
from fraud.verdict import VERDICTS

ROOT = Path(__file__).resolve().parents[2]
CLOUDWATCH = json.loads((ROOT / "infra" / "dashboards" / "cloudwatch.json").read_text(encoding="utf-8"))
GRAFANA = json.loads((ROOT / "infra" / "dashboards" / "grafana.json").read_text(encoding="utf-8"))
RESOURCES = yaml_parse((ROOT / "infra" / "app.yml").read_text(encoding="utf-8"))["Resources"]
ALARMS = {name: item["Properties"] for name, item in RESOURCES.items() if item["Type"] == "AWS::CloudWatch::Alarm"}
PANELS = [panel for section in SECTIONS for panel in section.panels]
MILDEST_FIRST = ["ok", "too few payments", "nothing captured", "schema changed", "drift"]
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
            if row[0] == options and not options["expression"].startswith("SEARCH"):
                continue  # made of metrics that stand in rows of their own
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
        "VariantName": {VARIANT, CHALLENGER},
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


def test_what_is_deployed_is_a_template_with_the_dashboard_in_it():
    body = json.loads(templates.app())["Resources"]["Dashboard"]["Properties"]["DashboardBody"]
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


def test_a_template_without_the_place_of_the_dashboard_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "app.yml"
    path.write_text("Resources: {}\n")
    monkeypatch.setattr(templates, "APP", path)
    with pytest.raises(PlatformError, match="has 0 dashboards"):
        templates.app()


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
    (mapping,) = panel["fieldConfig"]["defaults"]["mappings"]
    assert len(hidden) == len(VERDICTS)

    def said(*labels):
        values = {target["id"]: float(target["label"] in labels) for target in hidden}
        return mapping["options"][f"{eval(shown['expression'], {'MAX': max}, values):g}"]["text"]

    for mild, bad in itertools.combinations(MILDEST_FIRST, 2):
        assert (said(mild), said(bad), said(mild, bad)) == (mild, bad, bad)


def test_cloudwatch_shows_one_verdict_at_a_time():
    (widget,) = [widget["properties"] for widget in CLOUDWATCH["widgets"] if widget["properties"].get("stacked")]
    hidden = [row[-1] for row in widget["metrics"] if len(row) > 1]
    shown = [row[0] for row in widget["metrics"] if len(row) == 1]
    assert [one["visible"] for one in hidden] == [False] * len(VERDICTS)
    assert [one["label"] for one in shown] == MILDEST_FIRST
    names = dict(zip(MILDEST_FIRST, (one["id"] for one in hidden), strict=True))

    def said(*labels):
        values = {name: float(label in labels) for label, name in names.items()}
        return [one["label"] for one in shown if eval(one["expression"], {}, values) == 1.0]

    for mild, bad in itertools.combinations(MILDEST_FIRST, 2):
        assert (said(mild), said(bad), said(mild, bad)) == ([mild], [bad], [bad])


def test_periods_stay_what_they_are_whatever_time_is_shown():
    """The body's documented fields; left to itself the console adapts periods, and sums outgrow their thresholds."""
    assert CLOUDWATCH.keys() == {"start", "periodOverride", "widgets"}
    assert (CLOUDWATCH["start"], CLOUDWATCH["periodOverride"]) == ("-P7D", "inherit")
    for widget in CLOUDWATCH["widgets"]:
        assert widget["type"] != "metric" or widget["properties"]["period"] > 0
    for panel in GRAFANA["panels"]:
        assert all(int(target["period"]) > 0 for target in panel.get("targets", []))


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


def test_a_drift_is_over_when_no_check_of_a_day_has_found_it():
    said = ALARMS["DriftAlarm"]
    assert (said["Period"] * said["EvaluationPeriods"], said["DatapointsToAlarm"]) == (86_400, 1)


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


def test_a_challenger_is_held_to_the_limits_of_the_champion():
    """SageMaker counts by variant, so an alarm sees one; only the first two of these roll a deployment back."""
    for mine, theirs in (("ServerErrorAlarm", "ChallengerErrorAlarm"), ("LatencyAlarm", "ChallengerLatencyAlarm")):
        own = ("AlarmName", "AlarmDescription", "Dimensions")
        same = [{key: value for key, value in ALARMS[name].items() if key not in own} for name in (mine, theirs)]
        assert same[0] == same[1]
        named = ({one["Name"]: one["Value"] for one in ALARMS[name]["Dimensions"]} for name in (mine, theirs))
        endpoint = {"EndpointName": {"Ref": "EndpointName"}}
        assert list(named) == [endpoint | {"VariantName": VARIANT}, endpoint | {"VariantName": CHALLENGER}]


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


def test_limits_of_a_parameter_are_its_default():
    found = [limit for panel in PANELS for limit in limits(panel) if limit[2]]
    defaults = yaml_parse((ROOT / "infra" / "app.yml").read_text(encoding="utf-8"))["Parameters"]
    assert {(value, name) for _, value, name in found} == {
        (defaults[name]["Default"], name) for name in ("ReviewRateLimit", "ReviewExcess")
    }
