"""The table of variants: ``python -m classifiers.variants --data FOLDER --out docs/classifiers.md``.

Every variant is trained on the training side of the bootstrapped labels and measured on the test side, with 95 %
bootstrap intervals over photographs; mask variants also on photographs with true masks, where ``--photos`` and
``--masks`` name some. The tables go between two comments of the page; the same data give the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from classifiers.evaluate import TrueMask, true_masks
from classifiers.features import FeatureCache, Labelled
from classifiers.mask_labels import BAD_IOU, GOOD_IOU
from classifiers.train import PLAIN, RICH, Recipe, train
from l2i_builder import metrics
from l2i_builder.errors import MetadataError
from l2i_builder.judge.backbone import make_backbone
from l2i_builder.judge.judges import Head, load_head

NEURON = Recipe(hidden=0, members=1, epochs=60, rate=3e-3, decay=0.5, dropout=0.3)
SINGLE = Recipe(hidden=32, members=1, epochs=60, rate=3e-3, decay=0.5, dropout=0.5)


@dataclass(frozen=True)
class Variant:
    name: str
    family: str
    recipe: Recipe


VARIANTS = {
    "mask": [
        Variant("paper's form: I and m, one neuron", "mask-plain", PLAIN),
        Variant("rich features, one neuron", "mask-rich", NEURON),
        Variant("rich, one network", "mask-rich", SINGLE),
        Variant("rich, 8 networks", "mask-rich", RICH),
        Variant("standing, 8 networks", "mask-standing", RICH),
        Variant("close, 8 networks", "mask-close", RICH),
    ],
    "inpainting": [
        Variant("paper's form: B alone, one neuron", "inpainting-plain", PLAIN),
        Variant("rich features, one neuron", "inpainting-rich", NEURON),
        Variant("rich, one network", "inpainting-rich", SINGLE),
        Variant("rich, 8 networks", "inpainting-rich", RICH),
    ],
}
COLUMNS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "AUC": lambda s, q: metrics.auc(s, q >= 0.5),
    "average precision": lambda s, q: metrics.average_precision(s, q >= 0.5),
    "precision at 95 % recall": lambda s, q: metrics.precision_at_recall(s, q >= 0.5),
    "calibration error": lambda s, q: metrics.expected_calibration_error(s, q),
}


def held_out_table(task: str, data: Labelled, repeats: int = 1000) -> tuple[list[str], dict[str, Head]]:
    """Return (lines of a Markdown table, trained head by variant) for one task."""
    test = data.take(data.test)
    lines = table_head(["variant", "inputs", *COLUMNS])
    heads = {}
    for variant in VARIANTS[task]:
        tensors, _ = train(data, task, variant.family, variant.recipe, 0.9)
        heads[variant.name] = Head({"name": variant.name, "dim": len(tensors["centre"])}, tensors, "")
        cells = _cells(heads[variant.name].predict(test.vectors[variant.family]), test, repeats)
        lines.append(row(variant.name, str(len(tensors["centre"])), *cells))
    return lines, heads


def _cells(scores: np.ndarray, test: Labelled, repeats: int) -> list[str]:
    def over(measure: Callable[[np.ndarray, np.ndarray], float]) -> str:
        return shown(lambda i: measure(scores[i], test.quality[i]), test.source, repeats)

    return [over(measure) for measure in COLUMNS.values()]


def true_mask_table(masks: list[TrueMask], scored: dict[str, np.ndarray], repeats: int = 1000) -> list[str]:
    """Return a Markdown table of heads against true masks; ``scored``: name -> scores float [N] of ``masks``."""
    quality, photo = np.array([m.iou for m in masks]), np.array([m.photo for m in masks])
    plain = np.array(["-" not in m.kind for m in masks])
    clear = (quality < BAD_IOU) | (quality > GOOD_IOU)

    def over(measure: Callable[[np.ndarray, np.ndarray], float], scores: np.ndarray, where: np.ndarray) -> str:
        return shown(lambda i: measure(scores[where][i], quality[where][i]), photo[where], repeats)

    lines = table_head(["variant", "AUC", "Spearman", "AUC, undisturbed", "Spearman, undisturbed"])
    for name, s in scored.items():
        cells = []
        for where in (np.ones(len(masks), bool), plain):
            cells += [over(_sharp, s, where & clear), over(metrics.spearman, s, where)]
        lines.append(row(name, *cells))
    return lines


def _sharp(scores: np.ndarray, quality: np.ndarray) -> float:
    return metrics.auc(scores, quality > GOOD_IOU)


def shown(measure: metrics.Measure, groups: np.ndarray, repeats: int) -> str:
    low, high = metrics.interval(measure, groups, repeats)
    return f"{measure(np.arange(len(groups))):.3f} [{low:.3f}, {high:.3f}]"


def table_head(names: list[str]) -> list[str]:
    return [row(*names), row(*(["---"] * len(names)))]


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def counted(data: Labelled) -> str:
    """Say how many samples, good ones and photographs each side has."""
    parts = []
    for name, side in (("training", data.take(~data.test)), ("test", data.take(data.test))):
        photos = len(set(side.source.tolist()))
        parts.append(f"{name} {len(side)} ({int((side.quality >= 0.5).sum())} good, {photos} photographs)")
    return ", ".join(parts)


def write_between(page: Path, mark: str, lines: list[str]) -> None:
    """Replace what a page has between ``<!-- mark -->`` and ``<!-- /mark -->``. Raises MetadataError without them."""
    start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise MetadataError(f"{page} has no lines {start} and {end}, between which the table goes")
    page.write_text(f"{before}{start}\n" + "\n".join(lines) + f"\n{end}{after}", encoding="utf-8")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m classifiers.variants", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with mask.npz and inpainting.npz")
    parser.add_argument("--out", type=Path, required=True, help="page with the two comments")
    parser.add_argument("--photos", type=Path, help="photographs with true masks")
    parser.add_argument("--masks", type=Path, help="their masks: same names, .png, white is the object")
    parser.add_argument("--segmenters", nargs="+", default=["u2net", "u2netp"])
    parser.add_argument("--results", type=Path, default=Path("runs/results"), help="where segmentations are kept")
    parser.add_argument(
        "--heads", nargs="*", default=["mask-v1", "mask-v2"], help="shipped heads, on those photographs as well"
    )
    args = parser.parse_args(argv)
    lines: list[str] = []
    heads: dict[str, dict[str, Head]] = {}
    for task in VARIANTS:
        data = Labelled.load(args.data / f"{task}.npz")
        table, heads[task] = held_out_table(task, data)
        lines += ["", f"**The {task} filter.** Backbone `{data.facts['backbone']}`; {counted(data)}.", "", *table]
    if args.photos:
        cache = FeatureCache(make_backbone(data.facts["backbone"]), args.results)
        own = {name: load_head(name, "mask") for name in args.heads}
        families = {variant.name: variant.family for variant in VARIANTS["mask"]}
        families |= {name: head.card["features"] for name, head in own.items()}
        found = true_masks(
            args.photos, args.masks, args.segmenters, args.results, cache, sorted(set(families.values()))
        )
        masks = list(track(found, "masks of photographs", transient=True))
        trained = heads["mask"] | own
        scored = {
            name: trained[name].predict(np.stack([mask.vectors[family] for mask in masks]))
            for name, family in families.items()
        }
        photos = len({mask.photo for mask in masks})
        lines += [
            "",
            f"**On {photos} photographs with true masks**, {len(masks)} masks of {', '.join(args.segmenters)}:",
        ]
        lines += ["", *true_mask_table(masks, scored)]
    write_between(args.out, "variants", [*lines, ""])


if __name__ == "__main__":
    main()
