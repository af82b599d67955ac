"""Mail is kept whole; what SES refuses is refused."""

from __future__ import annotations

import email
import email.policy
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any

import pytest
from botocore.exceptions import ClientError
from localaws_kit import InProcess

from fraud.localaws import mail
from fraud.localaws.mail import Mail

SENDER = "Fraud Loop <fraud@example.com>"
TO = {"ToAddresses": ["a@example.org"]}


class Post:
    def __init__(self, server: InProcess) -> None:
        self.client = server.client("sesv2")
        self.folder = server.daemon.context.state / "mail"

    def one(self) -> EmailMessage:
        (path,) = self.folder.glob("*.eml")
        message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        return message


@pytest.fixture
def post(serve: Callable[..., InProcess]) -> Post:
    made = Post(serve(Mail))
    made.client.create_email_identity(EmailIdentity="example.com")
    return made


def simple(**change: Any) -> dict[str, Any]:
    body = {"Text": {"Data": "plain é"}, "Html": {"Data": "<p>html <img src='cid:plot'></p>"}}
    return {"Simple": {"Subject": {"Data": "DRIFT é"}, "Body": body, **change}}


def raw(**headers: str) -> bytes:
    message = EmailMessage(policy=email.policy.SMTP)
    for name, value in ({"From": SENDER, "To": "a@example.org", "Subject": "s"} | headers).items():
        message[name] = value
    message.set_content("text")
    message.add_attachment(b"\x00png", maintype="image", subtype="png", filename="plot.png", cid="<plot>")
    return message.as_bytes()


def test_a_simple_message_becomes_mime_with_all_its_parts(post: Post) -> None:
    attachments = [
        {
            "RawContent": b"\x89PNG",
            "FileName": "plot.png",
            "ContentType": "image/png",
            "ContentDisposition": "INLINE",
            "ContentId": "plot",
        },
        {"RawContent": b"<html>", "FileName": "report.html"},
    ]
    answer = post.client.send_email(
        FromEmailAddress=SENDER,
        Destination=TO | {"BccAddresses": ["hidden@example.org"]},
        ReplyToAddresses=["r@example.org"],
        Content=simple(Attachments=attachments, Headers=[{"Name": "X-Run", "Value": "r1"}]),
    )
    message = post.one()
    assert answer["MessageId"] in message["Message-ID"]
    assert (message["Subject"], message["From"], message["To"]) == ("DRIFT é", SENDER, "a@example.org")
    assert (message["Reply-To"], message["X-Run"], message["Bcc"]) == ("r@example.org", "r1", None)
    parts = {part.get_content_type(): part for part in message.walk()}
    assert parts["text/plain"].get_content().strip() == "plain é"
    assert "cid:plot" in message.get_body(("html",)).get_content()  # type: ignore[union-attr]
    assert parts["image/png"]["Content-ID"] == "<plot>" and parts["image/png"].get_content() == b"\x89PNG"
    assert parts["image/png"].get_content_disposition() == "inline"
    assert [part.get_filename() for part in message.iter_attachments()] == ["report.html"]


def test_a_raw_message_is_kept_byte_for_byte(post: Post) -> None:
    data = raw()
    post.client.send_email(Content={"Raw": {"Data": data}})
    (path,) = post.folder.glob("*.eml")
    assert path.read_bytes() == data


def test_bcc_is_not_shown(post: Post) -> None:
    post.client.send_email(Content={"Raw": {"Data": raw(Bcc="hidden@example.org")}})
    assert post.one()["Bcc"] is None
    assert b"\x00png" in post.one().get_payload()[1].get_payload(decode=True)  # type: ignore[union-attr, index]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            {"FromEmailAddress": "a@other.org", "Destination": TO, "Content": simple()},
            r"\(MessageRejected\).*not verified",
        ),
        ({"FromEmailAddress": "a@example.com.evil", "Destination": TO, "Content": simple()}, "not verified"),
        ({"FromEmailAddress": "a@notexample.com", "Destination": TO, "Content": simple()}, "not verified"),
        ({"Destination": TO, "Content": simple()}, r"\(BadRequestException\).*FromEmailAddress"),
        ({"FromEmailAddress": SENDER, "Content": simple()}, "no recipient"),
        (
            {"FromEmailAddress": SENDER, "Destination": {"ToAddresses": ["nobody"]}, "Content": simple()},
            "Illegal address",
        ),
        (
            {"FromEmailAddress": SENDER, "Destination": {"ToAddresses": ["a@b.c\r\nBcc: x@y.z"]}, "Content": simple()},
            "Illegal address",
        ),
        (
            {"FromEmailAddress": SENDER, "Destination": {"ToAddresses": ["a@b.c"] * 51}, "Content": simple()},
            "Recipient count exceeds 50",
        ),
        ({"FromEmailAddress": SENDER, "Destination": TO, "Content": {}}, "Exactly one of"),
        (
            {"FromEmailAddress": SENDER, "Destination": TO, "Content": {"Template": {"TemplateName": "t"}}},
            "has no e-mail templates",
        ),
        (
            {"FromEmailAddress": SENDER, "Destination": TO, "Content": simple(Subject={"Data": "a\nBcc: x@y.z"})},
            "A header cannot be used",
        ),
        ({"Content": {"Raw": {"Data": raw(From="a@other.org")}}}, "not verified"),
        (
            {"Content": {"Raw": {"Data": b"From: fraud@example.com\r\nTo: a@b.c\r\n\r\n" + b"x" * 999}}},
            "longer than 998",
        ),
        ({"Content": {"Raw": {"Data": b"\r\nno header"}}}, "no header"),
    ],
)
def test_what_ses_refuses_is_refused_and_not_kept(post: Post, request_: dict[str, Any], message: str) -> None:
    with pytest.raises(ClientError, match=message):
        post.client.send_email(**request_)
    assert not list(post.folder.glob("*"))


def test_a_message_that_is_too_large_is_refused(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mail.LARGEST_MESSAGE == 40 * 1024 * 1024
    monkeypatch.setattr(mail, "LARGEST_MESSAGE", 1000)
    with pytest.raises(ClientError, match=r"\(MessageRejected\).*more than 1000 bytes"):
        post.client.send_email(Content={"Raw": {"Data": raw() + b"x\r\n" * 400}})


def test_identities(post: Post) -> None:
    with pytest.raises(ClientError, match="AlreadyExistsException"):
        post.client.create_email_identity(EmailIdentity="Example.com")
    assert post.client.create_email_identity(EmailIdentity="x@y.org")["IdentityType"] == "EMAIL_ADDRESS"
    assert post.client.get_email_identity(EmailIdentity="example.com")["IdentityType"] == "DOMAIN"
    names = [item["IdentityName"] for item in post.client.list_email_identities()["EmailIdentities"]]
    assert names == ["example.com", "x@y.org"]
    with pytest.raises(ClientError, match="NotFoundException"):
        post.client.get_email_identity(EmailIdentity="nobody@example.com")
    with pytest.raises(ClientError, match="BadRequestException"):
        post.client.create_email_identity(EmailIdentity="not an address")
    post.client.send_email(FromEmailAddress="any@sub.example.com", Destination=TO, Content=simple())
    post.client.delete_email_identity(EmailIdentity="example.com")
    with pytest.raises(ClientError, match="not verified"):
        post.client.send_email(FromEmailAddress=SENDER, Destination=TO, Content=simple())
