"""Capture objects to a part: the quick readers give what `fraud.capture` gives, whatever the lines hold."""

import base64
import datetime as dt
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fraud import capture
from fraud.errors import CaptureFormatError
from fraud.pipeline import captured
from fraud.pipeline.captured import build_part
from fraud.pipeline.captured_columns import kind_of, profile_of, to_column
from fraud.pipeline.columns import ARROW
from fraud.pipeline.live import Conversion
from fraud.pipeline.roles import RESERVED, Roles
from fraud.schema import Feature, Schema

ROOT = Path(__file__).parents[2]
ROLES = Roles("isFraud", "TransactionID", "TransactionDT", "amount")
TYPES = {"amount": "float", "card": "text", "count": "int", "flag": "bool", "when": "time"}
SCHEMA = Schema((
    Feature("amount", "number"), Feature("card", "category", False, ("visa",)), Feature("count", "number"),
    Feature("flag", "boolean"),
))  # fmt: skip
NOON = dt.datetime(2026, 1, 2, 12, tzinfo=dt.UTC).timestamp()
USUAL = {"amount": 5.5, "card": "visa", "count": 3, "flag": True, "when": "2026-01-01T00:00:00Z"}


def key(minute=0, variant="AllTraffic", name="a1", slash="/"):
    return f"data-capture{slash}fraud{slash}{variant}/2026/01/02/12/{minute:02d}-00-000-{name}.jsonl"


def line(sent, ids=(), at=0.0, **given):
    options = {"event_id": f"e{at}", "time": NOON + at, "model_version": "m1", "inference_ids": list(ids)} | given
    return capture.encode_line(sent, [0.25] * len(sent), **options)


def build(*objects, types=TYPES, schema=SCHEMA):
    return build_part(objects, types, ROLES, schema)


def naive(objects, types=TYPES, schema=SCHEMA):
    """The same, one record after the other."""
    records, bad, lines = [], [], 0
    for name, body in objects:
        try:
            found, problems = capture.parse_file(body, name, schema)
        except CaptureFormatError as error:
            found, problems = [], [(0, str(error))]
        else:
            lines += sum(1 for text in body.split(b"\n") if text.strip())
        records += found
        bad += [[name, number, reason] for number, reason in problems]
    live, tagged = capture.only_live(records)
    known = [record for record in live if not types or record.transaction.keys() & types.keys()]
    kept, duplicates = capture.first_of_each(known)
    sent = {name for record in kept for name in record.transaction}
    new = sorted(sent - types.keys() - {*ROLES.consumed, *RESERVED})
    made = {
        "__id": pa.array([record.inference_id for record in kept], pa.string()),
        "__time": pa.array([record.time for record in kept], pa.float64()),
        "__label": pa.nulls(len(kept), pa.int8()),
        "__score": pa.array([record.fraud_probability for record in kept], pa.float64()),
        "__model": pa.array([record.model_version for record in kept], pa.string()),
        "__variant": pa.array([record.variant for record in kept], pa.string()),
    }
    models = sorted({record.model_version for record in kept})
    versions = {name: {"rows": 0, "absent": [], "retyped": 0} for name in models}
    retyped = {}
    for record in kept:
        versions[record.model_version]["rows"] += 1
    for name in [*types, *new]:
        values = [record.transaction.get(name) for record in kept]
        made[name], changed = to_column(values, types.get(name) or kind_of(values))
        if changed:
            retyped[name] = len(changed)
        for place in changed:
            versions[kept[place].model_version]["retyped"] += 1
        if name in types:
            for model, about in versions.items():
                if not any(name in record.transaction for record in kept if record.model_version == model):
                    about["absent"].append(name)
    about = {
        "rows": len(kept), "lines": lines, "bad": bad, "duplicates": duplicates, "tagged": dict(sorted(tagged.items())),
        "foreign": len(live) - len(known), "retyped": retyped, "absent": [n for n in types if n not in sent],
        "new": new, "profile": profile_of(pa.table(made)), "versions": versions,
    }  # fmt: skip
    return pa.table(made), about


