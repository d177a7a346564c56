"""Inpainting the background B: what the image might show where the foreground was cut out (paper, section 3).

The paper uses Stable-Diffusion-2-inpainting with an empty prompt and notes that it likes to put an object back.
Here: PatchMatch (classical, the default on a laptop), LaMa through ``simple-lama-inpainting`` (the production
default; it removes rather than redraws), and OpenCV's Telea, which is quick and blurs.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from l2i_builder.config import Inpaint

# Backends without weights whose results changed: what they compute now. Two of these never share an output folder.
ALGORITHMS = {"patchmatch": "patchmatch of colour and texture, one direction"}


class Inpainter(Protocol):
    """Callable: images uint8 [N, H, W, 3], holes bool [N, H, W] -> uint8 [N, H, W, 3].

    The result equals the images outside the holes exactly.
    """

    digest: str  # SHA-256 of the weights; what computes, where there are none

    def __call__(self, images: np.ndarray, holes: np.ndarray) -> np.ndarray: ...


def make_inpainter(config: Inpaint, device: str = "cpu", seed: int = 0, threads: int = 1) -> Inpainter:
    """Load the configured inpainter onto ``device`` ("cpu", "cuda", "cuda:1"), for ``threads`` CPU threads.

    ``seed`` starts every image afresh, so that a result depends on its image alone. Raises WeightsError when weights
    cannot be fetched or have the wrong digest.
    """
    if config.backend == "lama":
        from l2i_builder.inpaint.lama import LamaInpainter

        return LamaInpainter(config, device, threads)
    if config.backend == "patchmatch":
        from l2i_builder.inpaint.patchmatch import PatchmatchInpainter

        return PatchmatchInpainter(seed, threads)
    return TeleaInpainter()


class TeleaInpainter:
    """OpenCV's fast marching method (Telea 2004): quick, smooth, without texture."""

    RADIUS = 5  # pixels a filled pixel looks around

    def __init__(self) -> None:
        import cv2

        self.digest = f"opencv {cv2.__version__}"

    def __call__(self, images: np.ndarray, holes: np.ndarray) -> np.ndarray:
        """See ``Inpainter``. An image that is all hole becomes its own mean colour."""
        filled = images.copy()
        for image, hole in zip(filled, holes, strict=True):
            if hole.any():
                image[hole] = _telea(image, hole, self.RADIUS)[hole]
        return filled


def mean_colour(image: np.ndarray) -> np.ndarray:
    """Return the mean colour of an image, uint8 [3]: the fill where nothing is known to fill from."""
    return np.rint(image.reshape(-1, 3).mean(axis=0)).astype(np.uint8)


def _telea(image: np.ndarray, hole: np.ndarray, radius: int) -> np.ndarray:
    import cv2

    if hole.all():
        return np.broadcast_to(mean_colour(image), image.shape)
    return cv2.inpaint(image, hole.astype(np.uint8), radius, cv2.INPAINT_TELEA)
