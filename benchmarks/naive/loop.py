"""The loop a user would write over img2dataset's tars: rembg, pypatchmatch, the judges on timm, webdataset.

    python -m benchmarks.naive.loop --tars DOWNLOADED --out TRIPLETS

Runs in an environment of its own. The judges are this project's heads through its own feature code: what the user has
to get from somewhere. One picture after another, a process a core, one thread each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from functools import partial
from pathlib import Path

import cv2
import numpy as np

FOREGROUND, RADIUS = 0.1, 9  # as this project cuts F, and by how many pixels it grows the hole


class Tools:
    """What a process loads once."""

    def __init__(self) -> None:
        from rembg import new_session

        from l2i_builder.config import Judge
        from l2i_builder.judge.judges import make_inpainting_judge, make_mask_judge

        cv2.setNumThreads(1)
        self.session = new_session("u2net")
        self.mask_judge, self.inpainting_judge = make_mask_judge(Judge()), make_inpainting_judge(Judge())


tools: Tools | None = None


def load() -> None:
    global tools
    tools = Tools()


def shard(tar: Path, out: Path, filters_first: bool, keep_all: bool) -> dict[str, int]:
    """Make triplets of one tar. Returns counts."""
    import patchmatch
    import webdataset
    from rembg import remove

    assert tools is not None
    counts = {"seen": 0, "inpainted": 0, "kept": 0}
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * RADIUS + 1, 2 * RADIUS + 1))
    samples = webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False).decode("pil")
    with webdataset.TarWriter(str(out / tar.name)) as sink:
        for sample in samples:
            counts["seen"] += 1
            picture = sample["jpg"].convert("RGB")
            image = np.asarray(picture)
            mask = np.asarray(remove(picture, session=tools.session, only_mask=True))
            selected = (mask > FOREGROUND * 255).astype(np.uint8)
            hole = cv2.dilate(selected, disc) > 0
            if not keep_all and ((mask > 127).mean() < 0.01 or hole.mean() > 0.9):
                continue
            good = keep_all or tools.mask_judge.score(image[None], mask[None])[0] >= tools.mask_judge.threshold
            if filters_first and not good:
                continue
            background = patchmatch.inpaint(image, hole, patch_size=3) if hole.any() else image
            counts["inpainted"] += 1
            arrays = (image[None], mask[None], background[None], hole[None])
            score = tools.inpainting_judge.score(*arrays)[0]
            if not keep_all and not (good and score >= tools.inpainting_judge.threshold):
                continue
            counts["kept"] += 1
            front = np.where(selected[..., None] > 0, image, np.uint8(0))
            layers = {"jpg": image, "fg.png": front, "bg.jpg": background, "mask.png": mask}
            sink.write({"__key__": sample["__key__"], **layers, "txt": sample["txt"], "json": {"score": float(score)}})
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tars", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--filters-first", action="store_true", help="do not inpaint what the mask judge refuses")
    parser.add_argument("--keep-all", action="store_true", help="score, but refuse nothing")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    one = partial(shard, out=args.out, filters_first=args.filters_first, keep_all=args.keep_all)
    with multiprocessing.get_context("spawn").Pool(args.processes, load) as pool:
        counts = list(pool.imap_unordered(one, sorted(args.tars.glob("*.tar"))))
    print(json.dumps({name: sum(count[name] for count in counts) for name in ("seen", "inpainted", "kept")}))


if __name__ == "__main__":
    main()
