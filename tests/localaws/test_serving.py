"""The scikit-learn container's contract, as an instance keeps it."""

from __future__ import annotations

import io
import json
import logging
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fraud.localaws import serving


def module(**handlers: Any) -> ModuleType:
    made = ModuleType("inference")
    vars(made).update({"model_fn": lambda model_dir: f"model of {model_dir}", **handlers})
    return made


def call(
    user: serving.UserModule, body: bytes = b"{}", path: str = "/invocations", method: str = "POST", **environ: str
):
    """Return status, body and content type of one request."""
    seen: dict[str, Any] = {}

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        seen.update(status=int(status.split()[0]), **dict(headers))

    request = {"PATH_INFO": path, "REQUEST_METHOD": method, "wsgi.input": io.BytesIO(body), **environ}
    answer = b"".join(serving.application(user)(request, start_response))
    assert seen["Content-Length"] == str(len(answer))
    return seen["status"], answer, seen["Content-Type"]


def echo(**handlers: Any) -> serving.UserModule:
    plain = {
        "input_fn": lambda body, content_type: (type(body).__name__, body, content_type),
        "predict_fn": lambda data, model: (*data, model),
        "output_fn": lambda prediction, accept: (repr(prediction), accept),
    }
    return serving.UserModule(module(**{**plain, **handlers}), "/m")


@pytest.mark.parametrize(
    ("content_type", "kind"),
    [("application/json", "str"), ("text/csv", "str"), ("application/x-npy", "bytes"), ("text/csv; a=b", "bytes")],
)
def test_json_and_csv_arrive_as_text_all_else_as_bytes(content_type: str, kind: str) -> None:
    status, body, _ = call(echo(), b"1,2", CONTENT_TYPE=content_type)
    assert status == 200
    assert body.decode().startswith(f"('{kind}'")
    assert "model of /m" in body.decode()


def test_content_type_and_accept_default_to_json() -> None:
    assert "application/json" in call(echo(), b"{}")[1].decode()
    assert call(echo(), HTTP_ACCEPT="*/*")[2] == "application/json"
    assert call(echo(), HTTP_ACCEPT="text/csv")[2] == "text/csv"


def test_output_may_be_a_pair_text_or_bytes() -> None:
    assert call(echo(output_fn=lambda p, a: ("é", "text/x")))[1:] == ("é".encode(), "text/x")
    assert call(echo(output_fn=lambda p, a: "plain"), HTTP_ACCEPT="text/csv")[1:] == (b"plain", "text/csv")
    assert call(echo(output_fn=lambda p, a: (b"\x00", "a/b")))[1:] == (b"\x00", "a/b")


def test_output_may_answer_for_itself_with_a_status() -> None:
    """As Flask takes a view's answer that is a WSGI application, its own ``Response`` among them."""

    def refusal(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("422 Unprocessable", [("Content-Type", "a/b"), ("X-Path", environ["PATH_INFO"])])
        return [b"not ", b"so"]

    assert call(echo(output_fn=lambda p, a: refusal)) == (422, b"not so", "a/b")
    user = serving.UserModule(module(transform_fn=lambda *_: refusal), "/m")
    assert call(user) == (422, b"not so", "a/b")


def test_an_answer_that_cannot_be_given_is_a_500() -> None:
    def broken(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise ValueError("in the middle")

    assert call(echo(output_fn=lambda p, a: broken))[0] == 500
    assert call(echo(output_fn=lambda p, a: lambda environ, start_response: []))[0] == 500


@pytest.mark.parametrize("where", ["input_fn", "predict_fn", "output_fn"])
def test_an_exception_is_a_500_with_the_traceback_in_the_log_only(where: str, caplog: pytest.LogCaptureFixture) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("secret detail")

    with caplog.at_level(logging.ERROR):
        status, body, _ = call(echo(**{where: broken}))
    assert (status, body) == (500, b"Internal Server Error")
    assert "secret detail" in caplog.text
    assert "Traceback" in caplog.text


def test_transform_fn_replaces_the_three() -> None:
    user = serving.UserModule(
        module(transform_fn=lambda model, body, kind, accept: (f"{model}|{body}|{accept}", "x/y")), "/m"
    )
    assert call(user, b"[1]")[1:] == (b"model of /m|[1]|application/json", "x/y")
    with pytest.raises(ValueError, match="Cannot use transform_fn"):
        echo(transform_fn=lambda *_: "")


def test_no_model_fn_is_refused_at_start() -> None:
    with pytest.raises(ValueError, match="model_fn"):
        serving.UserModule(ModuleType("inference"), "/m")


def test_default_handlers_speak_json_csv_and_npy() -> None:
    model = SimpleNamespace(predict=lambda data: data.sum(axis=1))
    user = serving.UserModule(module(model_fn=lambda _: model), "/m")
    assert json.loads(call(user, b"[[1, 2], [3, 4]]")[1]) == [3.0, 7.0]
    status, body, kind = call(user, b"1,2\n3,4\n", CONTENT_TYPE="text/csv", HTTP_ACCEPT="text/csv")
    assert (status, body, kind) == (200, b"3.0\n7.0\n", "text/csv")
    npy = call(user, b"[[1, 2]]", HTTP_ACCEPT="application/x-npy")[1]
    assert npy.startswith(b"\x93NUMPY")
    assert call(user, b"x", CONTENT_TYPE="image/png")[0] == 415
    assert call(user, b"[[1]]", HTTP_ACCEPT="image/png")[0] == 406


def test_a_pickle_in_npy_is_never_loaded() -> None:
    import numpy as np

    raw = io.BytesIO()
    np.save(raw, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    user = serving.UserModule(module(model_fn=lambda _: SimpleNamespace(predict=lambda data: [1.0])), "/m")
    assert call(user, raw.getvalue(), CONTENT_TYPE="application/x-npy")[0] == 500


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/ping", 200), ("GET", "/invocations", 405), ("GET", "/other", 404), ("POST", "/", 404)],
)
def test_other_requests(method: str, path: str, status: int) -> None:
    assert call(echo(), b"", path, method)[0] == status


def test_the_archives_own_packages_win_over_installed_ones(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fraud").mkdir()
    (tmp_path / "fraud" / "__init__.py").write_text("WHERE = 'archive'")
    (tmp_path / "inference.py").write_text("import fraud\ndef model_fn(d): return fraud.WHERE")
    kept = {name: sys.modules[name] for name in list(sys.modules) if name.split(".")[0] in ("fraud", "inference")}
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in kept:  # an instance is a fresh process; other tests have imported the real ones
        del sys.modules[name]
    try:
        assert serving.load("/m", str(tmp_path), "inference.py").model == "archive"
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] in ("fraud", "inference")]:
            del sys.modules[name]
        sys.modules.update(kept)
