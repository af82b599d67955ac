"""What the drift report shows: the verdict that the trigger used, and the counts behind it.

The verdict is not made a second time: the drift check's own object is read. Only when there is none yet, or when asked
to look at this very moment, the same code judges the window here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, roc_auc_score

from fraud import drift
from fraud.capture import Record
from fraud.errors import DataError
from fraud.moment import iso, seconds
from fraud.pipeline import scored
from fraud.pipeline.releases import read_release
from fraud.pipeline.runs import Run, now
from fraud.pipeline.strategies import VARIANT
from fraud.schema import Schema
from fraud.window import read_window


@dataclass
class Findings:
    """A verdict and what it was made of.

    Attributes
    ----------
    verdict : dict
        The verdict object.
    source : str
        ``drift check`` when it was read, ``this report`` when it was made here.
    baseline : dict
        Of the model the verdict speaks of.
    sketch : Sketch
        Live counts of the window.
    threshold : float
        Score at or above which a payment is reviewed.
    """

    verdict: dict[str, Any]
    source: str
    baseline: dict[str, Any]
    sketch: drift.Sketch
    threshold: float
    _records: list[Record] = field(default_factory=list)


def stored_verdict(run: Run, endpoint_name: str) -> dict[str, Any] | None:
    """The newest verdict of the drift check; None before the first."""
    keys = list(run.storage.list_keys(f"drift/{endpoint_name}/verdicts/"))
    return dict(run.storage.read_json(keys[-1])) if keys else None


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
    verdict = stored_verdict(run, p.endpoint_name) if p.verdict == "latest" else None
    model_version = verdict["model_version"] if verdict and verdict["model_version"] else release["model_version"]
    folder = f"releases/{p.endpoint_name}/{model_version}"
    baseline = run.storage.read_json(f"{folder}/baseline.json")
    schema = Schema.from_json(run.storage.get(f"{folder}/schema.json"))
    released = run.storage.read_json(f"{folder}/release.json")
    if verdict:
        start, end = seconds(verdict["window"]["start"]), seconds(verdict["window"]["end"])
    else:
        end = now().timestamp()
        start = max(end - 3600 * p.window_hours, seconds(released["released_at"]))
    window = read_window(
        run.storage.list_keys,
        run.storage.get,
        p.endpoint_name,
        start,
        end,
        baseline=baseline,
        schema=schema,
        variants=[VARIANT],
    )
    source = "the drift check" if verdict else "this report"
    if verdict is None:
        verdict = drift.judge(
            baseline,
            window.sketch,
            vars(p),
            (start, end),
            p.endpoint_name,
            end,
            unreadable=window.unreadable,
            skipped=window.skipped,
        )
    records = [
        record
        for record in scored.records(run.storage, p.endpoint_name, start, end, schema)
        if record.model_version in ("", model_version)
    ]
    return Findings(verdict, source, baseline, window.sketch, released["decision_threshold"], records)


def rule_table(verdict: Mapping[str, Any], top: int = 15) -> pd.DataFrame:
    """The rules that fired and those nearest to it, as people read them."""
    columns = ["feature", "rule", "reference", "current", "score", "threshold", "n", "fired"]
    shown = [{name: rule[name] for name in columns} for rule in verdict["rules"] if rule["score"] is not None][:top]
    table = pd.DataFrame(shown, columns=columns).rename(columns={"reference": "trained on", "current": "live"})
    table["fired"] = np.where(table["fired"].astype(bool), "yes", "")
    return table.set_index("feature").round(4)


def panels(findings: Findings, most: int = 6) -> list[dict[str, Any]]:
    """Share of rows per bin, trained and live, of the score and of the features nearest to drift.

    Returns
    -------
    list of dict
        As `fraud.pipeline.plots.plot_distributions` takes them.
    """
    ranked = [rule["feature"] for rule in findings.verdict["rules"] if rule["feature"] in findings.baseline["features"]]
    names = list(dict.fromkeys(ranked))[: most - 1]
    made = [_number_panel("score", findings.baseline["score"], findings.sketch.score)]
    for name in names:
        reference, current = findings.baseline["features"][name], findings.sketch.features[name]
        make = _number_panel if reference["type"] == "number" else _category_panel
        made.append(make(name, reference, current))
    return made


def _shares(counts: Sequence[float]) -> list[float]:
    total = sum(counts)
    return [count / total if total else 0.0 for count in counts]


def _number_panel(name: str, reference: Mapping[str, Any], current: Any) -> dict[str, Any]:
    # An edge next to a value, made so that values below it have a bin of their own, is shown as that value.
    labels = [f"≤{edge:.3g}" if abs(edge) > 1e-300 else "<0" for edge in reference["edges"]] + ["more", "missing"]
    return {
        "feature": name,
        "labels": labels,
        "reference": _shares([*reference["counts"], reference["missing"]]),
        "current": _shares([*current.counts, current.missing]),
    }


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


def review_rate(findings: Findings) -> tuple[list[dt.datetime], list[float], float]:
    """Share of live payments sent to review, by hour, and the same share on training rows.

    Returns
    -------
    hours : list of datetime
    rates : list of float
    reference : float
        From the baseline's score bins: to the nearest bin.
    """
    by_hour: dict[int, list[bool]] = {}
    for record in findings._records:
        by_hour.setdefault(int(record.time // 3600), []).append((record.fraud_probability or 0) >= findings.threshold)
    hours = sorted(by_hour)
    score = findings.baseline["score"]
    above = sum(
        count for edge, count in zip([*score["edges"], 1.0], score["counts"], strict=True) if edge > findings.threshold
    )
    moments = [dt.datetime.fromtimestamp(3600 * hour, dt.UTC) for hour in hours]
    return moments, [sum(by_hour[hour]) / len(by_hour[hour]) for hour in hours], above / max(1, sum(score["counts"]))


def performance(run: Run, findings: Findings) -> pd.DataFrame:
    """How right the model was on payments of the window whose truth has arrived.

    Returns
    -------
    DataFrame
        One row: payments with truth, frauds, AUC ROC, average precision; the last two missing with one class only.
    """
    truth = scored.truth(run.storage, seconds(findings.verdict["window"]["start"]))
    known = [(truth[r.inference_id].label, r.fraud_probability) for r in findings._records if r.inference_id in truth]
    labels = [label for label, _ in known]
    both = 0 < sum(labels) < len(labels)
    scores = [score for _, score in known]
    return pd.DataFrame(
        {
            "payments": [len(findings._records)],
            "with truth": [len(known)],
            "frauds": [sum(labels)],
            "AUC ROC": [roc_auc_score(labels, scores) if both else None],
            "average precision": [average_precision_score(labels, scores) if both else None],
        },
        index=pd.Index(["in the window"]),
    )


def advice(verdict: Mapping[str, Any]) -> str:
    """What to do, in one sentence."""
    return {
        "OK": "Nothing needs to be done.",
        "DRIFT": "The drift check asks for a retraining, unless one runs already or the last was too recent. See what "
        "fired, and whether labels of the new traffic have arrived: without them a new model cannot learn it.",
        "INSUFFICIENT_DATA": "Wait for more traffic; no verdict is not the same as no drift.",
        "MISSING_CAPTURE": "Look at the endpoint's data capture: what it answers does not reach the bucket.",
        "SCHEMA_CHANGED": "Look at the callers: they send other fields than the model was trained on.",
    }[verdict["verdict"]]


def describe(findings: Findings) -> str:
    """Where the verdict comes from and what it covers, in one sentence."""
    window = findings.verdict["window"]
    minutes = (seconds(window["end"]) - seconds(window["start"])) / 60
    span = f"{minutes / 60:.1f} hours" if minutes >= 120 else f"{minutes:.0f} minutes"
    return (
        f"{findings.verdict['n']:,} payments answered by model {findings.verdict['model_version']} "
        f"in {span}, {iso(window['start'])} to {iso(window['end'])}; judged by {findings.source}."
    )
