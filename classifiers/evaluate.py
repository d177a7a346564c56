"""Mask heads against photographs with true masks: ``python -m classifiers.evaluate --photos DIR --masks DIR``.

Segmenters' own masks, of the photographs and of disturbed copies of them, are scored by IoU with the truth; a head
has to put them in that order. Never part of the training. ``--record NAME`` writes the figures into heads' cards.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from classifiers.features import FeatureCache
from classifiers.mask_labels import BAD_IOU, GOOD_IOU, disturbed
from classifiers.models import segmenter
from classifiers.scenes import SIDE, Segment, iou
from l2i_builder import metrics
from l2i_builder.errors import MetadataError

Score = Callable[[np.ndarray, np.ndarray], np.ndarray]  # a mask judge's ``score``


@dataclass(frozen=True)
class Judged:
    """What became of one mask: ``photo`` names the photograph, ``kind`` the segmenter; ``scores`` by head."""

    photo: str
    kind: str
    iou: float
    scores: dict[str, float]


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
    heads: dict[str, Score],
) -> Iterator[Judged]:
    """Yield every segmenter's mask of a photograph and of a disturbed copy, with its IoU and its scores."""
    for name, image, truth in pairs:
        for kind, mask in masks_of(name, image, segmenters):
            scores = {head: float(score(image[None], mask[None])[0]) for head, score in heads.items()}
            yield Judged(name, kind, iou(mask, truth), scores)


@dataclass(frozen=True)
class TrueMask:
    """One segmenter's mask of a photograph whose true mask is known; ``vectors``: family -> float32 [D]."""

    photo: str
    kind: str
    iou: float
    vectors: dict[str, np.ndarray]


def true_masks(
    photos: Path, masks: Path, names: list[str], results: Path, cache: FeatureCache, families: list[str]
) -> Iterator[TrueMask]:
    """Yield what ``judge_masks`` judges, with features instead of scores, so that any number of heads can score."""
    segmenters = {name: segmenter(name, results) for name in names}
    for photo, image, truth in true_pairs(photos, masks):
        for kind, mask in masks_of(photo, image, segmenters):
            yield TrueMask(photo, kind, iou(mask, truth), cache(families, image, mask))


def masks_of(name: str, image: np.ndarray, segmenters: dict[str, Segment]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (kind, mask) of a photograph and of a disturbed copy, drawn from its name."""
    for kind, segment in segmenters.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        yield kind, segment(image)
        yield f"{kind}-disturbed", segment(disturbed(image, rng))


def summary(judged: list[Judged], head: str) -> dict[str, list[float]]:
    """Return [value, low, high] of: AUC for IoU under 0.7 against over 0.9, and Spearman's correlation with IoU."""
    quality, scores = np.array([j.iou for j in judged]), np.array([j.scores[head] for j in judged])
    photos = np.array([j.photo for j in judged])
    clear = (quality < BAD_IOU) | (quality > GOOD_IOU)

    def auc(i: np.ndarray) -> float:
        i = i[clear[i]]
        return metrics.auc(scores[i], quality[i] > GOOD_IOU)

    def spearman(i: np.ndarray) -> float:
        return metrics.spearman(scores[i], quality[i])

    return {
        name: [round(v, 4) for v in (measure(np.arange(len(judged))), *metrics.interval(measure, photos))]
        for name, measure in (("auc", auc), ("spearman", spearman))
    }


def record(card: Path, name: str, figures: dict[str, Any]) -> None:
    """Write figures into a head's card, under "measured on"; they are no part of the head's digest."""
    content = json.loads(card.read_text(encoding="utf-8"))
    content["measured on"] = content.get("measured on", {}) | {name: figures}
    card.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    from l2i_builder.config import Judge
    from l2i_builder.judge.judges import SHIPPED, card_path, make_mask_judge

    parser = argparse.ArgumentParser(prog="python -m classifiers.evaluate", description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--masks", type=Path, required=True, help="masks of the same names, .png, white is the object")
    parser.add_argument("--heads", nargs="+", default=[SHIPPED["mask"]], help="names or paths of mask heads")
    parser.add_argument("--segmenters", nargs="+", default=["u2net", "u2netp"])
    parser.add_argument("--results", type=Path, default=Path("runs/results"), help="where segmentations are kept")
    parser.add_argument("--record", default="", help="name under which the figures go into the heads' cards")
    args = parser.parse_args(argv)
    heads: dict[str, Score] = {head: make_mask_judge(Judge(head=head)).score for head in args.heads}
    segmenters = {name: segmenter(name, args.results) for name in args.segmenters}
    judged = list(judge_masks(true_pairs(args.photos, args.masks), segmenters, heads))
    kinds = {"all": judged, "undisturbed": [j for j in judged if not j.kind.endswith("-disturbed")]}
    kinds |= {kind: [j for j in judged if j.kind == kind] for kind in dict.fromkeys(j.kind for j in judged)}
    for head in args.heads:
        figures = {kind: {"masks": len(chosen), **summary(chosen, head)} for kind, chosen in kinds.items()}
        for kind, values in figures.items():
            print(head, kind, values)  # noqa: T201
        if args.record:
            record(card_path(head), args.record, figures)


if __name__ == "__main__":
    main()
