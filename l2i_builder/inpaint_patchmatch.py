"""PatchMatch inpainting through ``pypatchmatch``."""

from __future__ import annotations

import cv2
import numpy as np

from l2i_builder.errors import ConfigError
from l2i_builder.inpaint import mean_colour
from l2i_builder.inpaint_detail import add_detail

_LARGEST = 384  # pixels a side that PatchMatch itself sees; larger images are halved, and get their detail afterwards


class PatchmatchInpainter:
    """Fills a hole with patches from elsewhere in the image (Barnes et al. 2009), bit-reproducibly.

    Images over 384 pixels are filled at half size, and ``inpaint_detail`` restores the texture: a tenth of the time
    of PatchMatch at full size with the same reach, and better structure. The library runs on one CPU thread and
    releases Python's lock meanwhile.
    """

    def __init__(self, patch_size: int, seed: int, threads: int = 1) -> None:
        """``patch_size``: side of a patch, odd, in pixels at the size PatchMatch sees (256 for an image of 512).

        Sets OpenCV's threads for the process. Raises ConfigError for an even or too small patch.
        """
        import patchmatch

        if patch_size < 3 or patch_size % 2 == 0:
            raise ConfigError(f"inpaint.patch_size must be odd and 3 or more, got {patch_size}")
        cv2.setNumThreads(threads)
        self.digest = f"pypatchmatch {patchmatch.__version__}"
        self._library = patchmatch
        self._radius = patch_size // 2  # what the library calls patch_size is a radius
        self._seed = seed

    def __call__(self, images: np.ndarray, holes: np.ndarray) -> np.ndarray:
        """See ``Inpainter``. An image that is all hole becomes its own mean colour."""
        filled = images.copy()
        for image, hole in zip(filled, holes, strict=True):
            if hole.any():
                image[hole] = self._fill(image, hole)[hole]
        return filled

    def _fill(self, image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        """image uint8 [H, W, 3], hole bool [H, W] -> uint8 [H, W, 3]."""
        if hole.all():
            return np.broadcast_to(mean_colour(image), image.shape)
        height, width = hole.shape
        if max(height, width) <= _LARGEST or height % 2 or width % 2:
            self._library.set_random_seed(self._seed)  # the library's seed is global: others may have set it
            return self._library.inpaint(image, hole, patch_size=self._radius)
        small = cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
        small_hole = np.asarray(hole.reshape(height // 2, 2, width // 2, 2).any(axis=(1, 3)))
        return add_detail(image, hole, self._fill(small, small_hole), small_hole)
