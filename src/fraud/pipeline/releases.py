"""What is live and what was live before: ``releases/<endpoint>/``, written by the deploy step alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import orjson

from fraud.errors import DeploymentError
from fraud.moment import iso
from fraud.pipeline.runs import Run, dumps, now


def read_release(run: Run, endpoint_name: str) -> dict[str, Any] | None:
    """The release in service, from ``releases/<endpoint>/current.json``; None before the first."""
    found = run.storage.read_json(f"releases/{endpoint_name}/current.json", default=None)
    return dict(found) if found else None


def write_release(run: Run, p: SimpleNamespace, trained: dict[str, Any], model: dict[str, Any]) -> dict[str, Any]:
    """Record what is live: immutable files of this release first, then the pointer, by conditional writes.

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
    pointer = f"{folder}/current.json"
    body, etag = run.storage.get_tagged(pointer) or (b"", "")
    before = orjson.loads(body) if body else None
    if before and before["run_id"] == run.run_id:
        return dict(before)
    release = {
        "schema_version": 1,
        "endpoint": p.endpoint_name,
        "run_id": run.run_id,
        "model_version": run.run_id,
        "model_data": trained["model_uri"],
        "model_sha256": model["model_sha256"],
        "archive_sha256": model["archive_sha256"],
        "endpoint_config": f"fraud-{run.run_id}",
        "schema_key": f"{folder}/{run.run_id}/schema.json",
        "baseline_key": f"{folder}/{run.run_id}/baseline.json",
        "decision_threshold": model["metrics"]["decision_threshold"],
        "auc": trained["auc"],
        "released_at": iso(now()),
        "previous": before["run_id"] if before else None,
    }
    run.storage.put_once(release["schema_key"], dumps(model["schema"]).encode())
    run.storage.put_once(release["baseline_key"], dumps(model["baseline"]).encode())
    run.storage.put_once(f"{folder}/{run.run_id}/release.json", dumps(release).encode())
    if not run.storage.put_if_match(pointer, dumps(release).encode(), etag):
        raise DeploymentError(f"Another deployment of {p.endpoint_name} finished meanwhile; look at {pointer}.")
    return release
