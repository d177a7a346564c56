"""``l2i generate`` and ``l2i evaluate``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from l2i_builder.commands import console, log
from l2i_builder.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from model.evaluate import Judges
    from model.pipeline import Text2LayerPipeline

MAX_SEED = 2**63 - 1
EVERY = 60.0  # seconds between lines where there is no terminal

ModelFolder = Annotated[str, typer.Option("--model", "-m", help="Folder that the diffusion trainer wrote.")]
Steps = Annotated[int, typer.Option(min=1, help="Sampling steps.")]
Guidance = Annotated[float, typer.Option(help="Strength of guidance by the text; 1 = none.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:1; empty = cuda where there is one.")]


def generate(
    prompt: Annotated[str, typer.Argument(help="What to show.")],
    model: ModelFolder,
    out: Annotated[str, typer.Option("--out", "-o", help="File: .psd, .ora, or .png for a set; local or URL.")],
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Images; several are numbered.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Of the first image; the next ones follow.")] = 0,
    negative: Annotated[str, typer.Option(help="What not to show.")] = "",
    steps: Steps = 50,
    guidance: Guidance = 7.5,
    sheet: Annotated[str, typer.Option(help="Also write a contact sheet, a .png.")] = "",
    pad: Annotated[bool, typer.Option(help="Carry the object's colours outwards, so that edits show no halo.")] = True,
    foreground: Annotated[str, typer.Option(help="Picture that is given as F; needs a conditional model.")] = "",
    background: Annotated[str, typer.Option(help="Picture that is given as B; needs a conditional model.")] = "",
    mask: Annotated[str, typer.Option(help="Picture that is given as m; needs a conditional model.")] = "",
    device: Device = "",
) -> None:
    """Generate layered images: foreground, background and mask from a prompt.

    Examples:

      l2i generate "a dog on a beach" -o dog.psd --model runs/model

      l2i generate "a beach" -o beach.ora -m runs/model --foreground dog.png --mask dog-mask.png -n 4 --sheet all.png
    """
    from model.export import check_suffix, save, save_sheet

    check_suffix(out)  # before anything slow
    pipeline, chosen = _pipeline(model, device)
    given = _given({"foreground": foreground, "background": background, "mask": mask}, pipeline)
    images = []
    with _Bars() as bars:
        _draw_into(pipeline, lambda: bars.tell("generating", 1, count * steps))
        for number in range(count):  # one by one: an image is the same whatever the count
            done = pipeline(
                prompt,
                negative_prompt=negative,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=_generator(seed + number),
                **given,  # type: ignore[arg-type]
            )
            images += [image.padded() if pad else image for image in done.layered()]
    for path in save(images, out):
        console.print(path, soft_wrap=True, markup=False)
    if sheet:
        save_sheet(images, sheet)
        console.print(sheet, soft_wrap=True, markup=False)
    log.print(f"[dim]{chosen}, seed {seed}, {steps} steps, guidance {guidance:g}[/dim]")


def evaluate(
    model: Annotated[list[str], typer.Option("--model", "-m", help="NAME=FOLDER, a row of the tables. Repeatable.")],
    reference: Annotated[
        list[str], typer.Option("--reference", "-r", help="NAME=SHARDS, LL2I-E first, then LA. Repeatable.")
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder for images, results.json and results.html.")],
    samples: Annotated[int, typer.Option(min=1, help="Captions and references (paper: 20,000).")] = 20_000,
    steps: Steps = 50,
    guidance: Guidance = 7.5,
    extractor: Annotated[
        str, typer.Option(help="inception (FID), a timm model such as tf_efficientnet_lite0, or none.")
    ] = "inception",
    clip: Annotated[str, typer.Option(help="Hub id or folder of the CLIP that scores, or none.")] = "vit-l-14",
    segmenter: Annotated[str, typer.Option(help="u2net, u2netp, isnet, inspyrenet, or none.")] = "u2net",
    perceptual: Annotated[str, typer.Option(help="lpips, a file of VGG16's weights, or none.")] = "lpips",
    drawn: Annotated[
        list[str] | None, typer.Option(help="NAME=FOLDER of masks drawn on that row's composites. Repeatable.")
    ] = None,
    filtering: Annotated[str, typer.Option(help="NAME,NAME: the rows of Table III.")] = "",
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time.")] = 8,
    device: Device = "",
) -> None:
    """Measure models as the paper's Tables I to III do. Images are kept: run it again to go on.

    A model is a folder, sd-v1-4, sd:<folder or hub id>, or segment:<any of these> for generate-then-segment.

    Example:

      l2i evaluate -m "CaT2I-AE-SD=runs/model" -m "then segment=segment:runs/image-only"
      -r LL2I-E=runs/test -r LA=runs/la -o runs/evaluation
    """
    from model.baselines import make_generator
    from model.evaluate import Plan
    from model.evaluate import evaluate as run
    from model.evaluation.reference import Reference

    plan = Plan(
        _pairs(model, "--model"),
        [Reference(name, shards, samples) for name, shards in _pairs(reference, "--reference").items()],
        out,
        steps,
        guidance,
        seed,
        batch,
        _pairs(drawn or [], "--drawn"),
        [name.strip() for name in filtering.split(",") if name.strip()],
    )
    chosen = _device(device)
    judges = _judges(extractor, clip, segmenter, perceptual, chosen)
    with _Bars() as bars:
        run(plan, judges, lambda source, plan: make_generator(source, plan.steps, plan.guidance, chosen), bars.tell)
    console.print(f"{out}/results.html\n{out}/results.json", soft_wrap=True, markup=False)


def _judges(extractor: str, clip: str, segmenter: str, perceptual: str, device: str) -> Judges:
    from l2i_builder.config import Segment
    from l2i_builder.segment.segmenter import make_segmenter
    from model.config import Losses
    from model.evaluate import Judges
    from model.evaluation.agreement import ClipScorer
    from model.evaluation.features import make_extractor
    from model.losses import make_perceptual
    from model.text import CLIP

    known = ("u2net", "u2netp", "isnet", "inspyrenet", "none")
    if segmenter not in known:
        raise ConfigError(f"no segmenter is called {segmenter!r}; choose one of {', '.join(known)}")
    return Judges(
        None if extractor == "none" else make_extractor(extractor, device),
        None if clip == "none" else ClipScorer(CLIP[0] if clip == "vit-l-14" else clip, device),
        None if segmenter == "none" else make_segmenter(Segment.model_validate({"backend": segmenter}), device),
        segmenter,
        make_perceptual(Losses(perceptual=perceptual)),
        "LPIPS",
    )


def _pairs(texts: list[str], option: str) -> dict[str, str]:
    """Return NAME=VALUE texts as a dictionary, in their order."""
    pairs = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name.strip() and equals and value.strip()) or name.strip() in pairs:
            raise ConfigError(f"{option} {text!r}: NAME=VALUE is wanted, each name once")
        pairs[name.strip()] = value.strip()
    return pairs


def _device(name: str) -> str:
    import torch

    from l2i_builder.device import torch_device

    chosen = name or ("cuda" if torch.cuda.is_available() else "cpu")
    torch_device(chosen, torch.get_num_threads())  # says in a sentence that it is not there
    return chosen


def _pipeline(folder: str, device: str) -> tuple[Text2LayerPipeline, str]:
    from model.baselines import load_pipeline

    chosen = _device(device)
    with log.status("loading the model"):
        return load_pipeline(folder).to(chosen), chosen


def _generator(seed: int) -> list[torch.Generator]:
    import torch

    return [torch.Generator().manual_seed(seed)]


def _given(files: dict[str, str], pipeline: Text2LayerPipeline) -> dict[str, torch.Tensor]:
    """Read given layers, scaled to the model's size: float [1, C, H, W] in 0..1 by name."""
    from model.export import read_picture

    side = pipeline.unet.config.sample_size * pipeline.autoencoder.downscale
    return {name: read_picture(file, "L" if name == "mask" else "RGB", side) for name, file in files.items() if file}


def _draw_into(pipeline: Text2LayerPipeline, advance: Callable[[], None]) -> None:
    """Let the pipeline's steps advance a bar of ours, in place of its own."""

    def steps(iterable: list[object]) -> Iterator[object]:
        for step in iterable:
            yield step
            advance()

    pipeline.progress_bar = steps


class _Bars:
    """A bar for each thing that goes on, in a terminal; elsewhere a line when it begins, and one a minute."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self.bars = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=log)
        self.tasks: dict[str, TaskID] = {}
        self.told = 0.0

    def __enter__(self) -> _Bars:
        if log.is_terminal:
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def tell(self, what: str, more: int, total: int) -> None:
        """``more`` of ``total`` are done (0 = not known how many there are)."""
        new = what not in self.tasks
        if new:
            self.tasks[what] = self.bars.add_task(what, total=total or None)
        self.bars.advance(self.tasks[what], more)
        if not log.is_terminal and (new or time.monotonic() - self.told > EVERY):
            self.told = time.monotonic()
            done = self.bars.tasks[self.tasks[what]].completed
            log.print(f"{what}: {done:.0f}" + (f" of {total:,}" if total else ""), markup=False)
