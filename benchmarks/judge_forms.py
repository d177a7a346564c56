"""Forms of the judges' backbone on the CPU: memory layout, norms folded into convolutions, batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.forms import Run, by_turns
from benchmarks.inpaint_forms import composites
from l2i_builder.config import Judge
from l2i_builder.judge import backbone
from l2i_builder.judge.judges import make_inpainting_judge, make_mask_judge

REFERENCE = "contiguous, norms apart"
# form -> folded, channels last, views a forward pass
FORMS = {
    REFERENCE: (False, False, 1),
    "channels last": (False, True, 1),
    "norms folded": (True, False, 1),
    "as built: folded, channels last": (True, True, 1),
    "folded, channels last, batch 8": (True, True, 8),
}
NETWORK = "as built, network alone"


def make(task: str, folded: bool, channels_last: bool, step: int) -> Any:
    """Return a judge in one of its forms."""
    import torch

    maker = make_mask_judge if task == "mask" else make_inpainting_judge
    if folded:
        judge = maker(Judge())
    else:
        with mock.patch.object(backbone, "folded", lambda module, size: module):
            judge = maker(Judge())
    extract: Any = judge._extract
    extract.step = step
    if not channels_last:
        extract.backbone.module.to(memory_format=torch.contiguous_format)
        prepared = extract._input
        extract._input = lambda pixels: prepared(pixels).contiguous()
    return judge


def measure(images: Sequence[np.ndarray], rounds: int) -> dict[str, tuple[dict[str, Run], dict[str, dict[str, float]]]]:
    """Return judge -> (runs, closeness of each form's scores and features to the reference's)."""
    scenes, found = composites(images), {}
    arrays = {
        "mask": (scenes["image"], scenes["mask"]),
        "inpainting": (scenes["image"], scenes["mask"], scenes["background"], scenes["hole"]),
    }
    for task, inputs in arrays.items():
        judges = {form: make(task, *facts) for form, facts in FORMS.items()}
        forms: dict[str, Callable[[], Any]] = {form: partial(judge.features, *inputs) for form, judge in judges.items()}
        forms[NETWORK] = partial(_network, judges["as built: folded, channels last"], inputs)
        runs = by_turns(forms, len(images), rounds)
        runs[NETWORK].result = runs["as built: folded, channels last"].result
        head, expected = judges[REFERENCE], runs[REFERENCE].result
        scores = head.score_features(expected)
        close = {
            form: {
                "score difference": float(np.abs(head.score_features(run.result) - scores).max()),
                "feature difference": float(np.abs(run.result - expected).max()),
            }
            for form, run in runs.items()
        }
        found[f"judge of the {task}"] = runs, close
    return found


def _network(judge: Any, inputs: tuple[np.ndarray, ...]) -> None:
    for sample in zip(*inputs, strict=True):
        for _ in judge._extract.maps(judge._extract.family.views(sample)):
            pass
