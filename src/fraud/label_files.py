"""Files of ground truth under ``labels/``: the one way to read them, for training, reports and the drift check alike.

What a file is, its content says and not its name: JSON where it begins with a bracket, else a table. Forms that can be
meant in one way only are read. Of everything else each line is named, so that a file that cannot be read never counts
as one bad line.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from fraud.errors import CaptureFormatError
from fraud.label_records import from_cells, from_json, member_of
from fraud.label_text import Text, read_text
from fraud.labels import GroundTruth, LabelColumns

ENDINGS = ("csv", "tsv", "psv", "json", "jsonl", "ndjson")
SEPARATORS = ",;\t|"
_SAYS = re.compile(r'"?sep=([,;\t|])"?\s*', re.IGNORECASE)  # Excel's first line
_SPACE = re.compile(r"[\s,\[\]]*")  # between the records of an array
# A string that does not end takes the rest, so that no line is looked through more than once.
_TOKEN = re.compile(r"""[{}\[\]]|"(?:[^"\\]|\\.)*(?:"|\\?$)|'(?:[^'\\]|\\.)*(?:'|\\?$)""", re.DOTALL)
_decode = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str).raw_decode
Problem = tuple[int, str]


class LabelFile(NamedTuple):
    """What a file says.

    Attributes
    ----------
    labels : list of GroundTruth
        In the order of the file.
    problems : list of (int, str)
        Line, from 1, and reason of everything that cannot be read.
    refused : str
        Why the file cannot be read at all; empty where its form is understood.
    """

    labels: list[GroundTruth]
    problems: list[Problem]
    refused: str = ""

    @property
    def unread(self) -> str:
        """Reason for which a file of several lines says nothing at all; empty where it says something."""
        if self.labels or not self.problems:
            return ""
        return self.refused or (self.problems[0][1] if len(self.problems) > 1 else "")


def is_delivery(key: str) -> bool:
    """Whether the name of an object promises labels: one without an ending does, a workbook or a note does not.

    Examples
    --------
    >>> [is_delivery(f"labels/{name}") for name in ("a.CSV", "b.jsonl.gz", "part-0", "read me.txt", "c.xlsx", "_done")]
    [True, True, True, False, False, False]
    """
    name = key.rsplit("/", 1)[-1].lower().removesuffix(".gz")
    stem, _, ending = name.rpartition(".")
    return not name.startswith(("_", ".")) and (not stem or ending in ENDINGS)


def read_label_file(body: bytes, key: str, columns: LabelColumns, delivered: float) -> LabelFile:
    """Read one object of ``labels/``.

    Parameters
    ----------
    body : bytes
        JSON records, one a line or as they come, or a table with a header; see docs/labels.md.
    key : str
        Its key.
    columns : LabelColumns
        What the columns of a table are called.
    delivered : float
        When the object came, as S3 lists it (seconds since 1970): the time of a label that has none.
    """
    try:
        text = read_text(body)
    except CaptureFormatError as error:
        return LabelFile([], [(1, str(error))], str(error))
    start = text.text.lstrip()[:1]
    if start and start in "{[":
        return _read_json(text, columns, key, delivered)
    return _read_table(text, columns, key, delivered)


def _read_table(text: Text, columns: LabelColumns, key: str, delivered: float) -> LabelFile:
    lines = [f"{line}\n" for line in text.text.split("\n" if "\n" in text.text else "\r")]
    first = next((at for at, line in enumerate(lines) if line.strip()), None)
    if first is None:
        return LabelFile([], [])
    if said := _SAYS.fullmatch(lines[first]):
        first += 1
    form = _form("".join(lines[first : first + 1]), columns, said[1] if said else SEPARATORS)
    rest = lines[first + 1 :]
    if form.refused:
        named = [at for at, line in enumerate(rest, first + 2) if line.strip()]
        return LabelFile([], [(at, form.refused) for at in named or [first + 1]], form.refused)
    labels: list[GroundTruth] = []
    problems: list[Problem] = []
    for begin, end, row in _rows(rest, form):
        try:
            if (found := _statement(row, form, key, delivered)) is not None:
                labels.append(_believed(found, text))
        except CaptureFormatError as error:
            problems += [(first + 1 + at, str(error)) for at in range(begin, end + 1) if rest[at - 1].strip()]
    return LabelFile(labels, problems)


class _Form(NamedTuple):
    """How a table is written: its separator and quote, its width, and where id, label and time stand."""

    separator: str
    quote: str
    width: int
    places: tuple[int | None, ...] = ()
    refused: str = ""


def _form(header: str, columns: LabelColumns, separators: str) -> _Form:
    """The separator by which the header has all columns; of several, the one that makes the most of them."""
    quote = "'" if header.lstrip().startswith("'") else '"'
    forms = [_form_by(separator, quote, header, columns) for separator in separators]
    return min(forms, key=lambda form: (bool(form.refused), len(form.refused), -form.width))


