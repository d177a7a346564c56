"""Full-size texture for a hole that was filled at half size: detail is copied from the image's own known parts.

PatchMatch spends nearly all its time at the finest sizes, where it hardly changes the structure any more. So holes
are filled at half size; here each patch of that filling looks up its most similar known patch, once, and the fine
detail of the look-alike (what halving loses) is added. Colours stay the filling's, so a poor look-alike costs
texture, never a seam. Everything compared is an integer, exact also in the matrix product: no ties break differently
on another machine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

PATCH = 7  # pixels at half size
STEP = 2  # pixels at half size between patches that look for a look-alike
_CELL = 4  # of those patches, one in _CELL x _CELL pixels compares itself with all; the others ask their neighbours
_SEARCHED = 2048  # known patches compared with, about, whatever the size of the image: more look no better
_REACH = 3  # pixels at full size around a patch's centre that take its detail
_SIGMA = 1.5  # pixels at full size, of the weight with which they take it
_NONE = np.iinfo(np.int64).max


@dataclass
class _Matches:
    """Patch centres inside the hole and their best known look-alikes so far; all int64 [P]."""

    y: np.ndarray
    x: np.ndarray
    like_y: np.ndarray
    like_x: np.ndarray
    cost: np.ndarray  # sum of squared differences; _NONE where nothing was found


def add_detail(image: np.ndarray, hole: np.ndarray, small: np.ndarray, small_hole: np.ndarray) -> np.ndarray:
    """Return ``image`` with its hole filled: the enlarged ``small`` plus detail from known look-alikes.

    image uint8 [H, W, 3], hole bool [H, W]; small uint8 [H/2, W/2, 3], already filled where small_hole is true.
    Returns uint8 [H, W, 3], equal to ``image`` outside the hole. Where no whole patch is known there is no detail
    to copy, and the filling stays smooth.
    """
    height, width = hole.shape
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    matches = _match(small, small_hole)
    if matches is not None:
        halved = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        smooth = cv2.resize(halved, (width, height), interpolation=cv2.INTER_CUBIC)
        large += _vote(image.astype(np.float32) - smooth, matches)
    filled = image.copy()
    filled[hole] = np.rint(np.clip(large, 0, 255)).astype(np.uint8)[hole]
    return filled


def _match(small: np.ndarray, hole: np.ndarray) -> _Matches | None:
    """Return a known look-alike for the patches on and beside the hole; None where no whole patch is known."""
    height, width = hole.shape
    square = np.ones((PATCH, PATCH), np.uint8)
    known = cv2.erode((~hole).astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=0).astype(bool)
    source_y, source_x = _thinned(known)
    if not len(source_y):
        return None
    wanted = cv2.dilate(hole.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    y, x = (STEP * axis for axis in np.nonzero(wanted[::STEP, ::STEP]))

    margin = PATCH // 2
    padded = cv2.copyMakeBorder(small, margin, margin, margin, margin, cv2.BORDER_REFLECT_101)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (PATCH, PATCH), axis=(0, 1))

    def patches(ys: np.ndarray, xs: np.ndarray) -> np.ndarray:  # int16 [P, 3 * PATCH * PATCH]
        return windows[ys, xs].reshape(len(ys), -1).astype(np.int16)

    targets = patches(y, x)
    cell = (y // _CELL) * width + x // _CELL
    _, first, of_cell = np.unique(cell, return_index=True, return_inverse=True)
    best = _nearest(targets[first], patches(source_y, source_x))[of_cell]
    anchor = first[of_cell]
    matches = _Matches(y, x, source_y[best], source_x[best], np.full(len(y), _NONE))

    def consider(ys: np.ndarray, xs: np.ndarray) -> None:
        inside = (ys >= 0) & (ys < height) & (xs >= 0) & (xs < width)
        ys, xs = ys.clip(0, height - 1), xs.clip(0, width - 1)
        difference = (patches(ys, xs) - targets).astype(np.float32)
        cost = np.einsum("ij,ij->i", difference, difference, dtype=np.float64).astype(np.int64)
        better = inside & known[ys, xs] & (cost < matches.cost)
        matches.like_y[better], matches.like_x[better] = ys[better], xs[better]
        matches.cost[better] = cost[better]

    consider(matches.like_y + y - y[anchor], matches.like_x + x - x[anchor])
    _refine(matches, hole.shape, consider)
    return matches


def _thinned(known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions (y, x) of about ``_SEARCHED`` known patches, on a regular grid."""
    step = max(1, round(np.sqrt(known.sum() / _SEARCHED)))
    y, x = np.nonzero(known[::step, ::step])
    if len(y):
        return step * y, step * x
    y, x = np.nonzero(known)
    return y, x


def _nearest(targets: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Return for each target, int16 [P, D] in 0..255, the first nearest source [S, D]: int64 [P].

    The nearest s has the largest ts - ss / 2; the second term is one more column. Centred on 0 and with D = 147 every
    partial sum is a multiple of 1/2 below 2**23, so float32 holds it exactly.
    """
    t, s = (array.astype(np.float32) - 128 for array in (targets, sources))
    t = np.hstack([t, np.ones((len(t), 1), np.float32)])
    s = np.hstack([s, -(s * s).sum(axis=1, keepdims=True) / 2])
    unused = np.empty((0, 0), np.float32)  # a third term, scaled by 0
    chunks = (t[start : start + 256] for start in range(0, len(t), 256))
    return np.concatenate([cv2.gemm(chunk, s, 1, unused, 0, flags=cv2.GEMM_2_T).argmax(axis=1) for chunk in chunks])


def _refine(matches: _Matches, shape: tuple[int, ...], consider: Callable[[np.ndarray, np.ndarray], None]) -> None:
    """Try for every patch its neighbours' look-alikes, shifted, then the pixels around its own."""
    grid = np.full((shape[0] // STEP + 3, shape[1] // STEP + 3), -1)
    row, column = matches.y // STEP + 1, matches.x // STEP + 1
    grid[row, column] = np.arange(len(row))
    for _ in range(2):
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            beside = grid[row + dy, column + dx]
            beside = np.where(beside < 0, np.arange(len(row)), beside)
            shift_y, shift_x = matches.y - matches.y[beside], matches.x - matches.x[beside]
            consider(matches.like_y[beside] + shift_y, matches.like_x[beside] + shift_x)
    for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        consider(matches.like_y + dy, matches.like_x + dx)


def _vote(detail: np.ndarray, matches: _Matches) -> np.ndarray:
    """Return the detail of the look-alikes, float32 [H, W, 3], averaged where patches overlap; 0 elsewhere."""
    height, width = detail.shape[:2]
    found = matches.cost < _NONE
    rim = 2 * _REACH
    padded = cv2.copyMakeBorder(detail, rim, rim, rim, rim, cv2.BORDER_REFLECT_101)
    total = np.zeros(padded.shape, np.float32)
    weights = np.zeros(padded.shape[:2], np.float32)
    # a pixel at half size is two at full size, its centre between them
    y, x, like_y, like_x = (
        2 * axis[found] + 1 + rim for axis in (matches.y, matches.x, matches.like_y, matches.like_x)
    )
    for dy in range(-_REACH, _REACH):
        for dx in range(-_REACH, _REACH):
            weight = np.float32(np.exp(-((dy + 0.5) ** 2 + (dx + 0.5) ** 2) / (2 * _SIGMA**2)))
            total[y + dy, x + dx] += weight * padded[like_y + dy, like_x + dx]
            weights[y + dy, x + dx] += weight
    voted = total / np.maximum(weights, 1e-6)[..., None]
    return voted[rim : rim + height, rim : rim + width]
