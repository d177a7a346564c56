"""Plain measures: finite for anything, and pointing the right way."""

from __future__ import annotations

import numpy as np
import pytest

from l2i_builder.judge import measures as jm

W = jm.WORK
Y, X = np.mgrid[:W, :W]
DISC = np.hypot(Y - 128, X - 128) < 60


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (W, W, 3), dtype=np.uint8)


def scene() -> np.ndarray:
    """A red disc on a green, lightly textured ground."""
    image = np.full((W, W, 3), (60, 140, 60), np.uint8) + noise() // 16
    image[DISC] = (200, 40, 40)
    return image


MASKS = {
    "empty": np.zeros((W, W), np.float32),
    "full": np.ones((W, W), np.float32),
    "grey": np.full((W, W), 0.5, np.float32),
    "one pixel": np.eye(1, W * W, 300, dtype=np.float32).reshape(W, W),
    "corner": ((Y < 3) & (X < 3)).astype(np.float32),
    "stripes": (Y % 2).astype(np.float32),
    "noise": np.random.default_rng(1).random((W, W), np.float32),
    "disc": DISC.astype(np.float32),
}
IMAGES = {"black": np.zeros((W, W, 3), np.uint8), "white": np.full((W, W, 3), 255, np.uint8), "noise": noise()}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("image", IMAGES)
def test_every_measure_is_finite_and_named_alike(mask: str, image: str) -> None:
    lab, m = jm.lab_of(IMAGES[image]), MASKS[mask]
    hole = m > 0.5
    measured = [
        jm.mask_shape(m) | jm.mask_edges(lab, m),
        jm.hole_shape(hole, m) | jm.fill_colours(lab, lab, hole, m) | jm.fill_texture(lab, lab, hole, m),
    ]
    assert all(np.isfinite(list(numbers.values())).all() for numbers in measured)
    expected = jm.mask_shape(MASKS["disc"]) | jm.mask_edges(lab, MASKS["disc"])
    assert list(measured[0]) == list(expected)


class TestMask:
    def test_shape(self) -> None:
        disc, stripes = jm.mask_shape(MASKS["disc"]), jm.mask_shape(MASKS["stripes"])
        assert np.exp(disc["log_area_0.5"]) == pytest.approx(np.pi * 60**2 / W**2, rel=0.02)
        assert disc["doubt"] == disc["doubt_deep"] == pytest.approx(np.log(0.01))
        assert disc["compactness"] > 0.7 > stripes["compactness"]
        assert disc["solidity"] > 0.95
        assert disc["borders"] == 0
        assert stripes["borders"] > 0
        assert disc["largest_piece"] == pytest.approx(1, abs=1e-3)

    def test_doubt_grows_with_softness(self) -> None:
        soft = np.clip((60 - np.hypot(Y - 128, X - 128)) / 40 + 0.5, 0, 1).astype(np.float32)
        sharp, blurred = jm.mask_shape(MASKS["disc"]), jm.mask_shape(soft)
        for name in ("doubt", "doubt_inside", "doubt_outside", "doubt_deep"):
            assert blurred[name] > sharp[name]
        assert blurred["fringe"] > sharp["fringe"] == pytest.approx(np.log(0.01), abs=1e-3)

    def test_outline_on_edges(self) -> None:
        lab = jm.lab_of(scene())
        there = jm.mask_edges(lab, MASKS["disc"])
        moved = jm.mask_edges(lab, np.roll(MASKS["disc"], 40, axis=1))
        assert there["edge_far"] < moved["edge_far"]
        assert there["edge_astray"] < moved["edge_astray"]
        assert there["edge_missed"] < moved["edge_missed"]
        assert there["edge_over_band"] > moved["edge_over_band"]
        assert there["colour_step"] > moved["colour_step"]
        assert there["colour_in_ring"] < moved["colour_in_ring"]

    def test_the_frame_is_no_boundary(self) -> None:
        inner, outer = jm.bands(Y < 100, 4)
        assert inner[:90].sum() == 0
        assert outer.sum() == 4 * W


class TestFill:
    """The disc is removed from the scene: its fill is good ground, or wrong in several ways."""

    HOLE = np.hypot(Y - 128, X - 128) < 70

    def measured(self, background: np.ndarray) -> dict[str, float]:
        after, before = jm.lab_of(background), jm.lab_of(scene())
        arrays = (after, before, self.HOLE, MASKS["disc"])
        return jm.fill_colours(*arrays) | jm.fill_texture(*arrays)

    def ground(self) -> np.ndarray:
        ground = np.full((W, W, 3), (60, 140, 60), np.uint8) + noise(2) // 16
        return np.where(self.HOLE[..., None], ground, scene())

    def test_what_was_there_has_not_changed(self) -> None:
        good, left = self.measured(self.ground()), self.measured(scene())
        assert left["fill_unchanged"] == 1
        assert good["fill_unchanged"] < 0.05
        assert left["fill_like_removed"] > 0.5 > good["fill_like_removed"]
        assert left["old_slopes"] > 0.99 > good["old_slopes"]

    def test_fog_is_smoother_than_its_surroundings(self) -> None:
        fog = np.where(self.HOLE[..., None], np.uint8((68, 148, 68)), self.ground())
        good, foggy = self.measured(self.ground()), self.measured(fog)
        assert foggy["fine_step"] < good["fine_step"] - 0.5
        assert foggy["flat_in"] > good["flat_in"]

    def test_a_seam_shows(self) -> None:
        brighter = np.where(self.HOLE[..., None], self.ground() + np.uint8(40), self.ground())
        good, seam = self.measured(self.ground()), self.measured(brighter)
        assert seam["seam"] > good["seam"] + 0.3
        assert seam["fill_lighter"] > good["fill_lighter"]

    def test_repetition_is_seen(self) -> None:
        tiled = np.where(self.HOLE[..., None], np.tile(self.ground()[:16, :16], (16, 16, 1)), self.ground())
        assert self.measured(tiled)["repeats"] > self.measured(self.ground())["repeats"] + 0.3
