"""Training of the judges' heads: ``python -m classifiers.train --data FOLDER --out l2i_builder/judge/heads``.

Reads the labelled features that ``classifiers.bootstrap`` wrote; takes seconds. The backbone stays frozen (paper,
section 3). A head is an average of small networks from different starts, folded into one; temperature and
threshold come from cross-validation, the card's figures from the test side of the split.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.features import Labelled
from l2i_builder import metrics
from l2i_builder.judge.judges import CLIP, Head
from l2i_builder.sample import key_fraction
from l2i_builder.weights.registry import file_sha256

FOLDS = 5
# What the pipeline itself makes: thresholds are for these, whatever else the training set holds.
PRECISION = {"mask": 0.9, "inpainting": 0.8}
FIELD = {"mask": ("u2net", "u2netp"), "inpainting": ("patchmatch",)}


@dataclass(frozen=True)
class Recipe:
    """How a head is trained. ``hidden`` units a member (0: one neuron on the features), ``members`` averaged."""

    hidden: int
    members: int
    epochs: int
    rate: float
    decay: float
    dropout: float


PLAIN = Recipe(hidden=0, members=1, epochs=100, rate=3e-3, decay=1e-2, dropout=0.0)  # paper: 100 epochs
RICH = Recipe(hidden=32, members=8, epochs=60, rate=3e-3, decay=0.5, dropout=0.5)


def train(
    data: Labelled, task: str, family: str, recipe: Recipe, precision: float, seed: int = 0
) -> tuple[dict[str, np.ndarray], float]:
    """Return (tensors of a head, threshold), from the training side of the split only.

    Temperature and threshold come from cross-validation by photograph: every sample is scored by a head that has
    not seen its photograph. ``precision``: mean quality wanted of what is kept, of what the pipeline itself makes.
    """
    vectors, quality = data.vectors[family][~data.test], data.quality[~data.test]
    fold = np.array([int(key_fraction(source, "fold") * FOLDS) for source in data.source[~data.test]])
    logits = np.zeros(len(vectors))
    for k in np.unique(fold):
        part = _fit(vectors[fold != k], quality[fold != k], recipe, seed)
        logits[fold == k] = _logits(part, vectors[fold == k])
    tensors = _fit(vectors, quality, recipe, seed)
    tensors["temperature"] = np.asarray(_temperature(logits, quality), np.float32)
    field = np.isin(data.kind[~data.test], FIELD[task])
    scores = 1 / (1 + np.exp(-logits / tensors["temperature"]))
    threshold = metrics.threshold_for(scores[field], quality[field], precision) if field.any() else 0.5
    return tensors, round(float(np.clip(threshold, 0.05, 0.95)), 3)


def _fit(vectors: np.ndarray, quality: np.ndarray, recipe: Recipe, seed: int) -> dict[str, np.ndarray]:
    """Return a head's tensors, at temperature 1."""
    centre = vectors.mean(axis=0)
    scale = np.maximum(vectors.std(axis=0), 1e-3).astype(np.float32)
    inputs = np.clip((vectors - centre) / scale, -CLIP, CLIP).astype(np.float32)
    members = [_member(inputs, quality, recipe, seed + k) for k in range(recipe.members)]
    return {
        "centre": centre.astype(np.float32),
        "scale": scale,
        "temperature": np.ones((), np.float32),
        **_folded(members),
    }


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


def figures(scores: np.ndarray, data: Labelled, task: str, threshold: float) -> dict[str, Any]:
    """Return the card's figures on the test side, each as [value, low, high] with 95 % bootstrap intervals.

    Over all samples: AUC, Spearman with the label, calibration error. Over what the pipeline itself makes, at the
    threshold: precision (mean quality of what is kept) and yield (share kept).
    """
    side = data.test
    s, q, kinds, sources = (a[side] for a in (scores, data.quality, data.kind, data.source))
    good, field = q >= 0.5, np.isin(kinds, FIELD[task])

    def with_interval(measure: metrics.Measure, where: np.ndarray) -> list[float]:
        chosen = np.flatnonzero(where)
        values = (measure(chosen), *metrics.interval(lambda i: measure(chosen[i]), sources[chosen]))
        return [round(value, 4) for value in values]

    everything = np.ones(len(s), bool)
    return {
        "samples": len(s),
        "good": int(good.sum()),
        "auc": with_interval(lambda i: metrics.auc(s[i], good[i]), everything),
        "spearman": with_interval(lambda i: metrics.spearman(s[i], q[i]), everything),
        "calibration error": with_interval(lambda i: metrics.expected_calibration_error(s[i], q[i]), everything),
        "field samples": int(field.sum()),
        "field auc": with_interval(lambda i: metrics.auc(s[i], good[i]), field),
        "field precision": with_interval(lambda i: metrics.precision_yield(s[i], q[i], threshold)[0], field),
        "field yield": with_interval(lambda i: metrics.precision_yield(s[i], q[i], threshold)[1], field),
        "mean score and label by kind": {
            str(kind): [round(float(x[kinds == kind].mean()), 3) for x in (s, q)] for kind in np.unique(kinds)
        },
    }


def write_head(
    folder: Path, name: str, data: Labelled, recipe: Recipe, family: str, *, weights: str = "", seed: int = 0
) -> dict[str, Any]:
    """Train a head, write ``name.safetensors`` and its card ``name.json`` into a folder, and return the card.

    ``weights``: name, source or path of the backbone's weights where they are not the model's own in the registry.
    """
    from safetensors.numpy import save_file

    task = family.partition("-")[0]
    tensors, threshold = train(data, task, family, recipe, PRECISION[task], seed)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.safetensors"
    save_file({key: np.asarray(value, np.float32) for key, value in tensors.items()}, path)
    path.chmod(0o644)  # safetensors writes for its owner alone
    card = {
        "name": name,
        "task": task,
        "features": family,
        "dim": int(data.vectors[family].shape[1]),
        "threshold": threshold,
        "backbone": {"name": data.facts["backbone"], "weights": weights, "sha256": data.facts["backbone sha256"]},
        "sha256": file_sha256(path),
        "recipe": {**vars(recipe), "seed": seed, "precision aimed at": PRECISION[task]},
        "data": {
            "made by": "python -m classifiers.bootstrap",
            **{key: value for key, value in data.facts.items() if not key.startswith("backbone")},
            "training samples": int((~data.test).sum()),
            "split": "by source picture: none serves both training and test",
        },
    }
    scores = Head(card, tensors, "").predict(data.vectors[family])
    card["test"] = figures(scores, data, task, threshold)
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
        card = write_head(args.out, f"{task}-{args.tag}", data, recipe, family, seed=args.seed)
        shown = {key: card["test"][key] for key in ("samples", "auc", "field auc", "field precision", "field yield")}
        print(card["name"], "threshold", card["threshold"], *(f"{k} {v}" for k, v in shown.items()))  # noqa: T201


if __name__ == "__main__":
    main()
