"""Where a label comes from, and what it is worth: truth, maturity, or the model's own guess.

Fraud is known when somebody complains, weeks later. A payment that nobody complained about for long enough is taken as
legitimate (*mature*). A *pseudo* label is the model's own opinion: it may teach, at a lower weight and only when asked
to, and never grades a model. Truth wins over everything, later truth over earlier.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from fraud.errors import CaptureFormatError
from fraud.moment import iso, seconds

TRUTH, MATURE, PSEUDO, UNKNOWN = "truth", "mature", "pseudo", "unknown"
POLICIES = ("off", "threshold")
TOLERANCE = 300.0  # seconds that a sender's clock may be ahead
_VALUES = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
_DAY = 86_400.0


class GroundTruth(NamedTuple):
    """What is known about one transaction.

    Attributes
    ----------
    inference_id : str
        Which transaction.
    label : int
        1 fraud, 0 legitimate.
    time : float
        When it became known (seconds since 1970, UTC).
    source_key : str
        Key of the object that says so.
    """

    inference_id: str
    label: int
    time: float
    source_key: str = ""


class RowLabel(NamedTuple):
    """Label of one live row.

    Attributes
    ----------
    label : int or None
        None when it is unknown.
    source : {'truth', 'mature', 'pseudo', 'unknown'}
        Where it comes from.
    weight : float
        In training; 0 when it is unknown.
    time : float or None
        When it became known (seconds since 1970, UTC).
    """

    label: int | None
    source: str
    weight: float
    time: float | None


class LiveRow(Protocol):
    """What a label needs of a captured record; `fraud.capture.Record` has it."""

    inference_id: str
    time: float
    fraud_probability: float | None


def parse_label_line(
    line: bytes | str, key: str = "", now: float | None = None, tolerance: float = TOLERANCE
) -> GroundTruth:
    """Read one record of SageMaker's ground-truth schema.

    Parameters
    ----------
    line : bytes or str
        ``{"groundTruthData": {"data": "1", "encoding": "CSV"}, "eventMetadata": {"eventId": …, "labelTime": …}, …}``.
    key : str
        The object it stands in; its hour is the time of a record that names none.
    now : float, optional
        Records from later than ``now + tolerance`` are refused; by default none are.
    tolerance : float
        Seconds.

    Returns
    -------
    GroundTruth

    Raises
    ------
    CaptureFormatError
        With a reason that holds nothing of the line.
    """
    try:
        found = json.loads(line.decode() if isinstance(line, bytes) else line)
        truth, meta = found["groundTruthData"], found["eventMetadata"]
        inference_id, data, encoding = meta["eventId"], truth["data"], truth["encoding"]
        version, moment = found["eventVersion"], meta.get("labelTime")
    except (KeyError, TypeError, AttributeError) as error:
        raise CaptureFormatError("the line is no ground-truth record") from error
    except (ValueError, RecursionError) as error:
        raise CaptureFormatError("the line is no JSON") from error
    if version != "0":
        raise CaptureFormatError("eventVersion is not 0")
    if not isinstance(inference_id, str) or not inference_id.strip():
        raise CaptureFormatError("there is no eventId")
    if encoding not in ("CSV", "JSON", "BASE64") or not isinstance(data, (str, int)) or isinstance(data, bool):
        raise CaptureFormatError("groundTruthData is not CSV, JSON or BASE64 text")
    try:
        text = base64.b64decode(str(data), validate=True).decode() if encoding == "BASE64" else str(data)
    except (binascii.Error, ValueError) as error:
        raise CaptureFormatError("groundTruthData is no BASE64 of text") from error
    label = _VALUES.get(text.strip())
    if label is None:
        raise CaptureFormatError("the label is neither 0 nor 1")
    time = _label_time(moment, key)
    if now is not None and time > now + tolerance:
        raise CaptureFormatError("the label lies in the future")
    return GroundTruth(inference_id, label, time, key)


def _label_time(moment: object, key: str) -> float:
    if moment is None:
        try:
            hour = dt.datetime.strptime("/".join(key.split("/")[-5:-1]), "%Y/%m/%d/%H")
            return seconds(hour)
        except ValueError as error:
            raise CaptureFormatError("there is no labelTime, and the key names no hour") from error
    try:
        return seconds(moment if isinstance(moment, str) else "")
    except ValueError as error:
        raise CaptureFormatError("labelTime is no ISO 8601 moment") from error


def parse_label_file(
    body: bytes, key: str, now: float | None = None, tolerance: float = TOLERANCE
) -> tuple[list[GroundTruth], list[tuple[int, str]]]:
    """Read one object of ``labels/``.

    Returns
    -------
    labels : list of GroundTruth
        In the order of the lines.
    problems : list of (int, str)
        Line number, from 1, and reason of each line that cannot be read.
    """
    labels: list[GroundTruth] = []
    problems: list[tuple[int, str]] = []
    for number, line in enumerate(body.split(b"\n"), 1):
        if line.strip():
            try:
                labels.append(parse_label_line(line, key, now, tolerance))
            except CaptureFormatError as error:
                problems.append((number, str(error)))
    return labels, problems


def render_label_line(truth: GroundTruth) -> str:
    """Write one record of SageMaker's ground-truth schema: the inverse of `parse_label_line`, without a line break."""
    document = {
        "groundTruthData": {"data": str(truth.label), "encoding": "CSV"},
        "eventMetadata": {"eventId": truth.inference_id, "labelTime": iso(truth.time)},
        "eventVersion": "0",
    }
    return json.dumps(document)


