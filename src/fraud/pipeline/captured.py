"""Capture objects to one part of the ledger.

`fraud.capture` says what a captured line means. The usual lines are read by a shorter way here that gives the same
rows: JSON as our own endpoint has it captured, and CSV without quotes, of which many payloads are parsed at once.
Lines that cannot be read are told with number and reason.
"""

from __future__ import annotations

import base64
import datetime as dt
import io
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv

from fraud import capture
from fraud.errors import CaptureFormatError
from fraud.payload import BASE64, CSV, JSON, form_of
from fraud.pipeline import captured_columns as columns
from fraud.pipeline.captured_columns import Batch
from fraud.pipeline.roles import RESERVED, Roles
from fraud.schema import BOOLEAN, NUMBER, Schema

try:
    from orjson import loads
except ImportError:  # slower, the same
    from json import loads

ROWS = 4096  # of a batch: its dicts stay in the processor's cache
CSV_LINES = 1024
CUT = "the file ends in the middle of a line: "
_PLAIN_NUMBER = re.compile(r"-?\d{1,300}(\.\d+)?([eE][+-]?\d{1,2})?", re.ASCII)
_SCORE = itemgetter("fraud_probability")


def build_part(
    objects: Iterable[tuple[str, bytes]], types: Mapping[str, str], roles: Roles, schema: Schema | None = None
) -> tuple[pa.Table, dict[str, Any]]:
    """Make the ledger's frame of some capture objects.

    Parameters
    ----------
    objects : iterable of (str, bytes)
        Key and body, in the order of the keys. The variant comes from the key.
    types : mapping of str to str
        The history's columns and their types, which live values follow.
    roles : Roles
        Columns that are not repeated under their own names.
    schema : Schema, optional
        Names the values of requests that do not, CSV above all.

    Returns
    -------
    part : pyarrow.Table
        The reserved columns, the history's, then new ones; null where a transaction has none. Rows in the order of
        key, line and place in the line; of each id the earliest, and of several at one moment the first.
    about : dict
        ``rows``; ``lines`` that are not blank; ``bad`` lines as ``[key, line, reason]``, line 0 for a whole object;
        ``duplicates``; ``tagged`` rows left out, per tag, and requests that were ``refused``; ``foreign`` rows left
        out because they have none of the history's columns; ``retyped`` values per column; ``absent`` and ``new``
        columns; the ``profile``; and per model version ``versions``: its ``rows``, the ``absent`` columns that none of
        them sent, ``retyped`` values.
    """
    reader = _Reader(types, {*roles.consumed, *RESERVED}, schema)
    for key, body in objects:
        reader.read(key, body)
    return reader.finish()


@dataclass
class _Line:
    """What one captured line says beside its transactions."""

    time: float
    model: str
    ids: Sequence[str]
    scores: Sequence[float | None]
    variant: str


Where = tuple[int, int, bool, bytes, str]
"""A line that may have to be read again: place of its key, number, whether it is the last one, bytes, variant."""


class _Csv(NamedTuple):
    """A CSV payload that waits to be parsed with others."""

    said: _Line
    rows: int
    text: str
    where: Where


