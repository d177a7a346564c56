"""The layered image: cutting foreground, hole and composite from image and mask (paper, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

GRID = 8  # JPEG block: the hole ends on it, so that B equals I outside the hole after encoding too


def foreground(image: np.ndarray, mask: np.ndarray, threshold: float, fill: tuple[int, int, int]) -> np.ndarray:
    """Return F: the pixels of I where m > threshold, ``fill`` elsewhere (paper: threshold 0.1, fill not stated).

    image uint8 [H, W, 3]; mask uint8 [H, W] (m scaled to 0..255). Returns uint8 [H, W, 3].
    """
    result = np.empty_like(image)
    result[:] = fill
    return cv2.copyTo(image, (mask > threshold * 255).astype(np.uint8), result)


def hole(mask: np.ndarray, threshold: float, dilate: int) -> np.ndarray:
    """Return the region to inpaint: m > threshold, dilated, then grown to whole 8x8 JPEG blocks.

    Dilation is by a disc whose radius is ``dilate`` pixels at 512 and scales with the image (paper: kernel not
    stated). Ending on the block grid costs at most 7 pixels a side and makes B equal to I outside the hole
    *exactly*, also as stored: JPEG blocks with equal pixels decode to equal pixels.

    mask uint8 [H, W], H and W multiples of 8. Returns bool [H, W]; nothing selected gives an empty hole.
    """
    height, width = mask.shape
    selected: np.ndarray = (mask > threshold * 255).astype(np.uint8)
    radius = round(dilate * max(height, width) / 512)
    if radius:
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        selected = cv2.dilate(selected, disc)
    rows = np.ascontiguousarray(selected).view(np.uint64) != 0  # eight pixels at once: [H, W / 8]
    blocks = rows.reshape(height // GRID, GRID, width // GRID).any(axis=1)
    return blocks.repeat(GRID, axis=0).repeat(GRID, axis=1)


def composite(foreground: np.ndarray, background: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return C = mF + (1 - m)B (paper, eq. 1), rounded. Arrays uint8 as in ``foreground``; returns uint8."""
    m = (mask.astype(np.float32) / 255)[..., None]
    return np.rint(m * foreground + (1 - m) * background).astype(np.uint8)


def flatten(layers: Sequence[np.ndarray], background: np.ndarray) -> np.ndarray:
    """Return the composite of ordered layers: C_k = m_k F_k + (1 - m_k) C_{k+1}, C of the last being B; C_1.

    layers: front to back, each uint8 [H, W, 4], F and m; background uint8 [H, W, 3]. Returns uint8 [H, W, 3].
    """
    result = background
    for layer in reversed(layers):
        result = composite(layer[..., :3], result, layer[..., 3])
    return result


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the mean absolute difference of two pictures, uint8 of the same shape: 0..255."""
    return float(cv2.absdiff(one, other).mean())


def components(mask: np.ndarray, threshold: float = 0.5) -> int:
    """Return the number of 8-connected components of m > threshold. mask uint8 [H, W]."""
    count, _ = cv2.connectedComponents((mask > threshold * 255).astype(np.uint8), connectivity=8)
    return count - 1
