"""Toy runs whose samples hold several objects, one behind the other: for testing what peels them off."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np
from finished_toy import toy_run
from toy import (
    SIDE,
    ToyInpaint,
    ToyJudge,
    ToyJudgeInpainting,
    ToyJudgeMask,
    ToySegment,
    ToySource,
    toy_config,
)

from l2i_builder import stages
from l2i_builder.config import Config
from l2i_builder.peeling import with_peeling
from l2i_builder.run.cluster import Parts
from l2i_builder.sample import key_fraction

CENTRES = ((16, 16, 11), (44, 44, 9), (14, 48, 7))  # y, x and radius of the objects, front to back
KEEP_ALL = ("judge.mask.threshold=0", "judge.inpainting.threshold=0")


def objects_of(key: str) -> int:
    """How many objects the picture of a key holds: 1, 2 or 3."""
    return 1 + int(3 * key_fraction(key, "objects"))


def discs(count: int, key: str = "") -> np.ndarray:
    """uint8 [SIDE, SIDE, 3]: a smooth picture with so many bright discs, the largest in front."""
    grid = np.linspace(0, 150, SIDE)
    image = np.stack([np.add.outer(grid, grid * key_fraction(key, f"c{i}")) / 2 for i in range(3)], -1)
    y, x = np.mgrid[:SIDE, :SIDE]
    for number, (row, column, radius) in enumerate(CENTRES[:count]):
        image[(y - row) ** 2 + (x - column) ** 2 < radius**2] = 255 - number
    return image.astype(np.uint8)


def largest(images: np.ndarray) -> np.ndarray:
    """A segmenter: the largest bright thing, with a soft edge."""
    masks = np.zeros(images.shape[:3], np.uint8)
    for image, mask in zip(images, masks, strict=True):
        count, labels, facts, _ = cv2.connectedComponentsWithStats((image.min(axis=-1) > 250).astype(np.uint8))
        if count > 1:
            selected = labels == 1 + facts[1:, cv2.CC_STAT_AREA].argmax()
            mask[:] = cv2.GaussianBlur(selected.astype(np.uint8) * 255, (3, 3), 0)
    return masks


class DiscSource(ToySource):
    def batches_of(self, rows, shard):
        for batch in super().batches_of(rows, shard):
            for slot, row in enumerate(batch.live_rows):
                batch.image[slot] = discs(objects_of(row.key), row.key)
            yield batch


class FindLargest(ToySegment):
    def model(self, images: np.ndarray) -> np.ndarray:
        return largest(images)


class StrictOnBackgrounds(ToyJudge):
    """Passes every first object, and of the others those in two of three pictures."""

    def __init__(self) -> None:
        super().__init__(0.5)

    def features(self, images: np.ndarray, *layers: np.ndarray) -> np.ndarray:
        first = (images[:, 16, 16].min(axis=-1) == 255).astype(np.float32)
        odd = images.reshape(len(images), -1).astype(np.int64).sum(axis=1) % 3 == 0
        return np.stack([np.maximum(first, 0.75 - 0.5 * odd), odd], axis=1).astype(np.float32)


def layered_stages(config, strict, names, device="cpu", threads=1):
    made: list[stages.Stage] = [
        FindLargest(config),
        ToyJudgeMask(config),
        ToyInpaint(config),
        ToyJudgeInpainting(config),
    ]
    if strict:
        made[1].judge = StrictOnBackgrounds()  # type: ignore[attr-defined]
    made.append(stages.EncodeStage(config, device, threads))
    return with_peeling([stage for stage in made if stage.name in names], config)


def layered_parts(config: Config, strict: bool = False) -> Parts:
    return Parts(partial(DiscSource, config), partial(layered_stages, config, strict))


def layered_run(folder: Path, out: Path | str, *overrides: str, rows: int = 40, strict: bool = False) -> Config:
    """Build ``rows`` rows into ``out`` with at most four layers. strict: some further masks are refused."""
    keys = (*KEEP_ALL, "layers.count=4", *(("judge.mask.threshold=0.5",) if strict else ()), *overrides)
    config = toy_config(folder / "metadata", Path("x"), *keys)
    return toy_run(folder, out, *keys, rows=rows, parts=layered_parts(config, strict))
