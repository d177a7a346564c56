"""Comparing two versions: which keys came and went, whose verdict, file or pictures changed.

Memory does not grow with the datasets: rows are dealt into parts by key, on disk where there are many.
"""

from __future__ import annotations

import heapq
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from l2i_builder import storage
from l2i_builder.diff.sides import COLUMNS, Side, open_side
from l2i_builder.diff.spill import Spill, parts_for
from l2i_builder.output.manifest import difference
from l2i_builder.sample import Reason

EXAMPLES = 5  # of each kind, those with the lowest keys
KINDS = ("added", "removed", "verdict", "content", "pixels", "split", "caption")
ROWS = pa.schema([pa.field(name, pa.string()) for name in COLUMNS])
LIST = pa.schema([pa.field(name, pa.string()) for name in ("key", "what", "before", "after")])
CAPTIONED = pa.schema([pa.field(name, pa.string()) for name in ("key", "url")])

Progress = Callable[[int, int], None]  # rows read, of how many


@dataclass
class Difference:
    """What differs. counts: of ``KINDS``; common: keys of both; verdicts: (before, after) -> rows, "kept" or a reason;
    settings: as of ``manifest.difference``; examples: kind -> lines of the list."""

    a: Side
    b: Side
    common: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    settings: list[str] = field(default_factory=list)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        """Whether both hold the same samples with the same verdicts and pictures, whatever they were made with."""
        return not any(self.counts.values())

    @property
    def funnel(self) -> list[dict[str, Any]]:
        """Return the rows left after each step on both sides."""
        a, b = dict(self.a.funnel.rows), dict(self.b.funnel.rows)
        return [{"step": step, "a": a.get(step), "b": b.get(step)} for step in dict.fromkeys([*a, *b])]

    def to_json(self) -> dict[str, Any]:
        sides = {
            name: {"name": side.name, "published": side.published, "digest": side.digest, "rows": side.rows}
            for name, side in (("a", self.a), ("b", self.b))
        }
        changes = sorted(self.verdicts.items(), key=lambda item: (-item[1], item[0]))
        return sides | {
            "same": self.same,
            "common": self.common,
            **{kind: self.counts[kind] for kind in KINDS},
            "verdicts": [{"before": before, "after": after, "rows": rows} for (before, after), rows in changes],
            "funnel": self.funnel,
            "settings": self.settings,
            "examples": self.examples,
        }


