"""Forms of PatchMatch against its package, ``pypatchmatch``: where it looks, how long, at which size, for what.

Composites have a true background: the object of one photograph pasted on an object-free window of another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from unittest import mock

import cv2
import numpy as np

from benchmarks.forms import Run, by_turns
from classifiers.scenes import SIDE, object_free, paste
from classifiers.sources import Picture
from l2i_builder import layers
from l2i_builder.config import Inpaint, Judge, Segment
from l2i_builder.inpaint import patchmatch
from l2i_builder.inpaint.inpainter import make_inpainter
from l2i_builder.judge.judges import make_inpainting_judge
from l2i_builder.segment.segmenter import make_segmenter

REFERENCE = "pypatchmatch, whole image"
# form -> constants of ``patchmatch``
FORMS: dict[str, dict[str, float]] = {
    "as built": {},
    "whole image": {"_MARGIN": 100.0},
    "margin 1/4": {"_MARGIN": 0.25, "_LEAST_MARGIN": 1 / 16},
    "four passes": {"_PASSES": 4},
    "random search everywhere": {"_SPAN": SIDE},
    "votes nearly even": {"_STRICT": 4.0},
    "colours alone": {"_TEXTURE": 0},
    "from a quarter of the size": {"_LARGEST": 192},
    "at full size": {"_LARGEST": SIDE},
}


def composites(images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return image, background uint8 [N, 512, 512, 3], mask uint8 and hole bool [N, 512, 512]: seeded."""
    rng, segment = np.random.default_rng(0), make_segmenter(Segment(backend="u2netp"))
    masks = segment(np.stack(images))
    made: dict[str, list[np.ndarray]] = {name: [] for name in ("image", "background", "mask", "hole")}
    for number, image in enumerate(images):
        following = (number + 1) % len(images)
        background, _ = object_free(Picture(str(number), image), masks[number], rng)
        cutout = Picture(str(following), np.dstack([images[following], masks[following]]))
        alpha = np.zeros((SIDE, SIDE), np.float32)
        for _ in range(20):  # one that can be filled
            whole, alpha = paste(background.astype(np.float32), np.zeros_like(alpha), cutout, rng)
            hole = layers.hole(np.rint(alpha * 255).astype(np.uint8), 0.1, 9)
            if 0.01 < hole.mean() < 0.8:
                break
        else:  # the photograph has no object of its own
            hole = np.zeros((SIDE, SIDE), bool)
            hole[SIDE // 4 : SIDE // 2, SIDE // 4 : SIDE // 2] = True
            whole, alpha = background, hole.astype(np.float32)
        made["image"].append(np.rint(whole).astype(np.uint8))
        made["background"].append(background)
        made["mask"].append(np.rint(alpha * 255).astype(np.uint8))
        made["hole"].append(hole)
    return {name: np.stack(arrays) for name, arrays in made.items()}


def measure(images: Sequence[np.ndarray], rounds: int) -> dict[str, tuple[dict[str, Run], dict[str, dict[str, float]]]]:
    """Return {"patchmatch": (runs, closeness of each form's backgrounds to the truth and to the reference)}."""
    scenes = composites(images)
    fill = make_inpainter(Inpaint(), seed=0)

    def run(constants: dict[str, float]) -> np.ndarray:
        with mock.patch.dict(vars(patchmatch), constants):
            return fill(scenes["image"], scenes["hole"])

    forms: dict[str, Callable[[], np.ndarray]] = {REFERENCE: partial(by_the_package, scenes["image"], scenes["hole"])}
    forms |= {name: partial(run, constants) for name, constants in FORMS.items()}
    runs = by_turns(forms, len(images), rounds)
    judge = make_inpainting_judge(Judge())
    expected, close = runs[REFERENCE].result, {}
    for name, made in runs.items():
        scores = judge.score(scenes["image"], scenes["mask"], made.result, scenes["hole"])
        pairs = list(zip(made.result, scenes["background"], scenes["hole"], strict=True))
        close[name] = {
            "PSNR to truth": float(np.mean([psnr(*pair) for pair in pairs])),
            "SSIM to truth": float(np.mean([similarity(*pair) for pair in pairs])),
            "judge's score": float(scores.mean()),
            "difference": float(np.abs(made.result.astype(int) - expected)[scenes["hole"]].mean()),
        }
    return {"patchmatch": (runs, close)}


def by_the_package(images: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """Fill as the package's page shows it. images uint8 [N, H, W, 3], holes bool [N, H, W]."""
    from patchmatch import inpaint, set_random_seed

    set_random_seed(0)
    pairs = zip(images, holes, strict=True)
    return np.stack([inpaint(image, hole, patch_size=3) if hole.any() else image for image, hole in pairs])


def psnr(made: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> float:
    """Return the PSNR inside the hole in dB, at most 60."""
    error = float(((made.astype(float) - truth)[hole] ** 2).mean())
    return min(60.0, 10 * np.log10(255**2 / max(error, 1e-9)))


def similarity(made: np.ndarray, truth: np.ndarray, hole: np.ndarray) -> float:
    """Return the mean structural similarity (Wang et al. 2004) of the lightness inside the hole."""
    x, y = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64) for image in (made, truth))
    mx, my, xx, yy, xy = (cv2.GaussianBlur(a, (11, 11), 1.5) for a in (x, y, x * x, y * y, x * y))
    one, two = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mx * my + one) * (2 * (xy - mx * my) + two)
    bottom = (mx**2 + my**2 + one) * (xx - mx**2 + yy - my**2 + two)
    return float((top / bottom)[hole].mean())
