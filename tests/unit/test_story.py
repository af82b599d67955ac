"""The story around the product: its plan, what it is told with, what it says, and how it ends when something fails."""

import io
import math
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import polars as pl
import pytest
from rich.console import Console

from fraud.demo import follow, material, story
from fraud.demo.report import Answer, Report, Scored
from fraud.demo.screen import ProgramFailed, Screen
from fraud.demo.story import Settings, Story
from fraud.demo.words import Facts, summary
from fraud.errors import DataError, FraudError, ParameterError, PlatformError
from fraud.pipeline import logs


def screen(steps=2, terminal=False):
    return Screen(steps, Console(file=io.StringIO(), force_terminal=terminal, width=100))


def shown(screen):
    return screen.console.file.getvalue()


# --- what the story is told with ----------------------------------------------------------------------------------


def test_the_sample_is_split_in_time_and_changed_after_it(tmp_path):
    found = material.from_sample(tmp_path, 8_000)
    history = pl.read_parquet(found.history)
    assert history.height == found.history_rows == 4_800
    assert [found.normal.height, found.shifted.height, found.during.height] == [416, 2_304, 480]
    assert history["TransactionDT"].max() <= found.normal["TransactionDT"].min()
    assert found.normal["TransactionDT"].max() <= found.shifted["TransactionDT"].min()
    assert found.shifted["TransactionDT"].max() <= found.during["TransactionDT"].min()
    assert found.shifted["TransactionAmt"].mean() > 1.35 * history["TransactionAmt"].mean()
    assert abs(found.normal["TransactionAmt"].mean() / history["TransactionAmt"].mean() - 1) < 0.25
    assert found.shifted["isFraud"].mean() > found.normal["isFraud"].mean() + 0.03
    assert [path.name for path in tmp_path.iterdir()] == ["sample.parquet"]


def test_before_the_change_the_traffic_is_like_the_history(tmp_path):
    found = material.from_sample(tmp_path, 20_000)
    history = pl.read_parquet(found.history)
    missing = {
        name: abs(history[name].null_count() / history.height - found.normal[name].null_count() / found.normal.height)
        for name in history.columns
    }
    assert max(missing.values()) < 0.08, missing


def test_traffic_that_nobody_has_seen_goes_with_the_same_history(tmp_path):
    usual = material.from_sample(tmp_path, 6_000)
    before = usual.history.read_bytes()
    fresh = material.from_sample(tmp_path, 6_000, live_seed=99)
    assert fresh.history.read_bytes() == before
    assert fresh.normal.schema == usual.normal.schema
    assert not fresh.normal.drop("TransactionID").equals(usual.normal.drop("TransactionID"))


def test_too_few_rows_are_refused(tmp_path):
    with pytest.raises(ParameterError, match="at least 6000"):
        material.from_sample(tmp_path, 100)


@pytest.fixture
def table():
    n = 1_000
    return pl.DataFrame(
        {
            "TX_ID": [f"t{k:05d}" for k in range(n)],
            "TX_TIME_SECONDS": [(k * 37) % n + 9_500 for k in range(n)],  # not in order, and as text not either
            "TX_AMOUNT": [float((k * 7919) % 499) + 1 for k in range(n)],
            "PLACE": [None if k % 9 == 0 else ("NA", "DE")[k % 2] for k in range(n)],
            "WEEKEND": [k % 7 > 4 for k in range(n)],
            "TX_FRAUD": [int((k * 7919) % 499 > 440) for k in range(n)],
        }
    )


ROLES = {"target": "TX_FRAUD", "id": "", "time": "TX_TIME_SECONDS", "amount": "TX_AMOUNT"}


@pytest.mark.parametrize("name", ["mine.csv", "mine.csv.gz", "mine.parquet"])
def test_a_table_is_split_in_time_without_a_change_of_its_values(table, tmp_path, name):
    path = tmp_path / name
    if name.endswith("parquet"):
        table.write_parquet(path)
    elif name.endswith("gz"):
        import gzip

        path.write_bytes(gzip.compress(table.write_csv().encode()))
    else:
        table.write_csv(path)
    out = tmp_path / "out"
    out.mkdir()
    found = material.from_table(path, out, ROLES, ["PLACE"])
    past = table.filter(pl.col("TX_TIME_SECONDS") < 10_300)
    written = pl.read_parquet(found.history) if name.endswith("parquet") else pl.read_csv(found.history)
    assert written.equals(past)
    assert found.history_rows == 800
    assert found.history.name == ("mine.parquet" if name.endswith("parquet") else "mine.csv")
    assert [path.name for path in out.iterdir()] == [found.history.name]
    live = pl.concat([part["TX_TIME_SECONDS"].cast(pl.Float64) for part in (found.normal, found.shifted, found.during)])
    assert live.to_list() == [float(k) for k in range(10_300, 10_500)]
    assert found.normal["WEEKEND"].dtype == pl.Boolean
    assert found.normal["TX_AMOUNT"].dtype == pl.Float64
    assert set(found.normal["TX_FRAUD"].unique()) == {0, 1}
    assert found.exclude[0] == "PLACE"
    coming = table.filter(pl.col("TX_TIME_SECONDS") >= 10_326).sort("TX_TIME_SECONDS")
    changed = pl.concat([found.shifted, found.during])
    assert changed["TX_AMOUNT"].to_list() == pytest.approx((coming["TX_AMOUNT"] * 1.6).to_list())
    assert found.change == "TX_AMOUNT × 1.6"