def compare(
    a: str, b: str, listed: str = "", progress: Progress = lambda done, total: None, part_rows: int | None = None
) -> Difference:
    """Compare two versions, each an output folder or a published one; of one of each, kept samples alone.

    listed: also write every difference to this parquet file: key, what (one of ``KINDS``), before, after. part_rows:
    rows of a part, to try what happens with many. Raises OutputError where one of them is no version, or damaged.
    """
    sides = (open_side(a), open_side(b))
    result = Difference(*sides, settings=difference(sides[0].settings, sides[1].settings))
    rows = sum(side.rows for side in sides)
    parts = parts_for(rows) if part_rows is None else max(1, -(-rows // part_rows))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="l2i-diff-")))
        sink: _Sink = _Sink(result, stack.enter_context(storage.create(listed)) if listed else None)
        stack.callback(sink.close)
        dealt = [Spill(folder, name, "key", parts) for name in "ab"]
        _deal(sides, dealt, progress)
        moved = [Spill(folder, f"{name}-urls", "url", parts) for name in "ab"]
        for number in range(parts):
            left, right = (_unique(spill.part(number, ROWS)) for spill in dealt)
            for spill, gone in zip(moved, _compare_part(left, right, result, sink), strict=True):
                spill.add(gone)
        for spill in moved:
            spill.close()
        for number in range(parts):
            _captions(moved[0].part(number, CAPTIONED), moved[1].part(number, CAPTIONED), result, sink)
    return result


def _deal(sides: tuple[Side, Side], dealt: list[Spill], progress: Progress) -> None:
    done, total = 0, sum(side.rows for side in sides)
    only_kept = sides[0].published != sides[1].published
    for side, spill in zip(sides, dealt, strict=True):
        for table in side.read():
            done += len(table)
            spill.add(table.filter(pc.equal(table["reason"], "")) if only_kept else table)
            progress(done, total)
        spill.close()


def _unique(table: pa.Table) -> pa.Table:
    """Return one row for each key, sorted: the kept one, or what was refused as something else than a duplicate."""
    reasons = table["reason"]
    rank = pc.if_else(pc.equal(reasons, ""), 0, pc.if_else(pc.equal(reasons, Reason.DUPLICATE.value), 2, 1))
    table = table.append_column("rank", rank).sort_by([("key", "ascending"), ("rank", "ascending")])
    keys = _keys(table)
    first = np.ones(len(keys), bool)
    first[1:] = keys[1:] != keys[:-1]
    return table.filter(pa.array(first)).combine_chunks()


def _compare_part(left: pa.Table, right: pa.Table, result: Difference, sink: _Sink) -> tuple[pa.Table, pa.Table]:
    """Compare the rows of one part; return keys and URLs of those that only one side has."""
    a, b = _keys(left), _keys(right)
    _, i, j = np.intersect1d(a, b, assume_unique=True, return_indices=True)
    result.common += len(i)
    before, after = left.take(pa.array(i)), right.take(pa.array(j))
    for name, kind in (("reason", "verdict"), ("sha256", "content"), ("pixels", "pixels"), ("split", "split")):
        other = pc.not_equal(before[name], after[name])
        if name != "reason":  # "" is not known, and no difference
            known = pc.and_(pc.not_equal(before[name], ""), pc.not_equal(after[name], ""))
            other = pc.and_(other, known)
        old, new = before.filter(other), after.filter(other)
        words = (_words(old[name]), _words(new[name])) if kind == "verdict" else (old[name], new[name])
        if kind == "verdict":
            result.verdicts.update(zip(words[0].to_pylist(), words[1].to_pylist(), strict=True))
        sink.add(kind, old["key"], *words)
    alone = []
    for kind, table, shared in (("removed", left, i), ("added", right, j)):
        only = np.ones(len(table), bool)
        only[shared] = False
        rows = table.filter(pa.array(only))
        empty, words = pa.array([""] * len(rows), pa.string()), _words(rows["reason"])
        sink.add(kind, rows["key"], *((words, empty) if kind == "removed" else (empty, words)))
        alone.append(rows.select(["key", "url"]).filter(pc.not_equal(rows["url"], "")))
    return alone[0], alone[1]


def _captions(removed: pa.Table, added: pa.Table, result: Difference, sink: _Sink) -> None:
    """Count URLs that went with one caption and came with another: a key is a hash of both."""
    urls = pc.unique(removed["url"])
    back = added.filter(pc.is_in(added["url"], urls)).sort_by("key")
    first = np.unique(np.array(back["url"].to_pylist(), dtype=object).astype(str), return_index=True)[1]
    back = back.take(pa.array(np.sort(first), pa.int64()))
    old = removed.sort_by("key")
    place = pc.index_in(back["url"], old["url"])
    sink.add("caption", back["key"], old["key"].take(place), back["key"])


class _Sink:
    """Counts differences, keeps the first few, and writes them all to a file where one is given."""

    def __init__(self, result: Difference, file: IO[bytes] | None) -> None:
        self.result = result
        self.writer = pq.ParquetWriter(file, LIST, compression="zstd") if file else None

    def add(self, kind: str, keys: pa.ChunkedArray, before: Any, after: Any) -> None:
        if not len(keys):
            return
        self.result.counts[kind] += len(keys)
        what = pa.array([kind] * len(keys), pa.string())
        table = pa.table({"key": keys, "what": what, "before": before, "after": after}, schema=LIST)
        if self.writer:
            self.writer.write_table(table)
        lowest = table.take(pc.select_k_unstable(table, EXAMPLES, [("key", "ascending")])).to_pylist()
        lines = [*self.result.examples.get(kind, []), *lowest]
        self.result.examples[kind] = heapq.nsmallest(EXAMPLES, lines, key=lambda line: line["key"])

    def close(self) -> None:
        if self.writer:
            self.writer.close()


def _words(reasons: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(reasons, ""), "kept", reasons)


def _keys(table: pa.Table) -> np.ndarray:
    return np.array(table["key"].to_pylist() or [""], dtype=np.bytes_)[: len(table)]
