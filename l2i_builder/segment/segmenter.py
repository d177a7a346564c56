"""Salient-object segmentation: the soft layer mask m of an image (paper, section 3).

The paper uses ICON, chosen for the integrity of its masks. Here: U2-Net (ONNX, the default on a laptop), IS-Net,
and InSPyReNet through ``transparent-background`` (the production default).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from l2i_builder.config import Segment
from l2i_builder.weights.registry import resolve

# U2-Net's maps span 0.96 or more on photographs with an object, and at most 0.06 on blank colours and gradients;
# stretching those to 0..1 would make a mask of noise.
MIN_SPAN = 0.2


class Segmenter(Protocol):
    """Callable: images uint8 [N, H, W, 3], sRGB -> soft masks uint8 [N, H, W], 255 = surely foreground."""

    digest: str  # SHA-256 of the weights

    def __call__(self, images: np.ndarray) -> np.ndarray: ...


def make_segmenter(config: Segment, device: str = "cpu", threads: int = 1) -> Segmenter:
    """Load the configured segmenter onto ``device`` ("cpu", "cuda", "cuda:1"), for ``threads`` CPU threads.

    Raises WeightsError when the weights cannot be fetched, have the wrong digest, or do not fit the model.
    """
    name = config.weights or config.backend
    if config.backend == "inspyrenet":
        from l2i_builder.segment.inspyrenet import InspyrenetSegmenter

        return InspyrenetSegmenter(name, config, device, threads)
    from l2i_builder.segment.onnx import OnnxSegmenter

    return OnnxSegmenter(resolve(name, config.sha256), config, device, threads)


def stretch(saliency: np.ndarray) -> np.ndarray:
    """Return one saliency map, float [H, W] in 0..1, stretched to span 0..1 as its authors do (min-max).

    A map that spans less than ``MIN_SPAN`` has found nothing: it is returned as it is, near zero or even.
    """
    low, high = float(saliency.min()), float(saliency.max())
    if not high - low >= MIN_SPAN:  # also where the model gave NaN
        return np.nan_to_num(saliency, nan=0.0)
    return (saliency - low) / (high - low)


def to_mask(saliency: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a saliency map, float [h, w], as a mask uint8 [H, W]: stretched, resized bilinearly, rounded.

    ``size`` is (H, W).
    """
    import cv2

    mask = cv2.resize(stretch(saliency).astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.rint(np.clip(mask, 0, 1) * 255).astype(np.uint8)
