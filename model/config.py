"""The configuration of both trainers: one YAML file or named preset, and dotted overrides.

Defaults are the paper's where it states a value; where it does not, the description says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from l2i_builder.config import Count, Fraction, Positive, Section, how
from l2i_builder.configfile import load
from l2i_builder.errors import ConfigError
from model.denoiser_config import Noise, Text, UNet

PRESETS = Path(__file__).parent / "presets"
Weight = Annotated[float, Field(ge=0)]


def _true(value: Any) -> Any:
    """Return "true" for YAML's true: here it is a word."""
    return "true" if value is True else value


class Data(Section):
    """What is read. Every draw depends on seed, epoch and the sample's key alone."""

    shards: str = how("", "a run or published folder, its split behind a #; a tar or glob of tars; several with commas")
    validation: str = how("", "the same, for validation; empty = the held-out share of the keys of `shards`")
    holdout: Fraction = Field(0.01, description="share of the keys of `shards`, by hash, kept for validation")
    latents: str = how("", "folder of cached latents (`l2i cache-latents`); the diffusion model then trains from them")
    min_mask_score: float = Field(-1.0, ge=-1, le=1, description="only samples the mask judge scored so; -1 = all")
    min_inpainting_score: float = Field(-1.0, ge=-1, le=1, description="the same for the inpainting judge")
    size: Positive = Field(256, description="side in pixels at which layers are trained on (paper: 256, then 512)")
    foreground: Literal["cut", "stored", "padded"] = Field(
        "cut",
        description="cut (paper): I where m > 0.1, `fill` elsewhere, cut at the training size · stored: the stored "
        "PNG, resized · padded: the colours of the edge continued, so that edited masks show no halo",
    )
    fill: tuple[int, int, int] = Field((0, 0, 0), description="cut: F elsewhere (paper: not stated)")
    crop: float = Field(1.0, gt=0, le=1, description="smallest side of a random square crop, as a share; 1 = no crop")
    flip: bool = Field(True, description="mirror half of the samples; all members alike")
    shuffle: Count = Field(1000, description="samples in each worker's shuffle buffer, as stored bytes; 0 = none")
    workers: Count = how(4, "loader processes for each trainer process")


class Autoencoder(Section):
    kind: Literal["layers", "separate", "image"] = Field(
        "layers",
        description="layers: CaT2I-AE · separate, image: the baselines SD-AE-UNet and SD-LAION-L2I over the RGB "
        "autoencoder at source; separate without a source is trained, and can be the source of image",
    )
    init: Literal["scratch", "rgb", "resume"] = Field(
        "scratch",
        description="scratch (paper) · rgb: inflated from an RGB autoencoder · resume: from one of this project",
    )
    source: str = Field("", description="for all but scratch, and for the baselines: folder or hub id")
    subfolder: str = Field("", description="where in source the autoencoder lies (Stable Diffusion: vae)")
    revision: str = Field("", description="for a hub id: the commit to load")
    channels: list[Positive] = Field([128, 256, 512, 512], min_length=1, description="of each resolution")
    layers_per_block: Positive = Field(2, description="residual blocks a resolution")
    latent_channels: Positive = Field(4, description="channels of the latent (Stable Diffusion: 4)")
    norm_groups: Positive = Field(32, description="groups of the group norms")
    mid_attention: bool = Field(True, description="self-attention at the lowest resolution")
    patch: Positive = Field(1, description="side of pixel patches folded into channels; 1 = none (paper)")
    head_norm: Literal["batch", "group"] = Field("batch", description="norm of the heads (paper: batch)")
    head_type: Literal["plain", "residual"] = Field("plain", description="of the heads (paper: plain; rgb: residual)")
    image_head: bool = Field(True, description="auxiliary head for the image I; false: the paper's no-sup")


class Losses(Section):
    """L = L_img(F, B, I) + mask * L_mask (paper, section 4.1), every term a mean over pixels."""

    l1: Weight = Field(1.0, description="weight of the l1 distance of F, B and I")
    perceptual: str = Field("lpips", description="lpips: VGG16 · none · file of VGG16's weights (torchvision's names)")
    perceptual_weight: Weight = Field(1.0, description="weight of the perceptual distance of F, B and I")
    weighting: Literal["uniform", "area"] = Field(
        "uniform", description="l1 of F and I: uniform (paper) · area: half of the weight inside m > 0.1"
    )
    kl: Weight = Field(1e-6, description="of the posterior, as latent diffusion counts it: sums over pixels")
    adversarial: Weight = Field(0.5, description="weight of the discriminators (paper: not stated); 0 = none")
    adversarial_start: Count = Field(50_001, description="step at which they begin (paper: not stated)")
    discriminator_channels: Positive = Field(64, description="first channels of a PatchGAN discriminator")
    discriminator_layers: Positive = Field(3, description="halvings in a discriminator")
    mask: Weight = Field(1.0, description="lambda, weight of the whole mask loss")
    composition: Weight = Field(2.0, description="weight of the composition loss in the mask loss")
    laplacian: Weight = Field(3.0, description="weight of the Laplacian loss in the mask loss")
    composition_layers: Annotated[Literal["true", "decoded"], BeforeValidator(_true)] = Field(
        "true", description="layers that the predicted mask composes (paper: not stated)"
    )