def check(objects, **given):
    table, about = build(*objects, **given)
    wanted, said = naive(objects, **given)
    assert about == said
    assert table.schema == wanted.schema
    assert table.equals(wanted), (table.to_pylist(), wanted.to_pylist())
    assert repr(table.to_pylist()) == repr(wanted.to_pylist())  # -0.0 is no 0.0 here
    json.dumps(about)
    return table, about


RAW = st.one_of(
    st.sampled_from([
        "NaN", "Infinity", "1e400", "-0", "1.0", "0.1e1", "1" + "0" * 25, "1" + "0" * 400, '"\\ud800"', "01",
        '"\\ud83d\\ude00"', '[1,{"b":2,"a":1}]', "{}", "1E3", str(2**53 + 1), str(-(2**63) - 1), str(2**63), str(2**64),
        '"2026-01-01T00:00:00+02:00"', '"0001-01-01T00:00:00+23:00"', '"nan"', '"1e400"', '"1"', '"true"', "9" * 5000,
        "[" * 40 + "]" * 40, "9007199254740993.0", "1e22", "-1e19",
    ]),
    st.builds(json.dumps, st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=6)),
)  # fmt: skip
NAMES = st.sampled_from([*TYPES, *TYPES, "fresh", "isFraud", "__id", "ü", "", "source", "reasons"])
ROW = st.lists(st.tuples(NAMES, RAW), max_size=6)
USUAL_ROW = st.fixed_dictionaries(
    {"amount": st.floats(-9, 9) | st.integers(-9, 9), "card": st.sampled_from(["visa", "ü"])},
    optional={"count": st.integers(-9, 9) | st.sampled_from([2.0, 2.5, None, 2**53, 2**63]), "flag": st.booleans(),
              "fresh": st.integers(0, 3), "when": st.just("2026-01-01")},
)  # fmt: skip
CELL = st.sampled_from([
    "1.5", "1.5", "2", "", " 2 ", " ", "nan", "inf", "1e400", "1e-400", "+1", ".5", "5.", "0x1",
    "true", "False", "visa", '"a,b"', "ü",
    "1_0", "-0", "x\u2028y", "1" + "0" * 30, "\u00a01", "1\x0b", "\ufeff1", "-", "1e",
    "null", "NA", "\t3", "1.0", "0",
])  # fmt: skip
GOOD_CELLS = st.tuples(
    st.sampled_from(["1.5", "-2e3", "", "7"]),
    st.sampled_from(["visa", "", "null", "ü"]),
    st.sampled_from(["", "3", "2.5"]),
    st.sampled_from(["", "true", "False", "0", "1.0"]),
)


OTHERS = [
    '{"amount": 2, "inference_id": "k"}', '{"instances": [{"features": [1, "visa", 2, true]}]}', "[]", "", "{",
    '{"amount": 1, "source": "test"}', '{"transactions": 5}', '{"amount": 1}\n{"amount": 2}',
]  # fmt: skip


def text_of(pairs):
    return "{" + ", ".join(f"{json.dumps(name)}: {raw}" for name, raw in pairs) + "}"


