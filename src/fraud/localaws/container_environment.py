"""What a serving container finds around it: its code folder, its variables, its interpreter."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
from pathlib import Path, PurePosixPath
from typing import Any

from fraud.localaws.clean_environment import kept
from fraud.localaws.container import unsatisfied
from fraud.localaws.model_archive import ModelDataError, download, unpack
from fraud.localaws.wire import Context

MODEL_DIR = "/opt/ml/model"
_INSTALLING: dict[Path, asyncio.Lock] = {}


async def code_dir(context: Context, container: dict[str, Any], folder: Path, model_dir: Path) -> Path:
    """Return where the user module lies, ``SAGEMAKER_SUBMIT_DIRECTORY`` as seen from here.

    Raises
    ------
    ModelDataError
        There is no such folder, or it is outside of the model.
    """
    submit = container.get("Environment", {}).get("SAGEMAKER_SUBMIT_DIRECTORY", f"{MODEL_DIR}/code")
    if submit.startswith("s3://"):
        archive, target = folder / "sourcedir.tar.gz", folder / "code"
        await download(context, submit, archive)
        await context.call(unpack, archive, target)
        return target
    path = PurePosixPath(submit.removeprefix("file://"))
    if not path.is_relative_to(MODEL_DIR) or ".." in path.parts:
        raise ModelDataError(f"SAGEMAKER_SUBMIT_DIRECTORY is {submit}; only {MODEL_DIR}/… or an S3 URI is served here")
    target = model_dir / path.relative_to(MODEL_DIR)
    if not target.is_dir():
        raise ModelDataError(f"the model archive has no folder {path.relative_to(MODEL_DIR)} with the inference code")
    return target


def variables(context: Context, container: dict[str, Any], model_dir: Path, code: Path) -> dict[str, str]:
    """Return the process's environment: the model's own and what AWS adds, ``/opt/ml/model`` being `model_dir`."""
    own = {name: _moved(value, model_dir) for name, value in container.get("Environment", {}).items()}
    return {
        **kept(os.environ),
        **context.environment,
        **own,
        "SAGEMAKER_PROGRAM": own.get("SAGEMAKER_PROGRAM", ""),
        "SAGEMAKER_SUBMIT_DIRECTORY": str(code),
        "SAGEMAKER_REGION": context.region,
        "SM_MODEL_DIR": str(model_dir),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _moved(value: str, model_dir: Path) -> str:
    inside = value == MODEL_DIR or value.startswith(f"{MODEL_DIR}/")
    return str(model_dir) + value.removeprefix(MODEL_DIR) if inside else value


async def install(context: Context, code: Path) -> Path | None:
    """Install what ``requirements.txt`` beside the user module asks for and this interpreter does not have.

    Returns
    -------
    Path or None
        What must be on ``PYTHONPATH``; None when nothing is missing.

    Raises
    ------
    ModelDataError
        ``pip`` failed; as in the container, nothing is served then.
    """
    requirements = code / "requirements.txt"
    if not await context.call(unsatisfied, requirements):
        return None
    mark = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:16]
    site = context.state / "site" / f"serving-{mark}"
    async with _INSTALLING.setdefault(site, asyncio.Lock()):
        if site.is_dir():
            return site
        beside = site.with_name(f".{site.name}.part")
        await context.call(shutil.rmtree, beside, True)
        pip = await context.spawn(
            *(sys.executable, "-m", "pip", "install", "--target", beside, "-r", requirements),
            cwd=code,
            env=kept(os.environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await pip.communicate()
        if pip.returncode:
            last = " | ".join(output.decode("utf-8", "replace").strip().splitlines()[-3:])
            raise ModelDataError(f"The container could not install its requirements.txt: {last}")
        beside.replace(site)
    return site
