"""Everything the report counts, added up block by block in constant memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from l2i_builder.report.bins import OUTCOMES, Histogram, Joint, distributions, score_edges
from l2i_builder.report.domains import Domains
from l2i_builder.report.drift import ShardCounts
from l2i_builder.report.scan import Block, flag
from l2i_builder.sample import UNKNOWN, Reason, Verdict

# Columns that are counted; the galleries read more, of few shards.
COLUMNS = (
    *("url", "width", "height", "aesthetic", "bytes", "original_width", "original_height"),
    *("mask_area", "mask_components", "mask_score", "inpainting_score", "mask_head", "inpainting_head"),
    *("audit", "verdict", "reason", "stage"),
)
FURTHER = ("layers", "peel_end")  # counted too where layers.count is above 2
JUDGES = ("mask", "inpainting")

_JUDGED = {"": 0, Reason.MASK_REJECTED.value: 1, Reason.INPAINTING_REJECTED.value: 2}  # positions in OUTCOMES
_COMPARED = {Verdict.KEPT.value: 0, Verdict.REJECTED.value: 1}  # groups of the distributions
_MEASURED = ("aesthetic", "mask_area", "mask_components")


class Aggregate:
    """Counts and bins over ledgers. Parts counted apart can be merged, in any order.

    mask_threshold, inpainting_threshold: the run's own, None where a judge is off or its threshold unknown.
    """

    def __init__(self, mask_threshold: float | None, inpainting_threshold: float | None) -> None:
        self.rows = 0
        self.counts: Counter[tuple[str, str]] = Counter()  # (reason, stage), ("", "") for kept
        self.verdicts: Counter[str] = Counter()
        self.heads: dict[str, Counter[str]] = {name: Counter() for name in JUDGES}  # head that scored -> rows
        mask_edges, inpainting_edges = score_edges(mask_threshold), score_edges(inpainting_threshold)
        even = score_edges(None, 50)
        self.scores = {name: Histogram(even, OUTCOMES) for name in JUDGES}
        self.density = Joint(score_edges(None, 40), score_edges(None, 40))
        self.both = Joint(mask_edges, inpainting_edges)  # rows with both scores
        self.audited = Joint(mask_edges, inpainting_edges)  # those of them in the audit slice
        self.mask_only = np.zeros(len(mask_edges) - 1, np.int64)  # rows whose mask alone was judged
        self.audit: Counter[str] = Counter()
        self.distributions = distributions()
        self.layers: Counter[int] = Counter()  # layers -> kept samples, where there may be more than two
        self.peel_ends: Counter[str] = Counter()  # of the kept samples
        self.domains = Domains()
        self.shards = ShardCounts()
        self.fetched_bytes = self.fetched_rows = 0
        self.seconds: Counter[str] = Counter()  # stage -> busy seconds
        self.images: Counter[str] = Counter()  # stage -> images

    def add(self, block: Block, stats: Sequence[Mapping[str, Any]]) -> None:
        """Count some shards. block: with ``COLUMNS``; stats: of each shard, {} where there are none."""
        ledger = block.ledger
        reasons, verdicts = block.codes("reason"), block.codes("verdict")
        kept, failed = flag(*reasons, [""]), flag(*verdicts, [Verdict.FAILED.value])
        self.rows += len(ledger)
        self._reasons(block)
        mask, inpainting = numbers(ledger, "mask_score"), numbers(ledger, "inpainting_score")
        self._judged(ledger, mask, inpainting, _renumbered(*reasons, _JUDGED))
        self._distributions(ledger, _renumbered(*verdicts, _COMPARED))
        if FURTHER[0] in ledger.column_names:
            found = ledger.select(FURTHER).filter(pa.array(kept))
            self.layers.update(found["layers"].to_pylist())
            self.peel_ends.update(found["peel_end"].to_pylist())
        self.domains.add(ledger["url"], failed, kept)
        sizes = numbers(ledger, "bytes")
        self.fetched_bytes += int(sizes[sizes > 0].sum())
        self.fetched_rows += int((sizes > 0).sum())
        attempts = [_attempts(one) for one in stats]
        self.shards.add(block, kept, failed, mask, inpainting, attempts)
        for one in stats:
            self.seconds.update(_by_stage(one, "seconds"))
            self.images.update({stage: int(count) for stage, count in _by_stage(one, "images").items()})

    def merge(self, other: Aggregate) -> None:
        """Add what another one counted, which has the same thresholds."""
        self.rows += other.rows
        for name in ("counts", "verdicts", "audit", "seconds", "images", "layers", "peel_ends"):
            getattr(self, name).update(getattr(other, name))
        for name in JUDGES:
            self.heads[name].update(other.heads[name])
            self.scores[name].counts += other.scores[name].counts
        for name in ("density", "both", "audited"):
            getattr(self, name).counts += getattr(other, name).counts
        for name, bins in self.distributions.items():
            bins.counts += other.distributions[name].counts
        self.mask_only += other.mask_only
        self.domains.merge(other.domains)
        self.shards.merge(other.shards)
        self.fetched_bytes += other.fetched_bytes
        self.fetched_rows += other.fetched_rows

    def _reasons(self, block: Block) -> None:
        counts = block.counts("reason", "stage", "verdict", "mask_head", "inpainting_head")
        for (reason, stage, verdict, *heads), rows in counts.items():
            self.counts[reason, stage if reason else ""] += rows
            self.verdicts[verdict] += rows
            for name, head in zip(JUDGES, heads, strict=True):
                if head:
                    self.heads[name][head] += rows

    def _judged(self, ledger: pa.Table, mask: np.ndarray, inpainting: np.ndarray, outcome: np.ndarray) -> None:
        """Scores by outcome; for the thresholds only rows which the judges decided, kept ones included."""
        for name, score in (("mask", mask), ("inpainting", inpainting)):
            known = score != UNKNOWN
            self.scores[name].add(score[known], np.where(outcome[known] < 0, 3, outcome[known]))
        scored = (mask != UNKNOWN) & (inpainting != UNKNOWN)
        self.density.add(mask[scored], inpainting[scored])
        decided = outcome >= 0
        # Unscored by a judge that is off: the lowest bin, under a slider that is not shown.
        through = decided & ((inpainting != UNKNOWN) | (outcome == 0))
        self.both.add(mask[through], inpainting[through])
        alone = decided & ~through
        bins = np.searchsorted(self.both.mask_edges[1:-1], mask[alone], side="right")
        self.mask_only += np.bincount(bins, minlength=len(self.mask_only))
        audit = flags(ledger["audit"])
        self.audited.add(mask[audit & through], inpainting[audit & through])
        self.audit["rows"] += int(audit.sum())
        self.audit["judged"] += int((audit & through).sum())
        self.audit["kept"] += int((audit & (outcome == 0)).sum())

    def _distributions(self, ledger: pa.Table, group: np.ndarray) -> None:
        some = group >= 0
        group = group[some]
        width, height = (_side(ledger, name)[some] for name in ("width", "height"))
        sized = (width > 0) & (height > 0)
        safe = np.where(sized, height, 1.0)
        columns = {
            "short_side": (np.minimum(width, height), sized),
            "aspect": (width / safe, sized),
            **{name: (values := numbers(ledger, name)[some], values != UNKNOWN) for name in _MEASURED},
        }
        for name, (values, known) in columns.items():
            self.distributions[name].add(values[known], group[known])


def numbers(ledger: pa.Table, name: str) -> np.ndarray:
    """Return a column of numbers as float64 [n]."""
    return ledger[name].to_numpy().astype(np.float64, copy=False)


def flags(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of truth values as bool [n]."""
    return column.to_numpy().astype(bool)


def _renumbered(codes: np.ndarray, values: Sequence[str], places: Mapping[str, int]) -> np.ndarray:
    """Return the place (int64 [n]) of each row's value, -1 for values without; codes as of ``Block.codes``."""
    return np.array([places.get(value, -1) for value in values] or [-1], np.int64)[codes]


def _side(ledger: pa.Table, name: str) -> np.ndarray:
    """Return "width" or "height" as decoded, else as in the metadata."""
    decoded = numbers(ledger, f"original_{name}")
    return np.where(decoded > 0, decoded, numbers(ledger, name))


def _by_stage(stats: Mapping[str, Any], name: str) -> dict[str, float]:
    values = stats.get(name)
    if not isinstance(values, dict):
        return {}
    return {str(key): float(value) for key, value in values.items() if isinstance(value, (int, float))}


def _attempts(stats: Mapping[str, Any]) -> int:
    attempt = stats.get("attempt")
    return attempt if isinstance(attempt, int) else 1
