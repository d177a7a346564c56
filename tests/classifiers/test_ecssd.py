"""The shipped mask filter on photographs with true masks, none of which it was trained on."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from classifiers.evaluate import Judged, judge_masks, record, summary, true_pairs
from classifiers.scenes import SIDE
from l2i_builder.config import Judge, Segment
from l2i_builder.errors import MetadataError
from l2i_builder.judge.judges import HEADS, load_head, make_mask_judge
from l2i_builder.segment.segmenter import make_segmenter
from l2i_builder.weights import registry

SHARED = Path(os.environ.get("L2I_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
ECSSD = SHARED / "ecssd-300"


@pytest.mark.slow
@pytest.mark.skipif(not ECSSD.is_dir(), reason="runs where L2I_SHARED_DATA has ecssd-300 (photographs and true masks)")
@pytest.mark.skipif(
    not all(registry.cached(name) for name in ("u2netp", "efficientnet_lite0")),
    reason="runs when `l2i weights pull u2netp efficientnet_lite0` has been run",
)
def test_the_shipped_filter_ranks_masks_by_their_true_quality() -> None:
    """Every sixth photograph; whole-set figures are in the head's card and in ``classifiers.evaluate``."""
    pairs = itertools.islice(true_pairs(ECSSD / "images", ECSSD / "masks"), 0, None, 6)
    segmenter = make_segmenter(Segment(backend="u2netp"))
    judge = make_mask_judge(Judge())
    judged = list(judge_masks(pairs, {"u2netp": lambda image: segmenter(image[None])[0]}, {"v1": judge.score}))
    figures = summary(judged, "v1")
    assert figures["auc"][0] > 0.88
    assert figures["spearman"][0] > 0.6


def write_pair(folder: Path, name: str, mask: np.ndarray | None) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(exist_ok=True)
    cv2.imwrite(str(folder / "images" / f"{name}.jpg"), np.full((300, 400, 3), 90, np.uint8))
    if mask is not None:
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), mask)


def test_photographs_and_masks_are_cut_alike(tmp_path: Path) -> None:
    mask = np.zeros((300, 400), np.uint8)
    mask[:, :200] = 255
    write_pair(tmp_path, "one", mask)
    ((name, image, truth),) = true_pairs(tmp_path / "images", tmp_path / "masks")
    assert name == "one"
    assert image.shape == (SIDE, SIDE, 3)
    assert set(np.unique(truth)) == {0, 255}
    assert (truth > 0).mean() == pytest.approx(0.5, abs=0.01)  # the centre square keeps the middle in the middle


def test_a_photograph_without_a_mask_is_an_error(tmp_path: Path) -> None:
    write_pair(tmp_path, "one", None)
    with pytest.raises(MetadataError, match=r"one\.png"):
        list(true_pairs(tmp_path / "images", tmp_path / "masks"))


def test_masks_of_photographs_and_of_disturbed_copies_are_judged() -> None:
    rng = np.random.default_rng(0)
    image, truth = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), np.zeros((SIDE, SIDE), np.uint8)
    truth[100:300, 100:300] = 255

    def segment(seen: np.ndarray) -> np.ndarray:
        return truth if np.array_equal(seen, image) else 255 - truth

    heads = {"mean": lambda images, masks: masks.mean(axis=(1, 2)) / 255}
    judged = list(judge_masks(iter([("a", image, truth)]), {"s": segment}, heads))
    assert [(j.photo, j.kind, j.iou) for j in judged] == [("a", "s", 1.0), ("a", "s-disturbed", 0.0)]
    assert judged[0].scores["mean"] == pytest.approx(truth.mean() / 255)


def test_summary_leaves_the_unclear_out_of_the_auc() -> None:
    def judged(iou: float, score: float) -> Judged:
        return Judged(f"photo-{iou}", "s", iou, {"v1": score})

    clear = [judged(0.95, 0.9), judged(0.99, 0.8), judged(0.2, 0.1), judged(0.5, 0.3)]
    assert summary(clear, "v1")["auc"][0] == 1
    assert summary([*clear, judged(0.8, 0.0)], "v1")["auc"][0] == 1
    assert summary([*clear, judged(0.6, 1.0)], "v1")["auc"][0] < 1
    assert summary(clear, "v1")["spearman"][0] == pytest.approx(0.8)


def test_figures_go_into_the_card_and_leave_the_head_as_it_is(tmp_path: Path) -> None:
    for suffix in (".json", ".safetensors"):
        shutil.copy(HEADS / f"mask-v1{suffix}", tmp_path)
    card = tmp_path / "mask-v1.json"
    record(card, "toys", {"auc": [0.9, 0.8, 1.0]})
    record(card, "more toys", {"auc": [0.7, 0.6, 0.8]})
    head = load_head(str(card), "mask")
    assert head.card["measured on"]["toys"] == {"auc": [0.9, 0.8, 1.0]}
    assert set(head.card["measured on"]) >= {"toys", "more toys"}
    assert head.digest == load_head("mask-v1", "mask").digest
