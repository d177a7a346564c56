"""Inpaintings whose quality is known: the true background, wrong fills on purpose, and inpainters' results judged
against the true background.

The paper calls an inpainting bad if there is an object or an artefact in the region, or it does not cohere with
the rest. What an inpainter invents need not equal the truth: it is compared by the statistics of its features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np

from classifiers.mask_labels import field
from classifiers.scenes import SIDE, Scene, jpeg, paste, square
from classifiers.sources import Picture
from l2i_builder.judge.features import Maps, crop, pooled, window

Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]  # image uint8 [H, W, 3], hole bool [H, W] -> filled image
CONTEXT = 48  # pixels around the hole that a slow inpainter gets to see


def fills_of(
    scene: Scene, hole: np.ndarray, inpainters: dict[str, Fill], stock: list[Picture], rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray, float | None]]:
    """Yield (kind, background uint8 [SIDE, SIDE, 3], P(good) or None where the truth has to be asked).

    ``scene`` has a true background. ``stock``: photographs and cut-outs of its side of the split, to draw from.
    """
    truth = true_fill(scene, hole)
    for_parts, for_wrong, for_true = rng.spawn(3)
    yield "true", truth, 1.0
    yield "true-again", _within(again(truth, for_true), scene.image, hole), 1.0
    yield "object-left", scene.image, 0.0
    for name, inpaint in inpainters.items():
        yield name, inpaint(scene.image, hole), None
        if for_parts.random() < 0.3:
            half = hole & ~_half(scene, for_parts)
            yield f"{name}-object-part", _within(inpaint(scene.image, half), scene.image, hole), 0.0
    for kind in for_wrong.choice(list(WRONG), 5, replace=False):
        yield kind, _within(WRONG[kind](scene, truth, hole, stock, for_wrong), scene.image, hole), 0.0


def again(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the true background as a careful painter would: a little lighter, softer or coarser than it was."""
    out = truth.astype(np.float32) + rng.uniform(-3, 3, 3)
    if rng.random() < 0.5:
        out[:] = cv2.GaussianBlur(out, (0, 0), float(rng.uniform(0.3, 0.8)))
    out += rng.normal(0, rng.uniform(0, 3), out.shape)
    return jpeg(np.clip(np.rint(out), 0, 255).astype(np.uint8), int(rng.integers(60, 95)))


