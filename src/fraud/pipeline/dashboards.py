"""What the dashboards show: five questions, their panels, their metrics. Stands here once.

`fraud.pipeline.dashboard_files` makes CloudWatch's and Grafana's files of it, `fraud.pipeline.dashboard_page` draws it.
Thresholds come from the alarms of ``infra/app.yml`` (`fraud.pipeline.alarms`): a line on a panel is what one watches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

RED, AMBER, GREEN, BLUE, GREY, PURPLE = "#c0392b", "#d98e04", "#2e8b57", "#2f6fb5", "#8a94a0", "#7d5ba6"
HOUR = 3600


@dataclass(frozen=True)
class Metric:
    """One line of a panel.

    Attributes
    ----------
    namespace, name : str
        Of the metric.
    dimensions : mapping of str to str
        Values may hold ``{endpoint}``, ``{pipeline}`` and ``{queue}``.
    stat : str
        CloudWatch's name: ``Sum``, ``Average``, ``p50`` …
    label : str
        In the legend.
    color : str
        Empty leaves it to who draws.
    each : str
        A dimension whose every value becomes a line of its own; then `dimensions` holds the others.
    """

    namespace: str
    name: str
    dimensions: Mapping[str, str]
    stat: str
    label: str
    color: str = ""
    each: str = ""


@dataclass(frozen=True)
class Panel:
    """One chart.

    Attributes
    ----------
    title : str
        What it shows, without its unit.
    meaning : str
        A sentence for who reads it the first time.
    metrics : tuple of Metric
        Its lines.
    unit : str
        ``count``, ``ms``, ``us``, ``s``, ``share`` (0 to 1) or ``""``.
    period : int
        Seconds that one point stands for.
    lines : mapping of str to float or str
        Thresholds without an alarm, by label; a text is a parameter of ``infra/app.yml``.
    kind : str
        ``lines``; ``bars`` for events to be counted; ``states`` for metrics of which one is 1 at a time. States stand
        from the mildest to the worst: where a point holds several, the worst is shown.
    width : int
        In a grid of 24.
    """

    title: str
    meaning: str
    metrics: tuple[Metric, ...]
    unit: str = ""
    period: int = 300
    lines: Mapping[str, float | str] = field(default_factory=dict)
    kind: str = "lines"
    width: int = 8


@dataclass(frozen=True)
class Section:
    """A question and the panels that answer it."""

    question: str
    panels: tuple[Panel, ...]


def _endpoint(name: str, stat: str, label: str, color: str = "", variant: str = "AllTraffic") -> Metric:
    named = {"EndpointName": "{endpoint}"}
    if variant == "each":
        return Metric("AWS/SageMaker", name, named, stat, label, color, each="VariantName")
    return Metric("AWS/SageMaker", name, named | {"VariantName": variant}, stat, label, color)


def _gateway(name: str, stat: str, label: str, color: str = "") -> Metric:
    return Metric("AWS/ApiGateway", name, {"ApiName": "fraud-{endpoint}", "Stage": "live"}, stat, label, color)


def _function(function: str, name: str, stat: str, label: str, color: str = "") -> Metric:
    return Metric("AWS/Lambda", name, {"FunctionName": f"fraud-{{endpoint}}-{function}"}, stat, label, color)


def _api(name: str, stat: str, label: str, color: str = "", each: str = "") -> Metric:
    return Metric("Fraud/Api", name, {"Service": "inference", "Endpoint": "{endpoint}"}, stat, label, color, each)


def _check(name: str, stat: str, label: str, color: str = "") -> Metric:
    return Metric("Fraud/Drift", name, {"EndpointName": "{endpoint}"}, stat, label, color)


def _pipeline(name: str, stat: str, label: str, color: str = "") -> Metric:
    return Metric("AWS/CodePipeline", name, {"PipelineName": "{pipeline}"}, stat, label, color)


def _build(name: str, stat: str, label: str, color: str = "") -> Metric:
    return Metric("AWS/CodeBuild", name, {"ProjectName": "{pipeline}-run"}, stat, label, color)


SECTIONS = (
    Section(
        "Is it answering?",
        (
            Panel(
                "Requests at the API",
                "What the gateway was asked, and what ended with an error of the caller or of ours.",
                (
                    _gateway("Count", "Sum", "requests", BLUE),
                    _gateway("4XXError", "Sum", "caller's errors", AMBER),
                    _gateway("5XXError", "Sum", "our errors", RED),
                ),
                "count",
            ),
            Panel(
                "Requests in the Lambda",
                "The same behind the gateway: without what it refused by itself.",
                (
                    _api("Requests", "Sum", "requests", BLUE),
                    _api("ClientErrors", "Sum", "caller's errors", AMBER),
                    _api("ServerErrors", "Sum", "our errors", RED),
                ),
                "count",
            ),
            Panel(
                "Calls of the endpoint",
                "Calls by variant, and errors. During an A/B test a challenger answers too.",
                (
                    _endpoint("Invocations", "Sum", "calls", variant="each"),
                    _endpoint("Invocation4XXErrors", "Sum", "caller's errors", AMBER),
                    _endpoint("Invocation5XXErrors", "Sum", "model's errors", RED),
                    _endpoint("Invocation4XXErrors", "Sum", "challenger's 4xx", GREY, "Challenger"),
                    _endpoint("Invocation5XXErrors", "Sum", "challenger's 5xx", PURPLE, "Challenger"),
                ),
                "count",
            ),
            Panel(
                "Time of the API",
                "What a caller waits, and what of that is the Lambda's.",
                (
                    _gateway("Latency", "p50", "p50", BLUE),
                    _gateway("Latency", "p99", "p99", RED),
                    _gateway("IntegrationLatency", "p99", "p99 in the Lambda", GREY),
                ),
                "ms",
                width=6,
            ),
            Panel(
                "Time in the Lambda",
                "Of a whole request, and of that waiting for the model.",
                (
                    _api("Latency", "p50", "p50", BLUE),
                    _api("Latency", "p99", "p99", RED),
                    _api("ModelLatency", "p99", "p99 waiting for the model", GREY),
                ),
                "ms",
                width=6,
            ),
            Panel(
                "Time of the model",
                "In the container, and what SageMaker adds.",
                (
                    _endpoint("ModelLatency", "p50", "p50", BLUE),
                    _endpoint("ModelLatency", "p90", "p90", AMBER),
                    _endpoint("ModelLatency", "p99", "p99", RED),
                    _endpoint("ModelLatency", "p90", "p90 of a challenger", PURPLE, "Challenger"),
                    _endpoint("OverheadLatency", "p99", "p99 of the overhead", GREY),
                ),
                "us",
                width=6,
            ),
            Panel(
                "Turned away or failed",
                "Throttled and failed invocations of the inference Lambda.",
                (
                    _function("inference", "Throttles", "Sum", "throttled", AMBER),
                    _function("inference", "Errors", "Sum", "failed", RED),
                ),
                "count",
                kind="bars",
                width=6,
            ),
        ),
    ),
    Section(
        "What does it say?",
        (
            Panel(
                "Score",
                "Distribution of the fraud probability over all transactions.",
                (
                    _api("Score", "p50", "p50", BLUE),
                    _api("Score", "p90", "p90", AMBER),
                    _api("Score", "p99", "p99", RED),
                ),
                "share",
                width=12,
            ),
            Panel(
                "Score, by model",
                "Median of each model version that answers: champion and challenger side by side.",
                (_api("Score", "p50", "p50", each="ModelVersion"),),
                "share",
                width=12,
            ),
            Panel(
                "Sent to review",
                "Share of all transactions, and of those that another model than the released one answered.",
                (
                    _api("Review", "Average", "all", BLUE),
                    _api("CandidateReview", "Average", "model being deployed", AMBER),
                ),
                "share",
                lines={"limit of a model being deployed": "ReviewRateLimit"},
            ),
            Panel(
                "Sent to review, by model",
                "Share of the transactions that each model version answered.",
                (_api("Review", "Average", "share", each="ModelVersion"),),
                "share",
            ),
            Panel(
                "Reviews beyond the limit",
                "Of a model being deployed: transactions sent to review, less those that the limit allows.",
                (_api("CandidateExcess", "Sum", "reviews too many", AMBER),),
                "count",
                60,
            ),
        ),
    ),
    Section(
        "Has the world moved?",
        (
            Panel(
                "Verdict",
                "Of each drift check; where a point holds several, the worst. A gap is a time without a check.",
                (
                    _check("Ok", "Maximum", "ok", GREEN),
                    _check("InsufficientData", "Maximum", "too few payments", GREY),
                    _check("MissingCapture", "Maximum", "nothing captured", AMBER),
                    _check("SchemaChanged", "Maximum", "schema changed", PURPLE),
                    _check("Drift", "Maximum", "drift", RED),
                ),
                period=HOUR,
                kind="states",
                width=24,
            ),
            Panel(
                "Strongest drift",
                "Score of the strongest rule as a share of its threshold; the signal is 1 when a rule fires.",
                (_check("TopScore", "Maximum", "strongest rule", BLUE), _check("Signal", "Maximum", "signal", AMBER)),
                period=HOUR,
                lines={"threshold": 1.0},
            ),
            Panel(
                "Drift of the score",
                "Population stability index of the model's answers against those of training.",
                (_check("ScorePsi", "Maximum", "PSI", BLUE),),
                period=HOUR,
            ),
            Panel(
                "Sent to review, in the window",
                "Share over the whole window that the drift check judged.",
                (_check("ReviewRate", "Average", "share", BLUE),),
                "share",
                HOUR,
            ),
            Panel(
                "Payments in the window",
                "Judged; dropped because they came twice; left out by the cap on one caller's share.",
                (
                    _check("Records", "Maximum", "judged", BLUE),
                    _check("Repeated", "Maximum", "repeated", GREY),
                    _check("Capped", "Maximum", "capped", AMBER),
                ),
                "count",
                HOUR,
            ),
            Panel(
                "Captured share",
                "Captured payments against calls of the endpoint. Below 1 something is not seen.",
                (_check("CaptureRatio", "Minimum", "captured / called", BLUE),),
                "share",
                HOUR,
            ),
            Panel(
                "Unreadable lines",
                "Captured lines that could not be read; they count in no verdict.",
                (_check("Unreadable", "Maximum", "lines", RED),),
                "count",
                HOUR,
                kind="bars",
            ),
        ),
    ),
    Section(
        "Is it right?",
        (
            Panel(
                "Fraud among payments with known outcome",
                "From the ground truth that has arrived, so of payments weeks ago.",
                (_check("TruthFraudRate", "Average", "fraud rate", BLUE),),
                "share",
                HOUR,
                width=12,
            ),
            Panel(
                "Frauds that went to review",
                "Recall on the ground truth that has arrived.",
                (_check("TruthRecall", "Average", "recall", BLUE),),
                "share",
                HOUR,
                width=12,
            ),
        ),
    ),
    Section(
        "What did the loop do?",
        (
            Panel(
                "Retrainings",
                "Started by the drift check; runs of the pipeline, whoever started them; failed runs.",
                (
                    _check("RetrainingStarted", "Sum", "started by drift", BLUE),
                    _build("Builds", "Sum", "runs", GREY),
                    _pipeline("FailedPipelineExecutions", "Sum", "failed", RED),
                ),
                "count",
                HOUR,
                kind="bars",
                width=6,
            ),
            Panel(
                "Time of a retraining",
                "From the start of the pipeline to its end.",
                (_pipeline("PipelineDuration", "Maximum", "pipeline", BLUE),),
                "s",
                HOUR,
                width=6,
            ),
            Panel(
                "Time of a drift check",
                "Past the Lambda's limit a check is ended without a verdict.",
                (_check("Seconds", "Maximum", "check", BLUE),),
                "s",
                HOUR,
                width=6,
            ),
            Panel(
                "Lost drift checks",
                "Failed invocations; events in the queue of what was given up.",
                (
                    _function("drift-check", "Errors", "Sum", "failed", RED),
                    Metric(
                        "AWS/SQS",
                        "ApproximateNumberOfMessagesVisible",
                        {"QueueName": "{queue}"},
                        "Maximum",
                        "given up",
                        AMBER,
                    ),
                ),
                "count",
                HOUR,
                kind="bars",
                width=6,
            ),
        ),
    ),
)