@dataclass
class _Reader:
    types: Mapping[str, str]
    consumed: set[str]
    schema: Schema | None
    keys: list[str] = field(default_factory=list)
    lines: int = 0
    bad: list[tuple[int, int, str]] = field(default_factory=list)  # place of the key, line, reason
    tagged: Counter[str] = field(default_factory=Counter)
    batches: list[Batch] = field(default_factory=list)
    said: list[_Line] = field(default_factory=list)
    ids: list[pa.Array] = field(default_factory=list)
    scores: list[pa.Array] = field(default_factory=list)
    times: list[np.ndarray] = field(default_factory=list)
    models: list[np.ndarray] = field(default_factory=list)
    variants: list[np.ndarray] = field(default_factory=list)
    codes: dict[str, int] = field(default_factory=dict)  # of model versions and variants
    # What waits to become a batch: transactions, or texts of CSV with what is needed to read them line by line.
    waiting: list[dict[str, Any]] = field(default_factory=list)
    texts: list[_Csv] = field(default_factory=list)

    def read(self, key: str, body: bytes) -> None:
        """Take one object."""
        self.keys.append(key)
        try:
            variant = capture.variant_of_key(key)
        except CaptureFormatError as error:
            self.bad.append((len(self.keys) - 1, 0, str(error)))
            return
        for number, line in enumerate(io.BytesIO(body), 1):
            if line.strip():
                self.lines += 1
                # A whole file ends with a line break: what follows the last one was cut off.
                cut, line = line[-1:] != b"\n", line.removesuffix(b"\n")
                where = (len(self.keys) - 1, number, cut, line, variant)
                if not self._read_quickly(line, variant, where):
                    self._flush_csv()
                    self._read_slowly(where)

    def _read_slowly(self, where: Where) -> None:
        place, number, last, line, variant = where
        try:
            records = capture.parse_line(line, variant, self.schema)
        except CaptureFormatError as error:
            self.bad.append((place, number, f"{CUT if last else ''}{error}"))
            return
        live, dropped = capture.only_live(records)
        self.tagged += dropped
        if live:
            scores = [record.fraud_probability for record in live]
            ids = [record.inference_id for record in live]
            self._take(
                _Line(live[0].time, live[0].model_version, ids, scores, variant), [one.transaction for one in live]
            )

    def _read_quickly(self, line: bytes, variant: str, where: Where) -> bool:
        """Take a line of the usual kind; False, with nothing taken, leaves it to `fraud.capture`."""
        if len(line) > capture.MAX_LINE:
            return False
        try:
            document = loads(line)
            data, about = document["captureData"], document["eventMetadata"]
            event, sent, answered = about["eventId"], data["endpointInput"], data.get("endpointOutput")
            if document["eventVersion"] != "0" or type(event) is not str or not event or type(sent) is not dict:
                return False
            when = dt.datetime.fromisoformat(about["inferenceTime"])
            tag, version = capture.LIVE, ""
            if "customAttributes" in about:
                tag, version = capture.read_attributes(about["customAttributes"])
            text, form = _payload(sent)
            if tag != capture.LIVE or when.tzinfo is None:
                return False
            transactions: list[dict[str, Any]] = []
            ids: Any
            if form == JSON:
                request = loads(text)
                transactions, ids = request["transactions"], request["inference_ids"]
                rows = len(transactions)
                # Braces are counted so that no value is a list or an object: the readers differ in how deep they go.
                brace, bracket = ("{", "[") if type(text) is str else (b"{", b"[")
                if (
                    "source" in request
                    or type(transactions) is not list
                    or type(ids) is not list
                    or not len(ids) == rows > 0
                    or text.count(brace) != rows + 1
                    or text.count(bracket) != 2
                    or set(map(type, transactions)) != {dict}
                    or set(map(type, ids)) != {str}
                    or not all(ids)
                ):
                    return False
            else:
                text = text if type(text) is str else text.decode()
                if self.schema is None or form != CSV or not (rows := _csv_rows(text)):
                    return False
                alone = about.get("inferenceId")
                ids = [f"{event}/{k}" for k in range(rows)]
                if rows == 1 and type(alone) is str and alone:
                    ids = [alone]
            scores: Sequence[float | None] = [None] * rows
            if answered is not None:
                found = _scores(answered, rows)
                if found is None:
                    return False
                scores, version = found[0], found[1] or version
            time = when.timestamp()
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            return False
        said = _Line(time, version, ids, scores, variant)
        if form == JSON:
            self._take(said, transactions)
        else:
            self.texts.append(_Csv(said, rows, text, where))
            if len(self.texts) >= CSV_LINES:
                self._flush_csv()
        return True

    def _take(self, said: _Line, transactions: list[dict[str, Any]]) -> None:
        if self.texts:
            self._flush_csv()
        self.said.append(said)
        self.waiting += transactions
        if len(self.waiting) >= ROWS:
            self._flush()

    def _flush(self) -> None:
        if self.waiting:
            said, self.said = self.said, []
            self._keep(columns.of_objects(self.waiting, self.types, self.consumed), said)
            self.waiting = []

    def _flush_csv(self) -> None:
        texts, self.texts = self.texts, []
        if texts:
            self._keep_csv(texts)

    def _keep_csv(self, texts: list[_Csv], checked: bool = False) -> None:
        assert self.schema is not None
        schema = self.schema
        table = _read_csv([one.text for one in texts], schema)
        if table is not None and table.num_rows == sum(one.rows for one in texts):
            self._flush()
            self._keep(columns.of_table(table, self.types, self.consumed), [one.said for one in texts])
        elif len(texts) == 1:
            self._read_slowly(texts[0].where)
        elif checked:
            half = len(texts) // 2
            self._keep_csv(texts[:half], checked)
            self._keep_csv(texts[half:], checked)
        else:  # cells that are not as they should be must not slow all others down
            for plain, run in itertools.groupby(texts, lambda one: _is_plain(one.text, schema)):
                if plain:
                    self._keep_csv(list(run), checked=True)
                else:
                    for one in run:
                        self._read_slowly(one.where)

    def _keep(self, batch: Batch, said: list[_Line]) -> None:
        counts = [len(one.ids) for one in said]
        self.batches.append(batch)
        self.ids.append(columns.arrow([name for one in said for name in one.ids], "text"))
        self.scores.append(columns.arrow([score for one in said for score in one.scores], "float"))
        self.times.append(np.repeat(np.array([one.time for one in said], np.float64), counts))
        for kept, texts in ((self.models, [one.model for one in said]), (self.variants, [one.variant for one in said])):
            codes = [self.codes.setdefault(text, len(self.codes)) for text in texts]
            kept.append(np.repeat(np.array(codes, np.int32), counts))

    def finish(self) -> tuple[pa.Table, dict[str, Any]]:
        """Put the batches together."""
        self._flush_csv()  # first: what it cannot parse at once is read line by line, and waits again
        self._flush()
        ids, scores = pa.chunked_array(self.ids, pa.string()), pa.chunked_array(self.scores, pa.float64())
        times, models, variants = (
            np.concatenate([np.zeros(0, kind), *pieces])
            for kind, pieces in ((np.float64, self.times), (np.int32, self.models), (np.int32, self.variants))
        )
        known = np.zeros(len(ids), bool) if self.types else np.ones(len(ids), bool)
        everyone = np.arange(len(ids))
        for name in self.types:
            if known.all():
                break
            sent = columns.sent_rows(self.batches, name, everyone)
            known |= True if sent is None else sent
        kept = columns.first_of_each(ids, times, known)
        texts = pl.Series(list(self.codes), dtype=pl.String)
        part = {
            "__id": columns.pick(ids, kept),
            "__time": columns.arrow(times[kept], "float"),
            "__label": pa.nulls(len(kept), pa.int8()),
            "__score": columns.pick(scores, kept),
            "__model": columns.arrow(texts.gather(models[kept]), "text"),
            "__variant": columns.arrow(texts.gather(variants[kept]), "text"),
        }
        models = models[kept]
        used = [code for code in np.unique(models).tolist()]
        versions = {list(self.codes)[code]: {"rows": 0, "absent": [], "retyped": 0} for code in used}
        by_code = dict(zip(used, versions.values(), strict=True))
        for code, rows in zip(*np.unique(models, return_counts=True), strict=True):
            by_code[int(code)]["rows"] = int(rows)
        fresh = sorted({name for batch in self.batches for name in batch.columns} - self.types.keys())
        retyped: dict[str, int] = {}
        absent: list[str] = []
        new: list[str] = []
        for name in [*self.types, *fresh]:
            sent = columns.sent_rows(self.batches, name, kept)
            if name in self.types:
                seen = used if sent is None else np.flatnonzero(np.bincount(models[sent])).tolist()
                for code in set(used).difference(seen):
                    by_code[code]["absent"].append(name)
                absent += [] if sent is None or sent.any() else [name]
            elif sent is None or sent.any():
                new.append(name)
            else:
                continue
            part[name], changed = columns.gather(self.batches, name, self.types.get(name), kept)
            if len(changed):
                retyped[name] = len(changed)
            for code in models[changed].tolist():
                by_code[code]["retyped"] += 1
        table = pa.table(part).combine_chunks()
        about = {
            "rows": len(kept),
            "lines": self.lines,
            "bad": [[self.keys[place], line, reason] for place, line, reason in sorted(self.bad)],
            "duplicates": int(known.sum()) - len(kept),
            "tagged": dict(sorted(self.tagged.items())),
            "foreign": int((~known).sum()),
            "retyped": retyped,
            "absent": absent,
            "new": new,
            "profile": columns.profile_of(table),
            "versions": dict(sorted(versions.items())),
        }
        return table, about