def coarse(inpaint: Fill) -> Fill:
    """Return an inpainter that works at half the size: quick, and coarser than what surrounds it."""

    def fill(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        half = (image.shape[1] // 2, image.shape[0] // 2)
        small = cv2.resize(image, half, interpolation=cv2.INTER_AREA)
        gap = cv2.resize(hole.astype(np.uint8) * 255, half, interpolation=cv2.INTER_AREA) > 0
        filled = cv2.resize(inpaint(small, gap), image.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        return np.where(hole[..., None], filled, image).astype(np.uint8)

    return fill


def true_fill(scene: Scene, hole: np.ndarray) -> np.ndarray:
    """Return the image with the true background in the hole, uint8 [SIDE, SIDE, 3]."""
    assert scene.background is not None
    return np.where(hole[..., None], scene.background, scene.image)


def near(inpaint: Fill) -> Fill:
    """Return an inpainter that sees only the hole's surroundings: a small part of the work."""

    def fill(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        ys, xs = np.nonzero(hole)
        if not len(ys):
            return image
        box = tuple(
            int(np.clip(edge, 0, SIDE))
            for edge in (ys.min() - CONTEXT, xs.min() - CONTEXT, ys.max() + 1 + CONTEXT, xs.max() + 1 + CONTEXT)
        )
        out = image.copy()
        crop(out, box)[:] = inpaint(crop(image, box), crop(hole, box))  # type: ignore[arg-type]
        return out

    return fill


def distance(fill: Maps, truth: Maps, image: Maps, hole: np.ndarray) -> float:
    """Return how far the statistics of a fill's features are from the truth's: mean and spread inside the hole.

    Maps of the same window of the fill, the true background and the image with its object; hole at any size.
    0 = equal; 1 = as different as features vary over the image, object and all.
    """
    parts = []
    for a, b, c in zip(fill.stages[1:4], truth.stages[1:4], image.stages[1:4], strict=True):
        scale = c.reshape(len(c), -1).std(axis=1) + 1e-3
        means = [pooled(x, hole) for x in (a, b)]
        spreads = [np.sqrt(np.maximum(pooled(x**2, hole) - mean**2, 0)) for x, mean in zip((a, b), means, strict=True)]
        parts.append(np.mean(np.abs(means[0] - means[1]) / scale) + np.mean(np.abs(spreads[0] - spreads[1]) / scale))
    return float(np.mean(parts))


def view(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Return the window around the hole in which fill and truth are compared."""
    return crop(image, window(hole, 0.5))


def _within(fill: np.ndarray, image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    return np.where(hole[..., None], fill, image).astype(np.uint8)


def _half(scene: Scene, rng: np.random.Generator) -> np.ndarray:
    """A part of the object, bool: what an incomplete hole would leave standing."""
    ys, xs = np.nonzero(scene.alpha > 127)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:SIDE, :SIDE]
    along = np.cos(angle) * x + np.sin(angle) * y
    limit = np.quantile(np.cos(angle) * xs + np.sin(angle) * ys, rng.uniform(0.3, 0.75)) if len(xs) else 0
    return (along > limit) & (scene.alpha > 127)


Wrong = Callable[[Scene, np.ndarray, np.ndarray, list[Picture], np.random.Generator], np.ndarray]


def _ghost(
    scene: Scene, truth: np.ndarray, hole: np.ndarray, stock: list[Picture], rng: np.random.Generator
) -> np.ndarray:
    """The object shines through."""
    share = rng.uniform(0.25, 0.7)
    return np.rint(share * scene.image.astype(np.float32) + (1 - share) * truth)


def _other_object(
    scene: Scene, truth: np.ndarray, hole: np.ndarray, stock: list[Picture], rng: np.random.Generator
) -> np.ndarray:
    """Another object has been put where one was taken away, as diffusion inpainters like to."""
    cutouts = [p for p in stock if p.pixels.shape[2] == 4]
    ys, xs = np.nonzero(hole)
    top, left, height, width = ys.min(), xs.min(), int(np.ptp(ys)) + 1, int(np.ptp(xs)) + 1
    pasted, _ = paste(
        truth.astype(np.float32), np.zeros(hole.shape, np.float32), cutouts[rng.integers(len(cutouts))], rng
    )
    changed = np.abs(pasted - truth).sum(axis=2) > 0
    cy, cx = np.nonzero(changed)
    if not len(cy):
        return scene.image
    part = pasted[cy.min() : cy.max() + 1, cx.min() : cx.max() + 1]
    where = changed[cy.min() : cy.max() + 1, cx.min() : cx.max() + 1]
    scale = min(height / part.shape[0], width / part.shape[1]) * rng.uniform(0.75, 1.0)
    size = (max(1, int(part.shape[1] * scale)), max(1, int(part.shape[0] * scale)))
    part, where = cv2.resize(part, size), cv2.resize(where.astype(np.float32), size)[..., None]
    y, x = top + (height - size[1]) // 2, left + (width - size[0]) // 2
    out = truth.astype(np.float32)
    out[y : y + size[1], x : x + size[0]] = where * part + (1 - where) * out[y : y + size[1], x : x + size[0]]
    return out


def _smear(
    scene: Scene, truth: np.ndarray, hole: np.ndarray, stock: list[Picture], rng: np.random.Generator
) -> np.ndarray:
    """Smooth fog instead of texture."""
    weight = (~hole).astype(np.float32)
    width = float(rng.uniform(15, 60))
    colour = cv2.GaussianBlur(scene.image * weight[..., None], (0, 0), width)
    return colour / (cv2.GaussianBlur(weight, (0, 0), width)[..., None] + 1e-3)


def _flat(
    scene: Scene, truth: np.ndarray, hole: np.ndarray, stock: list[Picture], rng: np.random.Generator
) -> np.ndarray:
    """One colour."""
    ring = cv2.dilate(hole.astype(np.uint8), np.ones((31, 31), np.uint8)).astype(bool) & ~hole
    colour = scene.image[ring].mean(axis=0) if ring.any() else np.full(3, 128.0)
    return np.broadcast_to(colour + rng.uniform(-30, 30, 3), truth.shape).clip(0, 255)


def _seam(
    scene: Scene, truth: np.ndarray, hole: np.ndarray, stock: list[Picture], rng: np.random.Generator
) -> np.ndarray:
    """The right texture in the wrong light."""
    shift = rng.uniform(14, 45) * rng.choice([-1, 1]) + rng.uniform(-10, 10, 3)
    return np.clip((truth - 128.0) * rng.uniform(0.7, 1.2) + 128 + shift, 0, 255)


def _foreign(
    scene: Scene, truth: np.ndarray, hole: np.ndarray, stock: list[Picture], rng: np.random.Generator
) -> np.ndarray:
    """A piece of another photograph."""
    photos = [p for p in stock if p.pixels.shape[2] == 3 and p.name not in scene.sources]
    pixels = photos[rng.integers(len(photos))].pixels
    side = int(min(pixels.shape[:2]) * rng.uniform(0.4, 1))
    top, left = (int(rng.integers(size - side + 1)) for size in pixels.shape[:2])
    return square(pixels[top : top + side, left : left + side])


def _repeated(
    scene: Scene, truth: np.ndarray, hole: np.ndarray, stock: list[Picture], rng: np.random.Generator
) -> np.ndarray:
    """A small tile, again and again."""
    side = int(rng.integers(14, 64))
    free = np.argwhere(cv2.boxFilter(hole.astype(np.float32), -1, (side, side), borderType=cv2.BORDER_CONSTANT) < 1e-3)
    free = free[((free >= side // 2) & (free < SIDE - side)).all(axis=1)]
    y, x = free[rng.integers(len(free))] - side // 2 if len(free) else (0, 0)
    tile = scene.image[y : y + side, x : x + side]
    return np.tile(tile, (SIDE // side + 1, SIDE // side + 1, 1))[:SIDE, :SIDE]


def _blotches(
    scene: Scene, truth: np.ndarray, hole: np.ndarray, stock: list[Picture], rng: np.random.Generator
) -> np.ndarray:
    """Coloured clouds and noise, as of a failed generator."""
    scale = float(rng.uniform(2, 18))
    clouds = np.stack([field(SIDE, rng, scale) for _ in range(3)], axis=2)
    return np.clip(truth + clouds * rng.uniform(18, 60), 0, 255)


def _shuffled(
    scene: Scene, truth: np.ndarray, hole: np.ndarray, stock: list[Picture], rng: np.random.Generator
) -> np.ndarray:
    """The surroundings, torn: every block from another place."""
    side = int(rng.choice([16, 32, 64]))
    out = truth.copy()
    for y in range(0, SIDE, side):
        for x in range(0, SIDE, side):
            v, u = rng.integers(0, SIDE - side, 2)
            out[y : y + side, x : x + side] = truth[v : v + side, u : u + side]
    return out


WRONG: dict[str, Wrong] = {
    "ghost": _ghost,
    "other-object": _other_object,
    "smear": _smear,
    "flat": _flat,
    "seam": _seam,
    "foreign": _foreign,
    "repeated": _repeated,
    "blotches": _blotches,
    "shuffled": _shuffled,
}
