import email
import email.policy
import json

import pytest

from fraud.errors import DataError
from fraud.pipeline import mail

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 200
VERDICT = {
    "schema_version": 1,
    "verdict": "DRIFT",
    "endpoint": "fraud",
    "model_version": "r1",
    "window": {"start": "2026-01-01T00:00:00Z", "end": "2026-01-02T00:00:00Z"},
    "n": 1234,
    "sentence": "The mean of TransactionAmt rose by 58 %.",
    "rules": [
        {
            "rule": "psi",
            "feature": "card4",
            "reference": None,
            "current": None,
            "score": 0.05,
            "threshold": 0.25,
            "fired": False,
        },
        {
            "rule": "mean_shift",
            "feature": "TransactionAmt",
            "reference": 134.5,
            "current": 212.0,
            "score": 0.576,
            "threshold": 0.3,
            "fired": True,
        },
        {
            "rule": "psi",
            "feature": "empty",
            "reference": None,
            "current": None,
            "score": None,
            "threshold": 0.25,
            "fired": False,
        },
    ],
}


def write(verdict=VERDICT, **given):
    settings = {"sender": "a@example.com", "recipients": ["b@example.com", "c@example.com"], "address": "s3://b/k"}
    return mail.compose(verdict, b"<html>report</html>", **(settings | {"figures": [PNG, PNG]} | given))


def reread(message):
    return email.message_from_bytes(message.as_bytes(), policy=email.policy.default)


def test_every_part_arrives():
    message = reread(write())
    assert message["Subject"] == "[fraud] DRIFT · fraud · The mean of TransactionAmt rose by 58 %."
    html = message.get_body(("html",)).get_content()
    text = message.get_body(("plain",)).get_content()
    for said in ("TransactionAmt", "0.576", "DRIFT", "s3://b/k", "1,234"):
        assert said in html and said in text
    ids = {part["Content-ID"][1:-1] for part in message.walk() if part.get_content_type() == "image/png"}
    assert len(ids) == 2 and all(f"cid:{item}" in html for item in ids)
    attached = [part for part in message.walk() if part.get_filename() == "drift_report.html"]
    assert attached[0].get_content_disposition() == "attachment"
    assert "data:" not in html and "<script" not in html and "http" not in html


def test_what_fired_comes_first():
    html = reread(write()).get_body(("html",)).get_content()
    assert html.index("TransactionAmt</td>") < html.index("card4</td>") and "empty</td>" not in html


def test_hostile_names_stay_text():
    hostile = json.loads(json.dumps(VERDICT).replace("TransactionAmt", "<img src=x onerror=alert(1)>"))
    html = reread(write(hostile)).get_body(("html",)).get_content()
    assert "<img src=x" not in html and "&lt;img src=x" in html


def test_line_breaks_cannot_forge_headers():
    forged = VERDICT | {"sentence": "x\r\nBcc: evil@example.com"}
    message = reread(write(forged))
    assert message["Bcc"] is None and "\n" not in message["Subject"]


def test_too_large_to_arrive_is_refused():
    with pytest.raises(DataError, match="surely arrive"):
        write(figures=[b"0" * 6_000_000])
    many = [rule | {"feature": "x" * 9000} for rule in VERDICT["rules"][:1] * 9]
    with pytest.raises(DataError, match="clients show"):
        write(VERDICT | {"rules": many})
