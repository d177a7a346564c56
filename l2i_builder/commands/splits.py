"""``l2i splits``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from l2i_builder.commands import OutArgument, console, log


def splits(
    out: OutArgument,
    test: Annotated[
        float, typer.Option(min=0, help="Test samples (LL2I-E): under 1 a share of the kept ones, else a count.")
    ] = 20_000,
    la: Annotated[
        float, typer.Option(min=0, help="Unfiltered samples (LA): under 1 a share of the audit slice, else a count.")
    ] = 20_000,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    radius: Annotated[int, typer.Option(min=0, max=47, help="Bits of 256 in which hashes of one picture differ.")] = 31,
    previous: Annotated[
        str, typer.Option(help="splits.parquet of another version whose keys keep their split.", show_default=False)
    ] = "",
    workers: Annotated[int, typer.Option(min=0, help="Threads that hash images; 0 = one per CPU.")] = 0,
) -> None:
    """Draw train, test (LL2I-E) and LA by a hash of the key, with no picture in two of them.

    Writes splits.parquet (key, split, why) and splits.json. Run it again when the dataset has grown: a key keeps its
    split for ever, new keys are drawn. `l2i publish` then writes a folder of shards for each split.

    Examples:

      l2i splits s3://me/l2i

      l2i splits runs/sample --test 0.1 --la 0.9
    """
    from l2i_builder.commands.shardbar import shard_bar
    from l2i_builder.report.text import count
    from l2i_builder.splits import Splits, draw_splits

    with shard_bar(log, "hashing images") as told:
        summary = draw_splits(out, Splits(test=test, la=la, seed=seed, radius=radius), previous, told, workers)
    table = Table("split", "samples", "new", box=None)
    for name, samples in summary["counts"].items():
        table.add_row(name, count(samples), count(summary["new"][name]))
    console.print(table)
    for line in summary["notes"]:
        console.print(line, soft_wrap=True, markup=False)
    console.print(f"{summary['file']} · digest {summary['digest']}", soft_wrap=True)