def test_columns_that_give_the_answer_away_are_left_out(table, tmp_path):
    path = tmp_path / "mine.csv"
    table.with_columns(pl.col("TX_FRAUD").alias("CHARGED_BACK")).write_csv(path)
    said = []
    found = material.from_table(path, tmp_path, ROLES, echo=said.append)
    assert "CHARGED_BACK" in found.exclude
    assert any("CHARGED_BACK" in line and "left out" in line for line in said)


def test_the_newest_rows_are_used_when_fewer_are_wanted(table, tmp_path):
    path = tmp_path / "mine.parquet"
    table.write_parquet(path)
    (tmp_path / "out").mkdir()
    said = []
    found = material.from_table(path, tmp_path / "out", ROLES, rows=500, echo=said.append)
    assert said[-1] == "The newest 500 of 1,000 rows are used."
    assert pl.read_parquet(found.history)["TX_TIME_SECONDS"].min() == 10_000
    assert found.history_rows == 400
    assert found.normal["TX_TIME_SECONDS"][0] == 10_400


def test_without_time_the_order_of_rows_counts_and_without_amount_the_best_number_moves(table, tmp_path):
    path = tmp_path / "mine.parquet"
    plain = table.select(pl.col("TX_AMOUNT").alias("v1"), pl.lit(1.0).alias("v2"), pl.col("TX_FRAUD").alias("class"))
    plain.with_columns(pl.Series("v2", [float(k % 13) for k in range(1_000)])).write_parquet(path)
    (tmp_path / "out").mkdir()
    found = material.from_table(path, tmp_path / "out", {}, ["v1_not_there"][:0])
    assert found.roles["target"] == "class"
    assert not found.roles["time"]
    assert found.normal["v1"].to_list() == table["TX_AMOUNT"][800:826].to_list()
    assert found.change.startswith("v1 + ") or found.exclude == ["v1"]


def test_a_table_that_cannot_be_used_is_refused_with_its_own_name(table, tmp_path):
    path = tmp_path / "mine.csv"
    table.with_columns(pl.lit(0).alias("TX_FRAUD")).write_csv(path)
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match=r"mine\.csv.*TX_FRAUD"):
        material.from_table(path, tmp_path / "out", ROLES)
    assert list((tmp_path / "out").iterdir()) == []


# --- the screen ---------------------------------------------------------------------------------------------------


def test_plain_lines_where_there_is_no_terminal():
    told = screen()
    with told.step("First thing") as step:
        step.say("found [3] of them")
        step.count(1, 2)
    with pytest.raises(ValueError, match="x"), told.step("Second thing"):
        raise ValueError("x")
    lines = shown(told).splitlines()
    assert lines[0] == "[1/2] First thing"
    assert lines[1].strip() == "found [3] of them"
    assert lines[2].strip().startswith("done in")
    assert lines[4].strip().startswith("failed in")
    assert "\x1b" not in shown(told)
    assert list(told.seconds) == ["First thing", "Second thing"]


def test_bars_on_a_terminal():
    told = screen(terminal=True)
    with told.step("First thing") as step:
        step.count(1, 2)
        time.sleep(0.15)
    assert "\x1b" in shown(told)
    assert "✓" in shown(told)


def test_a_program_is_shown_while_it_works_and_its_output_returned():
    told = screen()
    program = "import sys; sys.stderr.write('working\\n'); sys.stdout.write('{\"a\": 1}\\n')"
    with told.step("First thing") as step:
        assert step.run("it", ["-c", program]) == '{"a": 1}\n'
    assert "working" in shown(told)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_program_that_fails_leaves_its_last_lines(terminal):
    told = screen(terminal=terminal)
    program = "import sys; [sys.stderr.write(f'line {k}\\n') for k in range(60)]; sys.exit(2)"
    with pytest.raises(ProgramFailed, match="it ended with exit code 2") as caught, told.step("First") as step:
        step.run("it", ["-c", program])
    kept = [line for line in caught.value.lines if line]
    assert kept[-1] == "line 59"
    assert len(kept) <= 25
    assert caught.value.exit_code == 2


