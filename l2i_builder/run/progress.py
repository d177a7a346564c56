"""What a running build shows: a bar in a terminal, one line a minute elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from l2i_builder.output.manifest import ShardManifest

EVERY = 60.0  # seconds between lines where there is no terminal


class Progress(Protocol):
    """What the driver tells while it runs."""

    def rows(self, rows: int, kept: int) -> None: ...

    def undo(self, rows: int, kept: int) -> None: ...

    def shard_done(self, manifest: ShardManifest) -> None: ...

    def note(self, text: str, shard: str = "", attempt: int = 0) -> None: ...


class ConsoleProgress:
    """Rows done, samples kept, speed and time left, drawn by the driver, which knows the counts."""

    def __init__(self, console: Console, rows: int, shards: int, every: float = EVERY) -> None:
        self.console, self.total, self.shards, self.every = console, rows, shards, every
        self.done = self.kept = self.finished = 0
        self.started = self.told = time.monotonic()
        self.bar: Bar | None = None
        if console.is_terminal:
            columns = (BarColumn(None), MofNCompleteColumn(), TextColumn("rows"), TextColumn("{task.fields[state]}"))
            self.bar = Bar(
                TextColumn("{task.description}"), *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console
            )
            self.task = self.bar.add_task("starting Ray, loading models", total=rows, state="")

    def __enter__(self) -> ConsoleProgress:
        if self.bar:
            self.bar.start()
        else:
            self.console.print(
                f"building {self.total:,} rows in {self.shards:,} shards; starting Ray and loading models"
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()
        elif kind is None:
            self._line()

    def rows(self, rows: int, kept: int) -> None:
        self.done, self.kept = self.done + rows, self.kept + kept
        self._show()

    def undo(self, rows: int, kept: int) -> None:
        self.done, self.kept = self.done - rows, self.kept - kept
        self._show()

    def shard_done(self, manifest: ShardManifest) -> None:
        self.finished += 1
        self._show()

    def note(self, text: str, shard: str = "", attempt: int = 0) -> None:
        self.console.print(text, markup=False, highlight=False)

    def _show(self) -> None:
        if self.bar:
            state = f"{self.kept:,} kept · shard {self.finished:,}/{self.shards:,}"
            self.bar.update(self.task, completed=self.done, state=state, description="building")
        elif time.monotonic() - self.told >= self.every:
            self._line()

    def _line(self) -> None:
        self.told = time.monotonic()
        seconds = self.told - self.started
        speed = self.done / seconds if seconds else 0.0
        left = f", about {(self.total - self.done) / speed / 60:.0f} min left" if 0 < self.done < self.total else ""
        self.console.print(
            f"{self.done:,} of {self.total:,} rows, {self.kept:,} kept, "
            f"{self.finished:,} of {self.shards:,} shards, {speed:.1f} rows/s{left}",
            highlight=False,
        )
