"""A message that arrives whole: readable with pictures off, small enough for every inbox, the full report attached.

Mail clients show no scripts and no ``data:`` pictures and clip long bodies: figures travel as ``cid:`` parts, the body
stays small, and a plain-text part says the same.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid, parseaddr
from typing import Any

from fraud.errors import DataError
from fraud.pipeline.blocks import Block, Prose, Table
from fraud.pipeline.mail_addresses import check_sender
from fraud.pipeline.render import TEMPLATES
from fraud.pipeline.where import client
from fraud.plaintext import shown

MAX_BODY = 60_000  # bytes of HTML; some clients clip near 100 kB
MAX_MESSAGE = 7_000_000  # bytes; SES v1 refuses 10 MB after base64
LONGEST = 130  # characters of a subject
COLOURS = {"OK": "#2e7d4f", "PROMOTED": "#2e7d4f", "DRIFT": "#c0392b", "FAILED": "#c0392b"}
AMBER = "#9a5b00"


@dataclass(frozen=True)
class Picture:
    """A figure of a report: PNG bytes, and what it shows in words."""

    png: bytes
    alt: str


@dataclass
class Letter:
    """What a mail says; plain text all of it.

    Attributes
    ----------
    kind : str
        ``DRIFT``, ``PROMOTED``, ``FAILED`` and the like: the word that subjects sort by after their date.
    endpoint : str
        Endpoint name.
    moment : datetime
        What the subject's date is of, UTC.
    topic : str
        The rest of the subject.
    sentence : str
        The first thing to read.
    paragraphs, to_do, small : list of str
        Prose below it; what to do; fine print.
    strong : bool
        Whether the first paragraph stands out.
    table : Table or None
        At most some ten rows.
    pictures : sequence of Picture
    places : list of tuple of str
        What lies where: name, ``s3://`` address, and a link or an empty text.
    twin : str
        A longer plain text, which takes the place of the plain form of all this.
    attachments : sequence of tuple
        File name and bytes of HTML or text.
    """

    kind: str
    endpoint: str
    moment: dt.datetime
    topic: str
    sentence: str
    paragraphs: list[str] = field(default_factory=list)
    strong: bool = False
    to_do: list[str] = field(default_factory=list)
    small: list[str] = field(default_factory=list)
    table: Table | None = None
    pictures: Sequence[Picture] = ()
    places: list[tuple[str, str, str]] = field(default_factory=list)
    twin: str = ""
    attachments: Sequence[tuple[str, bytes]] = ()

    @property
    def subject(self) -> str:
        """``[fraud] date kind endpoint · topic``: sorts by date, then by what happened."""
        day = f"{self.moment:%Y-%m-%d}"
        return shown(f"[fraud] {day} {self.kind} {shown(self.endpoint, 63)} · {self.topic}", LONGEST)

    def text(self) -> str:
        """The whole as plain text."""
        if self.twin:
            return "\n".join([self.twin, "", *self._places()])
        parts: list[Block] = [Prose([f"{self.kind}: {self.sentence}"])]
        parts += [Prose([one]) for one in self.paragraphs]
        parts += [self.table] if self.table else []
        parts += [Prose(self.to_do, bullets=True)] if self.to_do else []
        parts += [Prose(self.small)] if self.small else []
        return "\n".join(["\n\n".join(part.text() for part in parts), "", *self._places()])

    def _places(self) -> list[str]:
        return [f"{name}: {address}" + (f"\n  {link}" if link else "") for name, address, link in self.places]


def figures_of(notebook: Any, most: int = 2) -> list[Picture]:
    """The first pictures of an executed notebook, each with what it says where pictures are off."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
                found.append(Picture(base64.b64decode(png), str(alt) or "figure of the report"))
    return found[:most]


def compose(letter: Letter, sender: str, recipients: Sequence[str]) -> EmailMessage:
    """Write the message.

    Parameters
    ----------
    letter : Letter
    sender : str
        From: an address, or a name with one.
    recipients : sequence of str
        To: plain addresses.

    Returns
    -------
    EmailMessage

    Raises
    ------
    ParameterError
        When the sender is no address.
    DataError
        When the body would be too large to be shown whole, or the message too large to arrive. An attachment that is
        too large alone is left out, and the text says so.
    """
    attached, left_out = _fitting(letter)
    domain = parseaddr(check_sender(sender))[1].rpartition("@")[2]
    ids = [make_msgid(domain=domain) for _ in letter.pictures]
    body = TEMPLATES.get_template("mail.html.j2").render(
        letter=letter,
        small=letter.small + left_out,
        figures=[(content_id[1:-1], shown_.alt) for content_id, shown_ in zip(ids, letter.pictures, strict=True)],
        colour=COLOURS.get(letter.kind, AMBER),
    )
    if len(body.encode()) > MAX_BODY:
        raise DataError(
            f"The e-mail's body has {len(body.encode()):,} bytes, more than the {MAX_BODY:,} clients show whole."
        )
    message = EmailMessage()
    message["Subject"] = letter.subject
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message["Date"] = format_datetime(dt.datetime.now(dt.UTC))
    message["Message-ID"] = make_msgid(domain=domain)
    message["Auto-Submitted"] = "auto-generated"  # nobody's absence note shall answer
    message.set_content("\n".join([letter.text(), *left_out, ""]))
    message.add_alternative(body, subtype="html")
    html = message.get_body(("html",))
    assert isinstance(html, EmailMessage)  # added a line above
    for content_id, figure in zip(ids, letter.pictures, strict=True):
        html.add_related(figure.png, "image", "png", cid=content_id, disposition="inline", filename="figure.png")
    for name, content in attached:
        subtype = "html" if name.endswith(".html") else "plain"
        message.add_attachment(content, maintype="text", subtype=subtype, filename=name)
    if len(message.as_bytes()) > MAX_MESSAGE:
        raise DataError(
            f"The e-mail has {len(message.as_bytes()):,} bytes, more than the {MAX_MESSAGE:,} that surely arrive."
        )
    return message


def _fitting(letter: Letter) -> tuple[list[tuple[str, bytes]], list[str]]:
    """Attachments that fit, base64 counted, and a sentence for each that does not."""
    room = MAX_MESSAGE - 2 * MAX_BODY - sum(4 * len(one.png) // 3 for one in letter.pictures)
    kept, said = [], []
    for name, content in letter.attachments:
        size = 57 * len(content) // 41  # base64 in lines of 76 characters
        if size <= room:
            room -= size
            kept.append((name, content))
        else:
            said.append(f"{name} is too large to be attached ({len(content):,} bytes); it is where this mail says.")
    return kept, said


def send(message: EmailMessage) -> str:
    """Send a message through SES; returns its id."""
    answer = client("sesv2").send_email(
        FromEmailAddress=message["From"],
        Destination={"ToAddresses": [item.strip() for item in message["To"].split(",")]},
        Content={"Raw": {"Data": message.as_bytes()}},
    )
    return str(answer["MessageId"])


def table_of(brief: Mapping[str, Any]) -> Table:
    """The table that a run record keeps of a report."""
    return Table(brief["columns"], brief["rows"], brief["marked"], left=(1,), bars=(3, 4), note=brief["note"])
