"""The diffusion model: Stable Diffusion's UNet on the latents of an autoencoder, and its noise schedule.

CaT2I-AE-SD (paper, section 4.2) is this UNet from scratch. The baseline SD-AE-UNet (ft) starts from SD-v1-4 with its
first and last convolution widened. Beyond the paper, further input channels may carry given layers.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel

from l2i_builder.errors import ConfigError
from model.denoiser_config import Noise, UNet
from model.pretrained import load_pretrained

LAYERS = 3  # F, B, m: what a layered image has, and what can be given


def make_unet(config: UNet, latent_channels: int, text_dim: int = 768, sample_size: int = 32) -> UNet2DConditionModel:
    """Return the UNet: latents [N, C, h, w], step [N], text [N, T, text_dim] -> prediction [N, C, h, w].

    With ``config.conditional`` its input is [N, 2C + 3, h, w]: latents, then ``conditioning``'s channels.
    ``sample_size``: h = w of the latents it is trained on. Raises ConfigError where the configuration contradicts
    itself or the source, WeightsError where the source cannot be loaded.
    """
    inputs = latent_channels + (condition_channels(latent_channels) if config.conditional else 0)
    if config.init == "scratch":
        return UNet2DConditionModel(**_architecture(config, inputs, latent_channels, text_dim, sample_size))
    source = _load(config)
    if source.config.cross_attention_dim != text_dim:
        raise ConfigError(
            f"unet.source attends to text of {source.config.cross_attention_dim} dimensions, the text encoder gives "
            f"{text_dim}; choose the encoder the source was trained with (Stable Diffusion 1: clip-vit-l-14)"
        )
    widened = widen(source, inputs, latent_channels)
    widened.register_to_config(sample_size=sample_size)
    return widened


def _architecture(config: UNet, inputs: int, outputs: int, text_dim: int, sample_size: int) -> dict[str, Any]:
    levels = len(config.channels)
    attends = config.attention_levels or [True] * (levels - 1) + [levels == 1]
    if len(attends) != levels:
        raise ConfigError(f"unet.attention_levels has {len(attends)} entries, unet.channels {levels}; give as many")
    odd = [c for c in config.channels if c % config.norm_groups or c % config.heads]
    if odd:
        raise ConfigError(
            f"unet.channels {odd} cannot be divided by norm_groups {config.norm_groups} and heads {config.heads}"
        )
    down = ["CrossAttnDownBlock2D" if attend else "DownBlock2D" for attend in attends]
    up = ["CrossAttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)]
    return {
        "sample_size": sample_size,
        "in_channels": inputs,
        "out_channels": outputs,
        "down_block_types": tuple(down),
        "up_block_types": tuple(up),
        "block_out_channels": tuple(config.channels),
        "layers_per_block": config.layers_per_level,
        "cross_attention_dim": text_dim,
        "attention_head_dim": config.heads,  # diffusers' name for the number of heads
        "norm_num_groups": config.norm_groups,
    }


def _load(config: UNet) -> UNet2DConditionModel:
    if not config.source:
        raise ConfigError(f"unet.init={config.init} needs unet.source: a folder or hub id that holds a UNet")
    return load_pretrained(UNet2DConditionModel, "unet", config.source, config.subfolder, config.revision)


@torch.no_grad()
def widen(unet: UNet2DConditionModel, inputs: int, outputs: int) -> UNet2DConditionModel:
    """Give a UNet further input and output channels, in place; return it.

    All new weights are zero: the old output channels keep their function of the old input channels, and the new
    ones start by predicting the mean. Raises ConfigError when channels would be lost.
    """
    first, last = unet.conv_in, unet.conv_out
    if inputs < first.in_channels or outputs < last.out_channels:
        raise ConfigError(
            f"the source UNet has {first.in_channels} input and {last.out_channels} output channels, the model needs "
            f"{inputs} and {outputs}: channels can be added, not taken away. Use unet.init=scratch"
        )
    unet.conv_in = _widened(first, inputs, first.out_channels)
    unet.conv_out = _widened(last, last.in_channels, outputs)
    unet.register_to_config(in_channels=inputs, out_channels=outputs)
    return unet


def _widened(conv: torch.nn.Conv2d, inputs: int, outputs: int) -> torch.nn.Conv2d:
    """Return a convolution whose leading channels are ``conv``'s, and whose other weights and biases are zero."""
    wide = torch.nn.Conv2d(inputs, outputs, conv.kernel_size[0], padding=conv.padding[0]).to(conv.weight)
    old = dict(conv.named_parameters())
    for name, new in wide.named_parameters():
        new.zero_()
        new[tuple(slice(n) for n in old[name].shape)] = old[name]
    return wide


def make_scheduler(config: Noise) -> DDIMScheduler | FlowMatchEulerDiscreteScheduler:
    """Return the noise schedule, for training and for sampling.

    epsilon and v: DDIM with Stable Diffusion's scaled-linear variances. flow: rectified flow, sampled by Euler steps.
    Raises ConfigError for zero_terminal_snr with epsilon: the last step would ask for noise from noise.
    """
    if config.prediction == "flow":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=config.steps, shift=config.shift)
    if config.zero_terminal_snr and config.prediction != "v":
        raise ConfigError("noise.zero_terminal_snr needs noise.prediction=v: at the last step x is pure noise")
    return DDIMScheduler(
        num_train_timesteps=config.steps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction" if config.prediction == "v" else "epsilon",
        clip_sample=False,
        set_alpha_to_one=config.zero_terminal_snr,
        steps_offset=0 if config.zero_terminal_snr else 1,
        timestep_spacing="trailing" if config.zero_terminal_snr else "leading",
        rescale_betas_zero_snr=config.zero_terminal_snr,
    )


def condition_channels(latent_channels: int) -> int:
    """Return how many input channels given layers take: their latents, and one channel for each layer."""
    return latent_channels + LAYERS


def conditioning(latents: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """Return the input channels that tell the UNet about given layers.

    latents [N, C, h, w]: of the layers with those not given blanked (see ``blank``), normalised as the noisy ones;
    given bool [N, 3]: F, B, m. Returns [N, C + 3, h, w]; where nothing is given all of it is zero, which is the
    unconditional model.
    """
    n, _, h, w = latents.shape
    flags = given.to(latents)[:, :, None, None].expand(n, LAYERS, h, w)
    known = latents * given.any(1).to(latents)[:, None, None, None]
    return torch.cat([known, flags], 1)


def blank(layers: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """Return layers with those not given set to the middle of their range.

    layers [N, 7, H, W]: F and B in -1..1, m in 0..1, as the autoencoder takes them; given bool [N, 3].
    """
    keep = torch.repeat_interleave(given, torch.tensor([3, 3, 1], device=given.device), dim=1)[:, :, None, None]
    middle = layers.new_tensor([0.0] * 6 + [0.5])[None, :, None, None]
    return torch.where(keep, layers, middle)


def draw_given(n: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Draw what is given in training, bool [n, 3]: nothing in half of the samples, else B, or F and m, or m alone.

    These are the questions users ask: a new background for a cut-out, a new object for a scene, a shape to fill.
    """
    cases = torch.tensor([[0, 0, 0]] * 3 + [[0, 1, 0], [1, 0, 1], [0, 0, 1]], dtype=torch.bool)
    return cases[torch.randint(len(cases), (n,), generator=generator)]
