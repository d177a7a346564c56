"""Trains CaT2I-AE (paper, section 4.1) on shards of layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from l2i_builder.errors import ConfigError
from l2i_builder.output.manifest import identity
from model.autoencoder import CaT2IAutoencoder, Layers, Reconstruction
from model.config import Autoencoder, ModelConfig
from model.data import Loader, Place, validation_batches
from model.draw import Draw
from model.evaluation.reconstruction import reconstruct
from model.losses import (
    Discriminators,
    Targets,
    adaptive_weight,
    decoded_images,
    discriminator_hinge,
    generator_hinge,
    kl,
    make_perceptual,
    mask_losses,
    reconstruction_losses,
)
from model.pixels import Batch
from model.pretrained import load_pretrained
from model.rgb_autoencoder import SeparateAutoencoder, scratch_autoencoder
from model.sheets import planes_of, sheet
from model.training import Trainer, make_accelerator

FOLDER = "autoencoder"  # of the trained model, in the output folder
SHOWN = 8  # samples of a validation picture
MEASURED = 1024  # training samples from which the latents' mean and deviation are taken


class AutoencoderTask:
    """The autoencoder and its discriminators, as ``training.Trainer`` takes them."""

    name = "autoencoder"
    saved = "autoencoder"

    def __init__(self, config: ModelConfig, perceptual: nn.Module | None = None) -> None:
        """perceptual: taken instead of what ``losses.perceptual`` names."""
        self.config = config
        self.model = make_autoencoder(config.autoencoder)
        if config.data.size % self.model.downscale:
            raise ConfigError(
                f"data.size {config.data.size} must be a multiple of the autoencoder's {self.model.downscale}"
            )
        self.models: dict[str, nn.Module] = {"autoencoder": self.model}
        self.discriminators: Discriminators | None = None
        if config.losses.adversarial:
            names = [name for name in self.model.heads if name != "mask"]
            self.discriminators = Discriminators(
                names, config.losses.discriminator_channels, config.losses.discriminator_layers
            )
            self.models["discriminators"] = self.discriminators
        self.perceptual = perceptual if perceptual is not None else make_perceptual(config.losses)
        sections = ("data", "autoencoder", "losses", "train_autoencoder")
        self.settings = {"seed": config.seed} | {name: identity(getattr(config, name)) for name in sections}
        training = config.train_autoencoder
        self.batches = validation_batches(config.data, training.validate_samples, training.batch)

    def prepare(self, accelerator: Any, wrapped: Mapping[str, nn.Module]) -> None:
        self.accelerator, self.wrapped = accelerator, wrapped
        if self.perceptual is not None:
            self.perceptual.to(accelerator.device)

    def losses(self, batch: Batch, draw: Draw, step: int) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """Yield the autoencoder's loss, then the discriminators' once they take part."""
        config = self.config.losses
        targets = Targets(batch.layers(), batch.image())
        side = self.config.data.size // self.model.downscale
        noise = draw.normal(len(batch), self.model.latent_channels, side, side)
        made: Reconstruction = self.wrapped["autoencoder"](targets.stacked, "reconstruct", noise)
        with self.accelerator.autocast():
            images = reconstruction_losses(made, targets, config, self.perceptual)
        masks = mask_losses(made, targets, config)
        divergence = kl(made.moments, 3 * self.config.data.size**2)
        total = sum(images.values()) + config.mask * sum(masks.values()) + config.kl * divergence
        figures = {f"loss_{name}": value.detach() for name, value in (images | masks).items()}
        figures["kl"] = divergence.detach()
        adversarial = self.discriminators is not None and step + 1 >= config.adversarial_start
        if adversarial:
            total = total + self._adversarial(made.layers, images, figures)
        figures["loss"] = total.detach()
        yield "autoencoder", total, figures
        if adversarial:
            yield self._discriminate(made.layers, targets)

    def _adversarial(self, made: Layers, images: Mapping[str, Tensor], figures: dict[str, Tensor]) -> Tensor:
        """Return the generator's adversarial loss, each head's with its adaptive weight."""
        assert self.discriminators is not None
        self.discriminators.requires_grad_(False)  # they learn from their own loss only
        with self.accelerator.autocast():
            logits = self.discriminators(decoded_images(made))
        self.discriminators.requires_grad_(True)
        total = torch.zeros((), device=made.mask.device)
        last = self.model.last_weights()
        for name, fake in logits.items():
            loss = generator_hinge(fake.float())
            weight = adaptive_weight(images[name], loss, last[name])
            if self.accelerator.num_processes > 1:
                weight = self.accelerator.reduce(weight, "mean")
            figures[f"adversarial_{name}"], figures[f"adaptive_weight_{name}"] = loss.detach(), weight
            total = total + self.config.losses.adversarial * weight * loss
        return total

    def _discriminate(self, made: Layers, targets: Targets) -> tuple[str, Tensor, dict[str, Tensor]]:
        fakes = {name: image.detach() for name, image in decoded_images(made).items()}
        both = {name: torch.cat([targets.images[name], fake]) for name, fake in fakes.items()}
        logits = self.wrapped["discriminators"](both)
        loss = sum(discriminator_hinge(*pair.float().chunk(2)) for pair in logits.values())
        assert isinstance(loss, Tensor)
        return "discriminators", loss, {"loss_discriminators": loss.detach()}

    def validate(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Return the means of ``reconstruct``'s measures, and true and decoded layers side by side."""
        samples = (pixels.numpy() for batch in self.batches for pixels in batch.pixels)
        figures = {name: float(values.mean()) for name, values in reconstruct(self.model, samples).items()}
        first = self.batches[0].to(self.accelerator.device)
        layers = first.layers()[:SHOWN]
        made = self.model.decode(self.model.encode(layers).mode())
        columns = planes_of(Targets(layers, first.image()[:SHOWN]).layers) + planes_of(made)
        return figures, {"reconstruction": sheet(columns)}

    def save(self, folder: Path) -> str:
        """Measure the latents on training samples and write the autoencoder to ``autoencoder`` in the folder."""
        self.model.eval()
        self.model.set_statistics(*latent_statistics(self.model, self.config, self.accelerator.device))
        self.model.save_pretrained(folder / FOLDER)
        self.model.train()
        return str(folder / FOLDER)


