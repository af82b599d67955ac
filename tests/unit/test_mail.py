"""A message that arrives whole: every part is there, nothing forges a header, and what is too large is said."""

import datetime as dt
import email
import email.policy

import pytest
import report_kit as kit

from fraud.errors import DataError, ParameterError
from fraud.pipeline import mail
from fraud.pipeline.blocks import Table

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 200
MOMENT = dt.datetime(2026, 11, 26, 9, tzinfo=dt.UTC)
ROWS = [
    ["TransactionAmt", "mean +51 %", "0.31 / 0.31", "7 %", "█████"],
    ["card4", "PSI 0.05", "0.05 / 0.05", "1 %", "▏"],
]


def letter(**given):
    settings = {
        "kind": "DRIFT",
        "endpoint": "fraud",
        "moment": MOMENT,
        "topic": "TransactionAmt: mean +51 %",
        "sentence": "The mean of TransactionAmt rose by 51 %.",
        "paragraphs": ["It costs at least 280 per day.", "Reviews: 60 per day."],
        "to_do": ["Ask whether prices moved.", "By hand it is `fraud run`."],
        "small": ["1,234 payments answered by model r1."],
        "table": Table(["feature", "how", "PSI", "gain", "weight"], ROWS, [True, False], (1,), (3, 4), "3 more."),
        "pictures": [mail.Picture(PNG, "Bar chart: 1 of 2 rules fired."), mail.Picture(PNG, "Two line charts.")],
        "places": [("Report", "s3://b/k", "")],
        "attachments": [("drift_report.html", b"<html>report</html>")],
    }
    return mail.Letter(**(settings | given))


def write(sender="Fraud Loop <a@example.com>", recipients=("b@example.com", "c@example.com"), **given):
    return mail.compose(letter(**given), sender, recipients)


def reread(message):
    return email.message_from_bytes(message.as_bytes(), policy=email.policy.default)


def parts(message):
    html, text = (message.get_body((kind,)).get_content() for kind in ("html", "plain"))
    return html, text


def test_every_part_arrives():
    message = reread(write())
    assert message["Subject"] == "[fraud] 2026-11-26 DRIFT fraud · TransactionAmt: mean +51 %"
    assert (message["From"], message["To"]) == ("Fraud Loop <a@example.com>", "b@example.com, c@example.com")
    assert message["Date"] and message["Message-ID"].endswith("@example.com>")
    assert message["Auto-Submitted"] == "auto-generated"
    html, text = parts(message)
    for said in ("rose by 51 %", "at least 280", "Ask whether", "fraud run", "DRIFT", "s3://b/k", "1,234", "3 more."):
        assert said in html and said in text
    for row in ROWS:
        assert all(cell in html and cell in text for cell in row)
    ids = {part["Content-ID"][1:-1] for part in message.walk() if part.get_content_type() == "image/png"}
    assert len(ids) == 2 and all(f"cid:{item}" in html for item in ids)
    attached = [part for part in message.walk() if part.get_filename() == "drift_report.html"]
    assert attached[0].get_content_disposition() == "attachment" and "report" in attached[0].get_content()


def test_the_body_needs_nothing_from_elsewhere_and_reads_with_pictures_off():
    html, _ = parts(reread(write()))
    found, images = kit.active(html)
    assert found == [] and "data:" not in html and "<style" not in html and "class=" not in html
    assert [one["alt"] for one in images] == ["Bar chart: 1 of 2 rules fired.", "Two line charts."]
    assert 'width="600"' in html and "max-width:600px" in html
    assert len(html.encode()) < 10_000


def test_what_is_over_its_limit_is_red_and_marked_in_plain_text():
    html, text = parts(reread(write()))
    red = html[html.index("#b02a1c") :]
    assert red.index("TransactionAmt</td>") < red.index("card4</td>")
    assert html.count("#b02a1c") == 1
    assert "\n! TransactionAmt" in text and "\n  card4" in text


def test_a_link_is_one_only_where_there_is_an_address():
    html, text = parts(reread(write(places=[("Report", "s3://b/k", "https://console.example/k")])))
    assert '<a href="https://console.example/k"' in html and "s3://b/k\n  https://console.example/k\n" in text
    assert "<a " not in parts(reread(write()))[0]


