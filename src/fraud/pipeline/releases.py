"""What is live and what was live before: ``releases/<endpoint>/``, written by the deploy step alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson

from fraud.errors import DeploymentError
from fraud.moment import iso
from fraud.pipeline.runs import Run, dumps, now
from fraud.pipeline.storage import Storage
from fraud.pipeline.strategies import CHALLENGER, VARIANT


def read_release(run: Run, endpoint_name: str) -> dict[str, Any] | None:
    """The release in service, from ``releases/<endpoint>/current.json``; None before the first."""
    found = run.storage.read_json(f"releases/{endpoint_name}/current.json", default=None)
    return dict(found) if found else None


def read_kept(storage: Storage, endpoint_name: str, run_id: str) -> dict[str, Any] | None:
    """The release of a run, as `fraud rollback` returns to it; None when it never was in service."""
    found = storage.read_json(f"releases/{endpoint_name}/{run_id}/release.json", default=None)
    return dict(found) if found else None


def check_same_model(run: Run, endpoint_name: str, model: dict[str, Any]) -> None:
    """Refuse a second model of a run that has one at this endpoint.

    A model's version is its run's id, in what is captured, counted and returned to: two of one version could not be
    told apart.

    Parameters
    ----------
    run : Run
        The run whose model is to be deployed.
    endpoint_name : str
    model : dict
        As `fraud.pipeline.deployment.verify_model` returned it.

    Raises
    ------
    DeploymentError
    """
    kept = read_kept(run.storage, endpoint_name, run.run_id)
    baseline = run.storage.get(f"releases/{endpoint_name}/{run.run_id}/baseline.json", default=None)
    other = kept is not None and kept["archive_sha256"] != model["archive_sha256"]
    if other or (baseline is not None and baseline != dumps(model["baseline"]).encode()):
        raise DeploymentError(
            f"The run {run.run_id} has had another model at {endpoint_name}, and a model's version is its run's id: "
            "train this one under another run_id."
        )


def write_release(
    run: Run, p: SimpleNamespace, trained: dict[str, Any], model: dict[str, Any], endpoint_config: str
) -> dict[str, Any]:
    """Record what is live: immutable files of this release first, then the pointer, by conditional writes.

    A test leaves the champion in service: an A/B test is noted beside it, of a shadow no caller hears anything.

    Parameters
    ----------
    run : Run
        The run whose model was deployed.
    p : SimpleNamespace
        Parameters of 03_deploy.
    trained, model : dict
        What 02_train recorded, and as `fraud.pipeline.deployment.verify_model` returned it.
    endpoint_config : str
        Configuration that is in service now.

    Returns
    -------
    dict
        ``releases/<endpoint>/current.json``.

    Raises
    ------
    DeploymentError
        When another deployment moved the pointer meanwhile.
    """
    folder = f"releases/{p.endpoint_name}"
    before, etag = read_pointer(run.storage, p.endpoint_name)
    merged = run.storage.read_json(f"runs/{run.run_id}/01_merge_data.json", default={})
    release = {
        "schema_version": 1,
        "endpoint": p.endpoint_name,
        "run_id": run.run_id,
        "model_version": run.run_id,
        "model_data": trained["model_uri"],
        "model_sha256": model["model_sha256"],
        "archive_sha256": model["archive_sha256"],
        "endpoint_config": endpoint_config,
        "schema_key": f"{folder}/{run.run_id}/schema.json",
        "baseline_key": f"{folder}/{run.run_id}/baseline.json",
        "decision_threshold": model["metrics"]["decision_threshold"],
        "capture_percentage": p.capture_percentage,
        "label_columns": merged.get("label_columns"),
        "auc": trained["auc"],
        "released_at": iso(now()),
        "previous": before["run_id"] if before else None,
    }
    if before and before["run_id"] == run.run_id:  # once more; maybe with other instances, or a test of it ended
        kept = {name: value for name, value in before.items() if name != "challenger"}
        release = kept | {"endpoint_config": endpoint_config}
        if release == before:
            return before
    run.storage.put_once(f"{folder}/{run.run_id}/schema.json", dumps(model["schema"]).encode())
    run.storage.put_once(f"{folder}/{run.run_id}/baseline.json", dumps(model["baseline"]).encode())
    if p.strategy == "shadow" and before:
        return before
    if p.strategy == "ab_test" and before:
        test = {
            "run_id": run.run_id,
            "model_version": run.run_id,
            "variant": CHALLENGER,
            "champion_variant": VARIANT,
            "traffic_percent": p.traffic_percent,
            "sticky_column": p.sticky_column,
            "decision_threshold": release["decision_threshold"],
            "since": release["released_at"],
        }
        if before.get("challenger", {}) | {"since": ""} == test | {"since": ""}:
            return before  # a repetition: the test goes on
        release = before | {"challenger": test}
    else:
        _keep(run.storage, f"{folder}/{run.run_id}/release.json", release)
    move_pointer(run.storage, release, etag)
    return release


def _keep(storage: Storage, key: str, release: dict[str, Any]) -> None:
    """Keep what `fraud rollback` returns to: as it was first released, on the configuration it had last.

    Raises
    ------
    DeploymentError
        When another deployment of the same run came between.
    """
    body, etag = storage.get_tagged(key) or (b"", "")
    kept = (dict(orjson.loads(body)) if body else release) | {"endpoint_config": release["endpoint_config"]}
    wanted = dumps(kept).encode()
    if wanted != body and not storage.put_if_match(key, wanted, etag):
        raise DeploymentError(f"Another deployment of {release['run_id']} finished meanwhile; look at {key}.")


def read_pointer(storage: Storage, endpoint_name: str) -> tuple[dict[str, Any] | None, str]:
    """``releases/<endpoint>/current.json`` and its entity tag; None and an empty one before the first release."""
    body, etag = storage.get_tagged(f"releases/{endpoint_name}/current.json") or (b"", "")
    return (dict(orjson.loads(body)) if body else None), etag


def move_pointer(storage: Storage, release: dict[str, Any], etag: str) -> None:
    """Make a release the one in service, if nobody else did since the pointer was read.

    Raises
    ------
    DeploymentError
    """
    pointer = f"releases/{release['endpoint']}/current.json"
    if not storage.put_if_match(pointer, dumps(release).encode(), etag):
        raise DeploymentError(f"Another deployment of {release['endpoint']} finished meanwhile; look at {pointer}.")
