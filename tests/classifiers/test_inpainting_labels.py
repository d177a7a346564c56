"""Fills of known quality: wrong ones look wrong, right ones lie close to the truth."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from toy_scene import ground, pictures, scene

from classifiers.inpainting_labels import WRONG, again, coarse, distance, fills_of, near, true_fill, view
from l2i_builder import layers
from l2i_builder.judge.features import Maps

TOY = scene()
HOLE = layers.hole(TOY.alpha, 0.1, 9)
TRUTH = true_fill(TOY, HOLE)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def telea(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    filled = cv2.inpaint(image, hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)
    return np.where(hole[..., None], filled, image).astype(np.uint8)


@pytest.mark.parametrize("kind", WRONG)
def test_every_wrong_fill_differs_from_the_truth_where_the_hole_is(kind: str) -> None:
    for seed in range(3):
        fill = np.asarray(WRONG[kind](TOY, TRUTH, HOLE, pictures(), rng(seed)), np.float32)
        assert fill.shape == TOY.image.shape
        assert np.abs(fill[HOLE] - TRUTH[HOLE]).mean() > 3
        assert fill.min() >= -0.5
        assert fill.max() <= 255.5


def test_all_fills_equal_the_image_outside_the_hole() -> None:
    fills = list(fills_of(TOY, HOLE, {"telea": telea}, pictures(), rng()))
    kinds = [kind for kind, _, _ in fills]
    assert kinds[:4] == ["true", "true-again", "object-left", "telea"]
    assert len(kinds) >= 7
    for _, fill, quality in fills:
        assert fill.dtype == np.uint8
        assert np.array_equal(fill[~HOLE], TOY.image[~HOLE])
        assert quality in (0.0, 1.0, None)
    assert [quality for kind, _, quality in fills if kind == "true"] == [1.0]
    assert np.array_equal(fills[0][1][HOLE], TOY.background[HOLE])  # type: ignore[index]


def test_a_careful_painter_is_close_to_the_truth_but_not_the_same() -> None:
    for seed in range(6):
        apart = np.abs(again(TRUTH, rng(seed)).astype(int) - TRUTH)
        assert 0 < apart.mean() < 12  # the ground is noise, which JPEG and a little blur take from


def test_a_coarse_inpainter_sees_half_the_size_and_changes_the_hole_only() -> None:
    seen = []

    def fill(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        seen.append(image.shape)
        return np.where(hole[..., None], 7, image).astype(np.uint8)

    out = coarse(fill)(TOY.image, HOLE)
    assert seen == [(256, 256, 3)]
    assert np.array_equal(out[~HOLE], TOY.image[~HOLE])
    assert (out[HOLE] < 60).mean() > 0.9


def test_an_inpainter_with_little_context_sees_the_surroundings_only() -> None:
    seen = []

    def fill(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        seen.append(image.shape)
        return np.where(hole[..., None], 7, image).astype(np.uint8)

    small = np.zeros_like(HOLE)
    small[40:72, 400:480] = True
    out = near(fill)(TOY.image, small)
    assert seen == [(40 + 32 + 48, 48 + 80 + 32, 3)]  # the frame ends 32 pixels right of the hole
    assert (out[small] == 7).all()
    assert np.array_equal(out[~small], TOY.image[~small])
    assert near(fill)(TOY.image, np.zeros_like(HOLE)) is TOY.image


def test_distance_compares_texture_not_place() -> None:
    """Stand-in features: slopes and colours, coarser at each stage."""

    def maps(image: np.ndarray) -> Maps:
        grey = image.astype(np.float32).transpose(2, 0, 1)
        slopes = np.stack([cv2.Sobel(channel, cv2.CV_32F, 1, 0) for channel in grey])
        both = np.concatenate([grey, np.abs(slopes)])
        return Maps(both.mean(axis=(1, 2)), tuple(both[:, ::step, ::step] for step in (1, 2, 4, 8, 16)))

    def away(fill: np.ndarray) -> float:
        hole = view(HOLE, HOLE).astype(np.float32)
        return distance(*(maps(view(pixels, HOLE)) for pixels in (fill, TRUTH, TOY.image)), hole)

    other_noise = np.where(HOLE[..., None], ground(seed=9), TOY.image)
    assert away(TRUTH) == 0
    assert away(other_noise) < 0.1 < away(telea(TOY.image, HOLE)) < away(TOY.image)
