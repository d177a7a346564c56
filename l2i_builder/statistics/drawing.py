"""The seeded sample: which rows and which images are looked at. A hash of key and seed decides, whatever the order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from l2i_builder.output.manifest import ShardManifest, read_manifest
from l2i_builder.report.run import Run, ledger_of
from l2i_builder.report.scan import Block, ahead, scan
from l2i_builder.sample import NEVER_SHOWN

COLUMNS = ("key", "caption", "similarity", "reason", "mask_area")
READERS = 16
FEWEST_SHARDS = 256  # that images are drawn from, where there are so many
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def draws(keys: pa.ChunkedArray, seed: int) -> np.ndarray:
    """Return a number in [0, 1) for each key, float64 [n], of key and seed alone: an FNV hash, mixed as splitmix64."""
    letters = _letters(keys)
    mixed = np.full(len(keys), (seed * 0x9E3779B97F4A7C15 + 0xCBF29CE484222325) % 2**64, np.uint64)
    for letter in letters.T:
        mixed = np.where(letter, mixed * np.uint64(0x100000001B3) ^ letter, mixed)
    for shift, factor in zip((30, 27), _FACTORS, strict=True):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * factor
    return (mixed ^ (mixed >> np.uint64(31))).astype(np.float64) / 2**64


def _letters(keys: pa.ChunkedArray) -> np.ndarray:
    """Return keys as bytes, uint8 [n, longest], padded with zeros."""
    lengths = pc.binary_length(keys).to_numpy()
    if not len(keys) or lengths.min() != lengths.max():
        return np.array(keys.to_pylist() or [""], np.bytes_).reshape(-1, 1).view(np.uint8)[: len(keys)]
    parts = [chunk for chunk in keys.chunks if len(chunk)]
    views = []
    for chunk in parts:  # all of one length: no copy, no Python object for each
        start = int(np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset])
        views.append(np.frombuffer(chunk.buffers()[2], np.uint8, len(chunk) * int(lengths[0]), start))
    return np.concatenate(views).reshape(len(keys), -1)


@dataclass
class Pool:
    """The rows with the lowest draws so far. lines: columns ``COLUMNS``; rows: how many they were drawn from."""

    sample: int
    rows: int = 0
    lines: pa.Table | None = None
    drawn: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def add(self, lines: pa.Table, drawn: np.ndarray, rows: int) -> None:
        """Take in further rows and their draws; rows: how many these were drawn from."""
        self.rows += rows
        if len(self.drawn) == self.sample and self.sample:
            low = drawn < self.drawn[-1]
            lines, drawn = lines.filter(pa.array(low)), drawn[low]
        if self.lines is not None:
            lines, drawn = pa.concat_tables([self.lines, lines]), np.concatenate([self.drawn, drawn])
        order = np.argsort(drawn, kind="stable")[: self.sample]
        self.lines, self.drawn = lines.take(pa.array(order)), drawn[order]


def draw_rows(run: Run, sample: int, seed: int, told: Callable[[int, int], None]) -> dict[str, Pool]:
    """Return "all" and "kept": rows of the ledgers with their captions, at most ``sample`` of each.

    Rows that must not be shown (``NEVER_SHOWN``) are in neither. told: called with shards counted and in all.
    """

    def count(blocks: Iterator[Block]) -> dict[str, Pool]:
        pools = {"all": Pool(sample), "kept": Pool(sample)}
        for block in blocks:
            lines = block.ledger.set_column(3, "reason", pc.cast(block.ledger["reason"], pa.string()))
            lines = lines.filter(pc.invert(pc.is_in(lines["reason"], pa.array(sorted(NEVER_SHOWN)))))
            drawn, kept = draws(lines["key"], seed), pc.equal(lines["reason"], "")
            pools["all"].add(lines, drawn, len(lines))
            among = kept.to_numpy()
            pools["kept"].add(lines.filter(kept), drawn[among], int(among.sum()))
        return pools

    total, done = {"all": Pool(sample), "kept": Pool(sample)}, 0

    def step(shards: int) -> None:
        nonlocal done
        done += shards
        told(done, len(run.finished))

    for pools in scan(run, COLUMNS, count, step):
        for name, pool in pools.items():
            if pool.lines is not None:
                total[name].add(pool.lines, pool.drawn, pool.rows)
    return total


@dataclass(frozen=True)
class Wanted:
    """Images of one shard to look at: keys drawn of the kept samples, and of the audit slice ("all")."""

    number: int
    tars: tuple[str, ...]  # names inside the output folder
    kept: frozenset[str]
    all: frozenset[str]


def draw_images(run: Run, sample: int, seed: int) -> list[Wanted]:
    """Return what to read for at most ``sample`` images of each group, by shard.

    First shards are drawn, as few as hold enough kept samples and at least ``FEWEST_SHARDS``; then samples within them.
    """
    shards = np.random.default_rng([seed, 1]).permutation(run.finished).tolist()
    chosen: list[ShardManifest] = []
    kept = 0
    for manifest in ahead(lambda number: read_manifest(run.out, number), shards, READERS):
        if kept >= sample and len(chosen) >= FEWEST_SHARDS:
            break
        kept += manifest.kept
        chosen.append(manifest)
    chosen.sort(key=lambda manifest: manifest.shard)
    numbers = [manifest.shard for manifest in chosen]
    read = ahead(lambda n: ledger_of(run.out, n, ("key", "reason", "audit")), numbers, READERS)
    ledgers = [table.replace_schema_metadata(None) for table in read]
    bounds = {}
    for name in ("kept", "all"):
        drawn = np.concatenate([draws(_of(name, ledger), seed) for ledger in ledgers] or [np.zeros(0)])
        bounds[name] = np.sort(drawn)[sample] if len(drawn) > sample else 1.0
    wanted = []
    for manifest, ledger in zip(chosen, ledgers, strict=True):
        keys = {name: _of(name, ledger) for name in bounds}
        low = {
            name: frozenset(np.array(keys[name].to_pylist(), object)[draws(keys[name], seed) < bounds[name]])
            for name in bounds
        }
        names = (f"{folder}/{manifest.name}.tar" for folder in ("shards", "audit"))
        wanted.append(Wanted(manifest.shard, tuple(name for name in names if name in manifest.files), **low))
    return wanted


def _of(group: str, ledger: pa.Table) -> pa.ChunkedArray:
    """Return the keys of a group: the kept rows, or the audit slice."""
    return ledger.filter(pc.equal(ledger["reason"], "") if group == "kept" else ledger["audit"])["key"]
