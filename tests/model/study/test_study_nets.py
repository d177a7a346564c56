import numpy as np
import pytest
import torch

from model.study import nets
from model.toy_scenes import draw_scenes


def test_attributes_are_read_from_captions():
    scene = draw_scenes(0, 1)[0]
    found = nets.attributes_of(scene.caption)
    named = [names[i] for names, i in zip(nets.ATTRIBUTES, found, strict=True)]
    assert scene.caption == "a {} {} {} on a {} {} ground".format(*named[:3], *named[3:])
    with pytest.raises(ValueError, match="not in tuple"):
        nets.attributes_of("a plain pink circle on a plain blue ground")


@pytest.mark.parametrize("kind", [nets.WeakSegmenter, nets.StrongSegmenter])
def test_segmenters_learn_masks_and_come_back_from_their_file(kind, tmp_path):
    scenes = draw_scenes(1, 64, 24)
    images, masks = (np.stack([getattr(scene, name) for scene in scenes]) for name in ("image", "mask"))
    torch.manual_seed(0)
    net = kind()
    before = float(nets.mask_loss(nets.predict(net, nets.pixels(images)), nets.pixels(masks)))
    nets.fit(net, nets.pixels(images), nets.pixels(masks), nets.mask_loss, 40, seed=0, rate=1e-2)
    after = float(nets.mask_loss(nets.predict(net, nets.pixels(images)), nets.pixels(masks)))
    assert after < 0.75 * before
    nets.save(net, tmp_path / "net.safetensors")
    loaded = nets.MaskMaker(kind(), tmp_path / "net.safetensors")
    made = loaded(images)
    assert made.dtype == np.uint8
    assert made.shape == (64, 24, 24)
    assert np.array_equal(made, np.rint(nets.predict(net, nets.pixels(images)).sigmoid()[:, 0].numpy() * 255))


def test_fitting_is_deterministic():
    scenes = draw_scenes(2, 8, 24)
    images, masks = (nets.pixels([getattr(scene, name) for scene in scenes]) for name in ("image", "mask"))
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        net = nets.WeakSegmenter()
        nets.fit(net, images, masks, nets.mask_loss, 2, seed=3)
        outputs.append(nets.predict(net, images))
    assert torch.equal(*outputs)


def test_the_share_of_right_attributes(tmp_path):
    scenes = draw_scenes(4, 6, 24)
    reader = nets.AttributeReader()
    nets.save(reader, tmp_path / "reader.safetensors")
    scorer = nets.AttributeScorer(tmp_path / "reader.safetensors")
    images = np.stack([scene.image for scene in scenes])
    parts = nets.predict(reader, nets.pixels(images)).split([len(names) for names in nets.ATTRIBUTES], dim=1)
    read = [
        [names[int(part[i].argmax())] for names, part in zip(nets.ATTRIBUTES, parts, strict=True)] for i in range(6)
    ]
    texts = ["a {} {} {} on a {} {} ground".format(*each) for each in read]
    assert scorer.right(images, texts).tolist() == [1.0] * 6
    other = [nets.ATTRIBUTES[2][(nets.ATTRIBUTES[2].index(each[2]) + 1) % 3] for each in read]
    wrong = [
        "a {} {} {} on a {} {} ground".format(*each[:2], o, *each[3:]) for each, o in zip(read, other, strict=True)
    ]
    assert scorer.right(images, wrong).tolist() == [0.8] * 6
    assert scorer.features(images).shape == (6, 64)
