"""Training of the judges' heads, from labelled features; takes seconds. ``l2i train-filters`` calls it.

The backbone stays frozen (paper, section 3). A head is an average of small networks from different starts, folded
into one; temperature and threshold come from cross-validation, the card's figures from the test side of the split.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from classifiers.features import Labelled
from l2i_builder import metrics
from l2i_builder.errors import OutputError
from l2i_builder.judge.judges import CLIP, HEADS, Head
from l2i_builder.sample import key_fraction
from l2i_builder.weights.registry import file_sha256

FOLDS = 5
# What the pipeline itself makes: thresholds are for these, whatever else the training set holds.
PRECISION = {"mask": 0.9, "inpainting": 0.8}
FIELD = {"mask": ("u2net", "u2netp", "people"), "inpainting": ("patchmatch", "people")}


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
# What `l2i train-filters` makes: the families of the shipped heads, whose features runs keep, so that people's labels
# of rejected samples can be trained on and a new head can be applied to an old run.
FAMILY = {"mask": "mask-rich", "inpainting": "inpainting-rich"}
RECIPE = {"mask": RICH, "inpainting": RICH}


def train(
    data: Labelled, task: str, family: str, recipe: Recipe, precision: float, seed: int = 0
) -> tuple[dict[str, np.ndarray], float]:
    """Return (tensors of a head, threshold), from the training side of the split only.

    Temperature and threshold come from cross-validation by photograph: every sample is scored by a head that has
    not seen its photograph. ``precision``: mean quality wanted of what is kept, of what the pipeline itself makes.
    Samples count by their weight.
    """
    data = data.take(~data.test & (data.weight > 0))
    vectors, quality, weight = data.vectors[family], data.quality, data.weight
    logits = held_out(vectors, quality, weight, data.source, recipe, seed)
    tensors = fit(vectors, quality, weight, recipe, seed)
    tensors["temperature"] = np.asarray(_temperature(logits, quality, weight), np.float32)
    field = np.isin(data.kind, FIELD[task])
    scores = 1 / (1 + np.exp(-logits / tensors["temperature"]))
    threshold = metrics.threshold_for(scores[field], quality[field], precision, weight[field]) if field.any() else 0.5
    return tensors, round(float(np.clip(threshold, 0.05, 0.95)), 3)


def held_out(
    vectors: np.ndarray, quality: np.ndarray, weight: np.ndarray, source: np.ndarray, recipe: Recipe, seed: int
) -> np.ndarray:
    """Return logits float64 [N], each of a head that has not seen the sample's photograph, in five folds."""
    fold = np.array([int(key_fraction(name, "fold") * FOLDS) for name in source])
    logits = np.zeros(len(vectors))
    for k in np.unique(fold):
        seen = fold != k
        part = fit(vectors[seen], quality[seen], weight[seen], recipe, seed) if seen.any() else None
        logits[~seen] = _logits(part, vectors[~seen]) if part else 0.0
    return logits


def fit(
    vectors: np.ndarray, quality: np.ndarray, weight: np.ndarray, recipe: Recipe, seed: int
) -> dict[str, np.ndarray]:
    """Return a head's tensors, at temperature 1, of features [N, D], labels and weights [N]."""
    centre = vectors.mean(axis=0)
    scale = np.maximum(vectors.std(axis=0), 1e-3).astype(np.float32)
    inputs = np.clip((vectors - centre) / scale, -CLIP, CLIP).astype(np.float32)
    counts = (weight / weight.mean()).astype(np.float32)
    members = [_member(inputs, quality, counts, recipe, seed + k) for k in range(recipe.members)]
    return {
        "centre": centre.astype(np.float32),
        "scale": scale,
        "temperature": np.ones((), np.float32),
        **_folded(members),
    }


def _member(
    inputs: np.ndarray, quality: np.ndarray, weight: np.ndarray, recipe: Recipe, seed: int
) -> dict[str, np.ndarray]:
    """Train one network with soft labels, weighted binary cross-entropy, AdamW and a cosine schedule."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    x, y, w = torch.from_numpy(inputs), torch.from_numpy(quality), torch.from_numpy(weight)
    dim = x.shape[1]
    layers = [nn.Linear(dim, recipe.hidden), nn.ReLU(), nn.Dropout(recipe.dropout)] if recipe.hidden else []
    model = nn.Sequential(nn.Dropout(recipe.dropout / 2), *layers, nn.Linear(recipe.hidden or dim, 1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=recipe.decay)
    batches = max(1, len(x) // 128)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, recipe.epochs * batches)
    for _ in range(recipe.epochs):
        for batch in torch.randperm(len(x)).chunk(batches):
            loss = nn.functional.binary_cross_entropy_with_logits(model(x[batch])[:, 0], y[batch], w[batch])
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


def _temperature(logits: np.ndarray, quality: np.ndarray, weight: np.ndarray) -> float:
    """Return the temperature with the least cross-entropy, from a fine grid."""
    grid = np.exp(np.linspace(np.log(0.3), np.log(5), 120))
    losses = [np.average(np.logaddexp(0, logits / t) - quality * logits / t, weights=weight) for t in grid]
    return float(grid[int(np.argmin(losses))])


def figures(scores: np.ndarray, data: Labelled, task: str, threshold: float) -> dict[str, Any]:
    """Return the card's figures on the test side, each as [value, low, high] with 95 % bootstrap intervals.

    Over all samples: AUC, average precision, precision at 95 % recall, Spearman with the label, calibration error.
    Over what the pipeline itself makes, at the threshold: precision (mean quality of what is kept), yield (share kept).
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
        "average precision": with_interval(lambda i: metrics.average_precision(s[i], good[i]), everything),
        "precision at 95 % recall": with_interval(lambda i: metrics.precision_at_recall(s[i], good[i]), everything),
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
    Raises OutputError where there is such a head already: ledgers name heads, so a name means one head for ever.
    """
    from safetensors.numpy import save_file

    task = family.partition("-")[0]
    refuse_to_replace(folder, name)
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
            "training samples": int((~data.test & (data.weight > 0)).sum()),
            "split": "by source picture: none serves both training and test",
        },
    }
    scores = Head(card, tensors, "").predict(data.vectors[family])
    card["test"] = figures(scores, data, task, threshold)
    path.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    return card


def refuse_to_replace(folder: Path, name: str) -> None:
    taken = [
        path
        for path in (folder / f"{name}.json", folder / f"{name}.safetensors", HEADS / f"{name}.json")
        if path.exists()
    ]
    if taken:
        raise OutputError(f"there is a head {name} already ({taken[0]}), and it is never replaced: give another --tag")
