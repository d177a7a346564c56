"""What commands that go shard by shard show: a bar in a terminal, one line a minute elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY = 60.0  # seconds between lines where there is no terminal


@contextmanager
def shard_bar(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a function to be called with shards done and in all."""
    if not console.is_terminal:
        told = time.monotonic()

        def line(done: int, total: int) -> None:
            nonlocal told
            if time.monotonic() - told >= EVERY:
                told = time.monotonic()
                console.print(f"{what}: {done:,} of {total:,} shards", highlight=False)

        yield line
        return
    columns = (TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TextColumn("shards"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
