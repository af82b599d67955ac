"""SageMaker's resources by exact name: what a run makes is named by the run and by what goes into it.

Nothing is looked for by a prefix, the newest or a page of a list. The service refuses a second job, model or
configuration of one name, which is why a repetition finds the first one, and two that start at once make one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from botocore.exceptions import ClientError

from fraud.errors import PlatformError

LONGEST, DIGITS, ATTEMPTS = 63, 12, 99  # characters of a name, hexadecimal digits of its hash, jobs of one name
READABLE = LONGEST - len(f"-{ATTEMPTS}") - DIGITS - 1


def named(what: str, content: Mapping[str, Any]) -> str:
    """Name of a SageMaker resource: the same for the same content, so that a repetition finds it.

    SageMaker never changes a model, a job or an endpoint configuration. Were its name its run's alone, a run that is
    repeated with other rows, more instances or another key would silently get what was made the first time.

    Parameters
    ----------
    what : str
        What people should read there: letters, digits and hyphens. What is too long is cut, but counts.
    content : mapping
        Request that makes it, without a name; plain JSON.

    Returns
    -------
    str
        The beginning of ``what`` and twelve hexadecimal digits of a hash of all of it and of the content; at most 60
        characters, which leaves room for the number of an attempt.
    """
    text = json.dumps([what, content], sort_keys=True, separators=(",", ":"))
    return f"{what[:READABLE].rstrip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:DIGITS]}"


def start_job(
    name: str,
    start: Callable[[str], object],
    describe: Callable[[str], Mapping[str, Any]],
    usable: Callable[[Mapping[str, Any]], bool],
) -> str:
    """Start a job, or adopt the one that an earlier attempt started.

    Parameters
    ----------
    name : str
        As `named` gives it.
    start : callable
        ``name -> …``: asks SageMaker for a job of that name.
    describe : callable
        ``name -> answer``: what SageMaker says of a job.
    usable : callable
        ``answer -> bool``: whether the job does exactly what is wanted and has not failed.

    Returns
    -------
    str
        Name of the job; the second attempt's ends with ``-2``, and so on.

    Raises
    ------
    ClientError
        As ``start`` and ``describe`` raise it; a name that is taken is no error.
    PlatformError
        When all names are taken by jobs that are of no use.
    """
    for attempt in range(1, ATTEMPTS + 1):
        job = name if attempt == 1 else f"{name}-{attempt}"
        try:
            start(job)
        except ClientError as error:
            if error.response["Error"]["Code"] != "ResourceInUse":
                raise
        else:
            return job
        if usable(describe(job)):
            return job
    raise PlatformError(f"The job {name} was tried {ATTEMPTS} times; choose another run_id.")
