"""Heads trained on toy features: they learn, repeat, and load as judges."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_judges import BACKBONE, samples, tiny_backbone

from classifiers.features import Collector, Labelled
from classifiers.scenes import Scene
from classifiers.train import FAMILY, PLAIN, RICH, Recipe, train, write_head
from l2i_builder.config import Judge
from l2i_builder.errors import MetadataError, OutputError
from l2i_builder.judge.backbone import make_backbone
from l2i_builder.judge.judges import Extractor, Head, load_head, make_mask_judge
from l2i_builder.metrics import auc, precision_yield

FACTS = {"backbone": BACKBONE, "backbone sha256": "0" * 64, "seed": "0"}


def middle(count: int = 600, seed: int = 0) -> Labelled:
    """Good is near zero in one of five dimensions: no single neuron can tell it."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, 5)).astype(np.float32)
    quality = (np.abs(vectors[:, 1]) < 0.7).astype(np.float32)
    scene = np.array([f"scene-{i // 4}" for i in range(count)])
    test = np.arange(count) // 4 % 3 == 0
    kind = np.where(np.arange(count) % 2, "u2net", "true")
    weight = np.ones(count, np.float32)
    return Labelled({"mask-rich": vectors}, quality, weight, test, kind, scene, scene, quality, FACTS)


def fit(data: Labelled, recipe: Recipe, precision: float = 0.9, seed: int = 0) -> tuple[dict[str, np.ndarray], float]:
    return train(data, "mask", "mask-rich", recipe, precision, seed)


def scores(data: Labelled, tensors: dict[str, np.ndarray]) -> np.ndarray:
    return Head({"name": "", "dim": 5}, tensors, "").predict(data.vectors["mask-rich"])


def test_a_hidden_layer_learns_what_one_neuron_cannot() -> None:
    data = middle()
    good = data.quality > 0.5
    rich, neuron = (scores(data, fit(data, recipe)[0])[data.test] for recipe in (RICH, PLAIN))
    assert auc(rich, good[data.test]) > 0.85 > 0.65 > auc(neuron, good[data.test])


def test_the_same_seed_gives_the_same_head() -> None:
    one, two = (fit(middle(200), RICH, seed=3) for _ in range(2))
    assert one[1] == two[1]
    assert all(np.array_equal(one[0][name], two[0][name]) for name in one[0])


def test_nothing_is_learned_from_the_test_side() -> None:
    data = middle(200)
    spoilt = middle(200)
    spoilt.quality[spoilt.test] = 1 - spoilt.quality[spoilt.test]
    spoilt.vectors["mask-rich"][spoilt.test] += 100
    one, two = (fit(d, RICH) for d in (data, spoilt))
    assert all(np.array_equal(one[0][name], two[0][name]) for name in one[0])
    assert one[1] == two[1]


def test_the_threshold_is_for_what_the_pipeline_makes() -> None:
    """Half of the samples are "u2net"; the others, all of them good, must not lower the threshold."""
    rng = np.random.default_rng(1)
    data = middle(1200)
    vectors = data.vectors["mask-rich"]
    vectors[:, 0] = np.where(data.kind == "true", 1, -1)
    noisy = vectors[:, 1] + rng.normal(0, 0.7, len(vectors)) > 0
    data = replace(data, quality=np.where(data.kind == "true", True, noisy).astype(np.float32))
    chosen = data.test & (data.kind == "u2net")
    for precision in (0.65, 0.9):
        tensors, threshold = fit(data, RICH, precision)
        reached, kept = precision_yield(scores(data, tensors)[chosen], data.quality[chosen], threshold)
        assert reached == pytest.approx(precision, abs=0.12)
        assert kept > 0.1


def test_samples_count_by_their_weight() -> None:
    """Half of the labels lie; without weight they change nothing, with it they do."""
    data = middle()
    lying = np.arange(len(data)) % 2 == 0
    quality = np.where(lying, 1 - data.quality, data.quality).astype(np.float32)
    ignored = replace(data, quality=quality, weight=np.where(lying, 0, 1).astype(np.float32))
    believed = replace(data, quality=quality)
    good = data.quality[data.test] > 0.5
    honest, fooled = (auc(scores(data, fit(d, RICH)[0])[data.test], good) for d in (ignored, believed))
    assert honest > 0.65
    assert fooled < honest - 0.1


@pytest.mark.parametrize("task", ["mask", "inpainting"])
def test_new_heads_can_score_the_features_that_runs_keep(task: str) -> None:
    assert FAMILY[task] == load_head("", task).card["features"]


def test_a_head_never_replaces_another(tmp_path: Path) -> None:
    data = replace(middle(120), facts=FACTS)
    write_head(tmp_path, "mask-mine", data, PLAIN, "mask-rich")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OutputError, match="give another --tag"):
        write_head(tmp_path, "mask-mine", middle(120, seed=1), PLAIN, "mask-rich")
    with pytest.raises(OutputError, match="mask-v1"):  # nor does it take a shipped one's name elsewhere
        write_head(tmp_path, "mask-v1", data, PLAIN, "mask-rich")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_written_head_is_a_judge_with_a_card(tmp_path: Path) -> None:
    path = tiny_backbone(tmp_path)
    backbone = make_backbone(BACKBONE, weights=str(path))
    images, masks, _, _ = samples(24)
    vectors = Extractor(backbone, "mask-rich")(images, masks)
    collector = Collector(["mask-rich"])
    for i, vector in enumerate(vectors):
        scene = Scene(f"scene-{i}", (f"photo-{i}",), i % 3 == 0, True, images[i], masks[i])
        collector.add({"mask-rich": vector}, scene, "u2net" if i % 4 < 2 else "true", float(i % 2), 0.5)
    data = collector.labelled({"backbone": BACKBONE, "backbone sha256": backbone.digest, "seed": "0"})
    data.save(tmp_path / "mask.npz")
    card = write_head(tmp_path, "mask-toy", Labelled.load(tmp_path / "mask.npz"), RICH, "mask-rich", weights=str(path))
    judge = make_mask_judge(Judge(head=str(tmp_path / "mask-toy.safetensors")))
    assert judge.version == "mask-toy"
    assert judge.threshold == card["threshold"]
    assert np.array_equal(judge.score(images, masks), judge.score_features(vectors))
    written = json.loads((tmp_path / "mask-toy.json").read_text())
    assert written["test"]["samples"] == 8
    assert len(written["test"]["auc"]) == 3
    assert load_head(str(tmp_path / "mask-toy.json"), "mask").card["recipe"]["seed"] == 0


def test_labelled_features_come_back_as_they_were(tmp_path: Path) -> None:
    data = middle(40)
    data.save(tmp_path / "mask.npz")
    back = Labelled.load(tmp_path / "mask.npz")
    assert back.facts == data.facts
    assert back.source.tolist() == data.source.tolist()
    assert np.array_equal(back.vectors["mask-rich"], data.vectors["mask-rich"])


@pytest.mark.parametrize("content", [None, b"", b"not an archive"])
def test_missing_or_damaged_features_say_how_to_make_them(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "mask.npz").write_bytes(content)
    with pytest.raises(MetadataError, match=r"python -m classifiers\.bootstrap"):
        Labelled.load(tmp_path / "mask.npz")