@st.composite
def requests(draw):
    """Text, form and number of rows of a request, usual or not."""
    kind = draw(st.sampled_from(["usual", "usual", "hostile", "csv", "csv", "odd csv", "other"]))
    if kind in ("usual", "hostile"):
        if kind == "usual":
            rows = [json.dumps(row) for row in draw(st.lists(USUAL_ROW, min_size=1, max_size=4))]
        else:
            rows = [text_of(pairs) for pairs in draw(st.lists(ROW, max_size=3))]
        ids = [draw(st.sampled_from("abcdefghijkl")) for _ in rows]
        if kind == "hostile":
            ids = draw(st.sampled_from([ids, ids, ids[:1], ["", *ids[1:]], [5, *ids[1:]], "ab", None]))
        more = draw(
            st.sampled_from(
                ["", "", "", ', "reasons": true', ', "source": "Canary"', ', "source": "web"', ', "x": [{}]']
            )
        )
        return f'{{"transactions": [{", ".join(rows)}], "inference_ids": {json.dumps(ids)}{more}}}', "JSON", len(rows)
    if kind == "csv":
        rows = draw(st.lists(GOOD_CELLS, min_size=1, max_size=4))
    elif kind == "odd csv":
        rows = draw(st.lists(st.lists(CELL, min_size=0, max_size=5) | st.tuples(*[CELL] * 4), max_size=3))
    else:
        text = draw(st.sampled_from(OTHERS))
        return text, "JSON", 1
    end = draw(st.sampled_from(["", "\n", "\r\n", "\n\n"])) if kind == "odd csv" else draw(st.sampled_from(["", "\n"]))
    return "\n".join(",".join(cells) for cells in rows) + end, "CSV", len(rows)


def side(draw, text, form):
    encoding = draw(st.sampled_from([form, form, "BASE64"]))
    usual = {"JSON": "application/json", "CSV": "text/csv"}[form]
    kinds = [
        usual,
        usual,
        f"{usual}; charset=utf-8",
        usual.upper(),
        "text/csv;header=present",
        "application/jsonlines",
        "",
        None,
    ]
    data = base64.b64encode(text.encode()).decode() if encoding == "BASE64" else text
    made = {"observedContentType": draw(st.sampled_from(kinds)), "mode": "INPUT", "data": data, "encoding": encoding}
    return draw(st.sampled_from([made] * 9 + [made | {"encoding": "XML"}]))


