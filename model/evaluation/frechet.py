"""The Fréchet distance of two sets of features (Heusel et al. 2017), and its interval."""

from __future__ import annotations

import numpy as np

REPEATS = 30  # of the bootstrap: each one is a decomposition of a large matrix


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return |mu_a - mu_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2)) of features float [N, D] and [M, D].

    S are unbiased covariances. With A'A = S_a and B'B = S_b for the centred features A, B over sqrt(n - 1), the trace
    of the root is the sum of the singular values of A B': exact also where N < D and the covariances are singular, on
    which the usual matrix root is unstable. NaN with fewer than two samples.
    """
    if min(len(a), len(b)) < 2:
        return float("nan")
    a, b = a.astype(np.float64), b.astype(np.float64)
    difference = a.mean(0) - b.mean(0)
    left, right = (_factor(x) for x in (a, b))
    root = np.linalg.svd(left @ right.T, compute_uv=False).sum()
    return float(difference @ difference + (left**2).sum() + (right**2).sum() - 2 * root)


def frechet_interval(a: np.ndarray, b: np.ndarray, repeats: int = REPEATS, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of the distance: 1.96 deviations over bootstrap resamples of both sets, never below 0.

    A resample repeats images, and so lies farther away than the sets themselves: of the resamples only the spread is
    used. It says how much the number would vary with other samples of the same size, not how far it is from that of
    infinitely many; compare distances of equal sample counts only.
    """
    rng = np.random.default_rng(seed)
    draws = [
        frechet_distance(a[rng.integers(len(a), size=len(a))], b[rng.integers(len(b), size=len(b))])
        for _ in range(repeats)
    ]
    estimate, spread = frechet_distance(a, b), 1.96 * float(np.std(draws, ddof=1))
    return max(0.0, estimate - spread), estimate + spread


def _factor(x: np.ndarray) -> np.ndarray:
    """Return R, float [min(N, D), D], with R'R the covariance of x: the triangle of a QR where N > D."""
    centred = (x - x.mean(0)) / np.sqrt(len(x) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(x) > x.shape[1] else centred