def _payload(side: dict[str, Any]) -> tuple[str | bytes, str]:
    """Text of one side and its form; empty form for what is not usual."""
    data, encoding = side["data"], side["encoding"]
    form, header = form_of(side["observedContentType"], encoding)
    if type(data) is not str or header or encoding not in (JSON, CSV, BASE64):
        return "", ""
    return (base64.b64decode(data, validate=True) if encoding == BASE64 else data), form


def _scores(side: dict[str, Any], rows: int) -> tuple[list[float], str] | None:
    """Scores and model version of a usual answer."""
    text, form = _payload(side)
    version: Any = ""
    if form == JSON:
        answer = loads(text)
        predictions, version = answer["predictions"], answer.get("model_version")
        if type(predictions) is not list:
            return None
        scores = list(map(_SCORE, predictions))
    elif form == CSV:
        scores = list(map(float, (text if type(text) is str else text.decode()).replace(",", " ").split()))
    else:
        return None
    if len(scores) != rows or not set(map(type, scores)) <= {float, int} or not math.isfinite(sum(scores)):
        return None
    if not (min(scores) >= 0 and max(scores) <= 1):
        return None
    return scores, version if type(version) is str else ""


def _csv_rows(text: str) -> int:
    """Rows of a CSV in which every line break ends a row; 0 when it may be otherwise."""
    if not text or text[0] == "\n" or "\n\n" in text or any(mark in text for mark in '"\r\0\ufeff'):
        return 0
    return text.count("\n") + (text[-1] != "\n")


