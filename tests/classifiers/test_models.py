"""Models' results are kept by what went in."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from classifiers.models import inpainter, remembered


def test_a_result_is_kept_by_model_and_input(tmp_path: Path) -> None:
    runs = []

    def run() -> np.ndarray:
        runs.append(1)
        return np.full((8, 8), len(runs), np.uint8)

    picture, other = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8, 3), np.uint8)
    first = remembered(tmp_path / "kept", "model", run, picture)
    assert np.array_equal(remembered(tmp_path / "kept", "model", run, picture.copy()), first)
    assert remembered(tmp_path / "kept", "model", run, other)[0, 0] == 2
    assert remembered(tmp_path / "kept", "other model", run, picture)[0, 0] == 3
    assert len(runs) == 3


def test_colours_come_back_as_they_were(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    hole = np.zeros((32, 32), bool)
    hole[8:16, 8:16] = True
    fill = inpainter("telea", tmp_path)
    first, kept = fill(image, hole), fill(image, hole)
    assert np.array_equal(first, kept)
    assert np.array_equal(kept[~hole], image[~hole])
