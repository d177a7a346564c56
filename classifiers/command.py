"""What ``l2i train-filters`` does: bootstrapped labels where there are none, people's mixed in, two heads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from classifiers import bootstrap
from classifiers.features import FeatureCache, Labelled, joined, mixed
from classifiers.people import labels_of
from classifiers.train import FAMILY, PLAIN, RECIPE, refuse_to_replace, write_head
from l2i_builder.errors import MetadataError
from l2i_builder.judge.backbone import make_backbone

TASKS = ("mask", "inpainting")


def train_filters(
    folder: Path,
    tag: str,
    data: Path,
    runs: list[str],
    bootstrap_weight: float,
    scenes: int,
    plain: bool,
    seed: int,
    console: Console,
) -> list[dict[str, Any]]:
    """Train both heads and return their cards. ``runs``: folders whose labels are mixed in; a task that nobody has
    judged in them is trained on the bootstrapped labels alone, and said so.

    Raises OutputError before any work where heads of that tag are there, MetadataError where labels are missing.
    """
    for task in TASKS:
        refuse_to_replace(folder, f"{task}-{tag}")
    if not all((data / f"{task}.npz").is_file() for task in TASKS):
        console.print(f"making labels of {scenes} scenes into {data}: about half an hour of one core")
        bootstrap.main(["--out", str(data), "--scenes", str(scenes)])
    cards = []
    for task in TASKS:
        family, recipe = (f"{task}-plain", PLAIN) if plain else (FAMILY[task], RECIPE[task])
        labelled = Labelled.load(data / f"{task}.npz")
        if runs:
            labelled = _with_people(labelled, runs, task, family, bootstrap_weight, data, console)
        with console.status(f"training {task}-{tag} on {len(labelled)} samples"):
            cards.append(write_head(folder, f"{task}-{tag}", labelled, recipe, family, seed=seed))
    return cards


def _with_people(
    bootstrapped: Labelled, runs: list[str], task: str, family: str, weight: float, data: Path, console: Console
) -> Labelled:
    cache = FeatureCache(make_backbone(bootstrapped.facts["backbone"]), data)
    people: Labelled | None = None
    for out in runs:
        try:
            with console.status(f"reading labels of {out}"):
                found = labels_of(out, task, family, cache)
        except MetadataError as error:
            console.print(str(error), style="yellow", markup=False)
            continue
        if lost := int(found.facts["labels without pixels"]):
            console.print(f"{out}: {lost} labelled samples were neither kept nor audited: not used", markup=False)
        people = found if people is None else joined(people, found)
    if people is None:
        return replace(bootstrapped, facts=bootstrapped.facts | {"labels of people": "0"})
    return mixed(bootstrapped, people, weight, family)
