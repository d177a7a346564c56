"""A run on a local Ray as ``l2i build`` makes it, with counters around it; and stages that cost next to nothing."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from l2i_builder.config import Config
from l2i_builder.ingest import planning
from l2i_builder.output.shards import read_members
from l2i_builder.run.cluster import Driver, Parts, _make_source
from l2i_builder.run.connection import start_ray
from l2i_builder.run.resources import Layout, plan_layout
from l2i_builder.stages import Stage

TESTS = str(Path(__file__).parents[1] / "tests")
os.environ["PYTHONPATH"] = os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")])  # Ray's workers look there
sys.path.insert(0, TESTS)
from toy import Silent, ToyJudge, toy_stages

Digests = dict[str, str]  # key -> SHA-256 over a sample's pictures


# how a command line begins -> what the process is
KINDS = {
    "ray::SourceWorker": "fetch actors",
    "ray::StageWorker": "model actors",
    "ray::": "commit tasks, idle workers",
    "decoder": "decoder children",
    "driver": "driver",
    "": "Ray's own processes",
}


@dataclass(frozen=True)
class Spent:
    """What a run took once its actors had loaded. wall, cpu: seconds, of the driver and all its descendants;
    by_kind: the CPU seconds by kind of process; starting: CPU seconds until then."""

    rows: int
    kept: int
    wall: float
    by_kind: dict[str, float]
    starting: float

    @property
    def cpu(self) -> float:
        return sum(self.by_kind.values())


def tree_cpu() -> Counter[str]:
    """CPU seconds so far of this process and its descendants, with those of theirs that have ended, by kind."""
    total: Counter[str] = Counter()
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            spent = sum(process.cpu_times()[:4])  # user, system, and both of children that were waited for
            title = "decoder" if "decode.child" in (line := " ".join(process.cmdline())) else line
        except psutil.Error:
            continue
        title = "driver" if process.pid == me.pid else title
        total[next(kind for prefix, kind in KINDS.items() if title.startswith(prefix))] += spent
    return total


def run_on_ray(config: Config, parts: Parts, tell: Callable[[str], None] = lambda _: None) -> tuple[Spent, Layout]:
    """Run all shards of ``config`` with the real driver. ``tell`` hears "loaded", and "done" before Ray is ended.

    Raises SystemExit where rows are missing.
    """
    import ray

    before = tree_cpu()
    resources = start_ray(config)
    progress = Silent()
    layout = plan_layout(config, resources)

    async def drive() -> Spent:
        shards = planning.plan(config).shards
        driver = Driver(config, layout, "benchmark", progress, parts)
        while any(pool.starting for pool in driver.state().pools):  # noqa: ASYNC110 (nothing to wait for)
            await asyncio.sleep(0.05)
        tell("loaded")
        at_start, start = tree_cpu(), time.perf_counter()
        ends: list[Any] = []
        driver.observer.closed = lambda: ends.extend((time.perf_counter(), tree_cpu()))  # type: ignore[method-assign]
        outcome = await driver.run(shards)
        tell("done")
        rows = sum(shard.rows for shard in shards)
        if outcome.failed or progress.done != rows:
            raise SystemExit(f"{progress.done} of {rows} rows came through; failed shards: {outcome.failed}")
        by_kind = {kind: ends[1][kind] - at_start[kind] for kind in KINDS.values()}
        return Spent(rows, progress.kept, ends[0] - start, by_kind, (at_start - before).total())

    try:
        return asyncio.run(drive()), layout
    finally:
        ray.shutdown()


def light_stages(
    config: Config, names: Sequence[str], device: str = "cpu", threads: int = 1, threshold: float = 0.0
) -> Sequence[Stage]:
    """The project's stages around models that cost next to nothing; encoding is the real one.

    threshold: share of samples that each judge refuses, about.
    """
    made: Any = {stage.name: stage for stage in toy_stages(config, 0.0, "", names, device, threads)}
    if "segment" in made:
        made["segment"].model = _disc
    for name in {"judge_mask", "judge_inpainting"} & made.keys():
        made[name].judge = ToyJudge(threshold)
    return [made[name] for name in names]


def light_parts(config: Config, threshold: float = 0.0) -> Parts:
    """The real source and commit around ``light_stages``."""
    return Parts(partial(_make_source, config), partial(light_stages, config, threshold=threshold))


def digest(members: dict[str, bytes]) -> str:
    """Return the SHA-256 over the pictures of a sample; its JSON also holds what is known of its source."""
    joined = b"".join(name.encode() + data for name, data in sorted(members.items()) if name != "json")
    return hashlib.sha256(joined).hexdigest()


def stored_pictures(out: Path) -> Digests:
    """Return the digests of all samples in the shards of a finished run."""
    tars = sorted((out / "shards").glob("*.tar"))
    return {key: digest(members) for tar in tars for key, members in read_members(str(tar))}


def _disc(images: np.ndarray) -> np.ndarray:
    height, width = images.shape[1:3]
    y, x = np.ogrid[:height, :width]
    disc = (y - height / 2) ** 2 + (x - width / 2) ** 2 < (min(height, width) / 4) ** 2
    return np.repeat(disc[None].astype(np.uint8) * 255, len(images), axis=0)


__all__ = [
    "Silent",
    "Spent",
    "digest",
    "light_parts",
    "light_stages",
    "run_on_ray",
    "stored_pictures",
    "toy_stages",
    "tree_cpu",
]
