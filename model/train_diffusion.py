"""Trains the diffusion model on the latents of an autoencoder, from shards or from latents cached once."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from l2i_builder import storage
from l2i_builder.errors import ConfigError, OutputError
from l2i_builder.output.manifest import identity, pretty
from l2i_builder.output.shards import write_tar
from l2i_builder.weights.registry import file_sha256
from model.config import ModelConfig
from model.data import LATENT, Loader, Place, training_selection, validation_batches
from model.diffusion_task import DiffusionTask, latent_side
from model.pixels import Batch, View, decode
from model.rgb_autoencoder import Autoencoder, load_autoencoder, rgb_autoencoder
from model.shard_selection import Shard
from model.shard_set import captions, find_shards, selected
from model.text import TextEncoder, make_text_encoder
from model.train_autoencoder import FOLDER
from model.training import Trainer, make_accelerator

CACHE = "latents.json"  # in a folder of cached latents: what they were made with


def train_diffusion(config: ModelConfig, console: Console) -> str:
    """Train by the configuration; return the folder of the pipeline (``Text2LayerPipeline``).

    Goes on from the latest checkpoint in ``config.out``. Raises ConfigError, OutputError, WeightsError,
    ``training.TrainingError``; KeyboardInterrupt when stopped.
    """
    training = config.train_diffusion
    accelerator = make_accelerator(training)
    torch.manual_seed(config.seed)
    autoencoder, digest = trained_autoencoder(config)
    if config.data.latents:
        _check_cache(config, digest)
    place = Place(accelerator.process_index, accelerator.num_processes, training.batch)
    loader = Loader(config.data, place, config.seed)
    settings = _settings(config, digest)
    task = DiffusionTask(config, autoencoder, text_encoder(config, loader), validation(config), settings)
    return Trainer(task, training, loader, accelerator, config.out, config.seed, console).run()


def trained_autoencoder(config: ModelConfig) -> tuple[Autoencoder, str]:
    """Return the autoencoder whose latents are modelled, and what identifies it: its weights' SHA-256.

    Raises WeightsError where there is none.
    """
    chosen = config.autoencoder
    if chosen.kind == "image" or (chosen.kind == "separate" and chosen.source):
        source = chosen.source or "CompVis/stable-diffusion-v1-4"
        version = f"@{chosen.revision}" if chosen.revision else ""
        autoencoder = rgb_autoencoder(chosen.kind, source, chosen.revision, chosen.subfolder)
        return autoencoder, f"{chosen.kind} {source}{version}"
    folder = Path(config.diffusion.autoencoder or storage.join(config.out, FOLDER)).expanduser()
    return load_autoencoder(folder), file_sha256(folder / "diffusion_pytorch_model.safetensors")


def text_encoder(config: ModelConfig, loader: Loader) -> TextEncoder:
    """Return the text encoder; "words" takes its vocabulary from the loader's captions."""
    texts: Iterator[str] = iter(())
    if config.text.encoder == "words":
        texts = captions(loader.shards, loader.selection)
    return make_text_encoder(config.text.encoder, texts, config.text)


def validation(config: ModelConfig) -> list[Batch]:
    """Return the validation batches; none where only cached latents are at hand."""
    if config.data.latents and not (config.data.shards or config.data.validation):
        return []
    return validation_batches(config.data, config.train_diffusion.validate_samples, config.train_diffusion.batch)


