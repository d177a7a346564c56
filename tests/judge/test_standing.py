"""What stands out by itself: found without being told, and a mask that follows it is told from one that does not."""

from __future__ import annotations

import numpy as np
import pytest

from l2i_builder.judge.standing import components, standing

SIDE = 28


def picture(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features [8, SIDE, SIDE] of a thing in the middle of noisy ground, and where it is [SIDE, SIDE]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    thing = (np.hypot(y - 14, x - 13) < 7).astype(np.float32)
    maps = rng.normal(0, 1, (8, SIDE, SIDE)).astype(np.float32) + 4 * rng.normal(size=(8, 1, 1)) * thing
    return maps.astype(np.float32), thing


def measured(maps: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    return standing([maps], [mask])


def test_the_thing_stands_out_and_nothing_else_does() -> None:
    maps, thing = picture()
    elsewhere = np.roll(thing, 12, axis=1)
    right, wrong = measured(maps, thing), measured(maps, elsewhere)
    assert right["first_component_0"] > 0.8 > 0.4 > wrong["first_component_0"]
    assert right["best_component_0"] < wrong["best_component_0"]
    assert right["unlike_border_0"] > wrong["unlike_border_0"]
    assert right["unlike_border_correlation_0"] > 0.6 > wrong["unlike_border_correlation_0"]
    assert right["unlike_border_outside_0"] < wrong["unlike_border_outside_0"]


def test_half_of_the_thing_agrees_less_than_the_whole() -> None:
    maps, thing = picture()
    half = np.where(np.arange(SIDE) < 13, thing, 0).astype(np.float32)
    assert measured(maps, half)["first_component_0"] < measured(maps, thing)["first_component_0"]


@pytest.mark.parametrize(("channels", "side"), [(8, 28), (90, 7)])
def test_components_are_the_same_from_either_matrix(channels: int, side: int) -> None:
    """They carry the features' distances: all of them together, where there are no more than twelve."""
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(channels, 5))
    maps = (basis @ rng.normal(size=(5, side * side))).reshape(channels, side, side)
    places = components(maps)
    flat = maps.reshape(channels, -1).T
    assert places.shape[0] == side * side
    for a, b in ((0, 1), (3, 30), (7, 20)):
        assert np.linalg.norm(places[a] - places[b]) == pytest.approx(np.linalg.norm(flat[a] - flat[b]), rel=1e-5)


@pytest.mark.parametrize("mask", [np.zeros((SIDE, SIDE), np.float32), np.ones((SIDE, SIDE), np.float32)])
@pytest.mark.parametrize("flat", [True, False])
def test_everything_is_finite_whatever_comes(mask: np.ndarray, flat: bool) -> None:
    maps = np.zeros((8, SIDE, SIDE), np.float32) if flat else picture()[0]
    assert all(np.isfinite(value) for value in measured(maps, mask).values())
