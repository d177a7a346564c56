"""The stages between decoding and commit: each a callable ``Batch -> Batch``, made inside its actor.

segment -> judge_mask -> inpaint -> judge_inpainting -> encode. Fusing stages in one actor is function
composition (``run_stages``), and is configuration. Where ``layers.count`` is above 2, the four before encode are run
again on what is left (``peeling.py``). A refused row loses its pixels, unless it belongs to the
audit slice: that one runs through every stage whatever the scores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from l2i_builder import layers
from l2i_builder.config import Config
from l2i_builder.output.shards import encode_members
from l2i_builder.peeling import with_peeling
from l2i_builder.report.strip import make_strip
from l2i_builder.sample import Batch, Reason, key_fraction


class Stage(Protocol):
    name: str

    def __call__(self, batch: Batch) -> Batch: ...


def make_stages(names: Sequence[str], config: Config, device: str = "cpu", threads: int = 1) -> list[Stage]:
    """Load the named stages with their weights. device: "cpu" or "cuda"; threads: per model."""
    stages = with_peeling([STAGES[name](config, device, threads) for name in names], config)
    if config.safety.nsfw.enabled and SegmentStage.name in names:  # goes before it, in the same actor
        from l2i_builder.safety.nsfw import NsfwStage

        stages.insert(list(names).index(SegmentStage.name), NsfwStage(config, device, threads))
    return stages


def run_stages(stages: Sequence[Stage], batch: Batch) -> Batch:
    """Run a batch through stages in order, adding up busy seconds and images per stage."""
    for stage in stages:
        start, images = time.perf_counter(), len(batch)
        batch = stage(batch)
        batch.seconds[stage.name] = batch.seconds.get(stage.name, 0.0) + time.perf_counter() - start
        batch.images[stage.name] = batch.images.get(stage.name, 0) + images
    return batch


class SegmentStage:
    """Image -> soft mask; selections of nothing or nearly everything are refused before any judge."""

    name = "segment"

    def __init__(self, config: Config, device: str, threads: int) -> None:
        from l2i_builder.segment.segmenter import make_segmenter

        self.config = config
        self.model = make_segmenter(config.segment, device, threads)

    def __call__(self, batch: Batch) -> Batch:
        if not len(batch):
            return batch
        masks, done = run_model(self.model, (batch.image,), batch, self.config.segment.batch, self.name)
        batch.mask = masks
        rule = self.config.layers
        for slot, row in enumerate(batch.live_rows):
            if not done[slot]:
                continue
            mask = masks[slot]
            row.mask_area = float((mask > 127).mean())
            row.mask_components = layers.components(mask)
            row.hole_area = float(layers.hole(mask, rule.foreground_threshold, rule.dilate).mean())
            if row.mask_area < rule.min_area:
                row.refuse(Reason.MASK_EMPTY, self.name, f"mask covers {row.mask_area:.2%}")
            elif row.hole_area > rule.max_area:
                row.refuse(Reason.MASK_FULL, self.name, f"hole covers {row.hole_area:.2%}")
        return leave(batch, self.config, done, always=True)


class JudgeMaskStage:
    """Scores each mask and refuses those under the threshold: a bad mask is never inpainted."""

    name = "judge_mask"

    def __init__(self, config: Config, device: str, threads: int) -> None:
        from l2i_builder.judge.judges import make_mask_judge

        self.config = config
        self.judge = make_mask_judge(config.judge.mask, device, threads) if config.judge.mask.enabled else None

    def __call__(self, batch: Batch) -> Batch:
        if self.judge is None or not len(batch):
            return batch
        arrays, size = (batch.image, batch.mask), self.config.judge.mask.batch
        scores, done = judge_batch(self.judge, "mask", arrays, batch, size, self)
        for slot, row in enumerate(batch.live_rows):
            if done[slot]:
                row.mask_score, row.mask_head = float(scores[slot]), self.judge.version
                if row.mask_score < self.judge.threshold:
                    row.refuse(Reason.MASK_REJECTED, self.name, f"score under {self.judge.threshold:.3f}")
        return leave(batch, self.config, done)


class InpaintStage:
    """Fills the dilated mask; the background equals the image outside it."""

    name = "inpaint"

    def __init__(self, config: Config, device: str, threads: int) -> None:
        from l2i_builder.inpaint.inpainter import make_inpainter

        self.config = config
        self.model = make_inpainter(config.inpaint, device, config.seed, threads)

    def __call__(self, batch: Batch) -> Batch:
        if not len(batch):
            return batch
        arrays = (batch.image, holes(batch, self.config))
        batch.background, done = run_model(self.model, arrays, batch, self.config.inpaint.batch, self.name)
        return leave(batch, self.config, done)


class JudgeInpaintingStage:
    """Scores each background and refuses those under the threshold."""

    name = "judge_inpainting"

    def __init__(self, config: Config, device: str, threads: int) -> None:
        from l2i_builder.judge.judges import make_inpainting_judge

        self.config = config
        settings = config.judge.inpainting
        self.judge = make_inpainting_judge(settings, device, threads) if settings.enabled else None

    def __call__(self, batch: Batch) -> Batch:
        if self.judge is None or not len(batch):
            return batch
        arrays = (batch.image, batch.mask, batch.background, holes(batch, self.config))
        scores, done = judge_batch(self.judge, "inpainting", arrays, batch, self.config.judge.inpainting.batch, self)
        for slot, row in enumerate(batch.live_rows):
            if done[slot]:
                row.inpainting_score, row.inpainting_head = float(scores[slot]), self.judge.version
                if row.inpainting_score < self.judge.threshold:
                    row.refuse(Reason.INPAINTING_REJECTED, self.name, f"score under {self.judge.threshold:.3f}")
        return leave(batch, self.config, done)


class EncodeStage:
    """Pixels -> the members of kept (and audited) samples, as stored. Drops the arrays."""

    name = "encode"

    def __init__(self, config: Config, device: str, threads: int) -> None:
        self.config = config

    def __call__(self, batch: Batch) -> Batch:
        for slot, row in enumerate(batch.live_rows):
            layer = (batch.image[slot], batch.mask[slot], batch.background[slot])  # type: ignore[index]
            try:
                batch.triplets[row.key] = encode_members(row, *layer, self.config, batch.peeled.get(row.index, ()))
            except Exception as error:
                row.refuse(Reason.STAGE_ERROR, self.name, f"{type(error).__name__}: {error}")
            _preview(batch, slot, self.config)
        batch.compress(np.zeros(len(batch), bool))
        batch.image = batch.mask = batch.background = None
        batch.peeled = {}
        return batch


STAGES: dict[str, Callable[[Config, str, int], Stage]] = {
    stage.name: stage for stage in (SegmentStage, JudgeMaskStage, InpaintStage, JudgeInpaintingStage, EncodeStage)
}


def holes(batch: Batch, config: Config) -> np.ndarray:
    """Return the regions to inpaint, bool [N, H, W] (``layers.hole``)."""
    rule = config.layers
    return np.stack([layers.hole(mask, rule.foreground_threshold, rule.dilate) for mask in batch.mask])  # type: ignore


def leave(batch: Batch, config: Config, done: np.ndarray, always: bool = False) -> Batch:
    """Drop the pixels of refused rows, after drawing their preview; audit rows stay unless ``always``.

    A slot that is not ``done`` (bool [N]) leaves in any case: it lacks what the next stage needs.
    """
    stay = [
        bool(ok) and (row.kept or (row.audit and not always)) for ok, row in zip(done, batch.live_rows, strict=True)
    ]
    for slot, keep in enumerate(stay):
        if not keep:
            _preview(batch, slot, config)
    return batch.compress(stay)


def judge_batch(
    judge: Any, task: str, arrays: tuple, batch: Batch, size: int, stage: JudgeMaskStage | JudgeInpaintingStage
) -> tuple[np.ndarray, np.ndarray]:
    """Score the pixel slots, and keep what the judge saw on the batch (``shards.features``).

    Returns scores float32 [N] (zeros where it failed) and which slots are done (bool [N]), as ``run_model``.
    """
    features, done = run_model(judge.features, arrays, batch, getattr(judge, "at_once", size), stage.name)
    scores = np.zeros(len(batch), np.float32)
    if done.any():
        scores[done] = judge.score_features(features[done])
    if done.any() and stage.config.shards.features:
        batch.feature_kinds[task] = judge.kind
        kept = batch.features.setdefault(task, {})
        kept.update((row.key, features[slot]) for slot, row in enumerate(batch.live_rows) if done[slot])
    return scores, done


def run_model(
    model: Callable[..., np.ndarray], arrays: tuple, batch: Batch, size: int, stage: str
) -> tuple[np.ndarray, np.ndarray]:
    """Run ``model`` over pixel slots, ``size`` at a time, so that one sample's failure costs that sample alone.

    A model that works on a GPU says itself how many it wants ``at_once``: it uploads the next while one computes.

    Returns its outputs [N, ...] (zeros where it failed) and which slots are done (bool [N]); failed rows get
    ``stage_error``. Where every one of several samples fails alike it is the stage that is broken, not the
    samples: the exception goes on, and the shard is tried again.
    """
    size = getattr(model, "at_once", size)
    outputs: dict[int, np.ndarray] = {}
    errors: dict[int, Exception] = {}
    for start in range(0, len(batch), size):
        slots = range(start, min(start + size, len(batch)))
        try:
            chunk = model(*(array[start : start + size] for array in arrays))
            outputs.update(zip(slots, chunk, strict=True))
        except Exception:
            for slot in slots:
                try:
                    outputs[slot] = model(*(array[slot : slot + 1] for array in arrays))[0]
                except Exception as error:
                    errors[slot] = error
    if len(errors) > 1 and not outputs:
        raise next(iter(errors.values()))
    rows = batch.live_rows
    for slot, problem in errors.items():
        rows[slot].refuse(Reason.STAGE_ERROR, stage, f"{type(problem).__name__}: {problem}")
    if not outputs:
        blank = np.zeros_like(arrays[0][..., 0] if stage == "segment" else arrays[0])
        return blank, np.zeros(len(batch), bool)
    blank = np.zeros_like(next(iter(outputs.values())))
    stacked = np.stack([outputs.get(slot, blank) for slot in range(len(batch))])
    return stacked, np.array([slot in outputs for slot in range(len(batch))])


def _preview(batch: Batch, slot: int, config: Config) -> None:
    """Draw the strip of a slot, where the shard's caps could let it in (commit keeps the lowest draws)."""
    row = batch.live_rows[slot]
    cap = config.previews.kept_per_shard if row.kept else config.previews.rejected_per_shard
    if batch.mask is None or not cap or row.reason == Reason.UNSAFE or row.key in batch.previews:
        return
    if key_fraction(row.key, "preview") * batch.shard_rows < 4 * cap:
        background = batch.background[slot] if batch.background is not None else None
        layer = (batch.image[slot], batch.mask[slot], background)  # type: ignore[index]
        batch.previews[row.key] = make_strip(*layer, config.previews, batch.peeled.get(row.index, ()))
