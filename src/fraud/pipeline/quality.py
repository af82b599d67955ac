"""What is wrong with live data, told column by column before anybody trains on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from fraud.schema import CATEGORY, Schema

FINDINGS = {"column": pl.String, "finding": pl.String, "share": pl.Float64, "detail": pl.String}
KINDS = {"number": ("int", "float"), "boolean": ("bool",), "category": ("text",)}


def find(
    profile: Mapping[str, Any],
    types: Mapping[str, str],
    sources: Sequence[Mapping[str, Any]],
    schema: Schema | None = None,
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

    Returns
    -------
    DataFrame
        ``column``, ``finding`` (missing, new, retyped, empty, constant, new categories), ``share`` of the live rows
        it concerns, ``detail``.
    """
    rows, live = int(profile.get("rows", 0)), dict(profile.get("columns", {}))
    found: list[tuple[str, str, float, str]] = []
    expected = list(types) if schema is None else [feature.name for feature in schema.features]
    against = "the history" if schema is None else "the released model"
    ever = {name for source in sources for name, about in source["columns"].items() if about["nulls"] < source["rows"]}
    constant = {name for source in sources for name, about in source["columns"].items() if about["constant"]}
    for name in expected:
        if name not in types:
            found.append((name, "missing", 1.0, f"{against} has it, the history has not"))
        elif rows and live.get(name, {"nulls": rows})["nulls"] == rows and (schema is not None or name in ever):
            found.append((name, "empty", 1.0, f"{against} has values, no live row has one"))
    if rows:
        for name in profile.get("new", []):
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
    return pl.DataFrame(found, schema=FINDINGS, orient="row").sort("finding", "column")
