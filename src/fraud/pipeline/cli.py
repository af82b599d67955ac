"""The command line: ``fraud --help``.

Errors are one sentence. Exit code 2 is the user's to mend, 1 is ours; ``--debug`` shows the traceback.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fraud import __version__
from fraud.errors import FraudError, ParameterError

app = typer.Typer(
    help="Fraud Loop: a fraud model that keeps itself honest.\n\n"
    'Start with `make run`; by hand: `fraud local up`, `eval "$(fraud local env)"`, `fraud run`.',
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
local = typer.Typer(help="AWS on this machine: start, look at and stop it.", no_args_is_help=True)
infra = typer.Typer(help="Deploy infra/app.yml: bucket, API, Lambdas, schedule, alarms.", no_args_is_help=True)
history = typer.Typer(help="The labelled history in raw/.", no_args_is_help=True)
dashboard = typer.Typer(help="What the endpoint and the loop are doing, in charts.", no_args_is_help=True)
drift = typer.Typer(help="The governor of retrainings: stop it, let it go on, see what it did.", no_args_is_help=True)
app.add_typer(local, name="local")
app.add_typer(infra, name="infra")
app.add_typer(history, name="history")
app.add_typer(drift, name="drift")
app.add_typer(dashboard, name="dashboard")

ENV = Annotated[str, typer.Option(envvar="FRAUD_ENV", help="Folder of params/; empty takes the deployment's.")]
ENDPOINT = Annotated[str, typer.Option(help="Endpoint; empty takes the deployment's.")]
NEW_ENV = Annotated[str, typer.Option("--env", envvar="FRAUD_ENV", help="Folder of params/: local, staging or prod.")]


def _say(line: str = "") -> None:
    typer.echo(line, err=True)


def _pairs(given: list[str], option: str) -> dict[str, str]:
    """Read ``name=value`` as often as an option was given."""
    pairs: dict[str, str] = {}
    for item in given:
        name, sign, value = item.partition("=")
        if not sign:
            raise ParameterError(f"{option} {item!r} must read name=value.")
        pairs[name.strip()] = value
    return pairs


def _version(wanted: bool) -> None:
    if wanted:  # eager: before a command is missed
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Look at the options before a command."""


@app.command("run")
def run_command(
    env: ENV = "",
    run_id: Annotated[str, typer.Option(help="Name of the run; the same name repeats or resumes it.")] = "",
    first: Annotated[str, typer.Option("--from", help="Start at this notebook, e.g. 02_train or 02.")] = "",
    only: Annotated[list[str], typer.Option(help="Run just this notebook; may be repeated.")] = [],  # noqa: B006
    param: Annotated[list[str], typer.Option("--param", "-p", help="name=value, over the params file.")] = [],  # noqa: B006
    cell_timeout: Annotated[int, typer.Option(help="Longest one cell may take (seconds).", min=1)] = 1800,
    timeout: Annotated[int, typer.Option(help="Longest everything may take (seconds).", min=1)] = 7200,
) -> None:
    """Execute the notebooks 01 to 04 with papermill and archive what they show.

    Parameters come from the notebook's first cell, then `params/<env>/NN.yaml`, then `--param`, and are all checked
    before anything runs. The environment and the endpoint are those of the deployment. Examples:

        fraud run

        fraud run --run-id tuesday --from 02 -p learning_rate=0.03
    """
    from fraud.pipeline import claims, runner

    overrides = _pairs(param, "--param")
    runs = os.environ.get("FRAUD_RUNS")  # where a shell wants to see what is going on
    with claims.registered(Path(runs) if runs else None, "fraud run"):
        this = runner.run(
            env,
            run_id=run_id,
            only=only,
            first=first,
            overrides=overrides,
            cell_timeout=cell_timeout,
            timeout=timeout,
            echo=_say,
        )
    _say(f"Reports: {runner.REPORTS / this.run_id} and {this.uri('')}")


@app.command("approve")
def approve_command(
    run_id: Annotated[str, typer.Argument(help="The run whose model it is; `fraud models` lists them.")],
    reject: Annotated[bool, typer.Option("--reject", help="Refuse it instead.")] = False,
    note: Annotated[str, typer.Option(help="Why; kept in the registry with your name.")] = "",
    endpoint: ENDPOINT = "",
) -> None:
    """Let a model that waits in the Model Registry be deployed (02_train with approval=manual makes it wait).

    Example: fraud approve run-20260102-030405 --note "looked at the segments"; then deploy it with
    fraud run --run-id run-20260102-030405 --from 03
    """
    from fraud.pipeline import registry
    from fraud.pipeline import where as places
    from fraud.pipeline.runs import Run

    run = Run(places.where().bucket, run_id)
    _say(registry.approve(run, places.endpoint(endpoint), reject=reject, note=note))


