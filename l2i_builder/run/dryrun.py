"""``l2i build --dry-run``: what a build would do, on what, for how long and for how much; nothing is run."""

from __future__ import annotations

import os
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from l2i_builder.config import Config
from l2i_builder.configfile import changed_keys
from l2i_builder.ingest import planning
from l2i_builder.ingest.planning import InputPlan
from l2i_builder.output import manifest
from l2i_builder.run import grow
from l2i_builder.run.build import absolute
from l2i_builder.run.costmodel import Estimate, Rates, assumed_rates, estimate, measured_rates
from l2i_builder.run.resources import Layout, plan_layout


def dry_run(config: Config, console: Console, gpu_price: float, cpu_price: float, append: bool = False) -> None:
    """Print plan, layout and estimate. Reads metadata footers, and with ``append`` their URLs and captions and the
    run's keys; connects to a cluster only if one is named."""
    config = absolute(config)
    plan = planning.plan(config)
    if append:
        plan = _grown(config, plan, console)
    done = manifest.finished(config.out)
    rows = sum(shard.rows for shard in plan.shards if shard.number not in done)
    resources = _resources(config)
    layout = plan_layout(config, resources)
    gpu = any(group.gpus for group in layout.groups)
    rates = measured_rates(config.out) or assumed_rates(config, gpu)
    result = estimate(rows, rates, layout, gpu_price, cpu_price)

    console.print(
        f"metadata  {config.metadata}: {plan.all_rows:,} rows in {len(plan.all_files):,} files", soft_wrap=True
    )
    console.print(f"output    {config.out}: {len(done):,} of {len(plan.shards):,} shards finished", soft_wrap=True)
    for key, value in changed_keys(config):
        if key not in ("metadata", "out"):
            console.print(f"          {key} = {value}", soft_wrap=True)
    console.print(_layout_table(layout, resources))
    console.print(_stage_table(rates, result, rows))
    _print_totals(console, rates, result, rows, gpu_price, cpu_price)


def _grown(config: Config, fresh: InputPlan, console: Console) -> InputPlan:
    """Return the plan of a run as it would be after the metadata have joined it."""
    plan = grow.read_plan(config.out)
    if fresh.digest in (plan.digest, *(growth.input for growth in plan.growths)):
        return plan
    growth, _ = grow.grow(config.out, plan, fresh, config, console.print)
    console.print(f"new       {growth.rows:,} of {growth.total:,} rows; {growth.known:,} are known and left out")
    return replace(plan, growths=[*plan.growths, growth])


def _resources(config: Config) -> dict[str, float]:
    if config.cluster.address or os.environ.get("RAY_ADDRESS"):
        import ray

        from l2i_builder.run.connection import start_ray

        try:
            return start_ray(config)
        finally:
            ray.shutdown()
    import psutil

    cpus = config.cluster.cpus or len(os.sched_getaffinity(0))
    return {"CPU": cpus, "memory": 0.7 * psutil.virtual_memory().total}


def _layout_table(layout: Layout, resources: dict[str, float]) -> Table:
    table = Table("actors", "run", "CPUs each", "GPUs each", box=None, pad_edge=False)
    table.title = f"{resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"
    table.title_justify = "left"
    for stages, actors, cpus, gpus in layout.describe():
        table.add_row(str(actors), stages, f"{cpus:g}", f"{gpus:g}")
    return table


def _stage_table(rates: Rates, result: Estimate, rows: int) -> Table:
    table = Table("stage", box=None, pad_edge=False)
    for heading in ("images", "s/image", "busy hours"):
        table.add_column(heading, justify="right")
    for stage, busy in result.busy.items():
        images = f"{rates.reach[stage] * rows:,.0f}"
        table.add_row(stage, images, f"{rates.seconds[stage]:.3f}", f"{busy / 3600:,.2f}")
    return table


def _print_totals(
    console: Console, rates: Rates, result: Estimate, rows: int, gpu_price: float, cpu_price: float
) -> None:
    console.print(f"about {result.hours:,.1f} hours, {result.kept:,} samples kept, ${result.dollars:,.2f}")
    console.print(
        f"${result.dollars_per_million(rows):,.2f} per million rows, "
        f"${result.dollars_per_million_kept():,.2f} per million kept "
        f"(at ${gpu_price:g} a GPU-hour and ${cpu_price:g} a CPU-hour)"
    )
    console.print(f"numbers {'; '.join(rates.sources)}", soft_wrap=True)
