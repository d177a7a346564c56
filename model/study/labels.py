"""Training sets of one seed: scenes whose masks a weak segmenter made, filtered, unfiltered, and with true masks.

As the paper builds LAION-L2I: a segmenter that errs labels many images, a judge trained on some masks whose goodness
is known keeps those it holds for good. The three sets have the same number of samples.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from l2i_builder import storage
from l2i_builder.errors import ConfigError
from l2i_builder.metrics import auc, precision_yield
from l2i_builder.output.manifest import pretty
from model.evaluation.measures import iou
from model.study import nets
from model.study.plan import Budget
from model.toy_scenes import Scene, draw_scenes, write_scenes

GOOD = 0.9  # IoU with the truth from which a mask counts as good: "not largely incomplete, no background in it"
KEEP = 0.45  # share of held-out masks that the judge's threshold keeps (paper: threshold not stated)
# Streams of scenes: no scene is in two of them.
STRONG, WEAK, JUDGED, POOL, TEST, LA = range(6)
WEIGHTS = "weak.safetensors"


def scenes(stream: int, seed: int, count: int, size: int) -> list[Scene]:
    """Draw the first scenes of a seed's stream."""
    return draw_scenes(1000 * (seed + 1) + stream, count, size)


def weak_masks(segmenter: nets.MaskMaker, drawn: list[Scene]) -> np.ndarray:
    """Return the segmenter's masks of scenes, uint8 [N, S, S]."""
    return segmenter(np.stack([scene.image for scene in drawn]))


def truth(drawn: list[Scene], masks: np.ndarray) -> np.ndarray:
    """Return the IoU of each mask with its scene's true one, float64 [N]."""
    return iou(masks / 255, np.stack([scene.mask for scene in drawn]) / 255)


def relabelled(scene: Scene, mask: np.ndarray) -> Scene:
    """Return the scene as a build would store it with this mask: a perfect inpainter fills the mask's surroundings.

    What the mask misses by more than a pixel stays in the background, as it does when a real mask is incomplete.
    """
    hole = cv2.dilate((mask > 25).astype(np.uint8), np.ones((3, 3), np.uint8))[..., None] > 0
    return replace(scene, mask=mask, background=np.where(hole, scene.background, scene.image))


def train_weak(budget: Budget, seed: int, path: Path) -> nets.MaskMaker:
    """Train the weak segmenter on few masks, and not for long."""
    few = scenes(WEAK, seed, budget.weak_scenes, budget.size)
    torch.manual_seed(seed)
    net = nets.WeakSegmenter()
    masks = nets.pixels([scene.mask for scene in few])
    nets.fit(net, nets.pixels([scene.image for scene in few]), masks, nets.mask_loss, budget.weak_steps, seed)
    nets.save(net, path)
    return nets.MaskMaker(nets.WeakSegmenter(), path)


def train_judge(
    budget: Budget, seed: int, segmenter: nets.MaskMaker
) -> tuple[nets.MaskJudge, float, dict[str, float | None]]:
    """Train the judge of masks on weak masks of known goodness; return it, its threshold and what it does held out."""
    drawn = scenes(JUDGED, seed, budget.judged, budget.size)
    masks = weak_masks(segmenter, drawn)
    good = truth(drawn, masks) >= GOOD
    inputs = judged_input(drawn, masks)
    half = 2 * len(drawn) // 3
    torch.manual_seed(seed)
    judge = nets.MaskJudge()
    targets = torch.from_numpy(good[:half]).float()
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    nets.fit(judge, inputs[:half], targets, loss, budget.judge_steps, seed)
    scores = nets.predict(judge, inputs[half:]).sigmoid().double().numpy()
    held_out = good[half:]
    threshold = float(np.quantile(scores, 1 - KEEP))
    precision, kept = precision_yield(scores, held_out.astype(float), threshold)
    area = auc(scores, held_out)
    facts = {
        "good of all": float(held_out.mean()),
        "good of the kept": precision,
        "share kept": kept,
        "area under ROC": area if np.isfinite(area) else None,  # where all are good, or none
        "threshold": threshold,
    }
    return judge, threshold, facts


def judged_input(drawn: list[Scene], masks: np.ndarray) -> torch.Tensor:
    """Return what the judge sees, image and mask [N, 4, S, S]."""
    return torch.cat([nets.pixels([scene.image for scene in drawn]), nets.pixels(masks)], 1)


def make_labels(budget: Budget, seed: int, folder: Path) -> None:
    """Write the seed's training sets ``filtered``, ``unfiltered``, ``true`` and its references ``ll2i-e``, ``la``.

    Raises ConfigError where the judge keeps fewer scenes than a set is to have.
    """
    segmenter = train_weak(budget, seed, folder / WEIGHTS)
    judge, threshold, held_out = train_judge(budget, seed, segmenter)

    def labelled(stream: int, count: int) -> tuple[list[Scene], np.ndarray, np.ndarray]:
        drawn = scenes(stream, seed, count, budget.size)
        masks = weak_masks(segmenter, drawn)
        scores = nets.predict(judge, judged_input(drawn, masks)).sigmoid().double().numpy()
        return drawn, masks, np.flatnonzero(scores >= threshold)

    pool, masks, kept = labelled(POOL, budget.pool)
    test, test_masks, test_kept = labelled(TEST, 8 * budget.samples)
    for number, wanted, which in ((len(kept), budget.kept, "kept"), (len(test_kept), budget.samples, "samples")):
        if number < wanted:
            raise ConfigError(
                f"the judge of masks of seed {seed} keeps {number} scenes where {which}={wanted} are wanted; lower "
                f"that, or raise pool (now {budget.pool})"
            )
    share, kept = len(kept) / len(pool), kept[: budget.kept]
    drawn = np.sort(np.random.default_rng([seed, POOL]).permutation(len(pool))[: budget.kept])
    sets = {
        "filtered": [relabelled(pool[i], masks[i]) for i in kept],
        "unfiltered": [relabelled(pool[i], masks[i]) for i in drawn],
        "true": [relabelled(pool[i], pool[i].mask) for i in drawn],
        "ll2i-e": [relabelled(test[i], test_masks[i]) for i in test_kept[: budget.samples]],
        "la": scenes(LA, seed, budget.samples, budget.size),
    }
    for name, content in sets.items():
        write_scenes(str(folder / name), content, 10 * seed + sorted(sets).index(name))
    right = truth(pool, masks)
    facts = {
        "judge of masks, held out": held_out,
        "share of the pool kept": share,
        "IoU of the training masks with the truth": {
            "filtered": float(right[kept].mean()),
            "unfiltered": float(right[drawn].mean()),
            "true": 1.0,
        },
        "good masks": {
            "filtered": float((right[kept] >= GOOD).mean()),
            "unfiltered": float((right[drawn] >= GOOD).mean()),
        },
    }
    storage.write_bytes(str(folder / "labels.json"), pretty(facts))
