"""What people do with the governor: stop it, let it go on, see what it did and why."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from fraud import decision, governor
from fraud.errors import ConflictError, DataError, ParameterError
from fraud.moment import seconds
from fraud.pipeline.storage import Storage
from fraud.pipeline.where import client, where
from fraud.plaintext import count

LONGEST = 300  # characters of a reason
NAME = re.compile(r"[a-zA-Z0-9](?:-*[a-zA-Z0-9]){0,62}")  # of an endpoint, as SageMaker has it


@dataclass(frozen=True)
class State:
    """The governor's state in the bucket: `fraud.governor.Store`."""

    storage: Storage
    key: str

    def get(self) -> tuple[dict[str, Any] | None, str | None]:
        """Document and entity tag.

        Raises
        ------
        DataError
            When it is no JSON object.
        """
        found = self.storage.get_tagged(self.key)
        if found is None:
            return None, None
        name = self.storage.uri(self.key)
        try:
            document = json.loads(found[0])
        except ValueError as error:
            raise DataError(f"{name} is no JSON: restore an earlier version, or delete it.") from error
        return governor.checked(document, name), found[1]

    def put_if(self, document: dict[str, Any], etag: str | None) -> str:
        """Write if the tag still holds."""
        body = json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
        written = self.storage.put_if_match(self.key, body, etag or "", "application/json")
        if written is None:
            raise ConflictError(f"{self.storage.uri(self.key)} was written by somebody else.")
        return written


def bucket() -> Storage:
    """The deployment's bucket."""
    return Storage(where().bucket)


def state_of(storage: Storage, endpoint_name: str) -> State:
    """The governor's state of an endpoint that has a release.

    Raises
    ------
    ParameterError
        When it has none: a pause under a name that is misspelt would stop nothing.
    """
    known = storage.folders("releases/")
    if not NAME.fullmatch(endpoint_name) or endpoint_name not in known:
        there = f"there are {', '.join(known)}" if known else "nothing is deployed yet"
        raise ParameterError(f"There is no release at an endpoint {endpoint_name!r}; {there}.")
    return State(storage, f"locks/drift/{endpoint_name}.json")


def pause(storage: Storage, endpoint_name: str, reason: str, by: str, now: dt.datetime) -> str:
    """Stop retrainings until `resume`.

    Parameters
    ----------
    storage : Storage
    endpoint_name : str
    reason, by : str
        Why and who; kept in the state and shown to everybody.
    now : datetime

    Returns
    -------
    str
        One sentence.

    Raises
    ------
    ParameterError
        When the endpoint is unknown, or the reason is empty or long.
    """
    reason = " ".join(reason.split())
    if not 0 < len(reason) <= LONGEST:
        raise ParameterError(f"--reason has {len(reason)} characters, but must say why in 1 to {LONGEST}.")
    store = state_of(storage, endpoint_name)
    state, changed = governor.pause(store, by, reason, now.timestamp)
    if not changed:
        return f"Retraining at {endpoint_name} is paused already{_pause_of(state)}."
    begun = " A start that was begun waits, too." if state.get("status") == decision.CLAIMED else ""
    return f"Retraining at {endpoint_name} is paused.{begun} Checks and reports go on; `fraud drift resume` ends it."


def resume(storage: Storage, endpoint_name: str, by: str, now: dt.datetime) -> str:
    """Let retrainings start again; returns one sentence."""
    store = state_of(storage, endpoint_name)
    before = store.get()[0]
    changed = governor.resume(store, by, now.timestamp)[1]
    if not changed:
        return f"Retraining at {endpoint_name} is not paused."
    return f"Retraining at {endpoint_name} goes on; it was paused{_pause_of(before)}."


def _pause_of(state: Mapping[str, Any] | None) -> str:
    about = (state or {}).get("pause") or {}
    said = f" by {about['by']}" if about.get("by") else ""
    said += f" since {about['at']}" if about.get("at") else ""
    return f"{said}: {about['reason']}" if about.get("reason") else said


def history(storage: Storage, endpoint_name: str, last: int) -> list[dict[str, Any]]:
    """Records of the newest decisions, the newest first; only the days that are needed are listed.

    A record that cannot be read keeps its place with what its key says.
    """
    state_of(storage, endpoint_name)
    prefix, keys = f"drift/{endpoint_name}/decisions/", []
    for year in _newest(storage, prefix):
        for month in _newest(storage, year):
            for day in _newest(storage, month):
                keys += sorted(storage.list_keys(day), reverse=True)
                if len(keys) >= last:
                    return [_read(storage, key) for key in keys[:last]]
    return [_read(storage, key) for key in keys]


