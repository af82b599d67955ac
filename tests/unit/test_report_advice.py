"""What to do, by cause; what the governor did, in its own words; how right the model is, by week."""

import pytest
import report_kit as kit

from fraud.pipeline import report_governor, report_parts
from fraud.pipeline.report import Findings, Traffic
from fraud.pipeline.report_truth import on_truth, recorded

SCHEMA = kit.schema_of(4)


def findings(rules=(), name="DRIFT", decisions=(), state=None, **more):
    verdict = kit.verdict_of(SCHEMA, name) | {"rules": list(rules)} | more
    return Findings(verdict, "the drift check", {}, None, 0.5, Traffic(), decisions=list(decisions), state=state)


def advice(found):
    return list(report_parts.to_do(found).sentences)


CASES = {
    "missing up": (kit.rule("missing", "V1", 0.5, 0.1, True, reference=0.05, current=0.6), "Ask who delivers V1"),
    "missing down": (kit.rule("missing", "V1", 0.5, 0.1, True, direction="down"), "V1 is now filled"),
    "unseen": (
        kit.rule("unseen", "P_emaildomain", 0.1, 0.06, True),
        "P_emaildomain has values that training never saw",
    ),
    "repeated": (kit.rule("repeated", "TransactionAmt", 0.1, 0.06, True), "card testing"),
    "mean": (kit.rule("mean_shift", "TransactionAmt", 0.5, 0.3, True), "another unit or another currency"),
    "psi": (kit.rule("psi", "V2", 0.5, 0.25, True), "Ask whether V2 moved"),
    "ks": (kit.rule("ks", "V2", 0.5, 0.1, True), "Ask whether V2 moved"),
    "score": (kit.rule("score_psi", "score", 0.5, 0.25, True), "The model's scores moved"),
    "more": (kit.rule("review_rate", "score", 0.5, 0.1, True, reference=0.02, current=0.5), "Reviewers get 50 %"),
    "fewer": (kit.rule("review_rate", "score", 0.5, 0.1, True, direction="down"), "go to review instead of"),
    "fraud": (kit.rule("fraud_rate", "truth", 0.5, 0.3, True), "Truth itself says so"),
    "recall": (kit.rule("recall", "truth", 0.5, 0.15, True), "Truth itself says so"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_cause_has_its_own_remedy(name):
    rule, said = CASES[name]
    first, last = advice(findings([rule, kit.rule("psi", "V3", 0.1, 0.25, False)]))
    assert said in first and "V3" not in first
    assert last.startswith("A retraining starts by itself unless")


def test_the_most_urgent_stands_first_and_few_are_said():
    said = advice(findings([rule for rule, _ in CASES.values()]))
    assert len(said) == 5 and said[0].startswith("Truth itself") and "retraining" in said[-1].lower()


def test_features_of_one_cause_share_a_line():
    rules = [kit.rule("psi", f"V{k}", 0.5, 0.25, True) for k in range(9)]
    assert "V0, V1, V2 and 6 more moved" in advice(findings(rules))[0]


def test_a_distribution_that_only_lost_values_is_asked_for_once():
    lost = kit.rule("missing", "V1", 0.5, 0.1, True, reference=0.05, current=0.6)
    same = kit.rule("psi", "V1", 0.5, 0.25, True, without_missing=0.02)
    assert not any("another currency" in one for one in advice(findings([lost, same])))
    other = kit.rule("psi", "V1", 0.5, 0.25, True, without_missing=0.3)
    assert any("V1 moved" in one for one in advice(findings([lost, other])))
    assert any("V1 moved" in one for one in advice(findings([same])))


def test_the_outlook_does_not_contradict_what_else_is_said():
    moved, truth = CASES["psi"][0], CASES["recall"][0]
    assert "no model can learn it" in advice(findings([moved]))[-1]
    assert "no model can learn it" not in " ".join(advice(findings([truth])))  # labels are what said so
    paused = findings([moved])
    paused.state = {"paused": True}
    assert advice(paused)[-1].startswith("Retraining is paused, so none starts by itself")
    here = findings([moved])
    here.source = "this report"
    assert advice(here)[-1].startswith("Only the drift check starts a retraining")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("OK", "Nothing needs to be done."),
        ("INSUFFICIENT_DATA", "Wait for more traffic"),
        ("MISSING_CAPTURE", "data capture (`aws sagemaker describe-endpoint --endpoint-name fraud`"),
        ("SCHEMA_CHANGED", "Look at the callers"),
    ],
)
def test_other_verdicts_have_theirs(name, said):
    assert said in advice(findings(name=name, signal=False))[0]
    assert "Wait for the next checks" in advice(findings(name="OK", signal=True))[0]


RECORD = {
    "moment": "2026-03-05T10:00:05Z",
    "start": False,
    "reasons": ["COOL_DOWN"],
    "in_words": "The last retraining was started too short a time ago.",
    "allowed_from": "2026-03-06T09:00:00Z",
    "execution_id": None,
    "window": kit.verdict_of(SCHEMA)["window"],
}


