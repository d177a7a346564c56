"""Loader against plain webdataset and `datasets`, by turns: `python -m benchmarks.loader --shards runs/sample`.

All read the same tars, shuffle through a buffer, decode image, background and mask and collate batches, with the same
number of worker processes; the project's loader also scales, mirrors and cuts the foreground. They take turns, so
that all see the same machine; the ratios of each round are what to look at. `datasets` streams its webdataset folder,
asked for these three columns only.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from model.config import Data
from model.data import Loader, Place
from model.shard_set import find_shards

DECODED = ("jpg", "bg.jpg", "mask.png")
WARM_UP = 8  # batches, as many as workers may have ready


def ours(shards: str, size: int, batch: int, workers: int, buffer: int) -> Iterator[int]:
    data = Data(shards=shards, size=size, holdout=0, workers=workers, shuffle=buffer)
    for made in Loader(data, Place(batch=batch), seed=0):
        yield len(made)


def plain(shards: str, batch: int, workers: int, buffer: int) -> Iterator[int]:
    import webdataset as wds
    from torch.utils.data import DataLoader

    data = (
        wds.WebDataset(_urls(shards), resampled=True, shardshuffle=False)
        .shuffle(buffer)
        .decode("rgb8", only=list(DECODED))
        .map(_stacked)
        .batched(batch, collation_fn=np.stack)
    )
    loader: Iterable[Any] = DataLoader(data, batch_size=None, num_workers=workers)
    for made in loader:
        yield len(made)


def streaming(shards: str, batch: int, workers: int, buffer: int) -> Iterator[int]:
    from datasets import load_dataset
    from torch.utils.data import DataLoader

    data = load_dataset("webdataset", data_files={"train": _urls(shards)}, split="train", streaming=True)
    data = data.select_columns(list(DECODED)).shuffle(seed=0, buffer_size=buffer).repeat(None)
    loader: Iterable[Any] = DataLoader(data, batch_size=batch, num_workers=workers, collate_fn=_collated)
    for made in loader:
        yield len(made)


def _urls(shards: str) -> list[str]:
    return [shard.url for shard in find_shards(shards)]


def _stacked(sample: dict[str, Any]) -> np.ndarray:
    return np.concatenate([sample[name] for name in DECODED], axis=2)


def _collated(samples: list[dict[str, Any]]) -> np.ndarray:
    return np.stack([np.dstack([np.asarray(sample[name]) for name in DECODED]) for sample in samples])


def speed(batches: Iterator[int], count: int) -> float:
    """Return samples a second over ``count`` batches, after those that warm up."""
    for _ in islice(batches, WARM_UP):
        pass
    began = time.perf_counter()
    done = sum(islice(batches, count))
    return done / (time.perf_counter() - began)


def main(
    shards: Annotated[str, typer.Option(help="Output folder of a build, or tars.")],
    size: Annotated[int, typer.Option(help="Training size of the project's loader.")] = 256,
    batch: int = 8,
    workers: int = 1,
    batches: Annotated[int, typer.Option(help="Timed batches a round.")] = 20,
    rounds: int = 5,
    buffer: int = 16,
    quick: Annotated[bool, typer.Option(help="One short round: to see that it works.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers there.")] = None,
) -> None:
    if quick:
        batch, batches, rounds = 2, 2, 1
    ways: dict[str, Callable[[], Iterator[int]]] = {
        "loader": lambda: ours(shards, size, batch, workers, buffer),
        "webdataset": lambda: plain(shards, batch, workers, buffer),
        "datasets": lambda: streaming(shards, batch, workers, buffer),
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    print(f"{'round':>5}" + "".join(f"{f'{way}/s':>14}" for way in ways))
    for number in range(1, rounds + 1):
        for way, make in ways.items():
            found[way].append(speed(make(), batches))
        print(f"{number:>5}" + "".join(f"{values[-1]:>14.1f}" for values in found.values()))
    ratios = {
        way: statistics.median(mine / other for mine, other in zip(found["loader"], found[way], strict=True))
        for way in ("webdataset", "datasets")
    }
    for way, ratio in ratios.items():
        print(f"median ratio to {way} {ratio:.2f} (above 1: the project's loader is faster)")
    if json_file:
        json_file.write_text(json.dumps({"samples_per_second": found, "ratios": ratios}))


if __name__ == "__main__":
    typer.run(main)
