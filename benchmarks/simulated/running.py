"""A run of the real driver on the simulated cluster, and what is noted of it."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from benchmarks.simulated import clock
from benchmarks.simulated.nodes import Cluster
from benchmarks.simulated.rays import installed
from benchmarks.simulated.timing import Rate, Timing
from l2i_builder.config import Config
from l2i_builder.configfile import load_config
from l2i_builder.ingest.planning import InputShard
from l2i_builder.output.manifest import ShardManifest
from l2i_builder.run.cluster import Driver, Outcome, Parts
from l2i_builder.run.costmodel import Rates, assumed_rates, estimate
from l2i_builder.run.observe import Observer, Summary
from l2i_builder.run.progress import ConsoleProgress
from l2i_builder.run.resources import Layout, plan_layout
from l2i_builder.run.sizing import cpus_for
from l2i_builder.sample import Reason

PIPELINE = Path(__file__).parents[2] / "pipelines" / "cluster.yaml"
GPUS_A_NODE, CPUS_A_NODE = 8, 32
POINTS = 10  # of the run at which the driver is looked at
FILES = ("shards/{}.tar", "audit/{}.tar", "previews/{}.tar", "features/{}.parquet", "ledger/{}.parquet")

Content = tuple[int, int, int, int]  # of a batch: shard, first row, rows, which of the draws


@dataclass
class Setting:
    """A cluster and a workload."""

    gpus: int
    shards: int
    shard_rows: int = 10_000
    batch_rows: int = 64
    seed: int = 0
    rate: Rate = field(default_factory=Rate)
    overrides: tuple[str, ...] = ()

    def config(self) -> Config:
        keys = [f"cluster.batch_rows={self.batch_rows}", f"ingest.rows_per_shard={self.shard_rows}", *self.overrides]
        return load_config(str(PIPELINE), keys, metadata="simulated", out="simulated")

    def layout(self, config: Config) -> Layout:
        return plan_layout(config, {"CPU": cpus_for(config, self.gpus), "GPU": self.gpus})

    def rates(self, config: Config) -> Rates:
        return assumed_rates(config, gpu=True)

    @property
    def rows(self) -> int:
        return self.shards * self.shard_rows

    @property
    def batches(self) -> int:
        return self.shards * -(-self.shard_rows // self.batch_rows)


@dataclass
class Point:
    """The driver at a moment. shards: finished; seconds: of virtual time; cpu: its CPU seconds so far; megabytes:
    unique memory; busy: GPU seconds so far."""

    shards: int
    seconds: float
    cpu: float
    megabytes: float
    busy: float


@dataclass
class Found:
    """What a run came to. cpu: seconds of this process; rerun: rows that GPU actors did beyond those of the input."""

    setting: Setting
    layout: Layout
    hours: float
    cpu: float
    points: list[Point]
    utilisation: float  # of the GPU actors, between the first and the last tenth of the shards
    model_hours: float
    rerun: int
    restarts: int
    failed: dict[str, str]
    troubles: dict[str, int]

    @property
    def cpu_per_batch(self) -> float:
        return self.cpu / self.setting.batches


class Fetcher:
    """What a fetch actor holds: batches of a shard, each (seconds after the start, seconds after the last, content)."""

    def __init__(self, timing: Timing) -> None:
        self.timing, self.load = timing, cycle(timing.cpu_load)

    def batches(self, shard: InputShard) -> Iterator[tuple[float, float, Content]]:
        timing, step = self.timing, self.timing.batch_rows
        profile = timing.fetched[shard.number % len(timing.fetched)]
        for place, there in enumerate(profile):
            draw = (shard.number * len(profile) + place) % len(timing.kept)
            rows = min(step, shard.rows - place * step)
            yield there, timing.decode, (shard.number, place * step, rows, draw)


class Models:
    """What a stage actor holds: a group of stages."""

    def __init__(self, timing: Timing, names: list[str], device: str, threads: int) -> None:
        self.timing, self.took = timing, timing.seconds["+".join(names)]
        self.load = cycle(timing.gpu_load if device == "cuda" else timing.cpu_load)

    def seconds(self, content: Content) -> float:
        _, _, rows, draw = content
        return self.took[draw] * rows / self.timing.batch_rows

    def summary(self, content: Content) -> Summary:
        _, _, rows, draw = content
        kept = min(self.timing.kept[draw], rows)
        return Summary(rows, kept, {Reason.HTTP_4XX.value: rows - kept})


class Shelf:
    """Takes commits: checks that each shard's batches are whole and in order, and counts how often each shard came."""

    def __init__(self, timing: Timing, shards: int) -> None:
        self.timing, self.times = timing, bytearray(shards)
        self.rows = self.kept = 0

    def commit(
        self, out: str, shard: InputShard, config: Config, batches: Any, stats: Any, digest: str
    ) -> ShardManifest:
        row = kept = 0
        for number, start, rows, draw in batches:
            if (number, start) != (shard.number, row):
                raise ValueError(f"shard {shard.name}: rows {start} of shard {number} came where {row} was due")
            row, kept = row + rows, kept + min(self.timing.kept[draw], rows)
        if row != shard.rows:
            raise ValueError(f"shard {shard.name}: {row} of {shard.rows} rows were committed")
        self.times[shard.number] += 1
        self.rows, self.kept = self.rows + row, self.kept + kept
        reasons = {reason.value: (row - kept) // 20 for reason in list(Reason)[:19]}
        reasons[Reason.MASK_REJECTED.value] = row - kept - sum(reasons.values())
        files = {name.format(shard.name): {"bytes": row, "sha256": os.urandom(32).hex()} for name in FILES}
        files[FILES[0].format(shard.name)]["md5"] = os.urandom(16).hex()
        return ShardManifest(shard.number, row, kept, reasons, files, digest)


class Watch(Observer):
    """Notes a point whenever another tenth of the shards is finished."""

    def __init__(self, cluster: Cluster, setting: Setting, loop: clock.VirtualLoop) -> None:
        self.cluster, self.loop, self.count, self.points = cluster, loop, 0, list[Point]()
        self.due = {round(setting.shards * part / POINTS) for part in range(1, POINTS + 1)}

    def note(self) -> None:
        memory = psutil.Process().memory_full_info().uss / 1e6
        self.points.append(Point(self.count, self.loop.now, time.process_time(), memory, self.cluster.gpu_seconds))

    def finished(self, *_: Any) -> None:
        self.count += 1
        if self.count in self.due:
            self.note()


def simulate(setting: Setting) -> Found:
    """Run the driver over the setting's shards. Raises AssertionError where a row is lost, doubled or miscounted."""
    config = setting.config()
    layout, rates = setting.layout(config), setting.rates(config)
    timing = Timing.of(config, rates, [group.stages for group in layout.groups], setting.seed, setting.shard_rows)
    shards = [InputShard(number, (), {}, setting.shard_rows) for number in range(setting.shards)]
    shelf = Shelf(timing, setting.shards)
    gc.collect()

    async def main(loop: clock.VirtualLoop) -> Found:
        cluster = Cluster(timing, setting.rate, setting.seed, nodes(layout, setting.gpus))
        watch = Watch(cluster, setting, loop)
        with installed(cluster, loop):
            parts = Parts(partial(Fetcher, timing), partial(Models, timing), shelf.commit)
            watch.note()
            driver = Driver(config, layout, "simulated", progress, parts, watch)
            cluster.disturb()
            outcome = await driver.run(shards)
            await cluster.stop()
        check(setting, shelf, outcome, progress)
        return _found(setting, config, layout, cluster, watch, outcome)

    with Path(os.devnull).open("w") as nowhere:
        progress = ConsoleProgress(Console(file=nowhere), setting.rows, setting.shards)
        return clock.run(main)


def nodes(layout: Layout, gpus: int) -> list[tuple[float, float]]:
    """Return (CPUs, GPUs) of the nodes that hold a layout: a CPU for each GPU, the others in a pool of their own."""
    reserved = layout.fetchers * layout.fetcher_cpus
    reserved += sum(group.actors * group.cpus for group in layout.groups if not group.gpus)
    full, rest = divmod(gpus, GPUS_A_NODE)
    machines: list[tuple[float, float]] = [(GPUS_A_NODE, GPUS_A_NODE)] * full + [(rest, rest)] * (rest > 0)
    return machines + [(CPUS_A_NODE, 0.0)] * int(-(-reserved // CPUS_A_NODE))


def check(setting: Setting, shelf: Shelf, outcome: Outcome, progress: ConsoleProgress) -> None:
    """Raise AssertionError unless each shard is finished once or listed as failed, and each row counted once."""
    finished = setting.shards - len(outcome.failed)
    facts = {
        "a shard was committed twice": max(shelf.times) == 1,
        "a shard is missing": sum(shelf.times) == finished == len(outcome.finished),
        "rows were lost or doubled": shelf.rows == finished * setting.shard_rows == progress.done,
        "kept rows were miscounted": shelf.kept == progress.kept,
    }
    for problem, right in facts.items():
        assert right, problem


def _found(setting: Setting, config: Config, layout: Layout, cluster: Cluster, watch: Watch, outcome: Outcome) -> Found:
    first, *points = watch.points
    early, late = points[0], points[-2]
    utilisation = (late.busy - early.busy) / ((late.seconds - early.seconds) * setting.gpus)
    return Found(
        setting,
        layout,
        hours=points[-1].seconds / 3600,
        cpu=points[-1].cpu - first.cpu,
        points=[first, *points],
        utilisation=utilisation,
        model_hours=estimate(setting.rows, setting.rates(config), layout, 0, 0).hours,
        rerun=cluster.gpu_rows - setting.rows,
        restarts=outcome.restarts,
        failed=outcome.failed,
        troubles=asdict(cluster.counts),
    )
