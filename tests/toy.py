"""A source and stages that cost nothing, around the project's own stage code: for testing everything between."""

from __future__ import annotations

import os
import resource
import signal
import time
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from l2i_builder import stages
from l2i_builder.config import Config
from l2i_builder.configfile import load_config
from l2i_builder.errors import WeightsError
from l2i_builder.ingest.planning import read_rows
from l2i_builder.peeling import with_peeling
from l2i_builder.run.cluster import Parts
from l2i_builder.sample import Batch, Reason, key_fraction

SIDE = 64
KIND = {"head": "toy-1", "features": "toy", "dim": 2, "backbone": "toy", "backbone_sha256": "0" * 64}


def write_metadata(folder: Path, rows: int, files: int = 1) -> Path:
    """Write LAION-shaped parquet files with ``rows`` rows each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        names = [f"{number}-{row}" for row in range(rows)]
        table = {"URL": [f"http://toy.test/{name}.jpg" for name in names], "TEXT": [f"toy {name}" for name in names]}
        pq.write_table(pa.table(table | {"punsafe": [0.0] * rows}), folder / f"part-{number:03d}.parquet")
    return folder


def toy_config(metadata: Path, out: Path, *overrides: str) -> Config:
    small = ["ingest.rows_per_shard=20", "cluster.batch_rows=4", f"image.size={SIDE}", "ingest.audit_rate=0.2"]
    return load_config(None, [*small, *overrides], metadata=str(metadata), out=str(out))


def first_time(what: str, fault: str) -> bool:
    """Whether ``fault`` is ``what`` and a file that does not exist yet; makes the file."""
    if not fault.startswith(what) or (mark := Path(fault.removeprefix(what))).exists():
        return False
    mark.touch()
    return True


class ToySource:
    """Makes an image of each row from its key; every tenth row fails to be fetched."""

    def __init__(self, config: Config, pause: float = 0.0, fault: str = "") -> None:
        self.config, self.pause, self.fault = config, pause, fault

    def batches(self, shard):
        rows = read_rows(shard, self.config)
        for row in rows:
            if row.index % 10 == 9:
                row.refuse(Reason.HTTP_4XX, "fetch", "404")
        yield from self.batches_of(rows, shard)

    def batches_of(self, rows, shard):
        for start in range(0, len(rows), self.config.cluster.batch_rows):
            time.sleep(self.pause)
            if start and first_time("fetch hangs once ", self.fault):
                time.sleep(600)
            part = rows[start : start + self.config.cluster.batch_rows]
            live = np.array([i for i, row in enumerate(part) if row.kept], np.int64)
            side = self.config.image.size
            images = [toy_image(part[i].key, side) for i in live]
            image = np.stack(images) if images else np.zeros((0, side, side, 3), np.uint8)
            yield Batch(part, live, shard_rows=len(rows), image=image)


def toy_image(key: str, side: int = SIDE) -> np.ndarray:
    """A smooth picture with a bright disc, different for each key."""
    return drawn(key).repeat(side // SIDE, 0).repeat(side // SIDE, 1)


def drawn(key: str) -> np.ndarray:
    grid = np.linspace(0, 200, SIDE)
    image = np.stack([np.add.outer(grid, grid * key_fraction(key, f"c{i}")) / 2 for i in range(3)], -1)
    return np.where(disc(key)[..., None], 255, image).astype(np.uint8)


def disc(key: str) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    return (y - 32) ** 2 + (x - 20 - 24 * key_fraction(key, "x")) ** 2 < 144


def toy_segmenter(images: np.ndarray) -> np.ndarray:
    return (images.min(axis=-1) == 255).astype(np.uint8) * 255


def toy_inpainter(images: np.ndarray, holes: np.ndarray) -> np.ndarray:
    return np.where(holes[..., None], np.uint8(90), images)


class ToyJudge:
    """Scores by the image alone, the same on every machine."""

    version, kind = "toy-1", KIND

    def __init__(self, threshold: float = -1) -> None:
        self.threshold = threshold if threshold >= 0 else 0.3

    def features(self, images: np.ndarray, *layers: np.ndarray) -> np.ndarray:
        totals = images.reshape(len(images), -1).astype(np.int64).sum(axis=1)
        return np.stack([totals % 997 / 997, totals % 7], axis=1).astype(np.float32)

    def score_features(self, features: np.ndarray) -> np.ndarray:
        return features[:, 0]


class ToySegment(stages.SegmentStage):
    def __init__(self, config, pause=0.0, fault=""):
        self.config, self.pause, self.fault = config, pause, fault

    def model(self, images: np.ndarray) -> np.ndarray:
        time.sleep(self.pause * len(images))
        if self.fault == "always":
            raise ValueError("the model is broken")
        if self.fault == "one" and len(images) > 1:
            raise ValueError("a bad sample is among them")
        if self.fault == "one" and images.astype(np.int64).sum() % 7 == 0:
            raise ValueError("this is the bad sample")
        if first_time("die once ", self.fault):
            os.kill(os.getpid(), signal.SIGKILL)
        if first_time("hang once ", self.fault):
            time.sleep(600)
        if first_time("memory once ", self.fault):
            limit = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 2**28, limit[1]))
            try:
                np.ones((2**16, 2**16))
            finally:
                resource.setrlimit(resource.RLIMIT_AS, limit)
        return toy_segmenter(images)


class ToyJudgeMask(stages.JudgeMaskStage):
    def __init__(self, config):
        self.config, self.judge = config, ToyJudge(config.judge.mask.threshold)


class ToyInpaint(stages.InpaintStage):
    def __init__(self, config):
        self.config, self.model = config, toy_inpainter


class ToyJudgeInpainting(stages.JudgeInpaintingStage):
    def __init__(self, config):
        self.config, self.judge = config, ToyJudge(config.judge.inpainting.threshold)


def toy_stages(config, pause, fault, names, device="cpu", threads=1):
    if fault == "no weights":
        raise WeightsError("the weights have another digest")
    if fault == "cannot load":
        raise RuntimeError("no such driver")
    made = [
        ToySegment(config, pause, fault),
        ToyJudgeMask(config),
        ToyInpaint(config),
        ToyJudgeInpainting(config),
        stages.EncodeStage(config, device, threads),
    ]
    return with_peeling([stage for stage in made if stage.name in names], config)


def toy_parts(config: Config, pause: float = 0.0, fault: str = "") -> Parts:
    return Parts(partial(ToySource, config, fault=fault), partial(toy_stages, config, pause, fault))


class Silent:
    """A progress that only remembers."""

    def __init__(self):
        self.done = self.kept = 0
        self.notes = []

    def rows(self, rows, kept):
        self.done, self.kept = self.done + rows, self.kept + kept

    def undo(self, rows, kept):
        self.rows(-rows, -kept)

    def shard_done(self, manifest):
        pass

    def note(self, text, shard="", attempt=0):
        self.notes.append(text)


def contents(out: Path) -> dict[str, bytes]:
    """Every file that must be the same on every run: stats hold times."""
    kept = (path for path in out.rglob("*") if path.is_file() and "stats" not in path.parts)
    return {str(path.relative_to(out)): path.read_bytes() for path in kept}


__all__ = ["Silent", "contents", "toy_config", "toy_parts", "write_metadata"]
