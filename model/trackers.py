"""Where a run's figures go: a file of lines, always; TensorBoard and Weights & Biases, if they work."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

Figures = Mapping[str, float]
METRICS = "metrics.jsonl"


class Tracker(Protocol):
    def log(self, step: int, figures: Figures) -> None: ...

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """pixels: uint8 [H, W, 3]."""

    def close(self) -> None: ...


class TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder))

    def log(self, step: int, figures: Figures) -> None:
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        self.writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class WandB:
    """Weights & Biases; a resumed run goes on under its own id, which is kept in the folder."""

    def __init__(self, folder: Path, project: str, name: str, config: Mapping[str, Any]) -> None:
        import wandb

        self.wandb: Any = wandb
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "wandb-id"
        identifier = kept.read_text() if kept.is_file() else secrets.token_hex(4)
        self.run = wandb.init(
            project=project, name=name, id=identifier, resume="allow", dir=str(folder), config=dict(config)
        )
        kept.write_text(identifier)

    def log(self, step: int, figures: Figures) -> None:
        self.run.log(dict(figures), step=step)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        self.run.log({name: self.wandb.Image(pixels)}, step=step)

    def close(self) -> None:
        self.run.finish()


class Trackers:
    """All trackers of a run. One that fails is named once and left out from then on: no run stops for its figures."""

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        self.note = note
        self.file = folder / METRICS
        self.trackers: dict[str, Tracker] = {}

    def open(self, names: Sequence[str], folder: Path, project: str, name: str, config: Mapping[str, Any]) -> None:
        """Start the named trackers, those that can be."""
        makers: dict[str, Callable[[], Tracker]] = {
            "tensorboard": lambda: TensorBoard(folder / "tensorboard"),
            "wandb": lambda: WandB(folder / "wandb", project, name, config),
        }
        for each in names:
            self._guarded(each, lambda each=each: self.trackers.update({each: makers[each]()}))  # type: ignore[misc]

    def rewind(self, step: int) -> None:
        """Drop the figures after a step: the run goes on from there."""
        if self.file.is_file():
            lines = [line for line in self.file.read_text().splitlines() if json.loads(line)["step"] <= step]
            self.file.write_text("".join(line + "\n" for line in lines))

    def log(self, step: int, figures: Figures) -> None:
        """Keep figures of a step; values that are not finite become null in the file."""
        plain = {name: value if math.isfinite(value) else None for name, value in figures.items()}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as file:
            file.write(json.dumps({"step": step, **plain}) + "\n")
        self._each(lambda tracker: tracker.log(step, figures))

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        self._each(lambda tracker: tracker.picture(step, name, pixels))

    def close(self) -> None:
        self._each(lambda tracker: tracker.close())

    def _each(self, action: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.trackers.items()):
            self._guarded(name, lambda tracker=tracker: action(tracker))  # type: ignore[misc]

    def _guarded(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except (Exception, SystemExit) as problem:  # wandb leaves in many ways
            self.trackers.pop(name, None)
            reason = " ".join(str(problem).split())[:200]
            self.note(
                f"{name} failed and is left out ({type(problem).__name__}: {reason}); {self.file} has all figures"
            )


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's figures, in the order of their steps."""
    file = folder / METRICS
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
