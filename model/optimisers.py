"""Optimisers and their learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from l2i_builder.errors import ConfigError
from model.config import Training


def make_optimiser(model: nn.Module, config: Training) -> torch.optim.Optimizer:
    """Return AdamW over the trained parameters, its state in 8 bits where asked. Raises ConfigError without it."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    options: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": config.betas,
        "weight_decay": config.weight_decay,
    }
    if config.optimiser == "adamw":
        return torch.optim.AdamW(parameters, **options)
    try:
        import bitsandbytes
    except ImportError as error:
        raise ConfigError("optimiser adamw8bit needs the package bitsandbytes; install it, or use adamw") from error
    return bitsandbytes.optim.AdamW8bit(parameters, **options)


def learning_rate_factor(step: int, config: Training) -> float:
    """Return the share of the learning rate at a step (0-based): linear warm-up, then constant or half a cosine."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    done = (step - config.warmup) / max(config.steps - config.warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
