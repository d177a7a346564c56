"""A scene made here: a striped disc with a tail on textured ground, its layers known exactly."""

from __future__ import annotations

import numpy as np

from classifiers.scenes import SIDE, Scene
from classifiers.sources import Picture

Y, X = np.mgrid[:SIDE, :SIDE]


def ground(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    waves = 20 * np.sin(X / 9)[..., None] + rng.normal(0, 12, (SIDE, SIDE, 3))
    return np.clip(np.array([90, 140, 80]) + waves, 0, 255).astype(np.uint8)


def scene(radius: int = 110) -> Scene:
    disc = np.hypot(Y - 256, X - 256) < radius
    tail = (np.abs(Y - 256) < 12) & (X > 256) & (256 + radius + 110 > X)
    alpha = np.where(disc | tail, 255, 0).astype(np.uint8)
    colour = np.where((X // 24 % 2 == 0)[..., None], (210, 60, 40), (30, 30, 120)).astype(np.uint8)
    image = np.where(alpha[..., None] > 0, colour, ground())
    return Scene("toy", ("toy",), False, True, image, alpha, ground())


def pictures() -> list[Picture]:
    """One photograph and one cut-out."""
    cutout = np.zeros((160, 200, 4), np.uint8)
    cutout[20:140, 30:170] = (240, 200, 30, 255)
    return [Picture("other-photo", ground(5)[:400, :500]), Picture("other-cutout", cutout)]
