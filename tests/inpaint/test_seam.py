"""The rim of a filled hole: steps are spread inwards, textures and edges stay."""

from __future__ import annotations

import cv2
import numpy as np
from textures import disc

from l2i_builder.inpaint.seam import even_seam


def test_a_step_in_brightness_is_spread_inwards() -> None:
    image, hole = np.full((96, 96, 3), 120, np.uint8), disc(96, 96, 30)
    filled = np.where(hole[..., None], np.uint8(110), image)
    evened = even_seam(image, filled, hole).astype(int)
    depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, 5)
    assert np.abs(evened[(depth > 0) & (depth < 2)] - 120).max() <= 1
    assert np.abs(evened[depth > 25] - 110).max() <= 2
    across = evened[50, :, 0]
    assert np.abs(np.diff(across)).max() <= 2


def test_texture_without_a_step_is_left_alone() -> None:
    rng, hole = np.random.default_rng(0), disc(96, 96, 30)
    image, filled = (np.rint(120 + rng.normal(0, 4, (96, 96, 3))).astype(np.uint8) for _ in range(2))
    assert np.abs(even_seam(image, filled, hole).astype(int) - filled)[hole].mean() < 1


def test_an_edge_in_the_picture_stays_an_edge() -> None:
    image, hole = np.full((96, 96, 3), 20, np.uint8), disc(96, 96, 30)
    filled = np.where(hole[..., None], np.uint8(220), image)
    assert even_seam(image, filled, hole)[hole].min() >= 220 - 32
