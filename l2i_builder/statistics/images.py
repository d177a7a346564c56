"""Masks and images of the drawn samples: areas, components, likeness to the caption, objects."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from threading import Lock

import cv2
import numpy as np

from l2i_builder import storage
from l2i_builder.errors import OutputError
from l2i_builder.output.shards import REBUILD, read_members
from l2i_builder.report.run import Run
from l2i_builder.report.scan import ahead
from l2i_builder.statistics.drawing import Wanted
from l2i_builder.statistics.options import Options

AREAS = (0.3, 0.5, 0.7, 0.9)  # thresholds of mask areas (paper)
COMPONENTS = (0.5, 0.9)  # thresholds of components (paper)
SMALLEST = 100 / 512**2  # smaller components are dropped, as a share of the image (paper: 100 pixels at 512²)
BATCH = 16  # images that a model gets at a time


@dataclass
class Measured:
    """What was measured of one image. areas: share of pixels with m > t; components: 8-connected ones of m > t."""

    areas: list[float]
    components: list[int]
    likeness: float = 0.0
    objects: list[str] = field(default_factory=list)


@dataclass
class Group:
    """The images of one group, in no particular order."""

    images: list[Measured] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def areas(self) -> np.ndarray:
        """float64 [n, 4]."""
        return np.array([image.areas for image in self.images]).reshape(-1, len(AREAS))

    @property
    def components(self) -> np.ndarray:
        """int64 [n, 2]."""
        return np.array([image.components for image in self.images], np.int64).reshape(-1, len(COMPONENTS))

    @property
    def likeness(self) -> np.ndarray:
        """float64 [n]."""
        return np.array([image.likeness for image in self.images])

    @property
    def categories(self) -> Counter[str]:
        """Category -> images that show it at least once."""
        return Counter(name for image in self.images for name in set(image.objects))


def mask_areas(mask: np.ndarray) -> list[float]:
    """Return the share of pixels with m > t for each threshold of ``AREAS``. mask: uint8 [H, W], m scaled to 0..255."""
    at_most = np.cumsum(cv2.calcHist([mask], [0], None, [256], [0, 256]).ravel())
    return [float(1 - at_most[int(threshold * 255)] / mask.size) for threshold in AREAS]


def mask_components(mask: np.ndarray) -> list[int]:
    """Return the number of 8-connected components of m > t, without small ones, for each of ``COMPONENTS``."""
    found = []
    for threshold in COMPONENTS:
        selected = (mask > threshold * 255).astype(np.uint8)
        _, _, facts, _ = cv2.connectedComponentsWithStats(selected, connectivity=8)
        found.append(int((facts[1:, cv2.CC_STAT_AREA] >= SMALLEST * mask.size).sum()))
    return found


def measure(run: Run, wanted: list[Wanted], options: Options) -> dict[str, Group]:
    """Read the drawn samples, several shards at a time, and return "kept" and "all" (the audit slice).

    Of the audit slice only those with a stored image are there. Raises OutputError on a damaged shard.
    """
    lock, groups = Lock(), {"kept": Group(), "all": Group()}

    def work(one: Wanted) -> dict[str, Measured]:
        return {key: image for name in one.tars for key, image in _tar(run, name, one, options, lock)}

    workers = options.workers or min(16, os.cpu_count() or 1)
    for done, (one, images) in enumerate(zip(wanted, ahead(work, wanted, workers), strict=True), 1):
        for name, group in groups.items():
            group.images += [image for key, image in images.items() if key in getattr(one, name)]
        options.told("reading images", done, len(wanted))
    return groups


def _tar(run: Run, name: str, wanted: Wanted, options: Options, lock: Lock) -> Iterator[tuple[str, Measured]]:
    """Yield (key, what was measured) of a tar's drawn samples."""
    url, keys = storage.join(run.out, name), wanted.kept | wanted.all
    if not keys:
        return
    waiting: list[tuple[str, Measured, np.ndarray, str]] = []
    for key, members in read_members(url):
        if key not in keys:
            continue
        mask = _decoded(members, "mask.png", cv2.IMREAD_GRAYSCALE, f"{url}: {key}")
        image = Measured(mask_areas(mask), mask_components(mask))
        if options.scorer is None and options.finder is None:
            yield key, image
            continue
        pixels = _decoded(members, "jpg", cv2.IMREAD_COLOR_RGB, f"{url}: {key}")
        waiting.append((key, image, pixels, members.get("txt", b"").decode("utf-8", "replace")))
        if len(waiting) == BATCH:
            yield from _looked_at(waiting, options, lock)
            waiting = []
    yield from _looked_at(waiting, options, lock)


def _looked_at(
    waiting: list[tuple[str, Measured, np.ndarray, str]], options: Options, lock: Lock
) -> Iterator[tuple[str, Measured]]:
    """Ask the models, one batch at a time whatever the threads."""
    if not waiting:
        return
    pixels, texts = [line[2] for line in waiting], [line[3] for line in waiting]
    with lock:
        scores = options.scorer(pixels, texts) if options.scorer else np.zeros(len(waiting))
        objects = options.finder(pixels) if options.finder else [[] for _ in waiting]
    for (key, image, _, _), score, found in zip(waiting, scores, objects, strict=True):
        image.likeness, image.objects = float(score), list(found)
        yield key, image


def _decoded(members: Mapping[str, bytes], suffix: str, flags: int, name: str) -> np.ndarray:
    data = members.get(suffix, b"")
    array = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if array is None:
        raise OutputError(f"{name}.{suffix} is missing or does not decode. {REBUILD}")
    return array