def test_a_program_gets_a_terminal_when_there_is_one():
    told = screen(terminal=True)
    program = "import sys; sys.stdout.write(str(sys.stderr.isatty()))"
    with told.step("First thing") as step:
        assert step.run("it", ["-c", program]) == "True"


# --- the end ------------------------------------------------------------------------------------------------------


@pytest.fixture
def facts():
    def answers(version, scores):
        return Answer(1.0, 200, 0.012, "batch", False, "", version, tuple(Scored("x", s, t) for s, t in scores))

    report = Report(
        [
            answers("story-1", [(0.2, 1), (0.3, 0), (0.1, 0)]),
            answers("exec-2", [(0.9, 1), (0.3, 0)]),
            Answer(1.0, 400, 0.001, "cut off", True),
        ]
    )
    return Facts(
        history="the sample", history_rows=15_000, change="amounts × 1.6", run_id="story-1", retrain_id="exec-2",
        champion_auc=0.6173, challenger_auc=0.9223, first_auc=0.852, report=report, labels=4,
        before="No drift in 1250 transactions.", drift="The mean of TransactionAmt rose by 41 %.",
        pages=["reports/exec-2/04_drift_report.html"], mails=["/x/mail/1.eml"], bucket="bucket",
        api_url="http://127.0.0.1:4566/_aws/execute-api/abc/live", seconds={"Start": 4.0, "Train": 40.25},
    )  # fmt: skip


def test_the_summary_says_what_happened_in_plain_words(facts):
    text = "\n".join(summary(facts))
    assert (
        "AUC on the same newest rows: 0.617 before, 0.922 after retraining (+0.305); the new model is better." in text
    )
    assert "3 requests with 5 transactions (2 of them fraud), 0 failed; 1 malformed ones were refused" in text
    assert "3 by story-1, 2 by exec-2" in text
    assert "started the pipeline by itself: The mean of TransactionAmt rose by 41 %." in text
    assert "reports/exec-2/04_drift_report.html" in text
    assert "/x/mail/1.eml" in text
    assert "s3://bucket/runs/exec-2/" in text
    assert "together    44.2 s" in text
    assert facts.good


def test_lines_by_hand_can_be_pasted(facts):
    facts.tools = "/home/a b/.venv/bin"
    lines = [line.strip() for line in summary(facts)]
    curl = next(line for line in lines if line.startswith("curl"))
    assert curl == (
        'curl -s --aws-sigv4 "aws:amz:$AWS_REGION:execute-api" --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" '
        "-H 'content-type: application/json' -d @transaction.json "
        "http://127.0.0.1:4566/_aws/execute-api/abc/live/predict"
    )
    assert """eval "$('/home/a b/.venv/bin/fraud' local env)\"""" in lines
    assert "aws sagemaker describe-endpoint --endpoint-name fraud" in lines
    for line in lines[lines.index("Go on by hand") + 1 : lines.index("Wall time") - 1]:
        subprocess.run(["bash", "-n", "-c", line], check=True)


def test_drift_that_was_there_before_the_change_is_not_claimed_for_it(facts):
    facts.early = True
    text = "\n".join(summary(facts))
    assert "before it was changed, and started the pipeline: The mean of TransactionAmt rose by 41 %." in text
    assert "found it and started" not in text


def test_a_worse_model_and_unknown_figures_are_said_as_they_are(facts):
    facts.challenger_auc = 0.60
    assert "(-0.017); the new model is no better" in "\n".join(summary(facts))
    facts.champion_auc = None
    facts.first_auc = math.nan
    text = "\n".join(summary(facts))
    assert "before," not in text
    assert "AUC – on its own" in text


def test_one_failed_request_is_enough_to_fail(facts):
    facts.labels_failed = 1
    assert not facts.good
    facts.labels_failed = 0
    facts.report.add(Answer(1.0, 503, 0.1, "single", False, "single: HTTP 503 instead of 200"))
    assert not facts.good
    assert "Failed: single: HTTP 503 instead of 200" in "\n".join(summary(facts))


# --- the plan -----------------------------------------------------------------------------------------------------


def test_the_plan_has_the_steps_of_the_loop_in_order():
    titles = [title for title, _ in Story(Settings(), screen()).plan()]
    words = ("local AWS", "history", "Merge, train", "like the history", "truth", "Change", "schedule", "Retrain")
    assert len(titles) == len(words)
    assert all(word in title for word, title in zip(words, titles, strict=True))


