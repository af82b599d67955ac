"""HTTP to an instance: a small keep-alive client that knows whether a request can have been processed.

That knowledge is the point: a request may be sent to another instance only when this one has certainly not seen it.
General clients do not tell. It is also several times faster, and every invocation passes here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

_MAX_IDLE = 64


class NotSentError(ConnectionError):
    """The instance cannot be reached: it has not seen the request."""


class AnswerLostError(ConnectionError):
    """The connection broke after the request was written: it may have been processed."""


@dataclass(frozen=True)
class Reply:
    """What an instance answered."""

    status: int
    headers: dict[str, str]
    body: bytes


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.buffer = bytearray()
        self.head: tuple[int, dict[str, str]] | None = None
        self.waiting: asyncio.Future[Reply] | None = None

    @property
    def usable(self) -> bool:
        return self.transport is not None and not self.transport.is_closing() and not self.buffer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(AnswerLostError(f"the instance closed the connection ({error or 'end of file'})"))

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        try:
            if self.head is None:
                self._read_head()
            if self.head is not None:
                self._read_body()
        except (ValueError, KeyError, IndexError) as error:
            self._fail(AnswerLostError(f"the instance did not answer in HTTP ({error!r})"))

    def _read_head(self) -> None:
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        first, *lines = self.buffer[:end].decode("latin-1").split("\r\n")
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        del self.buffer[: end + 4]
        self.head = int(first.split(" ", 2)[1]), headers

    def _read_body(self) -> None:
        assert self.head is not None
        status, headers = self.head
        length = int(headers["content-length"])
        if len(self.buffer) < length:
            return
        reply = Reply(status, headers, bytes(self.buffer[:length]))
        del self.buffer[:length]
        self.head = None
        waiting, self.waiting = self.waiting, None
        if headers.get("connection", "").lower() == "close" and self.transport is not None:
            self.transport.close()
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)

    def _fail(self, error: Exception) -> None:
        waiting, self.waiting = self.waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)
        if self.transport is not None:
            self.transport.close()

    async def exchange(self, head: bytes, body: bytes) -> Reply:
        assert self.transport is not None
        self.waiting = asyncio.get_running_loop().create_future()
        try:
            self.transport.writelines([head, body])
            return await self.waiting
        except BaseException:
            self.transport.abort()  # a late answer must never reach the next request
            raise


class Pool:
    """Keep-alive connections to one instance.

    Parameters
    ----------
    port : int
        On loopback.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._idle: list[_Connection] = []
        self._closed = False

    async def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b"", timeout: float = 60
    ) -> Reply:
        """Send a request and wait for the answer.

        Raises
        ------
        NotSentError, AnswerLostError
            See there.
        TimeoutError
            No answer within `timeout` seconds; it may still be under way.
        """
        head = _head(method, path, self.port, headers or {}, len(body))
        connection = self._take() or await self._connect()
        async with asyncio.timeout(timeout):
            reply = await connection.exchange(head, body)
        if connection.usable and not self._closed and len(self._idle) < _MAX_IDLE:
            self._idle.append(connection)
        elif connection.transport is not None:
            connection.transport.close()
        return reply

    def close(self) -> None:
        """Close what is idle; what is under way is closed when it is answered."""
        self._closed = True
        for connection in self._idle:
            if connection.transport is not None:
                connection.transport.close()
        self._idle.clear()

    def _take(self) -> _Connection | None:
        while self._idle:
            if (connection := self._idle.pop()).usable:
                return connection
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(5):
                _, connection = await loop.create_connection(_Connection, "127.0.0.1", self.port)
        except (OSError, TimeoutError) as error:
            raise NotSentError(f"cannot connect to 127.0.0.1:{self.port}: {error}") from error
        return connection


def _head(method: str, path: str, port: int, headers: Mapping[str, str], length: int) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Content-Length: {length}"]
    for name, value in headers.items():
        if "\r" in value or "\n" in value:
            raise ValueError(f"line break in header {name}")
        lines.append(f"{name}: {value}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
