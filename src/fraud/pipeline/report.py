"""What the drift report is made of: the verdict that the trigger used, and what lies behind it.

The verdict is not made a second time: the drift check's own object is read. Only when there is none yet, or when asked
to look at this very moment, the same code judges the window here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from fraud import drift
from fraud.errors import DataError
from fraud.moment import iso, seconds
from fraud.pipeline import scored
from fraud.pipeline.releases import read_release
from fraud.pipeline.report_governor import HERE
from fraud.pipeline.report_money import Costs, costs_of
from fraud.pipeline.runs import Run, now
from fraud.pipeline.strategies import VARIANT
from fraud.pipeline.verdict_view import modern, summary_of
from fraud.plaintext import count
from fraud.precision import SINGLE, last_of_cell
from fraud.schema import Schema
from fraud.verdict import JUDGED
from fraud.window import stored_window

CHECKS = 48  # stored verdicts before this one, for the course of things
DECISIONS = 24  # of the governor, the newest
PAYMENTS = 500_000  # of the window looked at one by one, the newest
CHECK = "the drift check"


@dataclass
class Traffic:
    """Payments of the window one by one, as far as money and truth need them; four columns of one length.

    Attributes
    ----------
    time, score, amount : list of float
        Seconds since 1970; score; size of the amount, NaN where there is none.
    inference_id : list of str
    """

    time: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    amount: list[float] = field(default_factory=list)
    inference_id: list[str] = field(default_factory=list)


@dataclass
class Findings:
    """A verdict and what it was made of.

    Attributes
    ----------
    verdict : dict
        The verdict object, in the form of schema version 2.
    source : str
        ``the drift check`` when it was read, ``this report`` when it was made here.
    baseline : dict
        Of the model the verdict speaks of.
    sketch : Sketch
        Live counts of the window.
    threshold : float
        Score at or above which a payment is reviewed.
    traffic : Traffic
        The window's payments.
    truth : dict
        By inference id what is known of payments since the window began.
    costs : Costs or None
        What reviews and missed frauds cost, as the model's training had it; None when that is not stored.
    importance : dict of str to float
        Share of the model's gain by feature; empty when it is not stored.
    checks : list of dict
        Summaries of the checks up to this one, the oldest first.
    decisions : list of dict
        The governor's records, the newest first.
    state : dict or None
        The governor's state.
    champion : str
        How the model compared with the one before it when it was trained; empty where that is not stored.
    sampled : float
        Share of the payments that is captured.
    """

    verdict: dict[str, Any]
    source: str
    baseline: dict[str, Any]
    sketch: drift.Sketch
    threshold: float
    traffic: Traffic = field(default_factory=Traffic)
    truth: dict[str, Any] = field(default_factory=dict)
    costs: Costs | None = None
    importance: dict[str, float] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    state: dict[str, Any] | None = None
    champion: str = ""
    sampled: float = 1.0

    @property
    def span(self) -> float:
        """Length of the window (seconds)."""
        window = self.verdict["window"]
        return max(0.0, seconds(window["end"]) - seconds(window["start"]))

    @property
    def payments(self) -> float:
        """Payments that were made: a caller may count for less than it sent, and only a part may be captured."""
        return (self.verdict["n"] + self.verdict.get("capped", 0)) / self.sampled

    @property
    def judged(self) -> bool:
        """Whether there was enough to judge."""
        return self.verdict["verdict"] in JUDGED


def verdict_keys(run: Run, endpoint_name: str) -> list[str]:
    """Keys of all stored verdicts, the oldest first."""
    return list(run.storage.list_keys(f"drift/{endpoint_name}/verdicts/"))


def find(run: Run, p: SimpleNamespace) -> Findings:
    """Read the newest verdict and the window it speaks of, or judge the present window.

    Parameters
    ----------
    run : Run
        For its bucket.
    p : SimpleNamespace
        Parameters of 04_drift_report.

    Returns
    -------
    Findings

    Raises
    ------
    DataError
        When nothing is deployed.
    """
    release = read_release(run, p.endpoint_name)
    if release is None:
        raise DataError(f"Nothing is deployed at {p.endpoint_name}: run notebooks/03_deploy.ipynb first.")
    keys = verdict_keys(run, p.endpoint_name)[-CHECKS - 1 :]
    stored = [dict(run.storage.read_json(key)) for key in keys]
    verdict = stored[-1] if stored and p.verdict == "latest" else None
    model_version = verdict["model_version"] if verdict and verdict["model_version"] else release["model_version"]
    folder = f"releases/{p.endpoint_name}/{model_version}"
    baseline = run.storage.read_json(f"{folder}/baseline.json")
    schema = Schema.from_json(run.storage.get(f"{folder}/schema.json"))
    released = run.storage.read_json(f"{folder}/release.json", default=None) or release
    if verdict:
        start, end = seconds(verdict["window"]["start"]), seconds(verdict["window"]["end"])
    else:
        end = now().timestamp()
        start = max(end - 3600 * p.window_hours, seconds(released["released_at"]))
    policy = verdict["policy"] if verdict else vars(p)
    window = stored_window(
        run.storage.list_keys,
        run.storage.get,
        p.endpoint_name,
        model_version,
        start,
        end,
        baseline,
        schema,
        variants=[VARIANT],
        max_caller_share=policy.get("max_caller_share", 1.0),
        enough=policy.get("min_records", 1),
        usual=(verdict or {}).get("usual_callers"),
    )
    if not (read := verdict is not None):
        verdict = drift.judge(
            baseline,
            window.sketch,
            vars(p),
            (start, end),
            p.endpoint_name,
            end,
            unreadable=window.unreadable,
            skipped=window.skipped,
            repeated=window.repeated,
            capped=window.capped,
            notes=window.notes,
            previous=[bool(modern(one)["signal"]) for one in reversed(stored)],
        )
        stored.append(verdict)
    assert verdict is not None
    metrics = run.storage.read_json(f"runs/{released['run_id']}/metrics.json", default={})
    return Findings(
        verdict=modern(verdict),
        source=CHECK if read else HERE,
        baseline=baseline,
        sketch=window.sketch,
        threshold=float(released["decision_threshold"]),
        traffic=_traffic(run, p.endpoint_name, (start, end), schema, model_version),
        truth=scored.truth(run.storage, released.get("label_columns")),
        costs=costs_of(metrics),
        importance=_importance(verdict, metrics),
        checks=[summary_of(one) for one in stored],
        decisions=_decisions(run, p.endpoint_name),
        state=run.storage.read_json(f"locks/drift/{p.endpoint_name}.json", default=None),
        champion=_champion(metrics),
        sampled=float(released.get("capture_percentage", 100)) / 100,
    )


def _traffic(run: Run, endpoint: str, window: tuple[float, float], schema: Schema, model_version: str) -> Traffic:
    """The newest payments of the window that the model answered, each once however often it was delivered."""
    found, amount, seen = Traffic(), schema.roles.get("amount", ""), set()
    for record in scored.records(run.storage, endpoint, *window, schema):
        if record.model_version not in ("", model_version) or record.inference_id in seen:
            continue
        seen.add(record.inference_id)
        value = record.transaction.get(amount)
        plain = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15
        found.time.append(record.time)
        found.score.append(float(record.fraud_probability or 0.0))
        found.amount.append(abs(float(value)) if plain and value is not None else math.nan)
        found.inference_id.append(record.inference_id)
        if len(found.time) == PAYMENTS:
            break
    return found


def _importance(verdict: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, float]:
    """Share of the model's gain: as the verdict has it, else as training measured it."""
    found = {r["feature"]: float(r["importance"]) for r in verdict["rules"] if r.get("importance") is not None}
    if found:
        return found
    gains = {entry["feature"]: float(entry["gain"]) for entry in metrics.get("importance", [])}
    total = sum(gains.values())
    return {name: gain / total for name, gain in gains.items()} if total > 0 else {}


