"""What the join of scores and reports rests on: objects of rows, and the manifest that names them."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from fraud.cohort import Cohort
from fraud.errors import DataError
from fraud.plaintext import shown

FORMAT = 2
SCORE = np.dtype([("id", "<u8"), ("score", "<f4"), ("second", "<i4")])
"""One scored payment: `fraud.cohort.id_hash`, the score, the second of its UTC day. 16 bytes; sorted by id."""

WIDTH, MOST_WIDTH = struct.Struct("<I"), 1024
"""Width of the names of files in an object of reports (bytes), which stands before them; S3 has no longer ones."""


def report_type(width: int) -> np.dtype:
    """One report, as rows of an array are.

    About whom, when it became known (seconds since 1970), 0 or 1, the day number on which it was read, whether all days
    have been searched for its payment, and the file that says so, which decides between two of one moment.
    """
    return np.dtype(
        [("id", "<u8"), ("time", "<f8"), ("label", "i1"), ("day", "<i4"), ("tried", "?"), ("file", f"S{width}")]
    )


NAMED = 5  # files with unreadable lines that a verdict names


class Item(Protocol):
    """An object as a listing shows it; ``modified`` in seconds since 1970."""

    @property
    def key(self) -> str:
        """Its key."""

    @property
    def etag(self) -> str:
        """Entity tag."""

    @property
    def modified(self) -> float:
        """When it came (seconds since 1970)."""


class Items(Protocol):
    """Lists objects in the order of their keys."""

    def __call__(self, prefix: str, after: str = "") -> Iterable[Item]:
        """Objects under a prefix, those after a name only."""


@dataclass
class Files:
    """The bucket; without ``put`` nothing is written."""

    list: Items
    read: Callable[[str], bytes]
    put: Callable[[str, bytes], Any] | None

    def rows(self, key: str, dtype: np.dtype) -> np.ndarray:
        """An object of rows; no key is none of them."""
        return _rows(key, self.read(key) if key else b"", dtype)

    def reports(self, key: str) -> np.ndarray:
        """An object of reports, which begins with the width of the names of their files."""
        body = self.read(key) if key else WIDTH.pack(1)
        if len(body) < WIDTH.size or not 0 < (width := WIDTH.unpack_from(body)[0]) <= MOST_WIDTH:
            raise DataError(f"{key} does not begin with the width of its rows; delete it.")
        return _rows(key, body[WIDTH.size :], report_type(width))

    def write(self, key: str, body: bytes) -> None:
        """Write an object, where anything is to be written."""
        if self.put:
            self.put(key, body)

    def keep(self, name: str, rows: np.ndarray, held: str = "") -> str:
        """Write rows under a name of their content, unless held already; the key, or nothing for no rows."""
        if not len(rows):
            return ""
        named = "file" in (rows.dtype.names or ())
        body = (WIDTH.pack(rows.dtype["file"].itemsize) if named else b"") + rows.tobytes()
        key = f"{name}-{hashlib.sha256(body).hexdigest()[:16]}.bin"
        if key != held:
            self.write(key, body)
        return key


def _rows(key: str, body: bytes, dtype: np.dtype) -> np.ndarray:
    if len(body) % dtype.itemsize:
        raise DataError(f"{key} has {len(body):,} bytes, which are no whole rows; delete it.")
    return np.frombuffer(body, dtype)


@dataclass
class Day:
    """A day of scoring: the parts that are in it, its scores and reports put together, its counts."""

    parts: list[str]
    scores: str
    n: int
    reports: str
    counts: Cohort

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return vars(self) | {"counts": self.counts.to_dict()}


@dataclass
class State:
    """What is known so far; the manifest.

    All label files that came before the moment ``horizon`` were read, and of the later ones those that are ``seen``.
    Keys after ``since`` are listed at each check; ``early`` files before it were listed on the day ``swept``.
    ``waiting``: reports whose payment has not been found. ``unreadable`` lines, how many of them each file has that
    is ``bad``, ``unread`` files, reports of ``unknown`` payments.
    """

    horizon: float = 0.0
    since: str = ""
    seen: list[str] = field(default_factory=list)
    bad: dict[str, int] = field(default_factory=dict)
    early: int = 0
    swept: int = -1
    waiting: str = ""
    unreadable: int = 0
    unread: int = 0
    unknown: int = 0
    joined: int = -1
    days: dict[int, Day] = field(default_factory=dict)

    @classmethod
    def read(cls, files: Files, key: str) -> tuple[State, bytes]:
        """The state and its bytes; a new one where there is none, or one of another format or kind."""
        try:
            document = json.loads(body := files.read(key))
            if document.pop("format") == FORMAT:
                days = document.pop("days")
                found = cls(**document)
                for day, one in days.items():
                    found.days[int(day)] = Day(**one | {"counts": Cohort.from_dict(one["counts"])})
                days = found.days.values()
                models = [(found, State(seen=[""])), *((one, Day([""], "", 0, "", Cohort())) for one in days)]
                counts = {type(n) for n in found.bad.values()} <= {int}
                if counts and all(_alike(*pair) for pair in [*models, *((one.counts, Cohort()) for one in days)]):
                    return found, body
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError, DataError):
            pass  # all can be read again from labels and parts
        return cls(), b""

    def to_bytes(self) -> bytes:
        """As it is stored."""
        days = {str(day): one.to_dict() for day, one in sorted(self.days.items())}
        return json.dumps({"format": FORMAT, **vars(self), "days": days}, allow_nan=False).encode()

    @property
    def size(self) -> int:
        """Bytes of all scores."""
        return sum(one.n for one in self.days.values()) * SCORE.itemsize

    def notes(self) -> list[str]:
        """What a reader of the verdict must know, in sentences."""
        found = []
        if self.unread:
            found.append(f"{self.unread:,} label files wait to be read in the next check.")
        if self.unreadable:
            files = [shown(key, 80) for key in sorted(self.bad)[:NAMED]]
            more = [f"{len(self.bad) - NAMED:,} more"] if len(self.bad) > NAMED else []
            names = ", ".join(files + more)
            found.append(f"{self.unreadable:,} lines of label files cannot be read and say nothing: {names}.")
        return found


def _alike(given: object, model: object) -> bool:
    """Whether all fields, and the items of lists, are of the model's types."""
    for name, value in vars(given).items():
        like = vars(model)[name]
        if type(value) is not type(like) or (isinstance(value, list) and {*map(type, value)} - {type(like[0])}):
            return False
    return True
