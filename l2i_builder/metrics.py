"""Measures of a score against labels, and their intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Measure = Callable[[np.ndarray], float]  # of sample indices


def auc(scores: np.ndarray, good: np.ndarray) -> float:
    """Return the area under the ROC curve: the chance that a good sample outscores a bad one; ties count half.

    scores float [N], good bool [N]. NaN where one of the classes is empty.
    """
    n_good, n_bad = int(good.sum()), int((~good).sum())
    if not n_good or not n_bad:
        return float("nan")
    return float((ranks(scores)[good].sum() - n_good * (n_good + 1) / 2) / (n_good * n_bad))


def ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 1, equal values sharing their mean rank, float64 [N]."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse].astype(np.float64)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Return Spearman's rank correlation of float [N] with float [N]; NaN where one of them is constant."""
    x, y = (ranks(v) - (len(v) + 1) / 2 for v in (a, b))
    spread = np.sqrt((x**2).sum() * (y**2).sum())
    return float((x * y).sum() / spread) if spread else float("nan")


def precision_yield(scores: np.ndarray, quality: np.ndarray, threshold: float) -> tuple[float, float]:
    """Return (mean quality of what is kept, share kept) at a threshold. quality float [N]: P(good). NaN, 0 if none."""
    kept = scores >= threshold
    return (float(quality[kept].mean()) if kept.any() else float("nan")), float(kept.mean())


def threshold_for(scores: np.ndarray, quality: np.ndarray, precision: float) -> float:
    """Return the lowest threshold at which what is kept has at least the wanted mean quality.

    Where none reaches it, the threshold of the best precision with at least ten samples kept.
    """
    order = np.argsort(-scores, kind="stable")
    reached = np.cumsum(quality[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(reached >= precision)
    last = enough[-1] if len(enough) else min(9, len(order) - 1) + int(reached[min(9, len(order) - 1) :].argmax())
    return float(scores[order[last]])


def expected_calibration_error(scores: np.ndarray, quality: np.ndarray, bins: int = 10) -> float:
    """Return the mean distance of score and quality over equal bins of the score, weighted by their samples."""
    place = np.clip((scores * bins).astype(int), 0, bins - 1)
    return float(
        sum(
            abs(scores[place == b].mean() - quality[place == b].mean()) * (place == b).mean()
            for b in range(bins)
            if (place == b).any()
        )
    )


def interval(measure: Measure, groups: np.ndarray, repeats: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a measure, drawing whole groups: samples of one scene are not independent.

    ``measure`` gets int indices into the samples; ``groups`` [N] names each sample's group.
    """
    rng = np.random.default_rng(seed)
    _, inverse = np.unique(groups, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(inverse))[:-1])
    values = []
    for _ in range(repeats):
        drawn = rng.integers(len(members), size=len(members))
        values.append(measure(np.concatenate([members[i] for i in drawn])))
    finite = np.array(values)[np.isfinite(values)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.percentile(finite, [2.5, 97.5])
    return float(low), float(high)
