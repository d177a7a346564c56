"""Layers, plural: further objects are peeled off the inpainted background, front to back (beyond the paper).

A round is the model stages once more, the same objects in the same actor, on a batch of backgrounds: what is left of
each sample. Its rows are stand-ins, so that a refusal ends the peeling and never touches the sample: the first object
alone decides its verdict. docs/layers.md says what the result holds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from l2i_builder import layers
from l2i_builder.config import Config
from l2i_builder.run.resources import MODEL_STAGES
from l2i_builder.sample import Batch, Peel, PeelEnd, Row

if TYPE_CHECKING:
    from l2i_builder.stages import Stage

FEWEST = 2  # layers of every sample: an object and what is behind it


def with_peeling(stages: Sequence[Stage], config: Config) -> list[Stage]:
    """Return the stages of an actor, the model stages followed by a round for each further layer.

    ``plan_layout`` sees to it that one actor has all model stages. With two layers nothing is added.
    """
    models = [stage for stage in stages if stage.name in MODEL_STAGES]
    if config.layers.count == FEWEST or not models:
        return list(stages)
    end = list(stages).index(models[-1]) + 1
    one_round: list[Stage] = [Uncover(), Found(models[0], config), *models[1:], Take(config)]
    return [*stages[:end], *one_round * (config.layers.count - FEWEST), *stages[end:]]


class Uncover:
    """Turns a batch into one of the backgrounds of those kept samples that may hold a further object."""

    name = "uncover"

    def __call__(self, batch: Batch) -> Batch:
        slots = []
        for slot, row in enumerate(batch.live_rows):
            row.layers = max(row.layers, FEWEST)
            if row.kept and not row.peel_end:
                slots.append(slot)
        rows = [batch.live_rows[slot] for slot in slots]
        stand_ins = [Row(row.key, row.url, row.caption, row.shard, row.index) for row in rows]
        left = Batch(stand_ins, np.arange(len(rows)), outer=batch)
        if batch.background is not None:
            left.image = batch.background[slots]
        for number, row in enumerate(rows):
            if row.index in batch.peeled:
                left.image[number] = batch.peeled[row.index][-1][1]  # type: ignore[index]
            left.previews[row.key] = b""  # a stand-in that is refused draws none
        return left


class Found:
    """The segmenter, and what a further object has to be besides: large enough, and no trace of inpainting."""

    name = "segment"

    def __init__(self, segment: Callable[[Batch], Batch], config: Config) -> None:
        self.segment, self.config = segment, config

    def __call__(self, batch: Batch) -> Batch:
        batch = self.segment(batch)
        if not len(batch):
            return batch
        rule, outer = self.config.layers, batch.outer
        assert outer is not None
        firsts = dict(zip((row.index for row in outer.live_rows), outer.mask, strict=True))  # type: ignore[arg-type]
        for slot, row in enumerate(batch.live_rows):
            if row.mask_area < rule.further.min_area:
                row.reason = PeelEnd.MASK_EMPTY.value
                continue
            masks = [firsts[row.index], *(mask for mask, _ in outer.peeled.get(row.index, ()))]
            holes = [layers.hole(mask, rule.foreground_threshold, rule.dilate) for mask in masks]
            if inpainted_share(batch.mask[slot], holes) > rule.further.max_inpainted:  # type: ignore[index]
                row.reason = PeelEnd.MASK_INPAINTED.value
        return batch.compress([row.kept for row in batch.live_rows])


class Take:
    """Ends a round: enters what was found, or why nothing was, and returns to the batch of samples."""

    name = "take"

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, batch: Batch) -> Batch:
        outer = batch.outer
        assert outer is not None
        rows = {row.index: row for row in outer.rows}
        slots = {row.index: slot for slot, row in enumerate(batch.live_rows)}
        for found in batch.rows:
            row = rows[found.index]
            row.peels.append(
                Peel(
                    found.mask_area,
                    found.hole_area,
                    found.mask_components,
                    found.mask_score,
                    found.inpainting_score,
                )
            )
            if not found.kept:
                row.peel_end = PeelEnd(found.reason).value
                continue
            slot = slots[found.index]
            layer = (batch.mask[slot].copy(), batch.background[slot].copy())  # type: ignore[index]
            outer.peeled.setdefault(row.index, []).append(layer)
            row.layers += 1
            if row.layers == self.config.layers.count:
                row.peel_end = PeelEnd.ENOUGH.value
        for stage, seconds in batch.seconds.items():
            outer.seconds[stage] = outer.seconds.get(stage, 0.0) + seconds
            outer.images[stage] = outer.images.get(stage, 0) + batch.images[stage]
        return outer


def inpainted_share(mask: np.ndarray, holes: Sequence[np.ndarray]) -> float:
    """Return the share of m > 0.5 that lies in any of the holes. mask uint8 [H, W]; holes bool [H, W]."""
    selected = mask > 127
    inside = selected & np.logical_or.reduce(list(holes))
    return float(inside.sum() / max(1, selected.sum()))
