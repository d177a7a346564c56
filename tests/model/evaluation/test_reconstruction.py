"""What an autoencoder gives back, measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_layers import disc, tiny_autoencoder

from model.autoencoder import Layers
from model.evaluation.reconstruction import reconstruct


class Echo(torch.nn.Module):
    """An autoencoder that gives back what it got, with F a little lighter and m a little smaller."""

    device, dtype = torch.device("cpu"), torch.float32
    layered = True

    def __init__(self, lighter: float = 0.0, less: float = 0.0) -> None:
        super().__init__()
        self.lighter, self.less = lighter, less

    def encode(self, x: torch.Tensor) -> Echo:
        self.x = x
        return self

    def mode(self) -> torch.Tensor:
        return self.x

    def decode(self, x: torch.Tensor) -> Layers:
        return Layers(x[:, :3] + 2 * self.lighter, x[:, 3:6], x[:, 6:] * (1 - self.less))


def samples(n: int = 3, side: int = 32) -> list[np.ndarray]:
    image = disc(side)
    assert image.foreground is not None
    assert image.mask is not None
    planes = np.dstack([image.foreground // 2, image.background, image.mask, image.composite])
    return [planes.transpose(2, 0, 1)] * n


def test_what_comes_back_unchanged_has_no_error() -> None:
    found = reconstruct(Echo(), samples(), batch=2)  # type: ignore[arg-type]
    assert found["psnr_foreground"].tolist() == [100.0] * 3
    assert found["psnr_inside"].tolist() == [100.0] * 3
    assert found["mask_iou"].tolist() == found["mask_soft_iou"].tolist() == [1.0] * 3
    assert found["mask_mae"].tolist() == [0.0] * 3
    assert "lpips_image" not in found


def test_errors_by_hand() -> None:
    found = reconstruct(Echo(lighter=0.1, less=0.25), samples(1))  # type: ignore[arg-type]
    assert found["psnr_foreground"][0] == pytest.approx(20, abs=1e-4)
    assert found["psnr_inside"][0] == pytest.approx(20, abs=1e-4)
    m = samples(1)[0][6] / 255
    assert found["mask_soft_iou"][0] == pytest.approx(0.75, abs=1e-6)
    assert found["mask_mae"][0] == pytest.approx(float(m.mean() * 0.25), rel=1e-5)
    assert found["mask_iou"][0] == pytest.approx(float((m * 0.75 > 0.5).sum() / (m > 0.5).sum()))


def test_a_perceptual_distance_is_asked_for_each_picture() -> None:
    found = reconstruct(Echo(0.1), samples(2), lambda a, b: (a - b).abs().mean((1, 2, 3)))  # type: ignore[arg-type]
    assert found["lpips_foreground"].tolist() == pytest.approx([0.2, 0.2], abs=1e-5)
    assert found["lpips_background"].tolist() == pytest.approx([0, 0], abs=1e-6)


def test_a_real_autoencoder_is_measured() -> None:
    found = reconstruct(tiny_autoencoder(), samples(2))
    assert all(len(values) == 2 and np.isfinite(values).all() for values in found.values())
