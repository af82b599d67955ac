"""What the local AWS remembers: one JSON file per resource, so that kill -9 loses nothing that was answered.

Datetimes are epoch seconds (float). A file is written beside its place, synced, then renamed over it: a reader, also
one after a crash, sees the whole former document or the whole new one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_.")


class AlreadyExistsError(Exception):
    """``put(create=True)`` met a document of that name."""


class Store:
    """A folder of JSON documents, ``<root>/<kind>/<name>.json``.

    Parameters
    ----------
    root : Path
        Created when absent.

    Notes
    -----
    Documents are kept in memory too: reading costs no disk access, and what is handed out is a copy, so that a change
    that was not ``put`` is not seen by anybody. All methods may be called from any thread.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self.root.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._kinds: dict[str, dict[str, str]] = {}

    def put(self, kind: str, name: str, doc: dict[str, Any], *, create: bool = False) -> None:
        """Keep `doc` under `name`.

        Raises
        ------
        AlreadyExistsError
            With `create`, when the name is taken.
        OSError
            The disk is full or the folder cannot be written; the former document still stands.
        """
        text = json.dumps(doc, ensure_ascii=False, allow_nan=False)
        with self._lock:
            documents = self._documents(kind)
            if create and name in documents:
                raise AlreadyExistsError(f"{kind} {name}")
            write_atomic(
                self._path(kind, name), json.dumps({"name": name, "document": doc}, ensure_ascii=False).encode()
            )
            documents[name] = text

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return a copy of the document, or None."""
        with self._lock:
            text = self._documents(kind).get(name)
        return None if text is None else json.loads(text)

    def list(self, kind: str) -> list[dict[str, Any]]:
        """Return copies of all documents of `kind`, in order of name."""
        with self._lock:
            texts = [text for _, text in sorted(self._documents(kind).items())]
        return [json.loads(text) for text in texts]

    def delete(self, kind: str, name: str) -> bool:
        """Forget the document; return whether there was one."""
        with self._lock:
            if self._documents(kind).pop(name, None) is None:
                return False
            self._path(kind, name).unlink(missing_ok=True)
            return True

    def _path(self, kind: str, name: str) -> Path:
        return self.root / kind / f"{file_name(name)}.json"

    def _documents(self, kind: str) -> dict[str, str]:
        if kind not in self._kinds:
            folder = self.root / kind
            folder.mkdir(parents=True, exist_ok=True)
            documents = {}
            for path in sorted(folder.glob("*.json")):
                try:
                    kept = json.loads(path.read_bytes())
                    documents[kept["name"]] = json.dumps(kept["document"], ensure_ascii=False)
                except (ValueError, KeyError, TypeError):  # not by a crash: only by a hand or a bad disk
                    logger.error("left out %s: it is not a document of this store", path)
            self._kinds[kind] = documents
        return self._kinds[kind]


def file_name(name: str) -> str:
    """Return a file name for any resource name: itself when plain, else ``=`` and a hash (no slash, no dots)."""
    if name and len(name) <= 128 and name[0] != "." and set(name) <= _PLAIN:
        return name
    return "=" + hashlib.sha256(name.encode()).hexdigest()[:40]


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file as a whole or not at all, synced to the disk.

    Raises
    ------
    OSError
        Nothing was changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
