"""Scenes whose layers are known: cut-outs pasted over object-free windows of photographs, and photographs with the
consensus of several segmentations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from classifiers.sources import Picture

SIDE = 512
AGREED = 0.9  # least IoU of the views' masks with their consensus above which it counts as true
FREE = 0.02  # share of a window that the photograph's own object may take
PLAIN = 0.3  # share of composites on the plainest of the windows: sky, water, walls, grass

Segment = Callable[[np.ndarray], np.ndarray]  # uint8 [H, W, 3] -> soft mask uint8 [H, W]


@dataclass(frozen=True)
class Scene:
    """A picture and its layers. ``image``, ``background`` uint8 [SIDE, SIDE, 3]; ``alpha`` uint8 [SIDE, SIDE].

    Composites are ``exact``: alpha is true, and so is ``background``; ``other`` is what the photograph behind may
    show of an object of its own. In photographs alpha is the consensus of several segmentations, ``certain`` where
    they agree; ``background`` and ``other`` are None. ``sources`` names the source pictures; all of them lie on
    one side of the split (``test``).
    """

    name: str
    sources: tuple[str, ...]
    test: bool
    certain: bool
    image: np.ndarray
    alpha: np.ndarray
    background: np.ndarray | None = None
    other: np.ndarray | None = None

    def chose_another(self, mask: np.ndarray) -> bool:
        """Whether a mask took the photograph's own object for the pasted one: not bad, only not asked for."""
        if self.other is None or iou(mask, self.alpha) > 0.5:
            return False
        chosen = mask > 127
        return float((self.other[chosen] > 127).sum()) > 0.25 * float(chosen.sum())


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return the intersection over union of two soft masks (uint8) at 0.5; two empty ones agree."""
    a, b = a > 127, b > 127
    union = float((a | b).sum())
    return float((a & b).sum()) / union if union else 1.0


def composites(
    photos: list[Picture], segment: Segment, cutouts: list[Picture], rng: np.random.Generator
) -> Iterator[Scene]:
    """Yield one composite per cut-out, for ever, over windows of photographs of the same side of the split.

    ``segment`` finds the photographs' own objects, which the windows avoid.
    """
    rounds = 0
    while True:
        for cutout in cutouts:
            side = [photo for photo in photos if photo.test == cutout.test]
            plain = bool(rng.random() < PLAIN)
            for _ in range(5):
                photo = side[rng.integers(len(side))]
                saliency = segment(cv2.resize(photo.pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA))
                background, other = object_free(photo, saliency, rng, plain)
                if (other > 127).mean() < FREE:
                    break
            others = [other for other in cutouts if other.test == cutout.test]
            pasted = [cutout] + [others[rng.integers(len(others))] for _ in range(int(rng.random() < 0.15))]
            image, alpha = background.astype(np.float32), np.zeros((SIDE, SIDE), np.float32)
            for one in pasted:
                image, alpha = paste(image, alpha, one, rng)
            quality = int(rng.integers(70, 97))
            yield Scene(
                name=f"composite-{rounds}-{cutout.name}",
                sources=(photo.name, *(one.name for one in pasted)),
                test=cutout.test,
                certain=True,
                image=jpeg(np.rint(image).astype(np.uint8), quality),
                alpha=np.rint(alpha * 255).astype(np.uint8),
                background=jpeg(background, quality),
                other=other,
            )
        rounds += 1


def photographs(photos: list[Picture], segmenters: list[Segment], rng: np.random.Generator) -> Iterator[Scene]:
    """Yield squares of photographs with the consensus of all segmenters, of the picture and of its mirror image."""
    for photo in photos:
        image = window(photo.pixels, rng, smallest=0.7)
        mirrored = np.ascontiguousarray(image[:, ::-1])
        masks = [mask for segment in segmenters for mask in (segment(image), segment(mirrored)[:, ::-1])]
        alpha = np.rint(np.mean(masks, axis=0)).astype(np.uint8)
        if 0.01 < float((alpha > 127).mean()) < 0.8:
            certain = min(iou(mask, alpha) for mask in masks) > AGREED
            yield Scene(f"photo-{photo.name}", (photo.name,), photo.test, certain, image, alpha)


def window(pixels: np.ndarray, rng: np.random.Generator, smallest: float) -> np.ndarray:
    """Return a random square of a picture, of at least ``smallest`` of its shorter side, at SIDE pixels."""
    side = int(min(pixels.shape[:2]) * rng.uniform(smallest, 1))
    top, left = (int(rng.integers(size - side + 1)) for size in pixels.shape[:2])
    return square(pixels[top : top + side, left : left + side], bool(rng.random() < 0.5))


def square(pixels: np.ndarray, mirrored: bool = False) -> np.ndarray:
    interpolation = cv2.INTER_AREA if pixels.shape[0] >= SIDE else cv2.INTER_CUBIC
    scaled = cv2.resize(pixels, (SIDE, SIDE), interpolation=interpolation)
    return np.ascontiguousarray(scaled[:, ::-1] if mirrored else scaled)


def object_free(
    photo: Picture, saliency: np.ndarray, rng: np.random.Generator, plain: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return the square window with the least of the photograph's own object, and what it still shows of it.

    The best of many windows drawn, ``plain``: with as little detail as can be; uint8 [SIDE, SIDE, 3] and soft mask
    uint8 [SIDE, SIDE].
    """
    height, width = photo.pixels.shape[:2]
    own = cv2.resize(saliency, (width, height), interpolation=cv2.INTER_AREA)
    mass, detail = cv2.integral(own), cv2.integral(_detail(photo.pixels)) if plain else None
    best, least = (0, 0, min(height, width)), np.inf
    for _ in range(40):
        side = int(min(height, width) * rng.uniform(0.4, 1))
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        box = (top, left, top + side, left + side)
        share = _within(mass, box) / 255 + 0.03 * (1 - side / min(height, width))  # sharp windows first
        share += _within(detail, box) if detail is not None else 0
        if share < least:
            best, least = (top, left, side), share
    top, left, side = best
    mirrored = bool(rng.random() < 0.5)
    both = (square(pixels[top : top + side, left : left + side], mirrored) for pixels in (photo.pixels, own))
    return tuple(both)  # type: ignore[return-value]