class Told:
    """Runs `story.tell` with steps of our own."""

    def __init__(self, monkeypatch, *steps):
        self.screen = screen(len(steps))
        monkeypatch.setattr(story, "Screen", lambda count: self.screen)
        monkeypatch.setattr(story, "mails", lambda since: [])
        monkeypatch.setattr(
            Story, "plan", lambda tale: [(f"Step {k}", lambda s, f=f: f(tale)) for k, f in enumerate(steps)]
        )
        self.code = story.tell(Settings())
        self.text = shown(self.screen)


def raising(error):
    def action(tale):
        raise error

    return action


def test_the_story_ends_well(monkeypatch):
    def close(tale):
        tale.facts.retrain_id = "exec-2"
        tale.facts.report.add(Answer(1.0, 200, 0.1, "single", False, "", "v", (Scored("a", 0.5, 1),)))

    told = Told(monkeypatch, close)
    assert told.code == 0
    assert "What happened" in told.text


def test_a_failed_request_ends_it_with_1_but_with_the_summary(monkeypatch):
    def close(tale):
        tale.facts.retrain_id = "exec-2"
        tale.facts.report.add(Answer(1.0, 502, 0.1, "single", False, "HTTP 502"))

    told = Told(monkeypatch, close)
    assert told.code == 1
    assert "1 failed" in told.text


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ProgramFailed("fraud run", 1, ["the last line", "02_train, cell 7: DataError"]), 1, "| 02_train, cell 7"),
        (ProgramFailed("fraud history put", 2, ["Error: mine.csv"]), 2, "| Error: mine.csv"),
        (follow.PipelineFailed("e-1", "Failed", ["✗ 03_deploy"]), 1, "| ✗ 03_deploy"),
        (PlatformError("Port 4566 is in use."), 2, "Error: Port 4566 is in use."),
        (FraudError("It was over."), 1, "Error: It was over."),
        (OSError(28, "No space left on device"), 1, "No space left"),
    ],
)
def test_a_step_that_fails_ends_it_with_its_last_lines(monkeypatch, error, code, words):
    after = []
    told = Told(monkeypatch, raising(error), after.append)
    assert told.code == code
    assert words in told.text
    assert after == []
    assert "Traceback" not in told.text


def test_a_model_below_the_gate_comes_with_advice(monkeypatch):
    told = Told(monkeypatch, raising(ProgramFailed("fraud run", 1, ["02_train, cell 15: QualityGateError: AUC"])))
    assert told.code == 1
    assert "ROWS=" in told.text


def test_an_interrupt_says_how_to_go_on(monkeypatch):
    told = Told(monkeypatch, raising(KeyboardInterrupt()))
    assert told.code == 130
    assert "--keep" in told.text
    assert "fraud local down" in told.text


# --- ticking ------------------------------------------------------------------------------------------------------


def ticked(monkeypatch, answers, pause=0.0):
    import fraud.pipeline.bring_up

    tale = Story(Settings(), screen())
    given = iter(answers)
    monkeypatch.setattr(fraud.pipeline.bring_up, "tick", lambda: next(given))
    monkeypatch.setattr(story, "TICK_SECONDS", pause)
    return tale


def verdict(name, execution=None, reasons=("NOT_DRIFT",)):
    decision = {"start": execution is not None, "reasons": list(reasons)}
    return {"verdict": name, "sentence": f"It is {name}.", "decision": decision, "execution_id": execution}


def test_it_ticks_until_the_pipeline_was_started(monkeypatch):
    cool = verdict("DRIFT", reasons=("COOL_DOWN",))
    tale = ticked(monkeypatch, [verdict("MISSING_CAPTURE"), cool, cool, verdict("DRIFT", "e-1", ("START",))])
    with tale.screen.step("Tick") as step:
        tale.tick(step)
    assert tale.execution == "e-1"
    assert tale.facts.drift == "It is DRIFT."
    assert shown(tale.screen).count("COOL_DOWN") == 1


@pytest.mark.parametrize(("limit", "name"), [("LAST_TICKS", "DRIFT"), ("OK_TICKS", "OK")])
def test_it_gives_up_when_nothing_is_started(monkeypatch, limit, name):
    tale = ticked(monkeypatch, iter(lambda: verdict(name), None))
    monkeypatch.setattr(story, limit, 0.05)
    with pytest.raises(FraudError, match=r"started nothing; it last said (OK|DRIFT): It is (OK|DRIFT)\. \(NOT_DRIFT\)"):
        with tale.screen.step("Tick") as step:
            tale.tick(step)


