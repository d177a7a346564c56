"""What a training run shows: a bar in a terminal, one line a minute elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

EVERY = 60.0  # seconds between lines where there is no terminal


class TrainingProgress:
    """Steps done, loss, images a second and time left."""

    def __init__(self, console: Console, name: str, start: int, steps: int, images_per_step: int) -> None:
        self.console, self.name, self.images = console, name, images_per_step
        self.start, self.done, self.steps = start, start, steps
        self.began = self.told = time.monotonic()
        self.loss: float | None = None  # not known before the first log
        self.bar: Progress | None = None
        if console.is_terminal:
            columns = (BarColumn(None), MofNCompleteColumn(), TextColumn("{task.fields[state]}"))
            self.bar = Progress(
                TextColumn("{task.description}"), *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console
            )
            self.task = self.bar.add_task(f"training {name}", total=steps, completed=start, state="")

    def __enter__(self) -> TrainingProgress:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar:
            self.bar.stop()

    @property
    def images_per_second(self) -> float:
        """Of this run, resumed or not, validations included."""
        return (self.done - self.start) * self.images / max(time.monotonic() - self.began, 1e-9)

    def step(self, done: int, loss: float | None) -> None:
        """Show a step; ``loss`` None: as before."""
        self.done, self.loss = done, self.loss if loss is None else loss
        if self.bar:
            state = f"{self._loss()}{self.images_per_second:.1f} images/s"
            self.bar.update(self.task, completed=done, state=state)
        elif time.monotonic() - self.told >= EVERY or done == self.steps:
            self.told = time.monotonic()
            left = (self.steps - done) * self.images / max(self.images_per_second, 1e-9) / 60
            self.note(
                f"{self.name}: step {done:,} of {self.steps:,}, {self._loss()}"
                f"{self.images_per_second:.1f} images/s, about {left:.0f} min left"
            )

    def _loss(self) -> str:
        return "" if self.loss is None else f"loss {self.loss:.4f}, "

    def note(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
