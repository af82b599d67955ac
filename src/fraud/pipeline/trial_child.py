"""The process in which an archive's own ``inference.py`` is tried: started as a plain file, never imported.

``python -I trial_child.py FOLDER``: the archive's files lie in ``FOLDER/model``, ``requests.json`` is a list of bodies;
what the code answers is written to ``answers.json``. ``import fraud`` finds the archive's copy and no other, as in the
container.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import sys
from pathlib import Path

JSON = "application/json"
LARGEST_FILE = 64 << 20  # also of what it prints


def confine() -> None:
    """Let a crash leave no core, a flood of output end the process, and the kernel, short of memory, take it first."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    with contextlib.suppress(OSError):  # Linux only
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def main(folder: Path) -> None:
    """Load the model by the archive's code and answer the requests, as the container does."""
    confine()
    code = folder / "model" / "code"
    sys.path.insert(0, str(code))
    for stale in [name for name in sys.modules if name.split(".")[0] == "fraud"]:
        del sys.modules[stale]  # a site hook may have imported the installed package
    user = importlib.import_module("inference")
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in ("inference", "fraud") and code not in Path(module.__file__ or "").parents:
            raise ImportError(f"{name} is not in the archive")
    model = user.model_fn(str(folder / "model"))
    answers = []
    for body in json.loads((folder / "requests.json").read_bytes()):
        answered = user.output_fn(user.predict_fn(user.input_fn(body, JSON), model), JSON)
        if not isinstance(answered, tuple):  # an answer with a status of its own, which is no score
            raise ValueError("it refuses a golden row")
        answer, _ = answered
        answers.append(answer if isinstance(answer, str) else bytes(answer).decode())
    (folder / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)  # threads that the code left behind hold nothing up


if __name__ == "__main__":
    main(Path(sys.argv[1]))
