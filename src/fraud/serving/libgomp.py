"""LightGBM, also where the system has no ``libgomp.so.1``.

LightGBM's wheel links against the system's OpenMP runtime, which the SageMaker image may have removed together with
gcc. scikit-learn, which the image keeps, carries a copy under a name of its own. LightGBM does not look for that name,
so the copy is loaded under the name that it does look for.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import tempfile
from pathlib import Path
from typing import Any

SYSTEM_NAME = "libgomp.so.1"


def vendored() -> Path | None:
    """Return scikit-learn's own copy of libgomp, or None when its wheel has none."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted((Path(spec.origin).parents[1] / "scikit_learn.libs").glob("libgomp*.so*"))), None)


def preload(library: Path | None = None) -> bool:
    """Load a copy of libgomp under the system's name, for everything that is loaded later.

    Parameters
    ----------
    library : Path, optional
        The copy; by default scikit-learn's.

    Returns
    -------
    bool
        False when there is no copy that could be used.
    """
    library = library or vendored()
    if library is None:
        return False
    # The loader compares names inside the file, not file names: a link called libgomp.so.1 would not do.
    own_name = library.name.encode() + b"\0"
    content = library.read_bytes()
    if own_name not in content or len(own_name) <= len(SYSTEM_NAME):
        return False
    with tempfile.TemporaryDirectory() as folder:
        renamed = Path(folder) / SYSTEM_NAME
        renamed.write_bytes(content.replace(own_name, SYSTEM_NAME.encode().ljust(len(own_name), b"\0")))
        ctypes.CDLL(str(renamed), mode=ctypes.RTLD_GLOBAL)  # stays loaded when the file is gone
    return True


def lightgbm() -> Any:
    """Import LightGBM, after loading a libgomp for it when the system has none.

    Returns
    -------
    module
        ``lightgbm``.
    """
    # Read when libgomp is loaded. Threads that spin while they wait made training ten times slower on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        ctypes.CDLL(SYSTEM_NAME, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        preload()
    return importlib.import_module("lightgbm")
