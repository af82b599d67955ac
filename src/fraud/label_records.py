"""One statement about a payment, from the cells of a CSV row or the members of a JSON record, by the same rules."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import re
from collections.abc import Mapping
from typing import Any

from fraud.errors import CaptureFormatError
from fraud.labels import GroundTruth, LabelColumns, in_hour_folder
from fraud.moment import seconds

AHEAD = 86_400.0  # seconds after its delivery from which a label is refused: no later report could correct it
_NUMBER = re.compile(r"([01])([.,]0*)?")
_WORDS = {"false": 0, "true": 1}
_TIMES = ("label_time", "time")  # of a record that does not follow the table's names
_ITEM = LabelColumns("inference_id", "label", "time")  # of POST /labels
_ENCODINGS = ("CSV", "JSON", "BASE64")


def plain(name: str) -> str:
    """Name of a column without case, blanks, quotes and signs.

    Examples
    --------
    >>> plain(' "Inference ID"')
    'inferenceid'
    """
    return "".join(filter(str.isalnum, name)).casefold()


def label_of(text: str) -> int:
    """1 or 0 of what a file writes for it.

    Raises
    ------
    CaptureFormatError
        When it is neither.

    Examples
    --------
    >>> label_of(" True"), label_of("0.0"), label_of("1")
    (1, 0, 1)
    """
    text = text.strip().lower()
    if (number := _NUMBER.fullmatch(text)) is not None:
        return int(number[1])
    if text not in _WORDS:
        raise CaptureFormatError("the label is neither 0 nor 1")
    return _WORDS[text]


def time_of(text: str, delivered: float) -> float:
    """When a label became known (seconds since 1970): its own time, or the delivery where it has none.

    Raises
    ------
    CaptureFormatError
        When it is no moment, or lies more than a day after the delivery.
    """
    if not (text := text.strip()):
        return delivered
    try:
        moment = float(text)
        if not 0 <= moment < 1e11:
            raise CaptureFormatError("the label's time is no moment in seconds since 1970")
    except ValueError:
        try:
            moment = seconds(text)
        except ValueError as error:
            raise CaptureFormatError("the label's time is neither ISO 8601 nor seconds since 1970") from error
    if moment > delivered + AHEAD:
        raise CaptureFormatError("the label lies in the future")
    return moment


def from_cells(inference_id: str, label: str | None, time: str, key: str, delivered: float) -> GroundTruth | None:
    """A statement from three texts.

    Parameters
    ----------
    inference_id : str
        Which payment.
    label : str or None
        None where the file lists frauds only; an empty one has not been filled in and says nothing.
    time : str
        Empty where it is not known.
    key : str
        The object that says so.
    delivered : float
        When that came (seconds since 1970).

    Raises
    ------
    CaptureFormatError
        With a reason that holds nothing of the texts.
    """
    if label is not None and not label.strip():
        return None
    if not (inference_id := inference_id.strip()):
        raise CaptureFormatError("there is no id")
    if any("\ud800" <= letter <= "\udfff" for letter in inference_id):  # JSON can write it, nothing can store it
        raise CaptureFormatError("the id holds half a letter")
    return GroundTruth(inference_id, 1 if label is None else label_of(label), time_of(time, delivered), key)


def from_json(record: object, columns: LabelColumns, key: str, delivered: float) -> GroundTruth | None:
    """A statement from a JSON record whose numbers are kept as text.

    SageMaker's ground-truth schema; or an object with the columns of a CSV, or with the members that ``POST /labels``
    takes.

    Parameters
    ----------
    record : object
        As JSON says it.
    columns : LabelColumns
        What the members are called.
    key : str
        The object it stands in. Its hour, where it lies in the folder of one, is the time of a ground-truth record
        that names none, as SageMaker has it.
    delivered : float
        When that came (seconds since 1970).

    Raises
    ------
    CaptureFormatError
        With a reason that holds nothing of the record.
    """
    if not isinstance(record, dict):
        raise CaptureFormatError("the record is no JSON object")
    if "groundTruthData" in record:
        return _ground_truth(record, key, delivered)
    for names in (columns, _ITEM):
        own, label = (member_of(record, name) for name in (names.id, names.label))
        if own is None or (names.label and label is None):
            continue
        time = next(filter(None, (member_of(record, name) for name in (names.time, *_TIMES))), None)
        return from_cells(
            _text(record[own]),
            _text(record[label]) if label is not None else None,
            _text(record[time]) if time is not None else "",
            key,
            delivered,
        )
    raise CaptureFormatError("the record is no ground-truth record")


def member_of(names: Mapping[str, Any] | list[str], wanted: str) -> str | None:
    """The name that is meant: the very one, else the only one that differs in case, blanks and signs."""
    if wanted in names:
        return wanted
    alike = [name for name in names if plain(name) == plain(wanted) != ""]
    return alike[0] if len(alike) == 1 else None


def _ground_truth(record: Mapping[str, Any], key: str, delivered: float) -> GroundTruth | None:
    truth, meta = record["groundTruthData"], record.get("eventMetadata")
    if not isinstance(truth, dict) or not isinstance(meta, dict):
        raise CaptureFormatError("the record is no ground-truth record")
    if _text(record.get("eventVersion")) != "0":
        raise CaptureFormatError("eventVersion is not 0")
    if not _text(meta.get("eventId")).strip():
        raise CaptureFormatError("there is no eventId")
    encoding, data = _text(truth.get("encoding")).upper(), _text(truth.get("data"))
    if encoding not in _ENCODINGS or not data.strip():
        raise CaptureFormatError("groundTruthData is not CSV, JSON or BASE64 text")
    if encoding == "BASE64":
        try:  # MIME breaks the text into lines
            data = base64.b64decode("".join(data.split()), validate=True).decode()
        except (binascii.Error, ValueError) as error:
            raise CaptureFormatError("groundTruthData is no BASE64 of text") from error
    time = _text(meta.get("labelTime"))
    came = delivered if time.strip() or not in_hour_folder(key) else _hour(key)
    return from_cells(_text(meta["eventId"]), data.strip().strip('"'), time, key, came)


def _hour(key: str) -> float:
    try:
        return seconds(dt.datetime.strptime(key[7:20], "%Y/%m/%d/%H"))
    except ValueError as error:
        raise CaptureFormatError("there is no labelTime, and the key names no hour") from error


def _text(value: object) -> str:
    """A scalar as a CSV would write it; null is empty."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is not None and not isinstance(value, str):
        raise CaptureFormatError("a list or an object stands where a text or a number belongs")
    return value or ""
