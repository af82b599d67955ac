"""Traffic as callers send it: transactions through ``POST /predict``, some of them malformed, and ground truth, late.

What a caller would call a failure counts as one: a refused connection, a 5xx, a wrong answer, and a malformed request
that was not refused. A malformed request that was refused as it should be is no failure.
"""

from __future__ import annotations

import itertools
import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import boto3
import numpy as np
import polars as pl
import urllib3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

from fraud.demo.malformed import KINDS, Malformed
from fraud.demo.report import Answer, Report, Scored

MOST_LABELS = 1_000  # one POST /labels takes


@dataclass(frozen=True)
class Call:
    """One request before it is sent.

    Attributes
    ----------
    body : bytes
        As sent.
    kind : str
        ``single``, ``batch``, or the name of what is wrong with it.
    ids : tuple of str
        Inference ids of its transactions; empty when it is malformed.
    labels : tuple of int or None
        What the truth will turn out to be, where it is known.
    expected : frozenset of int
        Status codes that are right.
    method, path : str
        Of the request.
    """

    body: bytes
    kind: str
    ids: tuple[str, ...] = ()
    labels: tuple[int | None, ...] = ()
    expected: frozenset[int] = frozenset({200})
    method: str = "POST"
    path: str = "/predict"


def transactions(frame: pl.DataFrame, drop: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Turn rows into transactions as JSON has them: no nulls, no NaN, moments in ISO 8601."""
    texts = [pl.col(name).dt.to_string("iso:strict") for name, kind in frame.schema.items() if kind.is_temporal()]
    rows = frame.drop([name for name in drop if name in frame.columns]).with_columns(
        [text for text in texts if text.meta.output_name() not in set(drop)]
    )
    return [
        {name: value for name, value in row.items() if value is not None and not _hole(value)}
        for row in rows.iter_rows(named=True)
    ]


def _hole(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def calls(
    frame: pl.DataFrame, target: str, *, prefix: str, batch: int = 50, singles: int = 0, malformed: int = 0
) -> list[Call]:
    """Make the requests that send a table.

    Parameters
    ----------
    frame : DataFrame
        Transactions in the order in which they are sent.
    target : str
        Column with the truth; it is never sent. Empty when there is none.
    prefix : str
        Inference ids are ``<prefix>-<number of the row>``.
    batch : int
        Transactions of one request.
    singles : int
        How many of the rows are sent alone.
    malformed : int
        How many malformed requests there are beside them.

    Returns
    -------
    list of Call
        All three kinds, evenly mixed.
    """
    truth = [None if value is None else int(value) for value in frame[target]] if target else [None] * frame.height
    rows = transactions(frame, [target])
    alone = set(np.linspace(0, len(rows) - 1, min(singles, len(rows))).astype(int).tolist()) if singles else set()
    made = []
    for number in sorted(alone):
        own = f"{prefix}-{number}"
        body = _json(rows[number] | {"inference_id": own})
        made.append((number, Call(body, "single", (own,), (truth[number],))))
    together = [number for number in range(len(rows)) if number not in alone]
    for part in (together[at : at + batch] for at in range(0, len(together), batch)):
        ids = tuple(f"{prefix}-{number}" for number in part)
        body = _json({"transactions": [rows[number] for number in part], "inference_ids": ids})
        made.append((part[0], Call(body, "batch", ids, tuple(truth[number] for number in part))))
    if rows:
        places = np.linspace(0, len(rows), malformed + 2)[1:-1]
        for place, kind in zip(places.tolist(), itertools.cycle(KINDS), strict=False):
            made.append((place, spoiled(kind, rows[int(place) % len(rows)])))
    return [call for _, call in sorted(made, key=lambda pair: pair[0])]


def spoiled(kind: Malformed, transaction: Mapping[str, Any]) -> Call:
    """Make a request of which everything but one thing is right."""
    return Call(kind.body(transaction), kind.name, (), (), kind.expected, kind.method, kind.path)


def _json(document: object) -> bytes:
    return json.dumps(document, allow_nan=False, separators=(",", ":"), default=str).encode()


class Api:
    """The API behind an address, over connections that are kept.

    Requests are signed for ``execute-api`` when there are AWS credentials; an API that does not ask for it ignores
    the signature.

    Parameters
    ----------
    url : str
        Address to which ``/predict`` is appended.
    concurrency : int
        Requests at once.
    region : str
        For the signature; empty takes the session's.
    sign : bool
        Whether to sign.
    timeout : float
        Longest wait for an answer (seconds).
    """

    def __init__(
        self, url: str, concurrency: int = 4, region: str = "", *, sign: bool = True, timeout: float = 30.0
    ) -> None:
        self.url = url.rstrip("/")
        self.concurrency = concurrency
        limits = urllib3.Timeout(connect=3.0, read=timeout)
        self.pool = urllib3.connection_from_url(
            self.url, maxsize=concurrency, block=True, retries=False, timeout=limits
        )
        session = boto3.Session(region_name=region or None)
        credentials = session.get_credentials() if sign else None
        place = region or session.region_name or "us-east-1"
        self._signer = SigV4Auth(credentials, "execute-api", place) if credentials else None

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *error: object) -> None:
        self.pool.close()

    def request(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Send one request.

        Returns
        -------
        status : int
            0 when there was no answer.
        body : bytes
            The answer, or what went wrong.
        """
        headers = {"Content-Type": "application/json"}
        if self._signer:
            request = AWSRequest(method, self.url + path, data=body, headers=headers)
            self._signer.add_auth(request)
            headers = dict(request.headers.items())
        try:
            answer = self.pool.urlopen(method, urllib3.util.parse_url(self.url + path).request_uri, body, headers)
            return answer.status, answer.data
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return 0, f"{type(error).__name__}: {error}".encode()

    def send(self, call: Call) -> Answer:
        """Send a call and judge the answer."""
        began, moment = time.perf_counter(), time.time()
        status, body = self.request(call.method, call.path, call.body)
        took = time.perf_counter() - began
        problem, version, scored = judge(call, status, body)
        return Answer(moment, status, took, call.kind, 200 not in call.expected, problem, version, scored)

    def send_all(
        self,
        calls: Sequence[Call],
        report: Report | None = None,
        progress: Callable[[int], None] = lambda done: None,
        seconds: float = 0.0,
    ) -> Report:
        """Send calls, several at once, and report on them.

        Parameters
        ----------
        calls : sequence of Call
            What to send, in order.
        report : Report, optional
            Gets the answers as they come.
        progress : callable
            Hears how many are done.
        seconds : float
            Spread them evenly over this time; 0 sends as fast as they are answered.
        """
        report = Report() if report is None else report
        began, ended = time.monotonic(), threading.Event()
        done = itertools.count(1)

        def one(item: tuple[int, Call]) -> Answer | None:
            pause = began + seconds * item[0] / len(calls) - time.monotonic()
            return None if ended.wait(max(0.0, pause)) else self.send(item[1])

        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="traffic")
        try:
            for answer in pool.map(one, enumerate(calls)):
                if answer:
                    report.add(answer)
                    progress(next(done))
        finally:  # an interrupt ends what runs and forgets what waits
            ended.set()
            pool.shutdown(wait=True, cancel_futures=True)
        return report

    def send_labels(self, scored: Iterable[Scored]) -> tuple[int, int]:
        """Deliver ground truth: the label time is now.

        Returns
        -------
        stored, failed : int
            Labels that were taken, and requests that failed.
        """
        stored = failed = 0
        known = [item for item in scored if item.label is not None]
        for at in range(0, len(known), MOST_LABELS):
            part = [{"inference_id": item.inference_id, "label": item.label} for item in known[at : at + MOST_LABELS]]
            status, body = self.request("POST", "/labels", _json({"labels": part}))
            try:
                right = status == 202 and json.loads(body)["stored"] == len(part)
            except (ValueError, KeyError, TypeError):
                right = False
            stored, failed = stored + len(part) * right, failed + (not right)
        return stored, failed


