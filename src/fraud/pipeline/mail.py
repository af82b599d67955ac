"""The drift report as an e-mail: verdict first, readable with pictures off, the full report attached.

Mail clients show no scripts and no ``data:`` pictures and clip long bodies: figures travel as ``cid:`` parts, the body
stays small, and a plain-text twin says the same.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from email.message import EmailMessage
from email.utils import make_msgid
from typing import Any

from fraud.errors import DataError
from fraud.pipeline.render import TEMPLATES
from fraud.pipeline.where import client

MAX_BODY = 60_000  # bytes of HTML; some clients clip near 100 kB
MAX_MESSAGE = 7_000_000  # bytes; SES v1 refuses 10 MB after base64
COLOURS = {"OK": "#2e7d4f", "DRIFT": "#c0392b"}


def show(value: float | None) -> str:
    """A figure for people: four significant digits, a dash when there is none."""
    return "–" if value is None else f"{value:.4g}"


def figures_of(notebook: Any, most: int = 2) -> list[bytes]:
    """The first pictures of an executed notebook, as PNG bytes."""
    found = [
        base64.b64decode(output["data"]["image/png"])
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    return found[:most]


def compose(
    verdict: Mapping[str, Any],
    report: bytes,
    *,
    sender: str,
    recipients: Sequence[str],
    address: str,
    figures: Sequence[bytes] = (),
    top: int = 10,
) -> EmailMessage:
    """Write the message.

    Parameters
    ----------
    verdict : mapping
        The verdict object.
    report : bytes
        The rendered report, attached as ``drift_report.html``.
    sender : str
        From.
    recipients : sequence of str
        To.
    address : str
        Where the report is archived.
    figures : sequence of bytes
        PNG pictures for the body.
    top : int
        Rules to show, those that fired and the nearest to firing first.

    Returns
    -------
    EmailMessage

    Raises
    ------
    DataError
        When body or message would be too large to arrive whole.
    """
    rules = sorted(
        (rule for rule in verdict["rules"] if rule["score"] is not None),
        key=lambda rule: (not rule["fired"], -abs(rule["score"]) / rule["threshold"], rule["feature"]),
    )[:top]
    ids = [make_msgid(domain="fraud-loop.invalid") for _ in figures]
    shared = {"verdict": verdict, "rules": rules, "address": address, "show": show}
    page = TEMPLATES.get_template("mail.html.j2")
    colour = COLOURS.get(verdict["verdict"], "#b9770e")
    body = page.render(**shared, figures=[item[1:-1] for item in ids], colour=colour)
    if len(body.encode()) > MAX_BODY:
        raise DataError(
            f"The e-mail's body has {len(body.encode()):,} bytes, more than the {MAX_BODY:,} clients show whole."
        )
    message = EmailMessage()
    message["Subject"] = " ".join(
        f"[fraud] {verdict['verdict']} · {verdict['endpoint']} · {verdict['sentence']}".split()
    )[:180]
    message["From"] = sender
    message["To"] = ", ".join(recipients)
    message.set_content(TEMPLATES.get_template("mail.txt.j2").render(**shared))
    message.add_alternative(body, subtype="html")
    html = message.get_payload()[1]
    for content_id, figure in zip(ids, figures, strict=True):
        html.add_related(figure, "image", "png", cid=content_id, disposition="inline", filename="figure.png")
    message.add_attachment(report, maintype="text", subtype="html", filename="drift_report.html")
    if len(message.as_bytes()) > MAX_MESSAGE:
        raise DataError(
            f"The e-mail has {len(message.as_bytes()):,} bytes, more than the {MAX_MESSAGE:,} that surely arrive."
        )
    return message


def send(message: EmailMessage) -> str:
    """Send a message through SES; returns its id."""
    answer = client("sesv2").send_email(
        FromEmailAddress=message["From"],
        Destination={"ToAddresses": [item.strip() for item in message["To"].split(",")]},
        Content={"Raw": {"Data": message.as_bytes()}},
    )
    return str(answer["MessageId"])
