"""The loop that both trainers share: accelerate, precision, accumulation, averages, checkpoints, validation, figures.

A step's random numbers follow from seed and step alone, and its samples from the position (see ``data``). So a run
that is resumed equals one that was never stopped, bit for bit, with any number of loader workers; and n processes
with batch b draw the noise that one process with batch n * b draws.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from l2i_builder import storage
from l2i_builder.errors import ConfigError, L2IError, OutputError
from model.checkpoints import Checkpoints
from model.config import Training
from model.data import Loader, Place
from model.draw import Draw
from model.ema import Averaged
from model.optimisers import learning_rate_factor, make_optimiser
from model.pixels import Batch
from model.progress import TrainingProgress
from model.trackers import Trackers

ASK_EVERY = 10  # steps after which several processes ask each other whether one was told to stop


class TrainingError(L2IError):
    """Training cannot go on: its gradients are not finite any more."""


class Task(Protocol):
    """What is trained, and how its losses come about. The trainer does everything else.

    name: of checkpoints and figures; models: each gets an optimiser; saved: the one that is averaged; settings: what
    two runs must agree in to share checkpoints.
    """

    name: str
    models: dict[str, nn.Module]
    saved: str
    settings: dict[str, Any]

    def prepare(self, accelerator: Any, wrapped: Mapping[str, nn.Module]) -> None:
        """Take the models as accelerate wrapped them, and move what is not trained to the device."""

    def losses(self, batch: Batch, draw: Draw, step: int) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        """Yield (model, its loss, figures), one after another; each is propagated back before the next is asked for."""

    def validate(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Return figures and pictures (uint8 [H, W, 3]), made with the weights the models have now."""

    def save(self, folder: Path) -> str:
        """Write the trained model under ``folder``; return where."""


