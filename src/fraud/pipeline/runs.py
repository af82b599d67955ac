"""One execution of the pipeline: where its files lie, what each notebook recorded, when it counts."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
import sys
from types import SimpleNamespace
from typing import Any

from fraud.errors import DataError, ParameterError
from fraud.moment import iso
from fraud.pipeline import parameters
from fraud.pipeline.storage import Item, Storage
from fraud.pipeline.where import endpoint, where

RUN_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
COMMITTED = "COMMITTED"


def now() -> dt.datetime:
    """The present moment, UTC, whole seconds."""
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def check_run_id(run_id: str) -> str:
    """Refuse a run id that cannot name SageMaker resources.

    Raises
    ------
    ParameterError
        Unless it is 1 to 40 lower-case letters, digits and hyphens.
    """
    if not RUN_ID.fullmatch(run_id):
        raise ParameterError(f"run_id is {run_id!r}, but it must be 1 to 40 lower-case letters, digits and hyphens.")
    return run_id


class Run:
    """Files of one run under ``runs/<run_id>/``.

    Parameters
    ----------
    bucket : str
        The bucket.
    run_id : str
        Name of the run.
    step : str
        The notebook that is running; empty outside notebooks.
    looking : bool
        Whether a person only looks again at a run that is committed: records are shown, not written.
    """

    def __init__(self, bucket: str, run_id: str, step: str = "", *, looking: bool = False) -> None:
        self.bucket, self.run_id, self.step, self.looking = bucket, check_run_id(run_id), step, looking
        self.storage = Storage(bucket)

    def __repr__(self) -> str:
        return f"Run({self.uri('')})"

    def key(self, name: str) -> str:
        """Key of one of the run's files."""
        return f"runs/{self.run_id}/{name}"

    def uri(self, name: str) -> str:
        """``s3://`` address of one of the run's files."""
        return f"s3://{self.bucket}/{self.key(name)}"

    def record(self, **results: Any) -> Any:
        """Write what this notebook found to ``runs/<run_id>/<step>.json`` and show it as a table.

        The same run may write the same step again until it is committed; numbers that are not finite become null.

        Raises
        ------
        DataError
            When the run is committed already.
        """
        results = clean(results)
        if not self.looking:
            if self.storage.exists(self.key(COMMITTED)):
                raise DataError(f"The run {self.run_id} is committed and cannot change; choose another run_id.")
            self.storage.write_json(self.key(f"{self.step}.json"), results)
        import pandas as pd

        shown = {name: value for name, value in results.items() if not isinstance(value, (dict, list))}
        return pd.DataFrame({"value": pd.Series(shown, dtype=object)}).rename_axis("recorded")

    def results(self, step: str) -> dict[str, Any]:
        """Read what an earlier notebook of this run recorded.

        Raises
        ------
        DataError
            When it has not recorded yet.
        """
        found = self.storage.read_json(self.key(f"{step}.json"), default=None)
        if found is None:
            raise DataError(
                f"{step} has not recorded its results in {self.uri('')}: run notebooks/{step}.ipynb first, "
                f"or `fraud run --run-id {self.run_id} --from {step}`."
            )
        return dict(found)


def clean(value: Any) -> Any:
    """Turn results into plain JSON values: NumPy scalars, tuples, dates, and no NaN or infinity."""
    if isinstance(value, dict):
        return {str(name): clean(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if isinstance(value, (dt.datetime, dt.date)):
        return iso(value) if isinstance(value, dt.datetime) else value.isoformat()
    if hasattr(value, "item"):  # a NumPy scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def records(storage: Storage, step: str) -> list[tuple[str, Item]]:
    """Runs that recorded ``step``, each with its record's key and time, the newest first; what lies deeper is none."""
    own = re.compile(rf"runs/([^/]+)/{re.escape(step)}\.json")
    found = [(name[1], item) for item in storage.list("runs/") if (name := own.fullmatch(item.key))]
    return sorted(found, key=lambda pair: pair[1].last_modified, reverse=True)


def newest(bucket: str, step: str) -> str:
    """Id of the run that recorded ``step`` last; empty when there is none."""
    return next((run_id for run_id, _ in records(Storage(bucket), step)), "")


def begin(step: str, namespace: dict[str, Any]) -> tuple[Run, SimpleNamespace]:
    """Check a notebook's parameters and find its run; the second cell of every notebook.

    An empty ``bucket`` or ``endpoint_name`` is the deployment's, as `fraud.pipeline.where.where` finds it. An empty
    ``run_id``, as when a person runs the notebook, starts a run of its own in 01 and 04 and continues the newest run in
    02 and 03; if that one is committed, it is only looked at.

    The runner names the bucket and has settled the parameters. Where a person runs the notebook, what the parameters
    cell leaves at its default is as ``params/`` of the deployment's environment says, and that is printed: a model that
    waits for approval in the pipeline waits for it here, too.

    Parameters
    ----------
    step : str
        The notebook's name.
    namespace : dict
        Its ``globals()``.

    Returns
    -------
    run : Run
    p : SimpleNamespace
        The checked parameters.

    Raises
    ------
    ParameterError
        When a parameter has the wrong type or is out of range, or the endpoint is not the deployment's.
    """
    _quiet()
    values = parameters.from_namespace(step, namespace)
    values["endpoint_name"] = endpoint(values["endpoint_name"])
    if not values["bucket"]:
        values |= _of_environment(step, values)
    order = parameters.steps()
    bucket = values["bucket"] or where().bucket
    previous = order[order.index(step) - 1] if step in order[1:-1] else ""
    found = newest(bucket, previous) if previous and not values["run_id"] else ""
    run_id = values["run_id"] or found or f"hand-{now():%Y%m%d-%H%M%S}"
    looking = bool(found) and Storage(bucket).exists(f"runs/{found}/{COMMITTED}")
    p = SimpleNamespace(**(values | {"bucket": bucket, "run_id": run_id}))
    return Run(bucket, run_id, step, looking=looking), p


def _of_environment(step: str, values: dict[str, Any]) -> dict[str, Any]:
    """What ``params/`` of the deployment's environment says of parameters that are at their defaults."""
    env = where().environment
    if not env:
        return {}
    declared = parameters.declared(step)
    wanted = parameters.resolve(env, [step])[step]
    taken = {name: value for name, value in wanted.items() if values[name] == declared[name].default != value}
    if taken:
        sys.stdout.write(f"params/{env}: {', '.join(f'{name} = {value!r}' for name, value in taken.items())}\n")
    return taken


def _quiet() -> None:
    """Keep libraries' chatter out of executed notebooks: telemetry, and log lines that are not ours."""
    import logging
    import os

    os.environ.setdefault("SAGEMAKER_TELEMETRY_OPT_OUT", "true")
    for name in ("botocore", "sagemaker", "matplotlib", "urllib3"):
        logging.getLogger(name).setLevel(logging.WARNING)


def dumps(value: Any) -> str:
    """JSON as this product writes it: sorted, indented, never NaN."""
    return json.dumps(clean(value), indent=1, sort_keys=True, allow_nan=False)
