"""The pictures in the documentation: the best-scored samples of a run.

python docs/contact_sheet.py runs/sample docs/images/triplets.webp          # image | mask | cut-out | background
python docs/contact_sheet.py runs/layers docs/images/layers.webp --layers   # image | every object | background | all
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from l2i_builder import layers
from l2i_builder.output.layered import open_layers
from l2i_builder.output.shards import open_triplets
from l2i_builder.sample import LayeredSample, Triplet

SIDE, GAP, COLUMNS = 192, 12, 2


def checkerboard() -> np.ndarray:
    """uint8 [SIDE, SIDE, 3], light greys."""
    y, x = np.indices((SIDE, SIDE)) // 12
    return np.where((y + x) % 2, 235, 205).astype(np.uint8)[..., None].repeat(3, axis=-1)


def cell(picture: np.ndarray) -> np.ndarray:
    """Scale a picture, uint8 [H, W, ...], to SIDE."""
    return cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def cut_out(foreground: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return F by its m on a checkerboard, uint8 [SIDE, SIDE, 3]."""
    return layers.composite(cell(foreground), checkerboard(), cell(mask))


def strip(triplet: Triplet) -> np.ndarray:
    """Return one triplet as four panels, uint8 [SIDE, 4 * SIDE, 3]."""
    mask = cell(triplet.mask)[..., None].repeat(3, axis=-1)
    cutout = cut_out(triplet.foreground, triplet.mask)
    return np.concatenate([cell(triplet.image), mask, cutout, cell(triplet.background)], axis=1)


def line(sample: LayeredSample, objects: int) -> np.ndarray:
    """Return a sample with room for so many objects: the image, each object front to back, what is behind them, and
    the composite of all layers, uint8 [SIDE, ..., 3]."""
    cells = [cell(sample.image), *(cut_out(layer[..., :3], layer[..., 3]) for layer in sample.layers)]
    cells += [np.full((SIDE, SIDE, 3), 255, np.uint8)] * (objects - len(sample.layers))
    made = layers.flatten(sample.layers, sample.background)
    return sheet([*cells, cell(sample.background), cell(made)], objects + 3, GAP // 3)


def sheet(panels: list[np.ndarray], columns: int, gap: int = GAP) -> np.ndarray:
    """Lay out panels of one size, row by row."""
    rows, width = -(-len(panels) // columns), panels[0].shape[1]
    result = np.full((rows * (SIDE + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for index, panel in enumerate(panels):
        top, left = index // columns * (SIDE + gap), index % columns * (width + gap)
        result[top : top + SIDE, left : left + width] = panel
    return result


def worst(sample: Triplet | LayeredSample) -> float:
    """The lower one of a sample's scores."""
    return min(float(str(sample.info[name])) for name in ("mask_score", "inpainting_score"))


def triplets_of(shards: Iterable[str], count: int) -> np.ndarray:
    found = sorted(open_triplets(shards), key=lambda triplet: -worst(triplet))
    return sheet([strip(triplet) for triplet in found[:count]], COLUMNS)


def layers_of(shards: Iterable[str], count: int) -> np.ndarray:
    """The samples with most layers, one a row."""
    found = [sample for sample in open_layers(shards) if len(sample.layers) > 1]
    found.sort(key=lambda sample: (-len(sample.layers), -worst(sample)))
    if not found:
        raise SystemExit("no sample of this run has more than two layers: build it with --set layers.count=4")
    return sheet([line(sample, len(found[0].layers)) for sample in found[:count]], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="output folder of a build")
    parser.add_argument("picture", type=Path, help="where to write it (.webp, .png)")
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--layers", action="store_true", help="samples of a run with layers.count above 2")
    arguments = parser.parse_args()
    shards = sorted(str(path) for path in Path(arguments.run, "shards").glob("*.tar"))
    picture = (layers_of if arguments.layers else triplets_of)(shards, arguments.count)
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(arguments.picture, quality=85)


if __name__ == "__main__":
    main()
