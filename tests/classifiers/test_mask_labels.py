"""Masks of known quality: the label follows the paper's three conditions."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from toy_scene import scene

from classifiers.mask_labels import SPOILT, disturbed, hesitant, mask_quality, masks_of, soften, viewed
from classifiers.scenes import SIDE, iou

TOY = scene()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class TestQuality:
    def test_the_truth_is_good(self) -> None:
        assert mask_quality(TOY.alpha, TOY.alpha) == 1

    def test_half_an_object_is_bad(self) -> None:
        half = TOY.alpha.copy()
        half[:256] = 0
        assert mask_quality(half, TOY.alpha) == 0

    def test_as_much_background_as_object_is_bad(self) -> None:
        assert mask_quality(np.full_like(TOY.alpha, 255), TOY.alpha) == 0

    def test_a_true_mask_of_next_to_nothing_is_bad(self) -> None:
        small = scene(radius=20).alpha
        assert (small > 127).mean() < 0.02
        assert mask_quality(small, small) < 0.5

    def test_between_is_between(self) -> None:
        most = TOY.alpha.copy()
        most[:210] = 0
        assert 0.7 < iou(most, TOY.alpha) < 0.9
        assert 0 < mask_quality(most, TOY.alpha) < 1

    def test_empty_masks(self) -> None:
        empty = np.zeros_like(TOY.alpha)
        assert iou(empty, empty) == 1
        assert mask_quality(empty, empty) == 0


@pytest.mark.parametrize("kind", SPOILT)
def test_every_way_of_spoiling_goes_its_way(kind: str) -> None:
    """Incomplete and small masks select no background; masks with background lose nothing of the object."""
    masks = [SPOILT[kind](TOY, rng(seed)) for seed in range(8)]
    assert all(mask.shape == (SIDE, SIDE) and mask.dtype == np.uint8 for mask in masks)
    assert min(iou(mask, TOY.alpha) for mask in masks) < 0.97
    inside = TOY.alpha > 127
    for mask in masks:
        if kind.startswith(("incomplete", "small")):
            assert not (mask[~inside] > 127).any()
        elif kind.startswith("background"):
            assert (mask[inside] > 127).all()


def test_softening_keeps_the_object() -> None:
    for seed in range(10):
        assert iou(soften(TOY.alpha, rng(seed)), TOY.alpha) > 0.85


def test_disturbed_images_are_images() -> None:
    for seed in range(12):
        image = disturbed(TOY.image, rng(seed))
        assert image.shape == TOY.image.shape
        assert image.dtype == np.uint8
        assert not np.array_equal(image, TOY.image)


def test_unusual_views_give_masks_that_lie_where_the_picture_does() -> None:
    """A segmenter that finds red in any view gives, whatever the view, parts of the true mask and nothing else."""

    def red(image: np.ndarray) -> np.ndarray:
        colours = image.astype(int)
        return np.where((colours[..., 0] > 150) & (colours[..., 1] < 110), 255, 0).astype(np.uint8)

    found = [viewed(TOY.image, red, rng(seed)) for seed in range(40)]
    near = cv2.dilate(TOY.alpha, np.ones((15, 15), np.uint8)) > 0
    inside = [float(near[mask > 127].mean()) for mask in found if (mask > 127).sum() > 500]
    assert len(inside) > 20
    assert np.median(inside) > 0.99
    assert all(mask.shape == (SIDE, SIDE) and mask.dtype == np.uint8 for mask in found)


def test_hesitant_masks_lie_between_truth_and_error() -> None:
    half = np.where(np.arange(SIDE) < 256, TOY.alpha, 0).astype(np.uint8)
    for seed in range(10):
        mask = hesitant(half, TOY.alpha, rng(seed))
        assert (mask >= half).all()
        assert (mask <= TOY.alpha).all()
        assert (mask < TOY.alpha).any()


def test_uncertain_scenes_give_only_what_segmenters_say() -> None:
    def blob(image: np.ndarray) -> np.ndarray:
        return np.where(image[..., 0] > 150, 255, 0).astype(np.uint8)

    kinds = {kind for kind, _ in masks_of(replace(TOY, certain=False), {"one": blob}, rng())}
    assert kinds == {"one", "one-disturbed", "one-viewed"}


def test_a_segmenter_may_choose_the_photographs_own_object() -> None:
    own = np.zeros_like(TOY.alpha)
    own[:100, :100] = 255
    both = replace(TOY, other=own)
    kinds = [kind for kind, _ in masks_of(both, {"one": lambda image: own}, rng())]
    assert "one" not in kinds
    assert not both.chose_another(TOY.alpha)
    assert not TOY.chose_another(own)


def test_a_scene_gives_labelled_masks_of_many_kinds_and_repeats() -> None:
    def blob(image: np.ndarray) -> np.ndarray:
        return np.where(image[..., 0] > 150, 255, 0).astype(np.uint8)

    def masks() -> list[tuple[str, np.ndarray]]:
        return list(masks_of(TOY, {"one": blob, "two": blob}, rng(7)))

    kinds = [kind for kind, _ in masks()]
    assert kinds[:6] == ["one", "two", "two-disturbed", "two-viewed", "two-viewed", "true"]
    assert len(set(kinds[6:])) >= 3
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(masks(), masks(), strict=True))
