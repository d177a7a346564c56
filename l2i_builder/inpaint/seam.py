"""The rim of a filled hole: steps in brightness and colour are spread over some pixels inside."""

from __future__ import annotations

import cv2
import numpy as np

_SIGMA = 3.0  # pixels along the rim over which steps are averaged: less than that is texture
_DEPTH = 12.0  # pixels in which the correction fades inwards
_LARGEST = 32  # levels; a larger step is an edge in the picture


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
    steps[rim] = np.clip(colours[rim] / neighbours[rim][:, None] - filled[rim], -_LARGEST, _LARGEST)

    total = cv2.GaussianBlur(steps, (0, 0), _SIGMA)
    weight = cv2.GaussianBlur(rim.astype(np.float32), (0, 0), _SIGMA)
    depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    fading = np.exp(-np.maximum(depth - 1, 0) / _DEPTH) / np.maximum(weight, 1e-6)
    evened = np.rint(np.clip(filled + total * fading[..., None], 0, 255)).astype(np.uint8)
    return np.where(hole[..., None], evened, image)
