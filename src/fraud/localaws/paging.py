"""SageMaker's List operations: filters, order and pages."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any

from fraud.localaws.wire import AwsError


def page(
    items: Iterable[dict[str, Any]],
    params: dict[str, Any],
    *,
    name: str,
    status: str | None = None,
    order: str = "Ascending",
) -> tuple[list[dict[str, Any]], str | None]:
    """Return one page and the token of the next one (None on the last).

    Parameters
    ----------
    items : iterable of dict
        Documents with `name`, ``CreationTime`` and, where asked for, ``LastModifiedTime`` and `status`.
    params : dict
        The request: ``NameContains``, ``StatusEquals``, ``CreationTimeAfter`` and so on, ``SortBy``, ``SortOrder``,
        ``MaxResults`` (10), ``NextToken``.
    name, status : str
        Which members name and status are.
    order : str
        The operation's own order when none is asked for.
    """
    found = []
    for item in items:
        changed = item.get("LastModifiedTime", item["CreationTime"])
        if (
            params.get("NameContains", "").lower() in item[name].lower()
            and (status is None or params.get("StatusEquals", item[status]) == item[status])
            and params.get("CreationTimeAfter", float("-inf")) <= item["CreationTime"]
            and item["CreationTime"] <= params.get("CreationTimeBefore", float("inf"))
            and params.get("LastModifiedTimeAfter", float("-inf")) <= changed
            and changed <= params.get("LastModifiedTimeBefore", float("inf"))
        ):
            found.append(item)
    keys = {"Name": name, "Status": status, "LastModifiedTime": "LastModifiedTime"}
    by = keys.get(params.get("SortBy", ""), "CreationTime") or "CreationTime"
    found.sort(key=lambda item: (item.get(by, 0), item[name]), reverse=params.get("SortOrder", order) == "Descending")
    start = _start(params.get("NextToken"))
    size = params.get("MaxResults", 10)
    more = start + size < len(found)
    token = base64.urlsafe_b64encode(str(start + size).encode()).decode() if more else None
    return found[start : start + size], token


def _start(token: str | None) -> int:
    if token is None:
        return 0
    try:
        return int(base64.urlsafe_b64decode(token))
    except (binascii.Error, ValueError):
        raise AwsError("ValidationException", "Invalid NextToken.") from None
