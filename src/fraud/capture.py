"""SageMaker's data capture: from object keys to records, and back.

One captured line is one request, which may hold many transactions. What cannot be read is refused with a reason, one
line at a time, and never repeated in the message.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from fraud.errors import CaptureFormatError
from fraud.moment import iso, seconds
from fraud.payload import (
    BASE64,
    CONTENT_TYPES,
    JSON,
    is_refusal,
    read_answer,
    read_object,
    read_request,
    read_side,
    write_answer,
    write_request,
)
from fraud.schema import Schema

LIVE = "live"
SHADOW = "Shadow"
"""The variant whose answers nobody hears; its captured traffic is a copy, and no traffic."""

TAGGED = frozenset({"canary", "test", "replay"})
"""Sources of traffic that nobody pays with: never learnt from, never compared."""

REFUSED = "refused"
"""Source of a request that was answered with a refusal, and so of no payment. No sender's tag: the answer tells it."""

MAX_LINE = 32 << 20  # bytes; a request and its answer have 6 MiB each at most
_KEY = re.compile(
    # Two slashes are one: a destination that ends in a slash, or an empty prefix, gives such keys.
    r"(?:.*/)?([^/]+)/+([^/]+)/+(\d{4})/+(\d\d)/+(\d\d)/+(\d\d)/+\d\d-\d\d-\d{3}-[0-9A-Za-z-]+\.jsonl",
    re.ASCII,
)
_CALLER = re.compile(r"(?:^|[;,])\s*caller\s*=\s*([A-Za-z0-9_-]{1,64})\s*(?=[;,]|$)", re.ASCII)


@dataclass(slots=True)
class Record:
    """One transaction that an endpoint scored.

    Attributes
    ----------
    inference_id : str
        Joins ground truth to it.
    event_id : str
        SageMaker's id of the request that carried it.
    time : float
        When it was scored (seconds since 1970, UTC).
    transaction : dict
        Its fields, as sent.
    fraud_probability : float or None
        Score; None when the answer was not captured.
    model_version : str
        The run whose model answered; empty when the answer does not say.
    variant : str
        Production variant that answered.
    source : str
        ``live``, or the tag that the sender gave: ``canary``, ``test``, ``replay``; ``refused`` for a request that
        got no score, whose transaction is empty.
    caller : str
        Pseudonym of who sent it; empty when nobody tells.
    """

    inference_id: str
    event_id: str
    time: float
    transaction: dict[str, Any]
    fraud_probability: float | None
    model_version: str
    variant: str
    source: str = LIVE
    caller: str = ""


def parse_line(line: bytes | str, variant: str, schema: Schema | None = None) -> list[Record]:
    """Read one captured line.

    Parameters
    ----------
    line : bytes or str
        One JSON record of SageMaker's data capture, version 0.
    variant : str
        The variant its key names.
    schema : Schema, optional
        Names and types for ``text/csv`` requests, which cannot be read without it.

    Returns
    -------
    list of Record
        One for each transaction of the request; one for a request that was refused, whatever it held.

    Raises
    ------
    CaptureFormatError
        With a reason that holds nothing of the line.
    """
    if len(line) > MAX_LINE:
        raise CaptureFormatError(f"the line has more than {MAX_LINE:,} bytes")
    found = read_object(line, "the line")
    capture, meta = _member(found, "captureData"), _member(found, "eventMetadata")
    if found.get("eventVersion") != "0":
        raise CaptureFormatError("eventVersion is not 0")
    event_id = meta.get("eventId")
    if not isinstance(event_id, str) or not event_id:
        raise CaptureFormatError("there is no eventId")
    time = _moment(meta.get("inferenceTime"))
    source, model_version = read_attributes(meta.get("customAttributes"))
    caller = read_caller(meta.get("customAttributes"))
    output = capture.get("endpointOutput")
    try:
        transactions, ids, tag = read_request(_member(capture, "endpointInput"), schema)
        scores: Sequence[float | None] = [None] * len(transactions)
        if output is not None:
            scores, version = read_answer(_member(capture, "endpointOutput"), len(transactions))
            model_version = version or model_version
    except CaptureFormatError:
        if not isinstance(output, Mapping) or not is_refusal(output):
            raise
        source = source if source in TAGGED else REFUSED
        return [Record(f"{event_id}/0", event_id, time, {}, None, model_version, variant, source, caller)]
    if (word := tag.strip().lower().removeprefix("source=").strip()) in TAGGED:
        source = word
    alone = meta.get("inferenceId")
    if not ids and len(transactions) == 1 and isinstance(alone, str) and alone:
        ids = [alone]
    return [
        Record(
            (ids[k] if k < len(ids) and ids[k] else f"{event_id}/{k}"),
            event_id,
            time,
            transaction,
            scores[k],
            model_version,
            variant,
            source,
            caller,
        )
        for k, transaction in enumerate(transactions)
    ]


