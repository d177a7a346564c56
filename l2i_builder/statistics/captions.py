"""Captions as the paper counts them: words without stop words, symbols and punctuation; their number and frequency."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from l2i_builder import storage
from l2i_builder.errors import ConfigError

PERCENTILES = (1, 10, 25, 50, 75, 90, 99)  # the paper's
TOP = 5_000  # words whose frequencies are compared (paper)
LISTED = 20  # words in the table for people
LONGEST = 40  # words; the last bin of the histogram holds longer captions too
_STOP_WORDS = Path(__file__).with_name("stopwords.txt")
_NO_WORD = r"[^\p{L}\p{M}\p{N}]+"  # symbols, punctuation, controls: between words


def read_stop_words(url: str = "") -> pa.Array:
    """Return the words of a file, # begins a comment; "" = the project's English list. Raises ConfigError."""
    data = storage.read_bytes(url, ConfigError) if url else _STOP_WORDS.read_bytes()
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError as problem:
        raise ConfigError(
            f"{url} is no UTF-8 text. Give a file with stop words, separated by spaces or lines."
        ) from problem
    words = {word.lower() for line in lines for word in line.partition("#")[0].split()}
    return pa.array(sorted(words), pa.string())


def words(captions: pa.ChunkedArray, stop: pa.Array) -> tuple[pa.ChunkedArray, np.ndarray]:
    """Return the words of all captions one after another, and how many each caption has, int64 [n].

    Lower case; split at whatever is neither letter nor digit, also at apostrophes; without stop words. Scripts that put
    no spaces between words count as one word from one space to the next.
    """
    clean = pc.utf8_trim_whitespace(pc.replace_substring_regex(pc.utf8_lower(captions), _NO_WORD, " "))
    if isinstance(clean, pa.ChunkedArray):
        clean = clean.combine_chunks()
    split = pc.split_pattern(clean, " ")
    flat, owner = pc.list_flatten(split), pc.list_parent_indices(split)
    counts = pc.and_(pc.not_equal(flat, ""), pc.invert(pc.is_in(flat, value_set=stop)))
    flat, owner = flat.filter(counts), owner.filter(counts)
    return flat, np.bincount(owner.to_numpy(), minlength=len(captions)).astype(np.int64)


def lengths(counts: np.ndarray) -> dict[str, Any]:
    """Return the percentiles, mean and histogram of words per caption. counts: int64 [n]."""
    if not len(counts):
        return {"captions": 0, "percentiles": None, "mean": None, "histogram": [0] * (LONGEST + 1)}
    values = np.percentile(counts, PERCENTILES, method="inverted_cdf")
    histogram = np.bincount(np.minimum(counts, LONGEST), minlength=LONGEST + 1)
    return {
        "captions": len(counts),
        "percentiles": [int(value) for value in values],
        "mean": float(counts.mean()),
        "histogram": histogram.tolist(),
    }


def frequencies(found: dict[str, pa.Array]) -> dict[str, Any]:
    """Compare the frequencies of the words that are most frequent in "all". found: group -> its words.

    "pearson": of the relative frequencies of the top words in all and kept; None of fewer than three words, or where
    they do not vary.
    """
    counted = {}
    for name, flat in found.items():
        pairs = pc.value_counts(flat)
        counted[name] = dict(zip(pairs.field("values").to_pylist(), pairs.field("counts").to_pylist(), strict=True))
    ranked = sorted(counted["all"].items(), key=lambda item: (-item[1], item[0]))[:TOP]
    listed = [[word, count, counted["kept"].get(word, 0)] for word, count in ranked]
    totals = {name: len(flat) for name, flat in found.items()}
    table = np.array([line[1:] for line in listed], np.float64).reshape(-1, 2)
    return {
        "asked": TOP,
        "top": len(listed),
        "words": totals,
        "distinct": {name: len(counts) for name, counts in counted.items()},
        "pearson": pearson(table[:, 0], table[:, 1]),
        "list": listed,
    }


def pearson(one: np.ndarray, other: np.ndarray) -> float | None:
    """Return Pearson's r of two series, None where it is not defined. float64 [n] each."""
    if len(one) < 3 or not one.std() or not other.std():
        return None
    return float(np.corrcoef(one, other)[0, 1])
