"""Pictures for people: layers side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model.autoencoder import Layers


def planes_of(layers: Layers) -> list[Tensor]:
    """Return what a row of a sheet shows of layers: composite, foreground, background [N, 3, H, W] and the mask."""
    mask = 2 * layers.mask.expand(-1, 3, -1, -1) - 1
    return [layers.composite(), layers.foreground, layers.background, mask]


def sheet(columns: Sequence[Tensor], gap: int = 2, least: int = 64) -> np.ndarray:
    """Return a picture, uint8 [H, W, 3], white between: columns are [N, 3, H, W] in -1..1, a row for each sample.

    Small pictures are enlarged to at least ``least`` pixels, every pixel a square.
    """
    cells = torch.stack([column.detach().float().cpu().clamp(-1, 1) for column in columns], dim=1)  # [N, K, 3, H, W]
    scale = max(1, -(-least // cells.shape[-1]))
    cells = cells.repeat_interleave(scale, dim=3).repeat_interleave(scale, dim=4)
    cells = torch.nn.functional.pad(cells, (0, gap, 0, gap), value=1.0)
    n, k, _, h, w = cells.shape
    pixels = cells.permute(0, 3, 1, 4, 2).reshape(n * h, k * w, 3)
    return np.rint((pixels.numpy() + 1) * 127.5).astype(np.uint8)
