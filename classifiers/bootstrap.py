"""Labels without people: ``python -m classifiers.bootstrap --out FOLDER`` writes mask.npz and inpainting.npz.

Scenes with known layers give masks and fills of known quality (``scenes``, ``mask_labels``, ``inpainting_labels``);
their features are computed by the judges' own code and kept. One seed decides everything; every scene draws from
its own generator, so that more scenes leave the others as they are. No source picture serves both training and test.
"""

from __future__ import annotations

import argparse
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from classifiers import sources
from classifiers.features import Collector, FeatureCache
from classifiers.inpainting_labels import coarse, distance, fills_of, near, true_fill, view
from classifiers.mask_labels import mask_quality, masks_of
from classifiers.models import inpainter, segmenter
from classifiers.scenes import Scene, composites, iou, photographs
from l2i_builder.config import Layers
from l2i_builder.judge.backbone import make_backbone
from l2i_builder.layers import hole as cut_hole

MASK_FAMILIES = ("mask-plain", "mask-rich", "mask-standing", "mask-close")
INPAINTING_FAMILIES = ("inpainting-plain", "inpainting-rich")
GOOD_DISTANCE, BAD_DISTANCE = 0.28, 0.45  # of an inpainter's result from the truth: label 1 below, 0 above
SPOILT_WEIGHT = 1 / 3  # in training, of a mask spoilt on purpose beside a segmenter's own
LARGEST_HOLE = 0.45  # share of pixels; fills of more are not asked for


class Bootstrap:
    """Everything the generator needs, loaded once. ``folder`` keeps the source pictures."""

    def __init__(self, folder: Path, backbone: str, seed: int) -> None:
        self.seed = seed
        self.photos, self.cutouts = sources.gather(folder)
        results = folder / "results"
        self.segmenters = {name: segmenter(name, results) for name in ("u2net", "u2netp")}
        patchmatch, telea = (near(inpainter(name, results)) for name in ("patchmatch", "telea"))
        self.inpainters = {"patchmatch": patchmatch, "patchmatch-coarse": coarse(patchmatch), "telea": telea}
        self.backbone = make_backbone(backbone)
        self.features = FeatureCache(self.backbone, folder)

    def rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def scenes(self, count: int) -> Iterator[Scene]:
        """Yield ``count`` composites and at most as many windows of photographs, in turn."""
        segmenters = list(self.segmenters.values())
        photos = [self.photos[i] for i in self.rng("photographs").permutation(len(self.photos))]
        windows = photographs(photos, segmenters, self.rng("windows"))
        for composite in self.composites(count):
            yield composite
            yield from itertools.islice(windows, 1)

    def composites(self, count: int) -> Iterator[Scene]:
        cutouts = [self.cutouts[i] for i in self.rng("cutouts").permutation(len(self.cutouts))]
        cheap = list(self.segmenters.values())[-1]
        return itertools.islice(composites(self.photos, cheap, cutouts, self.rng("composites")), count)

    def masks(self, scene: Scene, collector: Collector) -> None:
        """Add the scene's masks, labelled."""
        for kind, mask in masks_of(scene, self.segmenters, self.rng(f"masks {scene.name}")):
            vectors = self.features(MASK_FAMILIES, scene.image, mask)
            weight = 1.0 if kind.startswith(tuple(self.segmenters)) else SPOILT_WEIGHT
            collector.add(vectors, scene, kind, mask_quality(mask, scene.alpha), iou(mask, scene.alpha), weight)

    def fills(self, scene: Scene, collector: Collector) -> None:
        """Add the scene's fills, labelled; scenes without a known background have none."""
        layers = Layers()
        hole = cut_hole(scene.alpha, layers.foreground_threshold, layers.dilate)
        if scene.background is None or not 0.01 < hole.mean() < LARGEST_HOLE:
            return
        stock = [p for p in (*self.photos, *self.cutouts) if p.test == scene.test]
        truth = true_fill(scene, hole)
        near_hole = view(hole, hole).astype(np.float32)
        true_maps, image_maps = (self.features.maps(view(pixels, hole)) for pixels in (truth, scene.image))
        for kind, fill, quality in fills_of(scene, hole, self.inpainters, stock, self.rng(f"fills {scene.name}")):
            away = distance(self.features.maps(view(fill, hole)), true_maps, image_maps, near_hole)
            if quality is None:
                quality = float(np.clip((BAD_DISTANCE - away) / (BAD_DISTANCE - GOOD_DISTANCE), 0, 1))
            vectors = self.features(INPAINTING_FAMILIES, scene.image, scene.alpha, fill, hole)
            collector.add(vectors, scene, kind, quality, away)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m classifiers.bootstrap", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for pictures and labelled features")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=220, help="composites, beside the photographs")
    parser.add_argument("--tasks", nargs="+", choices=("mask", "inpainting"), default=["mask", "inpainting"])
    parser.add_argument("--backbone", default="tf_efficientnet_lite0", help="timm model, weights by the registry")
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    maker = Bootstrap(args.out, args.backbone, args.seed)
    masks, fills = Collector(MASK_FAMILIES), Collector(INPAINTING_FAMILIES)
    if "mask" in args.tasks:
        for scene in maker.scenes(args.scenes):
            maker.masks(scene, masks)
            print(f"\r{scene.name[:60]:60}  {len(masks)} masks", end="", flush=True)  # noqa: T201
    if "inpainting" in args.tasks:
        for scene in maker.composites(args.scenes):
            maker.fills(scene, fills)
            print(f"\r{scene.name[:60]:60}  {len(fills)} fills", end="", flush=True)  # noqa: T201
    facts = {
        "backbone": maker.backbone.name,
        "backbone sha256": maker.backbone.digest,
        "seed": str(args.seed),
        "scenes": str(args.scenes),
        "photographs": str(len(maker.photos)),
        "cutouts": str(len(maker.cutouts)),
    }
    for task, collector in (("mask", masks), ("inpainting", fills)):
        if task in args.tasks:
            collector.labelled(facts).save(args.out / f"{task}.npz")
    print()  # noqa: T201


if __name__ == "__main__":
    main()