@st.composite
def lines(draw):
    text, form, rows = draw(requests())
    data = {"endpointInput": side(draw, text, form)}
    if draw(st.integers(0, 9)):
        scores = ["0.5"] * rows
        if not draw(st.integers(0, 3)):
            odd = ["0.5", "1", "0", "true", "null", "1.5", "-0.1", '"0.5"', "NaN", "1e-400", "0.25"]
            scores = draw(st.lists(st.sampled_from(odd), min_size=max(rows - 1, 0), max_size=rows + 1))
        if draw(st.booleans()):
            predictions = ", ".join(f'{{"fraud_probability": {score}}}' for score in scores)
            version = draw(st.sampled_from(["m1", "m2", None, 5]))
            answer = f'{{"predictions": [{predictions}], "model_version": {json.dumps(version)}}}', "JSON"
        else:
            answer = draw(st.sampled_from([",", "\n", " "])).join(scores), "CSV"
        data["endpointOutput"] = side(draw, *answer)
    meta = {"eventId": draw(st.sampled_from(["e1", "e2", "e3", "e4", ""]))}
    meta["inferenceTime"] = draw(st.sampled_from(["2026-01-02T12:00:00Z"] * 3 + [
        "2026-01-02T12:00:01Z", "2026-01-02T12:00:00", "2026-01-02T13:00:00.5+01:00", "noon", 5]))  # fmt: skip
    if attributes := draw(st.sampled_from([None, None, ["model_version=m3"], "source=replay", ["team=x"], 5])):
        meta["customAttributes"] = attributes
    if own := draw(st.sampled_from([None, None, "own", 7])):
        meta["inferenceId"] = own
    version = draw(st.sampled_from(["0"] * 19 + ["1"]))
    made = json.dumps(
        {"captureData": data, "eventMetadata": meta, "eventVersion": version}, ensure_ascii=draw(st.booleans())
    )
    made = made.encode(errors="surrogatepass")
    return draw(st.sampled_from([made] * 19 + [made[: len(made) // 2]]))


KEYS = st.sampled_from([key(), key(1), key(1, "Blue"), key(2, slash="//"), "data-capture/elsewhere.jsonl"])
BODY = st.builds(
    lambda rows, end: b"\n".join(rows) + end, st.lists(lines(), max_size=6), st.sampled_from([b"\n", b"", b"\n\n"])
)


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(KEYS, BODY), max_size=3), st.sampled_from([TYPES, TYPES, {}, {"count": "text", "amount": "int"}])
)
def test_the_quick_way_gives_what_the_slow_way_gives(objects, types):
    check(sorted(objects), types=types)


def usual_line(rng, nulls):
    """A line as an endpoint writes it; `nulls` says what becomes of values that are missing."""
    rows = []
    for _ in range(rng.choice([1, 1, 3])):
        row = {"amount": rng.choice([rng.gauss(0, 9), rng.randrange(-9, 9)]), "card": rng.choice(["visa", "ü", "null"]),
               "count": rng.choice([1, 3.0, 2**53 - 1]), "flag": rng.random() < 0.5}  # fmt: skip
        if nulls != "none":
            missing = [name for name in row if rng.random() < 0.4]
            row = {k: v for k, v in row.items() if k not in missing} | dict.fromkeys(missing if nulls == "sent" else ())
        rows.append(row)
    request, answer = rng.choice(["JSON", "JSON", "CSV", "BASE64"]), rng.choice(["JSON", "CSV", "BASE64", None])
    ids = [f"i{rng.randrange(99)}-{k}" for k in range(len(rows) if request != "CSV" else len(rows) == 1)]
    if request != "CSV" and rng.random() < 0.5:
        rows = [row | {"fresh": rng.choice([1, 2.5]), "isFraud": 0} for row in rows]
    made = line(rows, ids, rng.randrange(3), event_id=f"e{rng.randrange(99)}", encodings=(request, answer or "JSON"),
                schema=SCHEMA, model_version=rng.choice(["m1", "m2"]))  # fmt: skip
    if answer is None:
        document = json.loads(made)
        del document["captureData"]["endpointOutput"]
        made = json.dumps(document).encode() + b"\n"
    return made


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(
    st.randoms(use_true_random=False),
    st.sampled_from(["none", "left out", "sent"]),
    st.lists(
        st.tuples(st.integers(0, 39), lines() | st.sampled_from([b"", b" \t", b"[]", b"{", b'{"a": 1}', b"\xff"])),
        max_size=6,
    ),
    st.sampled_from([1, 4, 1024]),
    st.sampled_from([1, 3, 4096]),
    st.sampled_from([TYPES, TYPES | {"never": "float"}, {"amount": "int", "count": "text", "flag": "float"}, {}]),
    st.sampled_from([b"", b"\n"]),
)
def test_odd_lines_among_usual_ones_and_the_sizes_of_batches_do_not_show(rng, nulls, odd, size, rows, types, end):
    usual = [usual_line(rng, nulls).removesuffix(b"\n") for _ in range(rng.choice([3, 40]))]
    for place, text in odd:
        usual.insert(place, text)
    half = len(usual) // 2
    objects = [
        (key(0, "Blue"), b"\n".join(usual[:half]) + b"\n"),
        ("data-capture/elsewhere.jsonl", b"x"),
        (key(1), b"\n".join(usual[half:]) + end),
        (key(2), b""),
        (key(3), b"\n".join(usual[:3]) + b"\n"),
    ]
    before = captured.ROWS, captured.CSV_LINES
    captured.ROWS, captured.CSV_LINES = rows, size
    try:
        check(objects, types=types)
    finally:
        captured.ROWS, captured.CSV_LINES = before


@pytest.mark.parametrize("encodings", [("JSON", "JSON"), ("BASE64", "JSON"), ("CSV", "CSV"), ("CSV", "BASE64")])
def test_usual_lines_are_read_quickly(monkeypatch, encodings):
    sent = [{name: value for name, value in USUAL.items() if name != "when"}] * 3
    ids = ["a", "b", "c"] if encodings[0] != "CSV" else []
    bodies = [
        (key(k), line(sent, [f"{k}{i}" for i in ids], at=k, encodings=encodings, schema=SCHEMA) * 2) for k in range(3)
    ]
    wanted = check(bodies)
    calls = []
    monkeypatch.setattr(capture, "parse_line", lambda *given: calls.append(given))
    table, about = build(*bodies)
    assert not calls and table.equals(wanted[0]) and about == wanted[1]
    assert about["rows"] == 9 and about["duplicates"] == 9 and about["retyped"] == {}
    assert table["__model"].to_pylist() == ["m1"] * 9
    assert table["count"].to_pylist() == [3] * 9 and table["flag"].to_pylist() == [True] * 9


def test_a_part_has_the_history_columns_in_their_types_and_then_new_ones():
    other = USUAL | {"card": 7, "count": "12", "flag": "true", "zebra": "x", "apple": 1.5, "isFraud": 1, "__label": 1}
    table, about = check([(key(), line([USUAL], ["a"]) + line([other], ["b"]))])
    assert table.column_names == [*RESERVED, *TYPES, "apple", "zebra"]
    assert [item.type for item in table.schema][6:11] == [ARROW[kind] for kind in TYPES.values()]
    assert table.schema.field("__label").type == pa.int8() and table["__label"].null_count == 2
    assert table.to_pylist()[1] == {
        "__id": "b", "__time": NOON, "__label": None, "__score": 0.25, "__model": "m1", "__variant": "AllTraffic",
        "amount": 5.5, "card": "7", "count": 12, "flag": True, "when": dt.datetime(2026, 1, 1),
        "apple": 1.5, "zebra": "x",
    }  # fmt: skip
    assert about["retyped"] == {"card": 1, "count": 1, "flag": 1} and about["new"] == ["apple", "zebra"]
    assert about["profile"]["card"] == {"nulls": 0, "texts": {"visa": 1, "7": 1}}
    assert about["profile"]["amount"] == {"nulls": 0, "least": 5.5, "most": 5.5}


@pytest.mark.parametrize(
    ("kind", "wanted", "changed"),
    [
        ("float", [1.0, 2.5, 3.0, None, 1.0, None, None, None, None], 6),
        ("int", [1.0, 2.5, 3.0, None, 1.0, None, None, None, None], 6),
        ("bool", [True, None, None, None, True, None, None, None, None], 7),
        ("text", ["1", "2.5", "3", "x", "true", None, "[1]", str(10**400), "nan"], 5),
    ],
)
def test_what_has_no_place_in_its_column_is_missing_and_counted(kind, wanted, changed):
    values = [1, 2.5, "3", "x", True, None, [1], 10**400, "nan"]
    column, places = to_column(values, kind)
    assert column.to_pylist() == wanted and len(places) == changed


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([1, 2.0, None], pa.array([1, 2, None], pa.int64())),
        ([2**60 + 1, 2.0], pa.array([2**60 + 1, 2], pa.int64())),
        ([1, 2.5], pa.array([1, 2.5], pa.float64())),
        ([2**63], pa.array([2.0**63], pa.float64())),
    ],
)
def test_whole_numbers_stay_whole_where_they_can(values, wanted):
    assert to_column(values, "int")[0].equals(wanted)
    check([(key(), b"".join(line([{"count": value}], [f"{k}"]) for k, value in enumerate(values)))])


