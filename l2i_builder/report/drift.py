"""Shards that are unlike the others: counts of each, and how far each lies from the middle of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

from l2i_builder.metrics import spearman
from l2i_builder.report.scan import Block
from l2i_builder.sample import UNKNOWN

LISTED = 20
LEAST = 3.0  # |z| from which a shard is an outlier, at least
FALSE_ALARM = 0.05  # chance that a run without any drift has an outlier, by normal theory
TREND_FROM = 10  # shards that a trend needs
POINTS = 200  # of the chart of shards; more shards are averaged in groups of neighbours
MAD = 1.4826  # median absolute deviation -> standard deviation, of a normal distribution

_FIELDS: tuple[str, ...] = ("number", "rows", "kept", "failed", "mask_n", "mask_sum", "mask_squares")
_FIELDS += ("inpainting_n", "inpainting_sum", "inpainting_squares", "attempts")
# measure -> (its sum, its count, sum of squares: "" of a share)
MEASURES = {
    "kept share": ("kept", "rows", ""),
    "failed share": ("failed", "rows", ""),
    "mean mask score": ("mask_sum", "mask_n", "mask_squares"),
    "mean inpainting score": ("inpainting_sum", "inpainting_n", "inpainting_squares"),
}


@dataclass
class ShardCounts:
    """Counts and sums of each shard, one line of ``_FIELDS`` a shard: some 100 bytes."""

    lines: list[np.ndarray] = field(default_factory=list)  # float64 [shards, fields] each

    def add(
        self,
        block: Block,
        kept: np.ndarray,
        failed: np.ndarray,
        mask: np.ndarray,
        inpainting: np.ndarray,
        attempts: Sequence[int],
    ) -> None:
        """Count the rows of a block. kept, failed bool [n]; scores float64 [n], UNKNOWN where there is none."""
        count = len(block.numbers)
        shard = np.repeat(np.arange(count), block.lengths)

        def total(weights: np.ndarray) -> np.ndarray:
            return np.bincount(shard, weights, minlength=count)

        columns = [np.array(block.numbers), np.array(block.lengths), total(kept), total(failed)]
        for score in (mask, inpainting):
            known = np.where(score == UNKNOWN, 0.0, score)
            columns += [total(score != UNKNOWN), total(known), total(known**2)]
        self.lines.append(np.stack([*columns, np.array(attempts)], axis=1).astype(np.float64))

    def merge(self, other: ShardCounts) -> None:
        """Add the shards that another one counted."""
        self.lines += other.lines

    def column(self, name: str) -> np.ndarray:
        """Return one field of all shards, float64 [shards], in order of their numbers."""
        if len(self.lines) != 1:
            lines = np.concatenate([np.empty((0, len(_FIELDS))), *self.lines])
            self.lines = [lines[np.argsort(lines[:, 0], kind="stable")]]
        return self.lines[0][:, _FIELDS.index(name)]

    def __len__(self) -> int:
        return sum(map(len, self.lines))


def summarize_shards(shards: ShardCounts) -> dict[str, Any]:
    """Return the shards farthest from the middle of the run, by the most unusual of their measures."""
    if not len(shards):
        return {"shards": 0, "share": 0.0, "outliers": 0, "retried": 0, "limit": LEAST, "list": [], "points": []}
    values, scores = zip(*(robust_z(shards, *parts) for parts in MEASURES.values()), strict=True)
    z = np.stack(scores)  # [measures, shards]
    worst = np.abs(z).argmax(axis=0)
    far = np.abs(z).max(axis=0)
    limit = outlier_limit(z.size)
    rows, kept, failed = (shards.column(name) for name in ("rows", "kept", "failed"))
    names = list(MEASURES)
    return {
        "shards": len(shards),
        "share": _share(kept.sum(), rows.sum()),
        "outliers": int((far >= limit).sum()),
        "retried": int((shards.column("attempts") > 1).sum()),
        "limit": round(limit, 2),
        "middle": {name: _number(np.median(value[np.isfinite(value)])) if np.isfinite(value).any() else None
                   for name, value in zip(names, values, strict=True)},
        "trend": trend(values[0]),
        "list": [
            {
                "shard": int(shards.column("number")[i]),
                "rows": int(rows[i]),
                "kept": int(kept[i]),
                "failed": int(failed[i]),
                "share": _share(kept[i], rows[i]),
                "measures": {name: _number(value[i]) for name, value in zip(names, values, strict=True)},
                "z": {name: round(float(one[i]), 2) for name, one in zip(names, z, strict=True)},
                "worst": names[worst[i]],
                "outlier": bool(far[i] >= limit),
                "attempts": int(shards.column("attempts")[i]),
            }
            for i in np.argsort(-far, kind="stable")[:LISTED]
        ],
        "points": points(shards),
    }  # fmt: skip


def robust_z(shards: ShardCounts, total: str, count: str, squares: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a measure of each shard and its robust z, float64 [shards] each; NaN and 0 where nothing was counted.

    z = (value - median) / spread. spread: the larger of 1.4826 x the median absolute deviation from the median,
    and of what chance alone explains at the shard's size, so that neither a varied input nor few rows raise an
    alarm by themselves. The median is of the shards, the chance from all rows together.
    """
    sums, n = shards.column(total), shards.column(count)
    known = n > 0
    value = np.where(known, sums / np.maximum(n, 1), np.nan)
    if not known.any():
        return value, np.zeros(len(value))
    mean = sums.sum() / n.sum()
    variance = mean * (1 - mean) if not squares else shards.column(squares).sum() / n.sum() - mean**2
    chance = np.sqrt(max(variance, 0.0) / np.maximum(n, 1))
    middle = float(np.median(value[known]))
    spread = np.maximum(chance, MAD * float(np.median(np.abs(value[known] - middle))))
    z = np.where(known & (spread > 0), (value - middle) / np.where(spread > 0, spread, 1), 0.0)
    return value, np.nan_to_num(z)


def outlier_limit(compared: int) -> float:
    """Return the |z| that a run without drift passes once in twenty reports, of so many values; at least LEAST."""
    return max(LEAST, NormalDist().inv_cdf(1 - FALSE_ALARM / (2 * max(1, compared))))


def trend(value: np.ndarray) -> float | None:
    """Return Spearman's rank correlation of a measure with the shard's place in the run, None of few shards."""
    known = np.isfinite(value)
    if known.sum() < TREND_FROM:
        return None
    return _number(spearman(np.flatnonzero(known).astype(np.float64), value[known]))


def points(shards: ShardCounts) -> list[dict[str, Any]]:
    """Return kept and failed shares of at most POINTS groups of neighbouring shards."""
    number, rows, kept, failed = (shards.column(name) for name in ("number", "rows", "kept", "failed"))
    size = -(-len(number) // POINTS)
    found = []
    for start in range(0, len(number), size):
        group = slice(start, start + size)
        found.append(
            {
                "first": int(number[group][0]),
                "last": int(number[group][-1]),
                "kept": _share(kept[group].sum(), rows[group].sum()),
                "failed": _share(failed[group].sum(), rows[group].sum()),
            }
        )
    return found


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0


def _number(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None
