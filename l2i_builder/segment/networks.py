"""What runs a segmenter's ONNX graph: onnxruntime, or on CPUs ncnn, whose convolutions take Winograd's form."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnxruntime

from l2i_builder.errors import ConfigError, WeightsError

_log = logging.getLogger(__name__)

GRAPH, VALUES = "model.ncnn.param", "model.ncnn.bin"  # the files of a converted graph


class Network(Protocol):
    """Callable: a prepared image float32 [1, 3, side, side] -> its saliency float32 [h, w]."""

    def __call__(self, image: np.ndarray) -> np.ndarray: ...


class OnnxruntimeNetwork:
    """A graph in onnxruntime. session: may be replaced by one of the same graph."""

    def __init__(self, path: Path, device: str, threads: int) -> None:
        """Raises WeightsError when the file is not an ONNX graph."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # cores are shared with other actors
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=_providers(device))
        except Exception as error:  # onnxruntime raises its own classes, which it does not export
            raise WeightsError(f"{path} could not be loaded as an ONNX model: {error}") from error
        self._input = self.session.get_inputs()[0]
        self._output = self.session.get_outputs()[0].name
        self._kind = np.float16 if self._input.type == "tensor(float16)" else np.float32

    def check(self, side: int) -> None:
        """Raise ConfigError where the graph sees images of another side only."""
        fixed = self._input.shape[-1]
        if isinstance(fixed, int) and fixed != side:
            raise ConfigError(f"segment.resolution: this model sees {fixed} pixels and no other size; leave it at 0")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        found: Any = self.session.run([self._output], {self._input.name: image.astype(self._kind)})[0]
        return np.asarray(found[0, 0], np.float32)


class NcnnNetwork:
    """A converted graph in ncnn, float32 throughout. Same saliency as onnxruntime's to about 1e-4."""

    def __init__(self, folder: Path, threads: int) -> None:
        """``folder``: what ``conversion.converted`` returned."""
        import ncnn

        self._mat = ncnn.Mat
        self._net = net = ncnn.Net()
        net.opt.num_threads = threads
        net.opt.use_vulkan_compute = False
        net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
        net.opt.use_bf16_storage = False
        if net.load_param(str(folder / GRAPH)) or net.load_model(str(folder / VALUES)):
            raise WeightsError(f"{folder} could not be loaded by ncnn; delete the folder, and it is made again")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        pixels = np.ascontiguousarray(image[0], np.float32)  # ncnn reads it in place
        extractor = self._net.create_extractor()
        extractor.input("in0", self._mat(pixels))
        status, found = extractor.extract("out0")
        if status:
            raise RuntimeError(f"ncnn could not compute the saliency: status {status}")
        return np.array(found).squeeze()


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
