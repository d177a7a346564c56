"""The pipeline's own segmenters and inpainters, one picture at a time, their results kept: most of the time of making
labels goes into these."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from classifiers.inpainting_labels import Fill
from classifiers.scenes import Segment
from l2i_builder.config import Inpaint
from l2i_builder.config import Segment as SegmentConfig
from l2i_builder.inpaint.inpainter import make_inpainter
from l2i_builder.segment.segmenter import make_segmenter


def segmenter(name: str, folder: Path) -> Segment:
    """Return a segmenter of uint8 [H, W, 3] that keeps its masks in ``folder``."""
    model = make_segmenter(SegmentConfig.model_validate({"backend": name}))
    return lambda image: remembered(folder, model.digest, lambda: model(image[None])[0], image)


def inpainter(name: str, folder: Path) -> Fill:
    """Return an inpainter of uint8 [H, W, 3] and bool [H, W] that keeps its fills in ``folder``."""
    model = make_inpainter(Inpaint.model_validate({"backend": name}))
    return lambda image, hole: remembered(folder, model.digest, lambda: model(image[None], hole[None])[0], image, hole)


def remembered(folder: Path, digest: str, run: Callable[[], np.ndarray], *arrays: np.ndarray) -> np.ndarray:
    """Return what ``run`` gives, uint8 [H, W] or [H, W, 3], kept as PNG by digest of the model and of its input."""
    sha = hashlib.sha256(digest.encode())
    for array in arrays:
        sha.update(np.ascontiguousarray(array).tobytes())
    path = folder / f"{sha.hexdigest()[:32]}.png"
    if not path.is_file():
        _, data = cv2.imencode(".png", run())
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.tobytes())
    return np.asarray(cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED))