@app.command("models")
def models_command(
    endpoint: ENDPOINT = "",
) -> None:
    """List the models in the Model Registry, newest first: version, run, figures, approval."""
    from rich.console import Console
    from rich.table import Column, Table

    from fraud.pipeline import registry
    from fraud.pipeline import where as places

    run = Column("run", overflow="fold")  # an id that is cut cannot be approved
    table = Table("#", run, "AUC", "AP", "approval", "made (UTC)", box=None, pad_edge=False)
    for package in registry.packages(places.endpoint(endpoint), places.where().bucket):
        about = package.get("CustomerMetadataProperties", {})
        figures = [f"{float(about[name]):.4f}" if name in about else "" for name in ("auc", "average_precision")]
        made = f"{package['CreationTime'].astimezone(dt.UTC):%m-%d %H:%M}"
        status = {registry.PENDING: "waits"}.get(package["ModelApprovalStatus"], package["ModelApprovalStatus"].lower())
        table.add_row(str(package["ModelPackageVersion"]), about.get("run_id", ""), *figures, status, made)
    Console().print(table if table.row_count else "No model is registered yet.")


@app.command("rollback")
def rollback_command(
    endpoint: ENDPOINT = "",
    to: Annotated[str, typer.Option(help="Run whose release comes back; empty takes the one before this.")] = "",
) -> None:
    """Return to the release before the present one, without a failed request; ends a shadow or A/B test, if one runs.

    Example: fraud rollback
    """
    from fraud.pipeline import rollback
    from fraud.pipeline import where as places
    from fraud.pipeline.runs import Run

    name = places.endpoint(endpoint)
    _say("Moving the traffic back …")
    _say(rollback.rollback(Run(places.where().bucket, "rollback"), name, to))


@drift.command("pause")
def drift_pause(
    reason: Annotated[str, typer.Option(help="Why; shown to everybody with your name.")],
    endpoint: ENDPOINT = "",
) -> None:
    """Stop retrainings that drift would start. Checks and reports go on, and a run that is under way ends as it will.

    Example: fraud drift pause --reason "chargebacks of this week are late"
    """
    from fraud.pipeline import governing
    from fraud.pipeline import where as places
    from fraud.pipeline.runs import now

    _say(governing.pause(governing.bucket(), places.endpoint(endpoint), reason, governing.who(), now()))


@drift.command("resume")
def drift_resume(
    endpoint: ENDPOINT = "",
) -> None:
    """End a pause. The next check that finds drift may start a retraining."""
    from fraud.pipeline import governing
    from fraud.pipeline import where as places
    from fraud.pipeline.runs import now

    _say(governing.resume(governing.bucket(), places.endpoint(endpoint), governing.who(), now()))


@drift.command("status")
def drift_status(
    endpoint: ENDPOINT = "",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show whether retraining is paused, by whom and why, the last start, what the limits allow, the last decisions."""
    from fraud.pipeline import governing
    from fraud.pipeline import where as places
    from fraud.pipeline.runs import now

    found = governing.status(governing.bucket(), places.endpoint(endpoint), now())
    typer.echo(json.dumps(found, indent=1) if as_json else "\n".join(governing.in_lines(found, now())))


@drift.command("history")
def drift_history(
    endpoint: ENDPOINT = "",
    last: Annotated[int, typer.Option(help="How many decisions.", min=1, max=1000)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="For programs: the records themselves.")] = False,
) -> None:
    """List the governor's decisions, newest first: when, verdict, what it did, and every reason in words."""
    from fraud.pipeline import governing
    from fraud.pipeline import where as places

    found = governing.history(governing.bucket(), places.endpoint(endpoint), last)
    typer.echo(json.dumps(found, indent=1) if as_json else "\n".join(governing.decisions_in_lines(found)))


@app.command("reports")
def reports_command(
    endpoint: ENDPOINT = "",
    most: Annotated[int, typer.Option(help="How many of the newest to bring.", min=0, max=200)] = 10,
) -> None:
    """Bring the newest drift reports to reports/ and write reports/index.html, which lists them all."""
    from fraud.pipeline import history_page, runner
    from fraud.pipeline import where as places
    from fraud.pipeline.storage import Storage

    storage = Storage(places.where().bucket)
    typer.echo(history_page.bring(storage, places.endpoint(endpoint), runner.REPORTS, most))


@app.command("params")
def params_command(
    env: NEW_ENV = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="As the tables of the README.")] = False,
) -> None:
    """Print every parameter of every notebook with its meaning: its default, or its value with `--env`."""
    from fraud.pipeline import parameters

    if markdown:
        typer.echo(parameters.markdown())
        return
    for step in parameters.steps():
        typer.echo(f"\n{step}")
        values = parameters.resolve(env, [step])[step] if env else {}
        for name, item in parameters.declared(step).items():
            typer.echo(f"  {name}: {item.type} = {values.get(name, item.default)!r}  # {item.help}")