class Diffusion(Section):
    autoencoder: str = how("", "folder of the trained autoencoder; empty = `autoencoder` in the output folder")
    min_snr: Weight = Field(0.0, description="gamma of min-SNR weighting (5 is usual); 0 = none (paper)")
    sample_steps: Positive = how(50, "sampling steps of the pictures a validation shows (paper: 50)")
    guidance: Weight = how(7.5, "guidance of these pictures (paper: 7.5)")


class Training(Section):
    """How a model is trained. The paper states steps only."""

    steps: Positive = how(250_000, "optimiser steps; more than before continues a run")
    batch: Positive = Field(8, description="samples of a forward pass and process")
    accumulate: Positive = Field(1, description="forward passes of an optimiser step")
    learning_rate: Annotated[float, Field(gt=0)] = Field(1e-4, description="at its highest")
    warmup: Count = Field(1000, description="steps of linear warm-up")
    schedule: Literal["constant", "cosine"] = Field("constant", description="after the warm-up; cosine ends at 0")
    optimiser: Literal["adamw", "adamw8bit"] = Field("adamw", description="adamw8bit needs bitsandbytes and a GPU")
    betas: tuple[float, float] = Field((0.9, 0.999), description="of Adam")
    weight_decay: Weight = Field(0.01, description="of AdamW")
    clip: Weight = Field(1.0, description="largest norm of the gradient; 0 = any")
    ema: Fraction = Field(0.9999, description="decay of the averaged weights, which are what is saved; 0 = none")
    precision: Literal["no", "bf16", "fp16"] = Field("no", description="autocast; the weights themselves stay float32")
    gradient_checkpointing: bool = Field(False, description="less memory, more time")
    compile: str = Field("", description="torch.compile's backend, e.g. inductor; empty = not compiled")
    nan_patience: Positive = Field(20, description="steps without finite gradients, one after another, that end a run")
    log_every: Positive = how(50, "steps between figures in the log")
    validate_every: Count = how(5000, "steps between validations; 0 = only at the end")
    validate_samples: Positive = how(64, "samples of a validation")
    checkpoint_every: Count = how(5000, "steps between checkpoints; one is written at the end, too")
    keep_checkpoints: Positive = how(2, "the latest so many are kept")
    trackers: list[Literal["tensorboard", "wandb"]] = how(["tensorboard"], "beside metrics.jsonl, always written")
    project: str = how("text2layer", "project name in wandb")


class AutoencoderTraining(Training):
    betas: tuple[float, float] = Field((0.5, 0.9), description="of Adam, as latent diffusion (paper: not stated)")
    weight_decay: Weight = Field(0.0, description="of AdamW")


class DiffusionTraining(Training):
    steps: Positive = how(75_000, "optimiser steps; more than before continues a run")
    batch: Positive = Field(16, description="samples of a forward pass and process")


class ModelConfig(Section):
    """Both trainers' configuration; each reads its own sections."""

    out: str = how("", "folder for checkpoints, figures and the trained model; local")
    seed: int = Field(0, description="seed of everything random")
    data: Data = Data()
    autoencoder: Autoencoder = Autoencoder()
    losses: Losses = Losses()
    train_autoencoder: AutoencoderTraining = AutoencoderTraining()
    unet: UNet = UNet()
    noise: Noise = Noise()
    text: Text = Text()
    diffusion: Diffusion = Diffusion()
    train_diffusion: DiffusionTraining = DiffusionTraining()


def load_model_config(source: str | Path | None = None, overrides: Iterable[str] = (), **values: Any) -> ModelConfig:
    """Return the validated configuration of a preset's name or a YAML file, with dotted overrides.

    values: top-level keys that win over both (``out``). Raises ConfigError, naming the nearest key or preset.
    """
    if source and not Path(source).suffix and str(source) in presets():
        source = PRESETS / f"{source}.yaml"
    elif source and not Path(source).suffix and not Path(source).exists():
        raise ConfigError(f"no preset is called {source!r}; choose {', '.join(presets())}, or give a YAML file")
    return load(ModelConfig, source, overrides, **values)


def presets() -> list[str]:
    """Return the names of the presets that come with the project."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))
