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


def threshold_for(scores: np.ndarray, quality: np.ndarray, precision: float, weight: np.ndarray | None = None) -> float:
    """Return the lowest threshold at which what is kept has at least the wanted mean quality.

    Where none reaches it, the threshold of the best precision with at least ten samples kept. ``weight`` float [N]:
    how many samples each stands for.
    """
    order = np.argsort(-scores, kind="stable")
    w = np.ones(len(order)) if weight is None else weight[order]
    reached = np.cumsum(quality[order] * w) / np.cumsum(w)
    ends = np.append(np.diff(scores[order]) != 0, True)  # samples of equal score are kept together
    enough = np.flatnonzero((reached >= precision) & ends)
    if len(enough):
        return float(scores[order[enough[-1]]])
    least = min(9, len(order) - 1)
    return float(scores[order[least + int(np.where(ends[least:], reached[least:], -1.0).argmax())]])


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


def average_precision(scores: np.ndarray, good: np.ndarray) -> float:
    """Return the area under the precision-recall curve as a step function, as scikit-learn defines it.

    scores float [N], good bool [N]; samples of equal score are one step. NaN where nothing is good.
    """
    precision, recall = _curve(scores, good.astype(float), np.ones(len(scores)))
    return float(np.sum(np.diff(recall, prepend=0.0) * precision)) if good.any() else float("nan")


def precision_at_recall(scores: np.ndarray, good: np.ndarray, recall: float = 0.95) -> float:
    """Return the best precision among thresholds that keep at least a share of the good. NaN where nothing is good."""
    if not good.any():
        return float("nan")
    precision, reached = _curve(scores, good.astype(float), np.ones(len(scores)))
    return float(precision[reached >= recall - 1e-12].max())


def _curve(scores: np.ndarray, quality: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (precision, recall) at every distinct score as threshold, highest first."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    good, kept = np.cumsum((quality * weight)[order])[last], np.cumsum(weight[order])[last]
    return good / np.maximum(kept, 1e-300), good / max(float(good[-1]), 1e-300)
