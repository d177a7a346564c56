"""``l2i stats``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from l2i_builder.commands import OutArgument, console, log
from l2i_builder.errors import ConfigError

if TYPE_CHECKING:
    from l2i_builder.statistics.options import Finder, Scorer


def stats(
    out: OutArgument,
    compare: Annotated[str, typer.Option(help="Output folder or statistics.json of another run.")] = "",
    sample: Annotated[int, typer.Option(min=1, help="Captions, and images, drawn of each group.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    clip: Annotated[
        str,
        typer.Option(help="vit-l-14 (the only one whose cosines are a CLIP score), a CLIP's folder or id, or none."),
    ] = "none",
    detector: Annotated[
        str, typer.Option(help="MODEL=WEIGHTS.pth, a detector of torchvision and its weights; counts objects.")
    ] = "",
    detector_threshold: Annotated[float, typer.Option(min=0, max=1, help="Score from which a box counts.")] = 0.5,
    stop_words: Annotated[str, typer.Option(help="File of stop words, in place of the English list.")] = "",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1. Default: a GPU if there is one.")] = "",
) -> None:
    """Write the paper's statistics of a run, kept against all: statistics.html and statistics.json.

    Words of captions, areas and components of masks, likeness of image and caption, objects.

    Examples:

      l2i stats runs/sample

      l2i stats s3://me/l2i --clip vit-l-14 --detector fasterrcnn_resnet50_fpn_v2=weights.pth --compare s3://me/l2i-v1
    """
    from l2i_builder.statistics import write_statistics
    from l2i_builder.statistics.options import Options

    chosen = _device(device) if clip != "none" or detector else "cpu"
    scorer = _scorer(clip, chosen) if clip != "none" else None
    finder = _finder(detector, chosen, detector_threshold) if detector else None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("shards"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=log, transient=True) as bars:
        tasks = {}

        def told(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        url = write_statistics(out, Options(sample, seed, stop_words, compare, scorer, finder, told=told))
    console.print(url, soft_wrap=True)


def _scorer(clip: str, device: str) -> Scorer:
    from model.evaluation.agreement import ClipScorer
    from model.text import CLIP

    return ClipScorer(CLIP[0] if clip == "vit-l-14" else clip, device)


def _finder(detector: str, device: str, threshold: float) -> Finder:
    from l2i_builder.statistics.detector import Detector

    name, equals, weights = detector.partition("=")
    if not equals or not weights:
        raise ConfigError(
            f"--detector {detector!r}: MODEL=WEIGHTS.pth is wanted; docs/statistics.md says where they are"
        )
    return Detector(name, Path(weights).expanduser(), device, threshold)


def _device(name: str) -> str:
    import torch

    from l2i_builder.device import torch_device

    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    torch_device(chosen, torch.get_num_threads())  # says in a sentence that it is not there
    return chosen
