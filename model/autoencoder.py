"""CaT2I-AE, the autoencoder of layered images (paper, section 4.1), composed from diffusers' blocks.

Stable Diffusion's encoder and decoder with seven channels in (foreground, background, mask) and, in place of the
decoder's last layer, a head for each of foreground F, background B, mask m, and an auxiliary one for the image I.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import Decoder, DiagonalGaussianDistribution, Encoder
from torch import Tensor, nn
from torch.nn import functional

LAYER_CHANNELS = 7  # foreground 3, background 3, mask 1


class Layers(NamedTuple):
    """Decoded layers: foreground, background, image [N, 3, H, W] about -1..1, not clipped; mask [N, 1, H, W] in 0..1.

    ``image`` is the auxiliary head's, None without one. The picture to show is ``composite()``.
    """

    foreground: Tensor
    background: Tensor
    mask: Tensor
    image: Tensor | None = None

    def composite(self) -> Tensor:
        """Return C = mF + (1 - m)B (paper, eq. 1) [N, 3, H, W], about -1..1."""
        return self.mask * self.foreground + (1 - self.mask) * self.background

    def stacked(self) -> Tensor:
        """Return what ``CaT2IAutoencoder.encode`` takes [N, 7, H, W]."""
        return torch.cat([self.foreground, self.background, self.mask], dim=1)


class Reconstruction(NamedTuple):
    """One pass through the autoencoder; ``moments`` [N, 2 * latent_channels, h, w] are the posterior's."""

    layers: Layers
    moments: Tensor

    @property
    def posterior(self) -> DiagonalGaussianDistribution:
        return DiagonalGaussianDistribution(self.moments.float())


class Head(nn.Module):
    """Feature map [N, C, H, W] -> [N, out, H, W]: conv–norm–relu–conv (paper, with batch norm).

    ``residual`` adds a plain convolution beside it and starts the deep branch at zero, so that a head that takes over
    a trained last layer computes exactly what that layer did.
    """

    def __init__(self, channels: int, out: int, norm: str, groups: int, residual: bool) -> None:
        super().__init__()
        normalise = nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(groups, channels)
        last = nn.Conv2d(channels, out, 3, padding=1)
        self.deep = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), normalise, nn.ReLU(), last)
        self.direct = nn.Conv2d(channels, out, 3, padding=1) if residual else None
        if residual:
            _zero(last)

    def forward(self, features: Tensor) -> Tensor:
        deep: Tensor = self.deep(features)
        return deep if self.direct is None else deep + self.direct(features)

    @property
    def last_weight(self) -> nn.Parameter:
        """Weight of the last convolution: where losses are balanced (latent diffusion's adaptive weight)."""
        last: Any = self.deep[3] if self.direct is None else self.direct
        weight: nn.Parameter = last.weight
        return weight