@pytest.mark.parametrize("number", [10**25, -(2**63) - 1, 2**64, 2**63, 10**400])
def test_a_number_beyond_64_bits_is_the_same_text_to_both_readers(number):
    table, about = check([(key(), line([{"card": number}], ["a"]))])
    assert about["retyped"] == {"card": 1} and table["card"].null_count == 0


def test_rows_of_an_older_schema_are_up_cast_and_foreign_ones_left_out():
    old = line([{"amount": 1, "card": "visa"}] * 2, ["a", "b"], model_version="m0")
    new = line([USUAL | {"count": "3"}], ["c"], model_version="m1")
    other = line([{"x1": 1, "x2": 2}] * 3, ["d", "e", "f"], model_version="m9")
    table, about = check([(key(), old + new + other)])
    assert about["versions"] == {
        "m0": {"rows": 2, "absent": ["count", "flag", "when"], "retyped": 0},
        "m1": {"rows": 1, "absent": [], "retyped": 1},
    }
    assert (
        about["foreign"] == 3
        and about["new"] == []
        and about["absent"] == []
        and table["count"].to_pylist() == [None, None, 3]
    )


def test_of_one_id_the_earliest_stays_in_its_own_place():
    first = (key(1, name="a"), line([USUAL], ["a"], at=6) + line([USUAL], ["b"], at=1))
    second = (key(5, name="b"), line([USUAL | {"amount": 1}], ["a"], at=5) + line([USUAL | {"amount": 2}], ["a"], at=5))
    table, about = check([first, second])
    assert table["__id"].to_pylist() == ["b", "a"] and table["amount"].to_pylist() == [5.5, 1.0]
    assert about["duplicates"] == 2


