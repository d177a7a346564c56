"""Toy shards and tiny models for tests of the trainers."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from rich.console import Console

from model.config import ModelConfig
from model.toy_scenes import write_run

SIZE = 16
TINY_AUTOENCODER: dict[str, Any] = {
    "channels": [8, 8],
    "patch": 2,
    "latent_channels": 4,
    "norm_groups": 4,
    "layers_per_block": 1,
    "mid_attention": False,
}


def toy_shards(folder: Path, samples: int = 60, per_shard: int = 20) -> str:
    """Write a finished run of 16-pixel scenes with uneven shards; return where."""
    out = str(folder / "shards")
    write_run(out, samples, SIZE, per_shard=per_shard)
    return out


def tiny_config(shards: str, out: Path | str, **sections: dict[str, Any]) -> ModelConfig:
    """A configuration of models that train in milliseconds; ``sections`` are merged into its own."""
    short = {"learning_rate": 1e-3, "warmup": 2, "ema": 0.9, "log_every": 1, "trackers": []}
    tree: dict[str, Any] = {
        "data": {"shards": shards, "size": SIZE, "workers": 0, "shuffle": 8, "holdout": 0.1},
        "autoencoder": dict(TINY_AUTOENCODER),
        "losses": {
            "perceptual": "none",
            "adversarial_start": 2,
            "discriminator_channels": 8,
            "discriminator_layers": 1,
        },
        "train_autoencoder": short | {"steps": 4, "batch": 4, "validate_samples": 4},
        "unet": {"channels": [16, 16], "heads": 2, "norm_groups": 4, "layers_per_level": 1},
        "noise": {"prediction": "v", "zero_terminal_snr": True},
        "text": {"encoder": "words", "length": 12, "width": 16, "heads": 2, "layers": 1},
        "diffusion": {"sample_steps": 2, "guidance": 3.0},
        "train_diffusion": short | {"steps": 4, "batch": 4, "validate_samples": 4},
    }
    for name, values in sections.items():
        tree[name] = tree.get(name, {}) | values
    return ModelConfig.model_validate(tree | {"out": str(out)})


def quiet() -> Console:
    """A console whose text ends in ``.file``."""
    return Console(file=io.StringIO(), width=200)
