"""Metadata values: whatever a column holds becomes a Row, refused or not; nothing breaks, nothing is lost."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from laion import laion, one_row, rows_of, write

from l2i_builder.sample import UNKNOWN, Reason, key_fraction


def test_null_urls_and_captions_are_refused_rows_not_lost_ones(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"url": [None, "u", None], "text": ["c", None, None], "punsafe": [0.1] * 3})
    assert [row.reason for row in rows_of(tmp_path)] == [Reason.BAD_URL, Reason.BAD_CAPTION, Reason.BAD_URL]


def test_columns_of_nothing_but_nulls_are_refused_rows(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"url": pa.nulls(3), "text": pa.nulls(3)})
    assert [row.reason for row in rows_of(tmp_path)] == [Reason.BAD_URL] * 3


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())),
        *(pa.binary(), pa.large_binary(), pa.binary_view()),
    ],
    ids=str,
)
def test_text_of_every_arrow_type_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    texts = pa.array(["caption é", None, "emoji 🙂"]).cast(pa.binary() if "binary" in str(kind) else pa.string())
    write(tmp_path / "a.parquet", {"url": ["u"] * 3, "text": texts.cast(kind), "punsafe": [0.1] * 3})
    assert [row.caption for row in rows_of(tmp_path)] == ["caption é", "", "emoji 🙂"]


def test_text_that_is_not_utf8_becomes_well_formed(tmp_path: Path) -> None:
    broken = [b"caption \xed\xa0\x80 surrogate", b"\xff\xfe latin", b"nul \x00 byte", "right ‮ left".encode()]
    bytes_of = pa.array(broken, pa.binary())
    as_text = pa.StringArray.from_buffers(len(broken), bytes_of.buffers()[1], bytes_of.buffers()[2])
    write(tmp_path / "a.parquet", {"url": ["http://a.test/1"] * 4, "text": as_text, "punsafe": [0.1] * 4})
    rows = rows_of(tmp_path)
    for row in rows:
        row.caption.encode("utf-8")
    assert [row.kept for row in rows] == [True] * 4
    assert rows[1].caption == "\ufffd\ufffd latin"
    assert rows[2].caption == "nul \0 byte"


@pytest.mark.parametrize(
    ("value", "width"),
    [
        *((512, 512), (512.0, 512), ("512", 512), (decimal.Decimal(512), 512), (None, UNKNOWN), ("wide", UNKNOWN)),
        *((float("nan"), UNKNOWN), (float("inf"), UNKNOWN), (-3, UNKNOWN), (0, UNKNOWN), (2**62, UNKNOWN)),
        *(([512], UNKNOWN), ({"x": 1}, UNKNOWN), (True, UNKNOWN), (datetime.date(2020, 1, 1), UNKNOWN)),
    ],
    ids=str,
)
def test_sizes_of_any_type_are_numbers_or_unknown(tmp_path: Path, value: Any, width: int) -> None:
    assert one_row(tmp_path, WIDTH=value).width == width


@pytest.mark.parametrize(
    ("value", "punsafe"),
    [(0.3, 0.3), ("0.3", 0.3), (None, -1), (float("nan"), -1), (1.5, -1), (-0.1, -1), ("high", -1), ([0.3], -1)],
    ids=str,
)
def test_probabilities_of_any_type_are_in_0_1_or_unknown(tmp_path: Path, value: Any, punsafe: float) -> None:
    assert one_row(tmp_path, punsafe=value).punsafe == punsafe


def test_dates_that_python_has_no_type_for_are_unknown(tmp_path: Path) -> None:
    far = pa.array([2**60], pa.timestamp("ms"))
    write(tmp_path / "a.parquet", laion(1, similarity=far))
    assert rows_of(tmp_path)[0].similarity == UNKNOWN


@pytest.mark.parametrize("digest", ["xyz", "ab" * 31, None, 7])
def test_a_digest_that_is_none_is_unknown(tmp_path: Path, digest: Any) -> None:
    assert one_row(tmp_path, sha256=digest).expected_sha256 == ""


def test_the_url_is_kept_as_it_is_for_the_fetcher(tmp_path: Path) -> None:
    assert one_row(tmp_path, URL="http://user:pass@a.test/x ").url == "http://user:pass@a.test/x "


# filters


@pytest.mark.parametrize(
    ("filters", "columns", "reason"),
    [
        ({}, {"TEXT": ""}, "bad_caption"),
        ({}, {"TEXT": " \n\t"}, "bad_caption"),
        ({"max_caption_chars": 5}, {"TEXT": "123456"}, "bad_caption"),
        ({"max_caption_chars": 6}, {"TEXT": "123456"}, ""),
        ({}, {"URL": ""}, "bad_url"),
        ({}, {"punsafe": 0.46}, "unsafe"),
        ({}, {"punsafe": 0.45}, ""),
        ({}, {"punsafe": None}, "unsafe"),
        ({"unknown_punsafe": "accept"}, {"punsafe": None}, ""),
        ({"unknown_punsafe": "accept"}, {"punsafe": 0.9}, "unsafe"),
        ({"min_size": 256}, {"WIDTH": 300, "HEIGHT": 255}, "too_small"),
        ({"min_size": 256}, {"WIDTH": 300, "HEIGHT": 256}, ""),
        ({"min_size": 256}, {"WIDTH": 255}, "too_small"),
        ({"min_size": 256}, {}, ""),
        ({"max_aspect": 2}, {"WIDTH": 201, "HEIGHT": 100}, "bad_aspect"),
        ({"max_aspect": 2}, {"WIDTH": 100, "HEIGHT": 201}, "bad_aspect"),
        ({"max_aspect": 2}, {"WIDTH": 200, "HEIGHT": 100}, ""),
        ({"max_aspect": 2}, {"WIDTH": 200}, ""),
        ({}, {"WIDTH": 9000, "HEIGHT": 1}, ""),
        ({"min_aesthetic": 5}, {"aesthetic": 4.99}, "low_aesthetic"),
        ({"min_aesthetic": 5}, {"aesthetic": 5.0}, ""),
        ({"min_aesthetic": 5}, {}, ""),
        ({"min_similarity": 0.28}, {"similarity": 0.27}, "low_similarity"),
        ({"min_similarity": 0.28}, {"similarity": 0.28}, ""),
        ({"min_similarity": 0.28}, {}, ""),
        ({"max_pwatermark": 0.8}, {"pwatermark": 0.81}, "watermark"),
        ({"max_pwatermark": 0.8}, {"pwatermark": 0.8}, ""),
        ({"max_pwatermark": 0.8}, {}, ""),
        ({}, {"pwatermark": 1.0}, ""),
        ({"languages": ["en", "DE"]}, {"LANGUAGE": "fr"}, "wrong_language"),
        ({"languages": ["en", "DE"]}, {"LANGUAGE": "de"}, ""),
        ({"languages": ["en"]}, {"LANGUAGE": None}, ""),
        ({"languages": []}, {"LANGUAGE": "fr"}, ""),
    ],
)
def test_filters(tmp_path: Path, filters: dict[str, Any], columns: dict[str, Any], reason: str) -> None:
    row = one_row(tmp_path, filters, **columns)
    assert row.reason == reason
    assert (row.stage, row.verdict) == (("ingest", Reason(reason).verdict) if reason else ("", "kept"))


@pytest.mark.parametrize(
    ("label", "reason"),
    [("UNLIKELY", ""), ("unlikely", ""), ("UNSURE", "unsafe"), ("NSFW", "unsafe"), ("", "unsafe"), (None, "unsafe")],
)
def test_laion_400m_s_nsfw_verdict_stands_for_punsafe(tmp_path: Path, label: str | None, reason: str) -> None:
    write(tmp_path / "a.parquet", {"URL": ["u"], "TEXT": ["c"], "NSFW": pa.array([label], pa.string())})
    assert rows_of(tmp_path)[0].reason == reason


def test_a_punsafe_column_goes_before_an_nsfw_one(tmp_path: Path) -> None:
    assert one_row(tmp_path, NSFW="NSFW", punsafe=0.1).kept


def test_a_refused_row_keeps_its_place_and_a_word_of_why(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", laion(3, aesthetic=[6.0, 4.0, 6.0]))
    rows = rows_of(tmp_path, filter={"min_aesthetic": 5})
    assert [(row.index, row.kept) for row in rows] == [(0, True), (1, False), (2, True)]
    assert rows[1].detail == "aesthetic 4.000 < 5.0"


@pytest.mark.parametrize("rate", [0.0, 0.25, 1.0])
def test_the_audit_slice_is_drawn_by_key(tmp_path: Path, rate: float) -> None:
    write(tmp_path / "a.parquet", laion(2000))
    rows = rows_of(tmp_path, audit_rate=rate)
    assert [row.audit for row in rows] == [key_fraction(row.key, "audit") < rate for row in rows]
    assert abs(sum(row.audit for row in rows) / 2000 - rate) < 0.04
