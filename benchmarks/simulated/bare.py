"""The driver's calls without the driver: what Ray, or its stand-in, takes of a batch by itself; on both alike."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.simulated import clock
from benchmarks.simulated.nodes import Cluster
from benchmarks.simulated.rays import installed
from benchmarks.simulated.running import Fetcher, Models, Setting, Shelf, nodes
from benchmarks.simulated.timing import CALM, Timing
from l2i_builder.config import Config
from l2i_builder.configfile import load_config
from l2i_builder.ingest.planning import InputShard
from l2i_builder.output.manifest import ShardManifest
from l2i_builder.run import cluster as driver_module
from l2i_builder.run.cluster import Driver, Parts, SourceWorker, StageWorker
from l2i_builder.run.connection import start_ray
from l2i_builder.run.resources import Layout, plan_layout
from l2i_builder.sample import Batch, Row

PIXELS = (1, 256, 256, 3)  # of a real batch: large enough for Ray to keep it in the object store
ROWS_A_SHARD, ROWS_A_BATCH = 10_000, 64


async def calls(parts: Parts, config: Config, layout: Layout, shards: Sequence[InputShard]) -> None:
    """Stream, run and commit every shard as the driver does, without its care: nothing may fail."""
    actor, ray = driver_module._actor, driver_module.ray
    source = actor(SourceWorker, layout.fetcher_cpus)
    fetchers = [source.remote(parts.source) for _ in range(layout.fetchers)]
    groups = []
    for group in layout.groups:
        worker, device = actor(StageWorker, group.cpus, group.gpus), "cuda" if group.gpus else "cpu"
        made = [worker.remote(partial(parts.stages, group.stages, device, 1), 1) for _ in range(group.actors)]
        groups.append(cycle(made))
    commit = ray.remote(num_cpus=0, max_retries=3)(driver_module._commit)
    todo, window = iter(shards), asyncio.Semaphore(layout.window)

    async def batch(ref: Any) -> Any:
        for pool in groups:
            ref, summary = next(pool).run.options(num_returns=2).remote(ref)
            await summary
        window.release()
        return ref

    async def fetch(fetcher: Any) -> None:
        for shard in todo:
            refs, tasks = (
                fetcher.stream.options(num_returns="streaming", _generator_backpressure_num_objects=2).remote(shard),
                [],
            )
            async for ref in refs:
                await window.acquire()
                tasks.append(asyncio.create_task(batch(ref)))
            await refs.completed()
            done = await asyncio.gather(*tasks)
            await commit.remote(parts.commit, shard, config, {}, "", *done)

    await asyncio.gather(*(fetch(fetcher) for fetcher in fetchers))


def bare_stand_in(setting: Setting) -> float:
    """Return the CPU seconds that the stand-in takes of a batch."""
    config = setting.config()
    layout = setting.layout(config)
    groups = [group.stages for group in layout.groups]
    timing = Timing.of(config, setting.rates(config), groups, setting.seed, setting.shard_rows)
    shelf = Shelf(timing, setting.shards)
    shards = [InputShard(number, (), {}, setting.shard_rows) for number in range(setting.shards)]
    parts = Parts(partial(Fetcher, timing), partial(Models, timing), shelf.commit)

    async def main(loop: clock.VirtualLoop) -> float:
        with installed(Cluster(timing, CALM, setting.seed, nodes(layout, setting.gpus)), loop):
            start = time.process_time()
            await calls(parts, config, layout, shards)
            return time.process_time() - start

    return clock.run(main) / setting.batches


@dataclass
class NoSource:
    """Gives batches of rows that say nothing, with pixels that nobody looks at."""

    rows: int

    def batches(self, shard: InputShard) -> Iterator[Batch]:
        for start in range(0, shard.rows, self.rows):
            rows = [Row(str(place), "", "", shard.number, place) for place in range(start, start + self.rows)]
            yield Batch(rows[: shard.rows - start], np.zeros(1, np.int64), shard.rows, np.zeros(PIXELS, np.uint8))


def no_stages(names: Sequence[str], device: str, threads: int) -> list[Any]:
    return []


def no_commit(out: str, shard: InputShard, config: Config, batches: Any, stats: Any, digest: str) -> ShardManifest:
    return ShardManifest(shard.number, sum(len(batch.rows) for batch in batches), 0)


class Uncounted:
    """A progress that adds up and shows nothing."""

    def __init__(self) -> None:
        self.done = 0

    def rows(self, rows: int, kept: int) -> None:
        self.done += rows

    def undo(self, rows: int, kept: int) -> None:
        self.done -= rows

    def shard_done(self, manifest: ShardManifest) -> None: ...

    def note(self, text: str, shard: str = "", attempt: int = 0) -> None: ...


@dataclass
class OnRay:
    """What a real local Ray takes of this process, CPU seconds a batch: bare calls, and with the driver around."""

    bare: float
    driver: float
    batches: int
    a_second: float  # batches, through the driver


def real_ray(shards: int, rows: int = ROWS_A_SHARD) -> OnRay:
    """Run no-op actors (a fetcher, two groups of one actor each) on a local Ray, bare and under the driver."""
    groups = "[{stages: [segment, judge_mask, inpaint, judge_inpainting], actors: 1, cpus: 0.5}, "
    groups += "{stages: [encode], actors: 1, cpus: 0.5}]"
    overrides = [f"cluster.batch_rows={ROWS_A_BATCH}", "cluster.cpus=4", "cluster.object_store_gb=0.5"]
    overrides += ["cluster.window=12", "cluster.fetchers=2", f"cluster.groups={groups}"]
    config = load_config(None, overrides, metadata="none", out="none")
    parts = Parts(partial(NoSource, ROWS_A_BATCH), no_stages, no_commit)
    todo = [InputShard(number, (), {}, rows) for number in range(shards)]
    batches = shards * -(-rows // ROWS_A_BATCH)
    here = str(Path(__file__).parents[2])  # where Ray's workers find this module
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    layout = plan_layout(config, start_ray(config))
    taken = []
    try:
        for kind in ("warm", "bare", "driver"):
            progress = Uncounted()
            some = todo[:2] if kind == "warm" else todo
            cpu, start = time.process_time(), time.monotonic()
            if kind == "driver":
                asyncio.run(_drive(config, layout, progress, parts, some))
                assert progress.done == shards * rows, "rows were lost"
            else:
                asyncio.run(calls(parts, config, layout, some))
            taken.append((time.process_time() - cpu, time.monotonic() - start))
    finally:
        driver_module.ray.shutdown()
    return OnRay(taken[1][0] / batches, taken[2][0] / batches, batches, batches / taken[2][1])


async def _drive(
    config: Config, layout: Layout, progress: Uncounted, parts: Parts, shards: Sequence[InputShard]
) -> None:
    await Driver(config, layout, "none", progress, parts).run(shards)
