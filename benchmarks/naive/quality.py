"""How good both sides' triplets are: backgrounds against known ones, masks against each other."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from benchmarks.naive.sides import Made, Side, build, by_hand, published
from classifiers.scenes import Scene, iou
from classifiers.scenes import composites as scenes_of
from classifiers.sources import Picture, decode
from l2i_builder.config import Config, Judge
from l2i_builder.layers import hole

SIDES = ("l2i build", "by hand")
KEEP_ALL = ("judge.mask.threshold=0", "judge.inpainting.threshold=0", "layers.min_area=0", "layers.max_area=1")


@dataclass
class Quality:
    """Means over composites and over photographs that both sides kept. psnr: dB inside the union of both holes."""

    composites: int = 0
    psnr: dict[str, float] = field(default_factory=dict)
    score: dict[str, float] = field(default_factory=dict)  # of the inpainting judge
    better: int = 0  # composites whose background is nearer to the truth in the build
    mask_iou: float = 0.0  # of photographs both kept
    mask_iou_least: float = 0.0
    both_kept: int = 0
    kept_shares: dict[str, int] = field(default_factory=dict)

    def compare_kept(self, ours: Side, theirs: Side) -> None:
        common = sorted(ours.made.keys() & theirs.made.keys())
        ious = [iou(ours.made[name].mask, theirs.made[name].mask) for name in common]
        self.both_kept = len(common)
        self.kept_shares = dict(zip(SIDES, (ours.kept, theirs.kept), strict=True))
        self.mask_iou, self.mask_iou_least = (statistics.mean(ious), min(ious)) if ious else (0.0, 0.0)

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    def show(self) -> None:
        print(f"backgrounds of {self.composites} composites with a known background, in the hole:")
        for side in SIDES:
            print(f"  {side:<12} PSNR {self.psnr[side]:.2f} dB, the inpainting judge's score {self.score[side]:.3f}")
        print(f"  nearer to the truth in {self.better} of {self.composites} in the build")
        print(
            f"kept by both: {self.both_kept} (of {self.kept_shares}); IoU of their masks {self.mask_iou:.3f}, "
            f"least {self.mask_iou_least:.3f}"
        )


def composites(ours: Side, photos: list[Path], count: int) -> list[Scene]:
    """Paste objects that the build cut out onto windows of photographs without their objects."""
    from l2i_builder.config import Segment
    from l2i_builder.segment.segmenter import make_segmenter

    model = make_segmenter(Segment(backend="u2netp"))
    cutouts = [Picture(name, _cropped(np.dstack([made.image, made.mask]))) for name, made in sorted(ours.made.items())]
    decoded = [(path.name, decode(path.read_bytes())) for path in photos if not path.name.startswith("texture-")]
    pictures = [Picture(name, pixels[..., :3]) for name, pixels in decoded if pixels is not None]
    for side in (True, False):  # composites stay on one side of the bootstrap's split: both must be there
        if not any(one.test == side for one in pictures):
            cutouts = [one for one in cutouts if one.test != side]
    if not cutouts:
        return []
    found = scenes_of(pictures, lambda image: model(image[None])[0], cutouts, np.random.default_rng(0))
    return list(islice(found, count))


def _cropped(cutout: np.ndarray) -> np.ndarray:
    """Cut an object's frame to the object."""
    y, x = np.nonzero(cutout[..., 3] > 25)
    return cutout[y.min() : y.max() + 1, x.min() : x.max() + 1]


def measure_quality(scenes: list[Scene], folder: Path, threads: int, venvs: Path | None) -> Quality:
    """Send composites through both sides, with nothing refused."""
    folder.mkdir(parents=True)
    files = []
    for number, scene in enumerate(scenes):
        files.append(folder / f"composite-{number:03d}.png")
        cv2.imwrite(str(files[-1]), scene.image[..., ::-1])
    with published(folder / "web", files) as links:
        ours = build(links, folder / "ours", *KEEP_ALL)
        theirs = by_hand(links, folder / "theirs", threads, venvs, filters_first=False, keep_all=True)
    judge = _judge()
    pairs = [(scene, ours.made[file.name], theirs.made[file.name]) for scene, file in zip(scenes, files, strict=True)]
    values = {side: [_psnr(*pair, pair[1 + place]) for pair in pairs] for place, side in enumerate(SIDES)}
    quality = Quality(composites=len(scenes))
    for place, side in enumerate(SIDES):
        quality.psnr[side] = statistics.mean(values[side])
        quality.score[side] = statistics.mean(judge(pair[1 + place]) for pair in pairs)
    quality.better = sum(mine > other for mine, other in zip(*(values[side] for side in SIDES), strict=True))
    return quality


def _hole(mask: np.ndarray) -> np.ndarray:
    rule = Config().layers
    return hole(mask, rule.foreground_threshold, rule.dilate)


def _psnr(scene: Scene, one: Made, other: Made, judged: Made) -> float:
    """Peak signal-to-noise ratio of a background against the true one, where either side has filled, in dB."""
    assert scene.background is not None
    region = _hole(one.mask) | _hole(other.mask)
    if not region.any():
        region[:] = True
    error = judged.background[region].astype(np.float64) - scene.background[region]
    return float(10 * np.log10(255**2 / max((error**2).mean(), 1e-9)))


def _judge():
    from l2i_builder.judge.judges import make_inpainting_judge

    judge = make_inpainting_judge(Judge())

    def score(made: Made) -> float:
        arrays = (made.image, made.mask, made.background, _hole(made.mask))
        return float(judge.score(*(array[None] for array in arrays))[0])

    return score
