"""What a build leaves: files that match its patterns, and test reports counted."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fraud.localaws.buildspec import Artifacts, Report

_LARGEST_REPORT = 10_000_000


def matching(folder: Path, patterns: Sequence[str], exclude: Sequence[str] = ()) -> Iterator[Path]:
    """Yield the files below `folder` that a pattern of CodeBuild names, in order; links out of it are passed over.

    ``*`` stays within one folder, ``**`` goes through all, a plain path names one file.
    """
    wanted = [_pattern(pattern) for pattern in patterns]
    unwanted = [_pattern(pattern) for pattern in exclude]
    root = folder.resolve()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not any(rule.fullmatch(name) for rule in wanted) or any(rule.fullmatch(name) for rule in unwanted):
            continue
        if path.is_file() and path.resolve().is_relative_to(root):
            yield path


def _pattern(text: str) -> re.Pattern[str]:
    rule = ""
    for part in re.findall(r"\*\*/|\*\*|\*|\?|[^*?]+", text.removeprefix("./")):
        rule += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part) or re.escape(part)
    return re.compile(rule)


def inside(source: Path, folder: str) -> Path | None:
    """Return a folder below `source` by its relative name, None when it is not there or not below."""
    path = (source / folder).resolve()
    return path if path.is_dir() and path.is_relative_to(source.resolve()) else None


def collect(source: Path, artifacts: Artifacts, destination: Path) -> int:
    """Copy the artifacts into a folder; return how many files.

    Raises
    ------
    FileNotFoundError
        Nothing matches; the message is CodeBuild's.
    """
    base = inside(source, artifacts.base_directory)
    if base is None:
        raise FileNotFoundError(f"no matching base directory path found for {artifacts.base_directory}")
    found = list(matching(base, artifacts.files, artifacts.exclude))
    if not found:
        raise FileNotFoundError("no matching artifact paths found")
    for path in found:
        target = destination / (path.name if artifacts.discard_paths else path.relative_to(base))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    return len(found)


def pack(folder: Path, archive: Path) -> None:
    """Write the files of a folder into a zip, as a pipeline's artifact store holds them."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as zipped:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                zipped.write(path, path.relative_to(folder).as_posix())


def read_report(source: Path, report: Report) -> dict[str, Any]:
    """Count the test cases of a report group.

    Returns
    -------
    dict
        ``{"group", "status", "files", "tests", "failures", "errors", "skipped", "seconds", "problems"}``; `status` is
        ``SUCCEEDED``, ``FAILED`` or, when there was nothing that could be read, ``INCOMPLETE``.
    """
    counts: dict[str, Any] = {"files": 0, "tests": 0, "failures": 0, "errors": 0, "skipped": 0, "seconds": 0.0}
    problems: list[str] = []
    base = inside(source, report.base_directory)
    if base is None:
        problems.append(f"there is no folder {report.base_directory}")
    for path in matching(base, report.files) if base else ():
        if report.file_format != "JUNITXML":
            problems.append(f"{path.name}: {report.file_format} is kept, but not counted here")
            continue
        try:
            _count(path, counts)
        except (ET.ParseError, ValueError, OSError) as error:
            problems.append(f"{path.name} cannot be read: {error}")
    if not counts["files"] and not problems:
        problems.append(f"no file matches {', '.join(report.files)}")
    bad = counts["failures"] + counts["errors"]
    status = "FAILED" if bad else "SUCCEEDED" if counts["files"] else "INCOMPLETE"
    return {"group": report.group, "status": status, **counts, "problems": problems}


def _count(path: Path, counts: dict[str, Any]) -> None:
    if path.stat().st_size > _LARGEST_REPORT:
        raise ValueError(f"it is larger than {_LARGEST_REPORT} bytes")
    root = ET.parse(path).getroot()
    if root.tag not in ("testsuite", "testsuites"):
        raise ValueError(f"its root is <{root.tag[:40]}>, not <testsuite>")
    seen = {"tests": 0, "failures": 0, "errors": 0, "skipped": 0, "seconds": 0.0}
    for case in root.iter("testcase"):
        seen["tests"] += 1
        seen["seconds"] += float(case.get("time") or 0.0)
        for tag, name in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
            if case.find(tag) is not None:
                seen[name] += 1
                break
    counts["files"] += 1
    for name, value in seen.items():
        counts[name] = round(counts[name] + value, 3)
