"""All ledgers of a run in one pass: read in blocks by threads, counted block by block, never held as a whole."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np
import pyarrow as pa

from l2i_builder import storage
from l2i_builder.report.run import Run, ledger_of

Item = TypeVar("Item")
Job = TypeVar("Job")
SHARDS = 16  # of one task
BLOCK_ROWS = 50_000  # rows counted at a time, at least: enough to make Python's share small, some 10 MB
ENCODED = ("reason", "stage", "verdict", "mask_head", "inpainting_head")  # columns of few values: dictionaries
REMOTE_READERS = 32  # object stores answer slowly


@dataclass
class Block:
    """The ledgers of some shards as one table. lengths: rows of each of the shards ``numbers``."""

    numbers: list[int]
    lengths: list[int]
    ledger: pa.Table

    def codes(self, name: str) -> tuple[np.ndarray, list[str]]:
        """Return a column of ``ENCODED``: int64 [n], and the value that each number stands for."""
        chunks = self.ledger[name].chunks
        if not chunks:
            return np.zeros(0, np.int64), []
        return chunks[0].indices.to_numpy(zero_copy_only=False).astype(np.int64), chunks[0].dictionary.to_pylist()

    def counts(self, *names: str) -> dict[tuple[str, ...], int]:
        """Return how many rows have each combination of values of some columns of ``ENCODED``."""
        if not len(self.ledger):
            return {}
        joint, sizes = np.zeros(len(self.ledger), np.int64), []
        for name in names:
            codes, values = self.codes(name)
            joint = joint * len(values) + codes
            sizes.append(values)
        found = np.flatnonzero(counts := np.bincount(joint))
        places = np.unravel_index(found, [len(values) for values in sizes])
        keys = zip(*([values[i] for i in place] for values, place in zip(sizes, places, strict=True)), strict=True)
        return dict(zip(keys, counts[found].tolist(), strict=True))


def flag(codes: np.ndarray, values: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Return which rows have one of the wanted values, bool [n]; codes and values as of ``Block.codes``."""
    return np.array([value in wanted for value in values] or [False])[codes]


def scan(
    run: Run,
    columns: Sequence[str],
    count: Callable[[Iterator[Block]], Item],
    done: Callable[[int], None] = lambda shards: None,
) -> Iterator[Item]:
    """Yield ``count(blocks)`` for a few shards at a time, in order of the shards; threads read and count ahead.

    done: called with the number of shards whenever some are counted. Raises OutputError where a ledger is missing
    or damaged.
    """
    tasks = [run.finished[start : start + SHARDS] for start in range(0, len(run.finished), SHARDS)]
    readers = min(8, os.cpu_count() or 1) if storage.is_local(run.out) else REMOTE_READERS
    for task, item in zip(
        tasks, ahead(lambda task: count(_blocks(run.out, task, columns)), tasks, readers), strict=True
    ):
        done(len(task))
        yield item


def _blocks(out: str, numbers: Sequence[int], columns: Sequence[str]) -> Iterator[Block]:
    gathered: list[tuple[int, pa.Table]] = []
    for number in numbers:
        gathered.append((number, ledger_of(out, number, columns, [name for name in ENCODED if name in columns])))
        if sum(len(table) for _, table in gathered) >= BLOCK_ROWS:
            yield _block(gathered)
            gathered = []
    if gathered:
        yield _block(gathered)


def _block(gathered: list[tuple[int, pa.Table]]) -> Block:
    tables = [table for _, table in gathered]
    # Without the note on each ledger's own shard; one chunk a column is what the kernels are fast on.
    together = pa.concat_tables(table.replace_schema_metadata(None) for table in tables)
    together = together.unify_dictionaries().combine_chunks()
    return Block([number for number, _ in gathered], [len(table) for table in tables], together)


def ahead(read: Callable[[Job], Item], jobs: Iterable[Job], readers: int) -> Iterator[Item]:
    """Yield ``read(job)`` for each job, in order, as many of them under way in threads as there are readers."""
    with ThreadPoolExecutor(readers) as pool:
        started: deque[Future[Item]] = deque()
        waiting = iter(jobs)
        try:
            while True:
                started.extend(pool.submit(read, job) for job in islice(waiting, readers - len(started)))
                if not started:
                    return
                yield started.popleft().result()
        finally:
            for future in started:
                future.cancel()


def scan_reasons(run: Run) -> Counter[tuple[str, str]]:
    """Return (reason, stage) -> rows over the finished shards, with ("", "") for kept ones. Raises OutputError."""

    def count(blocks: Iterator[Block]) -> Counter[tuple[str, str]]:
        counts: Counter[tuple[str, str]] = Counter()
        for block in blocks:
            for (reason, stage), rows in block.counts("reason", "stage").items():
                counts[reason, stage if reason else ""] += rows
        return counts

    total: Counter[tuple[str, str]] = Counter()
    for counts in scan(run, ("reason", "stage"), count):
        total.update(counts)
    return total