@app.command("sample")
def sample_command(
    path: Annotated[Path, typer.Argument(help="Where to write: a .csv or .parquet file.")],
    rows: Annotated[int, typer.Option(help="Transactions.", min=1)] = 30_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same rows.")] = 7,
    columns: Annotated[str, typer.Option(help="full (434 columns, as train_merged1.csv) or core.")] = "full",
    force: Annotated[bool, typer.Option("--force", help="Replace the file when it is there.")] = False,
) -> None:
    """Make an IEEE-CIS-shaped table of transactions. It shows the product's shape; it says nothing of its quality."""
    from fraud.demo import sample

    sample.write(path, rows, seed, columns=columns, force=force, echo=_say)


@history.command("put")
def history_put(
    path: Annotated[Path, typer.Argument(help="A .csv, .csv.gz or .parquet table of labelled transactions.")],
    target: Annotated[str, typer.Option(help="Column that is 1 for fraud, else 0; empty guesses.")] = "",
    id_column: Annotated[str, typer.Option("--id", help="Column that names a transaction.")] = "",
    time: Annotated[str, typer.Option(help="Column that orders transactions in time.")] = "",
    amount: Annotated[str, typer.Option(help="Column with the amount of money.")] = "",
    card: Annotated[str, typer.Option(help="Column that names the card or account.")] = "",
    exclude: Annotated[str, typer.Option(help="Columns to keep from the model, comma separated.")] = "",
    name: Annotated[str, typer.Option(help="Name in raw/; default is the file's own.")] = "",
) -> None:
    """Check a labelled table and put it into raw/. Nothing is written when it cannot be used."""
    from fraud.pipeline import history as histories
    from fraud.pipeline.dataset import ROLES_KEY
    from fraud.pipeline.storage import Storage
    from fraud.pipeline.where import where

    excluded = [item.strip() for item in exclude.split(",") if item.strip()]
    wanted = {"target": target, "id": id_column, "time": time, "amount": amount, "card": card}
    storage = Storage(where().bucket)
    found = histories.put(storage, path, roles=wanted, exclude=excluded, name=name, echo=_say)
    storage.write_json(ROLES_KEY, found["roles"] | {"exclude": excluded})
    typer.echo(json.dumps(found, indent=1))


@local.command("up")
def local_up(
    port: Annotated[int, typer.Option(help="Port of the AWS services; 0 finds a free one.")] = 0,
    bare: Annotated[bool, typer.Option("--bare", help="Start the services only; deploy nothing.")] = False,
) -> None:
    """Start the local AWS, deploy infra/app.yml to it and make the retraining pipeline. Safe to repeat."""
    from fraud.pipeline.bring_up import bring_up

    state = bring_up(port=port, bare=bare, echo=_say)
    _say('Ready. To point this shell at it: eval "$(fraud local env)"')
    typer.echo(json.dumps(state, indent=1))


@local.command("down")
def local_down() -> None:
    """Stop the local AWS; what it holds stays on disk."""
    from fraud.pipeline.bring_up import local_aws

    _say(local_aws("down").strip() or "Stopped.")


@local.command("status")
def local_status() -> None:
    """Show what runs, where, and what it holds."""
    from fraud.pipeline.bring_up import local_aws

    typer.echo(local_aws("status").strip())


@local.command("env")
def local_env() -> None:
    """Print for a shell what to export and to unset: eval "$(fraud local env)"."""
    from fraud.pipeline.bring_up import local_aws

    typer.echo(local_aws("env", shown=True).strip())


@local.command("logs")
def local_logs(lines: Annotated[int, typer.Option(help="How many lines of each log.", min=1)] = 40) -> None:
    """Show the last lines of the local AWS's own logs."""
    from fraud.pipeline.bring_up import local_aws

    typer.echo(local_aws("logs", "--lines", str(lines)).strip())


@local.command("tick")
def local_tick() -> None:
    """Do now what the schedule does each hour: invoke the drift check with the schedule's own event."""
    from fraud.pipeline.bring_up import local_aws, point_here, tick

    point_here(json.loads(local_aws("env", "--json")))  # here, wherever the shell points
    typer.echo(json.dumps(tick(), indent=1))


