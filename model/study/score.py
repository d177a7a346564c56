"""What the study measures: the evaluation of a row of a seed by judges that had no part in any training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from l2i_builder import storage
from l2i_builder.output.manifest import pretty
from model.baselines import GenerateThenSegment, Generator, make_generator
from model.config import load_model_config
from model.evaluate import Judges, Plan, evaluate
from model.evaluation.reference import Reference
from model.evaluation.tables import Table
from model.study import nets
from model.study.labels import STRONG, WEIGHTS, scenes, truth
from model.study.plan import ARMS, DONE, IMAGE, JUDGES, LABELS, SEGMENTED, Arm, Budget

THIRD = "third segmenter"  # independent: other scenes, another architecture, true masks
MAKER = "segmenter of the training masks"
FILE = "scores.json"
_THEN_SEGMENT = "then-segment:"
Scores = dict[int, dict[str, dict[str, float]]]  # seed -> row -> column -> value
_FILES = {"segmenter": "segmenter.safetensors", "attributes": "attributes.safetensors"}


class Features:
    """The attribute reader's features, as ``evaluate`` takes an extractor."""

    metric = "FD (attribute features)"

    def __init__(self, reader: nets.AttributeScorer) -> None:
        self.reader, self.name, self.digest = reader, reader.name, reader.digest

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.reader.features(images)


class Right:
    """The share of attributes that come out as the caption says, as ``evaluate`` takes a scorer."""

    metric = "attributes right"
    how = "share of five attributes"

    def __init__(self, reader: nets.AttributeScorer) -> None:
        self.reader, self.name = reader, reader.name

    def __call__(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray:
        return self.reader.right(images, texts)


def make_judges(budget: Budget, folder: Path) -> None:
    """Train the third segmenter and the attribute reader on scenes of their own; write how good they are."""
    seed = 10_000  # its streams are no seed's
    drawn = scenes(STRONG, seed, budget.strong_scenes, budget.size)
    test = scenes(STRONG + 1, seed, 512, budget.size)
    images = nets.pixels([scene.image for scene in drawn])
    torch.manual_seed(seed)
    segmenter = nets.StrongSegmenter()
    masks = nets.pixels([scene.mask for scene in drawn])
    nets.fit(segmenter, images, masks, nets.mask_loss, budget.strong_steps, seed)
    reader = nets.AttributeReader()
    wanted = torch.tensor([nets.attributes_of(scene.caption) for scene in drawn])
    nets.fit(reader, images, wanted, nets.attribute_loss, budget.strong_steps, seed)
    nets.save(segmenter, folder / _FILES["segmenter"])
    nets.save(reader, folder / _FILES["attributes"])
    third, attributes = judges(folder)
    stacked = np.stack([scene.image for scene in test])
    facts = {
        "third segmenter, IoU with the truth": float(truth(test, third(stacked)).mean()),
        "attributes read right in true scenes": float(
            attributes.right(list(stacked), [scene.caption for scene in test]).mean()
        ),
    }
    storage.write_bytes(str(folder / "judges.json"), pretty(facts))


def judges(folder: Path) -> tuple[nets.MaskMaker, nets.AttributeScorer]:
    """Load what ``make_judges`` wrote."""
    third = nets.MaskMaker(nets.StrongSegmenter(), folder / _FILES["segmenter"])
    return third, nets.AttributeScorer(folder / _FILES["attributes"])


def score(budget: Budget, out: Path, seed: int, arm: Arm) -> None:
    """Measure a trained row of a seed; write ``scores.json`` into its folder: row -> column -> value.

    Images are generated once. They are judged by the third segmenter, and once more by the weak one that made the
    training masks, as the paper judges by ICON. With the image-only row goes the one that segments its pictures.
    """
    base = out / f"seed-{seed}"
    folder = base / arm.name
    third, attributes = judges(out / JUDGES)
    weak = nets.MaskMaker(nets.WeakSegmenter(), base / LABELS / WEIGHTS)
    sampling = load_model_config("study").diffusion
    models = {arm.title: str(folder / "pipeline")}
    if arm.name == IMAGE:
        models[SEGMENTED] = f"{_THEN_SEGMENT}{folder / 'pipeline'}"
    references = [Reference("LL2I-E", str(base / LABELS / "ll2i-e"), budget.samples)]
    references.append(Reference("LA", str(base / LABELS / "la"), budget.samples))
    plan = Plan(models, references, str(folder / "evaluation"), sampling.sample_steps, sampling.guidance, seed, 64)

    def load(source: str, plan: Plan) -> Generator:
        if source.startswith(_THEN_SEGMENT):
            inner = make_generator(source.removeprefix(_THEN_SEGMENT), plan.steps, plan.guidance)
            return GenerateThenSegment(inner, weak, weak.digest)
        return make_generator(source, plan.steps, plan.guidance)

    whole = Judges(Features(attributes), Right(attributes), third, THIRD)
    values: dict[str, dict[str, float]] = {}
    for each in (Judges(segmenter=weak, segmenter_name=MAKER), whole):
        for row, cells in _values(evaluate(plan, each, load)).items():
            values.setdefault(row, {}).update(cells)
    storage.write_bytes(str(folder / FILE), pretty(values))


def read_scores(out: Path, seeds: int) -> Scores:
    """Return what is measured so far, of jobs that are done."""
    found: Scores = {}
    for seed in range(seeds):
        for arm in ARMS:
            folder = out / f"seed-{seed}" / arm.name
            if (folder / DONE).is_file():
                found.setdefault(seed, {}).update(json.loads((folder / FILE).read_text()))
    return found


def _values(tables: list[Table]) -> dict[str, dict[str, float]]:
    """Return row -> column -> value of all tables; undefined ones are left out."""
    found: dict[str, dict[str, float]] = {}
    for table in tables:
        for row in table.rows:
            cells = {name: cell.value for name, cell in row.cells.items() if cell.value is not None}
            found.setdefault(row.model, {}).update(cells)
    return found