def _within(integral: np.ndarray, box: tuple[int, int, int, int]) -> float:
    """Return the mean of an image inside a box, of its integral image."""
    top, left, bottom, right = box
    held = integral[bottom, right] - integral[top, right] - integral[bottom, left] + integral[top, left]
    return float(held) / ((bottom - top) * (right - left))


def _detail(pixels: np.ndarray) -> np.ndarray:
    """Return 1 where the lightness changes within a few pixels, 0 where it does not, float32 [H, W]."""
    light = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return (np.abs(light - cv2.GaussianBlur(light, (0, 0), 4)) > 6).astype(np.float32)


def paste(
    image: np.ndarray, alpha: np.ndarray, cutout: Picture, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return image (float32, 0..255) and alpha (float32, 0..1) with a cut-out on top, lit and coloured at random."""
    pixels = cutout.pixels[:, ::-1] if rng.random() < 0.5 else cutout.pixels
    longer = SIDE * float(rng.uniform(0.28, 1.05))
    scale = longer / max(pixels.shape[:2])
    height, width = (min(SIDE, max(8, round(size * scale))) for size in pixels.shape[:2])
    m: np.ndarray = pixels[..., 3:].astype(np.float32) / 255
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    colour = cv2.resize(pixels[..., :3].astype(np.float32) * m, (width, height), interpolation=interpolation)
    m = np.clip(cv2.resize(m, (width, height), interpolation=interpolation), 0, 1)[..., None]
    colour = np.clip(colour / np.maximum(m, 1e-3), 0, 255)
    reach = 0.15  # share of the cut-out that may stick out of the frame
    top = round(rng.uniform(-reach * height, SIDE - (1 - reach) * height))
    left = round(rng.uniform(-reach * width, SIDE - (1 - reach) * width))
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + height, SIDE), min(left + width, SIDE)
    colour, m = colour[y0 - top : y1 - top, x0 - left : x1 - left], m[y0 - top : y1 - top, x0 - left : x1 - left]
    under = image[y0:y1, x0:x1]
    colour = relit(colour, m, under, rng)
    image, alpha = image.copy(), alpha.copy()
    image[y0:y1, x0:x1] = m * colour + (1 - m) * under
    alpha[y0:y1, x0:x1] = np.maximum(alpha[y0:y1, x0:x1], m[..., 0])
    return image, alpha


def relit(colour: np.ndarray, m: np.ndarray, under: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a cut-out's colours moved towards those beneath it: a little, or as far as camouflage."""
    weight = m / (m.sum() + 1e-3)
    mean = (colour * weight).sum(axis=(0, 1))
    there = under.reshape(-1, 3).mean(axis=0)
    pull = rng.uniform(0.5, 1) if rng.random() < 0.25 else rng.uniform(0, 0.4)
    contrast = rng.uniform(0.6, 1.1)
    lit: np.ndarray = (colour - mean) * contrast + mean + pull * (there - mean)
    if rng.random() < 0.5:
        lit[:] = np.asarray(cv2.GaussianBlur(lit, (0, 0), float(rng.uniform(0.4, 1.6))))
    return np.clip(lit + rng.normal(0, rng.uniform(0, 6), lit.shape), 0, 255).astype(np.float32)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Return an sRGB image as it comes back from a JPEG."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1])