def _is_plain(text: str, schema: Schema) -> bool:
    """Whether Arrow will take all cells of a payload; a guess, which spares those beside it."""
    for row in text.removesuffix("\n").split("\n"):
        cells = row.split(",")
        if len(cells) != len(schema.features):
            return False
        for cell, feature in zip(cells, schema.features, strict=True):
            if cell and feature.type == NUMBER and not _PLAIN_NUMBER.fullmatch(cell):
                return False
            if cell and feature.type == BOOLEAN and cell.strip().lower() not in columns.TRUTHS:
                return False
    return True


def _read_csv(texts: list[str], schema: Schema) -> pa.Table | None:
    """Parse many CSV payloads at once; None when a cell is not plainly what the schema says."""
    joined = "\n".join(text.removesuffix("\n") for text in texts).encode()
    numbers = [feature.name for feature in schema.features if feature.type == NUMBER]
    kinds = {name: pa.string() for name in schema.names} | {name: pa.float64() for name in numbers}
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(joined),
            pyarrow.csv.ReadOptions(column_names=schema.names, block_size=1 << 20),
            pyarrow.csv.ParseOptions(quote_char=False),
            pyarrow.csv.ConvertOptions(column_types=kinds, null_values=[""], strings_can_be_null=True),
        )
    except pa.ArrowInvalid:
        return None
    for name in numbers:
        if not columns.all_finite(table[name]):
            return None
    for place, feature in enumerate(schema.features):
        if feature.type == BOOLEAN:
            coded = table[feature.name].combine_chunks().dictionary_encode()
            truths = [columns.TRUTHS.get(text.strip().lower()) for text in coded.dictionary.to_pylist()]
            if None in truths:
                return None
            values = columns.arrow(truths, "bool").take(coded.indices)
            table = table.set_column(place, feature.name, values)
    return table