def _champion(metrics: Mapping[str, Any]) -> str:
    """How a model did against the one that was in service when it was trained, on the same later rows."""
    if "auc" not in metrics:
        return ""
    change = (metrics.get("comparison") or {}).get("auc")
    if not change or metrics.get("champion_auc") is None:
        return "The model that answered was the first one: when it was trained, there was none to compare it with."
    low, high = change["low"], change["high"]
    better = "better than" if low > 0 else "worse than" if high < 0 else "not surely different from"
    return (
        f"When the model that answered was trained, it was {better} the one before it: AUC ROC {metrics['auc']:.3f} "
        f"against {metrics['champion_auc']:.3f} on the same later rows, {change['difference']:+.3f} (95 % interval "
        f"{low:+.3f} to {high:+.3f})."
    )


def _decisions(run: Run, endpoint: str) -> list[dict[str, Any]]:
    """The newest records of the governor; each names its own moment and reasons."""
    keys = list(run.storage.list_keys(f"drift/{endpoint}/decisions/"))[-DECISIONS:]
    found = []
    for key in reversed(keys):
        day, name = "-".join(key.split("/")[3:6]), key.rsplit("/", 1)[-1].removesuffix(".json")
        clock, _, reason = name.partition("-")
        moment = f"{day}T{clock[:2]}:{clock[2:4]}:{clock[4:6]}Z"
        found.append({"moment": moment, "reasons": [reason]} | dict(run.storage.read_json(key)))
    return found


