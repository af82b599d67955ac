"""``make run``: the whole loop on this machine, told while it happens.

A history is merged, a model trained and deployed, called, captured; part of the truth arrives late; the traffic
changes; the drift check notices and starts the pipeline; the model is retrained and replaced while traffic continues.
Every part of it is the product's own: the notebooks through the same runner as buildspec.yml, the two Lambdas behind
their API and their schedule, the pipeline. This file only plays the people around it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from botocore.exceptions import BotoCoreError, ClientError

from fraud.demo import material as materials
from fraud.demo.follow import collect_pages, demo_folder, follow, mails, set_aside, start_aws, state_folder
from fraud.demo.material import Material
from fraud.demo.report import Report
from fraud.demo.screen import ProgramFailed, Screen, Step
from fraud.demo.traffic import Api, Flow, calls, some
from fraud.demo.words import Facts, summary
from fraud.errors import FraudError
from fraud.pipeline import claims
from fraud.pipeline.private_folder import private_folder

ROWS = 25_000  # of the sample
USER_ROWS = 200_000  # of a user's table, the newest: what comes after them resembles them most, and it takes minutes
CLI = ["-m", "fraud.pipeline.cli"]
TICK_SECONDS = 2.0
CAPTURE_SECONDS = 6.0  # until all captured traffic has arrived; a verdict on the first part of it is a coarse one
FIRST_TICKS = 25.0  # seconds to wait until the captured traffic has arrived
OK_TICKS = 40.0  # seconds after which "no drift" is final: all traffic is captured by then
LAST_TICKS = 420.0  # seconds until drift must have started the pipeline; longer than the cool-down of params/local
CHANGE_SECONDS = 12.0  # captured moments are whole seconds: rows of one second cannot be told apart in time
LABELLED = 0.8  # share of the traffic whose truth arrives
QUIET = ("MISSING_CAPTURE", "INSUFFICIENT_DATA")


@dataclass
class Settings:
    """What the user asked for."""

    table: Path | None = None
    roles: dict[str, str] = field(default_factory=dict)
    exclude: list[str] = field(default_factory=list)
    rows: int = 0
    columns: str = "core"
    keep: bool = False


class Story:
    """The steps, in order; each leaves what the next needs.

    Parameters
    ----------
    settings : Settings
    screen : Screen, optional
    """

    def __init__(self, settings: Settings, screen: Screen | None = None) -> None:
        from fraud.pipeline.parameters import ROOT

        self.settings = settings
        self.screen = screen or Screen(len(self.plan()))
        self.folder = demo_folder()
        self.facts = Facts(run_id=f"story-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}", tools=_tools())
        self.facts.seconds = self.screen.seconds
        self.facts.notebook = _typed_path(ROOT / "notebooks" / "04_drift_report.ipynb")
        self.began = time.time()
        self.execution = ""
        self.outputs: dict[str, str] = {}
        self.material: Material
        self.api: Api

    def plan(self) -> list[tuple[str, Callable[[Step], None]]]:
        """Titles and functions of the steps."""
        return [
            ("Start the local AWS and deploy infra/app.yml", self.start),
            ("Put a labelled history into raw/", self.deliver),
            ("Merge, train, deploy, report", self.train),
            ("Send traffic like the history", self.traffic),
            ("Deliver part of the ground truth, late", self.truth),
            ("Change the traffic", self.change),
            ("Tick the schedule until drift starts the pipeline", self.tick),
            ("Retrain and deploy while traffic continues", self.retrain),
        ]

    def tell(self) -> Facts:
        """Do all steps."""
        for title, action in self.plan():
            with self.screen.step(title) as step:
                action(step)
        return self.facts

    def start(self, step: Step) -> None:
        """Bring the local AWS up and find out where everything is."""
        private_folder(self.folder)
        self.outputs, used = start_aws(step)
        if used and not self.settings.keep:
            set_aside(step)
            self.outputs, _ = start_aws(step)
        self.facts.bucket, self.facts.api_url = self.outputs["BucketName"], self.outputs["ApiUrl"].rstrip("/")
        self.facts.endpoint = self.outputs.get("EndpointName", "fraud")
        self.api = Api(self.facts.api_url)

    def deliver(self, step: Step) -> None:
        """Make or split the table; its first part becomes the history."""
        asked = self.settings
        if asked.table:
            found = materials.from_table(
                asked.table, self.folder, asked.roles, asked.exclude, asked.rows or USER_ROWS, step.say
            )
            self.facts.history = asked.table.name
            if asked.keep:
                self.facts.notes.append("An earlier story may have sent and learnt the same rows: its AUC flatters.")
        else:
            # An earlier story has sent the usual payments, and the model has learnt them and their higher amounts
            again = {"live_seed": int(self.began), "factor": 2.5} if asked.keep else {}
            found = materials.from_sample(self.folder, asked.rows or ROWS, asked.columns, **again)
            self.facts.history = "the sample"
        self.material, self.facts.history_rows, self.facts.change = found, found.history_rows, found.change
        options = [f"--{name}={value}" for name, value in found.roles.items() if value]
        options += [f"--exclude={','.join(found.exclude)}"] if found.exclude else []
        step.run("fraud history put", [*CLI, "history", "put", str(found.history), *options])
        _keep_a_transaction(self.folder / "transaction.json", found)
        self.facts.body = _typed_path(self.folder / "transaction.json")

    def train(self, step: Step) -> None:
        """Run the notebooks as CodeBuild does."""
        from fraud.pipeline.storage import Storage

        storage = Storage(self.facts.bucket)
        try:
            step.run("fraud run", [*CLI, "run", "--env", "local", "--run-id", self.facts.run_id])
        except ProgramFailed as error:  # with --keep a good model may be in service already
            refused = any("QualityGateError" in line for line in error.lines)
            if not (refused and storage.exists(f"releases/{self.facts.endpoint}/current.json")):
                raise
            self.facts.notes.append("The gate refused the first model of this story; the one in service stayed.")
        trained = storage.read_json(f"runs/{self.facts.run_id}/02_train.json", default={})  # absent below the gate
        self.facts.first_auc = trained.get("auc")
        self._collect(self.facts.run_id)

    def traffic(self, step: Step) -> None:
        """Send what resembles the history, some of it malformed; nothing should be found."""
        sent = self._send(step, self.material.normal, "normal", singles=60, malformed=14)
        step.say(f"{_counted(sent)}; waiting until it is captured …")
        time.sleep(CAPTURE_SECONDS)
        answer = self._tick_until(step, FIRST_TICKS, lambda found: found["verdict"] not in QUIET)
        self.facts.before = answer["sentence"]
        self.facts.early = bool(self.execution)
        if answer["verdict"] == "DRIFT" and not self.facts.early:
            self.facts.notes.append("Drift was seen at once, but no retraining was due.")
        step.say(f"{answer['verdict']}: {answer['sentence']}")

    def truth(self, step: Step) -> None:
        """Deliver the truth about part of it."""
        self._label(step, self.facts.report)

    def change(self, step: Step) -> None:
        """Send what differs, and the truth about part of it."""
        if self.execution:
            step.say("The pipeline runs already; the changed traffic is sent while it works.")
            return
        sent = self._send(step, self.material.shifted, "changed", singles=60, malformed=14, seconds=CHANGE_SECONDS)
        step.say(f"{_counted(sent)}; {self.material.change}")
        self._label(step, sent)

    def tick(self, step: Step) -> None:
        """Do what the schedule does until the drift check starts the pipeline."""
        if not self.execution:
            patience = time.monotonic() + OK_TICKS
            answer = self._tick_until(
                step,
                LAST_TICKS,
                lambda found: bool(self.execution) or (found["verdict"] == "OK" and time.monotonic() > patience),
            )
            if not self.execution:
                raise FraudError(
                    f"The drift check started nothing; it last said {answer['verdict']}: "
                    f"{answer['sentence']} ({', '.join(answer['decision']['reasons'])})"
                )
            self.facts.drift = answer["sentence"]
        else:
            self.facts.drift, self.facts.before = self.facts.before, ""
        step.say(f"{self.facts.drift} Execution {self.execution} has started.")

    def retrain(self, step: Step) -> None:
        """Follow the pipeline while traffic continues, until the new model has answered."""
        from fraud.pipeline.storage import Storage

        prefix = f"{self.facts.run_id}-during"
        with Flow(self.api, self.material.during, self.material.target, prefix, rate=6.0) as flow:
            try:
                follow(self.outputs["PipelineName"], self.execution, step)
                found = Storage(self.facts.bucket).read_json(f"runs/{self.execution}/02_train.json")
                _until(lambda: self.execution in flow.report.by_model_version, 30.0)
            finally:
                flow.stop()
                self.facts.report += flow.report
        self.facts.retrain_id = self.execution
        self.facts.champion_auc, self.facts.challenger_auc = found.get("champion_auc"), found["auc"]
        if self.execution not in flow.report.by_model_version:
            raise FraudError(f"The pipeline succeeded, but no request was answered by the model {self.execution}.")
        self._collect(self.execution)
        step.say(_counted(flow.report))

    def _collect(self, run_id: str) -> None:
        found = [_typed_path(page) for page in collect_pages(self.facts.bucket, run_id, self.facts.endpoint)]
        self.facts.pages = [page for page in self.facts.pages if page not in found] + found

    def _send(self, step: Step, frame: Any, word: str, *, singles: int, malformed: int, seconds: float = 0.0) -> Report:
        prefix = f"{self.facts.run_id}-{word}"
        made = calls(frame, self.material.target, prefix=prefix, singles=singles, malformed=malformed)
        sent = Report()
        try:
            self.api.send_all(made, sent, lambda done: step.count(done, len(made)), seconds)
        finally:
            self.facts.report += sent
        if not sent.transactions:
            raise FraudError(f"No transaction was scored: {(sent.problems or ['none was sent'])[0]}")
        return sent

    def _label(self, step: Step, report: Report) -> None:
        stored, failed = self.api.send_labels(some(report.scored, LABELLED))
        self.facts.labels, self.facts.labels_failed = self.facts.labels + stored, self.facts.labels_failed + failed
        step.say(f"The truth about {stored:,} of {report.transactions:,} transactions was delivered.")

    def _tick_until(self, step: Step, limit: float, enough: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Tick until the answer is enough or the time is over; returns the last answer."""
        from fraud.pipeline.bring_up import tick

        end, said = time.monotonic() + limit, ""
        while True:
            answer = tick()
            if answer.get("execution_id"):
                self.execution = str(answer["execution_id"])
            if enough(answer) or time.monotonic() > end:
                return answer
            line = f"{answer['verdict']}: {answer['sentence']} ({', '.join(answer['decision']['reasons'])})"
            if line != said:
                step.say(line)
                said = line
            time.sleep(TICK_SECONDS)


