"""CloudWatch Logs, page by page: an answer holds at most 10,000 lines or 1 MB, and may hold none before the last."""

from __future__ import annotations

from typing import Any

from fraud.pipeline.where import client


def read_on(group: str, stream: str, token: str = "") -> tuple[list[str], str]:
    """Read what a stream holds from a token on.

    Parameters
    ----------
    group, stream : str
    token : str
        As the call before gave it; empty begins with the oldest line.

    Returns
    -------
    messages : list of str
        As they were written.
    token : str
        For the next call.

    Raises
    ------
    ClientError
        When there is no such stream.
    """
    messages: list[str] = []
    while True:
        since = {"nextToken": token} if token else {}
        answer = client("logs").get_log_events(logGroupName=group, logStreamName=stream, startFromHead=True, **since)
        messages += [event["message"] for event in answer["events"]]
        if answer["nextForwardToken"] == token:  # the very token that was sent: there is no more yet
            return messages, token
        token = answer["nextForwardToken"]


class JobLog:
    """The log of the hosts of a job; each look reads what is new.

    Parameters
    ----------
    group : str
        ``/aws/sagemaker/TrainingJobs``, say.
    job : str
        Its exact name: a stream is called ``<job>/<host>-<time>``.
    """

    def __init__(self, group: str, job: str) -> None:
        self._group, self._job = group, job
        self._lines: dict[str, list[str]] = {}
        self._tokens: dict[str, str] = {}

    def read(self) -> dict[str, list[str]]:
        """Return the lines of each host so far, by name of its stream; empty while there is none."""
        logs = client("logs")
        asked: dict[str, Any] = {"logGroupName": self._group, "logStreamNamePrefix": f"{self._job}/"}
        try:
            pages = list(logs.get_paginator("describe_log_streams").paginate(**asked))
        except logs.exceptions.ResourceNotFoundException:
            return {}
        for stream in (item["logStreamName"] for page in pages for item in page["logStreams"]):
            new, self._tokens[stream] = read_on(self._group, stream, self._tokens.get(stream, ""))
            self._lines.setdefault(stream, []).extend(line.rstrip() for line in new)
        return self._lines