@infra.command("deploy")
def infra_deploy(
    env: ENV = "",
    setting: Annotated[list[str], typer.Option("--set", help="Name=value, a parameter of infra/app.yml.")] = [],  # noqa: B006
) -> None:
    """Bundle the Lambdas and create or update the stack in the AWS account that the environment points to.

    The first time name the environment, which also names the endpoint: `fraud-<env>`.

    Example: fraud infra deploy --env prod --set ReportFrom=drift@example.com --set ReportTo=team@example.com
    """
    from fraud.pipeline import infra as deployed
    from fraud.pipeline.mail_addresses import check_settings

    settings = _pairs(setting, "--set")
    check_settings(settings)
    env = deployed.environment_to_deploy(env)
    outputs = deployed.deploy_app(env, settings, echo=_say)
    typer.echo(json.dumps(outputs, indent=1))


@infra.command("pipeline")
def infra_pipeline(
    connection: Annotated[str, typer.Option(help="ARN of a CodeConnections connection to GitHub.")] = "",
    repository: Annotated[str, typer.Option(help="GitHub repository, owner/name.")] = "",
    setting: Annotated[list[str], typer.Option("--set", help="Name=value, a parameter of infra/cicd.yml.")] = [],  # noqa: B006
    env: ENV = "",
) -> None:
    """Create or update the pipeline that retrains: infra/cicd.yml, with what infra/app.yml's stack says.

    Creating it starts its first run, so put a history first. Later runs are started by drift, or by you with
    `aws codepipeline start-pipeline-execution`; a push starts none.

    Example: fraud infra pipeline --connection "$CONNECTION" --repository you/fraud-loop --set Branch=main
    """
    from fraud.pipeline import where as places
    from fraud.pipeline.infra import deploy_pipeline

    given = {"ConnectionArn": connection, "Repository": repository}
    settings = {name: value for name, value in given.items() if value} | _pairs(setting, "--set")
    typer.echo(json.dumps(deploy_pipeline(places.environment(env), settings, echo=_say), indent=1))


@infra.command("outputs")
def infra_outputs(env: ENV = "") -> None:
    """Print the stack's outputs: API address, bucket, function names."""
    from fraud.pipeline import where as places
    from fraud.pipeline.infra import app_stack_name
    from fraud.pipeline.stacks import stack_outputs

    typer.echo(json.dumps(stack_outputs(app_stack_name(places.environment(env))), indent=1))


@infra.command("destroy")
def infra_destroy(
    env: Annotated[str, typer.Option("--env", help="Folder of params/ whose deployment goes.")],
) -> None:
    """Delete what costs money: endpoint, models, pipeline, stack, logs. Say what stays, and what that costs.

    The bucket stays when it holds anything. Run it again when it was interrupted.

    Example: fraud infra destroy --env staging
    """
    from fraud.pipeline.teardown import destroy

    if sys.stdin.isatty():
        typer.confirm(f"Delete the endpoint of {env} and all that serves it?", abort=True, err=True)
    destroy(env, echo=_say)


@dashboard.command("show")
def dashboard_show(
    env: ENV = "",
    hours: Annotated[float, typer.Option(help="How far back to look (hours).", min=0.25, max=24 * 90)] = 24.0,
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("reports/dashboard.html"),
) -> None:
    """Draw the dashboard and the alarms from CloudWatch into one HTML page, for whoever has no console at hand.

    Example: fraud dashboard show --hours 3
    """
    from fraud.pipeline import dashboard_page
    from fraud.pipeline import where as places
    from fraud.pipeline.infra import app_stack_name
    from fraud.pipeline.stacks import stack_outputs

    outputs = stack_outputs(app_stack_name(places.environment(env)))
    queue = outputs["DriftDeadLetterUrl"].rsplit("/", 1)[-1]
    names = {"endpoint": outputs["EndpointName"], "pipeline": outputs["PipelineName"], "queue": queue}
    _say(f"Wrote {dashboard_page.write(out, names, hours)}")


@dashboard.command("render")
def dashboard_render() -> None:
    """Write infra/dashboards/ anew, after a change of the panels or of an alarm's threshold."""
    from fraud.pipeline import dashboard_files

    for path in dashboard_files.render():
        _say(f"Wrote {path}")


def main(arguments: list[str] | None = None) -> Any:
    """Entry point of the console script; turns errors into one sentence and an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [item for item in arguments if item != "--debug"]
    try:
        sys.exit(app(arguments, standalone_mode=False) or 0)
    except KeyboardInterrupt:
        _say("Interrupted. Run the same command again to go on.")
        sys.exit(130)
    except typer.Abort:
        sys.exit(130)
    except FraudError as error:
        if debug:
            raise
        _say(f"Error: {error}")
        sys.exit(error.exit_code)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of the command line itself
            _say(f"Error: {error.format_message()}")
            sys.exit(2)
        if debug:
            raise
        _say(f"Error: {type(error).__name__}: {error} (this is a fault of ours; --debug shows where)")
        sys.exit(1)


if __name__ == "__main__":
    main()
