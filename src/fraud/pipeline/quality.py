"""What is wrong with the data, told column by column before anybody trains on it, and the gate that may stop a run."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from fraud import plaintext
from fraud.errors import DataError
from fraud.schema import CATEGORY, Schema

FINDINGS = {"column": pl.String, "finding": pl.String, "share": pl.Float64, "detail": pl.String}
SERIOUS = (
    "missing", "renamed", "empty", "retyped", "impossible time", "runs with time", "tells the label",
    "unreadable labels",
)  # fmt: skip
"""Findings that the gate fails on; the others are for a person to judge."""
KINDS = {"number": ("int", "float"), "boolean": ("bool",), "category": ("text",)}
FILES = 20  # label files that are named one by one
ALIKE = 0.6  # of difflib's ratio, from which a new name may be a lost one's


def find(
    profile: Mapping[str, Any],
    types: Mapping[str, str],
    sources: Sequence[Mapping[str, Any]],
    schema: Schema | None = None,
    *,
    leaks: Sequence[Mapping[str, Any]] = (),
    exclude: Sequence[str] = (),
    impossible_times: int = 0,
    label_files: Sequence[Mapping[str, Any]] = (),
) -> pl.DataFrame:
    """Compare live columns with the schema of the released model, or with the history when there is none.

    Parameters
    ----------
    profile : mapping
        Of the live rows, as `fraud.pipeline.live.Live` has it.
    types : mapping of str to str
        Columns of the history and their types.
    sources : sequence of mapping
        Manifests of the history.
    schema : Schema, optional
        Of the released model.
    leaks : sequence of mapping
        Columns that tell the label alone, as `fraud.pipeline.roles.find_leaks` gives them.
    exclude : sequence of str
        Columns that no model sees.
    impossible_times : int
        Live rows that were scored at another time than their file says.
    label_files : sequence of mapping
        Label files with lines that cannot be read, as `fraud.pipeline.truth.unreadable` tells them.

    Returns
    -------
    DataFrame
        ``column``, ``finding`` (missing, renamed, new, retyped, empty, constant, new categories, impossible time, runs
        with time, tells the label; of a file in place of a column: unreadable labels, where nothing of it can be read,
        or unreadable lines), ``share`` of the rows it concerns, ``detail``; serious ones first.
    """
    rows, live = int(profile.get("rows", 0)), dict(profile.get("columns", {}))
    found: list[tuple[str, str, float, str]] = []
    expected = list(types) if schema is None else [feature.name for feature in schema.features]
    expected = [name for name in expected if name not in exclude]
    against = "the history" if schema is None else "the released model"
    ever = {name for source in sources for name, about in source["columns"].items() if about["nulls"] < source["rows"]}
    constant = {name for source in sources for name, about in source["columns"].items() if about["constant"]}
    new = list(profile.get("new", []))
    for name in expected:
        if name not in types:
            found.append((name, "missing", 1.0, f"{against} has it, the history has not"))
        elif rows and live.get(name, {"nulls": rows})["nulls"] == rows and (other := _alike(name, new)):
            found.append((name, "renamed", 1.0, f'no live row has it, but all have "{other}", which is new'))
        elif rows and live.get(name, {"nulls": rows})["nulls"] == rows and (schema is not None or name in ever):
            found.append((name, "empty", 1.0, f"{against} has values, no live row has one"))
    if rows:
        for name in new:
            share = 1 - live[name]["nulls"] / rows
            found.append((name, "new", share, f"{against} does not have it"))
    for name, about in live.items():
        if about["retyped"]:
            wanted = types.get(name, "text")
            found.append((name, "retyped", about["retyped"] / rows, f"values were no {wanted}, as in the history"))
        one = ("least" in about and about["least"] == about["most"]) or len(about["texts"]) == 1
        if one and not about.get("many") and name not in constant and about["nulls"] < rows > 1:
            found.append((name, "constant", 1 - about["nulls"] / rows, "live rows have one value only"))
    for feature in schema.features if schema is not None else ():
        if feature.name in types and types[feature.name] not in KINDS[feature.type]:
            was = f"the released model takes it as {feature.type}, the history has {types[feature.name]}"
            found.append((feature.name, "retyped", 1.0, was))
        texts = live.get(feature.name, {}).get("texts") or {}
        if feature.type == CATEGORY and texts:
            known = set(feature.categories)
            unseen = {text: n for text, n in texts.items() if text not in known}
            if unseen:
                detail = f"{len(unseen)} value{'s' * (len(unseen) > 1)} that the released model never saw"
                found.append((feature.name, "new categories", sum(unseen.values()) / sum(texts.values()), detail))
    if impossible_times:
        share = impossible_times / max(rows, 1)
        found.append(("(time)", "impossible time", share, "rows were scored at another hour than their file says"))
    for leak in leaks:
        if leak["column"] not in exclude:
            found.append((str(leak["column"]), "tells the label", 1.0, f"AUC {leak['auc']} alone, by {leak['why']}"))
    for name in sorted({name for source in sources for name in _running(source)} - set(exclude)):
        found.append((name, "runs with time", 1.0, "it only tells when; exclude it, or every new day looks like drift"))
    for file in label_files[:FILES]:
        detail = f"{file['lines']:,} of {file['of']:,} lines, the first is line {file['first']}: {file['reason']}"
        what = "unreadable labels" if file["lines"] == file["of"] else "unreadable lines"
        found.append((str(file["file"]), what, file["lines"] / file["of"], detail))
    if more := label_files[FILES:]:
        found.append(("labels/", "unreadable lines", 1.0, f"{len(more):,} more files; see quarantine.jsonl"))
    order = pl.col("finding").is_in(SERIOUS)
    return pl.DataFrame(found, schema=FINDINGS, orient="row").sort(~order, "finding", "column")


def _alike(name: str, new: Sequence[str]) -> str:
    """A new column whose name looks like a lost one's; empty if there is none."""
    plain = {"".join(filter(str.isalnum, other)).lower(): other for other in new}
    near = difflib.get_close_matches("".join(filter(str.isalnum, name)).lower(), plain, 1, ALIKE)
    return plain[near[0]] if near else ""


def _running(source: Mapping[str, Any]) -> Iterator[str]:
    return (name for name, about in source["columns"].items() if about.get("runs_with_time"))


def check(findings: pl.DataFrame, gate: str) -> str:
    """Say in one sentence what was found; stop the run if it is serious and the gate is to fail.

    Parameters
    ----------
    findings : DataFrame
        As `find` gives them.
    gate : {'warn', 'fail'}

    Raises
    ------
    DataError
        Naming the columns.
    """
    serious = findings.filter(pl.col("finding").is_in(SERIOUS))
    if not serious.height:
        return f"Nothing serious was found; {findings.height} notes." if findings.height else "Nothing was found."
    shown = ", ".join(f"{plaintext.shown(row['column'], 400)} ({row['finding']})" for row in serious.head(5).to_dicts())
    more = f" and {serious.height - 5} more" if serious.height > 5 else ""
    sentence = f"{serious.height} serious finding{'s' * (serious.height > 1)} in the data: {shown}{more}"
    if gate == "fail":
        raise DataError(f"{sentence}; mend the data, exclude the columns, or set quality_gate to warn.")
    return f"{sentence}. The run goes on, because quality_gate is warn."
