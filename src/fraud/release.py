"""The release in service, as the API looks it up: cached, and kept when S3 fails."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fraud.errors import EndpointError
from fraud.schema import Schema, category_text

REFRESH = 30.0  # seconds


def variant_of(release: Mapping[str, Any], transaction: Mapping[str, Any]) -> str:
    """Variant that a transaction must be sent to; empty leaves it to SageMaker's weights.

    In an A/B test with a ``sticky_column`` equal values there meet the same model all along, and of all values the
    challenger gets its share; another test deals them out anew.

    Parameters
    ----------
    release : mapping
        ``current.json``.
    transaction : mapping
        Checked already.

    Returns
    -------
    str
    """
    test = release.get("challenger") or {}
    value = transaction.get(test.get("sticky_column") or "")
    if value is None:
        return ""
    drawn = hashlib.sha256(f"{test['run_id']}\n{category_text(value)}".encode()).digest()
    share = int.from_bytes(drawn[:8], "big") / 2**64
    return str(test["variant"] if share < test["traffic_percent"] / 100 else test["champion_variant"])


def variants_of(release: Mapping[str, Any], transactions: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Places of a batch's transactions by the variant that each must be sent to; one key unless a test splits them.

    A transaction that `variant_of` leaves to SageMaker's weights goes along with the others, so that no batch needs
    more than two requests.

    Returns
    -------
    dict of str to list of int
        Variants in the order of their first transaction, places rising.
    """
    places: dict[str, list[int]] = {}
    for k, transaction in enumerate(transactions):
        places.setdefault(variant_of(release, transaction), []).append(k)
    if len(places) > 1 and (free := places.pop("", None)):
        first = next(iter(places.values()))
        first[:] = sorted(first + free)
    return places


def threshold_of(release: Mapping[str, Any], model_version: str) -> float:
    """Score from which a transaction goes to review: each model of an A/B test has its own."""
    test = release.get("challenger") or {}
    decides = test if test.get("model_version") == model_version else release
    return float(decides["decision_threshold"])


class Releases:
    """The release in service and its schema, looked up at most every thirty seconds.

    A copy outlives failed look-ups: a model that is served needs no S3.

    Parameters
    ----------
    read : callable
        ``(key) -> body``, or None when there is no such object; may raise anything.
    endpoint : str
        Endpoint name.
    clock : callable
        Seconds, rising.
    """

    def __init__(self, read: Callable[[str], bytes | None], endpoint: str, clock: Callable[[], float]) -> None:
        self._read, self._endpoint, self._clock = read, endpoint, clock
        self._kept: tuple[dict[str, Any], Schema] | None = None
        self._due = -math.inf

    def current(self) -> tuple[dict[str, Any], Schema]:
        """Return the release and the schema of its model.

        Raises
        ------
        EndpointError
            Status 503 when there is none, or none can be read.
        """
        if self._clock() >= self._due:
            try:
                self._kept = self._look_up() or self._kept
                self._due = self._clock() + REFRESH
            except Exception as error:  # whatever it is, an older copy serves better than none
                if self._kept is None:
                    raise EndpointError("The model in service cannot be looked up now.", 503, 2) from error
                self._due = self._clock() + REFRESH / 6
        if self._kept is None:
            self._due = -math.inf
            raise EndpointError("No model is deployed yet.", 503, 30)
        return self._kept

    def expire(self) -> None:
        """Have the release looked up anew the next time."""
        self._due = -math.inf

    def _look_up(self) -> tuple[dict[str, Any], Schema] | None:
        folder = f"releases/{self._endpoint}/"
        if (pointer := self._read(f"{folder}current.json")) is None:
            return None
        release = json.loads(pointer)
        if self._kept and self._kept[0] == release:
            return self._kept
        if not 0 <= float(release["decision_threshold"]) <= 1 or not isinstance(release["model_version"], str):
            raise ValueError("the release has no threshold or version")
        if not release["schema_key"].startswith(folder) or (schema := self._read(release["schema_key"])) is None:
            raise ValueError("the release has no schema")
        return release, Schema.from_json(schema)
