"""Who may speak to a port of the local AWS: programs on this machine, never a page in a browser.

A page of any web site can send requests to loopback: across origins, or as its own origin through a name that was made
to point here. What it sends needs no answer to do harm, since nothing here verifies signatures. A browser betrays
itself by the headers that no page can leave out (``Origin``, ``Sec-Fetch-Site``, ``Referer``) or by the name that it
looked up (``Host``). No program that speaks to AWS sends the former, and all of ours call loopback by its own name.

Standard library only: an endpoint instance, which has none of this package, loads it as a plain file.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

REFUSAL = "The local AWS answers programs on this machine only, under 127.0.0.1 or localhost and its own port"
_NAMES = ("127.0.0.1", "localhost", "[::1]")
_OF_BROWSERS = frozenset({"origin", "referer", "access-control-request-method"})
_BODY = json.dumps({"__type": "AccessDeniedException", "message": REFUSAL}).encode()

Headers = Iterable[tuple[bytes, bytes]]


def is_refused(target: bytes, headers: Headers, port: int) -> bool:
    """Whether a request may come from a web page, or names another server than this.

    Parameters
    ----------
    target : bytes
        The request's target as it was sent; a proxy would be sent a whole URL.
    headers : iterable of (bytes, bytes)
        All of them, repeated ones repeatedly.
    port : int
        The port that was connected to.
    """
    hosts = []
    for name, value in headers:
        name = name.lower()
        if name in (b"host", b":authority"):
            hosts.append(value)
        elif name.decode("latin-1") in _OF_BROWSERS or (name == b"sec-fetch-site" and value.strip() != b"none"):
            return True
    if len(hosts) != 1 or not target.startswith(b"/"):
        return True
    host, _, number = hosts[0].decode("latin-1").strip().lower().rpartition(":")
    return host not in _NAMES or number != str(port)


def guarded(app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Return an ASGI application that hands `app` only what is not refused, and drops the CORS headers it answers."""

    async def guard(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] not in ("http", "websocket"):
            await app(scope, receive, send)
            return
        if is_refused(scope.get("raw_path") or b"", scope["headers"], (scope.get("server") or ("", 0))[1]):
            await _refuse(scope["type"], send)
            return

        async def without_cors(message: dict[str, Any]) -> None:
            if headers := message.get("headers"):
                kept = [item for item in headers if not bytes(item[0]).lower().startswith(b"access-control-")]
                message = {**message, "headers": kept}
            await send(message)

        await app(scope, receive, without_cors)

    return guard


async def _refuse(kind: str, send: Callable[..., Any]) -> None:
    if kind == "websocket":
        await send({"type": "websocket.close", "code": 1008})  # before it was accepted: HTTP 403
        return
    headers = [
        (b"content-type", b"application/x-amz-json-1.1"),
        (b"content-length", str(len(_BODY)).encode()),
        (b"x-amzn-errortype", b"AccessDeniedException"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": _BODY})
