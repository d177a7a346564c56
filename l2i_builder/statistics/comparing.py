"""What changed between the statistics of two runs."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from l2i_builder import storage
from l2i_builder.errors import ConfigError
from l2i_builder.statistics import JSON_FILE
from l2i_builder.statistics.captions import pearson

_FIGURES: tuple[tuple[str, int, tuple[Any, ...]], ...] = (  # name, digits, where it is
    ("captions: words, median", 0, ("captions", "{}", "percentiles", 3)),
    ("captions: words, mean", 2, ("captions", "{}", "mean")),
    ("similarity in the metadata, mean", 4, ("similarity", "{}", "mean")),
    ("mask area at 0.5, mean", 3, ("areas", 1, "{}", "mean")),
    ("components at 0.5, mean", 3, ("components", 0, "{}", "mean")),
    ("components at 0.9, mean", 3, ("components", 1, "{}", "mean")),
    ("likeness of image and caption, mean", 4, ("likeness", "{}", "mean")),
    ("objects per image, mean", 2, ("objects", "{}", "mean")),
)


def read_statistics(where: str) -> dict[str, Any]:
    """Return the numbers of another run: its output folder, or its ``statistics.json``. Raises ConfigError."""
    url = where if where.endswith(".json") else storage.join(where, JSON_FILE)
    try:
        numbers = json.loads(storage.read_bytes(url, ConfigError))
        if not isinstance(numbers["words"]["list"], list) or not isinstance(numbers["areas"][1]["kept"], dict):
            raise TypeError("parts are missing")
    except (ValueError, KeyError, TypeError, IndexError) as problem:
        raise ConfigError(
            f"{url} holds no statistics ({problem}). Give a folder where `l2i stats` was run."
        ) from problem
    return numbers


def compared(numbers: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return figures of kept samples in both runs, with the change, and how alike their words and masks are.

    Two runs are compared however they were measured: "notes" says where settings, extractor or detector differ.
    """
    lines = []
    for name, digits, path in _FIGURES:
        for group in ("all", "kept"):
            before, now = (_at(run, path, group) for run in (other, numbers))
            if before is not None and now is not None:
                lines.append({"name": name, "group": group, "digits": digits, "before": before, "now": now})
    return {
        "run": str(other.get("run", "")),
        "lines": lines,
        "words": _words(other["words"]["list"], numbers["words"]["list"]),
        "areas": [
            {"threshold": now["threshold"], "moved": _moved(before["kept"]["counts"], now["kept"]["counts"])}
            for before, now in zip(other["areas"], numbers["areas"], strict=False)
        ],
        "notes": _notes(other, numbers),
    }


def _at(numbers: Any, path: tuple[Any, ...], group: str) -> float | None:
    for step in path:
        step = group if step == "{}" else step
        try:
            numbers = numbers[step]
        except (KeyError, IndexError, TypeError):
            return None
    return float(numbers) if isinstance(numbers, (int, float)) else None


def _words(before: list[list[Any]], now: list[list[Any]]) -> float | None:
    """Return Pearson's r of the frequencies in both runs' kept samples, over the top words of either."""
    counts = [{word: kept for word, _, kept in words} for words in (before, now)]
    words = sorted(set(counts[0]) | set(counts[1]))
    one, other = (np.array([count.get(word, 0) for word in words], np.float64) for count in counts)
    return pearson(one, other)


def _moved(before: list[int], now: list[int]) -> float | None:
    """Return the share of masks in other bins: half the sum of differences of the two histograms."""
    if not sum(before) or not sum(now) or len(before) != len(now):
        return None
    one, other = np.array(before) / sum(before), np.array(now) / sum(now)
    return float(np.abs(one - other).sum() / 2)


def _notes(other: dict[str, Any], numbers: dict[str, Any]) -> list[str]:
    notes = []
    for key in ("seed", "stop_words", "sample"):
        before, now = (run.get("settings", {}).get(key) for run in (other, numbers))
        if before != now:
            notes.append(f"{key.replace('_', ' ')}: {before} before, {now} now")
    for section, key in (("likeness", "extractor"), ("objects", "detector"), ("objects", "digest")):
        before, now = ((run.get(section) or {}).get(key) for run in (other, numbers))
        if before and now and before != now:
            notes.append(f"{key} of {section}: {before} before, {now} now; their numbers do not compare")
    return notes
