"""The interface of CaT2I-AE over an autoencoder of RGB images, Stable Diffusion's: what the paper compares with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from l2i_builder.errors import WeightsError
from model.autoencoder import CaT2IAutoencoder, Layers

SD = ("CompVis/stable-diffusion-v1-4", "133a221b8aa7292a167afc5127cb63fb5005638b")


class RgbAutoencoder(ModelMixin, ConfigMixin):
    """Base: the interface of ``CaT2IAutoencoder`` over a frozen autoencoder of RGB images, Stable Diffusion's.

    ``architecture``: configuration of the ``AutoencoderKL`` inside; ``from_rgb`` takes over its weights as well.
    """

    layered = True  # whether what is decoded has layers
    images = 1  # RGB images in a latent

    @register_to_config
    def __init__(self, architecture: dict[str, Any] | None = None) -> None:
        super().__init__()
        known = {name: value for name, value in (architecture or {}).items() if not name.startswith("_")}
        self.rgb = AutoencoderKL(**known)

    @classmethod
    def from_rgb(cls, source: AutoencoderKL) -> RgbAutoencoder:
        """Return one over ``source``, weights and all, frozen."""
        model = cls(dict(source.config))
        model.rgb.load_state_dict(source.state_dict())
        model.requires_grad_(False)
        return model.eval()

    @property
    def latent_channels(self) -> int:
        return int(self.images * self.rgb.config.latent_channels)

    @property
    def downscale(self) -> int:
        """Pixels a latent cell is wide."""
        return int(2 ** (len(self.rgb.config.block_out_channels) - 1))

    def forward(self, x: Tensor, mode: Literal["encode", "decode"]) -> Any:
        """As ``CaT2IAutoencoder.forward``: layers [N, 7, H, W] -> moments, or latents -> ``Layers``."""
        return self._moments(x) if mode == "encode" else self._layers(x)

    def encode(self, x: Tensor) -> DiagonalGaussianDistribution:
        """Return the posterior over raw latents of layers x [N, 7, H, W]; F, B in -1..1, m in 0..1."""
        return DiagonalGaussianDistribution(self(x, mode="encode"))

    def decode(self, latents: Tensor) -> Layers:
        """Return the layers of raw latents [N, latent_channels, h, w]."""
        return self(latents, mode="decode")

    def normalise(self, latents: Tensor) -> Tensor:
        """Return raw latents as the diffusion model sees them: Stable Diffusion's shift and scale."""
        return (latents - (self.rgb.config.shift_factor or 0)) * self.rgb.config.scaling_factor

    def denormalise(self, latents: Tensor) -> Tensor:
        """Inverse of ``normalise``."""
        return latents / self.rgb.config.scaling_factor + (self.rgb.config.shift_factor or 0)

    def _moments(self, x: Tensor) -> Tensor:
        """layers [N, 7, H, W] -> moments [N, 2 * latent_channels, h, w]: means, then log variances."""
        raise NotImplementedError

    def _layers(self, latents: Tensor) -> Layers:
        raise NotImplementedError


class SeparateAutoencoder(RgbAutoencoder):
    """SD-AE-UNet (paper, section 5.1): F, B and m each through the RGB autoencoder, latents concatenated.

    The mask goes in as a grey image, and comes out as the mean of its three channels.
    """

    images = 3

    def _moments(self, x: Tensor) -> Tensor:
        grey = (2 * x[:, 6:] - 1).expand(-1, 3, -1, -1)
        each = [self.rgb.encode(part).latent_dist for part in (x[:, :3], x[:, 3:6], grey)]
        return torch.cat([p.mean for p in each] + [p.logvar for p in each], dim=1)

    def _layers(self, latents: Tensor) -> Layers:
        f, b, grey = (self.rgb.decode(part).sample for part in latents.chunk(3, dim=1))
        return Layers(f, b, (grey.mean(1, keepdim=True).float() / 2 + 0.5).clamp(0, 1))


class ImageAutoencoder(RgbAutoencoder):
    """SD-LAION-L2I (paper, section 5.1): the composed image alone. What it decodes is all background."""

    layered = False

    def _moments(self, x: Tensor) -> Tensor:
        m = x[:, 6:]
        posterior = self.rgb.encode(m * x[:, :3] + (1 - m) * x[:, 3:6]).latent_dist
        return torch.cat([posterior.mean, posterior.logvar], dim=1)

    def _layers(self, latents: Tensor) -> Layers:
        image = self.rgb.decode(latents).sample
        return Layers(torch.zeros_like(image), image, torch.zeros_like(image[:, :1]), image)


Autoencoder = CaT2IAutoencoder | RgbAutoencoder
_KINDS = {kind.__name__: kind for kind in (CaT2IAutoencoder, SeparateAutoencoder, ImageAutoencoder)}
_OVER_RGB = {"separate": SeparateAutoencoder, "image": ImageAutoencoder}


def load_autoencoder(folder: str | Path) -> Autoencoder:
    """Load an autoencoder of any kind that ``save_pretrained`` wrote. Raises WeightsError where there is none."""
    try:
        kind = _KINDS[CaT2IAutoencoder.load_config(folder)["_class_name"]]
        return kind.from_pretrained(folder, low_cpu_mem_usage=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(
            f"{folder} holds no autoencoder of layers: {str(error).strip().splitlines()[0]}. Train one, or give the "
            "folder that the autoencoder's trainer wrote"
        ) from error


def rgb_autoencoder(kind: str, source: str = SD[0], revision: str = "", subfolder: str = "vae") -> RgbAutoencoder:
    """Return a baseline's autoencoder, "separate" or "image", over the RGB one at ``source`` (folder or hub id).

    Raises WeightsError when it cannot be loaded.
    """
    if source == SD[0] and not revision:
        revision = SD[1]
    try:
        rgb = AutoencoderKL.from_pretrained(
            source, subfolder=subfolder or None, revision=revision or None, use_safetensors=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"autoencoder.source {source!r} holds no AutoencoderKL: {str(error).strip().splitlines()[0]}. Check the "
            "path and autoencoder.subfolder"
        ) from error
    return _OVER_RGB[kind].from_rgb(rgb)
