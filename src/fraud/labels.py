"""Ground truth on the wire, and the four places a label can come from.

Fraud is known when somebody complains, weeks later. A payment that nobody complained about for long enough is taken as
legitimate (*mature*). A *pseudo* label is the model's own opinion: it may teach, at a lower weight and only when asked
to, and never grades a model. Truth wins over everything, later truth over earlier.
"""

from __future__ import annotations

import base64
import binascii
import csv
import datetime as dt
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from fraud.errors import CaptureFormatError
from fraud.moment import iso, seconds

TRUTH, MATURE, PSEUDO, UNKNOWN = "truth", "mature", "pseudo", "unknown"
TOLERANCE = 300.0  # seconds that a sender's clock may be ahead
_HOUR = re.compile(r"labels/\d{4}/\d\d/\d\d/\d\d/")
_VALUES = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


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


class LabelColumns(NamedTuple):
    """Columns of a CSV of labels.

    Attributes
    ----------
    id : str
        Names the transaction.
    label : str
        1 or 0; empty when the file lists frauds only, as a list of chargebacks does.
    time : str
        When the label became known: ISO 8601, or seconds since 1970; empty when the file does not say.
    """

    id: str = "inference_id"
    label: str = "label"
    time: str = "label_time"


def label_columns(given: Sequence[str] | None) -> LabelColumns:
    """``label_columns`` of a release; the usual ones where it says nothing."""
    return LabelColumns(*given) if given else LabelColumns()


def hour_folder(moment: float) -> str:
    """Folder of the hour of a moment, as SageMaker names it.

    Examples
    --------
    >>> hour_folder(3600)
    'labels/1970/01/01/01/'
    """
    return f"labels/{dt.datetime.fromtimestamp(moment, dt.UTC):%Y/%m/%d/%H}/"


def in_hour_folder(key: str) -> bool:
    """Whether a key lies in the folder of an hour; the name of any other says nothing of when it came.

    Examples
    --------
    >>> in_hour_folder("labels/2026/01/02/12/a.jsonl"), in_hour_folder("labels/2026/01/bank.csv")
    (True, False)
    """
    return bool(_HOUR.match(key))


def keys_aside(list_keys: Callable[[str], Iterable[str]], since: str) -> tuple[int, list[str]]:
    """Label files that a listing from a key on does not show, and that may be new all the same.

    A bank's CSV has any name, and may stand before the folders of hours or between them.

    Parameters
    ----------
    list_keys : callable
        ``(prefix) -> keys`` in order.
    since : str
        Folder of an hour, from which on all is listed.

    Returns
    -------
    passed : int
        Keys until there.
    keys : list of str
        Those of them that lie in the folder of no hour.
    """
    before = list(itertools.takewhile(lambda key: key <= since, list_keys("labels/")))
    return len(before), [key for key in before if not in_hour_folder(key)]


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


def parse_label_csv(
    body: bytes, key: str, columns: LabelColumns, delivered: float, tolerance: float = math.inf
) -> tuple[list[GroundTruth], list[tuple[int, str]]]:
    """Read a CSV of labels, such as a bank's file of chargebacks.

    A row whose label is empty has not been filled in and says nothing; every other row counts or has a reason.

    Parameters
    ----------
    body : bytes
        UTF-8, comma separated, with a header.
    key : str
        The object it stands in.
    columns : LabelColumns
        What the columns are called.
    delivered : float
        When the file came (seconds since 1970): the time of a row that names none.
    tolerance : float
        Rows from so many seconds after that are refused; by default none are.

    Returns
    -------
    labels : list of GroundTruth
        In the order of the rows.
    problems : list of (int, str)
        Line number, from 1 at the header, and reason.
    """
    labels: list[GroundTruth] = []
    problems: list[tuple[int, str]] = []
    try:
        rows = csv.DictReader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True)
        missing = [name for name in columns if name and name not in (rows.fieldnames or ())]
    except (UnicodeDecodeError, csv.Error) as error:
        what = "UTF-8" if isinstance(error, UnicodeDecodeError) else "CSV"
        return [], [(1, f"the file is no {what}")]
    if missing:
        return [], [(1, f"there is no column {', '.join(missing)}")]
    try:
        for row in rows:
            try:
                if None in row or None in row.values():
                    raise CaptureFormatError("the row has another number of fields than the header")
                if not columns.label or row[columns.label].strip():
                    label = _csv_label(row, key, columns, delivered)
                    if label.time > delivered + tolerance:
                        raise CaptureFormatError("the label lies in the future")
                    labels.append(label)
            except CaptureFormatError as error:
                problems.append((rows.line_num, str(error)))
    except csv.Error:
        problems.append((rows.line_num + 1, "a quoted field does not end as it should"))
    return labels, problems


def _csv_label(row: Mapping[str, str], key: str, columns: LabelColumns, delivered: float) -> GroundTruth:
    inference_id = row[columns.id].strip()
    if not inference_id:
        raise CaptureFormatError("there is no id")
    label = _VALUES.get(row[columns.label].strip().lower()) if columns.label else 1
    if label is None:
        raise CaptureFormatError("the label is neither 0 nor 1")
    moment = row[columns.time].strip() if columns.time else ""
    if not moment:
        return GroundTruth(inference_id, label, delivered, key)
    try:
        time = float(moment)
        if not 0 <= time < 1e11:
            raise CaptureFormatError("the label's time is no moment in seconds since 1970")
    except ValueError:
        try:
            time = seconds(moment)
        except ValueError as error:
            raise CaptureFormatError("the label's time is neither ISO 8601 nor seconds since 1970") from error
    return GroundTruth(inference_id, label, time, key)


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
