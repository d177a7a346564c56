"""The preview of a sample: one horizontal WebP strip of square panels, made by the encode stage."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
from PIL import Image

from l2i_builder.config import Previews

PANELS = ("original", "mask", "cut-out", "background")
_TILE = 16  # pixels, of checkerboard squares and hatching: macroblocks, which compress best


def make_strip(
    image: np.ndarray,
    mask: np.ndarray,
    background: np.ndarray | None,
    config: Previews,
    further: Sequence[tuple[np.ndarray, np.ndarray]] = (),
) -> bytes:
    """Return a WebP strip, 4 panels wide and 1 high: original, mask, cut-out on a checkerboard, background.

    Each further object (mask, background; front to back) adds such a line, beginning with the background before it.

    image uint8 [H, W, 3] sRGB; mask uint8 [H, W], the soft mask m scaled to 0..255; background like image, or
    None for a sample refused before inpainting, whose last panel is hatched. Panels are ``config.side`` pixels
    square. The same arrays give the same bytes. Measured at 512² on photos, one thread of a busy machine: 4 ms,
    nearly all in WebP's method 0; its default, 4, takes three times as long for a quarter fewer bytes.
    """
    lines = [_line(image, mask, background, config.side)]
    for m, behind in further:
        lines.append(_line(background, m, behind, config.side))  # type: ignore[arg-type]
        background = behind
    file = io.BytesIO()
    Image.fromarray(cv2.vconcat(lines)).save(file, "WEBP", quality=config.quality, method=0)
    return file.getvalue()


def _line(image: np.ndarray, mask: np.ndarray, background: np.ndarray | None, side: int) -> np.ndarray:
    """Return the four panels, uint8 [side, 4 * side, 3]."""
    original, m = _shrink(image, side), cv2.merge([_shrink(mask, side)] * 3)
    outside = cv2.multiply(_checkerboard(side), 255 - m, scale=1 / 255)
    cutout = cv2.add(cv2.multiply(original, m, scale=1 / 255), outside)
    last = _hatching(side) if background is None else _shrink(background, side)
    return cv2.hconcat([original, m, cutout, last])


def _shrink(array: np.ndarray, side: int) -> np.ndarray:
    """Resize [H, W, ...] to [side, side, ...]: exact halvings first, six times as fast as one area resize."""
    while min(array.shape[:2]) >= 2 * side:
        array = cv2.resize(array, (array.shape[1] // 2, array.shape[0] // 2), interpolation=cv2.INTER_AREA)
    return cv2.resize(array, (side, side), interpolation=cv2.INTER_LINEAR)


@cache
def _checkerboard(side: int) -> np.ndarray:
    """Two light greys, uint8 [side, side, 3]."""
    y, x = np.indices((side, side)) // _TILE
    return np.where((x + y) % 2, 204, 238).astype(np.uint8)[..., None].repeat(3, axis=2)


@cache
def _hatching(side: int) -> np.ndarray:
    """Diagonal stripes in mid greys: nothing was made here. uint8 [side, side, 3]."""
    y, x = np.indices((side, side))
    return np.where((x + y) // (_TILE // 2) % 2, 150, 170).astype(np.uint8)[..., None].repeat(3, axis=2)
