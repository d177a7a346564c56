"""Full-size texture for a hole that was filled at half size: detail is copied from the image's own known parts.

Patches are sought at half size, where most of the structure is. Here each of them takes the fine detail (what halving
loses) from where its look-alike lies in the full image. Colours stay the filling's, so a poor look-alike costs
texture, never a seam.
"""

from __future__ import annotations

import cv2
import numpy as np

from l2i_builder.inpaint.field import Field, new_field, spread, whole_patches

_REACH = 3  # pixels at full size around a patch's middle that take its detail
_SIGMA = 1.5  # pixels at full size, of the weight with which they take it
_AWAY = np.arange(-_REACH, _REACH) + 0.5
_KERNEL = np.exp(-(_AWAY[:, None] ** 2 + _AWAY**2) / (2 * _SIGMA**2)).astype(np.float32)


def add_detail(
    image: np.ndarray, hole: np.ndarray, small: np.ndarray, field: Field | None
) -> tuple[np.ndarray, Field | None]:
    """Return ``image`` with its hole filled: the enlarged ``small`` plus detail from its patches' look-alikes.

    image uint8 [H, W, 3], hole bool [H, W]; small uint8 [H/2, W/2, 3], filled, and its look-alikes. Returns uint8
    [H, W, 3], equal to ``image`` outside the hole, and the look-alikes at full size. With none there is no detail to
    copy, and the filling stays smooth.
    """
    height, width = hole.shape
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    if field is not None:
        halved = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        smooth = cv2.resize(halved, (width, height), interpolation=cv2.INTER_CUBIC)
        large += spread(field, image.astype(np.float32) - smooth, _KERNEL)
        known = whole_patches(hole)
        field = new_field(hole, known, np.ones(1, np.uint32), field) if known.any() else None
    filled = image.copy()
    filled[hole] = np.rint(np.clip(large[hole], 0, 255)).astype(np.uint8)
    return filled, field
