"""Data and figures as people read them: nothing that came from a caller can format, hide or run anything.

What stands here is plain text; whoever puts it into HTML escapes it there.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence

WIDTH = 40  # characters of a name or category
FORMULA = tuple("=+-@")
LEVELS = "▁▂▃▄▅▆▇█"
PARTS = " ▏▎▍▌▋▊▉█"
UNSEEN = {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}


def shown(value: object, width: int = WIDTH) -> str:
    r"""Show a name or a category as plain text.

    Characters that are not seen, or turn the direction of what follows, are named; blanks count once; what is longer
    is cut; a text that a spreadsheet would take for a formula gets an apostrophe in front, as it would there.

    Examples
    --------
    >>> shown("visa"), shown("a\u202eb\n c"), shown("=cmd()"), shown("-1.5"), shown("x" * 99, 5), shown("")
    ('visa', 'a⟨U+202E⟩b c', "'=cmd()", '-1.5', 'xxxx…', '(empty)')
    """
    raw = str(value)[: 4 * width + 8]
    text = " ".join(raw.split())
    text = "".join(f"⟨U+{ord(c):04X}⟩" if unicodedata.category(c) in UNSEEN else c for c in text)
    if len(text) > width or len(str(value)) > len(raw):
        text = text[: width - 1] + "…"
    if text.startswith(FORMULA) and not _is_number(text):
        text = f"'{text}"
    return text or "(empty)"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def figure(value: float | None) -> str:
    """A figure for people: four significant digits, thousands apart, a dash when there is none.

    Examples
    --------
    >>> figure(1234567.8), figure(0.00123456), figure(3.0), figure(None), figure(1e200), figure(-0.0), figure(-2.5)
    ('1,234,568', '0.001235', '3', '–', '1e+200', '0', '−2.5')
    """
    if value is None or value != value:
        return "–"
    value = value + 0.0  # no negative zero
    size = abs(value)
    return ("−" if value < 0 else "") + (f"{size:,.0f}" if 10_000 <= size < 1e15 else f"{size:,.4g}")


def percent(share: float | None) -> str:
    """A share in percent, with as many digits as it takes to tell it from nothing, and from all.

    Examples
    --------
    >>> percent(0.256), percent(0.0123), percent(0.00004), percent(0.0), percent(None), percent(2.5)
    ('26 %', '1.2 %', '0.004 %', '0 %', '–', '250 %')
    >>> percent(0.9971), percent(1.0), percent(1e300)
    ('99.71 %', '100 %', '1e+302 %')
    """
    if share is None or share != share:
        return "–"
    if share == 0:
        return "0 %"
    value = 100 * share
    if abs(value) >= 1e6:
        return f"{value:.3g} %"
    short = min(abs(value), 100 - value) if value < 100 else 100.0  # of nothing, or of all
    if short >= 1 and abs(value) >= 10 or not short:
        return f"{value:,.0f} %"
    digits = max(1, 1 - math.floor(math.log10(short))) if short < 1 else 1
    return f"{value:.{min(digits, 6)}f}".rstrip("0").rstrip(".") + " %"


def distance(value: float | None) -> str:
    """A distance of two distributions, which nobody needs to more than three decimals.

    Examples
    --------
    >>> distance(0.30888), distance(0.0), distance(None), distance(12.345)
    ('0.309', '0.000', '–', '12.3')
    """
    if value is None or value != value:
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else figure(float(f"{value:.3g}"))


def money(value: float) -> str:
    """An amount without its currency, which no table names; with cents only where they matter.

    Examples
    --------
    >>> money(1234.6), money(4.256), money(5.0), money(-120.0), money(1e300)
    ('1,235', '4.26', '5', '−120', '1e+300')
    """
    return (f"{value:,.2f}" if 0.005 <= abs(value) < 9.995 else figure(round(value))).removesuffix(".00")


def bar(share: float | None, width: int = 10) -> str:
    """A bar of text blocks, at most ``width`` of them.

    Examples
    --------
    >>> bar(0.5, 4), bar(0.31, 4), bar(2.0, 4), bar(0.0, 4), bar(None, 4)
    ('██', '█▎', '████', '', '')
    """
    if share is None or share != share or share <= 0:
        return ""
    eighths = max(1, round(8 * width * min(share, 1.0)))
    return ("█" * (eighths // 8) + PARTS[eighths % 8]).strip()


def sparkline(values: Iterable[float | None], full: float = 2.0) -> str:
    """A line of blocks, one a value; ``full`` and more are the highest; a dot where there is no value.

    Examples
    --------
    >>> sparkline([0.0, 0.5, 1.0, 1.5, 9.0, None])
    '▁▃▅▆█·'
    """
    top = len(LEVELS) - 1
    return "".join("·" if v is None or v != v else LEVELS[round(top * min(max(v / full, 0.0), 1.0))] for v in values)


def count(n: int, one: str, many: str = "") -> str:
    """A number with its noun.

    Examples
    --------
    >>> count(1, "payment"), count(7602, "payment"), count(2, "category", "categories")
    ('1 payment', '7,602 payments', '2 categories')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def listed(items: Sequence[str], most: int = 3) -> str:
    """Names in a row; says how many more there are.

    Examples
    --------
    >>> listed(["a", "b"]), listed(["a", "b", "c", "d", "e"])
    ('a and b', 'a, b, c and 2 more')
    """
    if len(items) > most:
        return f"{', '.join(items[:most])} and {len(items) - most:,} more"
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
