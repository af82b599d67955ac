"""Which mail a run sends, to whom, and that no run fails because of it."""

import email
import email.policy

import pytest
import report_kit as kit

from fraud.pipeline import mail, outbox, runs
from fraud.pipeline.runs import Run
from fraud.pipeline.where import Where

HERE = Where(
    "loop",
    "eu-west-1",
    report_from="a@example.com",
    report_to=["all@example.com"],
    report_to_on_drift=["drift@example.com"],
    report_to_on_failure=["call@example.com"],
)
BRIEF = {
    "money": ["It costs 280 per day.", "Reviews: 60 per day."],
    "advice": ["Ask whether prices moved."],
    "basis": "1,000 payments answered by model run-1.",
    "moved": {"columns": list("abcde"), "rows": [["V1", "KS 0.2", "0.1 / 0.1", "7 %", "█"]], "marked": [True],
              "note": ""},
    "causes": ["V1: missing 5 % → 60 %"],
    "levels": [0.2, 1.4],
}  # fmt: skip
TRAINED = {
    "auc": 0.9, "average_precision": 0.6, "champion_auc": 0.85, "n_train": 8_000, "n_validation": 2_000,
    "decision_threshold": 0.4,
}  # fmt: skip
DEPLOYED = {
    "endpoint_name": "fraud-prod", "model_run": "r1", "model_version": "r1", "previous_release": "r0",
    "strategy": "canary", "n_probes": 370, "n_failed": 0, "n_replayed": 2_000, "n_flipped": 40,
}  # fmt: skip
EMPTY = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
STEPS = ["01_merge_data", "02_train", "03_deploy", "04_drift_report"]


@pytest.fixture
def office(monkeypatch, storage):
    """A run with its records; what is sent is kept, what is said too."""
    monkeypatch.setattr(runs, "Storage", lambda bucket: storage)
    monkeypatch.setattr(outbox, "where", lambda: office.here)
    monkeypatch.setattr(outbox, "client", lambda service: storage.client)
    monkeypatch.setattr(mail, "send", lambda message: office.sent.append(message) or "id-1")
    run = Run("loop", "r1")

    class office:
        here, sent, said = HERE, [], []

        @staticmethod
        def fill(verdict="DRIFT", **deployed):
            found = kit.verdict_of(kit.schema_of(4), verdict)
            brief = BRIEF if verdict == "DRIFT" else BRIEF | {"causes": []}
            record = {"verdict": found, "verdict_name": verdict, "sentence": found["sentence"], "brief": brief}
            storage.write_json("runs/r1/04_drift_report.json", record | {"twin": ["DRIFT: in words"]})
            storage.write_json("runs/r1/02_train.json", TRAINED)
            storage.write_json("runs/r1/03_deploy.json", DEPLOYED | deployed)
            storage.write_json("runs/r1/params.json", {"steps": {"03_deploy": {"endpoint_name": "fraud-prod"}}})
            storage.put(
                "runs/r1/04_drift_report.ipynb", b'{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}'
            )
            for step in STEPS:
                storage.put(f"runs/r1/{step}.html", f"<html>{step}</html>".encode())

        @staticmethod
        def letters():
            return [email.message_from_bytes(one.as_bytes(), policy=email.policy.default) for one in office.sent]

        @staticmethod
        def bodies():
            return [one.get_body(("plain",)).get_content() for one in office.letters()]

    office.sent, office.said, office.run = [], [], run
    office.fill()
    return office


def attachments(message):
    return [part.get_filename() for part in message.iter_attachments()]