def train_autoencoder(config: ModelConfig, console: Console, perceptual: nn.Module | None = None) -> str:
    """Train by the configuration; return the folder of the trained autoencoder (``CaT2IAutoencoder``).

    Goes on from the latest checkpoint in ``config.out``. perceptual: taken instead of what ``losses.perceptual``
    names. Raises ConfigError, OutputError, WeightsError, ``training.TrainingError``; KeyboardInterrupt when stopped.
    """
    training = config.train_autoencoder
    chosen = config.autoencoder
    if chosen.kind == "image" or (chosen.kind == "separate" and chosen.source):
        raise ConfigError(f"autoencoder.kind {chosen.kind} takes its source as it is; run train-diffusion")
    accelerator = make_accelerator(training)
    torch.manual_seed(config.seed)
    place = Place(accelerator.process_index, accelerator.num_processes, training.batch)
    loader = Loader(config.data.model_copy(update={"latents": ""}), place, config.seed)
    task = AutoencoderTask(config, perceptual)
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(task.model.heads)  # batch norm sees the batches of all ranks
    return Trainer(task, training, loader, accelerator, config.out, config.seed, console).run()


def make_autoencoder(config: Autoencoder) -> CaT2IAutoencoder | SeparateAutoencoder:
    """Return the autoencoder to train: from scratch, inflated from an RGB one, or trained before.

    Kind "separate" without a source is SD-AE-UNet's RGB autoencoder where Stable Diffusion's does not fit.

    Raises WeightsError where the source cannot be loaded, ConfigError where it does not fit.
    """
    if config.kind == "separate":
        return scratch_autoencoder(config)
    if config.init == "scratch":
        return CaT2IAutoencoder(
            block_out_channels=tuple(config.channels),
            layers_per_block=config.layers_per_block,
            latent_channels=config.latent_channels,
            norm_num_groups=config.norm_groups,
            mid_attention=config.mid_attention,
            patch_size=config.patch,
            head_norm=config.head_norm,
            head_type=config.head_type,
            image_head=config.image_head,
        )
    from diffusers import AutoencoderKL

    kind = AutoencoderKL if config.init == "rgb" else CaT2IAutoencoder
    source = load_pretrained(kind, "autoencoder", config.source, config.subfolder, config.revision)
    if config.init == "resume":
        return source
    try:
        return CaT2IAutoencoder.from_rgb(source, config.latent_channels, config.head_norm, config.image_head)
    except ValueError as error:
        raise ConfigError(f"{error}; choose another autoencoder.source") from error


@torch.no_grad()
def latent_statistics(
    model: CaT2IAutoencoder | SeparateAutoencoder, config: ModelConfig, device: torch.device
) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel of the latents, from the first training samples."""
    batch = config.train_autoencoder.batch
    data = config.data.model_copy(update={"latents": "", "workers": 0})
    loader = Loader(data, Place(batch=batch), config.seed)
    count, total, squares = 0, torch.zeros(model.latent_channels), torch.zeros(model.latent_channels)
    for samples in islice(loader, min(-(-MEASURED // batch), loader.batches)):
        posterior = model.encode(samples.to(device).layers())
        mean, variance = posterior.mean.double().cpu(), posterior.var.double().cpu()
        count += mean.numel() // model.latent_channels
        total = total + mean.sum(dim=(0, 2, 3))
        squares = squares + (mean.square() + variance).sum(dim=(0, 2, 3))
    centre = total / count
    return centre.tolist(), (squares / count - centre.square()).clamp(min=1e-12).sqrt().tolist()
