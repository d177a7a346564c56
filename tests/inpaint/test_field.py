"""Nearest-neighbour fields: what is found is known, near, and the same on every machine; votes are averages."""

from __future__ import annotations

import numpy as np
import pytest
from textures import disc, texture

from l2i_builder.inpaint import field as fields
from l2i_builder.inpaint.field import CHANNELS, PATCH, REACH, Field, improve, new_field, vote, whole_patches


def pixels(seed: int = 0, side: int = 48) -> np.ndarray:
    """uint8 [side, side, CHANNELS] without structure."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, CHANNELS), dtype=np.uint8)


def state(seed: int = 1) -> np.ndarray:
    return np.array([seed], np.uint32)


def patch(image: np.ndarray, y: int, x: int) -> np.ndarray:
    padded = np.pad(image, ((REACH, REACH), (REACH, REACH), (0, 0)), mode="reflect").astype(np.int64)
    return padded[y : y + PATCH, x : x + PATCH]


class TestWholePatches:
    def test_lie_inside_the_image_and_off_the_hole(self) -> None:
        hole = np.zeros((20, 30), bool)
        hole[10, 15] = True
        known = whole_patches(hole)
        expected = np.zeros_like(known)
        expected[REACH : 20 - REACH, REACH : 30 - REACH] = True
        expected[10 - REACH : 11 + REACH, 15 - REACH : 16 + REACH] = False
        np.testing.assert_array_equal(known, expected)


class TestANewField:
    def test_has_a_known_look_alike_for_every_patch_that_touches_the_hole(self) -> None:
        hole = disc(48, 48, 8)
        known = whole_patches(hole)
        field = new_field(hole, known, state())
        touched = {(y, x) for y, x in zip(field.y.tolist(), field.x.tolist(), strict=True)}
        for y in range(48):
            for x in range(48):
                window = hole[max(y - REACH, 0) : y + REACH + 1, max(x - REACH, 0) : x + REACH + 1]
                assert ((y, x) in touched) == window.any()
        assert known[field.like_y, field.like_x].all()
        np.testing.assert_array_equal(field.place[field.y, field.x], np.arange(len(field.y)))

    def test_takes_the_look_alikes_of_half_size_where_they_are_known(self) -> None:
        hole = disc(48, 48, 8)
        small_hole = hole.reshape(24, 2, 24, 2).any(axis=(1, 3))
        above = new_field(small_hole, whole_patches(small_hole), state())
        above.cost[:] = 5
        field = new_field(hole, whole_patches(hole), state(), above)
        taken = field.cost == 5
        assert taken.mean() > 0.8
        parent = above.place[field.y[taken] // 2, field.x[taken] // 2]
        np.testing.assert_array_equal(field.like_y[taken], 2 * above.like_y[parent] + field.y[taken] % 2)
        np.testing.assert_array_equal(field.like_x[taken], 2 * above.like_x[parent] + field.x[taken] % 2)


class TestTheSearch:
    def search(self, image: np.ndarray, target: np.ndarray, hole: np.ndarray, seed: int = 1) -> Field:
        random, known = state(seed), whole_patches(hole)
        field = new_field(hole, known, random)
        improve(field, image, target, known, random, passes=8, span=48)
        return field

    def test_costs_are_the_differences_of_the_patches(self) -> None:
        image, target, hole = pixels(0), pixels(1), disc(48, 48, 6)
        field = self.search(image, target, hole)
        for i in range(0, len(field.y), 7):
            here, there = patch(target, field.y[i], field.x[i]), patch(image, field.like_y[i], field.like_x[i])
            assert field.cost[i] == ((here - there) ** 2).sum()

    def test_what_lies_elsewhere_is_found_and_spreads(self) -> None:
        image, hole = pixels(), np.zeros((48, 48), bool)
        hole[16:32, 4:20] = True
        target = image.copy()
        target[9:39, :27] = image[9:39, 21:48]  # 21 pixels further left
        field = self.search(image, target, hole)
        exact = field.cost == 0
        assert exact.mean() > 0.9  # on noise, one lucky draw spreads over the whole hole
        np.testing.assert_array_equal(field.like_x[exact], field.x[exact] + 21)
        np.testing.assert_array_equal(field.like_y[exact], field.y[exact])

    def test_the_same_seed_finds_the_same(self) -> None:
        image, target, hole = pixels(0), pixels(1), disc(48, 48, 6)
        one, again, other = (self.search(image, target, hole, seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(one.like_x, again.like_x)
        assert (one.like_x != other.like_x).any()

    def test_the_largest_differences_do_not_overflow(self) -> None:
        image, hole = np.zeros((48, 48, CHANNELS), np.uint8), disc(48, 48, 6)
        field = self.search(image, np.full_like(image, 255), hole)
        assert set(field.cost.tolist()) == {PATCH * PATCH * CHANNELS * 255**2}

    def test_what_is_compiled_equals_what_is_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        image, target, hole = pixels(0, 24), pixels(1, 24), disc(24, 24, 3)
        compiled = self.search(image, target, hole)
        for name in ("_advance", "_difference", "_better", "_scatter", "_search"):
            monkeypatch.setattr(fields, name, getattr(fields, name).py_func)
        with np.errstate(over="ignore"):
            written = self.search(image, target, hole)
        np.testing.assert_array_equal(compiled.like_y, written.like_y)
        np.testing.assert_array_equal(compiled.cost, written.cost)


class TestVotes:
    def test_alike_ones_keep_their_colour(self) -> None:
        image, hole = np.full((32, 32, CHANNELS), 77, np.uint8), disc(32, 32, 5)
        field = new_field(hole, whole_patches(hole), state())
        assert set(vote(field, image, hole, tolerance=1.0).ravel().tolist()) == {77}

    def test_the_better_match_has_more_say(self) -> None:
        image = np.zeros((32, 32, CHANNELS), np.uint8)
        image[:, 16:] = 200
        hole = np.zeros((32, 32), bool)
        hole[15, 15] = True
        field = new_field(hole, whole_patches(hole), state())
        dark = np.arange(len(field.y)) % 2 == 0
        field.like_y[:] = REACH
        field.like_x[:] = np.where(dark, REACH, 31 - REACH)
        field.cost[:] = np.where(dark, 300, 0)
        (even,) = vote(field, image, hole, tolerance=1e9)[:, 0]
        (strict,) = vote(field, image, hole, tolerance=100.0)[:, 0]
        assert even == round(200 * (~dark).mean())
        assert strict == round(200 * (~dark).sum() / ((~dark).sum() + 0.1 * dark.sum()))

    def test_a_texture_is_left_as_it_is_by_patches_that_agree(self) -> None:
        image, hole = np.dstack([texture(1), np.zeros((64, 64), np.uint8)]), disc(64, 64, 9)
        field = new_field(hole, whole_patches(hole), state())
        field.like_y[:], field.like_x[:] = field.y - 20, field.x
        np.testing.assert_array_equal(vote(field, image, hole, 1.0), np.roll(image, 20, axis=0)[hole])
