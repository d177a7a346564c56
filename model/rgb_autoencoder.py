"""The interface of CaT2I-AE over an autoencoder of RGB images, Stable Diffusion's: what the paper compares with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ModelMixin  # noqa: F401 - pipelines look ModelMixin up where a class is defined
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from l2i_builder.errors import WeightsError
from model.autoencoder import CaT2IAutoencoder, LatentAutoencoder, Layers
from model.config import Autoencoder as AutoencoderConfig
from model.messages import said
from model.pretrained import load_pretrained

SD = ("CompVis/stable-diffusion-v1-4", "133a221b8aa7292a167afc5127cb63fb5005638b")


class RgbAutoencoder(LatentAutoencoder):
    """Base: the interface of ``CaT2IAutoencoder`` over an autoencoder of RGB images, Stable Diffusion's.

    ``architecture``: configuration of the ``AutoencoderKL`` inside; ``from_rgb`` takes over its weights as well.
    ``latents_mean``, ``latents_std``: for each latent channel; None = Stable Diffusion's one shift and scale.
    """

    layered = True  # whether what is decoded has layers
    images = 1  # RGB images in a latent

    @register_to_config
    def __init__(
        self,
        architecture: dict[str, Any] | None = None,
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
    ) -> None:
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

    def last_weights(self) -> dict[str, nn.Parameter]:
        """Return the last convolution's weight by the layer it decodes: one for all."""
        return dict.fromkeys(self.heads, self.rgb.decoder.conv_out.weight)

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of what is decoded."""
        return ("foreground", "background", "mask") if self.layered else ("image",)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        rgb, channels = self.rgb.config, self.latent_channels
        mean = self.config.latents_mean or [rgb.shift_factor or 0.0] * channels
        std = self.config.latents_std or [1 / rgb.scaling_factor] * channels
        return like.new_tensor(mean).view(1, -1, 1, 1), like.new_tensor(std).view(1, -1, 1, 1)


class SeparateAutoencoder(RgbAutoencoder):
    """SD-AE-UNet (paper, section 5.1): F, B and m each through the RGB autoencoder, latents concatenated.

    The mask goes in as a grey image, and comes out as the mean of its three channels. Where no Stable Diffusion fits
    (toy sizes), it can be trained as CaT2I-AE is: then the RGB autoencoder inside has seen F, B and m alone.
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
    if not (Path(folder) / "config.json").is_file():  # diffusers would take it for a hub id, and ask the network
        raise WeightsError(
            f"there is no autoencoder in {folder}. Train one with `l2i train-autoencoder`, or name the folder of one: "
            "diffusion.autoencoder"
        )
    try:
        kind = _KINDS[CaT2IAutoencoder.load_config(folder)["_class_name"]]
        return kind.from_pretrained(folder, low_cpu_mem_usage=False)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(
            f"{folder} holds no autoencoder of layers: {said(error)}. Train one, or give the "
            "folder that the autoencoder's trainer wrote"
        ) from error


def rgb_autoencoder(kind: str, source: str = SD[0], revision: str = "", subfolder: str = "vae") -> RgbAutoencoder:
    """Return a baseline's autoencoder, "separate" or "image", over the RGB one at ``source``, frozen.

    source: folder or hub id of an ``AutoencoderKL``, or folder of a ``SeparateAutoencoder``, whose RGB one is taken.
    Raises WeightsError when it cannot be loaded.
    """
    if source == SD[0] and not revision:
        revision = SD[1]
    if (Path(source).expanduser() / "config.json").is_file():  # the autoencoder itself, not a pipeline's folder
        if CaT2IAutoencoder.load_config(source).get("_class_name") == SeparateAutoencoder.__name__:
            return _taken_over(kind, SeparateAutoencoder.from_pretrained(source))
        subfolder = ""
    rgb = load_pretrained(AutoencoderKL, "autoencoder", source, subfolder, revision)
    return _OVER_RGB[kind].from_rgb(rgb)


def _taken_over(kind: str, separate: SeparateAutoencoder) -> RgbAutoencoder:
    """Return an autoencoder over the RGB one of ``separate``; an image's latents are scaled as a background's."""
    model = _OVER_RGB[kind].from_rgb(separate.rgb)
    mean, std = separate.config.latents_mean, separate.config.latents_std
    if mean and std:
        each = separate.rgb.config.latent_channels
        part = slice(None) if kind == "separate" else slice(each, 2 * each)
        model.set_statistics(mean[part], std[part])
    return model


def scratch_autoencoder(config: AutoencoderConfig) -> SeparateAutoencoder:
    """Return a ``SeparateAutoencoder`` to be trained, of ``autoencoder``'s channels, latents and groups."""
    blocks = len(config.channels)
    return SeparateAutoencoder(
        {
            "block_out_channels": tuple(config.channels),
            "down_block_types": ("DownEncoderBlock2D",) * blocks,
            "up_block_types": ("UpDecoderBlock2D",) * blocks,
            "layers_per_block": config.layers_per_block,
            "latent_channels": config.latent_channels,
            "norm_num_groups": config.norm_groups,
            "mid_block_add_attention": config.mid_attention,
        }
    )
