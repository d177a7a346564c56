from pathlib import Path

import numpy as np
from toy_training import toy_shards

from l2i_builder.layers import composite
from l2i_builder.output.manifest import finished
from l2i_builder.output.shards import open_triplets
from l2i_builder.output.verify import verify
from model.toy_scenes import COLOURS, SHAPES, draw_scene, write_run


def test_the_image_is_composed_of_its_layers():
    for seed in range(20):
        scene = draw_scene(np.random.default_rng(seed))
        inside, outside = scene.mask == 255, scene.mask == 0
        assert np.array_equal(scene.image[outside], scene.background[outside])
        assert inside.sum() > 40
        assert not np.array_equal(scene.image[inside], scene.background[inside])
        assert ((scene.mask > 0) & (scene.mask < 255)).any()  # soft edges


def test_captions_say_what_is_shown():
    scene = draw_scene(np.random.default_rng(1))
    _, texture, colour, shape, *rest = scene.caption.split()
    assert shape in SHAPES
    assert rest[-1] == "ground"
    brightest = scene.image[scene.mask == 255].astype(float).max(axis=0)
    wanted = np.array(COLOURS[colour], float)
    assert np.dot(brightest, wanted) / np.linalg.norm(brightest) / np.linalg.norm(wanted) > 0.99
    assert texture in ("plain", "striped")


def test_it_is_a_finished_run_with_uneven_shards(tmp_path):
    shards = toy_shards(tmp_path)
    assert finished(shards) == {0, 1, 2}
    tars = sorted(Path(shards, "shards").iterdir())
    counts = [len(list(open_triplets(str(tar)))) for tar in tars]
    assert counts == [20, 26, 14]
    for triplet in open_triplets(str(tars[0])):
        difference = np.abs(composite(triplet.foreground, triplet.background, triplet.mask).astype(int) - triplet.image)
        assert difference[(triplet.mask == 0) | (triplet.mask == 255)].mean() < 3


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_run(str(tmp_path / name), 10, 16)
    assert (tmp_path / "a/shards/00000.tar").read_bytes() == (tmp_path / "b/shards/00000.tar").read_bytes()


def test_verify_finds_nothing_wrong(tmp_path):
    assert verify(toy_shards(tmp_path), deep=True) == []
