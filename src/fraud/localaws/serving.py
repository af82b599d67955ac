"""What runs inside one endpoint instance: the scikit-learn container's serving contract behind gunicorn and gevent.

Started as a plain file (never imported by the daemon), so that it works under any interpreter that has gunicorn and
gevent, and so that ``import fraud`` inside a model archive finds the archive's own copy.

The contract, as the public container has it: the user module named by ``SAGEMAKER_PROGRAM`` lies in the archive's
``code`` folder and may define ``model_fn(model_dir)``, ``input_fn(body, content_type)``, ``predict_fn(data, model)``,
``output_fn(prediction, accept)``, or ``transform_fn(model, body, content_type, accept)`` instead of the last three.
JSON and CSV bodies arrive as text, all others as bytes. An exception in any of them is a 500. A pair of body and
content type is a 200; what can be called as a WSGI application (a ``Response`` of Flask's is one) answers for itself,
with a status of its own.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import importlib
import importlib.util
import io
import json
import logging
import mmap
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

logger = logging.getLogger("serving")

JSON, CSV, NPY = "application/json", "text/csv", "application/x-npy"
TEXT_TYPES = frozenset({JSON, CSV})
BROKEN_AT_START = 70
"""Exit code of an instance whose worker died before it could answer."""

Headers = list[tuple[str, str]]


class Answer(NamedTuple):
    """What goes back: status line, headers, body."""

    status: str
    headers: Headers
    body: bytes

    @classmethod
    def of(cls, status: int, body: bytes, content_type: str) -> Answer:
        """Make one of a status code and a content type."""
        headers = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
        return cls(f"{status} {HTTPStatus(status).phrase.upper()}", headers, body)


class UnsupportedFormatError(Exception):
    """A default handler met a content type that it does not know."""


def default_input_fn(body: str | bytes, content_type: str) -> Any:
    """Decode JSON, CSV or NPY to a numpy array (text types as float32, as the container does)."""
    import numpy as np

    if content_type == JSON:
        return np.array(json.loads(body)).astype(np.float32)
    if content_type == CSV:
        text = body if isinstance(body, str) else body.decode()
        return np.array(list(csv.reader(io.StringIO(text), strict=True))).squeeze().astype(np.float32)
    if content_type == NPY:
        raw = body if isinstance(body, bytes) else body.encode()
        return np.load(io.BytesIO(raw), allow_pickle=False)  # the container allows pickle; nothing here ever does
    raise UnsupportedFormatError(f"Content type {content_type} is not supported by this framework.")


def default_predict_fn(data: Any, model: Any) -> Any:
    """Call ``model.predict``."""
    return model.predict(data)


def default_output_fn(prediction: Any, accept: str) -> tuple[bytes, str]:
    """Encode a prediction as JSON, CSV or NPY."""
    import numpy as np

    if accept == JSON:
        return json.dumps(prediction, default=lambda value: value.tolist()).encode(), accept
    if accept == CSV:
        array = np.array(prediction)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(array.reshape(-1, 1) if array.ndim == 1 else array)
        return text.getvalue().encode(), accept
    if accept == NPY:
        raw = io.BytesIO()
        np.save(raw, np.asarray(prediction), allow_pickle=False)
        return raw.getvalue(), accept
    raise UnsupportedFormatError(f"Content type {accept} is not supported by this framework.")


class UserModule:
    """The handlers of the archive and the model they loaded.

    Parameters
    ----------
    module : ModuleType
        What ``SAGEMAKER_PROGRAM`` names.
    model_dir : str
        Passed to ``model_fn``.

    Raises
    ------
    ValueError
        ``transform_fn`` stands beside one of the handlers it replaces, or ``model_fn`` is absent.
    """

    def __init__(self, module: ModuleType, model_dir: str) -> None:
        single = {name: getattr(module, name, None) for name in ("input_fn", "predict_fn", "output_fn")}
        self.transform_fn: Callable[..., Any] | None = getattr(module, "transform_fn", None)
        if self.transform_fn and any(single.values()):
            raise ValueError("Cannot use transform_fn implementation with input_fn, predict_fn, and/or output_fn")
        if not hasattr(module, "model_fn"):
            raise ValueError(f"{module.__name__} has no model_fn(model_dir)")
        self.input_fn = single["input_fn"] or default_input_fn
        self.predict_fn = single["predict_fn"] or default_predict_fn
        self.output_fn = single["output_fn"] or default_output_fn
        self.model = module.model_fn(model_dir)

    def answer(self, body: str | bytes, content_type: str, accept: str, environ: dict[str, Any]) -> Answer:
        """Run one request through the handlers; never raises."""
        try:
            if self.transform_fn is not None:
                return _packed(self.transform_fn(self.model, body, content_type, accept), accept, environ)
            try:
                data = self.input_fn(body, content_type)
            except UnsupportedFormatError as error:
                return _refused(415, error)
            prediction = self.predict_fn(data, self.model)
            try:
                return _packed(self.output_fn(prediction, accept), accept, environ)
            except UnsupportedFormatError as error:
                return _refused(406, error)
        except Exception:
            logger.exception("Exception on /invocations [POST]")
            return Answer.of(500, b"Internal Server Error", "text/plain")


def _packed(result: Any, accept: str, environ: dict[str, Any]) -> Answer:
    if callable(result):
        return _called(result, environ)
    body, content_type = result if isinstance(result, tuple) else (result, accept)
    return Answer.of(200, body.encode() if isinstance(body, str) else bytes(body), content_type)


def _called(application: Callable[..., Any], environ: dict[str, Any]) -> Answer:
    """Answer of a WSGI application, read to its end."""
    begun: list[tuple[str, Headers]] = []
    parts: list[bytes] = []

    def start_response(status: str, headers: Headers, *_: Any) -> Callable[[bytes], None]:
        begun.append((status, headers))
        return parts.append

    pieces = application(environ, start_response)
    parts += pieces
    if hasattr(pieces, "close"):
        pieces.close()
    status, headers = begun[-1]
    body = b"".join(parts)
    kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
    return Answer(status, [*kept, ("Content-Length", str(len(body)))], body)


def _refused(status: int, error: Exception) -> Answer:
    body = {"error": type(error).__name__, "error-message": str(error), "stack-trace": traceback.format_exc()}
    return Answer.of(status, json.dumps(body).encode(), JSON)


def application(
    user: UserModule, default_accept: str = JSON, refused: Callable[[dict[str, Any]], bool] = lambda environ: False
) -> Callable[..., Iterable[bytes]]:
    """Return the WSGI application: ``GET /ping`` and ``POST /invocations``, but 403 to what is `refused`."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if refused(environ):
            answer = Answer.of(403, b"", "text/plain")
        elif path == "/invocations" and method == "POST":
            content_type = environ.get("HTTP_CONTENTTYPE") or environ.get("CONTENT_TYPE") or JSON
            accept = environ.get("HTTP_ACCEPT") or default_accept
            body: str | bytes = environ["wsgi.input"].read()
            if content_type in TEXT_TYPES:
                body = body.decode("utf-8", "replace")  # the container's web framework replaces too
            answer = user.answer(body, content_type, default_accept if accept == "*/*" else accept, environ)
        elif path == "/ping":
            answer = Answer.of(200, b"", JSON)
        else:
            answer = Answer.of(405 if path == "/invocations" else 404, b"", "text/plain")
        start_response(answer.status, answer.headers)
        return [answer.body]

    return app