def test_a_pipeline_that_runs_already_is_not_waited_for(monkeypatch):
    tale = ticked(monkeypatch, [])
    tale.execution, tale.facts.before = "e-1", "It drifted."
    with tale.screen.step("Tick") as step:
        tale.tick(step)
    assert (tale.facts.drift, tale.facts.before) == ("It drifted.", "")


# --- following the pipeline ---------------------------------------------------------------------------------------


class FakeAws:
    """CodePipeline and CloudWatch Logs of one execution that goes through these statuses."""

    def __init__(self, statuses, lines):
        self.statuses, self.lines, self.given = list(statuses), list(lines), 0

    def get_pipeline_execution(self, pipelineName, pipelineExecutionId):
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        return {"pipelineExecution": {"status": status}}

    def get_paginator(self, operation):
        assert operation == "list_action_executions"
        build = {"output": {"executionResult": {"externalExecutionId": "fraud-build:b-1"}}}
        pages = [{"actionExecutionDetails": []}, {"actionExecutionDetails": [{"output": {}}, build]}]
        return SimpleNamespace(paginate=lambda pipelineName, filter: pages)

    def get_log_events(self, logGroupName, logStreamName, startFromHead, nextToken="0"):
        assert (logGroupName, logStreamName, startFromHead) == ("/aws/codebuild/fraud-build", "b-1", True)
        new = self.lines[int(nextToken) : int(nextToken) + 2]
        return {"events": [{"message": line} for line in new], "nextForwardToken": str(int(nextToken) + len(new))}


def test_an_execution_is_followed_and_its_build_read_along(monkeypatch):
    aws = FakeAws(
        ["InProgress", "InProgress", "Succeeded"], ["pip install", "▸ 01_merge_data", "✓ 01_merge_data in 3 s"]
    )
    for module in (follow, logs):
        monkeypatch.setattr(module, "client", lambda name: aws)
    monkeypatch.setattr(follow.time, "sleep", lambda seconds: None)
    told = screen()
    with told.step("Retrain") as step:
        follow.follow("fraud-retrain", "e-1", step)
    assert "▸ 01_merge_data" in shown(told)
    assert "✓ 01_merge_data in 3 s" in shown(told)
    assert "pip install" not in shown(told)


@pytest.mark.parametrize("status", ["Failed", "Stopped", "Superseded", "Cancelled"])
def test_an_execution_that_does_not_succeed_leaves_its_last_lines(monkeypatch, status):
    aws = FakeAws(["InProgress", status], ["pip install", "02_train, cell 3: boom"])
    for module in (follow, logs):
        monkeypatch.setattr(module, "client", lambda name: aws)
    monkeypatch.setattr(follow.time, "sleep", lambda seconds: None)
    with (
        pytest.raises(follow.PipelineFailed, match=f"e-1 ended as {status}") as caught,
        screen().step("Retrain") as step,
    ):
        follow.follow("fraud-retrain", "e-1", step)
    assert "02_train, cell 3: boom" in caught.value.lines


def test_what_an_earlier_story_left_is_kept_aside(monkeypatch, tmp_path):
    monkeypatch.setenv("FRAUD_LOCAL_STATE", str(tmp_path / "local"))
    stopped = []
    monkeypatch.setattr(follow.bring_up, "local_aws", stopped.append)
    for turn in ("first", "second"):
        (tmp_path / "local").mkdir()
        (tmp_path / "local" / "state.json").write_text(turn)
        with screen().step("Start") as step:
            follow.set_aside(step)
        assert not (tmp_path / "local").exists()
        assert (tmp_path / "local.before" / "state.json").read_text() == turn
    assert stopped == ["down", "down"]


def test_the_newest_mail_comes_first(monkeypatch, tmp_path):
    monkeypatch.setenv("FRAUD_LOCAL_STATE", str(tmp_path))
    (tmp_path / "mail").mkdir()
    for name in ("20260101T1.eml", "20260102T1.eml", "other.txt"):
        (tmp_path / "mail" / name).write_text("x")
    assert [path.name for path in follow.mails()] == ["20260102T1.eml", "20260101T1.eml"]
    os.utime(tmp_path / "mail" / "20260101T1.eml", (1, 1))
    assert [path.name for path in follow.mails(since=2.0)] == ["20260102T1.eml"]


def test_the_command_line_refuses_a_table_that_is_not_there(tmp_path):
    run = [sys.executable, "-m", "fraud.demo.story", "--rows", "-1"]
    done = subprocess.run(run, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"})
    assert done.returncode == 2
    assert "rows" in done.stderr