@pytest.mark.parametrize("verdict", ["DRIFT", "SCHEMA_CHANGED", "MISSING_CAPTURE"])
def test_an_alarming_report_goes_to_those_who_asked_for_drift(office, verdict):
    office.fill(verdict)
    outbox.report(office.run, STEPS, office.said.append)
    (letter,) = office.letters()
    assert letter["To"] == "drift@example.com"
    what = "V1: missing 5 % → 60 %" if verdict == "DRIFT" else "Payments no longer look like what the model learnt: "
    assert letter["Subject"].startswith(f"[fraud] 2026-03-05 {verdict} fraud · {what}")
    html = letter.get_body(("html",)).get_content()
    assert "It costs 280 per day." in html and "Ask whether prices moved." in html
    assert letter.get_body(("plain",)).get_content().startswith("DRIFT: in words\n")
    assert attachments(letter) == ["drift_report.html"]
    assert office.said == [f"✓ {verdict} mailed to drift@example.com (id-1)"]


@pytest.mark.parametrize("verdict", ["OK", "INSUFFICIENT_DATA"])
def test_a_quiet_report_is_mailed_only_when_it_is_all_that_was_asked_for(office, verdict):
    office.fill(verdict)
    outbox.report(office.run, STEPS, office.said.append)
    assert office.sent == [] and office.said == []
    outbox.report(office.run, STEPS[3:], office.said.append)
    assert f" {verdict} fraud · " in office.letters()[0]["Subject"]


def test_a_finished_retraining_says_what_was_promoted_and_what_it_is_worth(office):
    outbox.finished(office.run, STEPS, office.said.append)
    (letter,), (text,) = office.letters(), office.bodies()
    assert letter["To"] == "all@example.com"
    assert " PROMOTED fraud-prod · AUC ROC 0.9000 (+0.0500) · r1" in letter["Subject"]
    text = " ".join(text.split())
    for said in ("came into service by canary", "8,000 rows", "0 of 370 requests failed", "40 decisions changed"):
        assert said in text
    for said in ("says DRIFT", "(r0): `fraud rollback` ", "s3://loop/runs/r1/04_drift_report.html"):
        assert said in text
    assert attachments(letter) == ["02_train.html", "04_drift_report.html"]


def test_a_model_in_a_test_is_not_called_promoted(office):
    office.fill("OK", model_version="r0", strategy="ab_test")
    outbox.finished(office.run, STEPS, office.said.append)
    assert " TESTED fraud-prod · " in office.letters()[0]["Subject"]
    assert "is being tested (ab test); the champion stays" in " ".join(office.bodies()[0].split())


def test_a_run_that_deploys_nothing_is_no_finished_retraining(office):
    outbox.finished(office.run, STEPS[:2], office.said.append)
    assert office.sent == []


def test_a_failed_run_names_notebook_and_error_and_how_to_go_on(office):
    error = "02_train, cell 4: TrainingJobError: The training job t failed: no memory\nLast lines of its log:\nkilled"
    outbox.failed(office.run, "02_train", error, office.said.append)
    (letter,), text = office.letters(), " ".join(office.bodies()[0].split())
    assert letter["To"] == "call@example.com"
    assert " FAILED fraud-prod · r1 02_train: The training job t failed: no memory" in letter["Subject"]
    assert "FAILED: The training job t failed: no memory" in text and "Last lines of its log: killed" in text
    assert "stopped in 02_train, cell 4 with TrainingJobError" in text
    assert "`fraud run --run-id r1 --from 02`" in text and attachments(letter) == ["02_train.html"]


@pytest.mark.parametrize(
    ("deployed", "said"), [(True, "What 03_deploy did to the endpoint stays"), (False, "as it is")]
)
def test_a_failed_run_says_what_serves(office, storage, deployed, said):
    if not deployed:
        storage.delete("runs/r1/03_deploy.json")
    outbox.failed(office.run, STEPS[3], "04_drift_report, cell 5: ValueError: no", office.said.append)
    assert said in " ".join(office.bodies()[0].split())


def test_a_run_that_waits_says_what_to_type(office):
    error = "03_deploy, cell 6: ApprovalError: The model of r1 (AUC ROC 0.9000) waits for approval: `fraud approve r1`."
    outbox.failed(office.run, "03_deploy", error, office.said.append)
    (letter,), text = office.letters(), " ".join(office.bodies()[0].split())
    assert " WAITS fraud-prod · r1 waits for approval" in letter["Subject"] and attachments(letter) == ["02_train.html"]
    assert 'fraud approve r1 --note "…"' in text and "--reject" in text
    assert "fraud run --run-id r1 --from 03" in text


