"""Evaluation in the shape of the paper's Tables I to III, from captions to one JSON and one HTML page.

Protocol (paper, section 5): an image for each caption of LL2I-E; Fréchet distance of composites to the images of
LL2I-E and LA; agreement of image and caption; IoU of the generated mask with the segmenter's mask of the generated
composite, and with masks that people drew on it. Beyond it: what the autoencoder gives back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from l2i_builder import storage
from l2i_builder.errors import ConfigError
from model.baselines import Generator, PipelineGenerator, make_generator
from model.evaluation.features import Extractor, features
from model.evaluation.frechet import REPEATS, frechet_distance, frechet_interval
from model.evaluation.generation import Generated, generate, read_png
from model.evaluation.measures import iou, soft_iou
from model.evaluation.reconstruction import Perceptual, reconstruct
from model.evaluation.reference import Reference
from model.evaluation.tables import Cell, Column, Result, Table, mean, to_html, to_json
from model.pipeline import GUIDANCE, STEPS
from model.text import words

SELF_JUDGED = "its mask is this segmenter's own: 1 by construction"
RECONSTRUCTION = {  # measure -> (column, more is better, digits)
    "psnr_foreground": ("PSNR F, dB", True, 2),
    "psnr_inside": ("PSNR F inside m, dB", True, 2),
    "psnr_background": ("PSNR B, dB", True, 2),
    "psnr_image": ("PSNR composite, dB", True, 2),
    "lpips_foreground": ("{perceptual} F", False, 3),
    "lpips_background": ("{perceptual} B", False, 3),
    "lpips_image": ("{perceptual} composite", False, 3),
    "mask_iou": ("mask IoU", True, 3),
    "mask_soft_iou": ("mask soft IoU", True, 3),
    "mask_mae": ("mask MAE", False, 4),
}


class Scorer(Protocol):
    """Agreement of images and texts, see ``agreement.ClipScorer``."""

    name: str
    metric: str
    how: str  # what its numbers are

    def __call__(self, images: Sequence[np.ndarray], texts: Sequence[str]) -> np.ndarray: ...


class Segmenter(Protocol):
    digest: str

    def __call__(self, images: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Judges:
    """Who judges. What is None is left out of the tables."""

    extractor: Extractor | None = None
    scorer: Scorer | None = None
    segmenter: Segmenter | None = None
    segmenter_name: str = ""
    perceptual: Perceptual | None = None
    perceptual_name: str = "LPIPS"


@dataclass(frozen=True)
class Plan:
    """What is evaluated. ``models``: row name -> what ``make_generator`` takes; ``drawn``: row name -> folder of masks
    that people drew on the row's composites, ``{key}.png``, white the object; ``filtering``: the rows of Table III."""

    models: Mapping[str, str]
    references: Sequence[Reference]
    out: str
    steps: int = STEPS
    guidance: float = GUIDANCE
    seed: int = 0
    batch: int = 8
    drawn: Mapping[str, str] = field(default_factory=dict)
    filtering: Sequence[str] = ()
    repeats: int = REPEATS


Progress = Callable[[str, int, int], None]  # what is done, how many more, of how many


def evaluate(
    plan: Plan,
    judges: Judges,
    load: Callable[[str, Plan], Generator] | None = None,
    progress: Progress = lambda what, more, total: None,
) -> list[Table]:
    """Generate, judge, and write ``results.json`` and ``results.html`` into ``plan.out``; return the tables.

    Images go into a folder for each row and are kept: running again goes on. ``load`` makes a row's generator.
    Raises ConfigError for a plan that names rows that are not there, and what loading and reading raise.
    """
    _check(plan)
    captions = plan.references[0].captions()
    real = _reference_features(plan, judges, progress)
    rows = []
    for name, source in plan.models.items():
        generator = (load or _load)(source, plan)
        folder = storage.join(plan.out, slug(name))
        settings = {"weights": generator.digest, "steps": plan.steps, "guidance": plan.guidance, "seed": plan.seed}
        what = f"{name}: images"
        progress(what, 0, len(captions))
        made = generate(
            generator,
            captions,
            folder,
            settings,
            plan.seed,
            plan.batch,
            lambda more, what=what: progress(what, more, len(captions)),  # type: ignore[misc]
        )
        rows.append(_judge(name, source, generator, made, captions, real, plan, judges, progress))
    tables = _tables(plan, judges, rows)
    facts = _facts(plan, judges, len(captions), {name: len(found) for name, found in real.items()})
    storage.write_bytes(storage.join(plan.out, "results.json"), to_json(tables, facts))
    storage.write_bytes(storage.join(plan.out, "results.html"), to_html(tables, facts))
    return tables


