"""One training step of CaT2I-AE-SD (paper, section 4.2) and of its baselines: noise in, prediction out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor, nn

from l2i_builder.errors import ConfigError
from model.autoencoder import Layers
from model.config import ModelConfig
from model.data import Place
from model.denoiser import blank, conditioning, draw_given, make_scheduler, make_unet
from model.draw import Draw
from model.pipeline import Text2LayerPipeline
from model.pixels import Batch
from model.rgb_autoencoder import Autoencoder
from model.sheets import planes_of, sheet
from model.text import TextEncoder

FOLDER = "pipeline"  # of the trained model, in the output folder
SHOWN = 8  # samples of a validation picture


class Denoiser(nn.Module):
    """UNet and text encoder as one module, so that DDP's hooks fire once; a frozen encoder stays in eval mode."""

    def __init__(self, unet: nn.Module, text_encoder: TextEncoder) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder
        self.text_trained = any(parameter.requires_grad for parameter in text_encoder.parameters())

    def forward(self, x: Tensor, steps: Tensor, tokens: Tensor) -> Tensor:
        """x [N, C, h, w], steps [N], tokens int64 [N, T] -> prediction [N, C, h, w]."""
        with torch.set_grad_enabled(self.text_trained and torch.is_grad_enabled()):
            states = self.text_encoder(tokens)
        prediction: Tensor = self.unet(x, steps, states).sample
        return prediction

    def train(self, mode: bool = True) -> Denoiser:
        super().train(mode)
        self.text_encoder.train(mode and self.text_trained)
        return self


