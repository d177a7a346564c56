"""The driver at scale: 60,000 shards, 600 million rows, 400 GPU actors, on a simulated cluster in virtual time.

    python -m benchmarks.simulation                                  # about six minutes of one core
    python -m benchmarks.simulation --plot docs/images/scale.svg --json scale.json
    python -m benchmarks.simulation --quick

The driver and its pools are the real ones (``l2i_builder.run``); Ray is a stand-in (``benchmarks/simulated``), and the
clock jumps. Actors die, nodes are taken back, attempts fail. Each run is checked: every shard finished once, every
row counted once. Then a real local Ray tells what its own calls cost, and where one core of the driver is full.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.simulated.bare import OnRay, bare_stand_in, real_ray
from benchmarks.simulated.running import Found, Setting, simulate
from benchmarks.simulated.timing import Rate
from l2i_builder.errors import ClusterError
from l2i_builder.run.costmodel import estimate
from l2i_builder.run.sizing import CPU_PRICE, GPU_PRICE, cpus_for

ROWS = 600_000_000
COARSE = 1_000  # rows of a batch where 60,000 shards must end within minutes


@dataclass(frozen=True)
class Sizes:
    """What is run. growth: shards of each run; real: shards at the real batch size; actors: GPUs of further clusters,
    with ``per_gpu`` shards a GPU; priced: GPUs of the table of hours and dollars."""

    gpus: int
    growth: tuple[int, ...]
    real: int
    actors: tuple[int, ...]
    per_gpu: float
    priced: tuple[int, ...]
    ray_shards: int


DEFAULT = Sizes(400, (600, 6_000, 60_000), 1_200, (50, 100, 200, 800), 1.0, (64, 256), 12)
QUICK = Sizes(8, (6, 12), 12, (16,), 1.0, (8,), 1)


def apart(work: Callable[..., Any], *args: Any) -> Any:
    """Return ``work(*args)``, done by a process of its own: memory and CPU are then its alone."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, args)


def grown(sizes: Sizes) -> list[Found]:
    """Run more and more shards on one cluster, in coarse batches."""
    return [apart(simulate, Setting(sizes.gpus, shards, batch_rows=COARSE)) for shards in sizes.growth]


def widened(sizes: Sizes) -> list[Found]:
    """Run batches of the real size on larger and larger clusters; the last one is the cluster of the others."""
    clusters = [Setting(gpus, max(4, int(gpus * sizes.per_gpu))) for gpus in sizes.actors]
    return [apart(simulate, one) for one in [*clusters, Setting(sizes.gpus, sizes.real)]]


def priced(sizes: Sizes) -> list[Found]:
    """Run a cluster of each size for long enough to tell hours, in coarse batches, calm and disturbed."""
    rates = (Rate(0, 0, 0, 0, 0, 0, 0, 0), Rate())
    shards = {gpus: max(20, int(gpus * 25 * (1 if sizes is DEFAULT else 0.1))) for gpus in sizes.priced}
    settings = [Setting(gpus, shards[gpus], batch_rows=COARSE, rate=rate) for gpus in sizes.priced for rate in rates]
    return [apart(simulate, one) for one in settings]


def of_model(found: Found, rows: int = ROWS) -> dict[str, float]:
    """Return hours and dollars of ``rows`` rows on a run's cluster: by the cost model, and as simulated. The latter
    by the pace between the first and the last tenth of the shards, since a short run is mostly start and end."""
    setting = found.setting
    config = setting.config()
    told = estimate(rows, setting.rates(config), found.layout, GPU_PRICE, CPU_PRICE)
    early, late = found.points[1], found.points[-2]
    pace = (late.shards - early.shards) * setting.shard_rows / (late.seconds - early.seconds)
    hours = rows / pace / 3600
    facts = {"gpus": setting.gpus, "cpus": cpus_for(config, setting.gpus), "rows_a_second": pace}
    facts |= {"model_hours": told.hours, "model_dollars": told.dollars, "hours": hours}
    return facts | {"dollars": told.dollars * hours / told.hours, "ratio": hours / told.hours}


def knee(on_ray: OnRay, real: Found) -> dict[str, float]:
    """Return how many GPUs' batches fill one core of the driver, by what a batch takes of it on a real Ray, and
    by a GPU's batches a second when it is as busy as in a long run."""
    setting = real.setting
    hours = estimate(setting.rows, setting.rates(setting.config()), real.layout, 0, 0).hours
    each = setting.batches / (hours * 3600) / setting.gpus
    return {"batches_a_second_a_gpu": each, "gpus": 1 / (each * on_ray.driver), "share": each * on_ray.driver}


def table(title: str, headings: Iterable[str], lines: Iterable[Iterable[Any]]) -> Table:
    made = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in headings:
        made.add_column(heading, justify="right")
    for line in lines:
        made.add_row(*map(str, line))
    return made


