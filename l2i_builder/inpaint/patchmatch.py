"""PatchMatch inpainting: a hole is filled with patches from elsewhere in the image, from coarse to fine.

Patches are sought by PatchMatch (Barnes et al. 2009) and agree on each pixel by voting (Wexler, Shechtman, Irani 2007);
how much a neighbourhood is textured is matched as well as its colours (Newson et al. 2014), without which smooth
patches, which are near to everything, win everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from l2i_builder.inpaint.detail import add_detail
from l2i_builder.inpaint.field import Field, improve, new_field, vote, whole_patches
from l2i_builder.inpaint.inpainter import ALGORITHMS, mean_colour
from l2i_builder.inpaint.seam import even_seam

_LARGEST = 384  # pixels a side at which patches are sought; larger images are halved, and get their detail afterwards
# What is seen around a hole's bounding box: this share of its longer side, and at least that of the image's. Half of
# it left out nothing that showed in fills, or in their distance from the truth; a quarter did.
_MARGIN = 0.5
_LEAST_MARGIN = 1 / 8

_TEXTURE = 10  # levels that a mean step of one level between neighbours counts for, beside red, green and blue
_WINDOW = 5  # pixels a side over which steps are averaged
_PASSES = 2  # there and back again
_SPAN = 8  # pixels around a look-alike within which the two finest levels look for a better one
_COMMON = 0.75  # share of the patches whose cost says what is a good match in this image ...
_STRICT = 0.3  # ... and the share of that cost at which a patch has half a vote
_SMOOTH = np.array([1, 5, 10, 10, 5, 1], np.float32) / 32  # binomial, around two pixels


@dataclass
class _Level:
    """A size of the image. pixels: uint8 [H, W, 4], red, green, blue and texture."""

    pixels: np.ndarray
    hole: np.ndarray  # bool [H, W]


class PatchmatchInpainter:
    """Fills holes with patches of the image itself, to the same bytes on every machine.

    Only the hole's neighbourhood is looked at. Images over 384 pixels are filled at half size, and ``add_detail``
    restores the texture. A last step evens the seam. Runs on one CPU thread and releases Python's lock meanwhile.
    """

    def __init__(self, seed: int, threads: int = 1) -> None:
        """``seed``: of the random search; every image starts from it. Sets OpenCV's threads for the process."""
        cv2.setNumThreads(threads)
        self.digest = ALGORITHMS["patchmatch"]
        self._seed = seed
        _warm_up()

    def __call__(self, images: np.ndarray, holes: np.ndarray) -> np.ndarray:
        """See ``Inpainter``. An image that is all hole becomes its own mean colour."""
        filled = images.copy()
        for image, hole in zip(filled, holes, strict=True):
            if hole.all():
                image[:] = mean_colour(image)
            elif hole.any():
                halvings = _halvings(hole.shape)
                near = neighbourhood(hole, 2**halvings)
                seen, there = np.ascontiguousarray(image[near]), np.ascontiguousarray(hole[near])
                image[near] = even_seam(seen, _fill(seen, there, halvings, self._seed)[0], there)
        return filled


@cache
def _warm_up() -> None:
    """Compile the loops, or load what was compiled, when models are loaded: not in the first batch."""
    hole = np.zeros((32, 32), bool)
    hole[8:16, 8:16] = True
    _fill(np.zeros((32, 32, 3), np.uint8), hole, 1, 0)


