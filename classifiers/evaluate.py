"""The mask filter against photographs with true masks: ``python -m classifiers.evaluate --photos DIR --masks DIR``.

Segmenters' own masks, of the photographs and of disturbed copies of them, are scored by IoU with the truth; the
filter has to put them in that order. Never part of the training.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from classifiers import metrics
from classifiers.mask_labels import BAD_IOU, GOOD_IOU, disturbed
from classifiers.scenes import SIDE, Segment, iou
from l2i_builder.errors import MetadataError


@dataclass(frozen=True)
class Judged:
    """What became of one mask: ``group`` names the photograph, ``kind`` the segmenter."""

    group: str
    kind: str
    iou: float
    score: float


def true_pairs(photos: Path, masks: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield (name, image uint8 [SIDE, SIDE, 3], mask uint8 [SIDE, SIDE]): centre squares, as the pipeline cuts them.

    Raises MetadataError when a photograph has no mask (same name, .png) or cannot be read.
    """
    for path in sorted(photos.iterdir()):
        image, mask = cv2.imread(str(path)), cv2.imread(str(masks / f"{path.stem}.png"), cv2.IMREAD_GRAYSCALE)
        if image is None or mask is None:
            raise MetadataError(f"{path} cannot be read, or {masks} has no {path.stem}.png beside it")
        yield path.stem, centre(image)[..., ::-1].copy(), centre(mask, cv2.INTER_NEAREST)


def centre(pixels: np.ndarray, interpolation: int | None = None) -> np.ndarray:
    """Return the centre square of a picture at SIDE pixels."""
    side = min(pixels.shape[:2])
    top, left = ((size - side) // 2 for size in pixels.shape[:2])
    how = interpolation if interpolation is not None else cv2.INTER_AREA if side > SIDE else cv2.INTER_CUBIC
    return cv2.resize(pixels[top : top + side, left : left + side], (SIDE, SIDE), interpolation=how)


def judge_masks(
    pairs: Iterator[tuple[str, np.ndarray, np.ndarray]],
    segmenters: dict[str, Segment],
    score: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Iterator[Judged]:
    """Yield every segmenter's mask of a photograph and of a disturbed copy, with its IoU and its score."""
    for name, image, truth in pairs:
        for kind, segment in segmenters.items():
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            for suffix, seen in (("", image), ("-disturbed", disturbed(image, rng))):
                mask = segment(seen)
                value = float(score(image[None], mask[None])[0])
                yield Judged(name, kind + suffix, iou(mask, truth), value)


def summary(judged: list[Judged]) -> dict[str, list[float]]:
    """Return [value, low, high] of: AUC for IoU under 0.7 against over 0.9, and Spearman's correlation with IoU."""
    quality, scores = (np.array([getattr(j, name) for j in judged]) for name in ("iou", "score"))
    groups = np.array([j.group for j in judged])
    clear = (quality < BAD_IOU) | (quality > GOOD_IOU)

    def auc(i: np.ndarray) -> float:
        i = i[clear[i]]
        return metrics.auc(scores[i], quality[i] > GOOD_IOU)

    def spearman(i: np.ndarray) -> float:
        return metrics.spearman(scores[i], quality[i])

    return {
        name: [measure(np.arange(len(judged))), *metrics.interval(measure, groups)]
        for name, measure in (("auc", auc), ("spearman", spearman))
    }


def main(argv: list[str] | None = None) -> None:
    from l2i_builder.config import Judge
    from l2i_builder.config import Segment as SegmentConfig
    from l2i_builder.judge.judges import make_mask_judge
    from l2i_builder.segment.segmenter import make_segmenter

    parser = argparse.ArgumentParser(prog="python -m classifiers.evaluate", description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--masks", type=Path, required=True, help="masks of the same names, .png, white is the object")
    parser.add_argument("--head", default="", help="name or path of a head; empty = the one shipped")
    parser.add_argument("--segmenters", nargs="+", default=["u2net", "u2netp"])
    args = parser.parse_args(argv)

    def segmenter(name: str) -> Segment:
        model = make_segmenter(SegmentConfig.model_validate({"backend": name}))
        return lambda image: model(image[None])[0]

    segmenters = {name: segmenter(name) for name in args.segmenters}
    judge = make_mask_judge(Judge(head=args.head))
    judged = list(judge_masks(true_pairs(args.photos, args.masks), segmenters, judge.score))
    for kind in ["all", *dict.fromkeys(j.kind for j in judged)]:
        chosen = [j for j in judged if kind in ("all", j.kind)]
        shown = {name: "{:.3f} ({:.3f} to {:.3f})".format(*values) for name, values in summary(chosen).items()}
        print(f"{judge.version} {kind:18} {len(chosen):5} masks", shown)  # noqa: T201


if __name__ == "__main__":
    main()
