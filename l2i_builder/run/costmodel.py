"""What a run will take: seconds per image of each stage, times the images that reach it.

Two sources. Before a run: the table below. Once shards are finished in the output folder: what they took.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from l2i_builder import storage
from l2i_builder.config import Config
from l2i_builder.run.resources import Layout

# Share of wall time that the model actors work, after start-up, with actors that die and nodes that go: simulated
# with the real driver (docs/scale.md).
UTILISATION = 0.99
STATS_READ = 200  # stats files read, at most, to learn from finished shards

# Slot seconds that requests take a row until a shard's last one has begun: most answer or refuse within a second, few
# in a hundred take all their attempts to a time limit. Simulated from an assumed distribution (docs/scale.md).
REQUEST_SECONDS = 1.5
FETCH_SECONDS = 0.004  # a row of shards that are there already
DECODE_LEFT = 0.5  # share of a shard's decoding that is left when its slowest row has come, simulated likewise

# Seconds an image takes one CPU core at 512 px (docs/benchmarks.md says how they were measured) ...
CPU_SECONDS = {
    "decode": 0.012,
    "segment:u2net": 0.5,
    "segment:u2netp": 0.25,
    "segment:isnet": 2.5,
    "segment:inspyrenet": 30.0,
    "judge_mask": 0.035,
    "inpaint:patchmatch": 0.05,
    "inpaint:telea": 0.12,
    "inpaint:lama": 2.5,
    "judge_inpainting": 0.055,
    "encode": 0.02,
}
# ... and one data-centre GPU. Assumed from published throughput, not measured by this project.
GPU_SECONDS = {"segment:inspyrenet": 0.06, "inpaint:lama": 0.03, "judge_mask": 0.004, "judge_inpainting": 0.004}

# Of the samples that may hold a further object (layers.count above 2), the share that each stage sees, and that have
# one: measured on the sample photographs (docs/layers.md).
FURTHER_REACH = {"segment": 1.0, "judge_mask": 0.24, "inpaint": 0.11, "judge_inpainting": 0.11}
FURTHER_TAKEN = 0.09


@dataclass(frozen=True)
class Rates:
    """What a run's cost depends on. seconds: stage -> busy seconds an image, of "fetch" those of a fetch actor, which
    has many requests under way; reach: stage -> share of input rows."""

    seconds: dict[str, float]
    reach: dict[str, float]
    kept: float  # share of input rows
    measured: bool  # from finished shards of this run
    sources: list[str] = field(default_factory=list)  # where the numbers come from, for people


@dataclass(frozen=True)
class Estimate:
    """busy: stage -> busy seconds in all; hours: wall time with the layout; dollars: in all."""

    busy: dict[str, float]
    hours: float
    dollars: float
    kept: int

    def dollars_per_million(self, rows: int) -> float:
        return self.dollars / rows * 1e6 if rows else 0.0

    def dollars_per_million_kept(self) -> float:
        return self.dollars / self.kept * 1e6 if self.kept else 0.0


def assumed_rates(config: Config, gpu: bool) -> Rates:
    """Return rates before anything has run: half of the web's links are dead; the paper kept 9.5 % of all rows."""
    reach = {"fetch": 1.0, "decode": 0.6, "segment": 0.55, "judge_mask": 0.45, "inpaint": 0.2}
    reach |= {"judge_inpainting": reach["inpaint"], "encode": 0.095}
    left = reach["encode"]
    for _ in range(2, config.layers.count):
        reach |= {stage: reach[stage] + left * share for stage, share in FURTHER_REACH.items()}
        left *= FURTHER_TAKEN
    seconds = {}
    for stage in reach:
        backend = {"segment": config.segment.backend, "inpaint": config.inpaint.backend}.get(stage)
        name = f"{stage}:{backend}" if backend else stage
        if stage == "fetch":
            seconds[stage] = fetch_seconds(config)
            continue
        seconds[stage] = GPU_SECONDS.get(name, CPU_SECONDS[name]) if gpu else CPU_SECONDS[name]
    scale = (config.image.size / 512) ** 2
    for stage in ("inpaint", "encode"):
        seconds[stage] *= scale
    return Rates(seconds, reach, reach["encode"], measured=False, sources=["assumed: table in costmodel.py"])


def fetch_seconds(config: Config) -> float:
    """Return the seconds that a fetch actor takes a row, before anything has run: its share of the requests under way,
    and of the wait for the shard's slowest row, which has every attempt run into the time limit."""
    if config.source == "img2dataset_shards":
        return FETCH_SECONDS
    fetch = config.fetch
    slowest = (fetch.retries + 1) * fetch.timeout / config.ingest.rows_per_shard
    return REQUEST_SECONDS / fetch.concurrency + slowest


def measured_rates(out: str) -> Rates | None:
    """Return rates from the stats of finished shards in ``out``, None where there are none."""
    folder = storage.join(out, "stats")
    names = storage.list_names(folder, ".json") if out else []
    if not names:
        return None
    picked = names[:: max(1, len(names) // STATS_READ)]
    return rates_of(json.loads(storage.read_bytes(storage.join(folder, name))) for name in picked)


def rates_of(stats: Iterable[Mapping]) -> Rates | None:
    """Return the rates that stats files add up to (keys: count, successes, seconds, images)."""
    rows = kept = shards = 0
    seconds: dict[str, float] = {}
    images: dict[str, int] = {}
    for item in stats:
        shards, rows, kept = shards + 1, rows + item["count"], kept + item["successes"]
        for stage, value in item["seconds"].items():
            seconds[stage] = seconds.get(stage, 0.0) + value
            images[stage] = images.get(stage, 0) + item["images"].get(stage, 0)
    if not rows:
        return None
    per_image = {stage: seconds[stage] / images[stage] for stage in seconds if images[stage]}
    reach = {stage: images[stage] / rows for stage in per_image}
    return Rates(per_image, reach, kept / rows, True, [f"measured on {shards:,} finished shards of this run"])


def estimate(rows: int, rates: Rates, layout: Layout, gpu_price: float, cpu_price: float) -> Estimate:
    """Return what ``rows`` input rows take on ``layout``; prices in dollars per GPU-hour and CPU-hour.

    The slowest pool sets the wall time. What is reserved is paid for, busy or not. A fetch actor decodes while it
    waits for answers, but for what is left when the slowest one has come.
    """
    busy = {stage: rates.seconds[stage] * rates.reach[stage] * rows for stage in rates.seconds}
    source = busy.get("fetch", 0.0) + DECODE_LEFT * busy.get("decode", 0.0)
    pools = [(source, layout.fetchers, layout.fetcher_cpus, 0.0)]
    for group in layout.groups:
        work = sum(busy.get(stage, 0.0) for stage in group.stages)
        pools.append((work, group.actors, group.cpus, group.gpus))
    wall = max(max(work / actors for work, actors, _, _ in pools[1:]) / UTILISATION, source / layout.fetchers)
    cost = sum(actors * (cpus * cpu_price + gpus * gpu_price) for _, actors, cpus, gpus in pools)
    hours = wall / 3600
    return Estimate(busy, hours, hours * cost, round(rates.kept * rows))
