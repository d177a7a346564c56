"""A demonstration that everything trains: ``python -m model.demo --out runs/demo``.

Writes toy scenes as shards, trains a tiny CaT2I-AE and a tiny text-conditioned diffusion model on them with the same
code that trains the large ones, and leaves pictures (``curves.png``, ``reconstruction.png``, ``samples.png``) and
``demo.json`` with the numbers. Run again, it goes on where it stopped.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

from l2i_builder import storage
from l2i_builder.output.manifest import pretty
from model.baselines import load_pipeline
from model.config import ModelConfig, load_model_config
from model.evaluation.measures import iou
from model.export import save_sheet
from model.toy_scenes import COLOURS, SHAPES, TEXTURES, caption_of, draw_scene, write_run
from model.trackers import read_metrics
from model.train_autoencoder import train_autoencoder
from model.train_diffusion import train_diffusion

SCENES = 6000
SAMPLES = 128  # generated for the numbers
SHOWN = 12  # of them in the picture
CELL = 96  # pixels of the picture that one of them takes


def main(
    out: Annotated[str, typer.Option(help="Output folder.")] = "runs/demo",
    autoencoder_steps: Annotated[int | None, typer.Option(help="Optimiser steps; the preset's if not given.")] = None,
    diffusion_steps: Annotated[int | None, typer.Option(help="The same.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of torch; too many on a busy machine are slower.")] = 2,
    precision: Annotated[str, typer.Option(help="no or bf16; bf16 is faster on CPUs that have it.")] = "bf16",
) -> None:
    """Train toy models of layered images on the CPU and show what they learned."""
    console = Console(highlight=False)
    torch.set_num_threads(threads)
    folder = Path(out)
    shards = str(folder / "shards")
    if not (folder / "shards" / "index.json").is_file():
        console.print(f"writing {SCENES:,} toy scenes to {shards}")
        write_run(shards, SCENES)
    settings = [f"data.shards={shards}"]
    for name, steps in (("autoencoder", autoencoder_steps), ("diffusion", diffusion_steps)):
        settings.append(f"train_{name}.precision='{precision}'")
        settings += [f"train_{name}.steps={steps}"] * (steps is not None)
    config = load_model_config("demo", settings, out=out)
    seconds = {}
    for name, train in (("autoencoder", train_autoencoder), ("diffusion", train_diffusion)):
        began = time.monotonic()
        train(config, console)
        seconds[name] = round(time.monotonic() - began, 1)
    numbers = _numbers(folder, seconds) | generated(config, folder)
    storage.write_bytes(str(folder / "demo.json"), pretty(numbers))
    draw_curves(folder, folder / "curves.png")
    _copy_latest(folder)
    console.print(_table(numbers))
    console.print(f"pictures  {folder}/curves.png reconstruction.png samples.png\nnumbers   {folder}/demo.json")


def generated(config: ModelConfig, folder: Path) -> dict[str, Any]:
    """Sample from the trained pipeline, write ``samples.png``, and return how well the layers hold together.

    ``mask_agreement``: mean IoU of the generated masks with those that ``segment_by_colour`` finds in the composites;
    ``mask_agreement_true``: the same on true scenes, the most it can be. ``colours_right``: share of composites whose
    object has the colour asked for.
    """
    pipeline = load_pipeline(str(folder / "pipeline"))
    pipeline.set_progress_bar_config(disable=True)
    random = np.random.default_rng(config.seed)
    asked = [_prompt(random) for _ in range(SAMPLES)]
    prompts = [prompt for prompt, _ in asked]
    settings = config.diffusion
    agreement, right = [], []
    for first in range(0, SAMPLES, 32):
        part = prompts[first : first + 32]
        generators = [torch.Generator().manual_seed(first + i) for i in range(len(part))]
        made = pipeline(
            part, num_inference_steps=settings.sample_steps, guidance_scale=settings.guidance, generator=generators
        )
        mask = made.mask
        assert mask is not None
        found = np.stack([segment_by_colour(picture) for picture in _uint8(made.composite)])
        agreement += iou(found, mask[:, 0].numpy()).tolist()
        right += [_nearest(made.composite[i], mask[i, 0]) == asked[first + i][1] for i in range(len(part))]
        if not first:
            save_sheet(made.layered()[:SHOWN], str(folder / "samples.png"), CELL)
    scenes = [draw_scene(np.random.default_rng([config.seed + 1, i])) for i in range(SAMPLES)]
    true = [iou(segment_by_colour(scene.image), scene.mask / 255) for scene in scenes]
    return {
        "samples": SAMPLES,
        "mask_agreement": float(np.mean(agreement)),
        "mask_agreement_true": float(np.mean(true)),
        "colours_right": float(np.mean(right)),
        "guidance": settings.guidance,
        "sample_steps": settings.sample_steps,
    }


def segment_by_colour(picture: np.ndarray) -> np.ndarray:
    """Return the mask, 0 or 1 [H, W], of a toy scene, uint8 [H, W, 3]: what has another hue than the frame around it.

    It knows nothing of the models. Brightness is divided out, so that stripes do not matter; Otsu's threshold.
    """
    import cv2

    colours = picture.astype(np.float32) + 1
    colours /= np.linalg.norm(colours, axis=2, keepdims=True)
    frame = np.concatenate([colours[0], colours[-1], colours[:, 0], colours[:, -1]])
    ground = np.median(frame, axis=0)
    away = np.linalg.norm(colours - ground / np.linalg.norm(ground), axis=2)
    grey = np.rint(255 * away / max(float(away.max()), 1e-6)).astype(np.uint8)
    return cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[1]


def draw_curves(folder: Path, path: Path) -> None:
    """Draw losses and validation figures over steps as a PNG."""
    import altair
    import vl_convert

    lines = []
    for name in ("autoencoder", "diffusion"):
        for line in read_metrics(folder / "logs" / name):
            for key in ("loss", "validation/loss", "validation/mask_iou", "validation/psnr_image"):
                if line.get(key) is not None:
                    title = f"{name}: {key.replace('validation/', 'validation ').replace('_', ' ')}"
                    lines.append({"step": line["step"], "value": line[key], "figure": title})
    chart = (
        altair.Chart(altair.Data(values=lines))
        .mark_line(point=True)
        .encode(x="step:Q", y=altair.Y("value:Q", title=None, scale=altair.Scale(zero=False)))
        .properties(width=320, height=180)
        .facet(altair.Facet("figure:N", title=None), columns=2)
        .resolve_scale(x="independent", y="independent")
    )
    storage.write_bytes(str(path), vl_convert.vegalite_to_png(chart.to_json(), scale=1.5))


def _prompt(random: np.random.Generator) -> tuple[str, str]:
    """Return a caption and the colour of its shape."""
    colour, ground = (list(COLOURS)[i] for i in random.permutation(len(COLOURS))[:2])
    shape, texture, other = (names[random.integers(len(names))] for names in (SHAPES, TEXTURES, TEXTURES))
    return caption_of(shape, colour, texture, ground, other), colour


def _nearest(picture: torch.Tensor, mask: torch.Tensor) -> str:
    """Return the colour nearest in hue to what lies under the mask."""
    inside = mask > 0.5
    if not inside.any():
        return ""
    found = picture[:, inside].mean(dim=1).numpy()
    found = found / max(float(np.linalg.norm(found)), 1e-6)  # stripes darken it
    unit = {name: np.array(value) / np.linalg.norm(value) for name, value in COLOURS.items()}
    return max(unit, key=lambda name: float(unit[name] @ found))


def _numbers(folder: Path, seconds: dict[str, float]) -> dict[str, Any]:
    """Return the last validation figures of both trainers, and how long they took in this run."""
    result: dict[str, Any] = {}
    for name, took in seconds.items():
        lines = read_metrics(folder / "logs" / name)
        last = [line for line in lines if any(key.startswith("validation/") for key in line)][-1]
        figures = {key.removeprefix("validation/"): value for key, value in last.items() if key != "step"}
        result[name] = {"steps": last["step"], "seconds of this run": took, **figures}
    return result


def _copy_latest(folder: Path) -> None:
    newest = sorted((folder / "logs" / "autoencoder").glob("reconstruction-*.png"))[-1]
    storage.write_bytes(str(folder / "reconstruction.png"), newest.read_bytes())


def _table(numbers: dict[str, Any]) -> Table:
    table = Table(title="what was learned")
    table.add_column("figure")
    table.add_column("value", justify="right")
    flat = {f"{name} {key}": value for name in ("autoencoder", "diffusion") for key, value in numbers[name].items()}
    for name, value in (flat | {k: v for k, v in numbers.items() if not isinstance(v, dict)}).items():
        table.add_row(name.replace("_", " "), f"{value:,.4g}" if isinstance(value, float) else f"{value:,}")
    return table


def _uint8(pictures: torch.Tensor) -> np.ndarray:
    """float [N, 3, H, W] in 0..1 -> uint8 [N, H, W, 3]."""
    return np.rint(pictures.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)


if __name__ == "__main__":
    typer.run(main)