def parse_file(body: bytes, key: str, schema: Schema | None = None) -> tuple[list[Record], list[tuple[int, str]]]:
    """Read one captured object.

    Parameters
    ----------
    body : bytes
        JSON lines.
    key : str
        Its key, which names the variant.
    schema : Schema, optional
        As for `parse_line`.

    Returns
    -------
    records : list of Record
        Of all sources: see `only_live`.
    problems : list of (int, str)
        Line number, from 1, and reason of each line that cannot be read.

    Raises
    ------
    CaptureFormatError
        When the key is not SageMaker's.
    """
    variant = variant_of_key(key)
    records: list[Record] = []
    problems: list[tuple[int, str]] = []
    lines = body.split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            records += parse_line(line, variant, schema)
        except CaptureFormatError as error:
            # A whole file ends with a line break: what follows the last one was cut off.
            cut = "the file ends in the middle of a line: " if number == len(lines) else ""
            problems.append((number, f"{cut}{error}"))
    return records, problems


def only_live(records: Iterable[Record]) -> tuple[list[Record], Counter[str]]:
    """Drop tagged traffic, and requests that were refused.

    Returns
    -------
    records : list of Record
        Those of real callers that were answered.
    dropped : Counter
        How many were dropped, by tag; under ``refused`` those that were refused.
    """
    live: list[Record] = []
    dropped: Counter[str] = Counter()
    for record in records:
        if record.source in TAGGED or record.source == REFUSED:
            dropped[record.source] += 1
        else:
            live.append(record)
    return live, dropped


def first_of_each(records: Iterable[Record]) -> tuple[list[Record], int]:
    """Keep one record of each inference id: the earliest, and of several at one moment the first.

    Returns
    -------
    records : list of Record
        In their order.
    duplicates : int
        How many were dropped.
    """
    records = list(records)
    first: dict[str, int] = {}
    for k, record in enumerate(records):
        if (before := first.get(record.inference_id)) is None or record.time < records[before].time:
            first[record.inference_id] = k
    return [records[k] for k in sorted(first.values())], len(records) - len(first)


def variant_of_key(key: str) -> str:
    """Variant that a capture key names.

    Raises
    ------
    CaptureFormatError
        When the key is not SageMaker's.

    Examples
    --------
    >>> variant_of_key("data-capture/fraud/AllTraffic/2026/01/02/03/04-05-678-6f0e-4b.jsonl")
    'AllTraffic'
    """
    return _match(key)[2]


def hour_of_key(key: str) -> float:
    """Begin of the hour in which a capture file was opened (seconds since 1970, UTC).

    Raises
    ------
    CaptureFormatError
        When the key is not SageMaker's, or there is no such hour.
    """
    found = _match(key)
    try:
        year, month, day, hour = map(int, found.groups()[2:])
        return dt.datetime(year, month, day, hour, tzinfo=dt.UTC).timestamp()
    except ValueError as error:
        raise CaptureFormatError("the key names an hour that does not exist") from error


