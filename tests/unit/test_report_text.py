"""Text that people read: examples as documented, hostile text in every form of a block, figures with words."""

import doctest
import unicodedata

import pytest
import report_kit as kit
from hypothesis import given
from hypothesis import strategies as st

from fraud import plaintext
from fraud.pipeline import blocks, drift_plots, figures, mail_addresses, verdict_view
from fraud.pipeline.blocks import Badge, Prose, Table
from fraud.pipeline.render import sanitise


@pytest.mark.parametrize("module", [plaintext, blocks, mail_addresses], ids=lambda module: module.__name__)
def test_examples_hold(module):
    assert doctest.testmod(module).failed == 0


@given(st.text())
def test_whatever_is_shown_is_seen_and_short(text):
    found = plaintext.shown(text)
    assert 0 < len(found) <= plaintext.WIDTH + 1
    assert not {unicodedata.category(c) for c in found} & plaintext.UNSEEN
    assert not found.startswith(plaintext.FORMULA) or float(found) is not None


@given(st.floats(), st.integers(1, 12))
def test_bars_and_lines_take_any_number(value, width):
    assert len(plaintext.bar(value, width)) <= width and len(plaintext.sparkline([value])) == 1
    for show in (plaintext.figure, plaintext.percent, plaintext.distance):
        assert show(value) and "e-" not in plaintext.distance(value)


@pytest.mark.parametrize("hostile", kit.HOSTILE)
def test_blocks_escape_whatever_they_are_given(hostile):
    table = Table([hostile, "b"], [[hostile, hostile]], [True], note=hostile)
    for block in (Badge(hostile, hostile), Prose([hostile]), Prose([hostile], bullets=True), table):
        page = block._repr_html_()
        assert kit.active(page) == ([], [])
        found, images = kit.active(sanitise(page))
        assert found == [] and images == []
        assert block.text()


def test_a_table_is_the_same_in_every_form():
    rows = [["V1", "gone", "0.5"], ["V2", "", "0.01"]]
    table = Table(["feature", "how", "PSI"], rows, [True], left=(1,), note="2 more.")
    assert table.text() == "  feature  how    PSI\n! V1       gone   0.5\n  V2             0.01\n2 more."
    page = table._repr_html_()
    assert page.count("<tr class='over'>") == 1 and "<td class='l'>gone</td><td>0.5</td>" in page
    bare = Table(["a"], [], empty="Nothing.")
    assert bare.text() == "Nothing." and "<table" not in bare._repr_html_() and "Nothing." in bare._repr_html_()


def test_long_prose_is_folded():
    text = Prose(["word " * 60], bullets=True).text()
    assert text.startswith("* word") and all(len(line) <= 100 for line in text.splitlines()) and "\n  word" in text


def test_figures_are_small_and_say_what_they_show():
    rules = [kit.rule("psi", name, 0.5, 0.25, True) for name in kit.HOSTILE]
    image = figures.picture(drift_plots.plot_rules(rules), drift_plots.rules_in_words(rules))
    assert image.data.startswith(b"\x89PNG") and len(image.data) < 20_000
    alt = image._repr_mimebundle_()[1]["image/png"]["alt"] if hasattr(image, "_repr_mimebundle_") else image.alt
    assert "9 of 9 rules fired" in alt and "\u202e" not in alt
    assert figures.picture(None, "nothing") is None


def test_figures_without_anything_to_show_say_so():
    empty = drift_plots.Course([], [], [], 60, (None, 0.0))
    assert "nothing could be compared" in drift_plots.rules_in_words([])
    assert drift_plots.distributions_in_words([]) == "No distribution to show."
    assert "no payments" in drift_plots.course_in_words(empty) and drift_plots.plot_course(empty)
    assert drift_plots.plot_cohorts(None) is None and drift_plots.plot_cohorts({"cohorts": []}) is None
    assert drift_plots.cohorts_in_words(None) == "No week has truth."


def test_words_of_a_distribution_name_the_bin_that_changed_most():
    labels = ["≤1", "more", "missing"]
    panel = {"feature": "V1", "labels": labels, "reference": [0.5, 0.5, 0], "current": [0.3, 0.1, 0.6]}
    assert drift_plots.distributions_in_words([panel]) == (
        "Shares of payments by bin, trained on → live. V1, most in missing: 0 % → 60 %."
    )


def test_what_moved_is_named_by_feature_or_by_what_is_watched_as_a_whole():
    rules = [
        kit.rule("fraud_rate", "", 0.9, 0.3, True, reference=0.035, current=0.067),
        kit.rule("mean_shift", "TransactionAmt", 0.51, 0.3, True, reference=141.7, current=213.5),
        kit.rule("psi", "TransactionAmt", 0.51, 0.25, True),
        kit.rule("review_rate", "score", 0.1, 0.06, True, reference=0.02, current=0.12),
        kit.rule("repeated", "V4", 0.09, 0.06, False, reference=0.0, current=0.09, value=1.0),
    ]
    assert verdict_view.causes({"verdict": "DRIFT", "rules": rules}, 9) == [
        "share of fraud 3.5 % → 6.7 %",
        "TransactionAmt: mean +51 % (141.7 → 213.5)",
        "share sent to review 2 % → 12 %",
    ]
    assert verdict_view.causes({"verdict": "SCHEMA_CHANGED", "rules": rules}) == []  # that is another matter
    assert [verdict_view.rule_name(rule) for rule in rules] == [
        "share of fraud",
        "TransactionAmt · mean shift",
        "TransactionAmt · psi",
        "share sent to review",
        "V4 · repeated",
    ]
    assert verdict_view.change(rules[4]) == "the value 1: 0 % → 9 %"


def test_the_last_bin_is_always_named():
    for bins in range(1, 40):
        named = drift_plots._named(bins)
        assert named[-1] == bins - 1 and named == sorted(set(named)) and len(named) <= 11
    assert drift_plots._named(10) == list(range(10))


def test_plain_text_is_no_wider_than_a_mail_and_parts_no_word():
    words = "a description that goes on and on, longer than any line of a mail could ever be, 80 % of it at least"
    table = Table(["feature", "how", "gain"], [["V1", words, "6.5 %"], ["V2", "short", ""]], [True], left=(1,))
    lines = table.text().splitlines()
    assert max(map(len, lines)) <= 78 and lines[1].startswith("! V1 ")
    flat = " ".join(" ".join(lines).split())
    assert all(word in flat for word in words.split()) and not any(line.lstrip().startswith("%") for line in lines)
    assert [line for line in lines if line.startswith("! ")] == [lines[1]]
    assert Prose([f"{'x' * 73} 80 % of it"]).text() == f"{'x' * 73}\n80 % of it"


def test_a_share_stays_in_one_line_of_a_table():
    table = Table(["one", "two", "of"], [["a" * 30, "b" * 40, "80 %"]])
    assert table.text().splitlines()[1] == f"  {'a' * 30}  {'b' * 40}  80 %"