class LatentAutoencoder(ModelMixin, ConfigMixin):
    """Base: layers to latents and back, and latents as the diffusion model sees them.

    A subclass has ``_moments``, ``_layers`` and ``_statistics``, and ``latents_mean``, ``latents_std`` in its
    configuration.
    """

    def forward(
        self, x: Tensor, mode: Literal["reconstruct", "encode", "decode"] = "reconstruct", noise: Tensor | None = None
    ) -> Any:
        """Run the part that ``mode`` names: one entry for all, so that the hooks of DDP and FSDP fire.

        "encode": x layers [N, 7, H, W] -> moments [N, 2 * latent_channels, h, w]. "decode": x latents -> ``Layers``.
        "reconstruct": x layers -> ``Reconstruction``; the latent is mean + std * noise, the mean where noise is None.
        """
        if mode == "encode":
            return self._moments(x)
        if mode == "decode":
            return self._layers(x)
        moments = self._moments(x)
        posterior = DiagonalGaussianDistribution(moments)
        latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise
        return Reconstruction(self._layers(latents), moments)

    def encode(self, x: Tensor) -> DiagonalGaussianDistribution:
        """Return the posterior over raw latents (``.sample(generator)``, ``.mode()``) of layers x [N, 7, H, W]."""
        return DiagonalGaussianDistribution(self(x, mode="encode"))

    def decode(self, latents: Tensor) -> Layers:
        """Return the layers of raw latents [N, latent_channels, h, w]."""
        return self(latents, mode="decode")

    def normalise(self, latents: Tensor) -> Tensor:
        """Return raw latents as the diffusion model sees them: zero mean and unit variance for each channel."""
        mean, std = self._statistics(latents)
        return (latents - mean) / std

    def denormalise(self, latents: Tensor) -> Tensor:
        """Return raw latents for ``decode``; the inverse of ``normalise``."""
        mean, std = self._statistics(latents)
        return latents * std + mean

    def set_statistics(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Keep the mean and standard deviation of each latent channel in the configuration, which is saved."""
        self.register_to_config(latents_mean=[float(value) for value in mean], latents_std=[float(v) for v in std])

    def _moments(self, x: Tensor) -> Tensor:
        """layers [N, 7, H, W] -> moments [N, 2 * latent_channels, h, w]: means, then log variances."""
        raise NotImplementedError

    def _layers(self, latents: Tensor) -> Layers:
        raise NotImplementedError

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each latent channel, [1, latent_channels, 1, 1], as ``like`` is."""
        raise NotImplementedError


class CaT2IAutoencoder(LatentAutoencoder):
    """Layers [N, 7, H, W] <-> latents [N, latent_channels, H / downscale, W / downscale].

    Channels of the input: foreground 0..2 and background 3..5 in -1..1, mask 6 in **0..1**. H and W are multiples of
    ``downscale``. Latents of ``encode`` and ``decode`` are raw; the diffusion model works on ``normalise`` of them.

    Args:
        block_out_channels: channels of each resolution; each but the last halves the size.
        layers_per_block: residual blocks a resolution.
        latent_channels: channels of the latent (Stable Diffusion: 4).
        norm_num_groups: groups of the trunk's group norm; also of the heads' where ``head_norm`` is "group".
        mid_attention: self-attention at the lowest resolution.
        use_quant_conv: 1x1 convolutions around the latent, as Stable Diffusion has them.
        patch_size: side of the pixel patches that are folded into channels on the way in and out; 1 = none (paper).
        head_norm: "batch" (paper) or "group".
        head_type: "plain" (paper) or "residual" (takes over a trained decoder exactly, see ``from_rgb``).
        image_head: the auxiliary head for I; False is the paper's *no-sup* variant.
        latents_mean, latents_std: for each latent channel; None = 0 and 1.
    """

    config: Any
    __call__: Any
    _supports_gradient_checkpointing = True
    _no_split_modules = ("ResnetBlock2D", "Attention")

    @register_to_config
    def __init__(
        self,
        block_out_channels: tuple[int, ...] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        mid_attention: bool = True,
        use_quant_conv: bool = True,
        patch_size: int = 1,
        head_norm: Literal["batch", "group"] = "batch",
        head_type: Literal["plain", "residual"] = "plain",
        image_head: bool = True,
        latents_mean: Sequence[float] | None = None,
        latents_std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        blocks = len(block_out_channels)
        area = patch_size**2
        shared: dict[str, Any] = {
            "block_out_channels": tuple(block_out_channels),
            "layers_per_block": layers_per_block,
            "norm_num_groups": norm_num_groups,
            "mid_block_add_attention": mid_attention,
        }
        self.encoder = Encoder(
            LAYER_CHANNELS * area, latent_channels, down_block_types=("DownEncoderBlock2D",) * blocks, **shared
        )
        self.decoder = Decoder(latent_channels, 3, up_block_types=("UpDecoderBlock2D",) * blocks, **shared)
        self.decoder.conv_out = nn.Identity()  # the heads take its place
        self.quant_conv = nn.Conv2d(2 * latent_channels, 2 * latent_channels, 1) if use_quant_conv else None
        self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1) if use_quant_conv else None
        names = ["foreground", "background", "mask"] + (["image"] if image_head else [])
        width, residual = block_out_channels[0], head_type == "residual"
        self.heads = nn.ModuleDict(
            {
                name: Head(width, (1 if name == "mask" else 3) * area, head_norm, norm_num_groups, residual)
                for name in names
            }
        )

    @property
    def latent_channels(self) -> int:
        return int(self.config.latent_channels)

    @property
    def downscale(self) -> int:
        """Pixels a latent cell is wide."""
        return int(2 ** (len(self.config.block_out_channels) - 1) * self.config.patch_size)

    def last_weights(self) -> dict[str, nn.Parameter]:
        """Return the last convolution's weight of each head, by the head's name."""
        return {name: head.last_weight for name, head in self.heads.items() if isinstance(head, Head)}

    @classmethod
    def from_rgb(
        cls,
        source: Any,
        latent_channels: int | None = None,
        head_norm: Literal["batch", "group"] = "batch",
        image_head: bool = True,
    ) -> CaT2IAutoencoder:
        """Return an autoencoder inflated from one of RGB images, diffusers' ``AutoencoderKL``.

        It starts as that autoencoder: where F = B = I, the (first) latents are those of I, all images decode as the
        source decodes, and the mask is 0.5. Heads are "residual". More ``latent_channels`` than the source's add
        channels that the decoder does not use yet. Raises ValueError for fewer, or blocks of other kinds.
        """
        config = source.config
        channels = latent_channels or config.latent_channels
        kinds = {*config.down_block_types, *config.up_block_types}
        if kinds != {"DownEncoderBlock2D", "UpDecoderBlock2D"} or channels < config.latent_channels:
            raise ValueError(
                f"an autoencoder of {', '.join(sorted(kinds))} with {config.latent_channels} latent channels cannot be "
                f"inflated to {channels} channels of plain blocks"
            )
        model = cls(
            block_out_channels=tuple(config.block_out_channels),
            layers_per_block=config.layers_per_block,
            latent_channels=channels,
            norm_num_groups=config.norm_num_groups,
            mid_attention=config.mid_block_add_attention,
            use_quant_conv=source.quant_conv is not None,
            head_norm=head_norm,
            head_type="residual",
            image_head=image_head,
        )
        with torch.no_grad():
            _inflate(model, source)
        std, shift = 1 / config.scaling_factor, config.shift_factor or 0.0
        extra = channels - config.latent_channels
        model.set_statistics(
            [shift] * config.latent_channels + [0.0] * extra, [std] * config.latent_channels + [1.0] * extra
        )
        return model

    def _moments(self, x: Tensor) -> Tensor:
        x = torch.cat([x[:, :6], 2 * x[:, 6:] - 1], dim=1)
        if self.config.patch_size > 1:
            x = functional.pixel_unshuffle(x, self.config.patch_size)
        moments: Tensor = self.encoder(x)
        return moments if self.quant_conv is None else self.quant_conv(moments)

    def _layers(self, latents: Tensor) -> Layers:
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        features = self.decoder(latents)
        outputs = {name: head(features) for name, head in self.heads.items()}
        if self.config.patch_size > 1:
            outputs = {name: functional.pixel_shuffle(out, self.config.patch_size) for name, out in outputs.items()}
        outputs["mask"] = outputs["mask"].float().sigmoid()
        return Layers(**outputs)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.config.latents_mean or [0.0] * self.latent_channels
        std = self.config.latents_std or [1.0] * self.latent_channels
        shape = (1, -1, 1, 1)
        return like.new_tensor(mean).view(shape), like.new_tensor(std).view(shape)


def _zero(module: nn.Conv2d) -> None:
    nn.init.zeros_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _inflate(model: CaT2IAutoencoder, source: Any) -> None:
    """Copy an RGB autoencoder's weights; see ``CaT2IAutoencoder.from_rgb``."""
    old, new = source.config.latent_channels, model.latent_channels
    target = model.state_dict()
    # Where the source's latent channels lie among the new ones: alone, and as means followed by log variances.
    alone = torch.arange(old)
    moments = torch.cat([alone, new + alone])
    places: dict[str, tuple[Tensor | None, Tensor | None]] = {  # (outputs, inputs)
        "encoder.conv_out": (moments, None),
        "quant_conv": (moments, moments),
        "post_quant_conv": (alone, alone),
        "decoder.conv_in": (None, alone),
    }
    for name, value in source.state_dict().items():
        module, _, kind = name.rpartition(".")
        if module in ("encoder.conv_in", "decoder.conv_out"):
            continue
        outputs, inputs = places.get(module, (None, None))
        wide = target[name]
        if inputs is not None and kind == "weight" and new > old:
            wide[outputs if outputs is not None else slice(None)] = 0  # old channels take nothing from new ones
        if kind != "weight":
            wide[slice(None) if outputs is None else outputs] = value
        elif outputs is not None and inputs is not None:
            wide[outputs[:, None], inputs[None]] = value
        elif inputs is not None:
            wide[:, inputs] = value
        else:
            wide[slice(None) if outputs is None else outputs] = value
    first = source.encoder.conv_in
    # F and B share the source's filters; the mask starts without a say.
    target["encoder.conv_in.weight"].copy_(
        torch.cat([first.weight / 2, first.weight / 2, torch.zeros_like(first.weight[:, :1])], dim=1)
    )
    target["encoder.conv_in.bias"].copy_(first.bias)
    heads: dict[str, Any] = dict(model.heads.items())
    for name, head in heads.items():
        _zero(head.direct)
        if name != "mask":
            head.direct.load_state_dict(source.decoder.conv_out.state_dict())
