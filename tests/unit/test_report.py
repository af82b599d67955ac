"""The drift report on verdicts of every kind, from a bucket to the page: what it says, how large it is."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import report_kit as kit

from fraud import wording
from fraud.drift import SCORE_EDGES, judge, number_profile
from fraud.errors import DataError
from fraud.moment import iso
from fraud.pipeline import report, report_parts, report_tables, runs
from fraud.pipeline.drift_plots import distributions_in_words
from fraud.pipeline.render import render_html
from fraud.pipeline.runs import Run
from fraud.tally import Numbers
from fraud.verdict import VERDICTS
from fraud.window import stored_window

SCHEMA = kit.schema_of(6)


@pytest.fixture
def found(monkeypatch, storage):
    """A function that fills the bucket and finds what the notebook would."""
    monkeypatch.setattr(runs, "Storage", lambda bucket: storage)

    def find(verdict=None, schema=SCHEMA, *, ask="latest", **given):
        kit.fill(storage, verdict, schema, **given)
        return report.find(Run("loop", "report-1"), kit.parameters_of(endpoint_name="fraud", verdict=ask))

    return find


def test_the_stored_verdict_is_shown_and_never_made_again(found):
    verdict = kit.verdict_of(SCHEMA)
    findings = found(verdict)
    assert findings.verdict == kit.as_json(verdict) and findings.source == "the drift check"
    assert (len(findings.traffic.time), findings.threshold) == (300, 0.04)
    twin = "\n".join(report_parts.twin(findings))
    assert twin.startswith("DRIFT: Payments no longer look like what the model learnt")


def test_a_verdict_is_made_only_when_asked_for_or_when_there_is_none(found, storage):
    made = found(kit.verdict_of(SCHEMA, "OK"), ask="now")
    assert made.source == "this report" and made.verdict["schema_version"] == 2
    assert made.verdict["verdict"] == "INSUFFICIENT_DATA"  # the window of now holds nothing
    for key in list(storage.list_keys("drift/")):
        storage.delete(key)
    first = report.find(Run("loop", "report-1"), kit.parameters_of(endpoint_name="fraud"))
    assert first.source == "this report" and len(first.checks) == 1


def test_the_window_is_that_of_the_verdict(found, monkeypatch):
    asked = []

    def window(*given, **how):
        asked.append(how)
        return stored_window(*given, **how)

    monkeypatch.setattr(report, "stored_window", window)
    policy = {"max_caller_share": 0.1, "min_records": 7}
    found(kit.verdict_of(SCHEMA) | {"usual_callers": {"backend": 0.9}, "policy": policy})
    known = {name: asked[0][name] for name in ("usual", "max_caller_share", "enough")}
    assert known == {"usual": {"backend": 0.9}, "max_caller_share": 0.1, "enough": 7}


def test_what_the_drift_check_really_writes_is_shown(found, storage):
    """The product's own verdict: amounts × 1.5 and a tenth of the values gone, against the baseline in the bucket."""
    baseline = found(kit.verdict_of(SCHEMA)).baseline
    sketch = report.find(Run("loop", "r"), kit.parameters_of(endpoint_name="fraud")).sketch
    verdict = judge(
        baseline, sketch, {"min_records": 100, "persistence": [1, 1]}, (kit.START, kit.END), "fraud", kit.END
    )
    assert verdict["verdict"] == "DRIFT"
    findings = found(verdict)
    table = report_tables.moved(findings)
    assert table.rows[0][0] == "TransactionAmt" and table.marked[0] and "mean +" in table.rows[0][1]
    assert report.review_rates(findings)[1] == pytest.approx(0.6)
    json.dumps(report_parts.brief(findings), allow_nan=False)


@pytest.mark.parametrize("name", VERDICTS)
@pytest.mark.parametrize("version", [1, 2])
def test_every_verdict_of_every_version_is_shown(found, name, version):
    more = {} if name not in ("MISSING_CAPTURE", "INSUFFICIENT_DATA") else {"n": 0, "rules": []}
    verdict = kit.verdict_of(SCHEMA, name, version=version) | more
    if version == 2 and more:
        verdict |= {"features": {}, "score": {}, "review_rate": {"reference": None, "current": None}}
    findings = found(verdict, live=0 if more else 60)
    text = "\n".join(report_parts.twin(findings))
    assert text.startswith(f"{name.replace('_', ' ')}: ") and "WHAT TO DO" in text and "nan" not in text
    assert json.dumps(report_parts.brief(findings), allow_nan=False)


