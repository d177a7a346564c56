"""``l2i build`` and ``l2i status``."""

from __future__ import annotations

from typing import Annotated

import typer

from l2i_builder.commands import ConfigFile, OutArgument, Overrides, console, log


def build(
    config: ConfigFile = None,
    metadata: Annotated[str | None, typer.Option(help="Parquet file, folder or glob; local or URL.")] = None,
    out: Annotated[str | None, typer.Option(help="Output folder; local or URL.")] = None,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show plan, actors, hours and cost; run nothing.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Fetch rows again whose failure was transient.")
    ] = False,
    inline: Annotated[bool, typer.Option("--inline", help="One process, no Ray: for debugging.")] = False,
    gpu_price: Annotated[float, typer.Option(help="Dollars per GPU-hour, for --dry-run.")] = 1.5,
    cpu_price: Annotated[float, typer.Option(help="Dollars per CPU-hour, for --dry-run.")] = 0.04,
) -> None:
    """Build shards of layered images from metadata. Finished shards are skipped: run it again to go on.

    Examples:

      l2i build --metadata laion/ --out runs/laion

      l2i build -c pipelines/cluster.yaml --metadata s3://laion/meta --out s3://me/l2i --dry-run
    """
    from l2i_builder.configfile import load_config

    settings = load_config(config, overrides or (), metadata=metadata, out=out)
    if dry_run:
        from l2i_builder.run.dryrun import dry_run as plan_only

        plan_only(settings, console, gpu_price, cpu_price)
        return
    from l2i_builder.run.build import build as run

    try:
        result = run(settings, log, inline=inline, retry_failed=retry_failed)
    except KeyboardInterrupt:
        log.print("Stopped. Finished shards are kept; run the same command again to go on.")
        raise typer.Exit(130) from None
    finally:
        _outcome(settings.out)
    console.print(f"\nshards  {result.out}/shards\nreport  {result.report}", soft_wrap=True)


def status(out: OutArgument) -> None:
    """How far a run is: shards finished, the funnel so far. Reads only the output folder."""
    from l2i_builder.run.status import print_status

    print_status(out, console)


def _outcome(out: str) -> None:
    """Print the funnel of what is committed; silent where nothing is."""
    from l2i_builder.output import manifest
    from l2i_builder.report import funnel

    if out and manifest.finished(out):
        console.print(funnel(out).table())
