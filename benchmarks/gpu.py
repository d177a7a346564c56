"""The torch models in their forms for GPUs, by turns on the same images, each against one image at a time in float32.

    python -m benchmarks.gpu --images 64
    python -m benchmarks.gpu --device cpu --quick

Forms add up, from the first row to the last: batches, bfloat16, channels last, uploads from pinned memory beside the
kernels, ``torch.compile``. A table a model: milliseconds an image, speed in wall time against the first row, and the
mean and largest difference of its result (masks and fills in levels, judges in scores). Where its weights are not in
the cache InSPyReNet is a random one, which costs the same; LaMa is left out, and that is said.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.forms import Run, by_turns
from l2i_builder import device as devices
from l2i_builder.config import Inpaint, Judge, Segment
from l2i_builder.inpaint import lama
from l2i_builder.judge import judges
from l2i_builder.segment import inspyrenet
from l2i_builder.weights.registry import cached

FITTED = 96  # side at which a random network's norms are fitted; its weights are the same at every side


@dataclass(frozen=True)
class Form:
    """What a form has of what a GPU likes."""

    batch: int = 1
    bfloat16: bool = False
    channels_last: bool = False
    uploads: bool = False
    compile: bool = False


def forms(batch: int, compiling: bool) -> dict[str, Form]:
    """Return the forms in the order in which they add up."""
    batched = Form(batch)
    found = {
        "one by one, float32": Form(),
        f"batches of {batch}": batched,
        "+ bfloat16": (half := replace(batched, bfloat16=True)),
        "+ channels last": (last := replace(half, channels_last=True)),
        "+ pinned uploads beside": (beside := replace(last, uploads=True)),
    }
    return found | ({"+ torch.compile": replace(beside, compile=True)} if compiling else {})


def plain_copies(chunks: Iterable[devices.Arrays], device: Any) -> Iterator[tuple[Any, ...]]:
    """What ``device.uploads`` is measured against."""
    import torch

    for chunk in chunks:
        yield tuple(torch.from_numpy(array).to(device) for array in chunk)


def laid_out(module: Any, last: bool) -> None:
    """Set a network's memory layout."""
    import torch

    layout = torch.channels_last if last else torch.contiguous_format
    torch.nn.Module.to(module, memory_format=layout)


def segment(form: Form, device: str, weights: str, side: int, images: np.ndarray) -> Callable[[], np.ndarray]:
    dtype = "bfloat16" if form.bfloat16 else "float32"
    config = Segment(backend="inspyrenet", weights=weights, resolution=side, dtype=dtype, compile=form.compile)
    model = inspyrenet.InspyrenetSegmenter(weights, config, device, 1)
    model.step = form.batch
    return partial(_run, inspyrenet, form, partial(model, images))


def inpaint(form: Form, device: str, images: np.ndarray, holes: np.ndarray) -> Callable[[], np.ndarray]:
    model = lama.LamaInpainter(Inpaint(backend="lama"), device, 1)
    model.step = form.batch
    laid_out(model._model, form.channels_last)
    return partial(_run, lama, form, partial(model, images, holes))


def judge(form: Form, device: str, images: np.ndarray, masks: np.ndarray) -> Callable[[], np.ndarray]:
    config = Judge(compile=form.compile)
    model = judges.make_mask_judge(config, device)
    extract: Any = model._extract
    extract.step = form.batch
    laid_out(extract.backbone.module, form.channels_last)
    dtype = "bfloat16" if form.bfloat16 else "float32"

    def score() -> np.ndarray:
        with mock.patch.object(judges, "autocast", lambda _, where: devices.autocast(dtype, where)):
            return model.score(images, masks)

    return partial(_run, judges, form, score)


def _run(module: Any, form: Form, call: Callable[[], np.ndarray]) -> np.ndarray:
    if form.uploads:
        return call()
    with mock.patch.object(module, "uploads", plain_copies):
        return call()


def random_inspyrenet(folder: Path) -> Path:
    """Write a checkpoint of random weights, its norms fitted to noise so that it sees something; return its path."""
    import torch

    torch.manual_seed(0)
    network = inspyrenet._network(FITTED)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        network.train().forward_inspyre(torch.randn(2, 3, FITTED, FITTED))
    torch.save(network.state_dict(), folder / "ckpt_base.pth")
    return folder / "ckpt_base.pth"


def measure(args: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """Measure the chosen models, print a table of each, and return the numbers."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (args.images, args.size // 8, args.size // 8, 3), dtype=np.uint8)
    images = images.repeat(8, axis=1).repeat(8, axis=2)
    y, x = np.mgrid[: args.size, : args.size] / args.size - 0.5
    masks = np.stack([np.uint8(255 * (np.hypot(y, x) < radius)) for radius in rng.uniform(0.15, 0.4, args.images)])
    wanted, numbers = forms(args.batch, args.device.startswith("cuda") or args.compile), {}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            if name == "inspyrenet":
                weights = "inspyrenet" if cached("inspyrenet") else str(random_inspyrenet(Path(folder)))
                # its attention takes views that channels last has not
                some = {label: form for label, form in wanted.items() if label != "+ channels last"}
                made = {label: segment(form, args.device, weights, args.side, images) for label, form in some.items()}
            elif name == "lama":
                if not cached("lama"):
                    print("lama is left out: its weights are not in the cache (`l2i weights pull lama`).")
                    continue
                # its Fourier transforms have no bfloat16, and TorchScript is not compiled again
                some = {label: form for label, form in wanted.items() if not form.compile and label != "+ bfloat16"}
                made = {label: inpaint(form, args.device, images, masks > 127) for label, form in some.items()}
            else:
                made = {label: judge(form, args.device, images, masks) for label, form in wanted.items()}
            runs = by_turns(made, args.images, args.rounds)
            numbers[name] = _numbers(runs)
            _print(name, numbers[name], args)
    return numbers


def _numbers(runs: dict[str, Run]) -> dict[str, dict[str, float]]:
    expected = next(iter(runs.values())).result.astype(float)
    found = {}
    for label, run in runs.items():
        difference = np.abs(run.result.astype(float) - expected)
        far = {"mean_difference": float(difference.mean()), "largest_difference": float(difference.max())}
        found[label] = {"wall": run.wall, "cpu": run.cpu, **far}
    return found


def _print(name: str, rows: dict[str, dict[str, float]], args: argparse.Namespace) -> None:
    first = next(iter(rows.values()))["wall"]
    print(f"{name}, {args.images} images of {args.size} pixels on {args.device}")
    print(f"  {'':26}{'ms an image':>12}{'speed':>8}{'mean diff.':>12}{'largest':>12}")
    for label, row in rows.items():
        far = f"{row['mean_difference']:>12.3g}{row['largest_difference']:>12.3g}"
        print(f"  {label:26}{row['wall'] * 1e3:>12.2f}{first / row['wall']:>8.2f}{far}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu: the same code, small")
    parser.add_argument("--models", nargs="+", default=["inspyrenet", "lama", "efficientnet"])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=512, help="side of the images")
    parser.add_argument("--side", type=int, default=1024, help="side that InSPyReNet sees")
    parser.add_argument("--compile", action="store_true", help="torch.compile on the CPU too; always on a GPU")
    parser.add_argument("--quick", action="store_true", help="few images, a small side")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    if args.quick:
        args.images, args.batch, args.rounds, args.size, args.side = 3, 2, 1, 128, 96
    import torch

    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("There is no GPU here, so nothing was measured; `--device cpu --quick` runs the same code on the CPU.")
        return
    devices.torch_device(args.device, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        numbers = measure(args)
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
