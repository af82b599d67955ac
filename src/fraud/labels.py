"""Ground truth on the wire, and the four places a label can come from.

Fraud is known when somebody complains, weeks later. A payment that nobody complained about for long enough is taken as
legitimate (*mature*). A *pseudo* label is the model's own opinion: it may teach, at a lower weight and only when asked
to, and never grades a model. Truth wins over everything, later truth over earlier.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fraud.moment import iso

TRUTH, MATURE, PSEUDO, UNKNOWN = "truth", "mature", "pseudo", "unknown"
TOLERANCE = 300.0  # seconds that a sender's clock may be ahead
_HOUR = re.compile(r"labels/\d{4}/\d\d/\d\d/\d\d/")


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
    """Columns of a CSV of labels, or members of its JSON records.

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


def render_label_line(truth: GroundTruth) -> str:
    """Write one record of SageMaker's ground-truth schema: as `fraud.label_files` reads it, without a line break."""
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
