"""One page for all reports: newest first, bounded, nothing in it that runs, and no report lost."""

import json

import pytest
import report_kit as kit

from fraud.moment import iso
from fraud.pipeline import history_page, runs
from fraud.pipeline.runs import Run


def record_of(k=0, verdict="DRIFT", endpoint="fraud", **more):
    found = kit.verdict_of(kit.schema_of(4), verdict) | {"endpoint": endpoint, "computed_at": iso(kit.END + 60 * k)}
    brief = {"causes": [f"V{k}: missing 5 % → 60 %"], "levels": [0.1, None, 1.5]}
    return {"verdict": found | more, "brief": brief, "twin": ["DRIFT: in words", "", "  table"]}


def entry(k, **more):
    return history_page.entry_of(f"run-{k:03d}", record_of(k, **more))


@pytest.fixture
def shelf(monkeypatch, storage, tmp_path):
    """A bucket and a folder ``reports/``."""
    monkeypatch.setattr(runs, "Storage", lambda bucket: storage)

    def publish(run_id, record):
        run, said = Run("loop", run_id), []
        storage.write_json(f"runs/{run_id}/04_drift_report.json", record)
        storage.put(f"runs/{run_id}/04_drift_report.html", b"<html>report</html>")
        (tmp_path / run_id).mkdir()
        (tmp_path / run_id / "04_drift_report.html").write_text("report")
        history_page.publish(run, tmp_path, said.append)
        return said

    return publish


def test_a_report_gets_its_plain_twin_and_its_place_in_the_list(shelf, storage, tmp_path):
    assert shelf("run-a", record_of(1)) == [] and shelf("run-b", record_of(2, "OK")) == []
    twin = storage.get("runs/run-b/04_drift_report.txt").decode()
    assert twin == "DRIFT: in words\n\n  table\n\nArchived at s3://loop/runs/run-b/04_drift_report.html\n"
    assert (tmp_path / "run-b" / "04_drift_report.txt").read_text() == twin
    page = storage.get("drift/fraud/reports/index.html").decode()
    assert page.index("run-b") < page.index("run-a"), "newest first"
    assert 'href="../../../runs/run-a/04_drift_report.html"' in page
    for said in ("DRIFT", "OK", "1,000", "V1: missing 5 % → 60 %", "2026-03-05 10:01", "▁·▆"):
        assert said in page
    assert "from 0.10 to 1.50, last 1.50" in page, "a sparkline says what it shows"
    local = (tmp_path / "index.html").read_text()
    assert 'href="run-a/04_drift_report.html"' in local and kit.active(local)[0] == []


def test_a_repeated_report_stands_there_once_with_what_it_said_last(shelf, storage):
    history_page.remember(storage, "fraud", entry(1))
    entries = history_page.remember(storage, "fraud", entry(1, verdict="OK"))
    assert [one["verdict"] for one in entries] == ["OK"]


def test_reports_on_other_endpoints_have_a_page_of_their_own(shelf, storage):
    shelf("run-a", record_of(1))
    shelf("run-b", record_of(2, endpoint="fraud-prod"))
    assert "run-b" not in storage.get("drift/fraud/reports/index.html").decode()
    assert "run-a" not in storage.get("drift/fraud-prod/reports/index.html").decode()


def test_two_runs_that_end_together_lose_nothing(storage, monkeypatch):
    history_page.remember(storage, "fraud", entry(1))
    real, raced = storage.put_if_match, []

    def late(key, body, etag, content_type=""):
        if not raced:
            raced.append(1)
            history_page.remember(storage, "fraud", entry(3))
        return real(key, body, etag, content_type)

    monkeypatch.setattr(storage, "put_if_match", late)
    entries = history_page.remember(storage, "fraud", entry(2))
    assert [one["run_id"] for one in entries] == ["run-003", "run-002", "run-001"]
    assert json.loads(storage.get("drift/fraud/reports/index.json")) == entries


def test_without_its_list_the_page_is_built_from_the_runs(shelf, storage):
    old = record_of(1)
    del old["brief"]
    old["verdict"] = kit.verdict_of(kit.schema_of(4), version=1)
    storage.write_json("runs/run-old/04_drift_report.json", old)
    storage.write_json("runs/run-other/04_drift_report.json", record_of(1, endpoint="other"))
    storage.put("runs/run-odd/04_drift_report.json", b"{}")
    entries = history_page.remember(storage, "fraud", entry(5))
    assert [one["run_id"] for one in entries] == ["run-005", "run-old"]
    assert (entries[1]["cause"], entries[1]["levels"]) == ("", [])


@pytest.mark.parametrize("junk", [b"no json", b"[1, null]", b"{}"])
def test_a_damaged_list_is_begun_anew(storage, junk):
    storage.put("drift/fraud/reports/index.json", junk)
    assert [one["run_id"] for one in history_page.remember(storage, "fraud", entry(1))] == ["run-001"]


def test_the_page_stays_small_and_lists_the_newest(storage):
    hostile = record_of(0, sentence="<script>alert(1)</script>" * 99, model_version="\u202e" * 99)
    hostile["brief"] = {"causes": [kit.shown_all()], "levels": [1.0] * 24}
    entries = [history_page.entry_of(f"run-{k:03d}", hostile) | {"at": iso(kit.END + k)} for k in range(400)]
    storage.write_json("drift/fraud/reports/index.json", entries)
    kept = history_page.remember(storage, "fraud", entry(999))
    page = storage.get("drift/fraud/reports/index.html")
    assert len(kept) == history_page.MOST == 200 and kept[1]["run_id"] == "run-399"
    assert len(page) < 250_000 and kit.active(page.decode())[0] == []
    assert "<script" not in page.decode() and "\u202e" not in page.decode()


def test_reports_that_are_not_here_name_their_address(storage, tmp_path):
    history_page.remember(storage, "fraud", entry(1))
    page = history_page.write_local(storage, "fraud", tmp_path).read_text()
    assert "s3://loop/runs/run-001/04_drift_report.html" in page and "href" not in page
    assert "No report yet" in history_page.write_local(storage, "nobody", tmp_path).read_text()


def test_reports_are_brought_here(storage, tmp_path):
    for k in range(3):
        storage.put(f"runs/run-{k:03d}/04_drift_report.html", f"page {k}".encode())
        history_page.remember(storage, "fraud", entry(k))
    page = history_page.bring(storage, "fraud", tmp_path, most=2)
    assert (tmp_path / "run-002" / "04_drift_report.html").read_text() == "page 2"
    assert not (tmp_path / "run-000").exists()
    assert page.read_text().count("href=") == 2 and page.read_text().count("s3://loop") == 1


def test_a_list_that_cannot_be_written_is_said_and_no_more(shelf, storage):
    record = record_of(1)
    del record["twin"]
    (said,) = shelf("run-a", record)
    assert said.startswith("✗ the list of reports could not be written: KeyError")
