"""``fraud run``: execute the notebooks with papermill, archive what they show, and commit the run when all is done."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from fraud import errors
from fraud.errors import FraudError, ParameterError, UserError
from fraud.moment import iso
from fraud.pipeline import history_page, outbox, parameters
from fraud.pipeline.render import render_html
from fraud.pipeline.runs import COMMITTED, Run, check_run_id, dumps, now
from fraud.pipeline.where import endpoint, environment, where
from fraud.plaintext import shown

REPORTS = Path(os.environ.get("FRAUD_REPORTS") or parameters.ROOT / "reports")  # tests have theirs elsewhere
REPORT = "04_drift_report"


class StepFailed(FraudError):
    """A cell of a notebook raised; the message names notebook, cell and exception."""


@dataclass
class Outcome:
    """What became of one notebook: seconds it took and, when it failed, why."""

    step: str
    seconds: float
    error: str = ""


def choose(only: Sequence[str], first: str) -> list[str]:
    """Pick the notebooks to run, by full name or by a leading part such as ``02``.

    Raises
    ------
    ParameterError
        When a name fits no notebook, or both are given.
    """
    order = parameters.steps()

    def find(name: str) -> str:
        found = [step for step in order if step == name or step.startswith(f"{name}_")]
        if not found:
            raise ParameterError(f"There is no notebook {name!r}; choose from {', '.join(order)}.")
        return found[0]

    if only and first:
        raise ParameterError("Give either --only or --from, not both.")
    if first:
        return order[order.index(find(first)) :]
    return sorted({find(name) for name in only}) or order


def run(
    env: str,
    *,
    run_id: str = "",
    only: Sequence[str] = (),
    first: str = "",
    overrides: Mapping[str, str] | None = None,
    cell_timeout: int = 1800,
    timeout: int = 7200,
    echo: Callable[[str], None] = lambda line: None,
) -> Run:
    """Execute the pipeline, or part of it.

    Parameters
    ----------
    env : str
        Folder of ``params/``; empty takes the deployment's, and no other is taken.
    run_id : str
        Names the run; empty makes one from the clock. The same id again repeats or resumes the same run.
    only, first : sequence of str, str
        Notebooks to run; or the one to start from.
    overrides : mapping of str to str, optional
        Parameters from the command line.
    cell_timeout, timeout : int
        Limits for one cell and for everything (seconds).
    echo : callable
        Gets one line of progress at a time.

    Returns
    -------
    Run

    Raises
    ------
    UserError
        On parameters that do not fit, before any call; on a run that is committed already.
    StepFailed
        When a cell raised; notebook and HTML are archived all the same.
    """
    steps = choose(only, first)
    if env:
        parameters.resolve(env, steps, overrides)  # what is wrong by itself needs no AWS to be told
    env = environment(env)
    resolved = parameters.resolve(env, steps, overrides)
    for values in resolved.values():
        if "endpoint_name" in values:
            values["endpoint_name"] = endpoint(values["endpoint_name"])
    this = Run(where().bucket, check_run_id(run_id or f"run-{now():%Y%m%d-%H%M%S}"))
    if this.storage.exists(this.key(COMMITTED)):
        raise ParameterError(f"The run {this.run_id} is committed already; choose another --run-id.")
    resolved = _settle(this, resolved)
    echo(f"{this.run_id}: {' → '.join(steps)} with params/{env} in {this.uri('')}")
    outcomes: list[Outcome] = []
    step = steps[0]
    try:
        with _time_limit(timeout):
            for step in steps:
                outcomes.append(_execute(this, step, resolved[step], cell_timeout, echo))
                if outcomes[-1].error:
                    break
                if step == REPORT:
                    history_page.publish(this, REPORTS, echo)
                    outbox.report(this, steps, echo)
    except Exception as problem:  # the time is over, or the kernel died; an interrupt needs no mail
        outbox.failed(this, step, str(problem), echo)
        raise
    finally:
        stop_kernels()
        write_junit(outcomes)
    failed = next((item for item in outcomes if item.error), None)
    if failed:
        outbox.failed(this, failed.step, failed.error, echo)
        raise _failure(failed)
    _commit(this)
    outbox.finished(this, steps, echo)
    return this


def _settle(this: Run, resolved: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Fix the run's parameters and its present moment: the first attempt decides, a repeated one gets the same."""
    key = this.key("params.json")
    stored = this.storage.read_json(key, default=None)
    if stored is None:
        fresh = {"as_of": iso(now()), "steps": resolved}
        if this.storage.put_once(key, dumps(fresh).encode()):
            stored = fresh
        else:
            stored = this.storage.read_json(key)
    settled: dict[str, dict[str, Any]] = {}
    for step, values in resolved.items():
        before = stored["steps"].get(step)
        if before is not None and before != json.loads(dumps(values)):
            changed = sorted(name for name in values if values[name] != before.get(name))
            raise ParameterError(
                f"The run {this.run_id} began with other parameters for {step} ({', '.join(changed)}); "
                "choose another --run-id."
            )
        settled[step] = dict(values)
        if settled[step].get("as_of") == "":
            settled[step]["as_of"] = stored["as_of"]
    return settled


