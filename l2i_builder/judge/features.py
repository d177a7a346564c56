"""What a judge sees of a sample: the views its backbone gets, and the vector made of them.

A family of features has a name that heads are bound to. ``views`` gives uint8 images for the backbone; ``vector``
turns what the backbone made of them, and the plain measures, into one float32 vector. Training and inference use
this same code. Families:

- ``mask-plain``, ``inpainting-plain``: the paper's form (section 3): pooled last features of one forward pass.
- ``mask-rich``, ``inpainting-rich``: features pooled where the mask or the hole says, and plain measures.
- ``mask-standing``: the same, and whether the mask agrees with what stands out by itself.
- ``mask-close``: the same, and the window around the mask once more, at a higher resolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from l2i_builder.judge import measures as measures
from l2i_builder.judge.measures import Measures, bands, resized
from l2i_builder.judge.standing import standing

_EPS = 1e-6


@dataclass(frozen=True)
class Maps:
    """What the backbone made of one view: ``pooled`` float32 [C]; ``stages`` float32 [c, h, w], fine to coarse."""

    pooled: np.ndarray
    stages: tuple[np.ndarray, ...]


Sample = tuple[np.ndarray, ...]  # (image, mask) or (image, mask, background, hole)


class Family(Protocol):
    """``views`` gives uint8 (or float32 0..255) images [h, w, 3]; ``vector`` gets a ``Maps`` for each of them."""

    def views(self, sample: Sample) -> list[np.ndarray]: ...

    def vector(self, sample: Sample, maps: Sequence[Maps]) -> np.ndarray: ...


class MaskPlain:
    """The paper's mask filter. How its four channels enter the backbone is not stated; here the first layer gets a
    fourth input channel whose filter is the mean of the other three, which equals adding m / 3 to each of them."""

    def views(self, sample: Sample) -> list[np.ndarray]:
        image, mask = sample
        third = mask.astype(np.float32)[..., None] / 3 - 255 / 6  # centred, as the backbone's input is
        return [image.astype(np.float32) + third]

    def vector(self, sample: Sample, maps: Sequence[Maps]) -> np.ndarray:
        return maps[0].pooled


class InpaintingPlain:
    """The paper's inpainting filter: the inpainted image alone."""

    def views(self, sample: Sample) -> list[np.ndarray]:
        return [sample[2]]

    def vector(self, sample: Sample, maps: Sequence[Maps]) -> np.ndarray:
        return maps[0].pooled


class MaskRich:
    """The image through the backbone, its features compared where the mask says; outline, colours and softness
    measured. (The cut-out on grey through the backbone as well took twice the time and ranked no better.)"""

    def views(self, sample: Sample) -> list[np.ndarray]:
        return [sample[0]]

    def vector(self, sample: Sample, maps: Sequence[Maps]) -> np.ndarray:
        image, mask = sample
        soft = resized(mask, measures.WORK).astype(np.float32) / 255
        lab = measures.lab_of(resized(image, measures.WORK))
        numbers = measures.mask_shape(soft) | measures.mask_edges(lab, soft)
        regions = {"in": Region(soft), "ring": Region(bands(soft > 0.5, 24)[1]), "out": Region(1 - soft)}
        stages = maps[0].stages[-3:]
        return joined(numbers | agreement(stages, regions["in"]) | likeness(stages, regions))


class MaskStanding(MaskRich):
    """As ``MaskRich``, and what stands out of the view by itself; the backbone's work is the same."""

    def vector(self, sample: Sample, maps: Sequence[Maps]) -> np.ndarray:
        soft = resized(sample[1], measures.WORK).astype(np.float32) / 255
        stages = [standardised(stage) for stage in maps[0].stages[-3:]]
        numbers = standing(stages, [resized_to(soft, stage.shape[1:]) for stage in stages])
        return np.concatenate([super().vector(sample, maps), joined(numbers)])


class MaskClose(MaskStanding):
    """As ``MaskStanding``, and the window around the mask through the backbone as well, its outline measured there."""

    def views(self, sample: Sample) -> list[np.ndarray]:
        return [sample[0], crop(sample[0], window(sample[1] > 127, 0.25))]

    def vector(self, sample: Sample, maps: Sequence[Maps]) -> np.ndarray:
        image, mask = (crop(a, window(sample[1] > 127, 0.25)) for a in sample)
        soft = resized(mask, measures.WORK).astype(np.float32) / 255
        regions = {"in": Region(soft), "ring": Region(bands(soft > 0.5, 24)[1]), "out": Region(1 - soft)}
        numbers = agreement(maps[1].stages[-3:], regions["in"]) | likeness(maps[1].stages[-3:], regions)
        numbers |= measures.mask_edges(measures.lab_of(resized(image, measures.WORK)), soft)
        return np.concatenate([super().vector(sample, maps), joined(numbers)])


