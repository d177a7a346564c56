"""Everything the report counts, added up ledger by ledger in constant memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from l2i_builder.report.bins import OUTCOMES, Histogram, Joint, distributions, score_edges
from l2i_builder.sample import UNKNOWN, Reason, Verdict

# Columns that are counted; the galleries read more, of few shards.
COLUMNS = (
    *("url", "width", "height", "aesthetic", "bytes", "original_width", "original_height"),
    *("mask_area", "mask_components", "mask_score", "inpainting_score"),
    *("audit", "verdict", "reason", "stage", "detail"),
)

_JUDGED = {"": 0, Reason.MASK_REJECTED.value: 1, Reason.INPAINTING_REJECTED.value: 2}  # positions in OUTCOMES
_MEASURED = ("aesthetic", "mask_area", "mask_components")


@dataclass
class Domains:
    """Rows, failures and kept rows per host, for the most frequent hosts.

    Bounded: past ``limit`` hosts the rarest half is forgotten (lossy counting), and ``forgotten`` says how many
    rows a host that came back could be short of.
    """

    limit: int = 100_000
    counts: dict[str, np.ndarray] = field(default_factory=dict)  # host -> int64 [rows, failed, kept]
    forgotten: int = 0

    def add(self, hosts: pa.Array, failed: pa.Array, kept: pa.Array) -> None:
        """Count rows of one ledger. hosts: string; failed, kept: bool; all of one length."""
        table = pa.table({"host": hosts, "failed": failed.cast(pa.int64()), "kept": kept.cast(pa.int64())})
        grouped = table.group_by("host").aggregate([([], "count_all"), ("failed", "sum"), ("kept", "sum")])
        numbers = np.stack([grouped[name].to_numpy() for name in ("count_all", "failed_sum", "kept_sum")], axis=1)
        for host, line in zip(grouped["host"].to_pylist(), numbers, strict=True):
            if host in self.counts:
                self.counts[host] += line
            else:
                self.counts[host] = line.copy()
        if len(self.counts) > self.limit:
            self._forget()

    def _forget(self) -> None:
        ranked = sorted(self.counts.items(), key=lambda item: (-item[1][0], item[0]))
        self.forgotten += int(ranked[self.limit // 2][1][0])
        self.counts = dict(ranked[: self.limit // 2])


@dataclass
class ShardLine:
    """What one finished shard came to."""

    number: int
    rows: int
    kept: int
    failed: int
    attempts: int


class Aggregate:
    """Counts and bins over ledgers. ``add`` takes one shard at a time, in any order but the same for examples.

    mask_threshold, inpainting_threshold: the run's own, None where a judge is off or its threshold unknown.
    """

    def __init__(self, mask_threshold: float | None, inpainting_threshold: float | None) -> None:
        self.rows = 0
        self.counts: Counter[tuple[str, str]] = Counter()  # (reason, stage), ("", "") for kept
        self.verdicts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}  # reason -> a detail
        mask_edges, inpainting_edges = score_edges(mask_threshold), score_edges(inpainting_threshold)
        even = score_edges(None, 50)
        self.scores = {name: Histogram(even, OUTCOMES) for name in ("mask", "inpainting")}
        self.density = Joint(score_edges(None, 40), score_edges(None, 40))
        self.both = Joint(mask_edges, inpainting_edges)  # rows with both scores
        self.mask_only = np.zeros(len(mask_edges) - 1, np.int64)  # rows whose mask alone was judged
        self.audit = Counter[str]()
        self.distributions = distributions()
        self.domains = Domains()
        self.shards: list[ShardLine] = []
        self.fetched_bytes = self.fetched_rows = 0
        self.stored: Counter[str] = Counter()  # folder -> bytes
        self.seconds: dict[str, float] = {}  # stage -> busy seconds
        self.images: dict[str, int] = {}  # stage -> images

    def add(self, number: int, ledger: pa.Table, stats: Mapping[str, Any], files: Mapping[str, Any]) -> None:
        """Count one shard. ledger: ``COLUMNS`` as ``read_shard`` gives them; files: of its manifest."""
        verdict, reason = ledger["verdict"], ledger["reason"]
        kept, failed = pc.equal(reason, ""), pc.equal(verdict, Verdict.FAILED.value)
        self.rows += len(ledger)
        self._reasons(ledger)
        self._judged(ledger, _codes(reason, _JUDGED))
        self._distributions(ledger)
        self.domains.add(ledger["host"], failed, kept)
        sizes = _numbers(ledger, "bytes")
        self.fetched_bytes += int(sizes[sizes > 0].sum())
        self.fetched_rows += int((sizes > 0).sum())
        for name, file in files.items():
            self.stored[name.partition("/")[0]] += int(file.get("bytes", 0))
        for stage, seconds in _mapping(stats, "seconds"):
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        for stage, images in _mapping(stats, "images"):
            self.images[stage] = self.images.get(stage, 0) + int(images)
        attempt = stats.get("attempt")
        attempts = attempt if isinstance(attempt, int) else 1
        self.shards.append(ShardLine(number, len(ledger), _count(kept), _count(failed), attempts))

    def _reasons(self, ledger: pa.Table) -> None:
        grouped = ledger.group_by(["reason", "stage", "verdict"]).aggregate([([], "count_all")])
        for line in grouped.to_pylist():
            self.counts[line["reason"], line["stage"] if line["reason"] else ""] += line["count_all"]
            self.verdicts[line["verdict"]] += line["count_all"]
        for reason in set(grouped["reason"].to_pylist()) - set(self.examples) - {""}:
            told = pc.and_(pc.equal(ledger["reason"], reason), pc.not_equal(ledger["detail"], ""))
            details = ledger["detail"].filter(told)
            if len(details):
                self.examples[reason] = details[0].as_py()

    def _judged(self, ledger: pa.Table, outcome: np.ndarray) -> None:
        """Scores by outcome; for the thresholds only rows which the judges decided, kept ones included."""
        mask, inpainting = _numbers(ledger, "mask_score"), _numbers(ledger, "inpainting_score")
        for name, score in (("mask", mask), ("inpainting", inpainting)):
            self.scores[name].add(score, np.where(score != UNKNOWN, np.where(outcome < 0, 3, outcome), -1))
        scored = (mask != UNKNOWN) & (inpainting != UNKNOWN)
        self.density.add(mask[scored], inpainting[scored])
        decided = outcome >= 0
        # Unscored by a judge that is off: the lowest bin, under a slider that is not shown.
        through = decided & ((inpainting != UNKNOWN) | (outcome == 0))
        self.both.add(mask[through], inpainting[through])
        alone = decided & ~through
        self.mask_only += np.bincount(
            np.searchsorted(self.both.mask_edges[1:-1], mask[alone], side="right"), minlength=len(self.mask_only)
        )
        audit = ledger["audit"].to_numpy()
        self.audit["rows"] += int(audit.sum())
        self.audit["judged"] += int((audit & through).sum())
        self.audit["kept"] += int((audit & (outcome == 0)).sum())

    def _distributions(self, ledger: pa.Table) -> None:
        group = _codes(ledger["verdict"], {Verdict.KEPT.value: 0, Verdict.REJECTED.value: 1})
        width, height = (_side(ledger, name) for name in ("width", "height"))
        sized = (width > 0) & (height > 0)
        safe = np.where(sized, height, 1.0)
        columns = {
            "short_side": (np.minimum(width, height), sized),
            "aspect": (width / safe, sized),
            **{name: (values := _numbers(ledger, name), values != UNKNOWN) for name in _MEASURED},
        }
        for name, (values, known) in columns.items():
            self.distributions[name].add(values, np.where(known, group, -1))


def _codes(column: pa.ChunkedArray, codes: Mapping[str, int]) -> np.ndarray:
    """Return the code (int64 [n]) of each string, -1 for those without; codes count from 0 in order."""
    return pc.fill_null(pc.index_in(column, pa.array(list(codes))), -1).to_numpy().astype(np.int64)


def _numbers(ledger: pa.Table, name: str) -> np.ndarray:
    return ledger[name].to_numpy().astype(np.float64)


def _side(ledger: pa.Table, name: str) -> np.ndarray:
    """Return "width" or "height" as decoded, else as in the metadata."""
    decoded = _numbers(ledger, f"original_{name}")
    return np.where(decoded > 0, decoded, _numbers(ledger, name))


def _mapping(stats: Mapping[str, Any], name: str) -> list[tuple[str, float]]:
    values = stats.get(name)
    if not isinstance(values, dict):
        return []
    return [(str(key), float(value)) for key, value in values.items() if isinstance(value, (int, float))]


def _count(flags: pa.ChunkedArray) -> int:
    return pc.sum(flags).as_py() or 0