def load(model_dir: str, code_dir: str, program: str) -> UserModule:
    """Import the user module from `code_dir` and load its model."""
    sys.path.insert(0, code_dir)
    for stale in [name for name in sys.modules if name.split(".")[0] == "fraud"]:
        del sys.modules[stale]  # a site hook may have imported the installed package before the archive's own copy
    return UserModule(importlib.import_module(Path(program).stem), model_dir)


def from_browsers(port: int) -> Callable[[dict[str, Any]], bool]:
    """Return what tells whether a WSGI request may come from a web page; see ``guard.py``, which lies beside."""
    found = importlib.util.spec_from_file_location("guard", Path(__file__).with_name("guard.py"))
    assert found is not None and found.loader is not None
    guard = importlib.util.module_from_spec(found)
    found.loader.exec_module(guard)

    def refused(environ: dict[str, Any]) -> bool:
        # gunicorn joins the values of a repeated header by a comma, which is then no name of ours
        headers = [
            (name[5:].replace("_", "-").encode(), str(value).encode("latin-1", "replace"))
            for name, value in environ.items()
            if name.startswith("HTTP_")
        ]
        return bool(guard.is_refused(environ["RAW_URI"].encode("latin-1", "replace"), headers, port))

    return refused


def die_with(parent: int) -> None:
    """Have the kernel end this process when `parent` is gone, however it went (Linux; elsewhere a no-op)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)  # 1: PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it went before the line above
        os._exit(BROKEN_AT_START)


def main(argv: list[str] | None = None) -> None:
    """Serve until told to stop (SIGTERM: answers what is under way first)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True, help="inherited, bound, listening socket")
    parser.add_argument("--model-dir", required=True)
    parser.add_argument("--code-dir", required=True)
    parser.add_argument("--program", required=True)
    arguments = parser.parse_args(argv)
    logging.basicConfig(format="%(asctime)s %(levelname)s - %(name)s - %(message)s", level=logging.INFO)

    from gunicorn.app.base import BaseApplication

    with socket.socket(fileno=os.dup(arguments.fd)) as listener:
        port = int(listener.getsockname()[1])
    ready = mmap.mmap(-1, 1)  # shared with the worker: is there anything to come back to after a crash?

    def post_fork(server: Any, worker: Any) -> None:
        die_with(server.pid)

    def child_exit(server: Any, worker: Any) -> None:
        if not ready[0]:
            logger.error("the worker died before it was ready: an abort in native code, or killed")
            os._exit(BROKEN_AT_START)
        ready[0] = 0

    class Instance(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            settings = {
                "bind": [f"fd://{arguments.fd}"],
                "worker_class": "gevent",
                "workers": 1,
                "timeout": 70,  # SageMaker itself gives up after 60 s
                "graceful_timeout": 5,
                "keepalive": 86_400,  # the daemon closes; were it the server, a request could meet a closing socket
                "worker_connections": 1000,
                "control_socket_disable": True,
                "loglevel": "info",
                "proc_name": "fraud-endpoint",
                "worker_tmp_dir": "/dev/shm" if Path("/dev/shm").is_dir() else None,
                "post_fork": post_fork,
                "child_exit": child_exit,
            }
            for name, value in settings.items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            user = load(arguments.model_dir, arguments.code_dir, arguments.program)
            accept = os.environ.get("SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT") or JSON
            app = application(user, accept, from_browsers(port))
            ready[0] = 1
            return app

    Instance().run()


if __name__ == "__main__":
    main()