class InpaintingRich:
    """The hole's surroundings in B and in I through the backbone; colours, texture and seam of the fill measured."""

    def views(self, sample: Sample) -> list[np.ndarray]:
        image, _, background, hole = sample
        box = window(hole, 0.5)
        return [crop(background, box), crop(image, box)]

    def vector(self, sample: Sample, maps: Sequence[Maps]) -> np.ndarray:
        image, mask, background, hole = sample
        box = window(hole, 0.5)
        near_hole = resized(crop(hole.astype(np.uint8) * 255, box), measures.WORK) > 127
        near_mask = resized(crop(mask, box), measures.WORK).astype(np.float32) / 255
        after, before = (measures.lab_of(resized(crop(a, box), measures.WORK)) for a in (background, image))
        whole = resized(hole.astype(np.uint8) * 255, measures.WORK) > 127
        numbers = measures.hole_shape(whole, resized(mask, measures.WORK).astype(np.float32) / 255)
        numbers |= measures.fill_colours(after, before, near_hole, near_mask)
        numbers |= measures.fill_texture(after, before, near_hole, near_mask)
        regions = {"in": Region(near_hole), "ring": Region(bands(near_hole, 24)[1]), "out": Region(~near_hole)}
        numbers |= agreement(maps[0].stages[-3:], regions["in"])
        numbers |= likeness(maps[0].stages[-3:], regions) | removal(maps, regions)
        return joined(numbers)


FAMILIES: dict[str, Family] = {
    "mask-plain": MaskPlain(),
    "mask-rich": MaskRich(),
    "mask-standing": MaskStanding(),
    "mask-close": MaskClose(),
    "inpainting-plain": InpaintingPlain(),
    "inpainting-rich": InpaintingRich(),
}


class Region:
    """A region of a view, bool or 0..1, that keeps what it is at the sizes of the stages it was asked for."""

    def __init__(self, whole: np.ndarray) -> None:
        self._whole = whole.astype(np.float32)
        self._sizes: dict[tuple[int, ...], np.ndarray] = {}

    def at(self, grid: tuple[int, ...]) -> np.ndarray:
        """Return it at grid (h, w), float32 [h, w], averaged over areas."""
        if grid not in self._sizes:
            self._sizes[grid] = cv2.resize(self._whole, grid[::-1], interpolation=cv2.INTER_AREA)
        return self._sizes[grid]


def joined(numbers: Measures) -> np.ndarray:
    """Return named numbers as one float32 vector, finite whatever was measured."""
    vector = np.fromiter(numbers.values(), np.float32, len(numbers))
    return np.nan_to_num(vector, posinf=0, neginf=0)