@pytest.mark.parametrize("name", ["MISSING_CAPTURE", "INSUFFICIENT_DATA"])
def test_no_data_never_passes_for_no_drift(found, name):
    nothing = {
        "n": 0,
        "rules": [kit.rule("psi", "V1", 0.9, 0.25, False)],
        "features": {},
        "score": {},
        "review_rate": {"reference": None, "current": None},
    }
    findings = found(kit.verdict_of(SCHEMA, name) | nothing, live=0)
    for table in (report_tables.moved(findings), report_tables.missing(findings), report_tables.repeated(findings)):
        assert table.text() == "Nothing could be compared."
    assert report_parts.rules(findings) == [] and "no payments" in distributions_in_words(report_parts.panels(findings))
    assert report_parts.brief(findings)["levels"] == [None] and report_parts.brief(findings)["causes"] == []


def test_what_was_delivered_twice_counts_once(found, storage):
    once = found(kit.verdict_of(SCHEMA), labelled=100, frauds=7)
    for key in list(storage.list_keys("data-capture/")):
        storage.put(key.replace("-a.jsonl", "-b.jsonl"), storage.get(key))
    twice = report.find(Run("loop", "r"), kit.parameters_of(endpoint_name="fraud"))
    assert len(twice.traffic.time) == 300 and sorted(twice.traffic.inference_id) == sorted(once.traffic.inference_id)


def test_amounts_without_measure_leave_a_page_that_can_be_read(found, monkeypatch, storage):
    """One forged amount of 1e308 makes scores of 1e300 and more; no line may be as long as that."""
    rules = [
        kit.rule("mean_shift", "TransactionAmt", 1e300, 0.3, True, reference=141.7, current=3e305, detail=""),
        kit.rule("psi", "V1", 0.4, 0.25, True),
    ]
    sentence = wording.drifted(rules, 1_000)
    assert len(sentence) < 200
    findings = found(kit.verdict_of(SCHEMA, rules=rules, sentence=sentence))
    twin = report_parts.twin(findings)
    assert max(map(len, twin)) <= 78 and "more than 100" in " ".join(twin)
    assert len("; ".join(report_parts.brief(findings)["causes"])) < 100


def test_without_a_review_rate_the_one_of_training_is_taken(found, storage):
    old = kit.verdict_of(SCHEMA, version=1)
    assert report.review_rates(found(old))[0] == 0.02  # of kit.METRICS
    storage.delete("runs/run-1/metrics.json")
    assert report.review_rates(found(old, metrics=None))[0] == 1.0  # all bins reach beyond 0.04


def test_of_a_sampled_capture_the_figures_stand_for_all(found):
    verdict = kit.verdict_of(SCHEMA)  # 1,000 compared and 5 beyond what one caller may weigh
    assert (found(verdict).payments, found(verdict, sampled=10).payments) == (1_005, pytest.approx(10_050))


def test_endpoint_and_moment_are_named(found):
    verdict = kit.verdict_of(SCHEMA) | {"computed_at": iso(kit.END + 60.123456)}
    said = " ".join(report_parts.basis(found(verdict)).text().split())
    assert "of endpoint fraud, " in said and "by the drift check at 2026-03-05T10:01:00Z" in said


def test_an_older_verdict_shows_both_psi_and_what_it_did_not_look_for(found):
    rule = kit.rule("psi", "V1", 0.4, 0.25, True) | {"without_missing": 0.1}
    findings = found(kit.verdict_of(SCHEMA, version=1) | {"rules": [rule]})
    assert report_tables.moved(findings).rows[0][:4] == ["V1", "PSI 0.400", "0.400", "0.100"]
    assert "did not look for repeated values" in report_tables.repeated(findings).text()
    assert "alarms a month" not in report_parts.basis(findings).text()


