"""The optional NSFW filter: Yahoo's Open-NSFW (a thin ResNet-50, pornographic content only) in onnxruntime."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from l2i_builder.config import Config, Nsfw
from l2i_builder.errors import WeightsError
from l2i_builder.sample import Batch, Reason
from l2i_builder.stages import leave, run_model
from l2i_builder.weights.registry import resolve

WEIGHTS = "open_nsfw"
_MEAN = np.array([104.0, 117.0, 123.0], np.float32)  # BGR, of the training set
_RESIZED, _SEEN = 256, 224


class NsfwModel:
    """Scores images, one by one: a score does not depend on the images beside it."""

    def __init__(self, path: Path, device: str = "cpu", threads: int = 1) -> None:
        """Load ``path``. Raises WeightsError when it is no ONNX graph of the form [N, 224, 224, 3] -> [N, 2]."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores are shared with other actors
        wanted = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
        providers = [p for p in [*wanted, "CPUExecutionProvider"] if p in onnxruntime.get_available_providers()]
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=providers)
        except Exception as error:  # onnxruntime raises its own classes, which it does not export
            raise WeightsError(f"{path} could not be loaded as an ONNX model: {error}") from error
        self._input = self._session.get_inputs()[0].name
        shape, found = self._session.get_inputs()[0].shape, self._session.get_outputs()[0].shape
        if list(shape[1:]) != [_SEEN, _SEEN, 3] or found[-1] != 2:
            raise WeightsError(
                f"{path} is no NSFW model: it maps {shape} to {found}, wanted [N, 224, 224, 3] to [N, 2]"
            )

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return P(pornographic), float32 [N] in 0..1, of images uint8 [N, H, W, 3]."""
        scores = np.empty(len(images), np.float32)
        for i, image in enumerate(images):
            scores[i] = self._session.run(None, {self._input: prepared(image)[None]})[0][0, 1]
        return scores


def prepared(image: np.ndarray) -> np.ndarray:
    """Return an image uint8 [H, W, 3] as the network was trained to see it, float32 [224, 224, 3], BGR less mean.

    By way of a JPEG, as in the published code (classify_nsfw.py): without it scores are off by some percent.
    """
    file = io.BytesIO()
    Image.fromarray(image).resize((_RESIZED, _RESIZED), Image.Resampling.BILINEAR).save(file, "JPEG")
    with Image.open(file, formats=("JPEG",)) as stored:
        pixels = np.asarray(stored, np.float32)
    edge = (_RESIZED - _SEEN) // 2
    return np.ascontiguousarray(pixels[edge:-edge, edge:-edge, ::-1] - _MEAN)


def weights_path(config: Nsfw) -> Path:
    """Return the local file of the configured weights, fetched and checked. Raises WeightsError."""
    return resolve(config.weights or WEIGHTS, config.sha256)


class NsfwStage:
    """Refuses images at or above ``safety.nsfw.threshold`` before any other stage sees them; no preview is drawn."""

    name = "nsfw"

    def __init__(self, config: Config, device: str, threads: int) -> None:
        self.config = config
        self.model = NsfwModel(weights_path(config.safety.nsfw), device, threads)

    def __call__(self, batch: Batch) -> Batch:
        if not len(batch):
            return batch
        rule = self.config.safety.nsfw
        scores, done = run_model(self.model, (batch.image,), batch, rule.batch, self.name)
        for slot, row in enumerate(batch.live_rows):
            if done[slot]:
                row.nsfw_score = float(scores[slot])
                if row.nsfw_score >= rule.threshold:
                    row.refuse(Reason.UNSAFE, self.name, f"score {row.nsfw_score:.3f}, refused from {rule.threshold:g}")
        return leave(batch, self.config, done, always=True)
