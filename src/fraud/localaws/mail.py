"""SESv2: each message is kept whole, as the .eml a mail program opens."""

from __future__ import annotations

import asyncio
import email.policy
import mimetypes
import re
import time
import uuid
from datetime import UTC, datetime
from email.message import EmailMessage
from email.parser import BytesParser
from email.utils import format_datetime, getaddresses, parseaddr
from typing import Any

from fraud.localaws.store import AlreadyExistsError, write_atomic
from fraud.localaws.wire import AwsError, Operations

KIND = "mail-identity"
LARGEST_MESSAGE = 40 * 1024 * 1024
_MOST_RECIPIENTS = 50
_LONGEST_LINE = 998  # RFC 5322, which SES refuses too
_ADDRESS = re.compile(r"[^@\s,;<>\"()]{1,64}@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9-]{1,63}")


class Mail(Operations):
    """SendEmail, and the identities that may send."""

    service = "sesv2"

    def status(self) -> dict[str, Any]:
        """Return how many messages are kept and where."""
        folder = self.context.state / "mail"
        return {"messages": sum(1 for _ in folder.glob("*.eml")), "folder": str(folder)}

    async def send_email(self, params: dict[str, Any]) -> dict[str, Any]:
        """Keep a message as ``mail/<time>-<id>.eml``."""
        content = params["Content"]
        given = [kind for kind in ("Simple", "Raw", "Template") if content.get(kind)]
        if len(given) != 1:
            raise AwsError("BadRequestException", "Exactly one of Simple, Raw and Template must be given in Content")
        if given == ["Template"]:
            raise AwsError("BadRequestException", "The local AWS has no e-mail templates; send Simple or Raw")
        number = f"{int(time.time() * 1000):016x}-{uuid.uuid4()}-000000"
        if given == ["Raw"]:
            data = await asyncio.to_thread(self._raw, content["Raw"]["Data"], params)
        else:
            data = await asyncio.to_thread(self._simple, content["Simple"], params, number)
        if len(data) > LARGEST_MESSAGE:
            raise AwsError(
                "MessageRejected", f"Message length is more than {LARGEST_MESSAGE} bytes long: '{len(data)}'."
            )
        now = datetime.now(UTC)
        path = self.context.state / "mail" / f"{now:%Y%m%dT%H%M%S%f}-{number[-19:-7]}.eml"
        await asyncio.to_thread(write_atomic, path, data)
        return {"MessageId": number}

    async def create_email_identity(self, params: dict[str, Any]) -> dict[str, Any]:
        """Let an address, or all of a domain, send. Nobody has to click a link here: it is verified at once."""
        name = params["EmailIdentity"]
        if not _ADDRESS.fullmatch(name) and not _ADDRESS.fullmatch(f"x@{name}"):
            raise AwsError("BadRequestException", f"Email identity <{name}> is neither an address nor a domain")
        doc = {"EmailIdentity": name, "IdentityType": "EMAIL_ADDRESS" if "@" in name else "DOMAIN"}
        try:
            self.context.store.put(KIND, name.lower(), doc | {"Tags": params.get("Tags") or []}, create=True)
        except AlreadyExistsError:
            raise AwsError("AlreadyExistsException", f"Email identity {name} already exist.") from None
        return {"IdentityType": doc["IdentityType"], "VerifiedForSendingStatus": True}

    async def get_email_identity(self, params: dict[str, Any]) -> dict[str, Any]:
        """Tell about an identity."""
        doc = self._identity(params["EmailIdentity"])
        return {
            **doc,
            "VerifiedForSendingStatus": True,
            "VerificationStatus": "SUCCESS",
            "FeedbackForwardingStatus": True,
        }

    async def list_email_identities(self, params: dict[str, Any]) -> dict[str, Any]:
        """List all identities."""
        return {
            "EmailIdentities": [
                {
                    "IdentityName": doc["EmailIdentity"],
                    "IdentityType": doc["IdentityType"],
                    "SendingEnabled": True,
                    "VerificationStatus": "SUCCESS",
                }
                for doc in self.context.store.list(KIND)
            ]
        }

    async def delete_email_identity(self, params: dict[str, Any]) -> dict[str, Any]:
        """Forget an identity."""
        self._identity(params["EmailIdentity"])
        self.context.store.delete(KIND, params["EmailIdentity"].lower())
        return {}

    def _identity(self, name: str) -> dict[str, Any]:
        doc = self.context.store.get(KIND, name.lower())
        if doc is None:
            raise AwsError("NotFoundException", f"Email identity {name} does not exist.")
        return doc

    # ---- messages --------------------------------------------------------------------------------------------------

    def _raw(self, data: bytes, params: dict[str, Any]) -> bytes:
        """Check a message that comes as it is; only the lines SES adds are added."""
        if len(data) > LARGEST_MESSAGE:
            raise AwsError(
                "MessageRejected", f"Message length is more than {LARGEST_MESSAGE} bytes long: '{len(data)}'."
            )
        if any(len(line) > _LONGEST_LINE for line in data.replace(b"\r\n", b"\n").split(b"\n")):
            raise AwsError("BadRequestException", f"A line of the message is longer than {_LONGEST_LINE} characters")
        message = BytesParser(policy=email.policy.compat32).parsebytes(data)
        if not message.keys():
            raise AwsError("BadRequestException", "The message has no header")
        sender = params.get("FromEmailAddress") or str(message.get("From", ""))
        recipients = _recipients(params) or [
            address
            for _, address in getaddresses([str(v) for k in ("To", "Cc", "Bcc") for v in message.get_all(k, [])])
        ]
        self._check(sender, recipients)
        if "Bcc" in message:  # whoever is there must not see it
            data = _without_header(data, b"bcc")
        return data

    def _simple(self, simple: dict[str, Any], params: dict[str, Any], number: str) -> bytes:
        """Build the MIME message of a Simple content."""
        sender = params.get("FromEmailAddress")
        if not sender:
            raise AwsError("BadRequestException", "Missing required FromEmailAddress")
        self._check(sender, _recipients(params))
        message = EmailMessage(policy=email.policy.SMTP)
        destination = params["Destination"]
        try:
            message["From"] = sender
            for header, key in (("To", "ToAddresses"), ("Cc", "CcAddresses")):
                if destination.get(key):
                    message[header] = ", ".join(destination[key])
            if params.get("ReplyToAddresses"):
                message["Reply-To"] = ", ".join(params["ReplyToAddresses"])
            message["Subject"] = simple["Subject"]["Data"]
            message["Date"] = format_datetime(datetime.now(UTC))
            message["Message-ID"] = f"<{number}@{self.context.region}.amazonses.com>"
            for header in simple.get("Headers") or []:
                message[header["Name"]] = header["Value"]
        except ValueError as error:
            raise AwsError("BadRequestException", f"A header cannot be used: {error}") from None
        body = simple["Body"]
        if not body.get("Text") and not body.get("Html"):
            raise AwsError("BadRequestException", "The message has no body")
        if body.get("Text"):
            message.set_content(body["Text"]["Data"])
        if body.get("Html"):
            if body.get("Text"):
                message.add_alternative(body["Html"]["Data"], subtype="html")
            else:
                message.set_content(body["Html"]["Data"], subtype="html")
        for attachment in simple.get("Attachments") or []:
            _attach(message, attachment)
        return message.as_bytes()

    def _check(self, sender: str, recipients: list[str]) -> None:
        """Refuse a sender that is not verified, and recipients nobody can be."""
        address = parseaddr(sender)[1]
        if "\n" in sender or "\r" in sender or not _ADDRESS.fullmatch(address):
            raise AwsError("BadRequestException", "Missing or illegal From address")
        if not recipients:
            raise AwsError("BadRequestException", "The message has no recipient")
        if len(recipients) > _MOST_RECIPIENTS:
            raise AwsError("BadRequestException", f"Recipient count exceeds {_MOST_RECIPIENTS}.")
        for recipient in recipients:
            if "\n" in recipient or "\r" in recipient or not _ADDRESS.fullmatch(parseaddr(recipient)[1]):
                raise AwsError("BadRequestException", f"Illegal address: {recipient[:320]!r}")
        domain = address.rpartition("@")[2].lower()
        parents = [domain[at:] for at in (0, *(i + 1 for i, c in enumerate(domain) if c == "."))]
        if not any(self.context.store.get(KIND, name) for name in (address.lower(), *parents)):
            raise AwsError(
                "MessageRejected",
                "Email address is not verified. The following identities failed the check in region "
                f"{self.context.region.upper()}: {sender}",
            )


