"""Every model of a build in its forms, by turns on the same photographs, each against its reference form.

    python -m benchmarks.models --folder runs/sample-web/photos --stages segment inpaint judge
    python -m benchmarks.models --images 24 --openvino --json models.json

A table a model: CPU and wall milliseconds an image (least of all rounds), speed in CPU time against the first row,
and closeness to it. Masks: least IoU at 0.5, mean difference in levels. Backgrounds: PSNR against the true background
of composites in dB, structural similarity, the judge's mean score, difference to the first row in levels. Judges:
largest difference of a score and of a feature. One thread unless a row says otherwise.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks import inpaint_forms, judge_forms, segment_forms
from benchmarks.forms import Run, plain, table
from benchmarks.photographs import SAMPLE
from classifiers.scenes import square
from classifiers.sources import decode
from l2i_builder.weights.registry import cached

Measured = tuple[dict[str, Run], dict[str, dict[str, float]]]


def photographs(folder: Path, count: int) -> list[np.ndarray]:
    """Return squares of ``count`` photographs, evenly spread over the folder, uint8 [512, 512, 3]."""
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    pictures = [pixels[..., :3] for path in files if (pixels := decode(path.read_bytes())) is not None]
    if len(pictures) < 2:
        raise SystemExit(f"There are no photographs in {folder}: run `make build-shards` once, or give --folder.")
    chosen = [pictures[round(number)] for number in np.linspace(0, len(pictures) - 1, min(count, len(pictures)))]
    return [square(_middle(picture)) for picture in chosen]


def _middle(picture: np.ndarray) -> np.ndarray:
    side = min(picture.shape[:2])
    top, left = (picture.shape[0] - side) // 2, (picture.shape[1] - side) // 2
    return picture[top : top + side, left : left + side]


def measure(args: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """Measure the chosen stages, print a table of each model, and return the numbers."""
    images = photographs(args.folder, args.images)
    stages: dict[str, Callable[[], dict[str, Measured]]] = {
        "segment": lambda: segment_forms.measure(images, args.rounds, args.segmenters, args.openvino, args.venvs),
        "inpaint": lambda: inpaint_forms.measure(images, args.rounds),
        "judge": lambda: judge_forms.measure(images, args.rounds),
    }
    numbers: dict[str, Any] = {}
    for stage in args.stages:
        for name, (runs, closeness) in stages[stage]().items():
            print(table(f"{name}, {len(images)} images", runs, closeness), flush=True)
            numbers[name] = plain(runs, closeness)
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=SAMPLE, help="photographs")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--stages", nargs="+", default=["segment", "inpaint", "judge"])
    parser.add_argument("--segmenters", nargs="+", default=["u2net", "u2netp"])
    parser.add_argument("--openvino", action="store_true", help="also OpenVINO, installed into a folder of its own")
    parser.add_argument("--venvs", type=Path, help="where to; none: the user's cache")
    parser.add_argument("--quick", action="store_true", help="two images, one round, the small segmenter")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    if args.quick:
        args.images, args.rounds, args.segmenters = 2, 1, ["u2netp"]
    missing = [name for name in (*args.segmenters, "efficientnet_lite0") if not cached(name)]
    if missing:
        raise SystemExit(f"Weights are not in the cache: run `l2i weights pull {' '.join(missing)}` first.")
    cv2.setNumThreads(1)
    numbers = measure(args)
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
