"""LaMa (Suvorov et al. 2022) as packed for ``simple-lama-inpainting``, beneath its one-image wrapper."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from l2i_builder.config import Inpaint
from l2i_builder.device import at_once, prepare, torch_device, uploads
from l2i_builder.errors import ConfigError, WeightsError
from l2i_builder.inpaint.inpainter import mean_colour
from l2i_builder.weights.registry import file_sha256, resolve

if TYPE_CHECKING:
    import torch

_GRID = 8  # the network halves three times


class LamaInpainter:
    """The TorchScript module of LaMa, in batches.

    The module maps image [N, 3, H, W] in 0..1 and mask [N, 1, H, W] in {0, 1} to [N, 3, H, W] in 0..1; H and W are
    multiples of 8. It computes in float32: its Fourier convolutions have no bfloat16.
    """

    def __init__(self, config: Inpaint, device: str, threads: int) -> None:
        """Load the configured weights. TorchScript can run code, so it is loaded only when its digest is pinned.

        Raises WeightsError when nothing is pinned or the file is not TorchScript, ConfigError for bfloat16.
        """
        if config.dtype == "bfloat16":
            raise ConfigError("inpaint.dtype: LaMa's Fourier transforms have no bfloat16; use auto or float32")
        path = resolve(config.weights or "lama", config.sha256, must_pin=True)
        self.digest = file_sha256(path)
        self._device = torch_device(device, threads)
        self.step = config.batch if self._device.type == "cuda" else 1  # images a forward pass
        self.at_once = at_once(config.batch, self._device)
        self._model = prepare(_load(path, self._device), self._device)

    def __call__(self, images: np.ndarray, holes: np.ndarray) -> np.ndarray:
        """See ``Inpainter``. On the CPU image by image, else in batches; all hole becomes the mean colour."""
        filled = images.copy()
        covered = holes.all(axis=(1, 2))
        for i in np.flatnonzero(covered):
            filled[i] = mean_colour(images[i])
        todo = np.flatnonzero(holes.any(axis=(1, 2)) & ~covered)
        parts = [todo[start : start + self.step] for start in range(0, len(todo), self.step)]
        chunks = (_padded(images[chosen], holes[chosen]) for chosen in parts)
        height, width = holes.shape[1:]
        for chosen, (image, mask) in zip(parts, uploads(chunks, self._device), strict=True):
            result = self._run(image, mask)[:, :height, :width]
            filled[chosen] = np.where(holes[chosen][..., None], result, images[chosen])
        return filled

    def _run(self, image: torch.Tensor, mask: torch.Tensor) -> np.ndarray:
        """image uint8 [N, H, W, 3], mask bool [N, H, W], on the device -> images as the model redraws them, uint8."""
        import torch

        # Without the profiling executor the first calls compute the same bits as later ones.
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            result = self._model(image.permute(0, 3, 1, 2).float() / 255, mask[:, None].float())
        return (result.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def _padded(images: np.ndarray, holes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return images and holes continued, mirrored, to the network's grid."""
    margin = ((0, 0), (0, -holes.shape[1] % _GRID), (0, -holes.shape[2] % _GRID))
    return np.pad(images, (*margin, (0, 0)), mode="symmetric"), np.pad(holes, margin, mode="symmetric")


def _load(path: Path, device: torch.device) -> torch.nn.Module:
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated; LaMa comes in nothing else
            return torch.jit.load(str(path), map_location=device).eval()
    except RuntimeError as error:
        raise WeightsError(f"{path} could not be loaded as TorchScript: {str(error).splitlines()[0]}") from error