def _until(condition: Callable[[], bool], limit: float) -> None:
    end = time.monotonic() + limit
    while not condition() and time.monotonic() < end:
        time.sleep(0.2)


def _counted(report: Report) -> str:
    return (
        f"{report.sent:,} requests, {report.transactions:,} transactions, {report.frauds:,} of them fraud; "
        f"{report.refused} malformed ones refused, {report.failed} failed"
    )


def _keep_a_transaction(path: Path, material: Material) -> None:
    """Keep one transaction as a file for curl."""
    import json

    from fraud.demo.traffic import transactions

    path.write_text(json.dumps(transactions(material.normal[:1], [material.target])[0], default=str) + "\n")


def _typed_path(path: Path) -> str:
    """A path as a person types it: relative when it lies below the present folder."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _tools() -> str:
    return _typed_path(Path(sys.executable).parent)


def tell(settings: Settings) -> int:
    """Tell the story and return the exit code."""
    story = Story(settings)
    screen = story.screen
    try:
        facts = story.tell()
    except KeyboardInterrupt:
        screen.say("Interrupted. Traffic has stopped; the local AWS still runs (`fraud local down` stops it).")
        screen.say("`make run` begins anew; `python -m fraud.demo.story --keep` goes on with what the local AWS holds.")
        return 130
    except ProgramFailed as error:
        shown = [] if screen.live else error.lines  # on a terminal they stand there already
        for line in shown:
            screen.say(f"      | {line}")
        screen.say(f"Error: {error}")
        if any("QualityGateError" in line for line in error.lines):
            screen.say(
                "Try newer rows (--rows, make run ROWS=…), other columns (--exclude), or a lower gate (params/local)."
            )
        return error.exit_code
    except FraudError as error:
        for line in getattr(error, "lines", []):
            screen.say(f"      | {line}")
        screen.say(f"Error: {error}")
        return error.exit_code
    except (BotoCoreError, ClientError, OSError) as error:
        screen.say(f"Error: {type(error).__name__}: {error}")
        return 1
    facts.mails = [_typed_path(path) for path in mails(story.began)]
    screen.say()
    for line in summary(facts):
        screen.say(line)
    return 0 if facts.good else 1


def _main(
    history: Annotated[
        Path | None, typer.Option(help="Your labelled table, .csv or .parquet; else the sample.")
    ] = None,
    target: Annotated[str, typer.Option(help="Column that is 1 for fraud, else 0; empty guesses.")] = "",
    id_column: Annotated[str, typer.Option("--id", help="Column that names a transaction.")] = "",
    time_column: Annotated[str, typer.Option("--time", help="Column that orders transactions in time.")] = "",
    amount: Annotated[str, typer.Option(help="Column with the amount of money.")] = "",
    exclude: Annotated[str, typer.Option(help="Columns to keep from the model, comma separated.")] = "",
    rows: Annotated[
        int, typer.Option(help="Transactions; 0 is 25,000 of the sample, the newest 200,000 of a table.", min=0)
    ] = 0,
    columns: Annotated[str, typer.Option(help="Of the sample: core (66 columns) or full (434).")] = "core",
    keep: Annotated[bool, typer.Option("--keep", help="Go on with what the local AWS holds.")] = False,
) -> None:
    """Tell the whole loop on this machine, with made-up transactions or your own."""
    roles = {"target": target, "id": id_column, "time": time_column, "amount": amount}
    excluded = [name.strip() for name in exclude.split(",") if name.strip()]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends it as Ctrl-C does, programs included
    state = state_folder()
    os.environ["FRAUD_LOCAL_STATE"] = str(state)  # for the programs, wherever this was started
    try:
        with claims.hold(state, "make run", echo=_say):
            if not keep:  # a new story takes the local AWS away from whoever uses it
                claims.refuse_while_runs_go_on(state)
            code = tell(Settings(history, roles, excluded, rows, columns, keep))
    except FraudError as error:
        _say(f"Error: {error}")
        raise typer.Exit(error.exit_code) from None
    raise typer.Exit(code)


def _say(line: str) -> None:
    typer.echo(line, err=True)


if __name__ == "__main__":
    typer.run(_main)