def test_tags_variants_empty_objects_and_other_keys():
    objects = [
        (key(0, "A"), line([USUAL], ["a"]) + line([USUAL] * 2, ["x", "y"], source="canary")),
        (key(1, "B", slash="//"), line([USUAL], ["b"])),
        (key(2), b""),
        (key(3), b"\n \n"),
        ("data-capture/notes.jsonl", line([USUAL], ["c"])),
        (key(4), b"[]\n"),
    ]
    table, about = check(objects)
    assert table["__variant"].to_pylist() == ["A", "B"] and about["tagged"] == {"canary": 2} and about["lines"] == 4
    assert [entry[:2] for entry in about["bad"]] == [["data-capture/notes.jsonl", 0], [key(4), 1]]
    assert "endpoint/variant/yyyy" in about["bad"][0][2]


@pytest.mark.parametrize("encodings", [("CSV", "CSV"), ("JSON", "CSV")])
def test_a_tag_beside_the_body_counts_too_and_no_zone_is_utc(encodings, monkeypatch, request):
    request.addfinalizer(time.tzset)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    request.addfinalizer(monkeypatch.undo)
    time.tzset()
    usual = line([{"amount": 1}], ["a"], encodings=encodings, schema=SCHEMA)
    tagged = json.loads(usual)
    tagged["eventMetadata"]["customAttributes"] = ["team=x;source=replay"]
    unzoned = line([{"amount": 1}], ["b"], encodings=encodings, schema=SCHEMA).replace(b"12:00:00Z", b"13:00:00")
    table, about = check([(key(), json.dumps(tagged).encode() + b"\n" + usual + unzoned)])
    assert about["tagged"] == {"replay": 1} and table["__time"].to_pylist() == [NOON, NOON + 3600]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"0.25"', "true"), ('"0.25"', "null"),
        ('"0.25"', "1"), ('"0.25"', "1.5"), ('"0.25"', "-0.1"), ('"0.25"', '"0.5"'),
        ('["a"]', '[""]'), ('["a"]', "[5]"), ('["a"]', "[]"), ('["a"]', '"a"'), ('["a"]', '["a", "b"]'),
    ],
)  # fmt: skip
def test_what_is_odd_in_one_respect(old, new):
    usual = line([{"amount": 1}], ["a"])
    odd = usual.replace(json.dumps(old.strip('"'))[1:-1].encode(), json.dumps(new)[1:-1].encode())
    assert odd != usual
    check([(key(), odd + line([USUAL], ["z"]))])


def test_nothing_gives_an_empty_part_of_the_right_types():
    table, about = check([])
    assert table.num_rows == 0 and table.column_names == [*RESERVED, *TYPES] and about["absent"] == list(TYPES)
    assert about["versions"] == {}


@pytest.mark.parametrize("encodings", [("JSON", "JSON"), ("CSV", "CSV")])
def test_a_file_cut_at_each_byte_of_its_last_two_lines_loses_those_at_most_and_says_so(encodings):
    sent = [{"amount": 1.5, "card": "ü"}]
    whole = [line(sent, [f"i{k}"], at=k, encodings=encodings, schema=SCHEMA) for k in range(4)]
    body = b"".join(whole)
    ends = [len(b"".join(whole[: k + 1])) for k in range(4)]
    for size in range(ends[1], len(body) + 1):
        table, about = check([(key(), body[:size])])
        kept = sum(size >= end - 1 for end in ends)
        assert table["__id"].to_pylist() == [f"i{k}" for k in range(kept)] and kept >= 2
        is_cut = size not in {*ends, *(end - 1 for end in ends)}
        assert [entry[1] for entry in about["bad"]] == ([kept + 1] if is_cut else [])
        assert not is_cut or about["bad"][0][2].startswith(captured.CUT)