def judge(call: Call, status: int, body: bytes) -> tuple[str, str, tuple[Scored, ...]]:
    """Tell whether an answer is right.

    Returns
    -------
    problem : str
        Empty when it is.
    model_version : str
        Which model answered.
    scored : tuple of Scored
    """
    if status == 0:
        return body.decode(errors="replace"), "", ()
    if status not in call.expected:
        wanted = " or ".join(str(code) for code in sorted(call.expected))
        return f"{call.kind}: HTTP {status} instead of {wanted}: {body[:300].decode(errors='replace')}", "", ()
    if status != 200:
        return "", "", ()
    try:
        found = json.loads(body)
        rows = found["predictions"] if call.kind == "batch" else [found]
        version = str(found["model_version"])
        scored = tuple(
            Scored(row["inference_id"], float(row["fraud_probability"]), label)
            for row, label in zip(rows, call.labels, strict=True)
        )
        for row, item, own in zip(rows, scored, call.ids, strict=True):
            if item.inference_id != own or row["decision"] not in ("approve", "review"):
                raise ValueError("inference_id or decision")
            if not 0 <= item.probability <= 1:
                raise ValueError("fraud_probability")
    except (ValueError, KeyError, TypeError) as error:
        return f"{call.kind}: wrong answer ({type(error).__name__}: {error})", "", ()
    return "", version, scored


def some(scored: Sequence[Scored], share: float, seed: int = 7) -> list[Scored]:
    """Pick a share of scored transactions at random, the same ones for the same seed."""
    chosen = np.random.Generator(np.random.PCG64(seed)).random(len(scored)) < share
    return [item for item, wanted in zip(scored, chosen, strict=True) if wanted]


@dataclass
class Flow:
    """Traffic that keeps flowing in the background, as it does while a new model is deployed.

    Use it as a context manager; leaving it stops the traffic and waits for what is under way.

    Attributes
    ----------
    api : Api
        Where to.
    frame, target, prefix
        What, as in `calls`. When all rows were sent it begins anew with other inference ids.
    rate : float
        Requests a second.
    batch : int
        Transactions of a request; every other request is a single transaction.
    report : Report
        What came of it.
    """

    api: Api
    frame: pl.DataFrame
    target: str
    prefix: str
    rate: float = 10.0
    batch: int = 10
    report: Report = field(default_factory=Report)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Flow:
        self._ended.clear()
        self._thread = threading.Thread(target=self._run, name="traffic-flow", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the traffic; requests under way are finished."""
        self._ended.set()
        if self._thread:
            self._thread.join(60)

    def _run(self) -> None:
        began, sent = time.monotonic(), 0
        with ThreadPoolExecutor(self.api.concurrency, thread_name_prefix="flow") as pool:
            waiting = threading.Semaphore(2 * self.api.concurrency)

            def one(call: Call) -> None:
                try:
                    self.report.add(self.api.send(call))
                finally:
                    waiting.release()

            for call in self._forever():
                pause = began + sent / self.rate - time.monotonic()
                if self._ended.wait(max(0.0, pause)):
                    return
                waiting.acquire()
                pool.submit(one, call)
                sent += 1

    def _forever(self) -> Iterator[Call]:
        for turn in itertools.count():
            singles = max(1, self.frame.height // (self.batch + 1))
            made = calls(self.frame, self.target, prefix=f"{self.prefix}-{turn}", batch=self.batch, singles=singles)
            if not made:
                return
            yield from made
