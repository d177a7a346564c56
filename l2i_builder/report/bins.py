"""Histograms that grow ledger by ledger: fixed edges, counts per outcome, no rows kept."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

OUTCOMES = ("kept", "mask rejected", "inpainting rejected", "other")  # what became of a row that has scores


@dataclass
class Histogram:
    """Counts of values per group. edges: float64 [B + 1], ascending; counts: int64 [groups, B].

    A value falls into the bin whose lower edge it reaches; those outside the edges go to the outermost bins.
    """

    edges: np.ndarray
    groups: tuple[str, ...]
    counts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((len(self.groups), len(self.edges) - 1), np.int64)

    def add(self, values: np.ndarray, group: np.ndarray) -> None:
        """Count values (float [n]) under their group's number (int [n]); negative groups are left out."""
        inside = group >= 0
        flat = group[inside] * self.counts.shape[1] + bin_of(values[inside], self.edges)
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)


@dataclass
class Joint:
    """Counts of pairs of mask and inpainting score. counts: int64 [mask bins, inpainting bins]."""

    mask_edges: np.ndarray
    inpainting_edges: np.ndarray
    counts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.counts = np.zeros((len(self.mask_edges) - 1, len(self.inpainting_edges) - 1), np.int64)

    def add(self, mask: np.ndarray, inpainting: np.ndarray) -> None:
        """Count pairs of scores, float [n] each."""
        flat = bin_of(mask, self.mask_edges) * self.counts.shape[1] + bin_of(inpainting, self.inpainting_edges)
        self.counts += np.bincount(flat, minlength=self.counts.size).reshape(self.counts.shape)


def bin_of(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the bin (int64 [n]) of each value; a value on an edge belongs to the bin above it."""
    return np.searchsorted(edges[1:-1], values, side="right")


def score_edges(threshold: float | None, steps: int = 100) -> np.ndarray:
    """Return edges over 0..1 in even steps, the run's own threshold among them.

    So the counts above an edge are exact for every threshold that the page offers, the run's own included.
    """
    even = np.round(np.linspace(0, 1, steps + 1), 6)
    if threshold is None or not 0 < threshold < 1:
        return even
    return np.unique(np.append(even[np.abs(even - threshold) > 1e-9], threshold))


def distributions() -> dict[str, Histogram]:
    """Return empty histograms of what is compared between kept and rejected rows."""
    groups = ("kept", "rejected")
    return {
        "short_side": Histogram(2.0 ** np.arange(5, 14.5, 0.5), groups),
        "aspect": Histogram(2.0 ** np.arange(-2, 2.01, 0.2), groups),
        "aesthetic": Histogram(np.arange(0, 10.25, 0.25), groups),
        "mask_area": Histogram(np.linspace(0, 1, 26), groups),
        "mask_components": Histogram(np.arange(-0.5, 12.6), groups),
    }
