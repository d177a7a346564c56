"""How good a judge is, by people's labels: precision-recall, ROC and reliability, each sample with its weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from l2i_builder.metrics import interval
from l2i_builder.report.labelled import Labelled, wilson
from l2i_builder.sample import UNKNOWN

POINTS = 120  # of a curve, at most
BINS = 10  # of the reliability curve
REPEATS = 300  # of the bootstrap
FEWEST = 10  # labels of either kind for a bootstrap: of fewer it claims to be sure where it knows nothing

Measure = Callable[[np.ndarray, np.ndarray, np.ndarray], float]


def judge_curves(found: Labelled, judge: str, threshold: float | None) -> dict[str, Any]:
    """Return the curves of one judge, "mask" or "inpainting", from audit labels: labels, good, bad, then figures.

    auc and average_precision come as [value, low, high] with 95 % bootstrap intervals (None of fewer than FEWEST labels
    of either kind), or None where one of the classes is missing; at: precision, recall and false positive rate at the
    run's own threshold.
    """
    answer = getattr(found, judge)
    score = getattr(found, f"{judge}_score")
    used = (found.weight > 0) & ~np.isnan(answer) & (score != UNKNOWN)
    s, good, w = score[used], answer[used] == 1, found.weight[used]
    result: dict[str, Any] = {"labels": len(s), "good": int(good.sum()), "bad": int((~good).sum())}
    result |= {"auc": None, "average_precision": None, "calibration_error": None, "at": None}
    if not len(s):
        return result | {"pr": [], "roc": [], "reliability": []}
    result["reliability"] = reliability(s, good, w)
    result["calibration_error"] = calibration_error(result["reliability"])
    if threshold is not None:
        result["at"] = operating_point(s, good, w, threshold)
    if not good.any() or good.all():
        return result | {"pr": [], "roc": []}
    cuts, kept, hit, size = sweep(s, good, w)
    every = np.unique(np.linspace(0, len(cuts) - 1, min(POINTS, len(cuts))).round().astype(int))
    precision, recall = hit / kept, hit / hit[-1]
    wrong = (kept - hit) / (kept - hit)[-1]
    bands = [wilson(float(precision[k]), float(size[k])) for k in every]
    result["pr"] = [_line(cuts[k], recall[k], precision[k], *band) for k, band in zip(every, bands, strict=True)]
    result["roc"] = [_line(1.0, 0.0, 0.0), *(_line(cuts[k], wrong[k], recall[k]) for k in every)]
    enough = min(good.sum(), (~good).sum()) >= FEWEST
    for name, measure in (("auc", weighted_auc), ("average_precision", weighted_average_precision)):
        ends = bootstrap(measure, s, good, w) if enough else (np.nan, np.nan)
        result[name] = [round(float(x), 4) if np.isfinite(x) else None for x in (measure(s, good, w), *ends)]
    return result


def bootstrap(measure: Measure, s: np.ndarray, good: np.ndarray, w: np.ndarray) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a measure of scores, labels and weights."""
    return interval(lambda some: measure(s[some], good[some], w[some]), np.arange(len(s)), REPEATS)


def sweep(s: np.ndarray, good: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return, for every distinct score as threshold, highest first: the score, the weight kept, the weight of the
    good ones kept, and the effective number of samples kept (Kish: (sum w)^2 / sum w^2). float64 [T] each."""
    order = np.argsort(-s, kind="stable")
    last = np.append(np.flatnonzero(np.diff(s[order])), len(s) - 1)
    kept, hit, squares = (np.cumsum(x[order])[last] for x in (w, w * good, w**2))
    return s[order][last], kept, hit, kept**2 / squares


def weighted_auc(s: np.ndarray, good: np.ndarray, w: np.ndarray) -> float:
    """Return the area under the ROC curve of weighted samples; NaN where one of the classes is empty."""
    if good.all() or not good.any():
        return float("nan")
    _, kept, hit, _ = sweep(s, good, w)
    recall, wrong = (np.concatenate([[0.0], x / x[-1]]) for x in (hit, kept - hit))
    return float(np.trapezoid(recall, wrong))


def weighted_average_precision(s: np.ndarray, good: np.ndarray, w: np.ndarray) -> float:
    """Return the area under the precision-recall curve, by steps; NaN where nothing is good."""
    if not good.any():
        return float("nan")
    _, kept, hit, _ = sweep(s, good, w)
    return float(np.sum(np.diff(hit / hit[-1], prepend=0.0) * hit / kept))


def operating_point(s: np.ndarray, good: np.ndarray, w: np.ndarray, threshold: float) -> dict[str, Any]:
    """Return precision, recall and false positive rate at a threshold, the first two as [value, low, high]."""
    kept = s >= threshold
    return {
        "threshold": threshold,
        "precision": _share(good[kept], w[kept]),
        "recall": _share(kept[good], w[good]),
        "false_positive_rate": _share(kept[~good], w[~good]),
    }


def reliability(s: np.ndarray, good: np.ndarray, w: np.ndarray) -> list[dict[str, Any]]:
    """Return the bins of the reliability curve that hold labels: mean score, share of good ones, interval, labels."""
    place = np.clip((s * BINS).astype(int), 0, BINS - 1)
    lines = []
    for b in range(BINS):
        here = place == b
        if here.any():
            share = _share(good[here], w[here])
            assert share is not None
            mean = float(np.average(s[here], weights=w[here]))
            line = {"from": b / BINS, "to": (b + 1) / BINS, "score": round(mean, 4), "good": share[0]}
            lines.append(
                line | {"low": share[1], "high": share[2], "labels": int(here.sum()), "weight": float(w[here].sum())}
            )
    return lines


def calibration_error(lines: list[dict[str, Any]]) -> float:
    """Return the expected calibration error: distance of score and share of good ones, weighted over the bins."""
    total = sum(line["weight"] for line in lines)
    return round(sum(abs(line["score"] - line["good"]) * line["weight"] for line in lines) / total, 4)


def _share(flags: np.ndarray, w: np.ndarray) -> list[float] | None:
    """Return [share, low, high] of weighted truth values, None of nothing."""
    if not len(flags):
        return None
    share = float(np.average(flags, weights=w))
    return [round(x, 4) for x in (share, *wilson(share, float(w.sum() ** 2 / (w**2).sum())))]


def _line(*values: float) -> list[float]:
    return [round(float(value), 5) for value in values]