def _form_by(separator: str, quote: str, header: str, columns: LabelColumns) -> _Form:
    names = next(csv.reader([header.strip("\r\n")], delimiter=separator, quotechar=quote), [])
    names = [name.strip() for name in names]
    found = [member_of(names, name) if name else None for name in columns]
    wrong = [name for name, one in zip(columns, found, strict=True) if name and one is None]
    twice = [one for one in found if one is not None and names.count(one) > 1]
    refused = f"there is no column {', '.join(wrong)}" if wrong else ""
    if twice and not wrong:
        refused = f"there are several columns {twice[0]}"
    places = tuple(None if one is None else names.index(one) for one in found)
    return _Form(separator, quote, len(names), places, refused)


def _rows(lines: Sequence[str], form: _Form) -> Iterator[tuple[int, int, list[str] | None]]:
    """First line, last line and cells of each row; no cells where a quoted field does not end as it should."""
    reader = csv.reader(lines, delimiter=form.separator, quotechar=form.quote, strict=True)
    while True:
        begin = reader.line_num + 1
        row: list[str] | None = None
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            pass  # the reader goes on with the next line
        yield begin, max(begin, reader.line_num), row


def _statement(row: list[str] | None, form: _Form, key: str, delivered: float) -> GroundTruth | None:
    if row is None:
        raise CaptureFormatError("a quoted field does not end as it should")
    if not any(cell.strip() for cell in row):
        return None
    while len(row) > form.width and not row[-1].strip():
        row = row[:-1]  # a separator at the end of each row
    if len(row) != form.width:
        raise CaptureFormatError("the row has another number of fields than the header")
    own, label, time = (None if place is None else row[place] for place in form.places)
    return from_cells(own or "", label, time or "", key, delivered)


def _read_json(text: Text, columns: LabelColumns, key: str, delivered: float) -> LabelFile:
    labels: list[GroundTruth] = []
    problems: list[Problem] = []
    for line, record in _records(text.text):
        if isinstance(record, _Broken):
            problems += [(line, "the record is no JSON")] * record.n
            continue
        for item in _inside(record, columns):
            try:
                if (found := from_json(item, columns, key, delivered)) is not None:
                    labels.append(_believed(found, text))
            except CaptureFormatError as error:
                problems.append((line, str(error)))
    return LabelFile(labels, problems)


def _records(text: str) -> Iterator[tuple[int, object]]:
    """Line and value of each record: one a line, several in one, over several, or the items of an array."""
    at, line, any_ = 0, 1, False
    tried = 0  # as far as a record over several lines was looked for in vain: so nothing is looked through twice
    while True:
        begin, at = at, _SPACE.match(text, at).end()  # type: ignore[union-attr]  # it matches nothing, too
        line += text.count("\n", begin, at)
        if at == len(text):
            break
        any_ = True
        try:
            record, end = _decode(text, at) if at >= tried else _decode_line(text, at)
        except (ValueError, RecursionError) as error:
            tried = max(tried, getattr(error, "pos", len(text)))
            count, end = _broken(text, at)
            record = _Broken(count)
        yield line, record
        line += text.count("\n", at, end)
        at = end
    if not any_ and "".join(text.split()) != "[]":
        yield 1, _Broken(1)


def _decode_line(text: str, at: int) -> tuple[object, int]:
    last = text.find("\n", at)
    record, end = _decode(text[at : len(text) if last < 0 else last])
    return record, at + end


class _Broken(NamedTuple):
    """Records that are no JSON."""

    n: int


def _broken(text: str, at: int) -> tuple[int, int]:
    """How many records stand in what is no JSON, and where it ends: with its bracket, or with the line.

    A list of records that some program printed, as Python does with its dictionaries, is as many as it holds.
    """
    last = text.find("\n", at)
    last = len(text) if last < 0 else last
    if text[at] != "{":
        following = text.find("{", at, last)
        return 1, last if following < 0 else following
    open_: list[str] = []
    inner = 0
    for token in _TOKEN.finditer(text, at, last):
        if token[0] in "{[":
            inner += token[0] == "{" and open_[-1:] == ["["]
            open_.append(token[0])
        elif token[0] in "}]":
            open_.pop()
            if not open_:
                return max(inner, 1), token.end()
    return max(inner, 1), last


def _inside(record: object, columns: LabelColumns) -> Sequence[object]:
    """The record, or those that it wraps, as ``{"labels": [...]}`` does."""
    if isinstance(record, dict) and "groundTruthData" not in record and member_of(record, columns.id) is None:
        lists = [one for one in record.values() if isinstance(one, list) and one and all(type(x) is dict for x in one)]
        if len(lists) == 1:
            return lists[0]
    return [record]


def _believed(found: GroundTruth, text: Text) -> GroundTruth:
    """A statement whose id can be read in one way only."""
    if text.guessed and not found.inference_id.isascii():
        raise CaptureFormatError("the file is no UTF-8, so its id can be read in more than one way")
    return found