def window(selected: np.ndarray, margin: float) -> tuple[int, int, int, int]:
    """Return the square (top, left, bottom, right) around a selection, wider by ``margin`` of its longer side.

    It lies inside the frame; nothing selected gives the whole frame. Slices of it are square unless the frame
    itself is narrower.
    """
    height, width = selected.shape
    points = cv2.findNonZero(selected.astype(np.uint8))
    if points is None:
        return 0, 0, height, width
    x, y, w, h = cv2.boundingRect(points)
    side = max(max(w, h) + 2 * round(margin * max(w, h)), min(32, height, width))
    rows, columns = min(side, height), min(side, width)
    top = min(max(y + h // 2 - rows // 2, 0), height - rows)
    left = min(max(x + w // 2 - columns // 2, 0), width - columns)
    return top, left, top + rows, left + columns


def crop(array: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    top, left, bottom, right = box
    return array[top:bottom, left:right]


def agreement(stages: Sequence[np.ndarray], target: np.ndarray | Region) -> Measures:
    """How well each stage's features explain a region, by ridge regression of the region on the features.

    A region that is one thing, whole, is explained well; a lost part shows as false positives outside, foreign
    ground inside as false negatives. For a filled hole, being explained means standing out. target float32 0..1.
    """
    out: Measures = {}
    fine, middle, coarse = stages
    both = np.concatenate([fine, spread(middle, fine.shape[1:])])
    for name, maps, strength in (("middle", middle, 0.3), ("both", both, 0.5), ("coarse", coarse, 1.0)):
        wanted = resized_to(target, maps.shape[1:])
        guess = ridge(maps, wanted, strength)
        inside = wanted > 0.5
        r = missed = beyond = 0.0
        if inside.any() and not inside.all():
            level = (guess[inside].mean() + guess[~inside].mean()) / 2
            r = float(np.corrcoef(guess.ravel(), wanted.ravel())[0, 1])
            beyond = float(((guess > level) & ~inside).sum() / inside.sum())
            missed = float(((guess <= level) & inside).sum() / inside.sum())
        out |= {
            f"unexplained_{name}": measures.log_of(1 - r),
            f"beyond_{name}": measures.log_of(beyond),
            f"missed_{name}": measures.log_of(missed),
        }
    return out


def ridge(maps: np.ndarray, target: np.ndarray, strength: float) -> np.ndarray:
    """Return the ridge regression of target [h, w] on standardised maps [c, h, w], at every place.

    In torch, whose CPU threads the judge sets; numpy's own would take every core.
    """
    import torch

    x = torch.from_numpy(np.ascontiguousarray(standardised(maps).reshape(len(maps), -1).T, np.float64))
    y = torch.from_numpy(target.ravel().astype(np.float64))
    places, channels = x.shape
    if channels < places:
        gram = x.T @ x + strength * places * torch.eye(channels, dtype=x.dtype)
        guess = x @ torch.linalg.solve(gram, x.T @ (y - y.mean()))
    else:  # the same in its dual form, cheaper
        gram = x @ x.T
        guess = gram @ torch.linalg.solve(gram + strength * places * torch.eye(places, dtype=x.dtype), y - y.mean())
    return (guess + y.mean()).numpy().reshape(target.shape)


def resized_to(region: np.ndarray | Region, grid: tuple[int, ...]) -> np.ndarray:
    return (region if isinstance(region, Region) else Region(region)).at(grid)


def spread(maps: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """Return maps [c, h, w] interpolated to grid (h', w')."""
    if maps.shape[1:] == tuple(grid):
        return maps
    return np.stack([cv2.resize(channel, grid[::-1], interpolation=cv2.INTER_LINEAR) for channel in maps])


def standardised(maps: np.ndarray) -> np.ndarray:
    flat = maps.reshape(len(maps), -1)
    return (maps - flat.mean(axis=1)[:, None, None]) / (flat.std(axis=1)[:, None, None] + 1e-3)


def pooled(maps: np.ndarray, region: np.ndarray | Region) -> np.ndarray:
    """Return the mean of maps [c, h, w] over a region given at any size (bool or 0..1), float [c]."""
    weight = resized_to(region, maps.shape[1:])
    return (maps * weight).sum(axis=(1, 2)) / (weight.sum() + 1e-3)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + _EPS))


def likeness(stages: Sequence[np.ndarray], regions: Mapping[str, np.ndarray | Region]) -> Measures:
    """Cosines and sizes of the mean features of three regions, on features standardised over the view."""
    out: Measures = {}
    for level, stage in enumerate(stages):
        maps = standardised(stage)
        inside, ring, outside = (pooled(maps, regions[name]) for name in ("in", "ring", "out"))
        scale = np.sqrt(len(maps))
        out |= {
            f"cos_in_ring_{level}": cosine(inside, ring),
            f"cos_in_out_{level}": cosine(inside, outside),
            f"cos_ring_out_{level}": cosine(ring, outside),
            f"norm_in_{level}": float(np.linalg.norm(inside) / scale),
            f"norm_ring_{level}": float(np.linalg.norm(ring) / scale),
            f"norm_out_{level}": float(np.linalg.norm(outside) / scale),
        }
    return out


def removal(maps: Sequence[Maps], regions: Mapping[str, np.ndarray | Region]) -> Measures:
    """Whether the fill resembles what was removed or what surrounds it; maps of B's and of I's view."""
    out: Measures = {}
    for level, (after, before) in enumerate(zip(maps[0].stages[-3:], maps[1].stages[-3:], strict=True)):
        fill, ring, old = pooled(after, regions["in"]), pooled(after, regions["ring"]), pooled(before, regions["in"])
        deviation = after.reshape(len(after), -1).std(axis=1) + 1e-3
        far = np.linalg.norm((old - ring) / deviation)
        out |= {
            f"fill_old_{level}": float(np.linalg.norm((fill - old) / deviation) / (far + 1)),
            f"fill_ring_{level}": float(np.linalg.norm((fill - ring) / deviation) / (far + 1)),
            f"old_ring_{level}": float(far / np.sqrt(len(after))),
            f"toward_ring_{level}": cosine((fill - old) / deviation, (ring - old) / deviation),
        }
    return out
