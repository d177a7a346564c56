"""How large a cluster: what the cost model says of clusters of several sizes, as a page (``docs/sizing.md``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from l2i_builder.config import Config
from l2i_builder.configfile import load_config
from l2i_builder.run.costmodel import UTILISATION, Estimate, assumed_rates, estimate
from l2i_builder.run.resources import CPUS_PER_FETCHER, ENCODERS_PER_GPU, GPUS_PER_FETCHER, Layout, plan_layout

ROWS = 100_000_000
GPU_PRICE, CPU_PRICE = 1.5, 0.04  # dollars an hour, as ``l2i build --dry-run`` has them
GPUS = (1, 4, 8, 16, 64, 256)
CPUS = (16, 64, 256, 1024)
ON_GPUS = ("segment.backend=inspyrenet", "inpaint.backend=lama", "fetch.concurrency=256")  # as pipelines/cluster.yaml
ENCODER_CPUS = 0.5  # of the default groups on GPUs

_PAGE = """# Sizing

What the cost model says of clusters of several sizes, for {rows:,} input rows at {size} px. `l2i build --dry-run` says
it for your metadata, your prices and your cluster; once shards are finished it says it from what they took.

Assumed until then: half of the links are dead, {kept:.1%} of the rows are kept (the paper kept as many); actors work
{busy:.0%} of the time; ${gpu:g} a GPU-hour and ${cpu:g} a CPU-hour, paid for what is reserved. Seconds an image are in
`l2i_builder/run/costmodel.py`: those of GPUs follow published throughput and were not measured by this project. Spot
prices, traffic and storage are not in.

## GPUs: InSPyReNet and LaMa

A model actor a GPU, with one CPU; an encoder a GPU and a fetch actor for every {per_fetcher} GPUs live in the CPU pool.

| GPUs | CPUs, GPU pool | CPUs, CPU pool | fetch actors | encoders | rows/s | days | dollars | dollars a million kept |
|---:|---:|---:|---:|---:|---:|---:|---:|---:|
{gpus}
## CPUs alone: U²-Net and PatchMatch

Everything in one actor a CPU; a fetch actor for every {per_cpus} CPUs.

| CPUs | fetch actors | rows/s | days | dollars | dollars a million kept |
|---:|---:|---:|---:|---:|---:|
{cpus}
The slowest pool sets the pace. Twice the machines take half the time for the same money, as long as the pools grow
together: choose by the date.
"""


@dataclass(frozen=True)
class Size:
    """A cluster, what runs on it, and what ``ROWS`` rows take there."""

    gpus: int
    cpus: float  # of the whole cluster
    layout: Layout
    estimate: Estimate

    @property
    def speed(self) -> float:
        """Input rows a second."""
        return ROWS / (self.estimate.hours * 3600)

    @property
    def cpu_pool(self) -> float:
        """CPUs that fetch actors and encoders reserve."""
        return self.cpus - self.gpus


def on_gpus(counts: Iterable[int] = GPUS) -> Iterator[Size]:
    """Yield clusters of so many GPUs, with the CPUs that feed them."""
    config = load_config(None, ON_GPUS)
    for gpus in counts:
        yield _size(config, gpus, cpus_for(config, gpus))


def cpus_for(config: Config, gpus: int) -> float:
    """Return the CPUs, in whole ones, that the actors of so many GPUs reserve in all."""
    fetchers = -(-gpus // GPUS_PER_FETCHER)
    cpus = gpus + ENCODERS_PER_GPU * gpus * ENCODER_CPUS + fetchers * config.cluster.fetcher_cpus
    return -(-cpus // 1)


def on_cpus(counts: Iterable[int] = CPUS) -> Iterator[Size]:
    """Yield clusters of so many CPUs and no GPU."""
    config = load_config(None)
    for cpus in counts:
        yield _size(config, 0, cpus)


def _size(config: Config, gpus: int, cpus: float) -> Size:
    layout = plan_layout(config, {"CPU": cpus, "GPU": gpus})
    rates = assumed_rates(config, gpus > 0)
    return Size(gpus, cpus, layout, estimate(ROWS, rates, layout, GPU_PRICE, CPU_PRICE))


def page() -> str:
    """Return ``docs/sizing.md``."""
    gpus = "".join(
        f"| {size.gpus} | {size.gpus} | {size.cpu_pool:g} | {size.layout.fetchers} | {size.layout.groups[-1].actors} "
        f"| {_cost(size)} |\n"
        for size in on_gpus()
    )
    cpus = "".join(f"| {size.cpus:g} | {size.layout.fetchers} | {_cost(size)} |\n" for size in on_cpus())
    config = load_config(None)
    return _PAGE.format(
        rows=ROWS,
        size=config.image.size,
        kept=assumed_rates(config, True).kept,
        busy=UTILISATION,
        gpu=GPU_PRICE,
        cpu=CPU_PRICE,
        per_fetcher=GPUS_PER_FETCHER,
        per_cpus=CPUS_PER_FETCHER,
        gpus=gpus,
        cpus=cpus,
    )


def _cost(size: Size) -> str:
    """Speed, days and dollars, as cells."""
    found = size.estimate
    days = f"{found.hours / 24:,.1f}" if found.hours < 240 else f"{found.hours / 24:,.0f}"
    speed = f"{size.speed:,.1f}" if size.speed < 100 else f"{size.speed:,.0f}"
    return f"{speed} | {days} | {found.dollars:,.0f} | {found.dollars_per_million_kept():,.0f}"