@pytest.mark.parametrize(
    "error",
    [
        "02_train, cell 26: QualityGateError: The challenger is refused, the champion stays. " + "Segment a; " * 90,
        "03_deploy, cell 6: ApprovalError: The model of r1 was rejected: the champion stays.",
    ],
)
def test_a_refused_model_is_no_failure_of_the_run(office, error):
    outbox.failed(office.run, error[:9].rstrip(","), error, office.said.append)
    letter = office.letters()[0]
    assert " REFUSED fraud-prod · " in letter["Subject"] and "champion stays in service" in office.bodies()[0]


def test_the_first_sentence_of_a_long_error_stands_first(office):
    error = "02_train, cell 26: QualityGateError: It is refused. " + "Segment a; " * 90
    outbox.failed(office.run, "02_train", error, office.said.append)
    assert office.bodies()[0].startswith("REFUSED: It is refused.\n\nSegment a;")


@pytest.mark.parametrize(
    "error", ["The run took longer than 5 s (--timeout) and was stopped.", "", "x: y", "\ud800: z"]
)
def test_any_error_can_be_told(office, error):
    outbox.failed(office.run, "01_merge_data", error, office.said.append)
    assert " FAILED fraud-prod · r1 01_merge_data" in office.letters()[0]["Subject"]


def test_nobody_to_tell_or_no_sender_sends_nothing(office):
    for here in (
        Where("loop", "eu-west-1", report_to=["a@example.com"]),
        Where("loop", "eu-west-1", report_from="a@b.cd"),
    ):
        office.here = here
        outbox.finished(office.run, STEPS, office.said.append)
    assert office.sent == [] and office.said == []


def test_a_bad_address_is_named_and_keeps_nobody_else_from_being_told(office):
    office.here = Where("loop", "eu-west-1", report_from="a@example.com", report_to=["b@example.com", "on call"])
    outbox.finished(office.run, STEPS, office.said.append)
    assert office.letters()[0]["To"] == "b@example.com"
    assert office.said[0].startswith("✗ 'on call' in ReportTo is no e-mail address")


def test_a_run_does_not_fail_because_of_its_mail(office, monkeypatch):
    def breaks(message):
        raise RuntimeError("no network")

    monkeypatch.setattr(mail, "send", breaks)
    outbox.finished(office.run, STEPS, office.said.append)
    assert office.said == ["✗ the mail on success could not be sent: RuntimeError: no network"]
    office.run.storage.put("runs/r1/04_drift_report.json", b"{}")
    outbox.report(office.run, STEPS, office.said.append)
    assert "the mail on drift could not be sent: KeyError" in office.said[-1]


@pytest.mark.parametrize(
    ("endpoint", "starts"),
    [
        ("https://s3.eu-west-1.amazonaws.com", "https://eu-west-1.console.aws.amazon.com/s3/object/b?prefix=runs%2Fr%2Fx"),
        ("https://s3.cn-north-1.amazonaws.com.cn", "https://eu-west-1.console.amazonaws.cn/s3/object/b?prefix=runs%2Fr%2Fx"),
        ("http://127.0.0.1:4566", "http://127.0.0.1:4566/b/runs/r/x"),
        ("https://amazonaws.com.evil.example", "https://amazonaws.com.evil.example/b/runs/r/x"),
    ],
)  # fmt: skip
def test_links_lead_to_whoever_answers_for_s3(monkeypatch, endpoint, starts):
    class Meta:
        endpoint_url, region_name = endpoint, "eu-west-1"

    monkeypatch.setattr(outbox, "client", lambda service: type("S3", (), {"meta": Meta}))
    assert outbox.link("b", "runs/r/x.html") == f"{starts}.html"
    assert outbox.link("b", "runs/r/").endswith(("/runs/r/", "/s3/buckets/b?prefix=runs%2Fr%2F"))