class DiffusionTask:
    """The denoiser on the latents of a frozen autoencoder, as ``training.Trainer`` takes it."""

    name = "diffusion"
    saved = "denoiser"

    def __init__(
        self,
        config: ModelConfig,
        autoencoder: Autoencoder,
        text_encoder: TextEncoder,
        batches: Sequence[Batch],
        settings: dict[str, Any],
    ) -> None:
        """batches: for validation. Raises ConfigError where sizes or options do not fit."""
        self.config, self.batches, self.settings = config, batches, settings
        self.autoencoder = autoencoder.requires_grad_(False).eval()
        self.latent_side = latent_side(config, autoencoder)
        self.scheduler = make_scheduler(config.noise)
        if config.diffusion.min_snr and (config.noise.prediction == "flow" or config.noise.zero_terminal_snr):
            raise ConfigError(
                "diffusion.min_snr needs noise with a signal at every step: not prediction flow, and not "
                "zero_terminal_snr, whose last step it would give no weight"
            )
        channels = autoencoder.latent_channels
        unet = make_unet(config.unet, channels, text_encoder.dim, self.latent_side)
        self.model = Denoiser(unet, text_encoder)
        self.models: dict[str, nn.Module] = {"denoiser": self.model}

    def prepare(self, accelerator: Any, wrapped: Mapping[str, nn.Module]) -> None:
        self.accelerator, self.wrapped = accelerator, wrapped
        self.autoencoder.to(accelerator.device)

    def losses(self, batch: Batch, draw: Draw, step: int) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """Yield the denoiser's loss."""
        dropped = (draw.uniform(len(batch)) < self.config.noise.caption_dropout).tolist()
        captions = ["" if drop else caption for drop, caption in zip(dropped, batch.captions, strict=True)]
        loss = self._loss(self.wrapped["denoiser"], batch, captions, draw)
        yield "denoiser", loss, {"loss": loss.detach()}

    def _loss(self, denoiser: nn.Module, batch: Batch, captions: list[str], draw: Draw) -> Tensor:
        latents, channels = self.encode(batch, draw)
        noise = draw.normal(*latents.shape)
        noisy, steps, target, weight = diffuse(
            self.scheduler, latents, noise, draw.uniform(len(batch)), self.config.diffusion.min_snr
        )
        inputs = noisy if channels is None else torch.cat([noisy, channels], dim=1)
        tokens = self.model.text_encoder.tokens(captions).to(latents.device)
        error = (denoiser(inputs, steps, tokens).float() - target).square().mean(dim=(1, 2, 3))
        return (weight * error).mean()

    @torch.no_grad()
    def encode(self, batch: Batch, draw: Draw) -> tuple[Tensor, Tensor | None]:
        """Return normalised latents [N, C, h, w] of a batch, and the channels of given layers for a conditional UNet.

        Raises ConfigError where cached latents do not fit the autoencoder.
        """
        channels, side = self.autoencoder.latent_channels, self.latent_side
        noise = draw.normal(len(batch), channels, side, side)
        if batch.moments is not None:
            if batch.moments.shape[1:] != (2 * channels, side, side):
                raise ConfigError(
                    f"cached latents have moments {tuple(batch.moments.shape[1:])}, the autoencoder gives "
                    f"{(2 * channels, side, side)}; cache them anew with this configuration"
                )
            posterior = DiagonalGaussianDistribution(batch.moments.float())
            return self.autoencoder.normalise(posterior.mean + posterior.std * noise), None
        layers = batch.layers()
        with self.accelerator.autocast():
            moments = self.autoencoder(layers, mode="encode")
        posterior = DiagonalGaussianDistribution(moments.float())
        latents = self.autoencoder.normalise(posterior.mean + posterior.std * noise)
        if not self.config.unet.conditional:
            return latents, None
        given = draw.own(draw_given(len(batch) * draw.place.ranks, draw.cpu), len(batch)).to(layers.device)
        with self.accelerator.autocast():
            moments = self.autoencoder(blank(layers, given), mode="encode")
        known = self.autoencoder.normalise(DiagonalGaussianDistribution(moments.float()).mode())
        return latents, conditioning(known, given)

    def validate(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Return the loss with the same noise each time, and pictures of the first captions: true, then generated."""
        device, total, count = self.accelerator.device, 0.0, 0
        for number, batch in enumerate(self.batches):
            draw = Draw(self.config.seed, number, -1, Place(batch=len(batch)), device)
            loss = self._loss(self.model, batch.to(device), batch.captions, draw)
            total, count = total + float(loss) * len(batch), count + len(batch)
        figures = {"loss": total / count} if count else {}
        return figures, self._pictures() if self.batches else {}

    def _pictures(self) -> dict[str, np.ndarray]:
        first, settings = self.batches[0], self.config.diffusion
        prompts = first.captions[:SHOWN]
        generators = [torch.Generator().manual_seed(self.config.seed + i) for i in range(len(prompts))]
        pipeline = self.pipeline()
        pipeline.set_progress_bar_config(disable=True)
        made = pipeline(prompts, num_inference_steps=settings.sample_steps, guidance_scale=settings.guidance,
                        generator=generators)  # fmt: skip
        columns = [made.composite]
        if made.foreground is not None and made.background is not None and made.mask is not None:
            columns += [made.foreground, made.background, made.mask.expand(-1, 3, -1, -1)]
        true = first.layers()[:SHOWN]
        shown = (
            planes_of(Layers(true[:, :3], true[:, 3:6], true[:, 6:])) if len(columns) > 1 else [first.image()[:SHOWN]]
        )
        return {"samples": sheet(shown + [2 * column - 1 for column in columns])}

    def pipeline(self) -> Text2LayerPipeline:
        """Return the pipeline of the models as they are now."""
        return Text2LayerPipeline(self.autoencoder, self.model.unet, make_scheduler(self.config.noise),
                                  self.model.text_encoder)  # fmt: skip

    def save(self, folder: Path) -> str:
        """Write the whole pipeline to ``pipeline`` in the folder."""
        self.model.eval()
        self.pipeline().save_pretrained(folder / FOLDER)
        self.model.train()
        return str(folder / FOLDER)


def latent_side(config: ModelConfig, autoencoder: Autoencoder) -> int:
    """Return the side of the latents. Raises ConfigError where the UNet could not halve it often enough."""
    downscale = autoencoder.downscale
    unit = downscale * 2 ** (len(config.unet.channels) - 1)
    if config.data.size % unit:
        raise ConfigError(
            f"data.size {config.data.size} must be a multiple of {unit}: the autoencoder divides it by {downscale}, "
            f"the UNet's levels by {unit // downscale}"
        )
    return config.data.size // downscale


def diffuse(
    scheduler: DDIMScheduler | FlowMatchEulerDiscreteScheduler,
    latents: Tensor,
    noise: Tensor,
    uniform: Tensor,
    min_snr: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (noisy latents, steps [N], what to predict, loss weight [N]) for uniform numbers in 0..1 [N].

    epsilon: the noise (Ho et al. 2020). v: sqrt(a) noise - sqrt(1 - a) latents (Salimans and Ho 2022). flow: noise -
    latents at x = (1 - s) latents + s noise (Liu et al. 2023). Weights are 1, or min-SNR's (Hang et al. 2023).
    """
    index = (uniform * scheduler.config.num_train_timesteps).long().clamp(max=scheduler.config.num_train_timesteps - 1)
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        sigma = scheduler.sigmas.to(latents)[index].view(-1, 1, 1, 1)
        steps = scheduler.timesteps.to(latents)[index]
        return (1 - sigma) * latents + sigma * noise, steps, noise - latents, torch.ones_like(uniform)
    noisy = scheduler.add_noise(latents, noise, index)
    velocity = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(latents, noise, index) if velocity else noise
    return noisy, index, target, _weight(scheduler, index, min_snr, velocity) if min_snr else torch.ones_like(uniform)


def _weight(scheduler: DDIMScheduler, index: Tensor, gamma: float, velocity: bool) -> Tensor:
    alpha = scheduler.alphas_cumprod.to(index.device)[index]
    ratio = alpha / (1 - alpha)
    return ratio.clamp(max=gamma) / (ratio + 1 if velocity else ratio)
