"""Segmenters published as ONNX graphs: U2-Net, its small sister, and IS-Net."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from l2i_builder.config import Segment
from l2i_builder.errors import WeightsError
from l2i_builder.segment.conversion import ConversionError, converted
from l2i_builder.segment.networks import NcnnNetwork, Network, OnnxruntimeNetwork
from l2i_builder.segment.segmenter import to_mask
from l2i_builder.weights.registry import file_sha256

_log = logging.getLogger(__name__)

_CONVERTED = ("u2net", "u2netp")  # what ``auto`` runs on ncnn; IS-Net's half precision cannot be converted


@dataclass(frozen=True)
class Preprocessing:
    """What a model expects: square of ``side`` pixels, (x - mean) / std of x in 0..255, ``by_peak`` of x / max x."""

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    by_peak: bool = False  # U2-Net's authors divide an image by its own maximum, not by 255


_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_PREPROCESSING = {
    "u2net": Preprocessing(320, **_IMAGENET, by_peak=True),
    "u2netp": Preprocessing(320, **_IMAGENET, by_peak=True),
    "isnet": Preprocessing(1024, (128.0,) * 3, (256.0,) * 3),
}


class OnnxSegmenter:
    """A segmenter given as an ONNX graph. Images go one by one: the published graphs have a fixed batch of one, and a
    result never depends on the images beside it."""

    def __init__(self, path: Path, config: Segment, device: str, threads: int) -> None:
        """Load ``path``. Raises WeightsError when it is not an ONNX graph, ConfigError for a resolution it lacks."""
        self.digest = file_sha256(path)
        self._facts = _PREPROCESSING[config.backend]
        self._side = config.resolution or self._facts.side
        self.network = load_network(path, self.digest, config, self._side, device, threads)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """images uint8 [N, H, W, 3] -> masks uint8 [N, H, W]."""
        masks = np.empty(images.shape[:3], np.uint8)
        for image, mask in zip(images, masks, strict=True):
            mask[...] = to_mask(self.network(self._prepare(image)), mask.shape)
        return masks

    def _prepare(self, image: np.ndarray) -> np.ndarray:
        """image uint8 [H, W, 3] -> float32 [1, 3, side, side] as the model expects it."""
        facts = self._facts
        shrinks = max(image.shape[:2]) > self._side
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        x: np.ndarray = cv2.resize(image, (self._side, self._side), interpolation=how).astype(np.float32)
        if facts.by_peak:
            x /= max(float(x.max()), 1.0)
        x = (x - np.array(facts.mean, np.float32)) / np.array(facts.std, np.float32)
        return np.ascontiguousarray(x.transpose(2, 0, 1)[None])


def load_network(path: Path, digest: str, config: Segment, side: int, device: str, threads: int) -> Network:
    """Load an ONNX graph for ``segment.runtime``; ``digest`` is its file's SHA-256. GPUs are onnxruntime's.

    Raises WeightsError when the file is not an ONNX graph, or ncnn was asked for and cannot run it, ConfigError for a
    side it lacks.
    """
    wanted = config.runtime == "ncnn" or (config.runtime == "auto" and config.backend in _CONVERTED)
    if wanted and not device.startswith("cuda"):
        try:
            return NcnnNetwork(converted(path, digest, side), threads)
        except ConversionError as error:
            if config.runtime == "ncnn":
                raise WeightsError(f"{error}; set segment.runtime=onnxruntime") from error
            _log.warning("%s; it runs in onnxruntime", error)
    network = OnnxruntimeNetwork(path, device, threads)
    network.check(side)
    return network