def test_subjects_sort_by_date_and_then_by_what_happened():
    days = [dt.datetime(2026, 2, 3, tzinfo=dt.UTC), dt.datetime(2025, 12, 31, tzinfo=dt.UTC)]
    subjects = [letter(moment=day, kind=kind).subject for day in days for kind in ("OK", "DRIFT", "FAILED")]
    assert [one.split(" fraud ")[0] for one in sorted(subjects)] == [
        f"[fraud] {day} {kind}" for day in ("2025-12-31", "2026-02-03") for kind in ("DRIFT", "FAILED", "OK")
    ]
    assert len(letter(topic="x" * 999, endpoint="e" * 200).subject) <= mail.LONGEST


@pytest.mark.parametrize("hostile", kit.HOSTILE)
def test_hostile_text_stays_text(hostile):
    table = Table(["feature", "how", "PSI", "gain", "weight"], [[hostile[:60], hostile[:60], "", "", ""]], [True])
    made = write(
        topic=hostile, endpoint=hostile[:300], sentence=hostile[:1000], paragraphs=[hostile[:2000]], table=table,
        to_do=[hostile[:99]], pictures=[mail.Picture(PNG, hostile[:500])], places=[("Run", hostile[:99], "")],
    )  # fmt: skip
    message = reread(made)
    found, images = kit.active(parts(message)[0])
    assert found == [] and len(images) == 1
    assert message["Bcc"] is None and message["To"] == "b@example.com, c@example.com"
    assert "\n" not in message["Subject"] and "\u202e" not in message["Subject"]
    assert all(len(line) <= 998 for line in made.as_bytes().splitlines())


@pytest.mark.parametrize("sender", ["", "nobody", "a@example.com\r\nBcc: x@example.com", "A <a@b>", "a@example"])
def test_a_sender_that_is_no_address_is_named(sender):
    with pytest.raises(ParameterError, match="ReportFrom is .* no e-mail address"):
        write(sender=sender)


def test_a_body_that_clients_would_clip_is_refused():
    with pytest.raises(DataError, match="clients show"):
        write(paragraphs=["x" * 70_000])
    with pytest.raises(DataError, match="surely arrive"):
        write(pictures=[mail.Picture(b"0" * 6_000_000, "")])


def test_an_attachment_that_is_too_large_is_left_out_and_that_is_said():
    big, small = ("big.html", b"0" * 6_000_000), ("drift_report.txt", b"short")
    message = reread(write(attachments=[big, small]))
    assert [part.get_filename() for part in message.iter_attachments()] == ["drift_report.txt"]
    assert [part.get_content_type() for part in message.iter_attachments()] == ["text/plain"]
    for body in parts(message):
        assert "big.html is too large to be attached (6,000,000 bytes)" in body
    whole = write(attachments=[("fits.html", b"0" * 4_500_000)])
    assert len(whole.as_bytes()) < mail.MAX_MESSAGE and len(list(reread(whole).iter_attachments())) == 1


def test_a_longer_twin_takes_the_place_of_the_plain_form():
    html, text = parts(reread(write(twin="EVERYTHING\n\nin words")))
    assert text.startswith("EVERYTHING\n\nin words\n\nReport: s3://b/k") and "EVERYTHING" not in html


def test_pictures_of_a_notebook_come_with_their_words():
    from nbformat.v4 import new_code_cell, new_notebook, new_output

    outputs = [
        new_output("display_data", data={"image/png": "iVBO"}, metadata={"image/png": {"alt": f"figure {k}"}})
        for k in range(3)
    ]
    notebook = new_notebook(cells=[new_code_cell("", outputs=outputs[:1]), new_code_cell("", outputs=outputs[1:])])
    assert [one.alt for one in mail.figures_of(notebook)] == ["figure 0", "figure 1"]
    bare = new_notebook(cells=[new_code_cell("", outputs=[new_output("display_data", data={"image/png": "iVBO"})])])
    assert mail.figures_of(bare) == [mail.Picture(b"\x89PN", "figure of the report")]
