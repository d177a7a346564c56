"""Measures of masks and pictures against true ones. Masks float [..., H, W] in 0..1; one number for each."""

from __future__ import annotations

import numpy as np

THRESHOLD = 0.5  # at which masks are cut to compare them (paper: not stated)


def iou(a: np.ndarray, b: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """Return intersection over union of a > threshold and b > threshold; 1 where both are empty."""
    x, y = a > threshold, b > threshold
    return _ratio((x & y).sum((-2, -1)), (x | y).sum((-2, -1)))


def soft_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return sum min(a, b) / sum max(a, b), the IoU of soft masks; 1 where both are empty."""
    return _ratio(np.minimum(a, b).sum((-2, -1)), np.maximum(a, b).sum((-2, -1)))


def mae(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the mean absolute difference of masks."""
    return np.abs(a.astype(np.float64) - b).mean((-2, -1))


def psnr(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return 10 log10(1 / mean squared error) of pictures [..., H, W, 3] in 0..1, in dB; 100 where they are equal."""
    error = np.square(a.astype(np.float64) - b).mean((-3, -2, -1))
    return np.minimum(-10 * np.log10(np.maximum(error, 1e-10)), 100.0)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    empty = whole == 0
    return np.where(empty, 1.0, part / np.where(empty, 1, whole))