@pytest.mark.parametrize("cell", [b"0x15", b"nan", b"-inf", b"1e400", b" "])
def test_one_bad_cell_costs_its_line_only(cell):
    good = line([{"amount": 1.5}], encodings=("CSV", "CSV"), schema=SCHEMA)
    bad = good.replace(b'"data": "1.5', b'"data": "' + cell)
    assert bad != good
    for last, kept in ((b"", [1.5]), (line([{"amount": 2}], ["z"]), [1.5, 2.0])):
        table, about = check([(key(), good + bad + last)])
        assert table["amount"].to_pylist() == kept and [entry[1] for entry in about["bad"]] == [2]


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a": ', "}")])
def test_what_nests_too_deep_for_one_reader_is_refused_by_both(opening, closing):
    usual = line([{"amount": 7777}], ["a"])
    deep = usual.replace(b"7777", json.dumps(opening * 1000 + "1" + closing * 1000)[1:-1].encode())
    table, about = check([(key(), deep + usual)])
    assert table.num_rows == 1 and [entry[1:] for entry in about["bad"]] == [[1, "the captured request is no JSON"]]


def test_few_lines_are_read_slowly_because_of_a_bad_cell(monkeypatch):
    rows = [line([{"amount": k + 0.5}], at=k, encodings=("CSV", "CSV"), schema=SCHEMA) for k in range(64)]
    rows[40] = rows[40].replace(b'"data": "40.5', b'"data": "\\u00a040.5')  # right, but not plainly
    slow, read = [], capture.parse_line
    monkeypatch.setattr(capture, "parse_line", lambda *given: slow.append(given) or read(*given))
    table, about = build((key(), b"".join(rows)))
    assert len(slow) == 1 and about["bad"] == []
    assert table["amount"].to_pylist() == [k + 0.5 for k in range(64)]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"5.5", b"NaN"), (b"5.5", b"-Infinity"), (b"5.5", b"-0"), (b"5.5", b"-0.0"), (b"5.5", b"1e400"),
        (b"5.5", b"01"), (b"5.5", b"[5.5]"), (b"5.5", b"null"), (b"5.5", b'\\"5.5\\"'), (b"5.5", b"true"),
        (b"5.5", b"9" * 400), (b"5.5", b"9" * 5000), (b'\\"amount\\": 5.5', b'\\"amount\\": null, \\"amount\\": 5.5'),
        (b'\\"amount\\": 5.5', b'\\"fresh\\": null'), (b'\\"amount\\": 5.5', b'\\"\\\\u0061mount\\": null'),
        (b": 3,", b": 9007199254740993,"), (b": 3,", b": 3.0,"), (b": 3,", b": 2.5,"),
        (b"visa", b"\\ud800"), (b"visa", b"\\udc00\\ud800"), (b"visa", b"\xff"), (b"visa", b"\0"),
        (b"visa", b"\\u0000"), (b"visa", b"\xc3\xbc"), (b"visa", b"\xed\xa0\x80"), (b"visa", b"a\\nb"),
        (b'\\"visa\\"', b"123"), (b"12:00:00Z", b"24:00:00Z"), (b"12:00:00Z", b"12:00:60Z"),
        (b"12:00:00Z", b"13:00:00"),
        (b"12:00:00Z", b"12:00:00.25+01:00"), (b"01-02T", b"02-30T"),
        (b'"eventVersion"', b'"odd": NaN, "eventVersion"'),
        (b'"eventVersion": "0"', b'"eventVersion": 0'), (b'"0"}', b'"0"}{}'), (b'"0"}', b'"0"}\0{}'),
        (b'"0"}', b'"0"} '),
        (b'{"captureData"', b'{}{"captureData"'), (b'{"captureData"', b'\xef\xbb\xbf{"captureData"'),
        (b'"eventId": "e0.0"', b'"eventId": "e0.0", "eventId": "e9"'), (b'"eventId": "e0.0"', b'"eventId": null'),
        (b"], \\\"inference_ids", b", null], \\\"inference_ids"), (b'\\"i50\\"', b"null"), (b'\\"i50\\"', b'\\"\\"'),
        (b'\\"reasons\\": false', b'\\"reasons\\": null'), (b'\\"reasons\\": false', b'\\"source\\": \\"test\\"'),
        (b"0.25", b"1.25"), (b"0.25", b"null"), (b"0.25", b"0.25}, {"), (b'"m1', b'"'), (b'\\"m1\\"', b"7"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("missing", ["none", "sent", "left out"])
def test_one_odd_line_among_many_is_read_as_it_would_be_alone(old, new, missing):
    sent = USUAL | {"isFraud": 0} | ({"flag": None} if missing == "sent" else {})
    sent = {name: value for name, value in sent.items() if missing != "left out" or name != "flag"}
    good = [line([sent], [f"i{k}"]).replace(b"]}", b'], \\"reasons\\": false}', 1) for k in range(100)]
    odd = good[50].replace(old, new)
    assert odd != good[50]
    table, about = check([(key(), b"".join([*good[:50], odd, *good[51:]]))], types=TYPES | {"never": "float"})
    assert about["rows"] >= 99


def test_pandas_is_not_imported():
    """That would take longer than to read an hour of usual traffic, in each process that reads some."""
    odd = USUAL | {"card": 7, "count": 2.5, "flag": "no", "when": "x", "more": [1], "new": 1}
    cells = {name: value for name, value in USUAL.items() if name != "when"}
    body = line([USUAL, {"amount": 1.0}, {"card": None}], ["a", "b", "c"]) + line([USUAL], ["a"]) + line([odd], ["d"])
    body += line([cells], at=1.0, encodings=("CSV", "CSV"), schema=SCHEMA)
    script = """
import sys
from fraud.pipeline import captured, partitions
from fraud.pipeline.live import Conversion
how = Conversion.from_json(sys.argv[1])
table, about = captured.build_part([(sys.argv[2], sys.stdin.buffer.read())], how.types, how.roles, how.schema)
partitions.to_parquet(table)
print(about["rows"], about["duplicates"], "pandas" in sys.modules)
"""
    command = [sys.executable, "-c", script, Conversion(TYPES, ROLES, SCHEMA).to_json(), key()]
    done = subprocess.run(command, input=body, capture_output=True, check=False)
    assert done.stdout.split() == [b"5", b"1", b"False"], done.stderr.decode()


def test_null_is_sent_and_absent_is_not():
    """Of a field that one model version sends as null and another not at all, only the latter lacks it."""
    for nulls in (1, 2):
        sent = [{"amount": 1.0, "card": None}] * nulls + [{"amount": 2.0, "card": "visa"}] * (2 - nulls)
        other = line([{"amount": 3.0}] * 2, ["c", "d"], model_version="m2")
        table, about = check([(key(), line(sent, ["a", "b"]) + other)])
        assert table["card"].null_count == 2 + nulls
        absent = {name: "card" in one["absent"] for name, one in about["versions"].items()}
        assert absent == {"m1": False, "m2": True}


def test_the_benchmark_runs(tmp_path):
    for form in ("json", "csv"):
        command = [sys.executable, str(ROOT / "benchmarks/parse_capture.py"), "--files", "3", "--records", "40",
                   "--rounds", "1", "--batch", "20", "--format", form]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "= 120 rows" in done.stdout
        assert [float(found) > 0 for found in re.findall(r"= (\d+\.\d+)  \(", done.stdout)] == [True, True]