def review_rates(findings: Findings) -> tuple[float, float | None]:
    """Share sent to review at training and in the window; the latter None without payments."""
    said = findings.verdict.get("review_rate") or {}
    before, after = said.get("reference"), said.get("current")
    if before is None and findings.costs:
        before = findings.costs.review_rate
    if before is None:
        score = findings.baseline["score"]
        bins = zip([*score["edges"], 1.0], score["counts"], strict=True)
        end = last_of_cell(findings.threshold, SINGLE)  # where a bin that ends at the threshold ends
        before = sum(n for edge, n in bins if edge > end) / max(1, sum(score["counts"]))
    if after is None and (scores := findings.traffic.score):
        after = sum(score >= findings.threshold for score in scores) / len(scores)
    return float(before), after


def describe(findings: Findings) -> str:
    """Where the verdict comes from and what it covers, in one sentence."""
    verdict, minutes = findings.verdict, findings.span / 60
    span = f"{minutes / 60:.1f} hours" if minutes >= 120 else count(max(1, round(minutes)), "minute")
    left = [
        f"{verdict[name]:,} {words}"
        for name, words in (
            ("skipped", "of other models or tests"),
            ("repeated", "delivered twice"),
            ("capped", "beyond what one caller may weigh"),
            ("unreadable", "unreadable"),
        )
        if verdict.get(name)
    ]
    return (
        f"{count(verdict['n'], 'payment')} of endpoint {verdict['endpoint']}, answered by model "
        f"{verdict['model_version']} in {span}, {_second(verdict['window']['start'])} to "
        f"{_second(verdict['window']['end'])}; judged by {findings.source} at {_second(verdict['computed_at'])}."
        + (f" Left out: {', '.join(left)}." if left else "")
    )


def _second(moment: str) -> str:
    return f"{iso(moment)[:19]}Z"


def panels(findings: Findings, names: Sequence[str]) -> list[dict[str, Any]]:
    """Share of rows per bin, trained and live, of the score and of some features.

    Returns
    -------
    list of dict
        As `fraud.pipeline.plots.plot_distributions` takes them.
    """
    # The edges of the scores are given: none stands for the least of them.
    made = [_number_panel("score", findings.baseline["score"] | {"min": None}, findings.sketch.score)]
    for name in names:
        reference, current = findings.baseline["features"].get(name), findings.sketch.features.get(name)
        if reference is None or current is None:
            continue
        make = _number_panel if reference["type"] == "number" else _category_panel
        made.append(make(name, reference, current))
    return made


def _shares(counts: Sequence[float]) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]


def _number_panel(name: str, reference: Mapping[str, Any], current: Any) -> dict[str, Any]:
    labels = _bin_labels(reference) + ["more", "missing"]
    return {
        "feature": name,
        "labels": labels,
        "reference": _shares([*reference["counts"], reference["missing"]]),
        "current": _shares([*current.counts, current.missing]),
    }


def _bin_labels(reference: Mapping[str, Any]) -> list[str]:
    """Names of the bins but the last: an edge lies a little above a value, which is shown where many rows have it."""
    edges, low = reference["edges"], reference["min"]
    often = sorted(float(text) for text in reference.get("repeats", {}))
    near = 2 * drift.REACH * (reference.get("iqr") or reference.get("std") or 0.0)
    labels = []
    for k, (before, edge) in enumerate(zip([-math.inf, *edges], edges, strict=False)):
        if not k and low is not None and edge < low:
            labels.append(f"<{low + 0.0:.3g}")
            continue
        held = [value for value in often if before < value <= edge]
        shown = [v for v in held if edge <= max(v + near, last_of_cell(v, reference["width"]))]
        labels.append(f"≤{shown[-1] if shown else edge:.3g}")
    return labels


def _category_panel(name: str, reference: Mapping[str, Any], current: Any, most: int = 8) -> dict[str, Any]:
    names = sorted(reference["top"], key=lambda text: -reference["top"][text])[:most]
    rest = sum(reference["top"].values()) - sum(reference["top"][text] for text in names)
    live_rest = sum(current.top.values()) - sum(current.top[text] for text in names)
    return {
        "feature": name,
        "labels": [*names, "other", "new", "missing"],
        "reference": _shares(
            [*(reference["top"][t] for t in names), rest + reference["other"], 0, reference["missing"]]
        ),
        "current": _shares(
            [*(current.top[t] for t in names), live_rest + current.other, current.unseen, current.missing]
        ),
    }
