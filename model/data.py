"""The loader: shards to batches, in an order that depends on seed, epoch and position alone.

Every rank gets the same number of batches however uneven the shards are: an epoch is one sequence of all samples,
shard by shard in a drawn order, cut by samples into a stretch for each rank and worker. Inside its stretch a worker
shuffles through a buffer. The order follows from the counts, so a run that is resumed goes on at its exact position
without a saved state: what was already seen is skipped, unread where it fills whole shards.
"""

from __future__ import annotations

import io
import signal
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from l2i_builder.errors import ConfigError, L2IError, OutputError
from model.config import Data
from model.pixels import CHANNELS, Batch, View, decode, draw_view
from model.shard_selection import Selection, Shard
from model.shard_set import find_shards, selected

LATENT = "latent.npy"  # member of cached latents: float16 [2, 2C, h, w], moments of the sample and of its mirror image


@dataclass(frozen=True)
class Place:
    """A trainer process among all of them, and the batches it takes."""

    rank: int = 0
    ranks: int = 1
    batch: int = 1


class Stretches:
    """Who reads what: the samples of each epoch, cut evenly into ranks and workers. Known from counts alone."""

    def __init__(self, shards: Sequence[Shard], place: Place, workers: int, seed: int) -> None:
        self.shards, self.place, self.seed = list(shards), place, seed
        self.workers = max(workers, 1)
        total = sum(shard.samples for shard in shards)
        self.batches = total // (place.ranks * place.batch)  # of each rank and epoch; the rest waits for another epoch
        if not self.batches:
            raise ConfigError(
                f"{total} samples are too few for a batch of {place.batch} on each of {place.ranks} processes; lower "
                "batch, or give more shards"
            )

    def of(self, epoch: int, worker: int) -> list[tuple[Shard, int, int]]:
        """Return (shard, first, end) of the samples one worker reads in an epoch, in order."""
        before = self.batches * self.place.rank + sum(self.share(epoch, other) for other in range(worker))
        start = before * self.place.batch
        return self._cut(epoch, start, start + self.share(epoch, worker) * self.place.batch)

    def share(self, epoch: int, worker: int) -> int:
        """Return how many of an epoch's batches a worker makes: batch b of the run is made by b mod workers."""
        return self.before(epoch, worker, (epoch + 1) * self.batches)

    def before(self, epoch: int, worker: int, end: int) -> int:
        """Return how many batches of an epoch a worker makes before the run's batch ``end``."""
        first = epoch * self.batches
        return len(range(first + (worker - first) % self.workers, end, self.workers))

    def _cut(self, epoch: int, start: int, end: int) -> list[tuple[Shard, int, int]]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.shards))
        result, position = [], 0
        for shard in (self.shards[i] for i in order):
            first, last = max(start - position, 0), min(end - position, shard.samples)
            if first < last:
                result.append((shard, first, last))
            position += shard.samples
        return result


def buffer_order(count: int, size: int, seed: Sequence[int]) -> np.ndarray:
    """Return the order, int64 [count], in which a shuffle buffer of ``size`` lets out what enters as 0, 1, 2, ..."""
    random = np.random.default_rng(list(seed))
    size = min(size, count)
    if size < 2:
        return np.arange(count)
    held = np.arange(size)
    slots = random.integers(size, size=count - size)
    result = np.empty(count, np.int64)
    for i, slot in enumerate(slots):
        result[i], held[slot] = held[slot], size + i
    result[count - size :] = random.permutation(held)
    return result


