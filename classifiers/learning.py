"""How many labels buy how much: ``python -m classifiers.learning --data FOLDER --out docs/classifiers.md``.

Real segmentations (or an inpainter's fills), whose labels are bootstrapped, stand for samples that people judged: a
head is trained on so many of them, drawn at random from the training side, and measured on those of the test side.
Once alone, once mixed with the masks and fills that were spoilt on purpose, which cost nobody's time.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.progress import track

from classifiers.features import Labelled
from classifiers.train import FAMILY, RECIPE, fit
from classifiers.variants import row, table_head, write_between
from l2i_builder import metrics
from l2i_builder.judge.judges import Head

COUNTS = (0, 25, 100, 300)
DRAWS = 3
REPEATS = 200  # of the bootstrap over test photographs, for every draw
WEIGHT = 0.2  # of a bootstrapped label beside a person's
# What people would judge: what the pipeline's own models make, by the beginning of the kind's name.
REAL = {"mask": ("u2net",), "inpainting": ("patchmatch", "telea")}


def stands_for_people(data: Labelled, task: str) -> np.ndarray:
    """Return which samples models made, bool [N]; the others were spoilt on purpose, or are true."""
    return np.array([kind.startswith(REAL[task]) and not kind.endswith("-part") for kind in data.kind])


def curve(data: Labelled, task: str, alone: bool) -> list[tuple[int, float, float, float]]:
    """Return (labels, AUC, low, high): the mean over draws, and the 95 % interval over draws and test photographs.

    alone: train on the drawn labels only; a head cannot be trained on fewer than ten, or on one class.
    """
    family, real = FAMILY[task], stands_for_people(data, task)
    pool, base, test = (data.take(side) for side in (real & ~data.test, ~real & ~data.test, real & data.test))
    points = []
    for count in [n for n in COUNTS if n < len(pool)] + [len(pool)]:
        if alone and count < 10:
            continue
        scores = []
        for draw in range(DRAWS if count and count < len(pool) else 1):
            chosen = pool.take(np.random.default_rng([draw, count]).permutation(len(pool))[:count])
            parts = [chosen] if alone else [chosen, base]
            weight = np.concatenate([np.full(len(part), 1.0 if part is chosen else WEIGHT) for part in parts])
            vectors, quality = (
                np.concatenate(c) for c in zip(*((p.vectors[family], p.quality) for p in parts), strict=True)
            )
            if (quality >= 0.5).all() or (quality < 0.5).all():
                continue
            tensors = fit(vectors, quality, weight, RECIPE[task], draw)
            scores.append(Head({"name": "", "dim": vectors.shape[1]}, tensors, "").predict(test.vectors[family]))
        if scores:
            points.append((count, *_spread(scores, test)))
    return points


def _spread(scores: list[np.ndarray], test: Labelled) -> tuple[float, float, float]:
    """Return the mean AUC over draws, and the interval of one draw's over draws and resampled photographs."""
    good = test.quality >= 0.5
    _, photo = np.unique(test.source, return_inverse=True)
    members = [np.flatnonzero(photo == k) for k in range(photo.max() + 1)]
    rng, values = np.random.default_rng(0), []
    for s in scores:
        for _ in range(REPEATS):
            i = np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))])
            values.append(metrics.auc(s[i], good[i]))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(np.mean([metrics.auc(s, good) for s in scores])), float(low), float(high)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m classifiers.learning", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with mask.npz and inpainting.npz")
    parser.add_argument("--out", type=Path, required=True, help="page with the comments <!-- labels -->")
    args = parser.parse_args(argv)
    lines: list[str] = []
    for task in track(("mask", "inpainting"), "learning curves", transient=True):
        data = Labelled.load(args.data / f"{task}.npz")
        curves = {alone: {n: rest for n, *rest in curve(data, task, alone)} for alone in (True, False)}
        test = data.take(data.test & stands_for_people(data, task))
        lines += [
            "",
            f"**The {task} filter**, AUC on {len(test)} samples of {len(set(test.source.tolist()))} photographs:",
            "",
        ]
        lines += table_head(["labels", "alone", f"with the bootstrapped ones, weighing {WEIGHT:g}"])
        for count in sorted({n for points in curves.values() for n in points}):
            cells = [
                f"{found[0]:.3f} [{found[1]:.3f}, {found[2]:.3f}]" if (found := curves[alone].get(count)) else "–"
                for alone in (True, False)
            ]
            lines.append(row(str(count), *cells))
    write_between(args.out, "labels", [*lines, ""])


if __name__ == "__main__":
    main()
