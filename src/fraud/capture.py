"""SageMaker's data capture: from object keys to records, and back.

One captured line is one request, which may hold many transactions. What cannot be read is refused with a reason, one
line at a time, and never repeated in the message.
"""

from __future__ import annotations

import base64
import binascii
import csv
import datetime as dt
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fraud.errors import CaptureFormatError, InvalidRequestError
from fraud.moment import iso, seconds
from fraud.schema import Schema

JSON, CSV, BASE64 = "JSON", "CSV", "BASE64"
LIVE = "live"
TAGGED = frozenset({"canary", "test", "replay"})
"""Sources of traffic that nobody pays with: never learnt from, never compared."""

MAX_LINE = 32 << 20  # bytes; a request and its answer have 6 MiB each at most
_KEY = re.compile(
    r"(?:^|.*/)([^/]+)/([^/]+)/(\d{4})/(\d\d)/(\d\d)/(\d\d)/\d\d-\d\d-\d{3}-[0-9A-Za-z-]+\.jsonl", re.ASCII
)
_FORM = 'is not of the form {"transactions": [{…}, …]}'


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
        ``live``, or the tag that the sender gave: ``canary``, ``test``, ``replay``.
    """

    inference_id: str
    event_id: str
    time: float
    transaction: dict[str, Any]
    fraud_probability: float | None
    model_version: str
    variant: str
    source: str = LIVE


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
        One for each transaction of the request.

    Raises
    ------
    CaptureFormatError
        With a reason that holds nothing of the line.
    """
    if len(line) > MAX_LINE:
        raise CaptureFormatError(f"the line has more than {MAX_LINE:,} bytes")
    found = _loads(line, "the line")
    capture, meta = _member(found, "captureData"), _member(found, "eventMetadata")
    if found.get("eventVersion") != "0":
        raise CaptureFormatError("eventVersion is not 0")
    event_id = meta.get("eventId")
    if not isinstance(event_id, str) or not event_id:
        raise CaptureFormatError("there is no eventId")
    time = _moment(meta.get("inferenceTime"))
    transactions, ids, source = _request(_member(capture, "endpointInput"), schema)
    scores: Sequence[float | None] = [None] * len(transactions)
    model_version = ""
    if capture.get("endpointOutput") is not None:
        scores, model_version = _answer(_member(capture, "endpointOutput"), len(transactions))
    if source == LIVE:
        source = _tag(meta.get("customAttributes"))
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
    """Drop tagged traffic.

    Returns
    -------
    records : list of Record
        Those of real callers.
    dropped : Counter
        How many were dropped, by tag.
    """
    live: list[Record] = []
    dropped: Counter[str] = Counter()
    for record in records:
        if record.source in TAGGED:
            dropped[record.source] += 1
        else:
            live.append(record)
    return live, dropped


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
    if not (found := _KEY.fullmatch(key)):
        raise CaptureFormatError("the key does not end in endpoint/variant/yyyy/mm/dd/HH/MM-SS-mmm-uuid.jsonl")
    return found[2]


def hour_of_key(key: str) -> float:
    """Begin of the hour in which a capture file was opened (seconds since 1970, UTC).

    Raises
    ------
    CaptureFormatError
        When the key is not SageMaker's, or there is no such hour.
    """
    variant_of_key(key)
    try:
        return dt.datetime.strptime("/".join(key.split("/")[-5:-1]), "%Y/%m/%d/%H").replace(tzinfo=dt.UTC).timestamp()
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
) -> bytes:
    """Write what SageMaker captures of a request, with its line break: the inverse of `parse_line`.

    Parameters
    ----------
    transactions : sequence of mapping
        What was scored.
    scores : sequence of float, optional
        The answer; None when only requests are captured.
    event_id, time, model_version, inference_ids, source
        As in `Record`.
    encodings : tuple of str
        Of request and answer, each JSON or BASE64.

    """
    request: dict[str, Any] = {"transactions": list(transactions), "inference_ids": list(inference_ids)}
    request |= {"source": source} if source != LIVE else {}
    answer = {"predictions": [{"fraud_probability": s} for s in scores or ()], "model_version": model_version}
    sides = {"endpointInput": ("INPUT", request), "endpointOutput": ("OUTPUT", answer)}
    capture: dict[str, Any] = {}
    for (name, (mode, document)), encoding in zip(sides.items(), encodings, strict=True):
        text = json.dumps(document, ensure_ascii=False)
        data = base64.b64encode(text.encode()).decode() if encoding == BASE64 else text
        capture[name] = {"observedContentType": "application/json", "mode": mode, "data": data, "encoding": encoding}
    if scores is None:
        del capture["endpointOutput"]
    meta = {"eventId": event_id, "inferenceTime": iso(time)}
    return json.dumps({"captureData": capture, "eventMetadata": meta, "eventVersion": "0"}).encode() + b"\n"


