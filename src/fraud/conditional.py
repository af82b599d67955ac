"""Conditional writes to S3: the one contract that whoever writes ``If-Match`` or ``If-None-Match`` keeps.

S3 answers 409 when two writers come at the same instant: nothing is decided, so the write is made again. It answers 412
when another object is there; but a write whose answer was lost is repeated by the client and then meets itself, so what
is stored tells whether that other is oneself.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

CONFLICT = frozenset({"409", "ConditionalRequestConflict", "OperationAborted"})
CHANGED = frozenset({"412", "PreconditionFailed"})
ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})
ATTEMPTS = 8


def code_of(error: BaseException) -> str:
    """Code of an answer of S3, as botocore raises it; empty for another error."""
    response: Any = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def write(
    put: Callable[[], str],
    stored_tag: Callable[[], str | None],
    *,
    replaces: bool = False,
    attempts: int = ATTEMPTS,
    pause: float = 0.05,
) -> str | None:
    """Make a conditional write until S3 has decided about it.

    Parameters
    ----------
    put : callable
        Makes the write and returns the entity tag; an error is botocore's.
    stored_tag : callable
        Entity tag of what is stored if that is exactly what was to be written, else None.
    replaces : bool
        Whether the write replaces an object: then one that is gone has been changed, too.
    attempts : int
        How often the write is made while others write at the same instant.
    pause : float
        Scale of the random pause between them, which grows (seconds).

    Returns
    -------
    str or None
        Entity tag of what is stored now, which is what was to be written; None when it is somebody else's.

    Raises
    ------
    Exception
        Of ``put``: every other error, and the 409 of the last attempt. Nobody knows then that anything is stored.
    """
    for attempt in range(attempts):
        try:
            return put()
        except Exception as error:
            code = code_of(error)
            if code in CHANGED or (replaces and code in ABSENT):
                return stored_tag()
            if code not in CONFLICT or attempt + 1 == attempts:
                raise
        time.sleep(pause * 2 ** min(attempt, 5) * random.random())
    raise AssertionError("there is at least one attempt")
