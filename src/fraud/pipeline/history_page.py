"""One page that links all drift reports of an endpoint, the newest first, each with the course of the checks before it.

What the page shows is kept beside it as JSON, so that a new report costs one read and one write, however many there
are. Without that file it is built anew from the records of the runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fraud.moment import iso
from fraud.pipeline.render import TEMPLATES
from fraud.pipeline.runs import Run, check_run_id, dumps, records
from fraud.pipeline.storage import Storage
from fraud.pipeline.verdict_view import multiple
from fraud.plaintext import count, shown, sparkline

REPORT = "04_drift_report"
MOST = 200  # reports that are listed
ATTEMPTS = 8
HTML, TEXT = "text/html; charset=utf-8", "text/plain; charset=utf-8"
Entry = dict[str, Any]


def folder_of(endpoint: str) -> str:
    """Where the page of an endpoint lies."""
    return f"drift/{endpoint}/reports/"


def entry_of(run_id: str, record: Mapping[str, Any]) -> Entry:
    """What the page shows of one report.

    Parameters
    ----------
    run_id : str
    record : mapping
        ``04_drift_report.json``; an older one without ``brief`` has no causes and no sparkline.

    Returns
    -------
    dict
        ``run_id``, ``at``, ``verdict``, ``n``, ``model_version``, ``sentence``, ``cause``, ``levels``.
    """
    verdict, brief = record["verdict"], record.get("brief") or {}
    return {
        "run_id": run_id,
        "at": iso(verdict["computed_at"]),
        "verdict": str(verdict["verdict"]),
        "n": int(verdict["n"]),
        "model_version": shown(verdict["model_version"]),
        "sentence": shown(verdict["sentence"], 240),
        "cause": "; ".join(brief.get("causes", [])[:1]),
        "levels": list(brief.get("levels", [])),
    }


def publish(run: Run, reports: Path, echo: Callable[[str], None]) -> None:
    """Keep the plain-text twin of a run's report, and bring the history page up to date, in bucket and folder.

    Parameters
    ----------
    run : Run
    reports : Path
        The folder ``reports/`` of this checkout.
    echo : callable
        Gets a line when it cannot be done; the run does not depend on it.
    """
    try:
        record = run.results(REPORT)
        text = "\n".join([*record["twin"], "", f"Archived at {run.uri(f'{REPORT}.html')}", ""]).encode()
        run.storage.put(run.key(f"{REPORT}.txt"), text, content_type=TEXT)
        own = reports / run.run_id
        own.mkdir(parents=True, exist_ok=True)
        (own / f"{REPORT}.txt").write_bytes(text)
        endpoint = record["verdict"]["endpoint"]
        entries = remember(run.storage, endpoint, entry_of(run.run_id, record))
        write_local(run.storage, endpoint, reports, entries)
    except Exception as problem:  # the report is there, whatever becomes of its place in a list
        echo(f"✗ the list of reports could not be written: {type(problem).__name__}: {str(problem)[:300]}")


def remember(storage: Storage, endpoint: str, entry: Entry) -> list[Entry]:
    """Add a report to the list, or replace it there, and write list and page.

    Two runs that end together do not lose each other's report: the list is written under the condition that it is
    still the one that was read.

    Returns
    -------
    list of dict
        All entries, the newest first.
    """
    key = f"{folder_of(endpoint)}index.json"
    for _ in range(ATTEMPTS):
        body, tag = storage.get_tagged(key) or (b"", "")
        known = _read(body) if body else rebuilt(storage, endpoint)
        entries = [entry, *(one for one in known if one["run_id"] != entry["run_id"])]
        entries = sorted(entries, key=lambda one: (one["at"], one["run_id"]), reverse=True)[:MOST]
        if storage.put_if_match(key, dumps(entries).encode(), tag, "application/json"):
            break
    page = render(entries, endpoint, "../../../runs/")
    storage.put(f"{folder_of(endpoint)}index.html", page.encode(), content_type=HTML)
    return entries


def _read(body: bytes) -> list[Entry]:
    try:
        found = json.loads(body)
    except ValueError:
        return []
    return [one for one in found if isinstance(one, dict) and "run_id" in one and "at" in one]


def rebuilt(storage: Storage, endpoint: str) -> list[Entry]:
    """The list anew, from the records of the newest runs that reported on an endpoint."""
    entries = []
    for run_id, item in records(storage, REPORT)[:MOST]:
        record = storage.read_json(item.key, default={})
        if (record.get("verdict") or {}).get("endpoint") == endpoint:
            entries.append(entry_of(run_id, record))
    return entries


def write_local(storage: Storage, endpoint: str, reports: Path, entries: Sequence[Entry] | None = None) -> Path:
    """Write ``reports/index.html``: reports that lie in this folder are links, the others name their address.

    Parameters
    ----------
    storage : Storage
    endpoint : str
    reports : Path
    entries : sequence of dict, optional
        By default what the bucket's list holds.

    Returns
    -------
    Path
        The page.
    """
    if entries is None:
        entries = _read(storage.get(f"{folder_of(endpoint)}index.json", default=b"[]"))
    here = {one["run_id"] for one in entries if (reports / one["run_id"] / f"{REPORT}.html").exists()}
    page = reports / "index.html"
    reports.mkdir(parents=True, exist_ok=True)
    page.write_text(render(entries, endpoint, "", here, storage.bucket), encoding="utf-8")
    return page


def bring(storage: Storage, endpoint: str, reports: Path, most: int = 10) -> Path:
    """Bring the newest reports of an endpoint to this machine, and the page that links them.

    Parameters
    ----------
    storage : Storage
    endpoint : str
    reports : Path
        Where to.
    most : int
        How many reports; the page names the others too.

    Returns
    -------
    Path
        The page.
    """
    entries = _read(storage.get(f"{folder_of(endpoint)}index.json", default=b"[]")) or rebuilt(storage, endpoint)
    for one in entries[:most]:
        run_id = check_run_id(one["run_id"])
        for name in (f"{REPORT}.html", f"{REPORT}.txt"):
            if (body := storage.get(f"runs/{run_id}/{name}", default=None)) is not None:
                (reports / run_id).mkdir(parents=True, exist_ok=True)
                (reports / run_id / name).write_bytes(body)
    return write_local(storage, endpoint, reports, entries)


def render(entries: Sequence[Entry], endpoint: str, base: str, here: set[str] | None = None, bucket: str = "") -> str:
    """The page.

    Parameters
    ----------
    entries : sequence of dict
        The newest first.
    endpoint : str
    base : str
        Leads from the page to the folder of the runs.
    here : set of str, optional
        Runs whose reports can be linked; by default all.
    bucket : str
        Where the others lie.

    Returns
    -------
    str
        One HTML page without scripts and without outside addresses.
    """
    rows = [
        one
        | {
            "href": f"{base}{one['run_id']}/{REPORT}.html" if here is None or one["run_id"] in here else "",
            "address": f"s3://{bucket}/runs/{one['run_id']}/{REPORT}.html" if bucket else "",
            "spark": sparkline(one["levels"]),
            "spark_says": _in_words(one["levels"]),
            "kind": "".join(c for c in one["verdict"].lower() if c.isalpha() or c == "_"),
        }
        for one in entries
    ]
    return TEMPLATES.get_template("history.html.j2").render(endpoint=shown(endpoint, 63), rows=rows, most=MOST)


def _in_words(levels: Sequence[float | None]) -> str:
    """What a sparkline shows."""
    known = [level for level in levels if level is not None]
    if not known:
        return "no check could judge"
    return (
        f"largest drift score as a multiple of its limit, last {count(len(levels), 'check')}: "
        f"from {multiple(min(known))} to {multiple(max(known))}, last {multiple(known[-1])}"
    )
