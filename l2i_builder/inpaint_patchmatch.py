"""PatchMatch inpainting through ``pypatchmatch``."""

from __future__ import annotations

import numpy as np

from l2i_builder.errors import ConfigError
from l2i_builder.inpaint import mean_colour


class PatchmatchInpainter:
    """Fills a hole with patches from elsewhere in the image (Barnes et al. 2009), bit-reproducibly.

    Runs on one CPU thread and releases Python's lock meanwhile.
    """

    def __init__(self, patch_size: int, seed: int) -> None:
        """``patch_size``: side of a patch, odd, in pixels. Raises ConfigError for another."""
        import patchmatch

        if patch_size < 3 or patch_size % 2 == 0:
            raise ConfigError(f"inpaint.patch_size must be odd and 3 or more, got {patch_size}")
        self.digest = f"pypatchmatch {patchmatch.__version__}"
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
                image[hole] = self._fill(image, hole)[hole]
        return filled

    def _fill(self, image: np.ndarray, hole: np.ndarray) -> np.ndarray:
        self._library.set_random_seed(self._seed)  # the library's seed is global: others may have set it
        return self._library.inpaint(image, hole, patch_size=self._radius)
