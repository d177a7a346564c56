"""InSPyReNet through ``transparent-background``, beneath its one-image wrapper.

The wrapper's ``Remover`` takes one image, writes a configuration folder into the home directory, prints, and fetches
a missing checkpoint. Its network is used directly instead, in batches; masks equal the wrapper's, since each
image is stretched by its own extremes (the network's own ``forward`` stretches over the whole batch).
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from l2i_builder.config import Segment
from l2i_builder.device import at_once, autocast, compiled, prepare, torch_device, uploads
from l2i_builder.errors import ConfigError, WeightsError
from l2i_builder.judge.backbone import load_state
from l2i_builder.segment.segmenter import MIN_SPAN
from l2i_builder.weights.registry import file_sha256, resolve

if TYPE_CHECKING:
    import torch

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SIDES = {"inspyrenet-fast": 384}
_DEFAULT_SIDE = 1024
_GRID = 32  # the Swin backbone halves five times


class InspyrenetSegmenter:
    """InSPyReNet (Kim et al. 2022) with a Swin-B backbone."""

    def __init__(self, name: str, config: Segment, device: str, threads: int) -> None:
        """Load registry weights or a checkpoint ``name``; pickles are read with ``weights_only``.

        Raises WeightsError for weights that do not fit, ConfigError for a resolution off the grid of 32.
        """
        side = config.resolution or _SIDES.get(name, _DEFAULT_SIDE)
        if side % _GRID:
            raise ConfigError(f"segment.resolution must be a multiple of {_GRID} for inspyrenet, got {side}")
        path = resolve(name, config.sha256)
        self.digest = file_sha256(path)
        self._side, self._dtype = side, config.dtype
        self._device = torch_device(device, threads)
        self.step = config.batch if self._device.type == "cuda" else 1  # images a forward pass
        self.at_once = at_once(config.batch, self._device)
        self._model = _network(side)
        try:
            self._model.load_state_dict(load_state(path), strict=True)
        except RuntimeError as error:
            raise WeightsError(f"{path} is not an InSPyReNet (Swin-B) checkpoint: {str(error)[:200]}") from error
        prepare(self._model, self._device, channels_last=False)  # its attention takes views that need the other layout
        self._forward = compiled(self._model.forward_inspyre, config.compile)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """images uint8 [N, H, W, 3] -> masks uint8 [N, H, W]. On the CPU image by image, else in batches."""
        import torch

        chunks = ((images[i : i + self.step],) for i in range(0, len(images), self.step))
        with torch.inference_mode():
            masks = [self._masks(pixels) for (pixels,) in uploads(chunks, self._device)]
        return np.concatenate(masks) if masks else np.empty(images.shape[:3], np.uint8)

    def _masks(self, pixels: torch.Tensor) -> np.ndarray:
        """pixels uint8 [N, H, W, 3] on the device -> masks uint8 [N, H, W]."""
        import torch
        from torch.nn.functional import interpolate

        size = pixels.shape[1:3]
        x = pixels.permute(0, 3, 1, 2).float()  # (N, 3, H, W), 0..255
        x = interpolate(x, (self._side, self._side), mode="bilinear", antialias=True)
        mean, std = (x.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
        with autocast(self._dtype, self._device):
            logits = self._forward((x / 255 - mean) / std)["saliency"][-1]
        saliency = torch.sigmoid(logits.float())  # (N, 1, side, side)
        low, high = saliency.amin((2, 3), keepdim=True), saliency.amax((2, 3), keepdim=True)
        stretched = torch.where(high - low >= MIN_SPAN, (saliency - low) / (high - low + 1e-8), saliency)
        masks = interpolate(stretched, size, mode="bilinear", align_corners=True)[:, 0]  # the authors' corners
        return (masks.nan_to_num(0).clamp(0, 1) * 255).round().byte().cpu().numpy()


def _network(side: int) -> Any:
    """Return the untrained network for square inputs of ``side`` pixels."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # the package imports a library that asks the network
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its optional window toolkit and of deprecated calls
        from transparent_background.InSPyReNet import InSPyReNet_SwinB

        return InSPyReNet_SwinB(depth=64, pretrained=False, threshold=None, base_size=[side, side])
