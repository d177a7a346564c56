"""``l2i train-autoencoder``, ``l2i train-diffusion`` and ``l2i cache-latents``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from l2i_builder.commands import Overrides, console, log

if TYPE_CHECKING:
    from rich.console import Console

    from model.config import ModelConfig

Preset = Annotated[
    str | None,
    typer.Option("--config", "-c", help="Preset (paper, sd-inflated, modern ...) or YAML file.", show_default=False),
]
Shards = Annotated[str | None, typer.Option(help="A run, published folder (#train: its split), or tars; local or URL.")]
Out = Annotated[str | None, typer.Option(help="Folder for checkpoints and models; local.")]


def train_autoencoder(
    config: Preset = None, shards: Shards = None, out: Out = None, overrides: Overrides = None
) -> None:
    """Train CaT2I-AE on shards. Goes on from the latest checkpoint: run it again after a stop.

    On several GPUs: accelerate launch -m l2i_builder.cli train-autoencoder ...

    Example:

      l2i train-autoencoder -c paper --shards s3://me/l2i --out runs/text2layer --set train_autoencoder.precision=bf16
    """
    from model.train_autoencoder import train_autoencoder as train

    _train(train, config, shards, out, overrides)


def train_diffusion(config: Preset = None, shards: Shards = None, out: Out = None, overrides: Overrides = None) -> None:
    """Train the text-conditioned diffusion model on an autoencoder's latents. Goes on from the latest checkpoint.

    On several GPUs: accelerate launch -m l2i_builder.cli train-diffusion ...

    Example:

      l2i train-diffusion -c paper --shards s3://me/l2i --out runs/text2layer
    """
    from model.train_diffusion import train_diffusion as train

    _train(train, config, shards, out, overrides)


def cache_latents(
    to: Annotated[str, typer.Argument(help="Folder for the latents; local or URL.")],
    config: Preset = None,
    shards: Shards = None,
    out: Out = None,
    overrides: Overrides = None,
) -> None:
    """Encode the training samples once; train-diffusion --set data.latents=FOLDER then needs no pixels.

    Finished shards are skipped: run it again after a stop.
    """
    from model.train_diffusion import cache_latents as cache

    count = cache(_settings(config, shards, out, overrides), to, log)
    console.print(f"{count:,} samples cached in {to}", soft_wrap=True)


def _train(
    train: Callable[[ModelConfig, Console], str],
    config: str | None,
    shards: str | None,
    out: str | None,
    overrides: list[str] | None,
) -> None:
    try:
        saved = train(_settings(config, shards, out, overrides), log)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    if saved:  # the main process
        console.print(f"model  {saved}", soft_wrap=True)


def _settings(config: str | None, shards: str | None, out: str | None, overrides: list[str] | None) -> ModelConfig:
    from model.config import load_model_config

    given = [*(overrides or ()), *([f"data.shards={shards}"] if shards else ())]
    return load_model_config(config, given, out=out)
