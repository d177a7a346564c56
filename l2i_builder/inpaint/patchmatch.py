"""PatchMatch inpainting through ``pypatchmatch``."""

from __future__ import annotations

import cv2
import numpy as np

from l2i_builder.errors import ConfigError
from l2i_builder.inpaint.detail import add_detail
from l2i_builder.inpaint.inpainter import ALGORITHMS, mean_colour

_SEAM_SIGMA = 3.0  # pixels along the rim over which steps are averaged: less than that is texture
_SEAM_DEPTH = 12.0  # pixels in which the correction fades inwards
_SEAM_LARGEST = 32  # levels; a larger step is an edge in the picture
_LARGEST = 384  # pixels a side that PatchMatch itself sees; larger images are halved, and get their detail afterwards
# What is seen around a hole's bounding box: this share of its longer side, and at least that of the image's. Half of
# it left out nothing that showed in fills, or in their distance from the truth; a quarter did.
_MARGIN = 0.5
_LEAST_MARGIN = 1 / 8


class PatchmatchInpainter:
    """Fills a hole with patches from elsewhere in the image (Barnes et al. 2009), bit-reproducibly.

    Only the hole's neighbourhood is looked at. Images over 384 pixels are filled at half size, and ``add_detail``
    restores the texture: a tenth of the time of PatchMatch at full size with the same reach, and better structure.
    A last step evens the seam. The library runs on one CPU thread and releases Python's lock meanwhile.
    """

    def __init__(self, patch_size: int, seed: int, threads: int = 1) -> None:
        """``patch_size``: side of a patch, odd, in pixels at the size PatchMatch sees (256 for an image of 512).

        Sets OpenCV's threads for the process. Raises ConfigError for an even or too small patch.
        """
        import patchmatch

        if patch_size < 3 or patch_size % 2 == 0:
            raise ConfigError(f"inpaint.patch_size must be odd and 3 or more, got {patch_size}")
        cv2.setNumThreads(threads)
        self.digest = f"{ALGORITHMS['patchmatch']} on pypatchmatch {patchmatch.__version__}"
        self._library = patchmatch
        self._radius = patch_size // 2  # what the library calls patch_size is a radius
        self._seed = seed

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
                image[near] = even_seam(seen, self._fill(seen, there, halvings), there)
        return filled

    def _fill(self, image: np.ndarray, hole: np.ndarray, halvings: int) -> np.ndarray:
        """image uint8 [H, W, 3], hole bool [H, W], sides multiples of 2 ** halvings -> uint8 [H, W, 3]."""
        if hole.all():  # at half size nothing may be left
            return np.broadcast_to(mean_colour(image), image.shape)
        if not halvings:
            self._library.set_random_seed(self._seed)  # the library's seed is global: others may have set it
            return self._library.inpaint(image, hole, patch_size=self._radius)
        height, width = hole.shape
        small = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        small_hole = np.asarray(hole.reshape(height // 2, 2, width // 2, 2).any(axis=(1, 3)))
        return add_detail(image, hole, self._fill(small, small_hole, halvings - 1), small_hole)


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
    """Return how often an image of this shape is halved before PatchMatch sees it."""
    height, width = shape
    if max(height, width) <= _LARGEST or height % 2 or width % 2:
        return 0
    return 1 + _halvings((height // 2, width // 2))


def even_seam(image: np.ndarray, filled: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Return ``filled`` with the step in brightness and colour along the hole's rim spread over some pixels inside.

    image and filled uint8 [H, W, 3], hole bool [H, W]. Returns uint8 [H, W, 3], the image outside.
    """
    beside = np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], np.float32)
    known = (~hole).astype(np.float32)
    neighbours = cv2.filter2D(known, -1, beside, borderType=cv2.BORDER_CONSTANT)
    colours = cv2.filter2D(image * known[..., None], -1, beside, borderType=cv2.BORDER_CONSTANT)
    rim = hole & (neighbours > 0)
    steps = np.zeros(image.shape, np.float32)
    steps[rim] = np.clip(colours[rim] / neighbours[rim][:, None] - filled[rim], -_SEAM_LARGEST, _SEAM_LARGEST)

    total = cv2.GaussianBlur(steps, (0, 0), _SEAM_SIGMA)
    weight = cv2.GaussianBlur(rim.astype(np.float32), (0, 0), _SEAM_SIGMA)
    depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    fading = np.exp(-np.maximum(depth - 1, 0) / _SEAM_DEPTH) / np.maximum(weight, 1e-6)
    evened = np.rint(np.clip(filled + total * fading[..., None], 0, 255)).astype(np.uint8)
    return np.where(hole[..., None], evened, image)
