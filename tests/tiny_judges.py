"""A tiny random backbone, heads for it, and synthetic samples: the judges' real code without real weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from l2i_builder import layers
from l2i_builder.judge.backbone import make_backbone
from l2i_builder.judge.judges import Extractor
from l2i_builder.weights.registry import file_sha256

BACKBONE = "test_efficientnet"  # timm's model for tests, 0.1 M parameters


def tiny_backbone(folder: Path, seed: int = 0) -> Path:
    """Write random weights of the tiny backbone and return their path."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    path = folder / f"backbone-{seed}.safetensors"
    save_file(timm.create_model(BACKBONE, pretrained=False, num_classes=0).state_dict(), path)
    return path


def samples(count: int, side: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return (images, masks, backgrounds, holes): discs of one colour on noise, soft masks of them."""
    rng = np.random.default_rng(0)
    backgrounds = rng.integers(0, 120, (count, side, side, 3), dtype=np.uint8)
    y, x = np.mgrid[:side, :side]
    images, masks = backgrounds.copy(), np.zeros((count, side, side), np.uint8)
    for i in range(count):
        radius, cy, cx = rng.integers(side // 8, side // 3), *rng.integers(side // 4, side * 3 // 4, 2)
        masks[i] = np.clip((radius - np.hypot(y - cy, x - cx)) * 80 + 128, 0, 255)
        images[i][masks[i] > 127] = rng.integers(120, 256, 3)
    holes = np.array([layers.hole(mask, 0.1, 9) for mask in masks], bool).reshape(count, side, side)
    return images, masks, backgrounds, holes


def tiny_head(folder: Path, name: str, task: str, family: str, weights: Path, threshold: float = 0.4) -> Path:
    """Write a random head for the tiny backbone and return its card's path."""
    from safetensors.numpy import save_file

    images, masks, backgrounds, holes = samples(4)
    arrays = (images, masks) if task == "mask" else (images, masks, backgrounds, holes)
    backbone = make_backbone(BACKBONE, weights=str(weights))
    features = Extractor(backbone, family)(*arrays)
    rng, dim, hidden = np.random.default_rng(0), features.shape[1], 4
    tensors = {
        "centre": features.mean(axis=0),
        "scale": features.std(axis=0) + 0.1,
        "w1": rng.normal(0, 1 / np.sqrt(dim), (hidden, dim)),
        "b1": np.zeros(hidden),
        "w2": rng.normal(0, 1, hidden),
        "b2": np.array(0.0),
        "temperature": np.array(1.5),
    }
    path = folder / f"{name}.safetensors"
    save_file({key: np.asarray(value, np.float32) for key, value in tensors.items()}, path)
    card = {
        "name": name,
        "task": task,
        "features": family,
        "dim": dim,
        "threshold": threshold,
        "backbone": {"name": BACKBONE, "weights": str(weights), "sha256": backbone.digest},
        "sha256": file_sha256(path),
    }
    path.with_suffix(".json").write_text(json.dumps(card))
    return path.with_suffix(".json")