def _refuse(name: str) -> None:
    raise ValueError(name)


def _loads(text: bytes | str, what: str) -> dict[str, Any]:
    try:
        found = json.loads(text.decode() if isinstance(text, bytes) else text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise CaptureFormatError(f"{what} is no JSON") from error
    if not isinstance(found, dict):
        raise CaptureFormatError(f"{what} is no JSON object")
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


def _payload(side: Mapping[str, Any], what: str) -> tuple[str, bool]:
    """Text of one side, and whether it is CSV."""
    data, encoding = side.get("data"), side.get("encoding")
    if not isinstance(data, str):
        raise CaptureFormatError(f"the captured {what} has no data")
    if encoding not in (JSON, CSV, BASE64):
        raise CaptureFormatError(f"the captured {what} has an encoding other than JSON, CSV and BASE64")
    if encoding == BASE64:
        try:
            data = base64.b64decode(data, validate=True).decode()
        except (binascii.Error, ValueError) as error:
            raise CaptureFormatError(f"the captured {what} is no BASE64 of text") from error
    return data, encoding == CSV or str(side.get("observedContentType")).partition(";")[0].strip() == "text/csv"


def _request(side: Mapping[str, Any], schema: Schema | None) -> tuple[list[dict[str, Any]], list[str], str]:
    """Transactions, inference ids and tag of a captured request."""
    text, is_csv = _payload(side, "request")
    if is_csv:
        if schema is None:
            raise CaptureFormatError("the captured request is CSV, which needs the schema")
        try:
            return [schema.coerce_csv(row) for row in csv.reader(text.splitlines(), strict=True) if row], [], LIVE
        except (InvalidRequestError, csv.Error) as error:
            raise CaptureFormatError("the captured request is CSV that does not fit the schema") from error
    found = _loads(text, "the captured request")
    transactions = found.get("transactions")
    if not isinstance(transactions, list) or not all(isinstance(item, dict) for item in transactions):
        raise CaptureFormatError(f"the captured request {_FORM}")
    ids = found.get("inference_ids")
    ids = [item if isinstance(item, str) else "" for item in ids] if isinstance(ids, list) else []
    return transactions, ids, _tag(found.get("source"))


def _answer(side: Mapping[str, Any], rows: int) -> tuple[list[float], str]:
    """Scores and model version of a captured answer."""
    text, is_csv = _payload(side, "answer")
    version: Any = ""
    if is_csv:
        raw: list[Any] = [_float(cell) for cell in text.replace(",", "\n").split()]
    else:
        found = _loads(text, "the captured answer")
        predictions, version = found.get("predictions"), found.get("model_version")
        if not isinstance(predictions, list) or not all(isinstance(item, dict) for item in predictions):
            raise CaptureFormatError('the captured answer is not of the form {"predictions": [{…}, …]}')
        raw = [item.get("fraud_probability") for item in predictions]
    if len(raw) != rows:
        raise CaptureFormatError(f"the captured answer has {len(raw)} predictions for {rows} transactions")
    if not all(type(score) in (float, int) and 0 <= score <= 1 for score in raw):
        raise CaptureFormatError("the captured answer holds a fraud_probability outside 0 to 1")
    return [float(score) for score in raw], version if isinstance(version, str) else ""


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _tag(value: object) -> str:
    """``live`` or the tag: from ``"canary"``, ``"source=canary;…"``, or a list of such texts."""
    texts = value if isinstance(value, list) else [value]
    for text in texts:
        for part in re.split("[;,]", text) if isinstance(text, str) else ():
            word = part.strip().lower()
            if (word := word.removeprefix("source=").strip()) in TAGGED:
                return word
    return LIVE
