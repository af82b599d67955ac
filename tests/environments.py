"""Python environments beside our own, for programs whose requirements do not fit ours: made once, then kept."""

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

KEPT = Path(__file__).resolve().parents[1] / ".fraud" / "environments"


def environment_with(*requirements: str) -> Path:
    """Folder with the programs of an environment that has `requirements`; skips the test where it cannot be made."""
    place = KEPT / "+".join(requirements).replace("<", "-")
    programs, made = place / "bin", place / "made"
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            for command in (
                [sys.executable, "-m", "venv", "--clear", str(place)],
                [str(programs / "python"), "-m", "pip", "install", "--quiet", *requirements],
            ):
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    pytest.skip(f"{requirements} cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
            made.touch()
    return programs