def test_features_stand_in_the_order_of_what_they_can_do_to_the_model(found, storage):
    rules = [
        kit.rule("psi", "V1", 1.0, 0.25, True, importance=0.01),
        kit.rule("psi", "V2", 0.5, 0.25, True, importance=0.3),
        kit.rule("psi", "V3", 0.2, 0.25, False, importance=0.5),
    ]
    findings = found(kit.verdict_of(SCHEMA) | {"rules": rules})
    assert [(name, round(weight, 2)) for name, weight, _ in report_tables.ranked(findings)] == [
        ("V2", 1.0), ("V1", 0.07), ("V3", 0.67),
    ]  # fmt: skip
    without = [one | {"importance": None} for one in rules]
    metrics = kit.METRICS | {"importance": [{"feature": "V1", "gain": 3.0}, {"feature": "V2", "gain": 1.0}]}
    trained = found(kit.verdict_of(SCHEMA) | {"rules": without}, metrics=metrics)
    assert trained.importance == {"V1": 0.75, "V2": 0.25}
    storage.delete("runs/run-1/metrics.json")
    unknown = report_tables.moved(found(kit.verdict_of(SCHEMA) | {"rules": without}, metrics=None))
    assert [row[0] for row in unknown.rows] == ["V1", "V2", "V3"] and "not stored" in unknown.note


def test_what_is_not_shown_is_counted(found):
    findings = found(kit.verdict_of(kit.schema_of(40)), kit.schema_of(40))
    table = report_tables.moved(findings, top=5)
    assert len(table.rows) == 5 and "35 more features are not shown, 0 of them past a limit." in table.note
    narrow = report_tables.moved(findings, top=2, narrow=True)
    assert len(narrow.columns) == 5 and "38 more features are not shown, 1 of them" in narrow.note


def test_missing_new_and_repeated_values_have_their_tables(found):
    verdict = kit.verdict_of(SCHEMA)
    verdict["features"]["V2"]["missing"] = [0.6, 0.05]
    verdict["features"]["P_emaildomain"]["unseen"] = [0.0, 0.04]
    verdict["rules"].append(kit.rule("repeated", "V4", 0.09, 0.06, True, reference=0.0, current=0.09, value=1.0))
    findings = found(verdict)
    missing = report_tables.missing(findings)
    assert [row[0] for row in missing.rows] == ["P_emaildomain", "V1", "V2"]
    assert missing.rows[2] == ["V2", "60 %", "5 %", ""] and missing.rows[0][3] == "4 %"
    assert list(missing.marked) == [True, True, False]
    assert ["V4", "1", "0 %", "9 %", "6 %"] in report_tables.repeated(findings).rows


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ((0.02, 0.01, 0.03), "it was better than the one before it: AUC ROC 0.900 against 0.880"),
        ((-0.02, -0.03, -0.01), "it was worse than the one before it"),
        ((0.0, -0.01, 0.01), "it was not surely different from the one before it"),
        (None, "was the first one"),
    ],
)
def test_the_model_is_held_against_the_one_before_it(found, change, said):
    metrics = kit.METRICS | {"auc": 0.9}
    if change:
        three = dict(zip(("difference", "low", "high"), change, strict=True))
        metrics |= {"champion_auc": 0.88, "comparison": {"auc": three}}
    findings = found(kit.verdict_of(SCHEMA), metrics=metrics)
    assert said in findings.champion
    twin = " ".join(report_parts.twin(findings, "Neither is **better**."))
    assert " ".join(twin.split()).count(said) == 1 and "Neither is better." in twin


def test_nothing_deployed_is_said(monkeypatch, storage):
    monkeypatch.setattr(runs, "Storage", lambda bucket: storage)
    with pytest.raises(DataError, match="Nothing is deployed at fraud: run notebooks/03_deploy"):
        report.find(Run("loop", "r"), SimpleNamespace(endpoint_name="fraud", verdict="latest"))


