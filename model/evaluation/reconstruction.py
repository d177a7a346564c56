"""How well an autoencoder gives back what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch

from model.evaluation.measures import iou, mae, psnr, soft_iou
from model.losses import INSIDE
from model.rgb_autoencoder import Autoencoder

Perceptual = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@torch.no_grad()
def reconstruct(
    autoencoder: Autoencoder, samples: Iterable[np.ndarray], perceptual: Perceptual | None = None, batch: int = 8
) -> dict[str, np.ndarray]:
    """Return measures of encoding and decoding, each float64 [N], through the posterior's mean.

    samples: F, B, m, I as uint8 [10, H, W]. Keys: ``psnr_foreground`` (whole picture), ``psnr_inside`` (F where
    m > 0.1), ``psnr_background``, ``psnr_image`` (the composite mF + (1 - m)B against I), ``mask_iou``,
    ``mask_soft_iou``, ``mask_mae``, and ``lpips_foreground``, ``_background``, ``_image`` where ``perceptual`` is
    given: two images [N, 3, H, W] in -1..1 -> distances [N]. Without layers only those of the image are there.
    """
    layered = getattr(autoencoder, "layered", True)
    parts: list[dict[str, np.ndarray]] = []
    waiting: list[np.ndarray] = []
    for sample in samples:
        waiting.append(sample)
        if len(waiting) == batch:
            parts.append(_measures(autoencoder, np.stack(waiting), perceptual, layered))
            waiting = []
    if waiting:
        parts.append(_measures(autoencoder, np.stack(waiting), perceptual, layered))
    return {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else {})}


def _measures(
    autoencoder: Autoencoder, planes: np.ndarray, perceptual: Perceptual | None, layered: bool
) -> dict[str, np.ndarray]:
    """planes uint8 [N, 10, H, W]."""
    unit = torch.from_numpy(planes).float().div(255)
    given = torch.cat([2 * unit[:, :6] - 1, unit[:, 6:7]], 1).to(autoencoder.device, autoencoder.dtype)
    made = autoencoder.decode(autoencoder.encode(given).mode())
    true = {"foreground": unit[:, :3], "background": unit[:, 3:6], "image": unit[:, 7:]}
    found = {"foreground": made.foreground, "background": made.background, "image": made.composite()}
    found = {name: (picture.float().cpu() / 2 + 0.5).clamp(0, 1) for name, picture in found.items()}
    names = list(true) if layered else ["image"]
    result = {f"psnr_{name}": psnr(_last(found[name]), _last(true[name])) for name in names}
    if perceptual is not None:
        for name in names:
            result[f"lpips_{name}"] = _distance(perceptual, found[name], true[name])
    if layered:
        m, predicted = unit[:, 6].numpy(), made.mask.float().cpu()[:, 0].numpy()
        error = (found["foreground"] - true["foreground"]).square().numpy().mean(1)
        inside = m > INSIDE
        squared = (error * inside).sum((1, 2)) / np.maximum(inside.sum((1, 2)), 1)
        result["psnr_inside"] = np.minimum(-10 * np.log10(np.maximum(squared, 1e-10)), 100.0)
        result |= {
            "mask_iou": iou(predicted, m),
            "mask_soft_iou": soft_iou(predicted, m),
            "mask_mae": mae(predicted, m),
        }
    return result


def _distance(perceptual: Perceptual, a: torch.Tensor, b: torch.Tensor) -> np.ndarray:
    return perceptual(2 * a - 1, 2 * b - 1).reshape(-1).double().cpu().numpy()


def _last(x: torch.Tensor) -> np.ndarray:
    """[N, C, H, W] -> [N, H, W, C]."""
    return x.permute(0, 2, 3, 1).numpy()