def resolve(labels: Iterable[GroundTruth], as_of: float = math.inf) -> dict[str, GroundTruth]:
    """Keep the newest truth of each transaction that was known at a moment, whatever the order they come in.

    Of two from the same moment the one in the later key counts; within one key, fraud.

    Examples
    --------
    >>> resolve([GroundTruth("a", 1, 20.0), GroundTruth("a", 0, 10.0)])["a"].label
    1
    """
    newest: dict[str, GroundTruth] = {}
    for truth in labels:
        if truth.time > as_of:
            continue
        known = newest.get(truth.inference_id)
        if known is None or (truth.time, truth.source_key, truth.label) > (known.time, known.source_key, known.label):
            newest[truth.inference_id] = truth
    return newest


def pseudo_label(fraud_probability: float, threshold: float = 0.5) -> int:
    """Label that the model itself would give: 1 from the threshold on.

    Raises
    ------
    ValueError
        When the score is no number.

    Examples
    --------
    >>> pseudo_label(0.5), pseudo_label(0.4999)
    (1, 0)
    """
    if math.isnan(fraud_probability):
        raise ValueError("A score that is no number has no label.")
    return 1 if fraud_probability >= threshold else 0


def label_row(
    row: LiveRow,
    truth: Mapping[str, GroundTruth],
    as_of: float,
    maturity_days: float,
    policy: str = "off",
    threshold: float = 0.5,
    pseudo_weight: float = 0.5,
) -> RowLabel:
    """Label one live row as it was known at a moment.

    Parameters
    ----------
    row : LiveRow
        A captured record.
    truth : mapping of str to GroundTruth
        What `resolve` gave; truth from after ``as_of`` does not count.
    as_of : float
        The moment (seconds since 1970, UTC).
    maturity_days : float
        From this age on silence means legitimate (days).
    policy : {'off', 'threshold'}
        Whether younger rows are labelled by their own score.
    threshold : float
        Score at or above which a pseudo-label is fraud.
    pseudo_weight : float
        Weight of pseudo-labelled rows.

    Returns
    -------
    RowLabel
    """
    if policy not in POLICIES:
        raise ValueError(f"The policy must be one of {', '.join(POLICIES)}.")
    known = truth.get(row.inference_id)
    if known is not None and known.time <= as_of:
        return RowLabel(known.label, TRUTH, 1.0, known.time)
    if as_of - row.time >= maturity_days * _DAY:
        return RowLabel(0, MATURE, 1.0, row.time + maturity_days * _DAY)
    score: Any = row.fraud_probability
    if policy == "threshold" and score is not None and not math.isnan(score):
        return RowLabel(pseudo_label(score, threshold), PSEUDO, pseudo_weight, row.time)
    return RowLabel(None, UNKNOWN, 0.0, None)


def label_rows(
    rows: Iterable[LiveRow],
    truth: Mapping[str, GroundTruth],
    as_of: float,
    maturity_days: float,
    policy: str = "off",
    threshold: float = 0.5,
    pseudo_weight: float = 0.5,
) -> Iterator[RowLabel]:
    """Label live rows, in their order: see `label_row`."""
    return (label_row(row, truth, as_of, maturity_days, policy, threshold, pseudo_weight) for row in rows)