def neighbourhood(hole: np.ndarray, grid: int = 1) -> tuple[slice, slice]:
    """Return the rows and columns that a fill looks at: the hole's bounding box and a margin, out to ``grid``.

    hole bool [H, W], not empty, H and W multiples of ``grid``. Where anything is known, some of it lies inside.
    """
    held = [np.flatnonzero(hole.any(axis=axis)) for axis in (1, 0)]
    edges = [(int(places[0]), int(places[-1]) + 1) for places in held]
    longest = max(end - start for start, end in edges)
    margin = round(max(_MARGIN * longest, _LEAST_MARGIN * max(hole.shape), 1))
    rows, columns = (
        slice(max(start - margin, 0) // grid * grid, min(-(-(end + margin) // grid) * grid, side))
        for (start, end), side in zip(edges, hole.shape, strict=True)
    )
    return rows, columns


def _halvings(shape: tuple[int, ...]) -> int:
    """Return how often an image of this shape is halved before patches are sought."""
    height, width = shape
    if max(height, width) <= _LARGEST or height % 2 or width % 2:
        return 0
    return 1 + _halvings((height // 2, width // 2))


def _fill(image: np.ndarray, hole: np.ndarray, halvings: int, seed: int) -> tuple[np.ndarray, Field | None]:
    """image uint8 [H, W, 3], hole bool [H, W], sides multiples of 2 ** halvings -> filled, and where from."""
    if hole.all():  # at half size nothing may be left
        return np.broadcast_to(mean_colour(image), image.shape), None
    if not halvings:
        return fill(image, hole, seed)
    height, width = hole.shape
    small = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    small_hole = np.asarray(hole.reshape(height // 2, 2, width // 2, 2).any(axis=(1, 3)))
    return add_detail(image, hole, *_fill(small, small_hole, halvings - 1, seed))


def fill(image: np.ndarray, hole: np.ndarray, seed: int) -> tuple[np.ndarray, Field | None]:
    """Fill a hole at the image's own size. image uint8 [H, W, 3]; hole bool [H, W], neither empty nor everything.

    Returns uint8 [H, W, 3], equal to ``image`` outside the hole, and the look-alikes; None where no whole patch is
    known, and the filling is smooth.
    """
    levels = [_Level(np.dstack([image, _texture(image, hole)]), hole)]
    while levels[-1].hole.any():
        levels.append(_halved(levels[-1]))
    random = np.array([(seed * 2654435761 + 12345) & 0xFFFFFFFF | 1], np.uint32)
    filled, field, tolerance = levels[-1].pixels, None, 1.0
    for number in range(len(levels) - 2, -1, -1):
        filled, field, tolerance = _refined(levels[number], number, filled, field, tolerance, random)
    result = image.copy()
    result[hole] = filled[hole][:, :3]
    return result, field


def _refined(
    level: _Level, number: int, small: np.ndarray, above: Field | None, tolerance: float, random: np.ndarray
) -> tuple[np.ndarray, Field | None, float]:
    """Fill a level, starting from what the one above gave: filled pixels, look-alikes, tolerance of votes.

    number: of the level, 0 = finest. Where no whole patch is known the filling is the enlarged one from above.
    """
    (height, width), hole = level.hole.shape, level.hole
    filled = level.pixels.copy()
    enlarged = cv2.resize(small, (2 * small.shape[1], 2 * small.shape[0]), interpolation=cv2.INTER_LINEAR)
    filled[hole] = enlarged[:height, :width][hole]
    known = whole_patches(hole)
    if not known.any():
        return filled, None, tolerance
    field = new_field(hole, known, random, above)
    if above is not None:  # patches of this size at once: enlarged pixels would call for smooth ones
        filled[hole] = vote(field, level.pixels, hole, tolerance)
    for _ in range(1 + 2 * number):
        improve(field, level.pixels, filled, known, random, _PASSES, _SPAN if number < 2 else max(height, width))
        cost = np.partition(field.cost, place := int(_COMMON * (len(field.cost) - 1)))[place]
        tolerance = _STRICT * max(float(cost), 1.0)
        filled[hole] = vote(field, level.pixels, hole, tolerance)
    return filled, field, tolerance


def _halved(level: _Level) -> _Level:
    """Halve a level, rounding sides up. A pixel is known where anything near it was, so holes shrink."""
    height, width = level.hole.shape
    odd = (0, height % 2, 0, width % 2)
    known = cv2.copyMakeBorder((~level.hole).astype(np.float32), *odd, cv2.BORDER_CONSTANT, value=0)
    seen = cv2.copyMakeBorder(level.pixels, *odd, cv2.BORDER_CONSTANT, value=0) * known[..., None]  # float32
    total, weight = (
        cv2.sepFilter2D(plane, -1, _SMOOTH, _SMOOTH, anchor=(2, 2), borderType=cv2.BORDER_CONSTANT)[::2, ::2]
        for plane in (seen, known)
    )
    return _Level(np.rint(total / np.maximum(weight, 1e-9)[..., None]).astype(np.uint8), weight == 0)


def _texture(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Return the mean step in lightness between known neighbours around each pixel, scaled: uint8 [H, W]."""
    light = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    known = (~hole).astype(np.float32)
    steps, pairs = (np.zeros(hole.shape, np.float32) for _ in range(2))
    for one, other in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])):
        both = known[one] * known[other]
        steps[one] += np.abs(light[one] - light[other]) * both
        pairs[one] += both
    total, count = (cv2.boxFilter(plane, -1, (_WINDOW, _WINDOW), normalize=False) for plane in (steps, pairs))
    return np.rint(np.minimum(_TEXTURE * total / np.maximum(count, 1), 255)).astype(np.uint8)