class LayerStream(IterableDataset[Any]):
    """Endless batches of one rank from position ``start`` (batches already taken); see ``Loader``."""

    def __init__(self, shards: Sequence[Shard], selection: Selection, config: Data, place: Place, seed: int) -> None:
        self.selection, self.config, self.seed = selection, config, seed
        self.stretches = Stretches(shards, place, config.workers, seed)
        self.start = 0

    def __iter__(self) -> Iterator[Batch | L2IError]:
        info = get_worker_info()
        number = info.id if info else 0
        worker = (self.start + number) % self.stretches.workers  # DataLoader asks its workers in turn, from 0
        epoch = self.start // self.stretches.batches
        done = self.stretches.before(epoch, worker, self.start)
        try:
            while True:
                yield from self._epoch(epoch, worker, done)
                epoch, done = epoch + 1, 0
        except L2IError as error:  # to be raised in the trainer's process, without a worker's traceback around it
            yield error

    def _epoch(self, epoch: int, worker: int, done: int) -> Iterator[Batch]:
        size = self.stretches.place.batch
        waiting: list[tuple[str, dict[str, bytes], str]] = []
        for sample in self._shuffled(epoch, worker, done * size):
            waiting.append(sample)
            if len(waiting) == size:
                yield self.collate(waiting, epoch)
                waiting = []

    def _shuffled(self, epoch: int, worker: int, skip: int) -> Iterator[tuple[str, dict[str, bytes], str]]:
        """Yield a worker's samples of an epoch in the buffer's order, without the first ``skip``."""
        parts = self.stretches.of(epoch, worker)
        count = sum(end - first for _, first, end in parts)
        place = self.stretches.place
        order = buffer_order(count, self.config.shuffle, (self.seed, epoch, place.rank, worker))[skip:]
        if not len(order):
            return
        wanted = np.zeros(count, bool)
        wanted[order] = True
        source = self._numbered(parts, int(order.min()))
        held: dict[int, tuple[str, dict[str, bytes], str]] = {}
        for number in order:
            while number not in held:
                read, sample = next(source)
                if wanted[read]:
                    held[read] = sample
            yield held.pop(number)

    def _numbered(
        self, parts: Sequence[tuple[Shard, int, int]], start: int
    ) -> Iterator[tuple[int, tuple[str, dict[str, bytes], str]]]:
        """Yield (number, sample) of a stretch from number ``start`` on; shards before it are not opened."""
        number = 0
        for shard, first, end in parts:
            if number + end - first > start:
                for place, (key, members) in enumerate(selected(shard, self.selection)):
                    if place >= first and number + place - first >= start:
                        yield number + place - first, (key, members, shard.url)
                    if place == end - 1 and end < shard.samples:
                        break
            number += end - first

    def collate(self, samples: Sequence[tuple[str, Mapping[str, bytes], str]], epoch: int) -> Batch:
        """Decode samples (key, members, URL of the shard) as one batch."""
        keys = [key for key, _, _ in samples]
        texts = [members.get("txt", b"").decode("utf-8", "replace") for _, members, _ in samples]
        views = [draw_view(key, epoch, self.seed, self.config) for key in keys]
        if self.config.latents:
            return Batch(keys, texts, torch.empty(len(keys), 0, dtype=torch.uint8), _latents(samples, views))
        side = self.config.size
        pixels = np.empty((len(keys), CHANNELS, side, side), np.uint8)
        for slot, (view, (key, members, url)) in enumerate(zip(views, samples, strict=True)):
            pixels[slot] = decode(key, members, self.config, view, url)
        return Batch(keys, texts, torch.from_numpy(pixels))


class Loader:
    """Batches of one rank, endlessly; ``position`` is how many were taken, and may be set before the first.

    The same seed and position give the same batch, whatever was read before. Never touches torch's generators.
    """

    def __init__(self, config: Data, place: Place, seed: int) -> None:
        self.config, self.position = config, 0
        self.selection = training_selection(config)
        self.shards = find_shards(config.latents or config.shards, self.selection)
        self.stream = LayerStream(self.shards, self.selection, config, place, seed)

    @property
    def batches(self) -> int:
        """Batches of an epoch and rank."""
        return self.stream.stretches.batches

    def __iter__(self) -> Generator[Batch, None, None]:
        self.stream.start = self.position
        workers = self.config.workers
        loader: DataLoader[Any] = DataLoader(
            self.stream,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=2 if workers else None,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_start_worker,
            generator=torch.Generator(),  # torch's own stays as it is
        )
        for item in loader:
            if isinstance(item, L2IError):
                raise item
            self.position += 1
            yield item


def training_selection(config: Data) -> Selection:
    """Return which samples are trained on."""
    if config.latents:
        return Selection()
    part: Literal["all", "train"] = "all" if config.validation else "train"
    return Selection(part, config.holdout, config.min_mask_score, config.min_inpainting_score)


def validation_batches(config: Data, samples: int, batch: int) -> list[Batch]:
    """Return the first ``samples`` of the validation set as batches, whole and unmirrored; the same for every rank.

    They are the shards of ``data.validation``, or the held-out share of the keys of ``data.shards``. Raises
    ConfigError where that is empty.
    """
    part: Literal["all", "held_out"] = "all" if config.validation else "held_out"
    selection = Selection(part, config.holdout, config.min_mask_score, config.min_inpainting_score)
    plain = config.model_copy(update={"crop": 1.0, "flip": False, "latents": "", "workers": 0, "shuffle": 0})
    try:
        shards = find_shards(config.validation or config.shards, selection)
    except ConfigError as error:
        raise ConfigError(
            f"there is nothing to validate on: {error}. Raise data.holdout (now {config.holdout}), or set "
            "data.validation"
        ) from error
    total = min(samples, sum(shard.samples for shard in shards))
    stream = LayerStream(shards, selection, plain, Place(batch=1), seed=0)
    found: list[tuple[str, dict[str, bytes], str]] = []
    for shard in shards:
        for key, members in selected(shard, selection):
            found.append((key, members, shard.url))
            if len(found) == total:
                return [stream.collate(found[i : i + batch], 0) for i in range(0, total, batch)]
    return []


def _latents(samples: Sequence[tuple[str, Mapping[str, bytes], str]], views: Sequence[View]) -> Tensor:
    planes = []
    for (key, members, url), view in zip(samples, views, strict=True):
        try:
            both = np.load(io.BytesIO(members[LATENT]), allow_pickle=False)
            planes.append(both[int(view.mirrored)])
        except (KeyError, ValueError, IndexError, EOFError, OSError) as problem:
            raise OutputError(f"{url}: sample {key} holds no cached latent ({problem}); cache them anew") from problem
    return torch.from_numpy(np.stack(planes))


def _start_worker(_: int) -> None:
    import cv2

    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the trainer decides when to stop, and ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