def hour_prefixes(
    endpoint: str, variant: str | None, start: dt.datetime | float, end: dt.datetime | float
) -> list[str]:
    """Prefixes under which the records of a window lie.

    A file is named after the moment it was opened, and holds what came later: the hour before the window is listed too.

    Parameters
    ----------
    endpoint : str
        Endpoint name.
    variant : str or None
        Production variant; None for all of them, which is one prefix for all hours: see `hour_of_key`.
    start, end : datetime or float
        The window ``[start, end)``, UTC.

    Returns
    -------
    list of str
        Each ends with a slash, oldest first; empty for an empty window.

    Examples
    --------
    >>> hour_prefixes("fraud", "AllTraffic", 3600, 7200)
    ['data-capture/fraud/AllTraffic/1970/01/01/00/', 'data-capture/fraud/AllTraffic/1970/01/01/01/']
    """
    since, until = seconds(start), seconds(end)
    if since >= until:
        return []
    if variant is None:
        return [f"data-capture/{endpoint}/"]
    hour = dt.datetime.fromtimestamp(since // 3600 * 3600 - 3600, dt.UTC)
    prefixes: list[str] = []
    while hour.timestamp() < until:
        prefixes.append(f"data-capture/{endpoint}/{variant}/{hour:%Y/%m/%d/%H}/")
        hour += dt.timedelta(hours=1)
    return prefixes


def encode_line(
    transactions: Sequence[Mapping[str, Any]],
    scores: Sequence[float] | None,
    *,
    event_id: str,
    time: float,
    model_version: str = "",
    inference_ids: Sequence[str] = (),
    source: str = LIVE,
    encodings: tuple[str, str] = (JSON, JSON),
    content_types: tuple[str, str] | None = None,
    schema: Schema | None = None,
) -> bytes:
    """Write what SageMaker captures of a request, with its line break: the inverse of `parse_line`.

    Parameters
    ----------
    transactions : sequence of mapping
        What was scored.
    scores : sequence of float, optional
        The answer; None when only requests are captured.
    event_id, time, model_version, inference_ids, source
        As in `Record`. What CSV and JSON lines have no place for goes where SageMaker keeps what a caller sends in
        headers: the id of a single row in ``inferenceId``, model version and tag in ``customAttributes``.
    encodings : tuple of str
        Of request and answer, each JSON, CSV or BASE64.
    content_types : tuple of str, optional
        Of request and answer; by default those that go with the encodings, JSON for BASE64.
    schema : Schema, optional
        The order of the cells of a CSV request, which cannot be written without it.

    Raises
    ------
    ValueError
        When CSV or JSON lines cannot carry the transactions, or the ids of several rows.
    """
    types = content_types or (CONTENT_TYPES[encodings[0]], CONTENT_TYPES[encodings[1]])
    sides: list[dict[str, Any]] = [
        {"observedContentType": kind, "mode": mode, "data": "", "encoding": encoding}
        for kind, mode, encoding in zip(types, ("INPUT", "OUTPUT"), encodings, strict=True)
    ]
    forms = [read_side(side, "side")[1] for side in sides]
    meta: dict[str, Any] = {"eventId": event_id}
    attributes: list[str] = []
    tag = source if source != LIVE else ""
    if forms[0] != JSON:
        if len(transactions) > 1 and inference_ids:
            raise ValueError("CSV and JSON lines have no place for the ids of several rows")
        meta |= {"inferenceId": inference_ids[0]} if inference_ids else {}
        attributes += [f"source={tag}"] if tag else []
    if (forms[1] != JSON or scores is None) and model_version:
        attributes.append(f"model_version={quote(model_version)}")
    if attributes:
        meta["customAttributes"] = [";".join(attributes)]
    texts = [
        write_request(transactions, inference_ids, tag, forms[0], schema),
        write_answer(scores or (), model_version, forms[1]),
    ]
    for side, text in zip(sides, texts, strict=True):
        side["data"] = base64.b64encode(text.encode()).decode() if side["encoding"] == BASE64 else text
    capture = {"endpointInput": sides[0]} | ({} if scores is None else {"endpointOutput": sides[1]})
    meta["inferenceTime"] = iso(time)
    return json.dumps({"captureData": capture, "eventMetadata": meta, "eventVersion": "0"}).encode() + b"\n"


def read_attributes(value: object) -> tuple[str, str]:
    """Source and model version in ``customAttributes``.

    Parameters
    ----------
    value : object
        ``"source=canary;model_version=run-1"`` or ``"canary"``, or a list of such texts.

    Returns
    -------
    source : str
        ``live`` or the tag.
    model_version : str
        Empty when it is not told.

    Examples
    --------
    >>> read_attributes(["team=x; source=canary", "model_version=run%201"])
    ('canary', 'run 1')
    """
    source, version = LIVE, ""
    for text in value if isinstance(value, list) else [value]:
        for part in re.split("[;,]", text) if isinstance(text, str) else ():
            name, equals, told = part.strip().partition("=")
            word = (told if equals else name).strip().lower()
            if word in TAGGED and source == LIVE and name.strip().lower() in ("source", word):
                source = word
            elif equals and name.strip().lower() == "model_version" and not version:
                version = unquote(told.strip())
    return source, version


def read_caller(value: object) -> str:
    """Pseudonym of the caller in ``customAttributes``: of ``caller=…`` the first; empty without one.

    Examples
    --------
    >>> read_caller(["source=canary;caller=9f86d081"]), read_caller(None)
    ('9f86d081', '')
    """
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and (found := _CALLER.search(text)):
            return found[1]
    return ""


def _match(key: str) -> re.Match[str]:
    if not (found := _KEY.fullmatch(key)):
        raise CaptureFormatError("the key does not end in endpoint/variant/yyyy/mm/dd/HH/MM-SS-mmm-uuid.jsonl")
    return found


def _member(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(part := found.get(name), dict):
        raise CaptureFormatError(f"there is no {name}")
    return part


def _moment(text: object) -> float:
    try:
        return seconds(text if isinstance(text, str) else "")
    except ValueError as error:
        raise CaptureFormatError("inferenceTime is no ISO 8601 moment") from error