def slug(name: str) -> str:
    """Return a row's folder: its words, lower case, with dashes."""
    return "-".join(words(name)) or "model"


def _load(source: str, plan: Plan) -> Generator:
    return make_generator(source, plan.steps, plan.guidance)


def _check(plan: Plan) -> None:
    if not plan.models or not plan.references:
        raise ConfigError("nothing to evaluate: give at least one model and one reference")
    if len({slug(name) for name in plan.models}) < len(plan.models):
        raise ConfigError(f"two of the rows {', '.join(plan.models)} would share a folder; name them differently")
    for name in [*plan.drawn, *plan.filtering]:
        if name not in plan.models:
            raise ConfigError(f"no row is called {name!r}; there are {', '.join(plan.models)}")


def _reference_features(plan: Plan, judges: Judges, progress: Progress) -> dict[str, np.ndarray]:
    """Return the features of each reference by its name; {} without an extractor."""
    if judges.extractor is None:
        return {}
    return {
        reference.name: features(
            judges.extractor,
            _told(reference.images(), lambda name=reference.name: progress(f"{name}: features", 1, 0)),  # type: ignore[misc]
        )
        for reference in plan.references
    }


def _judge(
    name: str,
    source: str,
    generator: Generator,
    made: Generated,
    captions: Sequence[tuple[str, str]],
    real: Mapping[str, np.ndarray],
    plan: Plan,
    judges: Judges,
    progress: Progress,
) -> Result:
    """Return a row of all tables."""
    first = next(made.composites())
    row = Result(name, source, first.shape[0])

    def shown(what: str) -> Iterator[np.ndarray]:
        return _told(made.composites(), lambda: progress(f"{name}: {what}", 1, len(captions)))

    if judges.extractor is not None:
        found = features(judges.extractor, shown("features"))
        for reference, true in real.items():
            row.cells[_distance_name(judges, reference)] = _frechet(found, true, plan)
    if judges.scorer is not None:
        row.cells[judges.scorer.metric] = mean(_agreement(judges.scorer, shown("captions"), captions, plan.batch))
    if made.layered:
        if judges.segmenter is not None:
            row.cells |= _against_segmenter(made, generator, judges, shown("masks"))
        if name in plan.drawn:
            row.cells |= _against_people(made, plan.drawn[name])
    if isinstance(generator, PipelineGenerator):
        row.cells |= _reconstruction(generator, plan, judges, row.resolution)
    return row


def _frechet(found: np.ndarray, true: np.ndarray, plan: Plan) -> Cell:
    if min(len(found), len(true)) < 2:
        return Cell(None, why="fewer than two images")
    low, high = frechet_interval(found, true, plan.repeats, plan.seed)
    return Cell(frechet_distance(found, true), low, high, len(found))


def _agreement(
    scorer: Scorer, images: Iterator[np.ndarray], captions: Sequence[tuple[str, str]], batch: int
) -> np.ndarray:
    texts = [caption for _, caption in captions]
    scores: list[np.ndarray] = []
    waiting: list[np.ndarray] = []
    done = 0
    for image in images:
        waiting.append(image)
        if len(waiting) == batch or done + len(waiting) == len(texts):
            scores.append(scorer(waiting, texts[done : done + len(waiting)]))
            done, waiting = done + len(waiting), []
    return np.concatenate(scores)


def _against_segmenter(
    made: Generated, generator: Generator, judges: Judges, composites: Iterator[np.ndarray]
) -> dict[str, Cell]:
    """IoU of the generated masks with the segmenter's masks of the generated composites."""
    assert judges.segmenter is not None
    names = (f"IoU, {judges.segmenter_name}", f"soft IoU, {judges.segmenter_name}")
    if generator.segmenter == judges.segmenter.digest:
        return dict.fromkeys(names, Cell(None, why=SELF_JUDGED))
    hard, soft = [], []
    for composite, mask in zip(composites, made.masks(), strict=True):
        theirs = judges.segmenter(composite[None])[0] / 255
        hard.append(iou(mask / 255, theirs))
        soft.append(soft_iou(mask / 255, theirs))
    return dict(zip(names, (mean(np.array(hard)), mean(np.array(soft))), strict=True))


def _against_people(made: Generated, folder: str) -> dict[str, Cell]:
    """IoU of the generated masks with drawn ones, for the keys that have one."""
    there = set(storage.list_names(folder, ".png"))
    hard = []
    for key, mask in zip(made.keys, made.masks(), strict=True):
        if f"{key}.png" not in there:
            continue
        drawn = read_png(storage.join(folder, f"{key}.png"), "L")
        if drawn.shape != mask.shape:
            raise ConfigError(
                f"{folder}/{key}.png is {drawn.shape[1]}x{drawn.shape[0]} pixels, the composite "
                f"{mask.shape[1]}x{mask.shape[0]}; draw masks over the composites as they are"
            )
        hard.append(iou(mask / 255, drawn / 255))
    if not hard:
        raise ConfigError(f"{folder} holds no mask of this row's images; name them as its composites, key.png")
    return {"IoU, people": mean(np.array(hard))}


