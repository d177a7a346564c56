"""The loop that both trainers share, on a model of seven numbers: fast, and every sum can be checked."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import nn
from toy_training import SIZE, quiet, toy_shards

from l2i_builder.errors import ConfigError, OutputError
from model.config import Data, Training
from model.data import Loader, Place
from model.training import Trainer, TrainingError, make_accelerator


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    return toy_shards(tmp_path_factory.mktemp("toy"))


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """Accelerate keeps its precision for the life of a process."""
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


class Toy:
    """Fits one number to each channel of the layers, with drawn noise and dropout. ``bad``: steps with NaN losses."""

    name = "toy"
    saved = "means"

    def __init__(self, bad: set[int] | None = None, at_step: dict | None = None, settings: dict | None = None) -> None:
        torch.manual_seed(0)
        self.means = nn.Sequential(nn.Conv2d(7, 7, 1), nn.Dropout(0.2))
        self.models = {"means": self.means}
        self.settings = settings or {"seed": 0}
        self.bad, self.at_step = bad or set(), at_step or {}
        self.validated = 0

    def prepare(self, accelerator, wrapped) -> None:
        self.wrapped = wrapped

    def losses(self, batch, draw, step) -> Iterator:
        if step in self.at_step:
            self.at_step.pop(step)()
        layers = batch.layers()
        loss = (self.wrapped["means"](draw.normal(*layers.shape)) - layers).square().mean()
        if step in self.bad:
            loss = loss * float("nan")
        yield "means", loss, {"loss": loss.detach()}

    def validate(self):
        self.validated += 1
        return {"weight": float(self.means[0].weight[0, 0])}, {"grey": np.zeros((4, 4, 3), np.uint8)}

    def save(self, folder: Path) -> str:
        torch.save(self.means.state_dict(), folder / "means.pt")
        return str(folder / "means.pt")


def trainer(run: str, out: Path, task: Toy | None = None, workers: int = 0, **keys) -> Trainer:
    config = Training(**{"steps": 6, "batch": 4, "learning_rate": 0.01, "warmup": 2, "ema": 0.9, "log_every": 1,
                         "validate_every": 0, "checkpoint_every": 0, "trackers": []} | keys)  # fmt: skip
    loader = Loader(Data(shards=run, size=SIZE, holdout=0, workers=workers, shuffle=8), Place(batch=config.batch), 0)
    return Trainer(task or Toy(), config, loader, make_accelerator(config), str(out), 0, quiet())


def state(made: Trainer) -> dict[str, torch.Tensor]:
    """Everything that must survive a stop, as named tensors."""
    result = {f"model {name}": value.clone() for name, value in made.task.means.state_dict().items()}
    result |= {f"average {i}": value.clone() for i, value in enumerate(made.averaged.values if made.averaged else [])}
    for index, values in made.optimisers["means"].state_dict()["state"].items():
        result |= {f"adam {index} {name}": value.clone() for name, value in values.items()}
    return result


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_equals_one_that_never_stopped_bit_for_bit(run, tmp_path, workers, accumulate):
    keys = {"workers": workers, "accumulate": accumulate, "schedule": "constant"}
    whole = trainer(run, tmp_path / "whole", steps=9, **keys)
    whole.run()
    trainer(run, tmp_path / "parts", steps=4, **keys).run()
    resumed = trainer(run, tmp_path / "parts", steps=9, **keys)
    resumed.run()
    assert_equal(state(whole), state(resumed))
    losses = [[line["loss"] for line in lines(made) if "loss" in line] for made in (whole, resumed)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 9


def lines(made: Trainer) -> list[dict]:
    return [json.loads(line) for line in made.trackers.file.read_text().splitlines()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_step_leaves_a_checkpoint_and_loses_nothing(run, tmp_path, number):
    whole = trainer(run, tmp_path / "whole")
    whole.run()
    handler = signal.getsignal(number)
    stopped = trainer(run, tmp_path / "parts", Toy(at_step={2: lambda: os.kill(os.getpid(), number)}))
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert stopped.checkpoints.steps() == [3]
    assert signal.getsignal(number) is handler
    assert "stopped at step 3; run the same command again" in stopped.console.file.getvalue()
    resumed = trainer(run, tmp_path / "parts")
    resumed.run()
    assert_equal(state(whole), state(resumed))


def test_accumulated_passes_are_one_larger_batch(run, tmp_path):
    weights = []
    for batch, accumulate in ((8, 1), (4, 2)):
        task = Toy()
        task.means = nn.Sequential(nn.Conv2d(7, 7, 1))
        nn.init.zeros_(task.means[0].weight)  # noise then has no part in it
        task.models = {"means": task.means}
        trainer(run, tmp_path / str(batch), task, batch=batch, accumulate=accumulate, steps=1).run()
        weights.append(task.means[0].bias)
    torch.testing.assert_close(*weights)


def test_steps_without_finite_gradients_change_nothing(run, tmp_path):
    made = trainer(run, tmp_path / "good", steps=3)
    made.run()
    with_bad = trainer(run, tmp_path / "bad", Toy(bad={3, 4}), steps=5)
    with_bad.run()
    assert_equal(state(made), state(with_bad))
    assert [line["step"] for line in lines(with_bad) if line.get("loss", 0) is None] == [4, 5]  # null in the file


class Normed(Toy):
    """A model with batch norm, whose forward pass itself overflows at the ``bad`` steps."""

    def __init__(self, bad: set[int]) -> None:
        super().__init__(bad)
        self.means = nn.Sequential(nn.Conv2d(7, 7, 1), nn.BatchNorm2d(7))
        self.models = {"means": self.means}

    def losses(self, batch, draw, step) -> Iterator:
        layers = batch.layers()
        noise = draw.normal(*layers.shape) * (float("inf") if step in self.bad else 1)
        loss = (self.wrapped["means"](noise) - layers).square().mean()
        yield "means", loss, {"loss": loss.detach()}


def test_running_statistics_take_nothing_from_such_a_step(run, tmp_path):
    made = trainer(run, tmp_path, Normed(bad={2}), steps=3)
    made.run()
    assert made.bad == 1
    assert int(made.task.means[1].num_batches_tracked) == 2
    assert all(value.isfinite().all() for value in [*made.task.means.state_dict().values(), *made.averaged.values])


def test_gradients_that_stay_bad_end_the_run_with_advice(run, tmp_path):
    made = trainer(run, tmp_path, Toy(bad={2, 3, 4, 5}), nan_patience=3)
    with pytest.raises(TrainingError, match=r"3 steps one after another .* Lower learning_rate"):
        made.run()


def test_other_settings_do_not_share_checkpoints(run, tmp_path):
    trainer(run, tmp_path, Toy(settings={"seed": 0, "data": {"size": 16}}), steps=1).run()
    with pytest.raises(ConfigError, match=r"data.size: 16 -> 32"):
        trainer(run, tmp_path, Toy(settings={"seed": 0, "data": {"size": 32}})).run()


def test_a_damaged_checkpoint_is_named(run, tmp_path):
    made = trainer(run, tmp_path, steps=2)
    made.run()
    (tmp_path / "checkpoints" / "toy" / "00000002.pt").write_bytes(b"cut off")
    with pytest.raises(OutputError, match=r"00000002.pt cannot be read.*the one before"):
        trainer(run, tmp_path).run()


def test_only_the_latest_checkpoints_are_kept(run, tmp_path):
    made = trainer(run, tmp_path, steps=7, checkpoint_every=2, keep_checkpoints=2)
    made.run()
    assert made.checkpoints.steps() == [6, 7]


def test_the_average_is_validated_and_saved_not_the_last_weights(run, tmp_path):
    made = trainer(run, tmp_path, steps=4, validate_every=2)
    saved = made.run()
    average = dict(zip(("0.weight", "0.bias"), made.averaged.values, strict=True))
    assert_equal(torch.load(saved, weights_only=True), average)
    assert not torch.equal(average["0.bias"], made.task.means[0].bias)
    assert made.task.validated == 2  # at step 2 and at the end
    assert [line["validation/weight"] for line in lines(made) if "validation/weight" in line][-1] == float(
        average["0.weight"][0, 0]
    )
    assert (tmp_path / "logs" / "toy" / "grey-00000002.png").is_file()


def test_gradients_are_clipped(run, tmp_path):
    made = trainer(run, tmp_path, steps=1, clip=1e-8, learning_rate=1.0, warmup=0)
    before = made.task.means[0].bias.clone()
    made.run()
    moment = made.optimisers["means"].state_dict()["state"][1]["exp_avg"]
    assert moment.norm() <= 1e-8
    assert not torch.equal(before, made.task.means[0].bias)


def test_the_gradient_scaler_steps_every_optimiser_once(run, tmp_path):
    """As with fp16 on a GPU: its scaled gradients give the same weights, and one that overflows is skipped."""
    plain = trainer(run, tmp_path / "plain", steps=3)
    plain.run()
    scaled = trainer(run, tmp_path / "scaled", steps=3)
    scaled.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaled.run()
    for a, b in zip(plain.task.means.parameters(), scaled.task.means.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert torch.load(tmp_path / "scaled/checkpoints/toy/00000003.pt", weights_only=True)["scaler"]["scale"] == 2.0**10


@pytest.mark.slow
def test_compiled_models_train_the_same(run, tmp_path):
    plain = trainer(run, tmp_path / "plain", steps=2)
    plain.run()
    compiled = trainer(run, tmp_path / "compiled", steps=2, compile="eager")
    compiled.run()
    assert_equal(state(plain), state(compiled))


def test_bf16_keeps_master_weights_in_float32(run, tmp_path):
    made = trainer(run, tmp_path, steps=2, precision="bf16")
    seen = []
    made.task.means[0].register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    made.run()
    assert set(seen) == {torch.bfloat16}
    assert {value.dtype for value in state(made).values()} == {torch.float32}


@pytest.mark.skipif(torch.cuda.is_available(), reason="shows what happens on a machine without a GPU")
def test_fp16_on_a_cpu_is_a_sentence():
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        make_accelerator(Training(precision="fp16"))


def test_out_must_be_local(run):
    with pytest.raises(ConfigError, match="local folder"):
        trainer(run, "s3://bucket/run")


def test_a_tracker_that_fails_never_stops_a_run(run, tmp_path, monkeypatch):
    import wandb

    def refuse(**_):
        raise wandb.errors.CommError("no network")

    monkeypatch.setattr(wandb, "init", refuse)
    made = trainer(run, tmp_path, steps=2, trackers=["wandb", "tensorboard"])
    made.run()
    assert "wandb failed and is left out (CommError: no network)" in made.console.file.getvalue()
    assert list((tmp_path / "logs" / "toy" / "tensorboard").iterdir())
    assert len([line for line in lines(made) if "loss" in line]) == 2