def _newest(storage: Storage, prefix: str) -> list[str]:
    return [f"{prefix}{name}/" for name in sorted(storage.folders(prefix), reverse=True)]


def _read(storage: Storage, key: str) -> dict[str, Any]:
    *_, year, month, day, name = key.split("/")
    time, _, word = name.removesuffix(".json").partition("-")
    said = {"moment": f"{year}-{month}-{day}T{time[:2]}:{time[2:4]}:{time[4:6]}Z", "reasons": [word], "verdict": "?"}
    try:
        found = storage.read_json(key)
    except DataError:
        found = None
    return said | (found if isinstance(found, dict) else {"in_words": f"{storage.uri(key)} cannot be read."})


def status(storage: Storage, endpoint_name: str, now: dt.datetime, last: int = 5) -> dict[str, Any]:
    """The governor's state, what its limits allow, and its last decisions.

    Returns
    -------
    dict
        ``endpoint``, ``paused``, ``pause``, ``status``, ``last_start``, ``execution_id``, ``starts_in_24_hours``,
        ``allowed_from``, ``policy`` (of the last decision; the defaults before the first) and ``decisions``.
    """
    state = state_of(storage, endpoint_name).get()[0] or {}
    decisions = history(storage, endpoint_name, last)
    policy = decision.POLICY | next((one["policy"] for one in decisions if isinstance(one.get("policy"), dict)), {})
    moment = now.timestamp()
    return {
        "endpoint": endpoint_name,
        "paused": bool(state.get("paused")),
        "pause": state.get("pause"),
        "status": state.get("status"),
        "last_start": state.get("last_start"),
        "execution_id": state.get("execution_id"),
        "starts_in_24_hours": len(decision.recent_starts(state, moment)),
        "allowed_from": decision.allowed_from(state, moment, policy),
        "policy": policy,
        "decisions": decisions,
    }


def in_lines(found: Mapping[str, Any], now: dt.datetime) -> list[str]:
    """What `status` found, for people."""
    policy = found["policy"]
    on = f"paused{_pause_of(found)}" if found["paused"] else "on"
    lines = [f"Endpoint {found['endpoint']}: retraining by itself is {on}."]
    if found["last_start"]:
        which = f" ({found['execution_id']})" if found["execution_id"] else ""
        lines.append(f"Last start: {found['last_start']}{which}, {_ago(found['last_start'], now)}.")
    else:
        lines.append("No retraining was started yet.")
    if found["status"] == decision.CLAIMED:
        lines.append(
            "A start was begun and not finished; a check that finds drift finishes it, or decides anew an hour after."
        )
    lines.append(
        f"Starts in the last 24 hours: {found['starts_in_24_hours']} of {policy['daily_cap']:g}. They are at least "
        f"{policy['cool_down_hours']:g} hours apart and need {policy['min_records']:,g} payments and "
        f"{count(int(policy['min_new_labels']), 'new label')}."
    )
    if policy["daily_cap"] <= 0:
        lines.append("The daily cap is 0, so none starts by itself.")
    elif found["allowed_from"]:
        lines.append(f"The next one may start from {found['allowed_from']} on.")
    else:
        lines.append("Cool-down and daily cap allow one now.")
    return [*lines, "", *decisions_in_lines(found["decisions"])]


def decisions_in_lines(records: list[dict[str, Any]]) -> list[str]:
    """What `history` found, for people: a line for each decision, the newest first."""
    if not records:
        return ["No decision is recorded yet."]
    rows = [("when (UTC)", "verdict", "retraining", "why")]
    for one in records:
        started = one.get("execution_id") or "started"
        words = one.get("in_words") or decision.in_words(one)
        rows.append(
            (
                str(one["moment"])[:19].replace("T", " "),
                str(one["verdict"]),
                str(started) if one.get("start") else "not started",
                f"{' '.join(map(str, one['reasons']))}: {words}",
            )
        )
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    return ["  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[3]]) for row in rows]


def _ago(moment: str, now: dt.datetime) -> str:
    hours = (now.timestamp() - seconds(moment)) / 3600
    if hours < 0:
        return "which is in the future: look at the clocks"
    return f"{math.floor(hours)} hours ago" if hours >= 2 else f"{math.floor(60 * hours)} minutes ago"


def who() -> str:
    """Who calls AWS; the switch must also work while that cannot be told."""
    try:
        return str(client("sts").get_caller_identity()["Arn"])
    except (BotoCoreError, ClientError):
        return "unknown caller"
