"""Read a delivered table (CSV, CSV.gz, Parquet) in batches of bounded size, typed by its whole columns.

A type is one of ``int``, ``float``, ``bool``, ``text``, ``time``. A CSV is read once with the types of its first block;
if a later row does not fit, all rows are looked at before it is read again. What cannot be read is refused with file,
column and row; a row counts from 1 below the header, a line from 1 at the header.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from fraud.errors import DataError
from fraud.pipeline.columns import (
    ARROW,
    FALSE,
    MISSING_NUMBER,
    MOSTLY,
    NUMBERS,
    TRUE,
    Tally,
    cast,
    count_numbers,
    describe,
    natural,
)

ENDINGS = (".csv", ".csv.gz", ".parquet")
BLOCK = 1 << 20  # bytes of CSV a step; larger blocks cost memory and gain no time
ROWS = 65_536  # rows of Parquet a step


@dataclass
class Table:
    """One delivered file.

    Attributes
    ----------
    path : Path
        Where it lies on this machine.
    name : str
        How messages call it.
    columns : tuple of str
        Its header.
    types : dict of str to str
        Type of each column; of a CSV known once it was read.
    notes : list of str
        What a person should know of it.
    """

    path: Path
    name: str
    columns: tuple[str, ...] = ()
    types: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.name.endswith(ENDINGS):
            raise DataError(f"{self.name}: the name must end in {', '.join(ENDINGS)}.")
        if not self.path.is_file():
            raise DataError(f"{self.name}: there is no such file.")
        if self.path.stat().st_size == 0:
            raise DataError(f"{self.name} is empty (0 bytes).")
        with self._guard():
            self.columns = self._parquet_columns() if self.is_parquet else self._header()

    @property
    def is_parquet(self) -> bool:
        """Whether it is Parquet."""
        return self.name.endswith(".parquet")

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Turn what the readers say of a damaged file into one sentence."""
        kind = "Parquet" if self.is_parquet else "gzip" if self.name.endswith(".gz") else "CSV"
        try:
            yield
        except UnicodeDecodeError:
            self._diagnose()
            raise
        except csv.Error as error:
            raise DataError(f"{self.name}: the header cannot be read as CSV ({error}).") from error
        except (EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowInvalid, OSError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            if not self.is_parquet:
                self._diagnose()
            raise DataError(f"{self.name} is damaged or truncated {kind}: deliver it again.") from error

    # structure

    def _bytes(self) -> Any:
        return gzip.open(self.path) if self.name.endswith(".gz") else self.path.open("rb")

    def _header(self) -> tuple[str, ...]:
        with self._bytes() as file:
            start = file.read(4)
            if start.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise DataError(f"{self.name}, line 1: the text is UTF-16; save it as UTF-8.")
        with self._bytes() as file:
            lines = (line.decode("utf-8-sig" if at == 0 else "utf-8") for at, line in enumerate(file))
            header = next(csv.reader(lines), [])
        if not header:
            raise DataError(f"{self.name}, line 1: there is no header.")
        if len(header) == 1 and (other := next((mark for mark in ";\t|" if mark in header[0]), "")):
            raise DataError(f"{self.name}, line 1: the columns are separated by {other!r}; they must be by commas.")
        return tuple(header)

    def _diagnose(self) -> None:
        """Find the line that makes a CSV unreadable; slow, for files that are known to be bad."""
        at, row, wanted = 0, [], 0

        def lines() -> Iterator[str]:
            nonlocal at
            with self._bytes() as file:
                for at, line in enumerate(file, 1):
                    yield line.decode("utf-8-sig" if at == 1 else "utf-8")

        rows, short = csv.reader(lines(), strict=True), ""
        try:
            for row in rows:
                if short:
                    break
                wanted = wanted or len(row)
                if row and len(row) != wanted:
                    short = f"line {at} has {len(row)} field{'s' * (len(row) > 1)}, but the header has {wanted}"
            else:
                if short and len(row) < wanted:
                    short += "; it is the last line, so the file was cut short"
        except UnicodeDecodeError:
            raise DataError(f"{self.name}, line {at}: the text is not UTF-8.") from None
        except csv.Error as error:
            raise DataError(f"{self.name}, line {at}: a quoted field does not end as it should ({error}).") from None
        except (EOFError, zlib.error, OSError):
            raise DataError(f"{self.name} is truncated gzip, readable up to line {at}: deliver it again.") from None
        if short:
            raise DataError(f"{self.name}: {short}.")

    def _parquet_columns(self) -> tuple[str, ...]:
        schema = pq.ParquetFile(self.path).schema_arrow
        kept = [item for item in schema if not re.fullmatch(r"__index_level_\d+__", item.name)]
        self.types = {item.name: natural(item.type) for item in kept}
        return tuple(item.name for item in kept)

    def binary(self) -> list[str]:
        """Columns that hold only 0 and 1 in the first block, both of them."""
        with self._guard(), contextlib.closing(self._raw()) as raw:
            first = next(raw, None)
        if first is None:
            return []
        frame = pl.from_arrow(pa.Table.from_batches([first]))
        assert isinstance(frame, pl.DataFrame)
        found = []
        for item in frame:
            if item.dtype in (pl.String, pl.Boolean) or item.dtype.is_integer() or item.dtype.is_float():
                seen = set(item.cast(pl.String).drop_nulls().unique().head(3).to_list())
                if len(seen) == 2 and seen in ({"0", "1"}, {"0.0", "1.0"}, {"true", "false"}):
                    found.append(item.name)
        return found

    # content

    def _raw(self, types: Mapping[str, str] | None = None, only: Iterable[str] = ()) -> Iterator[pa.RecordBatch]:
        """Batches as they come: a CSV as text, or as ``types`` say."""
        if self.is_parquet:
            with pq.ParquetFile(self.path) as file:
                yield from file.iter_batches(ROWS, columns=list(only) or list(self.columns))
            return
        wanted = types or dict.fromkeys(self.columns, "text")
        packed = "gzip" if self.name.endswith(".gz") else None
        with pa.input_stream(str(self.path), compression=packed) as source:
            tap = _Tap(source)
            reader = pacsv.open_csv(
                pa.PythonFile(tap, "r"),
                read_options=pacsv.ReadOptions(block_size=BLOCK),
                parse_options=pacsv.ParseOptions(newlines_in_values=True),
                convert_options=pacsv.ConvertOptions(
                    column_types={name: ARROW[kind] for name, kind in wanted.items()},
                    include_columns=list(only) or None,
                    null_values=MISSING_NUMBER,
                    true_values=TRUE,
                    false_values=FALSE,
                    strings_can_be_null=False,
                    quoted_strings_can_be_null=True,
                ),
            )
            yield from reader
        if tap.quotes % 2:  # the reader takes the end of the file for the closing quote
            self._diagnose()
        if tap.last not in (b"\n", b"\r"):
            note = f"{self.name}: the last line does not end; if it was cut, its last value is wrong."
            self.notes += [note] * (note not in self.notes)

    def column(self, name: str) -> Iterator[pl.Series]:
        """One column, some rows at a time: of a CSV as text, of Parquet as it is."""
        with self._guard():
            for batch in self._raw(only=[name]):
                yield pl.Series(name, pl.from_arrow(batch.column(0)))

    def count(self) -> int:
        """Rows, without typing them."""
        if self.is_parquet:
            with self._guard(), pq.ParquetFile(self.path) as file:
                return int(file.metadata.num_rows)
        return sum(map(len, self.column(self.columns[0])))

    def chunks(
        self,
        rows: int,
        as_text: Iterable[str] = (),
        numeric: Iterable[str] = (),
        lenient: Iterable[str] = (),
        known: Mapping[str, str] | None = None,
    ) -> Iterator[pa.Table | None]:
        """Read all rows, typed. A ``None`` says: forget what came before, it was read with types that do not hold.

        Parameters
        ----------
        rows : int
            Rows of each chunk; the last may have fewer.
        as_text : iterable of str
            Columns that a CSV gives as text whatever they hold.
        numeric : iterable of str
            Columns that must be numbers.
        lenient : iterable of str
            Columns that may mix numbers and text.
        known : mapping of str to str, optional
            Types that the columns have elsewhere in the history.

        Raises
        ------
        DataError
            When the file is damaged, or a value is no number where the others are.
        """
        rules = (set(as_text), set(numeric), set(lenient), dict(known or {}))
        with self._guard():
            if self.is_parquet:
                self._check_parquet(*rules[1:])
                for chunk in _cut(self._raw(), rows):
                    yield cast(chunk, self.types)
                return
            self.types = self._learn(*rules, whole=False)
            texts = {name: Tally() for name, kind in self.types.items() if kind == "text" and name not in rules[0]}
            try:
                for chunk in _cut(self._raw(self.types), rows):
                    count_numbers(chunk, texts)
                    yield cast(chunk, self.types)
                fits = all(tally.numbers < MOSTLY * tally.values or not tally.values for tally in texts.values())
            except pa.ArrowInvalid as error:
                if "conversion error" not in str(error):
                    raise
                fits = False
            if not fits:
                self.types = self._learn(*rules, whole=True)
                yield None
                for chunk in _cut(self._raw(self.types), rows):
                    yield cast(chunk, self.types)

    def _learn(
        self, as_text: set[str], numeric: set[str], lenient: set[str], known: dict[str, str], whole: bool
    ) -> dict[str, str]:
        """Types of a CSV's columns from its first block or from the ``whole`` of it."""
        tallies, offset = {name: Tally() for name in self.columns if name not in as_text}, 0
        with contextlib.closing(self._raw()) as raw:
            for batch in raw:
                frame = pl.from_arrow(pa.Table.from_batches([batch]))
                for name, tally in tallies.items():
                    tally.add(frame[name], offset)
                offset += batch.num_rows
                if not whole:
                    break
        types = dict.fromkeys(self.columns, "text")
        for name, tally in tallies.items():
            before, kind = known.get(name, ""), tally.type
            must = name in numeric or (before in NUMBERS and name not in lenient)
            mostly = tally.values and tally.numbers >= MOSTLY * tally.values and name not in lenient
            if kind == "text" and (must or mostly) and before != "text":
                where = f'{self.name}: column "{name}", row {tally.bad_row}: {describe(tally.bad)}'
                if before in NUMBERS:
                    raise DataError(f"{where}, but the history before it has numbers there.")
                if name in numeric:
                    raise DataError(f"{where}, but the amount must be a number.")
                if whole:
                    share = min(tally.numbers / tally.values, 0.999)
                    raise DataError(
                        f"{where}, where {share:.1%} of the values are numbers; mend it, or exclude the column."
                    )
            types[name] = "text" if before == "text" else kind
        return types

    def _check_parquet(self, numeric: set[str], lenient: set[str], known: dict[str, str]) -> None:
        for name in self.columns:
            kind, before = self.types[name], known.get(name, "")
            if not kind and name not in lenient:
                kind = str(pq.ParquetFile(self.path).schema_arrow.field(name).type)
                raise DataError(f'{self.name}: column "{name}" holds {kind} values, no feature; exclude the column.')
            if before == "text" or not kind:
                self.types[name] = "text"
            elif (name in numeric and kind not in NUMBERS) or (before in NUMBERS and kind not in NUMBERS):
                if name not in lenient:
                    said = "the amount must be a number" if name in numeric else "the history before it has numbers"
                    raise DataError(f'{self.name}: column "{name}" holds {kind} from row 1 on, but {said}.')


class _Tap:
    """A stream that counts what a CSV reader does not tell: quotes, and how the last line ends."""

    def __init__(self, source: Any) -> None:
        self.source, self.quotes, self.last, self.closed = source, 0, b"", False

    def read(self, size: int = -1) -> bytes:
        data: bytes = self.source.read(size)
        self.quotes += data.count(b'"')
        self.last = data[-1:] or self.last
        return data


def _cut(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Cut batches anew to exactly ``rows`` rows, whatever their own size."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += batch.num_rows
        while count >= rows:
            whole = pa.Table.from_batches(waiting)
            yield whole.slice(0, rows)
            waiting, count = whole.slice(rows).to_batches(), count - rows
    if count:
        yield pa.Table.from_batches(waiting)
