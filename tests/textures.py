"""Pictures with a known texture, and holes in them."""

from __future__ import annotations

import cv2
import numpy as np


def texture(seed: int, height: int = 64, width: int = 64) -> np.ndarray:
    """Diagonal stripes and fine grain over a gradient: uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    stripes = 60 * np.sin((x + y) * (0.5 + 0.1 * seed) * 64 / height) + 100 * y / height + 80
    image = stripes[..., None] * (1.0, 0.8, 0.6) + rng.normal(0, 4, (height, width, 3))
    return np.clip(image, 0, 255).astype(np.uint8)


def disc(height: int = 64, width: int = 64, radius: int = 14) -> np.ndarray:
    """A hole, bool [H, W]: a disc a little off the centre."""
    hole = np.zeros((height, width), np.uint8)
    cv2.circle(hole, (width // 2 - 3, height // 2 + 2), radius, 1, -1)
    return hole.astype(bool)
