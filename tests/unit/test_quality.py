"""What is found in the data, and when it stops a run."""

from __future__ import annotations

import polars as pl
import pytest

from fraud.errors import DataError
from fraud.pipeline import quality

TYPES = {"amount": "float", "card": "text", "day": "int"}


def source(**change):
    columns = {name: {"type": kind, "nulls": 0, "constant": False} for name, kind in TYPES.items()}
    for name, about in change.items():
        columns[name] |= about
    return {"rows": 100, "columns": columns}


def profile(new=(), **columns):
    """Live columns of ten rows; ``None`` is a column that no row has."""
    found = {}
    for name, about in ({name: {} for name in TYPES} | columns).items():
        found[name] = {"nulls": 10 if about is None else 0, "texts": {}, "retyped": 0, "many": True} | (about or {})
    return {"rows": 10, "columns": found, "new": list(new)}


def found(live, sources=None, **given):
    table = quality.find(live, TYPES, sources or [source()], **given)
    return {(row["column"], row["finding"]): row for row in table.to_dicts()}


def test_sound_data_have_no_findings():
    assert found(profile()) == {}
    assert quality.check(quality.find(profile(), TYPES, [source()]), "fail") == "Nothing was found."


def test_a_lost_column_beside_a_new_one_of_like_name_was_renamed():
    live = profile(["Amount_", "zebra"], amount=None, Amount_={}, zebra={})
    assert set(found(live)) == {("amount", "renamed"), ("Amount_", "new"), ("zebra", "new")}
    assert '"Amount_"' in found(live)["amount", "renamed"]["detail"]
    assert ("amount", "empty") in found(profile(["zebra"], amount=None, zebra={}))
    assert found(profile(amount=None), exclude=["amount"]) == {}


def test_a_column_that_only_counts_the_days_is_found_unless_excluded():
    sources = [source(day={"runs_with_time": True})]
    assert set(found(profile(), sources)) == {("day", "runs with time")}
    assert found(profile(), sources, exclude=["day"]) == {}


def test_impossible_times_and_columns_that_tell_the_label():
    leaks = [{"column": "card", "auc": 0.999, "why": "its value"}]
    rows = found(profile(), leaks=leaks, impossible_times=4)
    assert rows["(time)", "impossible time"]["share"] == 0.4 and ("card", "tells the label") in rows
    assert found(profile(), leaks=leaks, exclude=["card"]) == {}


def test_serious_findings_come_first_and_only_they_stop_a_run():
    live = profile(["extra"], extra={}, amount={"retyped": 3}, card={"texts": {"visa": 10}, "many": False})
    table = quality.find(live, TYPES, [source()])
    assert table["finding"].to_list() == ["retyped", "constant", "new"]
    assert "The run goes on" in quality.check(table, "warn")
    with pytest.raises(DataError, match=r"1 serious finding in the data: amount \(retyped\); mend the data"):
        quality.check(table, "fail")
    notes = table.filter(pl.col("finding") != "retyped")
    assert quality.check(notes, "fail") == "Nothing serious was found; 2 notes."
