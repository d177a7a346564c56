"""Words of captions: what counts as one, how many there are, and how alike two sets of captions are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from l2i_builder.errors import ConfigError
from l2i_builder.statistics.captions import PERCENTILES, frequencies, lengths, pearson, read_stop_words, words

STOP = read_stop_words()


def found(*captions: str) -> list[list[str]]:
    flat, counts = words(pa.chunked_array([list(captions)], pa.string()), STOP)
    parts = np.split(np.array(flat.to_pylist(), object), np.cumsum(counts)[:-1])
    return [part.tolist() for part in parts]


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A dog, on the BEACH!", ["dog", "beach"]),
        ("It's the dog's bone -- isn’t it?", ["dog", "bone"]),
        ("50% off: $9.99 | shop-now", ["50", "9", "99", "shop"]),
        ("Ein Café für Žižek; 猫が好き", ["ein", "café", "für", "žižek", "猫が好き"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("the of and", []),
        ("  \t\n !!! ", []),
        ("", []),
    ],
)
def test_words_are_lower_case_without_stop_words_symbols_and_punctuation(caption: str, expected: list[str]) -> None:
    assert found(caption) == [expected]


def test_every_caption_has_its_own_count_also_those_without_words() -> None:
    assert found("red cat", "", "the", "blue bird house") == [["red", "cat"], [], [], ["blue", "bird", "house"]]


def test_lengths_are_the_papers_percentiles() -> None:
    line = lengths(np.arange(1, 101))
    assert line["percentiles"] == list(PERCENTILES)
    assert line["mean"] == 50.5
    assert sum(line["histogram"]) == 100
    assert line["histogram"][-1] == 61  # 40 words and more
    assert lengths(np.zeros(0, np.int64))["percentiles"] is None


def test_frequencies_are_compared_over_the_words_that_are_most_frequent_in_all() -> None:
    every = pa.array(["a"] * 50 + ["b"] * 30 + ["c"] * 20 + [f"w{i}" for i in range(6000)])
    kept = pa.array(["a"] * 25 + ["b"] * 15 + ["c"] * 10 + ["never seen"])
    result = frequencies({"all": every, "kept": kept})
    assert result["top"] == 5000
    assert result["list"][:3] == [["a", 50, 25], ["b", 30, 15], ["c", 20, 10]]
    assert result["pearson"] == pytest.approx(
        np.corrcoef(*np.array(result["list"], object)[:, 1:].T.astype(float))[0, 1]
    )
    assert result["distinct"] == {"all": 6003, "kept": 4}


def test_kept_captions_with_the_same_words_correlate_fully_and_without_words_not_at_all() -> None:
    some = pa.array(["a", "a", "a", "b", "b", "c"])
    assert frequencies({"all": some, "kept": some})["pearson"] == pytest.approx(1)
    assert frequencies({"all": some, "kept": pa.array([], pa.string())})["pearson"] is None
    assert pearson(np.ones(5), np.arange(5.0)) is None


def test_other_stop_words_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("der die  # articles\nDas\n", "utf-8")
    assert read_stop_words(str(tmp_path / "words")).to_pylist() == ["das", "der", "die"]
    (tmp_path / "words").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_stop_words(str(tmp_path / "words"))
    with pytest.raises(ConfigError, match="Check the path"):
        read_stop_words(str(tmp_path / "missing"))
