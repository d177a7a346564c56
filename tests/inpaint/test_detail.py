"""Detail: what halving loses is taken from where the look-alikes lie at full size."""

from __future__ import annotations

import cv2
import numpy as np
from textures import disc, texture

from l2i_builder.inpaint.detail import add_detail
from l2i_builder.inpaint.field import Field
from l2i_builder.inpaint.patchmatch import fill


def halves(image: np.ndarray, hole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width = hole.shape
    small = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return small, hole.reshape(height // 2, 2, width // 2, 2).any(axis=(1, 3))


def filled_in_halves(image: np.ndarray, hole: np.ndarray) -> tuple[np.ndarray, Field | None]:
    """Fill at half size, then add detail."""
    damaged = np.where(hole[..., None], np.uint8(0), image)
    return add_detail(damaged, hole, *fill(*halves(damaged, hole), seed=0))


def test_detail_that_halving_loses_altogether_is_restored() -> None:
    image = np.full((128, 128, 3), 100, np.uint8)
    image[::2, ::2] = image[1::2, 1::2] = 140  # a chequerboard of single pixels; halved, it is plain grey
    hole = np.zeros((128, 128), bool)
    hole[40:90, 36:100] = True  # on the grid of the small image, so that no half pixel is dark
    assert np.ptp(halves(image, hole)[0]) == 0
    filled, _ = filled_in_halves(image, hole)
    np.testing.assert_array_equal(filled, image)


def test_a_patch_takes_the_detail_of_what_it_looks_like() -> None:
    image = np.full((128, 128, 3), 60, np.uint8)
    image[:, 64:] = 180  # plain on the left, a chequerboard on the right
    image[::2, 64::2] += 40
    image[1::2, 65::2] += 40
    filled, _ = filled_in_halves(image, disc(128, 128, 24))
    away = np.abs(np.arange(128) - 64) > 8  # from the seam
    assert np.abs(filled[:, away].astype(int) - image[:, away]).mean() < 2


def test_look_alikes_of_full_size_lie_where_their_halves_do() -> None:
    image, hole = texture(1, 128, 128), disc(128, 128, 24)
    _, small = fill(*halves(image, hole), seed=0)
    _, field = filled_in_halves(image, hole)
    assert small is not None
    assert field is not None
    found = field.cost < field.cost.max()
    assert found.mean() > 0.95
    above = small.place[field.y[found] // 2, field.x[found] // 2]
    np.testing.assert_array_equal(field.like_y[found] // 2, small.like_y[above])
    np.testing.assert_array_equal(field.like_x[found] // 2, small.like_x[above])
    assert not hole[field.like_y, field.like_x].any()


def test_without_look_alikes_the_filling_stays_smooth() -> None:
    image, hole = texture(0), disc()
    small, _ = halves(image, hole)
    smooth = cv2.resize(small, (64, 64), interpolation=cv2.INTER_CUBIC)
    filled, field = add_detail(image, hole, small, None)
    np.testing.assert_array_equal(filled[hole], smooth[hole])
    np.testing.assert_array_equal(filled[~hole], image[~hole])
    assert field is None
