"""Finding the same picture again among millions: by digest, by perceptual hash, and by the hash of its mirror image.

Hashes are looked up by parts (multi-index hashing; Norouzi, Punjani and Fleet, 2012): of 16 bands of 16 bits, one
differs in at most radius / 16 bits wherever two hashes differ in at most ``radius``. So only the few hashes that
share such a band are compared: of 80,000 uniform ones some 300, not all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from l2i_builder.splits import Candidates

BANDS, WIDTH = 16, 16  # of a hash of 256 bits
BLOCK = 4096  # hashes looked up at a time
MOST_PAIRS = 4_000_000  # compared at a time

# Mirroring a picture turns the sign of every other column of its cosine coefficients, and so flips those bits of its
# PDQ; measured on photographs, the hash of the mirrored picture differs from that in 10 to 34 bits of 256, mostly 20:
# most mirrored copies are found, at no cost.
_ODD_COLUMNS = np.packbits(np.tile(np.arange(16) % 2 == 0, 16), bitorder="little")[::-1]


class NearIndex:
    """Hashes, found again by near ones. hashes: uint8 [n, 32]; radius: bits that may differ, up to 47."""

    def __init__(self, hashes: np.ndarray, radius: int) -> None:
        self.radius = radius
        self.words, bands = _views(hashes)
        self.order = [np.argsort(bands[:, band], kind="stable") for band in range(BANDS)]
        counts = [np.bincount(bands[:, band], minlength=1 << WIDTH) for band in range(BANDS)]
        self.starts = [np.concatenate([[0], np.cumsum(count)]) for count in counts]
        flips = [bits for few in range(radius // BANDS + 1) for bits in combinations(range(WIDTH), few)]
        self.flips = np.array([sum(1 << bit for bit in bits) for bits in flips], np.uint16)

    def pairs(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (query, hash, bits that differ) of all pairs within the radius, by query, nearest first.

        queries: uint8 [q, 32].
        """
        words, bands = _views(queries)
        found: list[np.ndarray] = []
        for band in range(BANDS):
            probes = bands[:, band, None] ^ self.flips
            start = self.starts[band][probes].ravel()
            count = self.starts[band][probes.astype(np.int64) + 1].ravel() - start
            for part in _parts(count):
                query, place = _expand(start[part], count[part])
                query = (query + part.start) // len(self.flips)
                place = self.order[band][place]
                bits = np.bitwise_count(self.words[place] ^ words[query]).sum(1, dtype=np.int64)
                near = bits <= self.radius
                found.append(np.stack([query[near], bits[near], place[near]], axis=1))
        together = np.unique(np.concatenate(found), axis=0) if found else np.zeros((0, 3), np.int64)
        return together[:, 0], together[:, 2], together[:, 1]


class Twins:
    """Samples that show the same picture. samples: ``splits.Candidates``; radius: of their PDQ hashes."""

    def __init__(self, samples: Candidates, radius: int) -> None:
        self.samples, self.radius = samples, radius

    def pairs(
        self, queries: np.ndarray, among: np.ndarray, told: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[tuple[int, int, str]]:
        """Yield (row of ``queries``, row of ``among``, how they are alike), certain likeness first; no row with itself.

        queries, among: rows, int64. told: called with the queries done and in all.
        """
        if not len(queries) or not len(among):
            return
        for column, how in enumerate(("same file as", "same image as")):
            for query, other in self._equal(queries, among, self.samples.content[:, column]):
                yield query, other, how
        queries, among = (rows[~self.samples.flat[rows]] for rows in (queries, among))
        hashes = self.samples.pdq[among]
        indices = [("", NearIndex(hashes, self.radius)), ("mirrored, ", NearIndex(hashes ^ _ODD_COLUMNS, self.radius))]
        for start in range(0, len(queries), BLOCK):
            block = queries[start : start + BLOCK]
            for note, index in indices:
                for query, place, bits in zip(*index.pairs(self.samples.pdq[block]), strict=True):
                    row, other = int(block[query]), int(among[place])
                    if row != other:
                        yield row, other, f"{note}{bits} bits from"
            told(start + len(block), len(queries))

    def _equal(self, queries: np.ndarray, among: np.ndarray, content: np.ndarray) -> Iterator[tuple[int, int]]:
        queries, among = queries[content[queries] != 0], among[content[among] != 0]
        among = among[np.argsort(content[among], kind="stable")]
        start = np.searchsorted(content[among], content[queries], "left")
        count = np.searchsorted(content[among], content[queries], "right") - start
        for query, place in zip(*_expand(start, count), strict=True):
            row, other = int(queries[query]), int(among[place])
            if row != other:
                yield row, other


def _views(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return hashes as words uint64 [n, 4] and as bands uint16 [n, 16]."""
    hashes = np.ascontiguousarray(hashes, np.uint8).reshape(-1, 32)
    return hashes.view(np.uint64), hashes.view(np.uint16)


def _expand(start: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for ranges of ``count`` places from ``start`` on: the range of each place, and the place."""
    which = np.repeat(np.arange(len(start)), count)
    within = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    return which, start[which] + within


def _parts(count: np.ndarray) -> Iterator[slice]:
    """Yield slices of ranges that make up to ``MOST_PAIRS`` places, or hold one range."""
    start, ends = 0, np.cumsum(count)
    while start < len(count):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + MOST_PAIRS, "right")))
        yield slice(start, stop)
        start = stop