def _recipients(params: dict[str, Any]) -> list[str]:
    destination = params.get("Destination") or {}
    return [address for key in ("ToAddresses", "CcAddresses", "BccAddresses") for address in destination.get(key) or []]


def _attach(message: EmailMessage, attachment: dict[str, Any]) -> None:
    name = attachment["FileName"]
    kind = attachment.get("ContentType") or mimetypes.guess_type(name)[0] or "application/octet-stream"
    main, _, sub = kind.partition(";")[0].strip().partition("/")
    inline = attachment.get("ContentDisposition") == "INLINE"
    options: dict[str, Any] = {"disposition": "inline" if inline else "attachment", "filename": name}
    if attachment.get("ContentId"):
        options["cid"] = f"<{attachment['ContentId'].strip('<>')}>"
    html = message.get_body(("html",))
    try:
        if inline and html is not None:
            html.add_related(attachment["RawContent"], maintype=main, subtype=sub or "octet-stream", **options)
        else:
            message.add_attachment(attachment["RawContent"], maintype=main, subtype=sub or "octet-stream", **options)
    except (ValueError, TypeError) as error:
        raise AwsError("BadRequestException", f"Attachment {name!r} cannot be used: {error}") from None


def _without_header(data: bytes, name: bytes) -> bytes:
    """Remove a header, with its continuation lines, and leave every other byte."""
    head, separator, body = (
        re.split(rb"(\r?\n\r?\n)", data, maxsplit=1) if re.search(rb"\r?\n\r?\n", data) else (data, b"", b"")
    )
    kept, dropping = [], False
    for line in re.split(rb"(?<=\n)", head):
        if line[:1] not in (b" ", b"\t"):
            dropping = line.partition(b":")[0].strip().lower() == name
        if not dropping:
            kept.append(line)
    return b"".join(kept).rstrip(b"\r\n") + separator + body
