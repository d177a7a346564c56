"""Loader against plain webdataset, side by side: `python -m benchmarks.loader --shards runs/sample`.

Both read the same tars, shuffle through a buffer, decode image, background and mask and collate batches, with the same
number of worker processes; the project's loader also scales, mirrors and cuts the foreground. They take turns, so
that both see the same machine; the ratio of each round is what to look at.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, Any

import numpy as np
import typer

from model.config import Data
from model.data import Loader, Place
from model.shard_set import find_shards

DECODED = ("jpg", "bg.jpg", "mask.png")


def ours(shards: str, size: int, batch: int, workers: int, buffer: int) -> Iterator[int]:
    data = Data(shards=shards, size=size, holdout=0, workers=workers, shuffle=buffer)
    for made in Loader(data, Place(batch=batch), seed=0):
        yield len(made)


def plain(shards: str, batch: int, workers: int, buffer: int) -> Iterator[int]:
    import webdataset as wds
    from torch.utils.data import DataLoader

    urls = [shard.url for shard in find_shards(shards)]
    data = (
        wds.WebDataset(urls, resampled=True, shardshuffle=False)
        .shuffle(buffer)
        .decode("rgb8", only=list(DECODED))
        .map(_stacked)
        .batched(batch, collation_fn=np.stack)
    )
    loader: Iterable[Any] = DataLoader(data, batch_size=None, num_workers=workers)
    for made in loader:
        yield len(made)


def _stacked(sample: dict[str, Any]) -> np.ndarray:
    return np.concatenate([sample[name] for name in DECODED], axis=2)


def speed(batches: Iterator[int], count: int) -> float:
    """Return samples a second over ``count`` batches, after as many to warm up as workers may have ready."""
    for _ in islice(batches, 8):
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
) -> None:
    ratios = []
    print(f"{'round':>5} {'loader/s':>9} {'webdataset/s':>12} {'ratio':>6}")
    for number in range(1, rounds + 1):
        mine = speed(ours(shards, size, batch, workers, buffer), batches)
        theirs = speed(plain(shards, batch, workers, buffer), batches)
        ratios.append(mine / theirs)
        print(f"{number:>5} {mine:>9.1f} {theirs:>12.1f} {ratios[-1]:>6.2f}")
    print(f"median ratio {statistics.median(ratios):.2f} (above 1: the project's loader is faster)")


if __name__ == "__main__":
    typer.run(main)