def test_what_the_governor_decided_on_this_verdict_is_part_of_the_advice():
    rule = CASES["psi"][0]
    held = advice(findings([rule], decisions=[RECORD]))[-1]
    assert held.startswith(f"No retraining was started: {RECORD['in_words']} Possible from 2026-03-06 09:00.")
    began = RECORD | {"start": True, "execution_id": "e-1", "reasons": ["START"]}
    assert "was started by itself (e-1)" in advice(findings([rule], decisions=[began]))[-1]
    other = began | {"window": {"start": "", "end": "2020-01-01T00:00:00Z"}}
    assert "starts by itself unless" in advice(findings([rule], decisions=[other]))[-1]


def test_equal_decisions_in_a_row_are_one_line():
    again = RECORD | {"moment": "2026-03-05T09:00:05Z"}
    began = RECORD | {"moment": "2026-03-05T08:00:05Z", "start": True, "execution_id": "e-1", "reasons": ["START"]}
    (table,) = report_governor.decisions(findings(decisions=[RECORD, again, began]))
    assert [row[:2] for row in table.rows] == [
        ["2026-03-05 09:00 to 2026-03-05 10:00, 2 times", "not started"],
        ["2026-03-05 08:00", "started e-1"],
    ]


def test_codes_are_said_in_the_governors_words_where_a_record_has_none():
    bare = {"moment": "2026-03-05T10:00:05Z", "reasons": ["IN_FLIGHT"]}
    (table,) = report_governor.decisions(findings(decisions=[bare]))
    assert table.rows[0][2] == "The pipeline is running already, and one run at a time is enough."


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (None, "has not started a retraining yet"),
        ({"last_start": "2026-03-05T08:00:00Z", "execution_id": "e-1"}, "was started at 2026-03-05 08:00 (e-1)"),
        ({"paused": True, "pause": {"by": "ana", "reason": "labels are late", "at": "2026-03-05T08:00:00Z"}},
         "Retraining is paused by ana since 2026-03-05 08:00: labels are late."),
        ({"paused": True}, "Retraining is paused. Drift starts nothing"),
    ],
)  # fmt: skip
def test_without_records_the_state_speaks(state, said):
    assert said in "\n".join(block.text() for block in report_governor.decisions(findings(state=state))).replace(
        "\n", " "
    )


WEEK = {
    "start": "2026-02-01T00:00:00Z", "end": "2026-02-08T00:00:00Z", "n": 7_000, "coverage": 0.31, "judged": True,
    "frauds": 61, "fraud_rate": 0.0088, "fraud_rate_interval": [0.0068, 0.0112], "recall": 0.45,
    "recall_interval": [0.33, 0.57], "precision": None, "precision_interval": None, "auc": 0.812,
    "auc_interval": [0.75, 0.86],
}  # fmt: skip
PERFORMANCE = {
    "reference": WEEK | {"fraud_rate": 0.0059, "recall": 0.7, "coverage": None, "judged": None},
    "cohorts": [WEEK, WEEK | {"start": "2026-01-25T00:00:00Z", "end": "2026-02-01T00:00:00Z", "judged": False}],
    "judged": WEEK,
    "sentence": "Of the frauds reported for the week of 1 February, the model caught 45 % instead of 70 %.",
    "notes": ["A tenth of the frauds is reported after 40 days or later."],
    "estimate": {"n": 900, "fraud_rate": 0.005, "recall": 0.6, "limit": "Estimated from the scores alone."},
}  # fmt: skip


def test_truth_is_told_by_week_with_intervals():
    rules = [kit.rule("recall", "truth", 0.25, 0.15, True)]
    sentence, table, notes = on_truth(findings(rules, performance=PERFORMANCE))
    assert sentence.sentences == [PERFORMANCE["sentence"]]
    assert [row[0] for row in table.rows] == ["at training", "2026-02-01", "2026-01-25"]
    assert table.rows[1][1:] == [
        "7,000 (31 %)",
        "61",
        "0.88 % (0.68–1.1 %)",
        "45 % (33–57 %)",
        "–",
        "0.812 (0.750–0.860)",
    ]
    assert list(table.marked) == [False, True, False]
    assert "40 days" in notes.text() and "Estimated from the scores alone." in notes.text()
    assert list(on_truth(findings([], performance=PERFORMANCE))[1].marked) == [False] * 3


def test_without_weeks_the_window_itself_is_graded():
    none = findings(performance=None)
    none.traffic = Traffic([0.0] * 4, [0.1, 0.9, 0.8, 0.2], [1.0] * 4, list("abcd"))
    assert "arrived for none of 4 payments" in on_truth(none)[0].text() and recorded(none)["n_truth"] == 0
    none.truth = {name: type("Truth", (), {"label": label}) for name, label in zip("abcd", (0, 1, 1, 0), strict=True)}
    assert "4 of 4 payments, 2 frauds: AUC ROC 1.000" in on_truth(none)[0].text()
    assert recorded(none) == {"n_truth": 4, "auc_on_truth": 1.0}
    none.truth = {"b": none.truth["b"]}
    assert "too few to grade the model" in on_truth(none)[0].text() and recorded(none)["auc_on_truth"] is None