def cache_latents(config: ModelConfig, folder: str, console: Console) -> int:
    """Encode the training samples once, mirrored too where ``data.flip``; return how many the folder holds.

    Each shard gives one tar of ``{key}.latent.npy`` (posterior moments, float16) and ``{key}.txt``; finished ones are
    skipped, and processes of ``accelerate launch`` share the work. Raises ConfigError where ``data.crop`` is below 1.
    """
    if config.data.crop < 1:
        raise ConfigError("cached latents have one view of each sample; set data.crop=1")
    accelerator = make_accelerator(config.train_diffusion)
    autoencoder, digest = trained_autoencoder(config)
    latent_side(config, autoencoder)
    autoencoder.requires_grad_(False).eval().to(accelerator.device)
    selection = training_selection(config.data.model_copy(update={"latents": ""}))
    shards = find_shards(config.data.shards, selection)
    note = _cache_facts(config, digest)
    url = storage.join(folder, CACHE)
    if storage.exists(url) and json.loads(storage.read_bytes(url)) != note:
        raise ConfigError(f"{folder} holds latents made with other settings; cache into another folder")
    if accelerator.is_main_process:
        storage.write_bytes(url, pretty(note))
    finished = set(storage.list_names(folder, ".tar"))
    for number in range(accelerator.process_index, len(shards), accelerator.num_processes):
        name, shard = f"{number:05d}.tar", shards[number]
        if name not in finished:
            write_tar(_encoded(shard, selection, autoencoder, config, accelerator), storage.join(folder, name))
        console.print(f"{number + 1} of {len(shards)} shards cached, {shard.samples} samples in this one")
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        entries = [{"url": f"{i:05d}.tar", "nsamples": shard.samples} for i, shard in enumerate(shards)]
        index = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "name": "latents", "shardlist": entries}
        storage.write_bytes(storage.join(folder, "index.json"), pretty(index))
    return sum(shard.samples for shard in shards)


@torch.no_grad()
def _encoded(
    shard: Shard, selection: Any, autoencoder: Autoencoder, config: ModelConfig, accelerator: Any
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, members) of a shard's samples as latents."""
    size = config.train_diffusion.batch

    def encode(waiting: list[tuple[str, dict[str, bytes]]]) -> Iterator[tuple[str, dict[str, bytes]]]:
        views = [View(), View(mirrored=True)] if config.data.flip else [View()]
        moments = []
        for view in views:
            planes = np.stack([decode(key, members, config.data, view, shard.url) for key, members in waiting])
            layers = Batch([], [], torch.from_numpy(planes)).to(accelerator.device).layers()
            with accelerator.autocast():
                moments.append(autoencoder(layers, mode="encode").half().cpu().numpy())
        for slot, (key, members) in enumerate(waiting):
            buffer = io.BytesIO()
            np.save(buffer, np.stack([each[slot] for each in moments]))
            yield key, {LATENT: buffer.getvalue(), "txt": members["txt"]}

    waiting: list[tuple[str, dict[str, bytes]]] = []
    for sample in selected(shard, selection):
        waiting.append(sample)
        if len(waiting) == size:
            yield from encode(waiting)
            waiting = []
    if waiting:
        yield from encode(waiting)


def _cache_facts(config: ModelConfig, digest: str) -> dict[str, Any]:
    data = config.data
    return {"autoencoder": digest, "size": data.size, "foreground": data.foreground, "mirrored": data.flip}


def _check_cache(config: ModelConfig, digest: str) -> None:
    """Refuse latents that another autoencoder or other settings made: their numbers would fit and mean nothing."""
    if config.unet.conditional:
        raise ConfigError("unet.conditional encodes layers that are left out, so it cannot train from cached latents")
    url = storage.join(config.data.latents, CACHE)
    try:
        found = json.loads(storage.read_bytes(url))
    except ValueError as problem:
        raise OutputError(f"{url} is damaged ({problem}); cache the latents anew") from problem
    wanted = _cache_facts(config, digest)
    other = [
        f"{name} {found.get(name)!r} (wanted {value!r})" for name, value in wanted.items() if found.get(name) != value
    ]
    if other:
        raise ConfigError(f"the latents in {config.data.latents} were made with {', '.join(other)}; cache them anew")


def _settings(config: ModelConfig, digest: str) -> dict[str, Any]:
    """Return what two runs must agree in to share checkpoints."""
    sections = ("data", "unet", "noise", "text", "diffusion", "train_diffusion")
    return {"seed": config.seed, "autoencoder": digest, "cached": bool(config.data.latents)} | {
        name: identity(getattr(config, name)) for name in sections
    }
