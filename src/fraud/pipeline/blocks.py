"""Blocks of a report that are the same in a notebook, in HTML without pictures and as plain text.

A block knows two forms of itself: ``_repr_html_``, which notebooks show, with everything escaped; and ``text``, which
stands in the plain-text twin and in the e-mail.
"""

from __future__ import annotations

import html
import itertools
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

COLUMNS = 76  # of the plain text, as mail has it
KEPT = "\N{NO-BREAK SPACE}%"  # a per cent sign that stays beside its number while lines are broken


class Block(Protocol):
    """What a report is made of."""

    def _repr_html_(self) -> str: ...

    def text(self) -> str:
        """As plain text."""


def escaped(text: str) -> str:
    """Text as HTML, its direction kept to itself, a per cent sign beside its number.

    Examples
    --------
    >>> escaped("<b>"), escaped("6.7 % of it")
    ('<bdi>&lt;b&gt;</bdi>', '6.7&nbsp;% of it')
    """
    made = html.escape(text).replace(" %", "&nbsp;%")
    return f"<bdi>{made}</bdi>" if not text.isascii() or "<" in text else made


def with_code(text: str) -> str:
    """Prose as HTML: what stands between backticks is typed.

    Examples
    --------
    >>> with_code("type `fraud run`")
    'type <code>fraud run</code>'
    """
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped(text))


def wrapped(text: str, indent: str = "", first: str | None = None) -> str:
    """Text in lines of at most 76 characters; a per cent sign stays beside its number."""
    start = indent if first is None else first
    kept = text.replace(" %", KEPT)
    lines = textwrap.fill(
        kept, COLUMNS, initial_indent=start, subsequent_indent=indent, break_long_words=True, break_on_hyphens=False
    )
    return lines.replace(KEPT, " %")


def narrowed(rows: Sequence[Sequence[str]]) -> list[int]:
    """Widths of columns that fit into a line: the widest gives way, but no word is parted."""
    cells = list(zip(*rows, strict=True))
    widths = [max(map(len, column)) for column in cells]
    least = [max((len(word) for cell in column for word in cell.split(" ")), default=0) for column in cells]
    while sum(widths) + 2 * len(widths) > COLUMNS:
        widest = max(range(len(widths)), key=lambda k: widths[k] if widths[k] > least[k] else -1)
        if widths[widest] <= least[widest]:
            break
        widths[widest] -= 1
    return widths


@dataclass(frozen=True)
class Prose:
    """Sentences, one a paragraph; with ``bullets`` one an item.

    Attributes
    ----------
    sentences : sequence of str
        Plain text.
    strong : int
        How many of them, from the first, stand out.
    bullets : bool
    """

    sentences: Sequence[str]
    strong: int = 0
    bullets: bool = False

    def _repr_html_(self) -> str:
        shown = [with_code(sentence) for sentence in self.sentences]
        shown = [f"<strong>{one}</strong>" if k < self.strong else one for k, one in enumerate(shown)]
        if self.bullets:
            return f"<ul class='tex2jax_ignore'>{''.join(f'<li>{one}</li>' for one in shown)}</ul>"
        return "".join(f"<p class='tex2jax_ignore'>{one}</p>" for one in shown)

    def text(self) -> str:
        """As plain text."""
        return "\n".join(wrapped(one, "  ", "* ") if self.bullets else wrapped(one) for one in self.sentences)


@dataclass(frozen=True)
class Badge:
    """The verdict, and the sentence that says it.

    Attributes
    ----------
    name : str
        ``DRIFT`` and the like.
    sentence : str
        In words.
    """

    name: str
    sentence: str

    def _repr_html_(self) -> str:
        kind = "".join(c for c in self.name.lower() if c.isalnum() or c == "_")
        name = html.escape(self.name.replace("_", " "))
        return f"<p class='verdict {kind} tex2jax_ignore'><strong>{name}</strong><br>{escaped(self.sentence)}</p>"

    def text(self) -> str:
        """As plain text."""
        return wrapped(f"{self.name.replace('_', ' ')}: {self.sentence}")


@dataclass(frozen=True)
class Table:
    """Rows that are text already.

    Attributes
    ----------
    columns : sequence of str
        Heads.
    rows : sequence of sequence of str
        As many cells as heads; the first names the row.
    marked : sequence of bool
        Rows over a threshold; red, and with an exclamation mark in plain text.
    left : sequence of int
        Columns beside the first that are text, and so stand left.
    bars : sequence of int
        Columns with bars, left too, whose cells stay on one line.
    note : str
        Below the table: what is not shown, what a column means.
    empty : str
        Stands in place of a table without rows.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: Sequence[bool] = ()
    left: Sequence[int] = ()
    bars: Sequence[int] = ()
    note: str = ""
    empty: str = "Nothing to show."

    def _repr_html_(self) -> str:
        if not self.rows:
            return f"<p class='tex2jax_ignore'>{escaped(self.empty)}</p>"
        kinds = ["l bar" if k in self.bars else "l" if self.is_left(k) else "" for k in range(len(self.columns))]
        head = "".join(
            f"<th{_class(kind)} scope='col'>{html.escape(name)}</th>"
            for name, kind in zip(self.columns, kinds, strict=True)
        )
        lines = []
        for k, row in enumerate(self.rows):
            cells = "".join(f"<td{_class(kind)}>{escaped(cell)}</td>" for cell, kind in zip(row, kinds, strict=True))
            lines.append(f"<tr{_class('over' if self._marks(k) else '')}>{cells}</tr>")
        body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody>"
        note = f"<p class='note tex2jax_ignore'>{escaped(self.note)}</p>" if self.note else ""
        return f"<table class='tex2jax_ignore'>{body}</table>{note}"

    def is_left(self, k: int) -> bool:
        """Whether a column's cells stand left."""
        return k == 0 or k in self.left or k in self.bars

    def _marks(self, k: int) -> bool:
        return k < len(self.marked) and self.marked[k]

    def text(self) -> str:
        """As plain text, in columns; a cell that is too wide goes on in the next line."""
        if not self.rows:
            return wrapped(self.empty)
        rows = [[cell.replace(" %", KEPT) for cell in row] for row in [self.columns, *self.rows]]
        widths = narrowed(rows)
        lines: list[str] = []
        marks = ["  ", *("! " if self._marks(k) else "  " for k in range(len(self.rows)))]
        for mark, row in zip(marks, rows, strict=True):
            parts = [
                textwrap.wrap(cell, size, break_on_hyphens=False) if size else []
                for cell, size in zip(row, widths, strict=True)
            ]
            for nth, line in enumerate(itertools.zip_longest(*parts, fillvalue="")):
                cells = [
                    cell.ljust(size) if self.is_left(k) else cell.rjust(size)
                    for k, (cell, size) in enumerate(zip(line, widths, strict=True))
                ]
                lines.append(((mark if not nth else "  ") + "  ".join(cells)).rstrip())
        table = "\n".join(lines).replace(KEPT, " %")
        return "\n".join([table, *([wrapped(self.note)] if self.note else [])])


def _class(kind: str) -> str:
    return f" class='{kind}'" if kind else ""
