"""A closed loop of HTTP requests over keep-alive connections, and the ceiling of the loop itself."""

from __future__ import annotations

import json
import math
import multiprocessing
import select
import socket
import time
from collections.abc import Sequence
from typing import Any, NamedTuple


class Bare:
    """A socket that answers whatever comes, unread: what the load generator can reach at most."""

    def __init__(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.port = listener.getsockname()[1]
        self.child = multiprocessing.get_context("fork").Process(target=self._answer, args=(listener,), daemon=True)
        self.child.start()
        listener.close()

    @staticmethod
    def _answer(listener: socket.socket) -> None:
        answer, poll, known = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", select.epoll(), {}
        poll.register(listener, select.EPOLLIN)
        while True:
            for number, _ in poll.poll():
                if number == listener.fileno():
                    met = listener.accept()[0]
                    met.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    known[met.fileno()] = met
                    poll.register(met, select.EPOLLIN)
                elif known[number].recv(65_536):
                    known[number].send(answer)
                else:
                    poll.unregister(number)
                    known.pop(number).close()

    def cpu(self) -> float:
        return 0.0

    def stop(self) -> None:
        self.child.terminate()


class Load(NamedTuple):
    """What one stretch of load found; seconds."""

    rate: float
    latencies: list[float]
    cpu: float


def requests_of(bodies: Sequence[bytes], port: int) -> list[bytes]:
    """Whole HTTP requests to a port of loopback."""
    head = f"POST /invocations HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: "
    return [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]


def body_of(answer: bytes) -> bytes | None:
    """Body of an answer once it is whole; RuntimeError when it is no 200."""
    end = answer.find(b"\r\n\r\n")
    if end < 0:
        return None
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"the instance answered {answer[:200]!r}")
    at = answer.index(b"Content-Length: ") + 16
    length = int(answer[at : answer.index(b"\r", at)])
    return answer[end + 4 :] if len(answer) == end + 4 + length else None


def connect(port: int) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", port), timeout=60)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def ask(port: int, request: bytes) -> Any:
    """One request on a connection of its own."""
    with connect(port) as link:
        link.sendall(request)
        answer = b""
        while (body := body_of(answer)) is None:
            if not (piece := link.recv(65_536)):
                raise RuntimeError("the instance closed the connection")
            answer += piece
        return json.loads(body)


def load(instance: Any, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    """Keep `connections` busy; what is under way at the end is waited for and counts."""
    poll, latencies, now = select.epoll(), [], time.perf_counter
    links, began, parts = {}, {}, {}
    for _ in range(connections):
        link = connect(instance.port)
        links[link.fileno()] = link
        poll.register(link, select.EPOLLIN)
    cpu, k, start = instance.cpu(), 0, now()
    for number, link in links.items():
        began[number], parts[number] = now(), b""
        link.sendall(requests[k % len(requests)])
        k += 1
    end, busy = start + seconds, connections
    while busy:
        for number, _ in poll.poll():
            link = links[number]
            piece = link.recv(65_536)
            if not piece:
                raise RuntimeError("the instance closed the connection")
            parts[number] += piece
            if body_of(parts[number]) is None:
                continue
            answered = now()
            latencies.append(answered - began[number])
            if answered >= end:
                busy -= 1
                continue
            began[number], parts[number] = answered, b""
            link.sendall(requests[k % len(requests)])
            k += 1
    took = now() - start
    for link in links.values():
        link.close()
    return Load(len(latencies) / took, latencies, (instance.cpu() - cpu) / len(latencies))


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not pass."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