def _reconstruction(generator: PipelineGenerator, plan: Plan, judges: Judges, size: int) -> dict[str, Cell]:
    """What the row's autoencoder gives back of the first reference's samples."""
    samples = plan.references[0].layers(size)
    found = reconstruct(generator.pipeline.autoencoder, samples, judges.perceptual, plan.batch)
    return {_column(measure, judges).name: mean(values) for measure, values in found.items()}


def _column(measure: str, judges: Judges) -> Column:
    name, more, digits = RECONSTRUCTION[measure]
    return Column(name.format(perceptual=judges.perceptual_name), more, digits)


def _distance_name(judges: Judges, reference: str) -> str:
    assert judges.extractor is not None
    return f"{judges.extractor.metric}, {reference}"


def _tables(plan: Plan, judges: Judges, rows: list[Result]) -> list[Table]:
    """Sort the measures into the paper's tables; a table that nobody judged is left out."""
    distances = []
    if judges.extractor is not None:
        distances = [Column(_distance_name(judges, reference.name), False, 2) for reference in plan.references]
    scores = [Column(judges.scorer.metric, True)] if judges.scorer is not None else []
    masks = []
    if judges.segmenter is not None:
        masks = [Column(f"{kind}, {judges.segmenter_name}", True) for kind in ("IoU", "soft IoU")]
    people = [Column("IoU, people", True)] if plan.drawn else []
    known = {name for row in rows for name in row.cells}
    given_back = [column for column in (_column(m, judges) for m in RECONSTRUCTION) if column.name in known]
    filtered = [row for row in rows if row.model in plan.filtering]
    tables = [
        Table("Table I. Composites", [*distances, *scores], rows, _notes_images(plan, judges)),
        Table("Table II. Masks", [*masks, *people], [row for row in rows if _has(row, masks + people)], _NOTES_MASKS),
        Table(
            "Table III. Effect of filtering", [*distances[:1], *scores, *masks[:1], *people], filtered, _NOTES_FILTERING
        ),
        Table(
            "Autoencoders: what they give back", given_back, [row for row in rows if _has(row, given_back)], _NOTES_BACK
        ),
    ]
    return [table for table in tables if table.columns and table.rows]


def _has(row: Result, columns: Sequence[Column]) -> bool:
    return any(column.name in row.cells for column in columns)


def _notes_images(plan: Plan, judges: Judges) -> list[str]:
    notes = [f"An image for each of the first captions of {plan.references[0].name}, from noise that its key decides."]
    if judges.extractor is not None:
        notes.append(
            "Distances of different sample counts or extractors cannot be compared. Intervals are 1.96 deviations "
            f"over {plan.repeats} resamples of both sets: they do not show the bias of small sets."
        )
    return notes


_NOTES_MASKS = [
    "The generated mask against the segmenter's mask of the generated composite, cut at 0.5, and against masks that "
    "people drew. The former favours whatever made the training masks.",
]
_NOTES_FILTERING = ["The same model and size of data set, filtered against unfiltered."]
_NOTES_BACK = ["The first reference's samples, encoded to the posterior's mean and decoded."]


def _facts(plan: Plan, judges: Judges, captions: int, images: Mapping[str, int]) -> dict[str, Any]:
    """Everything a reader needs to measure again. ``images``: of each reference, where they were looked at."""
    facts: dict[str, Any] = {
        "models": dict(plan.models),
        "references": [
            {"name": each.name, "location": each.location, "images": images.get(each.name, captions)}
            for each in plan.references
        ],
        "captions": captions,
        "sampling": f"{plan.steps} steps, guidance {plan.guidance:g}, seed {plan.seed}",
    }
    if judges.extractor is not None:
        facts["features"] = f"{judges.extractor.name}, SHA-256 {judges.extractor.digest}"
        facts["references' images"] = "at their stored size; the extractor alone resizes"
    if judges.scorer is not None:
        facts["agreement"] = f"{judges.scorer.how}, {judges.scorer.name}"
    if judges.segmenter is not None:
        facts["segmenter"] = f"{judges.segmenter_name}, {judges.segmenter.digest}"
    if plan.drawn:
        facts["drawn masks"] = dict(plan.drawn)
    return facts


def _told(images: Iterator[np.ndarray], tell: Callable[[], None]) -> Iterator[np.ndarray]:
    for image in images:
        yield image
        tell()
