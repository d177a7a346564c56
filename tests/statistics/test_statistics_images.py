"""Areas and components of masks, against counting by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from samples import soft_mask

from l2i_builder.statistics.images import AREAS, mask_areas, mask_components


@pytest.mark.parametrize("seed", range(4))
def test_areas_are_the_share_of_pixels_above_each_threshold(seed: int) -> None:
    mask = soft_mask(seed, 128)
    assert mask_areas(mask) == pytest.approx([(mask > threshold * 255).mean() for threshold in AREAS])


def test_areas_of_nothing_and_of_everything() -> None:
    assert mask_areas(np.zeros((8, 8), np.uint8)) == [0, 0, 0, 0]
    assert mask_areas(np.full((8, 8), 255, np.uint8)) == [1, 1, 1, 1]


def test_a_component_of_100_pixels_counts_and_one_of_99_does_not() -> None:
    mask = np.zeros((512, 512), np.uint8)
    mask[10:20, 10:20] = 255  # 100
    mask[100:110, 100:110] = 255
    mask[100, 100] = 0  # 99
    assert mask_components(mask) == [1, 1]


@pytest.mark.parametrize("side", [128, 256, 1024])
def test_the_smallest_component_scales_with_the_image(side: int) -> None:
    edge = side * 10 // 512
    mask = np.zeros((side, side), np.uint8)
    mask[:edge, :edge] = 255
    mask[-edge:, -edge:] = 255
    larger = np.pad(mask[: edge + 1, : edge + 1], ((0, side - edge - 1),) * 2)
    expected = [2, 2] if (10 * side) % 512 == 0 else [0, 0]
    assert mask_components(mask) == expected
    larger[: edge + 1, : edge + 1] = 255
    assert mask_components(larger) == [1, 1]


def test_components_touch_at_corners_and_fall_apart_at_higher_thresholds() -> None:
    mask = np.zeros((512, 512), np.uint8)
    mask[100:200, 100:200] = 255
    mask[200:300, 200:300] = 255  # touches at a corner
    mask[100:190, 320:400] = 255
    mask[140:160, 200:320] = 160  # a bridge of m = 0.63
    assert mask_components(mask) == [1, 2]


def test_components_agree_with_counting_by_hand_on_blobs() -> None:
    for seed in range(4):
        mask = soft_mask(seed, 256)
        for threshold, found in zip((0.5, 0.9), mask_components(mask), strict=True):
            left, count = (mask > threshold * 255).astype(np.uint8), 0
            while left.any():  # flood every component away, one by one
                y, x = np.argwhere(left)[0]
                size, *_ = cv2.floodFill(left, None, (int(x), int(y)), 0, flags=8)
                count += size >= 25  # 100 pixels at 512² are 25 at 256²
            assert found == count
