"""Random models so small that they generate in milliseconds, and layered pictures, for tests of ``model``."""

from __future__ import annotations

import numpy as np
import torch

from model.autoencoder import CaT2IAutoencoder
from model.denoiser import make_scheduler, make_unet
from model.denoiser_config import Noise, Text, UNet
from model.export import LayeredImage
from model.pipeline import Text2LayerPipeline
from model.text import make_text_encoder

CAPTIONS = ["a red circle on a blue wall", "a green square on a grey floor"]
SIDE = 32
UNET = UNet(channels=[16, 32], layers_per_level=1, heads=2, norm_groups=8)


def tiny_autoencoder(seed: int = 0, **options: object) -> CaT2IAutoencoder:
    """32 pixels to 8x8 latents of four channels."""
    torch.manual_seed(seed)
    settings = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "patch_size": 2, **options}
    return CaT2IAutoencoder(**settings).eval()


def tiny_pipeline(seed: int = 0, unet: UNet = UNET, noise: Noise | None = None) -> Text2LayerPipeline:
    """A pipeline with random weights, without a progress bar."""
    autoencoder = tiny_autoencoder(seed)
    autoencoder.set_statistics([0.1] * 4, [0.9] * 4)
    text = make_text_encoder("words", CAPTIONS, Text(length=10, width=16, layers=1, heads=2)).eval()
    denoiser = make_unet(unet, autoencoder.latent_channels, text.dim, SIDE // autoencoder.downscale).eval()
    pipeline = Text2LayerPipeline(autoencoder, denoiser, make_scheduler(noise or Noise()), text)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeded(*seeds: int) -> list[torch.Generator]:
    """A generator for each image."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def disc(side: int = 64, colour: tuple[int, int, int] = (220, 40, 30), prompt: str = "a red disc") -> LayeredImage:
    """A disc with a soft edge before a gradient; F is black where m <= 0.1, as in the shards."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    distance = np.hypot(x - side * 0.55, y - side * 0.45)
    mask = np.clip((side * 0.3 - distance) / (side * 0.06) + 0.5, 0, 1)
    background = np.stack([x / side * 200, y / side * 200, np.full_like(x, 90)], -1).astype(np.uint8)
    m = mask[:, :, None]
    image = m * np.array(colour) + (1 - m) * background
    foreground = np.where(m > 0.1, image, 0).astype(np.uint8)
    return LayeredImage(background, foreground, np.rint(mask * 255).astype(np.uint8), prompt)
