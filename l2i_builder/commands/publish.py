"""``l2i publish``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from l2i_builder.commands import OutArgument, console, log

MB = 10**6


def publish(
    out: OutArgument,
    to: Annotated[str, typer.Option("--to", help="Folder, s3://... or hf://datasets/USER/NAME; empty or our own.")],
    shard_mb: Annotated[float, typer.Option(min=0.001, help="Megabytes of a shard, about.")] = 1000,
    name: Annotated[str, typer.Option(help="Of the dataset. Default: that of the folder.")] = "",
    licence: Annotated[str, typer.Option("--license", help="Of the collection: SPDX identifier, or words.")] = "",
    contact: Annotated[str, typer.Option(help="Where people ask to have a picture removed.")] = "",
    url: Annotated[str, typer.Option(help="The dataset's page.")] = "",
    citation: Annotated[str, typer.Option(help="How to cite the dataset.")] = "",
    date: Annotated[str, typer.Option(help="Of publication, YYYY-MM-DD; the clock is never asked.")] = "",
    pictures: Annotated[bool, typer.Option(help="Contact sheets of kept and refused samples in the card.")] = True,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Publish what there is so far.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Take the place of another version in --to.")] = False,
    workers: Annotated[int, typer.Option(help="Shards at once.", min=1)] = 4,
) -> None:
    """Publish a run: even shards, sums, index, sidecars, dataset card and Croissant metadata.

    Samples are copied byte for byte; what was taken down is left out. Interrupted, run it again: finished shards are
    kept, and the folder ends with the same bytes. SHA256SUMS is written last: a folder that has it is complete.

    Examples:

      l2i publish runs/laion --to /data/l2i --license cc-by-4.0 --contact remove@example.org

      l2i publish s3://me/l2i --to hf://datasets/me/l2i
    """
    from l2i_builder.publish.card import About, size_of
    from l2i_builder.publish.release import Options
    from l2i_builder.publish.release import publish as run

    about = About(name, licence, contact, url, citation, date)
    options = Options(about, round(shard_mb * MB), workers, pictures, unfinished, replace)
    try:
        with _bar() as progress:
            result = run(out, to, options, progress)
    except KeyboardInterrupt:
        log.print("Stopped. Finished shards are kept; run the same command again to go on.")
        raise typer.Exit(130) from None
    counts = ", ".join(f"{split} {samples:,}" for split, samples in result.samples.items())
    console.print(f"{counts} samples in {result.shards:,} shards, {size_of(result.bytes)}", soft_wrap=True)
    if result.copied < result.shards:
        console.print(f"{result.shards - result.copied:,} shards were there already")
    if result.withheld:
        console.print(f"{result.withheld:,} samples withheld: their picture is in another split")
    if result.left_out:
        console.print(
            f"{result.left_out:,} kept samples left out: taken down, but still in the run. Finish with "
            f"`l2i takedown {out}`.",
            soft_wrap=True,
        )
    console.print(f"card  {to.rstrip('/')}/README.md", soft_wrap=True)


@contextmanager
def _bar() -> Iterator[Callable[[int, int, int], None]]:
    """Yield a function to be called with bytes, shards done and shards in all: a bar, or a line a minute."""
    import time

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from l2i_builder.commands.shardbar import EVERY
    from l2i_builder.publish.card import size_of

    started = told = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TextColumn("shards"))
    tail = (TextColumn("{task.fields[state]}"), TimeRemainingColumn())
    with Progress(*columns, *tail, console=log, transient=True, disable=not log.is_terminal) as bar:
        task = bar.add_task("publishing", total=None, state="")

        def tell(size: int, done: int, total: int) -> None:
            nonlocal told
            now = time.monotonic()
            state = f"{size_of(size)}, {size / MB / max(now - started, 1e-3):,.0f} MB/s"
            bar.update(task, completed=done, total=total, state=state)
            if not log.is_terminal and now - told >= EVERY:
                told = now
                log.print(f"publishing: {done:,} of {total:,} shards, {state}")

        yield tell
