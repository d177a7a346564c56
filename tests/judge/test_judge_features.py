"""The views a backbone gets, and measures of what it makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_judges import samples

from l2i_builder.judge import features as jf
from l2i_builder.judge.measures import log_of


def maps_of(region: np.ndarray, channels: int = 8, noise: float = 0.3, seed: int = 0) -> np.ndarray:
    """Feature maps [c, h, w] that know a region, each channel in its own measure."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=channels)
    return (weights[:, None, None] * region + noise * rng.normal(size=(channels, *region.shape))).astype(np.float32)


DISC = np.hypot(*(np.mgrid[:28, :28] - 14)) < 7
STAGES = (
    maps_of(DISC.astype(np.float32)),
    maps_of(DISC[::2, ::2].astype(np.float32)),
    maps_of(DISC[::4, ::4].astype(np.float32)),
)


class TestViews:
    @pytest.mark.parametrize("family", jf.FAMILIES)
    def test_have_pixels_whatever_the_mask(self, family: str) -> None:
        images, masks, backgrounds, _ = samples(1)
        for mask in (np.zeros_like(masks[0]), np.full_like(masks[0], 255), masks[0]):
            sample = (images[0], mask) if family.startswith("mask") else (images[0], mask, backgrounds[0], mask > 25)
            for view in jf.FAMILIES[family].views(sample):
                assert view.ndim == 3
                assert view.shape[2] == 3
                assert min(view.shape[:2]) >= 32

    def test_the_papers_inpainting_filter_sees_the_background_alone(self) -> None:
        images, masks, backgrounds, holes = samples(1)
        views = jf.InpaintingPlain().views((images[0], masks[0], backgrounds[0], holes[0]))
        assert len(views) == 1
        assert np.array_equal(views[0], backgrounds[0])

    def test_the_papers_mask_filter_sees_image_and_mask(self) -> None:
        images, masks, _, _ = samples(1)
        plain = jf.MaskPlain()
        (view,) = plain.views((images[0], masks[0]))
        (other,) = plain.views((images[0], np.zeros_like(masks[0])))
        assert view.shape == images[0].shape
        assert np.allclose(view - other, masks[0][..., None] / 3, atol=1e-4)

    def test_a_window_holds_the_selection_and_stays_in_the_frame(self) -> None:
        rng = np.random.default_rng(0)
        for _ in range(200):
            height, width = rng.integers(40, 100, 2)
            selected = np.zeros((height, width), bool)
            y, x = rng.integers(0, (height - 5, width - 5))
            selected[y : y + rng.integers(1, 60), x : x + rng.integers(1, 60)] = True
            top, left, bottom, right = jf.window(selected, 0.3)
            assert 0 <= top < bottom <= height
            assert 0 <= left < right <= width
            assert jf.crop(selected, (top, left, bottom, right)).sum() == selected.sum()


class TestAgreement:
    def test_a_whole_object_is_explained_better_than_a_half_or_a_moved_one(self) -> None:
        whole = jf.agreement(STAGES, DISC.astype(np.float32))
        half = jf.agreement(STAGES, (DISC & (np.arange(28) < 14)).astype(np.float32))
        moved = jf.agreement(STAGES, np.roll(DISC, 9, axis=0).astype(np.float32))
        assert whole["unexplained_both"] < np.log(0.1)
        assert whole["unexplained_both"] < half["unexplained_both"] < moved["unexplained_both"]
        assert half["beyond_both"] > whole["beyond_both"]  # the lost half looks like the object

    def test_nothing_and_everything_explain_nothing(self) -> None:
        for region in (np.zeros((28, 28), np.float32), np.ones((28, 28), np.float32)):
            numbers = jf.agreement(STAGES, region)
            assert [numbers[f"unexplained_{name}"] for name in ("middle", "both", "coarse")] == [log_of(1.0)] * 3

    def test_both_forms_of_ridge_regression_agree(self) -> None:
        """More channels than places takes the dual form: repeating every channel k times only scales the penalty."""
        target = DISC[::4, ::4].astype(np.float32)
        few = maps_of(target, channels=6)
        many = np.concatenate([few] * 10)
        assert many.shape[0] > target.size > few.shape[0]
        assert np.allclose(jf.ridge(few, target, 0.1), jf.ridge(many, target, 1.0), atol=1e-6)


class TestLikeness:
    REGIONS = {"in": DISC, "ring": np.hypot(*(np.mgrid[:28, :28] - 14)) < 10, "out": ~DISC}  # noqa: RUF012

    def test_a_fill_like_its_ring_has_gone_all_the_way(self) -> None:
        before = jf.Maps(np.zeros(1), STAGES)
        flat = tuple(np.random.default_rng(0).normal(size=s.shape).astype(np.float32) * 0.3 for s in STAGES)
        regions = self.REGIONS | {"ring": self.REGIONS["ring"] & ~DISC}
        left = jf.removal([before, before], regions)
        filled = jf.removal([jf.Maps(np.zeros(1), flat), before], regions)
        assert left["fill_old_0"] == pytest.approx(0)
        assert filled["fill_old_0"] > 0.5
        assert filled["toward_ring_0"] > 0.9 > left["toward_ring_0"]

    def test_object_and_ground_point_apart(self) -> None:
        numbers = jf.likeness(STAGES, self.REGIONS)
        assert numbers["cos_in_out_0"] < -0.9


def test_vectors_are_finite_whatever_was_measured() -> None:
    vector = jf.joined({"a": float("nan"), "b": float("inf"), "c": 1.0, "d": float("-inf")})
    assert vector.tolist() == [0, 0, 1, 0]
    assert vector.dtype == np.float32
