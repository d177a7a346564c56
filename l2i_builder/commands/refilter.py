"""``l2i refilter``."""

from __future__ import annotations

from typing import Annotated

import typer

from l2i_builder.commands import OutArgument, Overrides, console, log
from l2i_builder.commands.shardbar import shard_bar


def refilter(
    out: OutArgument,
    to: Annotated[str, typer.Option("--to", help="Output folder of the new version; local or URL.")],
    overrides: Overrides = None,
    workers: Annotated[int, typer.Option(help="Shards at once.", min=1)] = 4,
) -> None:
    """Apply new thresholds or heads to a finished run, from its ledger and stored features: no GPU, no models.

    Writes a new version of the dataset with its own ledgers, shards and manifests; the old one stays as it is. What
    the new rules would keep but the old run never inpainted or stored is listed in undecided.parquet.

    Examples:

      l2i refilter runs/laion --to runs/laion-strict --set judge.mask.threshold=0.8

      l2i refilter runs/laion --to runs/laion-v3 --set judge.mask.head=runs/heads/mask-v3.json
    """
    from l2i_builder.output.refilter import refilter as run
    from l2i_builder.output.undecided import FILE
    from l2i_builder.report import funnel, write_report
    from l2i_builder.report.options import Options

    try:
        with shard_bar(log, "refiltering") as progress:
            result = run(out, to, overrides or (), progress, workers)
    except KeyboardInterrupt:
        log.print("Stopped. Finished shards are kept; run the same command again to go on.")
        raise typer.Exit(130) from None
    if result.skipped:
        log.print(f"{result.skipped:,} shards were finished already and skipped")
    console.print(funnel(to).table())
    console.print(f"\nshards  {to}/shards\nreport  {write_report(to, Options(compare=out))}", soft_wrap=True)
    if result.undecided:
        console.print(
            f"{result.undecided:,} rows would now be kept, but were never inpainted or not stored: see {to}/{FILE}. "
            f"To decide them, run the build with the new configuration, --out {to} and --retry-failed.",
            soft_wrap=True,
        )