def _execute(this: Run, step: str, values: dict[str, Any], cell_timeout: int, echo: Callable[[str], None]) -> Outcome:
    """Run one notebook into the bucket and archive its HTML, whatever happened."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    started = time.monotonic()
    echo(f"▸ {step}")
    error = ""
    try:
        with _sockets() as config:
            papermill.execute_notebook(
                str(parameters.NOTEBOOKS / f"{step}.ipynb"),
                this.uri(f"{step}.ipynb"),
                parameters=values | {"bucket": this.bucket, "run_id": this.run_id},
                progress_bar={"ncols": 76, "leave": False} if sys.stderr.isatty() else False,
                execution_timeout=cell_timeout,
                kernel_name="python3",
                log_output=False,
                cwd=str(parameters.ROOT),
                config=config,
            )
    except PapermillExecutionError as problem:
        error = f"{step}, cell {problem.cell_index}: {problem.ename}: {problem.evalue}"
    finally:
        _archive(this, step, str(values.get("endpoint_name", "")))
    seconds = time.monotonic() - started
    echo(f"{'✗' if error else '✓'} {step} in {seconds:.0f} s")
    if not error:
        for warning in this.storage.read_json(this.key(f"{step}.json"), default={}).get("warnings", ()):
            echo(f"! {shown(warning, 400)}")
    return Outcome(step, seconds, error)


@contextlib.contextmanager
def _sockets() -> Iterator[Any]:
    """Configuration of a kernel that listens on Unix sockets in a folder of its own.

    Over TCP, whoever is on this machine could listen. Left to itself, jupyter_client names the sockets
    ``kernel-ipc-1`` and so on in the working folder, the first numbers that no file has yet: of two runs that start at
    once from one checkout, one would talk to the other's kernel and wait for an answer in vain.
    """
    from traitlets.config import Config

    folder = tempfile.mkdtemp(prefix="fraud-", dir="/tmp" if len(tempfile.gettempdir()) > 60 else None)
    try:  # 60: the path of a Unix socket has at most 107 bytes
        yield Config(KernelManager={"transport": "ipc", "ip": f"{folder}/kernel"})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _archive(this: Run, step: str, endpoint: str) -> None:
    """Render the executed notebook and keep its HTML beside it and under ``reports/``."""
    import nbformat

    source = this.storage.get(this.key(f"{step}.ipynb"), default=None)
    if source is None:
        return
    notebook = nbformat.reads(source.decode(), as_version=4)
    title = " · ".join(filter(None, [endpoint, step, this.run_id]))
    page = render_html(notebook, title=title, footer=f"{this.uri(step + '.ipynb')}").encode()
    this.storage.put(this.key(f"{step}.html"), page, content_type="text/html; charset=utf-8")
    folder = REPORTS / this.run_id
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{step}.html").write_bytes(page)


def _commit(this: Run) -> None:
    """Write ``COMMITTED`` once every notebook of the pipeline has recorded; the only sign that a run counts."""
    records: dict[str, str] = {}
    for step in parameters.steps():
        record = this.storage.get(this.key(f"{step}.json"), default=None)
        if record is None:
            return
        records[step] = hashlib.sha256(record).hexdigest()
    this.storage.put_once(this.key(COMMITTED), dumps({"run_id": this.run_id, "records": records}).encode())


def _failure(outcome: Outcome) -> FraudError:
    """The error to end with; one that the user can mend keeps its exit code."""
    name = outcome.error.split(": ")[1] if ": " in outcome.error else ""
    kind = getattr(errors, name, None)
    problem = StepFailed(outcome.error)
    if isinstance(kind, type) and issubclass(kind, UserError):
        problem.exit_code = kind.exit_code
    return problem


@contextlib.contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    """Raise `StepFailed` in the main thread once the time is over."""

    def over(signum: int, frame: Any) -> None:
        raise StepFailed(f"The run took longer than {seconds} s (--timeout) and was stopped.")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def stop_kernels() -> int:
    """Stop every kernel that this process started and that still lives; returns how many there were."""
    kernels = [child for child in psutil.Process(os.getpid()).children(recursive=True) if _is_kernel(child)]
    for kernel in kernels:
        with contextlib.suppress(psutil.NoSuchProcess):
            kernel.kill()
    psutil.wait_procs(kernels, timeout=5)
    return len(kernels)


def _is_kernel(process: psutil.Process) -> bool:
    try:
        return any("ipykernel" in part for part in process.cmdline())
    except psutil.Error:
        return False


def write_junit(outcomes: Sequence[Outcome]) -> None:
    """Write ``reports/run.xml``: one test case a notebook, as CodeBuild's test reports read it."""
    suite = ET.Element(
        "testsuite",
        name="fraud run",
        tests=str(len(outcomes)),
        failures=str(sum(bool(item.error) for item in outcomes)),
        time=f"{sum(item.seconds for item in outcomes):.3f}",
    )
    for item in outcomes:
        case = ET.SubElement(suite, "testcase", classname="notebooks", name=item.step, time=f"{item.seconds:.3f}")
        if item.error:
            ET.SubElement(case, "failure", message=item.error)
    REPORTS.mkdir(exist_ok=True)
    ET.ElementTree(suite).write(REPORTS / "run.xml", encoding="utf-8", xml_declaration=True)
