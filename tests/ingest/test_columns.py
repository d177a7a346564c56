"""Columns: those of the LAION family are found by alias, and what is missing is explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from laion import laion, rows_of, write

from l2i_builder.errors import MetadataError
from l2i_builder.sample import UNKNOWN


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        # LAION-5B joined, Aesthetics v1
        (
            {"URL": "u", "TEXT": "c", "WIDTH": 640, "HEIGHT": 480, "similarity": 0.3, "hash": 1, "punsafe": 0.1}
            | {"pwatermark": 0.2, "aesthetic": 6.5, "LANGUAGE": "en"},
            {"width": 640, "height": 480, "similarity": 0.3, "punsafe": 0.1, "pwatermark": 0.2, "aesthetic": 6.5}
            | {"language": "en"},
        ),
        # Aesthetics v2
        ({"URL": "u", "TEXT": "c", "AESTHETIC_SCORE": 5.5}, {"aesthetic": 5.5, "punsafe": UNKNOWN}),
        # Re-LAION
        ({"url": "u", "caption": "c"}, {}),
        # LAION-400M
        ({"SAMPLE_ID": 1.0, "URL": "u", "TEXT": "c", "NSFW": "UNLIKELY", "similarity": 0.3}, {"punsafe": 0.0}),
        # LAION-COCO
        ({"URL": "u", "TEXT": "alt", "top_caption": "c", "all_captions": ["c", "d"]}, {}),
        # COYO
        (
            {"url": "u", "text": "c", "watermark_score": 0.4, "aesthetic_score_laion_v2": 4.5}
            | {"clip_similarity_vitb32": 0.1, "clip_similarity_vitl14": 0.2, "nsfw_score_opennsfw2": 0.3},
            {"pwatermark": 0.4, "aesthetic": 4.5, "similarity": 0.2, "punsafe": 0.3},
        ),
        # img2dataset
        (
            {"url": "u", "caption": "c", "key": "000000001", "status": "success", "width": 256, "height": 256}
            | {"original_width": 800, "original_height": 600, "sha256": "AB" * 32},
            {"width": 800, "height": 600, "expected_sha256": "ab" * 32},
        ),
    ],
    ids=["laion-5b", "aesthetics-v2", "re-laion", "laion-400m", "laion-coco", "coyo", "img2dataset"],
)
def test_columns_of_the_laion_family_are_found(
    tmp_path: Path, columns: dict[str, Any], expected: dict[str, Any]
) -> None:
    write(tmp_path / "a.parquet", {name: [value] for name, value in columns.items()})
    row = rows_of(tmp_path, filter={"unknown_punsafe": "accept", "max_punsafe": 1})[0]
    assert (row.url, row.caption, row.reason) == ("u", "c", "")
    assert {name: getattr(row, name) for name in expected} == expected


def test_columns_are_found_whatever_their_case(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"uRl": ["u"], "Caption": ["c"], "PUNSAFE": [0.2]})
    row = rows_of(tmp_path)[0]
    assert (row.url, row.caption, row.punsafe) == ("u", "c", 0.2)


def test_columns_can_be_named(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"link": ["u"], "alt": ["c"], "url": ["other"], "risk": [0.2]})
    row = rows_of(tmp_path, columns={"url": "link", "caption": "ALT", "punsafe": "risk"})[0]
    assert (row.url, row.caption, row.punsafe) == ("u", "c", 0.2)


@pytest.mark.parametrize(
    ("columns", "named", "message"),
    [
        ({"link": ["u"], "text": ["c"]}, {}, r"no url column.*'link', 'text'.*ingest\.columns, e\.g\. \{url: "),
        ({"url": ["u"], "alt": ["c"]}, {}, r"no caption column.*'alt'.*\{caption: "),
        ({"a": ["u"]}, {}, r"no url and no caption column"),
        ({"url": ["u"], "text": ["c"]}, {"caption": "alt"}, r"no column 'alt' \(ingest\.columns\.caption\).*'text'"),
        ({"url": ["u"], "text": ["c"]}, {"title": "text"}, r"'title', which is no field.*caption"),
        ({"url": [1], "text": ["c"]}, {}, r"url column 'url' holds int64, not text"),
        ({"url": ["u"], "text": [["c"]]}, {}, r"caption column 'text' holds list.*not text"),
    ],
)
def test_a_missing_or_wrong_column_is_explained(
    tmp_path: Path, columns: dict[str, Any], named: dict[str, str], message: str
) -> None:
    write(tmp_path / "a.parquet", columns)
    with pytest.raises(MetadataError, match=message):
        rows_of(tmp_path, columns=named)


def test_a_file_may_lack_an_optional_column_that_others_have(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", laion(1, aesthetic=[6.0]))
    write(tmp_path / "b.parquet", laion(1, first=1))
    write(tmp_path / "c.parquet", laion(1, first=2, similarity=[0.3]))
    rows = rows_of(tmp_path)
    assert [row.aesthetic for row in rows] == [6.0, UNKNOWN, UNKNOWN]
    assert [row.similarity for row in rows] == [UNKNOWN, UNKNOWN, 0.3]


def test_files_that_call_a_column_differently_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"url": ["u"], "text": ["c"]})
    write(tmp_path / "b.parquet", {"url": ["u"], "caption": ["c"]})
    with pytest.raises(MetadataError, match=r"b\.parquet calls the caption column 'caption'.*'text'"):
        rows_of(tmp_path)
