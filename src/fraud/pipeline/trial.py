"""Before any traffic: the archive's own ``inference.py`` scores the golden rows.

SageMaker calls an instance healthy that answers a ping, which scores nothing. Code that fails on each request would
only be noticed by callers, and be sent back by the alarm on errors. So it is tried first, in a process of its own: it
has a time limit, an environment without credentials, a home of its own, and what it leaves running is ended.

That keeps a mistake from doing harm. Against code that means harm only the hashes stand: it is run as the user who
deploys.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from fraud import api
from fraud.archive import read_all
from fraud.errors import DeploymentError, EndpointError

CHILD = Path(__file__).with_name("trial_child.py")
SECONDS = 120.0  # its model_fn has a child of its own, which may take half of it
KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TZ")
LONGEST_REASON = 120
LARGEST_ANSWER = 64 << 20


def check_code(model: dict[str, Any], run_id: str, *, seconds: float = SECONDS) -> None:
    """Score the golden rows by the archive's code, together, one at a time and with reasons.

    Parameters
    ----------
    model : dict
        As `fraud.pipeline.training.read_model`.
    run_id : str
        The run that trained it; ``MODEL_VERSION`` of the endpoint.
    seconds : float
        Longest it may take (s).

    Raises
    ------
    DeploymentError
        When the code cannot be loaded, fails on a request, takes too long, or scores one row differently.
    DataError
        When the archive is damaged or holds what cannot be unpacked safely.
    """
    golden = model["golden"]
    rows = golden["transactions"]
    if not rows:
        raise DeploymentError(f"The model of {run_id} has no golden rows, so nothing can be compared.")
    everything = list(range(len(rows)))
    asked = [everything, *([k] for k in everything), [0]]  # the last one with reasons
    bodies = [
        json.dumps({"transactions": [rows[k] for k in part], "inference_ids": [], "reasons": number == len(asked) - 1})
        for number, part in enumerate(asked)
    ]
    names = [feature["name"] for feature in model["schema"]["features"]]
    differ: set[int] = set()
    for body, part in zip(_answers(model, run_id, bodies, seconds), asked, strict=True):
        try:
            predictions, version = api.read_answer(body.encode(), len(part), names)
            told = json.loads(body).get("sha256")
        except (EndpointError, UnicodeError):
            raise DeploymentError(f"The code of {run_id} gives an answer that cannot be used.") from None
        if (version, told) != (run_id, model["model_sha256"]):
            raise DeploymentError(
                f"The code of {run_id} answers for the model {version[:40]!r} with SHA-256 {str(told)[:12]!r}…."
            )
        found = [item["fraud_probability"] for item in predictions]
        differ |= {k for k, score in zip(part, found, strict=True) if score != golden["scores"][k]}
    if differ:
        raise DeploymentError(
            f"{len(differ)} of {len(rows)} golden rows score differently by the code of {run_id} than at training."
        )


def _answers(model: dict[str, Any], run_id: str, bodies: list[str], seconds: float) -> list[str]:
    """What the archive's code answers to some bodies."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for path, content in read_all(model["archive"]).items():
            (folder / "model" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "model" / path).write_bytes(content)
        (folder / "requests.json").write_text(json.dumps(bodies), encoding="utf-8")
        (folder / "home").mkdir()
        code = _run(folder, _environment(folder / "home", run_id, model["model_sha256"]), run_id, seconds)
        if code:
            raise DeploymentError(f"The code of {run_id} cannot score (exit code {code}): {_reason(folder)}.")
        answers: list[str] = []
        with contextlib.suppress(OSError, ValueError), (folder / "answers.json").open("rb") as file:
            answers = json.loads(file.read(LARGEST_ANSWER))
    if not (isinstance(answers, list) and len(answers) == len(bodies) and all(isinstance(a, str) for a in answers)):
        raise DeploymentError(f"The code of {run_id} ended before it had answered.")
    return answers


def _environment(home: Path, run_id: str, model_sha256: str) -> dict[str, str]:
    """What the code may know: no credentials, and nothing that leads to some."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return kept | {
        "HOME": str(home),
        "TMPDIR": str(home),
        "AWS_EC2_METADATA_DISABLED": "true",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MODEL_VERSION": run_id,
        "MODEL_SHA256": model_sha256,
    }


def _run(folder: Path, environment: dict[str, str], run_id: str, seconds: float) -> int:
    """Exit code of the child; whatever it started is ended with it."""
    command = [sys.executable, "-I", str(CHILD), str(folder)]
    with (folder / "said").open("wb") as said:
        child = subprocess.Popen(
            command,
            cwd=folder / "home",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        try:
            return child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise DeploymentError(
                f"The code of {run_id} has not scored the golden rows within {seconds:g} s."
            ) from None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _reason(folder: Path) -> str:
    """The last line it printed, as part of a sentence."""
    with (folder / "said").open("rb") as file:
        file.seek(max(0, (folder / "said").stat().st_size - 4096))
        lines = file.read().decode(errors="replace").strip().splitlines()
    last = "".join(c if c.isprintable() else " " for c in (lines[-1:] or ["no message"])[0])
    return last.strip()[:LONGEST_REASON].rstrip(". ")
