"""Segmenters that run in onnxruntime: U2-Net, its small sister, and IS-Net."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

from l2i_builder.config import Segment
from l2i_builder.errors import ConfigError, WeightsError
from l2i_builder.segment.segmenter import to_mask
from l2i_builder.weights.registry import file_sha256

_log = logging.getLogger(__name__)


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
    """A segmenter in onnxruntime. Images go one by one: the published graphs have a fixed batch of one, and a
    result never depends on the images beside it."""

    def __init__(self, path: Path, config: Segment, device: str, threads: int) -> None:
        """Load ``path``. Raises WeightsError when it is not an ONNX graph, ConfigError for a resolution it lacks."""
        self.digest = file_sha256(path)
        self._facts = _PREPROCESSING[config.backend]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores are shared with other actors
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=_providers(device))
        except Exception as error:  # onnxruntime raises its own classes, which it does not export
            raise WeightsError(f"{path} could not be loaded as an ONNX model: {error}") from error
        self._input = self._session.get_inputs()[0]
        self._output = self._session.get_outputs()[0].name
        self._side = self._checked_side(config.resolution or self._facts.side)

    def _checked_side(self, side: int) -> int:
        fixed = self._input.shape[-1]
        if isinstance(fixed, int) and fixed != side:
            raise ConfigError(f"segment.resolution: this model sees {fixed} pixels and no other size; leave it at 0")
        return side

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """images uint8 [N, H, W, 3] -> masks uint8 [N, H, W]."""
        masks = np.empty(images.shape[:3], np.uint8)
        for image, mask in zip(images, masks, strict=True):
            saliency = self._session.run([self._output], {self._input.name: self._prepare(image)})[0]
            mask[...] = to_mask(saliency[0, 0].astype(np.float32), mask.shape)
        return masks

    def _prepare(self, image: np.ndarray) -> np.ndarray:
        """image uint8 [H, W, 3] -> float [1, 3, side, side] as the model expects it."""
        facts = self._facts
        shrinks = max(image.shape[:2]) > self._side
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        x: np.ndarray = cv2.resize(image, (self._side, self._side), interpolation=how).astype(np.float32)
        if facts.by_peak:
            x /= max(float(x.max()), 1.0)
        x = (x - np.array(facts.mean, np.float32)) / np.array(facts.std, np.float32)
        kind = np.float16 if self._input.type == "tensor(float16)" else np.float32
        return np.ascontiguousarray(x.transpose(2, 0, 1)[None], dtype=kind)


def _providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    """Return onnxruntime's providers for a device; the CPU, said aloud, where the package has none for CUDA."""
    if device.startswith("cuda"):
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            return [("CUDAExecutionProvider", {"device_id": device.partition(":")[2] or "0"}), "CPUExecutionProvider"]
        _log.warning(
            "onnxruntime has no CUDA provider, so segmentation runs on the CPU: install onnxruntime-gpu in its place, "
            "or choose segment.backend=inspyrenet"
        )
    return ["CPUExecutionProvider"]
