import json

import cv2
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from model import demo
from model.evaluation.measures import iou
from model.toy_scenes import draw_scene
from model.trackers import Trackers


def test_the_segmenter_that_judges_finds_true_objects():
    scenes = [draw_scene(np.random.default_rng([5, seed])) for seed in range(100)]
    found = [float(iou(demo.segment_by_colour(scene.image), scene.mask / 255)) for scene in scenes]
    assert np.mean(found) > 0.95
    assert min(found) > 0.8


def test_colours_are_told_apart_striped_or_not():
    for seed in range(40):
        scene = draw_scene(np.random.default_rng([6, seed]))
        picture = torch.from_numpy(scene.image).permute(2, 0, 1) / 255
        assert demo._nearest(picture, torch.from_numpy(scene.mask) / 255) == scene.caption.split()[2]
    assert demo._nearest(picture, torch.zeros(32, 32)) == ""


@pytest.mark.slow
def test_curves_are_drawn(tmp_path):
    for name in ("autoencoder", "diffusion"):
        trackers = Trackers(tmp_path / "logs" / name, pytest.fail)
        for step in (1, 2, 3):
            trackers.log(step, {"loss": 1 / step})
        trackers.log(3, {"validation/loss": 0.3})
    demo.draw_curves(tmp_path, tmp_path / "curves.png")
    assert min(cv2.imread(str(tmp_path / "curves.png")).shape[:2]) > 300


@pytest.mark.slow
def test_it_runs_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "SCENES", 100)
    monkeypatch.setattr(demo, "SAMPLES", 2)
    demo.main(str(tmp_path), 2, 2, threads=1, precision="no")
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    numbers = json.loads((tmp_path / "demo.json").read_text())
    assert numbers["autoencoder"]["steps"] == numbers["diffusion"]["steps"] == 2
    assert 0 <= numbers["mask_agreement"] <= 1
    for name in ("curves.png", "reconstruction.png", "samples.png"):
        assert (tmp_path / name).stat().st_size > 0
