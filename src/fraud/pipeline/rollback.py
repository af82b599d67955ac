"""The way back: the release before this one, in one command."""

from __future__ import annotations

from fraud.errors import DeploymentError
from fraud.moment import iso
from fraud.pipeline import deployment, probing, strategies
from fraud.pipeline.releases import move_pointer, read_kept, read_pointer
from fraud.pipeline.runs import Run, now
from fraud.pipeline.training import read_model


def rollback(run: Run, endpoint_name: str, to: str = "") -> str:
    """Return an endpoint to the release before the present one, or end the test that runs on it.

    Parameters
    ----------
    run : Run
        For its bucket.
    endpoint_name : str
    to : str
        Run whose release comes back; by default the previous one. A test is ended, too.

    Returns
    -------
    str
        What was done, in one sentence.

    Raises
    ------
    DeploymentError
        When there is nothing to return to, the endpoint does not take it, or another deployment came between.
    """
    release, etag = read_pointer(run.storage, endpoint_name)
    if release is None:
        raise DeploymentError(f"Nothing is deployed at {endpoint_name}.")
    endpoint = deployment.describe(endpoint_name)
    if endpoint is not None and strategies.under_test(endpoint) and to in ("", release["run_id"]):
        deployment.go_back(endpoint_name, release["endpoint_config"])
        if "challenger" in release:
            move_pointer(run.storage, {k: v for k, v in release.items() if k != "challenger"}, etag)
        return f"The test is over: {release['run_id']} alone answers at {endpoint_name}."
    if to and to == release["run_id"]:
        return f"{to} is in service at {endpoint_name} already."
    if not (wanted := to or release["previous"]):
        raise DeploymentError(f"{release['run_id']} is the first release of {endpoint_name}: there is none before it.")
    target = read_kept(run.storage, endpoint_name, wanted)
    if target is None:
        raise DeploymentError(f"{wanted} was never released at {endpoint_name}.")
    deployment.go_back(endpoint_name, target["endpoint_config"])
    model = read_model(run, target["model_data"])
    served = probing.served_scores(endpoint_name, model["golden"]["transactions"])
    probing.check_served(model | {"offline": model["golden"]["scores"]}, served)
    move_pointer(run.storage, target | {"released_at": iso(now()), "rolled_back_from": release["run_id"]}, etag)
    return (
        f"{wanted} is back in service at {endpoint_name}, in place of {release['run_id']}; its golden rows score as at "
        "training, to the last bit."
    )
