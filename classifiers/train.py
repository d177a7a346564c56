"""Training of the judges' heads: ``python -m classifiers.train --data FOLDER --out l2i_builder/heads``.

Reads the labelled features that ``classifiers.bootstrap`` wrote; takes seconds. The backbone stays frozen (paper,
section 3). A head is an average of small networks from different starts, folded into one; temperature and
threshold come from groups kept out of the training, the card's figures from the test side of the split.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from classifiers import metrics
from classifiers.features import Labelled
from l2i_builder.judge import CLIP, Head
from l2i_builder.sample import key_fraction
from l2i_builder.weights import file_sha256

HELD_OUT = 0.25  # share of training groups that set temperature and threshold


@dataclass(frozen=True)
class Recipe:
    """How a head is trained. ``hidden`` units a member (0: one neuron on the features), ``members`` averaged."""

    hidden: int
    members: int
    epochs: int
    rate: float
    decay: float
    dropout: float
    precision: float  # that the threshold aims at, on held-out groups


PLAIN = Recipe(hidden=0, members=1, epochs=100, rate=3e-3, decay=1e-2, dropout=0.0, precision=0.9)  # paper: 100 epochs
RICH = Recipe(hidden=16, members=4, epochs=60, rate=3e-3, decay=3e-2, dropout=0.2, precision=0.75)


def train(data: Labelled, family: str, recipe: Recipe, seed: int = 0) -> tuple[dict[str, np.ndarray], float]:
    """Return (tensors of a head, threshold), trained on the training side of the split only."""
    vectors = data.vectors[family]
    held = ~data.test & np.array([key_fraction(group, "held-out") < HELD_OUT for group in data.group])
    fit = ~data.test & ~held
    centre = vectors[fit].mean(axis=0)
    scale = np.maximum(vectors[fit].std(axis=0), 1e-3).astype(np.float32)
    inputs = np.clip((vectors - centre) / scale, -CLIP, CLIP).astype(np.float32)
    members = [_member(inputs[fit], data.quality[fit], recipe, seed + k) for k in range(recipe.members)]
    tensors = {"centre": centre.astype(np.float32), "scale": scale, **_folded(members)}
    tensors["temperature"] = np.float32(1)
    logits = _logits(tensors, vectors[held])
    tensors["temperature"] = np.float32(_temperature(logits, data.quality[held]))
    scores = 1 / (1 + np.exp(-logits / tensors["temperature"]))
    threshold = metrics.threshold_for(scores, data.quality[held], recipe.precision)
    return tensors, round(float(np.clip(threshold, 0.05, 0.95)), 3)


def _member(inputs: np.ndarray, quality: np.ndarray, recipe: Recipe, seed: int) -> dict[str, np.ndarray]:
    """Train one network with soft labels, binary cross-entropy, AdamW and a cosine schedule."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    x, y = torch.from_numpy(inputs), torch.from_numpy(quality)
    dim = x.shape[1]
    layers = [nn.Linear(dim, recipe.hidden), nn.ReLU(), nn.Dropout(recipe.dropout)] if recipe.hidden else []
    model = nn.Sequential(nn.Dropout(recipe.dropout / 2), *layers, nn.Linear(recipe.hidden or dim, 1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    batches = max(1, len(x) // 128)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs * batches)
    for _ in range(recipe.epochs):
        for batch in torch.randperm(len(x)).chunk(batches):
            loss = nn.functional.binary_cross_entropy_with_logits(model(x[batch])[:, 0], y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    linear = [layer for layer in model if isinstance(layer, nn.Linear)]
    tensors = {"w2": linear[-1].weight.detach().numpy()[0], "b2": linear[-1].bias.detach().numpy()[0]}
    if recipe.hidden:
        tensors |= {"w1": linear[0].weight.detach().numpy(), "b1": linear[0].bias.detach().numpy()}
    return tensors


def _folded(members: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return one network whose logit is the mean of the members' logits."""
    out = {"b2": np.mean([m["b2"] for m in members], axis=0)}
    if "w1" not in members[0]:
        return out | {"w2": np.mean([m["w2"] for m in members], axis=0)}
    return out | {
        "w1": np.concatenate([m["w1"] for m in members]),
        "b1": np.concatenate([m["b1"] for m in members]),
        "w2": np.concatenate([m["w2"] for m in members]) / np.float32(len(members)),
    }


def _logits(tensors: dict[str, np.ndarray], vectors: np.ndarray) -> np.ndarray:
    scores = Head({"name": "", "dim": vectors.shape[1]}, tensors, "").predict(vectors).astype(np.float64)
    return np.log(scores / (1 - scores))


def _temperature(logits: np.ndarray, quality: np.ndarray) -> float:
    """Return the temperature with the least cross-entropy, from a fine grid."""
    grid = np.exp(np.linspace(np.log(0.3), np.log(5), 120))
    losses = [np.mean(np.logaddexp(0, logits / t) - quality * logits / t) for t in grid]
    return float(grid[int(np.argmin(losses))])


def figures(scores: np.ndarray, data: Labelled, threshold: float) -> dict[str, Any]:
    """Return the card's figures on the test side, each as [value, low, high] with 95 % bootstrap intervals."""
    side = data.test
    s, q, groups = scores[side], data.quality[side], data.group[side]
    good = q >= 0.5

    def with_interval(measure: metrics.Measure) -> list[float]:
        return [round(v, 4) for v in (measure(np.arange(len(s))), *metrics.interval(measure, groups))]

    return {
        "samples": int(side.sum()),
        "good": int(good.sum()),
        "auc": with_interval(lambda i: metrics.auc(s[i], good[i])),
        "spearman": with_interval(lambda i: metrics.spearman(s[i], q[i])),
        "precision": with_interval(lambda i: metrics.precision_yield(s[i], q[i], threshold)[0]),
        "yield": with_interval(lambda i: metrics.precision_yield(s[i], q[i], threshold)[1]),
        "calibration error": with_interval(lambda i: metrics.expected_calibration_error(s[i], q[i])),
        "mean score by kind": {
            str(kind): [
                round(float(x), 3) for x in (s[data.kind[side] == kind].mean(), q[data.kind[side] == kind].mean())
            ]
            for kind in np.unique(data.kind[side])
        },
    }


def write_head(
    folder: Path, name: str, task: str, family: str, data: Labelled, recipe: Recipe, weights: str = "", seed: int = 0
) -> dict[str, Any]:
    """Train a head, write ``name.safetensors`` and its card ``name.json`` into a folder, and return the card.

    ``weights``: name, source or path of the backbone's weights where they are not the model's own in the registry.
    """
    from safetensors.numpy import save_file

    tensors, threshold = train(data, family, recipe, seed)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    save_file({key: np.asarray(value, np.float32) for key, value in tensors.items()}, path)
    path.chmod(0o644)  # safetensors writes for its owner alone
    backbone = {"name": data.facts["backbone"], "weights": weights, "sha256": data.facts["backbone sha256"]}
    card = {
        "name": name,
        "task": task,
        "features": family,
        "dim": int(data.vectors[family].shape[1]),
        "threshold": threshold,
        "backbone": backbone,
        "sha256": file_sha256(path),
        "recipe": {**vars(recipe), "seed": seed},
        "data": {
            "made by": "python -m classifiers.bootstrap",
            **{key: value for key, value in data.facts.items() if not key.startswith("backbone")},
            "training samples": int((~data.test).sum()),
            "split": "by source picture: none serves both training and test",
        },
        "test": figures(
            Head({"name": name, "dim": len(tensors["centre"])}, tensors, "").predict(data.vectors[family]),
            data,
            threshold,
        ),
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return card


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m classifiers.train", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with mask.npz and inpainting.npz")
    parser.add_argument("--out", type=Path, required=True, help="folder for the heads and their cards")
    parser.add_argument("--tag", default="v1", help="heads are called mask-TAG and inpainting-TAG")
    parser.add_argument("--plain", action="store_true", help="the paper's form: one neuron on pooled features")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    for task in ("mask", "inpainting"):
        data = Labelled.load(args.data / f"{task}.npz")
        family, recipe = (f"{task}-plain", PLAIN) if args.plain else (f"{task}-rich", RICH)
        card = write_head(args.out, f"{task}-{args.tag}", task, family, data, recipe, seed=args.seed)
        shown = {key: card["test"][key] for key in ("samples", "auc", "spearman", "precision", "yield")}
        print(card["name"], "threshold", card["threshold"], *(f"{k} {v}" for k, v in shown.items()))  # noqa: T201


if __name__ == "__main__":
    main()
