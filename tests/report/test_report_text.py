"""Text and numbers for people."""

import pytest
from markupsafe import Markup

from l2i_builder.report import text
from l2i_builder.report.reasons import EXPLANATIONS
from l2i_builder.sample import Reason


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a\x00b", "a\\x00b"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("invoice\u202egpj.exe", "invoice\\u202egpj.exe"),
        ("\u2066isolate\u2069", "\\u2066isolate\\u2069"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("lone \ud800 surrogate", "lone \\ud800 surrogate"),
        ("tag \U000e0041", "tag \\U000e0041"),
        ("two\r\nlines\tand a tab", "two lines and a tab"),
        ("ça, 日本語, 👩‍👩‍👧, والعربية", "ça, 日本語, 👩‍👩‍👧, والعربية"),
    ],
)
def test_what_misleads_a_reader_is_written_out(raw, shown):
    assert text.visible(raw) == shown


def test_long_text_is_cut_and_says_how_long_it_was():
    assert text.visible("x" * 5000, 10) == "x" * 10 + "… (5,000 characters)"


def test_numbers_and_own_markup_pass_through():
    assert text.visible(3) == 3
    markup = Markup("<b>\u202e</b>")
    assert text.visible(markup) is markup


@pytest.mark.parametrize(
    ("share", "shown"), [(0, "0.0 %"), (1, "100.0 %"), (0.0954, "9.5 %"), (0.00012, "0.012 %"), (1e-7, "< 0.001 %")]
)
def test_percent(share, shown):
    assert text.percent(share) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.00038, "0.38 ms"),
        (0.28, "280 ms"),
        (4.1, "4.1 s"),
        (720, "12 min"),
        (12_240, "3.4 h"),
        (1e8, "1,157 d"),
    ],
)
def test_duration(seconds, shown):
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("change", "shown"), [(0, "0"), (0.0123, "+1.2"), (-0.0046, "−0.46"), (0.25, "+25.0"), (1e-7, "+< 0.001")]
)
def test_points(change, shown):
    assert text.points(change) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "$0"), (0.04, "$0.04"), (1.5, "$1.50"), (1234.5, "$1,234"), (0.0123, "$0.0123"), (0.5, "$0.50")],
)
def test_dollars(value, shown):
    assert text.dollars(value) == shown


def test_intervals():
    assert text.interval([0.921, 0.88, 0.95]) == "0.921 (0.880–0.950)"
    assert text.interval([1.0, None, None]) == "1.000, too few labels for an interval"
    assert text.span([0.92, 0.88, 0.951]) == "92.0 % (88.0–95.1)"
    assert text.span(None) == "–"


@pytest.mark.parametrize(("value", "shown"), [(0, "0 B"), (812, "812 B"), (1.4e6, "1.4 MB"), (3.2e15, "3,200 TB")])
def test_size(value, shown):
    assert text.size(value) == shown


def test_every_reason_is_explained():
    assert set(EXPLANATIONS) == set(Reason)
    assert all(words.endswith(".") for words in EXPLANATIONS.values())