class Trainer:
    """Trains a task; ``run`` begins, or goes on from the latest checkpoint."""

    def __init__(
        self, task: Task, config: Training, loader: Loader, accelerator: Any, out: str, seed: int, console: Console
    ) -> None:
        if not storage.is_local(out) or not out:
            raise ConfigError(f"out is {out!r}, but checkpoints are written to a local folder; name one with --out")
        self.task, self.config, self.loader, self.accelerator, self.seed = task, config, loader, accelerator, seed
        self.out, self.console = storage.local_path(out), console
        self.main = accelerator.is_main_process
        self.place = Place(accelerator.process_index, accelerator.num_processes, config.batch)
        for model in task.models.values():
            model.train()
            if config.gradient_checkpointing:
                _checkpoint_gradients(model)
            if config.compile:
                model.compile(backend=config.compile)
        self.wrapped: dict[str, nn.Module] = {}
        for name, model in task.models.items():
            self.wrapped[name] = accelerator.prepare(model)
        # Not accelerate's wrappers: with fp16 they would step the gradient scaler once for each optimiser.
        self.optimisers = {name: make_optimiser(model, config) for name, model in task.models.items()}
        task.prepare(accelerator, self.wrapped)
        self.averaged = Averaged(task.models[task.saved], config.ema) if config.ema else None
        self.buffers = [buffer for model in task.models.values() for buffer in model.buffers()]
        self.checkpoints = Checkpoints(self.out / "checkpoints" / task.name, config.keep_checkpoints)
        self.logs = self.out / "logs" / task.name
        self.trackers = Trackers(self.logs, self._note)
        self.step = self.bad = 0
        self.stopped: int | None = None

    def run(self) -> str:
        """Train to ``config.steps``, save, and return where the model is.

        Raises KeyboardInterrupt after a signal to stop, with a checkpoint written; TrainingError where gradients stay
        non-finite; ConfigError where the folder's checkpoints are of other settings.
        """
        if self.main:
            self.checkpoints.claim(self.task.settings)
        self.accelerator.wait_for_everyone()
        self._resume()
        config, images = self.config, self.place.batch * self.place.ranks * self.config.accumulate
        shown = self.console if self.main else Console(quiet=True)
        with ExitStack() as stack:
            stack.enter_context(self._stoppable())
            progress = stack.enter_context(TrainingProgress(shown, self.task.name, self.step, config.steps, images))
            if self.main:
                name = f"{self.out.name}-{self.task.name}"
                self.trackers.open(config.trackers, self.logs, config.project, name, self.task.settings)
                stack.callback(self.trackers.close)
            batches = iter(self.loader)
            stack.callback(batches.close)
            while self.step < config.steps:
                figures = self._advance(batches)
                if self.step % config.log_every == 0 or self.step == config.steps:
                    self._log(figures, progress)
                else:
                    progress.step(self.step, None)
                self._after_step()
            return self._finish()

    def _advance(self, batches: Iterator[Batch]) -> dict[str, Tensor]:
        """Take one optimiser step of each model that has a loss; return the last pass's figures."""
        config, used = self.config, list[str]()
        figures: dict[str, Tensor] = {}
        before = [buffer.clone() for buffer in self.buffers]
        for part in range(config.accumulate):
            batch = next(batches).to(self.accelerator.device)
            draw = Draw(self.seed, self.step, part, self.place, self.accelerator.device)
            with self._unsynchronised(part + 1 < config.accumulate):
                for name, loss, values in self.task.losses(batch, draw, self.step):
                    self.accelerator.backward(loss / config.accumulate)
                    used += [] if name in used else [name]
                    figures |= values
        finite = True
        for name in used:
            finite &= self._update(name, figures)
        if self.accelerator.scaler:
            self.accelerator.scaler.update()
        for model in self.task.models.values():  # a loss may leave gradients in the other models, too
            model.zero_grad(set_to_none=True)
        if not finite:  # batch norm's running statistics took in what the optimisers refused
            for buffer, value in zip(self.buffers, before, strict=True):
                buffer.copy_(value)
        self.bad = 0 if finite else self.bad + 1
        if self.bad >= config.nan_patience:
            raise TrainingError(
                f"{self.bad} steps one after another had gradients that are not finite, the last one step {self.step}; "
                f"the weights are as before them. Lower learning_rate, or use precision no or bf16. "
                f"Checkpoints: {self.checkpoints.folder}"
            )
        self.step += 1
        if self.averaged and finite:
            self.averaged.update()
        return figures

    def _update(self, name: str, figures: dict[str, Tensor]) -> bool:
        """Step one optimiser, unless its gradients are not finite; return whether they were."""
        optimiser, scaler = self.optimisers[name], self.accelerator.scaler
        rate = self.config.learning_rate * learning_rate_factor(self.step, self.config)
        for group in optimiser.param_groups:
            group["lr"] = rate
        if scaler:
            scaler.unscale_(optimiser)
        parameters = [each for each in self.task.models[name].parameters() if each.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, self.config.clip or math.inf)
        figures[f"{name}_gradient_norm"] = norm
        finite = bool(torch.isfinite(norm))
        if scaler:
            scaler.step(optimiser)  # skips it by itself
        elif finite:
            optimiser.step()
        return finite

    def _after_step(self) -> None:
        config = self.config
        due = config.checkpoint_every and self.step % config.checkpoint_every == 0
        if self._told_to_stop():
            self._checkpoint()
            self._note(f"stopped at step {self.step}; run the same command again to go on")
            raise KeyboardInterrupt
        if due or self.step == config.steps:
            self._checkpoint()
        if config.validate_every and self.step % config.validate_every == 0 and self.step < config.steps:
            self._validate()

    def _finish(self) -> str:
        with self.averaged.applied() if self.averaged else nullcontext():
            saved = self.task.save(self.out) if self.main else ""
        self.accelerator.wait_for_everyone()
        self._validate()
        return saved

    def _validate(self) -> None:
        """Validate with the averaged weights. Every rank does the same work, so that none waits for another."""
        for model in self.task.models.values():
            model.eval()
        with torch.no_grad(), self.averaged.applied() if self.averaged else nullcontext():
            figures, pictures = self.task.validate()
        for model in self.task.models.values():
            model.train()
        if not self.main:
            return
        self.trackers.log(self.step, {f"validation/{name}": value for name, value in figures.items()})
        for name, pixels in pictures.items():
            _write_png(self.logs / f"{name}-{self.step:08d}.png", pixels)
            self.trackers.picture(self.step, name, pixels)
        self._note(f"{self.task.name} at step {self.step:,}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))

    def _log(self, figures: Mapping[str, Tensor], progress: TrainingProgress) -> None:
        values = {name: float(value) for name, value in figures.items()}
        progress.step(self.step, values.get("loss"))
        if self.main:
            extra = {
                "learning_rate": self.config.learning_rate * learning_rate_factor(self.step - 1, self.config),
                "images_per_second": progress.images_per_second,
                "epoch": self.loader.position / self.loader.batches,
            }
            self.trackers.log(self.step, values | extra)

    def _checkpoint(self) -> None:
        if self.main:
            state: dict[str, Any] = {
                "step": self.step,
                "samples": self.step * self.config.accumulate * self.place.ranks * self.place.batch,
                "bad": self.bad,
                "models": {name: _trained(model) for name, model in self.task.models.items()},
                "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
                "averaged": self.averaged.state_dict() if self.averaged else None,
                "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            }
            self.checkpoints.save(self.step, state)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        state = self.checkpoints.load()
        if state is None:
            return
        for name, model in self.task.models.items():
            unknown = model.load_state_dict(state["models"][name], strict=False).unexpected_keys
            if unknown:
                raise OutputError(f"{self.checkpoints.folder} holds another model's weights ({unknown[0]}, ...)")
            self.optimisers[name].load_state_dict(state["optimisers"][name])
        if self.averaged:
            self.averaged.load_state_dict(state["averaged"])
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.bad = state["step"], state["bad"]
        together = self.place.ranks * self.place.batch
        self.loader.position = state["samples"] // together
        if self.main:
            self.trackers.rewind(self.step)
            self._note(f"{self.task.name}: going on from step {self.step:,}")
            if self.loader.position != self.step * self.config.accumulate:
                self._note("the number of processes has changed: samples come in another order than without a stop")

    @contextmanager
    def _unsynchronised(self, on: bool) -> Iterator[None]:
        """Leave out DDP's exchange of gradients: only the last pass of a step needs it."""
        with ExitStack() as stack:
            for model in self.wrapped.values() if on else ():
                stack.enter_context(self.accelerator.no_sync(model))
            yield

    @contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Turn SIGINT and SIGTERM into a wish that is granted after the step; a second one acts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {}

        def wish(number: int, _: Any) -> None:
            self.stopped = number
            for each, handler in before.items():
                signal.signal(each, handler)

        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            before[number] = signal.signal(number, wish)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _told_to_stop(self) -> bool:
        if self.place.ranks == 1:
            return self.stopped is not None
        if self.step % ASK_EVERY:
            return False
        wishes = torch.tensor(float(self.stopped is not None), device=self.accelerator.device)
        return bool(self.accelerator.reduce(wishes, "sum") > 0)

    def _note(self, text: str) -> None:
        if self.main:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def make_accelerator(config: Training) -> Any:
    """Return accelerate's Accelerator. Raises ConfigError for ways of sharding that checkpoints do not cover."""
    from accelerate import Accelerator
    from accelerate.utils import DistributedType

    accelerator = Accelerator(mixed_precision=config.precision)
    if config.precision == "fp16" and accelerator.device.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU; on the CPU use bf16 or no")
    known = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)
    if accelerator.distributed_type not in known:
        raise ConfigError(
            f"accelerate is set to {accelerator.distributed_type}; these models fit one GPU, use its multi-GPU mode"
        )
    return accelerator


def _trained(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's state without the parameters that are frozen."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def _checkpoint_gradients(model: nn.Module) -> None:
    for module in model.modules():
        enable = getattr(module, "enable_gradient_checkpointing", None)
        if enable is not None:
            enable()
            return


def _write_png(path: Path, pixels: np.ndarray) -> None:
    import cv2

    storage.write_bytes(str(path), cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes())
