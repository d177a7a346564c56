"""The generator end to end, with toy pictures, a toy segmenter and a tiny backbone."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from test_scenes import CUTOUTS, PHOTOS
from tiny_judges import BACKBONE, tiny_backbone

from classifiers import bootstrap, models
from classifiers.features import Labelled
from l2i_builder.inpaint.inpainter import TeleaInpainter
from l2i_builder.judge.backbone import make_backbone

pytestmark = pytest.mark.slow

FAMILIES = {"mask": bootstrap.MASK_FAMILIES, "inpainting": bootstrap.INPAINTING_FAMILIES}


class RedThings:
    """Selects what is redder than green."""

    digest = "red things"
    calls = 0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        RedThings.calls += 1
        return np.where(images[..., 0].astype(int) - images[..., 1] > 40, 255, 0).astype(np.uint8)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bootstrap")


@pytest.fixture(scope="module", autouse=True)
def toys(out: Path) -> None:
    weights = tiny_backbone(out)
    patch = pytest.MonkeyPatch()
    patch.setattr(bootstrap.sources, "gather", lambda folder: (PHOTOS, CUTOUTS))
    patch.setattr(models, "make_segmenter", lambda config: RedThings())
    patch.setattr(models, "make_inpainter", lambda config: TeleaInpainter())
    patch.setattr(bootstrap, "make_backbone", lambda name: make_backbone(BACKBONE, weights=str(weights)))
    threads = cv2.getNumThreads()
    bootstrap.main(["--out", str(out), "--scenes", "1"])
    yield
    cv2.setNumThreads(threads)
    patch.undo()


@pytest.mark.parametrize("task", FAMILIES)
def test_every_sample_has_its_vectors_and_its_label(out: Path, task: str) -> None:
    data = Labelled.load(out / f"{task}.npz")
    count = len(data.quality)
    assert count >= 8
    assert set(data.vectors) == set(FAMILIES[task])
    for vectors in data.vectors.values():
        assert len(vectors) == count
        assert np.isfinite(vectors).all()
    assert 0 <= data.quality.min() < 0.1 < 0.9 < data.quality.max() <= 1
    assert data.facts["seed"] == "0"
    assert len(data.facts["backbone sha256"]) == 64


def test_the_truth_is_good_and_what_was_spoilt_on_purpose_is_bad(out: Path) -> None:
    masks, fills = (Labelled.load(out / f"{task}.npz") for task in FAMILIES)
    assert masks.quality[masks.kind == "true"].max() == 1
    assert masks.quality[masks.kind == "small-speck"].max(initial=0) < 0.5
    assert (fills.quality[fills.kind == "true"] == 1).all()
    assert (fills.quality[fills.kind == "object-left"] == 0).all()
    assert (fills.truth[fills.kind == "true"] == 0).all()


def test_one_task_can_be_made_alone(out: Path) -> None:
    before = (out / "inpainting.npz").read_bytes()
    masks = Labelled.load(out / "mask.npz")
    (out / "mask.npz").unlink()
    bootstrap.main(["--out", str(out), "--scenes", "1", "--tasks", "mask"])
    assert (out / "inpainting.npz").read_bytes() == before
    again = Labelled.load(out / "mask.npz")
    assert all(np.array_equal(again.vectors[name], vectors) for name, vectors in masks.vectors.items())


def test_more_scenes_leave_the_first_as_they_are_and_models_run_once_for_each_picture(out: Path) -> None:
    few = {task: Labelled.load(out / f"{task}.npz") for task in FAMILIES}
    calls = RedThings.calls
    bootstrap.main(["--out", str(out), "--scenes", "2"])
    assert RedThings.calls - calls < calls  # the first scene's results are kept
    for task, before in few.items():
        more = Labelled.load(out / f"{task}.npz")
        again = np.isin(more.scene, before.scene)
        assert more.kind[again].tolist() == before.kind.tolist()
        assert np.array_equal(more.quality[again], before.quality)
        assert all(np.array_equal(more.vectors[name][again], vectors) for name, vectors in before.vectors.items())
        assert len(more.quality) > len(before.quality)
