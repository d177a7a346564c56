import json
from dataclasses import replace

import numpy as np
import pytest

from l2i_builder.errors import ConfigError
from model.config import Data
from model.data import Loader, Place
from model.study import labels, nets
from model.study.plan import Budget
from model.toy_scenes import draw_scenes

TINY = Budget(seeds=1, pool=60, kept=12, samples=4, weak_scenes=16, weak_steps=10, judged=30, judge_steps=4)


def test_no_scene_is_in_two_streams():
    captions = [labels.scenes(stream, seed, 1, 24)[0].image.tobytes() for stream in range(6) for seed in (0, 1, 10_000)]
    assert len(set(captions)) == len(captions)


def test_a_mask_that_misses_a_part_leaves_it_in_the_background():
    scene = draw_scenes(0, 1, 24)[0]
    half = scene.mask.copy()
    half[:, 12:] = 0
    stored = labels.relabelled(scene, half)
    inside = half > 25
    assert np.array_equal(stored.background[inside], scene.background[inside])
    far = np.arange(24) > 13
    assert np.array_equal(stored.background[:, far], scene.image[:, far])
    assert stored.image is scene.image
    assert stored.mask is half


def test_the_true_mask_leaves_nothing_of_the_object():
    scene = draw_scenes(0, 1, 24)[0]
    stored = labels.relabelled(scene, scene.mask)
    rest = np.abs(stored.background.astype(int) - scene.background).max(2)
    assert rest[scene.mask > 25].max() == 0
    assert (rest > 8).mean() < 0.02


def test_sets_of_the_same_size_with_masks_of_known_goodness(tmp_path):
    labels.make_labels(TINY, 0, tmp_path)
    stored = {}
    for name in ("filtered", "unfiltered", "true"):
        data = Data(shards=str(tmp_path / name), size=24, holdout=0, workers=0, shuffle=0, flip=False)
        loader = Loader(data, Place(batch=12), seed=0)
        assert sum(shard.samples for shard in loader.shards) == 12
        stored[name] = next(iter(loader))
    masks = {name: dict(zip(batch.captions, batch.pixels[:, 6], strict=True)) for name, batch in stored.items()}
    assert sorted(stored["true"].captions) == sorted(stored["unfiltered"].captions)
    assert any((masks["true"][caption] != mask).any() for caption, mask in masks["unfiltered"].items())
    facts = json.loads((tmp_path / "labels.json").read_text())
    assert facts["IoU of the training masks with the truth"]["true"] == 1.0
    assert 0 < facts["share of the pool kept"] < 1
    weak = nets.MaskMaker(nets.WeakSegmenter(), tmp_path / labels.WEIGHTS)
    assert weak.digest


def test_a_filter_that_keeps_too_few_says_what_to_change(tmp_path):
    with pytest.raises(ConfigError, match="lower that, or raise pool"):
        labels.make_labels(replace(TINY, kept=61), 0, tmp_path)