def test_the_course_of_the_checks_is_a_line_of_blocks(found, storage):
    quiet = kit.verdict_of(SCHEMA, "INSUFFICIENT_DATA") | {"rules": []}
    storage.write_json("drift/fraud/verdicts/2026/03/04/100000-INSUFFICIENT_DATA.json", quiet)
    calm = kit.verdict_of(SCHEMA, "OK") | {"rules": [kit.rule("psi", "V1", 0.05, 0.25, False)]}
    storage.write_json("drift/fraud/verdicts/2026/03/04/110000-OK.json", calm)
    findings = found(kit.verdict_of(SCHEMA))
    said = " ".join(report_parts.course(findings).text().split())
    assert "last 3 checks, oldest first" in said and "·▂█" in said and "(now 5.50, highest 5.50" in said


def test_what_a_window_leaves_out_is_counted(found):
    said = " ".join(report_parts.basis(found(kit.verdict_of(SCHEMA))).text().split())
    for part in ("3 of other models or tests", "4 delivered twice", "5 beyond what one caller", "2 unreadable"):
        assert part in said
    for part in (
        "2 of the last 3 checks had a signal; it takes 2 for DRIFT",
        "0.4 false alarms a month",
        "of 1,100 calls",
    ):
        assert part in said


@pytest.mark.parametrize(
    ("features", "hostile"), [(50, []), (50, kit.HOSTILE), (400, kit.HOSTILE)], ids=["50", "50 hostile", "400 hostile"]
)
def test_the_page_is_small_and_nothing_in_it_runs_or_fetches(monkeypatch, storage, features, hostile):
    """The notebook itself, run on hostile names and categories, as people get it."""
    schema = kit.schema_of(features, hostile)
    decision = {"reasons": ["COOL_DOWN"], "start": False, "in_words": "The last retraining was too short a time ago."}
    verdict = kit.verdict_of(schema, hostile=hostile)
    kit.fill(storage, verdict, schema, hostile=hostile, labelled=100, frauds=7, decisions=[decision])
    notebook = kit.executed(monkeypatch, storage)
    page = render_html(notebook, title="04_drift_report · report-1", footer="s3://loop/runs/report-1")
    found, images = kit.active(page)
    assert found == []
    assert len(page.encode()) < 150_000
    assert len(images) == 3 and all(len(one["alt"]) > 60 for one in images)
    assert page.index("TransactionAmt averages") < page.index("What to do") < page.index("What moved")
    record = storage.read_json("runs/report-1/04_drift_report.json")
    assert record["verdict"] == kit.as_json(verdict)
    twin = "\n".join(record["twin"])
    assert len(twin) < 20_000 and max(map(len, record["twin"])) <= 78
    for text in (page, twin, json.dumps(record["brief"], ensure_ascii=False)):
        assert "\u202e" not in text and "\x00" not in text and "L" * 100 not in text
        assert "too short a time ago" in " ".join(text.split()) or text.startswith("{")
    assert iso(kit.END)[:10] in twin


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.0] * 90 + [1.0] * 10, ["<0", "≤0", "≤1", "more", "missing"]),
        ([-0.0] * 100, ["<0", "≤0", "more", "missing"]),
        (np.float32([12.3] * 60 + [45.6] * 40).tolist(), ["<12.3", "≤12.3", "≤45.6", "more", "missing"]),
    ],
)
def test_bins_are_named_after_the_values_in_them(values, labels):
    """Their edges lie a little above, where no rounding of a value crosses them."""
    reference = number_profile(values) | {"type": "number"}
    assert report._number_panel("x", reference, Numbers(reference["edges"]))["labels"] == labels


@pytest.mark.parametrize(("threshold", "rate"), [(0.05, 0.5), (0.04, 1.0), (0.15, 0.5), (0.1500001, 0.5), (0.2, 0.0)])
def test_scores_up_to_a_threshold_that_ends_a_bin_are_not_reviewed(threshold, rate):
    baseline = {"score": number_profile([0.01, 0.02, 0.16, 0.17], SCORE_EDGES)}
    traffic = report.Traffic([], [], [], [])
    findings = report.Findings({}, "", baseline, None, threshold, traffic, {}, None)
    assert report.review_rates(findings)[0] == rate
