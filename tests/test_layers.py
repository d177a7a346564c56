import numpy as np
import pytest

from l2i_builder.layers import GRID, components, composite, difference, flatten, foreground, hole

RNG = np.random.default_rng(0)


def picture(side=64):
    return RNG.integers(0, 256, (side, side, 3), dtype=np.uint8)


def square(side=64, low=24, high=40, value=255):
    mask = np.zeros((side, side), np.uint8)
    mask[low:high, low:high] = value
    return mask


def test_foreground_copies_the_image_where_m_is_above_the_threshold():
    image, mask = picture(), RNG.integers(0, 256, (64, 64), dtype=np.uint8)
    result = foreground(image, mask, 0.1, (1, 2, 3))
    assert (result[mask >= 26] == image[mask >= 26]).all()
    assert (result[mask <= 25] == (1, 2, 3)).all()


def test_the_hole_covers_the_dilated_mask_and_ends_on_the_jpeg_grid():
    mask = square()
    found = hole(mask, 0.1, dilate=9 * 8)  # a radius of 9 pixels at 64
    rows, columns = np.nonzero(found)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 55, 8, 55)
    blocks = found.reshape(64 // GRID, GRID, 64 // GRID, GRID)
    assert (blocks.all(axis=(1, 3)) == blocks.any(axis=(1, 3))).all()


def test_the_radius_scales_with_the_image():
    small, large = hole(square(), 0.1, 64), hole(square(512, 192, 320), 0.1, 64)
    assert small.sum() / 64**2 == pytest.approx(large.sum() / 512**2, abs=0.1)


def test_no_dilation_and_a_mask_on_the_grid_leave_the_mask():
    assert (hole(square(), 0.1, 0) == (square() > 0)).all()


def test_faint_pixels_are_in_the_hole_as_soon_as_they_are_in_the_foreground():
    assert hole(square(value=26), 0.1, 0).any()
    assert not hole(square(value=25), 0.1, 0).any()


def test_the_composite_of_an_image_with_itself_is_the_image():
    image = picture()
    assert (composite(image, image, RNG.integers(0, 256, (64, 64), dtype=np.uint8)) == image).all()


def test_the_composite_is_the_papers_equation():
    front, back = np.full((8, 8, 3), 200, np.uint8), np.full((8, 8, 3), 100, np.uint8)
    assert (composite(front, back, np.full((8, 8), 51, np.uint8)) == 120).all()  # m = 0.2


def test_layers_are_composited_from_the_back_to_the_front():
    def layer(colour, alpha):
        return np.dstack([np.full((8, 8, 3), colour, np.uint8), np.full((8, 8), alpha, np.uint8)])

    back = np.full((8, 8, 3), 100, np.uint8)
    assert (flatten([], back) == back).all()
    assert (flatten([layer(200, 51)], back) == 120).all()
    assert (flatten([layer(0, 255), layer(200, 51)], back) == 0).all()  # the first is in front
    assert (flatten([layer(20, 51), layer(200, 51)], back) == 100).all()  # 0.2 * 20 + 0.8 * 120


def test_the_difference_of_pictures_is_the_mean_of_its_size():
    one, other = np.full((8, 8, 3), 10, np.uint8), np.full((8, 8, 3), 10, np.uint8)
    other[:4], other[4:, :, 0] = 0, 40
    assert difference(one, other) == difference(other, one) == (10 * 96 + 30 * 32) / 192


def test_components_touch_at_corners():
    mask = np.zeros((16, 16), np.uint8)
    mask[2, 2] = mask[3, 3] = mask[10, 10] = 255
    assert components(mask) == 2
    assert components(np.zeros_like(mask)) == 0
