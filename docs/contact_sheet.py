"""The picture in the README: the best-scored triplets of a run as image | mask | cut-out | background.

python docs/contact_sheet.py runs/sample docs/images/triplets.webp
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from l2i_builder.output.shards import open_triplets
from l2i_builder.sample import Triplet

SIDE, GAP, COLUMNS = 192, 12, 2


def strip(triplet: Triplet) -> np.ndarray:
    """Return one triplet as four panels, uint8 [SIDE, 4 * SIDE, 3]; the cut-out lies on a checkerboard by its m."""
    y, x = np.indices((SIDE, SIDE)) // 12
    checks = np.where((y + x) % 2, 235, 205).astype(np.uint8)[..., None].repeat(3, axis=-1)
    image, mask, foreground, background = (
        cv2.resize(layer, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        for layer in (triplet.image, triplet.mask, triplet.foreground, triplet.background)
    )
    m = mask[..., None] / 255
    cut_out = np.rint(m * foreground + (1 - m) * checks).astype(np.uint8)
    return np.concatenate([image, mask[..., None].repeat(3, axis=-1), cut_out, background], axis=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="output folder of a build")
    parser.add_argument("picture", type=Path, help="where to write it (.webp, .png)")
    parser.add_argument("--count", type=int, default=6)
    arguments = parser.parse_args()
    triplets = list(open_triplets(sorted(str(path) for path in Path(arguments.run, "shards").glob("*.tar"))))
    triplets.sort(key=lambda t: -min(float(str(t.info["mask_score"])), float(str(t.info["inpainting_score"]))))
    strips = [strip(triplet) for triplet in triplets[: arguments.count]]
    rows = -(-len(strips) // COLUMNS)
    width = COLUMNS * 4 * SIDE + (COLUMNS - 1) * GAP
    sheet = np.full((rows * (SIDE + GAP) - GAP, width, 3), 255, np.uint8)
    for index, panel in enumerate(strips):
        top, left = index // COLUMNS * (SIDE + GAP), index % COLUMNS * (4 * SIDE + GAP)
        sheet[top : top + SIDE, left : left + panel.shape[1]] = panel
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet).save(arguments.picture, quality=85)


if __name__ == "__main__":
    main()