def line_of(found: Found, stand_in: float) -> list[str]:
    """Return what a run came to, as cells; the driver's part is what the stand-in alone does not take."""
    setting, own = found.setting, found.cpu_per_batch - stand_in
    memory = [point.megabytes for point in found.points[1:]]
    return [
        *(f"{setting.gpus}", f"{setting.shards:,}", f"{setting.batches:,}", f"{found.hours:,.2f}"),
        f"{setting.shards / found.hours / 3600:.2f}",
        f"{found.cpu:,.1f}",
        f"{found.cpu / setting.shards * 1e3:.2f}",
        f"{found.cpu_per_batch * 1e6:.0f}",
        f"{own * 1e6:.0f}",
        f"{memory[0]:.0f} to {memory[-1]:.0f}",
        f"{found.utilisation:.1%}",
        f"{found.rerun / setting.rows:.3%}",
    ]


def plot(found: Found, path: Path) -> None:
    """Draw the driver's CPU and memory over a run."""
    import altair as alt

    first = found.points[0]
    values = [
        {"shards": point.shards, "CPU seconds": point.cpu - first.cpu, "MB": point.megabytes} for point in found.points
    ]
    base = alt.Chart(alt.Data(values=values), width=300, height=200)
    x = alt.X("shards:Q", title="shards finished")
    charts = [
        base.mark_line(point=True).encode(x=x, y=alt.Y(f"{name}:Q", title=title, scale=alt.Scale(zero=True)))
        for name, title in (("CPU seconds", "CPU seconds, stand-in included"), ("MB", "unique memory, MB"))
    ]
    alt.hconcat(*charts, background="white").save(path)


def plain(found: Found) -> dict[str, Any]:
    """Return a run as JSON types."""
    facts = asdict(found)
    return facts | {"cpu_per_batch": found.cpu_per_batch, "batches": found.setting.batches}


def on_real_ray(console: Console, sizes: Sizes, real: Found) -> dict[str, Any]:
    """Measure a local Ray's own calls and print where a core of the driver is full; {} where Ray cannot start."""
    try:
        on_ray: OnRay = apart(real_ray, sizes.ray_shards)
    except ClusterError as error:
        console.print(f"left out, run it again on a quiet machine: {error}")
        return {}
    found = knee(on_ray, real)
    console.print(
        f"real Ray, {on_ray.batches:,} batches through two groups: {on_ray.bare * 1e3:.2f} ms of CPU a batch bare, "
        f"{on_ray.driver * 1e3:.2f} ms with the driver; {on_ray.a_second:.0f} batches/s here\n"
        f"a busy GPU makes {found['batches_a_second_a_gpu']:.3f} batches/s: a core is full at {found['gpus']:,.0f} GPUs"
    )
    return {"ray": asdict(on_ray), "knee": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the smallest of everything")
    parser.add_argument("--no-ray", action="store_true", help="leave out the real local Ray")
    parser.add_argument("--plot", type=Path, help="SVG or PNG file")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()
    sizes = QUICK if args.quick else DEFAULT
    console = Console(width=160)

    stand_in = apart(bare_stand_in, Setting(sizes.gpus, sizes.real // 4))
    wide, long, money = widened(sizes), grown(sizes), priced(sizes)
    headings = ("GPUs", "shards", "batches", "hours", "shards/s", "CPU s", "ms/shard", "us/batch", "of it driver", "MB")
    headings += ("GPU busy", "rows redone")
    console.print(table(f"batches of {COARSE} rows", headings, [line_of(one, stand_in) for one in long]))
    console.print(
        table(f"batches of {wide[-1].setting.batch_rows} rows", headings, [line_of(one, stand_in) for one in wide])
    )
    console.print(f"what went wrong in the longest run: {long[-1].troubles}; shards given up: {len(long[-1].failed)}")
    costs = [of_model(one) for one in money]
    names = ("GPUs", "CPUs", "rows/s", "hours, model", "dollars, model", "hours, simulated", "simulated / model")
    cells = []
    for one in costs:
        told = (f"{one['model_hours']:,.1f}", f"{one['model_dollars']:,.0f}")
        cells.append((one["gpus"], f"{one['cpus']:g}", f"{one['rows_a_second']:,.0f}", *told))
        cells[-1] += (f"{one['hours']:,.1f}", f"{one['ratio']:.3f}")
    console.print(table(f"{ROWS:,} rows: nothing goes wrong, then as above", names, cells))
    numbers: dict[str, Any] = {"stand_in": stand_in, "growth": [plain(one) for one in long]}
    numbers |= {"actors": [plain(one) for one in wide], "costs": costs}
    if not args.no_ray:
        numbers |= on_real_ray(console, sizes, wide[-1])
    if args.plot:
        plot(long[-1], args.plot)
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=1, default=str))


if __name__ == "__main__":
    main()
