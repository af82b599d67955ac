"""Text of a delivered file, whatever it was packed in and whatever program wrote it."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from typing import NamedTuple

from fraud.errors import CaptureFormatError

MOST = 256 << 20  # bytes of an unpacked file
_GZIP = b"\x1f\x8b"
_NO_TEXT = {
    b"PK\x03\x04": "an Excel workbook or ZIP archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"PAR1": "Parquet",
    b"%PDF": "PDF",
    b"BZh": "packed with bzip2",
    b"\xfd7zXZ": "packed with xz",
    b"\x28\xb5\x2f\xfd": "packed with Zstandard",
}
_MARKS = {  # the longer ones first: that of UTF-16 begins that of UTF-32
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class Text(NamedTuple):
    """Text of a file.

    Attributes
    ----------
    text : str
        Without a byte order mark.
    guessed : bool
        Whether its encoding had to be guessed, so that only ASCII letters can be believed.
    """

    text: str
    guessed: bool = False


def read_text(body: bytes) -> Text:
    """Unpack and decode a file: gzip or none; UTF-8, UTF-16 or UTF-32, else one byte a letter as Windows writes it.

    Parameters
    ----------
    body : bytes
        Of the file.

    Raises
    ------
    CaptureFormatError
        With a reason: it is damaged, too large, or no text.

    Examples
    --------
    >>> read_text("id;Café".encode("cp1252"))
    Text(text='id;Café', guessed=True)
    """
    if body.startswith(_GZIP):
        body = _unpacked(body)
    for mark, what in _NO_TEXT.items():
        if body.startswith(mark):
            raise CaptureFormatError(f"the file is {what}, not text")
    for mark, encoding in _MARKS.items():
        if body.startswith(mark):
            try:
                return Text(body.decode(encoding).lstrip("\ufeff"))  # some write the mark twice
            except UnicodeDecodeError as error:
                name = encoding.removesuffix("-sig").upper()
                raise CaptureFormatError(f"the file begins as {name} and is none") from error
    if b"\0" in body:
        return Text(_wide(body))
    try:
        return Text(body.decode())
    except UnicodeDecodeError:
        pass
    try:
        return Text(body.decode("cp1252"), guessed=True)
    except UnicodeDecodeError:
        return Text(body.decode("latin-1"), guessed=True)


def _unpacked(body: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
            unpacked = file.read(MOST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise CaptureFormatError("the file is damaged or truncated gzip") from error
    if len(unpacked) > MOST:
        raise CaptureFormatError(f"the file unpacks to more than {MOST >> 20} MiB")
    return unpacked


def _wide(body: bytes) -> str:
    """Text in UTF-16 without a mark: of two bytes a letter, ASCII has a zero in the same place each time."""
    for encoding, zero in (("utf-16-le", 1), ("utf-16-be", 0)):
        if len(body) % 2 == 0 and body[zero::2].count(0) > len(body) / 4 and 0 not in body[1 - zero :: 2]:
            try:
                return body.decode(encoding)
            except UnicodeDecodeError:
                continue
    raise CaptureFormatError("the file holds zero bytes and is no text")
