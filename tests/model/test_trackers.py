import json

import numpy as np
import pytest

from model.trackers import Trackers, read_metrics


class Broken:
    def __init__(self, error: BaseException) -> None:
        self.error, self.calls = error, 0

    def log(self, step, figures) -> None:
        self.calls += 1
        raise self.error

    def picture(self, step, name, pixels) -> None:
        raise AssertionError("it was left out")

    def close(self) -> None:
        raise AssertionError("it was left out")


@pytest.mark.parametrize("error", [RuntimeError("gone"), SystemExit(1), BrokenPipeError()])
def test_one_that_fails_is_named_once_and_left_out(tmp_path, error):
    notes: list[str] = []
    trackers = Trackers(tmp_path, notes.append)
    trackers.trackers["wandb"] = broken = Broken(error)
    trackers.log(1, {"loss": 0.5})
    trackers.log(2, {"loss": 0.4})
    trackers.picture(2, "sheet", np.zeros((2, 2, 3), np.uint8))
    trackers.close()
    assert broken.calls == len(notes) == 1
    assert "wandb failed" in notes[0]
    assert [line["loss"] for line in read_metrics(tmp_path)] == [0.5, 0.4]


def test_tensorboard_has_figures_and_pictures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trackers = Trackers(tmp_path, pytest.fail)
    trackers.open(["tensorboard"], tmp_path, "", "", {})
    trackers.log(3, {"loss": 0.5})
    trackers.picture(3, "sheet", np.zeros((2, 2, 3), np.uint8))
    trackers.close()
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(3, 0.5)]
    assert len(found.Images("sheet")) == 1


def test_a_resumed_run_drops_the_figures_after_its_checkpoint(tmp_path):
    trackers = Trackers(tmp_path, pytest.fail)
    for step in (1, 2, 3, 4):
        trackers.log(step, {"loss": float(step)})
    trackers.rewind(2)
    trackers.log(3, {"loss": 30.0})
    assert [line["loss"] for line in read_metrics(tmp_path)] == [1, 2, 30]


def test_figures_that_are_not_finite_are_null(tmp_path):
    Trackers(tmp_path, pytest.fail).log(1, {"loss": float("nan"), "norm": float("inf")})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": None, "norm": None}


def test_no_figures_yet_is_no_error(tmp_path):
    assert read_metrics(tmp_path) == []
