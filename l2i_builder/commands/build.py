"""``l2i build`` and ``l2i status``."""

from __future__ import annotations

import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from l2i_builder.commands import ConfigFile, OutArgument, Overrides, console, log
from l2i_builder.errors import L2IError

if TYPE_CHECKING:
    from l2i_builder.config import Config
    from l2i_builder.run.logs import JsonLog


def build(
    config: ConfigFile = None,
    metadata: Annotated[str | None, typer.Option(help="Parquet file, folder or glob; local or URL.")] = None,
    out: Annotated[str | None, typer.Option(help="Output folder; local or URL.")] = None,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show plan, actors, hours and cost; run nothing.")] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Fetch rows again whose failure was transient.")
    ] = False,
    append: Annotated[
        bool, typer.Option("--append", help="Metadata join the finished run in --out; only new rows are fetched.")
    ] = False,
    recheck: Annotated[
        bool, typer.Option("--recheck", help="Read finished shards too; build changed ones again.")
    ] = False,
    inline: Annotated[bool, typer.Option("--inline", help="One process, no Ray: for debugging.")] = False,
    log_format: Annotated[
        str | None, typer.Option(help="text, or json: one JSON object a line on standard error.", show_default=False)
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Serve Prometheus metrics on this port of 127.0.0.1.", show_default=False)
    ] = None,
    gpu_price: Annotated[float, typer.Option(help="Dollars per GPU-hour, for --dry-run.")] = 1.5,
    cpu_price: Annotated[float, typer.Option(help="Dollars per CPU-hour, for --dry-run.")] = 0.04,
) -> None:
    """Build shards of layered images from metadata. Finished shards are skipped: run it again to go on.

    Examples:

      l2i build --metadata laion/ --out runs/laion

      l2i build -c pipelines/cluster.yaml --metadata s3://laion/meta --out s3://me/l2i --dry-run

      l2i build --metadata laion-new/ --out runs/laion --append
    """
    from l2i_builder.configfile import load_config

    observe = {"observe.log_format": log_format, "observe.metrics_port": metrics_port}
    keys = [f"{key}={value}" for key, value in observe.items() if value is not None]
    settings = load_config(config, [*(overrides or ()), *keys], metadata=metadata, out=out)
    if dry_run:
        from l2i_builder.run.dryrun import dry_run as plan_only

        plan_only(settings, console, gpu_price, cpu_price, append)
        return
    from l2i_builder.run.build import build as run
    from l2i_builder.run.logs import JsonLog, make_log

    told = make_log(settings, log)
    if isinstance(told, JsonLog):
        _build_for_machines(settings, told, inline, retry_failed, append, recheck)
        return
    try:
        result = run(settings, inline=inline, retry_failed=retry_failed, log=told, append=append, recheck=recheck)
    except KeyboardInterrupt:
        log.print("Stopped. Finished shards are kept; run the same command again to go on.")
        raise typer.Exit(130) from None
    finally:
        _outcome(settings.out)
    console.print(f"\nshards  {result.out}/shards\nreport  {result.report}", soft_wrap=True)


def _build_for_machines(
    settings: Config, told: JsonLog, inline: bool, retry_failed: bool, append: bool, recheck: bool
) -> None:
    """Build, and say also how it ended in JSON lines."""
    from l2i_builder.run.build import build as run

    try:
        result = run(settings, inline=inline, retry_failed=retry_failed, log=told, append=append, recheck=recheck)
    except KeyboardInterrupt:
        told.event(
            "stopped", "warning", "finished shards are kept; run the same command again to go on", exit_status=130
        )
        raise typer.Exit(130) from None
    except L2IError as error:
        told.event("failed", "error", str(error), error=type(error).__name__, exit_status=error.exit_code)
        raise typer.Exit(error.exit_code) from None
    except Exception as error:
        told.event(
            "crashed", "error", f"{type(error).__name__}: {error}", traceback=traceback.format_exc(), exit_status=1
        )
        raise typer.Exit(1) from None
    told.event("done", message=result.report, out=result.out, shards=result.shards, skipped=result.skipped)


def status(
    out: OutArgument,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on until the run is complete.")] = False,
    every: Annotated[
        float | None, typer.Option(min=1, help="Seconds between looks, with --watch.", show_default="10; 30 for URLs")
    ] = None,
) -> None:
    """How far a run is: shards finished, the funnel so far. Reads only the output folder, from any machine.

    Examples:

      l2i status runs/sample

      l2i status s3://me/l2i --watch
    """
    if watch:
        from l2i_builder.run.follow import follow

        try:
            follow(out, console, every)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        return
    from l2i_builder.run.status import print_status

    print_status(out, console)


def _outcome(out: str) -> None:
    """Print the funnel of what is committed; silent where nothing is, or where it cannot be read: what ended the build
    says more."""
    from l2i_builder.output import manifest
    from l2i_builder.report import funnel

    with suppress(L2IError):
        if out and manifest.finished(out):
            console.print(funnel(out).table())
